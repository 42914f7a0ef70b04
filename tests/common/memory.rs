//! Memory for pools: shared or private, mapped once or twice, a trap on either side of it.

use std::os::fd::IntoRawFd;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

pub const PAGE: usize = 4096;

/// A mapping of `len` bytes, rounded up to pages, with an inaccessible page before and after it:
/// a pool that leaves its buffer by much dies at once.
pub struct Memory {
    file: libc::c_int,
    reserved: *mut u8,
    reserved_len: usize,
    base: *mut u8,
    len: usize,
}

// SAFETY: plain memory; what threads do with it is up to the pool in it.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Zero bytes in a file of their own, so that `view` can map them again and every child
    /// shares them.
    pub fn shared(len: usize) -> Memory {
        Memory::shared_at(len, ptr::null_mut())
    }

    /// As [`Memory::shared`], at an address below all others: whoever looks for the mapping in
    /// /proc/self/maps finds it among the first.
    pub fn shared_low(len: usize) -> Memory {
        static NEXT: AtomicUsize = AtomicUsize::new(1 << 28);
        let room = len.next_multiple_of(PAGE) + 4 * PAGE;
        Memory::shared_at(len, NEXT.fetch_add(room, Relaxed) as *mut libc::c_void)
    }

    fn shared_at(len: usize, hint: *mut libc::c_void) -> Memory {
        // SAFETY: the name is a C string; the descriptor is ours.
        let file = unsafe { libc::memfd_create(c"mempool-test".as_ptr(), libc::MFD_CLOEXEC) };
        assert!(file >= 0, "memfd_create: {}", error());
        let len = len.next_multiple_of(PAGE);
        // SAFETY: our own descriptor.
        let answer = unsafe { libc::ftruncate(file, len as libc::off_t) };
        assert_eq!(answer, 0, "ftruncate to {len}: {}", error());
        Memory::map(file, len, PAGE, hint)
    }

    /// A file on a disk, made and filled with zeros if it is not there.
    pub fn file(path: &std::path::Path, len: usize) -> Memory {
        let mut options = std::fs::OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(path);
        let file = file.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let len = len.next_multiple_of(PAGE);
        file.set_len(len as u64).expect("the file has its length");
        Memory::map(file.into_raw_fd(), len, PAGE, ptr::null_mut())
    }

    /// Other memory with the same bytes.
    pub fn copy(&self) -> Memory {
        let copy = Memory::shared(self.len);
        copy.bytes_mut(0, self.len).copy_from_slice(self.bytes(0, self.len));
        copy
    }

    /// Zero bytes of this process's own. Huge pages are off: what a test counts as touched is
    /// what was touched.
    pub fn private(len: usize) -> Memory {
        Memory::map(-1, len.next_multiple_of(PAGE), PAGE, ptr::null_mut())
    }

    /// The same bytes at another address.
    pub fn view(&self) -> Memory {
        assert!(self.file >= 0, "only shared memory has views");
        // SAFETY: our own descriptor.
        let file = unsafe { libc::dup(self.file) };
        assert!(file >= 0, "dup: {}", error());
        Memory::map(file, self.len, PAGE, ptr::null_mut())
    }

    fn map(file: libc::c_int, len: usize, alignment: usize, hint: *mut libc::c_void) -> Memory {
        let reserved_len = len + 2 * alignment.max(PAGE);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh mapping touches nothing of ours.
        let reserved = unsafe { libc::mmap(hint, reserved_len, libc::PROT_NONE, flags, -1, 0) };
        assert_ne!(reserved, libc::MAP_FAILED, "reserving {reserved_len} bytes: {}", error());
        let reserved: *mut u8 = reserved.cast();
        // SAFETY: inside the reservation, by its length.
        let base = unsafe { reserved.add(PAGE) };
        let sort = match file {
            -1 => libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            _ => libc::MAP_SHARED,
        };
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: replaces a part of our own reservation.
        let got = unsafe { libc::mmap(base.cast(), len, access, sort | libc::MAP_FIXED, file, 0) };
        assert_ne!(got, libc::MAP_FAILED, "mapping {len} bytes: {}", error());
        // SAFETY: the range was just mapped. Fails where the kernel has no huge pages: as good.
        unsafe { libc::madvise(base.cast(), len, libc::MADV_NOHUGEPAGE) };
        Memory { file, reserved, reserved_len, base, len }
    }

    pub fn base(&self) -> *mut u8 {
        self.base
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// The bytes from `from` on, `len` of them.
    pub fn bytes(&self, from: usize, len: usize) -> &[u8] {
        assert!(from + len <= self.len);
        // SAFETY: mapped for as long as self lives; tests read while no call is in flight.
        unsafe { std::slice::from_raw_parts(self.base.add(from), len) }
    }

    /// The bytes, to be written while no call is in flight.
    #[allow(clippy::mut_from_ref)]
    pub fn bytes_mut(&self, from: usize, len: usize) -> &mut [u8] {
        assert!(from + len <= self.len);
        // SAFETY: mapped for as long as self lives; tests take one such slice at a time.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(from), len) }
    }

    /// From now on a store to this mapping ends the process; other views can be written to.
    pub fn forbid_writes(&self) {
        // SAFETY: our own mapping.
        let answer = unsafe { libc::mprotect(self.base.cast(), self.len, libc::PROT_READ) };
        assert_eq!(answer, 0, "mprotect: {}", error());
    }

    /// Which pages of the mapping are in memory (for a file: in its page cache).
    pub fn resident(&self) -> Vec<usize> {
        // In steps, of which almost all are empty: a sparse mapping has many pages.
        const STEP: usize = 1 << 12;
        let mut flags = vec![0u8; self.len / PAGE];
        // SAFETY: the range is mapped, the vector has a byte for each of its pages.
        let answer = unsafe { libc::mincore(self.base.cast(), self.len, flags.as_mut_ptr()) };
        assert_eq!(answer, 0, "mincore: {}", error());
        let mut found = Vec::new();
        for (step, flags) in flags.chunks(STEP).enumerate() {
            if flags != &[0; STEP][..flags.len()] {
                let pages = flags.iter().enumerate().filter(|(_, &flag)| flag & 1 != 0);
                found.extend(pages.map(|(page, _)| step * STEP + page));
            }
        }
        found
    }

    /// The bytes of this mapping that the process occupies, by the kernel's own walk.
    pub fn resident_bytes(&self) -> usize {
        let text = std::fs::read_to_string("/proc/self/smaps").expect("smaps");
        let ours = format!("{:x}-", self.base as usize);
        let mut lines = text.lines().skip_while(|line| !line.starts_with(&ours));
        let rss = lines.find_map(|line| line.strip_prefix("Rss:")).expect("the mapping's Rss");
        let kib: usize = rss.trim_end_matches("kB").trim().parse().expect("a number");
        kib * 1024
    }

    /// The bytes that the file occupies.
    pub fn file_bytes(&self) -> u64 {
        // SAFETY: all zero is a valid stat, filled in below.
        let mut status: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: our own descriptor, a valid stat.
        let answer = unsafe { libc::fstat(self.file, &mut status) };
        assert_eq!(answer, 0, "fstat: {}", error());
        status.st_blocks as u64 * 512
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: our own reservation and descriptor; nobody uses them after this.
        unsafe {
            libc::munmap(self.reserved.cast(), self.reserved_len);
            if self.file >= 0 {
                libc::close(self.file);
            }
        }
    }
}

pub fn error() -> std::io::Error {
    std::io::Error::last_os_error()
}
