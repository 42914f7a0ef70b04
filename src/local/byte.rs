//! Loads and steps of a byte of which the compiler makes more than one instruction: the count of a
//! magazine and a byte of the map as numbers. All are loads and stores of one byte, thus atomic.

pub use means::*;

#[cfg(target_arch = "x86_64")]
mod means {
    use super::super::Magazine;
    use crate::layout::COUNT_AT;
    use core::arch::asm;
    use core::sync::atomic::AtomicU8;

    #[inline(always)]
    pub fn count(magazine: &Magazine) -> usize {
        let count: usize;
        // SAFETY: loads the count and nothing else.
        unsafe {
            asm!(
                "movzx {count:e}, byte ptr [{magazine} + {at}]",
                magazine = in(reg) magazine,
                at = const COUNT_AT,
                count = lateout(reg) count,
                options(readonly, nostack, preserves_flags)
            );
            core::hint::assert_unchecked(count <= 0xff);
        }
        count
    }

    #[inline(always)]
    pub fn count_up(magazine: &Magazine) {
        // SAFETY: changes the count and nothing else.
        unsafe {
            asm!("inc byte ptr [{} + {}]", in(reg) magazine, const COUNT_AT, options(nostack));
        }
    }

    #[inline(always)]
    pub fn count_down(magazine: &Magazine) {
        // SAFETY: changes the count and nothing else.
        unsafe {
            asm!("dec byte ptr [{} + {}]", in(reg) magazine, const COUNT_AT, options(nostack));
        }
    }

    /// # Safety
    /// The byte is there.
    #[inline(always)]
    pub unsafe fn load(bytes: *const AtomicU8, index: usize) -> usize {
        let value: usize;
        // SAFETY: loads the byte and nothing else.
        unsafe {
            asm!(
                "movzx {value:e}, byte ptr [{bytes} + {index}]",
                bytes = in(reg) bytes,
                index = in(reg) index,
                value = lateout(reg) value,
                options(readonly, nostack, preserves_flags)
            );
            core::hint::assert_unchecked(value <= 0xff);
        }
        value
    }
}

/// By the language's own means.
#[cfg(not(target_arch = "x86_64"))]
mod means {
    use super::super::Magazine;
    use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

    pub fn count(magazine: &Magazine) -> usize {
        usize::from(magazine.count.load(Relaxed))
    }

    pub fn count_up(magazine: &Magazine) {
        magazine.count.store(magazine.count.load(Relaxed).wrapping_add(1), Relaxed);
    }

    pub fn count_down(magazine: &Magazine) {
        magazine.count.store(magazine.count.load(Relaxed).wrapping_sub(1), Relaxed);
    }

    /// # Safety
    /// The byte is there.
    pub unsafe fn load(bytes: *const AtomicU8, index: usize) -> usize {
        // SAFETY: as promised by the caller.
        usize::from(unsafe { &*bytes.add(index) }.load(Relaxed))
    }
}
