//! The layout in the buffer, as released: pool files from then are opened, looked at, repaired and used
//! by the library as it is now. Each lies here beside a text that says what is in it.
//!
//! ```text
//! layout-5.pool           blocks of many sizes in every state, names, a root with slots
//! layout-5-caches.pool    owners, and what threads that are gone had in caches and depot
//! layout-5-shelves.pool   what is too large for magazines
//! layout-5-guard.pool     guards, filled memory; granules of 64 bytes, not at the buffer's start
//! layout-5-KIND.pool      copied in the midst of a change of this kind
//! layout-5-*.txt          what is in it, before and after
//! ```
//!
//! A file ends where only zeros follow; [`handle::peek`] tells how long the pool is. The threads and
//! processes that it names are of another boot, whose number is in all files the same, and none: so
//! it does not matter on which machine the files were made, nor what has their numbers today.
//!
//! A change of the meaning of any byte is another layout: another [`VERSION`], and files beside these.
//! (Who makes one decides, and tests here, whether those of the old are still read or refused.)
//! MEMPOOL_BLESS=1 makes those that are missing, and never writes over one that is there.
#![cfg(all(target_arch = "x86_64", target_env = "gnu"))] // The header says which machine's it is.

#[path = "../common/mod.rs"]
mod common;

mod make;

use ::mempool::abi::*;
use ::mempool::layout::VERSION;
use common::worker::{is_stamped, stamp, stamped_size, Shared};
use common::{child, handle, Handle, Memory};
use make::{Case, BOOT, CASES};
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

/// Where a layout's words lie, of which no constant of the library may tell: in bytes from the header's
/// first.
const LOCK: usize = 72;
const BOOT_OF_LOCK: usize = 76;
const NAMESPACE: usize = 80;
const TURN: usize = 84;
const HEAP: usize = 112;
const SEAL: usize = 140;
const RECORD: usize = 144;
const RECORD_SLOT: usize = 48;
const DEPOT: usize = 240;
const CACHES: usize = 264;
const NAMES: usize = 252;
const SHELVES: usize = 268;

fn path(name: &str, ending: &str) -> PathBuf {
    let file = format!("layout-{VERSION}{name}.{ending}");
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/layouts").join(file)
}

/// A word of 32 bits of the header.
fn word(memory: &Memory, start: usize, at: usize) -> u32 {
    let bytes = memory.bytes(start.next_multiple_of(8) + at, 4);
    u32::from_le_bytes(bytes.try_into().expect("four bytes"))
}

/// The kind of the change that is under way, and the slot that says so.
fn open_change(memory: &Memory, start: usize) -> Option<(u8, usize)> {
    let seal = word(memory, start, SEAL);
    let slot = seal as usize & 1;
    let what = word(memory, start, RECORD + slot * RECORD_SLOT);
    (seal != 0).then_some((what as u8, slot))
}

/// The map's bytes of all blocks.
fn map<'a>(memory: &'a Memory, case: &Case) -> &'a [u8] {
    let plan = make::plan(case, memory.base() as usize, memory.len());
    memory.bytes(plan.map, word(memory, case.options.start, HEAP) as usize)
}

/// A copy of the file, as long as its pool says.
fn load(case: &Case) -> Memory {
    let path = path(case.name, "pool");
    let bytes = std::fs::read(&path).unwrap_or_else(|error| {
        panic!("{}: {error}; MEMPOOL_BLESS=1 makes it", path.display());
    });
    let start = case.options.start;
    let len = handle::peek(&bytes[start..]).expect("peek") as usize;
    assert!(bytes.len() <= len, "{}: longer than its pool", path.display());
    let memory = Memory::shared(len);
    memory.bytes_mut(0, bytes.len()).copy_from_slice(&bytes);
    memory
}

/// What is seen of a pool without a store to it.
fn inspected(memory: &Memory, case: &Case, text: &mut String) {
    memory.forbid_writes();
    let mut blocks = Vec::new();
    let stats = handle::inspect(memory.base(), memory.len(), &case.options, &mut blocks);
    let stats = stats.unwrap_or_else(|status| {
        panic!("{}: inspect: {status}: {}", case.name, handle::last_message());
    });
    let start = case.options.start;
    if let Some((kind, slot)) = open_change(memory, start) {
        writeln!(text, "change {kind} in slot {slot}").unwrap();
    }
    // Printed with their names, so that whoever compares sees which.
    writeln!(text, "{stats:#?}").unwrap();
    for block in &blocks {
        let state = ["free", "live", "cached", "meta"][block.state as usize];
        writeln!(text, "block {} {} {state}", block.offset, block.size).unwrap();
    }
}

/// FNV-1a, as written in these files.
fn sum(bytes: &[u8]) -> u64 {
    let step = |sum: u64, &byte: &u8| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

fn live(pool: Handle) -> Vec<handle::Block> {
    pool.walk().into_iter().filter(|block| block.state == MEMPOOL_BLOCK_LIVE).collect()
}

/// What callers have in a pool.
fn held(memory: &Memory, pool: Handle, case: &Case, text: &mut String) {
    writeln!(text, "root {}", pool.offset(pool.root().expect("root"))).unwrap();
    for (name, offset) in pool.names().expect("names") {
        let found = pool.offset(pool.find(&name).expect("find"));
        assert_eq!(found, offset, "{}", String::from_utf8_lossy(&name));
        writeln!(text, "name {} {offset}", String::from_utf8_lossy(&name)).unwrap();
    }
    for block in live(pool) {
        let (at, place) = (block.offset as usize, pool.pointer(block.offset));
        let usable = pool.usable_size(place);
        let sum = sum(memory.bytes(at, usable));
        write!(text, "live {at} {} holds {usable} {sum:016x}", block.size).unwrap();
        if usable >= 16 && is_stamped(place, block.offset, usable) {
            write!(text, " stamped").unwrap();
        }
        if case.options.flags & MEMPOOL_OWNER_TAGS != 0 {
            match pool.owner(place) {
                Ok(owner) => write!(text, " of {} {} {}", owner.pid, owner.start, owner.label),
                Err(status) => write!(text, " of nobody: {status}"),
            }
            .unwrap();
        }
        writeln!(text).unwrap();
    }
}

/// New blocks come and go between the old ones, and these have still their bytes.
fn use_it(pool: Handle, other: Handle) {
    let before: Vec<(u64, u64)> =
        live(pool).iter().map(|block| (block.offset, sum_of(pool, block))).collect();
    let sizes = [16, 17, 40, 64, 100, 200, 333, 500];
    let mut made = Vec::new();
    for size in sizes.into_iter().cycle().take(200) {
        let Ok(block) = pool.malloc(size) else { break };
        let offset = pool.offset(block);
        stamp(block, offset, size);
        made.push(offset);
    }
    assert!(!made.is_empty(), "malloc: {}", handle::last_message());
    for offset in made {
        let block = other.pointer(offset);
        assert!(is_stamped(block, offset, other.usable_size(block).min(stamped_size(block))));
        other.free(block).expect("free");
        assert_eq!(pool.free(pool.pointer(offset)), Err(MEMPOOL_ERR_NOT_ALLOCATED));
    }
    pool.must_check();
    let after: Vec<(u64, u64)> =
        live(pool).iter().map(|block| (block.offset, sum_of(pool, block))).collect();
    assert_eq!(after, before, "others' blocks are as they were");
}

fn sum_of(pool: Handle, block: &handle::Block) -> u64 {
    let place = pool.pointer(block.offset);
    // SAFETY: a live block of the pool that nobody changes meanwhile.
    sum(unsafe { std::slice::from_raw_parts(place, pool.usable_size(place)) })
}

/// All can be given back, and the pool is one free run again.
fn take_apart(shared: Shared, case: &Case, text: &mut String) {
    let pool = shared.pool;
    if case.options.flags & MEMPOOL_OWNER_TAGS != 0 {
        let reaped = pool.reap().expect("reap");
        let mempool_reaped_t { owners, freed_count, freed_size, kept_count, kept_size } = reaped;
        writeln!(text, "reaped {owners} {freed_count} {freed_size} {kept_count} {kept_size}")
            .unwrap();
    }
    for (name, offset) in pool.names().expect("names") {
        let block = pool.pointer(offset);
        assert_eq!(pool.free(block), Err(MEMPOOL_ERR_BUSY), "it has a name");
        pool.unbind(&name).expect("unbind");
    }
    let root = pool.root().expect("root");
    if !root.is_null() {
        assert_eq!(pool.free(root), Err(MEMPOOL_ERR_BUSY), "it is the root");
        // A change of the root may have made a block without slots the root.
        let has_slots = !is_stamped(root, pool.offset(root), pool.usable_size(root));
        let slots = if has_slots { pool.usable_size(root) / 8 } else { 0 };
        for slot in 0..slots {
            // SAFETY: inside the root's block.
            let slot = unsafe { root.cast::<u64>().add(slot) };
            pool.free_from(slot).unwrap_or_else(|_| panic!("{}", handle::last_message()));
        }
        pool.set_root(std::ptr::null()).expect("set_root");
    }
    for block in live(pool) {
        pool.free(pool.pointer(block.offset)).expect("free");
    }
    let first = case.options.start as u64 + pool.stats().overhead;
    shared.must_be_whole(first);
}

/// Looks at a pool, repairs and uses it; what there is to be said of it.
fn tell(case: &Case, memory: Memory) -> String {
    let mut text = String::new();
    inspected(&memory.view(), case, &mut text);

    let (here, there) = (memory.view(), memory.view());
    let attach = |memory: &Memory| {
        handle::attach(memory.base(), memory.len(), &case.options).unwrap_or_else(|status| {
            panic!("{}: attach: {status}: {}", case.name, handle::last_message())
        })
    };
    let pool = attach(&here);
    assert_eq!(
        open_change(&memory, case.options.start),
        None,
        "whoever comes first finishes the change"
    );
    assert_eq!(pool.stats().thread_caches, 0, "their threads are of another boot");
    pool.recover().expect("recover");
    pool.must_check();
    let other = attach(&there);
    writeln!(text, "repaired").unwrap();
    held(&memory, other, case, &mut text);
    use_it(pool, other);
    other.detach().expect("detach");
    take_apart(Shared { memory: here, pool }, case, &mut text);
    text
}

/// Each case in a process of its own, that a broken pool may bring down.
fn must_be_as_told(case: &Case) {
    let expected = std::fs::read_to_string(path(case.name, "txt")).expect("what is in the file");
    child::run(LIMIT, || {
        let told = tell(case, load(case));
        let open = open_change(&load(case), case.options.start).map(|(kind, _)| kind);
        assert_eq!(open, case.open.as_ref().map(|open| open.kind), "{}", case.name);
        let differ = |(ours, theirs): &(&str, &str)| ours != theirs;
        let first = expected.lines().zip(told.lines()).find(differ);
        assert!(told == expected, "{}: expected, found: {first:#?}\n\n{told}", case.name);
    });
}

/// Whether a library that cannot read the record would repair the pool in another way, or not at all.
fn does_record_matter(case: &Case, memory: &Memory, told: &str) -> bool {
    let unread = memory.copy();
    let (kind, slot) = open_change(memory, case.options.start).expect("it is open");
    let at = case.options.start.next_multiple_of(8) + RECORD + slot * RECORD_SLOT;
    unread.bytes_mut(at, 1)[0] = !kind;
    let repaired = |text: &str| text[text.find("repaired").expect("the second part")..].to_owned();
    let same = || u8::from(repaired(&tell(case, unread)) == repaired(told)).into();
    child::fork(same).wait(LIMIT) != Some(child::End::Exit(1))
}

/// Makes what is missing. What is there stays: it is a promise.
fn bless(case: &Case) {
    if path(case.name, "txt").exists() {
        return;
    }
    let (memory, told) = loop {
        let memory = make::make(case);
        make::put_into_another_boot(case, &memory);
        let told = tell(case, memory.copy());
        if case.open.is_none() || does_record_matter(case, &memory, &told) {
            break (memory, told);
        }
    };
    let bytes = memory.bytes(0, memory.len());
    let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    std::fs::write(path(case.name, "pool"), &bytes[..end]).expect("the pool is written");
    std::fs::write(path(case.name, "txt"), told).expect("the text is written");
}

#[test]
fn pools_of_this_layout_are_read_repaired_and_used() {
    for case in CASES {
        if std::env::var_os("MEMPOOL_BLESS").is_some() {
            bless(case);
        }
        must_be_as_told(case);
    }
}

/// Every code that the map knows stands in one of the files.
#[test]
fn the_files_hold_every_state_of_a_block() {
    let mut seen = [false; 256];
    for case in CASES {
        let memory = load(case);
        let bytes = |at: usize| memory.bytes(case.options.start.next_multiple_of(8) + at, 8);
        let from_header = |at| usize::from_le_bytes(bytes(at).try_into().expect("eight bytes"));
        let region = (from_header(32), from_header(40));
        assert_eq!(region, (case.options.start, memory.len()), "the region");
        map(&memory, case).iter().for_each(|&byte| seen[usize::from(byte)] = true);
    }
    let special =
        [0xf0, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9, 0xfb, 0xfc, 0xfd, 0xfe];
    let missing: Vec<_> = special.into_iter().filter(|&code: &usize| !seen[code]).collect();
    assert!(missing.is_empty(), "{missing:x?}");
    let classes = |from: usize| seen[from..from + 88].iter().filter(|&&seen| seen).count();
    assert!(classes(0x40) > 20 && classes(0x98) > 4, "{} {}", classes(0x40), classes(0x98));
}

/// Words of 32 bits that lie there.
fn words(memory: &Memory, at: usize) -> [u32; 2] {
    let bytes = memory.bytes(at, 8).try_into().expect("eight bytes");
    let both = u64::from_le_bytes(bytes);
    [both as u32, (both >> 32) as u32]
}

/// The words that no file can tell of, since they are another boot's, or hints: whoever writes them
/// writes them where they were.
#[test]
fn what_is_written_to_the_header_lies_where_it_did() {
    child::run(LIMIT, || {
        let case = &CASES[1];
        let memory = load(case);
        let shared = Shared::with(Memory::shared(1 << 16), 0);
        let at = |at| word(&memory, 0, at);
        let pool = handle::attach(memory.base(), memory.len(), &case.options).expect("attach");
        assert_ne!(at(BOOT_OF_LOCK), BOOT, "the lock is this boot's now");
        assert_eq!(at(BOOT_OF_LOCK), word(&shared.memory, 0, BOOT_OF_LOCK));
        assert_eq!(at(NAMESPACE), word(&shared.memory, 0, NAMESPACE), "and this namespace's");
        assert_eq!(at(LOCK), 0, "nobody holds it");
        let turn = at(TURN);
        pool.root().expect("root");
        assert_eq!(at(TURN), turn + 1, "who takes it takes a turn");

        let stats = pool.stats();
        let before: Vec<u32> = (0..7).map(|index| at(HEAP + 4 * index)).collect();
        let plan = make::plan(case, memory.base() as usize, memory.len());
        let first = plan.first as u64;
        assert_eq!(u64::from(before[0]), (stats.top - first) / stats.align, "top");
        assert!(before[1] >= before[0], "watermark");
        let cached = stats.cached_count;
        assert!(cached > 0 && at(CACHES) > 0);
        let new = Shared::with(Memory::shared(1 << 20), 0);
        new.pool.malloc(16).expect("malloc");
        let [hoard, known] = words(&new.memory, DEPOT);
        assert!(known == 1 && hoard > known, "one magazine, of several granules: {known} {hoard}");
        assert_eq!(u64::from(before[2]), stats.used_count + cached, "blocks that are not free");
        assert_eq!(u64::from(before[3]), stats.free_count, "free blocks");
        assert_eq!(u64::from(before[4]) * stats.align, stats.free_size, "free granules");
        for class in [1, 4] {
            // What dead threads had of 32 and of 80 bytes: full magazines, on the class's first stack.
            let [full, empty] = [0, 8].map(|at| words(&memory, plan.depot + class * 16 + at)[0]);
            assert!(full != 0 && empty == 0, "the depot's stacks: {full} {empty}");
            let magazine = plan.magazine + (full as usize - 1) * 256;
            let [owner, what] = [0, 8].map(|at| words(&memory, magazine + at)[0]);
            assert_eq!(owner as usize, 1 + class, "the depot's, of this class");
            assert!((1..=18).contains(&(what as u8)), "of 18 that were freed");
            assert_eq!(what >> 8 & 0xff, class as u32);
        }
        let root = pool.offset(pool.root().expect("root"));
        assert_eq!(
            u64::from(at(NAMES + 4) - 1) * stats.align + first,
            root,
            "the root, 0 for none"
        );
        let meta = pool.walk().into_iter().filter(|block| block.state == MEMPOOL_BLOCK_META);
        let meta: u64 = meta.map(|block| block.size).sum();
        assert_eq!(u64::from(at(NAMES + 8)) * stats.align, meta, "granules of names");
    });
}

/// Four blocks of the smallest wide class lie where a first thread puts them.
#[test]
fn shelves_hold_what_they_did() {
    let case = CASES.iter().find(|case| case.name == "-shelves").expect("it is there");
    let memory = load(case);
    let plan = make::plan(case, memory.base() as usize, memory.len());
    assert_eq!((word(&memory, 0, SHELVES), plan.shelves), (1, 1));
    let words = (0..64).map(|place| words(&memory, plan.shelf + place * 8));
    let expected = (0..64).map(|place| [if place < 4 { 4608 * (place + 1) + 1 } else { 0 }, 0]);
    assert!(words.eq(expected), "granules, and nobody's grip");
}

/// Sizes in granules, and what the map says of a live block of each: there are too many for a file.
#[test]
fn every_size_has_the_code_it_had() {
    let steps = (0..7).flat_map(|doubling| (9..=16).map(move |step| (step << doubling) * 4));
    let classes: Vec<usize> = (1..=32).chain(steps).collect();
    assert_eq!((classes.len(), classes[35], classes[87]), (88, 48, 4096));
    let mut codes: Vec<(usize, Vec<u8>)> =
        (0x40..).zip(classes).map(|(code, size)| (size, vec![code])).collect();
    codes.extend([
        (33, vec![0xf2, 33]),
        (57, vec![0xf2, 57]),
        (58, vec![0xf2, 58, 58, 0]),
        (4095, vec![0xf2, 58, 63, 63]),
        (4097, vec![0xf2, 59, 1, 0, 1, 0]),
        (300_001, vec![0xf2, 59, 33, 15, 9, 1]),
    ]);
    let shared = Shared::with(Memory::shared(8 << 20), MEMPOOL_NO_THREAD_CACHES);
    let plan = make::plan(&make::UNCACHED, shared.memory.base() as usize, shared.memory.len());
    for (size, code) in codes {
        let block = shared.pool.malloc(16 * size).expect("malloc");
        let granule = (shared.pool.offset(block) as usize - plan.first) / 16;
        assert_eq!(shared.memory.bytes(plan.map + granule, code.len()), code, "{size} granules");
        shared.pool.free(block).expect("free");
    }
}
