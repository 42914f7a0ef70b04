//! Killed at any instruction, nothing is lost: a child makes a call, instruction by instruction, and
//! after each of them it is taken for dead.
//!
//! Whatever then differs in the pool's bytes is given to a survivor, in a copy to which was done what
//! the kernel does at a death. He recovers, and a judge looks whether the blocks that live are just
//! those from before the call, or just those from after it; whether all have their bytes; whether the
//! figures add up; and whether the rest can be handed out to the last byte, and given back. Over a
//! call's instructions the judgement changes once, from before to after.
//!
//! The survivor's own recovery is stepped through in the same way after some of the deaths
//! (MEMPOOL_TEST_SECONDS above 1: after each), and at some points children are killed for real.
//!
//! `MEMPOOL_STEPPING=case[/call[/instruction]]` looks at one case, call or point alone; cases of calls
//! at random are named `random-0`, `random-1` and so on. `MEMPOOL_STEPPING_TIMES=1` says how long each
//! case takes.
//!
//! What the optimizer made of the library is what is stepped through:
#![cfg(all(not(debug_assertions), target_arch = "x86_64", target_os = "linux"))]

#[path = "../common/mod.rs"]
mod common;

mod cases;
mod course;
mod court;
mod death;
mod judge;
mod report;
mod rows;
mod scene;
mod stage;
mod target;
mod theatre;
mod walk;

use cases::Case;
use report::Report;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use walk::{Extent, Only, Walker};

/// What must have been stepped through, as rows of the table: a scene that has come to do something
/// else, since the library has changed, is to be noticed.
const OPERATIONS: [&str; 62] = [
    "malloc, shelf",
    "free, shelf",
    "free, shelf, with the lock",
    "malloc, cache",
    "malloc, cache, from the heap",
    "malloc, cache, from the heap, cache claimed",
    "malloc, cache, from the heap, in places",
    "malloc, depot",
    "malloc, heap",
    "malloc, top",
    "malloc, caches given back",
    "malloc, fails",
    "calloc, cache",
    "calloc, heap",
    "calloc, top",
    "calloc_fill, cache",
    "calloc_fill, heap",
    "aligned_alloc, cache",
    "aligned_alloc, heap",
    "aligned_alloc, top",
    "free, cache",
    "free, cache, with the lock",
    "free, cache, others given back",
    "free, depot",
    "free, heap",
    "free, top",
    "free, fails",
    "realloc, shrinks",
    "realloc, grows",
    "realloc, moves (shelf)",
    "realloc, moves (cache)",
    "realloc, moves (cache, with the lock)",
    "realloc, moves (heap)",
    "realloc, moves (top)",
    "realloc, fails",
    "expand, grows",
    "bind, a block's first",
    "bind, another",
    "bind, fails",
    "unbind, a block's last",
    "unbind, the last but one",
    "unbind, one of several",
    "unbind_from, the last but one",
    "unbind_from, fails",
    "set_root, the first",
    "set_root, another",
    "set_root, another, a name is left",
    "set_root, none",
    "free_all, with names",
    "free_all, filled, with names",
    "free_all, with names and caches",
    "free_all, with caches",
    "trim, shelves",
    "trim, a cache and the depot",
    "recover, a dead cache",
    "attach, after a reboot",
    "detach, with a cache",
    "release, with caches",
    "init, of any bytes",
    "init, over a pool",
    "open, of zeros",
    "open, of a pool",
];

/// How long the calls at random go on; None for a run that is to be short.
fn soak() -> Option<Duration> {
    let seconds = std::env::var("MEMPOOL_TEST_SECONDS").ok();
    let seconds: u64 = seconds.and_then(|text| text.parse().ok()).unwrap_or(1);
    (seconds > 1).then(|| Duration::from_secs(seconds))
}

/// Plays the cases that `next` gives out, by as many walkers as there are processors.
fn play(
    next: impl Fn() -> Option<Case> + Sync,
    extent: Extent,
    only: Only,
    report: &Mutex<Report>,
) {
    let walkers = std::thread::available_parallelism().map_or(1, usize::from).min(16);
    std::thread::scope(|scope| {
        let walk = || {
            let mut walker = Walker::new(extent, only, cases::LEN_MAX, report);
            while let Some(case) = next() {
                let start = Instant::now();
                walker.walk(&case).unwrap_or_else(|wrong| panic!("{wrong}"));
                if std::env::var_os("MEMPOOL_STEPPING_TIMES").is_some() {
                    eprintln!("{:<24} {:?}", case.name, start.elapsed());
                }
            }
        };
        let walkers: Vec<_> = (0..walkers).map(|_| scope.spawn(walk)).collect();
        walkers.into_iter().for_each(|walker| walker.join().expect("all is well"));
    });
}

#[test]
fn nothing_is_lost_by_a_kill_at_any_instruction() {
    let report = Mutex::new(Report::default());
    let extent = match soak() {
        None => Extent { complete: false, kills_max: 4, stores_per_kill: 4 },
        Some(_) => Extent { complete: true, kills_max: 40, stores_per_kill: 1 },
    };
    if let Ok(wanted) = std::env::var("MEMPOOL_STEPPING") {
        let mut parts = wanted.split('/');
        let name = parts.next().expect("a case");
        let mut number = || parts.next().map(|text| text.parse().expect("a number"));
        let only = Only { call: number().map(|call: u64| call as usize), point: number() };
        let case = Mutex::new(Some(cases::named(name).expect("a case of this name")));
        let extent = Extent { stores_per_kill: 1, ..extent };
        play(|| case.lock().expect("no walker failed").take(), extent, only, &report);
        return print!("{}", report.into_inner().expect("no walker failed"));
    }
    let all = Mutex::new(cases::all().into_iter());
    let next = || all.lock().expect("no walker failed").next();
    play(next, extent, Only::default(), &report);
    let (start, number) = (Instant::now(), AtomicUsize::new(0));
    let next = || {
        let number = number.fetch_add(1, Relaxed);
        let more = soak().map_or(number < 3, |limit| start.elapsed() < limit);
        more.then(|| cases::random(number as u64))
    };
    let extent = Extent { complete: false, ..extent };
    play(next, extent, Only::default(), &report);
    let report = report.into_inner().expect("no walker failed");
    println!("{report}");
    let missing: Vec<_> = OPERATIONS.iter().filter(|row| !report.has(row)).collect();
    assert!(missing.is_empty(), "never stepped through: {missing:?}");
}
