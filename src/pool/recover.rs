//! What the living do for the dead: make free what was in their hands, and hand on what they had.
//!
//! A dead owner of the lock has left a record, which the heap finishes ([`Heap::enter`]). A dead
//! thread has left a cache: its magazines are where it dropped them, and each of them tells what it
//! was at (see [`crate::local`]). All below is done under the lock, and every step of it is one
//! event; so whoever dies in it is followed by the next, who begins anew and finds less to do.
#![forbid(unsafe_code)]

use super::Handle;
use crate::cache::{self, Thread};
use crate::class;
use crate::depot::{Bound, Owner, Stack};
use crate::heap::{Heap, Taker};
use crate::layout::RECOVERIES_OFFSET;
use crate::local;
use crate::map::State;
use crate::sys;
use core::sync::atomic::{fence, Ordering::Relaxed, Ordering::SeqCst};

/// So many times as long as a close look at the dead has taken there is none, unless it is asked for.
const REST: u64 = 10;

/// Where a thread was when it ended.
#[derive(Clone, Copy)]
pub(super) enum Death {
    /// Inside no call.
    InOrder,
    /// Between any two instructions.
    Anywhere,
}

impl Handle {
    /// Looks for caches whose threads are gone, and cleans up after them. O(caches) but for that.
    pub(super) fn recover_dead(&self, heap: &Heap) {
        self.recover_ended(heap);
        let start = sys::now();
        // A pool that is always full asks at every call: a close look then takes a tenth of the time.
        let closely = start >= self.rested.load(Relaxed);
        let (caches, inquiry) = (self.caches(), self.lock.inquiry());
        let is_gone = |cache| {
            let gone = |thread: Thread| inquiry.is_gone(thread.tid, thread.start, closely);
            caches.thread(cache).is_some_and(gone)
        };
        for cache in (0..caches.known()).filter(|&cache| is_gone(cache)) {
            // One of our own may have ended in order since we looked.
            self.recover_ended(heap);
            if is_gone(cache) {
                self.count(RECOVERIES_OFFSET);
                self.recover_cache(heap, cache, Death::Anywhere);
            }
        }
        if closely {
            let end = sys::now();
            self.rested.store(end + REST * (end - start), Relaxed);
        }
    }

    /// The next look at the dead will be a close one.
    pub(super) fn rest_no_more(&self) {
        self.rested.store(0, Relaxed);
    }

    /// Cleans up after threads of this process that have ended.
    pub(super) fn recover_ended(&self, heap: &Heap) {
        while let Some(token) = local::end_of_ended(self.id) {
            self.recover_token(heap, token);
        }
    }

    /// Cleans up after all caches: no thread that had one can live.
    pub(super) fn recover_all(&self, heap: &Heap) {
        let caches = self.caches();
        for cache in (0..caches.known()).filter(|&cache| caches.thread(cache).is_some()) {
            self.count(RECOVERIES_OFFSET);
            self.recover_cache(heap, cache, Death::Anywhere);
        }
    }

    /// Gives up what a thread claimed, which asks for a cache, through handles that are gone.
    pub(super) fn recover_forgotten(&self, heap: &Heap, thread: Thread) {
        let caches = self.caches();
        for cache in (0..caches.known()).filter(|&cache| caches.thread(cache) == Some(thread)) {
            let token = caches.token(cache).filter(|&token| !local::is_in_use(self.id, token));
            if let Some(token) = token {
                self.recover_token(heap, token);
            }
        }
    }

    /// Gives up a cache by its token, if it is still the one that the token was given for. Its
    /// thread was inside no call.
    pub(super) fn recover_token(&self, heap: &Heap, token: u32) {
        if self.caches().token(cache::number(token)) == Some(token) {
            self.recover_cache(heap, cache::number(token), Death::InOrder);
        }
    }

    /// Makes free what a cache's thread had in its hands, hands its magazines to the depot, and
    /// makes it anybody's.
    pub(super) fn recover_cache(&self, heap: &Heap, cache: u32, death: Death) {
        let depot = self.depot();
        let held = || depot.bound().filter(|bound| bound.owner.is_cache(cache));
        if matches!(death, Death::Anywhere) {
            self.finish_move(heap, cache, held);
        }
        for Bound { magazine, owner, class } in held() {
            match death {
                Death::InOrder => self.tidy(heap, magazine, class),
                Death::Anywhere => self.settle(heap, magazine, class),
            }
            if depot.count(magazine) > 0 {
                depot.give(magazine, class, Stack::Full);
            } else if depot.change_owner(magazine, owner, Owner::Holder) {
                depot.unbind(magazine, class);
            }
            heap.show_progress();
        }
        self.recover_grip(heap, cache);
        self.caches().release(cache);
    }

    /// If a dead thread was moving a block, and had freed the old one, the new one has its bytes and is
    /// delivered. Before anything else, for what tells so is gone once the old one is in the heap.
    fn finish_move<B: Iterator<Item = Bound>>(
        &self,
        heap: &Heap,
        cache: u32,
        held: impl Fn() -> B,
    ) {
        let depot = self.depot();
        let has_freed = |Bound { magazine, class, .. }| {
            heap.show_progress();
            let freed = self.take_freed(heap, magazine, class, 0);
            freed.is_some_and(|granule| heap.map().put_back(granule, class::size(class)))
        };
        if !held().any(has_freed) {
            return;
        }
        for Bound { magazine, class, .. } in held() {
            if let Some(last) = depot.count(magazine).checked_sub(1) {
                if let Some((_, State::Live)) = self.listed(heap, magazine, class, last) {
                    depot.cut(magazine, last);
                }
            }
        }
        self.deliver_from_grip(heap, cache);
    }

    /// Ends what a dead thread had begun with a magazine: a malloc is undone, a free done.
    pub(super) fn settle(&self, heap: &Heap, magazine: u32, class: u8) {
        let depot = self.depot();
        let count_at = depot.count_at(magazine);
        if let Some(last) = depot.count(magazine).checked_sub(1) {
            match self.listed(heap, magazine, class, last) {
                Some((_, State::Cached)) => {}
                // Held by one who died over this.
                Some((granule, State::Live | State::Held)) => {
                    let _ = heap.take_back(granule, Taker::of_one(count_at, last));
                }
                // Delivered: it has but to be counted. Or damage.
                _ => depot.cut(magazine, last),
            }
        }
        let count = depot.count(magazine);
        match self.take_freed(heap, magazine, class, 1) {
            Some(granule) => drop(heap.take_back(granule, Taker::of_one(count_at, count))),
            None if depot.item(magazine, count).is_some() => depot.cut(magazine, count),
            None => {}
        }
        // The magazine is about to be others': what was written down of it must not be done again.
        heap.leave();
    }

    /// The block that a dead thread was just putting into a magazine, taken, if it has freed it: if it is
    /// cached, and by nobody else. Else it is its owner's, who may be another by now, and living. Those in
    /// other magazines have it, or who was just putting it there, in so many places `behind` their last.
    /// O(blocks in magazines) if it is cached.
    fn take_freed(&self, heap: &Heap, magazine: u32, class: u8, behind: u32) -> Option<u32> {
        let (depot, map, size) = (self.depot(), heap.map(), class::size(class));
        let (granule, state) = self.listed(heap, magazine, class, depot.count(magazine))?;
        if state != State::Cached || !map.take(granule, size) {
            return None;
        }
        // From here on it stays where it is. Who has just found it cached and delivers it nevertheless still
        // has it in its place, or has made it live.
        let is_in = |other: u32| {
            let mut places = 0..depot.count(other) + behind;
            other != magazine && places.any(|place| depot.item(other, place) == Some(granule))
        };
        let is_anothers = depot.bound().any(|other| is_in(other.magazine));
        fence(SeqCst);
        if is_anothers {
            map.put_back(granule, size);
            return None;
        }
        heap.has(granule, State::Taken, size).then_some(granule)
    }

    /// The block of the class whose number stands in a place of a magazine, and what it is.
    fn listed(&self, heap: &Heap, magazine: u32, class: u8, index: u32) -> Option<(u32, State)> {
        let granule = self.depot().item(magazine, index)?;
        let (state, size) = heap.block(granule)?;
        (size == class::size(class)).then_some((granule, state))
    }

    /// What a thread that was inside no call leaves needs no settling. But if two threads freed one
    /// block at once, and it was taken from the other's cache since, the last here may be its ghost.
    fn tidy(&self, heap: &Heap, magazine: u32, class: u8) {
        let depot = self.depot();
        while let Some(last) = depot.count(magazine).checked_sub(1) {
            if let Some((_, State::Cached)) = self.listed(heap, magazine, class, last) {
                break;
            }
            depot.cut(magazine, last);
        }
    }

    /// After the lock's owner died: finishes what it had begun with magazines and shelves.
    pub(super) fn recover_holder(&self, heap: &Heap) {
        let depot = self.depot();
        for Bound { magazine, owner, class } in depot.bound() {
            if owner == Owner::Holder {
                // It holds what it had not given back yet.
                depot.give(magazine, class, Stack::Full);
            } else if let Some((granule, State::Taken)) =
                self.listed(heap, magazine, class, depot.count(magazine))
            {
                // It was just about to find out whose this is.
                heap.map().put_back(granule, class::size(class));
            }
        }
        self.recover_holders_grip(heap);
        depot.relist();
        self.recount();
    }
}
