//! The heap's few words in the header: how far blocks go, how far the map is known, and counts.
#![forbid(unsafe_code)]

use crate::layout::{Geometry, HEAP_OFFSET};
use crate::region::Region;

const TOP: usize = HEAP_OFFSET;
const WATERMARK: usize = HEAP_OFFSET + 4;
const LIVE_COUNT: usize = HEAP_OFFSET + 8;
const FREE_COUNT: usize = HEAP_OFFSET + 12;
const FREE: usize = HEAP_OFFSET + 16;

/// Typed access to the heap's words. `top` and `watermark` are truth, the counts are hints.
#[derive(Clone, Copy)]
pub struct Words<'a> {
    region: &'a Region,
    geometry: &'a Geometry,
}

impl<'a> Words<'a> {
    /// The words of the pool with this geometry.
    pub fn new(region: &'a Region, geometry: &'a Geometry) -> Words<'a> {
        Words { region, geometry }
    }

    fn get(&self, offset: usize) -> u32 {
        self.region.load32(self.geometry.word(offset))
    }

    fn set(&self, offset: usize, value: u32) {
        self.region.store32(self.geometry.word(offset), value);
    }

    /// The first granule that no block covers; never beyond the pool.
    pub fn top(&self) -> u32 {
        self.get(TOP).min(self.geometry.granules)
    }

    /// Moves `top`.
    pub fn set_top(&self, granule: u32) {
        self.set(TOP, granule);
    }

    /// The first granule whose map byte is unknown; never beyond the pool.
    pub fn watermark(&self) -> u32 {
        self.get(WATERMARK).min(self.geometry.granules)
    }

    /// Moves the watermark.
    pub fn set_watermark(&self, granule: u32) {
        self.set(WATERMARK, granule);
    }

    /// Whether `0 <= top <= watermark <= granules`, which nothing but damage can end.
    pub fn are_sane(&self) -> bool {
        let (top, watermark) = (self.get(TOP), self.get(WATERMARK));
        top <= watermark && watermark <= self.geometry.granules
    }

    /// What has been counted.
    pub fn counts(&self) -> Counts {
        Counts {
            live_count: self.get(LIVE_COUNT),
            free_count: self.get(FREE_COUNT),
            free: self.get(FREE),
        }
    }

    /// Replaces the counts.
    pub fn set_counts(&self, counts: Counts) {
        self.set(LIVE_COUNT, counts.live_count);
        self.set(FREE_COUNT, counts.free_count);
        self.set(FREE, counts.free);
    }
}

/// What stands below `top`; theirs are `top - free`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Live and cached blocks.
    pub live_count: u32,
    /// Free blocks.
    pub free_count: u32,
    /// Granules in free blocks.
    pub free: u32,
}
