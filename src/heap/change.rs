//! The record of the change under way: what lets the next owner of the lock finish what a dead
//! one began.
//!
//! A change of the map makes one row of whole blocks into another, over the same stretch:
//!
//! ```text
//! free b      | a: free | b: live | c: free |   ->   | free                        |
//! malloc      | a: free                     |   ->   | live     | free             |
//! ```
//!
//! The change is written down before its first store to the map, and struck out when the call
//! delivers. Until then it can be done again from the start, as often as need be, because it
//! leads to the same blocks each time.
//!
//! A caller's block that it ends or resizes is *held* before that, and while it lasts: so nobody does
//! anything with the block in a cache of his own, who takes no lock, while it may be done again.
//!
//! ```text
//! seal | slot 0: kind and states, at, old starts x 3, top, sizes x 3, magazine, word or bytes | slot 1: the same
//! ```
//!
//! A change may take a magazine with it: what it holds after the change. So a block that goes from
//! a magazine to the heap, or back, is never in both, and never in neither. In place of a magazine
//! a change may have a word of the caller's, see [`super::slot`], or one of the directory of names,
//! see [`super::name`].
//!
//! Two kinds of change make many rows: a magazine is filled, loose blocks are joined. Of these only that
//! one is under way is written down; see [`Kind::is_of_space`].
//!
//! The seal is 0 when no change is under way, else a sum over the slot whose number is its lowest
//! bit. The next change is written to the other slot: one store of the seal ends the one and
//! begins the other, so that a block can be handed from change to change without a gap.
#![forbid(unsafe_code)]

use crate::class;
use crate::layout::{Geometry, Header32, Header64};
use crate::layout::{COUNT_AT, GUARD_BYTES, ITEMS_AT, MAGAZINE_ITEMS, NO_BLOCK, RECORD_OFFSET};
use crate::map::{Entry, Map, State};
use crate::options::GUARD;
use crate::region::{Region, View};
use core::sync::atomic::{compiler_fence, Ordering::Relaxed, Ordering::SeqCst};

/// The seal's word of 32 bits, and the slots' first of 64.
const SEAL: usize = RECORD_OFFSET / 4;
const SLOTS: usize = (RECORD_OFFSET + 4) / 8;
const SLOT_WORDS: usize = 6;
/// No block starts here.
pub const NOWHERE: u32 = u32::MAX;

const _: () = assert!((RECORD_OFFSET + 4) % 8 == 0);
const _: () = assert!((SLOTS + 2 * SLOT_WORDS) * 8 <= crate::layout::HEADER_BYTES);

/// What recovery does with a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A block becomes live: undone, since nobody got it.
    Alloc = 1,
    /// A live block becomes free: done, since its owner is rid of it.
    Free = 2,
    /// A live block becomes longer or shorter: done, since its owner keeps it.
    Resize = 3,
    /// All blocks become free: done.
    FreeAll = 4,
    /// An empty magazine takes equal cached blocks, made of free space anywhere: undone, since nobody
    /// got one. Written down before all of them; see [`Kind::is_of_space`].
    Refill = 5,
    /// A magazine's last blocks become loose, wherever they lie: done.
    Loosen = 6,
    /// Loose blocks anywhere become one with free ones beside them: as far as it was done.
    Join = 7,
    /// A live block that nobody has becomes a slot's: done, since the slot is how it is delivered.
    Deliver = 8,
    /// A live block becomes nobody's, and its slot empty: done, and the block freed.
    Recall = 9,
    /// The block at `at` is about to get a name, or to be the root, and so may not be freed: undone.
    /// The entry that was to name it, `old[0]`, is freed.
    Mark = 10,
    /// An entry that nobody has becomes the directory's: done.
    Enter = 11,
    /// The directory loses an entry, and a block its name: done, and the entry freed.
    Strike = 12,
    /// Another block is the root, or none: done.
    Root = 13,
}

impl Kind {
    /// Whether a magazine may take part.
    fn has_magazine(self) -> bool {
        let has_other = matches!(self, Kind::Resize | Kind::Deliver | Kind::Recall | Kind::Join);
        !has_other && !self.is_of_name()
    }

    /// Whether it makes free blocks of others, and cached ones of these, in many places: these are not
    /// written down. Whoever finishes it goes by the map: a free block ends where the next block starts.
    pub fn is_of_space(self) -> bool {
        matches!(self, Kind::Refill | Kind::Join)
    }

    /// Whether it changes a slot, and no map.
    pub fn is_of_slot(self) -> bool {
        matches!(self, Kind::Deliver | Kind::Recall)
    }

    /// Whether it is about a name or the root: no block comes, goes or becomes longer.
    pub fn is_of_name(self) -> bool {
        matches!(self, Kind::Mark | Kind::Enter | Kind::Strike | Kind::Root)
    }
}

/// A magazine that a change takes blocks from, or fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taker {
    /// Offset of its count; 0 for none.
    pub count_at: usize,
    /// What the count becomes: the blocks behind the last are gone.
    pub count: u32,
    /// How many blocks it gives up.
    pub run: u32,
    /// The size of each of these.
    pub size: u32,
}

impl Taker {
    /// No magazine.
    pub const NONE: Taker = Taker::of_one(0, 0);

    /// A magazine that gives up one block, of whatever size.
    pub const fn of_one(count_at: usize, count: u32) -> Taker {
        Taker { count_at, count, run: 1, size: 0 }
    }

    /// Offset of one of its blocks.
    pub fn item_at(&self, index: u32) -> usize {
        self.count_at - COUNT_AT + ITEMS_AT + index as usize * 4
    }

    /// The places of what it gives up.
    fn gone(&self) -> core::ops::Range<u32> {
        self.count..(self.count + self.run).min(MAGAZINE_ITEMS)
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
    /// What a magazine holds then; of a [`Kind::Refill`] the one that was empty. Of a
    /// [`Kind::Deliver`] and a [`Kind::Recall`] of the block at `at`, where the slot lies. Of a
    /// [`Kind::Enter`] and a [`Kind::Strike`] of the entry at `at`, where the link to it lies. Of a
    /// [`Kind::Resize`] in a pool with guards, the bytes asked for.
    pub taker: Taker,
}

impl Change {
    /// A change that makes nothing of nothing.
    pub fn new(kind: Kind, at: u32, top: u32) -> Change {
        let none = Entry { state: State::Free, size: 0 };
        let (old, new) = ([NOWHERE; 3], [none; 3]);
        Change { kind, at, old, new, top, taker: Taker::NONE }
    }

    /// Where the three of the new row start; and where the row ends.
    pub fn starts(&self) -> ([u32; 3], u32) {
        let [a, b, c] = self.new;
        let second = self.at.wrapping_add(a.size);
        let third = second.wrapping_add(b.size);
        ([self.at, second, third], third.wrapping_add(c.size))
    }

    /// Where the new row's live block starts.
    pub fn live(&self) -> Option<u32> {
        let is_live = |block: &Entry| block.state.is_live() && block.size > 0;
        self.new.iter().position(is_live).map(|index| self.starts().0[index])
    }

    /// Writes the new row over the old one. Doing it again changes nothing.
    #[inline(always)]
    pub fn apply(&self, region: &Region, map: &Map) {
        if self.kind.is_of_name() {
            return;
        }
        let (starts, end) = self.starts();
        // A new block starts at `at`, unless there is none. Whatever starts elsewhere is written
        // afterwards.
        for start in self.old {
            if start != NOWHERE && (start != self.at || end == self.at) {
                map.erase(start);
            }
        }
        for (start, new) in starts.into_iter().zip(self.new) {
            if new.size > 0 {
                map.write(start, new);
            }
        }
        if self.taker.count_at != 0 && self.kind.has_magazine() {
            self.settle(region);
        }
    }

    /// Makes the magazine hold what it does after the change.
    fn settle(&self, region: &Region) {
        let taker = self.taker;
        for index in taker.gone() {
            region.store32(taker.item_at(index), NO_BLOCK);
        }
        region.store8(taker.count_at, taker.count as u8);
    }

    /// Makes loose what the magazine gives up; how many were made so now. What is no such block,
    /// because somebody freed it twice at once or wrote where he should not, stays what it is. What was to
    /// be filled gives up what it names, to the first place where nothing is.
    pub fn loosen(&self, region: &Region, map: &Map) -> u32 {
        let taker = self.taker;
        let Some(class) = class::exact(taker.size) else { return 0 };
        let items = taker.gone().map(|index| region.load32(taker.item_at(index)));
        let named = items.take_while(|&item| self.kind != Kind::Refill || item != NO_BLOCK);
        named.filter(|&granule| map.loosen(granule, class, self.top)).count() as u32
    }

    /// Whether it stays inside a map of which `known` granules are known.
    fn is_possible(&self, geometry: &Geometry, known: u32) -> bool {
        let taker = self.taker;
        let takes = matches!(self.kind, Kind::Refill | Kind::Loosen);
        let is_none = taker.count_at == 0 && !takes;
        let room = geometry.bytes(self.new[0].size).saturating_sub(GUARD_BYTES);
        let is_taker = match self.kind {
            Kind::Deliver | Kind::Recall => geometry.is_slot(taker.count_at),
            Kind::Enter | Kind::Strike => geometry.is_link(taker.count_at),
            Kind::Resize if geometry.has(GUARD) => (1..=room).contains(&taker.count_at),
            _ => is_none || geometry.is_count(taker.count_at) && self.kind.has_magazine(),
        };
        if taker.count > MAGAZINE_ITEMS || !is_taker {
            return false;
        }
        if taker.run == 0 || taker.run > MAGAZINE_ITEMS {
            return false;
        }
        let [a, b, c] = self.new.map(|block| u64::from(block.size));
        let end = u64::from(self.at) + a + b + c;
        let row_fits = end <= u64::from(self.top) && self.at <= self.top && self.top <= known;
        let count = |is: fn(State) -> bool| {
            self.new.iter().filter(|new| new.size > 0 && is(new.state)).count()
        };
        let is_alloc = matches!(self.kind, Kind::Alloc | Kind::Resize);
        let lives_agree = count(State::is_live) == usize::from(is_alloc);
        let is_of_row =
            !self.kind.is_of_slot() && !self.kind.is_of_name() && !self.kind.is_of_space();
        let row_agrees = is_of_row || end == u64::from(self.at);
        let is_refill = self.kind == Kind::Refill;
        let refill_agrees = !is_refill || taker.count == 0 && class::exact(taker.size).is_some();
        let olds_fit = self.old.iter().all(|&start| start == NOWHERE || start < known);
        row_fits && lives_agree && row_agrees && refill_agrees && olds_fit
    }

    #[inline]
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
            6 => Kind::Loosen,
            7 => Kind::Join,
            8 => Kind::Deliver,
            9 => Kind::Recall,
            10 => Kind::Mark,
            11 => Kind::Enter,
            12 => Kind::Strike,
            13 => Kind::Root,
            _ => return None,
        };
        let block = |shift: u32, size| match what >> shift & 0xff {
            0 => Some(Entry { state: State::Free, size }),
            1 => Some(Entry { state: State::Live, size }),
            4 => Some(Entry { state: State::Loose, size }),
            5 => Some(Entry { state: State::Named, size }),
            6 => Some(Entry { state: State::Renamed, size }),
            7 => Some(Entry { state: State::Held, size }),
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
pub struct Record {
    header: View<Header32>,
    words: View<Header64>,
}

impl Record {
    /// The record of the pool with this geometry; None if it would not lie in the region.
    pub fn new(region: &Region, geometry: &Geometry) -> Option<Record> {
        Some(Record { header: region.view(geometry.header)?, words: region.view(geometry.header)? })
    }

    /// Whether a change is under way.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.seal() != 0
    }

    /// Begins a change; the one that was under way, if any, ends in the same instant.
    pub fn open(&self, change: &Change) {
        let words = change.encode();
        let found = self.seal();
        let slot = if found != 0 { 1 - (found & 1) } else { 0 };
        for (i, word) in words.into_iter().enumerate() {
            self.words[word_of(slot, i)].store(word, Relaxed);
        }
        // A death comes between two instructions: it is enough that the compiler keeps the order.
        compiler_fence(SeqCst);
        self.header[SEAL].store(seal(slot, words), Relaxed);
        compiler_fence(SeqCst);
    }

    /// Begins what changes no map, only the hints: nothing to do again but that.
    pub fn open_mending(&self) {
        self.header[SEAL].store(MENDING, Relaxed);
        compiler_fence(SeqCst);
    }

    /// Ends the change under way, if any: the last store of a call.
    #[inline]
    pub fn close(&self) {
        compiler_fence(SeqCst);
        self.header[SEAL].store(0, Relaxed);
        compiler_fence(SeqCst);
    }

    /// The change under way, if it is one that a pool of which `known` granules are known can
    /// have begun.
    pub fn read(&self, geometry: &Geometry, known: u32) -> Option<Change> {
        let found = self.seal();
        let slot = found & 1;
        let words = core::array::from_fn(|i| self.words[word_of(slot, i)].load(Relaxed));
        let change = Change::decode(words).filter(|_| found == seal(slot, words))?;
        change.is_possible(geometry, known).then_some(change)
    }

    #[inline]
    fn seal(&self) -> u32 {
        self.header[SEAL].load(Relaxed)
    }
}

/// Where a word of a slot, 0 or 1, lies.
#[inline]
fn word_of(slot: u32, word: usize) -> usize {
    SLOTS + (slot & 1) as usize * SLOT_WORDS + word
}

/// A seal of no change: the bit that each has is not set.
const MENDING: u32 = 1;

/// Never 0: the lowest bit is the slot, the next is set, the rest is a sum of the words.
fn seal(slot: u32, words: [u64; SLOT_WORDS]) -> u32 {
    // Odd multipliers keep every bit, and each place has another; nothing waits for its neighbour.
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut sum = 0x811c_9dc5_0000_0001u64;
    for (place, word) in words.into_iter().enumerate() {
        sum = sum.wrapping_add(word.wrapping_mul(ODD.rotate_left(11 * place as u32) | 1));
    }
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
        let record = Record::new(&region, &geometry).unwrap();
        assert!(!record.is_open());
        let [live, free] =
            [(State::Live, 5), (State::Free, 7)].map(|(state, size)| Entry { state, size });
        let none = Entry { state: State::Free, size: 0 };
        let first = Change {
            old: [3, NOWHERE, NOWHERE],
            new: [live, free, none],
            ..Change::new(Kind::Alloc, 3, 20)
        };
        let second = Change {
            old: [1, 3, NOWHERE],
            new: [free, none, none],
            ..Change::new(Kind::Free, 1, 9)
        };
        record.open(&first);
        assert_eq!(record.read(&geometry, 100), Some(first));
        assert_eq!(record.read(&geometry, 10), None, "reaches beyond what is known");
        assert_eq!(first.live(), Some(3));
        record.open(&second);
        assert_eq!(record.read(&geometry, 100), Some(second), "in the other slot");
        let open = (geometry.header + RECORD_OFFSET..geometry.header + HEADER_BYTES)
            .filter(|&at| region.load8(at) != 0);
        let slot_1 = word_of(1, 0) * 8..word_of(1, SLOT_WORDS) * 8;
        for at in open {
            let offset = at - geometry.header;
            if offset >= RECORD_OFFSET + 4 && !slot_1.contains(&offset) {
                continue;
            }
            let byte = region.load8(at);
            for bit in 0..8 {
                region.store8(at, byte ^ (1 << bit));
                assert_eq!(record.read(&geometry, 100), None, "bit {bit} of byte {offset}");
            }
            region.store8(at, byte);
        }
        let refill = |count, size| Change {
            taker: Taker { count_at: geometry.magazine + COUNT_AT, count, run: 60, size },
            ..Change::new(Kind::Refill, 0, 20)
        };
        let geometry = Geometry { magazines: 1, ..geometry };
        for (count, size, is_possible) in
            [(0, 5, true), (0, 0, false), (0, 33, false), (1, 5, false)]
        {
            record.open(&refill(count, size));
            let read = record.read(&geometry, 100);
            assert_eq!(read.is_some(), is_possible, "{count} blocks of {size}");
        }
        record.open(&Change { new: [free, none, none], ..refill(0, 5) });
        assert_eq!(record.read(&geometry, 100), None, "where blocks are made is not written down");
        record.open_mending();
        assert!(record.is_open());
        assert_eq!(record.read(&geometry, 100), None);
        record.close();
        assert!(!record.is_open());
    }
}
