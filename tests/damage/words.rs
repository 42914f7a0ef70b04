//! Each word that the pool keeps in the buffer, with each of a set of nasty values in it, under each
//! kind of call. How much harm a word can do is said here for each:
//!
//! - a *hint* can do none: the call does what it does in a sound pool, finds as much memory, and
//!   gives nothing out that is somebody's;
//! - what says who *holds* free blocks may lose some of them, but gives none out twice;
//! - the *truth* about blocks may be believed, or found out: only that nothing leaves the buffer, and
//!   that every call ends, is asked.
//!
//! `make test` tries a part of all cases, the same each time, `make soak` each of them.

use super::call::{self, Answer, Call, CALLS};
use super::common::child::{self, End};
use super::common::random::Random;
use super::common::Memory;
use super::scene::{Scene, KINDS};
use ::mempool::abi::{MEMPOOL_BLOCK_LIVE, MEMPOOL_BLOCK_META};
use ::mempool::layout::*;
use std::time::Duration;

/// Cases of each kind of pool.
const CASES: usize = if cfg!(debug_assertions) { 300 } else { 3000 };
/// Seconds that a case may take, on however busy a machine.
const PATIENCE: u32 = 100;
/// Runs one case alone: what a failure says.
const CASE: &str = "MEMPOOL_DAMAGE_CASE";

/// How much harm a word can do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weight {
    Hint,
    Held,
    Truth,
}
use Weight::*;

/// A word of the buffer.
#[derive(Clone, Copy)]
struct Spot {
    at: usize,
    width: usize,
    weight: Weight,
}

/// A spot, a value in it, and a call.
#[derive(Clone, Copy)]
struct Case {
    spot: Spot,
    value: u64,
    call: &'static Call,
}

/// All words of a pool that may be written over.
fn spots(scene: &Scene) -> Vec<Spot> {
    let g = &scene.geometry;
    let mut spots = Vec::new();
    let mut words = |from: usize, to: usize, weight| {
        spots.extend((from..to).step_by(4).map(|at| Spot { at, width: 4, weight }));
    };
    for at in (0..HEADER_BYTES).step_by(4) {
        let weight = match at {
            // Its low half has a test of its own: calls wait for it.
            LOCK_OFFSET => continue,
            _ if at < LOCK_OFFSET + 8 => Held,
            _ if at == HEAP_OFFSET || at == HEAP_OFFSET + 4 => Truth,
            _ if at == NAMES_OFFSET || at == NAMES_OFFSET + 4 => Truth,
            _ if at == DEPOT_OFFSET + 4 || at == CACHES_OFFSET => Held,
            _ => Hint,
        };
        words(g.word(at), g.word(at) + 4, weight);
    }
    words(g.bitmap(), g.bins() + g.bin_count as usize * 4, Hint);
    if g.caches > 0 {
        words(g.depot, g.cache, Hint);
        let known = |at: usize| scene.word(g.word(at), 4) as usize;
        let magazines = known(DEPOT_OFFSET + 4) + 1;
        words(g.cache, g.cache + known(CACHES_OFFSET) * CACHE_BYTES, Held);
        words(g.magazine, g.magazine + magazines * MAGAZINE_BYTES, Held);
    }
    words(g.owner, g.owner + g.owners.min(3) as usize * OWNER_BYTES, Truth);
    // The links of blocks that are free, or may be.
    let mut bytes = Vec::new();
    let top = scene.word(g.word(HEAP_OFFSET), 4) as usize;
    for block in scene.pool.walk() {
        let (at, granule) =
            (block.offset as usize, (block.offset as usize - g.first) >> g.align_log2);
        match block.state {
            MEMPOOL_BLOCK_LIVE => {}
            // An entry of the directory.
            MEMPOOL_BLOCK_META => words(at, at + block.size as usize, Truth),
            _ => words(at, at + 8, Hint),
        }
        // Of its map bytes the first and the last, which say how long it is.
        let size = block.size as usize >> g.align_log2;
        let edges =
            (granule..granule + size).filter(|&at| at < granule + 5 || at + 4 > granule + size);
        bytes.extend(edges.map(|granule| (g.map + granule, Truth)));
        if g.owners > 0 {
            bytes.push((g.tags + granule, Truth));
        }
    }
    bytes.extend((top..top + 4).map(|granule| (g.map + granule, Truth)));
    spots.extend(bytes.into_iter().map(|(at, weight)| Spot { at, width: 1, weight }));
    // Where walk has been, nothing has moved: it takes the lock, and no more.
    spots
}

/// What is written there.
fn values(scene: &Scene, spot: Spot) -> Vec<u64> {
    let now = scene.word(spot.at, spot.width);
    let mut random = Random(spot.at as u64);
    if spot.width == 1 {
        let mut bytes: Vec<u64> =
            vec![0, 1, 2, 0x39, 0x3a, 0x3b, 0x3c, 0x3f, 0x40, 0x41, 0x7f, 0x97];
        bytes.extend([0x98, 0x99, 0xa0, 0xef]);
        bytes.extend(0xf0..=0xff);
        bytes.extend((0..8).map(|bit| now ^ 1 << bit));
        return bytes;
    }
    let g = &scene.geometry;
    let granule = |at: usize| (at.wrapping_sub(g.first) >> g.align_log2) as u32;
    let top = scene.word(g.word(HEAP_OFFSET), 4) as u32;
    let mut numbers = vec![0, 1, 2, 3, 60, 61, 255, 256, 4095, u32::MAX, u32::MAX - 1, 1 << 31];
    numbers.extend([0x7fff_ffff, 0x0101_0101, 0x4040_4040, 0x9898_9898, 0xf1f1_f1f1]);
    // Itself and its neighbours, as offsets and granules; what lies before and behind the pool.
    numbers
        .extend([spot.at, spot.at + 4, spot.at + 8, spot.at.wrapping_sub(8)].map(|at| at as u32));
    numbers.extend([spot.at, spot.at + 16, spot.at.wrapping_sub(16)].map(granule));
    numbers.extend([g.granules, g.granules - 1, g.granules + 1, top, top.wrapping_sub(1), top + 1]);
    numbers.extend([g.start, g.first, g.first - 1, g.end, g.end - 1].map(|at| at as u32));
    // Blocks of other states, and what else is numbered: magazines, caches by their tokens, classes.
    numbers.extend([scene.freed, scene.kept[0].0, scene.kept[3].0].map(granule));
    numbers.extend([scene.freed as u32, scene.kept[0].0 as u32, 4, 5, 88, 89]);
    if g.caches > 0 {
        numbers.push(scene.word(g.cache + 4, 4) as u32);
        numbers.push(scene.word(g.cache, 4) as u32);
    }
    // As links are written: a block that is alone in its bin has none.
    const KEY: u32 = 0x5a93_c6e1;
    let links: Vec<u32> = numbers.iter().map(|number| number ^ KEY).collect();
    numbers.extend(links);
    numbers.extend((0..32).map(|bit| now as u32 ^ 1 << bit));
    numbers.extend((0..4).map(|_| random.next() as u32));
    numbers.retain(|&number| u64::from(number) != now);
    numbers.into_iter().map(u64::from).collect()
}

/// All cases of a pool, in an order in which any part is of all sorts.
fn cases(scene: &Scene) -> Vec<(Spot, u64)> {
    let mut all = Vec::new();
    for spot in spots(scene) {
        all.extend(values(scene, spot).into_iter().map(|value| (spot, value)));
    }
    Random(1).shuffle(&mut all);
    all
}

/// What each call answers in a sound pool.
fn answers(scene: &mut Scene) -> Vec<Answer> {
    let mut answers = Vec::new();
    for call in &CALLS {
        scene.build();
        answers.push((call.run)(scene));
        assert!(!scene.overlaps.get() && scene.is_intact(), "{}: in a sound pool", call.name);
        if !["release", "free_all"].contains(&call.name) {
            scene.pool.must_check();
        }
    }
    answers
}

/// Runs a case and judges it; what is sound answers `sound`.
fn judge(scene: &mut Scene, case: &Case, sound: Answer) {
    scene.build();
    let Case { spot, value, call } = *case;
    let about = || describe(scene, case);
    scene.set_word(spot.at, spot.width, value);
    let answer = (call.run)(scene);
    assert!(call::is_possible(answer), "{answer:?}: {}", about());
    if spot.weight != Truth && !matches!(call.name, "free_all" | "release") {
        assert!(!scene.overlaps.get(), "a block of somebody's was given out: {}", about());
        assert!(scene.is_intact(), "a live block's bytes have changed: {}", about());
    }
    // It is check's to say what is wrong.
    if spot.weight == Hint && call.name != "check" {
        assert_eq!(answer, sound, "not as in a sound pool: {}", about());
    }
    call::aftermath(scene);
}

/// A case as it is asked for.
fn describe(scene: &Scene, case: &Case) -> String {
    let Case { spot, value, call } = case;
    format!("{CASE}='{}:{}:{}:{value:#x}:{}'", scene.kind.name, spot.at, spot.width, call.name)
}

/// The case that a failure has named, if it is of this pool.
fn asked_for(scene: &Scene) -> Option<Option<Case>> {
    let text = std::env::var(CASE).ok()?;
    let parts: Vec<&str> = text.splitn(5, ':').collect();
    let [kind, at, width, value, name] = parts[..] else { panic!("{CASE}: {text}") };
    if kind != scene.kind.name {
        return Some(None);
    }
    let number = |text: &str| text.parse::<usize>().expect("a number");
    let value = u64::from_str_radix(value.trim_start_matches("0x"), 16).expect("a number");
    let is_asked = |spot: &Spot| spot.at == number(at) && spot.width == number(width);
    let spot = spots(scene).into_iter().find(is_asked).expect("a word that is kept");
    Some(Some(Case { spot, value, call: call::find(name) }))
}

/// Runs a part of the cases of a kind of pool; before each says in `note` which.
fn run(kind: usize, note: &Memory) {
    let memory = KINDS[kind].memory();
    let mut scene = Scene::new(KINDS[kind], &memory);
    let sound = answers(&mut scene);
    let sound_of =
        |call: &Call| sound[CALLS.iter().position(|c| c.name == call.name).expect("one")];
    scene.build();
    if let Some(asked) = asked_for(&scene) {
        return asked.iter().for_each(|case| judge(&mut scene, case, sound_of(case.call)));
    }
    let all = cases(&scene);
    let seconds = std::env::var("MEMPOOL_TEST_SECONDS").ok();
    let is_soak =
        seconds.and_then(|text| text.parse().ok()).is_some_and(|seconds: u64| seconds > 30);
    let count = all.len() * CALLS.len();
    let tried = if is_soak { count } else { CASES.min(count) };
    for index in 0..tried {
        // Spots and values change fastest; no call meets the same part of them as the next.
        let (spot, value) = all[index % all.len()];
        let case = Case { spot, value, call: &CALLS[(index + index / all.len()) % CALLS.len()] };
        let text = describe(&scene, &case);
        let line = note.bytes_mut(0, text.len() + 1);
        line[..text.len()].copy_from_slice(text.as_bytes());
        line[text.len()] = 0;
        // SAFETY: should the case not end, this process does.
        unsafe { libc::alarm(PATIENCE) };
        judge(&mut scene, &case, sound_of(case.call));
    }
    // SAFETY: as above.
    unsafe { libc::alarm(0) };
    println!("{}: {tried} of {count} cases", KINDS[kind].name);
}

/// Each kind of pool in a child of its own.
fn run_all(kinds: impl IntoIterator<Item = usize>) {
    for kind in kinds {
        let note = Memory::shared(4096);
        let child = child::fork(|| {
            run(kind, &note);
            0
        });
        let end = child.wait(Duration::from_secs(3600));
        let text = note.bytes(0, 4096).split(|&byte| byte == 0).next().expect("a line");
        let text = String::from_utf8_lossy(text);
        assert_eq!(end, Some(End::Exit(0)), "{}: {text}", KINDS[kind].name);
    }
}

#[test]
fn whatever_a_word_holds_calls_are_well_or_say_so() {
    run_all(0..7);
}

#[test]
fn whatever_a_word_holds_calls_are_well_or_say_so_with_caches() {
    run_all(7..KINDS.len());
}
