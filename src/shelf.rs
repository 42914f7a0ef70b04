//! Shelves: where cached blocks wait that are too large for magazines, of which a pool has few. All
//! threads put there and take from there, without a lock.
//!
//! ```text
//! shelf   lines of words, one for each block, for each wide class
//!
//! word    0                 nothing
//!         granule + 1       a cached block, for anybody
//!         .. | grip << 32   a block in the grip of who puts it or takes it: a cache's token, or 4095 for
//!                           the holder of the pool's lock, who gives it back to the heap
//! ```
//!
//! A word is the truth about whose the block is; who comes first has it, by one compare-and-swap:
//!
//! ```text
//! put    word: nothing -> granule, grip | map: live -> cached (freed) | word: grip -> none
//! take   word: grip none -> grip        | map: cached -> taken | map: taken -> live (delivered) | word -> nothing
//! ```
//!
//! So what a dead thread has in its grip becomes free if the map says that it is cached or taken: it was
//! freed, or not delivered. If it is live, or at another place by now, it is its owner's.
//!
//! Each thread begins at a line of its own, where it finds what it put there itself: so threads of
//! which each has enough do not meet. There are eight lines for a few threads, and then as many as
//! there are threads, up to what the pool has room for; the others' words are not looked at.
#![forbid(unsafe_code)]

use crate::class;
use crate::layout::{Geometry, CACHES_OFFSET, SHELF_SLOTS_MIN, SHELVES_OFFSET};
use crate::region::Region;
use core::ops::Range;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// Words of a line.
const LINE: usize = 8;

/// In whose grip a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grip(u32);

impl Grip {
    /// Nobody's: it lies there.
    pub const NONE: Grip = Grip(0);
    /// That of the holder of the pool's lock.
    pub const HOLDER: Grip = Grip(crate::depot::HOLDER);

    /// That of the thread whose cache has this token.
    pub fn of(token: u32) -> Grip {
        Grip(token)
    }

    /// The token of a thread's cache.
    pub fn token(self) -> Option<u32> {
        (self.0 >> crate::depot::TOKEN_SHIFT != 0).then_some(self.0)
    }
}

/// A block on a shelf, or in the grip of somebody there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Offset of its word.
    pub at: usize,
    /// The class of the shelf.
    pub wide: u8,
    /// Where the block starts.
    pub granule: u32,
    /// In whose grip it is.
    pub grip: Grip,
}

impl Place {
    fn decode(at: usize, wide: u8, word: u64) -> Option<Place> {
        let granule = (word as u32).checked_sub(1)?;
        Some(Place { at, wide, granule, grip: Grip((word >> 32) as u32) })
    }

    fn encode(&self) -> u64 {
        u64::from(self.grip.0) << 32 | (u64::from(self.granule) + 1)
    }

    /// Granules of the block.
    pub fn size(&self) -> u32 {
        class::wide_size(self.wide)
    }
}

/// The shelves of a pool.
#[derive(Clone, Copy)]
pub struct Shelves<'a> {
    region: &'a Region,
    geometry: &'a Geometry,
}

impl<'a> Shelves<'a> {
    /// The shelves of the pool with this geometry.
    pub fn new(region: &'a Region, geometry: &'a Geometry) -> Shelves<'a> {
        Shelves { region, geometry }
    }

    /// Makes all shelves unused: what their bytes are does not matter any more.
    pub fn format(&self) {
        self.region.store32(self.geometry.word(SHELVES_OFFSET), 0);
    }

    /// Whether they were ever used.
    pub fn are_used(&self) -> bool {
        self.region.load32(self.geometry.word(SHELVES_OFFSET)) != 0
    }

    /// Makes shelves that were never used empty ones. For who holds the pool's lock.
    pub fn begin(&self) {
        if self.are_used() {
            return;
        }
        self.empty(0..self.geometry.shelves as u8);
        if let Some(word) = self.region.word32(self.geometry.word(SHELVES_OFFSET)) {
            word.store(1, Release);
        }
    }

    /// Forgets all that lies there. For who knows that nobody else puts or takes anything.
    pub fn clear_all(&self) {
        self.empty(self.classes());
    }

    fn empty(&self, classes: Range<u8>) {
        for at in classes.flat_map(|wide| self.places(wide, 0..self.geometry.shelf_slots)) {
            self.region.store64(at, 0);
        }
    }

    /// The classes that have a shelf in use.
    pub fn classes(&self) -> Range<u8> {
        0..if self.are_used() { self.geometry.shelves as u8 } else { 0 }
    }

    /// Puts a live block into the grip of a thread, at a place where nothing is. None if the shelf
    /// is full.
    pub fn put(&self, wide: u8, granule: u32, token: u32) -> Option<Place> {
        let place = |at| Place { at, wide, granule, grip: Grip::of(token) };
        self.slots(wide, token).map(place).find(|place| {
            let word = self.region.word64(place.at);
            word.is_some_and(|word| {
                word.load(Relaxed) == 0
                    && word.compare_exchange(0, place.encode(), Acquire, Relaxed).is_ok()
            })
        })
    }

    /// Takes a block into the grip of a thread. None if the shelf is empty.
    #[inline]
    pub fn take(&self, wide: u8, token: u32) -> Option<Place> {
        self.slots(wide, token).find_map(|at| {
            let found = self.place(wide, at).filter(|found| found.grip == Grip::NONE)?;
            self.pass(found, Grip::of(token))
        })
    }

    /// Takes a block out of one grip into another, if it still is there.
    pub fn pass(&self, from: Place, grip: Grip) -> Option<Place> {
        let to = Place { grip, ..from };
        let word = self.region.word64(from.at)?;
        let won = word.compare_exchange(from.encode(), to.encode(), Acquire, Relaxed).is_ok();
        won.then_some(to)
    }

    /// Lets go of a block in one's grip: it is anybody's.
    pub fn let_go(&self, place: Place) -> Place {
        let place = Place { grip: Grip::NONE, ..place };
        if let Some(word) = self.region.word64(place.at) {
            word.store(place.encode(), Release);
        }
        place
    }

    /// Makes the place of a block in one's grip an empty one: the block is somewhere else.
    pub fn clear(&self, place: Place) {
        if let Some(word) = self.region.word64(place.at) {
            word.store(0, Release);
        }
    }

    /// What is on a shelf, as far as threads look. O(places).
    pub fn each(self, wide: u8) -> impl Iterator<Item = Place> + 'a {
        self.places(wide, 0..self.reach()).filter_map(move |at| self.place(wide, at))
    }

    /// What is on all shelves. O(places).
    pub fn all(self) -> impl Iterator<Item = Place> + 'a {
        let whole = move |wide| self.places(wide, 0..self.geometry.shelf_slots);
        self.classes().flat_map(move |wide| whole(wide).filter_map(move |at| self.place(wide, at)))
    }

    /// Another place of its shelf where a block is, too: it was put there since. O(places).
    pub fn elsewhere(&self, place: Place) -> Option<Place> {
        let is_it = |other: &Place| other.granule == place.granule && other.at != place.at;
        let mut places = self.places(place.wide, 0..self.geometry.shelf_slots);
        places.find_map(|at| self.place(place.wide, at).filter(is_it))
    }

    /// What stands at a place.
    pub fn place(&self, wide: u8, at: usize) -> Option<Place> {
        Place::decode(at, wide, self.region.load64(at))
    }

    /// Where these places of a shelf are.
    fn places(&self, wide: u8, slots: Range<usize>) -> impl Iterator<Item = usize> {
        let first = self.geometry.shelf_at(wide);
        slots.map(move |slot| first + slot * 8)
    }

    /// Where a thread looks, at its own line first.
    fn slots(&self, wide: u8, token: u32) -> impl Iterator<Item = usize> {
        let reach = self.reach();
        let own = (token as usize & (reach / LINE - 1)) * LINE;
        self.places(wide, own..reach).chain(self.places(wide, 0..own))
    }

    /// How many places of a shelf are in use: a line for each thread that there ever was.
    fn reach(&self) -> usize {
        let most = self.geometry.shelf_slots;
        let threads = self.region.load32(self.geometry.word(CACHES_OFFSET)) as usize;
        (threads.min(most / LINE).next_power_of_two() * LINE).max(SHELF_SLOTS_MIN)
    }
}
