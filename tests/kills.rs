//! Killed at random: processes of several threads churn one pool, one or two of them are killed at
//! a random moment and replaced, over and over, and nothing is lost but what a call in flight was
//! just getting or giving back.

mod common;

use ::mempool::abi::*;
use ::mempool::layout::GUARD_BYTES;
use common::child::{self, Child, End};
use common::crowd::{Crowd, Losses};
use common::random::Random;
use common::worker::Shared;
use common::{handle, options, Memory, Options};
use std::time::{Duration, Instant};

const PROCESSES: usize = 3;
/// So many kills, then a rest in which everything is counted.
const ROUND: u64 = 10;
/// As many as there are tests of this kind below.
const SORTS: u64 = 7;

/// How often a process is killed, by all of these tests together.
fn kills_of_all() -> u64 {
    let wanted = std::env::var("MEMPOOL_TEST_KILLS").ok();
    let wanted = wanted.map_or(1000, |text| text.parse().expect("a number of kills"));
    // Unoptimized, it is the assertions that count.
    if cfg!(debug_assertions) {
        wanted / 4
    } else {
        wanted
    }
}

/// A kind of pool.
struct Sort {
    len: usize,
    flags: u32,
    max_threads: u32,
    /// The granule, or 0.
    align: usize,
    /// The largest block in bytes.
    largest: usize,
    /// Half of the blocks are at least so long.
    wide: Option<usize>,
    is_scarce: bool,
}

/// What was seen of one kind of pool.
#[derive(Default)]
struct Seen {
    kills: u64,
    losses: Losses,
    lost: u64,
}

/// Kills one process, or two at once, at a random moment, and has others go on with what they held.
fn kill_some(
    crowd: &Crowd,
    shared: &Shared,
    children: &mut [Option<Child>],
    random: &mut Random,
    seen: &mut Seen,
) {
    std::thread::sleep(Duration::from_micros(random.up_to(12) as u64));
    let from = random.below(PROCESSES);
    let count = if random.below(4) == 0 { 2 } else { 1 };
    let victims = (0..count).map(|k| (from + k) % PROCESSES);
    let dying: Vec<(usize, Child)> =
        victims.map(|at| (at, children[at].take().expect("it lives"))).collect();
    dying.iter().for_each(|(_, child)| child.signal(libc::SIGKILL));
    if random.below(2) == 0 {
        // While they die.
        shared.pool.must_check();
    }
    for (at, child) in dying {
        assert_eq!(child.kill(), End::Signal(libc::SIGKILL), "it gave up before");
        seen.kills += 1;
        crowd.count_losses(at, &mut seen.losses);
        children[at] = Some(crowd.start(at, shared, PROCESSES as u64 + seen.kills));
    }
}

fn die_and_be_replaced(sort: &Sort) {
    let wanted = kills_of_all().div_ceil(SORTS);
    let memory = Memory::shared(sort.len);
    let Sort { flags, max_threads, align, .. } = *sort;
    let options = Options { flags, max_threads, align, ..options() };
    let pool = handle::init(memory.base(), memory.len(), &options).expect("init");
    let shared = Shared { memory, pool };
    let (first, start) = (pool.stats().top, Instant::now());
    let mut crowd = Crowd::new(PROCESSES, sort.largest, sort.is_scarce);
    crowd.wide = sort.wide;
    let mut random = Random(sort.len as u64 + u64::from(sort.flags));
    let mut seen = Seen::default();
    while seen.kills < wanted {
        let mut children: Vec<Option<Child>> = (0..PROCESSES)
            .map(|at| Some(crowd.start(at, &shared, seen.kills * 1000 + at as u64)))
            .collect();
        let goal = wanted.min(seen.kills + ROUND);
        let losses = std::mem::take(&mut seen.losses);
        while seen.kills < goal {
            kill_some(&crowd, &shared, &mut children, &mut random, &mut seen);
        }
        crowd.must_go_on(0..PROCESSES);
        crowd.stop(children.into_iter().flatten().collect(), Duration::from_secs(30));
        crowd.all().for_each(|worker| crowd.take_over(worker, pool));
        seen.lost += crowd.judge(pool, &seen.losses);
        seen.losses.add(&losses);
    }
    assert!(seen.kills >= wanted);
    crowd.give_back(pool);
    let stats = pool.stats();
    assert_eq!(stats.used_count, 0);
    assert_eq!(stats.rejected_frees, 0);
    assert_eq!(stats.failed_allocs > 0, sort.is_scarce);
    // All of it in one piece, whatever the dead had cached of it.
    let guard = if sort.flags & MEMPOOL_GUARD != 0 { GUARD_BYTES } else { 0 };
    let all = pool.malloc((stats.total - stats.overhead) as usize - guard);
    pool.free(all.unwrap_or_else(|_| panic!("{:?}", pool.stats()))).expect("free");
    shared.must_be_whole(first);
    eprintln!(
        "{} kills in {} calls, {:.1?}: {} inside a call, {} of which could lose a block; {} blocks lost, \
         {} recoveries, {} calls without room",
        seen.kills,
        crowd.calls(),
        start.elapsed(),
        seen.losses.inside,
        seen.losses.in_flight,
        seen.lost,
        stats.recoveries,
        stats.failed_allocs,
    );
    assert!(seen.losses.inside >= wanted / 20, "hardly any died inside a call");
    assert!(stats.recoveries > 0, "nothing had to be recovered");
}

/// A test that hangs is ended.
fn run(sort: Sort) {
    let limit = Duration::from_secs(120) + Duration::from_millis(200) * kills_of_all() as u32;
    child::run(limit, || die_and_be_replaced(&sort));
}

const PLAIN: Sort =
    Sort { len: 0, flags: 0, max_threads: 0, align: 0, largest: 0, wide: None, is_scarce: false };

#[test]
fn killed_at_random_in_a_pool_with_caches() {
    run(Sort { len: 16 << 20, max_threads: 24, largest: 64 << 10, ..PLAIN });
}

/// Magazines go back to the heap all the time, and memory ends.
#[test]
fn killed_at_random_where_memory_is_scarce() {
    run(Sort { len: 256 << 10, max_threads: 12, largest: 64 << 10, is_scarce: true, ..PLAIN });
}

/// Who gets no cache takes the lock; those of the dead are claimed at once.
#[test]
fn killed_at_random_where_caches_are_scarce() {
    run(Sort { len: 4 << 20, max_threads: 4, largest: 16 << 10, ..PLAIN });
}

/// Blocks too large for magazines, which all put on shelves and take from there.
#[test]
fn killed_at_random_in_a_pool_with_shelves() {
    let (len, align, largest, wide) = (64 << 20, 8, 100 << 10, Some(36 << 10));
    run(Sort { len, align, max_threads: 24, largest, wide, ..PLAIN });
}

/// Every call takes the lock.
#[test]
fn killed_at_random_without_caches() {
    let flags = MEMPOOL_NO_THREAD_CACHES;
    run(Sort { len: 2 << 20, flags, largest: 4096, ..PLAIN });
}

/// Who dies inside a call leaves nothing that looks like a write beyond a block, or after its free.
#[test]
fn killed_at_random_where_mistakes_are_looked_for() {
    let flags = MEMPOOL_GUARD | MEMPOOL_FILL_FREED;
    run(Sort { len: 2 << 20, flags, largest: 4096, ..PLAIN });
}

#[test]
fn killed_at_random_in_a_pool_too_small_for_caches() {
    run(Sort {
        len: 96 << 10,
        flags: 0,
        max_threads: 0,
        largest: 16 << 10,
        is_scarce: true,
        ..PLAIN
    });
}
