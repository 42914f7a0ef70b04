//! What memcheck is told: valgrind's *client requests*.
//!
//! A program asks valgrind by an instruction sequence that does nothing (a register rotated all the
//! way round, another exchanged with itself), with the address of six words in one register and the
//! answer in another. Outside of valgrind the answer is the one that stood there before. The
//! sequences and numbers are part of valgrind's interface (`valgrind.h`, `memcheck.h`), and never
//! change.
//!
//! Nothing here touches the memory that it is about, so any address will do.

use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

const RUNNING_ON_VALGRIND: usize = 0x1001;
const MALLOCLIKE_BLOCK: usize = 0x1301;
const FREELIKE_BLOCK: usize = 0x1302;
const RESIZEINPLACE_BLOCK: usize = 0x130b;
const CHANGE_ERR_DISABLEMENT: usize = 0x1801;
/// The numbers of the tool that calls itself MC.
const MEMCHECK: usize = (b'M' as usize) << 24 | (b'C' as usize) << 16;
const MAKE_MEM_NOACCESS: usize = MEMCHECK;
const MAKE_MEM_DEFINED: usize = MEMCHECK + 2;

/// Whether the program runs under valgrind.
pub fn is_here() -> bool {
    // A fork's child runs where its parent does.
    static KNOWN: AtomicU8 = AtomicU8::new(0);
    match KNOWN.load(Relaxed) {
        0 => {
            let is_here = request([RUNNING_ON_VALGRIND, 0, 0, 0, 0]) != 0;
            KNOWN.store(1 + u8::from(is_here), Relaxed);
            is_here
        }
        known => known == 2,
    }
}

/// A block was allocated. Its bytes are undefined, or all written.
pub fn allocated(at: usize, len: usize, is_written: bool) {
    request([MALLOCLIKE_BLOCK, at, len, 0, usize::from(is_written)]);
}

/// A block that was told of is free: nobody may touch it.
pub fn freed(at: usize) {
    request([FREELIKE_BLOCK, at, 0, 0, 0]);
}

/// A block that was told of has another length. What is new of it is undefined.
pub fn resized(at: usize, old: usize, new: usize) {
    request([RESIZEINPLACE_BLOCK, at, old, new, 0]);
}

/// Nobody may touch these bytes.
pub fn close(at: usize, len: usize) {
    request([MAKE_MEM_NOACCESS, at, len, 0, 0]);
}

/// These bytes may be touched, and all have been written.
pub fn open(at: usize, len: usize) {
    request([MAKE_MEM_DEFINED, at, len, 0, 0]);
}

/// What this thread does from now on is not reported, until as many calls of [`report`].
pub fn hush() {
    request([CHANGE_ERR_DISABLEMENT, 1, 0, 0, 0]);
}

/// The end of what [`hush`] began.
pub fn report() {
    request([CHANGE_ERR_DISABLEMENT, usize::MAX, 0, 0, 0]);
}

#[inline(never)] // so that reports begin with it, and not with what happens to stand beside it
fn request(words: [usize; 5]) -> usize {
    let [what, a, b, c, d] = words;
    let words = [what, a, b, c, d, 0];
    let mut answer = 0;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: changes nothing but the answer's register and flags; the words are read.
    unsafe {
        core::arch::asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
            in("rax") words.as_ptr(),
            inout("rdx") answer,
            options(nostack)
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        core::arch::asm!(
            "ror x12, x12, #3",
            "ror x12, x12, #13",
            "ror x12, x12, #51",
            "ror x12, x12, #61",
            "orr x10, x10, x10",
            in("x4") words.as_ptr(),
            inout("x3") answer,
            options(nostack)
        );
    }
    answer
}
