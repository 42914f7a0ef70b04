//! Slots: words in the callers' blocks that name a block, or are 0. A block is delivered to one, or
//! taken from it and freed, as one event.
//!
//! The record can hand a block from one change to the next without a gap, and so:
//!
//! ```text
//! malloc_to   Alloc    the block is nobody's: who recovers frees it
//!             Deliver  it is the slot's: who recovers sees to it that the slot holds it
//! free_from   Recall   it is nobody's: who recovers empties the slot and frees the block
//!             Free     as ever
//! ```
//!
//! The event is the store of the seal of *Deliver* or *Recall*; the slot itself is written after it.
//! When such a change is made again, somebody may have changed the slot since: the slot is only
//! written if it still holds what it held before. And the map is left alone, for what is in a slot
//! may have been freed by who found it there.
#![forbid(unsafe_code)]

use super::change::{Change, Kind, Taker};
use super::Heap;
use core::sync::atomic::Ordering::{AcqRel, Relaxed};

impl Heap {
    /// Makes the slot at an offset hold the block that the change under way has made. False if the
    /// slot was not 0: then the block is nobody's still, and to be freed.
    pub fn deliver_to(&self, granule: u32, slot: usize) -> bool {
        self.change_slot(Kind::Deliver, granule, slot)
    }

    /// Makes the slot at an offset, which holds a live block, 0. The block is to be freed next.
    /// False if the slot holds another block by now: then nothing is changed.
    pub fn recall_from(&self, granule: u32, slot: usize) -> bool {
        self.hold(granule);
        let is_recalled = self.change_slot(Kind::Recall, granule, slot);
        if !is_recalled {
            self.let_go(granule);
        }
        is_recalled
    }

    fn change_slot(&self, kind: Kind, granule: u32, slot: usize) -> bool {
        let taker = Taker::of_one(slot, 0);
        let change = Change { taker, ..Change::new(kind, granule, self.top()) };
        self.record.open(&change);
        self.settle_slot(&change)
    }

    /// Makes the slot of a change hold what it should, if it holds what it did.
    pub(super) fn settle_slot(&self, change: &Change) -> bool {
        let block = self.geometry.offset(change.at) as u64;
        let (from, to) = if change.kind == Kind::Deliver { (0, block) } else { (block, 0) };
        let word = self.region.word64(change.taker.count_at);
        word.is_some_and(|word| word.compare_exchange(from, to, AcqRel, Relaxed).is_ok())
    }
}
