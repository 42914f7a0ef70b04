//! What lies behind the bytes of each block, in pools made with [`GUARD`]: so that who writes beyond
//! its block's end is found out when the block ends or changes, or by a check.
//!
//! ```text
//!  block                                                    end of its last granule
//!  |<------ bytes asked for ------>|<---- guard ---------------->|
//!  +-------------------------------+----------------------+------+
//!  | the caller's                  | bd bd bd .. bd       | tail |
//!  +-------------------------------+----------------------+------+
//!                                    8 bytes or more        8 bytes: how many were asked for
//! ```
//!
//! All that rounding leaves is guard, so there is no byte behind the caller's that is not looked at.
//! Eight set bytes lie before the tail, since most overruns are short (a byte, an element): these
//! leave the tail alone, which then tells exactly where the block ended. There is no header in front
//! of a block: it would cost its alignment, as much as a page for a block aligned to one.
//!
//! The tail is the bytes asked for, plus a number that follows from where the block lies, times an odd
//! constant. That is undone by its inverse, and there is no other redundancy: of 2^64 words those that
//! tell of a size that the block can have are rare, and none of them differs from another in one byte
//! only (asserted below). What a tail says is compared with the block's size in the map, which is the
//! truth, before it is used.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::hash;
use crate::layout::{Geometry, GUARD_BYTES};
use crate::options::GUARD;
use crate::region::Region;

/// Stands between what was asked for and the tail: no NUL, no part of a letter.
const BYTE: u8 = 0xbd;
const TAIL_BYTES: usize = 8;
/// What the tail is multiplied by, and what undoes it.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
const INVERSE: u64 = 0xf1de_83e1_9937_733d;
/// No block is as long as this.
const SIZE_MAX: u64 = 1 << 48;

const _: () = assert!(GUARD_BYTES == 2 * TAIL_BYTES && FACTOR.wrapping_mul(INVERSE) == 1);
// A byte of the tail that becomes another makes it tell of another size, further from the true one
// than any block is long.
const _: () = {
    let (mut place, mut by) = (0u32, 1u64);
    while place < 64 {
        let moved = (by << place).wrapping_mul(INVERSE);
        assert!(moved >= SIZE_MAX && moved.wrapping_neg() >= SIZE_MAX);
        (place, by) = if by == 255 { (place + 8, 1) } else { (place, by + 1) };
    }
};

/// The guards of a pool that has them.
#[derive(Clone, Copy)]
pub struct Guards<'a> {
    region: &'a Region,
    geometry: &'a Geometry,
}

/// A block by its bytes: where it begins, where its last granule ends.
#[derive(Clone, Copy)]
struct Place {
    start: usize,
    end: usize,
}

impl Place {
    fn tail(&self) -> usize {
        self.end.saturating_sub(TAIL_BYTES)
    }

    /// What makes the tail of this block another than that of any other.
    fn salt(&self) -> u64 {
        hash::mix(self.start as u64)
    }

    fn tail_of(&self, asked: u64) -> u64 {
        asked.wrapping_add(self.salt()).wrapping_mul(FACTOR)
    }
}

impl<'a> Guards<'a> {
    /// The guards of the pool with this geometry; None if its blocks have none.
    pub fn of(region: &'a Region, geometry: &'a Geometry) -> Option<Guards<'a>> {
        geometry.has(GUARD).then_some(Guards { region, geometry })
    }

    fn place(&self, granule: u32, size: u32) -> Place {
        let start = self.geometry.offset(granule);
        Place { start, end: start + self.geometry.bytes(size) }
    }

    /// Sets the guard of a block of `size` granules of which `asked` bytes are the caller's. Doing it
    /// again changes nothing. O(guard).
    pub fn set(&self, granule: u32, size: u32, asked: usize) {
        let place = self.place(granule, size);
        let from = place.start.saturating_add(asked);
        if from > place.tail() {
            return debug_assert!(false, "{asked} bytes and a guard in {size} granules");
        }
        self.region.fill(from, place.tail() - from, BYTE);
        self.region.store64(place.tail(), place.tail_of(asked as u64).to_le());
    }

    /// How many bytes of a block are the caller's; None if its tail lies. O(1).
    pub fn asked(&self, granule: u32, size: u32) -> Option<usize> {
        let place = self.place(granule, size);
        let most = (place.end - place.start).checked_sub(GUARD_BYTES)?;
        let tail = u64::from_le(self.region.load64(place.tail()));
        let asked = tail.wrapping_mul(INVERSE).wrapping_sub(place.salt());
        usize::try_from(asked).ok().filter(|asked| (1..=most).contains(asked))
    }

    /// How many bytes of a block are the caller's, if its guard is whole; else where it is not.
    /// O(guard).
    pub fn verify(&self, granule: u32, size: u32) -> Result<usize> {
        let place = self.place(granule, size);
        let block = place.start as u64;
        let Some(asked) = self.asked(granule, size) else { return Err(self.explain(place)) };
        match self.region.find_other(BYTE, place.start + asked, place.tail()) {
            None => Ok(asked),
            Some(at) => Err(Error::Overrun { block, asked: asked as u64, at: at as u64 }),
        }
    }

    /// What is wrong with a block whose tail lies. If the bytes before the tail are whole it alone was
    /// written to. Then the block was asked for as one of the sizes that end among these bytes: that
    /// whose tail is most like what is found. O(guard).
    fn explain(&self, place: Place) -> Error {
        let (block, tail) = (place.start as u64, place.tail());
        let latest = place.end.saturating_sub(GUARD_BYTES).max(place.start);
        if let Some(at) = self.region.find_other(BYTE, latest, tail) {
            return Error::OverrunToTheEnd { block, at: at as u64 };
        }
        let told = u64::from_le(self.region.load64(tail));
        let changed = |asked: usize| (told ^ place.tail_of(asked as u64)).to_le_bytes();
        let count = |asked| changed(asked).into_iter().filter(|&byte| byte != 0).count();
        let mut asked = latest - place.start;
        let mut other = asked;
        while other > 1 && self.region.load8(place.start + other - 1) == BYTE {
            other -= 1;
            asked = if count(other) < count(asked) { other } else { asked };
        }
        let byte = changed(asked).into_iter().position(|byte| byte != 0).unwrap_or(0);
        Error::Overrun { block, asked: asked as u64, at: (tail + byte) as u64 }
    }
}
