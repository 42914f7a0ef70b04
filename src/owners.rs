//! Whose each live block is, in pools that were made to know it.
//!
//! ```text
//! owners  owner 1 | owner 2 | ..        0 process | 4 boot | 8 start of the process | 16 label
//! tags    a byte for each granule       0 nobody's | n owner n's | 255 condemned
//! ```
//!
//! The tag of a block's first granule counts while the block is live; all other bytes mean nothing.
//! It is written before the block is delivered, and in a thread's cache, whose blocks become live
//! without the lock, before the block is live. So whoever finds a live block finds its owner.
//!
//! An owner is a process. Its process number makes the entry valid: it is written last, and struck
//! out first. An entry is used anew only when no live block has its tag.
#![forbid(unsafe_code)]

use crate::layout::{Geometry, OWNER_BYTES};
use crate::region::Region;
use core::sync::atomic::{fence, Ordering::*};

const PID_AT: usize = 0;
const BOOT_AT: usize = 4;
const START_AT: usize = 8;
const LABEL_AT: usize = 16;

/// The tag of a block that is nobody's.
pub const NOBODY: u8 = 0;
/// The tag of a block that is being reaped: whoever reaps next frees it.
pub const CONDEMNED: u8 = u8::MAX;

/// A process that has made blocks, as others can look for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// The boot of the machine that it belongs to; 0 when that is not known.
    pub boot: u32,
    /// When it started, in the kernel's ticks since boot; 0 when that is not known.
    pub start: u64,
}

/// The owners of a pool and the tags of its blocks.
#[derive(Clone, Copy)]
pub struct Owners<'a> {
    region: &'a Region,
    geometry: &'a Geometry,
}

impl<'a> Owners<'a> {
    /// Those of the pool with this geometry, which has room for them.
    pub fn new(region: &'a Region, geometry: &'a Geometry) -> Owners<'a> {
        Owners { region, geometry }
    }

    /// Forgets all owners. The tags mean nothing as long as there is no live block.
    pub fn format(&self) {
        self.all().for_each(|owner| self.release(owner));
    }

    /// Every owner's tag, in use or not.
    pub fn all(&self) -> impl Iterator<Item = u8> {
        1..=self.geometry.owners as u8
    }

    /// The process behind a tag.
    pub fn get(&self, owner: u8) -> Option<Process> {
        let at = self.entry(owner)?;
        let process = Process {
            pid: self.region.load32(at + PID_AT),
            boot: self.region.load32(at + BOOT_AT),
            start: self.region.load64(at + START_AT),
        };
        (process.pid != 0).then_some(process)
    }

    /// The tag of a process.
    pub fn find(&self, process: Process) -> Option<u8> {
        self.all().find(|&owner| self.get(owner) == Some(process))
    }

    /// An entry that nobody uses.
    pub fn idle(&self) -> Option<u8> {
        self.all().find(|&owner| self.get(owner).is_none())
    }

    /// Gives an entry that nobody uses to a process. For who holds the pool's lock.
    pub fn claim(&self, owner: u8, process: Process) {
        let Some(at) = self.entry(owner) else { return };
        self.region.store32(at + BOOT_AT, process.boot);
        self.region.store64(at + START_AT, process.start);
        self.region.store64(at + LABEL_AT, 0);
        fence(Release);
        self.region.store32(at + PID_AT, process.pid);
    }

    /// Makes an entry nobody's. For who holds the pool's lock and knows that no live block has its tag.
    pub fn release(&self, owner: u8) {
        if let Some(at) = self.entry(owner) {
            self.region.store32(at + PID_AT, 0);
        }
    }

    /// What a process calls itself.
    pub fn label(&self, owner: u8) -> u64 {
        self.entry(owner).map_or(0, |at| self.region.load64(at + LABEL_AT))
    }

    /// Sets what a process calls itself.
    pub fn set_label(&self, owner: u8, label: u64) {
        if let Some(at) = self.entry(owner) {
            self.region.store64(at + LABEL_AT, label);
        }
    }

    /// The tag of the live block that starts here.
    pub fn tag(&self, granule: u32) -> u8 {
        // Not read before the map said that the block is live.
        fence(Acquire);
        self.region.load8(self.geometry.tags + granule as usize)
    }

    /// Tags a block that nobody else knows of yet.
    pub fn set_tag(&self, granule: u32, tag: u8) {
        self.region.store8(self.geometry.tags + granule as usize, tag);
        // Seen by whoever sees that the block is live.
        fence(Release);
    }

    /// Changes the tag of a block, if it still is what it is thought to be.
    pub fn change_tag(&self, granule: u32, from: u8, to: u8) -> bool {
        let byte = self.region.word8(self.geometry.tags + granule as usize);
        byte.is_some_and(|byte| byte.compare_exchange(from, to, AcqRel, Relaxed).is_ok())
    }

    fn entry(&self, owner: u8) -> Option<usize> {
        let index = usize::from(owner).checked_sub(1)?;
        (index < self.geometry.owners as usize).then(|| self.geometry.owner + index * OWNER_BYTES)
    }
}
