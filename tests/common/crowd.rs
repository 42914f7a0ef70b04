//! A crowd: processes of several threads that churn one pool and may be killed anywhere, and what
//! each thread says of itself in memory that outlives it.
//!
//! ```text
//! slot       0 | a block | a block, RAW: delivered, not stamped yet | a block, MOVING: see the call
//! exchange   0 | a block | a block and a worker, who is just giving or taking it
//! call       0 | which call the worker is inside, and for which of its slots
//! ```
//!
//! All is written down before and after each call. So of a block that a dead one had no more is ever
//! unknown than how far that one call had come: a block is never lost between two calls.

use super::child::{self, Child, End, PANICKED};
use super::random::Random;
use super::worker::{gettid, is_stamped, keeps_stamp, stamp, stamped_size, Shared};
use super::{handle, options, Handle, Memory};
use ::mempool::abi::{MEMPOOL_BLOCK_LIVE, MEMPOOL_ERR_OUT_OF_MEMORY};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{compiler_fence, AtomicU32, AtomicU64, Ordering::*};
use std::thread::Scope;
use std::time::{Duration, Instant};

/// Threads of each process.
pub const THREADS: usize = 3;
/// How many blocks a worker holds at most.
const SLOTS: usize = 32;
/// Blocks on their way from one thread to another, of whichever process.
const EXCHANGE: usize = 64;

const RAW: u64 = 1 << 63;
const MOVING: u64 = 1 << 62;
/// From this bit on an exchange's word names a worker, by its number and one.
const WORKER_SHIFT: u32 = 48;
const OFFSET: u64 = (1 << WORKER_SHIFT) - 1;

/// What a worker is inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
enum Call {
    Get = 1,
    Move = 2,
    Free = 3,
    Grow = 4,
    /// What neither makes nor frees a block.
    Other = 5,
}

/// What a worker says of itself.
#[repr(C)]
pub struct Ledger {
    /// Its thread's number, as in the lock's word.
    pub tid: AtomicU32,
    _unused: u32,
    pub calls: AtomicU64,
    call: AtomicU64,
    /// Of the call under way: how many bytes it gets, or how many must survive its move.
    bytes: AtomicU64,
    slots: [AtomicU64; SLOTS],
}

/// All of this outlives whoever wrote it.
#[repr(C)]
struct Board {
    stop: AtomicU32,
    _unused: u32,
    exchange: [AtomicU64; EXCHANGE],
}

/// Program order is all that a death leaves to tell.
fn put(word: &AtomicU64, value: u64) {
    compiler_fence(SeqCst);
    word.store(value, Release);
    compiler_fence(SeqCst);
}

/// Ends the process, not just the thread that a check failed in.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // SAFETY: ends the process; what failed was said on stderr.
            unsafe { libc::_exit(PANICKED) };
        }
    }
}

/// What the dead were inside.
#[derive(Default)]
pub struct Losses {
    /// Calls of any kind.
    pub inside: u64,
    /// Those that could lose a block: each at most one.
    pub in_flight: u64,
    /// Of these, calls that were getting one: how many bytes.
    gets: Vec<usize>,
    /// Offsets of blocks that were being freed: each may still be there.
    frees: Vec<u64>,
    /// Offset and bytes of blocks that were being moved: each must be somewhere.
    moves: Vec<(u64, usize)>,
}

impl Losses {
    /// Those of another time, which were judged already.
    pub fn add(&mut self, judged: &Losses) {
        self.inside += judged.inside;
        self.in_flight += judged.in_flight;
        self.gets.clear();
        self.frees.clear();
        self.moves.clear();
    }

    /// Of these blocks, by offset and size, each is one that a call in flight may have left; and what
    /// was being moved is among them, in one place.
    fn must_explain(&self, pool: Handle, mut lost: BTreeMap<u64, usize>) {
        let (count, calls) = (lost.len() as u64, self.in_flight);
        assert!(count <= calls, "{count} blocks lost, by {calls} calls in flight");
        let mut gets = self.gets.clone();
        // By place: another may have got the old one since, and died over moving it again.
        let mut moves: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        self.moves.iter().for_each(|&(old, kept)| moves.entry(old).or_default().push(kept));
        for (&old, all_kept) in &moves {
            let kept = all_kept.iter().copied().min().unwrap_or(0);
            let is_it = |&(&at, &size): &(&u64, &usize)| {
                size >= kept && keeps_stamp(pool.pointer(at), old, kept)
            };
            let found: Vec<u64> = lost.iter().filter(is_it).map(|(&at, _)| at).collect();
            assert!(found.len() >= all_kept.len(), "{old:#x} died while it was moved");
            if found.len() > all_kept.len() && !self.frees.contains(&old) {
                // Or he was just getting it, while the old bytes still were there.
                let size = lost.get(&old).copied().unwrap_or(0);
                let fits = |&get: &usize| (get..=pool.good_size(get) + 32).contains(&size);
                let get = gets.iter().position(fits);
                gets.swap_remove(get.unwrap_or_else(|| panic!("{old:#x} is in {found:x?}")));
            }
            assert!(found.len() <= all_kept.len() + 1, "{old:#x} is in {found:x?}");
            lost.retain(|at, _| !found.contains(at));
        }
        for old in &self.frees {
            lost.remove(old);
        }
        let (rest, gets) = (lost.len(), gets.len());
        assert!(rest <= gets, "{rest} blocks lost, and {gets} calls were getting one");
    }
}

/// Processes that share a pool, and their ledgers.
pub struct Crowd {
    board: Memory,
    pub processes: usize,
    /// Blocks are of at most so many bytes.
    largest: usize,
    /// Half of them of at least so many.
    pub wide: Option<usize>,
    is_scarce: bool,
    /// Its threads do not end before they are told to, and leave alone what others have cached.
    pub is_calm: bool,
}

impl Crowd {
    /// Ledgers for so many processes. Where memory is scarce, calls may fail for it.
    pub fn new(processes: usize, largest: usize, is_scarce: bool) -> Crowd {
        let len = size_of::<Board>() + processes * THREADS * size_of::<Ledger>();
        let board = Memory::shared(len);
        Crowd { board, processes, largest, wide: None, is_scarce, is_calm: false }
    }

    /// The same as everybody left it.
    pub fn copy(&self) -> Crowd {
        Crowd { board: self.board.copy(), ..*self }
    }

    fn head(&self) -> &Board {
        // SAFETY: inside the mapping, aligned, atomics of which zero is a value.
        unsafe { &*self.board.base().cast::<Board>() }
    }

    /// The ledger of a worker, by its number among all.
    pub fn ledger(&self, worker: usize) -> &Ledger {
        assert!(worker < self.processes * THREADS);
        // SAFETY: as above.
        unsafe { &*self.board.base().add(size_of::<Board>()).cast::<Ledger>().add(worker) }
    }

    /// The workers of a process.
    pub fn workers(&self, process: usize) -> std::ops::Range<usize> {
        process * THREADS..(process + 1) * THREADS
    }

    /// All workers.
    pub fn all(&self) -> std::ops::Range<usize> {
        0..self.processes * THREADS
    }

    pub fn calls(&self) -> u64 {
        self.all().map(|worker| self.ledger(worker).calls.load(Relaxed)).sum()
    }

    pub fn has_stopped(&self) -> bool {
        self.head().stop.load(Relaxed) != 0
    }

    pub fn let_stop(&self, stop: bool) {
        self.head().stop.store(u32::from(stop), Relaxed);
    }

    /// Starts a process, which takes over the ledgers of the one before it.
    pub fn start(&self, process: usize, shared: &Shared, seed: u64) -> Child {
        child::fork(|| {
            self.work(process, shared, seed);
            0
        })
    }

    /// What a process of the crowd does.
    pub fn work(&self, process: usize, shared: &Shared, seed: u64) {
        let view = shared.memory.view();
        self.workers(process).for_each(|worker| self.take_over(worker, shared.pool));
        std::thread::scope(|scope| {
            for worker in self.workers(process) {
                // Some use what they inherited, some a handle and a mapping of their own.
                let own = (worker % THREADS == 1).then_some(&view);
                let seed = seed * THREADS as u64 + worker as u64;
                scope.spawn(move || self.live(scope, worker, shared.pool, own, seed));
            }
        });
    }

    /// A thread's life; at its end the next one begins, which claims a cache of its own.
    fn live<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        worker: usize,
        pool: Handle,
        view: Option<&'scope Memory>,
        seed: u64,
    ) {
        let _bomb = Bomb;
        let mut random = Random(seed);
        let ledger = self.ledger(worker);
        ledger.tid.store(gettid(), Relaxed);
        let attach =
            |view: &Memory| handle::attach(view.base(), view.len(), &options()).expect("attach");
        let own = view.map(|view| ledger.inside(Call::Other, 0, || attach(view)));
        let pool_here = own.unwrap_or(pool);
        let mut rest = 100 + random.below(4000);
        while rest > 0 && !self.has_stopped() {
            self.step(worker, pool_here, &mut random);
            rest -= usize::from(!self.is_calm);
        }
        if let Some(own) = own {
            ledger.inside(Call::Other, 0, || own.detach().expect("detach"));
        }
        if !self.has_stopped() {
            let seed = random.next();
            scope.spawn(move || self.live(scope, worker, pool, view, seed));
        }
    }

    /// One random thing with one random slot.
    fn step(&self, worker: usize, pool: Handle, random: &mut Random) {
        let ledger = self.ledger(worker);
        ledger.calls.fetch_add(1, Relaxed);
        if random.below(64) == 0 {
            return ledger.inside(Call::Other, 0, || self.look(pool, random));
        }
        let at = random.below(SLOTS);
        match ledger.slots[at].load(Relaxed) {
            0 if random.below(4) == 0 => self.take(worker, at, random),
            0 => self.get(ledger, at, pool, random),
            held => {
                let block = pool.pointer(held);
                assert!(is_stamped(block, held, pool.usable_size(block)), "lost {held:#x}");
                match random.below(10) {
                    0 | 1 => self.move_to(ledger, at, pool, random),
                    2 => self.grow(ledger, at, pool, random),
                    3..6 => self.give(worker, at, random),
                    6 => free(ledger, at, || pool.free_sized(block, pool.usable_size(block))),
                    _ => free(ledger, at, || pool.free(block)),
                }
            }
        }
    }

    fn look(&self, pool: Handle, random: &mut Random) {
        match random.below(16) {
            0..6 if !self.is_calm => pool.trim().expect("trim"),
            6 if !self.is_calm => pool.recover().map(|_| ()).expect("recover"),
            7 if random.below(4) == 0 => pool.must_check(),
            _ => {
                let stats = pool.stats();
                assert!(stats.cached_size * 8 <= stats.total, "{} are cached", stats.cached_size);
            }
        }
    }

    fn size(&self, random: &mut Random) -> usize {
        if let Some(wide) = self.wide.filter(|_| random.below(2) == 0) {
            return random.log_uniform(wide, self.largest);
        }
        match random.below(64) {
            0 => random.log_uniform(16, self.largest),
            1..8 => random.log_uniform(16, (self.largest / 16).max(64)),
            _ => 16 + random.below(400),
        }
    }

    /// A call that failed for want of memory, where that may be.
    fn is_refused(&self, answer: Result<*mut u8, handle::Status>) -> Option<*mut u8> {
        match answer {
            Ok(block) => Some(block),
            Err(MEMPOOL_ERR_OUT_OF_MEMORY) if self.is_scarce => None,
            Err(status) => panic!("{status}: {}", handle::last_message()),
        }
    }

    fn get(&self, ledger: &Ledger, at: usize, pool: Handle, random: &mut Random) {
        let size = self.size(random);
        put(&ledger.bytes, size as u64);
        ledger.inside(Call::Get, at, || {
            let answer = match random.below(8) {
                0 => pool.aligned_alloc(1 << random.below(10), size),
                1 => pool.calloc(1, size).inspect(|&block| {
                    // SAFETY: our own new block.
                    let bytes = unsafe { std::slice::from_raw_parts(block, size) };
                    assert!(bytes.iter().all(|&byte| byte == 0));
                }),
                _ => pool.malloc(size),
            };
            if let Some(block) = self.is_refused(answer) {
                put(&ledger.slots[at], pool.offset(block) | RAW);
            }
        });
        ledger.stamp(at, pool, size);
    }

    /// Longer or shorter, here or elsewhere.
    fn move_to(&self, ledger: &Ledger, at: usize, pool: Handle, random: &mut Random) {
        let (slot, size) = (&ledger.slots[at], self.size(random));
        let held = slot.load(Relaxed);
        let block = pool.pointer(held);
        let kept = stamped_size(block).min(size);
        put(&ledger.bytes, kept as u64);
        ledger.inside(Call::Move, at, || {
            put(slot, held | MOVING);
            match self.is_refused(pool.realloc(block, size)) {
                Some(moved) => {
                    assert!(keeps_stamp(moved, held, kept), "moved {held:#x}");
                    put(slot, pool.offset(moved) | RAW);
                }
                None => put(slot, held),
            }
        });
        ledger.stamp(at, pool, size);
    }

    fn grow(&self, ledger: &Ledger, at: usize, pool: Handle, random: &mut Random) {
        let slot = &ledger.slots[at];
        let held = slot.load(Relaxed);
        let block = pool.pointer(held);
        let size = stamped_size(block) + random.below(256);
        ledger.inside(Call::Grow, at, || match pool.expand(block, size) {
            Ok(()) => put(slot, held | RAW),
            Err(status) => assert_eq!(status, MEMPOOL_ERR_OUT_OF_MEMORY),
        });
        ledger.stamp(at, pool, size);
    }

    /// Hands a block on. While it changes hands the exchange names who is at it: whether it was his
    /// already, or still, his own slot tells.
    fn give(&self, worker: usize, at: usize, random: &mut Random) {
        let place = &self.head().exchange[random.below(EXCHANGE)];
        let slot = &self.ledger(worker).slots[at];
        let held = slot.load(Relaxed);
        let mine = held | mark(worker);
        if place.compare_exchange(0, mine, Relaxed, Relaxed).is_ok() {
            put(slot, 0);
            put(place, held);
        }
    }

    fn take(&self, worker: usize, at: usize, random: &mut Random) {
        let place = &self.head().exchange[random.below(EXCHANGE)];
        let held = place.load(Acquire);
        let is_free = held != 0 && held & !OFFSET == 0;
        let mine = held | mark(worker);
        if is_free && place.compare_exchange(held, mine, Acquire, Relaxed).is_ok() {
            put(&self.ledger(worker).slots[at], held);
            put(place, 0);
        }
    }

    /// Before a process is replaced: what its threads were inside. Once for each death.
    pub fn count_losses(&self, process: usize, losses: &mut Losses) {
        for worker in self.workers(process) {
            let ledger = self.ledger(worker);
            let call = ledger.call.swap(0, Relaxed);
            let slot = ledger.slots[call as usize >> 8].load(Relaxed);
            losses.inside += u64::from(call != 0);
            let is_moving = slot & MOVING != 0;
            match call & 0xff {
                call if call == Call::Get as u64 && slot == 0 => {
                    losses.gets.push(ledger.bytes.load(Relaxed) as usize);
                }
                call if call == Call::Free as u64 && is_moving => losses.frees.push(slot & OFFSET),
                call if call == Call::Move as u64 && is_moving => {
                    losses.moves.push((slot & OFFSET, ledger.bytes.load(Relaxed) as usize));
                }
                _ => continue,
            }
            losses.in_flight += 1;
        }
    }

    /// After a death, by whoever goes on with the ledger: all that it says must be so. May be
    /// repeated.
    pub fn take_over(&self, worker: usize, pool: Handle) {
        let ledger = self.ledger(worker);
        for (at, slot) in ledger.slots.iter().enumerate() {
            let held = slot.load(Relaxed);
            if held & MOVING != 0 {
                put(slot, 0);
            } else if held & RAW != 0 {
                ledger.stamp(at, pool, 16);
            } else if held != 0 {
                must_be_stamped(pool, held);
            }
        }
        for place in &self.head().exchange {
            let held = place.load(Relaxed);
            if held != 0 && held & !OFFSET == mark(worker) {
                let held = held & OFFSET;
                let is_his = ledger.slots.iter().any(|slot| slot.load(Relaxed) == held);
                put(place, if is_his { 0 } else { held });
            }
        }
    }

    /// In the quiet: every block that is written down, and that none is twice.
    fn recorded(&self, pool: Handle) -> BTreeSet<u64> {
        let slots = self.all().flat_map(|worker| &self.ledger(worker).slots);
        let mut recorded = BTreeSet::new();
        for held in slots.chain(&self.head().exchange).map(|slot| slot.load(Relaxed)) {
            if held != 0 {
                must_be_stamped(pool, held);
                assert!(recorded.insert(held), "two hold {held:#x}");
            }
        }
        recorded
    }

    /// In the quiet, all ledgers taken over: what is written down is there, and what is live besides
    /// are blocks that calls in flight were getting, freeing or moving. These are freed. Returns how
    /// many they were.
    pub fn judge(&self, pool: Handle, losses: &Losses) -> u64 {
        // A block that a dead thread's cache was about to deliver is not lost, and looks live.
        pool.recover().expect("recover");
        pool.must_check();
        let recorded = self.recorded(pool);
        let live = pool.walk().into_iter().filter(|block| block.state == MEMPOOL_BLOCK_LIVE);
        let mut lost: BTreeMap<u64, usize> =
            live.map(|block| (block.offset, block.size as usize)).collect();
        for held in &recorded {
            assert!(lost.remove(held).is_some(), "{held:#x} is held, and no walk shows it");
        }
        losses.must_explain(pool, lost.clone());
        let count = lost.len() as u64;
        lost.into_keys().for_each(|at| pool.free(pool.pointer(at)).expect("free"));
        assert_eq!(pool.stats().used_count, recorded.len() as u64);
        count
    }

    /// In the quiet: all that is written down goes back.
    pub fn give_back(&self, pool: Handle) {
        let slots = self.all().flat_map(|worker| &self.ledger(worker).slots);
        for slot in slots.chain(&self.head().exchange) {
            let held = slot.swap(0, Relaxed);
            if held != 0 {
                pool.free(pool.pointer(held)).expect("free");
            }
        }
    }

    /// Each of these processes returns from its calls.
    #[track_caller]
    pub fn must_go_on(&self, processes: impl Iterator<Item = usize>) {
        let (start, workers) =
            (Instant::now(), processes.flat_map(|process| self.workers(process)));
        let calls = |worker: usize| self.ledger(worker).calls.load(Relaxed);
        let before: Vec<(usize, u64)> = workers.map(|worker| (worker, calls(worker))).collect();
        for (worker, before) in before {
            while calls(worker) < before + 10 {
                let is_patient = start.elapsed() < Duration::from_secs(20);
                assert!(is_patient, "worker {worker}: no call returned for 20 s");
                std::thread::yield_now();
            }
        }
    }

    /// Ends the processes in order.
    pub fn stop(&self, children: Vec<Child>, limit: Duration) {
        self.let_stop(true);
        for child in children {
            assert_eq!(child.wait(limit), Some(End::Exit(0)));
        }
        self.let_stop(false);
    }
}

impl Ledger {
    /// Makes a call, and says so before and after it.
    fn inside<T>(&self, call: Call, slot: usize, work: impl FnOnce() -> T) -> T {
        put(&self.call, call as u64 | (slot as u64) << 8);
        let answer = work();
        put(&self.call, 0);
        answer
    }

    /// Stamps a slot's block, if it has a new one.
    fn stamp(&self, at: usize, pool: Handle, size: usize) {
        let held = self.slots[at].load(Relaxed);
        if held & RAW != 0 {
            let offset = held & OFFSET;
            let block = pool.pointer(offset);
            assert!(pool.usable_size(block) >= size, "{offset:#x} was delivered, and is gone");
            stamp(block, offset, size);
            put(&self.slots[at], offset);
        }
    }
}

fn mark(worker: usize) -> u64 {
    (worker as u64 + 1) << WORKER_SHIFT
}

fn must_be_stamped(pool: Handle, held: u64) {
    let block = pool.pointer(held);
    let usable = pool.usable_size(block);
    assert!(usable > 0, "the block at {held:#x} was delivered, and is gone");
    assert!(is_stamped(block, held, usable), "the block at {held:#x} has other bytes");
}

fn free(ledger: &Ledger, at: usize, call: impl FnOnce() -> Result<(), handle::Status>) {
    let slot = &ledger.slots[at];
    let held = slot.load(Relaxed);
    ledger.inside(Call::Free, at, || {
        put(slot, held | MOVING);
        call().expect("free");
        put(slot, 0);
    });
}
