//! What is done with an allocator.

use crate::crew::Kind;
use crate::hand::Hand;
use crate::peer::Home;
use crate::region::Region;
use crate::size::{Random, Sizes};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering::*};
use std::time::Duration;

pub struct Workload {
    pub name: &'static str,
    pub about: &'static str,
    pub kind: Kind,
    task: Task,
    /// How many workers in the quick run; the full run adds `more`.
    pub few: &'static [usize],
    pub more: &'static [usize],
}

#[derive(Clone, Copy, PartialEq)]
enum Task {
    Hot,
    Sizes,
    Churn(usize),
    Larson,
    Pipe,
    Batch(Order),
    Growth,
    Large,
    Fill,
}

#[derive(Clone, Copy, PartialEq)]
enum Order {
    Lifo,
    Fifo,
    Random,
}

const fn threads(
    name: &'static str,
    task: Task,
    few: &'static [usize],
    more: &'static [usize],
    about: &'static str,
) -> Workload {
    Workload { name, about, kind: Kind::Threads, task, few, more }
}

const fn processes(name: &'static str, task: Task, about: &'static str) -> Workload {
    Workload { name, about, kind: Kind::Processes, task, few: &[2], more: &[4] }
}

/// In the order of the table's rows. An operation is a malloc and a free unless it says otherwise.
#[rustfmt::skip]
pub const WORKLOADS: &[Workload] = &[
    threads("hot", Task::Hot, &[1, 2], &[], "malloc(64), then free"),
    threads("sizes", Task::Sizes, &[1, 2], &[], "64 live blocks of random sizes: the oldest goes, another comes"),
    threads("churn-1k", Task::Churn(1_000), &[1, 2], &[4, 8], "1,000 live blocks a worker: one at random goes, another comes"),
    threads("churn-100k", Task::Churn(100_000), &[1, 2], &[], "the same with 100,000"),
    threads("larson", Task::Larson, &[1, 2], &[4, 8, 16], "sets of 1,000 blocks go from worker to worker, each replacing as many at random"),
    threads("pipe", Task::Pipe, &[2], &[4, 8, 16], "half the workers malloc, the others free; a block an operation"),
    threads("batch-lifo", Task::Batch(Order::Lifo), &[1, 2], &[], "1,000 mallocs, then as many frees, the last first"),
    threads("batch-fifo", Task::Batch(Order::Fifo), &[1, 2], &[], "the first first"),
    threads("batch-random", Task::Batch(Order::Random), &[1, 2], &[], "in random order"),
    threads("growth", Task::Growth, &[1, 2], &[], "8 blocks grow by halves from 16 bytes to 64 KiB; a realloc an operation"),
    threads("large", Task::Large, &[1, 2], &[], "16 live blocks a worker of 64 KiB to 4 MiB"),
    threads("fill", Task::Fill, &[1], &[], "64 MiB filled until malloc fails (or 56 MiB were given), then freed"),
    processes("p-churn-1k", Task::Churn(1_000), "churn-1k by processes on one heap (those without shared heaps: on one each)"),
    processes("p-churn-100k", Task::Churn(100_000), "churn-100k by processes, likewise"),
    processes("p-larson", Task::Larson, "larson by processes: blocks are freed by others than their makers"),
    processes("p-pipe", Task::Pipe, "pipe by processes"),
];

pub fn find(name: &str) -> Option<&'static Workload> {
    WORKLOADS.iter().find(|workload| workload.name == name)
}

impl Workload {
    /// Can an allocator that lives there do this? Where processes share no blocks, allocators
    /// without a shared heap take part with a heap for each process, as a scale.
    pub fn suits(&self, home: Home) -> bool {
        match self.kind {
            Kind::Threads => true,
            Kind::Processes => {
                home == Home::Shared || home == Home::System && matches!(self.task, Task::Churn(_))
            }
        }
    }

    /// Can so many do it?
    pub fn takes(&self, workers: usize) -> bool {
        match self.task {
            Task::Fill => workers == 1,
            Task::Pipe => workers % 2 == 0,
            _ => workers > 1 || self.kind == Kind::Threads,
        }
    }

    /// How large a fixed range it needs.
    pub fn region_len(&self) -> usize {
        if self.task == Task::Fill {
            64 << 20
        } else {
            1 << 30
        }
    }

    /// How long it takes until an operation costs what the next one does: memory that is used for
    /// the first time comes from the system, page by page, and large blocks find it for long.
    pub fn warm_up(&self, amount: Duration) -> Duration {
        let least = if self.task == Task::Large { 200 } else { 0 };
        Duration::from_millis(least).max(amount / 2)
    }

    /// Calls of malloc and free that an operation counts for.
    #[cfg(feature = "counts")]
    pub fn calls(&self) -> u64 {
        if self.task == Task::Pipe {
            1
        } else {
            2
        }
    }

    /// What the workers share, made before they are.
    pub fn board(&self, workers: usize) -> Board {
        let (sets, rings) = match self.task {
            Task::Larson => (2 * workers, 0),
            Task::Pipe => (0, workers / 2),
            _ => (0, 0),
        };
        Board { sets: Region::of(sets), rings: Region::of(rings) }
    }

    /// A worker's part.
    pub fn job<H: Hand + 'static>(&self, board: &Board, worker: usize, hand: H) -> Box<dyn Job> {
        let random = Random::new(worker as u64);
        match self.task {
            Task::Hot => Box::new(Hot { hand }),
            Task::Sizes => {
                Box::new(Window { hand, sizes: mixed(random), blocks: [null_mut(); WINDOW] })
            }
            Task::Churn(count) => Box::new(Churn::new(hand, count, random, Sizes::mixed)),
            Task::Large => Box::new(Churn::new(hand, 16, random, Sizes::large)),
            Task::Larson => Box::new(Larson::new(hand, board.sets, worker, random)),
            Task::Pipe if worker % 2 == 0 => {
                Box::new(Producer { hand, ring: &board.rings[worker / 2], sizes: mixed(random) })
            }
            Task::Pipe => Box::new(Consumer { hand, ring: &board.rings[worker / 2] }),
            Task::Batch(order) => Box::new(Batch::new(hand, order, random)),
            Task::Growth => Box::new(Growth { hand, blocks: [(null_mut(), 0); 8], next: 0 }),
            Task::Fill => Box::new(Fill { hand, sizes: mixed(random), blocks: Vec::new() }),
        }
    }
}

/// What the workers of a crew share.
pub struct Board {
    sets: &'static [Set],
    rings: &'static [Ring],
}

fn mixed(mut random: Random) -> Sizes {
    Sizes::mixed(&mut random)
}

/// What a worker does again and again.
pub trait Job {
    /// A few hundred operations, so that looking at the clock does not count; how many.
    fn step(&mut self) -> u64;

    /// Frees all that is left. All workers have taken their last step.
    fn drain(&mut self) {}
}

const STEP: usize = 512;

struct Hot<H> {
    hand: H,
}

impl<H: Hand> Job for Hot<H> {
    fn step(&mut self) -> u64 {
        for _ in 0..STEP {
            let block = self.hand.get(64);
            self.hand.put(block);
        }
        STEP as u64
    }
}

/// A few live blocks; the oldest goes first. (With a single one mimalloc gives up a page and takes
/// another for nearly every block, at ten times the usual price, which says little of programs.)
struct Window<H> {
    hand: H,
    sizes: Sizes,
    blocks: [*mut u8; WINDOW],
}

const WINDOW: usize = 64;

impl<H: Hand> Job for Window<H> {
    fn step(&mut self) -> u64 {
        for at in 0..STEP {
            let slot = &mut self.blocks[at % WINDOW];
            if !slot.is_null() {
                self.hand.put(*slot);
            }
            *slot = self.hand.get(self.sizes.next());
        }
        STEP as u64
    }

    fn drain(&mut self) {
        for &block in self.blocks.iter().filter(|block| !block.is_null()) {
            self.hand.put(block);
        }
    }
}

struct Churn<H> {
    hand: H,
    random: Random,
    sizes: Sizes,
    blocks: Vec<*mut u8>,
}

impl<H: Hand> Churn<H> {
    fn new(
        mut hand: H,
        count: usize,
        mut random: Random,
        sizes: fn(&mut Random) -> Sizes,
    ) -> Churn<H> {
        let mut sizes = sizes(&mut random);
        let blocks = (0..count).map(|_| hand.get(sizes.next())).collect();
        Churn { hand, random, sizes, blocks }
    }
}

impl<H: Hand> Job for Churn<H> {
    fn step(&mut self) -> u64 {
        let ops = STEP.min(16 * self.blocks.len());
        for _ in 0..ops {
            let slot = self.random.below(self.blocks.len());
            self.hand.put(self.blocks[slot]);
            self.blocks[slot] = self.hand.get(self.sizes.next());
        }
        ops as u64
    }

    fn drain(&mut self) {
        self.blocks.drain(..).for_each(|block| self.hand.put(block));
    }
}

/// Larson and Krishnan's server: threads end and leave their blocks to the next.
struct Larson<H: 'static> {
    hand: H,
    random: Random,
    sizes: Sizes,
    sets: &'static [Set],
    at: usize,
}

const SET: usize = 1000;

#[repr(align(128))]
pub struct Set {
    held: AtomicBool,
    blocks: [AtomicPtr<u8>; SET],
}

impl<H: Hand> Larson<H> {
    fn new(hand: H, sets: &'static [Set], worker: usize, mut random: Random) -> Larson<H> {
        let sizes = Sizes::mixed(&mut random);
        let mut larson = Larson { hand, random, sizes, sets, at: 2 * worker };
        for set in &sets[larson.at..larson.at + 2] {
            for block in &set.blocks {
                block.store(larson.hand.get(larson.sizes.next()), Relaxed);
            }
        }
        larson
    }

    /// The next set that nobody holds; there are twice as many as workers.
    fn take(&mut self) -> &'static Set {
        loop {
            self.at = (self.at + 1) % self.sets.len();
            let set = &self.sets[self.at];
            if set.held.compare_exchange(false, true, Acquire, Relaxed).is_ok() {
                return set;
            }
        }
    }
}

impl<H: Hand> Job for Larson<H> {
    fn step(&mut self) -> u64 {
        let set = self.take();
        for _ in 0..SET {
            let block = &set.blocks[self.random.below(SET)];
            self.hand.put(block.load(Relaxed));
            block.store(self.hand.get(self.sizes.next()), Relaxed);
        }
        set.held.store(false, Release);
        SET as u64
    }

    fn drain(&mut self) {
        for set in self.sets.iter().filter(|set| !set.held.swap(true, Acquire)) {
            set.blocks.iter().for_each(|block| self.hand.put(block.load(Relaxed)));
        }
    }
}

/// Blocks on their way from one producer to one consumer.
pub struct Ring {
    sent: Line<AtomicUsize>,
    taken: Line<AtomicUsize>,
    blocks: [AtomicPtr<u8>; RING],
}

/// On cache lines of its own: processors fetch two at a time.
#[repr(align(128))]
struct Line<T>(T);

const RING: usize = 1024;
const GULP: usize = 64;

struct Producer<H: 'static> {
    hand: H,
    ring: &'static Ring,
    sizes: Sizes,
}

impl<H: Hand> Job for Producer<H> {
    fn step(&mut self) -> u64 {
        let sent = self.ring.sent.0.load(Relaxed);
        if sent + GULP > self.ring.taken.0.load(Acquire) + RING {
            std::thread::yield_now();
            return 0;
        }
        for at in sent..sent + GULP {
            let block = self.hand.get(self.sizes.next());
            self.ring.blocks[at % RING].store(block, Relaxed);
        }
        self.ring.sent.0.store(sent + GULP, Release);
        GULP as u64
    }
}

struct Consumer<H: 'static> {
    hand: H,
    ring: &'static Ring,
}

impl<H: Hand> Job for Consumer<H> {
    fn step(&mut self) -> u64 {
        let taken = self.ring.taken.0.load(Relaxed);
        if taken == self.ring.sent.0.load(Acquire) {
            std::thread::yield_now();
            return 0;
        }
        for at in taken..taken + GULP {
            self.hand.put(self.ring.blocks[at % RING].load(Relaxed));
        }
        self.ring.taken.0.store(taken + GULP, Release);
        GULP as u64
    }

    fn drain(&mut self) {
        while self.step() > 0 {}
    }
}

struct Batch<H> {
    hand: H,
    sizes: Sizes,
    blocks: Vec<*mut u8>,
    /// Which block goes first, second ...
    order: Vec<usize>,
}

const BATCH: usize = 1000;

impl<H: Hand> Batch<H> {
    fn new(hand: H, order: Order, mut random: Random) -> Batch<H> {
        let sizes = Sizes::mixed(&mut random);
        let mut turns: Vec<usize> = (0..BATCH).collect();
        match order {
            Order::Lifo => turns.reverse(),
            Order::Fifo => {}
            Order::Random => random.shuffle(&mut turns),
        }
        Batch { hand, sizes, blocks: vec![null_mut(); BATCH], order: turns }
    }
}

impl<H: Hand> Job for Batch<H> {
    fn step(&mut self) -> u64 {
        for block in &mut self.blocks {
            *block = self.hand.get(self.sizes.next());
        }
        for &turn in &self.order {
            self.hand.put(self.blocks[turn]);
        }
        BATCH as u64
    }
}

struct Growth<H> {
    hand: H,
    blocks: [(*mut u8, usize); 8],
    next: usize,
}

impl<H: Hand> Job for Growth<H> {
    fn step(&mut self) -> u64 {
        for _ in 0..STEP {
            self.next = (self.next + 1) % self.blocks.len();
            let (block, size) = &mut self.blocks[self.next];
            if *size >= 65536 {
                self.hand.put(*block);
                *size = 0;
            }
            if *size == 0 {
                (*block, *size) = (self.hand.get(16), 16);
            } else {
                *size += *size / 2;
                *block = self.hand.resize(*block, *size);
            }
        }
        STEP as u64
    }

    fn drain(&mut self) {
        for (block, _) in self.blocks.iter().filter(|(_, size)| *size > 0) {
            self.hand.put(*block);
        }
    }
}

struct Fill<H> {
    hand: H,
    sizes: Sizes,
    blocks: Vec<*mut u8>,
}

impl<H: Hand> Job for Fill<H> {
    fn step(&mut self) -> u64 {
        let mut left = 56 << 20;
        while left > 0 {
            let size = self.sizes.next();
            let block = self.hand.try_get(size);
            if block.is_null() {
                break;
            }
            self.blocks.push(block);
            left -= left.min(size);
        }
        let count = self.blocks.len();
        // By steps of a prime, which is no factor of the count: an order that is free to make.
        let stride = if count % 10_007 == 0 { 10_009 } else { 10_007 };
        for turn in 0..count {
            self.hand.put(self.blocks[turn * stride % count]);
        }
        self.blocks.clear();
        count as u64
    }
}
