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
//! push   behind last: none -> granule | map: live -> cached      | count + 1
//! ```
//!
//! So a last block that is live was not delivered yet, and a block behind the last was being freed.
#![allow(clippy::declare_interior_mutable_const)] // arrays of cells are made of it

use crate::class;
use crate::layout::{Geometry, COUNT_AT, ITEMS_AT, MAGAZINE_BYTES, MAGAZINE_ITEMS, NO_BLOCK};
use crate::map::{Entry, Map, State, CACHED_CLASS, LIVE_CLASS};
use crate::region::Region;
use crate::sys;
use core::cell::Cell;
use core::ptr::{self, NonNull};
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use core::sync::atomic::{compiler_fence, AtomicBool, AtomicU32, AtomicU64, AtomicU8};

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

/// What a thread knows of a pool.
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
    next_of_thread: Cell::new(ptr::null()),
    next_of_process: Cell::new(ptr::null()),
    loaded: [const { Cell::new(ptr::null()) }; STARTS],
    rounds: [const { Cell::new(0) }; STARTS],
    previous: [const { Cell::new(ptr::null()) }; CLASSES],
});

/// What the compiler makes more of than one instruction: the count of a magazine and a byte of the
/// map as numbers, and the count's steps. All are loads and stores of one byte, thus atomic.
#[cfg(target_arch = "x86_64")]
mod byte {
    use super::{Magazine, COUNT_AT};
    use core::arch::asm;
    use core::sync::atomic::AtomicU8;

    #[inline(always)]
    pub fn count(magazine: &Magazine) -> usize {
        let count: usize;
        // SAFETY: loads the count and nothing else.
        unsafe {
            asm!(
                "movzx {count:e}, byte ptr [{magazine} + {at}]",
                magazine = in(reg) magazine,
                at = const COUNT_AT,
                count = lateout(reg) count,
                options(readonly, nostack, preserves_flags)
            );
            core::hint::assert_unchecked(count <= 0xff);
        }
        count
    }

    #[inline(always)]
    pub fn count_up(magazine: &Magazine) {
        // SAFETY: changes the count and nothing else.
        unsafe {
            asm!("inc byte ptr [{} + {}]", in(reg) magazine, const COUNT_AT, options(nostack));
        }
    }

    #[inline(always)]
    pub fn count_down(magazine: &Magazine) {
        // SAFETY: changes the count and nothing else.
        unsafe {
            asm!("dec byte ptr [{} + {}]", in(reg) magazine, const COUNT_AT, options(nostack));
        }
    }

    /// # Safety
    /// The byte is there.
    #[inline(always)]
    pub unsafe fn load(bytes: *const AtomicU8, index: usize) -> usize {
        let value: usize;
        // SAFETY: loads the byte and nothing else.
        unsafe {
            asm!(
                "movzx {value:e}, byte ptr [{bytes} + {index}]",
                bytes = in(reg) bytes,
                index = in(reg) index,
                value = lateout(reg) value,
                options(readonly, nostack, preserves_flags)
            );
            core::hint::assert_unchecked(value <= 0xff);
        }
        value
    }
}

/// The same, by the language's own means.
#[cfg(not(target_arch = "x86_64"))]
mod byte {
    use super::Magazine;
    use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

    pub fn count(magazine: &Magazine) -> usize {
        usize::from(magazine.count.load(Relaxed))
    }

    pub fn count_up(magazine: &Magazine) {
        magazine.count.store(magazine.count.load(Relaxed).wrapping_add(1), Relaxed);
    }

    pub fn count_down(magazine: &Magazine) {
        magazine.count.store(magazine.count.load(Relaxed).wrapping_sub(1), Relaxed);
    }

    /// # Safety
    /// The byte is there.
    pub unsafe fn load(bytes: *const AtomicU8, index: usize) -> usize {
        // SAFETY: as promised by the caller.
        usize::from(unsafe { &*bytes.add(index) }.load(Relaxed))
    }
}

/// The pointer to the page of the thread's last pool, by the initial-exec model: two loads, where
/// what a shared library gets by default is a call. Eight bytes of the static TLS block, which
/// even a library that is loaded late finds room for.
#[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
mod pointer {
    use super::{Local, NOWHERE};
    use core::arch::{asm, global_asm};

    global_asm!(
        ".section .tdata.mempool_current,\"awT\",@progbits",
        ".hidden mempool_current",
        ".globl mempool_current",
        ".type mempool_current, @object",
        ".size mempool_current, 8",
        ".p2align 3",
        "mempool_current:",
        ".quad {nowhere}",
        ".text",
        nowhere = sym NOWHERE,
    );

    #[inline(always)]
    pub fn get() -> *const Local {
        let local: *const Local;
        // SAFETY: loads this thread's variable and nothing else.
        unsafe {
            asm!(
                "mov {0}, qword ptr [rip + mempool_current@GOTTPOFF]",
                "mov {0}, qword ptr fs:[{0}]",
                out(reg) local,
                options(pure, readonly, nostack, preserves_flags)
            );
        }
        local
    }

    pub fn set(local: *const Local) {
        // SAFETY: stores to this thread's variable and nothing else.
        unsafe {
            asm!(
                "mov {0}, qword ptr [rip + mempool_current@GOTTPOFF]",
                "mov qword ptr fs:[{0}], {1}",
                out(reg) _,
                in(reg) local,
                options(nostack, preserves_flags)
            );
        }
    }
}

/// The same, by the language's own means.
#[cfg(not(all(target_arch = "x86_64", target_env = "gnu")))]
mod pointer {
    use super::{Local, NOWHERE};
    use core::cell::Cell;

    thread_local! {
        static CURRENT: Cell<*const Local> = const { Cell::new(&raw const NOWHERE.0) };
    }

    #[inline(always)]
    pub fn get() -> *const Local {
        CURRENT.with(Cell::get)
    }

    pub fn set(local: *const Local) {
        CURRENT.with(|current| current.set(local));
    }
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
        compiler_fence(SeqCst);
        item.store(NO_BLOCK, Relaxed);
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
        // A pointer outside, or misaligned, becomes a granule too large.
        let granule = block.wrapping_sub(self.first.get()).rotate_right(align_log2);
        if granule >= self.known.get() {
            return false;
        }
        let map = self.map.get();
        // SAFETY: a granule of this pool, whose map byte lies in the buffer.
        let live = unsafe { byte::load(map, granule) };
        // SAFETY: a byte; a magazine of the buffer, or ABSENT: for what is not live, and has no
        // class, too.
        let magazine = unsafe { &*self.loaded.get_unchecked(live).get() };
        // Not this thread's, as in `pop`.
        if magazine.owner.load(Relaxed) != self.token.get() {
            return false;
        }
        let count = byte::count(magazine);
        // SAFETY: a byte.
        if count as u8 >= unsafe { self.rounds.get_unchecked(live) }.get() {
            return false;
        }
        // SAFETY: less than rounds, which is at most the number of items.
        unsafe { magazine.items.get_unchecked(count) }.store(granule as u32, Relaxed);
        compiler_fence(SeqCst);
        // SAFETY: as above.
        let byte = unsafe { &*map.add(granule) };
        byte.store((live + CACHED_TO_LIVE) as u8, Relaxed);
        compiler_fence(SeqCst);
        byte::count_up(magazine);
        true
    }

    /// The token of this thread's cache.
    pub fn token(&self) -> Option<u32> {
        Some(self.token.get()).filter(|&token| token != NO_CACHE)
    }

    /// So many granules' map bytes are known, which are no more than the pool has.
    pub fn see(&self, watermark: u32) {
        self.known.set(watermark as usize);
    }

    /// The number of the magazine in use for a class.
    pub fn loaded(&self, region: &Region, geometry: &Geometry, class: u8) -> Option<u32> {
        number(region, geometry, self.loaded[live(class)].get())
    }

    /// The number of the second magazine of a class.
    pub fn previous(&self, region: &Region, geometry: &Geometry, class: u8) -> Option<u32> {
        number(region, geometry, self.previous[class as usize].get())
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

/// All pages of a process, in a list. The lock's word is the generation of the process whose
/// thread holds it, so that a fork's child does not wait for a thread that it has not.
struct Pages {
    lock: AtomicU64,
    generation: Cell<u64>,
    first: Cell<*const Local>,
}
// SAFETY: the cells are used under the lock only.
unsafe impl Sync for Pages {}

static PAGES: Pages =
    Pages { lock: AtomicU64::new(0), generation: Cell::new(0), first: Cell::new(ptr::null()) };

/// [`PAGES`], locked.
struct PagesHeld;

impl Drop for PagesHeld {
    fn drop(&mut self) {
        PAGES.lock.store(0, Release);
    }
}

/// A thread's pages; dropped when it ends.
struct Mine {
    generation: Cell<u64>,
    first: Cell<*const Local>,
}

thread_local! {
    static MINE: Mine = const { Mine { generation: Cell::new(0), first: Cell::new(ptr::null()) } };
}

impl Drop for Mine {
    /// Touches no pool: its buffer may be unmapped. The pages are this process's own; what the
    /// thread had is found by them, by [`end_of_ended`].
    fn drop(&mut self) {
        pointer::set(&raw const NOWHERE.0);
        if self.generation.get() != sys::me().generation {
            return;
        }
        let pages = pages();
        let mut at = self.first.get();
        while !at.is_null() {
            // SAFETY: a page of this thread, not yet unmapped.
            let local = unsafe { &*at };
            at = local.next_of_thread.get();
            if local.token().is_none() || local.handle.get() == NOBODY {
                pages.unmap(local);
            } else {
                local.ended.store(true, Relaxed);
            }
        }
    }
}

fn pages() -> PagesHeld {
    let generation = sys::me().generation;
    loop {
        let holder = PAGES.lock.load(Relaxed);
        let mine = holder == generation;
        if !mine && PAGES.lock.compare_exchange(holder, generation, Acquire, Relaxed).is_ok() {
            break;
        }
        std::thread::yield_now();
    }
    if PAGES.generation.get() != generation {
        // A fork wiped them all, the links among them too.
        PAGES.generation.set(generation);
        PAGES.first.set(ptr::null());
    }
    PagesHeld
}

impl PagesHeld {
    fn first(&self) -> &Cell<*const Local> {
        &PAGES.first
    }

    /// The pages that belong to a handle. Who was shown one may unmap it.
    fn in_use(&self) -> impl Iterator<Item = &Local> {
        let mut at = self.first().get();
        core::iter::from_fn(move || {
            // SAFETY: in the list, so mapped; NULL at its end.
            let local = unsafe { at.as_ref() }?;
            at = local.next_of_process.get();
            Some(local)
        })
        .filter(|local| local.handle.get() != NOBODY)
    }

    /// Ends a page that no thread uses.
    fn unmap(&self, local: *const Local) {
        self.remove(local);
        sys::unmap_page(local.cast_mut().cast());
    }

    fn remove(&self, local: *const Local) {
        let mut at = self.first().get();
        if at == local {
            // SAFETY: in the list, so mapped.
            self.first().set(unsafe { &*local }.next_of_process.get());
            return;
        }
        while !at.is_null() {
            // SAFETY: in the list, so mapped.
            let here = unsafe { &*at };
            if here.next_of_process.get() == local {
                // SAFETY: in the list, so mapped.
                here.next_of_process.set(unsafe { &*local }.next_of_process.get());
                return;
            }
            at = here.next_of_process.get();
        }
    }
}

/// This thread's page for a pool: it becomes the current one. Made if there is none; None where
/// pages cannot be, and for a call that comes from inside this one: the first look at [`MINE`], and
/// what the kernel is told, may allocate, and the pool may be what the program allocates from.
///
/// Not for who holds a pool's lock, for the same reason; see [`find`].
#[cold]
pub fn get<'a>(
    handle: usize,
    pool: u64,
    region: &Region,
    geometry: &Geometry,
) -> Option<&'a Local> {
    thread_local! {
        // Const and without Drop: no destructor is registered, nothing is allocated.
        static INSIDE: Cell<bool> = const { Cell::new(false) };
    }
    if INSIDE.replace(true) {
        return None;
    }
    let found = MINE.try_with(|mine| {
        mine.begin();
        let local = match mine.find(handle) {
            Some(local) => local,
            None => {
                let local = make(handle, region, geometry, mine)?;
                local.pool.set(pool);
                local
            }
        };
        pointer::set(local);
        Some(local)
    });
    INSIDE.set(false);
    found.ok().flatten()
}

/// This thread's page for a pool, if there is one: it becomes the current one. Allocates nothing.
pub fn find<'a>(handle: usize) -> Option<&'a Local> {
    if ptr::eq(pointer::get(), &NOWHERE.0) {
        // The thread has had no page in this process.
        return None;
    }
    let found = MINE.try_with(|mine| {
        mine.begin();
        mine.find(handle).inspect(|local| pointer::set(*local))
    });
    found.ok().flatten()
}

impl Mine {
    /// In a forked child the pages are its parent's: it has none.
    fn begin(&self) {
        let generation = sys::me().generation;
        if self.generation.get() != generation {
            pointer::set(&raw const NOWHERE.0);
            self.first.set(ptr::null());
            self.generation.set(generation);
        }
    }

    fn find<'a>(&self, handle: usize) -> Option<&'a Local> {
        let mut at = self.first.get();
        while !at.is_null() {
            // SAFETY: a page of this thread.
            let local = unsafe { &*at };
            if local.handle.get() == handle {
                return Some(local);
            }
            at = local.next_of_thread.get();
        }
        None
    }
}

/// In a forked child the page of the parent's thread is wiped, and with it the handle's address:
/// what stands there then is NULL, which callers may pass.
extern "C" fn forget_last() {
    pointer::set(&raw const NOWHERE.0);
}

fn make<'a>(handle: usize, region: &Region, geometry: &Geometry, mine: &Mine) -> Option<&'a Local> {
    // The first to come does it, and nobody waits: a fork in between leaves a child who would wait
    // for ever for a thread that it has not.
    static IS_TOLD: AtomicBool = AtomicBool::new(false);
    if !IS_TOLD.swap(true, Relaxed) {
        sys::at_fork_in_child(forget_last);
    }
    let pages = pages();
    // A page that a detach has left behind serves again.
    let local = match mine.find(NOBODY) {
        Some(local) => local,
        None => {
            let page = sys::wiped_page()?.cast::<Local>();
            // SAFETY: zeroed and large enough; zero is a value of every field.
            let local: &Local = unsafe { page.as_ref() };
            local.next_of_thread.set(mine.first.get());
            mine.first.set(local);
            local.next_of_process.set(pages.first().get());
            pages.first().set(local);
            local
        }
    };
    local.map.set(region.pointer(geometry.map)?.as_ptr().cast_const().cast());
    local.first.set(region.pointer(geometry.first)?.as_ptr().expose_provenance());
    local.known.set(0);
    local.token.set(NO_CACHE);
    local.align_log2.set(geometry.align_log2);
    local.vain.set(0);
    local.has.set(0);
    for loaded in local.loaded.iter().chain(&local.previous) {
        loaded.set(&raw const ABSENT);
    }
    let frees = if geometry.align_log2 == USUAL_LOG2 { handle } else { NOBODY };
    local.usual.set(if geometry.owners == 0 { frees } else { NOBODY });
    local.frees.set(frees);
    local.handle.set(handle);
    Some(local)
}

/// Ends a page that a thread of this process has of a handle: the token of its cache. None if there
/// is no such page with a cache. For who knows that none of them is inside a call.
pub fn end(handle: usize) -> Option<u32> {
    end_one(|local| local.handle.get() == handle)
}

/// Ends a page of a thread of this process that has ended, of a pool by any handle: the token of its
/// cache. None if there is no such page with a cache.
pub fn end_of_ended(pool: u64) -> Option<u32> {
    end_one(|local| local.ended.load(Relaxed) && local.pool.get() == pool)
}

/// Whether a thread of this process has a cache of a pool by this token, through a handle that is
/// still there.
pub fn is_in_use(pool: u64, token: u32) -> bool {
    pages().in_use().any(|local| local.pool.get() == pool && local.token() == Some(token))
}

fn end_one(is_meant: impl Fn(&Local) -> bool) -> Option<u32> {
    let pages = pages();
    for local in pages.in_use().filter(|local| is_meant(local)) {
        let token = local.token();
        local.usual.set(NOBODY);
        local.frees.set(NOBODY);
        local.handle.set(NOBODY);
        if local.ended.load(Relaxed) {
            pages.unmap(local);
        }
        if token.is_some() {
            return token;
        }
    }
    None
}
