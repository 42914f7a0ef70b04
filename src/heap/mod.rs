//! Blocks: found, split, coalesced, resized. All of it happens under the pool's lock.
//!
//! Space is taken from the free blocks first, from above `top` last, so that a pool touches no
//! more memory than it needs. A block that ends at `top` is not kept free: `top` comes down.
//!
//! What magazines give back is not joined to its neighbours at once: it is *loose*, and costs a
//! byte or two of the map ([`loose`]). All other free blocks are joined and in a bin.
//!
//! Who dies here leaves a [`change::Record`] behind; [`Heap::recover`] finishes it.
#![forbid(unsafe_code)]

mod bins;
mod bytes;
mod change;
mod heal;
mod loose;
mod name;
mod refill;
mod slot;
mod tally;
mod words;

pub use bins::Free;
pub use change::Taker;
pub use name::{Struck, CHILDREN};
pub use words::Counts;

use crate::error::{Error, Result};
use crate::layout::{Geometry, Header32, RECOVERIES_OFFSET, TURN_OFFSET};
use crate::map::{Entry, Map, State};
use crate::options::{NO_COMPACT, NO_SPLIT, ZEROED};
use crate::region::{Region, View};
use bins::{Bins, Lie};
use change::{Change, Kind, Record, NOWHERE};
use core::sync::atomic::{compiler_fence, Ordering::Relaxed, Ordering::SeqCst};
use tally::Tally;
use words::Words;

/// The watermark moves by so many granules at a time: a page of the map.
const WATERMARK_STEP: u32 = 4096;
/// Where what it passes is filled, by so many bytes at most.
const WATERMARK_STEP_FILLED: usize = 64 << 10;

/// Memory is short when less than so many eighths of the pool are free.
const SHORT_EIGHTHS: u64 = 4;
const SCARCE_EIGHTHS: u64 = 2;

/// The heap of a pool, for one who holds its lock.
#[derive(Clone, Copy)]
pub struct Heap {
    region: Region,
    geometry: Geometry,
    header: View<Header32>,
    map: Map,
    bins: Bins,
    words: Words,
    record: Record,
}

/// What an allocation asks for, in granules.
#[derive(Clone, Copy)]
struct Ask {
    size: u32,
    /// Every `step`-th granule is aligned as asked, the first of them is granule `skew`; a power
    /// of two.
    step: u64,
    skew: u64,
}

impl Ask {
    /// The first aligned granule at or after this one.
    fn align(&self, granule: u32) -> u64 {
        let mask = self.step - 1;
        let granule = u64::from(granule);
        granule + (self.skew.wrapping_sub(granule) & mask)
    }

    /// Whether an aligned block lies within the free one.
    fn fits(&self, (start, size): Free) -> bool {
        self.align(start) + u64::from(self.size) <= u64::from(start) + u64::from(size)
    }

    /// A size that is enough wherever it lies.
    fn enough(&self) -> u32 {
        u32::try_from(u64::from(self.size) + self.step - 1).unwrap_or(u32::MAX)
    }
}

impl Heap {
    /// The heap of the pool with this geometry; None if it would not lie in the region.
    pub fn new(region: &Region, geometry: &Geometry) -> Option<Heap> {
        let map = Map::new(region, geometry.map, geometry.granules)?;
        let words = Words::new(region, geometry)?;
        Some(Heap {
            region: *region,
            geometry: *geometry,
            header: region.view(geometry.header)?,
            map,
            bins: Bins::new(region, geometry, map, words)?,
            words,
            record: Record::new(region, geometry)?,
        })
    }

    /// Makes the heap of a new pool: no blocks. If the caller promised zero bytes, and nobody has
    /// begun a pool here since, the whole map is known. Touches the header only.
    pub fn format(&self, is_untouched: bool) {
        let is_known = is_untouched && self.geometry.has(ZEROED) && !self.is_filled();
        self.record.close();
        self.words.set_top(0);
        self.words.set_watermark(if is_known { self.geometry.granules } else { 0 });
        self.words.set_counts(Counts::default());
        self.words.set_meta(0);
        self.forget_names();
        self.bins.reset();
    }

    /// The map.
    pub fn map(&self) -> &Map {
        &self.map
    }

    /// The first granule that no block covers.
    pub fn top(&self) -> u32 {
        self.words.top()
    }

    /// The first granule whose map byte is unknown.
    pub fn watermark(&self) -> u32 {
        self.words.watermark()
    }

    /// What stands below `top`.
    pub fn counts(&self) -> Counts {
        self.words.counts()
    }

    /// What a new owner of the lock sees to first: the truth is sane, and no change is left
    /// half done. O(1), unless there is one: then as long as a walk. Calls `forget` if it was
    /// free_all, before that counts as done.
    pub fn enter(&self, forget: impl Fn()) -> Result<()> {
        if !self.words.are_sane() {
            let at = self.geometry.header as u64;
            return Err(Error::Corrupted { what: "top lies beyond the watermark", at });
        }
        if self.record.is_open() {
            return self.recover(forget);
        }
        Ok(())
    }

    /// Whether so little is free that blocks are cut exactly, from where they fit best.
    pub fn is_short(&self) -> bool {
        u64::from(self.available()) * 8 < u64::from(self.geometry.granules) * SHORT_EIGHTHS
    }

    /// Whether so little is free that nothing is kept for later.
    pub fn is_scarce(&self) -> bool {
        u64::from(self.available()) * 8 < u64::from(self.geometry.granules) * SCARCE_EIGHTHS
    }

    /// Granules that are in no block, or in a free one.
    pub fn available(&self) -> u32 {
        self.counts().free.saturating_add(self.geometry.granules - self.top())
    }

    /// Tells those who wait for the lock that its owner is at work: a new turn.
    pub fn show_progress(&self) {
        let turn = &self.header[TURN_OFFSET / 4];
        turn.store(turn.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// The call delivers: whatever it did is done. Its last store.
    pub fn leave(&self) {
        self.record.close();
    }

    /// Makes a live block of `size` granules; its address is a multiple of `alignment` bytes.
    /// Returns its first granule. O(1), but when it fails or nearly does: O(blocks).
    pub fn alloc(&self, size: u32, alignment: usize) -> Result<u32> {
        let ask = self.ask(size, alignment);
        if let Some(found) = self.find(&ask)? {
            return self.carve(found, &ask);
        }
        match self.extend(&ask)? {
            Some(start) => Ok(start),
            None => self.alloc_exactly(&ask),
        }
    }

    /// [`Heap::alloc`] after a look at all free blocks. O(blocks).
    #[cold]
    fn alloc_exactly(&self, ask: &Ask) -> Result<u32> {
        self.join_all()?;
        let fits = |block| {
            self.show_progress();
            ask.fits(block)
        };
        match self.told(|bins| bins.find_exactly(ask.size, fits))? {
            Some(found) => self.carve(found, ask),
            // What was joined may have brought `top` down.
            None => self
                .extend(ask)?
                .ok_or(Error::OutOfMemory { size: self.geometry.bytes(ask.size) as u64 }),
        }
    }

    /// [`Heap::alloc`], after that found no room: what a list that was cut short hides, or a count of
    /// loose blocks that is too low, is found by a walk. O(blocks).
    pub fn alloc_hidden(&self, size: u32, alignment: usize) -> Result<u32> {
        if self.hides_nothing() {
            return Err(Error::OutOfMemory { size: self.geometry.bytes(size) as u64 });
        }
        self.mend()?;
        self.alloc(size, alignment)
    }

    /// Whether bins and counts have all free blocks that the map has. Of a map that is damaged nothing is
    /// said. O(blocks).
    fn hides_nothing(&self) -> bool {
        let (mut at, top, mut free, mut loose) = (0, self.top(), 0, 0);
        while let Some(Entry { state, size }) = self.map.read(at, top) {
            self.show_progress();
            free += u32::from(state == State::Free);
            loose += u32::from(state == State::Loose);
            at += size;
        }
        at < top || self.binned() == Some(free) && self.words.loose() == loose
    }

    /// A free block in which a block as asked for fits, after some that were loose have become such.
    /// O(1).
    #[inline(always)]
    fn find(&self, ask: &Ask) -> Result<Option<Free>> {
        // Where the map is damaged the hand stops; what is in the bins can be had all the same.
        let _ = self.join_few();
        self.told(|bins| bins.find(ask.size, ask.enough(), |block| ask.fits(block)))
    }

    /// Makes a live block free: joined to its free neighbours but loose ones, or to the space above
    /// `top`. O(1).
    pub fn free(&self, granule: u32) -> Result<()> {
        let size = self.unbound_size(granule)?;
        self.release(granule, size, Taker::NONE);
        Ok(())
    }

    /// [`Heap::free`], and what a magazine gives up with it, in one event: its last block is live, and
    /// becomes the caller's.
    pub fn free_and_deliver(&self, granule: u32, count_at: usize, count: u32) -> Result<()> {
        let size = self.unbound_size(granule)?;
        self.release(granule, size, Taker::of_one(count_at, count));
        Ok(())
    }

    fn release(&self, granule: u32, size: u32, taker: Taker) {
        let compact = !self.geometry.has(NO_COMPACT);
        let end = granule + size;
        let left = self.map.free_before(granule).filter(|&left| compact && self.is_free(left));
        let right = self.free_at(end).filter(|right| compact && !right.is_loose);
        let start = left.map_or(granule, |(start, _)| start);
        let stop = right.map_or(end, |right| right.end());
        let mut change = Change::new(Kind::Free, start, self.top());
        if compact && stop == self.top() {
            change.top = start;
        } else {
            change.new[0] = Entry { state: State::Free, size: stop - start };
        }
        change.old[0] = granule;
        change.taker = taker;
        self.commit(change, [left.map(Gone::binned), right]);
    }

    /// Makes free what was not delivered, or is cached, or taken since; and the magazine forget it, in one
    /// event.
    pub fn take_back(&self, granule: u32, taker: Taker) -> Result<()> {
        match self.block(granule) {
            Some((State::Cached | State::Taken | State::Live | State::Held, size)) => {
                self.release(granule, size, taker);
            }
            _ => {
                let at = self.geometry.offset(granule.min(self.geometry.granules)) as u64;
                return Err(Error::Corrupted { what: "a magazine holds what is no block", at });
            }
        }
        Ok(())
    }

    /// Makes a live block longer or shorter where it is, of which `asked` bytes are its owner's then;
    /// false if there is no room. It may stay longer than asked when the rest is not worth a block. O(1).
    pub fn resize(&self, granule: u32, size: u32, asked: usize) -> Result<bool> {
        let Entry { state, size: old } = self.intact(granule)?;
        let state = if state.is_bound() { state } else { State::Held };
        if size > old {
            return self.grow(granule, Entry { state, size: old }, size, asked);
        }
        if !self.is_worth_a_block(old - size) {
            if self.is_guarded() {
                let mut change = self.resizing(granule, asked);
                change.new[0] = Entry { state, size: old };
                self.commit(change, [None, None]);
            }
            return Ok(true);
        }
        let compact = !self.geometry.has(NO_COMPACT);
        let right = self.free_at(granule + old).filter(|right| compact && !right.is_loose);
        let stop = right.map_or(granule + old, |right| right.end());
        let end = granule + size;
        let mut change = self.resizing(granule, asked);
        change.new[0] = Entry { state, size };
        if compact && stop == self.top() {
            change.top = end;
        } else {
            change.new[1] = Entry { state: State::Free, size: stop - end };
        }
        self.commit(change, [right, None]);
        Ok(true)
    }

    /// The beginning of a change of a live block's size.
    fn resizing(&self, granule: u32, asked: usize) -> Change {
        let mut change = Change::new(Kind::Resize, granule, self.top());
        change.old[0] = granule;
        if self.is_guarded() {
            change.taker.count_at = asked;
        }
        change
    }

    /// Whether there seems to be room from a granule on, where a block ends. O(1).
    pub fn is_room_behind(&self, granule: u32) -> bool {
        granule == self.top() || self.free_at(granule).is_some()
    }

    /// Makes all blocks free at once. O(map).
    pub fn free_all(&self) -> Result<()> {
        let change = Change::new(Kind::FreeAll, 0, 0);
        self.record.open(&change);
        self.fill_again(&change);
        self.apply(&change);
        self.rebuild()
    }

    /// The size of the largest block that an allocation can find now.
    pub fn largest(&self) -> Result<u32> {
        let below = self.honest(|bins| bins.largest())?;
        Ok(below.max(self.geometry.granules - self.top()))
    }

    /// The same without mending what lies: writes nothing.
    pub fn largest_seen(&self) -> u32 {
        let below = self.bins.largest().unwrap_or(0);
        below.max(self.geometry.granules - self.top())
    }

    /// Whether a block of `have` granules can have been asked for as `wanted`.
    pub fn could_be(&self, have: u32, wanted: u32) -> bool {
        wanted <= have && !self.is_worth_a_block(have - wanted)
    }

    /// The size of the live block that starts here; else what lies here instead.
    pub fn live_size(&self, granule: u32) -> Result<u32> {
        self.live(granule).map(|block| block.size)
    }

    /// Whether a change under way may be about the live block that starts here.
    pub fn is_in_hands(&self, granule: u32) -> bool {
        let is_any = |state: State| state.is_live() && state != State::Live;
        self.map.state(granule).is_some_and(is_any) && self.record.is_open()
    }

    /// The size of the live block that starts here, if it may be freed.
    pub fn unbound_size(&self, granule: u32) -> Result<u32> {
        match self.live(granule)? {
            Entry { state: State::Live | State::Held, size } => Ok(size),
            Entry { state: State::Taken, .. } => {
                let at = self.geometry.offset(granule) as u64;
                Err(Error::NotAllocated { what: "the block there was not delivered yet", at })
            }
            _ => Err(Error::Bound { at: self.geometry.offset(granule) as u64 }),
        }
    }

    #[inline]
    fn live(&self, granule: u32) -> Result<Entry> {
        let top = self.top();
        match self.map.read(granule, top) {
            Some(block) if block.state.is_live() => Ok(block),
            found => Err(self.no_live(granule, top, found)),
        }
    }

    /// What lies here instead of a live block.
    #[cold]
    fn no_live(&self, granule: u32, top: u32, found: Option<Entry>) -> Error {
        let at = self.geometry.offset(granule) as u64;
        let refuse = |what| Error::NotAllocated { what, at };
        match found {
            _ if granule >= top => refuse("above top, where no block is (freed already?)"),
            Some(Entry { state: State::Meta, .. }) => refuse("the pool's own block"),
            Some(_) => refuse("the block there is free (freed twice?)"),
            None if self.map.is_start(granule) => {
                Error::Corrupted { what: "the map tells of no block that could be", at }
            }
            None => refuse("inside a block, or of one freed and joined to another: give the address that the pool gave"),
        }
    }

    /// What starts here: its state and size.
    pub fn block(&self, granule: u32) -> Option<(State, u32)> {
        self.map.read(granule, self.top()).map(|block| (block.state, block.size))
    }

    /// Whether a block of this state and size starts here.
    pub fn has(&self, granule: u32, state: State, size: u32) -> bool {
        self.block(granule) == Some((state, size))
    }

    /// Whether the bins hold every free block of the map once: how many they hold.
    pub fn binned(&self) -> Option<u32> {
        self.bins.count(|| self.show_progress()).ok()
    }

    /// Whether what the map shows before a block is a free block. It is not if the caller promised
    /// zero bytes where there were others: then a block's inside may look like the end of one. But
    /// the bins never have such a block. Where free memory is filled no such promise is believed, and
    /// links that somebody wrote to are left as they are, to be found.
    fn is_free(&self, left: Free) -> bool {
        self.is_filled() || self.honest(|bins| bins.hold(left)).is_ok()
    }

    /// Finishes the change that a dead owner left. May be repeated from any point. O(map).
    fn recover(&self, forget: impl Fn()) -> Result<()> {
        let Some(change) = self.record.read(&self.geometry, self.watermark()) else {
            // Somebody died mending, or the record was scribbled over.
            let mended = self.mend();
            self.record.close();
            return mended;
        };
        if change.kind.is_of_space() {
            self.heal(&change);
        } else if !self.is_over(&change) {
            self.fill_again(&change);
            self.apply(&change);
        }
        if change.kind == Kind::Resize {
            self.let_go(change.at);
        }
        let rebuilt = self.rebuild();
        let undone = match (change.kind, change.live()) {
            (Kind::Alloc, Some(live)) => self.free(live),
            // Its owner was rid of it. Should another have freed it since, it is free.
            (Kind::Recall, _) if self.map.state(change.at) != Some(State::Held) => Ok(()),
            (Kind::Recall | Kind::Strike, _) => self.free(change.at).or(Ok(())),
            (Kind::Mark, _) if change.old[0] != NOWHERE => self.free(change.old[0]).or(Ok(())),
            _ => Ok(()),
        };
        if change.kind == Kind::FreeAll {
            forget();
        }
        self.record.close();
        let at = self.geometry.header as u64;
        let what = "the record of the change under way tells of no change that could be";
        rebuilt.and(undone.map_err(|_| Error::Corrupted { what, at }))
    }

    /// Tries the bins; should they lie, makes them anew from the map and tries once more.
    fn honest<T>(&self, attempt: impl Fn(&Bins) -> core::result::Result<T, Lie>) -> Result<T> {
        if let Ok(answer) = attempt(&self.bins) {
            return Ok(answer);
        }
        self.mend()?;
        attempt(&self.bins).map_err(|Lie| Error::Corrupted {
            what: "free blocks change while the pool is locked: somebody writes to freed memory",
            at: self.geometry.header as u64,
        })
    }

    /// [`Heap::honest`]; that it was a write to free memory which made the bins lie is told once they
    /// are made anew, in pools that look for that.
    #[inline(always)]
    fn told<T>(&self, attempt: impl Fn(&Bins) -> core::result::Result<T, Lie>) -> Result<T> {
        match attempt(&self.bins) {
            Ok(answer) => Ok(answer),
            Err(Lie) => self.told_of_lies(attempt),
        }
    }

    #[cold]
    #[inline(never)]
    fn told_of_lies<T>(
        &self,
        attempt: impl Fn(&Bins) -> core::result::Result<T, Lie>,
    ) -> Result<T> {
        let written = self.any_written_links();
        let answer = self.honest(attempt)?;
        written.map_or(Ok(answer), Err)
    }

    /// Makes the hints anew after they were found wrong. Under a record, so that who dies here
    /// leaves no half of them to be believed.
    #[cold]
    fn mend(&self) -> Result<()> {
        if let Some(count) = self.region.word64(self.geometry.word(RECOVERIES_OFFSET)) {
            count.fetch_add(1, Relaxed);
        }
        if self.record.is_open() {
            return self.rebuild();
        }
        self.record.open_mending();
        let rebuilt = self.rebuild();
        self.record.close();
        rebuilt
    }

    /// Makes bins and counts from the map, as far as it makes sense. O(bins + blocks).
    fn rebuild(&self) -> Result<()> {
        self.bins.reset();
        let mut counts = Counts::default();
        let (mut at, top, mut meta) = (0, self.top(), 0);
        while let Some(block) = self.map.read(at, top) {
            self.show_progress();
            match block.state {
                State::Live | State::Held | State::Taken | State::Cached => counts.live_count += 1,
                State::Named | State::Renamed => counts.live_count += 1,
                State::Free => {
                    counts.add_free(block.size);
                    // Cannot lie: every link so far was made in this loop.
                    let _ = self.bins.link((at, block.size));
                }
                State::Loose => counts.add_loose(1, block.size),
                State::Meta => meta += block.size,
            }
            at += block.size;
        }
        self.words.set_counts(counts);
        self.words.set_meta(meta);
        if at == top {
            return Ok(());
        }
        let at = self.geometry.offset(at) as u64;
        Err(Error::Corrupted { what: "no block starts where one must", at })
    }

    fn ask(&self, size: u32, alignment: usize) -> Ask {
        let align = self.geometry.align();
        // Aligned by address where addresses can be; else by offset, like the granules.
        let by_address = self.region.address().wrapping_add(self.geometry.first);
        let by_offset = self.geometry.residue + self.geometry.first;
        let origin = if by_address % align == 0 { by_address } else { by_offset };
        let step = (alignment >> self.geometry.align_log2).max(1) as u64;
        let skew = ((origin >> self.geometry.align_log2) as u64).wrapping_neg() & (step - 1);
        Ask { size, step, skew }
    }

    /// Makes a live block of a free one: what comes before the aligned place and what is left over
    /// stay free.
    #[inline(always)]
    fn carve(&self, found: Free, ask: &Ask) -> Result<u32> {
        let (start, whole) = found;
        let live = ask.align(start) as u32;
        let gap = live - start;
        let mut rest = whole - gap - ask.size;
        let mut size = ask.size;
        if !self.is_worth_a_block(rest) {
            (size, rest) = (size + rest, 0);
        }
        if self.is_filled() {
            self.must_be_linked(found)?;
            self.must_be_filled(live, gap == 0, live + size, rest > 0)?;
        }
        let mut change = Change::new(Kind::Alloc, start, self.top());
        change.new = [
            Entry { state: State::Free, size: gap },
            Entry { state: State::Live, size },
            Entry { state: State::Free, size: rest },
        ];
        self.commit(change, [Some(Gone::binned(found)), None]);
        Ok(live)
    }

    /// Makes a live block of the space above `top`; None if there is not enough.
    fn extend(&self, ask: &Ask) -> Result<Option<u32>> {
        let top = self.top();
        let live = ask.align(top);
        let end = live + u64::from(ask.size);
        if end > u64::from(self.geometry.granules) {
            return Ok(None);
        }
        let (live, end) = (live as u32, end as u32);
        self.raise_watermark(end);
        if self.is_filled() {
            self.must_be_filled(top, false, end, false)?;
        }
        let mut change = Change::new(Kind::Alloc, top, end);
        change.new[0] = Entry { state: State::Free, size: live - top };
        change.new[1] = Entry { state: State::Live, size: ask.size };
        self.commit(change, [None, None]);
        Ok(Some(live))
    }

    fn grow(&self, granule: u32, old: Entry, size: u32, asked: usize) -> Result<bool> {
        let end = granule + old.size;
        let Some(wanted) = granule.checked_add(size) else { return Ok(false) };
        if self.free_at(end).is_some_and(|right| right.end() < wanted) {
            self.join_behind(end, wanted);
        }
        let right = self.free_at(end);
        let stop = right.map_or(end, |right| right.end());
        let mut change = self.resizing(granule, asked);
        change.new[0] = Entry { state: old.state, size };
        if wanted <= stop {
            let rest = stop - wanted;
            if self.is_worth_a_block(rest) {
                let is_loose = right.is_some_and(|right| right.is_loose);
                let state = if is_loose { State::Loose } else { State::Free };
                change.new[1] = Entry { state, size: rest };
            } else {
                change.new[0].size += rest;
            }
        } else if stop == self.top() && wanted <= self.geometry.granules {
            self.raise_watermark(wanted);
            change.top = wanted;
        } else {
            return Ok(false);
        }
        if self.is_filled() {
            right.map_or(Ok(()), |right| self.must_be_linked((right.start, right.size)))?;
            let new_end = granule + change.new[0].size;
            self.must_be_filled(end, right.is_some(), new_end, change.new[1].size > 0)?;
        }
        self.commit(change, [right, None]);
        Ok(true)
    }

    /// The one way in which the map changes, but for joins and refills. `gone` are the free blocks among the
    /// old ones, beside the one that the change names.
    fn commit(&self, mut change: Change, gone: [Option<Gone>; 2]) {
        for (place, gone) in change.old[1..].iter_mut().zip(&gone) {
            *place = gone.as_ref().map_or(NOWHERE, |gone| gone.start);
        }
        if matches!(change.kind, Kind::Free | Kind::Resize) {
            self.hold(change.old[0]);
        }
        self.record.open(&change);
        let mut tally = Tally::begin(self);
        for gone in gone.iter().flatten() {
            if gone.is_loose {
                tally.counts.take_loose(gone.size);
            } else {
                tally.take((gone.start, gone.size));
            }
        }
        if self.is_filled() {
            self.fill_freed(&change, &gone);
        }
        let loosened = self.apply(&change);
        let (starts, _) = change.starts();
        for (start, Entry { state, size }) in starts.into_iter().zip(change.new) {
            match state {
                _ if size == 0 => {}
                State::Free => tally.put((start, size)),
                State::Loose => tally.counts.add_loose(1, size),
                _ => {}
            }
        }
        let counts = &mut tally.counts;
        counts.live_count = match change.kind {
            Kind::Alloc => counts.live_count.wrapping_add(1),
            Kind::Free => counts.live_count.wrapping_sub(1),
            Kind::Loosen => counts.live_count.wrapping_sub(loosened),
            _ => counts.live_count,
        };
        counts.add_loose(loosened, change.taker.size);
        tally.end();
        if change.kind == Kind::Resize {
            self.let_go(change.at);
        }
    }

    /// Takes a live block that is about to end or to be resized out of the hands of all who do not take
    /// the lock.
    pub(super) fn hold(&self, granule: u32) {
        if let Some(Entry { state: State::Live, size }) = self.map.read(granule, self.top()) {
            self.map.write(granule, Entry { state: State::Held, size });
            compiler_fence(SeqCst);
        }
    }

    /// Makes a held block live: of all that is done to it the last, and not to be done again.
    pub(super) fn let_go(&self, granule: u32) {
        compiler_fence(SeqCst);
        if let Some(Entry { state: State::Held, size }) = self.map.read(granule, self.top()) {
            self.map.write(granule, Entry { state: State::Live, size });
        }
    }

    /// Whether a change was made to its end, and the block has been its owner's since, whoever that is.
    fn is_over(&self, change: &Change) -> bool {
        let holds = change.kind == Kind::Resize && !change.new[0].state.is_bound();
        holds && self.map.state(change.at) != Some(State::Held)
    }

    /// Brings the map and `top` to what a change says; how many blocks became loose.
    fn apply(&self, change: &Change) -> u32 {
        let loosened = match change.kind {
            Kind::FreeAll => {
                self.map.clear(0, self.watermark());
                self.forget_names();
                0
            }
            Kind::Loosen => change.loosen(&self.region, &self.map),
            _ => 0,
        };
        change.apply(&self.region, &self.map);
        self.words.set_top(change.top);
        if change.kind == Kind::Resize && self.is_guarded() {
            self.set_guard(change.at, change.taker.count_at);
        }
        if change.kind.is_of_slot() {
            self.settle_slot(change);
        }
        if change.kind.is_of_name() {
            self.settle_name(change);
        }
        loosened
    }

    /// Makes the map known up to here. Each byte once, a page at a time, and the watermark after
    /// each: a death in between costs a page.
    fn raise_watermark(&self, end: u32) {
        let mut known = self.watermark();
        let step = if self.is_filled() {
            (WATERMARK_STEP_FILLED >> self.geometry.align_log2).max(1) as u32
        } else {
            WATERMARK_STEP
        };
        while known < end {
            let next = known.saturating_add(step).min(self.geometry.granules);
            self.map.clear(known, next);
            self.fill(known, next);
            self.words.set_watermark(next);
            self.show_progress();
            known = next;
        }
    }

    /// The free block that starts here.
    fn free_at(&self, granule: u32) -> Option<Gone> {
        let Entry { state, size } = self.map.read(granule, self.top())?;
        let is_loose = state == State::Loose;
        (is_loose || state == State::Free).then_some(Gone { start: granule, size, is_loose })
    }

    fn is_worth_a_block(&self, rest: u32) -> bool {
        rest > 0
            && !self.geometry.has(NO_SPLIT)
            && self.geometry.bytes(rest) >= self.geometry.min_split
    }
}

/// A free block that a change does away with.
#[derive(Clone, Copy)]
struct Gone {
    start: u32,
    size: u32,
    is_loose: bool,
}

impl Gone {
    fn binned((start, size): Free) -> Gone {
        Gone { start, size, is_loose: false }
    }

    fn end(&self) -> u32 {
        self.start + self.size
    }
}
