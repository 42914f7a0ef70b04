//! The child's side: it prepares a scene through the C face, and stops before and after each call
//! that is to be stepped through.

use super::scene::{self, Bound, Call, Effect, Known, Scene};
use super::target::mark;
use crate::common::handle::{self, Handle, Options, Status};
use crate::common::random::Random;
use crate::common::worker::gettid;
use crate::common::Memory;
use ::mempool::abi::*;
use ::mempool::capi::*;
use std::cell::UnsafeCell;
use std::ffi::{c_void, CString};
use std::ptr;
use std::sync::atomic::{compiler_fence, AtomicU32, AtomicU64, Ordering::*};

/// A stepped call is prepared, and has not begun.
pub const READY: u32 = 0;
/// Its next instruction is the call's first, or any other of it.
pub const INSIDE: u32 = 1;
/// It has returned.
pub const DONE: u32 = 2;

/// What the child tells its tracer, in memory of their own.
#[repr(C)]
pub struct Board {
    pub phase: AtomicU32,
    /// The status of the last call.
    pub status: AtomicU32,
    /// Where the block lies that it returned; 0 for none.
    pub block: AtomicU64,
    scene: UnsafeCell<Scene>,
}

impl Board {
    /// The board in a mapping of its own, blank.
    pub fn new(memory: &Memory) -> &Board {
        assert!(size_of::<Board>() <= memory.len());
        // SAFETY: inside the mapping, page-aligned; the scene is written before anybody reads it.
        let board = unsafe { &*memory.base().cast::<Board>() };
        board.clear();
        board
    }

    pub fn clear(&self) {
        // SAFETY: no child runs, so nobody else uses it.
        unsafe { self.scene.get().write(Scene::new()) };
    }

    /// What is known now. For whoever runs alone: the child, or the tracer of a stopped one.
    #[allow(clippy::mut_from_ref)]
    pub fn scene(&self) -> &mut Scene {
        // SAFETY: of all processes that share it one runs, and it takes one such reference at a time.
        unsafe { &mut *self.scene.get() }
    }
}

/// Where scenes are played: the buffer, and how its pool is to be made.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub memory: &'a Memory,
    pub board: &'a Board,
    pub options: Options,
}

/// A child's pool, and the blocks that are known.
pub struct Stage<'a> {
    place: Place<'a>,
    pool: Handle,
}

impl<'a> Stage<'a> {
    /// In a buffer that holds no pool, or any: to make one.
    pub fn bare(place: Place<'a>) -> Stage<'a> {
        let stage = Stage { place, pool: Handle(ptr::null_mut()) };
        stage.enter();
        stage
    }

    /// Attached to the pool in the buffer.
    pub fn attached(place: Place<'a>) -> Stage<'a> {
        let pool = handle::attach(place.memory.base(), place.memory.len(), &place.options);
        let stage = Stage { place, pool: pool.expect("attach") };
        stage.enter();
        stage
    }

    /// From now on this thread is one that dies with the child.
    fn enter(&self) {
        let threads = &mut self.scene().threads;
        let free = threads.iter_mut().find(|tid| **tid == 0).expect("not so many threads");
        *free = gettid();
    }

    fn scene(&self) -> &'a mut Scene {
        self.place.board.scene()
    }

    /// Makes a call while nobody looks.
    pub fn make(&mut self, call: Call) -> Option<usize> {
        let (status, block) = self.perform(call);
        self.book(call, status, block)
    }

    /// Makes a call between two stops. Some(slot) of a block that it returned.
    pub fn step(&mut self, call: Call) -> Option<usize> {
        let board = self.place.board;
        let scene = board.scene();
        scene.call = call;
        scene.magic = self.first_word();
        board.phase.store(READY, Relaxed);
        mark();
        let (status, block) = self.perform(call);
        board.status.store(status as u32, Relaxed);
        board.block.store(block, Relaxed);
        mark();
        self.book(call, status, block)
    }

    /// As [`Stage::step`], for a call that must succeed.
    #[track_caller]
    pub fn must_step(&mut self, call: Call) -> Option<usize> {
        let slot = self.step(call);
        let status = self.place.board.status.load(Relaxed) as Status;
        assert_eq!(status, MEMPOOL_OK, "{call:?}: {}", handle::last_message());
        slot
    }

    /// A block of this size.
    #[track_caller]
    pub fn get(&mut self, size: usize) -> usize {
        self.make(Call::Malloc { size }).expect("malloc")
    }

    /// A block of each of these sizes.
    #[track_caller]
    pub fn get_all<const N: usize>(&mut self, sizes: [usize; N]) -> [usize; N] {
        sizes.map(|size| self.get(size))
    }

    /// Frees a block.
    #[track_caller]
    pub fn put(&mut self, slot: usize) {
        self.make(Call::Free { slot });
        assert_eq!(self.scene().known[slot].size, 0, "free");
    }

    pub fn put_all(&mut self, slots: &[usize]) {
        slots.iter().for_each(|&slot| self.put(slot));
    }

    /// Gives a block a name.
    #[track_caller]
    pub fn bind(&mut self, slot: usize, name: usize) {
        self.make(Call::Bind { slot, name });
        assert_eq!(self.scene().bound.names[name], slot + 1, "bind: {}", handle::last_message());
    }

    /// Where a block lies.
    pub fn at(&self, slot: usize) -> u64 {
        self.scene().known[slot].offset
    }

    /// The slots that hold blocks.
    pub fn slots(&self) -> Vec<usize> {
        self.scene().blocks().map(|(slot, _)| slot).collect()
    }

    /// Takes blocks until there are none left; the larger sizes first.
    pub fn exhaust(&mut self, sizes: &[usize]) {
        for &size in sizes {
            while self.make(Call::Malloc { size }).is_some() {}
        }
    }

    /// Takes all that the heap has, and leaves what caches hold where it is.
    pub fn exhaust_heap(&mut self, sizes: &[usize]) {
        for &size in sizes {
            // Twice the granule: such blocks come from no cache.
            let (alignment, needed) = (32, size as u64 + 16);
            while self.pool.stats().largest_free >= needed {
                self.make(Call::AlignedAlloc { alignment, size }).expect("room");
            }
        }
    }

    /// Runs `act` in another thread of the child, with a cache of its own, which then waits for
    /// the end.
    pub fn beside(&mut self, act: fn(&mut Stage)) {
        let done = AtomicU32::new(0);
        let shared = Lent((self.place, self.pool, &done));
        let body = move || {
            let Lent((place, pool, done)) = { shared };
            let mut stage = Stage { place, pool };
            stage.enter();
            act(&mut stage);
            done.store(1, Release);
            loop {
                std::thread::park();
            }
        };
        // SAFETY: the place lasts as long as the child, as does the thread, which does not look at
        // `done` any more once it is set.
        let thread = unsafe { std::thread::Builder::new().spawn_unchecked(body) };
        thread.expect("a thread");
        while done.load(Acquire) == 0 {
            std::thread::yield_now();
        }
    }

    /// After the death of one inside a call: the block that the call was about, if it is there.
    fn what_it_had(&self) -> Option<(usize, Known)> {
        let slot = self.scene().call.slot()?;
        Some((slot, self.scene().known[slot])).filter(|(_, known)| known.size > 0)
    }

    /// Uses all of the block that a dead one's call was about, if that is one. If it is none it must be
    /// refused.
    pub fn use_what_it_had(&mut self) {
        let Some((slot, Known { offset, .. })) = self.what_it_had() else { return };
        if self.pool.usable_size(self.pool.pointer(offset)) > 0 {
            self.scene().known[slot] = self.hold(offset);
        } else {
            self.make(Call::Free { slot });
            assert!(self.scene().known[slot].size > 0, "it is live, and has no bytes");
        }
    }

    /// Frees the block that a dead one's call was about, if that is one; its size.
    pub fn free_what_it_had(&mut self) -> Option<usize> {
        let (slot, Known { size, .. }) = self.what_it_had()?;
        self.make(Call::Free { slot });
        Some(size as usize)
    }

    fn first_word(&self) -> u64 {
        let bytes = self.place.memory.bytes(0, 8);
        u64::from_ne_bytes(bytes.try_into().expect("eight bytes"))
    }

    /// Runs what is counted.
    #[inline(always)]
    fn inside<T>(&self, call: impl FnOnce() -> T) -> T {
        let phase = &self.place.board.phase;
        phase.store(INSIDE, Relaxed);
        compiler_fence(SeqCst);
        let answer = call();
        compiler_fence(SeqCst);
        phase.store(DONE, Relaxed);
        answer
    }

    /// Makes the call: its status, and the offset of the block it returned.
    fn perform(&mut self, call: Call) -> (Status, u64) {
        let pool = self.pool.0;
        let place = |slot: usize| self.pool.pointer(self.scene().known[slot].offset).cast();
        let block = |block: *mut c_void| match block.is_null() {
            true => (handle::last_error(), 0),
            false => (MEMPOOL_OK, self.pool.offset(block.cast())),
        };
        // SAFETY: calls by the C face's rules: a handle of a buffer that is mapped, blocks that are
        // known, or bad ones for `free` to refuse.
        unsafe {
            match call {
                Call::Malloc { size } => block(self.inside(|| mempool_malloc(pool, size))),
                Call::Calloc { count, size } => {
                    block(self.inside(|| mempool_calloc(pool, count, size)))
                }
                Call::CallocFill { count, size, byte } => {
                    block(self.inside(|| mempool_calloc_fill(pool, count, size, byte.into())))
                }
                Call::AlignedAlloc { alignment, size } => {
                    block(self.inside(|| mempool_aligned_alloc(pool, alignment, size)))
                }
                Call::Free { slot } => {
                    let old = place(slot);
                    (self.inside(|| mempool_free(pool, old)), 0)
                }
                Call::FreeSized { slot, size } => {
                    let old = place(slot);
                    (self.inside(|| mempool_free_sized(pool, old, size)), 0)
                }
                Call::FreeBad { at } => {
                    let bad = self.place.memory.base().wrapping_add(at as usize).cast();
                    (self.inside(|| mempool_free(pool, bad)), 0)
                }
                Call::Realloc { slot, size } => {
                    let old = place(slot);
                    block(self.inside(|| mempool_realloc(pool, old, size)))
                }
                Call::ReallocNull { size } => {
                    block(self.inside(|| mempool_realloc(pool, ptr::null_mut(), size)))
                }
                Call::Expand { slot, size } => {
                    let old = place(slot);
                    let status = self.inside(|| mempool_expand(pool, old, size));
                    (status, self.scene().known[slot].offset)
                }
                Call::Bind { .. }
                | Call::Unbind { .. }
                | Call::UnbindFrom { .. }
                | Call::SetRoot { .. }
                | Call::NoRoot => (self.perform_on_names(call), 0),
                _ => (self.perform_on_pool(call), 0),
            }
        }
    }

    /// Makes one of the calls that are about names.
    fn perform_on_names(&mut self, call: Call) -> Status {
        let pool = self.pool.0;
        let place = |slot: usize| self.pool.pointer(self.scene().known[slot].offset).cast();
        let text = |name| CString::new(scene::name(name)).expect("no NUL");
        // SAFETY: a handle, known blocks, C strings.
        unsafe {
            match call {
                Call::Bind { slot, name } => {
                    let (name, block) = (text(name), place(slot));
                    self.inside(|| mempool_bind(pool, name.as_ptr(), block))
                }
                Call::Unbind { name } => {
                    let name = text(name);
                    self.inside(|| mempool_unbind(pool, name.as_ptr()))
                }
                Call::UnbindFrom { slot, name } => {
                    let (name, block) = (text(name), place(slot));
                    self.inside(|| mempool_unbind_from(pool, name.as_ptr(), block))
                }
                Call::SetRoot { slot } => {
                    let block = place(slot);
                    self.inside(|| mempool_set_root(pool, block))
                }
                _ => self.inside(|| mempool_set_root(pool, ptr::null_mut())),
            }
        }
    }

    /// Makes one of the calls that are about no block.
    fn perform_on_pool(&mut self, call: Call) -> Status {
        let Place { memory, options, .. } = self.place;
        let (pool, base, len) = (self.pool.0, memory.base().cast(), memory.len());
        let (mut made, mut count, mut created) = (ptr::null_mut(), 0, false);
        let mut stats = handle::no_stats();
        // SAFETY: a handle, or a mapped buffer that is nobody else's, and valid out-pointers.
        let status = unsafe {
            match call {
                Call::FreeAll => self.inside(|| mempool_free_all(pool)),
                Call::Trim => self.inside(|| mempool_trim(pool)),
                Call::Check => self.inside(|| mempool_check(pool)),
                Call::Stats => self.inside(|| mempool_stats(pool, &mut stats)),
                Call::Walk => self.inside(|| mempool_walk(pool, Some(pass_by), ptr::null_mut())),
                Call::Recover => self.inside(|| mempool_recover(pool, &mut count)),
                Call::Detach => self.inside(|| mempool_detach(pool)),
                Call::Release => self.inside(|| mempool_release(pool)),
                Call::Init => self.inside(|| mempool_init(base, len, &options, &mut made)),
                Call::Attach => self.inside(|| mempool_attach(base, len, &options, &mut made)),
                Call::Open => {
                    self.inside(|| mempool_open(base, len, &options, &mut made, &mut created))
                }
                _ => unreachable!("{call:?} is about a block"),
            }
        };
        if !made.is_null() {
            self.pool = Handle(made);
        }
        status
    }

    /// Writes down what a call has changed, and writes into what it returned.
    fn book(&mut self, call: Call, status: Status, block: u64) -> Option<usize> {
        if status != MEMPOOL_OK {
            return None;
        }
        let scene = self.scene();
        scene.call = call;
        let effect = scene.effect();
        scene.bound = scene.bound_after();
        let known = &mut scene.known;
        match effect {
            Effect::Nothing | Effect::Names => None,
            Effect::Adds { .. } => {
                let slot = known.iter().position(|known| known.size == 0).expect("not so many");
                known[slot] = self.hold(block);
                Some(slot)
            }
            Effect::Replaces { slot, .. } => {
                known[slot] = self.hold(block);
                Some(slot)
            }
            Effect::Removes { slot } => {
                known[slot] = Known::default();
                None
            }
            Effect::RemovesAll | Effect::Birth | Effect::End => {
                known.fill(Known::default());
                scene.bound = Bound::default();
                scene.pool_id = match effect {
                    Effect::End => 0,
                    _ => self.pool.stats().pool_id,
                };
                None
            }
        }
    }

    /// How long a block is that has so many bytes for its holder.
    fn whole(&self, offset: u64, size: u64) -> u64 {
        let Place { memory, options, .. } = self.place;
        if options.flags & MEMPOOL_GUARD == 0 {
            return size;
        }
        let mut blocks = Vec::new();
        let seen = handle::inspect(memory.base(), memory.len(), &options, &mut blocks);
        seen.expect("inspect");
        blocks.iter().find(|block| block.offset == offset).expect("it was just delivered").size
    }

    /// A block that was just delivered, written all over.
    fn hold(&self, offset: u64) -> Known {
        static STAMPS: AtomicU64 = AtomicU64::new(1);
        let stamp = STAMPS.fetch_add(1, Relaxed) << 32 | offset;
        let block = self.pool.pointer(offset);
        let size = self.pool.usable_size(block);
        assert!(size > 0, "the block at {offset} was just delivered");
        scene::stamp(block, size, stamp);
        Known { offset, size: size as u64, whole: self.whole(offset, size as u64), stamp }
    }
}

extern "C" fn pass_by(_block: *const mempool_block_t, _context: *mut c_void) -> bool {
    true
}

struct Lent<T>(T);
// SAFETY: threads of the child take turns.
unsafe impl<T> Send for Lent<T> {}

/// Calls at random on whatever lives, in the child.
pub fn at_random(stage: &mut Stage, seed: u64, calls: usize, sizes: usize, held_max: usize) {
    let mut random = Random(seed);
    for _ in 0..calls {
        let slots = stage.slots();
        let full = slots.len() >= held_max;
        let size = random.log_uniform(8, sizes);
        let slot = slots.get(random.below(slots.len().max(1))).copied();
        let name = random.below(scene::NAMES_MAX);
        let call = match (random.below(24), slot) {
            (0..=7, _) if !full => match random.below(6) {
                0 => Call::Calloc { count: 1 + random.below(4), size: size / 4 + 1 },
                1 => Call::AlignedAlloc { alignment: 1 << random.below(9), size },
                _ => Call::Malloc { size },
            },
            (8..=10, Some(slot)) => Call::Realloc { slot, size },
            (11, Some(slot)) => Call::Expand { slot, size },
            (12, _) => Call::Trim,
            (13, _) => Call::Recover,
            (20 | 21, Some(slot)) => Call::Bind { slot, name },
            (22, _) => Call::Unbind { name },
            (23, Some(slot)) => Call::SetRoot { slot },
            (_, Some(slot)) => Call::Free { slot },
            _ => Call::Malloc { size },
        };
        // Most are made in passing, so that the scene is another each time.
        if random.below(4) == 0 {
            stage.step(call);
        } else {
            stage.make(call);
        }
    }
}
