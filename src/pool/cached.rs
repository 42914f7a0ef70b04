//! What a thread's cache does when a hit is not enough: exchange magazines with the depot, fill
//! them from the heap, give them back; and claim a cache.
//!
//! ```text
//!  thread                       depot, by class                     heap
//!  loaded <-> previous  <--->   full magazines, empty magazines
//!     ^                                                              |
//!     +---- refill: neighbours where they fit, under the lock -------+
//!     +---- flush: they become loose, under the lock, if need be ----+
//! ```
//!
//! Magazines begin small and grow when a thread runs out of blocks, or of room for them. So the
//! hoard goes to the classes in use. A thread may have more as long as what it then has is at most
//! twice what is left of the hoard for all others: one thread gets two thirds of it, n threads
//! 2 / (2 n + 1) each, and a newcomer always finds something (dynamic thresholds: Choudhury and
//! Hahne 1998).
#![forbid(unsafe_code)]

use super::Handle;
use crate::cache::{Caches, Thread};
use crate::class;
use crate::depot::{Bound, Depot, Owner, Stack};
use crate::error::Result;
use crate::heap::{Heap, Taker};
use crate::layout::{MAGAZINE_ITEMS, RECOVERIES_OFFSET};
use crate::local::{self, Local, Popped, Pushed};
use crate::map::State;
use crate::sys;

/// A thread that found no cache asks again after so many slow calls.
const PATIENCE: u32 = 4096;
/// A magazine begins with as many blocks as make this many granules, if so many it may hold; with two
/// at least. What comes from the heap in a row then fills a good many lines of the map, and threads
/// seldom write to the same one.
const FIRST_GRANULES: u32 = 1024;
/// A set of magazines, for one thread: of two for each class, most of which hold less than they may.
const SET: u32 = 256;
/// By how much a magazine grows.
const GROWTH: u32 = 16;
/// The last part of the hoard is not for what goes to the depot: threads need it.
const RESERVE: u32 = 8;
/// So many magazines of the depot are given back for one when the hoard is used up.
const RECLAIMS: u32 = 4;

impl Handle {
    pub(super) fn depot(&self) -> Depot<'_> {
        Depot::new(&self.region, &self.geometry)
    }

    pub(super) fn caches(&self) -> Caches<'_> {
        Caches::new(&self.region, &self.geometry)
    }

    /// This thread's page for this handle, if it has one.
    pub(super) fn page(&self) -> Option<&Local> {
        local::find(self.key())
    }

    /// The class of blocks for this many granules, if it is cached.
    pub(super) fn class_for(&self, granules: u32) -> Option<u8> {
        if granules == 0 || granules > class::LARGEST {
            return None;
        }
        Some(class::at_least(granules)).filter(|&class| self.geometry.is_cached(class))
    }

    /// The class of a live block, if such are cached.
    fn class_of(&self, granule: u32) -> Option<u8> {
        let class = self.heap().map().live_class(granule);
        class.filter(|&class| self.geometry.is_cached(class))
    }

    /// A block of at least `size` bytes, `granules` granules, from this thread's cache, which is
    /// filled if need be. None if caches are not for this.
    pub(super) fn take(&self, size: usize, granules: u32) -> Result<Option<Popped>> {
        let Some(class) = self.class_for(granules) else { return Ok(None) };
        let Some(local) = self.cache()? else { return Ok(None) };
        for attempt in 0..2 * MAGAZINE_ITEMS {
            local.see(self.heap().watermark());
            if let Some(hit) = self.pop(local, size)? {
                return Ok(Some(hit));
            }
            if attempt == 0 {
                self.disown(local, class);
                if !self.caches_class(local, class) {
                    return Ok(None);
                }
            }
            let depot = self.depot();
            let loaded = local.loaded(&self.region, &self.geometry, class);
            match loaded.map(|magazine| (magazine, depot.count(magazine))) {
                // Not empty: its last is no cached block of the class.
                Some((magazine, count)) if count > 0 => {
                    let last = depot.item(magazine, count - 1);
                    match last.and_then(|granule| Some((granule, self.heap().block(granule)?))) {
                        // Somebody is just about to find out whose it is. Who has the lock can only find one
                        // that was left so.
                        Some((granule, (State::Taken, size))) if size == class::size(class) => {
                            self.locked(|heap| Ok(heap.map().put_back(granule, size)))?;
                        }
                        // He has just found out. Or the count was of more than there can be.
                        Some((_, (State::Cached, size))) if size == class::size(class) => {
                            depot.mend_count(magazine);
                        }
                        // Somebody freed a block twice at once, or wrote where he should not.
                        _ => {
                            self.count(RECOVERIES_OFFSET);
                            depot.cut(magazine, count - 1);
                        }
                    }
                }
                _ if self.reload(local, class, granules)? => {}
                _ => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Puts a live block into this thread's cache, making room if need be. False if caches are not
    /// for this.
    pub(super) fn put(&self, granule: u32, block: usize) -> Result<bool> {
        let Some(class) = self.class_of(granule) else { return Ok(false) };
        let Some(local) = self.cache()? else { return Ok(false) };
        local.see(self.heap().watermark());
        if local.push_any(block) {
            return Ok(true);
        }
        self.disown(local, class);
        if !self.caches_class(local, class) {
            return Ok(false);
        }
        Ok(self.unload(local, class)? && local.push_any(block))
    }

    /// Makes room in this thread's cache for a live block, if it is for this and has none.
    pub(super) fn make_room(&self, granule: u32) -> Result<()> {
        let Some(class) = self.class_of(granule) else { return Ok(()) };
        let Some(local) = self.cache()? else { return Ok(()) };
        local.see(self.heap().watermark());
        self.disown(local, class);
        if !local.has_room(class) && self.caches_class(local, class) {
            self.unload(local, class)?;
        }
        Ok(())
    }

    /// Whether this thread's cache has room for a live block.
    pub(super) fn has_room(&self, granule: u32) -> bool {
        self.class_of(granule).zip(self.page()).is_some_and(|(class, local)| local.has_room(class))
    }

    /// Begins to put a live block into this thread's cache, for one that is to be delivered next. None
    /// if caches are not for this, or there is no room.
    pub(super) fn begin_put(&self, granule: u32, popped: Option<&Popped>) -> Option<Pushed> {
        let block = self.region.pointer(self.geometry.offset(granule))?;
        self.page()?.begin_push_any(block.as_ptr() as usize, popped)
    }

    /// This thread's page, with a cache; None if it has none, and there is none to be had.
    pub(super) fn cache(&self) -> Result<Option<&Local>> {
        if self.geometry.caches == 0 {
            return Ok(None);
        }
        self.is_here()?;
        let current = local::current(self.key()).filter(|local| local.token().is_some());
        if current.is_some() {
            return Ok(current);
        }
        let Some(local) = local::get(self.key(), self.id, &self.region, &self.geometry) else {
            return Ok(None);
        };
        if local.token().is_some() {
            return Ok(Some(local));
        }
        let vain = local.vain.get();
        local.vain.set((vain + 1) % PATIENCE);
        if vain > 0 {
            return Ok(None);
        }
        let tid = sys::me().tid;
        let me = Thread { tid, start: sys::start_time(tid) };
        let claimed = self.locked(|heap| {
            self.recover_ended(heap);
            self.recover_forgotten(heap, me);
            let caches = self.caches();
            let random = sys::random() as u32;
            if let Some(token) = caches.claim(me, random) {
                return Ok(Some(token));
            }
            self.recover_dead(heap);
            Ok(caches.claim(me, random))
        })?;
        let Some(token) = claimed else { return Ok(None) };
        local.adopt(token);
        Ok(Some(local))
    }

    /// Makes the magazine in use hold a block at least. False if memory is to be had exactly, or
    /// not at all.
    fn reload(&self, local: &Local, class: u8, granules: u32) -> Result<bool> {
        let (region, geometry) = (&self.region, &self.geometry);
        let depot = self.depot();
        let previous = local.previous(region, geometry, class);
        if previous.is_some_and(|magazine| depot.count(magazine) > 0) {
            self.swap(local, class);
            return Ok(true);
        }
        if let Some(full) = self.fetch(local, class, Stack::Full) {
            if let Some(empty) = previous {
                self.give(local, empty, class, Stack::Empty);
            }
            local.keep(region, geometry, class, local.loaded(region, geometry, class));
            self.load(local, class, full);
            return Ok(true);
        }
        let size = class::size(class);
        // A hint, without the lock.
        if size != granules && self.heap().is_short() {
            return Ok(false);
        }
        self.locked(|heap| {
            let magazine = match local.loaded(region, geometry, class) {
                Some(magazine) => {
                    self.widen(local, magazine, class);
                    magazine
                }
                None => match self.another(local, class, heap) {
                    Some(magazine) => magazine,
                    None => return Ok(false),
                },
            };
            self.load(local, class, magazine);
            if depot.count(magazine) > 0 {
                return Ok(true);
            }
            let batch = depot.rounds(magazine, class);
            Ok(heap.refill(class, batch, depot.count_at(magazine))? > 0)
        })
    }

    /// Makes room in the magazine in use.
    fn unload(&self, local: &Local, class: u8) -> Result<bool> {
        let (region, geometry) = (&self.region, &self.geometry);
        let depot = self.depot();
        let previous = local.previous(region, geometry, class);
        if previous.is_some_and(|old| depot.count(old) < depot.rounds(old, class)) {
            self.swap(local, class);
            return Ok(true);
        }
        if let Some(full) = previous.filter(|_| self.heap().is_scarce()) {
            self.locked(|heap| {
                self.flush(heap, full, class, 0);
                Ok(())
            })?;
            self.swap(local, class);
            return Ok(true);
        }
        let mut empty = self.fetch(local, class, Stack::Empty);
        if empty.is_none() {
            let loaded = local.loaded(region, geometry, class);
            let widened = self.locked(|heap| {
                if let Some(magazine) = loaded {
                    if self.widen(local, magazine, class) {
                        self.load(local, class, magazine);
                        return Ok(true);
                    }
                }
                empty = self.another(local, class, heap);
                if let (None, Some(magazine)) = (empty, previous.or(loaded)) {
                    // The hoard is as large as it may be.
                    self.flush(heap, magazine, class, depot.count(magazine) / 2);
                }
                Ok(false)
            })?;
            if widened {
                return Ok(true);
            }
        }
        match empty {
            Some(empty) => {
                if let Some(full) = previous {
                    self.give(local, full, class, Stack::Full);
                }
                local.keep(region, geometry, class, local.loaded(region, geometry, class));
                self.load(local, class, empty);
            }
            None if previous.is_some() => self.swap(local, class),
            None => {}
        }
        Ok(true)
    }

    /// Uses a magazine of this thread's cache for a class.
    fn load(&self, local: &Local, class: u8, magazine: u32) {
        let rounds = self.depot().rounds(magazine, class);
        local.load(&self.region, &self.geometry, class, Some(magazine), rounds);
    }

    /// Exchanges the two magazines of a class.
    fn swap(&self, local: &Local, class: u8) {
        let (region, geometry) = (&self.region, &self.geometry);
        let Some(previous) = local.previous(region, geometry, class) else { return };
        local.keep(region, geometry, class, local.loaded(region, geometry, class));
        self.load(local, class, previous);
    }

    /// Lets a magazine of this thread hold more blocks, if it may.
    fn widen(&self, local: &Local, magazine: u32, class: u8) -> bool {
        let depot = self.depot();
        let rounds = depot.rounds(magazine, class);
        let wider = (GROWTH * rounds).min(self.rounds_max(class));
        let share = Depot::share(class, wider.saturating_sub(rounds));
        let widened =
            share > 0 && self.may_have(local, share) && depot.widen(magazine, class, wider);
        if widened {
            local.has_more(share);
        }
        widened
    }

    /// How many blocks of a class a magazine may hold: a set of magazines for each thread must fit
    /// into the hoard. If there are too many threads for that, two as long as half of it is free, then 0.
    fn rounds_max(&self, class: u8) -> u32 {
        let threads = self.caches().known().max(1);
        let rounds = self.geometry.hoard_max / SET / (threads * class::size(class));
        if rounds == 0 && self.depot().room() < self.geometry.hoard_max / 2 {
            return 0;
        }
        rounds.max(2).min(self.geometry.rounds_max(class))
    }

    /// Lets go of magazines that are not this thread's any more: somebody wrote to an owner word.
    fn disown(&self, local: &Local, class: u8) {
        let (region, geometry) = (&self.region, &self.geometry);
        let mine = local.token().map(Owner::Cache);
        let is_lost = |magazine: u32| self.depot().owner(magazine) != mine;
        if local.loaded(region, geometry, class).is_some_and(is_lost) {
            local.load(region, geometry, class, None, 0);
        }
        if local.previous(region, geometry, class).is_some_and(is_lost) {
            local.keep(region, geometry, class, None);
        }
    }

    /// Whether this thread caches blocks of a class.
    fn caches_class(&self, local: &Local, class: u8) -> bool {
        local.loaded(&self.region, &self.geometry, class).is_some() || self.rounds_max(class) > 0
    }

    /// Another magazine for a class, from the depot or an idle one.
    fn another(&self, local: &Local, class: u8, heap: &Heap) -> Option<u32> {
        let (region, geometry) = (&self.region, &self.geometry);
        let depot = self.depot();
        if let Some(empty) = self.fetch(local, class, Stack::Empty) {
            return Some(empty);
        }
        let loaded = local.loaded(region, geometry, class);
        let first = FIRST_GRANULES / class::size(class);
        let rounds = loaded.map_or(first, |loaded| depot.rounds(loaded, class));
        let rounds = rounds.max(2).min(self.rounds_max(class));
        if rounds == 0 {
            return None;
        }
        let share = Depot::share(class, rounds);
        // One that takes the place of another, which goes to the depot, or one more.
        let replaces = local.previous(region, geometry, class).is_some();
        let may = || {
            if replaces {
                share.saturating_add(geometry.hoard_max / RESERVE) <= depot.room()
            } else {
                self.may_have(local, share)
            }
        };
        for _ in 0..RECLAIMS {
            let bound = if may() { depot.bind(class, rounds, local.token()?) } else { None };
            if bound.is_some() {
                local.has_more(share);
                return bound;
            }
            // The hoard is used up, or there is no idle magazine.
            if !self.spare_or_reclaim(heap, local, class) {
                break;
            }
        }
        None
    }

    /// Makes room in the hoard at the cost of other classes; false if they have nothing to give. Then
    /// they are not asked again for a while, since asking all takes long.
    fn spare_or_reclaim(&self, heap: &Heap, local: &Local, class: u8) -> bool {
        const WHILE: u8 = 8;
        if local.refused.get() > 0 {
            local.refused.set(local.refused.get() - 1);
            return false;
        }
        let made = self.reclaim(heap, local, class);
        if !made {
            local.refused.set(WHILE);
        }
        made
    }

    /// Gives up what this thread has for a class and is empty; false if nothing is.
    fn give_up(&self, local: &Local, class: u8) -> bool {
        let (region, geometry) = (&self.region, &self.geometry);
        let depot = self.depot();
        let is_empty = |magazine: &u32| depot.count(*magazine) == 0;
        let previous = local.previous(region, geometry, class).filter(is_empty);
        let loaded = local.loaded(region, geometry, class).filter(is_empty);
        if previous.is_some() {
            local.keep(region, geometry, class, None);
        }
        if loaded.is_some() {
            local.load(region, geometry, class, None, 0);
        }
        for magazine in [previous, loaded].into_iter().flatten() {
            local.has_less(self.share(magazine, class));
            depot.unbind(magazine, class);
        }
        previous.is_some() || loaded.is_some()
    }

    /// Whether this thread may have so many granules of the hoard more.
    fn may_have(&self, local: &Local, share: u32) -> bool {
        let mine = local.has().saturating_add(share);
        self.depot().room().checked_sub(share).is_some_and(|rest| mine / 2 <= rest)
    }

    /// The granules that a magazine counts for.
    fn share(&self, magazine: u32, class: u8) -> u32 {
        Depot::share(class, self.depot().rounds(magazine, class))
    }

    /// Hands a magazine of this thread to the depot.
    fn give(&self, local: &Local, magazine: u32, class: u8, stack: Stack) {
        local.has_less(self.share(magazine, class));
        self.depot().give(magazine, class, stack);
    }

    /// Takes a magazine from the depot for this thread.
    fn fetch(&self, local: &Local, class: u8, stack: Stack) -> Option<u32> {
        let magazine = self.depot().take(class, stack, Owner::Cache(local.token()?))?;
        local.has_more(self.share(magazine, class));
        Some(magazine)
    }

    /// Gives a block on a shelf back to the heap, or what this thread or the depot has of another class,
    /// of this thread only what is empty; false if there is nothing.
    fn reclaim(&self, heap: &Heap, local: &Local, class: u8) -> bool {
        if self.clear_away(heap, local) {
            return true;
        }
        let depot = self.depot();
        for other in others(local, class) {
            if local.has_empty(other) && self.give_up(local, other) {
                return true;
            }
            for stack in [Stack::Empty, Stack::Full] {
                if !depot.has(other, stack) {
                    continue;
                }
                if let Some(magazine) = depot.take(other, stack, Owner::Holder) {
                    self.dissolve(heap, magazine, other);
                    return true;
                }
            }
        }
        false
    }

    /// Gives back what a magazine holds, which is the lock holder's, and makes it nobody's.
    fn dissolve(&self, heap: &Heap, magazine: u32, class: u8) {
        self.flush(heap, magazine, class, 0);
        self.depot().unbind(magazine, class);
    }

    /// Gives a magazine's blocks back to the heap until it holds `rest`.
    fn flush(&self, heap: &Heap, magazine: u32, class: u8, rest: u32) {
        let depot = self.depot();
        let run = depot.count(magazine).saturating_sub(rest);
        if run == 0 {
            return;
        }
        let (count_at, size) = (depot.count_at(magazine), class::size(class));
        let given = heap.loosen_all(Taker { count_at, count: rest, run, size });
        if given < run {
            // What is no cached block is not ours to free.
            self.count(RECOVERIES_OFFSET);
        }
        // The magazine may be nobody's soon, and what then stands in it is no block: the change must
        // not be made again.
        heap.leave();
    }

    /// Gives back what the depot, the shelves, this thread and the dead hold. O(what they hold).
    pub(super) fn give_back(&self, heap: &Heap) {
        if self.geometry.caches == 0 {
            return;
        }
        self.recover_dead(heap);
        let depot = self.depot();
        for class in 0..class::COUNT {
            for stack in [Stack::Full, Stack::Empty] {
                // Bounded, should somebody write to the owner words meanwhile.
                for _ in 0..self.geometry.magazines {
                    let Some(magazine) = depot.take(class, stack, Owner::Holder) else { break };
                    self.dissolve(heap, magazine, class);
                    heap.show_progress();
                }
            }
        }
        self.clear_shelves(heap);
        let local = self.page();
        let mine = local.and_then(Local::token);
        if let Some(local) = local {
            depot.discharge(local.credit.replace(0));
        }
        for Bound { magazine, owner, class } in depot.bound() {
            match owner {
                // In no stack: its giver died.
                Owner::Depot(_) if depot.change_owner(magazine, owner, Owner::Holder) => {
                    self.dissolve(heap, magazine, class);
                }
                Owner::Cache(token) if Some(token) == mine => self.flush(heap, magazine, class, 0),
                _ => {}
            }
        }
        for class in 0..class::COUNT {
            local.filter(|_| mine.is_some()).map(|local| self.give_up(local, class));
        }
        // A walk that cannot go on is for the next look at the map to tell.
        let _ = heap.join_all();
    }

    /// Empties all magazines and shelves, whose blocks free_all has made free.
    pub(super) fn forget_cached(&self) {
        let depot = self.depot();
        depot.bound().for_each(|bound| depot.cut(bound.magazine, 0));
        self.shelves().clear_all();
        self.recount();
    }

    /// Whether no other thread has a cache: then, under the lock, no cached block is in motion.
    pub(super) fn is_alone(&self) -> bool {
        if self.geometry.caches == 0 {
            return true;
        }
        let mine = self.page().and_then(Local::token).is_some();
        self.caches().claimed() == u32::from(mine)
    }

    /// How many blocks are cached, and how many granules they have. O(magazines, places on shelves).
    pub(super) fn cached(&self) -> (u64, u64) {
        let depot = self.depot();
        let shelved = self.shelves().all().filter(|place| self.is_cached(place));
        let shelved = shelved.map(|place| (1, u64::from(place.size())));
        let held = depot.bound().map(|Bound { magazine, class, .. }| {
            let count = u64::from(depot.count(magazine));
            (count, count * u64::from(class::size(class)))
        });
        held.chain(shelved)
            .fold((0, 0), |(blocks, granules), (count, more)| (blocks + count, granules + more))
    }
}

/// All classes but this one, each time beginning with another, so that none is asked more often than
/// the others for what it can do without.
fn others(local: &Local, class: u8) -> impl Iterator<Item = u8> {
    const STEP: u8 = 5;
    let first = (local.turn.get() + STEP) % class::COUNT;
    local.turn.set(first);
    (first..class::COUNT).chain(0..first).filter(move |&other| other != class)
}
