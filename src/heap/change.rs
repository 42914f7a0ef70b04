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
//! seal | . | slot 0: kind and states, at, old starts x 3, top, sizes x 3, magazine or word | slot 1: the same
//! ```
//!
//! A change may take a magazine with it: what it holds after the change. So a block that goes from
//! a magazine to the heap, or back, is never in both, and never in neither. In place of a magazine
//! a change may have a word of the caller's, see [`super::slot`].
//!
//! The seal is 0 when no change is under way, else a sum over the slot whose number is its lowest
//! bit. The next change is written to the other slot: one store of the seal ends the one and
//! begins the other, so that a block can be handed from change to change without a gap.
#![forbid(unsafe_code)]

use crate::class;
use crate::layout::{Geometry, COUNT_AT, ITEMS_AT, MAGAZINE_ITEMS, NO_BLOCK, RECORD_OFFSET};
use crate::map::{Entry, Map};
use crate::region::Region;
use crate::stats::State;
use core::sync::atomic::{compiler_fence, Ordering::SeqCst};

const SLOT_AT: usize = RECORD_OFFSET + 8;
const SLOT_WORDS: usize = 6;
const SLOT_BYTES: usize = SLOT_WORDS * 8;
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
    /// Free space becomes a row of equal cached blocks, which an empty magazine takes: done, for
    /// who owns the magazine.
    Refill = 5,
    /// A live block that nobody has becomes a slot's: done, since the slot is how it is delivered.
    Deliver = 6,
    /// A live block becomes nobody's, and its slot empty: done, and the block freed.
    Recall = 7,
}

impl Kind {
    /// Whether it changes a slot, and no map.
    pub fn is_of_slot(self) -> bool {
        matches!(self, Kind::Deliver | Kind::Recall)
    }
}

/// A magazine that a change takes blocks from, or fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taker {
    /// Offset of its count; 0 for none.
    pub count_at: usize,
    /// What the count becomes. A refill makes it from 0; else the blocks behind the last are gone.
    pub count: u32,
    /// How many blocks it gives up, which lie in a row; the first of them is the first old start.
    pub run: u32,
    /// The size of each of these.
    pub size: u32,
}

impl Taker {
    /// No magazine.
    pub const NONE: Taker = Taker::of_one(0, 0);

    /// A magazine that gives up one block, of whatever size, or is filled.
    pub const fn of_one(count_at: usize, count: u32) -> Taker {
        Taker { count_at, count, run: 1, size: 0 }
    }

    /// Offset of one of its blocks.
    fn item_at(&self, index: u32) -> usize {
        self.count_at - COUNT_AT + ITEMS_AT + index as usize * 4
    }
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
    /// What a magazine holds then; of a refill, how often the first of the row stands there. Of a
    /// [`Kind::Deliver`] and a [`Kind::Recall`] of the block at `at`, where the slot lies.
    pub taker: Taker,
}

impl Change {
    /// A change that makes nothing of nothing.
    pub fn new(kind: Kind, at: u32, top: u32) -> Change {
        let none = Entry { state: State::Free, size: 0 };
        Change { kind, at, old: [NOWHERE; 3], new: [none; 3], top, taker: Taker::NONE }
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
        let repeats = if self.kind == Kind::Refill { self.taker.count as usize } else { 1 };
        let [first, rest @ ..] = &self.new;
        let row = core::iter::repeat_n(first, repeats).chain(rest);
        row.filter(|block| block.size != 0).map(move |&block| {
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
    pub fn apply(&self, region: &Region, map: &Map) {
        for &start in self.old.iter().filter(|&&start| start != NOWHERE) {
            if self.row().all(|(new, _)| new != start) {
                map.erase(start);
            }
        }
        let taker = self.taker;
        for index in 1..taker.run {
            map.erase(self.old[0] + index * taker.size);
        }
        for (start, block) in self.row() {
            map.write(start, block);
        }
        if taker.count_at == 0 || self.kind.is_of_slot() {
            return;
        }
        if self.kind == Kind::Refill {
            for (index, (start, _)) in (0..taker.count).zip(self.row()) {
                region.store32(taker.item_at(index), start);
            }
        } else {
            for index in taker.count..(taker.count + taker.run).min(MAGAZINE_ITEMS) {
                region.store32(taker.item_at(index), NO_BLOCK);
            }
        }
        region.store8(taker.count_at, taker.count as u8);
    }

    /// Whether it stays inside a map of which `known` granules are known.
    fn is_possible(&self, geometry: &Geometry, known: u32) -> bool {
        let is_refill = self.kind == Kind::Refill;
        let taker = self.taker;
        let is_none = taker.count_at == 0 && !is_refill;
        let is_taker = match self.kind.is_of_slot() {
            true => geometry.is_slot(taker.count_at),
            false => is_none || geometry.is_count(taker.count_at),
        };
        if taker.count > MAGAZINE_ITEMS || !is_taker {
            return false;
        }
        let run_end = u64::from(self.old[0]) + u64::from(taker.run) * u64::from(taker.size);
        if taker.run == 0 || taker.run > MAGAZINE_ITEMS || taker.run > 1 && run_end > known.into() {
            return false;
        }
        let sizes = self.row().map(|(_, block)| u64::from(block.size)).sum::<u64>();
        let end = u64::from(self.at) + sizes;
        let row_fits = end <= u64::from(self.top) && self.at <= self.top && self.top <= known;
        let lives = self.row().filter(|(_, block)| block.state == State::Live).count();
        let kind_agrees = match self.kind {
            Kind::Alloc | Kind::Resize => lives == 1,
            Kind::Free | Kind::FreeAll | Kind::Refill => lives == 0,
            Kind::Deliver | Kind::Recall => sizes == 0,
        };
        let caches = self.row().filter(|(_, block)| block.state == State::Cached).count();
        let cached_agrees = caches == if is_refill { taker.count as usize } else { 0 };
        let olds_fit = self.old.iter().all(|&start| start == NOWHERE || start < known);
        row_fits && kind_agrees && cached_agrees && olds_fit
    }

    fn encode(&self) -> [u64; SLOT_WORDS] {
        let pair = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
        let [a, b, c] = self.new;
        let states = (a.state as u32) << 8 | (b.state as u32) << 16 | (c.state as u32) << 24;
        let [x, y, z] = self.old;
        let Taker { count_at, count, run, size } = self.taker;
        let counts = count | run << 8 | size << 16;
        [
            pair(self.kind as u32 | states, self.at),
            pair(x, y),
            pair(z, self.top),
            pair(a.size, b.size),
            pair(c.size, counts),
            count_at as u64,
        ]
    }

    fn decode(words: [u64; SLOT_WORDS]) -> Option<Change> {
        let [what_at, xy, z_top, ab, c_counts, count_at] = words;
        let (low, high) = (|pair: u64| pair as u32, |pair: u64| (pair >> 32) as u32);
        let what = low(what_at);
        let kind = match what & 0xff {
            1 => Kind::Alloc,
            2 => Kind::Free,
            3 => Kind::Resize,
            4 => Kind::FreeAll,
            5 => Kind::Refill,
            6 => Kind::Deliver,
            7 => Kind::Recall,
            _ => return None,
        };
        let block = |shift: u32, size| match what >> shift & 0xff {
            0 => Some(Entry { state: State::Free, size }),
            1 => Some(Entry { state: State::Live, size }),
            2 if class::exact(size).is_some() => Some(Entry { state: State::Cached, size }),
            _ => None,
        };
        Some(Change {
            kind,
            at: high(what_at),
            old: [low(xy), high(xy), low(z_top)],
            new: [block(8, low(ab))?, block(16, high(ab))?, block(24, low(c_counts))?],
            top: high(z_top),
            taker: Taker {
                count_at: usize::try_from(count_at).ok()?,
                count: high(c_counts) & 0xff,
                run: high(c_counts) >> 8 & 0xff,
                size: high(c_counts) >> 16,
            },
        })
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
            self.region.store64(self.word_at(slot, i), word);
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
        let words = core::array::from_fn(|i| self.region.load64(self.word_at(slot, i)));
        let change = Change::decode(words).filter(|_| found == seal(slot, words))?;
        change.is_possible(self.geometry, known).then_some(change)
    }

    fn seal(&self) -> u32 {
        self.region.load32(self.geometry.word(RECORD_OFFSET))
    }

    fn word_at(&self, slot: u32, word: usize) -> usize {
        self.geometry.word(SLOT_AT + slot as usize * SLOT_BYTES + word * 8)
    }
}

/// A seal of no change: the bit that each has is not set.
const MENDING: u32 = 1;

/// Never 0: the lowest bit is the slot, the next is set, the rest is a sum of the words.
fn seal(slot: u32, words: [u64; SLOT_WORDS]) -> u32 {
    // Odd multipliers keep every bit; the rotation makes the order count.
    let sum = words.iter().fold(0x811c_9dc5_0000_0001u64, |sum, &word| {
        (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
    });
    (sum ^ sum >> 32) as u32 & !3 | 2 | slot
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
