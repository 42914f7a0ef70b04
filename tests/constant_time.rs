//! malloc, free and realloc in place cost the same whatever the pool holds: counted, instruction
//! by instruction, with the processor's trap flag, so that neither the machine's speed nor its
//! load matters.
//!
//! Each scene prepares a pool with n live blocks and a list of free blocks chosen to be hard on
//! allocators that search; then it makes the calls that are counted. The worst of each kind of
//! call must be within a fifth for all n. The map is known (`ZEROED`, or gone over before): the
//! first pass over an unknown one is a documented exception.
//!
//! Only what the optimizer made of the library is worth counting, and the flag is the machine's:
#![cfg(all(not(debug_assertions), target_arch = "x86_64"))]

mod common;

use ::mempool::abi::*;
use ::mempool::capi::*;
use common::memory::error;
use common::random::Random;
use common::{handle, options, Handle, Memory};
use std::arch::asm;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};
use std::hint::black_box;
use std::sync::Once;

/// Calls of a kind that a scene counts, at least.
const SAMPLES: usize = 6;

/// The worst call of a kind among many blocks, divided by that among few, at most: in all scenes
/// together, and in each, where which of a few paths a call takes is up to chance.
const SPREAD: f64 = 1.2;
const SPREAD_IN_SCENE: f64 = 1.3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Call {
    Malloc,
    AlignedAlloc,
    Free,
    Grow,
    Shrink,
}

const CALLS: [Call; 5] = [Call::Malloc, Call::AlignedAlloc, Call::Free, Call::Grow, Call::Shrink];

/// How many live blocks, and in how large a pool.
#[derive(Clone, Copy)]
struct Population {
    name: &'static str,
    live: usize,
    /// Bytes beyond what the scene needs.
    spare: usize,
}

const POPULATIONS: [Population; 4] = [
    Population { name: "10^2", live: 100, spare: 0 },
    Population { name: "10^4", live: 10_000, spare: 0 },
    Population { name: "10^6", live: 1_000_000, spare: 0 },
    Population { name: "10^2 in 32 GiB", live: 100, spare: 32 << 30 },
];

type Scene = fn(Population) -> Counts;

const SCENES: [(&str, Scene); 12] = [
    ("no free block", packed),
    ("no free block, map gone over before", packed_after_use),
    ("every other block free, one size", every_other),
    ("every other block free, many sizes", checkerboard),
    ("free blocks all a little too small", too_small),
    ("freed in order", freed_in_order),
    ("freed in reverse order", freed_in_reverse),
    ("freed at random", freed_at_random),
    ("a free block behind each", free_neighbours),
    ("never compacted", uncompacted),
    ("never split", unsplit),
    ("every path at its longest", longest_paths),
];

thread_local! {
    static STEPS: Cell<u64> = const { Cell::new(0) };
}

extern "C" fn step(_signal: c_int) {
    STEPS.set(STEPS.get() + 1);
}

/// Runs `call` and counts its instructions. Between setting and clearing the trap flag the
/// processor traps after each, and the kernel makes a SIGTRAP of it.
fn count<T>(call: impl FnOnce() -> T) -> (T, u64) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: all zero is a valid sigaction; the handler touches its own thread's number only.
        let answer = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = step as extern "C" fn(c_int) as usize;
            libc::sigaction(libc::SIGTRAP, &action, std::ptr::null_mut())
        };
        assert_eq!(answer, 0, "sigaction: {}", error());
    });
    STEPS.set(0);
    // SAFETY: sets one flag, and leaves the stack as it was.
    unsafe { asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq") };
    let answer = call();
    // SAFETY: clears it again.
    unsafe { asm!("pushfq", "and qword ptr [rsp], -0x101", "popfq") };
    (answer, STEPS.get())
}

/// What was counted of one kind of call in one scene.
#[derive(Clone, Copy, Default)]
struct Count {
    calls: usize,
    worst: u64,
}

/// A pool, and calls on it that are counted; by pointer, so that they stay calls.
struct Counted {
    pool: Handle,
    counts: RefCell<Counts>,
}

type Counts = BTreeMap<Call, Count>;

impl Counted {
    fn new(pool: Handle) -> Counted {
        Counted { pool, counts: RefCell::default() }
    }

    fn count<T>(&self, what: Call, call: impl FnOnce() -> T) -> T {
        let (answer, steps) = count(call);
        let mut counts = self.counts.borrow_mut();
        let count = counts.entry(what).or_default();
        count.calls += 1;
        count.worst = count.worst.max(steps);
        answer
    }

    fn malloc(&self, size: usize) -> *mut u8 {
        let function = black_box(mempool_malloc as unsafe extern "C" fn(_, _) -> *mut c_void);
        let pool = self.pool.0;
        // SAFETY: a handle.
        let block = self.count(Call::Malloc, || unsafe { function(pool, size) });
        assert!(!block.is_null(), "malloc({size}): {}", handle::last_message());
        block.cast()
    }

    fn aligned_alloc(&self, alignment: usize, size: usize) -> *mut u8 {
        let function =
            black_box(mempool_aligned_alloc as unsafe extern "C" fn(_, _, _) -> *mut c_void);
        let pool = self.pool.0;
        // SAFETY: a handle.
        let block = self.count(Call::AlignedAlloc, || unsafe { function(pool, alignment, size) });
        assert!(!block.is_null(), "aligned_alloc({size}): {}", handle::last_message());
        block.cast()
    }

    fn free(&self, block: *mut u8) {
        let function = black_box(mempool_free as unsafe extern "C" fn(_, *mut c_void) -> i32);
        let pool = self.pool.0;
        // SAFETY: a handle and its live block.
        let status = self.count(Call::Free, || unsafe { function(pool, block.cast()) });
        assert_eq!(status, MEMPOOL_OK, "free: {}", handle::last_message());
    }

    /// In place, or it is a failure.
    fn realloc(&self, what: Call, block: *mut u8, size: usize) {
        let function = black_box(mempool_realloc as unsafe extern "C" fn(_, _, _) -> *mut c_void);
        let pool = self.pool.0;
        // SAFETY: a handle and its live block.
        let answer = self.count(what, || unsafe { function(pool, block.cast(), size) });
        assert_eq!(answer.cast(), block, "{what:?} moved to {size}");
    }

    fn grow(&self, block: *mut u8, size: usize) {
        self.realloc(Call::Grow, block, size);
    }

    fn shrink(&self, block: *mut u8, size: usize) {
        self.realloc(Call::Shrink, block, size);
    }
}

/// A pool for `bytes` of blocks and what the population adds.
fn pool(population: Population, bytes: usize, align: usize, flags: u32) -> (Memory, Handle) {
    let mut options = options();
    // What is counted is the heap's: a cache would hide it, and take several blocks at once.
    (options.align, options.flags) = (align, flags | MEMPOOL_NO_THREAD_CACHES);
    // The map takes a byte of each granule; the rest is for what the scene adds.
    let len = bytes + bytes / align + 16_384 + population.spare;
    let memory = Memory::private(len);
    let pool = handle::init(memory.base(), len, &options).expect("init");
    // Not counted: the first call of a thread, and of each kind.
    let block = pool.malloc(100).expect("malloc");
    let block = pool.realloc(block, 50).expect("realloc");
    pool.free(block).expect("free");
    (memory, pool)
}

/// Some of the blocks, spread over all.
fn some(blocks: &[*mut u8]) -> impl Iterator<Item = usize> + '_ {
    let samples = SAMPLES.min(blocks.len());
    (0..samples).map(move |i| i * blocks.len() / samples)
}

fn fill(pool: Handle, count: usize, mut size: impl FnMut() -> usize) -> Vec<*mut u8> {
    (0..count).map(|_| pool.malloc(size()).expect("room for it")).collect()
}

/// Above the last block, and in the middle of the others.
fn packed_in(pool: Handle, population: Population) -> Counts {
    let mut random = Random(1);
    let mut blocks = fill(pool, population.live, || random.log_uniform(16, 256));
    let counted = Counted::new(pool);
    for _ in 0..SAMPLES {
        let size = random.log_uniform(16, 1024);
        let block = counted.malloc(size);
        counted.grow(block, 2 * size);
        counted.shrink(block, size);
        counted.free(block);
        let block = counted.aligned_alloc(256, size);
        counted.free(block);
    }
    let chosen: Vec<usize> = some(&blocks).collect();
    for at in chosen {
        let size = pool.usable_size(blocks[at]);
        counted.free(blocks[at]);
        blocks[at] = counted.malloc(size);
        if size >= 64 {
            counted.shrink(blocks[at], size / 2);
            counted.grow(blocks[at], size);
        }
    }
    counted.counts.into_inner()
}

fn packed(population: Population) -> Counts {
    let (_memory, pool) = pool(population, 260 * population.live, 16, MEMPOOL_ZEROED);
    packed_in(pool, population)
}

fn packed_after_use(population: Population) -> Counts {
    let bytes = 260 * population.live;
    // Without a promise about its bytes, so without spare ones: all of the map is gone over.
    let (_memory, pool) = pool(Population { spare: 0, ..population }, bytes, 16, 0);
    let all = pool.malloc(pool.stats().largest_free as usize).expect("everything");
    pool.free(all).expect("free");
    packed_in(pool, population)
}

fn every_other(population: Population) -> Counts {
    let (_memory, pool) = pool(population, 2 * 48 * population.live, 16, MEMPOOL_ZEROED);
    let blocks = fill(pool, 2 * population.live, || 48);
    for block in blocks.iter().step_by(2) {
        pool.free(*block).expect("free");
    }
    let live: Vec<_> = blocks.iter().skip(1).step_by(2).copied().collect();
    let counted = Counted::new(pool);
    for _ in 0..SAMPLES / 2 {
        // Of the size of the free ones, smaller, and larger than all.
        let taken = [48, 16, 64, 100].map(|size| counted.malloc(size));
        taken.into_iter().rev().for_each(|block| counted.free(block));
        // Several, so that blocks that lie well and blocks that do not are met, wherever the first lies.
        let aligned: Vec<_> = (0..4).map(|_| counted.aligned_alloc(64, 48)).collect();
        aligned.into_iter().rev().for_each(|block| counted.free(block));
    }
    for at in some(&live[..live.len() - 1]).collect::<Vec<_>>() {
        counted.grow(live[at], 96);
        counted.shrink(live[at], 48);
        // Free on both sides.
        counted.free(live[at]);
    }
    counted.counts.into_inner()
}

fn checkerboard(population: Population) -> Counts {
    let (_memory, pool) = pool(population, 2 * 240 * population.live, 16, MEMPOOL_ZEROED);
    let mut random = Random(2);
    let blocks = fill(pool, 2 * population.live, || random.log_uniform(16, 512));
    for block in blocks.iter().step_by(2) {
        pool.free(*block).expect("free");
    }
    let live: Vec<_> = blocks.iter().skip(1).step_by(2).copied().collect();
    let counted = Counted::new(pool);
    for _ in 0..2 * SAMPLES {
        let size = random.log_uniform(16, 1024);
        let block = counted.malloc(size);
        counted.free(block);
        let block = counted.aligned_alloc(128, size);
        counted.free(block);
    }
    for at in some(&live[..live.len() - 1]).collect::<Vec<_>>() {
        let size = pool.usable_size(live[at]);
        if size > 16 {
            counted.shrink(live[at], size - 16);
            counted.grow(live[at], size);
        }
        counted.free(live[at]);
    }
    counted.counts.into_inner()
}

/// One bin holds them all, and the request too; only above the last block there is room.
fn too_small(population: Population) -> Counts {
    const FREE: usize = 33 * 8;
    let (_memory, pool) = pool(population, (FREE + 8) * population.live, 8, MEMPOOL_ZEROED);
    let blocks = fill(pool, population.live, || FREE);
    let mut live = Vec::with_capacity(population.live);
    // Every other block, in turn made of the one behind: [live 8][free 264] by splitting.
    for pair in blocks.chunks(2) {
        live.push(pair[0]);
        pair.iter().skip(1).for_each(|block| pool.free(*block).expect("free"));
    }
    let counted = Counted::new(pool);
    let mut taken = Vec::new();
    for more in 0..SAMPLES {
        let block = counted.malloc(FREE + 8 * (1 + more % 3));
        if more % 2 == 0 {
            counted.free(block);
        } else {
            taken.push(block);
        }
        let block = counted.aligned_alloc(32, FREE + 8);
        counted.free(block);
    }
    taken.into_iter().for_each(|block| counted.free(block));
    for at in some(&live).collect::<Vec<_>>() {
        counted.free(live[at]);
    }
    counted.counts.into_inner()
}

/// Frees all of `live` blocks in this order, counting some, and takes as many again.
fn freed(population: Population, order: impl FnOnce(&mut Vec<*mut u8>)) -> Counts {
    let (_memory, pool) = pool(population, 240 * population.live, 16, MEMPOOL_ZEROED);
    let mut random = Random(3);
    let mut blocks = fill(pool, population.live, || random.log_uniform(16, 512));
    order(&mut blocks);
    let counted = Counted::new(pool);
    // The first ones, with all blocks live, and some of all the others.
    let chosen: Vec<usize> = (0..SAMPLES.min(blocks.len())).chain(some(&blocks)).collect();
    for (at, block) in blocks.iter().enumerate() {
        if chosen.contains(&at) {
            counted.free(*block);
        } else {
            pool.free(*block).expect("free");
        }
        if at % (blocks.len() / 8) == 1 {
            for size in [16, 100, 500] {
                let block = counted.malloc(size);
                counted.free(block);
            }
        }
    }
    assert_eq!(pool.stats().used_count, 0);
    counted.counts.into_inner()
}

fn freed_in_order(population: Population) -> Counts {
    freed(population, |_| ())
}

fn freed_in_reverse(population: Population) -> Counts {
    freed(population, |blocks| blocks.reverse())
}

fn freed_at_random(population: Population) -> Counts {
    freed(population, |blocks| Random(4).shuffle(blocks))
}

fn free_neighbours(population: Population) -> Counts {
    let (_memory, pool) = pool(population, 2 * 128 * population.live, 16, MEMPOOL_ZEROED);
    let blocks = fill(pool, 2 * population.live, || 128);
    for pair in blocks.chunks(2) {
        pool.free(pair[1]).expect("free");
    }
    let counted = Counted::new(pool);
    let live: Vec<_> = blocks.iter().step_by(2).copied().collect();
    for at in some(&live).collect::<Vec<_>>() {
        let block = live[at];
        // Part of the neighbour, all of it; back by a little, and to less than it ever was.
        counted.grow(block, 144);
        counted.grow(block, 256);
        counted.shrink(block, 240);
        counted.shrink(block, 16);
        counted.grow(block, 128);
    }
    counted.counts.into_inner()
}

fn uncompacted(population: Population) -> Counts {
    let flags = MEMPOOL_ZEROED | MEMPOOL_NO_COMPACT;
    let (_memory, pool) = pool(population, 3 * 150 * population.live, 16, flags);
    let mut random = Random(5);
    let blocks = fill(pool, 2 * population.live, || random.log_uniform(16, 256));
    let (free, live) = blocks.split_at(population.live);
    free.iter().for_each(|block| pool.free(*block).expect("free"));
    let counted = Counted::new(pool);
    for _ in 0..SAMPLES {
        let block = counted.malloc(random.log_uniform(16, 300));
        counted.free(block);
    }
    for at in some(live).collect::<Vec<_>>() {
        let size = pool.usable_size(live[at]);
        if size > 16 {
            counted.shrink(live[at], size - 16);
            counted.grow(live[at], size);
        }
        counted.free(live[at]);
    }
    counted.counts.into_inner()
}

fn unsplit(population: Population) -> Counts {
    let flags = MEMPOOL_ZEROED | MEMPOOL_NO_SPLIT;
    let (_memory, pool) = pool(population, 2 * 150 * population.live, 16, flags);
    let mut random = Random(6);
    let blocks = fill(pool, 2 * population.live, || random.log_uniform(16, 256));
    blocks.iter().step_by(2).for_each(|block| pool.free(*block).expect("free"));
    let counted = Counted::new(pool);
    for _ in 0..SAMPLES {
        let block = counted.malloc(random.log_uniform(16, 300));
        counted.free(block);
    }
    let live: Vec<_> = blocks.iter().skip(1).step_by(2).copied().collect();
    for at in some(&live[..live.len() - 1]).collect::<Vec<_>>() {
        counted.grow(live[at], pool.usable_size(live[at]) + 1);
        counted.free(live[at]);
    }
    counted.counts.into_inner()
}

/// Besides the n blocks, a few free ones so large that their sizes take many digits, in lists
/// with others: what the worst calls meet by chance in the other scenes they meet here for sure,
/// whatever n is. The memory of the large ones is never touched but for its first bytes.
fn longest_paths(population: Population) -> Counts {
    const TOO_SMALL: usize = 270_000 * 16;
    const ENOUGH: usize = 500_000 * 16;
    const ASKED: usize = TOO_SMALL + 16;
    // What is left of a block that is large enough, or of one that was joined to others.
    const RESTS: [usize; 2] = [ENOUGH - ASKED, 2 * TOO_SMALL + 16];
    let few = [[TOO_SMALL; 8], [ENOUGH; 8], [RESTS[0]; 8], [RESTS[1]; 8]].concat();
    let bytes = 140 * population.live + few.iter().sum::<usize>() + 64 * 16;
    let (_memory, pool) = pool(population, bytes, 16, MEMPOOL_ZEROED);
    let mut random = Random(7);
    let _live = fill(pool, population.live, || random.log_uniform(16, 256));
    let large: Vec<(*mut u8, *mut u8)> = few
        .iter()
        .map(|&size| (pool.malloc(size).expect("room"), pool.malloc(16).expect("room")))
        .collect();
    large.iter().for_each(|(block, _)| pool.free(*block).expect("free"));
    let counted = Counted::new(pool);
    for _ in 0..SAMPLES {
        // A few of its own bin are looked at, then it is cut from a larger one, and joined again.
        let block = counted.malloc(ASKED);
        counted.free(block);
        let block = counted.aligned_alloc(4096, ASKED);
        counted.free(block);
    }
    for (_, block) in &large[1..7] {
        counted.grow(*block, 32);
        counted.grow(*block, 48);
        counted.shrink(*block, 32);
        counted.shrink(*block, 16);
    }
    for (_, block) in large[1..7].iter().step_by(2) {
        // Free on both sides.
        counted.free(*block);
    }
    counted.counts.into_inner()
}

#[test]
fn the_counter_counts_instructions() {
    let turns = |turns: u64| {
        let ((), steps) = count(|| {
            // SAFETY: counts a register down: two instructions a turn.
            unsafe { asm!("2: dec {0}", "jnz 2b", inout(reg) turns => _) }
        });
        steps
    };
    assert_eq!(turns(2000) - turns(1000), 2000);
    assert!((2000..2020).contains(&turns(1000)), "{} steps", turns(1000));
}

#[test]
fn no_call_depends_on_how_many_blocks_there_are() {
    let tables: Vec<Vec<Counts>> = POPULATIONS
        .iter()
        .map(|&population| SCENES.iter().map(|(_, scene)| scene(population)).collect())
        .collect();
    println!("instructions of the worst call among n live blocks\n");
    row("call", "scene", &POPULATIONS.map(|population| population.name.to_owned()));
    let mut wide = Vec::new();
    for call in CALLS {
        let name = format!("{call:?}");
        let worst = |counts: &Counts| counts.get(&call).map_or(0, |count| count.worst);
        for (scene, (about, _)) in SCENES.iter().enumerate() {
            let worst: Vec<u64> = tables.iter().map(|scenes| worst(&scenes[scene])).collect();
            if worst.iter().any(|&worst| worst > 0) {
                row(&name, about, &worst);
            }
            if worst.iter().any(|&more| more as f64 > SPREAD_IN_SCENE * worst[0] as f64) {
                wide.push(format!("{name}, {about}: {worst:?}"));
            }
        }
        let of_all = |scenes: &Vec<Counts>| scenes.iter().map(worst).max().unwrap_or(0);
        let worst: Vec<u64> = tables.iter().map(of_all).collect();
        row(&name, "worst of all", &worst);
        let (least, most) = (worst.iter().min().unwrap(), worst.iter().max().unwrap());
        if *least == 0 || *most as f64 > SPREAD * *least as f64 {
            wide.push(format!("{name}: {worst:?}"));
        }
        println!();
    }
    assert!(wide.is_empty(), "not the same for all n: {wide:#?}");
}

fn row(call: &str, scene: &str, worst: &[impl std::fmt::Display]) {
    let [a, b, c, d] = worst else { unreachable!("a column for each population") };
    println!("{call:<14}{scene:<38}{a:>8}{b:>8}{c:>8}{d:>16}");
}
