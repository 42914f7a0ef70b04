//! A pool: the layers below put together. Each call is one function here, which takes the lock,
//! sees to what a dead owner left, does its work and delivers.

mod cached;
mod names;
mod reap;
mod recover;
mod shelved;
mod slot;
#[cfg(test)]
mod tests;
mod typed;
mod watched;

use crate::check;
use crate::class;
use crate::error::{Error, Result};
use crate::heap::Heap;
use crate::layout::{self, Geometry, Header, Header64};
use crate::layout::{FAILED_OFFSET, HEADER_BYTES, LOCK_OFFSET, NAMESPACE_OFFSET};
use crate::layout::{FORMATTING, MAGIC, RECOVERIES_OFFSET, REJECTED_OFFSET};
use crate::local;
use crate::lock::{Held, Lock};
use crate::options::Options;
use crate::region::{Region, View};
use crate::stats::{Block, Stats};
use crate::sys;
use crate::watch::{self, Presence};
use core::ops::Deref;
use core::ptr::{self, NonNull};
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// A process's handle to the pool in a buffer: a trusted copy of where everything lies, at one
/// address for as long as it lives, by which each thread knows its cache.
pub struct Handle {
    region: Region,
    geometry: Geometry,
    heap: Heap,
    header: View<Header64>,
    id: u64,
    lock: Lock,
    /// When a close look at the dead is due again.
    rested: AtomicU64,
    /// When a malloc that fails goes through all of the map again.
    looked: AtomicU64,
    /// The tag of this process's blocks, below the generation of the process that got it.
    own: AtomicU64,
    /// For tools: nothing without them.
    presence: Presence,
}

impl Drop for Handle {
    /// Leaves the buffer alone: it may be unmapped. A cache that a thread has through this handle is
    /// given back when the thread claims another, or ends.
    fn drop(&mut self) {
        while local::end(self.key()).is_some() {}
    }
}

/// A pool, as its user has it; see [`Handle`] for what can be done with it.
///
/// Any number of threads may use one handle, and any number of handles one pool. Dropping it
/// leaves the pool as it is. The buffer must stay mapped while a handle is used.
pub struct Pool(Box<Handle>);

impl Deref for Pool {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.0
    }
}

impl Pool {
    /// Formats a buffer, whatever it holds, and attaches to the new pool. The magic is written
    /// last. Touches the header and the depot only, and the magazines of an old pool in its place.
    ///
    /// # Safety
    /// `buffer` is valid for reads and writes of `len` bytes as long as the handle is used, and
    /// nobody uses a pool in it meanwhile.
    pub unsafe fn init(buffer: *mut u8, len: usize, options: &Options) -> Result<Pool> {
        // SAFETY: as promised by the caller.
        let region = unsafe { region(buffer, len) }?;
        let geometry = Geometry::plan(region.address(), len, options)?;
        let _hush = watch::hush();
        end_remains(&region, options.start)?;
        let pool = Pool::new(region, Header { geometry, id: sys::random() })?;
        pool.tell_attached(true);
        let held = pool.lock.seize()?;
        pool.format(true);
        drop(held);
        Ok(pool)
    }

    /// Attaches to the pool in a buffer, from any thread or process, wherever it is mapped. Reads
    /// the header only; after a reboot the first to attach repairs what it cut short.
    ///
    /// # Safety
    /// `buffer` is valid for reads and writes of `len` bytes as long as the handle is used.
    pub unsafe fn attach(buffer: *mut u8, len: usize, start: usize) -> Result<Pool> {
        // SAFETY: as promised by the caller.
        let region = unsafe { region(buffer, len) }?;
        let _hush = watch::hush();
        let pool = Pool::new(region, layout::find(&region, start)?)?;
        pool.tell_attached(false);
        if let Some(held) = pool.lock.claim()? {
            let rebooted = held.rebooted;
            // What it finds is said by the calls that follow.
            let _ = pool.inside(held, |heap| {
                if rebooted {
                    pool.recover_all(heap);
                }
                Ok(())
            });
        }
        Ok(pool)
    }

    /// Attaches to the pool in a buffer, or makes one if the buffer is blank: of many callers at
    /// once exactly one does, and says so. Who dies while making it is taken over.
    ///
    /// # Safety
    /// As for [`Pool::attach`].
    pub unsafe fn open(buffer: *mut u8, len: usize, options: &Options) -> Result<(Pool, bool)> {
        // SAFETY: as promised by the caller.
        let region = unsafe { region(buffer, len) }?;
        let header = layout::header_at(region.address(), options.start)
            .filter(|header| header.saturating_add(HEADER_BYTES) <= len)
            .ok_or(Error::TooSmall { len: len as u64, needed: min_len(options) as u64 })?;
        let _hush = watch::hush();
        loop {
            if !is_blank(&region, header) {
                // SAFETY: as promised by the caller.
                return unsafe { Pool::attach(buffer, len, options.start) }
                    .map(|pool| (pool, false));
            }
            let geometry = Geometry::plan(region.address(), len, options)?;
            let pool = Pool::new(region, Header { geometry, id: sys::random() })?;
            let held = match pool.lock.claim()? {
                Some(held) => held,
                None => pool.lock.acquire()?,
            };
            // Somebody may have made it before we got the lock.
            let made = is_blank(&region, header);
            if made {
                let is_untouched = region.load64(header) != FORMATTING;
                end_remains(&region, options.start)?;
                // Before another thread finds it, and has a block.
                pool.tell_attached(true);
                pool.format(is_untouched);
            }
            drop(held);
            if made {
                return Ok((pool, true));
            }
        }
    }

    /// This process is done with the handle: the caches its threads have through it are given
    /// back, none of which may be inside a call. The pool and its blocks stay. O(what they hold).
    pub fn detach(self) -> Result<()> {
        self.tell_detaching();
        while let Some(token) = local::end(self.key()) {
            if self.is_here().is_ok() {
                self.locked(|heap| {
                    self.recover_token(heap, token);
                    Ok(())
                })?;
            }
        }
        Ok(())
    }

    /// The handle alone, for C to hold.
    pub(crate) fn into_handle(self) -> Box<Handle> {
        self.0
    }

    /// The end of what [`Pool::into_handle`] began.
    pub(crate) fn from_handle(handle: Box<Handle>) -> Pool {
        Pool(handle)
    }

    fn new(region: Region, header: Header) -> Result<Pool> {
        watch::look();
        let Header { geometry, id } = header;
        let lock = Lock::new(region, geometry.header);
        let outside = Error::Corrupted { what: "the pool does not lie in the buffer", at: 0 };
        let heap = Heap::new(&region, &geometry).ok_or(outside)?;
        let header = region.view(geometry.header).ok_or(outside)?;
        // A Vec, unlike a Box, can say that there is no memory.
        let mut room = Vec::new();
        room.try_reserve_exact(1).map_err(|_| Error::NoHandle)?;
        room.push(Handle {
            region,
            geometry,
            heap,
            header,
            id,
            lock,
            rested: AtomicU64::new(0),
            looked: AtomicU64::new(0),
            own: AtomicU64::new(0),
            presence: Presence::default(),
        });
        let handle = Box::into_raw(room.into_boxed_slice()).cast::<Handle>();
        // SAFETY: a boxed slice of one has the layout of a boxed one.
        Ok(Pool(unsafe { Box::from_raw(handle) }))
    }
}

impl Handle {
    /// Ends the pool: whoever attaches later, or calls through another handle, is told that it is
    /// no pool. Nobody may be inside a call. O(1).
    pub fn release(&self) -> Result<()> {
        self.locked(|_| {
            self.set_magic(0);
            // What threads look at in their fast path.
            self.depot().revoke();
            self.tell_released();
            Ok(())
        })
    }

    /// A block of `size` bytes or more. O(1) but when it fails.
    #[inline]
    pub fn malloc(&self, size: usize) -> Result<NonNull<u8>> {
        match malloc_fast(self.key(), size) {
            Some(block) => Ok(block),
            None => match self.malloc_tagged(size) {
                Some(block) => Ok(block),
                None => self.allocate(size, 1, None),
            },
        }
    }

    /// A block of `count` times `size` bytes, zeroed. O(bytes).
    pub fn calloc(&self, count: usize, size: usize) -> Result<NonNull<u8>> {
        self.calloc_fill(count, size, 0)
    }

    /// A block of `count` times `size` bytes, each set to `fill`. O(bytes).
    pub fn calloc_fill(&self, count: usize, size: usize, fill: u8) -> Result<NonNull<u8>> {
        self.allocate(self.product(count, size)?, 1, Some(fill))
    }

    /// A block whose address is a multiple of `alignment`, a power of two. O(1) but when it fails.
    pub fn aligned_alloc(&self, alignment: usize, size: usize) -> Result<NonNull<u8>> {
        if !alignment.is_power_of_two() {
            return Err(Error::Argument("alignment must be a power of two"));
        }
        self.allocate(size, alignment, None)
    }

    /// Makes a block longer or shorter, where it is if it can be, else elsewhere with its bytes.
    /// A null block is allocated. When it fails the block is untouched.
    ///
    /// # Safety
    /// Nobody else uses the block, and the old pointer is not used after success.
    pub unsafe fn realloc(&self, block: *mut u8, size: usize) -> Result<NonNull<u8>> {
        let Some(block) = NonNull::new(block) else {
            return self.malloc(size);
        };
        let _hush = watch::hush();
        let answer = self.granule(block.as_ptr()).and_then(|granule| {
            self.is_here()?;
            self.settled_size(granule)?;
            let wanted = self.granules(size)?;
            let before = self.tell_resizing(granule, size);
            let resized = self.resize(granule, size, wanted);
            self.tell_resized(granule, size, &resized, before);
            if resized? {
                return Ok(block);
            }
            self.relocate(granule, size, wanted)
        });
        self.count_failure(self.reowned(answer), size)
    }

    /// [`Handle::realloc`] to `count` times `size` bytes.
    ///
    /// # Safety
    /// As for [`Handle::realloc`].
    pub unsafe fn realloc_array(
        &self,
        block: *mut u8,
        count: usize,
        size: usize,
    ) -> Result<NonNull<u8>> {
        let size = self.product(count, size)?;
        // SAFETY: as promised by the caller.
        unsafe { self.realloc(block, size) }
    }

    /// Makes a block at least `size` bytes long where it is, or says that there is no room. O(1).
    pub fn expand(&self, block: *mut u8, size: usize) -> Result<()> {
        let granule = self.granule(block)?;
        self.locked(|heap| {
            let old = heap.intact(granule)?.size;
            let wanted = self.granules(size)?;
            if size <= heap.usable(granule, old) || heap.resize(granule, wanted, size)? {
                self.tell_expanded(granule, size);
                return Ok(());
            }
            Err(Error::OutOfMemory { size: size as u64 })
        })
    }

    /// Frees a block; null is nothing. A pointer that is no live block is refused, counted, and
    /// changes nothing else. O(1).
    ///
    /// # Safety
    /// Nobody uses the block any more.
    pub unsafe fn free(&self, block: *mut u8) -> Result<()> {
        if block.is_null() || free_fast(self.key(), block) {
            return Ok(());
        }
        let answer = self.granule(block).and_then(|granule| self.free_slowly(granule, block));
        self.count_refusal(answer)
    }

    #[cold]
    fn free_slowly(&self, granule: u32, block: *mut u8) -> Result<()> {
        self.is_here()?;
        self.tell_freed(granule);
        let answer = self.put_or_free(granule, block);
        if answer.is_err() {
            self.tell_kept(granule);
        }
        answer
    }

    #[inline(always)]
    fn put_or_free(&self, granule: u32, block: *mut u8) -> Result<()> {
        if self.geometry.caches > 0
            && (self.put(granule, block as usize)? || self.put_shelved(granule)?)
        {
            return Ok(());
        }
        self.locked(|heap| {
            let size = heap.freeable_size(granule)?;
            // Where memory is scarce all of it is looked through soon: then it had better be joined.
            if self.class_for(size).is_some() && !heap.is_scarce() {
                heap.loosen(granule)
            } else {
                heap.free(granule)
            }
        })
    }

    /// [`Handle::free`], and refuses a size that the block cannot have been asked for. O(1).
    ///
    /// # Safety
    /// As for [`Handle::free`].
    pub unsafe fn free_sized(&self, block: *mut u8, size: usize) -> Result<()> {
        if block.is_null() {
            return Ok(());
        }
        let _hush = watch::hush();
        let answer = self.granule(block).and_then(|granule| {
            self.is_here()?;
            let heap = self.heap();
            let have = self.settled_size(granule)?;
            let at = self.geometry.offset(granule) as u64;
            if let Some(guards) = heap.guards() {
                // A tail that lies is told of below, under the lock.
                return match guards.asked(granule, have).filter(|&asked| asked != size) {
                    Some(asked) => {
                        Err(Error::WrongSize { at, block: asked as u64, size: size as u64 })
                    }
                    None => self.free_slowly(granule, block),
                };
            }
            let wanted = self.geometry.granules_for(size).filter(|_| size > 0);
            if wanted.is_some_and(|wanted| self.could_be(heap, have, wanted)) {
                return self.free_slowly(granule, block);
            }
            let block = self.geometry.bytes(have) as u64;
            Err(Error::WrongSize { at, block, size: size as u64 })
        });
        self.count_refusal(answer)
    }

    /// Frees all blocks at once. O(map).
    ///
    /// # Safety
    /// Nobody uses any block any more, and nobody is inside a call.
    pub unsafe fn free_all(&self) -> Result<()> {
        self.locked(|heap| {
            heap.free_all()?;
            self.forget_cached();
            self.tell_emptied();
            Ok(())
        })
    }

    /// The granules of the live block that starts here. Takes no lock, unless a dead thread may have had
    /// the block in its hands: what that had begun with it is done first.
    pub(super) fn settled_size(&self, granule: u32) -> Result<u32> {
        let heap = self.heap();
        if !heap.is_in_hands(granule) {
            return heap.live_size(granule);
        }
        match self.locked(|heap| heap.live_size(granule)) {
            Err(error @ Error::NotAllocated { .. }) => Err(error),
            // In a signal handler: the call that was interrupted is about another block. Or there is damage
            // somewhere else.
            _ => heap.live_size(granule),
        }
    }

    /// The bytes that a live block holds; 0 for any other pointer. O(1), takes no lock but after a death.
    pub fn usable_size(&self, block: *const u8) -> usize {
        let _hush = watch::hush();
        let size = || -> Result<usize> {
            self.is_here()?;
            let granule = self.granule(block)?;
            self.tell_widened(granule);
            Ok(self.heap().usable(granule, self.settled_size(granule)?))
        };
        size().unwrap_or(0)
    }

    /// The bytes that a block for `size` bytes would hold; 0 if there could be none. O(1).
    pub fn good_size(&self, size: usize) -> usize {
        let granules = self.geometry.granules_for(size).unwrap_or(0);
        if self.geometry.guard() > 0 {
            return if granules > 0 { size } else { 0 };
        }
        self.geometry.bytes(self.rounded(granules))
    }

    /// A pointer into the pool as an offset from the buffer's first byte; 0 outside.
    pub fn offset(&self, pointer: *const u8) -> u64 {
        let at = (pointer as usize).wrapping_sub(self.region.address());
        if (self.geometry.start..self.geometry.end).contains(&at) {
            self.tell_shown(pointer);
            at as u64
        } else {
            0
        }
    }

    /// An offset as a pointer into this mapping; null for 0 and outside.
    pub fn pointer(&self, offset: u64) -> *mut u8 {
        let at = usize::try_from(offset).unwrap_or(0);
        let inside = at != 0 && (self.geometry.start..self.geometry.end).contains(&at);
        let pointer = self.region.pointer(at).filter(|_| inside);
        pointer.inspect(|pointer| self.tell_seen(pointer.as_ptr()));
        pointer.map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    /// A snapshot of the pool's figures. O(magazines in use), no walk of the blocks.
    pub fn stats(&self) -> Result<Stats> {
        self.locked(|heap| {
            // Figures can be had of a damaged pool, too.
            let _ = heap.join_some();
            let largest = heap.largest()?;
            Ok(self.figures(heap, largest))
        })
    }

    /// Verifies everything against the map. O(map).
    pub fn check(&self) -> Result<()> {
        self.locked(|heap| {
            let (depot, shelves) = (self.depot(), self.shelves());
            check::check(&self.region, &self.geometry, heap, &depot, &shelves, self.is_alone())?;
            self.check_owners(heap)?;
            self.directory(heap).check()
        })
    }

    /// Shows the blocks in order of address until told to stop. No lock is held meanwhile: the
    /// visitor may call anything, and what changes under way is seen once or not at all. O(map).
    pub fn walk(&self, visit: &mut dyn FnMut(&Block) -> bool) -> Result<()> {
        let mut from = 0;
        loop {
            let found = self.locked(|heap| {
                let top = heap.top();
                let Some(start) = heap.map().next_start(from, top) else { return Ok(None) };
                let at = self.geometry.offset(start) as u64;
                let Some(block) = heap.map().read(start, top) else {
                    let what = "the map tells of no block that could be";
                    return Err(Error::Corrupted { what, at });
                };
                let shown = shown(&self.geometry, start, block);
                // While it is there.
                self.tell_visited(&shown);
                Ok(Some((start + block.size, shown)))
            })?;
            let Some((end, shown)) = found else { return Ok(()) };
            if !visit(&shown) {
                return Ok(());
            }
            from = end;
        }
    }

    /// Gives what the depot, this thread's cache and the dead hold back to the heap. O(what they
    /// hold).
    pub fn trim(&self) -> Result<()> {
        let _ = self.cache();
        self.locked(|heap| {
            self.rest_no_more();
            self.give_back(heap);
            Ok(())
        })
    }

    /// Looks for a dead owner now; how many were cleaned up after. O(1) if there is none.
    pub fn recover(&self) -> Result<u64> {
        let before = self.counter(RECOVERIES_OFFSET);
        self.locked(|heap| {
            self.rest_no_more();
            self.recover_dead(heap);
            Ok(())
        })?;
        Ok(self.counter(RECOVERIES_OFFSET).saturating_sub(before))
    }

    /// What threads know the handle by.
    fn key(&self) -> usize {
        ptr::from_ref(self).addr()
    }

    fn heap(&self) -> &Heap {
        &self.heap
    }

    fn figures(&self, heap: &Heap, largest: u32) -> Stats {
        let geometry = &self.geometry;
        let counts = heap.counts();
        let top = heap.top();
        let top_at = geometry.offset(top);
        let bytes = |granules| geometry.bytes(granules) as u64;
        let free_size = bytes(counts.free);
        let (cached_count, cached) = self.cached();
        let theirs = top.saturating_sub(counts.free).saturating_sub(heap.meta());
        let cached_size = cached << geometry.align_log2;
        Stats {
            total: (geometry.end - geometry.start) as u64,
            overhead: (geometry.first - geometry.start) as u64 + bytes(heap.meta()),
            used_count: u64::from(counts.live_count).saturating_sub(cached_count),
            used_size: bytes(theirs).saturating_sub(cached_size),
            free_count: u64::from(counts.free_count),
            free_size,
            cached_count,
            cached_size,
            top: top_at as u64,
            available: free_size + cached_size + (geometry.end - top_at) as u64,
            largest_free: bytes(largest).saturating_sub(geometry.guard() as u64),
            align: geometry.align() as u64,
            thread_caches: u64::from(self.caches().claimed()),
            max_threads: u64::from(geometry.caches),
            rejected_frees: self.counter(REJECTED_OFFSET),
            failed_allocs: self.counter(FAILED_OFFSET),
            recoveries: self.counter(RECOVERIES_OFFSET),
            pool_id: self.id,
        }
    }

    /// Writes a new pool's header, for who holds its lock. The magic comes last.
    fn format(&self, is_untouched: bool) {
        self.set_magic(FORMATTING);
        for offset in (8..HEADER_BYTES).step_by(8) {
            if !matches!(offset, LOCK_OFFSET | NAMESPACE_OFFSET) {
                self.region.store64(self.geometry.word(offset), 0);
            }
        }
        self.lock.settle();
        self.geometry.write(&self.region, self.id);
        self.heap().format(is_untouched);
        self.depot().format();
        self.shelves().format();
        self.caches().format();
        self.owners().format();
        self.set_magic(MAGIC);
    }

    fn set_magic(&self, magic: u64) {
        if let Some(word) = self.region.word64(self.geometry.header) {
            word.store(magic, Release);
        }
    }

    /// Makes a live block hold `wanted` granules where it is; false if there is no room.
    fn resize(&self, granule: u32, size: usize, wanted: u32) -> Result<bool> {
        let heap = self.heap();
        let old = heap.live_size(granule)?;
        let is_guarded = heap.is_guarded();
        if old == wanted && !is_guarded {
            return Ok(true);
        }
        // Hints, without the lock.
        if wanted > old && !heap.is_room_behind(granule + old) {
            return Ok(false);
        }
        if heap.is_short() || is_guarded {
            return self.locked(|heap| heap.resize(granule, wanted, size));
        }
        // What grew may grow again: then there is room already.
        let rounded = self.rounded(wanted);
        if old == rounded || wanted < old && old <= self.roomy(wanted) {
            return Ok(true);
        }
        let roomy = if wanted > old { self.roomy(wanted) } else { rounded };
        self.locked(|heap| {
            Ok(heap.resize(granule, roomy, size)? || heap.resize(granule, wanted, size)?)
        })
    }

    /// What a block of this many granules takes while memory is not short.
    fn rounded(&self, granules: u32) -> u32 {
        let wide = || self.geometry.shelved(granules).map(class::wide_size);
        self.class_for(granules).map(class::size).or_else(wide).unwrap_or(granules)
    }

    /// What a block may take that grew to this many granules.
    fn roomy(&self, granules: u32) -> u32 {
        if self.geometry.caches == 0 || granules <= class::LARGEST {
            return self.rounded(granules);
        }
        granules.saturating_add(granules / 8).min(self.geometry.granules)
    }

    /// Whether a block of `have` granules can have been asked for as `wanted`.
    fn could_be(&self, heap: &Heap, have: u32, wanted: u32) -> bool {
        wanted <= have
            && (heap.could_be(have, wanted)
                || heap.could_be(have, self.roomy(wanted))
                || have <= self.roomy(wanted))
    }

    /// Gives a block's bytes a new place, and the old one up.
    fn relocate(&self, granule: u32, size: usize, wanted: u32) -> Result<NonNull<u8>> {
        self.heap().unbound_size(granule)?;
        self.make_room(granule)?;
        if let Some(moved) = self.take(size, wanted)? {
            let to = moved.block();
            self.tell_popped(&moved, size, false);
            let at = self.move_bytes(granule, to, wanted);
            if let Some(old) = self.begin_put(granule, Some(&moved)) {
                moved.deliver();
                old.finish();
                return Ok(to);
            }
            let Some((count_at, count)) = moved.taken(&self.region) else {
                self.locked(|heap| heap.free(granule))?;
                return Ok(moved.deliver());
            };
            // One event: a death leaves the one block or the other.
            let freed = self.locked(|heap| heap.free_and_deliver(granule, count_at, count));
            if freed.is_err() {
                self.tell_kept(granule);
                let granule = ((at - self.geometry.first) >> self.geometry.align_log2) as u32;
                moved.put_back(self.heap().map(), self.rounded(wanted), granule);
            }
            return freed.map(|()| to);
        }
        if let Some(to) = self.relocate_off_shelf(granule, size, wanted)? {
            return Ok(to);
        }
        self.locked(|heap| {
            let old = heap.usable(granule, heap.freeable_size(granule)?);
            let moved = match self.alloc(heap, wanted, 1) {
                // What was joined or given back over this may lie right behind the block.
                Err(Error::OutOfMemory { .. }) if heap.resize(granule, wanted, size)? => {
                    self.tell_expanded(granule, size);
                    return self.block(granule);
                }
                moved => moved?,
            };
            if heap.is_guarded() {
                heap.set_guard(moved, size);
            }
            let (from, to) = (self.geometry.offset(granule), self.geometry.offset(moved));
            self.tell_allocated(moved, size, false);
            self.tell_moving(granule);
            let new = if heap.is_guarded() { size } else { self.geometry.bytes(wanted) };
            self.in_pieces(heap, old.min(new), |at, len| {
                self.region.copy(from + at, to + at, len);
            });
            self.tell_freed(granule);
            heap.free(granule)?;
            self.block(moved)
        })
    }

    /// [`Handle::relocate`] from this thread's cache to a block that waits on a shelf. None if none
    /// does, or there is no room for the old one.
    fn relocate_off_shelf(
        &self,
        granule: u32,
        size: usize,
        wanted: u32,
    ) -> Result<Option<NonNull<u8>>> {
        if !self.has_room(granule) {
            return Ok(None);
        }
        let Some(moved) = self.take_shelved(wanted)? else { return Ok(None) };
        let to = moved.block();
        self.tell_allocated(moved.granule(), size, false);
        self.move_bytes(granule, to, wanted);
        let Some(old) = self.begin_put(granule, None) else {
            self.tell_kept(granule);
            self.tell_freed(moved.granule());
            self.put_back_shelved(moved);
            return Ok(None);
        };
        self.deliver_shelved(moved);
        old.finish();
        Ok(Some(to))
    }

    /// Copies a block's bytes to another of at least so many granules; the other's offset.
    fn move_bytes(&self, granule: u32, to: NonNull<u8>, wanted: u32) -> usize {
        let at = to.addr().get() - self.region.address();
        // No more than it takes, should somebody write to the map meanwhile.
        let old = self.heap().live_size(granule).unwrap_or(0).min(wanted);
        self.tell_moving(granule);
        self.region.copy(self.geometry.offset(granule), at, self.geometry.bytes(old));
        self.tell_freed(granule);
        at
    }

    /// A live block from the heap, of a class's size unless memory is short; from what caches and
    /// depot can give back, if need be.
    fn alloc_untagged(&self, heap: &Heap, granules: u32, alignment: usize) -> Result<u32> {
        let rounded = self.rounded(granules);
        if rounded > granules && alignment <= self.geometry.align() && !heap.is_short() {
            if let Ok(granule) = heap.alloc(rounded, alignment) {
                return Ok(granule);
            }
        }
        self.alloc_exactly(heap, granules, alignment)
    }

    /// A live block of just so many granules from the heap.
    fn alloc_exactly(&self, heap: &Heap, granules: u32, alignment: usize) -> Result<u32> {
        let answer = match heap.alloc(granules, alignment) {
            Err(Error::OutOfMemory { .. }) if self.geometry.caches > 0 => {
                self.give_back(heap);
                heap.alloc(granules, alignment)
            }
            answer => answer,
        };
        match answer {
            Err(Error::OutOfMemory { .. }) => self.alloc_hidden(heap, granules, alignment, answer),
            answer => answer,
        }
    }

    /// What the hints hide, after they were asked in vain. A pool that is always full fails all the
    /// time: the map is then looked through in a tenth of it.
    #[cold]
    fn alloc_hidden(
        &self,
        heap: &Heap,
        granules: u32,
        alignment: usize,
        answer: Result<u32>,
    ) -> Result<u32> {
        const REST: u64 = 10;
        let start = sys::now();
        if start < self.looked.load(Relaxed) {
            return answer;
        }
        let answer = heap.alloc_hidden(granules, alignment);
        let end = sys::now();
        self.looked.store(end + REST * (end - start), Relaxed);
        answer
    }

    /// Runs a call's work under the lock.
    fn locked<T>(&self, work: impl FnOnce(&Heap) -> Result<T>) -> Result<T> {
        // Before the lock is touched: its word may belong to something else by now.
        self.is_here()?;
        self.inside(self.lock.acquire()?, work)
    }

    fn inside<T>(&self, held: Held, work: impl FnOnce(&Heap) -> Result<T>) -> Result<T> {
        self.is_here()?;
        let _hush = watch::hush();
        if held.owner_died {
            self.count(RECOVERIES_OFFSET);
        }
        let heap = self.heap();
        heap.enter(|| self.forget_cached())?;
        if held.owner_died {
            self.recover_holder(heap);
        }
        let answer = work(heap);
        heap.leave();
        answer
    }

    /// Whether the buffer still holds the pool that this handle was made for.
    fn is_here(&self) -> Result<()> {
        if layout::names(&self.header, self.id) {
            return Ok(());
        }
        Err(Error::NotAPool(
            "this handle's pool was released, or another one was made in its place: detach it, and attach anew",
        ))
    }

    fn allocate(&self, size: usize, alignment: usize, fill: Option<u8>) -> Result<NonNull<u8>> {
        let _hush = watch::hush();
        let answer = self.granules(size).and_then(|granules| {
            if alignment <= self.geometry.align() {
                let fill_all = |block: NonNull<u8>| {
                    let at = block.addr().get() - self.region.address();
                    fill.into_iter().for_each(|byte| self.region.fill(at, size, byte));
                };
                if let Some(taken) = self.take(size, granules)? {
                    self.tell_popped(&taken, size, fill.is_some());
                    fill_all(taken.block());
                    return Ok(taken.deliver());
                }
                if let Some(taken) = self.take_shelved(granules)? {
                    self.tell_allocated(taken.granule(), size, fill.is_some());
                    fill_all(taken.block());
                    return Ok(self.deliver_shelved(taken));
                }
            }
            self.locked(|heap| {
                let granule = self.alloc(heap, granules, alignment)?;
                if heap.is_guarded() {
                    heap.set_guard(granule, size);
                }
                self.tell_allocated(granule, size, fill.is_some());
                if let Some(byte) = fill {
                    // Before the block is delivered: who dies here leaves no block behind.
                    let at = self.geometry.offset(granule);
                    self.in_pieces(heap, size, |from, len| self.region.fill(at + from, len, byte));
                }
                self.block(granule)
            })
        });
        self.count_failure(answer, size)
    }

    /// Works on a long stretch of bytes piece by piece, and shows in between that it goes on.
    fn in_pieces(&self, heap: &Heap, len: usize, work: impl Fn(usize, usize)) {
        const PIECE: usize = 64 << 20;
        for from in (0..len).step_by(PIECE) {
            work(from, PIECE.min(len - from));
            heap.show_progress();
        }
    }

    /// Bytes of an array.
    fn product(&self, count: usize, size: usize) -> Result<usize> {
        let bytes = count.checked_mul(size).ok_or(Error::Overflow);
        self.count_failure(bytes, 0)
    }

    /// Granules for a block of this many bytes.
    fn granules(&self, size: usize) -> Result<u32> {
        if size == 0 {
            return Err(Error::Argument("size is 0: ask for 1 byte or more"));
        }
        self.geometry.granules_for(size).ok_or(Error::OutOfMemory { size: size as u64 })
    }

    /// The granule that a block's pointer names.
    fn granule(&self, block: *const u8) -> Result<u32> {
        let at = (block as usize).wrapping_sub(self.region.address());
        let Geometry { first, end, .. } = self.geometry;
        if !(first..end).contains(&at) {
            let base = self.region.address() as u64;
            return Err(Error::Foreign {
                address: block as u64,
                first: base.wrapping_add(first as u64),
                end: base.wrapping_add(end as u64),
            });
        }
        let inside = at - first;
        if inside % self.geometry.align() != 0 {
            let what = "not aligned as blocks are: give the address that the pool gave";
            return Err(Error::NotAllocated { what, at: at as u64 });
        }
        // Below the number of granules, which fits: there is less than a granule behind the last.
        Ok((inside >> self.geometry.align_log2) as u32)
    }

    fn block(&self, granule: u32) -> Result<NonNull<u8>> {
        let at = self.geometry.offset(granule);
        let outside = Error::Corrupted { what: "a block outside the pool", at: at as u64 };
        self.region.pointer(at).ok_or(outside)
    }

    /// Counts a failure for want of memory; says what was asked for, and not what it was rounded to.
    fn count_failure<T>(&self, answer: Result<T>, asked: usize) -> Result<T> {
        if matches!(answer, Err(Error::OutOfMemory { .. } | Error::Overflow)) {
            self.count(FAILED_OFFSET);
        }
        answer.map_err(|error| match error {
            Error::OutOfMemory { .. } => Error::OutOfMemory { size: asked as u64 },
            error => error,
        })
    }

    fn count_refusal<T>(&self, answer: Result<T>) -> Result<T> {
        let refused = matches!(
            answer,
            Err(Error::Foreign { .. }
                | Error::NotAllocated { .. }
                | Error::WrongSize { .. }
                | Error::Bound { .. })
        );
        if refused {
            self.count(REJECTED_OFFSET);
        }
        answer
    }

    fn count(&self, offset: usize) {
        // Not if the pool is gone: the word may be part of a block by now.
        if self.is_here().is_err() {
            return;
        }
        if let Some(word) = self.region.word64(self.geometry.word(offset)) {
            word.fetch_add(1, Relaxed);
        }
    }

    fn counter(&self, offset: usize) -> u64 {
        self.region.load64(self.geometry.word(offset))
    }
}

/// [`Handle::malloc`] of the handle at an address, as long as this thread's cache has a block.
#[inline(always)]
pub(crate) fn malloc_fast(key: usize, size: usize) -> Option<NonNull<u8>> {
    if watch::ON {
        return None;
    }
    local::pop(key, size).map(local::Popped::deliver)
}

/// [`Handle::free`] of the handle at an address, as long as this thread's cache has room.
#[inline(always)]
pub(crate) fn free_fast(key: usize, block: *mut u8) -> bool {
    !watch::ON && local::push(key, block.addr())
}

/// Figures and blocks of a pool that may be mapped read-only: writes nothing, takes no lock, so
/// what is under way is seen as it happens to be. O(1), and O(map) with a visitor.
///
/// # Safety
/// `buffer` is valid for reads of `len` bytes.
pub unsafe fn inspect(
    buffer: *const u8,
    len: usize,
    start: usize,
    visit: Option<&mut dyn FnMut(&Block) -> bool>,
) -> Result<Stats> {
    // SAFETY: as promised by the caller; nothing below stores.
    let region = unsafe { region(buffer.cast_mut(), len) }?;
    let hush = watch::hush();
    let Header { geometry, id } = layout::find(&region, start)?;
    let pool = Pool::new(region, Header { geometry, id })?;
    let heap = pool.heap();
    let found = pool.figures(heap, heap.largest_seen());
    drop(hush);
    let Some(visit) = visit else { return Ok(found) };
    let (map, top) = (heap.map(), heap.top());
    let mut from = 0;
    while let Some(start) = map.next_start(from, top) {
        // A block in motion may not read; the next one will.
        from = start + 1;
        if let Some(block) = map.read(start, top) {
            if !visit(&shown(&geometry, start, block)) {
                break;
            }
            from = start + block.size;
        }
    }
    Ok(found)
}

/// The length to map, from a pool's first bytes, wherever they were copied to. O(prefix).
///
/// # Safety
/// `prefix` is valid for reads of `len` bytes.
pub unsafe fn peek(prefix: *const u8, len: usize) -> Result<u64> {
    // SAFETY: as promised by the caller; nothing below stores.
    let prefix = unsafe { region(prefix.cast_mut(), len) }?;
    let places = 0..(len + 1).saturating_sub(HEADER_BYTES);
    let header = { places }
        .find(|&at| prefix.load64_bytewise(at) == MAGIC)
        .ok_or(Error::NotAPool("no whole header among these bytes: give more of them"))?;
    // A copy, since the header may lie at any address here.
    let mut words: [u64; HEADER_BYTES / 8] =
        core::array::from_fn(|i| prefix.load64_bytewise(header + i * 8));
    // SAFETY: the array outlives the region.
    let copy = unsafe { Region::new(NonNull::from(&mut words).cast(), HEADER_BYTES) };
    Ok(layout::read_header(&copy, 0)?.geometry.end as u64)
}

/// The least length that init accepts at any address and from which one block can be had; 0 for
/// bad options. O(1).
pub fn min_len(options: &Options) -> usize {
    layout::min_len(options).unwrap_or(0)
}

/// Ends the pool that lies where another is about to be made, if one does: what threads think is
/// theirs in it is not, and nobody may find it half ended.
fn end_remains(region: &Region, start: usize) -> Result<()> {
    if let Some(old) = layout::find_remains(region, start) {
        let old = Pool::new(*region, old)?;
        old.set_magic(FORMATTING);
        old.depot().revoke();
    }
    Ok(())
}

/// # Safety
/// As for [`Region::new`].
unsafe fn region(buffer: *mut u8, len: usize) -> Result<Region> {
    let base = NonNull::new(buffer).ok_or(Error::Argument("the buffer is NULL"))?;
    if len > isize::MAX as usize || (buffer as usize).checked_add(len).is_none() {
        return Err(Error::Argument("no buffer is as long as this"));
    }
    // SAFETY: as promised by the caller.
    Ok(unsafe { Region::new(base, len) })
}

/// Whether a header is one that `open` may make a pool of: all zero but for the lock, or one that
/// somebody began.
fn is_blank(region: &Region, header: usize) -> bool {
    let magic = || region.word64(header).map_or(MAGIC, |word| word.load(Acquire));
    match magic() {
        FORMATTING => true,
        0 => {
            let mut words = (8..HEADER_BYTES).step_by(8);
            let zero = words.all(|offset| {
                matches!(offset, LOCK_OFFSET | NAMESPACE_OFFSET)
                    || region.load64(header + offset) == 0
            });
            // What is not zero may have been written since the magic was looked at.
            zero || magic() == FORMATTING
        }
        _ => false,
    }
}

fn shown(geometry: &Geometry, start: u32, block: crate::map::Entry) -> Block {
    Block {
        offset: geometry.offset(start) as u64,
        size: geometry.bytes(block.size) as u64,
        state: block.state.shown(),
    }
}
