//! What a thread does with blocks that are too large for magazines: puts them on the shelves that all
//! share, and takes them from there, without the lock. What is on no shelf comes from the heap.
//!
//! The shelves are part of the hoard, by what lies there. A thread that takes a block keeps what that
//! was counted for as its *credit*, for the next that it puts: so it seldom changes the count, which
//! all share. Where there is no room in the hoard, a block goes to the heap at once.
#![forbid(unsafe_code)]

use super::Handle;
use crate::class;
use crate::error::Result;
use crate::heap::{Heap, Taker};
use crate::layout::RECOVERIES_OFFSET;
use crate::local::Local;
use crate::map::{Entry, State};
use crate::shelf::{Grip, Place, Shelves};
use core::ptr::NonNull;
use core::sync::atomic::{compiler_fence, fence, Ordering::SeqCst};

/// So large a part of the hoard is not for shelves: small blocks come and go more often.
const RESERVE: u32 = 8;
/// All threads together have at most this part of the hoard as their credit.
const CREDIT: u32 = 16;
/// So often a thread finds no room in the hoard before another class's block makes way: what lies
/// there may be what nobody asks for any more.
const PATIENCE: u8 = 16;

/// So many looks at what others may be changing.
const LOOKS: u32 = 16;

/// A block in this thread's grip, taken: the allocator's until it is delivered.
#[must_use]
pub(super) struct Shelved<'a> {
    block: NonNull<u8>,
    place: Place,
    local: &'a Local,
}

impl Shelved<'_> {
    /// Where the block is.
    pub(super) fn block(&self) -> NonNull<u8> {
        self.block
    }

    /// Its first granule.
    pub(super) fn granule(&self) -> u32 {
        self.place.granule
    }
}

impl Handle {
    pub(super) fn shelves(&self) -> Shelves<'_> {
        Shelves::new(&self.region, &self.geometry)
    }

    /// A block of at least so many granules, off its shelf. None if there is none.
    pub(super) fn take_shelved(&self, granules: u32) -> Result<Option<Shelved<'_>>> {
        let Some(wide) = self.geometry.shelved(granules) else { return Ok(None) };
        let Some(local) = self.cache()? else { return Ok(None) };
        let Some(token) = local.token() else { return Ok(None) };
        let tag = if self.geometry.owners > 0 { Some(self.own_unlocked()?) } else { None };
        let shelves = self.shelves();
        if !shelves.are_used() {
            return Ok(None);
        }
        for _ in 0..self.geometry.shelf_slots {
            let Some(place) = shelves.take(wide, token) else { break };
            match self.take_gripped(local, place, tag) {
                Ok(Some(block)) => return Ok(Some(Shelved { block, place, local })),
                Ok(None) => {
                    // Somebody wrote where he should not.
                    self.count(RECOVERIES_OFFSET);
                    self.vacate(local, place);
                }
                Err(error) => {
                    shelves.let_go(place);
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    /// Makes the block in this thread's grip taken. None if there is no such block.
    fn take_gripped(
        &self,
        local: &Local,
        place: Place,
        tag: Option<u8>,
    ) -> Result<Option<NonNull<u8>>> {
        let (Place { granule, .. }, size, map) = (place, place.size(), self.heap().map());
        for _ in 0..LOOKS {
            let seen = self.seen(local, granule).filter(|block| block.size == size);
            match seen.map(|block| block.state) {
                Some(State::Cached) => {
                    let block = self.block(granule)?;
                    if let Some(tag) = tag {
                        self.owners().set_tag(granule, tag);
                    }
                    if map.take(granule, size) {
                        return Ok(Some(block));
                    }
                }
                // Somebody is just about to find out whose it is.
                Some(State::Taken) => self.locked(|_| self.put_back_left(place))?,
                _ => break,
            }
        }
        Ok(None)
    }

    /// Makes a block cached that is in this thread's grip, and that one has left as taken who looked whose it
    /// was, and died. For who has the lock: nobody looks now.
    fn put_back_left(&self, place: Place) -> Result<()> {
        // Unless another has taken it off another place, where damage has put it.
        if self.shelves().elsewhere(place).is_none() {
            self.heap().map().put_back(place.granule, place.size());
        }
        Ok(())
    }

    /// The block that starts here, by as much of the map as this thread knows to be known: the words that
    /// say so lie beside the lock, in a line that others write to.
    fn seen(&self, local: &Local, granule: u32) -> Option<Entry> {
        let map = self.heap().map();
        map.read(granule, local.known()).or_else(|| {
            local.see(self.heap().watermark());
            map.read(granule, local.known())
        })
    }

    /// The block is the caller's.
    pub(super) fn deliver_shelved(&self, shelved: Shelved) -> NonNull<u8> {
        let Shelved { block, place, local } = shelved;
        self.earn(local, place.size());
        compiler_fence(SeqCst);
        self.heap().map().deliver(place.granule);
        compiler_fence(SeqCst);
        self.shelves().clear(place);
        block
    }

    /// Makes a place in this thread's grip an empty one, which is not counted any more.
    fn vacate(&self, local: &Local, place: Place) {
        self.shelves().clear(place);
        self.earn(local, place.size());
    }

    /// The block stays on its shelf, for anybody.
    pub(super) fn put_back_shelved(&self, shelved: Shelved) {
        if self.heap().map().put_back(shelved.granule(), shelved.place.size()) {
            self.shelves().let_go(shelved.place);
        } else {
            self.vacate(shelved.local, shelved.place);
        }
    }

    /// Puts a live block on its shelf. False if there is no room, or memory is short, or it has none.
    pub(super) fn put_shelved(&self, granule: u32) -> Result<bool> {
        let heap = self.heap();
        let Some((State::Live, size)) = heap.block(granule) else { return Ok(false) };
        let wide = self.geometry.shelved(size).filter(|&wide| class::wide_size(wide) == size);
        // A hint, without the lock.
        let Some(wide) = wide.filter(|_| !heap.is_short()) else { return Ok(false) };
        let Some(local) = self.cache()? else { return Ok(false) };
        let Some(token) = local.token() else { return Ok(false) };
        if !self.shelves().are_used() {
            self.locked(|_| {
                self.shelves().begin();
                Ok(())
            })?;
        }
        if !self.afford(local, size)? {
            return Ok(false);
        }
        let Some(place) = self.shelves().put(wide, granule, token) else {
            self.earn(local, size);
            return Ok(false);
        };
        if !heap.map().shelve(granule) {
            // It is freed, or gets a name, at once by another: refused by the map under the lock.
            self.vacate(local, place);
            return Ok(false);
        }
        let place = self.shelves().let_go(place);
        if heap.map().state(granule) == Some(State::Taken) {
            // Another has it already, or one looks whose it is, or has died over that.
            self.look_again(place, token);
        }
        Ok(true)
    }

    /// Makes the block at a place in nobody's grip cached, if one has left it as taken.
    pub(super) fn look_again(&self, place: Place, token: u32) {
        // It is on its shelf, whatever becomes of this.
        let _ = self.locked(|_| {
            // In a grip it stays where it is.
            let Some(mine) = self.shelves().pass(place, Grip::of(token)) else { return Ok(()) };
            self.put_back_left(mine)?;
            self.shelves().let_go(mine);
            Ok(())
        });
    }

    /// Counts what a thread puts on a shelf; false if there is no room for it.
    fn afford(&self, local: &Local, size: u32) -> Result<bool> {
        if self.charge(local, size) {
            return Ok(true);
        }
        local.crowded.set(local.crowded.get() + 1);
        if local.crowded.get() < PATIENCE {
            return Ok(false);
        }
        local.crowded.set(0);
        self.locked(|heap| Ok(self.clear_away(heap, local)))?;
        Ok(self.charge(local, size))
    }

    fn charge(&self, local: &Local, size: u32) -> bool {
        let credit = local.credit.get();
        let spare = self.geometry.hoard_max / RESERVE;
        let more = size.saturating_sub(credit);
        let is_paid = more == 0 || self.depot().charge(more, spare);
        if is_paid {
            local.credit.set(credit.saturating_sub(size));
        }
        is_paid
    }

    /// Keeps what a thread's block was counted for, unless that is more than a thread may keep.
    fn earn(&self, local: &Local, size: u32) {
        let credit = local.credit.get().saturating_add(size);
        let threads = self.caches().known().max(1).next_power_of_two();
        let most = (self.geometry.hoard_max / CREDIT) >> threads.ilog2();
        let kept = if credit > most { most / 2 } else { credit };
        if kept < credit {
            self.depot().discharge(credit - kept);
        }
        local.credit.set(kept);
    }

    /// Gives one block back to the heap, of a class that comes next; false if there is none.
    pub(super) fn clear_away(&self, heap: &Heap, local: &Local) -> bool {
        const STEP: u8 = 5;
        /// Not all shelves: that may be in vain, and take long.
        const SOME: usize = 4;
        let shelves = self.shelves();
        let count = shelves.classes().end;
        let first = local.turn.get() % count.max(1);
        local.turn.set((local.turn.get() + STEP) % class::COUNT);
        let some = (first..count).chain(0..first).take(SOME);
        let mut places = some.flat_map(|wide| shelves.each(wide));
        places.any(|place| place.grip == Grip::NONE && self.return_place(heap, place))
    }

    /// Gives what lies on the shelves back to the heap, and what is in no thread's grip. O(places).
    pub(super) fn clear_shelves(&self, heap: &Heap) {
        let caches = self.caches();
        for place in self.shelves().all() {
            let token = place.grip.token();
            let is_known = |token: u32| caches.token(crate::cache::number(token)) == Some(token);
            let is_idle = place.grip == Grip::NONE || token.is_some_and(|token| !is_known(token));
            if is_idle {
                self.return_place(heap, place);
                heap.show_progress();
            }
        }
    }

    /// Gives a cached block back to the heap that is in nobody's grip; false if somebody took it.
    fn return_place(&self, heap: &Heap, place: Place) -> bool {
        let Some(place) = self.shelves().pass(place, Grip::HOLDER) else { return false };
        self.depot().discharge(place.size());
        if self.takes(heap, place) || self.left_taken(heap, place) == Some(None) {
            let _ = heap.take_back(place.granule, Taker::NONE);
        } else {
            // What is no cached block is not ours to free.
            self.count(RECOVERIES_OFFSET);
        }
        self.shelves().clear(place);
        true
    }

    /// Delivers what a dead thread had taken off its shelf, if it had. O(places).
    pub(super) fn deliver_from_grip(&self, heap: &Heap, cache: u32) {
        for place in self.in_grip_of(cache) {
            if heap.has(place.granule, State::Taken, place.size()) {
                heap.map().deliver(place.granule);
            }
        }
    }

    /// What is in the grip of a cache's thread. O(places).
    fn in_grip_of(&self, cache: u32) -> impl Iterator<Item = Place> + '_ {
        let is_theirs = move |token| crate::cache::number(token) == cache;
        self.shelves().all().filter(move |place| place.grip.token().is_some_and(is_theirs))
    }

    /// Frees what a dead thread had in its grip, and what was not delivered yet, or was freed. O(places).
    pub(super) fn recover_grip(&self, heap: &Heap, cache: u32) {
        for place in self.in_grip_of(cache) {
            if let Some(place) = self.shelves().pass(place, Grip::HOLDER) {
                self.finish_place(heap, place);
                heap.show_progress();
            }
        }
        // Its credit died with it.
        self.recount();
    }

    /// Counts the hoard anew. As much as threads may have as their credit counts as theirs: so what
    /// they put on shelves without counting is in it.
    pub(super) fn recount(&self) {
        let credit = if self.shelves().are_used() { self.geometry.hoard_max / CREDIT } else { 0 };
        let shelved = self.shelves().all().map(|place| place.size());
        self.depot().recount(shelved.fold(credit, u32::saturating_add));
    }

    /// After the lock's owner died: ends what it had begun to give back. Nobody has had the lock since;
    /// so what is no block any more is free already.
    pub(super) fn recover_holders_grip(&self, heap: &Heap) {
        let in_grip = |place: &Place| place.grip == Grip::HOLDER;
        for place in self.shelves().all().filter(in_grip) {
            self.finish_place(heap, place);
            heap.show_progress();
        }
    }

    /// Frees the block in the lock holder's grip which was in that of one who died, if it is cached, or
    /// taken. Then its place is empty. One that is free is so already; one that is live, or somewhere else
    /// on its shelf, is its owner's, whoever that is by now. O(places).
    fn finish_place(&self, heap: &Heap, place: Place) {
        let is_taken = self.takes(heap, place);
        let elsewhere = if is_taken {
            Some(self.shelves().elsewhere(place))
        } else {
            self.left_taken(heap, place)
        };
        match elsewhere {
            Some(None) => drop(heap.take_back(place.granule, Taker::NONE)),
            Some(Some(other)) if is_taken || other.grip == Grip::NONE => {
                heap.map().put_back(place.granule, place.size());
            }
            _ => {}
        }
        self.shelves().clear(place);
    }

    /// Makes the cached block at a place taken: from here on it stays where it is. False if it is none.
    fn takes(&self, heap: &Heap, place: Place) -> bool {
        let (granule, size) = (place.granule, place.size());
        heap.has(granule, State::Cached, size) && heap.map().take(granule, size)
    }

    /// If a block stays taken: at which other place it stays meanwhile. Its taker died, or who was looking
    /// whose it is. One whom the living have taken is in a grip elsewhere, or delivered a moment later; for
    /// it to seem left it had to be delivered, freed and taken anew between any two of these looks.
    fn left_taken(&self, heap: &Heap, place: Place) -> Option<Option<Place>> {
        let look = || {
            fence(SeqCst);
            let elsewhere = self.shelves().elsewhere(place);
            fence(SeqCst);
            heap.has(place.granule, State::Taken, place.size()).then_some(elsewhere)
        };
        let first = look()?;
        (1..LOOKS).all(|_| look() == Some(first)).then_some(first)
    }

    /// Whether the block at a place counts as cached, rather than live.
    pub(super) fn is_cached(&self, place: &Place) -> bool {
        place.grip == Grip::NONE || self.heap().has(place.granule, State::Cached, place.size())
    }
}
