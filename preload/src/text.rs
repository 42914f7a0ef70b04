//! Lines for the user, made in place: whoever complains about the heap must not use it.

use core::fmt::{self, Write};

/// A line of up to 512 bytes; what is longer is cut.
pub struct Line {
    bytes: [u8; 512],
    len: usize,
}

impl Line {
    /// A line that begins with who speaks.
    pub fn new() -> Line {
        let mut line = Line { bytes: [0; 512], len: 0 };
        // SAFETY: takes nothing.
        let pid = unsafe { libc::getpid() };
        let _ = write!(line, "mempool[{pid}]: ");
        line
    }

    /// Writes it, and a line's end, to a file descriptor.
    pub fn print(mut self, fd: i32) {
        let len = self.len.min(self.bytes.len() - 1);
        self.bytes[len] = b'\n';
        // SAFETY: the buffer is valid for its length. Whether it is read is the reader's affair.
        unsafe { libc::write(fd, self.bytes.as_ptr().cast(), len + 1) };
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let len = text.len().min(self.bytes.len() - self.len);
        self.bytes[self.len..self.len + len].copy_from_slice(&text.as_bytes()[..len]);
        self.len += len;
        Ok(())
    }
}

/// Says something on the standard error.
macro_rules! say {
    ($($word:tt)*) => {{
        let mut line = $crate::text::Line::new();
        let _ = core::fmt::Write::write_fmt(&mut line, format_args!($($word)*));
        line.print(libc::STDERR_FILENO);
    }};
}
pub(crate) use say;

/// Bytes as people read them.
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["B", "KiB", "MiB", "GiB", "TiB"];
        let unit = (0..units.len() - 1).find(|unit| self.0 >> (10 * unit) < 10_000);
        let unit = unit.unwrap_or(units.len() - 1);
        write!(f, "{} {}", self.0 >> (10 * unit), units[unit])
    }
}
