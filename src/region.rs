//! The buffer, by offset: every load and store is checked against the private copy of its length,
//! and is atomic, because other threads and processes may look at the same bytes.
//!
//! An access that would leave the buffer reads zero and writes nothing. Nothing above asks for
//! one (debug builds assert it); but should a number from a damaged buffer ever slip through,
//! it still cannot reach beyond.

use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicU8, Ordering::Relaxed};

/// What may be looked at in a buffer: atomics, and arrays of them. Any bytes are a value of one.
pub trait Cell: sealed::Sealed {}

mod sealed {
    use super::{AtomicU32, AtomicU64, AtomicU8};
    pub trait Sealed {}
    impl Sealed for AtomicU8 {}
    impl Sealed for AtomicU32 {}
    impl Sealed for AtomicU64 {}
    impl<T: Sealed, const N: usize> Sealed for [T; N] {}
}

impl<T: sealed::Sealed> Cell for T {}

/// A row of cells in the buffer, `1 << log2` bytes from one to the next. That it lies inside was
/// checked when it was made; of each access only the index is.
pub struct Row<T, const PACKED: bool = true> {
    first: NonNull<u8>,
    len: usize,
    log2: u32,
    cells: PhantomData<T>,
}

/// A row whose cells lie apart: one at the start of each granule.
pub type Spaced<T> = Row<T, false>;

impl<T, const PACKED: bool> Clone for Row<T, PACKED> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T, const PACKED: bool> Copy for Row<T, PACKED> {}

// SAFETY: as for the region that it is a part of.
unsafe impl<T: Cell, const PACKED: bool> Send for Row<T, PACKED> {}
// SAFETY: as above.
unsafe impl<T: Cell, const PACKED: bool> Sync for Row<T, PACKED> {}

impl<T: Cell, const PACKED: bool> Row<T, PACKED> {
    /// How many cells there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// A cell; None beyond the end.
    #[inline(always)]
    pub fn get(&self, index: usize) -> Option<&T> {
        if index >= self.len {
            return None;
        }
        let at = if PACKED { index * size_of::<T>() } else { index << self.log2 };
        // SAFETY: `Region::spaced` has checked that the cells below `len` lie in the buffer, each
        // aligned; any bytes are a value of T, and the shared reference allows others to write.
        Some(unsafe { self.first.add(at).cast::<T>().as_ref() })
    }
}

impl<T: Cell> Row<T> {
    /// Several cells side by side; None if one lies beyond the end.
    #[inline(always)]
    pub fn array<const N: usize>(&self, index: usize) -> Option<&[T; N]> {
        if index > self.len || self.len - index < N {
            return None;
        }
        // SAFETY: as in `get`; all N lie below `len`.
        Some(unsafe { self.first.add(index * size_of::<T>()).cast::<[T; N]>().as_ref() })
    }
}

/// One thing in the buffer whose place was checked when the view was made.
pub struct View<T>(NonNull<T>);

impl<T> Clone for View<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for View<T> {}

// SAFETY: as for the region that it is a part of.
unsafe impl<T: Cell> Send for View<T> {}
// SAFETY: as above.
unsafe impl<T: Cell> Sync for View<T> {}

impl<T: Cell> core::ops::Deref for View<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: `Region::view` has checked its place; as in `Row::get`.
        unsafe { self.0.as_ref() }
    }
}

/// A buffer that somebody else owns. Offsets count from its first byte.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the bytes are shared by design; all access below is atomic, but for the contents of
// blocks, which belong to one caller at a time.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// # Safety
    /// The `len` bytes from `base` stay mapped as long as the region or a copy of it is used, and
    /// readable; also writable unless only `load` functions are called.
    pub unsafe fn new(base: NonNull<u8>, len: usize) -> Region {
        Region { base, len }
    }

    /// Where the buffer lies in this process.
    pub fn address(&self) -> usize {
        self.base.as_ptr() as usize
    }

    /// The buffer's length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The address of the byte at an offset; None outside.
    pub fn pointer(&self, at: usize) -> Option<NonNull<u8>> {
        // SAFETY: at < len, and base..base + len is one mapped object.
        (at < self.len).then(|| unsafe { self.base.add(at) })
    }

    /// A typed look at an offset; None outside. Of an offset that is misaligned by address, the
    /// aligned one before it.
    #[inline(always)]
    fn cell<T>(&self, at: usize) -> Option<&T> {
        let base = self.address();
        let aligned = base.wrapping_add(at) & !(align_of::<T>() - 1);
        let inside = aligned.wrapping_sub(base);
        // One comparison: below the base wraps around to beyond the end.
        if inside > self.len.wrapping_sub(size_of::<T>()) || self.len < size_of::<T>() {
            debug_assert!(false, "access at {at} of {} bytes", self.len);
            return None;
        }
        debug_assert!(inside == at, "misaligned access at {at}");
        // SAFETY: inside the buffer and aligned; T is one of the atomics named below, any bytes
        // are a value of it, and the shared reference allows others to write.
        Some(unsafe { self.base.add(inside).cast::<T>().as_ref() })
    }

    /// A row of cells, side by side from an offset on. None if they are not all inside, or not
    /// aligned.
    pub fn row<T: Cell>(&self, at: usize, len: usize) -> Option<Row<T>> {
        let Row { first, len, log2, .. } =
            self.spaced::<T>(at, len, size_of::<T>().next_power_of_two().ilog2())?;
        Some(Row { first, len, log2, cells: PhantomData })
    }

    /// A row of cells, one in each `1 << log2` bytes from an offset on. None as for [`Region::row`].
    pub fn spaced<T: Cell>(&self, at: usize, len: usize, log2: u32) -> Option<Spaced<T>> {
        let bytes = len.checked_mul(1usize.checked_shl(log2)?)?;
        let fits = at <= self.len && bytes <= self.len - at && size_of::<T>() <= 1 << log2;
        let is_aligned =
            (self.address() + at) % align_of::<T>() == 0 && align_of::<T>() <= 1 << log2;
        if !fits || !is_aligned {
            return None;
        }
        // SAFETY: at <= len, and base..base + len is one mapped object.
        let first = unsafe { self.base.add(at) };
        Some(Row { first, len, log2, cells: PhantomData })
    }

    /// What lies at an offset. None as for [`Region::row`].
    pub fn view<T: Cell>(&self, at: usize) -> Option<View<T>> {
        let fits = at <= self.len && size_of::<T>() <= self.len - at;
        if !fits || (self.address() + at) % align_of::<T>() != 0 {
            return None;
        }
        // SAFETY: at <= len, and base..base + len is one mapped object.
        Some(View(unsafe { self.base.add(at) }.cast()))
    }

    /// One byte.
    pub fn load8(&self, at: usize) -> u8 {
        self.cell::<AtomicU8>(at).map_or(0, |cell| cell.load(Relaxed))
    }

    /// One byte.
    pub fn store8(&self, at: usize, value: u8) {
        if let Some(cell) = self.cell::<AtomicU8>(at) {
            cell.store(value, Relaxed);
        }
    }

    /// Four aligned bytes.
    pub fn load32(&self, at: usize) -> u32 {
        self.word32(at).map_or(0, |cell| cell.load(Relaxed))
    }

    /// Four aligned bytes.
    pub fn store32(&self, at: usize, value: u32) {
        if let Some(cell) = self.word32(at) {
            cell.store(value, Relaxed);
        }
    }

    /// Eight aligned bytes.
    pub fn load64(&self, at: usize) -> u64 {
        self.word64(at).map_or(0, |cell| cell.load(Relaxed))
    }

    /// Eight aligned bytes.
    pub fn store64(&self, at: usize, value: u64) {
        if let Some(cell) = self.word64(at) {
            cell.store(value, Relaxed);
        }
    }

    /// The atomic byte itself.
    pub fn word8(&self, at: usize) -> Option<&AtomicU8> {
        self.cell(at)
    }

    /// The atomic word itself, for a lock.
    pub fn word32(&self, at: usize) -> Option<&AtomicU32> {
        self.cell(at)
    }

    /// The atomic word itself, for a counter, or a flag that publishes others.
    pub fn word64(&self, at: usize) -> Option<&AtomicU64> {
        self.cell(at)
    }

    /// Eight bytes at any address, one by one: not one event.
    pub fn load64_bytewise(&self, at: usize) -> u64 {
        u64::from_le_bytes(core::array::from_fn(|i| self.load8(at + i)))
    }

    /// Sets `[at, at + len)` to zero with atomic stores.
    pub fn clear(&self, at: usize, len: usize) {
        self.store_all(at, len, 0);
    }

    /// Sets `[at, at + len)` to a byte with atomic stores, eight bytes at a time where it can.
    fn store_all(&self, at: usize, len: usize, byte: u8) {
        let end = at + len;
        let mut at = at;
        while at < end && (self.address() + at) % 8 != 0 {
            self.store8(at, byte);
            at += 1;
        }
        while end - at >= 8 {
            self.store64(at, u64::from_ne_bytes([byte; 8]));
            at += 8;
        }
        while at < end {
            self.store8(at, byte);
            at += 1;
        }
    }

    /// Offset of the first byte of `[at, end)` with one of the bits of `mask` set; whole words at
    /// a time where none is.
    pub fn find_bits(&self, mask: u8, at: usize, end: usize) -> Option<usize> {
        let masks = u64::from_ne_bytes([mask; 8]);
        let mut at = at;
        while at < end {
            let whole = (self.address() + at) % 8 == 0 && end - at >= 8;
            if whole && self.load64(at) & masks == 0 {
                at += 8;
            } else if self.load8(at) & mask != 0 {
                return Some(at);
            } else {
                at += 1;
            }
        }
        None
    }

    /// Offset of the last byte of `[from, end)` with one of the bits of `mask` set; whole words at a
    /// time where none is.
    pub fn find_bits_back(&self, mask: u8, from: usize, end: usize) -> Option<usize> {
        let masks = u64::from_ne_bytes([mask; 8]);
        let mut end = end;
        while end > from {
            let whole = (self.address() + end) % 8 == 0 && end - from >= 8;
            if whole && self.load64(end - 8) & masks == 0 {
                end -= 8;
            } else if self.load8(end - 1) & mask != 0 {
                return Some(end - 1);
            } else {
                end -= 1;
            }
        }
        None
    }

    /// Offset of the first byte of `[at, end)` that is another than this; whole words at a time.
    pub fn find_other(&self, byte: u8, at: usize, end: usize) -> Option<usize> {
        let is_other = |at: &usize| self.load8(*at) != byte;
        let first = end.min(at + (self.address() + at).wrapping_neg() % 8);
        let words = self.row::<AtomicU64>(first, end.saturating_sub(first) / 8);
        let same = u64::from_ne_bytes([byte; 8]);
        let is_same = |word: &AtomicU64| word.load(Relaxed) == same;
        let count = words.map_or(0, |words| {
            (0..words.len()).take_while(|&at| words.get(at).is_some_and(is_same)).count()
        });
        let rest = first + 8 * count;
        (at..first).find(is_other).or_else(|| (rest..end).find(is_other))
    }

    /// Sets the contents of a block that the caller is about to own.
    pub fn fill(&self, at: usize, len: usize, byte: u8) {
        if at <= self.len && len <= self.len - at {
            // The C library's function is watched by AddressSanitizer, which is told of guards and of free
            // memory that nobody may touch.
            if cfg!(feature = "asan") {
                return self.store_all(at, len, byte);
            }
            // SAFETY: inside the buffer; a block is written by nobody else before it is delivered.
            unsafe { self.base.add(at).write_bytes(byte, len) };
        } else {
            debug_assert!(false, "fill at {at} of {} bytes", self.len);
        }
    }

    /// Copies the contents of one block to another.
    pub fn copy(&self, from: usize, to: usize, len: usize) {
        let fits = |at: usize| at <= self.len && len <= self.len - at;
        if fits(from) && fits(to) {
            // SAFETY: both inside the buffer; `copy` allows them to overlap.
            unsafe { self.base.add(to).copy_from(self.base.add(from), len) };
        } else {
            debug_assert!(false, "copy {from} to {to} of {} bytes", self.len);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A region for tests of modules that forbid unsafe code; the bytes must outlive it.
    pub(crate) fn region(base: NonNull<u8>, len: usize) -> Region {
        // SAFETY: tests only, and each keeps its bytes alive.
        unsafe { Region::new(base, len) }
    }

    #[test]
    fn bits_are_found_at_every_place() {
        let mut bytes = [0u64; 8];
        let region = region(NonNull::from(&mut bytes).cast(), 61);
        for at in 0..61 {
            region.store8(at, 0x40);
            for from in 0..61 {
                let expected = (from <= at).then_some(at);
                assert_eq!(region.find_bits(0xc0, from, 61), expected);
                assert_eq!(region.find_bits(0x3f, from, 61), None);
                assert_eq!(region.find_bits_back(0xc0, 0, from), (at < from).then_some(at));
                assert_eq!(region.find_bits_back(0xc0, from, 61), expected);
                assert_eq!(region.find_bits_back(0x3f, 0, from), None);
                assert_eq!(region.find_other(0, from, 61), expected);
                assert_eq!(region.find_other(0, 0, from), (at < from).then_some(at));
            }
            region.clear(at, 1);
        }
    }

    #[test]
    #[cfg_attr(debug_assertions, should_panic(expected = "access at 16 of 16"))]
    fn beyond_the_end_reads_zero_and_writes_nothing() {
        let mut bytes = [7u64; 3];
        let region = region(NonNull::from(&mut bytes).cast(), 16);
        region.store64(16, 1);
        assert_eq!(region.load64(16), 0);
        assert_eq!(bytes[2], 7);
    }
}
