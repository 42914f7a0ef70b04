//! What a thread knows of its cache, in memory of its own, and the calls that need no more than
//! that: the fast path.
//!
//! Each thread has a page for each pool that it uses, and a pointer to the page of the last one.
//! A fork wipes the pages, so a child finds none of its parent's. All addresses in a page were
//! computed from the handle's trusted geometry; what is read from the buffer is a count, compared
//! with the room that there is or too small to reach outside, a granule, compared with how many are
//! known, and a map byte.
//!
//! Of what a thread writes here the order matters, for it may be killed between any two stores:
//!
//! ```text
//! pop    map: cached -> live | last: granule -> none (delivered) | count - 1
//! push   behind last: none -> granule | map: live -> cached (freed) | count + 1
//! move   map: cached -> live (new) | the bytes | behind last of another magazine: none -> granule (old)
//!        | map: live -> cached (old) | the rest of pop (new) | count + 1 (old)
//! ```
//!
//! So a last block that is live was not delivered yet, and a cached one behind the last was freed; one
//! that is live there is its owner's still, whoever that is by now. If a thread left a block that was
//! freed and one that was not delivered, it was moving a block, and the bytes are where they go: the
//! one that was not delivered is.
#![allow(clippy::declare_interior_mutable_const)] // arrays of cells are made of it

mod byte;
mod pages;
mod pointer;

pub use pages::{end, end_of_ended, find, get, is_in_use};

use crate::class;
use crate::layout::{Geometry, COUNT_AT, ITEMS_AT, MAGAZINE_BYTES, MAGAZINE_ITEMS, NO_BLOCK};
use crate::map::{Entry, Map, State, CACHED_CLASS, LIVE_CLASS};
use crate::region::Region;
use crate::sys;
use core::cell::Cell;
use core::ptr::{self, NonNull};
use core::sync::atomic::Ordering::{Relaxed, Release, SeqCst};
use core::sync::atomic::{compiler_fence, AtomicBool, AtomicU32, AtomicU8};

const CLASSES: usize = class::COUNT as usize;

/// A magazine, as [`crate::depot`] lays it out.
#[repr(C)]
pub struct Magazine {
    owner: AtomicU32,
    next: AtomicU32,
    count: AtomicU8,
    class: AtomicU8,
    rounds: AtomicU8,
    unused: AtomicU8,
    /// Stands before the first block: the last of no blocks. No granule.
    floor: AtomicU32,
    items: [AtomicU32; MAGAZINE_ITEMS as usize],
}

const _: () = {
    assert!(size_of::<Magazine>() == MAGAZINE_BYTES);
    assert!(core::mem::offset_of!(Magazine, count) == COUNT_AT);
    assert!(core::mem::offset_of!(Magazine, floor) == crate::depot::FLOOR_AT);
    assert!(core::mem::offset_of!(Magazine, items) == ITEMS_AT);
    // A damaged count reaches into what follows the magazines, never beyond the buffer.
    assert!(u8::MAX as usize * 4 <= crate::layout::CACHED_REGION_MIN / 2);
};

/// Stands for no magazine: nobody's.
static ABSENT: Magazine = Magazine {
    owner: AtomicU32::new(0),
    next: AtomicU32::new(0),
    count: AtomicU8::new(0),
    class: AtomicU8::new(0),
    rounds: AtomicU8::new(0),
    unused: AtomicU8::new(0),
    floor: AtomicU32::new(NO_BLOCK),
    items: [const { AtomicU32::new(NO_BLOCK) }; MAGAZINE_ITEMS as usize],
};

/// No cache's token.
const NO_CACHE: u32 = u32::MAX;
/// log2 of the granule that most pools have. The fast path knows it.
const USUAL_LOG2: u32 = 4;

/// Start bytes of the map: what the table of magazines in use is indexed by.
const STARTS: usize = 256;

/// What a thread knows of a pool. What a hit looks at, but for the tables, is in the first line.
#[repr(C)]
pub struct Local {
    /// The handle's address, in a pool whose granule is the usual one, and which does not know its
    /// blocks' owners; else [`NOBODY`].
    usual: Cell<usize>,
    map: Cell<*const AtomicU8>,
    first: Cell<usize>,
    /// How many granules' map bytes are known, as the thread last saw: the others' may be anything.
    known: Cell<usize>,
    /// The token of this thread's cache; [`NO_CACHE`] while there was none to be had.
    token: Cell<u32>,
    align_log2: Cell<u32>,
    /// As `usual`, for the way back: of pools that know their blocks' owners, too.
    frees: Cell<usize>,
    /// The handle's address; a page of no handle has [`NOBODY`].
    handle: Cell<usize>,
    /// The pool's number, whatever handle it is known by.
    pool: Cell<u64>,
    /// The thread is gone; the page is anybody's who has the list of pages.
    ended: AtomicBool,
    /// Calls since a cache was asked for in vain.
    pub vain: Cell<u32>,
    /// The class that was asked first, the last time, for what it can do without.
    pub turn: Cell<u8>,
    /// So many times more no class is asked, since none had anything.
    pub refused: Cell<u8>,
    /// Granules of the hoard that this thread's magazines are counted for.
    has: Cell<u32>,
    /// Granules of the hoard that are counted for nothing, for what this thread puts on shelves.
    pub credit: Cell<u32>,
    /// How often it found no room in the hoard for that.
    pub crowded: Cell<u8>,
    next_of_thread: Cell<*const Local>,
    next_of_process: Cell<*const Local>,
    /// The magazine in use for each class, by the start byte of its live blocks; for all other
    /// bytes [`ABSENT`].
    loaded: [Cell<*const Magazine>; STARTS],
    /// How many blocks each may hold.
    rounds: [Cell<u8>; STARTS],
    /// A second magazine for each class, so that a thread that goes back and forth at the edge
    /// of one needs no third.
    previous: [Cell<*const Magazine>; CLASSES],
}

/// It fits in the page that a fork wipes.
const _: () = assert!(size_of::<Local>() <= sys::PAGE_BYTES);
/// The first line ends behind this, or later.
const _: () = assert!(core::mem::offset_of!(Local, handle) + size_of::<usize>() <= 64);

/// No handle's address: not NULL, which callers may pass.
const NOBODY: usize = 1;

/// Where a thread without a page looks.
#[repr(transparent)]
struct Shared(Local);
// SAFETY: never written, and read only for its handle, which matches no pool.
unsafe impl Sync for Shared {}

static NOWHERE: Shared = Shared(Local {
    usual: Cell::new(NOBODY),
    map: Cell::new(ptr::null()),
    first: Cell::new(0),
    known: Cell::new(0),
    token: Cell::new(NO_CACHE),
    align_log2: Cell::new(0),
    frees: Cell::new(NOBODY),
    handle: Cell::new(NOBODY),
    pool: Cell::new(0),
    ended: AtomicBool::new(false),
    vain: Cell::new(0),
    turn: Cell::new(0),
    refused: Cell::new(0),
    has: Cell::new(0),
    credit: Cell::new(0),
    crowded: Cell::new(0),
    next_of_thread: Cell::new(ptr::null()),
    next_of_process: Cell::new(ptr::null()),
    loaded: [const { Cell::new(ptr::null()) }; STARTS],
    rounds: [const { Cell::new(0) }; STARTS],
    previous: [const { Cell::new(ptr::null()) }; CLASSES],
});

/// This thread's page for a pool, if it used that last.
pub fn current<'a>(handle: usize) -> Option<&'a Local> {
    Some(last()).filter(|local| local.handle.get() == handle)
}

/// The page that the thread used last.
#[inline(always)]
fn last<'a>() -> &'a Local {
    // SAFETY: NOWHERE, or a page that lives as long as the thread. A page of another pool is told
    // by its handle, and nothing else of it is looked at: its buffer may be gone.
    unsafe { &*pointer::get() }
}

/// A block of at least `size` bytes from the thread's cache, not delivered yet; None if it takes
/// more than that. O(1): no lock, no atomic read-modify-write. For pools with the usual granule.
#[inline(always)]
pub fn pop(handle: usize, size: usize) -> Option<Popped> {
    let local = last();
    if local.usual.get() != handle {
        return None;
    }
    local.pop(size, USUAL_LOG2, |_| ())
}

/// [`pop`], which calls `mark` with the block's granule before the block is live.
#[inline(always)]
pub fn pop_marked(handle: usize, size: usize, mark: impl FnOnce(u32)) -> Option<Popped> {
    let local = last();
    if local.frees.get() != handle {
        return None;
    }
    local.pop(size, USUAL_LOG2, mark)
}

/// Puts a live block into the thread's cache; false if that takes more, or must be refused. O(1):
/// no lock, no atomic read-modify-write. For pools with the usual granule.
#[inline(always)]
pub fn push(handle: usize, block: usize) -> bool {
    let local = last();
    local.frees.get() == handle && local.push(block, USUAL_LOG2)
}

/// A block that its cache has named behind the last, and which is cached: whoever dies, it is free.
#[must_use]
pub struct Pushed {
    magazine: *const Magazine,
}

impl Pushed {
    /// The block is one of the cache's.
    #[inline(always)]
    pub fn finish(self) {
        // SAFETY: the magazine of the buffer that `begin_push` found.
        let magazine = unsafe { &*self.magazine };
        // Counted last: a last block that is counted and live is one that was not delivered.
        compiler_fence(SeqCst);
        byte::count_up(magazine);
    }
}

/// A block that its cache still holds, live: the allocator's until it is delivered.
#[must_use]
pub struct Popped {
    block: NonNull<u8>,
    magazine: *const Magazine,
    count: usize,
}

impl Popped {
    /// Where the block is.
    pub fn block(&self) -> NonNull<u8> {
        self.block
    }

    /// The block is the caller's.
    #[inline(always)]
    pub fn deliver(self) -> NonNull<u8> {
        // SAFETY: the magazine of the buffer that `pop` found, and what it looked at there.
        let (magazine, item) = unsafe {
            let magazine = &*self.magazine;
            (magazine, magazine.last(self.count))
        };
        // Live before it leaves its place: who dies between leaves a block that is live and was not
        // delivered.
        compiler_fence(SeqCst);
        // Who does not find it in its place any more finds it live.
        item.store(NO_BLOCK, Release);
        // Counted last: behind the last it would be a block that its owner was freeing, and no one was.
        compiler_fence(SeqCst);
        byte::count_down(magazine);
        self.block
    }

    /// For a change that delivers the block with something else: where the magazine's count lies,
    /// and what it becomes. None if the count was no magazine's.
    pub fn taken(&self, region: &Region) -> Option<(usize, u32)> {
        if self.count == 0 || self.count > MAGAZINE_ITEMS as usize {
            return None;
        }
        // SAFETY: the magazine of the buffer that `pop` found.
        let count = unsafe { &raw const (*self.magazine).count };
        Some((count.addr() - region.address(), self.count as u32 - 1))
    }

    /// The block stays in its cache.
    pub fn put_back(self, map: &Map, size: u32, granule: u32) {
        map.write(granule, Entry { state: State::Cached, size });
    }
}

impl Magazine {
    /// The last of `count` blocks.
    ///
    /// # Safety
    /// The magazine lies in a pool's buffer, or it is [`ABSENT`] and `count` 0.
    #[inline(always)]
    unsafe fn last(&self, count: usize) -> &AtomicU32 {
        // SAFETY: the word before the first block is part of the magazine, and what lies 255 words
        // behind it still part of the buffer. So a damaged count leads to a wrong word at worst.
        unsafe { &*self.items.as_ptr().offset(count as isize - 1) }
    }
}

impl Local {
    /// See [`pop`]; for any granule.
    pub fn pop_any(&self, size: usize) -> Option<Popped> {
        self.pop(size, self.align_log2.get(), |_| ())
    }

    /// See [`pop_marked`]; for any granule.
    pub fn pop_marked(&self, size: usize, mark: impl FnOnce(u32)) -> Option<Popped> {
        self.pop(size, self.align_log2.get(), mark)
    }

    /// See [`push`]; for any granule.
    pub fn push_any(&self, block: usize) -> bool {
        self.push(block, self.align_log2.get())
    }

    /// Begins to put a live block into the thread's cache, for one that took over its bytes and is to
    /// be delivered next: a death leaves the one or the other. None if there is no room: then nothing
    /// is changed. O(1), for any granule.
    pub fn begin_push_any(&self, block: usize, popped: Option<&Popped>) -> Option<Pushed> {
        // Of a block whose bytes are still on their way nothing may be seen.
        compiler_fence(SeqCst);
        let busy = popped.map_or(ptr::null(), |popped| popped.magazine);
        self.begin_push(block, self.align_log2.get(), busy)
    }

    #[inline(always)]
    fn pop(&self, size: usize, align_log2: u32, mark: impl FnOnce(u32)) -> Option<Popped> {
        // Size 0 becomes too large.
        let slot = size.wrapping_sub(1) >> align_log2;
        let cached = usize::from(*CACHED_BY_SIZE.get(slot)?);
        // SAFETY: the table holds no other codes than those of cached classes; a magazine of the
        // buffer, or ABSENT.
        let magazine = unsafe { &*self.loaded.get_unchecked(cached - CACHED_TO_LIVE).get() };
        // Not this thread's any more, because the pool was released, or made anew in place; or
        // ABSENT.
        if magazine.owner.load(Relaxed) != self.token.get() {
            return None;
        }
        let count = byte::count(magazine);
        // SAFETY: not ABSENT, whose owner is no thread's.
        let granule = unsafe { magazine.last(count) }.load(Relaxed);
        // Of no blocks the last is none. Any other may be anything, too; and a map byte that was
        // written over may tell of a block that reaches beyond the pool.
        if granule as usize + slot >= self.known.get() {
            return None;
        }
        // SAFETY: a granule of this pool, whose map byte is known.
        let found = unsafe { byte::load(self.map.get(), granule as usize) };
        // Delivered only if it is what it should be: of two racing frees of one block the second
        // copy is caught here.
        if found != cached {
            return None;
        }
        mark(granule);
        // SAFETY: as above.
        let byte = unsafe { &*self.map.get().add(granule as usize) };
        byte.store((found - CACHED_TO_LIVE) as u8, Relaxed);
        let address = self.first.get() + ((granule as usize) << align_log2);
        // SAFETY: behind the header, so not null.
        let block = unsafe { NonNull::new_unchecked(ptr::with_exposed_provenance_mut(address)) };
        Some(Popped { block, magazine, count })
    }

    #[inline(always)]
    fn push(&self, block: usize, align_log2: u32) -> bool {
        self.begin_push(block, align_log2, ptr::null()).map(Pushed::finish).is_some()
    }

    /// Not into `busy`, from which a block is about to be delivered.
    #[inline(always)]
    fn begin_push(&self, block: usize, align_log2: u32, busy: *const Magazine) -> Option<Pushed> {
        // A pointer outside, or misaligned, becomes a granule too large.
        let granule = block.wrapping_sub(self.first.get()).rotate_right(align_log2);
        if granule >= self.known.get() {
            return None;
        }
        let map = self.map.get();
        // SAFETY: a granule of this pool, whose map byte lies in the buffer.
        let live = unsafe { byte::load(map, granule) };
        // SAFETY: a byte; a magazine of the buffer, or ABSENT: for what is not live, and has no
        // class, too.
        let magazine = unsafe { &*self.loaded.get_unchecked(live).get() };
        // Not this thread's, as in `pop`.
        if magazine.owner.load(Relaxed) != self.token.get() {
            return None;
        }
        let count = byte::count(magazine);
        // No room; and no count, be it damaged, leads beyond the items, for rounds are the page's own.
        // The second comparison is not there where `busy` is null.
        // SAFETY: a byte.
        if count as u8 >= unsafe { self.rounds.get_unchecked(live) }.get()
            || ptr::eq(magazine, busy)
        {
            return None;
        }
        // SAFETY: less than rounds, which is at most the number of items.
        unsafe { magazine.items.get_unchecked(count) }.store(granule as u32, Relaxed);
        // Named first: who dies behind the next store leaves a free block that is in its place.
        compiler_fence(SeqCst);
        // SAFETY: as above.
        let byte = unsafe { &*map.add(granule) };
        // Who finds it cached finds it in its place.
        byte.store((live + CACHED_TO_LIVE) as u8, Release);
        Some(Pushed { magazine })
    }

    /// The token of this thread's cache.
    pub fn token(&self) -> Option<u32> {
        Some(self.token.get()).filter(|&token| token != NO_CACHE)
    }

    /// So many granules' map bytes are known, which are no more than the pool has.
    pub fn see(&self, watermark: u32) {
        self.known.set(watermark as usize);
    }

    /// How much of the map this thread knows to be known.
    pub fn known(&self) -> u32 {
        self.known.get() as u32
    }

    /// The number of the magazine in use for a class.
    pub fn loaded(&self, region: &Region, geometry: &Geometry, class: u8) -> Option<u32> {
        number(region, geometry, self.loaded[live(class)].get())
    }

    /// The number of the second magazine of a class.
    pub fn previous(&self, region: &Region, geometry: &Geometry, class: u8) -> Option<u32> {
        number(region, geometry, self.previous[class as usize].get())
    }

    /// Whether the magazine in use for a class may hold another block.
    pub fn has_room(&self, class: u8) -> bool {
        // SAFETY: a magazine of the buffer, or ABSENT.
        let magazine = unsafe { &*self.loaded[live(class)].get() };
        byte::count(magazine) < usize::from(self.rounds[live(class)].get())
    }

    /// Whether a magazine of a class holds nothing.
    pub fn has_empty(&self, class: u8) -> bool {
        let is_empty = |magazine: *const Magazine| {
            // SAFETY: a magazine of the buffer, or ABSENT.
            !ptr::eq(magazine, &ABSENT) && byte::count(unsafe { &*magazine }) == 0
        };
        is_empty(self.loaded[live(class)].get()) || is_empty(self.previous[class as usize].get())
    }

    /// Uses a magazine for a class, which may hold so many blocks.
    pub fn load(
        &self,
        region: &Region,
        geometry: &Geometry,
        class: u8,
        magazine: Option<u32>,
        rounds: u32,
    ) {
        let rounds = if magazine.is_some() { rounds.min(MAGAZINE_ITEMS) } else { 0 };
        self.rounds[live(class)].set(rounds as u8);
        self.loaded[live(class)].set(address(region, geometry, magazine));
    }

    /// Keeps a second magazine for a class.
    pub fn keep(&self, region: &Region, geometry: &Geometry, class: u8, magazine: Option<u32>) {
        self.previous[class as usize].set(address(region, geometry, magazine));
    }

    /// Granules of the hoard that this thread's magazines are counted for.
    pub fn has(&self) -> u32 {
        self.has.get()
    }

    /// So many granules of the hoard were added to this thread's.
    pub fn has_more(&self, granules: u32) {
        self.has.set(self.has.get().saturating_add(granules));
    }

    /// So many granules of the hoard were taken from this thread's.
    pub fn has_less(&self, granules: u32) {
        self.has.set(self.has.get().saturating_sub(granules));
    }

    /// Attaches the page to a cache that was claimed for this thread.
    pub fn adopt(&self, token: u32) {
        self.token.set(token);
    }
}

/// The start byte of the live blocks of a class.
fn live(class: u8) -> usize {
    usize::from(LIVE_CLASS + class.min(class::COUNT - 1))
}

/// How far the start byte of a cached block is from that of a live one of the class.
const CACHED_TO_LIVE: usize = (CACHED_CLASS - LIVE_CLASS) as usize;

/// The start byte of a cached block for each size in granules, less one.
static CACHED_BY_SIZE: [u8; class::LARGEST as usize] = {
    let mut table = [0; class::LARGEST as usize];
    let mut size = 1;
    while size <= class::LARGEST {
        table[size as usize - 1] = CACHED_CLASS + class::at_least(size);
        size += 1;
    }
    table
};

fn number(region: &Region, geometry: &Geometry, magazine: *const Magazine) -> Option<u32> {
    if ptr::eq(magazine, &ABSENT) {
        return None;
    }
    let at = magazine.addr().wrapping_sub(region.address() + geometry.magazine);
    Some((at / size_of::<Magazine>()) as u32)
}

fn address(region: &Region, geometry: &Geometry, magazine: Option<u32>) -> *const Magazine {
    let whole = magazine.filter(|&magazine| magazine < geometry.magazines);
    let pointer = whole.and_then(|magazine| region.pointer(geometry.magazine_at(magazine)));
    pointer.map_or(&raw const ABSENT, |pointer| pointer.as_ptr().cast_const().cast())
}
