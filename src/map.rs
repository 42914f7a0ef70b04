//! The granule map, the truth about every block: one byte per granule, out of line.
//!
//! A block is a run of granules. The byte of its first granule is a *start*: it says the state,
//! and for most blocks the size. All its other bytes are *digits* (below 0x40), so a pointer
//! into a block is told from a pointer to one by a single comparison.
//!
//! ```text
//! start bytes                                   digits
//! 0x40 + class   LIVE of a class's size         0x00..=0x3f: a digit of a size, or nothing
//! 0x98 + class   CACHED of a class's size
//! 0xf0           FREE, one granule
//! 0xf1           FREE, size in digits at both ends
//! 0xf2           LIVE, size in digits
//! 0xf3           META, one granule
//! 0xf4           META, size in digits
//! 0xf5           LOOSE, one granule: free, but in no bin yet, nor joined to its neighbours
//! 0xf6           LOOSE, size in digits
//! 0xf7           CACHED, size in digits: on a shelf
//! 0xf8, 0xf9     HELD, one granule, and size in digits: live, and in the hands of one call
//! 0xfa, 0xff     TAKEN, size in digits, and one granule: cached no more, and nobody's yet
//! 0xfb, 0xfc     NAMED, one granule, and size in digits: live, and may not be freed
//! 0xfd, 0xfe     RENAMED, the same, for more than one reason
//!
//!      LIVE, 3 granules   FREE, 5 granules    LIVE, 50 granules = 0x32
//!      class 2            |                   |
//!    +----+--+--+       +----+--+--+--+--+  +----+--+--+-  -+--+
//!    | 42 |  |  |       | f1 |05|  |  |05|  | f2 |32|  | .. |  |
//!    +----+--+--+       +----+--+--+--+--+  +----+--+--+-  -+--+
//!
//!    FREE, 900 granules = 14 * 64 + 4: 0x3a says "two digits follow", 0x3b "four", 0x3c "six"
//!    +----+--+--+--+-  -+--+--+--+
//!    | f1 |3a|04|0e| .. |0e|04|3a|
//!    +----+--+--+--+-  -+--+--+--+
//! ```
//!
//! A size of 2..=57 is one digit behind the start; a larger one is two, four or six digits of
//! base 64, least first, behind one that says how many. A free block mirrors them at its end, where its right neighbour finds
//! them. A tail is only believed when the start it points to agrees.
//!
//! **Invariant**: below the watermark every byte that is not the start of a block is a digit.
//! Above it the bytes are unknown. Nothing here changes the watermark.
#![forbid(unsafe_code)]

use crate::class;
use crate::region::{Region, Row};
use crate::stats;
use core::sync::atomic::{AtomicU8, Ordering::AcqRel, Ordering::Relaxed};

/// The start of a live block of class 0; the others' follow.
pub const LIVE_CLASS: u8 = 0x40;
/// The start of a cached block of class 0; the others' follow.
pub const CACHED_CLASS: u8 = LIVE_CLASS + class::COUNT;
const FREE_ONE: u8 = 0xf0;
const FREE: u8 = 0xf1;
const LIVE: u8 = 0xf2;
const META_ONE: u8 = 0xf3;
const META: u8 = 0xf4;
const LOOSE_ONE: u8 = 0xf5;
const LOOSE: u8 = 0xf6;
const CACHED: u8 = 0xf7;
const HELD_ONE: u8 = 0xf8;
const HELD: u8 = 0xf9;
const TAKEN: u8 = 0xfa;
const TAKEN_ONE: u8 = 0xff;
const NAMED_ONE: u8 = 0xfb;
const NAMED: u8 = 0xfc;
const RENAMED_ONE: u8 = 0xfd;
const RENAMED: u8 = 0xfe;

/// Every start byte has one of these bits, no digit has.
const START_BITS: u8 = 0xc0;
const BASE: u32 = 64;
/// The largest size that is one digit.
const SHORT: u32 = 57;
/// Announce two digits, four, and six.
const TWO: u8 = 58;
const FOUR: u8 = 59;
const SIX: u8 = 60;
const DIGITS_MAX: u32 = 6;

// The announced digits are enough for every size, the codes do not meet, and the digits of both
// ends fit into the smallest block that has several, with a start between.
const _: () = assert!(DIGITS_MAX * BASE.ilog2() >= u32::BITS);
const _: () = assert!(CACHED_CLASS + class::COUNT <= FREE_ONE);
const _: () = assert!(2 * (1 + DIGITS_MAX) < SHORT);

/// What a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Free, joined to its neighbours and in a bin.
    Free = 0,
    /// A caller's.
    Live = 1,
    /// Free, in a magazine or on a shelf.
    Cached = 2,
    /// The pool's own.
    Meta = 3,
    /// Free, but in no bin, and maybe beside other free blocks.
    Loose = 4,
    /// A caller's that may not be freed: it has a name, or is the root.
    Named = 5,
    /// A caller's that may not be freed, for more than one reason: names, and perhaps it is the root.
    Renamed = 6,
    /// A caller's, and a call is just about to end it or to change its size. Should its thread die, whoever
    /// comes upon it takes the lock, and thus sees to what that one had begun.
    Held = 7,
    /// Taken off a shelf and about to be delivered, or looked at by who cleans up after the dead: whoever
    /// finds it where cached blocks are waits for the lock, and looks again.
    Taken = 8,
}

impl State {
    /// What callers are told.
    pub fn shown(self) -> stats::State {
        match self {
            State::Free | State::Loose => stats::State::Free,
            State::Live | State::Held | State::Taken => stats::State::Live,
            State::Named | State::Renamed => stats::State::Live,
            State::Cached => stats::State::Cached,
            State::Meta => stats::State::Meta,
        }
    }

    /// Whether it is a caller's.
    pub fn is_live(self) -> bool {
        matches!(self, State::Live | State::Held | State::Named | State::Renamed | State::Taken)
    }

    /// Whether it is a caller's that may not be freed.
    pub fn is_bound(self) -> bool {
        matches!(self, State::Named | State::Renamed)
    }
}

/// What a map byte says.
#[derive(Clone, Copy)]
struct Start {
    /// None for digits, and for what no start is.
    state: Option<State>,
    /// 0 if it follows in digits.
    size: u16,
}

/// What each map byte says.
static STARTS: [Start; 256] = {
    const fn start(state: State, size: u32) -> Start {
        Start { state: Some(state), size: size as u16 }
    }
    let mut starts = [Start { state: None, size: 0 }; 256];
    let mut class = 0;
    while class < class::COUNT {
        starts[(LIVE_CLASS + class) as usize] = start(State::Live, class::size(class));
        starts[(CACHED_CLASS + class) as usize] = start(State::Cached, class::size(class));
        class += 1;
    }
    starts[FREE_ONE as usize] = start(State::Free, 1);
    starts[META_ONE as usize] = start(State::Meta, 1);
    starts[LOOSE_ONE as usize] = start(State::Loose, 1);
    starts[FREE as usize] = start(State::Free, 0);
    starts[LIVE as usize] = start(State::Live, 0);
    starts[META as usize] = start(State::Meta, 0);
    starts[LOOSE as usize] = start(State::Loose, 0);
    starts[CACHED as usize] = start(State::Cached, 0);
    starts[HELD_ONE as usize] = start(State::Held, 1);
    starts[HELD as usize] = start(State::Held, 0);
    starts[TAKEN_ONE as usize] = start(State::Taken, 1);
    starts[TAKEN as usize] = start(State::Taken, 0);
    starts[NAMED_ONE as usize] = start(State::Named, 1);
    starts[NAMED as usize] = start(State::Named, 0);
    starts[RENAMED_ONE as usize] = start(State::Renamed, 1);
    starts[RENAMED as usize] = start(State::Renamed, 0);
    starts
};
const _: () = assert!(class::LARGEST <= u16::MAX as u32);

/// A block as the map tells it, in granules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub state: State,
    /// How long it is.
    pub size: u32,
}

/// The map of a region.
#[derive(Clone, Copy)]
pub struct Map {
    bytes: Row<AtomicU8>,
    region: Region,
    /// Offset of the byte of granule 0.
    at: usize,
}

impl Map {
    /// The map that lies at an offset of the region, for this many granules; None if it would not
    /// lie inside.
    pub fn new(region: &Region, at: usize, granules: u32) -> Option<Map> {
        Some(Map { bytes: region.row(at, granules as usize)?, region: *region, at })
    }

    /// The byte of a granule; a digit outside the map.
    #[inline]
    fn byte(&self, granule: u32) -> u8 {
        self.bytes.get(granule as usize).map_or(0, |byte| byte.load(Relaxed))
    }

    #[inline]
    fn set(&self, granule: u32, byte: u8) {
        debug_assert!((granule as usize) < self.bytes.len());
        if let Some(cell) = self.bytes.get(granule as usize) {
            cell.store(byte, Relaxed);
        }
    }

    /// Whether a block starts here.
    pub fn is_start(&self, granule: u32) -> bool {
        self.byte(granule) & START_BITS != 0
    }

    /// What the block is that starts here, if one does. O(1).
    pub fn state(&self, granule: u32) -> Option<State> {
        STARTS[self.byte(granule) as usize].state
    }

    /// The class of the live block that starts here, if it has one. O(1).
    #[inline]
    pub fn live_class(&self, granule: u32) -> Option<u8> {
        let class = self.byte(granule).wrapping_sub(LIVE_CLASS);
        (class < class::COUNT).then_some(class)
    }

    /// The block that starts here, if it ends at or before `end`. O(1).
    #[inline]
    pub fn read(&self, granule: u32, end: u32) -> Option<Entry> {
        let start = &STARTS[self.byte(granule) as usize];
        let state = start.state?;
        let size = if start.size != 0 { start.size.into() } else { self.number(granule, 1)? };
        let fits = granule <= end && size <= end - granule;
        fits.then_some(Entry { state, size })
    }

    /// The free block in a bin that ends where this granule starts: its first granule and size.
    /// O(1).
    pub fn free_before(&self, granule: u32) -> Option<(u32, u32)> {
        if granule == 0 {
            return None;
        }
        let size = if self.is_start(granule - 1) { 1 } else { self.number(granule, -1)? };
        let start = granule.checked_sub(size)?;
        let block = self.read(start, granule)?;
        (block == Entry { state: State::Free, size }).then_some((start, size))
    }

    /// Writes a block: digits first, so that its start never tells of a size that is not there.
    /// What lies between stays and must be digits already. O(1).
    pub fn write(&self, granule: u32, block: Entry) {
        let Entry { state, size } = block;
        debug_assert!(size > 0 && self.bytes.len() - granule as usize >= size as usize);
        let (one, more) = match state {
            State::Live | State::Cached => match (class::exact(size), state) {
                (Some(class), State::Live) => return self.set(granule, LIVE_CLASS + class),
                (Some(class), _) => return self.set(granule, CACHED_CLASS + class),
                (None, State::Live) => (LIVE, LIVE),
                (None, _) => (CACHED, CACHED),
            },
            State::Free => (FREE_ONE, FREE),
            State::Meta => (META_ONE, META),
            State::Loose => (LOOSE_ONE, LOOSE),
            State::Held => (HELD_ONE, HELD),
            State::Taken => (TAKEN_ONE, TAKEN),
            State::Named => (NAMED_ONE, NAMED),
            State::Renamed => (RENAMED_ONE, RENAMED),
        };
        if size == 1 {
            return self.set(granule, one);
        }
        self.set_number(granule, 1, size);
        if state == State::Free {
            self.set_number(granule + size, -1, size);
        }
        self.set(granule, more);
    }

    /// Makes a cached block of a class loose; false if it is no cached block that ends at or before `end`.
    #[inline]
    pub fn loosen(&self, granule: u32, class: u8, end: u32) -> bool {
        let size = class::size(class);
        let fits = size <= end && granule <= end - size;
        if !fits || self.byte(granule) != CACHED_CLASS + class {
            return false;
        }
        if size == 1 {
            self.set(granule, LOOSE_ONE);
        } else {
            self.set_number(granule, 1, size);
            self.set(granule, LOOSE);
        }
        true
    }

    /// Makes a cached block of a class. As for [`Map::write`], what it covers must be digits.
    #[inline]
    pub fn cache(&self, granule: u32, class: u8) {
        self.set(granule, CACHED_CLASS + class);
    }

    /// Makes a live block cached, whose size is in digits and stays there; false if it is live no
    /// more, since somebody else frees it, too.
    pub fn shelve(&self, granule: u32) -> bool {
        self.exchange(granule, LIVE, CACHED)
    }

    /// Makes a cached block taken, of which nobody else does anything then; false if it is cached no more.
    /// What was written before it was cached is seen.
    pub fn take(&self, granule: u32, size: u32) -> bool {
        let (cached, taken) = cached_and_taken(size);
        if taken == TAKEN && cached != CACHED {
            // The digits of a block of a class mean nothing.
            self.set_number(granule, 1, size);
        }
        self.exchange(granule, cached, taken)
    }

    /// Undoes [`Map::take`].
    pub fn put_back(&self, granule: u32, size: u32) -> bool {
        let (cached, taken) = cached_and_taken(size);
        self.exchange(granule, taken, cached)
    }

    /// Makes a taken block live, whose size is in digits and stays there.
    pub fn deliver(&self, granule: u32) {
        if self.byte(granule) == TAKEN {
            self.set(granule, LIVE);
        }
    }

    fn exchange(&self, granule: u32, from: u8, to: u8) -> bool {
        let byte = self.bytes.get(granule as usize);
        byte.is_some_and(|byte| byte.compare_exchange(from, to, AcqRel, Relaxed).is_ok())
    }

    /// Makes the start of a block a digit: the block is part of its left neighbour now, or of
    /// the space above top.
    pub fn erase(&self, granule: u32) {
        self.set(granule, 0);
    }

    /// The first start in `[from, end)`. O(end - from), eight granules a step.
    pub fn next_start(&self, from: u32, end: u32) -> Option<u32> {
        let (from, end) = (from as usize, (end as usize).min(self.bytes.len()));
        let found = self.region.find_bits(START_BITS, self.at + from, self.at + end)?;
        Some((found - self.at) as u32)
    }

    /// The last start at or before a granule. O(granules between), eight a step.
    pub fn last_start(&self, granule: u32) -> Option<u32> {
        let end = (granule as usize + 1).min(self.bytes.len());
        let found = self.region.find_bits_back(START_BITS, self.at, self.at + end)?;
        Some((found - self.at) as u32)
    }

    /// Makes `[from, end)` digits, whatever they were; writes only to pages of which a byte is
    /// not zero, so that a sparse map stays sparse.
    pub fn clear(&self, from: u32, end: u32) {
        const STEP: usize = 4096;
        let end = self.at + (end as usize).min(self.bytes.len());
        let mut at = self.at + from as usize;
        while at < end {
            let step_end = end.min((at / STEP + 1) * STEP);
            if let Some(first) = self.region.find_bits(0xff, at, step_end) {
                self.region.clear(first, step_end - first);
            }
            at = step_end;
        }
    }

    /// The number at a block's edge: behind its start (`step` 1) or mirrored before its end
    /// (`step` -1, `edge` one past the last granule). None if it is no canonical number.
    #[inline]
    fn number(&self, edge: u32, step: i32) -> Option<u32> {
        let first = first_digit(edge, step)?;
        let short = u32::from(self.byte(first));
        if short <= SHORT {
            return (short >= 2).then_some(short);
        }
        self.long_number(first, step, short)
    }

    /// A number of several digits, of which `how` tells how many.
    fn long_number(&self, first: u32, step: i32, how: u32) -> Option<u32> {
        let (number, least) = match how as u8 {
            TWO => (value(self.digits::<2>(first, step)?)?, SHORT + 1),
            FOUR => (value(self.digits::<4>(first, step)?)?, BASE.pow(2)),
            SIX => (value(self.digits::<6>(first, step)?)?, BASE.pow(4)),
            _ => return None,
        };
        (number >= least).then_some(number)
    }

    /// The digits that follow one, least first.
    #[inline(always)]
    fn digits<const N: usize>(&self, first: u32, step: i32) -> Option<[u8; N]> {
        if step > 0 {
            let bytes = self.bytes.array::<N>(first as usize + 1)?;
            Some(core::array::from_fn(|k| bytes[k].load(Relaxed)))
        } else {
            let bytes = self.bytes.array::<N>((first as usize).checked_sub(N)?)?;
            Some(core::array::from_fn(|k| bytes[N - 1 - k].load(Relaxed)))
        }
    }

    #[inline]
    fn set_number(&self, edge: u32, step: i32, number: u32) {
        let Some(first) = first_digit(edge, step) else { return };
        if number <= SHORT {
            self.set(first, number as u8);
        } else if number < BASE.pow(2) {
            self.set_digits::<2>(first, step, number);
            self.set(first, TWO);
        } else if number < BASE.pow(4) {
            self.set_digits::<4>(first, step, number);
            self.set(first, FOUR);
        } else {
            self.set_digits::<6>(first, step, number);
            self.set(first, SIX);
        }
    }

    #[inline(always)]
    fn set_digits<const N: usize>(&self, first: u32, step: i32, number: u32) {
        let low = if step > 0 { first as usize + 1 } else { (first as usize).wrapping_sub(N) };
        let Some(bytes) = self.bytes.array::<N>(low) else {
            return debug_assert!(false, "digits outside the map");
        };
        for k in 0..N {
            let digit = (u64::from(number) >> (k as u32 * BASE.ilog2())) as u8 & (BASE - 1) as u8;
            bytes[if step > 0 { k } else { N - 1 - k }].store(digit, Relaxed);
        }
    }
}

/// The starts of a cached block of this size and of a taken one.
fn cached_and_taken(size: u32) -> (u8, u8) {
    let cached = class::exact(size).map_or(CACHED, |class| CACHED_CLASS + class);
    (cached, if size == 1 { TAKEN_ONE } else { TAKEN })
}

/// Where the first digit at a block's edge is.
#[inline(always)]
fn first_digit(edge: u32, step: i32) -> Option<u32> {
    if step > 0 {
        edge.checked_add(1)
    } else {
        edge.checked_sub(1)
    }
}

/// What digits say, least first; None if one is none, or they say too much.
#[inline(always)]
fn value<const N: usize>(digits: [u8; N]) -> Option<u32> {
    let mut all = 0;
    let mut number = 0;
    for k in (0..N).rev() {
        all |= digits[k];
        number = number << BASE.ilog2() | u64::from(digits[k]);
    }
    if u32::from(all) >= BASE {
        return None;
    }
    u32::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::ptr::NonNull;

    fn with_map(granules: u32, test: impl FnOnce(Map)) {
        let mut bytes = vec![0u64; granules as usize / 8 + 2];
        let base = NonNull::new(bytes.as_mut_ptr().cast::<u8>()).unwrap();
        let region = crate::region::tests::region(base, bytes.len() * 8);
        test(Map::new(&region, 3, granules).unwrap());
    }

    #[test]
    fn every_state_and_size_reads_back() {
        with_map(300_000, |map| {
            let sizes = (1..700).chain(4090..4100).chain([262_143, 262_144, 299_993]);
            for size in sizes {
                use State::*;
                for state in [Free, Live, Cached, Meta, Loose, Named, Renamed, Held, Taken] {
                    let block = Entry { state, size };
                    map.write(7, block);
                    assert_eq!(map.read(7, 7 + size), Some(block));
                    let is = |state| map.read(7, 7 + size) == Some(Entry { state, size });
                    if state == Cached && (size > class::LARGEST || class::exact(size).is_some()) {
                        assert!(!map.put_back(7, size) && is(Cached));
                        assert!(map.take(7, size) && !map.take(7, size) && is(Taken));
                        assert!(map.put_back(7, size) && is(Cached));
                    }
                    if size > class::LARGEST && state == Live {
                        map.deliver(7);
                        assert!(map.shelve(7) && !map.shelve(7) && is(Cached));
                        map.deliver(7);
                        assert!(is(Cached) && map.take(7, size));
                        map.deliver(7);
                        assert!(is(Live));
                    }
                    assert_eq!(map.read(7, 6 + size), None, "longer than allowed");
                    let before = map.free_before(7 + size);
                    assert_eq!(before, (state == State::Free).then_some((7, size)));
                    assert_eq!(map.next_start(0, 8 + size), Some(7));
                    assert_eq!(map.next_start(8, 8 + size), None, "the rest are digits");
                    assert_eq!(map.last_start(6 + size), Some(7));
                    assert_eq!(map.last_start(6), None);
                    map.erase(7);
                    assert_eq!(map.read(7, 300_000), None);
                }
            }
        });
    }

    #[test]
    fn any_bytes_are_read_without_harm() {
        with_map(64, |map| {
            let mut seed = 1;
            for _ in 0..20_000 {
                for granule in 0..64 {
                    seed = crate::hash::mix(seed);
                    map.set(granule, seed as u8);
                }
                for granule in 0..70 {
                    if let Some(block) = map.read(granule, 64) {
                        assert!(block.size >= 1 && granule + block.size <= 64);
                    }
                    if let Some((start, size)) = map.free_before(granule) {
                        assert_eq!(start + size, granule);
                    }
                }
            }
        });
    }

    #[test]
    fn clearing_leaves_digits_and_nothing_else_changed() {
        with_map(20_000, |map| {
            for granule in 0..20_000 {
                map.set(granule, 0xff);
            }
            map.clear(5, 19_000);
            assert_eq!(map.next_start(0, 20_000), Some(0));
            assert_eq!(map.next_start(5, 20_000), Some(19_000));
            assert!((0..5).all(|granule| map.is_start(granule)));
        });
    }
}
