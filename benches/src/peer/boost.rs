//! Boost.Interprocess by the shim in `shim/boost.cpp`.

use super::{nothing, Heap};
use crate::region::Region;
use std::ffi::c_void;

extern "C" {
    fn boost_open(buffer: *mut c_void, len: usize) -> *mut c_void;
    fn boost_malloc(heap: *mut c_void, size: usize) -> *mut c_void;
    fn boost_free(heap: *mut c_void, block: *mut c_void);
    fn boost_realloc(heap: *mut c_void, block: *mut c_void, size: usize) -> *mut c_void;
    fn boost_check(heap: *mut c_void) -> i32;
}

pub fn open(region: Region) -> Heap {
    Heap {
        // SAFETY: the region is this heap's alone.
        ctx: unsafe { boost_open(region.base.as_ptr().cast(), region.len) },
        malloc: boost_malloc,
        free: boost_free,
        realloc: boost_realloc,
        enter: nothing,
        leave: nothing,
        // SAFETY: the context is the one made above.
        check: |heap| match unsafe { boost_check(heap) } {
            0 => Ok(()),
            _ => Err("not sound, or not empty".into()),
        },
    }
}
