//! The pages of this process's threads: found, made, ended. A fork wipes them, so a child finds none
//! of its parent's.

use super::{pointer, Local, ABSENT, NOBODY, NOWHERE, NO_CACHE, USUAL_LOG2};
use crate::layout::Geometry;
use crate::region::Region;
use crate::sys;
use core::cell::Cell;
use core::ptr;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use core::sync::atomic::{compiler_fence, AtomicBool, AtomicU64};

/// All pages of a process, in a list. The lock's word has the number of the thread that holds it, and
/// the generation of its process in the high half: so nobody waits for a thread that has ended, unless
/// another has its number by now, nor a fork's child for one that it has not. Each change of the list
/// is one store, and may be the last.
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
        IS_INSIDE.set(false);
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
        let Some(pages) = pages() else { return };
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

thread_local! {
    /// Whether this thread has all pages, or waits for them. Const and without Drop: no destructor is
    /// registered, nothing is allocated.
    static IS_INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Whether the thread that a lock's word names has ended. A process's first one stays, as a zombie.
fn has_ended(holder: u64) -> bool {
    let tid = holder as u32;
    !sys::is_of_this_process(tid) || sys::state(tid) == sys::State::Dead
}

/// All pages; None to a signal handler that has interrupted its own thread in here.
fn pages() -> Option<PagesHeld> {
    /// Looks at a lock that is held before its owner is asked after.
    const LOOKS: u32 = 100;
    if IS_INSIDE.get() {
        return None;
    }
    let me = sys::me();
    let mine = me.generation << 32 | u64::from(me.tid);
    let mut looks = 0u32;
    IS_INSIDE.set(true);
    loop {
        let holder = PAGES.lock.load(Relaxed);
        looks = looks.wrapping_add(1);
        let is_ours = holder >> 32 == mine >> 32;
        // One of this thread's number had it, and has ended.
        let is_old = holder == mine;
        let is_free = holder == 0 || !is_ours || is_old || looks % LOOKS == 0 && has_ended(holder);
        if is_free && PAGES.lock.compare_exchange(holder, mine, Acquire, Relaxed).is_ok() {
            break;
        }
        std::thread::yield_now();
    }
    if PAGES.generation.get() != me.generation {
        // A fork wiped them all, the links among them too.
        PAGES.first.set(ptr::null());
        compiler_fence(SeqCst);
        PAGES.generation.set(me.generation);
    }
    Some(PagesHeld)
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
    let pages = pages()?;
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
            compiler_fence(SeqCst);
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
    local.credit.set(0);
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
/// still there. When in doubt, it has.
pub fn is_in_use(pool: u64, token: u32) -> bool {
    let is_its = |local: &Local| local.pool.get() == pool && local.token() == Some(token);
    pages().is_none_or(|pages| pages.in_use().any(is_its))
}

fn end_one(is_meant: impl Fn(&Local) -> bool) -> Option<u32> {
    let pages = pages()?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use core::ffi::c_void;

    extern "C" fn end_with_all_pages(_: *mut c_void) -> *mut c_void {
        core::mem::forget(pages());
        // SAFETY: ends the calling thread, of which nobody waits for a value.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
        unreachable!("it has ended")
    }

    /// The process lives on, in which its first thread is a zombie.
    #[test]
    fn a_first_thread_that_ends_with_all_pages_leaves_them_to_others() {
        extern "C" fn look(_: *mut c_void) -> *mut c_void {
            // SAFETY: ends this process, which is this test's own; or has it ended in a while.
            unsafe {
                libc::alarm(10);
                let leader = libc::getpid() as u32;
                while sys::state(leader) != sys::State::Dead {
                    libc::sched_yield();
                }
                libc::_exit(if pages().is_some() { 0 } else { 1 })
            }
        }
        let mut status = 0;
        // SAFETY: the child calls what a child of many threads may: no allocation, but for a thread.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                let mut thread: libc::pthread_t = 0;
                let none = ptr::null_mut();
                libc::pthread_create(&mut thread, ptr::null(), look, none);
                end_with_all_pages(none);
            }
            assert_eq!(libc::waitpid(child, &mut status, 0), child);
        }
        assert_eq!(status, 0);
    }

    #[test]
    fn a_thread_that_ends_with_all_pages_leaves_them_to_others() {
        let mut thread: libc::pthread_t = 0;
        // SAFETY: a function that needs no argument; the thread is joined.
        unsafe {
            let none = ptr::null_mut();
            let answer = libc::pthread_create(&mut thread, ptr::null(), end_with_all_pages, none);
            assert_eq!(answer, 0, "pthread_create");
            assert_eq!(libc::pthread_join(thread, ptr::null_mut()), 0);
        }
        let held = pages().expect("nobody has them");
        assert!(pages().is_none(), "not twice");
        drop(held);
        assert!(pages().is_some());
        // Nor does one whose number another thread has by now.
        let me = sys::me();
        PAGES.lock.store(me.generation << 32 | u64::from(me.tid), Relaxed);
        assert!(pages().is_some());
    }
}
