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
//!
//!      LIVE, 3 granules   FREE, 5 granules    LIVE, 50 granules = 0x32
//!      class 2            |                   |
//!    +----+--+--+       +----+--+--+--+--+  +----+--+--+-  -+--+
//!    | 42 |  |  |       | f1 |05|  |  |05|  | f2 |32|  | .. |  |
//!    +----+--+--+       +----+--+--+--+--+  +----+--+--+-  -+--+
//!
//!    FREE, 5000 granules = 1 * 64^2 + 14 * 64 + 8: 57 + 3 says "three digits follow"
//!    +----+--+--+--+--+-  -+--+--+--+--+
//!    | f1 |3c|08|0e|01| .. |01|0e|08|3c|
//!    +----+--+--+--+--+-  -+--+--+--+--+
//! ```
//!
//! A size of 2..=57 is one digit behind the start; a larger one is 57 + k and then k digits of
//! base 64, least first. A free block mirrors them at its end, where its right neighbour finds
//! them. A tail is only believed when the start it points to agrees.
//!
//! **Invariant**: below the watermark every byte that is not the start of a block is a digit.
//! Above it the bytes are unknown. Nothing here changes the watermark.
#![forbid(unsafe_code)]

use crate::class;
use crate::region::Region;
use crate::stats::State;

/// The start of a live block of class 0; the others' follow.
pub const LIVE_CLASS: u8 = 0x40;
/// The start of a cached block of class 0; the others' follow.
pub const CACHED_CLASS: u8 = LIVE_CLASS + class::COUNT;
const FREE_ONE: u8 = 0xf0;
const FREE: u8 = 0xf1;
const LIVE: u8 = 0xf2;
const META_ONE: u8 = 0xf3;
const META: u8 = 0xf4;

/// Every start byte has one of these bits, no digit has.
const START_BITS: u8 = 0xc0;
const BASE: u32 = 64;
/// The largest size that is one digit; this plus k announces k digits.
const SHORT: u32 = 57;
const DIGITS_MAX: u32 = BASE - 1 - SHORT;

// The announced digits are enough for every size, the codes do not meet, and the digits of both
// ends fit into the smallest block that has several, with a start between.
const _: () = assert!(DIGITS_MAX * BASE.ilog2() >= u32::BITS);
const _: () = assert!(CACHED_CLASS + class::COUNT <= FREE_ONE);
const _: () = assert!(2 * (1 + DIGITS_MAX) < SHORT);

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
pub struct Map<'a> {
    region: &'a Region,
    /// Offset of the byte of granule 0.
    at: usize,
    granules: u32,
}

impl<'a> Map<'a> {
    /// The map that lies at an offset of the region, for this many granules.
    pub fn new(region: &'a Region, at: usize, granules: u32) -> Map<'a> {
        Map { region, at, granules }
    }

    /// The byte of a granule; a digit outside the map.
    fn byte(&self, granule: u32) -> u8 {
        if granule < self.granules {
            self.region.load8(self.at + granule as usize)
        } else {
            0
        }
    }

    fn set(&self, granule: u32, byte: u8) {
        debug_assert!(granule < self.granules);
        if granule < self.granules {
            self.region.store8(self.at + granule as usize, byte);
        }
    }

    /// Whether a block starts here.
    pub fn is_start(&self, granule: u32) -> bool {
        self.byte(granule) & START_BITS != 0
    }

    /// The block that starts here, if it ends at or before `end`. O(1).
    pub fn read(&self, granule: u32, end: u32) -> Option<Entry> {
        let code = self.byte(granule);
        let class = code.wrapping_sub(LIVE_CLASS);
        let (state, size) = match code {
            FREE_ONE => (State::Free, 1),
            META_ONE => (State::Meta, 1),
            FREE => (State::Free, self.number(granule, 1)?),
            LIVE => (State::Live, self.number(granule, 1)?),
            META => (State::Meta, self.number(granule, 1)?),
            LIVE_CLASS..CACHED_CLASS => (State::Live, class::size(class)),
            CACHED_CLASS..FREE_ONE if class < 2 * class::COUNT => {
                (State::Cached, class::size(class - class::COUNT))
            }
            _ => return None,
        };
        let fits = granule <= end && size <= end - granule;
        fits.then_some(Entry { state, size })
    }

    /// The free block that ends where this granule starts: its first granule and size. O(1).
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
        debug_assert!(size > 0 && granule < self.granules && size <= self.granules - granule);
        let code = match (state, class::exact(size)) {
            (State::Live, Some(class)) => LIVE_CLASS + class,
            (State::Cached, Some(class)) => CACHED_CLASS + class,
            (State::Cached, None) => return debug_assert!(false, "cached, of no class"),
            (State::Live, None) => LIVE,
            (State::Free, _) if size == 1 => FREE_ONE,
            (State::Free, _) => FREE,
            (State::Meta, _) if size == 1 => META_ONE,
            (State::Meta, _) => META,
        };
        if matches!(code, FREE | LIVE | META) {
            self.set_number(granule, 1, size);
        }
        if code == FREE {
            self.set_number(granule + size, -1, size);
        }
        self.set(granule, code);
    }

    /// Makes the start of a block a digit: the block is part of its left neighbour now, or of
    /// the space above top.
    pub fn erase(&self, granule: u32) {
        self.set(granule, 0);
    }

    /// The first start in `[from, end)`. O(end - from), eight granules a step.
    pub fn next_start(&self, from: u32, end: u32) -> Option<u32> {
        let (from, end) = (from as usize, end.min(self.granules) as usize);
        let found = self.region.find_bits(START_BITS, self.at + from, self.at + end)?;
        Some((found - self.at) as u32)
    }

    /// The last start at or before a granule. O(granules between), eight a step.
    pub fn last_start(&self, granule: u32) -> Option<u32> {
        let end = granule.saturating_add(1).min(self.granules) as usize;
        let found = self.region.find_bits_back(START_BITS, self.at, self.at + end)?;
        Some((found - self.at) as u32)
    }

    /// Makes `[from, end)` digits, whatever they were; writes only to pages of which a byte is
    /// not zero, so that a sparse map stays sparse.
    pub fn clear(&self, from: u32, end: u32) {
        const STEP: usize = 4096;
        let end = self.at + end.min(self.granules) as usize;
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
    fn number(&self, edge: u32, step: i32) -> Option<u32> {
        let first = if step > 0 { edge.checked_add(1)? } else { edge.checked_sub(1)? };
        let short = u32::from(self.byte(first));
        if short <= SHORT {
            return (short >= 2).then_some(short);
        }
        let count = short.checked_sub(SHORT).filter(|&count| count <= DIGITS_MAX)?;
        let mut number = 0u64;
        for k in (1..=count).rev() {
            let digit = self.byte(first.checked_add_signed(k as i32 * step)?);
            if u32::from(digit) >= BASE {
                return None;
            }
            number = number * u64::from(BASE) + u64::from(digit);
        }
        u32::try_from(number).ok().filter(|&number| number > SHORT)
    }

    fn set_number(&self, edge: u32, step: i32, number: u32) {
        let first = edge.wrapping_add_signed(if step > 0 { 1 } else { -1 });
        if number <= SHORT {
            return self.set(first, number as u8);
        }
        let count = number.ilog2() / BASE.ilog2() + 1;
        let mut rest = number;
        for k in 1..=count {
            self.set(first.wrapping_add_signed(k as i32 * step), (rest % BASE) as u8);
            rest /= BASE;
        }
        self.set(first, (SHORT + count) as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::ptr::NonNull;

    fn with_map(granules: u32, test: impl FnOnce(Map)) {
        let mut bytes = vec![0u64; granules as usize / 8 + 2];
        let base = NonNull::new(bytes.as_mut_ptr().cast::<u8>()).unwrap();
        let region = crate::region::tests::region(base, bytes.len() * 8);
        test(Map::new(&region, 3, granules));
    }

    #[test]
    fn every_state_and_size_reads_back() {
        with_map(300_000, |map| {
            let sizes = (1..700).chain(4090..4100).chain([262_143, 262_144]);
            for size in sizes {
                for state in [State::Free, State::Live, State::Cached, State::Meta] {
                    if state == State::Cached && class::exact(size).is_none() {
                        continue;
                    }
                    let block = Entry { state, size };
                    map.write(7, block);
                    assert_eq!(map.read(7, 7 + size), Some(block));
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
