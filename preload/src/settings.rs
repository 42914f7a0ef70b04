//! What the environment asks for.
//!
//! The first malloc comes before the C library has set up `environ`, so the environment is read
//! where the kernel shows it, `/proc/self/environ`.

use crate::text::say;

/// Where the pool lies.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In memory of this process alone.
    Private,
    /// In the shared-memory object of this name.
    Shared,
    /// In the file of this path.
    File,
}

/// A path or name that ends with NUL; `%p` in it has become the process's number.
pub struct Path {
    bytes: [u8; 1024],
    len: usize,
}

impl Path {
    const fn new() -> Path {
        Path { bytes: [0; 1024], len: 0 }
    }

    fn push(&mut self, byte: u8) {
        if self.len < self.bytes.len() - 1 {
            self.bytes[self.len] = byte;
            self.len += 1;
        }
    }

    /// For the C library.
    pub fn as_ptr(&self) -> *const libc::c_char {
        self.bytes.as_ptr().cast()
    }

    /// For people.
    pub fn text(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.len]).unwrap_or("(a name that is no text)")
    }

    fn fill(&mut self, pattern: &[u8]) {
        self.len = 0;
        let mut rest = pattern;
        while let [first, tail @ ..] = rest {
            rest = tail;
            match (first, tail) {
                (b'%', [b'p', tail @ ..]) => {
                    self.push_number(std::process::id());
                    rest = tail;
                }
                _ => self.push(*first),
            }
        }
        self.bytes[self.len] = 0;
    }

    fn push_number(&mut self, number: u32) {
        if number >= 10 {
            self.push_number(number / 10);
        }
        self.push(b'0' + (number % 10) as u8);
    }
}

/// What to do about a pointer that is no live block.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum BadFree {
    /// Say it, and abort.
    Abort,
    /// Say it, and go on.
    Report,
    /// Go on.
    Ignore,
}

/// All of it.
pub struct Settings {
    /// `MEMPOOL_PRELOAD_SHM`, `MEMPOOL_PRELOAD_FILE`: where the pool lies.
    pub place: Place,
    /// Its name or path.
    pub path: Path,
    /// `MEMPOOL_PRELOAD_SIZE`: bytes, with K, M or G; 0 when it is ours to choose.
    pub size: usize,
    /// `MEMPOOL_PRELOAD_FLAGS`: of the pool, as a number.
    pub flags: u32,
    /// `MEMPOOL_PRELOAD_BAD_FREE`: abort, report, ignore.
    pub bad_free: BadFree,
    /// `MEMPOOL_PRELOAD_REPORT`: a line at exit, on the standard error or in this file.
    pub report: bool,
    /// Where the report goes; empty for the standard error.
    pub report_path: Path,
    /// `MEMPOOL_PRELOAD_KEEP`: the object or file stays when the program has ended.
    pub keep: bool,
}

impl Settings {
    /// What is asked for when nothing is.
    pub const fn new() -> Settings {
        Settings {
            place: Place::Private,
            path: Path::new(),
            size: 0,
            flags: 0,
            bad_free: BadFree::Abort,
            report: false,
            report_path: Path::new(),
            keep: false,
        }
    }

    /// Reads the environment. That of a set-user-ID program is another user's, who shall not have
    /// files written by it.
    pub fn read(&mut self) {
        // SAFETY: takes a number.
        if unsafe { libc::getauxval(libc::AT_SECURE) } != 0 {
            return;
        }
        let mut entry = [0u8; 1200];
        let mut len = 0;
        // SAFETY: the path ends with NUL.
        let fd =
            unsafe { libc::open(c"/proc/self/environ".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
        let mut chunk = [0u8; 4096];
        loop {
            // SAFETY: the buffer is valid for its length; a bad descriptor is refused.
            let got = unsafe { libc::read(fd, chunk.as_mut_ptr().cast(), chunk.len()) };
            if got <= 0 {
                break;
            }
            for &byte in &chunk[..got as usize] {
                if byte == 0 {
                    self.take(&entry[..len]);
                    len = 0;
                } else if len < entry.len() {
                    entry[len] = byte;
                    len += 1;
                }
            }
        }
        // SAFETY: ours, or refused.
        unsafe { libc::close(fd) };
    }

    fn take(&mut self, entry: &[u8]) {
        let Some(rest) = entry.strip_prefix(b"MEMPOOL_PRELOAD_") else { return };
        let Some(equals) = rest.iter().position(|&byte| byte == b'=') else { return };
        let (name, value) = (&rest[..equals], &rest[equals + 1..]);
        if value.is_empty() {
            return;
        }
        let is_right = match name {
            b"SHM" => self.set_place(Place::Shared, value),
            b"FILE" => self.set_place(Place::File, value),
            b"SIZE" => bytes(value).map(|size| self.size = size).is_some(),
            b"FLAGS" => bytes(value).map(|flags| self.flags = flags as u32).is_some(),
            b"BAD_FREE" => bad_free(value).map(|what| self.bad_free = what).is_some(),
            b"KEEP" => {
                self.keep = value != b"0";
                true
            }
            b"REPORT" => {
                self.report = value != b"0";
                if self.report && value != b"1" {
                    self.report_path.fill(value);
                }
                true
            }
            _ => false,
        };
        if !is_right {
            let text = core::str::from_utf8(entry).unwrap_or("(no text)");
            say!("{text}: not understood");
        }
    }

    fn set_place(&mut self, place: Place, value: &[u8]) -> bool {
        self.place = place;
        self.path.fill(value);
        true
    }
}

impl Path {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

fn bad_free(value: &[u8]) -> Option<BadFree> {
    match value {
        b"abort" => Some(BadFree::Abort),
        b"report" => Some(BadFree::Report),
        b"ignore" => Some(BadFree::Ignore),
        _ => None,
    }
}

/// A number with K, M or G behind it, or nothing.
fn bytes(value: &[u8]) -> Option<usize> {
    let (digits, unit) = match value {
        [digits @ .., b'k' | b'K'] => (digits, 10),
        [digits @ .., b'm' | b'M'] => (digits, 20),
        [digits @ .., b'g' | b'G'] => (digits, 30),
        digits => (digits, 0),
    };
    let number: usize = core::str::from_utf8(digits).ok()?.parse().ok()?;
    number.checked_mul(1 << unit)
}
