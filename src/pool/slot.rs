//! Blocks that are delivered to a slot, a word in a block of the caller's, and freed from there.
//! So a structure in the pool is crash-safe: at every instant each of its blocks is named by one of
//! its slots, or is nobody's and freed by whoever recovers. See [`crate::heap`]'s `slot`.

use super::Handle;
use crate::error::{Error, Result};
use crate::heap::Heap;
use crate::layout::{REJECTED_OFFSET, SLOT_BYTES};
use crate::watch;

const NO_SLOT: &str = "the slot lies in no live block: a slot is a uint64_t inside of one";

/// A word inside a live block.
#[derive(Clone, Copy)]
struct Slot {
    /// Its offset.
    at: usize,
    /// The first granule of the block around it.
    block: u32,
}

impl Handle {
    /// Allocates a block of `size` bytes or more and stores its offset in a slot, which lies in a
    /// live block and holds 0, as one event for any crash. O(1) but when it fails, and for the way
    /// from the slot back to the start of its block, eight granules a step.
    ///
    /// # Safety
    /// Nobody changes the slot meanwhile but by such calls.
    pub unsafe fn malloc_to(&self, size: usize, slot: *mut u64) -> Result<()> {
        self.allocate_to(size, slot, None)
    }

    /// [`Handle::malloc_to`] of `count` times `size` bytes, which are zero before the slot names
    /// them: slots that lie in the new block are empty. O(bytes).
    ///
    /// # Safety
    /// As for [`Handle::malloc_to`].
    pub unsafe fn calloc_to(&self, count: usize, size: usize, slot: *mut u64) -> Result<()> {
        self.allocate_to(self.product(count, size)?, slot, Some(0))
    }

    /// Frees the block whose offset a slot holds and makes the slot 0, as one event for any crash.
    /// A slot that holds 0 is left alone. What is no live block is refused and counted, as by
    /// [`Handle::free`]. O(1) but for the way to the start of the slot's block.
    ///
    /// # Safety
    /// Nobody uses the block any more, nor changes the slot meanwhile but by such calls.
    pub unsafe fn free_from(&self, slot: *mut u64) -> Result<()> {
        let answer = self.slot(slot).and_then(|slot| {
            self.locked(|heap| {
                self.must_hold(heap, slot)?;
                let offset = self.region.load64(slot.at);
                if offset == 0 {
                    return Ok(());
                }
                let granule = self.granule_at(offset)?;
                heap.freeable_size(granule)?;
                if granule == slot.block {
                    self.count(REJECTED_OFFSET);
                    return Err(Error::Argument("the slot lies in the block that it would free"));
                }
                if !heap.recall_from(granule, slot.at) {
                    return Err(Error::Busy("somebody else changes the slot"));
                }
                self.tell_freed(granule);
                heap.free(granule)
            })
        });
        self.count_refusal(answer)
    }

    fn allocate_to(&self, size: usize, slot: *mut u64, fill: Option<u8>) -> Result<()> {
        let answer = self.granules(size).and_then(|granules| {
            let slot = self.slot(slot)?;
            self.locked(|heap| {
                self.must_hold(heap, slot)?;
                let taken = Error::Exists { at: slot.at as u64 };
                if self.region.load64(slot.at) != 0 {
                    return Err(taken);
                }
                let granule = self.alloc(heap, granules, 1)?;
                if heap.is_guarded() {
                    heap.set_guard(granule, size);
                }
                self.tell_allocated(granule, size, fill.is_some());
                self.tell_linked(granule);
                if let Some(byte) = fill {
                    let at = self.geometry.offset(granule);
                    self.in_pieces(heap, size, |from, len| self.region.fill(at + from, len, byte));
                }
                if heap.deliver_to(granule, slot.at) {
                    return Ok(());
                }
                self.tell_freed(granule);
                heap.free(granule)?;
                Err(taken)
            })
        });
        self.count_failure(answer, size)
    }

    /// The slot at an address. Without the lock: the way to the start of its block may be long.
    fn slot(&self, slot: *const u64) -> Result<Slot> {
        let at = slot.addr().wrapping_sub(self.region.address());
        let refuse = |what| Err(Error::NotAllocated { what, at: at as u64 });
        let around = self.granule_around(slot.cast())?;
        if slot.addr() % SLOT_BYTES != 0 {
            return refuse("a slot is aligned to 8 bytes");
        }
        self.is_here()?;
        let heap = self.heap();
        let found = if around < heap.top() { heap.map().last_start(around) } else { None };
        let Some(block) = found else { return refuse(NO_SLOT) };
        let slot = Slot { at, block };
        self.must_hold(heap, slot)?;
        Ok(slot)
    }

    /// Whether the block around a slot is live, and reaches so far.
    fn must_hold(&self, heap: &Heap, slot: Slot) -> Result<()> {
        let around = (slot.at - self.geometry.first) >> self.geometry.align_log2;
        let is_inside = |size| slot.block as usize + size as usize > around;
        match heap.live_size(slot.block) {
            Ok(size) if is_inside(size) => self.must_reach(heap, slot, size),
            Err(error @ Error::Corrupted { .. }) => Err(error),
            _ => Err(Error::NotAllocated { what: NO_SLOT, at: slot.at as u64 }),
        }
    }

    /// Whether a slot lies in what its block was asked for, and not in the block's guard.
    fn must_reach(&self, heap: &Heap, slot: Slot, size: u32) -> Result<()> {
        let Some(guards) = heap.guards() else { return Ok(()) };
        let _hush = watch::hush();
        let asked = match guards.asked(slot.block, size) {
            Some(asked) => asked,
            None => guards.verify(slot.block, size)?,
        };
        if slot.at + SLOT_BYTES <= self.geometry.offset(slot.block) + asked {
            return Ok(());
        }
        let what = "the slot reaches beyond what its block was asked for";
        Err(Error::NotAllocated { what, at: slot.at as u64 })
    }

    /// The granule that a pointer into it names.
    fn granule_around(&self, pointer: *const u8) -> Result<u32> {
        let inside = pointer.addr().wrapping_sub(self.region.address() + self.geometry.first);
        match self.granule(pointer) {
            Err(error @ Error::Foreign { .. }) => Err(error),
            // Perhaps the one behind the last, of which there is but a part.
            _ => Ok((inside >> self.geometry.align_log2) as u32),
        }
    }

    /// The granule of the block at an offset.
    fn granule_at(&self, offset: u64) -> Result<u32> {
        self.granule(core::ptr::without_provenance(
            self.region.address().wrapping_add(offset as usize),
        ))
    }
}
