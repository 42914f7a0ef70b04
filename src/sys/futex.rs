//! Sleeping on a word of shared memory, and waking who sleeps there.

use core::ptr;
use core::sync::atomic::AtomicU32;
use core::time::Duration;

/// Sleeps while `word` holds `expected`, until woken or `patience` is over. True when woken, or
/// when the word had another value already; false when time was up, or for any other reason.
pub fn wait(word: &AtomicU32, expected: u32, patience: Duration) -> bool {
    let timeout = libc::timespec {
        tv_sec: patience.as_secs() as libc::time_t,
        tv_nsec: patience.subsec_nanos() as libc::c_long,
    };
    // SAFETY: the word is a valid aligned u32 for the whole call, the timeout a valid timespec.
    // Not FUTEX_PRIVATE: other processes wait on the same word at other addresses.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT,
            expected,
            &timeout as *const libc::timespec,
            ptr::null::<u32>(),
            0,
        )
    };
    answer == 0 || errno() == libc::EAGAIN
}

/// Wakes one sleeper; false if there is none.
pub fn wake(word: &AtomicU32) -> bool {
    // SAFETY: the kernel uses the address as a key only; the word is a valid aligned u32.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) > 0 }
}

pub(super) fn errno() -> i32 {
    // SAFETY: errno's address is valid for the calling thread.
    unsafe { *libc::__errno_location() }
}
