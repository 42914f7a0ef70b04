//! A forked child gets a copy of its parent's heap, as it would of any. Of private memory the kernel
//! makes it. Shared memory would stay one: there the child copies what is used into memory of its
//! own, at the same address, and the parent waits for it.
//!
//! ```text
//! parent   prepare: pipe ---- fork ---- waits for the pipe's end ------- goes on
//! child                            \--- copies, maps the copy, closes the pipe --- goes on
//! ```
//!
//! Other threads of the parent do not wait. What they change meanwhile may be old or new in the
//! child, whose only thread may not look at it anyway (POSIX: async-signal-safe functions only).

use crate::descriptor::Kept;
use crate::heap;
use crate::memory::{map, Memory};
use crate::text::say;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicUsize, Ordering::*};

static ADDRESS: AtomicPtr<u8> = AtomicPtr::new(null_mut());
static LEN: AtomicUsize = AtomicUsize::new(0);
static OBJECT: Kept = Kept::none();
static IS_SHARED: AtomicBool = AtomicBool::new(false);
/// How many bytes may hold something.
static USED: AtomicUsize = AtomicUsize::new(0);
/// One fork at a time: 0 or 1, and the pipe of that one.
static BUSY: AtomicI32 = AtomicI32::new(0);
static PIPE: [AtomicI32; 2] = [const { AtomicI32::new(-1) }; 2];

/// Sees to the forks of a process whose heap is in shared memory.
pub fn watch(memory: &Memory) {
    ADDRESS.store(memory.address, Relaxed);
    LEN.store(memory.len, Relaxed);
    OBJECT.set(memory.fd);
    IS_SHARED.store(true, Relaxed);
    // SAFETY: the functions live as long as the process.
    unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) };
}

/// Whether this process has the shared memory still, not a copy.
pub fn is_shared() -> bool {
    IS_SHARED.load(Relaxed)
}

extern "C" fn prepare() {
    if !is_shared() {
        return;
    }
    while BUSY.compare_exchange(0, 1, Acquire, Relaxed).is_err() {
        // SAFETY: takes nothing.
        unsafe { libc::sched_yield() };
    }
    // Blocks that other threads get from above it before the fork are theirs.
    let top = heap::made()
        .and_then(|pool| pool.stats().ok())
        .map_or(usize::MAX, |stats| stats.top as usize);
    USED.store(top.min(LEN.load(Relaxed)), Relaxed);
    let mut ends = [-1; 2];
    // SAFETY: room for two.
    unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) };
    for (end, fd) in PIPE.iter().zip(ends) {
        end.store(fd, Relaxed);
    }
}

extern "C" fn parent() {
    if !is_shared() {
        return;
    }
    let [from, to] = PIPE.each_ref().map(|end| end.swap(-1, Relaxed));
    let mut byte = 0u8;
    // SAFETY: our descriptors, which may be -1, and one byte of room. The end comes when the child
    // has closed its side, or has died.
    unsafe {
        libc::close(to);
        while libc::read(from, (&raw mut byte).cast(), 1) < 0
            && *libc::__errno_location() == libc::EINTR
        {}
        libc::close(from);
    }
    BUSY.store(0, Release);
}

extern "C" fn child() {
    if !IS_SHARED.swap(false, Relaxed) {
        return;
    }
    let (address, len) = (ADDRESS.load(Relaxed), LEN.load(Relaxed));
    if !copy(address, len, USED.load(Relaxed)) {
        say!("no memory for a forked child's copy of the heap");
        // SAFETY: ends the process, which has no heap.
        unsafe { libc::_exit(127) };
    }
    let [from, to] = PIPE.each_ref().map(|end| end.swap(-1, Relaxed));
    // SAFETY: our descriptors.
    unsafe {
        libc::close(OBJECT.get());
        libc::close(from);
        libc::close(to);
    }
    BUSY.store(0, Release);
}

/// Puts private memory with the same bytes, as far as any are used, in the place of the mapping.
/// Pages of zeros take no memory.
fn copy(address: *mut u8, len: usize, used: usize) -> bool {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let Some(own) = map(len, flags, -1) else { return false };
    const PAGE: usize = 4096;
    for at in (0..used).step_by(PAGE) {
        let part = PAGE.min(used - at);
        let mut page = [0u64; PAGE / 8];
        // SAFETY: both mappings are `len` bytes long, and the buffer a page.
        unsafe {
            address.add(at).copy_to_nonoverlapping(page.as_mut_ptr().cast(), part);
            if page.iter().any(|&word| word != 0) {
                own.add(at).copy_from_nonoverlapping(page.as_ptr().cast(), part);
            }
        }
    }
    let how = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: replaces the mapping of the pool, whose bytes the new one has; this is the only
    // thread.
    let moved = unsafe { libc::mremap(own.cast(), len, len, how, address) };
    moved == address.cast()
}
