//! What is done with the map after a death in a change of space ([`Kind::is_of_space`]).
//!
//! Blocks that somebody has tell their size truly, at every instant. So does no free block while it is
//! joined or cut. But each ends where the next block starts:
//!
//! ```text
//!   | live | free 9  :  cached | live   ->   | live | free 4 | cached | live
//!   | live |        ^top          ->   | live |^top
//! ```
#![forbid(unsafe_code)]

use super::change::{Change, Kind};
use super::Heap;
use crate::map::{Entry, State};
use core::sync::atomic::{compiler_fence, Ordering::SeqCst};

impl Heap {
    /// Makes whole what a change of space left, and what a magazine was to get loose. What is damaged it
    /// leaves as it is. May be repeated from any point. O(map).
    pub(super) fn heal(&self, change: &Change) {
        // Looked at once: somebody may write to it meanwhile who should not.
        let mut top = self.top();
        if change.kind == Kind::Refill {
            // Blocks may lie above what was top when it was written down.
            let change = Change { top, ..*change };
            change.loosen(&self.region, &self.map);
        }
        let mut at = 0;
        while at < top {
            self.show_progress();
            let next = || self.map.next_start(at + 1, top).unwrap_or(top);
            // Nothing starts where blocks were to be made above top, or where top was to come down to.
            let is_gap = || change.kind == Kind::Refill && at >= change.top || next() == top;
            at = match self.map.state(at) {
                Some(state @ (State::Free | State::Loose)) => self.heal_free(at, state, &mut top),
                None if !self.map.is_start(at) && is_gap() => {
                    self.heal_free(at, State::Free, &mut top)
                }
                Some(_) => self.map.read(at, top).map_or_else(next, |block| at + block.size),
                None => next(),
            };
        }
        change.apply(&self.region, &self.map);
    }

    /// Makes one free block of what lies from here to the next block that somebody has, or to the next
    /// loose one; where that ends. What ends at top brings it down.
    fn heal_free(&self, at: u32, state: State, top: &mut u32) -> u32 {
        let next = |from| self.map.next_start(from, *top).unwrap_or(*top);
        let mut end = next(at + 1);
        while state == State::Free && end < *top && self.map.state(end) == Some(State::Free) {
            self.map.erase(end);
            end = next(end + 1);
        }
        if state == State::Free && end == *top {
            self.map.erase(at);
            // A death comes between two instructions: it is enough that the compiler keeps the order.
            compiler_fence(SeqCst);
            self.words.set_top(at);
            *top = at;
        } else {
            self.map.write(at, Entry { state, size: end - at });
        }
        end
    }
}
