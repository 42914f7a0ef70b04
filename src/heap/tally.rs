//! Bins and counts while a change is made: both are hints, and are put right together.
#![forbid(unsafe_code)]

use super::words::Counts;
use super::{Free, Heap};

/// What has been counted, and whether the bins have told the truth.
pub struct Tally<'a> {
    heap: &'a Heap,
    /// Set when the change ends.
    pub counts: Counts,
    honest: bool,
}

impl<'a> Tally<'a> {
    /// Begins with what is counted now.
    #[inline(always)]
    pub fn begin(heap: &'a Heap) -> Tally<'a> {
        Tally { heap, counts: heap.words.counts(), honest: true }
    }

    /// A free block leaves its bin.
    #[inline(always)]
    pub fn take(&mut self, block: Free) {
        self.counts.take_free(block.1);
        self.honest &= self.heap.bins.unlink(block).is_ok();
    }

    /// A free block of the map goes to its bin. Not after a lie: all bins are made anew then.
    #[inline(always)]
    pub fn put(&mut self, block: Free) {
        self.counts.add_free(block.1);
        self.honest = self.honest && self.heap.bins.link(block).is_ok();
    }

    /// The bins were found to lie.
    pub fn doubt(&mut self) {
        self.honest = false;
    }

    /// Whether they have told the truth so far.
    pub fn is_honest(&self) -> bool {
        self.honest
    }

    /// The change is made. What else may be wrong with the map, if the bins lied, is for others to say.
    #[inline(always)]
    pub fn end(self) {
        self.heap.words.set_counts(self.counts);
        if !self.honest {
            let _ = self.heap.mend();
        }
    }
}
