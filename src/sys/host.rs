//! What is true of the machine, the process and its mappings.

use crate::hash;
use core::ffi::CStr;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// What [`wiped_page`] makes.
pub const PAGE_BYTES: usize = 4096;

/// Random bits, from the kernel; from addresses and clocks where it gives none.
pub fn random() -> u64 {
    let mut value = 0u64;
    let into = ptr::addr_of_mut!(value);
    // SAFETY: the buffer is valid for its eight bytes.
    let got = unsafe { libc::syscall(libc::SYS_getrandom, into, 8usize, libc::GRND_NONBLOCK) };
    if got == 8 {
        return value;
    }
    hash::fold([now(), ptr::addr_of!(value) as u64])
}

/// Nanoseconds on a clock that never goes back.
pub fn now() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the timespec is valid.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// A number for this boot of the machine, never 0; 0 when it cannot be known.
pub fn boot_hash() -> u32 {
    static KNOWN: AtomicU32 = AtomicU32::new(0);
    let known = KNOWN.load(Relaxed);
    if known != 0 {
        return known;
    }
    let mut path = Path::new();
    path.push(b"/proc/sys/kernel/random/boot_id");
    let mut text = [0u8; 64];
    let len = read_file(&path, &mut text);
    let hash = hash32(&text[..len]);
    KNOWN.store(hash, Relaxed);
    hash
}

/// A number for the namespaces in which this process sees numbers and start times of threads, never
/// 0; 0 when it cannot be known.
pub fn pid_namespace() -> u32 {
    let mut text = [0u8; 128];
    let mut len = link(c"/proc/self/ns/pid", &mut text);
    if len > 0 {
        // Linux before 5.6 has one time for all.
        len += link(c"/proc/self/ns/time", &mut text[len..]);
    }
    hash32(&text[..len])
}

/// What a symbolic link holds, its first 64 bytes; 0 bytes when it cannot be read.
fn link(path: &CStr, text: &mut [u8]) -> usize {
    let room = text.len().min(64);
    // SAFETY: the path ends with NUL, the buffer is valid for its length.
    let len = unsafe { libc::readlink(path.as_ptr(), text.as_mut_ptr().cast(), room) };
    usize::try_from(len).unwrap_or(0)
}

/// Whether the mapping at `address` is private to this process, by /proc/self/maps; None when
/// it cannot be known.
pub fn is_private_mapping(address: usize) -> Option<bool> {
    let mut path = Path::new();
    path.push(b"/proc/self/maps");
    let file = File::open(&path)?;
    let mut lines = Mappings::default();
    let mut chunk = [0u8; 1024];
    loop {
        let len = file.read(&mut chunk);
        if len == 0 {
            return None;
        }
        for &byte in &chunk[..len] {
            if let Some((from, to, private)) = lines.take(byte) {
                if (from..to).contains(&address) {
                    return Some(private);
                }
            }
        }
    }
}

/// Reads "FROM-TO rwxp ..." lines byte by byte, in constant space.
#[derive(Default)]
struct Mappings {
    numbers: [usize; 2],
    /// 0, 1: in a number; 2: in the permissions; 3: in the rest of the line.
    field: usize,
    last: u8,
}

impl Mappings {
    fn take(&mut self, byte: u8) -> Option<(usize, usize, bool)> {
        let mut found = None;
        match (self.field, byte) {
            (_, b'\n') => *self = Mappings::default(),
            (0, b'-') | (1, b' ') => self.field += 1,
            (0 | 1, _) => {
                let digit = (byte as char).to_digit(16).unwrap_or(0) as usize;
                let number = &mut self.numbers[self.field];
                *number = number.wrapping_shl(4) | digit;
            }
            (2, b' ') => {
                self.field = 3;
                found = Some((self.numbers[0], self.numbers[1], self.last == b'p'));
            }
            _ => self.last = byte,
        }
        found
    }
}

/// A page that every fork wipes to zero in the child; None where the kernel cannot.
pub fn wiped_page() -> Option<NonNull<u8>> {
    // SAFETY: a fresh private mapping touches no memory of ours.
    let page = unsafe {
        libc::mmap(
            ptr::null_mut(),
            PAGE_BYTES,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if page == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: the page was just made.
    if unsafe { libc::madvise(page, PAGE_BYTES, libc::MADV_WIPEONFORK) } != 0 {
        unmap_page(page.cast());
        return None;
    }
    NonNull::new(page.cast())
}

/// Gives back a page of [`wiped_page`] that nobody else has seen.
pub fn unmap_page(page: *mut u8) {
    // SAFETY: the caller made it, and nobody else knows it.
    unsafe { libc::munmap(page.cast(), PAGE_BYTES) };
}

/// Zero bytes for the rest of this process's life, of which only those that are written take memory;
/// None where there are no addresses left.
pub fn reserve(len: usize) -> Option<NonNull<u8>> {
    let how = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a fresh private mapping touches no memory of ours.
    let bytes =
        unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, how, -1, 0) };
    NonNull::new(bytes.cast()).filter(|_| bytes != libc::MAP_FAILED)
}

/// A short path, made without allocating; what does not fit is cut off.
pub(super) struct Path {
    bytes: [u8; 64],
    len: usize,
}

impl Path {
    pub(super) fn new() -> Path {
        Path { bytes: [0; 64], len: 0 }
    }

    pub(super) fn push(&mut self, text: &[u8]) {
        for &byte in text {
            // The last byte stays NUL.
            if self.len < self.bytes.len() - 1 {
                self.bytes[self.len] = byte;
                self.len += 1;
            }
        }
    }

    pub(super) fn push_number(&mut self, number: u32) {
        if number >= 10 {
            self.push_number(number / 10);
        }
        self.push(&[b'0' + (number % 10) as u8]);
    }
}

/// A file opened for reading, without allocating. By bare system calls: the C library's functions are
/// cancellation points, and a thread must not be cancelled inside a call.
struct File(libc::c_int);

impl File {
    fn open(path: &Path) -> Option<File> {
        let (path, how) = (path.bytes.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        // SAFETY: the path ends with NUL.
        let file = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, how, 0) };
        (file >= 0).then_some(File(file as libc::c_int))
    }

    /// 0 at the end and at errors.
    fn read(&self, into: &mut [u8]) -> usize {
        // SAFETY: the buffer is valid for its length.
        let len = unsafe { libc::syscall(libc::SYS_read, self.0, into.as_mut_ptr(), into.len()) };
        usize::try_from(len).unwrap_or(0)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: opened by us, closed once.
        unsafe { libc::syscall(libc::SYS_close, self.0) };
    }
}

/// The file's first bytes; 0 of them when it cannot be read.
pub(super) fn read_file(path: &Path, into: &mut [u8]) -> usize {
    File::open(path).map_or(0, |file| file.read(into))
}

/// Never 0 but for no bytes at all.
fn hash32(bytes: &[u8]) -> u32 {
    if bytes.is_empty() {
        return 0;
    }
    (hash::fold(bytes.iter().map(|&byte| u64::from(byte))) as u32).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_and_a_shared_mapping_are_told_apart() {
        let local = 0u8;
        assert_eq!(is_private_mapping(ptr::addr_of!(local) as usize), Some(true));
        // SAFETY: a fresh shared mapping.
        let shared = unsafe {
            libc::mmap(
                ptr::null_mut(),
                PAGE_BYTES,
                libc::PROT_READ,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_eq!(is_private_mapping(shared as usize), Some(false));
        assert_eq!(is_private_mapping(1), None);
    }

    #[test]
    fn this_boot_and_namespace_have_numbers() {
        assert_ne!(boot_hash(), 0);
        assert_eq!(boot_hash(), boot_hash());
        assert_ne!(pid_namespace(), 0);
    }
}
