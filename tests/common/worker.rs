//! Workers that may be ended anywhere, and what they say of themselves in memory that outlives
//! them.

use super::child::{self, Child};
use super::memory::{error, Memory};
use super::random::Random;
use super::{handle, options, Handle, Options};
use ::mempool::abi::MEMPOOL_BLOCK_LIVE;
use ::mempool::layout::LOCK_OFFSET;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};
use std::time::{Duration, Instant};

/// A pool in memory that children share.
pub struct Shared {
    pub memory: Memory,
    pub pool: Handle,
}

impl Shared {
    /// A new pool with these flags in all of the memory.
    pub fn with(memory: Memory, flags: u32) -> Shared {
        let options = Options { flags, ..options() };
        let pool = handle::init(memory.base(), memory.len(), &options).expect("init");
        Shared { memory, pool }
    }

    /// The lock's futex word.
    pub fn word(&self) -> &AtomicU32 {
        // SAFETY: inside the header, which lies at the mapping's first byte, a multiple of 8.
        unsafe { &*self.memory.base().add(LOCK_OFFSET).cast::<AtomicU32>() }
    }

    /// Everything was given back, and whoever had a cache has ended but the caller: the pool is
    /// whole again.
    #[track_caller]
    pub fn must_be_whole(&self, first: u64) {
        self.pool.must_check();
        if self.pool.stats().max_threads > 0 {
            self.pool.recover().expect("recover");
            self.pool.trim().expect("trim");
            self.pool.must_check();
        }
        let stats = self.pool.stats();
        assert_eq!((stats.used_count, stats.cached_count, stats.free_count), (0, 0, 0));
        assert_eq!((stats.used_size, stats.cached_size, stats.top), (0, 0, first));
    }
}

/// Leaves blocks of many sizes in this thread's cache.
pub fn fill_cache(pool: Handle) {
    for size in [16, 48, 64, 200, 512, 1000] {
        let blocks: Vec<*mut u8> = (0..200).map(|_| pool.malloc(size).expect("malloc")).collect();
        blocks.into_iter().for_each(|block| pool.free(block).expect("free"));
    }
    assert!(pool.stats().cached_size > 0);
}

pub fn gettid() -> u32 {
    // SAFETY: takes and touches nothing.
    unsafe { libc::syscall(libc::SYS_gettid) as u32 }
}

struct Doomed<'a> {
    pool: Handle,
    worker: &'a Worker,
    seed: u64,
}

extern "C" fn doomed(argument: *mut c_void) -> *mut c_void {
    // SAFETY: made by `end_inside`, which outlives the thread.
    let Doomed { pool, worker, seed } = unsafe { &*argument.cast::<Doomed>() };
    worker.work(*pool, *seed);
    std::ptr::null_mut()
}

/// Ends the thread that gets the signal, wherever it is, and nothing else.
extern "C" fn end_thread(_signal: c_int) {
    // SAFETY: does not return; the process goes on.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
}

/// Starts a thread that works, and ends it a while after it has begun: not by returning, but in the
/// middle. For processes that do not use SIGUSR1.
pub fn end_inside(
    pool: Handle,
    worker: &Worker,
    seed: u64,
    has_begun: impl Fn() -> bool,
    after: Duration,
) {
    let mut thread: libc::pthread_t = 0;
    let mut argument = Doomed { pool, worker, seed };
    // Not a std thread: joining one that never returned would panic.
    // SAFETY: all zero is a valid sigaction, whose handler makes one system call; the argument
    // outlives the thread, which is joined below.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = end_thread as extern "C" fn(c_int) as usize;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()), 0, "{}", error());
        let argument = (&raw mut argument).cast();
        let answer = libc::pthread_create(&mut thread, std::ptr::null(), doomed, argument);
        assert_eq!(answer, 0, "pthread_create");
    }
    while !has_begun() {
        std::thread::yield_now();
    }
    std::thread::sleep(after);
    // SAFETY: the thread has not been joined.
    unsafe {
        assert_eq!(libc::pthread_kill(thread, libc::SIGUSR1), 0);
        assert_eq!(libc::pthread_join(thread, std::ptr::null_mut()), 0);
    }
}

/// How many blocks a worker holds at most.
pub const SLOTS: usize = 32;
/// The slot's block is being freed or moved: whether it still lives is unknown.
pub const IN_MOTION: u64 = 1 << 63;

/// What a worker says of itself.
#[repr(C)]
pub struct Worker {
    /// Its thread's number, as in the lock's word.
    pub tid: AtomicU32,
    pub stop: AtomicU32,
    pub calls: AtomicU64,
    /// Offsets of the blocks that it holds; 0 for none.
    pub slots: [AtomicU64; SLOTS],
}

/// So many workers' words, in memory of their own.
pub struct Log {
    memory: Memory,
}

impl Log {
    pub fn new(workers: usize) -> Log {
        Log { memory: Memory::shared(workers * size_of::<Worker>()) }
    }

    pub fn worker(&self, at: usize) -> &Worker {
        assert!((at + 1) * size_of::<Worker>() <= self.memory.len());
        // SAFETY: inside the mapping, aligned, atomics of which zero is a value.
        unsafe { &*self.memory.base().cast::<Worker>().add(at) }
    }
}

/// A block's bytes tell its own offset, and its size.
pub fn stamp(block: *mut u8, offset: u64, size: usize) {
    // SAFETY: the caller's own block of at least that size, which is 16 or more.
    unsafe {
        block.write_bytes(offset as u8 ^ 0x5a, size);
        block.cast::<u64>().write_unaligned(offset);
        block.add(8).cast::<u32>().write_unaligned(size as u32);
    }
}

/// Whether the block's bytes are still those of [`stamp`].
pub fn is_stamped(block: *const u8, offset: u64, usable: usize) -> bool {
    // SAFETY: the caller's own live block of that size.
    let bytes = unsafe { std::slice::from_raw_parts(block, usable) };
    let size = u32::from_ne_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]) as usize;
    bytes[..8] == offset.to_ne_bytes()
        && (12..=usable).contains(&size)
        && bytes[12..size].iter().all(|&byte| byte == offset as u8 ^ 0x5a)
}

/// Whether the first bytes of a block are still those of [`stamp`], after it was moved.
pub fn keeps_stamp(block: *const u8, offset: u64, size: usize) -> bool {
    // SAFETY: the caller's own live block of that size, which is 16 or more.
    let bytes = unsafe { std::slice::from_raw_parts(block, size) };
    bytes[..8] == offset.to_ne_bytes()
        && bytes[12..].iter().all(|&byte| byte == offset as u8 ^ 0x5a)
}

/// A block's size as it was asked for, which its bytes tell.
pub fn stamped_size(block: *const u8) -> usize {
    // SAFETY: a live block of 16 bytes or more.
    unsafe { block.add(8).cast::<u32>().read_unaligned() as usize }
}

impl Worker {
    /// Allocates, moves and frees until told to stop, saying what it holds. Never allocates
    /// outside the pool: it may be ended anywhere.
    pub fn work(&self, pool: Handle, seed: u64) {
        self.tid.store(gettid(), Relaxed);
        let mut random = Random(seed);
        while self.stop.load(Relaxed) == 0 {
            let slot = &self.slots[random.below(SLOTS)];
            let held = slot.load(Relaxed);
            let size = 16 + random.below(400);
            let block = match held {
                0 => pool.malloc(size),
                _ => {
                    let block = pool.pointer(held);
                    assert!(is_stamped(block, held, pool.usable_size(block)), "lost {held}");
                    slot.store(held | IN_MOTION, Relaxed);
                    if random.below(4) == 0 {
                        pool.realloc(block, size)
                    } else {
                        pool.free(block).expect("free");
                        slot.store(0, Relaxed);
                        Ok(std::ptr::null_mut())
                    }
                }
            };
            let block = block.expect("the pool is large enough for all that is lost");
            if !block.is_null() {
                let offset = pool.offset(block);
                stamp(block, offset, size);
                slot.store(offset, Relaxed);
            }
            self.calls.fetch_add(1, Relaxed);
        }
    }

    /// Runs `work` in a child.
    pub fn start(&self, pool: Handle, seed: u64) -> Child {
        self.tid.store(0, Relaxed);
        child::fork(|| {
            self.work(pool, seed);
            0
        })
    }

    /// After its end: what it held is still there; what was in motion may be either.
    pub fn settle(&self, pool: Handle) {
        for slot in &self.slots {
            let held = slot.load(Relaxed);
            if held & IN_MOTION != 0 {
                slot.store(0, Relaxed);
            } else if held != 0 {
                let block = pool.pointer(held);
                let usable = pool.usable_size(block);
                assert!(usable > 0, "the block at {held} was delivered, and is gone");
                assert!(is_stamped(block, held, usable), "the block at {held} has other bytes");
            }
        }
    }

    /// Frees what it held.
    pub fn give_back(&self, pool: Handle) {
        for slot in &self.slots {
            let held = slot.swap(0, Relaxed);
            if held != 0 {
                pool.free(pool.pointer(held)).expect("free");
            }
        }
    }

    /// It returns from its calls.
    #[track_caller]
    pub fn must_go_on(&self) {
        let (before, start) = (self.calls.load(Relaxed), Instant::now());
        while self.calls.load(Relaxed) < before + 10 {
            assert!(start.elapsed() < Duration::from_secs(20), "no call returned for 20 s");
            std::thread::yield_now();
        }
    }
}

/// Frees the blocks that nobody knows of: of each death at most one, whose call was about to
/// return or had not begun.
pub fn free_the_lost(pool: Handle, deaths: u64) {
    // A block that a dead thread's cache was about to deliver is not lost, and looks live.
    pool.recover().expect("recover");
    let blocks = pool.walk();
    let lost = blocks.iter().filter(|block| block.state == MEMPOOL_BLOCK_LIVE);
    let mut count = 0;
    for block in lost {
        pool.free(pool.pointer(block.offset)).expect("free");
        count += 1;
    }
    assert!(count <= deaths, "{count} blocks lost by {deaths} deaths");
}
