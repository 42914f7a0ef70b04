//! Allocators that are linked in, get their memory from the system and have one heap a process.

use super::{nothing, null as nil, unchecked, Heap};
use std::ffi::c_void;
use std::ptr::null_mut;

/// Each function drops the context, which these allocators have no use for, and jumps on.
macro_rules! owned {
    ($name:ident, $malloc:path, $free:path, $realloc:path, $enter:expr, $leave:expr) => {
        pub fn $name() -> Heap {
            unsafe extern "C" fn malloc(_: *mut c_void, size: usize) -> *mut c_void {
                // SAFETY: any size may be asked for.
                unsafe { $malloc(size as _) }.cast()
            }
            unsafe extern "C" fn free(_: *mut c_void, block: *mut c_void) {
                // SAFETY: the caller's: a live block.
                unsafe { $free(block.cast()) }
            }
            unsafe extern "C" fn realloc(
                _: *mut c_void,
                block: *mut c_void,
                size: usize,
            ) -> *mut c_void {
                // SAFETY: the caller's: a live block.
                unsafe { $realloc(block.cast(), size as _) }.cast()
            }
            let (enter, leave) = ($enter, $leave);
            Heap { ctx: null_mut(), malloc, free, realloc, enter, leave, check: unchecked }
        }
    };
}

owned!(glibc, libc::malloc, libc::free, libc::realloc, nothing, nothing);
owned!(null, nil::malloc, nil::free, nil::realloc, nothing, nothing);

#[cfg(feature = "peers")]
mod peers {
    use super::*;
    use {libmimalloc_sys as mi, rpmalloc_sys as rp, snmalloc_sys as sn, tikv_jemalloc_sys as je};

    owned!(mimalloc, mi::mi_malloc, mi::mi_free, mi::mi_realloc, nothing, nothing);
    owned!(jemalloc, je::malloc, je::free, je::realloc, nothing, nothing);
    owned!(snmalloc, sn::sn_malloc, sn::sn_free, sn::sn_realloc, nothing, nothing);
    owned!(rpmalloc, rp::rpmalloc, rp::rpfree, rp::rprealloc, rpmalloc_enter, rpmalloc_leave);

    fn rpmalloc_enter() {
        // SAFETY: idempotent, and callable at any time; the first thread to come makes the heap.
        unsafe {
            rp::rpmalloc_initialize();
            rp::rpmalloc_thread_initialize();
        }
    }

    fn rpmalloc_leave() {
        // SAFETY: this thread makes no more calls.
        unsafe { rp::rpmalloc_thread_finalize() }
    }
}

#[cfg(feature = "peers")]
pub use peers::*;
