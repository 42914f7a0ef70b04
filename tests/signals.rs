//! A signal handler that has interrupted a call on a pool, and calls that pool, is told so: nothing
//! waits for ever, and nothing is harmed.

mod common;

use ::mempool::abi::*;
use ::mempool::capi::mempool_check;
use common::{child, handle, options, Memory, Options};
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

static POOL: AtomicPtr<mempool_t> = AtomicPtr::new(std::ptr::null_mut());
static BUSY: AtomicU32 = AtomicU32::new(0);
static WELL: AtomicU32 = AtomicU32::new(0);
static OTHER: AtomicU32 = AtomicU32::new(0);

extern "C" fn call_the_pool(_signal: libc::c_int) {
    // SAFETY: a handle that is not detached before the signals end.
    let status = unsafe { mempool_check(POOL.load(Relaxed)) };
    let count = match status {
        MEMPOOL_ERR_BUSY => &BUSY,
        MEMPOOL_OK => &WELL,
        _ => &OTHER,
    };
    count.fetch_add(1, Relaxed);
}

/// A signal every so often; 0 for no more.
fn interrupt_every(interval_us: libc::suseconds_t) {
    let time = libc::timeval { tv_sec: 0, tv_usec: interval_us };
    let timer = libc::itimerval { it_interval: time, it_value: time };
    // SAFETY: a valid timer; the old one is not asked for.
    let answer = unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) };
    assert_eq!(answer, 0, "setitimer");
}

#[test]
fn a_handler_inside_a_call_is_told_that_it_is() {
    child::run(Duration::from_secs(60), || {
        let memory = Memory::shared(8 << 20);
        let options = Options { flags: MEMPOOL_NO_THREAD_CACHES, ..options() };
        let pool = handle::init(memory.base(), memory.len(), &options).expect("init");
        // Enough that a check takes its time.
        let blocks: Vec<_> = (0..50_000).map(|_| pool.malloc(64).expect("malloc")).collect();
        POOL.store(pool.0, Relaxed);
        // SAFETY: all zero is a sigaction without flags; the handler touches atomics and the pool.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = call_the_pool as *const () as usize;
            assert_eq!(libc::sigaction(libc::SIGALRM, &action, std::ptr::null_mut()), 0);
        }
        interrupt_every(3_000);
        while BUSY.load(Relaxed) < 5 {
            pool.must_check();
        }
        interrupt_every(0);
        assert_eq!(OTHER.load(Relaxed), 0, "{} were well", WELL.load(Relaxed));
        blocks.into_iter().for_each(|block| pool.free(block).expect("free"));
        pool.must_check();
        assert_eq!(pool.stats().used_count, 0);
    });
}
