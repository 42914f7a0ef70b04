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
use super::tally::Tally;
use super::Heap;
use crate::error::{Error, Result};
use crate::map::{Entry, State};
use core::sync::atomic::{compiler_fence, Ordering::SeqCst};

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
        let mut sweep = Sweep::begin(self, start);
        for _ in 0..BUDGET {
            let end = sweep.end;
            let Some(next) = self.map.read(end, sweep.top).filter(|_| end < enough) else { break };
            if !sweep.pass(next) {
                break;
            }
        }
        sweep.leave();
    }

    /// Moves the hand by `budget` blocks, once round at most, and joins what it passes.
    fn go_round(&self, budget: u32) -> Result<()> {
        let begin = self.hand();
        let left = self.map.free_before(begin).filter(|&left| self.is_free(left));
        let mut sweep = Sweep::begin(self, left.map_or(begin, |(start, _)| start));
        let mut is_second = false;
        let mut answer = Ok(());
        for step in 0..budget {
            if step % PROGRESS == 0 {
                self.show_progress();
            }
            if sweep.end >= sweep.top {
                sweep.stop(0);
                if is_second || begin == 0 || sweep.top == 0 {
                    break;
                }
                is_second = true;
            }
            let at = sweep.end;
            match self.map.read(at, sweep.top) {
                Some(block) if sweep.pass(block) => {}
                Some(block) => sweep.stop(at + block.size),
                None => {
                    let at = self.geometry.offset(at) as u64;
                    answer = Err(Error::Corrupted { what: "no block starts where one must", at });
                    break;
                }
            }
            if is_second && sweep.start >= begin {
                break;
            }
        }
        self.words.set_hand(sweep.leave());
        answer
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
}

/// Free blocks that are joined as they are passed, all under one record. A stretch of them has one
/// start that stays, the first; see [`super::heal`] for what a death leaves.
struct Sweep<'a> {
    heap: &'a Heap,
    /// The stretch of free blocks that ends where the sweep is.
    start: u32,
    end: u32,
    top: u32,
    /// Whether a loose one is among them. If not it is one of a bin, or empty.
    has_loose: bool,
    tally: Tally<'a>,
    /// Whether the record is open: from the first loose one on. Until then nothing changes.
    is_open: bool,
}

impl<'a> Sweep<'a> {
    /// Begins where a block starts.
    fn begin(heap: &'a Heap, start: u32) -> Sweep<'a> {
        let (top, tally) = (heap.top(), Tally::begin(heap));
        Sweep { heap, start, end: start, top, has_loose: false, tally, is_open: false }
    }

    /// Makes the next block part of the stretch; false if it is not free.
    #[inline(always)]
    fn pass(&mut self, Entry { state, size }: Entry) -> bool {
        let at = self.end;
        match state {
            State::Loose => {
                if !self.is_open {
                    self.heap.record.open(&Change::new(Kind::Join, 0, self.top));
                    self.is_open = true;
                }
                self.tally.counts.take_loose(size);
                if !self.has_loose && self.start < at {
                    self.tally.take((self.start, at - self.start));
                }
                self.has_loose = true;
            }
            State::Free if self.has_loose => self.tally.take((at, size)),
            // Beside another of a bin: by damage, or where free blocks are not joined.
            State::Free => self.start = at,
            _ => return false,
        }
        if at != self.start {
            self.heap.map.erase(at);
        }
        self.end = at + size;
        true
    }

    /// Makes one free block of the stretch, or brings `top` down to it, if a loose one is among them.
    /// The next begins at `next`.
    fn stop(&mut self, next: u32) {
        let Sweep { heap, start, end, top, .. } = *self;
        if self.has_loose && end == top {
            heap.map.erase(start);
            // A death comes between two instructions: it is enough that the compiler keeps the order.
            compiler_fence(SeqCst);
            heap.words.set_top(start);
            self.top = start;
        } else if self.has_loose {
            let size = end - start;
            heap.map.write(start, Entry { state: State::Free, size });
            self.tally.put((start, size));
        }
        (self.start, self.end, self.has_loose) = (next, next, false);
    }

    /// Ends the sweep; where.
    fn leave(mut self) -> u32 {
        // A free block in a bin must not stay beside another.
        let next = self.heap.map.read(self.end, self.top).filter(|next| next.state == State::Free);
        if let Some(next) = next.filter(|_| self.has_loose) {
            self.pass(next);
        }
        let end = self.end;
        self.stop(end);
        if self.is_open {
            self.tally.end();
        }
        end
    }
}
