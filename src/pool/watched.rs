//! What the calls on a pool tell [`crate::watch`]. Without its features all of this is nothing.
//!
//! A block is told of as free before it is, and as allocated when nobody else can have it any more:
//! in between, another thread of this process may get the same bytes, and tell of them.
#![forbid(unsafe_code)]

use super::Handle;
use crate::error::Result;
use crate::local::Popped;
use crate::stats::{Block, State};
use crate::watch;

/// A block about to be resized.
#[derive(Clone, Copy)]
pub(super) struct Before {
    asked: usize,
}

impl Handle {
    /// The buffer holds a pool, which this process has just made, or found.
    #[inline(always)]
    pub(super) fn tell_attached(&self, is_made: bool) {
        if !watch::ON {
            return;
        }
        let [start, first, end] = self.places();
        watch::opened(start, first);
        if is_made {
            watch::emptied(first, end);
        }
        self.presence.begin(start, end);
    }

    /// All blocks are free.
    #[inline(always)]
    pub(super) fn tell_emptied(&self) {
        if watch::ON {
            let [_, first, end] = self.places();
            watch::emptied(first, end);
        }
    }

    /// The pool is no more.
    #[inline(always)]
    pub(super) fn tell_released(&self) {
        if watch::ON {
            let [start, _, end] = self.places();
            watch::opened(start, end);
        }
    }

    /// The handle is about to be given up.
    #[inline(always)]
    pub(super) fn tell_detaching(&self) {
        if watch::ON && self.is_here().is_ok() {
            let [_, first, end] = self.places();
            watch::forget_dead(first, end, |at| self.live(self.granule_of(at)).is_some());
        }
    }

    /// A block was taken from a cache, and is about to be delivered.
    #[inline(always)]
    pub(super) fn tell_popped(&self, taken: &Popped, asked: usize, is_written: bool) {
        if watch::ON {
            let granule = self.granule_of(taken.block().addr().get());
            self.tell_allocated(granule, asked, is_written);
        }
    }

    /// A block was allocated, and is about to be delivered.
    #[inline(always)]
    pub(super) fn tell_allocated(&self, granule: u32, asked: usize, is_written: bool) {
        if watch::ON {
            if let Some((at, len)) = self.live(granule) {
                watch::allocated(at, asked, len, is_written);
            }
        }
    }

    /// A block is about to be freed, if it is one.
    #[inline(always)]
    pub(super) fn tell_freed(&self, granule: u32) {
        if watch::ON {
            if let Some((at, len)) = self.live(granule) {
                watch::freed(at, len);
            }
        }
    }

    /// That was refused.
    #[inline(always)]
    pub(super) fn tell_kept(&self, granule: u32) {
        if watch::ON {
            if let Some((at, len)) = self.live(granule) {
                watch::kept(at, len);
            }
        }
    }

    /// A block is about to be resized, by less or more.
    #[inline(always)]
    pub(super) fn tell_resizing(&self, granule: u32, asked: usize) -> Before {
        let mut before = Before { asked: 0 };
        if watch::ON {
            if let Some((at, len)) = self.live(granule) {
                before.asked = watch::asked(at).unwrap_or(len);
                watch::cut(at, asked, len);
            }
        }
        before
    }

    /// A block's bytes are about to be copied to its new place.
    #[inline(always)]
    pub(super) fn tell_moving(&self, granule: u32) {
        if watch::ON {
            if let Some((at, len)) = self.live(granule) {
                watch::moving(at, len);
            }
        }
    }

    /// A block was resized where it is, if it was; else all is as before.
    #[inline(always)]
    pub(super) fn tell_resized(
        &self,
        granule: u32,
        asked: usize,
        resized: &Result<bool>,
        before: Before,
    ) {
        if watch::ON {
            if let Some((at, len)) = self.live(granule) {
                let asked = if matches!(resized, Ok(true)) { asked } else { before.asked };
                watch::resized(at, asked.min(len), len);
            }
        }
    }

    /// A block holds at least so much now, where it is.
    #[inline(always)]
    pub(super) fn tell_expanded(&self, granule: u32, asked: usize) {
        if watch::ON {
            if let Some((at, len)) = self.live(granule) {
                let before = watch::asked(at).unwrap_or(0);
                watch::resized(at, asked.max(before), len);
            }
        }
    }

    /// All of a live block may be used, but for its guard.
    #[inline(always)]
    pub(super) fn tell_widened(&self, granule: u32) {
        if watch::ON && !self.heap().is_guarded() {
            if let Some((at, len)) = self.live(granule) {
                watch::widened(at, len);
            }
        }
    }

    /// A pointer into a live block, whoever's, was found.
    #[inline(always)]
    pub(super) fn tell_seen(&self, pointer: *const u8) {
        if !watch::ON {
            return;
        }
        let [_, first, end] = self.places();
        let heap = self.heap();
        if !(first..end).contains(&pointer.addr()) || self.is_here().is_err() {
            return;
        }
        let around = self.granule_of(pointer.addr());
        let start = if around < heap.top() { heap.map().last_start(around) } else { None };
        if let Some((at, len)) = start.and_then(|start| self.live(start)) {
            if pointer.addr() < at + len {
                watch::seen(at, len);
            }
        }
    }

    /// A visitor is about to see a block.
    #[inline(always)]
    pub(super) fn tell_visited(&self, block: &Block) {
        if watch::ON && block.state == State::Live {
            let at = self.region.address() + block.offset as usize;
            watch::seen(at, block.size as usize);
        }
    }

    /// A slot is about to name a block.
    #[inline(always)]
    pub(super) fn tell_linked(&self, granule: u32) {
        if watch::ON {
            watch::shown(self.region.address() + self.geometry.offset(granule));
        }
    }

    /// The offset of a pointer was asked for.
    #[inline(always)]
    pub(super) fn tell_shown(&self, pointer: *const u8) {
        if watch::ON {
            watch::shown(pointer.addr());
        }
    }

    /// The live block that starts here: its address and bytes.
    fn live(&self, granule: u32) -> Option<(usize, usize)> {
        let size = self.heap().live_size(granule).ok()?;
        let at = self.region.address() + self.geometry.offset(granule);
        Some((at, self.geometry.bytes(size)))
    }

    fn granule_of(&self, address: usize) -> u32 {
        let inside = address.wrapping_sub(self.region.address() + self.geometry.first);
        (inside >> self.geometry.align_log2) as u32
    }

    /// The addresses at which the pool, its blocks, and nothing more begins.
    fn places(&self) -> [usize; 3] {
        let geometry = &self.geometry;
        [geometry.start, geometry.first, geometry.end].map(|at| self.region.address() + at)
    }
}
