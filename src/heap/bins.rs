//! Free blocks by size: two-level segregated fit (Masmano, Ripoll, Crespo, Real: TLSF, 2004).
//!
//! ```text
//! header | bitmap: a bit for each bin that is not empty | head of bin 0 | head of bin 1 | ..
//!
//! a free block's first granule: | next (u32) | prev (u32) | ...   granule numbers, NONE at ends,
//!                                                                 each XORed with KEY
//! ```
//!
//! With KEY the bytes that programs fill memory with (00, ff) name no block, and not NONE either.
//!
//! All of it is a hint: it lies in memory that a stale pointer may scribble over. So each step is
//! checked against the map before it is taken, and a list is never followed in a circle, because
//! the `prev` of each block must be the one just left. What does not agree is a [`Lie`]; the heap
//! then makes the bins anew from the map.
#![forbid(unsafe_code)]

use super::words::Words;
use crate::layout::Geometry;
use crate::map::{Entry, Map};
use crate::region::Region;
use crate::stats::State;

/// No block.
const NONE: u32 = u32::MAX;
const KEY: u32 = 0x5a93_c6e1;
/// How many blocks of its own bin a request looks at before it goes to the next larger bin.
const GLANCE: u32 = 4;
/// How many blocks of the highest bin are looked at for the largest.
const LARGEST_LOOK: u32 = 64;

/// The bins disagree with the map, or with themselves.
#[derive(Debug, PartialEq, Eq)]
pub struct Lie;

type Honest<T> = Result<T, Lie>;

/// A free block: first granule and size.
pub type Free = (u32, u32);

/// The bins of a pool.
#[derive(Clone, Copy)]
pub struct Bins<'a> {
    region: &'a Region,
    geometry: &'a Geometry,
    map: Map<'a>,
    words: Words<'a>,
}

impl<'a> Bins<'a> {
    /// The bins of the pool with this geometry.
    pub fn new(region: &'a Region, geometry: &'a Geometry, map: Map<'a>, words: Words<'a>) -> Self {
        Bins { region, geometry, map, words }
    }

    /// Empties all bins. O(bins).
    pub fn reset(&self) {
        for word in 0..self.geometry.bitmap_words() {
            self.region.store64(self.geometry.bitmap() + word as usize * 8, 0);
        }
        for bin in 0..self.geometry.bin_count {
            self.set_head(bin, NONE);
        }
    }

    /// Adds a free block, as the map has it. O(1).
    pub fn link(&self, block: Free) -> Honest<()> {
        let (granule, size) = block;
        let bin = self.geometry.bin_of(size);
        let next = self.head(bin);
        if next != NONE && !(self.belongs(next, bin) && self.prev(next) == NONE) {
            return Err(Lie);
        }
        self.set_next(granule, next);
        self.set_prev(granule, NONE);
        if next != NONE {
            self.set_prev(next, granule);
        }
        self.set_head(bin, granule);
        self.set_bit(bin, true);
        Ok(())
    }

    /// Whether a free block of the map is in its bin, as its links and theirs agree. O(1).
    pub fn hold(&self, block: Free) -> Honest<()> {
        self.links(block).map(|_| ())
    }

    /// Takes a free block out; the map must still have it. O(1).
    pub fn unlink(&self, block: Free) -> Honest<()> {
        let bin = self.geometry.bin_of(block.1);
        let (next, prev) = self.links(block)?;
        if next != NONE {
            self.set_prev(next, prev);
        }
        if prev != NONE {
            self.set_next(prev, next);
            return Ok(());
        }
        self.set_head(bin, next);
        if next == NONE {
            self.set_bit(bin, false);
        }
        Ok(())
    }

    /// A free block's neighbours in its bin, next and previous, which must agree.
    fn links(&self, block: Free) -> Honest<(u32, u32)> {
        let (granule, size) = block;
        let bin = self.geometry.bin_of(size);
        let (next, prev) = (self.next(granule), self.prev(granule));
        let next_agrees = next == NONE || self.belongs(next, bin) && self.prev(next) == granule;
        let prev_agrees = if prev == NONE {
            self.head(bin) == granule
        } else {
            self.belongs(prev, bin) && self.next(prev) == granule
        };
        if next_agrees && prev_agrees {
            Ok((next, prev))
        } else {
            Err(Lie)
        }
    }

    /// A free block of `size` granules or more that `fits`: the best of the first few in its own
    /// bin, else any of the next larger bin of which every block has `enough`. O(1).
    pub fn find(
        &self,
        size: u32,
        enough: u32,
        fits: impl Fn(Free) -> bool,
    ) -> Honest<Option<Free>> {
        let own = self.geometry.bin_of(size);
        if self.bit(own) {
            let mut best: Option<Free> = None;
            self.each(own, GLANCE, |block| {
                if fits(block) && best.is_none_or(|(_, least)| block.1 < least) {
                    best = Some(block);
                }
                true
            })?;
            if best.is_some() {
                return Ok(best);
            }
        }
        let Some(bin) = self.bin_of_all_at_least(enough).and_then(|bin| self.next_bit(bin)) else {
            return Ok(None);
        };
        let mut found = None;
        self.each(bin, 1, |block| {
            found = Some(block).filter(|&block| fits(block));
            found.is_some()
        })?;
        // Every block of that bin is large enough: a bin that has none was said to have one.
        found.map(Some).ok_or(Lie)
    }

    /// Any free block that `fits`, of all that have `size` granules or more: what a failing
    /// allocation asks for last. O(free blocks).
    pub fn find_exactly(&self, size: u32, fits: impl Fn(Free) -> bool) -> Honest<Option<Free>> {
        let mut found = None;
        for bin in self.geometry.bin_of(size)..self.geometry.bin_count {
            if (self.head(bin) != NONE) != self.bit(bin) {
                return Err(Lie);
            }
            self.each(bin, u32::MAX, |block| {
                found = Some(block).filter(|&block| fits(block));
                found.is_none()
            })?;
            if found.is_some() {
                break;
            }
        }
        Ok(found)
    }

    /// The size of the largest free block; should more than 64 share the highest bin, of the
    /// largest among the first 64, which is less by no more than the bin is wide. O(1).
    pub fn largest(&self) -> Honest<u32> {
        let words = (0..self.geometry.bitmap_words()).rev();
        let highest = words.map(|word| (word, self.bitmap(word))).find(|&(_, bits)| bits != 0);
        let Some((word, bits)) = highest else { return Ok(0) };
        let mut largest = 0;
        self.each(word * 64 + bits.ilog2(), LARGEST_LOOK, |(_, size)| {
            largest = largest.max(size);
            true
        })?;
        Ok(largest)
    }

    /// Counts all blocks of all bins, checking each link, bit and bin. O(free blocks).
    pub fn count(&self) -> Honest<u32> {
        let mut count = 0u32;
        for bin in 0..self.geometry.bin_count {
            if (self.head(bin) != NONE) != self.bit(bin) {
                return Err(Lie);
            }
            self.each(bin, u32::MAX, |_| {
                count = count.saturating_add(1);
                true
            })?;
        }
        Ok(count)
    }

    /// Shows the first `most` blocks of a bin until told to stop, each checked.
    fn each(&self, bin: u32, most: u32, mut visit: impl FnMut(Free) -> bool) -> Honest<()> {
        let most = most.min(self.geometry.granules);
        let (mut granule, mut last) = (self.head(bin), NONE);
        for _ in 0..most {
            if granule == NONE {
                return Ok(());
            }
            let size = self.free_size(granule).ok_or(Lie)?;
            if self.geometry.bin_of(size) != bin || self.prev(granule) != last {
                return Err(Lie);
            }
            if !visit((granule, size)) {
                return Ok(());
            }
            (last, granule) = (granule, self.next(granule));
        }
        Ok(())
    }

    /// The size of the free block that the map has here.
    fn free_size(&self, granule: u32) -> Option<u32> {
        match self.map.read(granule, self.words.watermark())? {
            Entry { state: State::Free, size } => Some(size),
            _ => None,
        }
    }

    fn belongs(&self, granule: u32, bin: u32) -> bool {
        self.free_size(granule).is_some_and(|size| self.geometry.bin_of(size) == bin)
    }

    /// The lowest bin of which every block has at least this size.
    fn bin_of_all_at_least(&self, size: u32) -> Option<u32> {
        if size > self.geometry.granules {
            return None;
        }
        let bin = self.geometry.bin_of(size);
        let is_least = size == 1 || self.geometry.bin_of(size - 1) < bin;
        Some(if is_least { bin } else { bin + 1 })
    }

    /// The first bin from this one on whose bit is set.
    fn next_bit(&self, bin: u32) -> Option<u32> {
        let first = bin / 64;
        (first..self.geometry.bitmap_words()).find_map(|word| {
            let below = if word == first { (1 << (bin % 64)) - 1 } else { 0 };
            let bits = self.bitmap(word) & !below;
            let bin = word * 64 + bits.trailing_zeros();
            (bits != 0 && bin < self.geometry.bin_count).then_some(bin)
        })
    }

    fn bitmap(&self, word: u32) -> u64 {
        self.region.load64(self.geometry.bitmap() + word as usize * 8)
    }

    fn bit(&self, bin: u32) -> bool {
        self.bitmap(bin / 64) >> (bin % 64) & 1 != 0
    }

    fn set_bit(&self, bin: u32, set: bool) {
        let word = bin / 64;
        let mask = 1 << (bin % 64);
        let bits = self.bitmap(word);
        let bits = if set { bits | mask } else { bits & !mask };
        self.region.store64(self.geometry.bitmap() + word as usize * 8, bits);
    }

    fn head(&self, bin: u32) -> u32 {
        if bin < self.geometry.bin_count {
            self.region.load32(self.geometry.bins() + bin as usize * 4)
        } else {
            NONE
        }
    }

    fn set_head(&self, bin: u32, granule: u32) {
        debug_assert!(bin < self.geometry.bin_count);
        self.region.store32(self.geometry.bins() + bin as usize * 4, granule);
    }

    fn next(&self, granule: u32) -> u32 {
        self.region.load32(self.geometry.offset(granule)) ^ KEY
    }

    fn prev(&self, granule: u32) -> u32 {
        self.region.load32(self.geometry.offset(granule) + 4) ^ KEY
    }

    fn set_next(&self, granule: u32, next: u32) {
        self.region.store32(self.geometry.offset(granule), next ^ KEY);
    }

    fn set_prev(&self, granule: u32, prev: u32) {
        self.region.store32(self.geometry.offset(granule) + 4, prev ^ KEY);
    }
}
