//! How a magazine gets blocks: from as many free ones as it takes, all under one record.
//!
//! ```text
//!   | live | free             | live  ->  | live | free | cached | cached | live       size 3
//!   | live | free   | cached |        ->  | live | cached | cached |
//! ```
//!
//! The blocks of a pool that is neither new nor full lie between free ones of all sizes, and where a
//! block fits best there is seldom room for a second. A change for each would cost more than all the
//! rest of a malloc.
//!
//! Each block is written down in the magazine first and made cached then, from the end of the free
//! block on: what is left of that keeps its start. So who dies here leaves a magazine whose count is
//! 0, blocks that it names, cached or not yet, and a free block that says it is longer than it is.
#![forbid(unsafe_code)]

use super::bins::Lie;
use super::change::{Change, Kind, Taker};
use super::tally::Tally;
use super::{Free, Heap};
use crate::class;
use crate::error::Result;
use crate::layout::MAGAZINE_ITEMS;
use crate::map::{Entry, State};
use core::sync::atomic::{compiler_fence, Ordering::SeqCst};

/// With so many blocks a magazine is left alone, if the next would have to come from elsewhere.
const ENOUGH: u32 = 8;

impl Heap {
    /// Makes cached blocks of a class, and an empty magazine, whose count lies at `count_at`, hold
    /// them: at most `most`, from where they fit best. None if there is no room. O(1).
    pub fn refill(&self, class: u8, most: u32, count_at: usize) -> Result<u32> {
        // Where the map is damaged the hand stops; what is in the bins can be had all the same.
        let _ = self.join_few();
        let size = class::size(class);
        let taker = Taker { count_at, count: 0, run: MAGAZINE_ITEMS, size };
        self.record.open(&Change { taker, ..Change::new(Kind::Refill, 0, self.top()) });
        let most = most.min(MAGAZINE_ITEMS);
        let mut filling =
            Filling { heap: self, taker, class, most, count: 0, tally: Tally::begin(self) };
        filling.fill();
        let Filling { count, mut tally, .. } = filling;
        self.region.store8(count_at, count as u8);
        let lives = &mut tally.counts.live_count;
        *lives = lives.wrapping_add(count);
        tally.end();
        Ok(count)
    }
}

/// A magazine that gets blocks.
struct Filling<'a> {
    heap: &'a Heap,
    taker: Taker,
    class: u8,
    most: u32,
    /// How many it has.
    count: u32,
    tally: Tally<'a>,
}

impl Filling<'_> {
    /// Takes what fits best, until that is enough.
    fn fill(&mut self) {
        let size = self.taker.size;
        while self.count < self.most.min(ENOUGH) {
            match self.heap.bins.find(size, size, |(_, whole)| whole >= size) {
                Ok(Some(found)) if self.take_of(found) => {}
                Ok(None) if self.count == 0 => return self.extend(),
                Ok(_) => return,
                Err(Lie) => return self.tally.doubt(),
            }
            if !self.tally.is_honest() {
                return;
            }
        }
    }

    /// Takes blocks of a free one; false if no good rest would be left.
    fn take_of(&mut self, (start, whole): Free) -> bool {
        let (heap, size) = (self.heap, self.taker.size);
        let mut count = (self.most - self.count).min(whole / size);
        let rest = |count| whole - count * size;
        while count > 0 && rest(count) > 0 && !heap.is_worth_a_block(rest(count)) {
            count -= 1;
        }
        if count == 0 {
            return false;
        }
        self.tally.take((start, whole));
        self.make(start + rest(count), count);
        if rest(count) > 0 {
            heap.map.write(start, Entry { state: State::Free, size: rest(count) });
            self.tally.put((start, rest(count)));
        }
        true
    }

    /// Takes blocks of the space above `top`.
    fn extend(&mut self) {
        let (heap, size, top) = (self.heap, self.taker.size, self.heap.top());
        // Looked at once: somebody may write to it meanwhile who should not.
        let count = self.most.min((heap.geometry.granules - top) / size);
        heap.raise_watermark(top + count * size);
        // Nothing starts there yet: it is free.
        heap.words.set_top(top + count * size);
        self.make(top, count);
    }

    /// Makes so many cached blocks in a row, the last first.
    fn make(&mut self, start: u32, count: u32) {
        let size = self.taker.size;
        for index in (0..count).rev() {
            let block = start + index * size;
            // A death comes between two instructions: it is enough that the compiler keeps the order.
            self.heap.region.store32(self.taker.item_at(self.count), block);
            compiler_fence(SeqCst);
            self.heap.map.cache(block, self.class);
            self.count += 1;
        }
    }
}
