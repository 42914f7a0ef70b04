//! Stopped, not dead: a process frozen inside a call delays those that need the lock it holds, and
//! nobody else, and nothing is taken from it.

mod common;

use ::mempool::abi::*;
use ::mempool::layout::{Geometry, CACHE_BYTES, MAGAZINE_BYTES};
use common::child::{self, Child, End};
use common::crowd::{Crowd, Losses};
use common::memory::error;
use common::random::Random;
use common::worker::{gettid, is_stamped, stamp, Shared};
use common::Memory;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(120);
/// Large enough that a few threads never come to the end of what they may cache.
const LEN: usize = 256 << 20;
/// Too large for shelves.
const UNLUCKY_SIZE: usize = LEN / 200;
const TID_MASK: u32 = 0x3fff_ffff;
const WAITERS: u32 = 1 << 31;
/// What has gone wrong if it takes this long.
const TOO_LONG: Duration = Duration::from_secs(20);

/// How many freezes of each kind there are at least, and for how long they go on.
fn freezes() -> u64 {
    if cfg!(debug_assertions) {
        10
    } else {
        60
    }
}

fn chance() -> Duration {
    let seconds = std::env::var("MEMPOOL_TEST_SECONDS").ok();
    Duration::from_secs(seconds.and_then(|text| text.parse().ok()).unwrap_or(4))
}

/// What those say of themselves who are not of the crowd.
#[derive(Default)]
#[repr(C)]
struct Board {
    stop: AtomicU32,
    /// The number of the thread that is in the lock nearly always.
    locker: AtomicU32,
    /// Calls of the one who has all it needs in its cache and the depot.
    hits: AtomicU64,
    /// Calls of the one who needs the lock for each.
    waits: AtomicU64,
}

/// A pool, who is frozen in it, and who is not.
struct Scene {
    shared: Shared,
    geometry: Geometry,
    crowd: Crowd,
    board: Memory,
    first: u64,
}

/// What may change under nobody's hands but the owner's: bytes, by their place in the buffer.
type Belongings = Vec<(usize, Vec<u8>)>;

impl Scene {
    fn new() -> Scene {
        let shared = Shared::with(Memory::shared(LEN), 0);
        let options = ::mempool::Options::default();
        let base = shared.memory.base() as usize;
        let geometry = Geometry::plan(base, shared.memory.len(), &options).expect("a pool");
        let mut crowd = Crowd::new(1, 1024, false);
        // What others have in the depot stays there, and nobody is dead.
        crowd.is_calm = true;
        let first = shared.pool.stats().top;
        Scene { shared, geometry, crowd, board: Memory::shared(size_of::<Board>()), first }
    }

    fn board(&self) -> &Board {
        // SAFETY: inside the mapping, aligned, atomics of which zero is a value.
        unsafe { &*self.board.base().cast::<Board>() }
    }

    /// Who is frozen: three threads that do everything, and one that is in the lock all the time.
    fn start_victim(&self, seed: u64) -> Child {
        child::fork(|| {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    self.board().locker.store(gettid(), SeqCst);
                    while !self.crowd.has_stopped() {
                        self.shared.pool.must_check();
                        self.shared.pool.stats();
                    }
                });
                self.crowd.work(0, &self.shared, seed);
            });
            0
        })
    }

    /// Who has all it needs: more blocks of a size than its magazines hold, which go to the depot and
    /// come back.
    fn start_lucky(&self) -> Child {
        child::fork(|| {
            let pool = self.shared.pool;
            while self.board().stop.load(Relaxed) == 0 {
                let blocks: [*mut u8; 200] = std::array::from_fn(|_| {
                    let block = pool.malloc(LUCKY_SIZE).expect("malloc");
                    stamp(block, pool.offset(block), LUCKY_SIZE);
                    self.board().hits.fetch_add(1, Relaxed);
                    block
                });
                for block in blocks {
                    assert!(is_stamped(block, pool.offset(block), LUCKY_SIZE));
                    pool.free(block).expect("free");
                    self.board().hits.fetch_add(1, Relaxed);
                }
            }
            0
        })
    }

    /// Who needs the lock for every call.
    fn start_unlucky(&self) -> Child {
        child::fork(|| {
            let pool = self.shared.pool;
            while self.board().stop.load(Relaxed) == 0 {
                let block = pool.malloc(UNLUCKY_SIZE).expect("malloc");
                stamp(block, pool.offset(block), UNLUCKY_SIZE);
                self.board().waits.fetch_add(1, Relaxed);
                pool.free(block).expect("free");
                self.board().waits.fetch_add(1, Relaxed);
            }
            0
        })
    }

    fn bytes(&self, at: usize, len: usize) -> Vec<u8> {
        self.shared.memory.bytes(at, len).to_vec()
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.shared.memory.bytes(at, 4).try_into().expect("four bytes"))
    }

    /// The caches of a process's threads, and their magazines. Of a stopped one they stay as they are.
    fn belongings(&self, process: &Child) -> Belongings {
        let geometry = &self.geometry;
        let is_its = |tid: u32| is_of(process, tid);
        let caches =
            (0..geometry.caches as usize).map(|cache| geometry.cache + cache * CACHE_BYTES);
        let caches = caches.filter(|&cache| is_its(self.word(cache)));
        let tokens: Vec<u32> = caches.clone().map(|cache| self.word(cache + 4)).collect();
        let magazines = (0..geometry.magazines).map(|magazine| geometry.magazine_at(magazine));
        let magazines = magazines.filter(|&magazine| tokens.contains(&self.word(magazine)));
        let caches = caches.map(|at| (at, self.bytes(at, CACHE_BYTES)));
        caches.chain(magazines.map(|at| (at, self.bytes(at, MAGAZINE_BYTES)))).collect()
    }

    /// The tops of the depot's stacks: they change whenever a magazine is exchanged.
    fn stacks(&self) -> Vec<u8> {
        self.bytes(self.geometry.depot, self.geometry.cache - self.geometry.depot)
    }

    fn owner(&self) -> u32 {
        self.shared.word().load(SeqCst) & TID_MASK
    }

    /// Waits until so many calls were made, as somebody counts them.
    #[track_caller]
    fn await_calls(&self, count: impl Fn(&Board) -> &AtomicU64, more: u64) {
        let (before, start) = (count(self.board()).load(Relaxed), Instant::now());
        while count(self.board()).load(Relaxed) < before + more {
            assert!(start.elapsed() < TOO_LONG, "no call returned");
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// The lock is held by a thread that does not run: the one goes on, through the depot too, the
    /// other waits, and nothing changes hands.
    fn hold_on(&self, tid: u32, pause: Duration) {
        let (stacks, start) = (self.stacks(), Instant::now());
        let waits = self.board().waits.load(SeqCst);
        self.await_calls(|board| &board.hits, 3000);
        assert_ne!(self.stacks(), stacks, "magazines go to the depot and come back");
        while self.shared.word().load(SeqCst) & WAITERS == 0 {
            assert!(start.elapsed() < TOO_LONG, "nobody waits for the lock");
            std::thread::sleep(Duration::from_micros(50));
        }
        std::thread::sleep(pause);
        self.await_calls(|board| &board.hits, 3000);
        assert_eq!(self.owner(), tid, "the lock was stolen");
        // One call may have ended before the freeze, and not been counted.
        let more = self.board().waits.load(SeqCst) - waits;
        assert!(more <= 1, "somebody was inside with it");
    }

    /// Nobody who is frozen has the lock: all go on, and what looks for the dead, or for memory, finds
    /// nothing to take.
    fn press_on(&self) {
        let pool = self.shared.pool;
        self.await_calls(|board| &board.hits, 1000);
        self.await_calls(|board| &board.waits, 10);
        assert_eq!(pool.recover(), Ok(0), "nobody is dead");
        assert_eq!(pool.malloc(LEN), Err(MEMPOOL_ERR_OUT_OF_MEMORY));
        pool.trim().expect("trim");
        pool.must_check();
        // The lucky one finds all it needs again.
        self.await_calls(|board| &board.hits, 4000);
    }

    fn end(self, victim: Child, others: [Child; 2]) {
        self.crowd.stop(vec![victim], LIMIT);
        self.board().stop.store(1, SeqCst);
        for child in others {
            assert_eq!(child.wait(LIMIT), Some(End::Exit(0)));
        }
        let pool = self.shared.pool;
        self.crowd.all().for_each(|worker| self.crowd.take_over(worker, pool));
        assert_eq!(self.crowd.judge(pool, &Losses::default()), 0);
        self.crowd.give_back(pool);
        let stats = pool.stats();
        assert_eq!((stats.used_count, stats.rejected_frees), (0, 0));
        self.shared.must_be_whole(self.first);
    }
}

/// No block of the crowd is as large, so that nobody takes these from the depot.
const LUCKY_SIZE: usize = 1500;

#[test]
fn frozen_at_random_a_process_delays_only_those_that_need_its_lock() {
    child::run(LIMIT + chance(), || {
        let scene = Scene::new();
        let (mut random, start) = (Random(9), Instant::now());
        let (victim, others) =
            (scene.start_victim(1), [scene.start_lucky(), scene.start_unlucky()]);
        scene.await_calls(|board| &board.hits, 10_000);
        scene.crowd.must_go_on(0..1);
        let (mut holding, mut not, mut had) = (0, 0, 0);
        while holding < freezes() || not < freezes() || start.elapsed() < chance() {
            std::thread::sleep(Duration::from_micros(random.up_to(11) as u64));
            victim.stop();
            let belongings = scene.belongings(&victim);
            had += usize::from(belongings.len() > 3);
            let tid = scene.owner();
            if is_of(&victim, tid) {
                // Once for longer than a sleeper would be believed.
                let pause = if holding == 5 { 2500 } else { 3 };
                scene.hold_on(tid, Duration::from_millis(pause));
                holding += 1;
            } else {
                scene.press_on();
                not += 1;
            }
            let now: Belongings =
                belongings.iter().map(|(at, bytes)| (*at, scene.bytes(*at, bytes.len()))).collect();
            assert_eq!(now, belongings, "something was taken from it");
            victim.go_on();
            if random.below(4) == 0 {
                scene.crowd.must_go_on(0..1);
                scene.await_calls(|board| &board.waits, 2);
            }
        }
        assert_eq!(scene.shared.pool.stats().recoveries, 0, "nobody died");
        eprintln!("{} freezes, {holding} of them with the lock held", holding + not);
        assert!(had as u64 > (holding + not) / 2, "it had caches");
        scene.crowd.must_go_on(0..1);
        scene.end(victim, others);
    });
}

/// A debugger may stop a thread alone: then the others of its process go on as well.
#[test]
fn one_thread_stopped_by_a_debugger_is_waited_for() {
    child::run(LIMIT, || {
        let scene = Scene::new();
        let (victim, others) =
            (scene.start_victim(2), [scene.start_lucky(), scene.start_unlucky()]);
        scene.await_calls(|board| &board.hits, 10_000);
        scene.crowd.must_go_on(0..1);
        let tid = scene.board().locker.load(SeqCst);
        trace(libc::PTRACE_SEIZE, tid);
        for pause in [20, 20, 20, 2500] {
            let start = Instant::now();
            loop {
                trace(libc::PTRACE_INTERRUPT, tid);
                await_stop(tid);
                if scene.owner() == tid {
                    break;
                }
                trace(libc::PTRACE_CONT, tid);
                assert!(start.elapsed() < TOO_LONG, "never found with the lock");
            }
            scene.hold_on(tid, Duration::from_millis(pause));
            trace(libc::PTRACE_CONT, tid);
            scene.await_calls(|board| &board.waits, 10);
            scene.crowd.must_go_on(0..1);
        }
        trace(libc::PTRACE_INTERRUPT, tid);
        await_stop(tid);
        trace(libc::PTRACE_DETACH, tid);
        assert_eq!(scene.shared.pool.stats().recoveries, 0, "nobody died");
        scene.end(victim, others);
    });
}

fn trace(request: libc::c_uint, tid: u32) {
    let none = std::ptr::null_mut::<c_void>();
    // SAFETY: a thread of a child of ours; no memory of this process is involved.
    let answer = unsafe { libc::ptrace(request, tid as libc::pid_t, none, none) };
    assert_eq!(answer, 0, "ptrace({request:#x}): {}", error());
}

fn await_stop(tid: u32) {
    let mut status = 0;
    // SAFETY: a thread that we trace, a valid status word.
    let got = unsafe { libc::waitpid(tid as libc::pid_t, &mut status, libc::__WALL) };
    assert_eq!(got, tid as libc::pid_t, "waitpid: {}", error());
    assert!(libc::WIFSTOPPED(status), "it ended instead: {status:#x}");
}

/// Through no call of the frozen one's neighbours is any block of it lost, be it held or in motion.
#[test]
fn a_frozen_process_among_others_that_die_keeps_all_it_has() {
    child::run(LIMIT, || {
        let shared = Shared::with(Memory::shared(8 << 20), 0);
        let (pool, first) = (shared.pool, shared.pool.stats().top);
        let crowd = Crowd::new(3, 16 << 10, false);
        let mut random = Random(10);
        let frozen = crowd.start(0, &shared, 0);
        let mut losses = Losses::default();
        let mut others: Vec<Child> = (1..3).map(|at| crowd.start(at, &shared, at as u64)).collect();
        crowd.must_go_on(0..3);
        let rounds = freezes();
        for round in 0..rounds {
            frozen.stop();
            let is_held = is_of(&frozen, shared.word().load(SeqCst) & TID_MASK);
            std::thread::sleep(Duration::from_micros(random.up_to(11) as u64));
            let at = 1 + random.below(2);
            let next = |seed| crowd.start(at, &shared, seed);
            // Should the frozen one have the lock, its heir waits too.
            let dying = std::mem::replace(&mut others[at - 1], Child { pid: 0 });
            assert_eq!(dying.kill(), End::Signal(libc::SIGKILL), "it gave up before");
            crowd.count_losses(at, &mut losses);
            others[at - 1] = next(100 + round);
            if !is_held {
                crowd.must_go_on(1..3);
            }
            frozen.go_on();
            crowd.must_go_on(0..3);
        }
        others.push(frozen);
        crowd.stop(others, LIMIT);
        crowd.all().for_each(|worker| crowd.take_over(worker, pool));
        let lost = crowd.judge(pool, &losses);
        eprintln!("{rounds} freezes and deaths; {lost} blocks lost");
        crowd.give_back(pool);
        shared.must_be_whole(first);
    });
}

/// Whether a process has a thread of this number.
fn is_of(process: &Child, tid: u32) -> bool {
    tid != 0 && std::path::Path::new(&format!("/proc/{}/task/{tid}", process.pid)).exists()
}
