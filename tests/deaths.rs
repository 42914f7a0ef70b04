//! Deaths of every sort, and what is none: who ended is found out, by whatever cause; who lives is
//! never taken for dead, whatever it looks like.

mod common;

use ::mempool::abi::*;
use ::mempool::layout::{Geometry, CACHE_BYTES, LOCK_OFFSET, NAMESPACE_OFFSET};
use common::child::{self, Child, End};
use common::crowd::{Crowd, Losses};
use common::memory::error;
use common::random::Random;
use common::worker::{fill_cache, gettid, is_stamped, stamp, Shared};
use common::{handle, options, Handle, Memory};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(120);
/// The tests that depend on chance go on until they had it so often, and at least for so long.
const LUCK: u64 = if cfg!(debug_assertions) { 10 } else { 20 };
const TID_MASK: u32 = 0x3fff_ffff;

fn chance() -> Duration {
    let seconds = std::env::var("MEMPOOL_TEST_SECONDS").ok();
    Duration::from_secs(seconds.and_then(|text| text.parse().ok()).unwrap_or(2))
}

/// Waits for what comes by itself.
#[track_caller]
fn until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(20), "in vain: {what}");
        std::thread::sleep(Duration::from_micros(100));
    }
}

// While a pool is made.

/// An init that its caller does not survive leaves the pool that was there, the new one, or none;
/// never half of one. And then the next one makes it.
#[test]
fn killed_inside_init_a_process_leaves_a_pool_or_none() {
    child::run(LIMIT + chance(), || {
        let memory = Memory::shared(1 << 20);
        let (mut random, start) = (Random(11), Instant::now());
        let (mut left, mut half) = (0, 0);
        while left < LUCK || half < LUCK || start.elapsed() < chance() {
            let old = handle::init(memory.base(), memory.len(), &options()).expect("init");
            fill_cache(old);
            let id = old.stats().pool_id;
            let child = child::fork(|| loop {
                let pool = handle::init(memory.base(), memory.len(), &options()).expect("init");
                pool.detach().expect("detach");
            });
            std::thread::sleep(Duration::from_micros(random.up_to(10) as u64));
            assert_eq!(child.kill(), End::Signal(libc::SIGKILL), "it gave up before");
            let found = handle::attach(memory.base(), memory.len(), &options());
            let pool = match found {
                Ok(pool) => {
                    left += 1;
                    pool
                }
                Err(status) => {
                    assert_eq!(status, MEMPOOL_ERR_NOT_A_POOL, "{}", handle::last_message());
                    half += 1;
                    make_after(&memory, random.below(2) == 0)
                }
            };
            let is_old = pool.stats().pool_id == id;
            assert!(!is_old || found.is_ok());
            let answer = old.malloc(64);
            assert_eq!(answer.is_ok(), is_old, "through the old handle");
            if let Ok(block) = answer {
                pool.free(block).expect("free");
            }
            fill_cache(pool);
            pool.must_check();
            assert_eq!(pool.stats().used_count, 0);
            pool.detach().expect("detach");
            old.detach().expect("detach");
        }
        eprintln!("{left} times a pool was left, {half} times none");
    });
}

/// Where nobody finished a pool: one is made, by init or by the first of those who open it.
fn make_after(memory: &Memory, is_init: bool) -> Handle {
    let (base, len) = (memory.base() as usize, memory.len());
    if is_init {
        return handle::init(memory.base(), len, &options()).expect("init");
    }
    let open = move || handle::open(base as *mut u8, len, &options()).expect("open");
    let other = std::thread::spawn(open);
    let (pool, created) = open();
    let (same, created_too) = other.join().expect("it ended well");
    assert!(created ^ created_too, "one of the two makes it");
    assert_eq!(pool.stats().pool_id, same.stats().pool_id);
    same.detach().expect("detach");
    pool
}

// The last process.

/// A file in the build folder, gone with its test.
struct TestFile(PathBuf);

impl TestFile {
    fn new(name: &str) -> TestFile {
        let name = format!("{name}-{}", std::process::id());
        let file = TestFile(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name));
        let _ = std::fs::remove_file(&file.0);
        file
    }
}

impl Drop for TestFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Nobody has the pool mapped any more: it is bytes in a file, until a process that knows nothing of
/// the others opens it.
#[test]
fn when_the_last_process_dies_the_file_is_the_pool() {
    child::run(LIMIT + chance(), || {
        let file = TestFile::new("pool");
        let crowd = Crowd::new(1, 16 << 10, false);
        let open = || {
            let memory = Memory::file(&file.0, 4 << 20);
            let (pool, created) =
                handle::open(memory.base(), memory.len(), &options()).expect("open");
            assert!(!created || crowd.calls() == 0, "there was a pool");
            Shared { memory, pool }
        };
        let judge = |losses: &Losses, is_last: bool| {
            let Shared { memory, pool } = open();
            crowd.all().for_each(|worker| crowd.take_over(worker, pool));
            crowd.judge(pool, losses);
            if is_last {
                crowd.give_back(pool);
                let first = pool.stats().overhead;
                Shared { memory, pool }.must_be_whole(first);
            }
        };
        let (mut random, start) = (Random(12), Instant::now());
        let (mut losses, mut deaths) = (Losses::default(), 0);
        while deaths < LUCK || start.elapsed() < chance() {
            let child = child::fork(|| {
                crowd.work(0, &open(), deaths);
                0
            });
            if deaths % 2 == 0 {
                crowd.must_go_on(0..1);
            }
            std::thread::sleep(Duration::from_micros(random.up_to(12) as u64));
            assert_eq!(child.kill(), End::Signal(libc::SIGKILL), "it gave up before");
            crowd.count_losses(0, &mut losses);
            deaths += 1;
            if deaths % 8 == 0 {
                // A process of its own here too: this one never maps the file.
                child::run(LIMIT, || judge(&losses, false));
                losses = Losses::default();
            }
        }
        child::run(LIMIT, || judge(&losses, true));
        eprintln!("{deaths} times the last process died, in {} calls", crowd.calls());
    });
}

/// What a sudden reboot leaves, were all pages written: the bytes as they were between two
/// instructions, a lock that names threads of another boot, which the kernel never told of.
#[test]
fn after_a_reboot_the_file_is_the_pool() {
    child::run(LIMIT + chance(), || {
        let mut crowd = Crowd::new(1, 16 << 10, false);
        let mut shared = Shared::with(Memory::shared(4 << 20), 0);
        let first = shared.pool.stats().top;
        let (mut random, start) = (Random(13), Instant::now());
        let (mut losses, mut boots, mut held) = (Losses::default(), 0, 0);
        let work = |crowd: &Crowd, shared: &Shared, seed| {
            child::fork(|| {
                crowd.work(0, shared, seed);
                0
            })
        };
        let mut running = work(&crowd, &shared, 0);
        while boots < LUCK || held == 0 || start.elapsed() < chance() {
            crowd.must_go_on(0..1);
            std::thread::sleep(Duration::from_micros(random.up_to(12) as u64));
            running.stop();
            let (memory, next) = (shared.memory.copy(), crowd.copy());
            memory.bytes_mut(LOCK_OFFSET + 4, 4)[0] ^= 1 + random.below(255) as u8;
            let owner = memory.bytes(LOCK_OFFSET, 4);
            held += u64::from(owner.iter().any(|&byte| byte != 0));
            let pool = handle::attach(memory.base(), memory.len(), &options()).expect("attach");
            assert_eq!(pool.stats().thread_caches, 0, "their threads are of another boot");
            pool.must_check();
            next.count_losses(0, &mut losses);
            let after = Shared { memory, pool };
            // The threads of "then" are still there, as others of their numbers might be.
            let heir = work(&next, &after, 1000 + boots);
            next.must_go_on(0..1);
            assert_eq!(running.kill(), End::Signal(libc::SIGKILL));
            (running, crowd, shared) = (heir, next, after);
            boots += 1;
        }
        crowd.stop(vec![running], LIMIT);
        crowd.all().for_each(|worker| crowd.take_over(worker, shared.pool));
        let lost = crowd.judge(shared.pool, &losses);
        eprintln!("{boots} boots, {held} with the lock held; {lost} blocks lost");
        crowd.give_back(shared.pool);
        shared.must_be_whole(first);
    });
}

// Who is dead, and who is not.

/// A pool, and who has a cache in it.
struct Scene {
    shared: Shared,
    geometry: Geometry,
    board: Memory,
}

/// What a child says of itself.
#[derive(Default)]
#[repr(C)]
struct Board {
    ready: AtomicU32,
    tid: AtomicU32,
    pid: AtomicU32,
    stop: AtomicU32,
    calls: AtomicU64,
}

impl Scene {
    fn new() -> Scene {
        let shared = Shared::with(Memory::shared(4 << 20), 0);
        let base = shared.memory.base() as usize;
        let geometry = Geometry::plan(base, shared.memory.len(), &::mempool::Options::default());
        let board = Memory::shared(size_of::<Board>());
        Scene { shared, geometry: geometry.expect("a pool"), board }
    }

    fn board(&self) -> &Board {
        // SAFETY: inside the mapping, aligned, atomics of which zero is a value.
        unsafe { &*self.board.base().cast::<Board>() }
    }

    fn pool(&self) -> Handle {
        self.shared.pool
    }

    /// In a child: has a cache from now on.
    fn claim(&self) {
        fill_cache(self.pool());
        self.board().tid.store(gettid(), SeqCst);
        self.board().ready.fetch_add(1, SeqCst);
    }

    /// A child that has a cache, and then does this.
    fn child(&self, body: impl FnOnce()) -> Child {
        self.board().ready.store(0, SeqCst);
        let child = child::fork(|| {
            self.claim();
            body();
            0
        });
        until("it has a cache", || self.board().ready.load(SeqCst) > 0);
        child
    }

    /// Of so many caches the owners are found dead, of no other.
    #[track_caller]
    fn must_recover(&self, dead: u64) {
        let pool = self.pool();
        let before = pool.stats().thread_caches;
        assert_eq!(pool.recover(), Ok(dead));
        assert_eq!(pool.stats().thread_caches, before - dead);
        pool.must_check();
    }

    /// When the thread of this number started, as its cache says.
    fn start_of(&self, tid: u32) -> &AtomicU64 {
        let at = |cache: u32| self.geometry.cache + cache as usize * CACHE_BYTES;
        let number = |at: usize| self.shared.memory.bytes(at, 4).try_into().expect("four bytes");
        let mut caches = (0..self.geometry.caches).map(at);
        let found = caches.find(|&at| u32::from_ne_bytes(number(at)) == tid).expect("its cache");
        // SAFETY: inside the mapping and aligned.
        unsafe { &*self.shared.memory.base().add(found + 8).cast::<AtomicU64>() }
    }
}

fn rest() {
    std::thread::sleep(LIMIT);
}

/// Who empties a magazine of the depot has taken it from there before: when he dies, his successor
/// hands it back with what is in it. (Deaths at such an instant are in tests/stepping and models too.)
#[test]
fn a_magazine_in_the_hands_of_the_locks_owner_is_not_lost() {
    const HOLDER: u32 = 0xfff;
    const OWNER_DIED: u32 = 1 << 30;
    child::run(LIMIT, || {
        let scene = Scene::new();
        let child = scene.child(rest);
        assert_eq!(child.kill(), End::Signal(libc::SIGKILL));
        scene.must_recover(1);
        let (pool, geometry) = (scene.pool(), &scene.geometry);
        let before = pool.stats();
        assert!(before.cached_count > 0 && before.thread_caches == 0, "all is the depot's");
        let word = |at: usize| {
            // SAFETY: inside the mapping and aligned.
            unsafe { &*scene.shared.memory.base().add(at).cast::<AtomicU32>() }
        };
        let stacks = (geometry.depot..geometry.cache).step_by(8);
        let full: Vec<usize> = stacks.filter(|&at| word(at).load(SeqCst) > 0).collect();
        assert!(full.len() > 3);
        for stack in full {
            let magazine = geometry.magazine_at(word(stack).load(SeqCst) - 1);
            word(stack).store(word(magazine + 4).load(SeqCst), SeqCst);
            word(magazine).store(HOLDER, SeqCst);
            scene.shared.word().store(OWNER_DIED, SeqCst);
            pool.check().expect("whoever comes next sees to it");
            assert_ne!(word(stack).load(SeqCst), 0, "it is back");
        }
        let after = pool.stats();
        assert_eq!(
            (after.cached_count, after.cached_size),
            (before.cached_count, before.cached_size)
        );
        pool.trim().expect("trim");
        scene.shared.must_be_whole(geometry.first as u64);
    });
}

#[test]
fn a_zombie_is_dead() {
    child::run(LIMIT, || {
        let scene = Scene::new();
        let child = scene.child(rest);
        scene.must_recover(0);
        child.signal(libc::SIGKILL);
        // Not waited for, its number is still its own.
        until("it ended", || stat_of(child.pid).starts_with('Z'));
        scene.must_recover(1);
        assert_eq!(child.kill(), End::Signal(libc::SIGKILL));
        scene.must_recover(0);
    });
}

/// A process goes on when its first thread has ended, whose number is then a zombie's.
#[test]
fn of_a_process_without_its_first_thread_only_that_one_is_dead() {
    child::run(LIMIT, || {
        let scene = Scene::new();
        let child = scene.child(|| {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    scene.claim();
                    rest();
                });
                until("the other has a cache", || scene.board().ready.load(SeqCst) == 2);
                // SAFETY: ends this thread and nothing else; what it has borrowed stays for the other.
                unsafe { libc::syscall(libc::SYS_exit, 0) };
            });
        });
        until("the first thread ended", || stat_of(child.pid).starts_with('Z'));
        let before = scene.pool().stats().thread_caches;
        scene.must_recover(1);
        assert_eq!(before, 2);
        assert_eq!(child.kill(), End::Signal(libc::SIGKILL));
        scene.must_recover(1);
    });
}

/// Another program in the same process: the number is the same, and so is the time of its start.
#[test]
fn who_became_another_program_lives() {
    child::run(LIMIT, || {
        let scene = Scene::new();
        let child = scene.child(|| {
            let arguments = [c"sleep".as_ptr(), c"120".as_ptr(), std::ptr::null()];
            // SAFETY: C strings, and NULL at their end.
            unsafe { libc::execvp(c"sleep".as_ptr(), arguments.as_ptr()) };
            panic!("no sleep: {}", error());
        });
        let name = format!("/proc/{}/comm", child.pid);
        until("it is sleep", || std::fs::read_to_string(&name).is_ok_and(|name| name == "sleep\n"));
        scene.must_recover(0);
        assert_eq!(scene.pool().malloc(4 << 20), Err(MEMPOOL_ERR_OUT_OF_MEMORY));
        scene.must_recover(0);
        assert_eq!(child.kill(), End::Signal(libc::SIGKILL));
        scene.must_recover(1);
    });
}

/// The state and what follows it in /proc/PID/stat; nothing if there is none.
fn stat_of(pid: libc::pid_t) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    text.rsplit(") ").next().unwrap_or_default().to_owned()
}

/// A process that has this number, if the kernel lets us choose: it does nothing.
fn with_number(pid: libc::pid_t) -> std::io::Result<Child> {
    let set_tid = [pid];
    // SAFETY: integers only; zero is "not asked for".
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.set_tid = set_tid.as_ptr() as u64;
    arguments.set_tid_size = 1;
    // SAFETY: as a fork; the child makes bare system calls, and nothing else.
    let got = unsafe {
        libc::syscall(libc::SYS_clone3, &arguments, size_of::<libc::clone_args>()) as libc::pid_t
    };
    if got == 0 {
        // SAFETY: asks the kernel for a signal at the parent's death; no memory is involved.
        unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        loop {
            // SAFETY: takes and touches nothing.
            unsafe { libc::syscall(libc::SYS_ppoll, 0, 0, 0, 0, 0) };
        }
    }
    if got < 0 {
        return Err(error());
    }
    Ok(Child { pid: got })
}

/// The number lives, but another process has it now.
#[test]
fn a_number_that_was_given_to_another_is_that_of_a_dead_one() {
    child::run(LIMIT, || {
        let scene = Scene::new();
        let child = scene.child(rest);
        let pid = child.pid;
        assert_eq!(child.kill(), End::Signal(libc::SIGKILL));
        // Times of start are told apart by hundredths of a second.
        std::thread::sleep(Duration::from_millis(50));
        match with_number(pid) {
            Ok(other) => {
                assert_eq!(other.pid, pid);
                assert_eq!(scene.pool().stats().thread_caches, 1);
                scene.must_recover(1);
                assert_eq!(other.kill(), End::Signal(libc::SIGKILL));
            }
            Err(error) => eprintln!("only by what its cache says: no number to be chosen: {error}"),
        }
        scene.pool().recover().expect("recover");
        // The same as its cache says it: the living one started at another time than the owner.
        let child = scene.child(rest);
        let start = scene.start_of(child.pid as u32);
        assert_ne!(start.load(SeqCst), 0);
        scene.must_recover(0);
        start.fetch_sub(1, SeqCst);
        scene.must_recover(1);
        assert_eq!(child.kill(), End::Signal(libc::SIGKILL));
    });
}

/// Where the start was not to be known, a living number is a living thread; a dead one is dead.
#[test]
fn in_doubt_about_its_start_a_thread_lives() {
    child::run(LIMIT, || {
        let scene = Scene::new();
        let child = scene.child(rest);
        scene.start_of(child.pid as u32).store(0, SeqCst);
        scene.must_recover(0);
        assert_eq!(child.kill(), End::Signal(libc::SIGKILL));
        scene.must_recover(1);
    });
}

/// Where numbers may mean threads of several namespaces, nothing follows from them.
#[test]
fn in_doubt_about_its_namespace_a_thread_lives() {
    child::run(LIMIT, || {
        let scene = Scene::new();
        let child = scene.child(rest);
        scene.shared.memory.bytes_mut(NAMESPACE_OFFSET, 4).fill(0xff);
        assert_eq!(child.kill(), End::Signal(libc::SIGKILL));
        scene.must_recover(0);
        assert_eq!(scene.pool().stats().thread_caches, 1);
        assert_eq!(scene.pool().malloc(4 << 20), Err(MEMPOOL_ERR_OUT_OF_MEMORY));
        scene.must_recover(0);
    });
}

/// The same of processes whose blocks the pool knows: they are kept until it is known that they are
/// dead; and found then, however far they lie behind others'.
#[test]
fn in_doubt_about_its_namespace_a_process_is_not_reaped() {
    child::run(LIMIT, || {
        let shared = Shared::with(Memory::shared(1 << 20), MEMPOOL_OWNER_TAGS);
        let pool = shared.pool;
        (0..3000).for_each(|_| assert!(pool.malloc(100).is_ok()));
        let child = child::fork(|| {
            let blocks = [100, 2000].map(|size| pool.malloc(size).expect("room"));
            pool.bind(b"kept", blocks[0]).expect("bind");
            0
        });
        assert_eq!(child.wait(LIMIT), Some(End::Exit(0)));
        let namespace = shared.memory.bytes_mut(NAMESPACE_OFFSET, 4);
        let known: [u8; 4] = namespace.try_into().expect("four");
        namespace.fill(0xff);
        assert_eq!(pool.reap().map(|_| ()), Err(MEMPOOL_ERR_BUSY));
        assert!(handle::last_message().contains("namespace"), "{}", handle::last_message());
        assert_eq!(pool.stats().used_count, 3002);
        shared.memory.bytes_mut(NAMESPACE_OFFSET, 4).copy_from_slice(&known);
        let reaped = pool.reap().expect("reap");
        assert_eq!((reaped.freed_count, reaped.kept_count), (1, 1), "what has a name is kept");
        assert_eq!(pool.stats().used_count, 3001);
        pool.must_check();
    });
}

/// A child that makes children with numbers of their own; false if that is forbidden here.
fn leave_namespace() -> bool {
    // SAFETY: of this process, which has one thread, no memory is involved.
    unsafe {
        libc::unshare(libc::CLONE_NEWPID) == 0
            || libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWPID) == 0
    }
}

/// In another namespace a thread has a number that is another's here: of the first process of the
/// machine, which sleeps, and whose end nobody waits for.
#[test]
fn a_process_of_another_namespace_is_neither_dead_nor_asleep() {
    child::run(LIMIT, || {
        let scene = Scene::new();
        let (pool, board) = (scene.pool(), scene.board());
        fill_cache(pool);
        let block = pool.malloc(100).expect("malloc");
        stamp(block, pool.offset(block), 100);
        let parent = child::fork(|| {
            if !leave_namespace() {
                return 1;
            }
            let child = child::fork(|| {
                scene.claim();
                while board.stop.load(SeqCst) == 0 {
                    let block = pool.malloc(200).expect("malloc");
                    stamp(block, pool.offset(block), 200);
                    pool.must_check();
                    assert!(is_stamped(block, pool.offset(block), pool.usable_size(block)));
                    pool.free(block).expect("free");
                    board.calls.fetch_add(1, SeqCst);
                }
                0
            });
            board.pid.store(child.pid as u32, SeqCst);
            match child.wait(LIMIT) {
                Some(End::Signal(libc::SIGKILL)) => 0,
                _ => 2,
            }
        });
        until("it has a cache, or may not", || {
            board.ready.load(SeqCst) > 0 && board.pid.load(SeqCst) > 0
                || stat_of(parent.pid).starts_with('Z')
        });
        if board.ready.load(SeqCst) == 0 {
            assert_eq!(parent.wait(LIMIT), Some(End::Exit(1)));
            eprintln!("no namespace is to be had here: what follows from it was not tried");
            return;
        }
        let (pid, tid) = (board.pid.load(SeqCst) as libc::pid_t, board.tid.load(SeqCst));
        assert_ne!(pid, tid as libc::pid_t, "its number there is another");
        for _ in 0..20 {
            scene.must_recover(0);
            pool.trim().expect("trim");
            let calls = board.calls.load(SeqCst);
            until("it goes on", || board.calls.load(SeqCst) > calls + 2);
        }
        // Stopped with the lock, for longer than a sleeper here would be believed.
        let signal = |signal| {
            // SAFETY: a child of our child, which has not been waited for.
            assert_eq!(unsafe { libc::kill(pid, signal) }, 0, "{}", error());
        };
        loop {
            signal(libc::SIGSTOP);
            until("it stopped", || stat_of(pid).starts_with('T'));
            if scene.shared.word().load(SeqCst) & TID_MASK == tid {
                break;
            }
            signal(libc::SIGCONT);
            std::thread::sleep(Duration::from_micros(200));
        }
        let start = Instant::now();
        let other = std::thread::spawn(move || {
            pool.must_check();
            start.elapsed()
        });
        std::thread::sleep(Duration::from_millis(2500));
        assert_eq!(scene.shared.word().load(SeqCst) & TID_MASK, tid, "the lock was stolen");
        signal(libc::SIGCONT);
        let waited = other.join().expect("its call ended well");
        assert!(waited >= Duration::from_millis(2500), "in after {waited:?}");
        // Its death with the lock is told by the kernel, which knows it by its number there.
        let before = pool.stats().recoveries;
        let mut deaths = 0;
        while pool.stats().recoveries == before {
            signal(libc::SIGSTOP);
            until("it stopped", || stat_of(pid).starts_with('T'));
            if scene.shared.word().load(SeqCst) & TID_MASK == tid {
                signal(libc::SIGKILL);
                deaths += 1;
                assert_eq!(parent.wait(LIMIT), Some(End::Exit(0)));
                pool.must_check();
                break;
            }
            signal(libc::SIGCONT);
        }
        assert_eq!((deaths, pool.stats().recoveries), (1, before + 1));
        assert!(is_stamped(block, pool.offset(block), pool.usable_size(block)));
        pool.free(block).expect("free");
        // What it had cached stays so until all is freed: by its number nobody knows that it ended.
        scene.must_recover(0);
        pool.free_all().expect("free_all");
        let stats = pool.stats();
        assert_eq!((stats.used_count, stats.cached_count), (0, 0));
    });
}
