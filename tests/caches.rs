//! Thread caches, as programs meet them: threads and processes that come, go and die with blocks
//! in their caches, pools that end under them, and blocks that are freed by others.

mod common;

use ::mempool::abi::*;
use common::child::{self, End};
use common::crowd::{Crowd, Losses};
use common::handle::{self, Block};
use common::memory::error;
use common::other::Other;
use common::random::Random;
use common::worker::{
    end_inside, fill_cache, free_the_lost, is_stamped, keeps_stamp, stamp, Log, Shared,
};
use common::{options, Handle, Memory, Options};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::sync::mpsc::sync_channel;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Nothing here may take longer, and what hangs is killed then.
const LIMIT: Duration = Duration::from_secs(120);

/// Unoptimized, everything takes ten times as long.
const LESS: usize = if cfg!(debug_assertions) { 10 } else { 1 };

/// No smaller pool has caches.
const SMALLEST: usize = 256 << 10;

fn chance() -> Duration {
    let seconds = std::env::var("MEMPOOL_TEST_SECONDS").ok();
    Duration::from_secs(seconds.and_then(|text| text.parse().ok()).unwrap_or(4))
}

/// A pool that is new and has no caches in use.
fn shared(len: usize) -> Shared {
    Shared::with(Memory::shared(len), 0)
}

fn private(len: usize) -> Shared {
    Shared::with(Memory::private(len), 0)
}

/// A new pool, whose caches are at most so many.
fn with_caches(memory: Memory, max_threads: u32) -> Shared {
    let options = Options { max_threads, ..options() };
    let pool = handle::init(memory.base(), memory.len(), &options).expect("init");
    Shared { memory, pool }
}

/// The bytes between the first block and the end.
fn room(shared: &Shared) -> usize {
    let stats = shared.pool.stats();
    (stats.total - stats.overhead) as usize
}

fn are_equal(one: &handle::Stats, other: &handle::Stats) -> bool {
    format!("{one:?}") == format!("{other:?}")
}

// Threads that end.

#[test]
fn what_ended_threads_had_cached_is_given_back() {
    let shared = shared(4 << 20);
    let (pool, first) = (shared.pool, shared.pool.stats().top);
    for round in 0..20 {
        let threads: Vec<JoinHandle<Vec<u64>>> = (0..8)
            .map(|thread| {
                std::thread::spawn(move || {
                    let mut random = Random(round * 8 + thread);
                    let blocks: Vec<u64> = (0..200)
                        .map(|_| {
                            let size = 16 + random.below(600);
                            let block = pool.malloc(size).expect("malloc");
                            stamp(block, pool.offset(block), size);
                            pool.offset(block)
                        })
                        .collect();
                    if thread % 2 == 0 {
                        return blocks;
                    }
                    blocks.iter().for_each(|&at| pool.free(pool.pointer(at)).expect("free"));
                    Vec::new()
                })
            })
            .collect();
        let left: Vec<u64> =
            threads.into_iter().flat_map(|thread| thread.join().expect("it ended well")).collect();
        pool.trim().expect("trim");
        pool.must_check();
        let stats = pool.stats();
        assert_eq!((stats.cached_count, stats.cached_size), (0, 0));
        assert!(stats.thread_caches <= 1, "{} caches of ended threads", stats.thread_caches);
        assert_eq!(stats.used_count, left.len() as u64);
        assert_eq!(stats.recoveries, 0, "they ended in order");
        for offset in left {
            let block = pool.pointer(offset);
            assert!(is_stamped(block, offset, pool.usable_size(block)));
            pool.free(block).expect("free");
        }
    }
    shared.must_be_whole(first);
}

extern "C" fn vanish(pool: *mut c_void) -> *mut c_void {
    let pool = Handle(pool.cast());
    fill_cache(pool);
    // SAFETY: ends this thread and nothing else; no destructor runs.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    std::ptr::null_mut()
}

/// No destructor says that they ended: it is found out.
#[test]
fn what_vanished_threads_had_cached_is_given_back_too() {
    for memory in [Memory::shared(4 << 20), Memory::private(4 << 20)] {
        let shared = Shared::with(memory, 0);
        let (pool, first) = (shared.pool, shared.pool.stats().top);
        for _ in 0..20 {
            let mut thread: libc::pthread_t = 0;
            // SAFETY: a valid thread function, joined before the pool ends.
            unsafe {
                let argument = pool.0.cast();
                let answer = libc::pthread_create(&mut thread, std::ptr::null(), vanish, argument);
                assert_eq!(answer, 0, "{}", error());
                assert_eq!(libc::pthread_join(thread, std::ptr::null_mut()), 0);
            }
            let start = Instant::now();
            loop {
                // The kernel wakes who joins a moment before the thread is gone. This thread has no
                // cache: one that is left is the other's.
                pool.recover().expect("recover");
                if pool.stats().thread_caches == 0 {
                    break;
                }
                assert!(start.elapsed() < Duration::from_secs(10), "its cache is not found");
            }
        }
        assert_eq!(pool.stats().recoveries, 20);
        shared.must_be_whole(first);
    }
}

#[test]
fn a_thread_that_ends_inside_a_call_leaves_its_cache_to_others() {
    child::run(LIMIT + chance(), || {
        for memory in [Memory::shared(8 << 20), Memory::private(8 << 20)] {
            let shared = Shared::with(memory, 0);
            let (pool, first) = (shared.pool, shared.pool.stats().top);
            let log = Log::new(2);
            let [dying, living] = [0, 1].map(|at| log.worker(at));
            let mut random = Random(3);
            let mut ended = 0;
            std::thread::scope(|scope| {
                let thread = scope.spawn(|| living.work(pool, 2));
                let start = Instant::now();
                while start.elapsed() < chance() / 4 || ended < 20 {
                    let before = dying.calls.load(Relaxed);
                    let has_its_cache = || dying.calls.load(Relaxed) >= before + 2;
                    let after = Duration::from_micros(random.below(300) as u64);
                    end_inside(pool, dying, before, has_its_cache, after);
                    ended += 1;
                    dying.settle(pool);
                    pool.recover().expect("recover");
                    if ended % 64 == 0 {
                        pool.must_check();
                        living.must_go_on();
                    }
                }
                living.stop.store(1, Relaxed);
                thread.join().expect("it ended well");
            });
            eprintln!("{ended} threads ended, {} recoveries", pool.stats().recoveries);
            for worker in [dying, living] {
                worker.settle(pool);
                worker.give_back(pool);
            }
            free_the_lost(pool, ended);
            shared.must_be_whole(first);
        }
    });
}

// Forks.

/// A child finds none of its parent's caches, not even through no handle at all.
#[test]
fn no_pool_is_no_pool_in_a_forked_child_either() {
    let shared = shared(1 << 20);
    let null = Handle(std::ptr::null_mut());
    let call = |pool: Handle| {
        let block = pool.malloc(100).expect("malloc");
        pool.free(block).expect("free");
        assert_eq!(null.malloc(100), Err(MEMPOOL_ERR_INVALID_ARGUMENT));
        assert_eq!(null.free(block), Err(MEMPOOL_ERR_INVALID_ARGUMENT));
    };
    call(shared.pool);
    child::run(LIMIT, || {
        assert_eq!(null.malloc(100), Err(MEMPOOL_ERR_INVALID_ARGUMENT));
        assert_eq!(null.free(shared.memory.base()), Err(MEMPOOL_ERR_INVALID_ARGUMENT));
        call(shared.pool);
    });
    call(shared.pool);
}

#[test]
fn a_forked_child_does_not_use_its_parents_cache() {
    child::run(LIMIT, || {
        let shared = shared(8 << 20);
        let (pool, first) = (shared.pool, shared.pool.stats().top);
        const BLOCKS: usize = 500;
        let size = |k: usize| 16 + k % 40 * 16;
        let all = Memory::shared(2 * BLOCKS * 8);
        // SAFETY: inside the mapping, aligned, atomics of which zero is a value.
        let all: &[AtomicU64] =
            unsafe { std::slice::from_raw_parts(all.base().cast(), 2 * BLOCKS) };
        let take = |into: &[AtomicU64]| {
            for (k, slot) in into.iter().enumerate() {
                // Through the cache: some go back, and out again.
                let block = pool.malloc(size(k)).expect("malloc");
                pool.free(block).expect("free");
                let block = pool.malloc(size(k)).expect("malloc");
                stamp(block, pool.offset(block), size(k));
                slot.store(pool.offset(block), Relaxed);
            }
        };
        let (mine, its) = all.split_at(BLOCKS);
        for round in 0..40 {
            fill_cache(pool);
            let child = child::fork(|| {
                take(its);
                0
            });
            take(mine);
            assert_eq!(child.wait(LIMIT), Some(End::Exit(0)));
            let offsets: BTreeSet<u64> = all.iter().map(|slot| slot.load(Relaxed)).collect();
            assert_eq!(offsets.len(), 2 * BLOCKS, "round {round}: delivered twice");
            pool.must_check();
            for &offset in &offsets {
                let block = pool.pointer(offset);
                assert!(is_stamped(block, offset, pool.usable_size(block)), "round {round}");
                pool.free(block).expect("free");
            }
        }
        shared.must_be_whole(first);
    });
}

/// Takes everything that is to be had, in blocks of this size, and writes to it: none of it may
/// lie in a live block.
fn drain(pool: Handle, size: usize) -> Vec<*mut u8> {
    let live = |block: &&Block| block.state == MEMPOOL_BLOCK_LIVE;
    let before: BTreeMap<u64, u64> =
        pool.walk().iter().filter(live).map(|block| (block.offset, block.size)).collect();
    let mut blocks = Vec::new();
    let mut ends = before.clone();
    while let Ok(block) = pool.malloc(size) {
        let (offset, usable) = (pool.offset(block), pool.usable_size(block) as u64);
        let left = ends.range(..offset + usable).next_back();
        assert!(left.is_none_or(|(start, len)| start + len <= offset), "{offset:#x} is not free");
        ends.insert(offset, usable);
        // SAFETY: our own new block.
        unsafe { block.write_bytes(0xa5, usable as usize) };
        blocks.push(block);
    }
    assert_eq!(handle::last_error(), MEMPOOL_ERR_OUT_OF_MEMORY);
    pool.must_check();
    blocks
}

/// The child's copy of a private pool is its own: what its parent's threads had cached there is
/// nobody's.
#[test]
fn a_forked_childs_copy_of_a_pool_becomes_whole() {
    child::run(LIMIT, || {
        let shared = private(2 << 20);
        let (pool, first) = (shared.pool, shared.pool.stats().top);
        let other = Other::new();
        let mut blocks: Vec<usize> = other.run(move || {
            fill_cache(pool);
            (0..100).map(|k| pool.malloc(16 + k).expect("malloc") as usize).collect()
        });
        fill_cache(pool);
        blocks.extend((0..100).map(|k| pool.malloc(16 + k).expect("malloc") as usize));
        let mut before = pool.stats();
        assert_eq!(before.thread_caches, 2);
        for _ in 0..4 {
            child::run(LIMIT, || {
                let (end, all) = (shared.memory.len() as u64, room(&shared));
                let held = drain(pool, 48);
                held.iter().for_each(|&block| pool.free(block).expect("free"));
                blocks.iter().for_each(|&block| pool.free(block as *mut u8).expect("free"));
                let block = pool.malloc(all).expect("nothing is lost");
                assert_eq!(pool.offset(block) + pool.usable_size(block) as u64, end);
                pool.free(block).expect("free");
                shared.must_be_whole(first);
            });
            let after = pool.stats();
            assert!(are_equal(&after, &before), "the parent's is another pool: {after:?}");
            other.run(move || fill_cache(pool));
            fill_cache(pool);
            pool.must_check();
            assert_eq!(pool.stats().used_count, blocks.len() as u64);
            before = pool.stats();
        }
        blocks.iter().for_each(|&block| pool.free(block as *mut u8).expect("free"));
        other.end();
        shared.must_be_whole(first);
    });
}

/// The other threads are anywhere when the child is made: inside calls too.
#[test]
fn a_child_forked_while_others_work_goes_on_and_so_do_they() {
    for is_shared in [true, false] {
        child::run(LIMIT, || {
            let shared = if is_shared { shared(8 << 20) } else { private(1 << 20) };
            let (pool, first) = (shared.pool, shared.pool.stats().top);
            let log = Log::new(3);
            let workers = [0, 1].map(|at| log.worker(at));
            std::thread::scope(|scope| {
                let threads = workers.map(|worker| scope.spawn(move || worker.work(pool, 7)));
                workers.iter().for_each(|worker| worker.must_go_on());
                for round in 0..60 / LESS as u64 {
                    let child = child::fork(|| {
                        if is_shared {
                            let mine = log.worker(2);
                            let start = Instant::now();
                            mine.stop.store(0, Relaxed);
                            std::thread::scope(|scope| {
                                scope.spawn(|| mine.work(pool, round));
                                while start.elapsed() < Duration::from_millis(2) {
                                    pool.must_check();
                                }
                                mine.stop.store(1, Relaxed);
                            });
                            mine.settle(pool);
                            mine.give_back(pool);
                        } else {
                            pool.must_check();
                            pool.trim().expect("trim");
                            assert_eq!(pool.stats().cached_size, 0, "nobody else is here");
                            pool.must_check();
                            drain(pool, 16 + round as usize % 300);
                        }
                        0
                    });
                    assert_eq!(child.wait(LIMIT), Some(End::Exit(0)), "round {round}");
                    workers.iter().for_each(|worker| worker.must_go_on());
                }
                workers.iter().for_each(|worker| worker.stop.store(1, Relaxed));
                for thread in threads {
                    thread.join().expect("it ended well");
                }
            });
            for worker in workers {
                worker.settle(pool);
                worker.give_back(pool);
            }
            shared.must_be_whole(first);
        });
    }
}

// Pools that end.

/// Other memory, all zero, where the old one was.
fn map_anew(memory: &Memory) {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let sort = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    // SAFETY: replaces the test's own mapping, of which it keeps no references.
    let got = unsafe { libc::mmap(memory.base().cast(), memory.len(), access, sort, -1, 0) };
    assert_ne!(got, libc::MAP_FAILED, "{}", error());
}

/// Nothing may be there.
fn unmap(memory: &Memory) {
    // SAFETY: the test's own mapping, of which it keeps no references.
    let answer = unsafe { libc::mprotect(memory.base().cast(), memory.len(), libc::PROT_NONE) };
    assert_eq!(answer, 0, "{}", error());
}

/// Calls through a handle whose pool is no more say so, and touch nothing.
fn must_be_gone(memory: &Memory, old: Handle, blocks: &[usize]) {
    let bytes = memory.bytes(0, memory.len()).to_vec();
    let gone = Err(MEMPOOL_ERR_NOT_A_POOL);
    for size in [16, 48, 64, 200, 512, 1000, 5000] {
        assert_eq!(old.malloc(size), Err(MEMPOOL_ERR_NOT_A_POOL), "{size} bytes");
    }
    for &block in blocks {
        assert_eq!(old.free(block as *mut u8), gone);
        assert_eq!(old.realloc(block as *mut u8, 3000), Err(MEMPOOL_ERR_NOT_A_POOL));
        assert_eq!(old.usable_size(block as *const u8), 0);
    }
    assert_eq!(old.calloc(3, 16), Err(MEMPOOL_ERR_NOT_A_POOL));
    assert_eq!(old.trim(), gone);
    assert_eq!(old.check(), gone);
    assert_eq!(old.try_stats().map(|_| ()), gone);
    assert!(memory.bytes(0, memory.len()) == bytes.as_slice(), "the new pool was written to");
}

/// What becomes of a pool, and of the buffer it was in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    InitAgain,
    /// Its blocks begin elsewhere, its magazines lie elsewhere.
    InitWithOtherOptions,
    ReleasedThenInit,
    ClearedThenInit,
    ClearedThenOpened,
    MappedAnewThenInit,
}

fn new_pool(memory: &Memory, old: Handle, fate: Fate) -> Handle {
    let len = memory.len();
    match fate {
        Fate::InitAgain | Fate::InitWithOtherOptions => {}
        Fate::ReleasedThenInit => old.release().expect("release"),
        Fate::ClearedThenInit | Fate::ClearedThenOpened => memory.bytes_mut(0, len).fill(0),
        Fate::MappedAnewThenInit => map_anew(memory),
    }
    let options = match fate {
        Fate::InitWithOtherOptions => Options { align: 64, max_threads: 3, ..options() },
        _ => options(),
    };
    if fate == Fate::ClearedThenOpened {
        let (pool, created) = handle::open(memory.base(), len, &options).expect("open");
        assert!(created);
        return pool;
    }
    handle::init(memory.base(), len, &options).expect("init")
}

fn a_pool_ends(fate: Fate) {
    child::run(LIMIT, || {
        let memory = Memory::shared(1 << 20);
        let (this, other) = (Memory::private(1 << 20), Other::new());
        let elsewhere = Shared::with(this, 0);
        let mut old = handle::init(memory.base(), memory.len(), &options()).expect("init");
        for round in 0..6 {
            let fill = move || -> Vec<usize> {
                fill_cache(old);
                (0..50).map(|k| old.malloc(16 + k * 16).expect("malloc") as usize).collect()
            };
            let mut blocks = other.run(fill);
            blocks.extend(fill());
            let new = new_pool(&memory, old, fate);
            let first = new.stats().top;
            let memory = &memory;
            // Before the new pool has a cache, and after; here and there; in between with a call
            // to another pool, so that the old handle is not the one used last.
            must_be_gone(memory, old, &blocks);
            let there = |old: Handle, blocks: Vec<usize>| {
                // SAFETY: the closure ends before `memory` does.
                let memory: &'static Memory = unsafe { &*std::ptr::from_ref(memory) };
                other.run(move || must_be_gone(memory, old, &blocks));
            };
            there(old, blocks.clone());
            fill_cache(new);
            let new_blocks: Vec<*mut u8> = (0..50)
                .map(|k| {
                    let block = new.malloc(16 + k * 16).expect("malloc");
                    stamp(block, new.offset(block), 16 + k * 16);
                    block
                })
                .collect();
            must_be_gone(memory, old, &blocks);
            there(old, blocks.clone());
            fill_cache(elsewhere.pool);
            must_be_gone(memory, old, &blocks);
            other.run(move || fill_cache(new));
            there(old, blocks.clone());
            for &block in &new_blocks {
                assert!(is_stamped(block, new.offset(block), new.usable_size(block)));
                new.free(block).expect("free");
            }
            new.must_check();
            assert_eq!(new.stats().used_count, 0);
            assert_eq!(new.stats().rejected_frees, 0, "that was another pool's");
            // An old handle may go before the new pool, or stay.
            if round % 2 == 0 {
                old.detach().expect("detach");
            }
            new.must_check();
            assert_eq!(new.stats().thread_caches, 2);
            new.detach().expect("detach");
            old = handle::attach(memory.base(), memory.len(), &options()).expect("attach");
            assert_eq!(old.stats().thread_caches, 0);
            old.trim().expect("trim");
            let stats = old.stats();
            assert_eq!((stats.used_count, stats.cached_count, stats.top), (0, 0, first));
        }
        other.end();
    });
}

#[test]
fn through_handles_of_a_pool_that_was_made_anew_nothing_is_reached() {
    a_pool_ends(Fate::InitAgain);
    a_pool_ends(Fate::InitWithOtherOptions);
}

#[test]
fn through_handles_of_a_released_pool_nothing_is_reached() {
    a_pool_ends(Fate::ReleasedThenInit);
}

#[test]
fn through_handles_of_a_cleared_pool_nothing_is_reached() {
    a_pool_ends(Fate::ClearedThenInit);
    a_pool_ends(Fate::ClearedThenOpened);
}

#[test]
fn through_handles_of_an_unmapped_pool_nothing_is_reached() {
    a_pool_ends(Fate::MappedAnewThenInit);
}

/// Threads end, and other pools are used, while the buffer is not there.
#[test]
fn an_unmapped_pool_is_not_touched_by_threads_that_had_caches() {
    child::run(LIMIT, || {
        let elsewhere = private(1 << 20);
        let first = elsewhere.pool.stats().top;
        for round in 0..20 {
            let gone = private(1 << 20);
            let (pool, there) = (gone.pool, elsewhere.pool);
            let others = [Other::new(), Other::new()];
            others.iter().for_each(|other| other.run(move || fill_cache(pool)));
            fill_cache(pool);
            unmap(&gone.memory);
            others[0].run(move || fill_cache(there));
            fill_cache(there);
            others.into_iter().for_each(Other::end);
            fill_cache(there);
            there.trim().expect("trim");
            if round % 2 == 0 {
                // Released memory may become another pool's.
                map_anew(&gone.memory);
                let again = handle::init(gone.memory.base(), 1 << 20, &options()).expect("init");
                fill_cache(again);
                again.must_check();
                assert_eq!(again.stats().used_count, 0);
            }
        }
        elsewhere.must_be_whole(first);
    });
}

/// The C library gives the memory of one handle to the next.
#[test]
fn a_new_handle_at_an_old_ones_address_is_not_taken_for_it() {
    child::run(LIMIT, || {
        let (first, second) = (Memory::private(1 << 20), Memory::private(1 << 20));
        let other = Other::new();
        let mut reused = 0;
        let mut last: Option<Handle> = None;
        for round in 0..200 / LESS {
            let memory = if round % 2 == 0 { &first } else { &second };
            let pool = handle::init(memory.base(), memory.len(), &options()).expect("init");
            reused += usize::from(last == Some(pool));
            let work = move || {
                let block = pool.malloc(48).expect("malloc");
                let offset = pool.offset(block);
                fill_cache(pool);
                (block as usize, offset)
            };
            for (block, offset) in [work(), other.run(work)] {
                assert_ne!(offset, 0, "a block of another pool");
                assert_eq!(block, memory.base() as usize + offset as usize);
                pool.free(block as *mut u8).expect("free");
            }
            pool.must_check();
            assert_eq!(pool.stats().used_count, 0);
            if round % 3 == 0 {
                unmap(memory);
                map_anew(memory);
            }
            pool.detach().expect("detach");
            last = Some(pool);
        }
        eprintln!("{reused} handles lay where the last one did");
        other.end();
    });
}

#[test]
fn a_detach_gives_back_what_all_threads_of_the_process_had() {
    child::run(LIMIT, || {
        let shared = shared(4 << 20);
        let (watch, first) = (shared.pool, shared.pool.stats().top);
        let memory = &shared.memory;
        let others: Vec<Other> = (0..4).map(|_| Other::new()).collect();
        for _ in 0..20 {
            let pool = handle::attach(memory.base(), memory.len(), &options()).expect("attach");
            others.iter().for_each(|other| other.run(move || fill_cache(pool)));
            fill_cache(pool);
            let before = watch.stats();
            assert!(before.cached_size > 0 && before.thread_caches >= 5);
            // One more, that the detach must not take.
            let kept = others[0].run(move || {
                let block = watch.malloc(64).expect("malloc");
                stamp(block, watch.offset(block), 64);
                watch.offset(block)
            });
            pool.detach().expect("detach");
            let stats = watch.stats();
            assert_eq!(stats.thread_caches, 1, "the one of the other handle");
            assert_eq!(stats.recoveries, 0, "nobody died");
            watch.must_check();
            // What they had is anybody's now.
            let most = room(&shared) * 7 / 8 - 64;
            let block = watch.malloc(most).expect("what was cached is not in the way");
            watch.free(block).expect("free");
            let block = watch.pointer(kept);
            assert!(is_stamped(block, kept, watch.usable_size(block)));
            others[0].run(move || watch.free(watch.pointer(kept)).expect("free"));
            let again = handle::attach(memory.base(), memory.len(), &options()).expect("attach");
            others[0].run(move || fill_cache(again));
            again.detach().expect("detach");
        }
        others.into_iter().for_each(Other::end);
        shared.must_be_whole(first);
    });
}

// Fewer caches than threads, more pools than one.

#[test]
fn without_a_cache_threads_work_through_the_lock() {
    child::run(LIMIT, || {
        let shared = with_caches(Memory::shared(16 << 20), 2);
        let (pool, first) = (shared.pool, shared.pool.stats().top);
        let crowd = Crowd::new(5, 16 << 10, false);
        std::thread::scope(|scope| {
            let (crowd, shared) = (&crowd, &shared);
            for part in 0..crowd.processes {
                scope.spawn(move || crowd.work(part, shared, part as u64));
            }
            let start = Instant::now();
            let mut most = 0;
            while start.elapsed() < Duration::from_millis(800) {
                let stats = pool.stats();
                assert_eq!(stats.max_threads, 2);
                most = most.max(stats.thread_caches);
                pool.must_check();
            }
            assert_eq!(most, 2, "as many as there are are used");
            crowd.must_go_on(0..crowd.processes);
            crowd.let_stop(true);
        });
        // A scope waits for what its threads do, but not for their ends.
        while std::fs::read_dir("/proc/self/task").expect("/proc").count() > 1 {
            std::thread::yield_now();
        }
        assert_eq!(crowd.judge(pool, &Losses::default()), 0);
        crowd.give_back(pool);
        shared.must_be_whole(first);
    });
}

#[test]
fn two_hundred_pools_in_one_thread_are_not_confused() {
    child::run(LIMIT, || {
        const POOLS: usize = 200;
        let mut random = Random(6);
        let memories: Vec<Memory> = (0..POOLS).map(|_| Memory::shared(SMALLEST)).collect();
        let mut pools: Vec<Handle> = memories
            .iter()
            .map(|memory| handle::init(memory.base(), memory.len(), &options()).expect("init"))
            .collect();
        assert!(pools.iter().all(|pool| pool.stats().max_threads > 0), "they have caches");
        let firsts: Vec<u64> = pools.iter().map(|pool| pool.stats().top).collect();
        let mut held: Vec<Vec<u64>> = vec![Vec::new(); POOLS];
        let turn = |at: usize, pool: Handle, held: &mut Vec<u64>, random: &mut Random| {
            if held.len() < 100 && random.below(2) == 0 {
                let size = 16 + random.below(300);
                let block = pool.malloc(size).expect("malloc");
                let offset = pool.offset(block);
                assert_ne!(offset, 0, "a block of another pool");
                stamp(block, offset + at as u64 * 1_000_003, size);
                held.push(offset);
            } else if !held.is_empty() {
                let offset = held.swap_remove(random.below(held.len()));
                let block = pool.pointer(offset);
                let usable = pool.usable_size(block);
                assert!(is_stamped(block, offset + at as u64 * 1_000_003, usable));
                pool.free(block).expect("free");
            }
        };
        for call in 0..150_000 / LESS {
            let at = random.below(POOLS);
            // Now and then some calls to one pool in a row.
            for _ in 0..1 + random.below(3) {
                turn(at, pools[at], &mut held[at], &mut random);
            }
            if call % 500 == 0 {
                pools[at].must_check();
                assert_eq!(pools[at].stats().used_count, held[at].len() as u64);
            }
            if call % 700 == 0 {
                let memory = &memories[at];
                pools[at].detach().expect("detach");
                pools[at] =
                    handle::attach(memory.base(), memory.len(), &options()).expect("attach");
                assert_eq!(pools[at].stats().thread_caches, 0);
            }
        }
        let mut order: Vec<usize> = (0..POOLS).collect();
        random.shuffle(&mut order);
        for &at in &order {
            pools[at].must_check();
            pools[at].detach().expect("detach");
        }
        random.shuffle(&mut order);
        for &at in &order {
            let memory = &memories[at];
            let pool = handle::attach(memory.base(), memory.len(), &options()).expect("attach");
            while !held[at].is_empty() {
                turn(at, pool, &mut held[at], &mut random);
            }
            pool.trim().expect("trim");
            let stats = pool.stats();
            let found = (stats.used_count, stats.cached_count, stats.free_count, stats.top);
            assert_eq!(found, (0, 0, 0, firsts[at]));
            pool.detach().expect("detach");
        }
    });
}

/// The same thread has a cache through each handle; blocks go from one to the other.
#[test]
fn two_handles_at_two_addresses_are_two_caches_of_one_pool() {
    let shared = shared(2 << 20);
    let (one, first) = (shared.pool, shared.pool.stats().top);
    let view = shared.memory.view();
    let two = handle::attach(view.base(), view.len(), &options()).expect("attach");
    let mut random = Random(10);
    let mut held = Vec::new();
    for call in 0..60_000 / LESS {
        let pool = [one, two][random.below(2)];
        if held.len() < 400 && random.below(2) == 0 {
            let size = random.log_uniform(16, 1000);
            let block = pool.malloc(size).expect("malloc");
            stamp(block, pool.offset(block), size);
            held.push(pool.offset(block));
        } else if !held.is_empty() {
            let offset = held.swap_remove(random.below(held.len()));
            let block = pool.pointer(offset);
            assert!(is_stamped(block, offset, pool.usable_size(block)));
            pool.free(block).expect("free");
            assert_eq!(one.free(one.pointer(offset)), Err(MEMPOOL_ERR_NOT_ALLOCATED));
            assert_eq!(two.free(one.pointer(offset)), Err(MEMPOOL_ERR_FOREIGN_POINTER));
        }
        if call % 1000 == 0 {
            pool.must_check();
            assert_eq!(pool.stats().used_count, held.len() as u64);
        }
    }
    assert_eq!(one.stats().thread_caches, 2);
    for offset in held {
        one.free(one.pointer(offset)).expect("free");
    }
    two.detach().expect("detach");
    assert_eq!(one.stats().thread_caches, 1);
    shared.must_be_whole(first);
}

#[test]
fn after_free_all_no_cache_has_a_block() {
    let shared = private(2 << 20);
    let (pool, first) = (shared.pool, shared.pool.stats().top);
    let others: Vec<Other> = (0..3).map(|_| Other::new()).collect();
    for round in 0..20 {
        let work = move || -> Vec<u64> {
            fill_cache(pool);
            (0..300).map(|k| pool.offset(pool.malloc(16 + k % 50 * 16).expect("malloc"))).collect()
        };
        let mut offsets = work();
        others.iter().for_each(|other| offsets.extend(other.run(work)));
        let count = offsets.len() as u64;
        assert_eq!(offsets.iter().collect::<BTreeSet<_>>().len() as u64, count, "delivered twice");
        assert_eq!(pool.stats().used_count, count);
        pool.must_check();
        pool.free_all().expect("free_all");
        let stats = pool.stats();
        let found = (stats.used_count, stats.cached_count, stats.free_count, stats.top);
        assert_eq!(found, (0, 0, 0, first), "round {round}");
        for &offset in &offsets {
            assert_eq!(pool.free(pool.pointer(offset)), Err(MEMPOOL_ERR_NOT_ALLOCATED));
        }
        pool.must_check();
    }
    others.into_iter().for_each(Other::end);
    shared.must_be_whole(first);
}

// How much is cached.

#[test]
fn at_most_an_eighth_is_cached_while_threads_churn() {
    for len in [SMALLEST, 1 << 20, 16 << 20] {
        let shared = private(len);
        let (pool, first) = (shared.pool, shared.pool.stats().top);
        assert!(pool.stats().max_threads > 0, "{len} bytes: it has caches");
        let stop = AtomicBool::new(false);
        let mut most = 0;
        std::thread::scope(|scope| {
            let stop = &stop;
            let threads: Vec<_> = (0..4)
                .map(|seed| {
                    scope.spawn(move || {
                        let mut random = Random(seed);
                        while !stop.load(Relaxed) {
                            // Bursts of a size, up and down.
                            let size = random.log_uniform(16, 65_536);
                            let count = (len / 16 / size).clamp(1, 300);
                            let blocks: Vec<_> =
                                (0..count).filter_map(|_| pool.malloc(size).ok()).collect();
                            blocks.into_iter().for_each(|block| pool.free(block).expect("free"));
                        }
                    })
                })
                .collect();
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(500) {
                most = most.max(pool.stats().cached_size);
            }
            stop.store(true, Relaxed);
            threads.into_iter().for_each(|thread| thread.join().expect("it ended well"));
        });
        assert!(most > 0 && most * 8 <= pool.stats().total, "{most} of {len}");
        shared.must_be_whole(first);
    }
}

#[test]
fn at_most_an_eighth_is_cached_when_one_thread_frees_all() {
    for size in [16, 64, 200] {
        let shared = private(32 << 20);
        let (pool, first) = (shared.pool, shared.pool.stats().top);
        let mut blocks: Vec<*mut u8> =
            (0..100_000).map(|_| pool.malloc(size).expect("malloc")).collect();
        Random(9).shuffle(&mut blocks);
        for (k, block) in blocks.into_iter().enumerate() {
            pool.free(block).expect("free");
            if k % 64 == 0 {
                let stats = pool.stats();
                assert!(stats.cached_size * 8 <= stats.total, "{} bytes", stats.cached_size);
                assert_eq!(stats.used_count, 99_999 - k as u64);
            }
        }
        assert!(pool.stats().cached_size > 0);
        shared.must_be_whole(first);
    }
}

// One thread, and every figure exact.

/// What a thread knows of its blocks.
struct World {
    pool: Handle,
    align: u64,
    end: u64,
    /// By offset: bytes asked for, bytes to be used.
    live: BTreeMap<u64, (usize, usize)>,
    /// Bytes to be used.
    used: u64,
    failed: u64,
}

impl World {
    /// A block was delivered.
    fn add(&mut self, block: *mut u8, size: usize) {
        let (offset, usable) = (self.pool.offset(block), self.pool.usable_size(block));
        assert!(usable >= size, "{usable} bytes for {size}");
        assert_eq!(block as u64 % self.align.min(4096), 0);
        assert!(offset + usable as u64 <= self.end);
        let left = self.live.range(..offset + usable as u64).next_back();
        let overlaps = left.is_some_and(|(at, (_, len))| at + *len as u64 > offset);
        assert!(!overlaps, "{offset:#x} lies in another block");
        stamp(block, offset, size);
        self.live.insert(offset, (size, usable));
        self.used += usable as u64;
    }

    /// A block goes, whose bytes are as they were. Its pointer and size.
    fn remove(&mut self, offset: u64) -> (*mut u8, usize) {
        let (size, usable) = self.live.remove(&offset).expect("it lives");
        let block = self.pool.pointer(offset);
        assert_eq!(self.pool.usable_size(block), usable);
        assert!(is_stamped(block, offset, usable), "{offset:#x} was written to");
        self.used -= usable as u64;
        (block, size)
    }

    fn any(&self, random: &mut Random) -> Option<u64> {
        let from = random.next() % self.end;
        let after = self.live.range(from..).next().or_else(|| self.live.iter().next());
        after.map(|(&offset, _)| offset)
    }

    /// A call found no room: nothing is cached any more, and no free run is long enough.
    fn must_be_full(&mut self, size: usize) {
        assert_eq!(handle::last_error(), MEMPOOL_ERR_OUT_OF_MEMORY);
        self.failed += 1;
        let stats = self.pool.stats();
        assert_eq!(stats.cached_size, 0, "the only thread's cache was given back");
        let largest =
            self.pool.walk().into_iter().filter(|block| block.state == MEMPOOL_BLOCK_FREE);
        let largest = largest.map(|block| block.size).max().unwrap_or(0);
        let largest = largest.max(self.end - stats.top);
        assert!(largest < size as u64, "{size} bytes refused, {largest} are free");
        assert_eq!(stats.largest_free.max(largest), largest);
    }

    fn agree(&self) -> bool {
        let stats = self.pool.stats();
        let parts = [stats.overhead, stats.used_size, stats.free_size, stats.cached_size];
        assert_eq!(stats.total, parts.iter().sum::<u64>() + self.end - stats.top);
        assert_eq!(stats.available, stats.free_size + stats.cached_size + self.end - stats.top);
        assert_eq!((stats.used_count, stats.used_size), (self.live.len() as u64, self.used));
        assert_eq!(stats.failed_allocs, self.failed);
        assert_eq!((stats.rejected_frees, stats.recoveries), (0, 0));
        assert!(stats.cached_size * 8 <= stats.total);
        stats.cached_size > 0
    }

    /// The walk tells of the same blocks.
    fn agree_in_all(&self) {
        self.pool.must_check();
        let blocks = self.pool.walk();
        let of = |state: u32| {
            let of_state = blocks.iter().filter(move |block| block.state == state);
            of_state.fold((0, 0), |(count, size), block| (count + 1, size + block.size))
        };
        let stats = self.pool.stats();
        assert_eq!(of(MEMPOOL_BLOCK_CACHED), (stats.cached_count, stats.cached_size));
        assert_eq!(of(MEMPOOL_BLOCK_FREE), (stats.free_count, stats.free_size));
        let live = blocks.iter().filter(|block| block.state == MEMPOOL_BLOCK_LIVE);
        assert!(live
            .map(|block| (block.offset, block.size))
            .eq(self.live.iter().map(|(&offset, &(_, usable))| (offset, usable as u64))));
    }
}

fn random_calls(memory: &Memory, options: &Options, calls: usize, seed: u64) {
    let pool = handle::init(memory.base(), memory.len(), options).expect("init");
    let stats = pool.stats();
    assert!(stats.max_threads > 0, "it has caches");
    let (first, start) = (stats.top, options.start as u64);
    let end = start + stats.total;
    let mut world =
        World { pool, align: stats.align, end, live: BTreeMap::new(), used: 0, failed: 0 };
    let mut random = Random(seed);
    let mut was_cached = 0;
    // More blocks for a while, then fewer.
    let (mut grows, mut largest) = (true, 2000);
    for call in 0..calls {
        if call % 1500 == 0 {
            grows = random.below(3) > 0;
            largest = [400, 2000, 20_000, 100_000][random.below(4)];
        }
        let size = random.log_uniform(16, largest);
        let picked = world.any(&mut random);
        let what = random.below(100);
        match (what, picked) {
            (0..45, _) if grows || what < 20 => {
                let good = pool.good_size(size);
                match pool.malloc(size) {
                    Ok(block) => {
                        // Where memory is short it is cut exactly.
                        let slack = stats.align as usize;
                        assert!(good >= size && pool.usable_size(block) <= good + slack);
                        world.add(block, size);
                    }
                    Err(_) => world.must_be_full(size),
                }
            }
            (45..50, _) => match pool.calloc(size / 16, 16) {
                Ok(block) => {
                    // SAFETY: our own new block.
                    let bytes = unsafe { std::slice::from_raw_parts(block, size / 16 * 16) };
                    assert!(bytes.iter().all(|&byte| byte == 0), "calloc of {size}");
                    world.add(block, size / 16 * 16);
                }
                Err(_) => world.must_be_full(size / 16 * 16),
            },
            (50..54, _) => {
                let alignment = 1usize << random.below(13);
                match pool.aligned_alloc(alignment, size) {
                    Ok(block) => {
                        assert_eq!(block as usize % alignment, 0);
                        world.add(block, size);
                    }
                    Err(_) => world.must_be_full(size + alignment),
                }
            }
            (54..66, Some(offset)) => {
                let (block, old) = world.remove(offset);
                match pool.realloc(block, size) {
                    Ok(moved) => {
                        assert!(keeps_stamp(moved, offset, size.min(old)), "realloc {old}->{size}");
                        world.add(moved, size);
                    }
                    Err(status) => {
                        assert_eq!(status, MEMPOOL_ERR_OUT_OF_MEMORY);
                        world.failed += 1;
                        // SAFETY: the block is as it was.
                        assert!(is_stamped(block, offset, pool.usable_size(block)));
                        world.live.insert(offset, (old, pool.usable_size(block)));
                        world.used += pool.usable_size(block) as u64;
                    }
                }
            }
            (66..70, Some(offset)) => {
                let (block, old) = world.remove(offset);
                let more = pool.usable_size(block) + random.below(1000);
                let kept = if pool.expand(block, more).is_ok() { more } else { old };
                assert!(keeps_stamp(block, offset, old));
                world.add(block, kept);
            }
            (70..85, Some(offset)) => {
                let (block, size) = world.remove(offset);
                let usable = pool.usable_size(block);
                let freed = pool.free_sized(block, size);
                assert_eq!(freed, Ok(()), "{usable} bytes, asked for as {size}");
            }
            (_, Some(offset)) => {
                let (block, _) = world.remove(offset);
                pool.free(block).expect("free");
            }
            (_, None) => {}
        }
        was_cached += usize::from(world.agree());
        if call % 499 == 0 {
            world.agree_in_all();
        }
        if call % 1777 == 1776 {
            pool.trim().expect("trim");
            world.agree();
            assert_eq!(pool.stats().cached_size, 0);
        }
        if call % 7919 == 7918 {
            pool.free_all().expect("free_all");
            (world.used, _) = (0, world.live.clear());
            world.agree();
            let stats = pool.stats();
            assert_eq!((stats.cached_size, stats.free_count, stats.top), (0, 0, first));
        }
    }
    assert!(was_cached > calls / 4, "caches are used");
    while let Some(offset) = world.any(&mut random) {
        let (block, _) = world.remove(offset);
        pool.free(block).expect("free");
    }
    pool.trim().expect("trim");
    world.agree_in_all();
    let stats = pool.stats();
    assert_eq!((stats.free_count, stats.cached_count, stats.top), (0, 0, first));
    pool.detach().expect("detach");
}

#[test]
fn in_the_quiet_every_figure_is_exact() {
    for (seed, len) in [SMALLEST, 400_000, 1 << 20, 4 << 20].into_iter().enumerate() {
        let memory = Memory::private(len);
        memory.bytes_mut(0, len).fill(0x5b);
        random_calls(&memory, &options(), 12_000, seed as u64);
    }
}

#[test]
fn in_the_quiet_every_figure_is_exact_with_any_granule() {
    for align in [8, 32, 64, 256] {
        let memory = Memory::private(2 << 20);
        memory.bytes_mut(0, 2 << 20).fill(0xee);
        let options = Options { align, start: 40, end: (2 << 20) - 24, ..options() };
        random_calls(&memory, &options, 8000, align as u64);
    }
}

// Frees that must be refused.

#[test]
fn what_is_no_live_block_is_refused_and_changes_nothing() {
    let shared = shared(1 << 20);
    let (pool, first) = (shared.pool, shared.pool.stats().top);
    let elsewhere = private(1 << 20);
    fill_cache(elsewhere.pool);
    let foreign = elsewhere.pool.malloc(64).expect("malloc");
    let mut outside = [0u8; 64];
    let mut rejected = 0;
    let mut refused = |block: *mut u8, status: handle::Status, what: &str| {
        let before = pool.stats();
        assert_eq!(pool.free(block), Err(status), "{what}");
        assert_eq!(pool.free_sized(block, 64), Err(status), "{what}");
        rejected += 2;
        let after = pool.stats();
        assert_eq!(after.rejected_frees, rejected);
        let same = handle::Stats { rejected_frees: before.rejected_frees, ..after };
        assert!(are_equal(&same, &before), "{what}: {before:?} {after:?}");
        pool.must_check();
    };
    for size in [16, 64, 200, 512, 1000, 5000, 100_000] {
        // The cache has blocks and room.
        let blocks: Vec<*mut u8> = (0..3).map(|_| pool.malloc(size).expect("malloc")).collect();
        pool.free(blocks[1]).expect("free");
        refused(blocks[1], MEMPOOL_ERR_NOT_ALLOCATED, "freed right before");
        for inside in [1, 8, 15] {
            let pointer = blocks[0].wrapping_add(inside);
            refused(pointer, MEMPOOL_ERR_NOT_ALLOCATED, "misaligned");
        }
        for inside in (16..size).step_by(16.max(size / 64 * 16)) {
            let pointer = blocks[0].wrapping_add(inside);
            refused(pointer, MEMPOOL_ERR_NOT_ALLOCATED, "inside a block");
        }
        refused(foreign, MEMPOOL_ERR_FOREIGN_POINTER, "of another pool");
        refused(outside.as_mut_ptr(), MEMPOOL_ERR_FOREIGN_POINTER, "of no pool");
        let own = shared.memory.base().wrapping_add(first as usize - 16);
        refused(own, MEMPOOL_ERR_FOREIGN_POINTER, "the pool's own bytes");
        let end = shared.memory.base().wrapping_add(shared.memory.len());
        refused(end, MEMPOOL_ERR_FOREIGN_POINTER, "behind the end");
        refused(end.wrapping_sub(16), MEMPOOL_ERR_NOT_ALLOCATED, "above top");
        // To the depot, by way of more blocks than two magazines take; then to the heap.
        let many: Vec<*mut u8> =
            (0..300_000 / size.max(500)).filter_map(|_| pool.malloc(size).ok()).collect();
        many.iter().for_each(|&block| pool.free(block).expect("free"));
        for &block in many.iter().step_by(7) {
            refused(block, MEMPOOL_ERR_NOT_ALLOCATED, "freed, and in the depot");
        }
        pool.trim().expect("trim");
        for &block in many.iter().step_by(7) {
            refused(block, MEMPOOL_ERR_NOT_ALLOCATED, "freed, and in the heap");
        }
        pool.free(blocks[0]).expect("free");
        pool.free(blocks[2]).expect("free");
    }
    assert_eq!(elsewhere.pool.stats().rejected_frees, 0);
    elsewhere.pool.free(foreign).expect("of another pool, and not harmed");
    shared.must_be_whole(first);
}

/// What one thread has in its cache, another cannot free.
#[test]
fn what_another_thread_has_cached_is_refused() {
    let shared = private(1 << 20);
    let (pool, first) = (shared.pool, shared.pool.stats().top);
    let other = Other::new();
    fill_cache(pool);
    for size in [16, 64, 200, 1000] {
        // The cache has room for more of its size.
        let keep = pool.malloc(size).expect("malloc");
        let blocks = other.run(move || {
            let blocks: Vec<usize> =
                (0..20).map(|_| pool.malloc(size).expect("malloc") as usize).collect();
            blocks.iter().for_each(|&block| pool.free(block as *mut u8).expect("free"));
            blocks
        });
        for block in blocks {
            assert_eq!(pool.free(block as *mut u8), Err(MEMPOOL_ERR_NOT_ALLOCATED));
        }
        pool.free(keep).expect("free");
    }
    assert_eq!(pool.stats().rejected_frees, 80);
    other.end();
    shared.must_be_whole(first);
}

/// The sizes that are cached each by itself, in a pool whose granule is 16.
fn class_sizes() -> impl Iterator<Item = usize> {
    let small = (1..=32).map(|granules| granules * 16);
    let large = (0..56).map(|step| (512 << (step / 8)) / 8 * (8 + step % 8 + 1));
    small.chain(large)
}

/// Every byte tells of a live block of some size, if it is taken for the map's. What lies above
/// top is none.
#[test]
fn above_top_nothing_is_freed_whatever_lay_there() {
    for byte in 0..=255 {
        let memory = Memory::private(4 << 20);
        memory.bytes_mut(0, 4 << 20).fill(byte);
        let shared = Shared::with(memory, 0);
        let pool = shared.pool;
        // The cache has room for one more block of most sizes.
        let held: Vec<*mut u8> =
            class_sizes().map(|size| pool.malloc(size).expect("malloc")).collect();
        let stats = pool.stats();
        let end = shared.memory.len() as u64;
        for at in (stats.top..end - 16).step_by(16 * 1021) {
            let answer = pool.free(pool.pointer(at));
            assert_eq!(answer, Err(MEMPOOL_ERR_NOT_ALLOCATED), "byte {byte:#x} at {at}");
        }
        pool.must_check();
        // To make room it may have given some back.
        let after = pool.stats();
        assert!(after.cached_size <= stats.cached_size);
        assert_eq!((after.used_count, after.used_size), (stats.used_count, stats.used_size));
        held.iter().for_each(|&block| pool.free(block).expect("free"));
    }
}

/// What one thread says to another, without ever sleeping; 0 is nothing.
#[derive(Default)]
struct Word(AtomicU64);

impl Word {
    fn say(&self, what: u64) {
        self.0.store(what, SeqCst);
    }

    fn hear(&self) -> u64 {
        let mut looks = 0;
        loop {
            let what = self.0.swap(0, SeqCst);
            if what != 0 {
                return what;
            }
            looks += 1;
            if looks % 1000 == 0 {
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }
}

/// What happens after two threads have freed one block at the same instant.
#[derive(Clone, Copy, Debug)]
enum Afterwards {
    /// One of them gets it again, then the other ends.
    Ends,
    /// As above, but the block went through the heap, and has another size.
    EndsLater,
    /// One of them gives back what it has, then the other.
    GivesBack,
}

const SIZE: usize = 64;
const FREED: u64 = 1;
const REFUSED: u64 = 2;

/// Two threads free a block at the same instant, again and again, until both frees are accepted,
/// as they may be within a few instructions. Then the second copy must never be delivered while
/// the first one is in use. False if it did not come to that.
fn freed_twice_at_once(pool: Handle, how: Afterwards, random: &mut Random, until: Instant) -> bool {
    let start = Instant::now();
    let wait_until = move |nanos: u64| while (start.elapsed().as_nanos() as u64) < nanos {};
    let [block, moment, answer]: [Arc<Word>; 3] = Default::default();
    let his = [block.clone(), moment.clone(), answer.clone()];
    let other = std::thread::spawn(move || {
        let [block, moment, answer] = his;
        let own = pool.malloc(SIZE).expect("malloc");
        pool.free(own).expect("free");
        loop {
            let offset = block.hear();
            if offset == u64::MAX {
                break;
            }
            wait_until(moment.hear());
            let freed = pool.free(pool.pointer(offset)).is_ok();
            answer.say(if freed { FREED } else { REFUSED });
        }
        if let Afterwards::GivesBack = how {
            pool.trim().expect("trim");
        }
    });
    let (mut twice, mut late) = (None, 0);
    while twice.is_none() && Instant::now() < until {
        let shared = pool.malloc(SIZE).expect("malloc");
        let offset = pool.offset(shared);
        block.say(offset);
        let soon = start.elapsed().as_nanos() as u64 + 1000;
        moment.say(soon);
        // As soon as the other: later, if the last time was too early.
        wait_until(soon.saturating_add_signed(late + random.below(64) as i64 - 32));
        let mine = pool.free(shared).is_ok();
        let his = answer.hear() == FREED;
        assert!(mine || his, "a live block was refused by both");
        twice = (mine && his).then_some(offset);
        late += if mine { 8 } else { -8 };
    }
    let mut held = BTreeMap::new();
    let mut take = |size: usize| {
        let block = pool.malloc(size).expect("malloc");
        stamp(block, pool.offset(block), size);
        let other = held.insert(pool.offset(block), size);
        assert_eq!(other, None, "{how:?}: delivered twice; freed twice: {twice:x?}");
    };
    match how {
        Afterwards::Ends => take(SIZE),
        Afterwards::EndsLater => {
            pool.trim().expect("trim");
            take(4 * SIZE);
        }
        Afterwards::GivesBack => pool.trim().expect("trim"),
    }
    block.say(u64::MAX);
    other.join().expect("it ended well");
    pool.trim().expect("trim");
    // Everything that can be had near it.
    for _ in 0..300 {
        take(SIZE);
        take(4 * SIZE);
    }
    let mut last_end = 0;
    for (&offset, &size) in &held {
        assert!(offset >= last_end, "{how:?}: two blocks overlap");
        last_end = offset + size as u64;
        let block = pool.pointer(offset);
        assert!(is_stamped(block, offset, pool.usable_size(block)));
        pool.free(block).expect("free");
    }
    pool.trim().expect("trim");
    twice.is_some()
}

#[test]
fn freed_twice_at_the_same_instant_a_block_is_delivered_once() {
    child::run(LIMIT, || {
        let mut random = Random(8);
        for how in [Afterwards::Ends, Afterwards::EndsLater, Afterwards::GivesBack] {
            let until = Instant::now() + chance() / 6;
            let mut accepted = 0;
            while Instant::now() < until {
                let shared = private(1 << 20);
                let pool = shared.pool;
                accepted += usize::from(freed_twice_at_once(pool, how, &mut random, until));
                match pool.check() {
                    Ok(()) => assert_eq!(pool.stats().used_count, 0),
                    Err(status) => assert_eq!(status, MEMPOOL_ERR_CORRUPTED),
                }
                pool.detach().expect("detach");
            }
            eprintln!("{how:?}: {accepted} times both frees were accepted");
        }
    });
}

// Memory that ends.

/// Everything can be had in one piece, whoever has cached parts of it and is gone.
#[test]
fn under_pressure_all_that_nobody_needs_is_given_back() {
    child::run(LIMIT, || {
        let shared = shared(2 << 20);
        let (pool, all) = (shared.pool, room(&shared));
        let first = pool.stats().top;
        let take_all = |who: &str| {
            assert!(pool.stats().cached_size > 0, "{who}");
            let block = pool.malloc(all).unwrap_or_else(|_| {
                panic!("{who} {:?}: {}", pool.stats(), handle::last_message());
            });
            assert_eq!(pool.stats().cached_size, 0);
            pool.free(block).expect("free");
            pool.must_check();
        };
        for _ in 0..10 {
            fill_cache(pool);
            take_all("this thread");
            std::thread::spawn(move || fill_cache(pool)).join().expect("it ended well");
            take_all("a thread that ended");
            let child = child::fork(|| {
                fill_cache(pool);
                0
            });
            assert_eq!(child.wait(LIMIT), Some(End::Exit(0)));
            take_all("a process that ended");
            let ready = Memory::shared(4096);
            // SAFETY: inside the mapping, aligned, an atomic of which zero is a value.
            let ready = unsafe { &*ready.base().cast::<AtomicU64>() };
            let child = child::fork(|| {
                std::thread::scope(|scope| {
                    let threads = [0, 1].map(|_| {
                        scope.spawn(|| {
                            fill_cache(pool);
                            ready.fetch_add(1, SeqCst);
                            std::thread::sleep(LIMIT);
                        })
                    });
                    for thread in threads {
                        thread.join().expect("it ended well");
                    }
                });
                0
            });
            while ready.load(SeqCst) < 2 {
                std::thread::yield_now();
            }
            assert_eq!(child.kill(), End::Signal(libc::SIGKILL));
            take_all("a process that was killed");
        }
        shared.must_be_whole(first);
    });
}

/// What the living have cached is theirs, and at most an eighth; all else is to be had.
#[test]
fn a_failing_malloc_has_looked_everywhere_but_at_the_living() {
    let shared = private(2 << 20);
    let (pool, first) = (shared.pool, shared.pool.stats().top);
    let others: Vec<Other> = (0..3).map(|_| Other::new()).collect();
    for round in 0..20 {
        others.iter().for_each(|other| other.run(move || fill_cache(pool)));
        fill_cache(pool);
        let end = shared.memory.len() as u64;
        let mut size = room(&shared);
        let block = loop {
            match pool.malloc(size) {
                Ok(block) => break block,
                Err(status) => {
                    assert_eq!(status, MEMPOOL_ERR_OUT_OF_MEMORY);
                    let stats = pool.stats();
                    let free = pool.walk().into_iter().filter(|b| b.state == MEMPOOL_BLOCK_FREE);
                    let largest = free.map(|block| block.size).max().unwrap_or(0);
                    let largest = largest.max(end - stats.top);
                    assert!(largest < size as u64, "{size} refused, {largest} are free");
                    assert!(stats.cached_size * 8 <= stats.total);
                    size = largest as usize;
                }
            }
        };
        // The depot and this thread have nothing left; what is cached is theirs.
        let left = pool.stats().cached_size;
        assert!(left > 0, "round {round}: the living were robbed");
        others.iter().for_each(|other| other.run(move || pool.trim().expect("trim")));
        assert_eq!(pool.stats().cached_size, 0);
        pool.free(block).expect("free");
    }
    others.into_iter().for_each(Other::end);
    shared.must_be_whole(first);
}

// Blocks that are freed by others.

/// What Larson's benchmark does: threads replace blocks at random in rows that go from thread to
/// thread, and threads end and are followed by others.
#[test]
fn blocks_freed_by_other_threads_are_used_again() {
    let shared = private(8 << 20);
    let (pool, first) = (shared.pool, shared.pool.stats().top);
    let mut rows: Vec<Vec<u64>> = vec![vec![0; 500]; 4];
    for generation in 0..40 / LESS as u64 {
        let threads: Vec<JoinHandle<Vec<u64>>> = rows
            .drain(..)
            .enumerate()
            .map(|(at, mut row)| {
                std::thread::spawn(move || {
                    let mut random = Random(generation * 4 + at as u64);
                    for _ in 0..5000 {
                        let slot = random.below(row.len());
                        if row[slot] != 0 {
                            let block = pool.pointer(row[slot]);
                            let usable = pool.usable_size(block);
                            assert!(is_stamped(block, row[slot], usable));
                            pool.free(block).expect("free");
                        }
                        let size = 16 + random.below(500);
                        let block = pool.malloc(size).expect("malloc");
                        stamp(block, pool.offset(block), size);
                        row[slot] = pool.offset(block);
                    }
                    row
                })
            })
            .collect();
        rows.extend(threads.into_iter().map(|thread| thread.join().expect("it ended well")));
        rows.rotate_left(1);
        let held: BTreeSet<u64> = rows.iter().flatten().copied().filter(|&at| at != 0).collect();
        let count = rows.iter().flatten().filter(|&&at| at != 0).count();
        assert_eq!(held.len(), count, "delivered twice");
        assert_eq!(pool.stats().used_count, count as u64);
    }
    pool.must_check();
    for offset in rows.into_iter().flatten().filter(|&at| at != 0) {
        pool.free(pool.pointer(offset)).expect("free");
    }
    shared.must_be_whole(first);
}

/// Far more goes through the pool than is in it: what the consumer frees comes back to the
/// producer.
#[test]
fn from_producer_to_consumer_and_back_memory_goes_round() {
    for size in [48, 700, 9000] {
        let shared = private(1 << 20);
        let (pool, first) = (shared.pool, shared.pool.stats().top);
        let (send, receive) = sync_channel::<u64>(64);
        let consumer = std::thread::spawn(move || {
            for offset in receive {
                let block = pool.pointer(offset);
                assert!(is_stamped(block, offset, pool.usable_size(block)));
                pool.free(block).expect("free");
            }
        });
        // At most 66 blocks are under way, and an eighth of the pool is cached by the living.
        for _ in 0..40_000 {
            let block = pool.malloc(size).expect("never more than 600 KiB are in use");
            stamp(block, pool.offset(block), size);
            send.send(pool.offset(block)).expect("it lives");
        }
        drop(send);
        consumer.join().expect("it ended well");
        assert_eq!(pool.stats().failed_allocs, 0);
        shared.must_be_whole(first);
    }
}

/// What a Rust program does that attaches, works and forgets the handle, over and over.
#[test]
fn handles_that_are_dropped_keep_no_caches() {
    let memory = Memory::shared(1 << 20);
    let options = ::mempool::Options::default();
    // SAFETY: the memory outlives all handles.
    let first =
        unsafe { ::mempool::Pool::init(memory.base(), memory.len(), &options) }.expect("init");
    for _ in 0..600 {
        // SAFETY: as above.
        let pool =
            unsafe { ::mempool::Pool::attach(memory.base(), memory.len(), 0) }.expect("attach");
        let block = pool.malloc(100).expect("malloc");
        // SAFETY: nobody uses it.
        unsafe { pool.free(block.as_ptr()) }.expect("free");
    }
    let stats = first.stats().expect("stats");
    assert!(stats.thread_caches <= 2, "{} caches of one thread", stats.thread_caches);
    first.trim().expect("trim");
    let stats = first.stats().expect("stats");
    assert_eq!((stats.used_count, stats.cached_count, stats.free_count), (0, 0, 0));
    first.check().expect("check");
}
