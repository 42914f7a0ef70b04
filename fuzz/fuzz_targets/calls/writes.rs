//! What the caller writes where it must not, in pools that look for that: a byte behind a block, and
//! one of free memory. It is told by the calls that must, and by no other.

use super::World;
use ::mempool::abi::*;
use mempool_fuzz::handle::{self, Block};
use std::ops::Range;

/// Free memory is filled with it.
const FREED: u8 = 0xdf;
/// A free block's first bytes are the pool's.
const LINKS: u64 = 8;
/// A guard's last bytes tell how long the block is.
const TAIL: u64 = 8;

pub struct Writes {
    behind: Option<Behind>,
    free: Option<Free>,
    /// What lies below was in a block once: free memory there is filled.
    reached: u64,
}

/// A byte behind a block is another than it was.
#[derive(Clone, Copy)]
struct Behind {
    block: u64,
    at: u64,
    was: u8,
    byte: u8,
    is_in_tail: bool,
}

/// A byte of free memory is no more as it was filled.
#[derive(Clone, Copy)]
struct Free {
    at: u64,
    byte: u8,
}

impl Writes {
    pub fn new(top: u64) -> Writes {
        Writes { behind: None, free: None, reached: top }
    }

    /// A block was given, in which nobody may have written before.
    pub fn must_miss(&mut self, block: Range<u64>) {
        let written = self.free.is_some_and(|free| block.contains(&free.at));
        assert!(!written, "given, though it was written to");
        self.reached = self.reached.max(block.end);
    }

    /// What a call that looks behind a block must say.
    pub fn told_of(&self, block: u64) -> Result<(), i32> {
        match self.behind {
            Some(behind) if behind.block == block => Err(MEMPOOL_ERR_CORRUPTED),
            _ => Ok(()),
        }
    }

    /// Whether the pool cannot know any more how long a block is.
    pub fn hides_size(&self, block: u64) -> bool {
        self.behind.is_some_and(|behind| behind.block == block && behind.is_in_tail)
    }

    /// All blocks below `top` were freed at once: all there is filled.
    pub fn all_freed(&mut self, top: u64) {
        self.behind = None;
        self.free = self.free.filter(|free| free.at >= top);
    }
}

impl World {
    fn byte(&self, at: u64) -> &mut u8 {
        &mut self.buffer.bytes()[at as usize]
    }

    /// Writes a byte behind a block; or what was written becomes what it was.
    pub fn write_behind(&mut self) {
        let picked = self.pick().filter(|_| self.has(MEMPOOL_GUARD));
        let (some, by) = (self.input.u8(), self.input.u8().max(1));
        if self.undo_behind() {
            return;
        }
        let Some(block) = picked else { return };
        let asked = self.live[&block].asked as u64;
        let walked = self.pool().walk();
        let place = walked.binary_search_by_key(&block, |walked| walked.offset).expect("live");
        let end = block + walked[place].size;
        let at = block + asked + u64::from(some) % (end - block - asked);
        let was = *self.byte(at);
        let byte = was ^ by;
        *self.byte(at) = byte;
        self.writes.behind = Some(Behind { block, at, was, byte, is_in_tail: at >= end - TAIL });
    }

    /// Writes a byte of free memory; or what was written becomes what it was.
    pub fn write_free(&mut self) {
        let (run, some, by) = (self.input.u8(), self.input.u16(), self.input.u8().max(1));
        if self.undo_free() || !self.has(MEMPOOL_FILL_FREED) {
            return;
        }
        let walked = self.pool().walk();
        let top = walked.last().map_or(self.after_init.top, |last| last.offset + last.size);
        let is_free = |block: &&Block| block.state == MEMPOOL_BLOCK_FREE;
        let free = walked.iter().filter(is_free).map(|b| (b.offset + LINKS)..(b.offset + b.size));
        let runs =
            free.chain(std::iter::once(top..self.writes.reached)).filter(|run| !run.is_empty());
        let runs: Vec<Range<u64>> = runs.collect();
        let Some(run) = runs.get(usize::from(run) % runs.len().max(1)) else { return };
        let at = run.start + u64::from(some) % (run.end - run.start);
        assert_eq!(*self.byte(at), FREED, "{at:#x} is free");
        *self.byte(at) ^= by;
        self.writes.free = Some(Free { at, byte: *self.byte(at) });
    }

    pub fn undo_writes(&mut self) {
        self.undo_behind();
        self.undo_free();
    }

    fn undo_behind(&mut self) -> bool {
        let behind = self.writes.behind.take();
        if let Some(Behind { at, was, byte, .. }) = behind {
            assert_eq!(*self.byte(at), byte, "a call that is refused has changed it");
            *self.byte(at) = was;
        }
        behind.is_some()
    }

    fn undo_free(&mut self) -> bool {
        let free = self.writes.free.take();
        if let Some(Free { at, byte }) = free {
            assert_eq!(*self.byte(at), byte, "filled, and not told");
            *self.byte(at) = FREED;
        }
        free.is_some()
    }

    /// A call that hands out memory has failed. There must have been written to free memory, which
    /// is told once.
    pub fn must_be_told(&mut self, status: i32) {
        let message = handle::last_message();
        assert_eq!(status, MEMPOOL_ERR_CORRUPTED, "{message}");
        let Some(Free { at, .. }) = self.writes.free.take() else {
            panic!("nobody has written to free memory: {message}");
        };
        assert!(
            message.contains(&format!("free memory was written to at offset {at}:")),
            "{message}"
        );
        assert_eq!(*self.byte(at), FREED, "filled anew");
    }

    /// `check` finds what was written, and nothing else.
    pub fn must_check(&self) {
        let Writes { behind, free, .. } = self.writes;
        if behind.is_none() && free.is_none() {
            return self.pool().must_check();
        }
        assert_eq!(self.pool().check(), Err(MEMPOOL_ERR_CORRUPTED), "written to");
        let message = handle::last_message();
        let of_block = behind.map(|Behind { block, at, .. }| {
            format!("block at offset {block} was written beyond its end: at offset {at},")
        });
        let of_free = free.map(|free| format!("written to at offset {}:", free.at));
        let mut told = of_block.into_iter().chain(of_free);
        assert!(told.any(|told| message.contains(&told)), "{message}");
    }

    /// Of a block that was just freed all but links is filled.
    pub fn must_be_filled(&self, offset: u64) {
        if self.has(MEMPOOL_FILL_FREED) {
            let block = offset as usize..offset as usize + self.live[&offset].usable;
            let mut bytes = self.buffer.bytes()[block].iter().skip(LINKS as usize);
            assert!(bytes.all(|&byte| byte == FREED), "{offset:#x} is freed, and not filled");
        }
    }

    /// Blocks are no longer than their guards make them; what was written to is nobody's.
    pub fn must_be_tight(&self, walked: &[Block]) {
        for block in walked.iter().filter(|block| block.state != MEMPOOL_BLOCK_FREE) {
            let range = block.offset..block.offset + block.size;
            let written = self.writes.free.is_some_and(|free| range.contains(&free.at));
            assert!(!written, "in a block, though it was written to");
            let Some(live) = self.live.get(&block.offset) else { continue };
            let least = self.least(live.asked, live.usable);
            let is_tight = !self.is_wasteful(least as usize, block.size as usize);
            assert!(block.size >= least && (!self.has(MEMPOOL_GUARD) || is_tight), "{block:?}");
        }
        if let Some(Free { at, byte }) = self.writes.free {
            assert_eq!(*self.byte(at), byte, "filled, and not told");
        }
    }

    /// Whether what was written behind a block hides how long that is in which a slot lies.
    pub fn is_hidden(&self, slot: u64) -> bool {
        let around = self.live.range(..=slot).next_back();
        around.is_some_and(|(&block, _)| self.writes.hides_size(block))
    }
}
