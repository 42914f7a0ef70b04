//! Every pointer that is no live block, as an argument of every call that takes one: each byte of
//! small pools, of all shapes and with blocks in every state around it. What the answer must be is
//! told by a list of what was allocated, kept here, and by nothing that the pool says. What is
//! refused changes nothing: all bytes of the buffer are compared.
//! (`tests/slots.rs` does the same for slots, `tests/caches.rs` races frees in two caches.)

mod common;

use ::mempool::abi::*;
use ::mempool::layout::{REJECTED_OFFSET, TURN_OFFSET};
use common::handle::{self, Status};
use common::memory::PAGE;
use common::other::Other;
use common::random::Random;
use common::worker::{is_stamped, stamp};
use common::{child, options, Handle, Memory, Options};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// Unoptimized, everything takes ten times as long.
const LESS: usize = if cfg!(debug_assertions) { 10 } else { 1 };
const FOREIGN: Status = MEMPOOL_ERR_FOREIGN_POINTER;
const REFUSED: Status = MEMPOOL_ERR_NOT_ALLOCATED;

/// What a pool is made like.
#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    /// Where in its page the buffer begins.
    shift: usize,
    len: usize,
    /// As in the options.
    start: usize,
    end: usize,
    align: usize,
    flags: u32,
    max_threads: u32,
}

const PLAIN: Shape = Shape {
    name: "plain",
    shift: 0,
    len: 8000,
    start: 0,
    end: 0,
    align: 16,
    flags: 0,
    max_threads: 0,
};

/// Too small for caches: after each test of a live block all bytes are put back.
const SMALL: [Shape; 7] = [
    PLAIN,
    Shape { name: "of 8 bytes, off the mark", shift: 5, start: 3, end: 7001, align: 8, ..PLAIN },
    Shape { name: "of 64 bytes, behind others", start: 1000, len: 20_001, align: 64, ..PLAIN },
    Shape { name: "not joined", flags: MEMPOOL_NO_COMPACT, ..PLAIN },
    Shape { name: "not split", flags: MEMPOOL_NO_SPLIT, ..PLAIN },
    Shape { name: "neither", flags: MEMPOOL_NO_COMPACT | MEMPOOL_NO_SPLIT, ..PLAIN },
    Shape { name: "with owners", shift: 4, len: 9000, flags: MEMPOOL_OWNER_TAGS, ..PLAIN },
];

/// With caches.
const CACHED: [Shape; 5] = [
    Shape { name: "of pages", shift: 8, len: 700_000, align: PAGE, ..PLAIN },
    Shape { name: "cached", len: 264_000, ..PLAIN },
    Shape { name: "cached, of 64 bytes", shift: 4, start: 77, len: 270_000, align: 64, ..PLAIN },
    Shape { name: "cached, with owners", len: 270_000, flags: MEMPOOL_OWNER_TAGS, ..PLAIN },
    Shape { name: "one cache, another's", len: 270_000, max_threads: 1, ..PLAIN },
];

/// A pool with blocks of all sorts, and the list of those that are live.
struct Scene {
    shape: Shape,
    memory: Memory,
    pool: Handle,
    /// Offset and the bytes that were asked for.
    live: BTreeMap<usize, usize>,
    /// Offset of the first block that a new pool gave.
    first: usize,
    has_caches: bool,
    before: Vec<u8>,
}

impl Scene {
    fn new(shape: Shape, other: &Other) -> Scene {
        let memory = Memory::private(shape.shift + shape.len);
        let none = Handle(std::ptr::null_mut());
        let (live, before) = Default::default();
        let (first, has_caches) = (0, false);
        let mut scene = Scene { shape, memory, pool: none, live, first, has_caches, before };
        scene.build(other);
        scene
    }

    /// Makes the pool anew, the same each time.
    fn build(&mut self, other: &Other) {
        let Shape { start, end, align, flags, max_threads, len, .. } = self.shape;
        let options = Options { start, end, align, flags, max_threads, ..options() };
        let old = self.pool;
        self.pool = handle::init(self.at(0), len, &options).expect("init");
        if old.0.is_null() {
            // All of it begins where the first block does.
            let all = self.pool.stats().largest_free as usize;
            self.has_caches = self.pool.stats().max_threads > 0;
            self.first = self.pool.malloc(all).expect("all") as usize - self.at(0) as usize;
            return self.build(other);
        }
        // Its pool is gone, and with it what its caches held.
        old.detach().expect("detach");
        self.live.clear();
        self.populate(other);
        self.before = self.bytes().to_vec();
    }

    /// Live blocks, free ones, cached and loose ones of all encodings: one granule, a class's
    /// size, one digit, several; between each other and at top.
    fn populate(&mut self, other: &Other) {
        let (pool, align) = (self.pool, self.shape.align);
        // One and a few granules, a class's, no class's; and what takes several digits.
        let granules = [1, 2, 3, 1, 5, 8, 1, 33, 57, 7, 60, 1, 2, 4, 1, 1, 6];
        // Other threads' blocks are between.
        let theirs: Vec<usize> = other.run(move || {
            [3, 3, 3, 1].map(|n| pool.malloc(n * align).map_or(0, |block| block as usize)).to_vec()
        });
        let mine: Vec<(usize, usize)> = granules
            .iter()
            .filter_map(|n| pool.malloc(n * align).ok().map(|block| (block as usize, n * align)))
            .collect();
        assert!(mine.len() > 10, "{}: room for more", self.shape.name);
        let holes = [1, 4, 5, 8, 9, 10, 13, 15];
        for (at, &(block, size)) in mine.iter().enumerate() {
            if holes.contains(&at) {
                pool.free(block as *mut u8).expect("free");
            } else {
                self.live.insert(block - self.at(0) as usize, size);
            }
        }
        let freed = theirs[1];
        other.run(move || {
            if freed != 0 {
                pool.free(freed as *mut u8).expect("free");
            }
        });
        for (at, (&block, n)) in theirs.iter().zip([3, 3, 3, 1]).enumerate() {
            if at != 1 && block != 0 {
                self.live.insert(block - self.at(0) as usize, n * align);
            }
        }
    }

    fn at(&self, offset: usize) -> *mut u8 {
        self.memory.base().wrapping_add(self.shape.shift).wrapping_add(offset)
    }

    fn end(&self) -> usize {
        if self.shape.end == 0 {
            self.shape.len
        } else {
            self.shape.end.min(self.shape.len)
        }
    }

    fn bytes(&self) -> &[u8] {
        self.memory.bytes(self.shape.shift, self.shape.len)
    }

    fn restore(&self) {
        self.memory.bytes_mut(self.shape.shift, self.shape.len).copy_from_slice(&self.before);
    }

    /// What a call with this pointer must say.
    fn expected(&self, pointer: *mut u8) -> Result<(), Status> {
        let at = (pointer as usize).wrapping_sub(self.at(0) as usize);
        if at < self.first || at >= self.end() {
            return Err(FOREIGN);
        }
        if self.live.contains_key(&at) {
            Ok(())
        } else {
            Err(REFUSED)
        }
    }

    fn header(&self) -> usize {
        let start = self.shape.start;
        start + (self.at(start) as usize).wrapping_neg() % 8
    }

    /// Of all bytes none has changed but those that count.
    #[track_caller]
    fn must_be_untouched(&self, about: &str) {
        let (turn, count) = (self.header() + TURN_OFFSET, self.header() + REJECTED_OFFSET);
        for part in [0..turn, turn + 4..count, count + 8..self.shape.len] {
            let (now, then) = (&self.bytes()[part.clone()], &self.before[part.clone()]);
            if now != then {
                let changed = part.clone().find(|&at| self.bytes()[at] != self.before[at]);
                panic!("{}: {about} has changed a byte: {changed:?}", self.shape.name);
            }
        }
    }

    fn rejected(&self) -> u64 {
        let at = self.header() + REJECTED_OFFSET;
        u64::from_ne_bytes(self.bytes()[at..at + 8].try_into().expect("eight bytes"))
    }

    /// Every call that takes a block refuses this one, each with this status.
    fn must_refuse(&self, pointer: *mut u8, status: Status) {
        let (pool, refused) = (self.pool, Err(status));
        let align = self.shape.align;
        let at =
            || format!("{}: offset {}", self.shape.name, pointer as isize - self.at(0) as isize);
        let before = self.rejected();
        assert_eq!(pool.free(pointer), refused, "free, {}", at());
        assert_eq!(pool.free_sized(pointer, align), refused, "free_sized, {}", at());
        assert_eq!(self.rejected(), before + 2, "both are counted, {}", at());
        for size in [1, 40 * align, usize::MAX / 2] {
            assert_eq!(pool.realloc(pointer, size), Err(status), "realloc to {size}, {}", at());
            assert_eq!(pool.expand(pointer, size), refused, "expand to {size}, {}", at());
        }
        assert_eq!(pool.realloc_array(pointer, 3, align), Err(status), "realloc_array, {}", at());
        assert_eq!(pool.usable_size(pointer), 0, "usable_size, {}", at());
        if self.shape.flags & MEMPOOL_OWNER_TAGS != 0 {
            assert_eq!(pool.adopt(pointer), refused, "adopt, {}", at());
            assert_eq!(pool.abandon(pointer), refused, "abandon, {}", at());
            assert_eq!(pool.owner_of(pointer), Err(status), "owner_of, {}", at());
        }
        assert_eq!(self.rejected(), before + 2, "nothing else is counted, {}", at());
    }

    /// A live block is taken for one, by its right size only, and once.
    fn must_accept(&self, at: usize, size: usize) {
        let (pool, block, name) = (self.pool, self.at(at), self.shape.name);
        let usable = pool.usable_size(block);
        assert!(usable >= size, "{name}: {usable} bytes at {at}");
        let before = self.rejected();
        for wrong in [0, 2 * usable + 16 * self.shape.align, usize::MAX] {
            let answer = pool.free_sized(block, wrong);
            assert_eq!(answer, Err(MEMPOOL_ERR_INVALID_ARGUMENT), "{name}: {at} of {wrong}");
        }
        assert_eq!(self.rejected(), before + 3);
        self.must_be_untouched("free_sized of a wrong size");
        assert_eq!(pool.realloc(block, size), Ok(block), "{name}: {at}: nothing to do");
        assert_eq!(pool.expand(block, size), Ok(()), "{name}: {at}: nothing to do");
        let freed = if at % 32 == 0 { pool.free(block) } else { pool.free_sized(block, size) };
        assert_eq!(freed, Ok(()), "{name}: {at}");
        self.must_refuse(block, REFUSED);
        pool.must_check();
    }
}

/// Of the bytes in the middle of granules only each so many-th is tried, where there are many or
/// the library is not optimized; all of them in `make soak`.
fn step(len: usize) -> usize {
    match std::env::var_os("MEMPOOL_TEST_SECONDS") {
        Some(_) => 1,
        None if len > 100_000 => 61 * LESS,
        None => LESS,
    }
}

fn is_tried(at: usize, align: usize, step: usize) -> bool {
    let edge = at % align;
    edge < 2 || edge == align - 1 || at % 8 == 0 && edge < 64 && step < 100 || at % step == 0
}

fn every_byte(shape: Shape) {
    let other = Other::new();
    let mut scene = Scene::new(shape, &other);
    each_byte(&mut scene, &other);
    if scene.has_caches {
        assert!(scene.pool.stats().thread_caches > 0, "{}: caches are in use", shape.name);
    }
    other.end();
}

fn each_byte(scene: &mut Scene, other: &Other) {
    let shape = scene.shape;
    let (mut live, mut refused) = (0, 0);
    let (base, step) = (scene.at(0) as usize, step(shape.len));
    for at in -64..(shape.len + 64) as isize {
        let pointer = base.wrapping_add_signed(at) as *mut u8;
        let expected = scene.expected(pointer);
        match expected {
            Err(status) => {
                if !is_tried(base.wrapping_add_signed(at), shape.align, step) {
                    continue;
                }
                scene.must_refuse(pointer, status);
                refused += 1;
                // Of a large pool not each time.
                if shape.len < 10_000 || refused % 256 == 0 {
                    scene.must_be_untouched("a bad pointer");
                }
            }
            Ok(()) => {
                scene.must_be_untouched("a bad pointer");
                scene.must_accept(at as usize, scene.live[&(at as usize)]);
                live += 1;
                if scene.has_caches {
                    let held = scene.live.clone();
                    scene.build(other);
                    assert_eq!(held, scene.live, "{}: the same again", shape.name);
                } else {
                    scene.restore();
                }
            }
        }
    }
    scene.must_be_untouched("a bad pointer");
    assert_eq!(live, scene.live.len(), "{}: each was met", shape.name);
    scene.pool.must_check();
}

#[test]
fn at_every_byte_of_a_small_pool_the_answer_is_right() {
    SMALL.into_iter().for_each(every_byte);
}

#[test]
fn at_every_byte_of_a_pool_with_caches_the_answer_is_right() {
    CACHED.into_iter().for_each(every_byte);
}

#[test]
fn pointers_from_anywhere_are_refused() {
    let other = Other::new();
    let mut random = Random(11);
    for shape in SMALL.into_iter().chain(CACHED) {
        let scene = Scene::new(shape, &other);
        let neighbour = Scene::new(shape, &other);
        let base = scene.at(0) as usize;
        let mut pointers: Vec<usize> = vec![1, 7, 8, 16, 4096, base - 1, base, usize::MAX];
        pointers.extend([usize::MAX - 15, 1 << 63, (1 << 63) - 16, 1 << 47, base ^ 1 << 63]);
        // Where the distance to the buffer has a digit too much.
        pointers.extend((32..64).map(|bit| base.wrapping_add(scene.first) ^ 1 << bit));
        pointers.extend(neighbour.live.keys().map(|&at| neighbour.at(at) as usize));
        pointers.extend((0..2000 / LESS).map(|_| random.next() as usize));
        for pointer in pointers {
            scene.must_refuse(pointer as *mut u8, FOREIGN);
        }
        scene.must_be_untouched("a pointer from elsewhere");
        // NULL is no block, but not refused where C would not.
        let null = std::ptr::null_mut();
        let pool = scene.pool;
        assert_eq!((pool.free(null), pool.free_sized(null, 9)), (Ok(()), Ok(())));
        assert_eq!((pool.usable_size(null), pool.expand(null, 1)), (0, Err(FOREIGN)));
        scene.must_be_untouched("NULL");
        let none = Handle(null.cast());
        let block = scene.at(*scene.live.keys().next().expect("a live block"));
        assert_eq!(none.free(block), Err(MEMPOOL_ERR_INVALID_ARGUMENT));
        assert_eq!(none.realloc(block, 1), Err(MEMPOOL_ERR_INVALID_ARGUMENT));
        assert_eq!(none.usable_size(block), 0);
        scene.must_be_untouched("no pool");
    }
    other.end();
}

#[test]
fn through_another_mapping_each_handle_knows_its_own_pointers() {
    let memory = Memory::shared(1 << 20);
    let view = memory.view();
    let here = handle::init(memory.base(), memory.len(), &options()).expect("init");
    let there = handle::attach(view.base(), view.len(), &options()).expect("attach");
    for size in [1, 16, 100, 5000, 100_000] {
        let block = here.malloc(size).expect("malloc");
        let alias = there.pointer(here.offset(block));
        assert_eq!(there.free(block), Err(FOREIGN));
        assert_eq!(here.free(alias), Err(FOREIGN));
        assert_eq!(there.usable_size(alias), here.usable_size(block));
        assert_eq!(there.free(alias), Ok(()));
        assert_eq!(here.free(block), Err(REFUSED), "freed over there");
        assert_eq!(there.free(alias), Err(REFUSED));
    }
    here.must_check();
}

/// A block that was freed is refused until its bytes are given out again, by whichever thread of
/// those that share the pool, whatever became of it meanwhile.
#[test]
fn a_free_before_the_block_is_used_again_is_always_refused() {
    let shapes = [SMALL[0], SMALL[1], SMALL[3], CACHED[0], CACHED[3], CACHED[4]];
    for (seed, shape) in shapes.into_iter().enumerate() {
        let Shape { shift, len, start, end, align, flags, max_threads, name } = shape;
        let memory = Memory::private(shift + len);
        let options = Options { start, end, align, flags, max_threads, ..options() };
        let buffer = memory.base().wrapping_add(shift);
        let pool = handle::init(buffer, len, &options).expect("init");
        let others = [Other::new(), Other::new()];
        let mut random = Random(seed as u64);
        // Address and usable bytes of what is live; addresses of what was freed and not used since.
        let (mut live, mut freed) = (BTreeMap::<usize, usize>::new(), BTreeMap::new());
        let mut refused = 0;
        for _ in 0..6000 / LESS {
            let hand = random.below(3);
            let at = random.below(live.len().max(1));
            let held = live.iter().nth(at).map(|(&block, _)| block);
            if let Some(block) = held.filter(|_| random.below(5) < 2) {
                live.remove(&block);
                let free = move || pool.free(block as *mut u8);
                let answer = others.get(hand).map_or_else(free, |other| other.run(free));
                assert_eq!(answer, Ok(()), "{name}");
                freed.insert(block, ());
            } else {
                let size = random.log_uniform(1, 100 * align);
                let make = move || pool.malloc(size).map(|block| block as usize);
                let made = others.get(hand).map_or_else(make, |other| other.run(make));
                if let Ok(block) = made {
                    let bytes = pool.usable_size(block as *mut u8);
                    let before = live.range(..block + bytes).next_back();
                    let apart = before.is_none_or(|(start, len)| start + len <= block);
                    assert!(apart, "{name}: two live blocks overlap");
                    live.insert(block, bytes);
                    freed.retain(|&old, ()| !(block..block + bytes).contains(&old));
                } else if random.below(2) == 0 {
                    let trim = move || pool.trim().expect("trim");
                    others.get(hand).map_or_else(trim, |other| other.run(trim));
                }
            }
            let stale: Vec<usize> = freed.keys().copied().collect();
            if stale.is_empty() {
                continue;
            }
            for _ in 0..3 {
                let block = stale[random.below(stale.len())];
                let free = move || pool.free(block as *mut u8);
                let who = random.below(3);
                let answer = others.get(who).map_or_else(free, |other| other.run(free));
                assert_eq!(answer, Err(REFUSED), "{name}: freed already");
                refused += 1;
            }
        }
        assert!(refused > 1000 / LESS, "{name}: {refused}");
        pool.must_check();
        others.into_iter().for_each(Other::end);
    }
}

/// What two threads that free the same blocks have in common.
struct Race {
    pool: Handle,
    size: usize,
    barrier: Barrier,
    ends: AtomicBool,
    block: AtomicUsize,
    start: Instant,
    /// Nanoseconds from the start on, when both free.
    moment: AtomicU64,
}

impl Race {
    /// One of both: which of its frees were accepted. Blocks that are given out afterwards are
    /// stamped by whom, and found so.
    fn run(&self, is_first: bool, until: Instant) -> Vec<bool> {
        let Race { pool, size, .. } = *self;
        let mut accepted = Vec::new();
        let mut random = Random(is_first.into());
        let now = || self.start.elapsed().as_nanos() as u64;
        loop {
            if is_first {
                self.ends.store(Instant::now() > until, Relaxed);
                self.block.store(pool.malloc(size).expect("malloc") as usize, Relaxed);
                self.moment.store(now() + 50_000, Relaxed);
            }
            self.barrier.wait();
            if self.ends.load(Relaxed) {
                return accepted;
            }
            let moment = self.moment.load(Relaxed) + random.below(200) as u64;
            while now() < moment {}
            accepted.push(pool.free(self.block.load(Relaxed) as *mut u8).is_ok());
            // Both frees are over before anything is used again. One takes what there is, then the other:
            // a block that both have cached both could take, within the same few instructions once more.
            self.barrier.wait();
            let take = || [(); 5].map(|()| pool.malloc(size).expect("malloc"));
            let first = is_first.then(take);
            self.barrier.wait();
            let taken = first.unwrap_or_else(take);
            let mark = |block| pool.offset(block) + u64::from(is_first);
            taken.iter().for_each(|&block| stamp(block, mark(block), size));
            self.barrier.wait();
            for block in taken {
                assert!(is_stamped(block, mark(block), size), "given out twice");
                pool.free(block).expect("free");
            }
            self.barrier.wait();
        }
    }
}

/// Two threads, of which one has the pool's only cache and the other goes to the heap, or both do,
/// or both have caches, free a block at the same instant. Both frees may be accepted within a few
/// instructions where a cache is in it, and never else; but what is then given out is given out once,
/// unless both are given it within a few instructions, too.
#[test]
fn frees_that_race_give_a_block_out_once() {
    child::run(Duration::from_secs(120), || {
        for (len, max_threads, size) in [(60_000, 0, 64), (1 << 20, 1, 64), (1 << 20, 0, 64)] {
            let memory = Memory::private(len);
            let options = Options { max_threads, ..options() };
            let pool = handle::init(memory.base(), len, &options).expect("init");
            let until = Instant::now() + Duration::from_millis(300);
            let (barrier, ends, block) = (Barrier::new(2), false.into(), 0.into());
            let (start, moment) = (Instant::now(), 0.into());
            let race = Race { pool, size, barrier, ends, block, start, moment };
            let (mine, his) = std::thread::scope(|scope| {
                let his = scope.spawn(|| race.run(false, until));
                (race.run(true, until), his.join().expect("it ended well"))
            });
            let pairs = || mine.iter().zip(&his);
            assert!(pairs().all(|(&mine, &his)| mine || his), "refused by both");
            let both = pairs().filter(|(&mine, &his)| mine && his).count();
            eprintln!("{max_threads} caches, {len} bytes: {both} of {}", mine.len());
            assert!(mine.len() > 20, "{}", mine.len());
            let has_caches = pool.stats().max_threads > 0;
            assert!(both == 0 || has_caches, "under the lock one of two is refused");
            if both == 0 {
                pool.must_check();
            } else if let Err(status) = pool.check() {
                assert_eq!(status, MEMPOOL_ERR_CORRUPTED);
            }
        }
    });
}
