//! `malloc`, `free` and their kin, as glibc has them: a size of 0 gives a block, `realloc` to 0
//! frees, `free` leaves errno alone. C++'s operators and Rust's `System` come here by themselves.

use crate::settings::BadFree;
use crate::text::say;
use crate::{arena, heap};
use core::ffi::{c_int, c_void};
use core::ptr::{null_mut, NonNull};
use mempool::{Error, Result};

/// What a pool's blocks are aligned to, and more than any type of C asks for.
const ALIGN: usize = 16;

fn errno() -> &'static mut c_int {
    // SAFETY: the thread's own, as long as it runs.
    unsafe { &mut *libc::__errno_location() }
}

#[inline]
fn answer(result: Result<NonNull<u8>>) -> *mut c_void {
    match result {
        Ok(block) => block.as_ptr().cast(),
        Err(error) => none(error),
    }
}

#[cold]
fn none(error: Error) -> *mut c_void {
    if !matches!(error, Error::OutOfMemory { .. }) {
        say!("malloc: {error}");
    }
    *errno() = libc::ENOMEM;
    null_mut()
}

#[cold]
fn early(size: usize, align: usize) -> *mut c_void {
    let piece = arena::take(size, align);
    if piece.is_null() {
        *errno() = libc::ENOMEM;
    }
    piece.cast()
}

/// See malloc(3).
#[no_mangle]
pub extern "C" fn malloc(size: usize) -> *mut c_void {
    match heap::pool() {
        Some(pool) => answer(pool.malloc(size.max(1))),
        None => early(size, ALIGN),
    }
}

/// See malloc(3).
#[no_mangle]
pub extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    let Some(bytes) = count.checked_mul(size) else { return overflow() };
    match heap::pool() {
        Some(pool) => answer(pool.calloc(1, bytes.max(1))),
        None => early(bytes, ALIGN),
    }
}

/// See malloc(3).
///
/// # Safety
/// Nobody uses the block any more.
#[no_mangle]
pub unsafe extern "C" fn free(block: *mut c_void) {
    let block = block.cast::<u8>();
    if block.is_null() || arena::has(block) {
        return;
    }
    if let Some(pool) = heap::pool() {
        let before = *errno();
        // SAFETY: as promised by the caller.
        if let Err(error) = unsafe { pool.free(block) } {
            bad("free", block, error);
        }
        *errno() = before;
    }
}

/// See malloc(3).
///
/// # Safety
/// Nobody else uses the block, and nobody its old address after success.
#[no_mangle]
pub unsafe extern "C" fn realloc(block: *mut c_void, size: usize) -> *mut c_void {
    if block.is_null() {
        return malloc(size);
    }
    if size == 0 {
        // SAFETY: as promised by the caller.
        unsafe { free(block) };
        return null_mut();
    }
    let old = block.cast::<u8>();
    if arena::has(old) {
        let new = malloc(size).cast::<u8>();
        if !new.is_null() {
            // SAFETY: the new block has room for the part of the piece that is copied.
            unsafe { new.copy_from_nonoverlapping(old, arena::len(old).min(size)) };
        }
        return new.cast();
    }
    let Some(pool) = heap::pool() else { return null_mut() };
    // SAFETY: as promised by the caller.
    match unsafe { pool.realloc(old, size) } {
        Err(
            error @ (Error::Foreign { .. } | Error::NotAllocated { .. } | Error::Corrupted { .. }),
        ) => {
            bad("realloc", old, error);
            *errno() = libc::EINVAL;
            null_mut()
        }
        result => answer(result),
    }
}

/// See malloc(3).
///
/// # Safety
/// As for [`realloc`].
#[no_mangle]
pub unsafe extern "C" fn reallocarray(
    block: *mut c_void,
    count: usize,
    size: usize,
) -> *mut c_void {
    match count.checked_mul(size) {
        // SAFETY: as promised by the caller.
        Some(bytes) => unsafe { realloc(block, bytes) },
        None => overflow(),
    }
}

/// See posix_memalign(3). As in glibc, what is no power of two is rounded up to one.
#[no_mangle]
pub extern "C" fn memalign(alignment: usize, size: usize) -> *mut c_void {
    let Some(alignment) = alignment.max(ALIGN).checked_next_power_of_two() else {
        *errno() = libc::EINVAL;
        return null_mut();
    };
    match heap::pool() {
        Some(pool) => answer(pool.aligned_alloc(alignment, size.max(1))),
        None => early(size, alignment),
    }
}

/// See posix_memalign(3).
#[no_mangle]
pub extern "C" fn aligned_alloc(alignment: usize, size: usize) -> *mut c_void {
    memalign(alignment, size)
}

/// See posix_memalign(3).
///
/// # Safety
/// `out` is valid.
#[no_mangle]
pub unsafe extern "C" fn posix_memalign(
    out: *mut *mut c_void,
    alignment: usize,
    size: usize,
) -> c_int {
    if !alignment.is_power_of_two() || alignment % size_of::<*mut c_void>() != 0 {
        return libc::EINVAL;
    }
    let before = *errno();
    let block = memalign(alignment, size);
    *errno() = before;
    if block.is_null() {
        return libc::ENOMEM;
    }
    // SAFETY: as promised by the caller.
    unsafe { out.write(block) };
    0
}

/// See posix_memalign(3).
#[no_mangle]
pub extern "C" fn valloc(size: usize) -> *mut c_void {
    memalign(page(), size)
}

/// See posix_memalign(3).
#[no_mangle]
pub extern "C" fn pvalloc(size: usize) -> *mut c_void {
    match size.max(1).checked_next_multiple_of(page()) {
        Some(size) => memalign(page(), size),
        None => overflow(),
    }
}

/// See malloc_usable_size(3).
#[no_mangle]
pub extern "C" fn malloc_usable_size(block: *const c_void) -> usize {
    let block = block.cast::<u8>();
    if arena::has(block) {
        // SAFETY: the caller got it from here.
        return unsafe { arena::len(block) };
    }
    heap::pool().map_or(0, |pool| pool.usable_size(block))
}

fn page() -> usize {
    // SAFETY: takes a number.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}

#[cold]
fn overflow() -> *mut c_void {
    *errno() = libc::ENOMEM;
    null_mut()
}

/// The program gave back what it does not have.
#[cold]
fn bad(call: &str, block: *const u8, error: Error) {
    let what = heap::settings().bad_free;
    if what != BadFree::Ignore {
        say!("{call}({block:p}): {error}");
    }
    if what == BadFree::Abort {
        // SAFETY: takes nothing.
        unsafe { libc::abort() };
    }
}
