//! The pool's memory.

use crate::settings::{Path, Place, Settings};
use crate::text::{say, Bytes};
use core::ptr::null_mut;

/// A mapping, and the descriptor of the object in it; -1 for private memory.
#[derive(Clone, Copy)]
pub struct Memory {
    /// Its first byte.
    pub address: *mut u8,
    /// Its length.
    pub len: usize,
    /// The object's descriptor.
    pub fd: i32,
}

/// Programs expect the low numbers to be theirs.
const FD_MIN: i32 = 500;
/// What a shared pool takes when nothing is said: all of it is reserved at once.
const SHARED_LEN: usize = 256 << 20;
/// As many granules of 16 bytes as a pool can number, less what it needs itself.
const PRIVATE_MAX: usize = 60 << 30;
const PRIVATE_MIN: usize = 16 << 20;

impl Memory {
    /// What the settings ask for; private memory where that cannot be had, which is said.
    pub fn new(settings: &Settings) -> Option<Memory> {
        if settings.place != Place::Private {
            if let Some(memory) = Memory::named(settings) {
                return Some(memory);
            }
        }
        Memory::private(settings.size)
    }

    /// Address space, of which pages become memory as they are used. Where limits forbid as much as
    /// is wanted it is less.
    fn private(size: usize) -> Option<Memory> {
        let mut len = if size == 0 { twice_the_machines() } else { size };
        loop {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            if let Some(address) = map(len, flags, -1) {
                return Some(Memory { address, len, fd: -1 });
            }
            if size != 0 || len / 2 < PRIVATE_MIN {
                say!("no {} of address space for the heap", Bytes(len as u64));
                return None;
            }
            len /= 2;
        }
    }

    /// An object that is this process's alone: one that another living process has is left to it.
    /// All of it is allocated now, since nobody survives its absence later (SIGBUS).
    fn named(settings: &Settings) -> Option<Memory> {
        let path = &settings.path;
        let len = if settings.size == 0 { SHARED_LEN } else { settings.size };
        let fd = open(settings.place, path, 0)?;
        if holds_something_else(fd) {
            say!(
                "{}: holds something else, which is left alone: private memory instead",
                path.text()
            );
            // SAFETY: ours.
            unsafe { libc::close(fd) };
            return None;
        }
        let fd = if is_empty(fd) { fd } else { replace(fd, settings)? };
        // SAFETY: takes numbers only; the object is ours by the lock.
        let error = unsafe { libc::posix_fallocate(fd, 0, len as libc::off_t) };
        let address = if error == 0 { map(len, libc::MAP_SHARED, fd) } else { None };
        if address.is_none() {
            say!("{}: {} cannot be had: private memory instead", path.text(), Bytes(len as u64));
            remove(settings);
            // SAFETY: ours.
            unsafe { libc::close(fd) };
        }
        Some(Memory { address: address?, len, fd })
    }
}

/// Takes the name away; who has it mapped keeps it.
pub fn remove(settings: &Settings) {
    let path = settings.path.as_ptr();
    // SAFETY: the path ends with NUL.
    unsafe {
        match settings.place {
            Place::Private => 0,
            Place::Shared => libc::shm_unlink(path),
            Place::File => libc::unlink(path),
        };
    }
}

/// A second descriptor with a high number, or -1.
pub fn high(fd: i32) -> i32 {
    // SAFETY: takes numbers only.
    unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, FD_MIN) }
}

fn open(place: Place, path: &Path, how: i32) -> Option<i32> {
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_CLOEXEC | how;
    // SAFETY: the path ends with NUL; the descriptors are ours.
    let fd = unsafe {
        let low = match place {
            Place::Shared => libc::shm_open(path.as_ptr(), flags, 0o600),
            _ => libc::open(path.as_ptr(), flags, 0o600),
        };
        let fd = high(low);
        if fd >= 0 {
            libc::close(low);
        }
        if fd >= 0 {
            fd
        } else {
            low
        }
    };
    if fd < 0 {
        say!("{}: cannot be opened: private memory instead", path.text());
        return None;
    }
    // SAFETY: takes numbers only.
    if unsafe { libc::flock(fd, libc::LOCK_EX | libc::LOCK_NB) } != 0 {
        // Most often the parent's: a program and what it starts have one environment.
        // SAFETY: ours.
        unsafe { libc::close(fd) };
        return None;
    }
    Some(fd)
}

/// Whether there are bytes that no dead heap has left: a name that was mistyped, say.
fn holds_something_else(fd: i32) -> bool {
    let mut prefix = [0u8; 4096];
    // SAFETY: the buffer is valid for its length.
    let got = unsafe { libc::pread(fd, prefix.as_mut_ptr().cast(), prefix.len(), 0) };
    // SAFETY: as many bytes are there.
    got > 0 && unsafe { mempool::pool::peek(prefix.as_ptr(), got as usize) }.is_err()
}

fn is_empty(fd: i32) -> bool {
    // SAFETY: takes numbers only.
    unsafe { libc::lseek(fd, 0, libc::SEEK_END) == 0 }
}

/// A new object in the place of what a dead process has left: who looks into that keeps it.
fn replace(fd: i32, settings: &Settings) -> Option<i32> {
    remove(settings);
    let new = open(settings.place, &settings.path, libc::O_EXCL);
    // SAFETY: ours.
    unsafe { libc::close(fd) };
    new
}

/// New memory somewhere.
pub fn map(len: usize, flags: i32, fd: i32) -> Option<*mut u8> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping touches nothing that is there.
    let address = unsafe { libc::mmap(null_mut(), len, access, flags, fd, 0) };
    (address != libc::MAP_FAILED).then_some(address.cast())
}

fn twice_the_machines() -> usize {
    // SAFETY: takes numbers only.
    let (pages, page) =
        unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    let len = (pages.max(1) as usize).saturating_mul(page.max(1) as usize).saturating_mul(2);
    len.clamp(1 << 30, PRIVATE_MAX)
}
