//! Zeroed memory that this process shares with those it forks.

use std::ptr::{self, NonNull};

/// Mapped until the process ends.
#[derive(Clone, Copy)]
pub struct Region {
    pub base: NonNull<u8>,
    pub len: usize,
}

impl Region {
    pub fn map(len: usize) -> Region {
        let (access, kind) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping takes nothing that anybody uses.
        let base = unsafe { libc::mmap(ptr::null_mut(), len, access, kind, -1, 0) };
        assert!(
            base != libc::MAP_FAILED,
            "mmap of {len} bytes: {}",
            std::io::Error::last_os_error()
        );
        Region { base: NonNull::new(base.cast()).expect("mmap gave no address"), len }
    }

    /// The region as an array of atomics, which are valid at any bytes, zeros included.
    pub fn of<T>(count: usize) -> &'static [T] {
        let region = Region::map((count * size_of::<T>()).max(1));
        // SAFETY: page-aligned, long enough and never unmapped; used for atomics only.
        unsafe { std::slice::from_raw_parts(region.base.as_ptr().cast(), count) }
    }
}
