//! Magazines: rows of cached blocks of one class, handed over whole (Bonwick and Adams,
//! *Magazines and Vmem*, 2001).
//!
//! ```text
//! magazine   0 owner | 4 next | 8 count | 9 class | 10 rounds | 12 none | 16 granule 0 | 20 granule 1 | ..
//!
//! owner      0            nobody's: idle, holds nothing
//!            1 + class    the depot's
//!            4095         the holder's of the pool's lock, who empties it
//!            n << 12 | k  cache k's; n is random, another for each thread that claims it
//! ```
//!
//! `rounds` is how many blocks it may hold. Behind the last block stand only numbers of no granule
//! (all ones), and one stands before the first. So a kill leaves no doubt: a last block that is
//! live was not delivered yet, and a cached one behind the last was freed. See [`crate::local`].
//!
//! The owner word is the truth: a magazine is handed over by one store of it, or by one
//! compare-and-swap where others may want it too. The depot keeps two stacks for each class, of
//! full and of empty magazines, lock-free (Treiber 1986), with a tag against ABA. They are hints:
//! whoever pops a magazine owns it only once its owner word says so. One that was handed to the
//! depot but not pushed, because its owner died in between, is found by going through all.
//!
//! A magazine is *bound* to a class as long as it has an owner. What all bound magazines may hold
//! is the *hoard*; it is kept below an eighth of the pool. Binding a magazine, and letting it hold
//! more, takes the pool's lock; handing over does not.
#![forbid(unsafe_code)]

use crate::class;
use crate::counts;
use crate::layout::{Geometry, COUNT_AT, DEPOT_OFFSET, ITEMS_AT, MAGAZINE_ITEMS, NO_BLOCK};
use crate::region::Region;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

const HOARD: usize = DEPOT_OFFSET;
const KNOWN: usize = DEPOT_OFFSET + 4;
const IDLE: usize = DEPOT_OFFSET + 8;

const OWNER_AT: usize = 0;
const NEXT_AT: usize = 4;
const CLASS_AT: usize = COUNT_AT + 1;
const ROUNDS_AT: usize = COUNT_AT + 2;
/// An idle magazine's link. Not the stacks': one that was given while somebody took it from its
/// giver may still come from there.
const IDLE_NEXT_AT: usize = ITEMS_AT;
/// Where the number of no granule stands before the first block.
pub const FLOOR_AT: usize = ITEMS_AT - 4;

/// What names the holder of the pool's lock.
pub const HOLDER: u32 = (1 << TOKEN_SHIFT) - 1;
/// A cache's token has its number below, and random bits from here on.
pub const TOKEN_SHIFT: u32 = 12;

/// So many magazines that are not the depot's may come from a stack before it is taken for a lie.
const TRIES: u32 = 8;

/// Whose a magazine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Nobody's.
    Nobody,
    /// The depot's, of this class.
    Depot(u8),
    /// The holder's of the pool's lock, who empties it.
    Holder,
    /// That of the cache with this token.
    Cache(u32),
}

impl Owner {
    fn encode(self) -> u32 {
        match self {
            Owner::Nobody => 0,
            Owner::Depot(class) => 1 + u32::from(class),
            Owner::Holder => HOLDER,
            Owner::Cache(token) => token,
        }
    }

    fn decode(word: u32) -> Option<Owner> {
        match word {
            0 => Some(Owner::Nobody),
            HOLDER => Some(Owner::Holder),
            _ if word >> TOKEN_SHIFT != 0 => Some(Owner::Cache(word)),
            _ if word <= u32::from(class::COUNT) => Some(Owner::Depot((word - 1) as u8)),
            _ => None,
        }
    }

    /// Whether it is the cache of this number.
    pub fn is_cache(self, cache: u32) -> bool {
        matches!(self, Owner::Cache(token) if token & HOLDER == cache)
    }
}

/// Which of a class's two stacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stack {
    /// Magazines to allocate from.
    Full,
    /// Magazines to free into.
    Empty,
}

/// A bound magazine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Its number.
    pub magazine: u32,
    /// Whose it is.
    pub owner: Owner,
    /// Of which class its blocks are.
    pub class: u8,
}

/// The magazines of a pool.
#[derive(Clone, Copy)]
pub struct Depot<'a> {
    region: &'a Region,
    geometry: &'a Geometry,
}

impl<'a> Depot<'a> {
    /// The magazines of the pool with this geometry.
    pub fn new(region: &'a Region, geometry: &'a Geometry) -> Depot<'a> {
        Depot { region, geometry }
    }

    /// Makes all stacks empty and all magazines unknown.
    pub fn format(&self) {
        if self.geometry.caches == 0 {
            return;
        }
        for class in 0..class::COUNT {
            self.region.store64(self.stack_at(class, Stack::Full), 0);
            self.region.store64(self.stack_at(class, Stack::Empty), 0);
        }
        self.set(HOARD, 0);
        self.set(KNOWN, 0);
        self.set(IDLE, 0);
    }

    /// How many magazines have ever been bound; the others' bytes mean nothing.
    pub fn known(&self) -> u32 {
        self.get(KNOWN).min(self.geometry.magazines)
    }

    /// Whose it is; None for an owner that cannot be.
    pub fn owner(&self, magazine: u32) -> Option<Owner> {
        let word = self.region.word32(self.word(magazine, OWNER_AT))?.load(Acquire);
        Owner::decode(word)
    }

    /// The class of a bound magazine; None for one that cannot be.
    pub fn class(&self, magazine: u32) -> Option<u8> {
        let class = self.region.load8(self.word(magazine, CLASS_AT));
        (class < class::COUNT).then_some(class)
    }

    /// The bound magazines. O(magazines ever bound).
    pub fn bound(self) -> impl Iterator<Item = Bound> + 'a {
        (0..self.known()).filter_map(move |magazine| {
            let owner = self.owner(magazine).filter(|&owner| owner != Owner::Nobody)?;
            Some(Bound { magazine, owner, class: self.class(magazine)? })
        })
    }

    /// How many blocks a magazine of the class may hold.
    pub fn rounds(&self, magazine: u32, class: u8) -> u32 {
        let rounds = u32::from(self.region.load8(self.word(magazine, ROUNDS_AT)));
        if self.geometry.has_rounds(class, rounds) {
            return rounds;
        }
        rounds.min(self.geometry.rounds_max(class))
    }

    /// How many blocks it holds; no more than fit.
    pub fn count(&self, magazine: u32) -> u32 {
        u32::from(self.region.load8(self.count_at(magazine))).min(MAGAZINE_ITEMS)
    }

    /// Offset of its count.
    pub fn count_at(&self, magazine: u32) -> usize {
        self.word(magazine, COUNT_AT)
    }

    /// Sets how many blocks it holds.
    pub fn set_count(&self, magazine: u32, count: u32) {
        self.region.store8(self.count_at(magazine), count as u8);
    }

    /// Makes a count of more blocks than fit that of as many as do.
    pub fn mend_count(&self, magazine: u32) {
        if u32::from(self.region.load8(self.count_at(magazine))) > MAGAZINE_ITEMS {
            self.set_count(magazine, MAGAZINE_ITEMS);
        }
    }

    /// The granule of one of its blocks, or of the one behind the last; None if there is none.
    pub fn item(&self, magazine: u32, index: u32) -> Option<u32> {
        if index >= MAGAZINE_ITEMS {
            return None;
        }
        let granule = self.region.load32(self.word(magazine, ITEMS_AT + index as usize * 4));
        Some(granule).filter(|&granule| granule != NO_BLOCK)
    }

    /// Makes the magazine hold no more than `count` blocks: forgets the others.
    pub fn cut(&self, magazine: u32, count: u32) {
        for index in count..MAGAZINE_ITEMS {
            self.region.store32(self.word(magazine, ITEMS_AT + index as usize * 4), NO_BLOCK);
        }
        self.set_count(magazine, count);
    }

    /// Hands a magazine of one's own to the depot.
    pub fn give(&self, magazine: u32, class: u8, stack: Stack) {
        counts::exchange();
        if let Some(word) = self.region.word32(self.word(magazine, OWNER_AT)) {
            word.store(Owner::Depot(class).encode(), Release);
        }
        self.push(magazine, class, stack);
    }

    /// Whether there seems to be a magazine to take.
    pub fn has(&self, class: u8, stack: Stack) -> bool {
        self.region.load64(self.stack_at(class, stack)) as u32 != 0
    }

    /// Takes a magazine of the class from the depot.
    pub fn take(&self, class: u8, stack: Stack, to: Owner) -> Option<u32> {
        counts::exchange();
        for _ in 0..TRIES {
            let magazine = self.pop(class, stack)?;
            if self.change_owner(magazine, Owner::Depot(class), to) {
                return Some(magazine);
            }
        }
        // The stack lies, and may do so for ever: what it held is found by going through all.
        self.forget_stack(class, stack);
        None
    }

    /// Changes whose it is, if it still is who it is thought to be.
    pub fn change_owner(&self, magazine: u32, from: Owner, to: Owner) -> bool {
        let word = self.region.word32(self.word(magazine, OWNER_AT));
        word.is_some_and(|word| {
            word.compare_exchange(from.encode(), to.encode(), AcqRel, Relaxed).is_ok()
        })
    }

    /// Counts so many granules more as the hoard's, if `spare` are left then. For anybody.
    pub fn charge(&self, granules: u32, spare: u32) -> bool {
        let most = self.geometry.hoard_max.saturating_sub(spare);
        let more = |hoard: u32| hoard.checked_add(granules).filter(|&hoard| hoard <= most);
        let word = self.region.word32(self.geometry.word(HOARD));
        word.is_some_and(|word| word.fetch_update(Relaxed, Relaxed, more).is_ok())
    }

    /// Counts so many granules less as the hoard's. For anybody.
    pub fn discharge(&self, granules: u32) {
        if let Some(word) = self.region.word32(self.geometry.word(HOARD)) {
            let less = |hoard: u32| Some(hoard.saturating_sub(granules));
            let _ = word.fetch_update(Relaxed, Relaxed, less);
        }
    }

    /// Granules that the hoard may still grow by.
    pub fn room(&self) -> u32 {
        self.geometry.hoard_max.saturating_sub(self.get(HOARD))
    }

    /// Granules that a magazine of the class is counted for when it may hold so many blocks.
    pub fn share(class: u8, rounds: u32) -> u32 {
        rounds * class::size(class)
    }

    /// Binds an idle magazine to a class for a cache; None if there is none, or no room in the
    /// hoard. For who holds the pool's lock.
    pub fn bind(&self, class: u8, rounds: u32, token: u32) -> Option<u32> {
        let rounds = rounds.min(self.geometry.rounds_max(class));
        let share = Self::share(class, rounds);
        if rounds == 0 || !self.charge(share, 0) {
            return None;
        }
        let Some(magazine) = self.idle() else {
            self.discharge(share);
            return None;
        };
        self.region.store8(self.word(magazine, CLASS_AT), class);
        self.region.store8(self.word(magazine, ROUNDS_AT), rounds as u8);
        if let Some(word) = self.region.word32(self.word(magazine, OWNER_AT)) {
            word.store(Owner::Cache(token).encode(), Release);
        }
        Some(magazine)
    }

    /// Lets a magazine of one's own hold more blocks; false if there is no room in the hoard. For
    /// who holds the pool's lock.
    pub fn widen(&self, magazine: u32, class: u8, rounds: u32) -> bool {
        let more = rounds.saturating_sub(self.rounds(magazine, class));
        let share = Self::share(class, more);
        if more == 0 || rounds > self.geometry.rounds_max(class) || !self.charge(share, 0) {
            return false;
        }
        self.region.store8(self.word(magazine, ROUNDS_AT), rounds as u8);
        true
    }

    /// Makes a magazine that holds nothing nobody's. For who holds the pool's lock.
    pub fn unbind(&self, magazine: u32, class: u8) {
        let share = Self::share(class, self.rounds(magazine, class));
        self.region.store32(self.word(magazine, OWNER_AT), 0);
        self.region.store32(self.word(magazine, IDLE_NEXT_AT), self.get(IDLE));
        self.set(IDLE, magazine + 1);
        self.discharge(share);
    }

    /// Makes all magazines nobody's, because the pool ends: what threads think is theirs is not.
    pub fn revoke(&self) {
        for magazine in 0..self.known() {
            self.region.store32(self.word(magazine, OWNER_AT), 0);
        }
    }

    /// Empties a class's stack; its magazines stay the depot's.
    pub fn forget_stack(&self, class: u8, stack: Stack) {
        if let Some(head) = self.region.word64(self.stack_at(class, stack)) {
            let _ = head.fetch_update(AcqRel, Relaxed, |head| Some(next_tag(head)));
        }
    }

    /// Counts the hoard anew: what magazines may hold, and what is on the shelves. For who holds the
    /// pool's lock.
    pub fn recount(&self, shelved: u32) {
        let share =
            |bound: Bound| Self::share(bound.class, self.rounds(bound.magazine, bound.class));
        self.set(HOARD, self.bound().map(share).fold(shelved, u32::saturating_add));
    }

    /// Makes the list of idle magazines anew from the owner words. For who holds the pool's lock,
    /// after a death.
    pub fn relist(&self) {
        self.set(IDLE, 0);
        for magazine in (0..self.known()).rev() {
            if self.owner(magazine) == Some(Owner::Nobody) {
                self.region.store32(self.word(magazine, IDLE_NEXT_AT), self.get(IDLE));
                self.set(IDLE, magazine + 1);
            }
        }
    }

    /// An idle magazine, holding nothing.
    fn idle(&self) -> Option<u32> {
        let first = self.get(IDLE);
        if let Some(magazine) = first.checked_sub(1).filter(|&magazine| magazine < self.known()) {
            if self.owner(magazine) == Some(Owner::Nobody) {
                self.set(IDLE, self.region.load32(self.word(magazine, IDLE_NEXT_AT)));
                self.cut(magazine, 0);
                return Some(magazine);
            }
            self.set(IDLE, 0); // A lie; recovery makes the list anew.
        }
        let magazine = self.known();
        if magazine == self.geometry.magazines {
            return None;
        }
        // Known only when it is one: its bytes were anything.
        self.region.store32(self.word(magazine, OWNER_AT), 0);
        self.region.store8(self.word(magazine, CLASS_AT), 0);
        self.region.store8(self.word(magazine, ROUNDS_AT), 0);
        self.region.store32(self.word(magazine, FLOOR_AT), NO_BLOCK);
        self.cut(magazine, 0);
        self.set(KNOWN, magazine + 1);
        Some(magazine)
    }

    fn push(&self, magazine: u32, class: u8, stack: Stack) {
        let Some(head) = self.region.word64(self.stack_at(class, stack)) else { return };
        let mut seen = head.load(Relaxed);
        loop {
            self.region.store32(self.word(magazine, NEXT_AT), seen as u32);
            let new = next_tag(seen) | u64::from(magazine + 1);
            match head.compare_exchange_weak(seen, new, Release, Relaxed) {
                Ok(_) => return,
                Err(other) => seen = other,
            }
        }
    }

    fn pop(&self, class: u8, stack: Stack) -> Option<u32> {
        let head = self.region.word64(self.stack_at(class, stack))?;
        let mut seen = head.load(Acquire);
        loop {
            let magazine = (seen as u32).checked_sub(1)?;
            let is_known = magazine < self.known();
            let next = if is_known { self.region.load32(self.word(magazine, NEXT_AT)) } else { 0 };
            let new = next_tag(seen) | u64::from(next);
            match head.compare_exchange_weak(seen, new, AcqRel, Acquire) {
                Ok(_) => return is_known.then_some(magazine),
                Err(other) => seen = other,
            }
        }
    }

    fn stack_at(&self, class: u8, stack: Stack) -> usize {
        self.geometry.depot + class as usize * 16 + if stack == Stack::Full { 0 } else { 8 }
    }

    fn word(&self, magazine: u32, at: usize) -> usize {
        self.geometry.magazine_at(magazine) + at
    }

    fn get(&self, offset: usize) -> u32 {
        self.region.load32(self.geometry.word(offset))
    }

    fn set(&self, offset: usize, value: u32) {
        self.region.store32(self.geometry.word(offset), value);
    }
}

/// An empty stack's head, one tag later.
fn next_tag(head: u64) -> u64 {
    (head >> 32).wrapping_add(1) << 32
}
