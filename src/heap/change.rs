//! The record of the change under way: what lets the next owner of the lock finish what a dead
//! one began.
//!
//! Every change of the map makes one row of whole blocks into another, over the same stretch:
//!
//! ```text
//! free b      | a: free | b: live | c: free |   ->   | free                        |
//! malloc      | a: free                     |   ->   | live     | free             |
//! ```
//!
//! The change is written down before its first store to the map, and struck out when the call
//! delivers. Until then it can be done again from the start, as often as need be, because it
//! stores the same bytes each time.
//!
//! ```text
//! seal | slot 0: kind and states, at, old starts x 3, sizes x 3, top | slot 1: the same
//! ```
//!
//! The seal is 0 when no change is under way, else a sum over the slot whose number is its lowest
//! bit. The next change is written to the other slot: one store of the seal ends the one and
//! begins the other, so that a block can be handed from change to change without a gap.
#![forbid(unsafe_code)]

use crate::layout::{Geometry, RECORD_OFFSET};
use crate::map::{Entry, Map};
use crate::region::Region;
use crate::stats::State;
use core::sync::atomic::{compiler_fence, Ordering::SeqCst};

const SLOT_AT: usize = RECORD_OFFSET + 8;
const SLOT_WORDS: usize = 9;
const SLOT_BYTES: usize = SLOT_WORDS * 4;
/// No block starts here.
pub const NOWHERE: u32 = u32::MAX;

const _: () = assert!(SLOT_AT + 2 * SLOT_BYTES <= crate::layout::HEADER_BYTES);

/// What recovery does with a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A block becomes live: undone, since nobody got it.
    Alloc = 1,
    /// A live block becomes free: done, since its owner is rid of it.
    Free = 2,
    /// A live block becomes longer or shorter: done, since its owner keeps it.
    Resize = 3,
    /// All blocks become free: done.
    FreeAll = 4,
}

/// A stretch of whole blocks that becomes another row of whole blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// What kind it is.
    pub kind: Kind,
    /// The first granule of the new row.
    pub at: u32,
    /// Where the old blocks start; NOWHERE for none.
    pub old: [u32; 3],
    /// The new row; size 0 for none.
    pub new: [Entry; 3],
    /// Where `top` is then.
    pub top: u32,
}

impl Change {
    /// A change that makes nothing of nothing.
    pub fn new(kind: Kind, at: u32, top: u32) -> Change {
        let none = Entry { state: State::Free, size: 0 };
        Change { kind, at, old: [NOWHERE; 3], new: [none; 3], top }
    }

    /// Adds an old block's start.
    pub fn replaces(mut self, start: u32) -> Change {
        if let Some(place) = self.old.iter_mut().find(|start| **start == NOWHERE) {
            *place = start;
        }
        self
    }

    /// Adds a block to the new row.
    pub fn with(mut self, state: State, size: u32) -> Change {
        if let Some(place) = self.new.iter_mut().find(|block| block.size == 0) {
            *place = Entry { state, size };
        }
        self
    }

    /// The new row: first granule, state and size of each block.
    pub fn row(&self) -> impl Iterator<Item = (u32, Entry)> + '_ {
        let mut at = self.at;
        self.new.iter().filter(|block| block.size != 0).map(move |&block| {
            let start = at;
            at = at.wrapping_add(block.size);
            (start, block)
        })
    }

    /// Where the new row's live block starts.
    pub fn live(&self) -> Option<u32> {
        self.row().find(|(_, block)| block.state == State::Live).map(|(start, _)| start)
    }

    /// Writes the new row over the old one. Doing it again changes nothing.
    pub fn apply(&self, map: &Map) {
        for &start in self.old.iter().filter(|&&start| start != NOWHERE) {
            if self.row().all(|(new, _)| new != start) {
                map.erase(start);
            }
        }
        for (start, block) in self.row() {
            map.write(start, block);
        }
    }

    /// Whether it stays inside a map of which `known` granules are known.
    fn is_possible(&self, known: u32) -> bool {
        let sizes = self.new.iter().map(|block| u64::from(block.size)).sum::<u64>();
        let end = u64::from(self.at) + sizes;
        let row_fits = end <= u64::from(self.top) && self.at <= self.top && self.top <= known;
        let lives = self.row().filter(|(_, block)| block.state == State::Live).count();
        let kind_agrees = match self.kind {
            Kind::Alloc | Kind::Resize => lives == 1,
            Kind::Free | Kind::FreeAll => lives == 0,
        };
        let olds_fit = self.old.iter().all(|&start| start == NOWHERE || start < known);
        row_fits && kind_agrees && olds_fit
    }

    fn encode(&self) -> [u32; SLOT_WORDS] {
        let [a, b, c] = self.new;
        let states = (a.state as u32) << 8 | (b.state as u32) << 16 | (c.state as u32) << 24;
        let [x, y, z] = self.old;
        [self.kind as u32 | states, self.at, x, y, z, a.size, b.size, c.size, self.top]
    }

    fn decode(words: [u32; SLOT_WORDS]) -> Option<Change> {
        let [what, at, x, y, z, a, b, c, top] = words;
        let kind = match what & 0xff {
            1 => Kind::Alloc,
            2 => Kind::Free,
            3 => Kind::Resize,
            4 => Kind::FreeAll,
            _ => return None,
        };
        let block = |shift: u32, size| match what >> shift & 0xff {
            0 => Some(Entry { state: State::Free, size }),
            1 => Some(Entry { state: State::Live, size }),
            _ => None,
        };
        let new = [block(8, a)?, block(16, b)?, block(24, c)?];
        Some(Change { kind, at, old: [x, y, z], new, top })
    }
}

/// The record in the header.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    region: &'a Region,
    geometry: &'a Geometry,
}

impl<'a> Record<'a> {
    /// The record of the pool with this geometry.
    pub fn new(region: &'a Region, geometry: &'a Geometry) -> Record<'a> {
        Record { region, geometry }
    }

    /// Whether a change is under way.
    pub fn is_open(&self) -> bool {
        self.seal() != 0
    }

    /// Begins a change; the one that was under way, if any, ends in the same instant.
    pub fn open(&self, change: &Change) {
        let words = change.encode();
        let slot = if self.is_open() { 1 - (self.seal() & 1) } else { 0 };
        for (i, word) in words.into_iter().enumerate() {
            self.region.store32(self.word_at(slot, i), word);
        }
        // A death comes between two instructions: it is enough that the compiler keeps the order.
        compiler_fence(SeqCst);
        self.region.store32(self.geometry.word(RECORD_OFFSET), seal(slot, words));
        compiler_fence(SeqCst);
    }

    /// Begins what changes no map, only the hints: nothing to do again but that.
    pub fn open_mending(&self) {
        self.region.store32(self.geometry.word(RECORD_OFFSET), MENDING);
        compiler_fence(SeqCst);
    }

    /// Ends the change under way, if any: the last store of a call.
    pub fn close(&self) {
        compiler_fence(SeqCst);
        self.region.store32(self.geometry.word(RECORD_OFFSET), 0);
        compiler_fence(SeqCst);
    }

    /// The change under way, if it is one that a pool of which `known` granules are known can
    /// have begun.
    pub fn read(&self, known: u32) -> Option<Change> {
        let found = self.seal();
        let slot = found & 1;
        let words = core::array::from_fn(|i| self.region.load32(self.word_at(slot, i)));
        let change = Change::decode(words).filter(|_| found == seal(slot, words))?;
        change.is_possible(known).then_some(change)
    }

    fn seal(&self) -> u32 {
        self.region.load32(self.geometry.word(RECORD_OFFSET))
    }

    fn word_at(&self, slot: u32, word: usize) -> usize {
        self.geometry.word(SLOT_AT + slot as usize * SLOT_BYTES + word * 4)
    }
}

/// A seal of no change: the bit that each has is not set.
const MENDING: u32 = 1;

/// Never 0: the lowest bit is the slot, the next is set, the rest is a sum of the words.
fn seal(slot: u32, words: [u32; SLOT_WORDS]) -> u32 {
    // Odd multipliers keep every bit; the rotation makes the order count.
    let sum = words
        .iter()
        .fold(0x811c_9dc5u32, |sum, &word| (sum ^ word).wrapping_mul(0x9e37_79b1).rotate_left(15));
    sum & !3 | 2 | slot
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::HEADER_BYTES;
    use crate::options::Options;
    use core::ptr::NonNull;

    #[test]
    fn a_change_reads_back_and_a_damaged_one_does_not() {
        let mut bytes = [0u64; 512];
        let region = crate::region::tests::region(NonNull::from(&mut bytes).cast(), 4096);
        let geometry = Geometry::plan(region.address(), 4096, &Options::default()).unwrap();
        let record = Record::new(&region, &geometry);
        assert!(!record.is_open());
        let first =
            Change::new(Kind::Alloc, 3, 20).replaces(3).with(State::Live, 5).with(State::Free, 7);
        let second = Change::new(Kind::Free, 1, 9).replaces(1).replaces(3).with(State::Free, 6);
        record.open(&first);
        assert_eq!(record.read(100), Some(first));
        assert_eq!(record.read(10), None, "reaches beyond what is known");
        assert_eq!(first.live(), Some(3));
        record.open(&second);
        assert_eq!(record.read(100), Some(second), "in the other slot");
        let open = (geometry.header + RECORD_OFFSET..geometry.header + HEADER_BYTES)
            .filter(|&at| region.load8(at) != 0);
        let slot_1 = SLOT_AT + SLOT_BYTES..SLOT_AT + 2 * SLOT_BYTES;
        for at in open {
            let offset = at - geometry.header;
            if offset >= RECORD_OFFSET + 4 && !slot_1.contains(&offset) {
                continue;
            }
            let byte = region.load8(at);
            for bit in 0..8 {
                region.store8(at, byte ^ (1 << bit));
                assert_eq!(record.read(100), None, "bit {bit} of byte {offset}");
            }
            region.store8(at, byte);
        }
        record.open_mending();
        assert!(record.is_open());
        assert_eq!(record.read(100), None);
        record.close();
        assert!(!record.is_open());
    }
}
