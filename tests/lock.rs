//! The lock, among processes that really die: killed inside calls, stopped, or a single thread of
//! them ended; and words that no owner ever wrote.

mod common;

use ::mempool::abi::*;
use ::mempool::layout::{FIRST_OFFSET, LOCK_OFFSET};
use common::child::{self, Child, End};
use common::random::Random;
use common::worker::{end_inside, free_the_lost, gettid, is_stamped, stamp, Log, Shared, Worker};
use common::{handle, options, Memory, Options};
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::time::{Duration, Instant};

/// Nothing here may take longer, and what hangs is killed then.
const LIMIT: Duration = Duration::from_secs(120);
/// The tests that depend on chance go on until they had it so often, and at least for so long.
const LUCK: u64 = 20;

fn chance() -> Duration {
    let seconds = std::env::var("MEMPOOL_TEST_SECONDS").ok();
    Duration::from_secs(seconds.and_then(|text| text.parse().ok()).unwrap_or(6))
}

const TID_MASK: u32 = 0x3fff_ffff;
const WAITERS: u32 = 1 << 31;
const OWNER_DIED: u32 = 1 << 30;

/// Every call takes the lock.
fn no_caches() -> Options {
    Options { flags: MEMPOOL_NO_THREAD_CACHES, ..options() }
}

fn shared(len: usize) -> Shared {
    pool_in(Memory::shared(len))
}

fn pool_in(memory: Memory) -> Shared {
    Shared::with(memory, no_caches().flags)
}

/// Stops a worker at a moment when it holds the lock.
fn stop_inside(shared: &Shared, child: &Child, worker: &Worker) {
    let start = Instant::now();
    loop {
        child.stop();
        let tid = worker.tid.load(Relaxed);
        if tid != 0 && shared.word().load(Relaxed) & TID_MASK == tid {
            return;
        }
        child.go_on();
        assert!(start.elapsed() < Duration::from_secs(30), "never found inside a call");
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// Returns when the word says that somebody sleeps, and no worker of these gets on.
fn all_wait(shared: &Shared, log: &Log, workers: &[usize]) {
    let start = Instant::now();
    let calls = || workers.iter().map(|&at| log.worker(at).calls.load(Relaxed)).sum::<u64>();
    loop {
        let before = calls();
        std::thread::sleep(Duration::from_millis(20));
        if shared.word().load(Relaxed) & WAITERS != 0 && calls() == before {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "nobody waits for the lock");
    }
}

#[test]
fn killed_inside_a_call_a_process_is_followed_at_once() {
    child::run(LIMIT, || {
        let shared = shared(1 << 20);
        let (pool, first) = (shared.pool, shared.pool.stats().top);
        let log = Log::new(3);
        let workers = [0, 1, 2].map(|at| log.worker(at));
        let mut owner = workers[0].start(pool, 0);
        let mut waiter = workers[1].start(pool, 1);
        let other = workers[2].start(pool, 2);
        let (mut slowest, mut deaths) = (Duration::ZERO, 0);
        for round in 0..60 {
            stop_inside(&shared, &owner, workers[0]);
            all_wait(&shared, &log, &[1, 2]);
            if round % 3 == 0 {
                // One of those asleep dies first: its wake-up must not be lost with it.
                assert_eq!(waiter.kill(), End::Signal(libc::SIGKILL));
                deaths += 1;
                workers[1].settle(pool);
                waiter = workers[1].start(pool, round);
            }
            let before = [1, 2].map(|at| log.worker(at).calls.load(Relaxed));
            let start = Instant::now();
            assert_eq!(owner.kill(), End::Signal(libc::SIGKILL));
            deaths += 1;
            while [1, 2].iter().zip(before).all(|(&at, n)| log.worker(at).calls.load(Relaxed) == n)
            {
                assert!(start.elapsed() < Duration::from_secs(20), "the waiters sleep on");
                std::hint::spin_loop();
            }
            slowest = slowest.max(start.elapsed());
            workers[0].settle(pool);
            assert_eq!(pool.stats().recoveries, round + 1, "found out, once");
            owner = workers[0].start(pool, 100 + round);
        }
        eprintln!("60 owners killed; the next one was in after {slowest:?} at most");
        workers.iter().for_each(|worker| worker.stop.store(1, Relaxed));
        for child in [owner, waiter, other] {
            assert_eq!(child.wait(LIMIT), Some(End::Exit(0)));
        }
        workers.iter().for_each(|worker| worker.give_back(pool));
        free_the_lost(pool, deaths);
        shared.must_be_whole(first);
    });
}

/// Stops a worker inside a call, for as long as each of these says: another waits for it, and
/// goes on after it.
fn stopped_inside(pauses: &[Duration]) {
    let shared = shared(1 << 20);
    let (pool, first) = (shared.pool, shared.pool.stats().top);
    let log = Log::new(2);
    let workers = [0, 1].map(|at| log.worker(at));
    let children = [0, 1].map(|at| workers[at].start(pool, at as u64));
    for pause in pauses {
        stop_inside(&shared, &children[0], workers[0]);
        let tid = workers[0].tid.load(Relaxed);
        all_wait(&shared, &log, &[1]);
        let calls = workers[1].calls.load(Relaxed);
        std::thread::sleep(*pause);
        assert_eq!(shared.word().load(Relaxed) & TID_MASK, tid, "the lock was stolen");
        assert_eq!(workers[1].calls.load(Relaxed), calls, "somebody was inside with it");
        children[0].go_on();
        workers.iter().for_each(|worker| worker.must_go_on());
    }
    workers.iter().for_each(|worker| worker.stop.store(1, Relaxed));
    for child in children {
        assert_eq!(child.wait(LIMIT), Some(End::Exit(0)), "all went on");
    }
    assert_eq!(pool.stats().recoveries, 0, "nobody died");
    workers.iter().for_each(|worker| worker.give_back(pool));
    shared.must_be_whole(first);
}

#[test]
fn stopped_inside_a_call_a_process_is_waited_for() {
    // The last time for longer than a sleeper would be believed.
    let pauses = [20, 20, 20, 20, 20, 300, 3000].map(Duration::from_millis);
    child::run(LIMIT, || stopped_inside(&pauses));
}

// Threads that end inside a call, while their process goes on.

#[test]
fn a_thread_that_ends_inside_a_call_is_cleaned_up_after() {
    child::run(LIMIT + chance(), || {
        for memory in [Memory::shared(8 << 20), Memory::private(8 << 20)] {
            let shared = pool_in(memory);
            let (pool, first) = (shared.pool, shared.pool.stats().top);
            let log = Log::new(2);
            let [doomed, living] = [0, 1].map(|at| log.worker(at));
            let mut random = Random(3);
            let mut ended = 0;
            std::thread::scope(|scope| {
                scope.spawn(|| living.work(pool, 2));
                let start = Instant::now();
                while start.elapsed() < chance() / 4 || pool.stats().recoveries < LUCK {
                    doomed.tid.store(0, Relaxed);
                    let has_begun = || doomed.tid.load(Relaxed) != 0;
                    let after = Duration::from_micros(random.below(500) as u64);
                    end_inside(pool, doomed, 1, has_begun, after);
                    ended += 1;
                    doomed.settle(pool);
                    if ended % 64 == 0 {
                        pool.must_check();
                        living.must_go_on();
                    }
                }
                living.stop.store(1, Relaxed);
            });
            let recoveries = pool.stats().recoveries;
            eprintln!("{ended} threads ended, {recoveries} of them holding the lock");
            doomed.give_back(pool);
            living.give_back(pool);
            free_the_lost(pool, ended);
            shared.must_be_whole(first);
        }
    });
}

#[test]
fn what_a_thread_held_outlives_it() {
    for flags in [0, no_caches().flags] {
        let shared = Shared::with(Memory::shared(1 << 20), flags);
        let (pool, first) = (shared.pool, shared.pool.stats().top);
        let blocks = std::thread::spawn(move || {
            [16, 100, 1000].map(|size| {
                let block = pool.malloc(size).expect("malloc");
                stamp(block, pool.offset(block), size);
                pool.offset(block)
            })
        });
        for offset in blocks.join().expect("it ended well") {
            let block = pool.pointer(offset);
            assert!(is_stamped(block, offset, pool.usable_size(block)));
            pool.free(block).expect("free");
        }
        shared.must_be_whole(first);
        assert_eq!(pool.stats().recoveries, 0, "nobody died");
    }
}

/// A child has its own copy of a private pool, with the lock as it was: held by a thread that the
/// child does not have.
#[test]
fn a_forked_childs_copy_of_a_held_lock_is_freed() {
    child::run(LIMIT, || {
        let shared = pool_in(Memory::private(1 << 20));
        let (pool, first) = (shared.pool, shared.pool.stats().top);
        let log = Log::new(1);
        let worker = log.worker(0);
        let (mut children, mut held) = (0, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| worker.work(pool, 1));
            worker.must_go_on();
            while children < 300 || held < LUCK {
                children += 1;
                let child = child::fork(|| {
                    let is_held = shared.word().load(Relaxed) != 0;
                    let block = pool.malloc(100).expect("malloc");
                    pool.must_check();
                    pool.free(block).expect("free");
                    i32::from(is_held)
                });
                match child.wait(LIMIT) {
                    Some(End::Exit(0)) => {}
                    Some(End::Exit(1)) => held += 1,
                    end => panic!("the child: {end:?}"),
                }
                worker.must_go_on();
            }
            worker.stop.store(1, Relaxed);
        });
        eprintln!("{children} children, {held} with the lock held");
        assert_eq!(pool.stats().recoveries, 0, "the parent's pool is another one");
        worker.give_back(pool);
        shared.must_be_whole(first);
    });
}

// Words that no owner wrote.

/// With the lock's word overwritten, calls by two threads end in time, well or with CORRUPTED.
/// Whether they ended well.
fn endure(shared: &Shared, word: u32, limit: Duration) -> bool {
    shared.word().store(word, Relaxed);
    let pool = shared.pool;
    let call = move || {
        let start = Instant::now();
        let answer = pool.malloc(100).and_then(|block| pool.free(block));
        assert!(start.elapsed() < limit, "word {word:#x}: {:?}", start.elapsed());
        match answer {
            Ok(()) => true,
            Err(MEMPOOL_ERR_CORRUPTED) => false,
            Err(status) => panic!("word {word:#x}: {status}: {}", handle::last_message()),
        }
    };
    let (here, there) = std::thread::scope(|scope| {
        let there = scope.spawn(call);
        (call(), there.join().expect("it ended well"))
    });
    assert_eq!(here, there, "word {word:#x}");
    if here {
        pool.must_check();
        assert_eq!(shared.word().load(Relaxed), 0, "free again");
    }
    here
}

/// A thread of this process that never ends, and its number.
fn thread(mut body: impl FnMut() + Send + 'static) -> u32 {
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        send.send(gettid()).expect("the test waits for it");
        loop {
            body();
        }
    });
    receive.recv().expect("it started")
}

fn sleep_long() {
    std::thread::sleep(Duration::from_secs(3600));
}

/// A number that a process had that has ended.
fn dead() -> u32 {
    let child = child::fork(|| 0);
    let pid = child.pid as u32;
    assert_eq!(child.wait(LIMIT), Some(End::Exit(0)));
    pid
}

#[test]
fn a_word_that_names_nobody_is_taken_over() {
    child::run(LIMIT, || {
        for memory in [Memory::shared(1 << 16), Memory::private(1 << 16)] {
            let shared = pool_in(memory);
            let mut random = Random(4);
            let (me, dead) = (gettid(), dead());
            let mut words = vec![me, dead, 0x3fff_ffff, 0x2000_0000, OWNER_DIED, 0];
            words.extend((0..20).map(|_| random.next() as u32 | 0x2000_0000));
            for word in words {
                for bits in [0, WAITERS, OWNER_DIED, WAITERS | OWNER_DIED] {
                    let well = endure(&shared, word | bits, Duration::from_secs(10));
                    assert!(well, "nobody has {word:#x}, yet: {}", handle::last_message());
                }
            }
        }
    });
}

#[test]
fn that_there_is_no_root_leaves_errno_alone() {
    child::run(LIMIT, || {
        let shared = shared(1 << 16);
        // Asking the kernel about this one has an answer that is an error.
        shared.word().store(dead(), Relaxed);
        assert_eq!(shared.pool.root(), Ok(std::ptr::null_mut()));
        assert_eq!(shared.word().load(Relaxed), 0, "taken over");
    });
}

#[test]
fn a_word_that_names_a_sleeper_ends_in_time() {
    child::run(LIMIT, || {
        // SAFETY: takes and touches nothing.
        let parent = unsafe { libc::getppid() } as u32;
        let ours = thread(sleep_long);
        for is_shared in [true, false] {
            for tid in [ours, parent, 1] {
                let len = 1 << 16;
                let memory = if is_shared { Memory::shared(len) } else { Memory::private(len) };
                let shared = pool_in(memory);
                let well = endure(&shared, tid, Duration::from_secs(45));
                // Another process cannot have written into private memory.
                let can_be = is_shared || tid == ours;
                assert_eq!(well, !can_be, "{tid} in memory that is shared: {is_shared}");
                let again = handle::init(shared.memory.base(), len, &no_caches()).expect("init");
                again.malloc(16).expect("a new pool works");
            }
        }
    });
}

/// A thread that is in the lock nearly always, and takes it again as soon as it has given it back, lets
/// others in: one that looks at a pool again and again, say.
#[test]
fn who_waits_for_long_goes_first() {
    const MOST: u64 = 200;
    child::run(LIMIT, || {
        let shared = shared(64 << 20);
        let pool = shared.pool;
        // So that a look at all of them takes long.
        let count = if cfg!(debug_assertions) { 1000 } else { 20_000 };
        (0..count).for_each(|_| _ = pool.malloc(1000).expect("malloc"));
        let (is_over, looks) = (AtomicBool::new(false), AtomicU64::new(0));
        let (mut calls, mut worst) = (0, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Relaxed) {
                    pool.must_check();
                    looks.fetch_add(1, Relaxed);
                }
            });
            let start = Instant::now();
            while start.elapsed() < chance() / 2 || looks.load(Relaxed) < 5 * MOST {
                let before = looks.load(Relaxed);
                let block = pool.malloc(1000).expect("malloc");
                worst = worst.max(looks.load(Relaxed) - before);
                pool.free(block).expect("free");
                calls += 1;
            }
            is_over.store(true, Relaxed);
        });
        eprintln!("{calls} calls, before one of which others were in the lock {worst} times");
        assert!(worst < MOST, "others were in the lock {worst} times while one waited");
    });
}

/// What says who goes first is a hint: a number of nobody's, or of one who does not come, delays
/// each owner once, and not for long.
#[test]
fn who_goes_first_and_does_not_come_is_forgotten() {
    child::run(LIMIT, || {
        let shared = shared(1 << 16);
        let pool = shared.pool;
        for first in [1, dead(), thread(sleep_long), gettid(), TID_MASK, 1 << 30, 1 << 31, u32::MAX]
        {
            let mut delays = [(); 21].map(|()| {
                let start = Instant::now();
                shared.memory.bytes_mut(FIRST_OFFSET, 4).copy_from_slice(&first.to_ne_bytes());
                pool.free(pool.malloc(100).expect("malloc")).expect("free");
                assert_eq!(shared.memory.bytes(FIRST_OFFSET, 4), [0; 4]);
                start.elapsed()
            });
            delays.sort(); // single ones may be the machine's
            assert!(delays[10] < Duration::from_millis(100), "{first:#x}: {delays:?}");
        }
        assert_eq!(pool.stats().recoveries, 0);
    });
}

/// An owner can die when it has given the lock back and has not yet woken who sleeps; if another has taken
/// it by then, the kernel wakes nobody, nor does that other, which knows of nobody. A nap's end does:
/// whatever nap it is that is slept when nobody calls.
#[test]
fn a_wake_up_that_died_is_made_up_for_by_the_end_of_a_nap() {
    child::run(LIMIT, || {
        let shared = shared(1 << 16);
        let (pool, word) = (shared.pool, shared.word());
        let (owner, other) = (thread(sleep_long), thread(sleep_long));
        let waits_for = |owner: u32| {
            while word.load(Relaxed) != owner | WAITERS {
                std::thread::yield_now();
            }
        };
        for asleep in [1, 20, 70, 150].map(Duration::from_millis) {
            let mut delays = [(); 5].map(|()| {
                word.store(owner, Relaxed);
                std::thread::scope(|scope| {
                    let waiter = scope.spawn(|| pool.free(pool.malloc(100).expect("malloc")));
                    waits_for(owner);
                    std::thread::sleep(asleep);
                    let taken = Instant::now();
                    word.store(other, Relaxed);
                    waits_for(other);
                    let delay = taken.elapsed();
                    word.store(0, Relaxed);
                    waiter.join().expect("it ended well").expect("free");
                    delay
                })
            });
            delays.sort(); // single ones may be the machine's
            eprintln!("after {asleep:?} a nap ended in {delays:?}");
            assert!(delays[2] < Duration::from_millis(300), "after {asleep:?}: {delays:?}");
        }
        assert_eq!(pool.stats().recoveries, 0);
    });
}

/// A profiler's timer, say: waiting is not over, nor begun again, when a signal comes.
#[test]
fn signals_make_no_wait_longer() {
    extern "C" fn nothing(_signal: c_int) {}
    child::run(LIMIT, || {
        let shared = shared(1 << 16);
        let asleep = thread(sleep_long);
        // SAFETY: all zero is valid for both; the handler does nothing.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as extern "C" fn(c_int) as usize;
            assert_eq!(libc::sigaction(libc::SIGALRM, &action, std::ptr::null_mut()), 0);
            let millisecond = libc::timeval { tv_sec: 0, tv_usec: 1000 };
            let timer = libc::itimerval { it_interval: millisecond, it_value: millisecond };
            assert_eq!(libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()), 0);
        }
        assert!(endure(&shared, dead(), Duration::from_secs(10)), "nobody holds it");
        assert!(!endure(&shared, asleep, Duration::from_secs(45)), "somebody may hold it");
    });
}

/// A thread that does something may be inside a call for long, and so may one whose number means
/// nobody here, if it is from another namespace: both are believed for half a minute. One that
/// is stopped is believed for longer: somebody debugs it.
#[test]
fn doubt_lasts_half_a_minute() {
    let limit = Duration::from_secs(60);
    let busy = child::fork(|| {
        let shared = shared(1 << 16);
        i32::from(endure(&shared, thread(std::hint::spin_loop), limit))
    });
    let elsewhere = child::fork(|| {
        let shared = shared(1 << 16);
        // The namespace of the numbers: not this one.
        shared.memory.bytes_mut(LOCK_OFFSET + 8, 4).fill(0xff);
        i32::from(endure(&shared, dead(), limit))
    });
    let stopped = child::fork(|| {
        stopped_inside(&[Duration::from_secs(33)]);
        0
    });
    for (child, name) in [(busy, "busy"), (elsewhere, "elsewhere"), (stopped, "stopped")] {
        assert_eq!(child.wait(LIMIT), Some(End::Exit(0)), "{name}");
    }
}

/// The word beside it tells which boot of the machine the lock belongs to.
#[test]
fn random_bytes_over_word_and_boot_never_hang_a_call() {
    child::run(LIMIT, || {
        let memory = Memory::shared(1 << 16);
        let mut random = Random(5);
        for _ in 0..300 {
            let pool = handle::init(memory.base(), memory.len(), &no_caches()).expect("init");
            for word in memory.bytes_mut(LOCK_OFFSET, 8).chunks_mut(4) {
                let value = random.next() as u32;
                match random.below(4) {
                    0 => {}
                    1 => word.fill(0),
                    // No thread has such a number: one that lives would cost seconds.
                    2 => word.copy_from_slice(&(value | 0x2000_0000).to_ne_bytes()),
                    _ => word.fill(0xff),
                }
            }
            let start = Instant::now();
            let attached = handle::attach(memory.base(), memory.len(), &options());
            for pool in [Ok(pool), attached].into_iter().flatten() {
                let block = pool.malloc(100).expect("nobody holds it");
                pool.free(block).expect("free");
                pool.must_check();
            }
            assert_eq!(attached.map(|_| ()), Ok(()));
            assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        }
    });
}
