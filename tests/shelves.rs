//! Blocks too large for magazines, which wait on shelves for whoever asks next: without the lock,
//! without loss, and only as long as nobody needs the memory.

mod common;

use ::mempool::abi::*;
use ::mempool::layout::{Geometry, CACHES_OFFSET, SHELF_SLOTS_MIN, SHELVES_OFFSET, TURN_OFFSET};
use common::random::Random;
use common::worker::{is_stamped, keeps_stamp, stamp, Shared};
use common::{handle, options, Handle, Memory, Options};
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::sync::Barrier;
use std::time::{Duration, Instant};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// The smallest pool with a shelf, of granules of 8 bytes, and its blocks.
const SMALLEST: usize = 9 * MIB;
const WIDE: usize = 36 * KIB;

fn pool(len: usize, flags: u32) -> Shared {
    Shared::with(Memory::shared(len), flags)
}

fn smallest() -> Shared {
    let (memory, options) = (Memory::shared(SMALLEST), Options { align: 8, ..options() });
    let pool = handle::init(memory.base(), memory.len(), &options).expect("init");
    Shared { memory, pool }
}

fn geometry(memory: &Memory, align: usize) -> Geometry {
    let options = ::mempool::Options { align, ..::mempool::Options::default() };
    Geometry::plan(memory.base() as usize, memory.len(), &options).expect("a plan")
}

/// How often the lock was taken.
fn turns(shared: &Shared) -> u32 {
    let bytes = shared.memory.bytes(TURN_OFFSET, 4);
    u32::from_ne_bytes(bytes.try_into().expect("four bytes"))
}

fn get_all<const N: usize>(pool: Handle, sizes: [usize; N]) -> [*mut u8; N] {
    sizes.map(|size| pool.malloc(size).expect("malloc"))
}

fn free_all(pool: Handle, blocks: &[*mut u8]) {
    blocks.iter().for_each(|&block| pool.free(block).expect("free"));
}

/// A large pool has room on a shelf for what many threads put there, each at a line of its own.
#[test]
fn many_threads_have_places_of_their_own() {
    const THREADS: usize = 16;
    const EACH: usize = 8;
    let shared = pool(256 * MIB, 0);
    let pool = shared.pool;
    assert_eq!(geometry(&shared.memory, 16).shelf_slots, THREADS * EACH);
    let barrier = Barrier::new(THREADS);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let mut blocks = get_all(pool, [100 * KIB; EACH]);
                for _ in 0..10 {
                    blocks.iter().for_each(|&block| stamp(block, pool.offset(block), 100 * KIB));
                    // All have theirs, then all have put theirs away.
                    barrier.wait();
                    for block in blocks {
                        assert!(is_stamped(block, pool.offset(block), pool.usable_size(block)));
                    }
                    free_all(pool, &blocks);
                    barrier.wait();
                    assert_eq!(pool.stats().cached_count, (THREADS * EACH) as u64);
                    barrier.wait();
                    blocks = get_all(pool, [100 * KIB; EACH]);
                }
                free_all(pool, &blocks);
            });
        }
    });
    assert!(pool.stats().cached_count as usize > SHELF_SLOTS_MIN);
    pool.must_check();
    // However many threads there seem to have been, all that lies there is found.
    shared.memory.bytes_mut(CACHES_OFFSET, 4).copy_from_slice(&1u32.to_ne_bytes());
    pool.trim().expect("trim");
    let stats = pool.stats();
    assert_eq!((stats.used_count, stats.cached_count), (0, 0));
    pool.must_check();
}

#[test]
fn blocks_come_and_go_without_the_lock() {
    let shared = pool(256 * MIB, 0);
    let pool = shared.pool;
    // One of each size class, and one below each.
    let sizes: Vec<usize> = (0..40).map(|n| 70_000 + n * 20_000).collect();
    let mut blocks: Vec<*mut u8> = sizes.iter().map(|&size| pool.malloc(size).unwrap()).collect();
    free_all(pool, &blocks);
    let cached = pool.stats();
    assert_eq!(cached.cached_count, 40);
    let before = turns(&shared);
    for _ in 0..100 {
        for (block, &size) in blocks.iter_mut().zip(&sizes) {
            *block = pool.malloc(size).expect("malloc");
            let usable = pool.usable_size(*block);
            assert!(usable >= size && usable <= size + size / 8 + 16, "{usable} for {size}");
            assert_eq!(usable, pool.good_size(size));
            stamp(*block, pool.offset(*block), size);
        }
        for &block in &blocks {
            assert!(is_stamped(block, pool.offset(block), pool.usable_size(block)));
            pool.free(block).expect("free");
        }
    }
    assert_eq!(turns(&shared), before, "the lock was taken");
    assert_eq!(format!("{:?}", pool.stats()), format!("{cached:?}"));
    pool.must_check();
    pool.trim().expect("trim");
    assert_eq!(pool.stats().cached_count, 0);
    shared.must_be_whole(pool.stats().top);
}

/// A block that grows to more than 64 KiB needs no lock, either: here 16 bytes at first.
#[test]
fn blocks_grow_without_the_lock() {
    let shared = pool(256 * MIB, 0);
    let pool = shared.pool;
    let sizes: Vec<usize> =
        std::iter::successors(Some(16), |size| Some(size + size / 2)).take(22).collect();
    assert!((65_537..100_000).contains(&sizes[21]));
    let grow = || {
        let mut block = pool.malloc(sizes[0]).expect("malloc");
        stamp(block, 7, sizes[0]);
        for &size in &sizes[1..] {
            block = pool.realloc(block, size).expect("realloc");
            assert!(keeps_stamp(block, 7, 16));
        }
        block
    };
    // Blocks of each size wait, and walls stand behind those that grow.
    let stock: Vec<*mut u8> =
        sizes.iter().flat_map(|&size| [size; 4]).map(|size| pool.malloc(size).unwrap()).collect();
    let (some, walls): (Vec<_>, Vec<_>) =
        stock.chunks(4).map(|four| (&four[..2], &four[2..])).unzip();
    some.iter().for_each(|two| free_all(pool, two));
    pool.free(grow()).expect("free");
    let before = turns(&shared);
    for _ in 0..100 {
        pool.free(grow()).expect("free");
    }
    assert_eq!(turns(&shared), before, "the lock was taken");
    walls.iter().for_each(|two| free_all(pool, two));
    pool.must_check();
    pool.trim().expect("trim");
    shared.must_be_whole(pool.stats().top);
}

/// What lies on a shelf stays counted, however many large blocks grow past it.
#[test]
fn the_hoard_is_counted_right_when_large_blocks_grow() {
    let shared = pool(64 * MIB, 0);
    let pool = shared.pool;
    let walls = || [pool.malloc(100_000).expect("malloc"), pool.malloc(100_000).expect("malloc")];
    let lying: Vec<*mut u8> = (0..10).map(|_| pool.malloc(150_000).expect("malloc")).collect();
    free_all(pool, &lying);
    assert_eq!(pool.stats().cached_count, 10);
    for _ in 0..200 {
        let [block, wall] = walls();
        let block = pool.realloc(block, 150_000).expect("realloc");
        free_all(pool, &[block, wall]);
    }
    // If it were not, there would be room for more than seven eighths of it.
    let more: Vec<*mut u8> = (0..200).map(|_| pool.malloc(150_000).expect("malloc")).collect();
    free_all(pool, &more);
    let stats = pool.stats();
    assert!(stats.cached_size * 8 <= stats.total * 7 / 8, "{stats:?}");
    pool.must_check();
    pool.trim().expect("trim");
    shared.must_be_whole(pool.stats().top);
}

#[test]
fn calloc_clears_what_comes_from_a_shelf() {
    let shared = pool(64 * MIB, 0);
    let block = shared.pool.calloc_fill(1, 100_000, 0xaa).expect("calloc_fill");
    shared.pool.free(block).expect("free");
    let again = shared.pool.calloc(1, 100_000).expect("calloc");
    assert_eq!(again, block);
    // SAFETY: our own block of that size.
    assert!(unsafe { std::slice::from_raw_parts(again, 100_000) }.iter().all(|&byte| byte == 0));
}

#[test]
fn what_is_on_a_shelf_is_refused_like_all_that_is_free() {
    let shared = smallest();
    let pool = shared.pool;
    let [a, b, c] = get_all(pool, [WIDE; 3]);
    free_all(pool, &[a, b]);
    assert_eq!(pool.stats().cached_count, 2);
    for bad in [a, b, a.wrapping_add(8), a.wrapping_add(WIDE - 8)] {
        assert_eq!(pool.free(bad), Err(MEMPOOL_ERR_NOT_ALLOCATED));
        assert_eq!(pool.free_sized(bad, WIDE), Err(MEMPOOL_ERR_NOT_ALLOCATED));
        assert_eq!(pool.realloc(bad, 2 * WIDE), Err(MEMPOOL_ERR_NOT_ALLOCATED));
        assert_eq!(pool.expand(bad, 2 * WIDE), Err(MEMPOOL_ERR_NOT_ALLOCATED));
        assert_eq!(pool.usable_size(bad), 0);
    }
    // Where nobody may free it, it is not cached either.
    pool.bind(b"wide", c).expect("bind");
    assert_eq!(pool.free(c), Err(MEMPOOL_ERR_BUSY));
    assert_eq!(pool.stats().cached_count, 2);
    pool.unbind(b"wide").expect("unbind");
    pool.free(c).expect("free");
    assert_eq!(pool.stats().cached_count, 3);
    let states = |state| pool.walk().iter().filter(|block| block.state == state).count();
    assert_eq!((states(MEMPOOL_BLOCK_CACHED), states(MEMPOOL_BLOCK_LIVE)), (3, 0));
    pool.must_check();
}

#[test]
fn free_all_and_a_new_pool_in_place_leave_nothing_on_shelves() {
    let shared = smallest();
    let pool = shared.pool;
    let blocks = get_all(pool, [WIDE; 4]);
    free_all(pool, &blocks[..3]);
    pool.free_all().expect("free_all");
    assert_eq!((pool.stats().cached_count, pool.stats().used_count), (0, 0));
    let blocks = get_all(pool, [WIDE; 4]);
    free_all(pool, &blocks);
    let options = Options { align: 8, ..options() };
    let memory = &shared.memory;
    let anew = handle::init(memory.base(), memory.len(), &options).expect("init");
    assert!(pool.malloc(WIDE).is_err() && pool.free(blocks[0]).is_err(), "its pool is gone");
    let mut got = get_all(anew, [WIDE; 4]);
    got.sort_unstable();
    assert!(got.windows(2).all(|pair| pair[1] as usize - pair[0] as usize >= WIDE));
    free_all(anew, &got);
    anew.must_check();
}

/// The hoard is an eighth of the pool, of which shelves leave an eighth to small blocks.
#[test]
fn shelves_hold_no_more_than_their_part() {
    let shared = pool(64 * MIB, 0);
    let pool = shared.pool;
    let blocks: Vec<*mut u8> = (0..200).map(|_| pool.malloc(150_000).expect("malloc")).collect();
    free_all(pool, &blocks);
    let stats = pool.stats();
    assert!(stats.cached_size > stats.total / 16 && stats.cached_size * 8 <= stats.total * 7 / 8);
    // What nobody asks for any more makes way for what somebody does, late or soon.
    for _ in 0..200 {
        let block = pool.malloc(90_000).expect("malloc");
        pool.free(block).expect("free");
    }
    let turn = turns(&shared);
    for _ in 0..100 {
        let block = pool.malloc(90_000).expect("malloc");
        pool.free(block).expect("free");
    }
    assert_eq!(turns(&shared), turn, "there is still no room for it");
    let stats = pool.stats();
    assert!(stats.cached_size * 8 <= stats.total * 7 / 8);
    pool.must_check();
}

/// Small blocks need the hoard more.
#[test]
fn small_blocks_make_wide_ones_go() {
    let shared = pool(64 * MIB, 0);
    let pool = shared.pool;
    let blocks: Vec<*mut u8> = (0..200).map(|_| pool.malloc(150_000).expect("malloc")).collect();
    free_all(pool, &blocks);
    let before = pool.stats().cached_size;
    for _ in 0..20 {
        let blocks: Vec<*mut u8> = (0..3000).map(|_| pool.malloc(2000).expect("malloc")).collect();
        free_all(pool, &blocks);
    }
    let wide = pool.walk().into_iter().filter(|block| block.state == MEMPOOL_BLOCK_CACHED);
    let wide: u64 = wide.map(|block| block.size).filter(|&size| size > 100_000).sum();
    assert!(wide < before, "{wide} of {before} are still there");
    pool.must_check();
}

#[test]
fn where_memory_is_short_nothing_is_kept() {
    let shared = pool(64 * MIB, 0);
    let pool = shared.pool;
    let _half = pool.malloc(28 * MIB).expect("malloc");
    let kept = pool.malloc(120_000).expect("malloc");
    pool.free(kept).expect("free");
    assert_eq!(pool.stats().cached_count, 1);
    let more = pool.malloc(4 * MIB).expect("malloc");
    let block = pool.malloc(200_001).expect("malloc");
    assert_eq!(pool.usable_size(block), 200_001usize.next_multiple_of(16), "cut exactly");
    pool.free(block).expect("free");
    // Of a class's size.
    let block = pool.malloc(262_144).expect("malloc");
    pool.free(block).expect("free");
    assert_eq!(pool.stats().cached_count, 1, "what was there before stays until it is needed");
    pool.free(more).expect("free");
    pool.must_check();
}

/// Whoever put it there, and whether he lives: before memory ends all of it is given back.
#[test]
fn all_that_is_on_shelves_can_be_had() {
    let shared = pool(64 * MIB, 0);
    let pool = shared.pool;
    let (is_done, may_end) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let blocks: Vec<*mut u8> =
                (0..60).map(|n| pool.malloc(70_000 + n % 6 * 30_000).expect("malloc")).collect();
            free_all(pool, &blocks);
            is_done.store(true, Release);
            while !may_end.load(Acquire) {
                std::thread::yield_now();
            }
        });
        while !is_done.load(Acquire) {
            std::thread::yield_now();
        }
        let stats = pool.stats();
        assert!(stats.cached_count > 30, "{stats:?}");
        let all = pool.malloc(stats.available as usize);
        let all = all.unwrap_or_else(|_| panic!("{:?}", pool.stats()));
        assert_eq!(pool.stats().cached_count, 0);
        pool.free(all).expect("free");
        may_end.store(true, Release);
    });
    pool.must_check();
}

#[test]
fn a_block_from_a_shelf_is_its_new_owners() {
    let shared = pool(64 * MIB, MEMPOOL_OWNER_TAGS);
    let pool = shared.pool;
    pool.label(1).expect("label");
    let block = pool.malloc(100_000).expect("malloc");
    pool.free(block).expect("free");
    let end = common::child::fork(|| {
        pool.label(2).expect("label");
        let again = pool.malloc(100_000).expect("malloc");
        assert_eq!(again, block);
        0
    });
    assert_eq!(end.wait(Duration::from_secs(60)), Some(common::child::End::Exit(0)));
    assert_eq!(pool.owner(block).expect("an owner").label, 2);
    assert_eq!(pool.reap().expect("reap").freed_count, 1);
}

/// What is filled before it is delivered is nobody's before it is.
#[test]
fn who_dies_while_a_block_is_filled_gets_none() {
    const SIZE: usize = 250_000;
    let (shared, board) = (pool(64 * MIB, 0), Memory::shared(64));
    let pool = shared.pool;
    // SAFETY: inside the mapping, aligned; zero is a value.
    let is_filling = unsafe { &*board.base().cast::<AtomicBool>() };
    let mut random = Random(1);
    let (mut filling, mut delivered) = (0, 0);
    // How many of the children die there is chance.
    for round in 0.. {
        if round >= 100 && filling > 20 {
            break;
        }
        assert!(round < 10_000, "of {round} children {filling} died while they filled a block");
        is_filling.store(false, SeqCst);
        let child = common::child::fork(|| loop {
            let block = pool.malloc(SIZE).expect("malloc");
            // SAFETY: our own block.
            unsafe { block.add(SIZE / 2).write_volatile(0xee) };
            pool.free(block).expect("free");
            is_filling.store(true, SeqCst);
            let block = pool.calloc_fill(1, SIZE, 0x11).expect("calloc_fill");
            is_filling.store(false, SeqCst);
            pool.free(block).expect("free");
        });
        std::thread::sleep(Duration::from_micros(random.below(2000) as u64));
        let start = Instant::now();
        while !is_filling.load(SeqCst) {
            assert!(start.elapsed() < Duration::from_secs(60), "it does not come to that");
        }
        child.kill();
        pool.recover().expect("recover");
        let live = |block: &handle::Block| block.state == MEMPOOL_BLOCK_LIVE;
        let left: Vec<handle::Block> = pool.walk().into_iter().filter(live).collect();
        filling += usize::from(is_filling.load(SeqCst));
        for block in left {
            if is_filling.load(SeqCst) {
                let middle = shared.memory.bytes(block.offset as usize + SIZE / 2, 1)[0];
                assert_eq!(middle, 0x11, "it was delivered half filled");
                delivered += 1;
            }
            pool.free(pool.pointer(block.offset)).expect("free");
        }
        pool.trim().expect("trim");
        pool.must_check();
        assert_eq!(pool.stats().used_count, 0);
    }
    assert!(delivered < filling / 2, "{filling} died there, {delivered} had it");
}

/// Threads that pass blocks on through the shelves: each has its own, all of it.
#[test]
fn no_block_is_anybodys_twice() {
    let shared = smallest();
    let pool = shared.pool;
    let turn = turns(&shared);
    const CALLS: usize = if cfg!(debug_assertions) { 3_000 } else { 30_000 };
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                let mut random = Random(thread);
                let mut held: Vec<*mut u8> = Vec::new();
                for _ in 0..CALLS {
                    if held.len() < 4 && random.below(2) == 0 {
                        let block = pool.malloc(WIDE - random.below(4000)).expect("malloc");
                        stamp(block, pool.offset(block), 64);
                        held.push(block);
                    } else if !held.is_empty() {
                        let block = held.swap_remove(random.below(held.len()));
                        assert!(is_stamped(block, pool.offset(block), 64), "it is another's");
                        pool.free(block).expect("free");
                    }
                }
                free_all(pool, &held);
            });
        }
    });
    assert!((turns(&shared) - turn) as usize <= CALLS / 10, "{}", turns(&shared) - turn);
    pool.must_check();
    assert_eq!(pool.stats().rejected_frees, 0);
    assert_eq!(pool.stats().used_count, 0);
}

/// Whatever a shelf's words hold: what is somebody's is not given out, and every call ends.
#[test]
fn words_of_shelves_may_hold_anything() {
    let shared = smallest();
    let geometry = geometry(&shared.memory, 8);
    assert_eq!(geometry.shelves, 1);
    let memory = &shared.memory;
    let options = Options { align: 8, ..options() };
    let mut random = Random(1);
    for case in 0..4000 {
        let pool = handle::init(memory.base(), memory.len(), &options).expect("init");
        let blocks = get_all(pool, [WIDE; 4]);
        let [live, a, b, small] = blocks;
        // SAFETY: our own block.
        unsafe { live.write_bytes(0x5a, WIDE) };
        free_all(pool, &[a, b]);
        let granule =
            |block: *mut u8| (block as usize - memory.base() as usize - geometry.first) / 8;
        let token = u32::from_ne_bytes(memory.bytes(geometry.cache + 4, 4).try_into().unwrap());
        let hands = [0, 1, 4095, token, token ^ 1 << 20, token + 1, u32::MAX, random.next() as u32];
        let places = [0, granule(live), granule(live) + 1, granule(a), granule(b), granule(small)];
        let places = places.map(|place| place as u32 + 1);
        let more = [geometry.granules, u32::MAX, 0, random.next() as u32];
        let place = *places.iter().chain(&more).nth(random.below(10)).unwrap();
        let word = u64::from(hands[random.below(8)]) << 32 | u64::from(place);
        let at =
            geometry.shelf + [random.below(3), random.below(geometry.shelf_slots)][case % 2] * 8;
        memory.bytes_mut(at, 8).copy_from_slice(&word.to_ne_bytes());
        if random.below(20) == 0 {
            memory.bytes_mut(SHELVES_OFFSET, 4).fill(0);
        }
        let _ = pool.check();
        for _ in 0..12 {
            match random.below(8) {
                0 => _ = pool.trim(),
                1 => _ = pool.recover(),
                2 => _ = pool.try_stats(),
                3 => _ = pool.free(a),
                4 => _ = pool.malloc(pool.stats().available as usize - 64),
                _ => {
                    let Ok(block) = pool.malloc(WIDE) else { continue };
                    assert!(block != live && block != small, "a live block was given out");
                    if random.below(2) == 0 {
                        pool.free(block).expect("free");
                    }
                }
            }
        }
        let bytes = memory.bytes(live as usize - memory.base() as usize, WIDE);
        assert!(bytes.iter().all(|&byte| byte == 0x5a), "case {case}: it was written to");
        assert_eq!(pool.usable_size(live), WIDE, "case {case}: {word:#x}");
        pool.detach().expect("detach");
    }
}
