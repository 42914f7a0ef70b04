//! Loose blocks: what magazines gave back. They are free in the map, and nothing more was done: no
//! neighbour was looked at, no bin touched. Random frees of a large pool would else cost a handful
//! of cache lines each.
//!
//! A *hand* goes round the pool from block to block, a little at a time, when a malloc looks for
//! room: loose blocks in its way are joined to their free neighbours and go to a bin. Else they
//! are joined only where a block grows. (Joining late: Knuth, *The Art of Computer Programming* 2.5; sweeping on demand:
//! Hughes 1982.)
//!
//! ```text
//!            hand
//!             v
//!   | live  | loose | loose | free | live | ..   ->   | live  | free                 | live | ..
//! ```
#![forbid(unsafe_code)]

use super::change::{Change, Kind, Taker};
use super::Heap;
use crate::error::{Error, Result};
use crate::map::{Entry, State};

/// How many blocks a malloc looks at.
const BUDGET: u32 = 64;
/// Who waits for the lock is told each time so many have been looked at.
const PROGRESS: u32 = 4096;

impl Heap {
    /// Makes a live block loose. O(1).
    pub fn loosen(&self, granule: u32) -> Result<()> {
        let size = self.unbound_size(granule)?;
        let mut change = Change::new(Kind::Free, granule, self.top());
        change.old[0] = granule;
        change.new[0] = Entry { state: State::Loose, size };
        self.commit(change, [None, None]);
        Ok(())
    }

    /// Makes loose what a magazine holds behind its first `taker.count` blocks, and the magazine
    /// forget it, in one event; how many of these were its own. O(blocks).
    pub fn loosen_all(&self, taker: Taker) -> u32 {
        let mut change = Change::new(Kind::Loosen, 0, self.top());
        change.taker = taker;
        let before = self.words.loose();
        self.commit(change, [None, None]);
        self.words.loose().wrapping_sub(before)
    }

    /// Joins all loose blocks. O(blocks), if there are any.
    pub fn join_all(&self) -> Result<()> {
        if self.words.loose() > 0 {
            self.go_round(u32::MAX)?;
            if self.words.loose() > 0 {
                // There is none, once round: they were not counted right.
                self.mend()?;
            }
        }
        Ok(())
    }

    /// Joins loose blocks, as many as can be found in microseconds.
    pub fn join_some(&self) -> Result<()> {
        const SOME: u32 = 4096;
        if self.words.loose() > 0 {
            self.go_round(SOME)?;
        }
        Ok(())
    }

    /// Joins the next loose blocks. O(1).
    pub(super) fn join_few(&self) -> Result<()> {
        if self.words.loose() > 0 {
            self.go_round(BUDGET)?;
        }
        Ok(())
    }

    /// Joins the free blocks that follow a block which ends at `start`, if a loose one is among them,
    /// until they reach to `enough`. O(1).
    pub(super) fn join_behind(&self, start: u32, enough: u32) {
        if self.words.loose() == 0 {
            return;
        }
        let (mut end, mut has_loose) = (start, false);
        for _ in 0..BUDGET {
            let Some(next) = self.free_at(end).filter(|_| end < enough) else { break };
            (end, has_loose) = (next.end(), has_loose || next.is_loose);
        }
        // A free block in a bin must not stay beside another.
        end = self.free_at(end).filter(|next| !next.is_loose).map_or(end, |next| next.end());
        self.join(start, end, has_loose);
    }

    /// Moves the hand by `budget` blocks, once round at most, and joins what it passes.
    fn go_round(&self, budget: u32) -> Result<()> {
        let begin = self.hand();
        let (mut at, mut is_second) = (begin, false);
        // The stretch of free blocks that ends where the hand is.
        let left = self.map.free_before(begin).filter(|&left| self.is_free(left));
        let (mut start, mut has_loose) = (left.map_or(at, |(start, _)| start), false);
        for step in 0..budget {
            if step % PROGRESS == 0 {
                self.show_progress();
            }
            if at >= self.top() {
                self.join(start, at, has_loose);
                (start, at, has_loose) = (0, 0, false);
                if is_second || begin == 0 || self.top() == 0 {
                    break;
                }
                is_second = true;
            }
            let Entry { state, size } = self.block_at(at)?;
            if matches!(state, State::Free | State::Loose) {
                at += size;
                has_loose |= state == State::Loose;
                continue;
            }
            self.join(start, at, has_loose);
            at += size;
            (start, has_loose) = (at, false);
            if is_second && at >= begin {
                break;
            }
        }
        // A free block in a bin must not stay beside another.
        let next = self.map.read(at, self.top()).filter(|next| next.state == State::Free);
        at += next.map_or(0, |next| next.size);
        self.join(start, at, has_loose);
        self.words.set_hand(at);
        Ok(())
    }

    /// Makes one free block of all from `start` to `end`, or brings `top` down to it, if a loose one
    /// is among them.
    fn join(&self, start: u32, end: u32, has_loose: bool) {
        if !has_loose {
            return;
        }
        let mut change = Change::new(Kind::Join, start, self.top());
        change.old[0] = end;
        if end == self.top() {
            change.top = start;
        } else {
            change.new[0] = Entry { state: State::Free, size: end - start };
        }
        self.record.open(&change);
        let mut counts = self.words.counts();
        let (mut at, mut honest) = (start, true);
        while let Some(Entry { state, size }) = self.map.read(at, end) {
            if state == State::Loose {
                counts.take_loose(size);
            } else {
                counts.take_free(size);
                honest &= self.bins.unlink((at, size)).is_ok();
            }
            self.map.erase(at);
            at += size;
        }
        self.finish(&change, counts, honest);
    }

    /// Where the hand is: at the start of a block, or at the pool's.
    fn hand(&self) -> u32 {
        let hand = self.words.hand();
        if hand < self.top() && self.map.is_start(hand) {
            hand
        } else {
            0
        }
    }

    fn block_at(&self, granule: u32) -> Result<Entry> {
        let at = self.geometry.offset(granule) as u64;
        let what = "no block starts where one must";
        self.map.read(granule, self.top()).ok_or(Error::Corrupted { what, at })
    }
}
