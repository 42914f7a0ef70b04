//! What is said at exit.

use crate::descriptor::Kept;
use crate::settings::{Place, Settings};
use crate::text::{Bytes, Line};
use crate::{fork, heap, memory};
use core::fmt::Write;

/// Where the report goes: programs close their standard error before they end.
static ERRORS: Kept = Kept::none();

/// Has [`end`] called when the program ends well, after all else.
pub fn at_exit(settings: &Settings) {
    if settings.report && settings.report_path.is_empty() {
        ERRORS.set(memory::high(libc::STDERR_FILENO));
    }
    // SAFETY: the function lives as long as the process. Fails for want of memory only: then
    // nothing is said.
    unsafe { libc::atexit(end) };
}

extern "C" fn end() {
    let settings = heap::settings();
    if settings.report {
        report();
    }
    // A child that has a copy leaves the name to its parent.
    if settings.place != Place::Private && fork::is_shared() && !settings.keep {
        memory::remove(settings);
    }
}

fn report() {
    let Some(pool) = heap::made() else { return };
    let Ok(stats) = pool.stats() else { return };
    let path = &heap::settings().report_path;
    let mut fd = ERRORS.get();
    if !path.is_empty() {
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_CLOEXEC;
        // SAFETY: the path ends with NUL.
        fd = unsafe { libc::open(path.as_ptr(), flags, 0o600) };
    }
    let mut line = Line::new();
    let mut name = [0u8; 16];
    // SAFETY: room for the sixteen bytes that this call writes.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    let name = core::ffi::CStr::from_bytes_until_nul(&name).unwrap_or_default();
    let _ = write!(
        line,
        "{}: {} in {} blocks live at exit, {} cached, all within {} of {}; {} bad frees, {} failed allocations, {} recoveries; at most {} of memory resident",
        name.to_str().unwrap_or("?"),
        Bytes(stats.used_size),
        stats.used_count,
        Bytes(stats.cached_size),
        Bytes(stats.top.saturating_sub(stats.overhead)),
        Bytes(stats.total),
        stats.rejected_frees,
        stats.failed_allocs,
        stats.recoveries,
        Bytes(peak())
    );
    line.print(fd);
    if !path.is_empty() {
        // SAFETY: ours.
        unsafe { libc::close(fd) };
    }
}

/// The most memory that the process has had resident.
fn peak() -> u64 {
    // SAFETY: all zero is a rusage.
    let mut usage: libc::rusage = unsafe { core::mem::zeroed() };
    // SAFETY: the structure is valid.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    usage.ru_maxrss as u64 * 1024
}
