//! The header: each of its bits the other way round; too short buffers; other versions and machines;
//! and headers with a right checksum that no library ever wrote.

use super::call::{aftermath, find, is_possible};
use super::common::handle::{self, Status};
use super::common::random::Random;
use super::common::{child, Memory, Options};
use super::scene::{Kind, Scene, KINDS};
use ::mempool::abi::*;
use ::mempool::layout::{HEADER_BYTES, LOCK_OFFSET};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(300);

const VERSION_AT: usize = 8;
const MACHINE_AT: usize = 12;
const CHECKSUM_AT: usize = 16;
const ID_AT: usize = 24;
/// What the header says of the pool's shape: offset and bytes of each field.
const FIELDS: [(usize, usize); 7] = [(32, 8), (40, 8), (48, 8), (56, 4), (60, 4), (64, 4), (68, 4)];

/// What each way to a pool says of it, as long as nothing is written.
fn refusals(scene: &Scene, len: usize) -> [Result<(), Status>; 4] {
    let options = scene.options();
    let mut blocks = Vec::new();
    let prefix = &scene.bytes()[..len.min(4096)];
    let attached = handle::attach(scene.at(0), len, &options).map(drop_handle);
    let opened = handle::open(scene.at(0), len, &options).map(|(pool, _)| drop_handle(pool));
    let inspected = handle::inspect(scene.at(0), len, &options, &mut blocks).map(|_| ());
    [attached, opened, inspected, handle::peek(prefix).map(|_| ())]
}

fn drop_handle(pool: handle::Handle) {
    pool.detach().expect("detach");
}

/// Runs with a scene of each kind, in a child.
fn each_kind(kinds: &'static [Kind], body: fn(&mut Scene)) {
    child::run(LIMIT, || {
        for &kind in kinds {
            let memory = kind.memory();
            body(&mut Scene::new(kind, &memory));
        }
    });
}

#[test]
fn each_bit_that_is_written_once_is_missed() {
    each_kind(&KINDS, |scene| {
        let header = scene.geometry.header;
        let sound = scene.bytes().to_vec();
        for bit in 0..LOCK_OFFSET * 8 {
            let at = header + bit / 8;
            scene.set_word(at, 1, u64::from(sound[at]) ^ 1 << (bit % 8));
            let before = scene.bytes().to_vec();
            for (way, answer) in refusals(scene, scene.len()).into_iter().enumerate() {
                let refused = match answer {
                    Err(MEMPOOL_ERR_NOT_A_POOL) => bit < 64,
                    Err(MEMPOOL_ERR_INCOMPATIBLE) => (64..128).contains(&bit),
                    Err(MEMPOOL_ERR_CORRUPTED) => bit >= 128,
                    _ => false,
                };
                assert!(refused, "{}, bit {bit}, way {way}: {answer:?}", scene.kind.name);
            }
            assert!(scene.bytes() == before, "{}, bit {bit}: written to", scene.kind.name);
            scene.set_word(at, 1, u64::from(sound[at]));
        }
        assert_eq!(refusals(scene, scene.len()), [Ok(()); 4], "sound again");
    });
}

#[test]
fn each_bit_of_the_rest_is_survived() {
    each_kind(&KINDS, |scene| {
        for bit in LOCK_OFFSET * 8 + 32..HEADER_BYTES * 8 {
            scene.build();
            let at = scene.geometry.header + bit / 8;
            scene.set_word(at, 1, scene.word(at, 1) ^ 1 << (bit % 8));
            for name in ["attach, malloc, detach", "open", "inspect"] {
                assert!(is_possible((find(name).run)(scene)), "{name}, bit {bit}");
            }
            aftermath(scene);
        }
    });
}

#[test]
fn a_buffer_cut_short_is_refused_at_every_length() {
    each_kind(&KINDS, |scene| {
        let end = scene.geometry.end;
        let before = scene.bytes().to_vec();
        // Each length where the header ends, and of the rest a part.
        let lens = (0..end).filter(|&len| len < scene.geometry.map.min(2000) || len % 509 == 0);
        for len in lens.chain(end.saturating_sub(20)..end) {
            let [attached, opened, inspected, _] = refusals(scene, len);
            for answer in [attached, inspected] {
                let refused = [Err(MEMPOOL_ERR_INCOMPATIBLE), Err(MEMPOOL_ERR_NOT_A_POOL)];
                assert!(refused.contains(&answer), "{}, {len}: {answer:?}", scene.kind.name);
            }
            assert!(opened.is_err(), "{}, {len}: {opened:?}", scene.kind.name);
            assert!(scene.bytes() == before, "{}, {len}: written to", scene.kind.name);
        }
        assert_eq!(refusals(scene, end)[..3], [Ok(()); 3], "its whole length will do");
    });
}

/// The checksum that belongs to what a header says now.
fn checksum(scene: &Scene) -> u64 {
    let words = [VERSION_AT].into_iter().chain((ID_AT..LOCK_OFFSET).step_by(8));
    words.fold(0, |sum, at| Random(sum ^ scene.word(scene.geometry.header + at, 8)).next())
}

fn sign(scene: &Scene) {
    scene.set_word(scene.geometry.header + CHECKSUM_AT, 8, checksum(scene));
}

#[test]
fn pools_of_other_libraries_and_machines_are_refused() {
    each_kind(&KINDS[..1], |scene| {
        let header = scene.geometry.header;
        assert_eq!(scene.word(header + CHECKSUM_AT, 8), checksum(scene), "computed alike");
        for at in [VERSION_AT, MACHINE_AT] {
            let sound = scene.word(header + at, 4);
            for value in [0, sound + 1, sound - 1, sound ^ 0x300, sound ^ 0x3_0000, 1 << 31] {
                scene.set_word(header + at, 4, value);
                sign(scene);
                let answers = refusals(scene, scene.len());
                assert_eq!(answers, [Err(MEMPOOL_ERR_INCOMPATIBLE); 4], "{value:#x} at {at}");
            }
            scene.set_word(header + at, 4, sound);
        }
        sign(scene);
        assert_eq!(refusals(scene, scene.len()), [Ok(()); 4]);
    });
}

/// A pool that is not what its header says, whose checksum is right all the same. It is refused, or it
/// is a pool as safe as any other of whatever bytes.
fn must_be_survived(scene: &Scene) {
    sign(scene);
    let (options, len) = (scene.options(), scene.len());
    let mut blocks = Vec::new();
    let inspected = handle::inspect(scene.at(0), len, &options, &mut blocks);
    let peeked = handle::peek(&scene.bytes()[..len.min(4096)]);
    let attached = handle::attach(scene.at(0), len, &options);
    assert_eq!(inspected.is_ok(), attached.is_ok(), "{inspected:?}, but {attached:?}");
    for status in [attached.err(), peeked.err()].into_iter().flatten() {
        let refused = [MEMPOOL_ERR_INCOMPATIBLE, MEMPOOL_ERR_CORRUPTED];
        assert!(refused.contains(&status), "{status}: {}", handle::last_message());
    }
    let Ok(pool) = attached else { return };
    for size in [1, 100, 3000, 100_000] {
        let Ok(block) = pool.malloc(size) else { continue };
        let at = block as usize - scene.at(0) as usize;
        assert!(at < len && size <= len - at, "{size} bytes at {at} of {len}");
        let _ = (pool.check(), pool.free(block));
    }
    let _ = (pool.try_stats(), pool.try_walk(), pool.trim(), pool.recover());
    let _ = (pool.free(scene.at(scene.kept[0].0)), pool.free_all(), pool.check());
    let _ = pool.detach();
}

#[test]
fn a_forged_header_with_a_right_checksum_is_survived() {
    each_kind(&KINDS, |scene| {
        let (header, len) = (scene.geometry.header, scene.len() as u64);
        let start = scene.geometry.start as u64;
        let mut values =
            vec![0, 1, 2, 3, 4, 7, 8, 9, 12, 15, 16, 17, 31, 32, 63, 64, 65, 4095, 4096];
        values.extend([start, start + 1, len - 1, len, len + 1, 2 * len, 1 << 31, (1 << 32) - 1]);
        values.extend([1 << 32, 1 << 40, 1 << 62, 1 << 63, (1 << 63) - 1, 65_536, 65_544, 65_545]);
        values.extend((0..400).step_by(8).map(|back| u64::MAX - back));
        let mut random = Random(3);
        let seldom = if cfg!(debug_assertions) { 40 } else { 400 };
        let pairs = (0..seldom).map(|_| (0, random.next()));
        let single =
            (0..FIELDS.len()).flat_map(|field| values.iter().map(move |&v| (field + 1, v)));
        for (field, value) in single.chain(pairs.collect::<Vec<_>>()) {
            scene.build();
            let mut choice = Random(value);
            for (number, (at, width)) in FIELDS.into_iter().enumerate() {
                // One field, or any of them.
                let is_meant = if field > 0 { field == number + 1 } else { choice.below(2) == 0 };
                if is_meant {
                    let any = values[choice.below(values.len())];
                    scene.set_word(header + at, width, if field > 0 { value } else { any });
                }
            }
            must_be_survived(scene);
        }
    });
}

/// Options that overflow sums: said to be too small for a pool, whatever they are.
#[test]
fn a_start_near_the_end_of_all_numbers_is_refused() {
    let memory = Memory::private(1 << 16);
    for flags in [0, MEMPOOL_OWNER_TAGS] {
        for start in (0..2000).map(|back| usize::MAX - back) {
            let options = Options { start, flags, ..super::common::options() };
            let small = Err(MEMPOOL_ERR_BUFFER_TOO_SMALL);
            assert_eq!(handle::init(memory.base(), 1 << 16, &options).map(drop_handle), small);
            assert_eq!(handle::min_len(&options), 0, "none is so long");
            let attached = handle::attach(memory.base(), 1 << 16, &options).map(drop_handle);
            assert_eq!(attached, Err(MEMPOOL_ERR_NOT_A_POOL));
        }
    }
}
