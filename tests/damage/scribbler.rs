//! Somebody writes to the pool's own words while others are inside calls: a word that was compared may
//! be another by the time that it is used. What he writes lies there for a moment, or for good.

use super::call::{is_possible, CALLS};
use super::common::child;
use super::common::random::Random;
use super::scene::{Kind, Scene, KINDS};
use ::mempool::layout::LOCK_OFFSET;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Of threads that call.
const CALLERS: u64 = 2;
/// A pool is made anew after so long: soon most of it is beyond help.
const ROUND: Duration = Duration::from_millis(20);
/// Seconds that a round may take, on however busy a machine.
const PATIENCE: u32 = 100;

/// For all rounds of a kind of pool.
fn chance() -> Duration {
    let seconds = std::env::var("MEMPOOL_TEST_SECONDS").ok();
    let seconds: Option<u64> = seconds.and_then(|text| text.parse().ok());
    seconds.map_or(Duration::from_millis(400), Duration::from_secs)
        / seconds.map_or(1, |_| KINDS.len() as u32)
}

/// A scene that threads share. What it notes of blocks that were given out is for one thread; these
/// do without.
struct Shared<'a>(&'a Scene<'a>);
// SAFETY: the threads read what does not change, and the handle.
unsafe impl Sync for Shared<'_> {}

impl Shared<'_> {
    /// A word of the pool's own, but for the lock's, and those which tell that a pool is there.
    fn word(&self, random: &mut Random) -> &AtomicU32 {
        let g = &self.0.geometry;
        let from = g.header + LOCK_OFFSET + 8;
        let at = match random.below(4) {
            0 => from + random.below(200),
            1 => g.bitmap() + random.below(g.depot.max(g.map) - g.bitmap()),
            2 if g.caches > 0 => g.cache + random.below(20 * 256),
            // The map, tags, and what lies in free blocks.
            _ => g.map + random.below(400),
        };
        let at = self.0.at(at) as usize & !3;
        // SAFETY: inside the buffer; all access is atomic.
        unsafe { &*(at as *const AtomicU32) }
    }

    fn scribble(&self, random: &mut Random, ends: &AtomicBool) {
        let g = &self.0.geometry;
        let nasty = [0, 1, 2, u32::MAX, u32::MAX - 1, 1 << 31, g.granules, g.granules - 1];
        while !ends.load(Relaxed) {
            let word = self.word(random);
            let before = word.load(Relaxed);
            let value = match random.below(5) {
                0 => random.next() as u32,
                1 => before ^ 1 << random.below(32),
                2 => self.word(random).load(Relaxed),
                3 => before.wrapping_add(random.below(5) as u32).wrapping_sub(2),
                _ => nasty[random.below(nasty.len())],
            };
            word.store(value, Relaxed);
            (0..random.below(300)).for_each(|_| std::hint::spin_loop());
            if random.below(32) > 0 {
                word.store(before, Relaxed);
            }
        }
    }

    /// Any calls in any order, on blocks that were given out, and others.
    fn call(&self, random: &mut Random, ends: &AtomicBool, calls: &AtomicU64) {
        let scene = self.0;
        let (pool, base) = (scene.pool, scene.at(0) as usize);
        let mut blocks: Vec<*mut u8> = scene.kept.iter().map(|&(at, _)| scene.at(at)).collect();
        while !ends.load(Relaxed) {
            calls.fetch_add(1, Relaxed);
            let size = random.log_uniform(1, 60 * scene.align());
            let at = random.below(blocks.len());
            let block = blocks[at];
            let made = match random.below(12) {
                0..4 => pool.malloc(size),
                4 => pool.calloc(1, size),
                5 => pool.realloc(block, size),
                6 => pool.aligned_alloc(1 << random.below(13), size),
                7..10 => pool.free(block).map(|()| block),
                10 => pool.expand(block, size).map(|()| block),
                _ => {
                    // What is no allocation: it looks at all there is.
                    let names = ["stats", "check", "walk", "inspect", "trim", "recover"];
                    let more = ["usable_size", "free_from", "calloc_to", "peek", "owners", "open"];
                    let name = [names, more][random.below(2)][random.below(6)];
                    let call = CALLS.iter().find(|call| call.name == name).expect("a call");
                    let answer = (call.run)(scene);
                    assert!(is_possible(answer), "{name}: {answer:?}");
                    continue;
                }
            };
            match made {
                Ok(made) => {
                    let inside = (made as usize).wrapping_sub(base);
                    assert!(inside < scene.len(), "a block outside");
                    blocks.push(made);
                }
                Err(status) => assert!(is_possible(Err(status)), "{status}"),
            }
            if blocks.len() > 60 {
                blocks.swap_remove(at);
            }
        }
    }
}

fn endure(kind: Kind) {
    let memory = kind.memory();
    let mut scene = Scene::new(kind, &memory);
    let until = Instant::now() + chance();
    let (calls, mut rounds) = (AtomicU64::new(0), 0);
    while Instant::now() < until {
        // SAFETY: should the round not end, this process does.
        unsafe { libc::alarm(PATIENCE) };
        scene.build();
        let (shared, ends) = (Shared(&scene), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let (shared, ends, calls) = (&shared, &ends, &calls);
            scope.spawn(move || shared.scribble(&mut Random(rounds), ends));
            for caller in 1..=CALLERS {
                let mut random = Random((rounds + caller) << 32);
                scope.spawn(move || shared.call(&mut random, ends, calls));
            }
            std::thread::sleep(ROUND);
            ends.store(true, Relaxed);
        });
        rounds += 1;
    }
    // SAFETY: as above.
    unsafe { libc::alarm(0) };
    println!("{}: {rounds} rounds, {} calls", kind.name, calls.into_inner());
}

#[test]
fn whoever_writes_meanwhile_no_call_leaves_the_buffer_or_hangs() {
    for kind in KINDS {
        child::run(Duration::from_secs(3600), || endure(kind));
    }
}
