//! The thread caches in the buffer: who has which. What a cache holds are the magazines whose owner
//! word names it, see [`crate::depot`].
//!
//! ```text
//! cache   0 thread | 4 token | 8 start of the thread
//! ```
#![forbid(unsafe_code)]

use crate::depot::TOKEN_SHIFT;
use crate::layout::{Geometry, CACHES_OFFSET, CACHE_BYTES};
use crate::region::Region;

const THREAD_AT: usize = 0;
const TOKEN_AT: usize = 4;
const START_AT: usize = 8;

/// The thread caches of a pool.
#[derive(Clone, Copy)]
pub struct Caches<'a> {
    region: &'a Region,
    geometry: &'a Geometry,
}

/// A thread, as other processes can look for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Its number.
    pub tid: u32,
    /// When it started, in the kernel's ticks since boot; 0 when that is not known.
    pub start: u64,
}

impl<'a> Caches<'a> {
    /// The caches of the pool with this geometry.
    pub fn new(region: &'a Region, geometry: &'a Geometry) -> Caches<'a> {
        Caches { region, geometry }
    }

    /// Makes all caches unknown.
    pub fn format(&self) {
        self.region.store32(self.geometry.word(CACHES_OFFSET), 0);
    }

    /// How many caches were ever claimed; the others' bytes mean nothing.
    pub fn known(&self) -> u32 {
        self.region.load32(self.geometry.word(CACHES_OFFSET)).min(self.geometry.caches)
    }

    /// How many are claimed.
    pub fn claimed(&self) -> u32 {
        (0..self.known()).filter(|&cache| self.thread(cache).is_some()).count() as u32
    }

    /// Whose it is.
    pub fn thread(&self, cache: u32) -> Option<Thread> {
        let tid = self.region.load32(self.at(cache) + THREAD_AT);
        let start = self.region.load64(self.at(cache) + START_AT);
        (tid != 0).then_some(Thread { tid, start })
    }

    /// The token it was claimed with, if it is claimed.
    pub fn token(&self, cache: u32) -> Option<u32> {
        let is_claimed = cache < self.known() && self.thread(cache).is_some();
        is_claimed.then(|| self.region.load32(self.at(cache) + TOKEN_AT))
    }

    /// A cache for a thread; None if all are taken. For who holds the pool's lock.
    ///
    /// Returns its token: its number below, and random bits above.
    pub fn claim(&self, thread: Thread, random: u32) -> Option<u32> {
        let known = self.known();
        let cache = (0..known).find(|&cache| self.thread(cache).is_none()).unwrap_or(known);
        if cache == self.geometry.caches {
            return None;
        }
        let token = (random << TOKEN_SHIFT).max(1 << TOKEN_SHIFT) | cache;
        self.region.store32(self.at(cache) + TOKEN_AT, token);
        self.region.store64(self.at(cache) + START_AT, thread.start);
        self.region.store32(self.at(cache) + THREAD_AT, thread.tid);
        if cache == known {
            self.region.store32(self.geometry.word(CACHES_OFFSET), known + 1);
        }
        Some(token)
    }

    /// Makes it anybody's. For who holds the pool's lock and has taken all it held.
    pub fn release(&self, cache: u32) {
        self.region.store32(self.at(cache) + THREAD_AT, 0);
    }

    fn at(&self, cache: u32) -> usize {
        self.geometry.cache + cache as usize * CACHE_BYTES
    }
}

/// The number of the cache with this token.
pub fn number(token: u32) -> u32 {
    token & ((1 << TOKEN_SHIFT) - 1)
}
