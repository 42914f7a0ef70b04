//! What the implementation that this one descends from got wrong, and what its own tests say a
//! pool must do: lists of live and free blocks, walked; 8-byte headers in line; one spin lock.

mod common;

use ::mempool::abi::*;
use ::mempool::layout::LOCK_OFFSET;
use common::handle::Block;
use common::{child, handle, options, Handle, Memory, Options};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

const KIB: usize = 1 << 10;
const LIMIT: Duration = Duration::from_secs(60);

/// A pool of the default size there, 4 KiB, in memory that lasts as long as it.
struct Fresh {
    memory: Memory,
    pool: Handle,
}

fn fresh(change: impl FnOnce(&mut Options)) -> Fresh {
    let memory = Memory::private(4 * KIB);
    let mut options = options();
    change(&mut options);
    let pool = handle::init(memory.base(), memory.len(), &options).expect("init");
    Fresh { memory, pool }
}

/// Writes all of a block.
fn fill(pool: Handle, block: *mut u8, byte: u8) {
    let size = pool.usable_size(block);
    assert_ne!(size, 0, "a live block");
    // SAFETY: a live block of that size, ours.
    unsafe { block.write_bytes(byte, size) };
}

fn holds(block: *const u8, len: usize, byte: u8) -> bool {
    // SAFETY: the caller's block has that many bytes.
    unsafe { std::slice::from_raw_parts(block, len) }.iter().all(|&found| found == byte)
}

fn sizes_of(pool: Handle, state: u32) -> Vec<u64> {
    let of_state = |block: &Block| (block.state == state).then_some(block.size);
    pool.walk().iter().filter_map(of_state).collect()
}

fn used(pool: Handle) -> (u64, u64) {
    let stats = pool.stats();
    (stats.used_count, stats.used_size)
}

fn free(pool: Handle) -> (u64, u64) {
    let stats = pool.stats();
    (stats.free_count, stats.free_size)
}

// Its defects.

#[test]
fn a_moving_realloc_frees_the_old_block() {
    let Fresh { memory: _memory, pool } = fresh(|_| ());
    let block = pool.malloc(32).expect("malloc");
    fill(pool, block, 7);
    let wall = pool.malloc(32).expect("malloc");
    let moved = pool.realloc(block, 64).expect("realloc");
    assert_ne!(moved, block);
    assert!(holds(moved, 32, 7));
    assert_eq!(used(pool), (2, 96), "the old block is not used any more");
    assert_eq!(free(pool), (1, 32), "but free");
    assert_eq!(pool.free(block), Err(MEMPOOL_ERR_NOT_ALLOCATED));
    assert_eq!(pool.malloc(32), Ok(block), "and handed out again");
    // Over and over, nothing is left behind.
    let mut walker = moved;
    for _ in 0..1000 {
        let other = pool.realloc(walker, 128).expect("realloc");
        walker = pool.realloc(other, 64).expect("realloc");
    }
    for block in [walker, wall, block] {
        pool.free(block).expect("free");
    }
    assert_eq!((used(pool), free(pool)), ((0, 0), (0, 0)));
}

#[test]
fn a_failed_realloc_keeps_the_block() {
    let Fresh { memory: _memory, pool } = fresh(|_| ());
    let block = pool.malloc(100).expect("malloc");
    fill(pool, block, 9);
    let wall = pool.malloc(16).expect("malloc");
    let before = (used(pool), free(pool), pool.stats().top);
    for size in [4 * KIB, 1 << 31, 1 << 32, usize::MAX / 2, usize::MAX] {
        assert_eq!(pool.realloc(block, size), Err(MEMPOOL_ERR_OUT_OF_MEMORY), "{size}");
        assert_eq!(pool.realloc_array(block, size, 1), Err(MEMPOOL_ERR_OUT_OF_MEMORY), "{size}");
        assert_eq!(pool.expand(block, size), Err(MEMPOOL_ERR_OUT_OF_MEMORY), "{size}");
    }
    assert_eq!(pool.realloc(block, 0), Err(MEMPOOL_ERR_INVALID_ARGUMENT));
    assert_eq!(pool.usable_size(block), 112);
    assert!(holds(block, 112, 9));
    assert_eq!((used(pool), free(pool), pool.stats().top), before);
    pool.free(block).expect("free");
    pool.free(wall).expect("free");
    pool.must_check();
}

/// Shrinking the topmost block by less than min_split lowered top but not the block's size: the
/// next block began inside it.
#[test]
fn shrinking_the_topmost_block_a_little_makes_no_overlap() {
    for min_split in [16, 24, 32, 64, 1000] {
        for by in (0..=96).step_by(8) {
            let Fresh { memory: _memory, pool } = fresh(|options| {
                options.align = 8;
                options.min_split = min_split;
            });
            let block = pool.malloc(128).expect("malloc");
            assert_eq!(pool.realloc(block, 128 - by), Ok(block));
            fill(pool, block, 1);
            let next = pool.malloc(64).expect("malloc");
            fill(pool, next, 2);
            let end = block as usize + pool.usable_size(block);
            assert!(next as usize >= end, "min_split {min_split}: shrunk by {by}");
            assert!(holds(block, pool.usable_size(block), 1));
            pool.must_check();
            pool.free(block).expect("free");
            pool.free(next).expect("free");
            assert_eq!((used(pool), free(pool)), ((0, 0), (0, 0)));
        }
    }
}

/// Calls for as long as others call too.
fn busily(stop: &AtomicBool, calls: &AtomicU64, mut call: impl FnMut()) {
    while !stop.load(Relaxed) {
        call();
        calls.fetch_add(1, Relaxed);
    }
}

/// All is free, and in one piece; what caches hold is given back first. Whoever else called has
/// been joined.
#[track_caller]
fn must_be_empty(pool: Handle) {
    pool.recover().expect("recover");
    pool.trim().expect("trim");
    pool.must_check();
    let stats = pool.stats();
    assert_eq!((used(pool), free(pool)), ((0, 0), (0, 0)));
    assert_eq!((stats.cached_count, stats.cached_size), (0, 0));
    assert_eq!(stats.total, stats.overhead + stats.largest_free, "in one piece");
}

/// There realloc, stats and free_all went without the lock: blocks were lost, and figures torn.
#[test]
fn realloc_and_stats_take_the_lock() {
    child::run(LIMIT, || {
        for flags in [MEMPOOL_NO_THREAD_CACHES, 0] {
            let memory = Memory::private(256 * KIB);
            let options = Options { flags, ..options() };
            let pool = handle::init(memory.base(), memory.len(), &options).expect("init");
            realloc_and_stats(pool);
            must_be_empty(pool);
        }
    });
}

fn realloc_and_stats(pool: Handle) {
    let (stop, calls) = (AtomicBool::new(false), [const { AtomicU64::new(0) }; 4]);
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for thread in 0..3usize {
            let (stop, calls) = (&stop, &calls[thread]);
            threads.push(scope.spawn(move || {
                let mut block = pool.malloc(16).expect("malloc");
                let mut size = 16;
                fill(pool, block, thread as u8);
                busily(stop, calls, || {
                    let wanted = 16 + (size * 7 + 40 * thread) % 2000;
                    block = pool.realloc(block, wanted).expect("realloc");
                    assert!(holds(block, size.min(wanted), thread as u8), "torn");
                    fill(pool, block, thread as u8);
                    size = wanted;
                });
                pool.free(block).expect("free");
            }));
        }
        let (stop, calls) = (&stop, &calls);
        threads.push(scope.spawn(move || {
            busily(stop, &calls[3], || {
                let stats = pool.stats();
                let parts = stats.overhead + stats.used_size + stats.available;
                assert_eq!(stats.total, parts, "a moment's figures, not two moments'");
                assert!(stats.used_count <= 6, "{}", stats.used_count);
            });
        }));
        while calls.iter().any(|calls| calls.load(Relaxed) < 2000) {
            std::thread::sleep(Duration::from_millis(1));
        }
        stop.store(true, Relaxed);
        // A scope does not wait for the end of a thread's own caches; a join does.
        threads.into_iter().for_each(|thread| thread.join().expect("it ended well"));
    });
}

/// Its users must keep others out of their own calls, but free_all itself must be whole for those
/// who only look.
#[test]
fn free_all_takes_the_lock() {
    child::run(LIMIT, || {
        let memory = Memory::private(64 * KIB);
        let pool = handle::init(memory.base(), memory.len(), &options()).expect("init");
        let (stop, looks) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                busily(&stop, &looks, || {
                    let stats = pool.stats();
                    assert_eq!(stats.total, stats.overhead + stats.used_size + stats.available);
                    assert_eq!(stats.used_count * 32, stats.used_size, "between two states");
                    pool.must_check();
                });
            });
            for _ in 0..200 {
                for _ in 0..50 {
                    pool.malloc(32).expect("malloc");
                }
                pool.free_all().expect("free_all");
            }
            while looks.load(Relaxed) < 200 {
                pool.malloc(32).expect("malloc");
                pool.free_all().expect("free_all");
            }
            stop.store(true, Relaxed);
        });
    });
}

/// There a buffer that was not zero was taken for a pool whose lock somebody held.
#[test]
fn a_dirty_buffer_does_not_hang_init() {
    child::run(LIMIT, || {
        let memory = Memory::private(4 * KIB);
        for word in
            [u64::MAX, 1, 0x0000_0001_0000_0001, 0x7fff_ffff_7fff_ffff, 0x5555_5555_5555_5555]
        {
            for chunk in memory.bytes_mut(0, memory.len()).chunks_mut(8) {
                chunk.copy_from_slice(&word.to_ne_bytes());
            }
            let pool = handle::init(memory.base(), memory.len(), &options()).expect("init");
            let block = pool.malloc(100).expect("malloc");
            pool.free(block).expect("free");
            pool.must_check();
            assert_eq!(pool.stats().rejected_frees + pool.stats().failed_allocs, 0);
        }
    });
}

#[test]
fn an_old_pools_lock_does_not_hang_init() {
    child::run(LIMIT, || {
        let Fresh { memory, pool } = fresh(|_| ());
        pool.malloc(16).expect("malloc");
        // Held by init, by this thread, by a thread that waits too, by one whose owner died.
        let me = std::process::id();
        for word in [1, me, me | 1 << 31, 1 << 30, u32::MAX] {
            memory.bytes_mut(LOCK_OFFSET, 4).copy_from_slice(&word.to_ne_bytes());
            let again = handle::init(memory.base(), memory.len(), &options()).expect("init");
            assert_eq!(used(again), (0, 0));
            again.malloc(16).expect("malloc");
            again.must_check();
            assert_eq!(pool.malloc(16), Err(MEMPOOL_ERR_NOT_A_POOL), "the old pool is gone");
        }
    });
}

#[test]
fn attach_checks_what_it_attaches_to() {
    let Fresh { memory, pool } = fresh(|_| ());
    pool.malloc(16).expect("malloc");
    let (base, len) = (memory.base(), memory.len());
    let attach = |len: usize| handle::attach(base, len, &options()).map(|pool| pool.detach());
    attach(len).expect("attach").expect("detach");
    // Shorter than the pool, and shorter than any.
    for short in [len - 1, len - 16, len / 2, 300, 100, 8, 1, 0] {
        let status = attach(short).expect_err("too short");
        let expected = [MEMPOOL_ERR_INCOMPATIBLE, MEMPOOL_ERR_NOT_A_POOL];
        assert!(expected.contains(&status), "{short} bytes: {status}");
    }
    assert_eq!(attach(len - 1), Err(MEMPOOL_ERR_INCOMPATIBLE));
    // Each byte of the magic, and each of the version.
    for (bytes, expected) in [(0..8, MEMPOOL_ERR_NOT_A_POOL), (8..12, MEMPOOL_ERR_INCOMPATIBLE)] {
        for at in bytes {
            memory.bytes_mut(at, 1)[0] ^= 0x10;
            assert_eq!(attach(len), Err(expected), "byte {at}");
            memory.bytes_mut(at, 1)[0] ^= 0x10;
        }
    }
    // Everything else that was written once: whatever of it changes is found out.
    for at in 12..LOCK_OFFSET {
        memory.bytes_mut(at, 1)[0] ^= 0x10;
        let status = attach(len).expect_err("a changed header");
        let expected = [MEMPOOL_ERR_INCOMPATIBLE, MEMPOOL_ERR_CORRUPTED];
        assert!(expected.contains(&status), "byte {at}: {status}");
        memory.bytes_mut(at, 1)[0] ^= 0x10;
    }
    attach(len).expect("attach").expect("detach");
    let zero = Memory::private(4 * KIB);
    assert_eq!(handle::attach(zero.base(), len, &options()), Err(MEMPOOL_ERR_NOT_A_POOL));
    assert_eq!(
        handle::attach(std::ptr::null_mut(), len, &options()),
        Err(MEMPOOL_ERR_INVALID_ARGUMENT)
    );
}

/// There they were added to offsets of 32 bits, signed in places.
#[test]
fn huge_sizes_fail_cleanly() {
    let Fresh { memory: _memory, pool } = fresh(|_| ());
    let block = pool.malloc(16).expect("malloc");
    let top = pool.stats().top;
    let around = |center: usize| (0..40).map(move |by| center.wrapping_add(by).wrapping_sub(20));
    let sizes = [1 << 31, 1 << 32, 1 << 33, 1 << 47, 1 << 63, 0].into_iter().flat_map(around);
    let sizes: Vec<usize> = sizes.filter(|&size| size > 4 * KIB).collect();
    assert!(sizes.contains(&usize::MAX));
    for &size in &sizes {
        let failures = [
            pool.malloc(size),
            pool.calloc(1, size),
            pool.calloc(size, 1),
            pool.calloc(size, size),
            pool.calloc_fill(2, size, 1),
            pool.aligned_alloc(16, size),
            pool.aligned_alloc(4096, size),
            pool.realloc(block, size),
            pool.realloc_array(block, 3, size),
            pool.expand(block, size).map(|()| block),
        ];
        assert_eq!(failures, [Err(MEMPOOL_ERR_OUT_OF_MEMORY); 10], "{size}");
        assert_eq!(pool.good_size(size), 0, "{size}");
        assert_eq!(pool.free_sized(block, size), Err(MEMPOOL_ERR_INVALID_ARGUMENT), "{size}");
    }
    for alignment in [1 << 31, 1 << 32, 1 << 47, 1 << 63] {
        assert_eq!(pool.aligned_alloc(alignment, 16), Err(MEMPOOL_ERR_OUT_OF_MEMORY));
    }
    assert_eq!((used(pool), pool.stats().top), ((1, 16), top));
    pool.must_check();
}

/// There the last bytes could not be had.
#[test]
fn a_block_can_end_exactly_at_end() {
    for end in [0, 4000, 3001] {
        let Fresh { memory, pool } = fresh(|options| options.end = end);
        let limit = if end == 0 { memory.len() } else { end };
        let space = pool.stats().available as usize & !15;
        let block = pool.malloc(space).expect("all of it");
        fill(pool, block, 3);
        let last = block as usize - memory.base() as usize + space;
        assert!(last <= limit && limit - last < 16, "ends at {last} of {limit}");
        assert_eq!(pool.malloc(1), Err(MEMPOOL_ERR_OUT_OF_MEMORY));
        pool.free(block).expect("free");
        // By growing too: to the end, and not one byte beyond.
        for grow in
            [Handle::realloc, |pool: Handle, block, size| pool.expand(block, size).map(|()| block)]
        {
            let block = pool.malloc(16).expect("malloc");
            assert_eq!(grow(pool, block, space + 1), Err(MEMPOOL_ERR_OUT_OF_MEMORY));
            assert_eq!(grow(pool, block, space), Ok(block));
            assert_eq!(pool.usable_size(block), space);
            fill(pool, block, 4);
            pool.free(block).expect("free");
        }
        pool.must_check();
        let beyond = memory.bytes(limit, memory.len() - limit);
        assert!(beyond.iter().all(|&byte| byte == 0), "written beyond end");
    }
}

#[test]
fn bad_pointers_are_told_apart() {
    let Fresh { memory, pool } = fresh(|_| ());
    let other = fresh(|_| ());
    let foreign = other.pool.malloc(64).expect("malloc");
    let [a, b, c] = [64, 64, 64].map(|size| pool.malloc(size).expect("malloc"));
    for block in [a, b, c] {
        fill(pool, block, 5);
    }
    pool.free(b).expect("free");
    let on_stack = 0u64;
    let end = memory.base().wrapping_add(memory.len());
    let bad = [
        ("double", b, MEMPOOL_ERR_NOT_ALLOCATED),
        ("inside a live block", a.wrapping_add(16), MEMPOOL_ERR_NOT_ALLOCATED),
        ("misaligned", a.wrapping_add(1), MEMPOOL_ERR_NOT_ALLOCATED),
        ("the live block's last byte", a.wrapping_add(63), MEMPOOL_ERR_NOT_ALLOCATED),
        ("inside a free block", b.wrapping_add(32), MEMPOOL_ERR_NOT_ALLOCATED),
        ("above top", c.wrapping_add(64), MEMPOOL_ERR_NOT_ALLOCATED),
        ("the last byte", end.wrapping_sub(1), MEMPOOL_ERR_NOT_ALLOCATED),
        ("the header", memory.base(), MEMPOOL_ERR_FOREIGN_POINTER),
        ("the map", a.wrapping_sub(1), MEMPOOL_ERR_FOREIGN_POINTER),
        ("the end", end, MEMPOOL_ERR_FOREIGN_POINTER),
        ("another pool's", foreign, MEMPOOL_ERR_FOREIGN_POINTER),
        ("the stack's", (&raw const on_stack).cast_mut().cast(), MEMPOOL_ERR_FOREIGN_POINTER),
        ("address 1", std::ptr::without_provenance_mut(1), MEMPOOL_ERR_FOREIGN_POINTER),
        (
            "the last address",
            std::ptr::without_provenance_mut(usize::MAX),
            MEMPOOL_ERR_FOREIGN_POINTER,
        ),
    ];
    let before = memory.bytes(0, memory.len()).to_vec();
    let blocks = pool.walk().len();
    for (count, (name, pointer, expected)) in bad.into_iter().enumerate() {
        assert_eq!(pool.free(pointer), Err(expected), "{name}");
        assert_eq!(pool.stats().rejected_frees, 1 + count as u64, "{name} is counted");
        assert_eq!(pool.usable_size(pointer), 0, "{name}");
        assert_eq!(pool.realloc(pointer, 32), Err(expected), "{name}");
        assert_eq!(pool.expand(pointer, 32), Err(expected), "{name}");
    }
    let first = pool.offset(a) as usize;
    assert!(
        memory.bytes(first, memory.len() - first) == &before[first..],
        "no block's byte changed"
    );
    assert_eq!((pool.walk().len(), used(pool), free(pool)), (blocks, (2, 128), (1, 64)));
    pool.free(std::ptr::null_mut()).expect("NULL is nothing");
    pool.must_check();
}

/// There `available` counted to the buffer's end, whatever `end` said.
#[test]
fn available_counts_the_region_only() {
    for (start, end) in [(0, 2000), (1000, 3000), (1000, 0), (0, 1 << 40)] {
        let Fresh { memory, pool } = fresh(|options| (options.start, options.end) = (start, end));
        let last = if end == 0 { memory.len() } else { end.min(memory.len()) };
        let stats = pool.stats();
        assert_eq!(stats.total as usize, last - start);
        assert_eq!(stats.overhead + stats.available, stats.total);
        let mut got = 0;
        while let Ok(block) = pool.malloc(16) {
            got += pool.usable_size(block) as u64;
            let at = block as usize - memory.base() as usize;
            assert!(at >= start && at + 16 <= last);
        }
        assert!(stats.available - got < 16, "{} said, {got} got", stats.available);
    }
}

#[test]
fn an_align_that_is_no_power_of_two_is_refused() {
    let memory = Memory::private(4 * KIB);
    for align in (1..200).chain([1 << 17, 1 << 40, usize::MAX]) {
        let mut options = options();
        options.align = align;
        let good = align.is_power_of_two() && (8..=65_536).contains(&align);
        let answer = handle::init(memory.base(), memory.len(), &options);
        assert_eq!(answer.is_ok(), good, "align {align}: {answer:?}");
        if !good {
            assert_eq!(answer, Err(MEMPOOL_ERR_INVALID_ARGUMENT), "align {align}");
        }
    }
}

// What its tests say.

#[test]
fn sizes_that_no_block_has_are_refused() {
    let Fresh { memory: _memory, pool } = fresh(|_| ());
    // -1 as it arrives in C.
    for (size, expected) in [
        (0, MEMPOOL_ERR_INVALID_ARGUMENT),
        (usize::MAX, MEMPOOL_ERR_OUT_OF_MEMORY),
        (4 * KIB, MEMPOOL_ERR_OUT_OF_MEMORY),
        (100_000, MEMPOOL_ERR_OUT_OF_MEMORY),
    ] {
        assert_eq!(pool.malloc(size), Err(expected), "{size}");
        assert_eq!(pool.calloc(1, size), Err(expected), "{size}");
    }
    assert_eq!(pool.calloc(0, 5), Err(MEMPOOL_ERR_INVALID_ARGUMENT));
    assert_eq!((used(pool), pool.walk().len()), ((0, 0), 0));
}

/// Frees a row of blocks in an order, and expects one free run less with each merge.
fn freed_in(order: [usize; 5], align: usize) {
    let Fresh { memory: _memory, pool } = fresh(|options| options.align = align);
    let first = pool.stats().top;
    let blocks = [12, 31, 24, 50, 9].map(|size| pool.malloc(size).expect("malloc"));
    let mut is_free = [false; 5];
    for at in order {
        pool.free(blocks[at]).expect("free");
        assert_eq!(pool.free(blocks[at]), Err(MEMPOOL_ERR_NOT_ALLOCATED), "the second time");
        is_free[at] = true;
        // Runs of free blocks, without the one that would touch top.
        let below_top = is_free.iter().rposition(|&free| !free).map_or(0, |last| last + 1);
        let runs = is_free[..below_top].split(|&free| !free).filter(|run| !run.is_empty()).count();
        assert_eq!(free(pool).0, runs as u64, "{order:?}: after {at}");
        pool.must_check();
    }
    assert_eq!(pool.stats().top, first, "all free, top is where it was");
}

#[test]
fn free_in_any_order_merges_and_lowers_top() {
    // d, b, c, a, e is its own example, at align 16; here are all the others too.
    let mut order = [0, 1, 2, 3, 4];
    permute(&mut order, 0, &mut |order| {
        for align in [8, 16, 32, 64] {
            freed_in(*order, align);
        }
    });
    freed_in([3, 1, 2, 0, 4], 16);
}

fn permute(order: &mut [usize; 5], from: usize, visit: &mut impl FnMut(&[usize; 5])) {
    if from == order.len() {
        return visit(order);
    }
    for at in from..order.len() {
        order.swap(from, at);
        permute(order, from + 1, visit);
        order.swap(from, at);
    }
}

#[test]
fn blocks_are_split_joined_and_skipped() {
    let Fresh { memory: _memory, pool } = fresh(|_| ());
    let [a, b, c] = [64, 64, 64].map(|size| pool.malloc(size).expect("malloc"));
    // Splitting: a smaller one fits into the freed place, the rest stays free.
    pool.free(a).expect("free");
    assert_eq!(pool.malloc(16), Ok(a));
    assert_eq!(sizes_of(pool, MEMPOOL_BLOCK_FREE), [48]);
    assert_eq!(pool.malloc(32), Ok(a.wrapping_add(16)));
    assert_eq!(sizes_of(pool, MEMPOOL_BLOCK_FREE), [16]);
    // Skipping: the free one is too small, the next comes from top.
    let d = pool.malloc(32).expect("malloc");
    assert_eq!(d, c.wrapping_add(64));
    // Joining: with its neighbours free, the place is as large as all of them.
    pool.free(a.wrapping_add(16)).expect("free");
    pool.free(a).expect("free");
    assert_eq!(sizes_of(pool, MEMPOOL_BLOCK_FREE), [64]);
    pool.free(b).expect("free");
    assert_eq!(sizes_of(pool, MEMPOOL_BLOCK_FREE), [128]);
    assert_eq!(pool.malloc(128), Ok(a));
    // Extending into top: what is free below it joins it.
    pool.free(d).expect("free");
    pool.free(c).expect("free");
    assert_eq!(pool.malloc(200), Ok(c));
    pool.must_check();
}

#[test]
fn free_all_restores_the_stats() {
    let Fresh { memory, pool } = fresh(|_| ());
    let figures = || {
        let stats = pool.stats();
        (stats.used_count, stats.free_count, stats.top, stats.available, stats.largest_free)
    };
    let before = (figures(), pool.stats().pool_id);
    let blocks: Vec<_> = (1..20).map(|size| pool.malloc(size * 5).expect("malloc")).collect();
    for block in blocks.iter().step_by(3) {
        pool.free(*block).expect("free");
    }
    assert_ne!(figures(), before.0);
    pool.free_all().expect("free_all");
    assert_eq!((figures(), pool.stats().pool_id), before);
    for block in blocks {
        assert_eq!(pool.free(block), Err(MEMPOOL_ERR_NOT_ALLOCATED), "they all were freed");
    }
    pool.must_check();
    // Its release drops the state too: here the pool ends.
    pool.release().expect("release");
    assert_eq!(pool.malloc(16), Err(MEMPOOL_ERR_NOT_A_POOL));
    let answer = handle::attach(memory.base(), memory.len(), &options());
    assert_eq!(answer, Err(MEMPOOL_ERR_NOT_A_POOL));
}

#[test]
fn calloc_fills_exactly_the_requested_bytes() {
    let Fresh { memory: _memory, pool } = fresh(|_| ());
    let block = pool.malloc(64).expect("malloc");
    let wall = pool.malloc(16).expect("malloc");
    fill(pool, block, 0xaa);
    fill(pool, wall, 0xbb);
    pool.free(block).expect("free");
    assert_eq!(pool.calloc_fill(10, 5, 0x55), Ok(block));
    assert!(holds(block, 50, 0x55));
    assert!(holds(block.wrapping_add(50), 14, 0xaa), "what was not asked for");
    assert!(holds(wall, 16, 0xbb));
    fill(pool, block, 0xcc);
    pool.free(block).expect("free");
    assert_eq!(pool.calloc(3, 20), Ok(block));
    assert!(holds(block, 60, 0), "a dirty block is zero again");
    assert!(holds(block.wrapping_add(60), 4, 0xcc));
}

#[test]
fn the_topmost_block_grows_and_shrinks_where_it_is() {
    let Fresh { memory: _memory, pool } = fresh(|_| ());
    let below = pool.malloc(32).expect("malloc");
    let block = pool.malloc(32).expect("malloc");
    let top = pool.stats().top;
    fill(pool, block, 6);
    assert_eq!(pool.realloc(block, 100), Ok(block));
    assert_eq!(pool.stats().top, top + 80);
    assert!(holds(block, 32, 6));
    assert_eq!(pool.realloc(block, 16), Ok(block));
    assert_eq!(pool.stats().top, top - 16);
    assert_eq!(free(pool), (0, 0));
    // Not topmost: it moves, with its bytes.
    fill(pool, below, 7);
    let moved = pool.realloc(below, 48).expect("realloc");
    assert_ne!(moved, below);
    assert!(holds(moved, 32, 7));
    assert_eq!(pool.realloc(std::ptr::null_mut(), 16), Ok(below), "NULL: a malloc");
    pool.must_check();
}

#[test]
fn another_pools_array_is_not_reallocated() {
    let Fresh { memory: _memory, pool } = fresh(|_| ());
    let other = fresh(|_| ());
    let array = pool.calloc(4, 8).expect("calloc");
    assert_eq!(other.pool.realloc_array(array, 8, 8), Err(MEMPOOL_ERR_FOREIGN_POINTER));
    assert_eq!(used(other.pool), (0, 0));
    let array = pool.realloc_array(array, 8, 8).expect("realloc_array");
    assert_eq!(pool.usable_size(array), 64);
}

#[test]
fn without_compaction_free_blocks_stay_apart() {
    let Fresh { memory: _memory, pool } = fresh(|options| options.flags = MEMPOOL_NO_COMPACT);
    let blocks = [16, 32, 48].map(|size| pool.malloc(size).expect("malloc"));
    let top = pool.stats().top;
    for block in blocks {
        pool.free(block).expect("free");
    }
    assert_eq!(sizes_of(pool, MEMPOOL_BLOCK_FREE), [16, 32, 48]);
    assert_eq!(pool.stats().top, top);
    assert_eq!(pool.malloc(48), Ok(blocks[2]), "each is found again");
    assert_eq!(pool.malloc(96), Ok(blocks[2].wrapping_add(48)), "their sum is not");
    pool.must_check();
}

#[test]
fn without_splitting_a_block_is_reused_whole() {
    let Fresh { memory: _memory, pool } = fresh(|options| options.flags = MEMPOOL_NO_SPLIT);
    let block = pool.malloc(200).expect("malloc");
    let wall = pool.malloc(16).expect("malloc");
    pool.free(block).expect("free");
    assert_eq!(pool.malloc(10), Ok(block));
    assert_eq!(pool.usable_size(block), 208);
    assert_eq!(pool.realloc(block, 1), Ok(block));
    assert_eq!(pool.usable_size(block), 208);
    assert_eq!((used(pool), free(pool)), ((2, 224), (0, 0)));
    pool.free(wall).expect("free");
    pool.must_check();
}

/// There the lists' links lay before each block: a write behind the last byte, or after free,
/// broke them.
#[test]
fn a_stale_write_after_free_harms_nothing() {
    let Fresh { memory: _memory, pool } = fresh(|_| ());
    let first = pool.stats().top;
    let blocks: Vec<_> = (0..16).map(|_| pool.malloc(32).expect("malloc")).collect();
    for (at, &block) in blocks.iter().enumerate() {
        fill(pool, block, at as u8);
    }
    for &block in blocks.iter().step_by(2) {
        pool.free(block).expect("free");
    }
    for byte in [0x00, 0x01, 0x7f, 0xff] {
        for &stale in blocks.iter().step_by(2) {
            // SAFETY: memory of this test's own, if no longer of its block.
            unsafe { stale.write_bytes(byte, 32) };
        }
        let kept = blocks.iter().enumerate().skip(1).step_by(2);
        assert!(kept.clone().all(|(at, &block)| holds(block, 32, at as u8)));
        let again: Vec<_> = (0..8).map(|_| pool.malloc(32).expect("malloc")).collect();
        let mut taken: Vec<_> = kept.map(|(_, &block)| block).chain(again.clone()).collect();
        taken.sort();
        taken.dedup();
        assert_eq!(taken.len(), 16, "no block twice");
        pool.must_check();
        for block in again {
            pool.free(block).expect("free");
        }
    }
    for block in blocks.iter().skip(1).step_by(2) {
        pool.free(*block).expect("free");
    }
    assert_eq!((used(pool), free(pool), pool.stats().top), ((0, 0), (0, 0), first));
    pool.must_check();
}

/// Nor does it hide a free block: NULL still means that no free run fits.
#[test]
fn a_stale_write_after_free_loses_no_block() {
    for byte in [0x00, 0x01, 0x7f, 0x80, 0xff] {
        for written in [1, 4, 8, 16, 64] {
            let Fresh { memory: _memory, pool } = fresh(|_| ());
            let blocks: Vec<_> = std::iter::from_fn(|| pool.malloc(64).ok()).collect();
            let free = blocks.iter().step_by(2);
            free.clone().for_each(|&block| pool.free(block).expect("free"));
            for &stale in free.clone() {
                // SAFETY: memory of this test's own, if no longer of its block.
                unsafe { stale.write_bytes(byte, written) };
            }
            let again = (0..).take_while(|_| pool.malloc(64).is_ok()).count();
            assert_eq!(again, free.count(), "{written} bytes of {byte:#x} over each");
            pool.must_check();
        }
    }
}

/// Workers that allocate, stamp, hand over, verify and free: threads of two processes.
#[test]
fn workers_lose_duplicate_and_tear_nothing() {
    const WORKERS: u64 = 4;
    const ROUNDS: u64 = 20_000;
    let memory = Memory::shared(256 * KIB);
    let pool = handle::init(memory.base(), memory.len(), &options()).expect("init");
    // A slot for each pair of workers, through which blocks go from one to the other.
    let slots = pool.calloc(16, 8).expect("calloc").cast::<AtomicU64>();
    // SAFETY: sixteen zeroed words that are never freed while a worker runs.
    let slots = unsafe { std::slice::from_raw_parts(slots, 16) };
    let work = |pool: Handle, slots: &[AtomicU64], worker: u64| {
        let mut random = common::random::Random(worker);
        for round in 0..ROUNDS {
            let size = 16 + random.below(300);
            let stamp = (worker * ROUNDS + round) as u8 | 1;
            let mut block = std::ptr::null_mut();
            if let Ok(new) = pool.malloc(size) {
                // SAFETY: our own new block.
                unsafe {
                    new.write_bytes(stamp, size);
                    new.cast::<u16>().write_unaligned(size as u16);
                }
                block = new;
            }
            // Leaves its own, takes what somebody left.
            let given = pool.offset(block);
            let taken =
                slots[random.below(slots.len())].swap(given, std::sync::atomic::Ordering::AcqRel);
            if taken != 0 {
                let block = pool.pointer(taken);
                // SAFETY: whoever took it out of the slot owns it.
                let size = unsafe { block.cast::<u16>().read_unaligned() } as usize;
                // SAFETY: so large it was made.
                let stamp = unsafe { block.add(2).read() };
                assert!(holds(block.wrapping_add(2), size - 2, stamp) && stamp & 1 == 1, "torn");
                pool.free(block).expect("free");
            }
        }
    };
    let all = |pool: Handle, slots: &[AtomicU64], workers: [u64; 2]| {
        std::thread::scope(|scope| {
            let threads = workers.map(|worker| scope.spawn(move || work(pool, slots, worker)));
            threads.into_iter().for_each(|thread| thread.join().expect("it ended well"));
        });
    };
    let child = child::fork(|| {
        // At another address.
        let view = memory.view();
        let pool = handle::attach(view.base(), view.len(), &options()).expect("attach");
        let at = slots.as_ptr() as usize - memory.base() as usize;
        let slots = view.base().wrapping_add(at).cast::<AtomicU64>();
        // SAFETY: the same words in this mapping.
        let slots = unsafe { std::slice::from_raw_parts(slots, 16) };
        all(pool, slots, [2, 3]);
        0
    });
    all(pool, slots, [0, 1]);
    assert_eq!(child.wait(LIMIT), Some(child::End::Exit(0)), "{WORKERS} workers");
    for slot in slots {
        let left = slot.swap(0, Relaxed);
        if left != 0 {
            pool.free(pool.pointer(left)).expect("free");
        }
    }
    pool.must_check();
    assert_eq!(used(pool), (1, 128), "all came back but the slots");
    pool.free(slots.as_ptr().cast_mut().cast()).expect("free");
    must_be_empty(pool);
    assert_eq!(pool.stats().rejected_frees, 0);
}
