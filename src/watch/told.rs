//! The blocks that tools were told of in this process, by address: what a tool is told next depends
//! on what it was told before, and it cannot be asked.
//!
//! A word for each eight bytes of address space, in leaves that are made when they are needed, in
//! this process's own memory (a program may have the pool for its malloc). Only what is written of
//! a leaf takes memory.
//!
//! ```text
//! blocks   | asked << 1 | 1 | ~start | ~start | 0 | 0 |     of the first bytes, of the others, of none
//! shown    | start          | 0      | 0      | 0 | 0 |     of the first bytes of a block that is shown
//! ```
//!
//! The inverted address is none, so that memcheck, which looks for addresses in all memory to tell
//! what is lost, finds none here. But of a shown block it shall: others may know it.
#![allow(unsafe_code)]

use crate::sys;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering::*};

const UNIT_BYTES: usize = 8;
const LEAF_BYTES: usize = 4 << 20;
const UNITS: usize = LEAF_BYTES / UNIT_BYTES;
const BUCKETS: usize = 64;

#[repr(C)]
struct Leaf {
    /// The first address.
    from: AtomicUsize,
    next: AtomicPtr<Leaf>,
    /// How many blocks begin here.
    count: AtomicUsize,
    blocks: [AtomicUsize; UNITS],
    shown: [AtomicUsize; UNITS],
    /// How many handles there are of a pool that begins here.
    handles: [AtomicU32; UNITS],
}

/// Lists of leaves, by address.
static LEAVES: [AtomicPtr<Leaf>; BUCKETS] = [const { AtomicPtr::new(null_mut()) }; BUCKETS];

/// What a word says.
enum Note {
    Nothing,
    First { asked: usize },
    Inside { start: usize },
}

impl Note {
    fn read(word: usize) -> Note {
        match word {
            0 => Note::Nothing,
            _ if word & 1 == 1 => Note::First { asked: word >> 1 },
            _ => Note::Inside { start: !(word ^ 1) },
        }
    }

    fn word(&self) -> usize {
        match *self {
            Note::Nothing => 0,
            Note::First { asked } => asked << 1 | 1,
            // A start is a multiple of the unit.
            Note::Inside { start } => !start ^ 1,
        }
    }
}

/// The bytes of the block that was told of by this address, as asked for.
pub fn asked(at: usize) -> Option<usize> {
    match Note::read(word(at)?.load(Relaxed)) {
        Note::First { asked } => Some(asked),
        _ => None,
    }
}

/// The first byte of the block around an address.
pub fn start(inside: usize) -> Option<usize> {
    match Note::read(word(inside)?.load(Relaxed)) {
        Note::Nothing => None,
        Note::First { .. } => Some(inside / UNIT_BYTES * UNIT_BYTES),
        Note::Inside { start } => Some(start),
    }
}

/// Notes a block where none is noted; false if there is no memory for that.
pub fn put(at: usize, asked: usize) -> bool {
    let units = || (at..at + asked).step_by(UNIT_BYTES);
    if (at / LEAF_BYTES..=(at + asked - 1) / LEAF_BYTES).any(|n| grow(n * LEAF_BYTES).is_none()) {
        return false;
    }
    for unit in units().skip(1) {
        if let Some(word) = word(unit) {
            word.store(Note::Inside { start: at }.word(), Relaxed);
        }
    }
    if let Some(leaf) = leaf(at) {
        leaf.shown[index(at)].store(0, Relaxed);
        leaf.blocks[index(at)].store(Note::First { asked }.word(), Relaxed);
        leaf.count.fetch_add(1, Relaxed);
    }
    true
}

/// Forgets a block; what was asked for. Of several threads one gets the answer.
pub fn take(at: usize) -> Option<usize> {
    let leaf = leaf(at)?;
    let first = &leaf.blocks[index(at)];
    let found = first.load(Relaxed);
    let Note::First { asked } = Note::read(found) else { return None };
    first.compare_exchange(found, 0, Relaxed, Relaxed).ok()?;
    leaf.count.fetch_sub(1, Relaxed);
    leaf.shown[index(at)].store(0, Relaxed);
    let inside = Note::Inside { start: at }.word();
    for word in (at..at + asked).step_by(UNIT_BYTES).skip(1).filter_map(word) {
        let _another = word.compare_exchange(inside, 0, Relaxed, Relaxed);
    }
    Some(asked)
}

/// Whether a block is shown.
pub fn is_shown(at: usize) -> bool {
    leaf(at).is_some_and(|leaf| leaf.shown[index(at)].load(Relaxed) != 0)
}

/// Notes that a block is shown: what was asked for, if it was not before.
pub fn show(at: usize) -> Option<usize> {
    let asked = asked(at)?;
    let before = leaf(at)?.shown[index(at)].swap(at, Relaxed);
    (before == 0).then_some(asked)
}

/// The first bytes of all blocks that reach in between these addresses.
pub fn starts(from: usize, to: usize) -> impl Iterator<Item = usize> {
    let around = if from < to { start(from).filter(|&at| at < from) } else { None };
    around.into_iter().chain(firsts(from.next_multiple_of(UNIT_BYTES), to))
}

/// The first bytes of all blocks.
pub fn all() -> impl Iterator<Item = usize> {
    let leaves = LEAVES
        .iter()
        .flat_map(|bucket| core::iter::successors(follow(bucket), |leaf| follow(&leaf.next)));
    leaves.flat_map(|leaf| {
        let from = leaf.from.load(Relaxed);
        firsts(from, from + LEAF_BYTES)
    })
}

/// One more handle of the pool that begins here.
pub fn add_handle(at: usize) {
    if let Some(leaf) = grow(at) {
        leaf.handles[index(at)].fetch_add(1, Relaxed);
    }
}

/// One handle less: whether it was the last.
pub fn is_last_handle(at: usize) -> bool {
    leaf(at).is_none_or(|leaf| leaf.handles[index(at)].fetch_sub(1, Relaxed) == 1)
}

fn firsts(mut at: usize, to: usize) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        while at < to {
            let here = at;
            match leaf(here).filter(|leaf| leaf.count.load(Relaxed) > 0) {
                None => at = (here / LEAF_BYTES + 1) * LEAF_BYTES,
                Some(leaf) => {
                    at += UNIT_BYTES;
                    if leaf.blocks[index(here)].load(Relaxed) & 1 == 1 {
                        return Some(here);
                    }
                }
            }
        }
        None
    })
}

fn word(at: usize) -> Option<&'static AtomicUsize> {
    leaf(at).map(|leaf| &leaf.blocks[index(at)])
}

fn index(at: usize) -> usize {
    at % LEAF_BYTES / UNIT_BYTES
}

fn bucket(at: usize) -> &'static AtomicPtr<Leaf> {
    &LEAVES[at / LEAF_BYTES % BUCKETS]
}

fn follow(link: &AtomicPtr<Leaf>) -> Option<&'static Leaf> {
    // SAFETY: NULL, or a leaf, which was zeroed when it was made (a value of every field) and is
    // there as long as the process.
    unsafe { link.load(Acquire).as_ref() }
}

fn leaf(at: usize) -> Option<&'static Leaf> {
    let from = at / LEAF_BYTES * LEAF_BYTES;
    core::iter::successors(follow(bucket(at)), |leaf| follow(&leaf.next))
        .find(|leaf| leaf.from.load(Relaxed) == from)
}

/// The leaf for an address, made if there is none; None if there is no memory for it.
fn grow(at: usize) -> Option<&'static Leaf> {
    let mut fresh: *mut Leaf = null_mut();
    loop {
        let head = bucket(at).load(Acquire);
        if let Some(leaf) = leaf(at) {
            // If another thread was faster the bytes stay reserved, which costs nothing.
            return Some(leaf);
        }
        if fresh.is_null() {
            fresh = sys::reserve(size_of::<Leaf>())?.as_ptr().cast();
        }
        // SAFETY: zeroed and large enough; zero is a value of every field.
        let made = unsafe { &*fresh };
        made.from.store(at / LEAF_BYTES * LEAF_BYTES, Relaxed);
        made.next.store(head, Relaxed);
        if bucket(at).compare_exchange(head, fresh, AcqRel, Relaxed).is_ok() {
            return Some(made);
        }
    }
}
