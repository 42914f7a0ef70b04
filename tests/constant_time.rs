//! malloc, free and realloc in place cost the same whatever the pool holds: counted, instruction
//! by instruction, by stepping a child through single calls (ptrace), so that neither the
//! machine's speed nor its load matters.
//!
//! Each scene prepares a pool with n live blocks and a list of free blocks chosen to be hard on
//! allocators that search; then it makes the calls that are counted. The worst of each kind of
//! call must be within a fifth for all n. The map is known (`ZEROED`, or gone over before): the
//! first pass over an unknown one is a documented exception.
//!
//! Only what the optimizer made of the library is worth counting, and the step is the machine's:
#![cfg(all(not(debug_assertions), target_arch = "x86_64"))]

mod common;

use ::mempool::abi::*;
use ::mempool::capi::*;
use common::child;
use common::memory::error;
use common::random::Random;
use common::{handle, options, Handle, Memory};
use std::arch::asm;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::ptr::null_mut;

/// Calls of a kind that a scene has counted.
const SAMPLES: usize = 50;

/// Worst divided by best, at most.
const SPREAD: f64 = 1.2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u64)]
enum Call {
    Malloc,
    AlignedAlloc,
    Free,
    Grow,
    Shrink,
}

const CALLS: [Call; 5] =
    [Call::Malloc, Call::AlignedAlloc, Call::Free, Call::Grow, Call::Shrink];

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

type Scene = fn(Population);

const SCENES: [(&str, Scene); 11] = [
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
];

/// A pool, and the calls on it that are counted; by pointer, so that they stay calls.
struct Counted {
    pool: Handle,
    scene: u64,
}

/// Runs `call` between two traps: the tracer reads what it is at the first, and counts up to the
/// second.
fn count<T>(what: u64, call: impl FnOnce() -> T) -> T {
    // SAFETY: traps, which the tracer takes; all registers and memory stay as they are.
    unsafe { asm!("int3", in("rax") what) };
    let answer = call();
    // SAFETY: as above.
    unsafe { asm!("int3") };
    answer
}

impl Counted {
    fn what(&self, call: Call) -> u64 {
        self.scene << 8 | call as u64
    }

    fn malloc(&self, size: usize) -> *mut u8 {
        let function = black_box(mempool_malloc as unsafe extern "C" fn(_, _) -> *mut c_void);
        let pool = self.pool.0;
        // SAFETY: a handle.
        let block = count(self.what(Call::Malloc), || unsafe { function(pool, size) });
        assert!(!block.is_null(), "malloc({size}): {}", handle::last_message());
        block.cast()
    }

    fn aligned_alloc(&self, alignment: usize, size: usize) -> *mut u8 {
        let function = black_box(mempool_aligned_alloc as unsafe extern "C" fn(_, _, _) -> *mut c_void);
        let pool = self.pool.0;
        let what = self.what(Call::AlignedAlloc);
        // SAFETY: a handle.
        let block = count(what, || unsafe { function(pool, alignment, size) });
        assert!(!block.is_null(), "aligned_alloc({size}): {}", handle::last_message());
        block.cast()
    }

    fn free(&self, block: *mut u8) {
        let function = black_box(mempool_free as unsafe extern "C" fn(_, *mut c_void) -> i32);
        let pool = self.pool.0;
        // SAFETY: a handle and its live block.
        let status = count(self.what(Call::Free), || unsafe { function(pool, block.cast()) });
        assert_eq!(status, MEMPOOL_OK, "free: {}", handle::last_message());
    }

    /// In place, or it is a failure.
    fn realloc(&self, call: Call, block: *mut u8, size: usize) {
        let function = black_box(mempool_realloc as unsafe extern "C" fn(_, _, _) -> *mut c_void);
        let (pool, what) = (self.pool.0, self.what(call));
        // SAFETY: a handle and its live block.
        let answer = count(what, || unsafe { function(pool, block.cast(), size) });
        assert_eq!(answer.cast(), block, "{call:?} moved to {size}");
    }

    fn grow(&self, block: *mut u8, size: usize) {
        self.realloc(Call::Grow, block, size);
    }

    fn shrink(&self, block: *mut u8, size: usize) {
        self.realloc(Call::Shrink, block, size);
    }
}

// What the child does.

/// A pool for `bytes` of blocks and what the population adds. It lasts as long as the child.
fn pool(population: Population, bytes: usize, align: usize, flags: u32) -> Handle {
    let mut options = options();
    (options.align, options.flags) = (align, flags);
    // The map takes a byte of each granule; the rest is for what the scene adds.
    let len = bytes + bytes / align + 16_384 + population.spare;
    let memory: &'static Memory = Box::leak(Box::new(Memory::private(len)));
    let pool = handle::init(memory.base(), len, &options).expect("init");
    // Not counted: the first call of a thread, and of each kind.
    let block = pool.malloc(100).expect("malloc");
    let block = pool.realloc(block, 50).expect("realloc");
    pool.free(block).expect("free");
    pool
}

fn counted(pool: Handle, scene: &str) -> Counted {
    let scene = SCENES.iter().position(|(name, _)| *name == scene).expect("a scene of that name");
    Counted { pool, scene: scene as u64 }
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
fn packed_in(pool: Handle, population: Population, scene: &str) {
    let mut random = Random(1);
    let mut blocks = fill(pool, population.live, || random.log_uniform(16, 256));
    let counted = counted(pool, scene);
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
}

fn packed(population: Population) {
    let pool = pool(population, 260 * population.live, 16, MEMPOOL_ZEROED);
    packed_in(pool, population, "no free block");
}

fn packed_after_use(population: Population) {
    let bytes = 260 * population.live;
    // Without a promise about its bytes, so without spare ones: all of the map is gone over.
    let pool = pool(Population { spare: 0, ..population }, bytes, 16, 0);
    let all = pool.malloc(pool.stats().largest_free as usize).expect("everything");
    pool.free(all).expect("free");
    packed_in(pool, population, "no free block, map gone over before");
}

fn every_other(population: Population) {
    let pool = pool(population, 2 * 48 * population.live, 16, MEMPOOL_ZEROED);
    let blocks = fill(pool, 2 * population.live, || 48);
    for block in blocks.iter().step_by(2) {
        pool.free(*block).expect("free");
    }
    let live: Vec<_> = blocks.iter().skip(1).step_by(2).copied().collect();
    let counted = counted(pool, "every other block free, one size");
    for _ in 0..SAMPLES / 2 {
        // Of the size of the free ones, smaller, and larger than all.
        let taken = [48, 16, 64, 100].map(|size| counted.malloc(size));
        taken.into_iter().rev().for_each(|block| counted.free(block));
        let block = counted.aligned_alloc(64, 48);
        counted.free(block);
    }
    for at in some(&live[..live.len() - 1]).collect::<Vec<_>>() {
        counted.grow(live[at], 96);
        counted.shrink(live[at], 48);
        // Free on both sides.
        counted.free(live[at]);
    }
}

fn checkerboard(population: Population) {
    let pool = pool(population, 2 * 200 * population.live, 16, MEMPOOL_ZEROED);
    let mut random = Random(2);
    let blocks = fill(pool, 2 * population.live, || random.log_uniform(16, 512));
    for block in blocks.iter().step_by(2) {
        pool.free(*block).expect("free");
    }
    let live: Vec<_> = blocks.iter().skip(1).step_by(2).copied().collect();
    let counted = counted(pool, "every other block free, many sizes");
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
}

/// One bin holds them all, and the request too; only above the last block there is room.
fn too_small(population: Population) {
    const FREE: usize = 33 * 8;
    let pool = pool(population, (FREE + 8) * population.live, 8, MEMPOOL_ZEROED);
    let blocks = fill(pool, population.live, || FREE);
    let mut live = Vec::with_capacity(population.live);
    // Every other block, in turn made of the one behind: [live 8][free 264] by splitting.
    for pair in blocks.chunks(2) {
        live.push(pair[0]);
        pair.iter().skip(1).for_each(|block| pool.free(*block).expect("free"));
    }
    let counted = counted(pool, "free blocks all a little too small");
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
}

/// Frees all of `live` blocks in this order, counting some, and takes as many again.
fn freed(population: Population, scene: &str, order: impl FnOnce(&mut Vec<*mut u8>)) {
    let pool = pool(population, 200 * population.live, 16, MEMPOOL_ZEROED);
    let mut random = Random(3);
    let mut blocks = fill(pool, population.live, || random.log_uniform(16, 512));
    order(&mut blocks);
    let counted = counted(pool, scene);
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
}

fn freed_in_order(population: Population) {
    freed(population, "freed in order", |_| ());
}

fn freed_in_reverse(population: Population) {
    freed(population, "freed in reverse order", |blocks| blocks.reverse());
}

fn freed_at_random(population: Population) {
    freed(population, "freed at random", |blocks| Random(4).shuffle(blocks));
}

fn free_neighbours(population: Population) {
    let pool = pool(population, 2 * 128 * population.live, 16, MEMPOOL_ZEROED);
    let blocks = fill(pool, 2 * population.live, || 128);
    for pair in blocks.chunks(2) {
        pool.free(pair[1]).expect("free");
    }
    let counted = counted(pool, "a free block behind each");
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
}

fn uncompacted(population: Population) {
    let flags = MEMPOOL_ZEROED | MEMPOOL_NO_COMPACT;
    let pool = pool(population, 3 * 100 * population.live, 16, flags);
    let mut random = Random(5);
    let blocks = fill(pool, 2 * population.live, || random.log_uniform(16, 256));
    let (free, live) = blocks.split_at(population.live);
    free.iter().for_each(|block| pool.free(*block).expect("free"));
    let counted = counted(pool, "never compacted");
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
}

fn unsplit(population: Population) {
    let flags = MEMPOOL_ZEROED | MEMPOOL_NO_SPLIT;
    let pool = pool(population, 2 * 100 * population.live, 16, flags);
    let mut random = Random(6);
    let blocks = fill(pool, 2 * population.live, || random.log_uniform(16, 256));
    blocks.iter().step_by(2).for_each(|block| pool.free(*block).expect("free"));
    let counted = counted(pool, "never split");
    for _ in 0..SAMPLES {
        let block = counted.malloc(random.log_uniform(16, 300));
        counted.free(block);
    }
    let live: Vec<_> = blocks.iter().skip(1).step_by(2).copied().collect();
    for at in some(&live[..live.len() - 1]).collect::<Vec<_>>() {
        counted.grow(live[at], pool.usable_size(live[at]) + 1);
        counted.free(live[at]);
    }
}

// What the parent does.

/// What was counted of one kind of call in one scene.
#[derive(Clone, Copy, Default)]
struct Count {
    calls: usize,
    worst: u64,
}

type Counts = BTreeMap<(u64, Call), Count>;

fn ptrace(request: libc::c_uint, pid: libc::pid_t, data: *mut c_void) {
    let address: *mut c_void = null_mut();
    // SAFETY: each caller passes what its request wants; the child's memory is not touched.
    let answer = unsafe { libc::ptrace(request, pid, address, data) };
    assert!(answer != -1, "ptrace({request}), which this test cannot do without: {}", error());
}

/// Lets the child run, and counts the instructions between its traps.
fn trace(pid: libc::pid_t, counts: &mut Counts) {
    let mut counting: Option<(u64, u64)> = None;
    let mut is_started = false;
    loop {
        let mut status = 0;
        // SAFETY: our own child, a valid status word.
        let got = unsafe { libc::waitpid(pid, &mut status, 0) };
        assert_eq!(got, pid, "waitpid: {}", error());
        if !libc::WIFSTOPPED(status) {
            assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{status:#x}");
            assert!(is_started && counting.is_none());
            return;
        }
        let signal = libc::WSTOPSIG(status);
        if !is_started {
            assert_eq!(signal, libc::SIGSTOP);
            is_started = true;
            ptrace(libc::PTRACE_CONT, pid, null_mut());
            continue;
        }
        assert_eq!(signal, libc::SIGTRAP, "the child was stopped by signal {signal}");
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        ptrace(libc::PTRACE_GETSIGINFO, pid, info.as_mut_ptr().cast());
        // SAFETY: all zero is valid, and the kernel filled it in.
        let is_step = unsafe { info.assume_init() }.si_code == libc::TRAP_TRACE;
        match &mut counting {
            Some((_, steps)) if is_step => {
                *steps += 1;
                ptrace(libc::PTRACE_SINGLESTEP, pid, null_mut());
            }
            None => {
                let mut registers = MaybeUninit::<libc::user_regs_struct>::zeroed();
                ptrace(libc::PTRACE_GETREGS, pid, registers.as_mut_ptr().cast());
                // SAFETY: as above.
                counting = Some((unsafe { registers.assume_init() }.rax, 0));
                ptrace(libc::PTRACE_SINGLESTEP, pid, null_mut());
            }
            Some(_) => {
                let (what, steps) = counting.take().expect("just seen");
                let call = CALLS[(what & 0xff) as usize];
                let count = counts.entry((what >> 8, call)).or_default();
                count.calls += 1;
                count.worst = count.worst.max(steps);
                ptrace(libc::PTRACE_CONT, pid, null_mut());
            }
        }
    }
}

fn run(scene: Scene, population: Population, counts: &mut Counts) {
    let child = child::fork(|| {
        ptrace(libc::PTRACE_TRACEME, 0, null_mut());
        // SAFETY: stops this process, until the tracer has seen it.
        unsafe { libc::raise(libc::SIGSTOP) };
        scene(population);
        0
    });
    trace(child.pid, counts);
}

/// Both sides on one processor: a step is a switch, and they never run at once.
fn stay_on_one_processor() {
    // SAFETY: plain bits; only this thread and its children are bound.
    unsafe {
        let mut processors: libc::cpu_set_t = std::mem::zeroed();
        let cpu = libc::sched_getcpu();
        libc::CPU_SET(usize::try_from(cpu).unwrap_or(0), &mut processors);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &processors);
    }
}

#[test]
fn the_stepper_counts_instructions() {
    let mut counts = Counts::new();
    run(
        |_| {
            for times in [1000u64, 2000] {
                count(0, || {
                    // SAFETY: counts a register down: two instructions a turn.
                    unsafe { asm!("2: dec {0}", "jnz 2b", inout(reg) times => _) }
                });
            }
        },
        POPULATIONS[0],
        &mut counts,
    );
    let count = counts[&(0, Call::Malloc)];
    assert_eq!(count.calls, 2);
    assert!((4000..4010).contains(&count.worst), "{} steps", count.worst);
}

#[test]
fn no_call_depends_on_how_many_blocks_there_are() {
    stay_on_one_processor();
    let tables: Vec<Counts> = POPULATIONS
        .iter()
        .map(|&population| {
            let mut counts = Counts::new();
            SCENES.iter().for_each(|(_, scene)| run(*scene, population, &mut counts));
            counts
        })
        .collect();
    println!("instructions of the worst call among n live blocks\n");
    let names = POPULATIONS.map(|population| population.name);
    println!("{:<14}{:<38}{:>8}{:>8}{:>8}{:>16}", "call", "scene", names[0], names[1], names[2], names[3]);
    let mut wide = Vec::new();
    for call in CALLS {
        for (scene, (name, _)) in SCENES.iter().enumerate() {
            let key = (scene as u64, call);
            if tables.iter().all(|counts| counts.contains_key(&key)) {
                let worst: Vec<u64> = tables.iter().map(|counts| counts[&key].worst).collect();
                row(call, name, &worst);
            }
        }
        let worst = |counts: &Counts| {
            let of_call = counts.iter().filter(|(key, _)| key.1 == call);
            of_call.map(|(_, count)| count.worst).max().expect("some scene counts it")
        };
        let worst: Vec<u64> = tables.iter().map(worst).collect();
        row(call, "worst of all", &worst);
        let (least, most) = (worst.iter().min().unwrap(), worst.iter().max().unwrap());
        if *most as f64 > SPREAD * *least as f64 {
            wide.push(format!("{call:?}: {worst:?}"));
        }
        println!();
    }
    assert!(wide.is_empty(), "more than {SPREAD} times apart: {wide:?}");
}

fn row(call: Call, scene: &str, worst: &[u64]) {
    let call = format!("{call:?}");
    println!("{call:<14}{scene:<38}{:>8}{:>8}{:>8}{:>16}", worst[0], worst[1], worst[2], worst[3]);
}
