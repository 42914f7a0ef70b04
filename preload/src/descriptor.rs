//! A descriptor that the library keeps. The program knows nothing of it: it may close it, as daemons
//! do, and get its number for a file of its own.

use core::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};

/// A descriptor, and by which file it is known again.
pub struct Kept {
    fd: AtomicI32,
    device: AtomicU64,
    inode: AtomicU64,
}

impl Kept {
    /// None yet.
    pub const fn none() -> Kept {
        Kept { fd: AtomicI32::new(-1), device: AtomicU64::new(0), inode: AtomicU64::new(0) }
    }

    /// Keeps this one.
    pub fn set(&self, fd: i32) {
        if let Some((device, inode)) = file(fd) {
            self.device.store(device, Relaxed);
            self.inode.store(inode, Relaxed);
            self.fd.store(fd, Relaxed);
        }
    }

    /// The descriptor, if it is still ours; else -1.
    pub fn get(&self) -> i32 {
        let fd = self.fd.load(Relaxed);
        let known = (self.device.load(Relaxed), self.inode.load(Relaxed));
        if file(fd) == Some(known) {
            fd
        } else {
            -1
        }
    }
}

/// Device and inode of what a descriptor is open on.
fn file(fd: i32) -> Option<(u64, u64)> {
    // SAFETY: all zero is a stat.
    let mut stat: libc::stat = unsafe { core::mem::zeroed() };
    // SAFETY: the structure is valid; a bad descriptor is refused.
    let error = unsafe { libc::fstat(fd, &mut stat) };
    (error == 0).then_some((stat.st_dev, stat.st_ino))
}
