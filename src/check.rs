//! The judge: walks everything and compares it with the map, and the map with itself.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::heap::{Counts, Heap};
use crate::layout::Geometry;
use crate::options::NO_COMPACT;
use crate::region::Region;
use crate::stats::State;

/// Verifies a pool whose lock the caller holds: the header, that blocks tile the region up to
/// `top`, that no byte between is a start, that free blocks are joined and known from both ends,
/// that bins and counts agree. O(map).
pub fn check(region: &Region, geometry: &Geometry, heap: &Heap) -> Result<()> {
    if !geometry.still_written(region) {
        return corrupted("the header has changed", geometry.header);
    }
    let found = tile(geometry, heap)?;
    if heap.counts() != found {
        return corrupted("counts disagree with the map", geometry.header);
    }
    if heap.binned() != Some(found.free_count) {
        return corrupted("the bins disagree with the map", geometry.bitmap());
    }
    Ok(())
}

/// Goes from block to block and counts.
fn tile(geometry: &Geometry, heap: &Heap) -> Result<Counts> {
    let (map, top) = (heap.map(), heap.top());
    let mut counts = Counts::default();
    let (mut at, mut after_free) = (0, false);
    while at < top {
        heap.show_progress();
        let offset = geometry.offset(at);
        let Some(block) = map.read(at, top) else {
            return corrupted("no block starts where one must", offset);
        };
        let end = at + block.size;
        if let Some(inside) = map.next_start(at + 1, end) {
            return corrupted("a block starts inside another", geometry.offset(inside));
        }
        let is_free = block.state == State::Free;
        if is_free {
            counts.free_count += 1;
            counts.free += block.size;
            if map.free_before(end) != Some((at, block.size)) {
                return corrupted("a free block's ends disagree about its size", offset);
            }
            if !geometry.has(NO_COMPACT) && (after_free || end == top) {
                return corrupted("a free block was not joined to its neighbour", offset);
            }
        } else if block.state == State::Live {
            counts.live_count += 1;
        } else {
            return corrupted("a block of a kind that this pool has not", offset);
        }
        (at, after_free) = (end, is_free);
    }
    match map.next_start(top, heap.watermark()) {
        Some(stray) => corrupted("a block starts above top", geometry.offset(stray)),
        None => Ok(counts),
    }
}

fn corrupted<T>(what: &'static str, at: usize) -> Result<T> {
    Err(Error::Corrupted { what, at: at as u64 })
}
