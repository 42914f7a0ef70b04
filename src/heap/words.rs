//! The heap's few words in the header: how far blocks go, how far the map is known, and counts.
#![forbid(unsafe_code)]

use crate::layout::{Geometry, Header32, HEAP_OFFSET, NAMES_OFFSET};
use crate::region::{Region, View};
use core::sync::atomic::Ordering::Relaxed;

const TOP: usize = HEAP_OFFSET / 4;
const WATERMARK: usize = TOP + 1;
const LIVE_COUNT: usize = TOP + 2;
const FREE_COUNT: usize = TOP + 3;
const FREE: usize = TOP + 4;
const LOOSE: usize = TOP + 5;
const HAND: usize = TOP + 6;
const ROOT: usize = NAMES_OFFSET / 4 + 1;
const META: usize = NAMES_OFFSET / 4 + 2;

/// Typed access to the heap's words. `top`, `watermark` and the root are truth, the others are hints.
#[derive(Clone, Copy)]
pub struct Words {
    header: View<Header32>,
    granules: u32,
}

impl Words {
    /// The words of the pool with this geometry; None if it would not lie in the region.
    pub fn new(region: &Region, geometry: &Geometry) -> Option<Words> {
        Some(Words { header: region.view(geometry.header)?, granules: geometry.granules })
    }

    #[inline(always)]
    fn get(&self, word: usize) -> u32 {
        self.header[word].load(Relaxed)
    }

    #[inline(always)]
    fn set(&self, word: usize, value: u32) {
        self.header[word].store(value, Relaxed);
    }

    /// The first granule that no block covers; never beyond the pool.
    pub fn top(&self) -> u32 {
        self.get(TOP).min(self.granules)
    }

    /// Moves `top`.
    pub fn set_top(&self, granule: u32) {
        self.set(TOP, granule);
    }

    /// The first granule whose map byte is unknown; never beyond the pool.
    pub fn watermark(&self) -> u32 {
        self.get(WATERMARK).min(self.granules)
    }

    /// Moves the watermark.
    pub fn set_watermark(&self, granule: u32) {
        self.set(WATERMARK, granule);
    }

    /// Whether `0 <= top <= watermark <= granules`, which nothing but damage can end.
    pub fn are_sane(&self) -> bool {
        let (top, watermark) = (self.get(TOP), self.get(WATERMARK));
        top <= watermark && watermark <= self.granules
    }

    /// Where the next look for loose blocks begins.
    pub fn hand(&self) -> u32 {
        self.get(HAND)
    }

    /// Moves the hand.
    pub fn set_hand(&self, granule: u32) {
        self.set(HAND, granule);
    }

    /// How many blocks are loose.
    pub fn loose(&self) -> u32 {
        self.get(LOOSE)
    }

    /// The root block, if there is one.
    pub fn root(&self) -> Option<u32> {
        self.get(ROOT).checked_sub(1)
    }

    /// Makes a block the root, or none.
    pub fn set_root(&self, granule: Option<u32>) {
        self.set(ROOT, granule.map_or(0, |granule| granule + 1));
    }

    /// Granules in blocks of the pool's own: never more than there are.
    pub fn meta(&self) -> u32 {
        self.get(META).min(self.granules)
    }

    /// Replaces that count, which changes more seldom than the others.
    pub fn set_meta(&self, granules: u32) {
        self.set(META, granules);
    }

    /// What has been counted.
    pub fn counts(&self) -> Counts {
        Counts {
            live_count: self.get(LIVE_COUNT),
            free_count: self.get(FREE_COUNT),
            free: self.get(FREE),
            loose: self.get(LOOSE),
        }
    }

    /// Replaces the counts.
    pub fn set_counts(&self, counts: Counts) {
        self.set(LIVE_COUNT, counts.live_count);
        self.set(FREE_COUNT, counts.free_count);
        self.set(FREE, counts.free);
        self.set(LOOSE, counts.loose);
    }
}

/// What stands below `top`; theirs are `top - free`, but for the pool's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Live and cached blocks.
    pub live_count: u32,
    /// Free blocks, the loose ones among them.
    pub free_count: u32,
    /// Granules in free blocks.
    pub free: u32,
    /// Loose blocks.
    pub loose: u32,
}

impl Counts {
    /// A free block more.
    pub fn add_free(&mut self, size: u32) {
        self.free_count = self.free_count.wrapping_add(1);
        self.free = self.free.wrapping_add(size);
    }

    /// A free block less.
    pub fn take_free(&mut self, size: u32) {
        self.free_count = self.free_count.wrapping_sub(1);
        self.free = self.free.wrapping_sub(size);
    }

    /// So many free blocks of a size more, which are loose.
    pub fn add_loose(&mut self, count: u32, size: u32) {
        self.free_count = self.free_count.wrapping_add(count);
        self.free = self.free.wrapping_add(count.wrapping_mul(size));
        self.loose = self.loose.wrapping_add(count);
    }

    /// A free block less, which was loose.
    pub fn take_loose(&mut self, size: u32) {
        self.take_free(size);
        self.loose = self.loose.wrapping_sub(1);
    }
}
