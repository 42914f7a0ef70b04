//! What callers do to a pool by mistake: writing to freed memory, or promising zero bytes that are
//! not. Damage stays theirs: no two live blocks overlap, and what fits is found.

use super::common::random::Random;
use mempool::layout::{Geometry, HEAP_OFFSET, LOCK_OFFSET};
use mempool::options::{Options, NO_THREAD_CACHES, OWNER_TAGS, ZEROED};
use mempool::Pool;
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::time::Duration;

fn init(buffer: &mut [u64], flags: u32) -> Pool {
    let options = Options { flags: flags | NO_THREAD_CACHES, ..Options::default() };
    // SAFETY: the buffer outlives the pool in every test here.
    unsafe { Pool::init(buffer.as_mut_ptr().cast(), buffer.len() * 8, &options) }.unwrap()
}

/// A pool of which nothing is left, and its blocks of 64 bytes.
fn full(buffer: &mut [u64]) -> (Pool, Vec<NonNull<u8>>) {
    let pool = init(buffer, 0);
    let blocks = std::iter::from_fn(|| pool.malloc(64).ok()).collect();
    while pool.malloc(16).is_ok() {}
    (pool, blocks)
}

#[test]
fn freed_memory_filled_with_any_byte_loses_no_free_run() {
    for fill in [0x00, 0xff, 0xaa, 0x01] {
        let mut buffer = vec![0u64; 512];
        let pool = init(&mut buffer, 0);
        let blocks: Vec<_> = (0..8).map(|_| pool.malloc(64).unwrap()).collect();
        while pool.malloc(16).is_ok() {}
        for &block in blocks.iter().step_by(2) {
            // SAFETY: a live block of 64 bytes; written to after it was freed, which is the test.
            unsafe {
                pool.free(block.as_ptr()).unwrap();
                block.as_ptr().write_bytes(fill, 64);
            }
        }
        for _ in 0..4 {
            pool.malloc(64).unwrap_or_else(|error| panic!("fill {fill:#x}: {error}"));
        }
        assert!(pool.malloc(16).is_err());
        pool.check().unwrap();
        assert!(pool.stats().unwrap().recoveries > 0, "it was noticed");
    }
}

#[test]
fn a_bin_that_is_said_to_have_a_block_hides_no_other() {
    let mut buffer = vec![0u64; 512];
    let (pool, blocks) = full(&mut buffer);
    // SAFETY: a live block, which nobody uses.
    unsafe { pool.free(blocks[3].as_ptr()) }.unwrap();
    let options = Options { flags: NO_THREAD_CACHES, ..Options::default() };
    let (address, len) = (buffer.as_ptr().addr(), buffer.len() * 8);
    let geometry = Geometry::plan(address, len, &options).unwrap();
    let last = geometry.bin_count - 1;
    let word = &raw mut buffer[geometry.bitmap() / 8 + last as usize / 64];
    // SAFETY: a word of the buffer, which the pool looks at too.
    unsafe { word.write_volatile(word.read_volatile() | 1 << (last % 64)) };
    assert_eq!(pool.stats().unwrap().largest_free, 64);
    pool.check().unwrap();
}

/// Who looks through the map for a large block, and finds that others are hidden, has them found by who
/// asks for a small one right after, when nobody looks again.
#[test]
fn what_a_list_that_was_cut_short_hides_is_found_whatever_was_asked_for() {
    let mut buffer = vec![0u64; 512];
    let (pool, blocks) = full(&mut buffer);
    for at in [3, 5, 7] {
        // SAFETY: a live block, which nobody uses.
        unsafe { pool.free(blocks[at].as_ptr()) }.unwrap();
    }
    // The last is the first of its list, and now seems to be all of it.
    const NO_BLOCK: u32 = u32::MAX ^ 0x5a93_c6e1;
    // SAFETY: written to after it was freed, which is the test.
    unsafe { blocks[7].as_ptr().cast::<u32>().write_volatile(NO_BLOCK) };
    assert_eq!(pool.malloc(64).unwrap(), blocks[7]);
    // Long after the last malloc that failed: this one looks.
    std::thread::sleep(Duration::from_millis(200));
    pool.malloc(1000).unwrap_err();
    let mut found = [pool.malloc(64).unwrap(), pool.malloc(64).unwrap()];
    found.sort();
    assert_eq!(found, [blocks[3], blocks[5]]);
    pool.check().unwrap();
}

#[test]
fn loose_blocks_that_are_not_there_are_looked_for_once() {
    let mut buffer = vec![0u64; 512];
    let pool = init(&mut buffer, 0);
    pool.malloc(64).unwrap();
    let available = pool.stats().unwrap().available as usize;
    // SAFETY: the count of loose blocks, a half of a word of the buffer, which the pool looks at too.
    unsafe { buffer.as_mut_ptr().cast::<u32>().add(HEAP_OFFSET / 4 + 5).write_volatile(9) };
    pool.check().unwrap_err();
    pool.malloc(available + 16).unwrap_err();
    pool.check().unwrap();
}

/// A malloc that fails has looked at every block, whatever the hints say of them.
#[test]
fn loose_blocks_that_are_not_counted_are_found_before_a_malloc_fails() {
    // Large enough for caches, whose larger classes are made loose when they are freed.
    let mut buffer = vec![0u64; 40_000];
    // SAFETY: the buffer outlives the pool.
    let pool = unsafe { Pool::init(buffer.as_mut_ptr().cast(), 320_000, &Options::default()) };
    let pool = pool.unwrap();
    const SIZE: usize = 640;
    let blocks: Vec<_> = std::iter::from_fn(|| pool.malloc(SIZE).ok()).collect();
    while pool.malloc(16).is_ok() {}
    // More than a quarter, so that memory is not scarce, and no two of them side by side; then a row.
    let apart = blocks[..blocks.len() * 3 / 4].iter().step_by(2);
    let row = &blocks[blocks.len() - 20..blocks.len() - 10];
    for &block in apart.chain(row) {
        // SAFETY: a live block, which nobody uses.
        unsafe { pool.free(block.as_ptr()) }.unwrap();
    }
    // SAFETY: the count of loose blocks, which the pool looks at too.
    let before = unsafe {
        let count = buffer.as_mut_ptr().cast::<u32>().add(HEAP_OFFSET / 4 + 5);
        let before = count.read_volatile();
        count.write_volatile(0);
        before
    };
    assert!(before >= 10, "{before} are loose");
    let found = pool.malloc(10 * SIZE).expect("the row is free");
    assert_eq!(Some(found), row.iter().min().copied());
    assert!(pool.stats().unwrap().recoveries > 0, "it was noticed");
    pool.check().unwrap();
}

/// A magazine's item that was written over names a block of another kind: it is not given out.
#[test]
fn what_is_no_cached_block_is_not_given_out_whatever_a_magazine_says() {
    const WORDS: usize = 50_000;
    let names = ["free", "live, of the class", "live, of another", "cached, of another class"];
    for (case, name) in names.into_iter().enumerate() {
        let mut buffer = vec![0u64; WORDS];
        let (base, len) = (buffer.as_mut_ptr().cast::<u8>(), WORDS * 8);
        let geometry = Geometry::plan(base.addr(), len, &Options::default()).unwrap();
        // SAFETY: the buffer outlives the pool.
        let pool = unsafe { Pool::init(base, len, &Options::default()) }.unwrap();
        let [free, _, live, other, cached, mine] =
            [100_000, 20_000, 64, 5000, 32, 64].map(|size| pool.malloc(size).unwrap().as_ptr());
        for block in [free, cached, mine] {
            // SAFETY: ours, and not used any more.
            unsafe { pool.free(block) }.unwrap();
        }
        let granule = |block: *mut u8| ((block.addr() - base.addr() - geometry.first) / 16) as u32;
        let wrong = [free, live, other, cached][case];
        let magazines = base.addr() + geometry.magazine..base.addr() + geometry.map;
        let items = magazines.step_by(4).map(|at| at as *mut u32);
        // SAFETY: words of the buffer, which the pool looks at too.
        let item = items.into_iter().find(|&at| unsafe { at.read_volatile() } == granule(mine));
        // SAFETY: as above.
        unsafe { item.expect("it is cached").write_volatile(granule(wrong)) };
        let got = pool.malloc(64).unwrap().as_ptr();
        assert_ne!(got, wrong, "{name}");
        assert!(pool.stats().unwrap().recoveries > 0, "{name}: it was noticed");
    }
}

/// A map byte that was written over makes a small block at the pool's end one that would reach beyond.
#[test]
fn no_block_reaches_beyond_the_pool() {
    const WORDS: usize = 50_000;
    for flags in [0, OWNER_TAGS] {
        for granules in [2usize, 4, 7, 32, 36, 64] {
            let mut buffer = vec![0u64; WORDS];
            let (base, len) = (buffer.as_mut_ptr().cast::<u8>(), WORDS * 8);
            let options = Options { flags, ..Options::default() };
            let geometry = Geometry::plan(base.addr(), len, &options).unwrap();
            // SAFETY: the buffer outlives the pool.
            let pool = unsafe { Pool::init(base, len, &options) }.unwrap();
            // The thread has a magazine for blocks that are so long, with room.
            let first = pool.malloc(16 * granules).unwrap();
            // SAFETY: ours, and not used any more; so below.
            unsafe { pool.free(first.as_ptr()) }.unwrap();
            let most = pool.stats().unwrap().largest_free as usize;
            let _most = pool.malloc(most - 16).unwrap();
            let last = pool.calloc(1, 16).unwrap_or_else(|_| pool.malloc(16).unwrap());
            let granule = (last.as_ptr().addr() - base.addr() - geometry.first) / 16;
            let class = (0..88).find(|&class| live_granules(class) == granules).unwrap();
            // SAFETY: a byte of the map, which the pool looks at too.
            unsafe { base.add(geometry.map + granule).write_volatile(0x40 + class) };
            // SAFETY: as above.
            let _ = unsafe { pool.free(last.as_ptr()) };
            while let Ok(block) = pool.calloc(1, 16 * granules) {
                let end = block.as_ptr().addr() - base.addr() + 16 * granules;
                assert!(end <= len, "{granules} granules, {} bytes too far", end - len);
            }
        }
    }
}

/// The granules of a class, as `docs/design.md` tells of them: all to 32, then eight a doubling.
fn live_granules(class: u8) -> usize {
    let class = usize::from(class);
    let (doubling, step) = (class.saturating_sub(32) / 8, class.saturating_sub(32) % 8);
    if class < 32 {
        class + 1
    } else {
        (32 << doubling) + (4 << doubling) * (step + 1)
    }
}

#[test]
fn a_broken_promise_of_zero_bytes_makes_no_blocks_overlap() {
    let mut random = Random(1);
    for _ in 0..2000 {
        let mut buffer = vec![0u64; 512];
        // Bytes that look like the map's are the worst.
        let likely = [0xf0, 0xf1, 0xf2, 0x40, 0x41, 0x02, 0x03, 0x3c, 0x98];
        for word in &mut buffer {
            *word = u64::from_ne_bytes(std::array::from_fn(|_| match random.below(4) {
                0 => random.next() as u8,
                _ => likely[random.below(likely.len())],
            }));
        }
        churn(&init(&mut buffer, ZEROED), &mut random);
    }
}

/// Words of a pool that are not its lock's, which would only be waited for.
fn scribble(buffer: &mut [u64], random: &mut Random) {
    let nasty = [0, u64::MAX, 1, 0xff, 0x4040_4040_4040_4040, 0x9898_9898_9898_9898, 1 << 63];
    for _ in 0..1 + random.below(4) {
        // The header, the depot, caches and magazines, the map's beginning: or anywhere.
        let end = if random.below(4) == 0 { buffer.len() } else { 4096 };
        let at = random.below(end);
        if (LOCK_OFFSET / 8..LOCK_OFFSET / 8 + 2).contains(&at) {
            continue;
        }
        let value = match random.below(3) {
            0 => random.next(),
            1 => nasty[random.below(nasty.len())],
            _ => buffer[at] ^ 1 << random.below(64),
        };
        // SAFETY: a word of the buffer, which the pool looks at too.
        unsafe { (&raw mut buffer[at]).write_volatile(value) };
    }
}

#[test]
fn whatever_is_written_over_a_pool_with_caches_no_call_leaves_it() {
    const MARGIN: usize = 512;
    const WORDS: usize = 40_000;
    let mut random = Random(7);
    for _ in 0..300 {
        let mut memory = vec![0x5555_5555_5555_5555u64; WORDS + 2 * MARGIN];
        let (before, rest) = memory.split_at_mut(MARGIN);
        let (buffer, behind) = rest.split_at_mut(WORDS);
        let flags = if random.below(2) == 0 { OWNER_TAGS } else { 0 };
        let max_threads = 1 + random.below(3) as u32;
        let options = Options { flags, max_threads, ..Options::default() };
        // SAFETY: the buffer outlives the pool.
        let pool = unsafe { Pool::init(buffer.as_mut_ptr().cast(), WORDS * 8, &options) }.unwrap();
        let range = buffer.as_ptr_range();
        let inside = range.start as usize..range.end as usize;
        let mut blocks = vec![buffer.as_mut_ptr().cast::<u8>()];
        for _ in 0..300 {
            if random.below(8) == 0 {
                scribble(buffer, &mut random);
            }
            let most = if random.below(9) == 0 { 100_000 } else { 600 };
            let size = 1 + random.below(most);
            let block = blocks[random.below(blocks.len())];
            // SAFETY: what is no live block is refused or, in a scribbled pool, stays inside it.
            let got = unsafe {
                match random.below(18) {
                    0..5 => pool.malloc(size),
                    5 => pool.calloc(1, size),
                    6 => pool.realloc(block, size),
                    7 => {
                        let _ = (pool.check(), pool.stats(), pool.trim(), pool.recover());
                        continue;
                    }
                    8 => {
                        let slot = block.wrapping_add(8 * random.below(8)).cast();
                        let _ = match random.below(3) {
                            0 => pool.malloc_to(size, slot),
                            1 => pool.calloc_to(1, size, slot),
                            _ => pool.free_from(slot),
                        };
                        continue;
                    }
                    9 => {
                        let _ = (pool.adopt(block), pool.owner(block), pool.set_label(1));
                        continue;
                    }
                    10 => {
                        let _ = (pool.abandon(block), pool.reap(None, &mut |_, _| true));
                        continue;
                    }
                    11 => {
                        let name = [1 + random.below(40) as u8; 20];
                        let name = &name[..1 + random.below(20)];
                        let _ = (pool.bind(name, block), pool.find(name), pool.set_root(block));
                        continue;
                    }
                    12 => {
                        let name = [1 + random.below(40) as u8; 20];
                        let _ = pool.unbind(&name[..1 + random.below(20)]);
                        let _ = (pool.names(&mut |_, _| true), pool.root());
                        continue;
                    }
                    _ => {
                        let _ = pool.free(block);
                        continue;
                    }
                }
            };
            if let Ok(block) = got {
                let at = block.as_ptr() as usize;
                assert!(inside.contains(&at) && size <= inside.end - at, "outside");
                blocks.push(block.as_ptr());
            }
        }
        assert!(before.iter().chain(&*behind).all(|&word| word == 0x5555_5555_5555_5555));
    }
}

/// Honest calls; the model is the set of blocks that the caller has.
fn churn(pool: &Pool, random: &mut Random) {
    let mut live: BTreeMap<usize, usize> = BTreeMap::new();
    for _ in 0..200 {
        if random.below(3) > 0 {
            let size = 1 + random.below(200);
            let Ok(block) = pool.malloc(size) else { continue };
            let start = block.as_ptr() as usize;
            let before = live.range(..start + size).next_back();
            assert!(before.is_none_or(|(&at, &len)| at + len <= start), "blocks overlap");
            live.insert(start, size);
        } else if let Some((&start, _)) = live.iter().nth(random.below(20)) {
            live.remove(&start);
            // SAFETY: a block of ours that nobody uses. The pool may have trouble with it, since
            // it was lied to; it must not harm others.
            let _ = unsafe { pool.free(start as *mut u8) };
        }
    }
}
