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
//! checked before it is taken: a link counts only if the block it names links back, what is to be
//! handed out must be a free block of the map, and a list is never followed in a circle, because
//! the `prev` of each block must be the one just left. What does not agree is a [`Lie`]; the heap
//! then makes the bins anew from the map.
#![forbid(unsafe_code)]

use super::words::Words;
use crate::layout::{self, Geometry};
use crate::map::{Entry, Map, State};
use crate::region::{Region, Row, Spaced};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

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

/// Where a free block keeps its links.
type Links = [AtomicU32; 2];

/// The bins of a pool.
#[derive(Clone, Copy)]
pub struct Bins {
    bitmap: Row<AtomicU64>,
    heads: Row<AtomicU32>,
    links: Spaced<Links>,
    map: Map,
    words: Words,
    /// log2 of the bins to a doubling.
    log2: u32,
}

impl Bins {
    /// The bins of the pool with this geometry; None if they would not lie in the region.
    pub fn new(region: &Region, geometry: &Geometry, map: Map, words: Words) -> Option<Bins> {
        let granules = geometry.granules as usize;
        Some(Bins {
            bitmap: region.row(geometry.bitmap(), geometry.bitmap_words() as usize)?,
            heads: region.row(geometry.bins(), geometry.bin_count as usize)?,
            links: region.spaced(geometry.first, granules, geometry.align_log2)?,
            map,
            words,
            log2: geometry.bin_log2,
        })
    }

    fn bin_of(&self, size: u32) -> u32 {
        layout::bin_of(size, self.log2)
    }

    fn granules(&self) -> u32 {
        self.links.len() as u32
    }

    fn bin_count(&self) -> u32 {
        self.heads.len() as u32
    }

    /// Empties all bins. O(bins).
    pub fn reset(&self) {
        for word in 0..self.bitmap.len() {
            self.set_bits(word, 0);
        }
        for bin in 0..self.bin_count() {
            self.set_head(bin, NONE);
        }
    }

    /// Adds a free block, as the map has it. O(1).
    pub fn link(&self, block: Free) -> Honest<()> {
        let (granule, size) = block;
        let bin = self.bin_of(size);
        let next = self.head(bin);
        // Else the blocks of this bin are hidden, and would be from now on without a contradiction.
        if (next != NONE) != self.bit(bin) {
            return Err(Lie);
        }
        if next == NONE {
            self.set_bit(bin, true);
        } else {
            let behind = self.links.get(next as usize).ok_or(Lie)?;
            if read(&behind[PREV]) != NONE {
                return Err(Lie);
            }
            write(&behind[PREV], granule);
        }
        let own = self.links.get(granule as usize).ok_or(Lie)?;
        write(&own[NEXT], next);
        write(&own[PREV], NONE);
        self.set_head(bin, granule);
        Ok(())
    }

    /// Which of a free block's link words, if one, names neither nothing nor a free block of its bin:
    /// somebody wrote to it. O(1).
    pub fn odd_link(&self, block: Free) -> Option<usize> {
        let own = self.links.get(block.0 as usize)?;
        own.iter().position(|link| self.is_odd(read(link), block.1))
    }

    fn is_odd(&self, link: u32, size: u32) -> bool {
        let names = |size: u32| self.bin_of(size);
        link != NONE && self.free_size(link).map(names) != Some(names(size))
    }

    /// Makes the link words of a block that is in no bin any more what free memory consists of; but not
    /// what somebody wrote there, which is to be found. O(1).
    pub fn erase_links(&self, block: Free, byte: u8) {
        let Some(own) = self.links.get(block.0 as usize) else { return };
        for link in own.iter().filter(|link| !self.is_odd(read(link), block.1)) {
            link.store(u32::from_ne_bytes([byte; 4]), Relaxed);
        }
    }

    /// Whether a free block of the map is in its bin, as its links and theirs agree. O(1).
    pub fn hold(&self, block: Free) -> Honest<()> {
        self.links(block).map(|_| ())
    }

    /// Takes a free block out. O(1).
    pub fn unlink(&self, block: Free) -> Honest<()> {
        let around = self.links(block)?;
        let (next, prev) = (around.next, around.prev);
        if let Some(behind) = around.behind {
            write(&behind[PREV], prev);
        }
        if let Some(before) = around.before {
            write(&before[NEXT], next);
            return Ok(());
        }
        let bin = self.bin_of(block.1);
        self.set_head(bin, next);
        if next == NONE {
            self.set_bit(bin, false);
        }
        Ok(())
    }

    /// A free block's neighbours in its bin, which must agree that they are.
    #[inline]
    fn links(&self, block: Free) -> Honest<Around<'_>> {
        let (granule, size) = block;
        let own = self.links.get(granule as usize).ok_or(Lie)?;
        let (next, prev) = (read(&own[NEXT]), read(&own[PREV]));
        let behind = self.links.get(next as usize);
        let before = self.links.get(prev as usize);
        let next_agrees = match behind {
            Some(links) => read(&links[PREV]) == granule,
            None => next == NONE,
        };
        let prev_agrees = match before {
            Some(links) => read(&links[NEXT]) == granule,
            None => prev == NONE && self.head(self.bin_of(size)) == granule,
        };
        if next_agrees && prev_agrees {
            Ok(Around { next, prev, behind, before })
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
        let own = self.bin_of(size);
        if self.bit(own) {
            let mut best: Option<Free> = None;
            self.each(own, GLANCE, |block| {
                if fits(block) && best.is_none_or(|(_, least)| block.1 < least) {
                    best = Some(block);
                }
                best.is_none_or(|(_, least)| least > size)
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
        for bin in self.bin_of(size)..self.bin_count() {
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
        let words = (0..self.bitmap.len()).rev();
        let highest = words.map(|word| (word, self.bits(word))).find(|&(_, bits)| bits != 0);
        let Some((word, bits)) = highest else { return Ok(0) };
        let mut largest = 0;
        self.each(word as u32 * 64 + bits.ilog2(), LARGEST_LOOK, |(_, size)| {
            largest = largest.max(size);
            true
        })?;
        // The bin was said to have a block.
        Some(largest).filter(|&largest| largest > 0).ok_or(Lie)
    }

    /// Counts all blocks of all bins, checking each link, bit and bin; calls `show_progress` at each.
    /// O(free blocks).
    pub fn count(&self, show_progress: impl Fn()) -> Honest<u32> {
        let mut count = 0u32;
        for bin in 0..self.bin_count() {
            if (self.head(bin) != NONE) != self.bit(bin) {
                return Err(Lie);
            }
            self.each(bin, u32::MAX, |_| {
                count = count.saturating_add(1);
                show_progress();
                true
            })?;
        }
        Ok(count)
    }

    /// Shows the first `most` blocks of a bin until told to stop, each checked.
    #[inline]
    fn each(&self, bin: u32, most: u32, mut visit: impl FnMut(Free) -> bool) -> Honest<()> {
        let most = most.min(self.granules());
        let (mut granule, mut last) = (self.head(bin), NONE);
        for _ in 0..most {
            if granule == NONE {
                return Ok(());
            }
            let links = self.links.get(granule as usize).ok_or(Lie)?;
            let size = self.free_size(granule).ok_or(Lie)?;
            if self.bin_of(size) != bin || read(&links[PREV]) != last {
                return Err(Lie);
            }
            if !visit((granule, size)) {
                return Ok(());
            }
            (last, granule) = (granule, read(&links[NEXT]));
        }
        Ok(())
    }

    /// The size of the free block that the map has here.
    fn free_size(&self, granule: u32) -> Option<u32> {
        match self.map.read(granule, self.words.top())? {
            Entry { state: State::Free, size } => Some(size),
            _ => None,
        }
    }

    /// The lowest bin of which every block has at least this size.
    fn bin_of_all_at_least(&self, size: u32) -> Option<u32> {
        if size > self.granules() {
            return None;
        }
        let bin = self.bin_of(size);
        let is_least = size == 1 || self.bin_of(size - 1) < bin;
        Some(if is_least { bin } else { bin + 1 })
    }

    /// The first bin from this one on whose bit is set.
    fn next_bit(&self, bin: u32) -> Option<u32> {
        let first = bin as usize / 64;
        (first..self.bitmap.len()).find_map(|word| {
            let below = if word == first { (1 << (bin % 64)) - 1 } else { 0 };
            let bits = self.bits(word) & !below;
            let bin = word as u32 * 64 + bits.trailing_zeros();
            (bits != 0 && bin < self.bin_count()).then_some(bin)
        })
    }

    fn bits(&self, word: usize) -> u64 {
        self.bitmap.get(word).map_or(0, |bits| bits.load(Relaxed))
    }

    fn set_bits(&self, word: usize, bits: u64) {
        if let Some(word) = self.bitmap.get(word) {
            word.store(bits, Relaxed);
        }
    }

    fn bit(&self, bin: u32) -> bool {
        self.bits(bin as usize / 64) >> (bin % 64) & 1 != 0
    }

    fn set_bit(&self, bin: u32, set: bool) {
        let word = bin as usize / 64;
        let mask = 1 << (bin % 64);
        let bits = self.bits(word);
        self.set_bits(word, if set { bits | mask } else { bits & !mask });
    }

    fn head(&self, bin: u32) -> u32 {
        self.heads.get(bin as usize).map_or(NONE, |head| head.load(Relaxed))
    }

    fn set_head(&self, bin: u32, granule: u32) {
        debug_assert!(bin < self.bin_count());
        if let Some(head) = self.heads.get(bin as usize) {
            head.store(granule, Relaxed);
        }
    }
}

/// A free block's neighbours in its bin.
struct Around<'a> {
    next: u32,
    prev: u32,
    behind: Option<&'a Links>,
    before: Option<&'a Links>,
}

const NEXT: usize = 0;
const PREV: usize = 1;

fn read(link: &AtomicU32) -> u32 {
    link.load(Relaxed) ^ KEY
}

fn write(link: &AtomicU32, granule: u32) {
    link.store(granule ^ KEY, Relaxed);
}
