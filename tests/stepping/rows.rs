//! What a call turned out to do, by the figures before and after it: the table has a row for each.

use super::scene::{Call, Effect, Scene};
use super::theatre::Theatre;
use crate::common::handle::{self, Block, Status};
use ::mempool::abi::{MEMPOOL_BLOCK_CACHED, MEMPOOL_BLOCK_LIVE, MEMPOOL_OK};
use ::mempool::layout::TURN_OFFSET;
use std::cmp::Ordering;

/// What the call was in the end, by what it did: the row of the table that it belongs to.
pub fn row(theatre: &Theatre, scene: &Scene, status: Status, block: u64, before: &[u8]) -> String {
    let after = theatre.memory.bytes(0, before.len());
    let name = match scene.call {
        Call::Malloc { .. } => "malloc",
        Call::Calloc { .. } => "calloc",
        Call::CallocFill { .. } => "calloc_fill",
        Call::AlignedAlloc { .. } => "aligned_alloc",
        Call::Free { .. } | Call::FreeBad { .. } => "free",
        Call::FreeSized { .. } => "free_sized",
        Call::Realloc { .. } | Call::ReallocNull { .. } => "realloc",
        Call::Expand { .. } => "expand",
        Call::Bind { .. } => "bind",
        Call::Unbind { .. } => "unbind",
        Call::UnbindFrom { .. } => "unbind_from",
        Call::SetRoot { .. } | Call::NoRoot => "set_root",
        Call::FreeAll => "free_all",
        Call::Trim => "trim",
        Call::Recover => "recover",
        Call::Check => "check",
        Call::Stats => "stats",
        Call::Walk => "walk",
        Call::Attach => "attach",
        Call::Detach => "detach",
        Call::Init => "init",
        Call::Open => "open",
        Call::Release => "release",
    };
    if status != MEMPOOL_OK {
        return format!("{name}, fails");
    }
    let way = match scene.effect() {
        Effect::Adds { .. } => way(theatre, before, after),
        Effect::Removes { slot } => {
            let state = block_at(theatre, scene.known[slot].offset).map(|block| block.state);
            match (way(theatre, before, after), state) {
                (way, Some(MEMPOOL_BLOCK_CACHED)) if way == "heap" || way == "top" => {
                    "cache, others given back".into()
                }
                (way, _) => way,
            }
        }
        Effect::Replaces { slot, .. } => {
            let (old, lock) = (scene.known[slot], way(theatre, before, after));
            let size = block_at(theatre, block).map_or(0, |block| block.size);
            match (block == old.offset, size.cmp(&old.whole)) {
                (false, _) => format!("moves ({lock})"),
                (true, Ordering::Equal) => "as it is".into(),
                (true, Ordering::Less) => "shrinks".into(),
                (true, Ordering::Greater) => "grows".into(),
            }
        }
        Effect::Names => way_of_names(scene).into(),
        _ => theatre.case.group.into(),
    };
    format!("{name}, {way}")
}

/// What a call about names came to.
fn way_of_names(scene: &Scene) -> &'static str {
    let (old, new) = (scene.bound, scene.bound_after());
    let root_was = |reasons| {
        let slot = old.root.checked_sub(1);
        slot.is_some_and(|slot| scene.reasons(&new, slot) == reasons)
    };
    match scene.call {
        Call::Bind { slot, .. } if scene.reasons(&old, slot) == 0 => "a block's first",
        Call::Bind { .. } => "another",
        Call::Unbind { name } | Call::UnbindFrom { name, .. } => {
            match scene.reasons(&new, old.names[name] - 1) {
                0 => "a block's last",
                1 => "the last but one",
                _ => "one of several",
            }
        }
        Call::NoRoot => "none",
        _ if old.root == 0 => "the first",
        _ if root_was(0) => "another",
        _ => "another, a name is left",
    }
}

/// Where blocks came from or went to.
fn way(theatre: &Theatre, before: &[u8], after: &[u8]) -> String {
    let geometry = &theatre.geometry;
    let word = |bytes: &[u8], at: usize| {
        u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
    };
    let owners = |bytes: &[u8]| -> Vec<u32> {
        (0..geometry.magazines).map(|at| word(bytes, geometry.magazine_at(at))).collect()
    };
    let shelf = geometry.shelf..geometry.magazine;
    let shelved = geometry.shelves > 0 && before[shelf.clone()] != after[shelf];
    let inspect = |bytes: &[u8]| {
        let mut blocks = Vec::new();
        let seen = handle::inspect(bytes.as_ptr(), bytes.len(), &theatre.case.options, &mut blocks);
        (seen.expect("inspect"), blocks)
    };
    let ((old, olds), (new, news)) = (inspect(before), inspect(after));
    let locked = word(before, TURN_OFFSET) != word(after, TURN_OFFSET);
    let claimed = old.thread_caches != new.thread_caches;
    let cached = new.cached_count as i64 - old.cached_count as i64;
    let adds = matches!(theatre.board.scene().effect(), Effect::Adds { .. });
    let way = match (locked, cached) {
        (false, _) if shelved => "shelf",
        (true, 1..) if shelved && !adds => "shelf, with the lock",
        (false, _) if owners(before) != owners(after) => "depot",
        (false, _) => "cache",
        (true, ..=-2) => "caches given back",
        (true, 1..) if adds && !are_one_row(&olds, &news) => "cache, from the heap, in places",
        (true, 1..) if adds => "cache, from the heap",
        (true, 1..) => "cache, with the lock",
        (true, -1) if adds => "cache, with the lock",
        (true, _) if old.top != new.top => "top",
        (true, _) => "heap",
    };
    format!("{way}{}", if claimed { ", cache claimed" } else { "" })
}

/// Whether all blocks that are cached or live now, and were not, lie beside each other.
fn are_one_row(olds: &[Block], news: &[Block]) -> bool {
    let states = [MEMPOOL_BLOCK_LIVE, MEMPOOL_BLOCK_CACHED];
    let is_taken = |block: &&Block| states.contains(&block.state);
    let was_taken = |at| olds.iter().filter(is_taken).any(|old| old.offset == at);
    let made = || news.iter().filter(is_taken).filter(|block| !was_taken(block.offset));
    let all: u64 = made().map(|block| block.size).sum();
    let ends = made().next().zip(made().last());
    ends.is_some_and(|(first, last)| last.offset + last.size - first.offset == all)
}

/// The block that begins there now.
fn block_at(theatre: &Theatre, offset: u64) -> Option<Block> {
    let mut blocks = Vec::new();
    let memory = theatre.memory;
    let seen = handle::inspect(memory.base(), memory.len(), &theatre.case.options, &mut blocks);
    seen.expect("inspect");
    blocks.into_iter().find(|block| block.offset == offset)
}
