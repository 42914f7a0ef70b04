//! The judge: walks everything and compares it with the map, and the map with itself.
#![forbid(unsafe_code)]

use crate::class;
use crate::depot::{Bound, Depot};
use crate::error::{Error, Result};
use crate::heap::{Counts, Heap};
use crate::layout::Geometry;
use crate::map::State;
use crate::options::NO_COMPACT;
use crate::region::Region;
use crate::shelf::{Grip, Place, Shelves};

/// Verifies a pool whose lock the caller holds: the header, that blocks tile the region up to
/// `top`, that no byte between is a start, that free blocks but loose ones are joined and known from
/// both ends, that bins and counts agree; where it is known what bytes must be, that they are. O(map).
/// `still`: no other thread moves cached blocks meanwhile.
pub fn check(
    region: &Region,
    geometry: &Geometry,
    heap: &Heap,
    depot: &Depot,
    shelves: &Shelves,
    still: bool,
) -> Result<()> {
    if !geometry.still_written(region) {
        return corrupted("the header has changed", geometry.header);
    }
    let (found, cached) = tile(geometry, heap)?;
    let held = check_magazines(geometry, heap, depot, still)? + check_shelves(heap, shelves)?;
    if still && held != cached {
        return corrupted(
            "cached blocks are in no magazine nor on a shelf, or in several",
            geometry.magazine,
        );
    }
    if heap.counts() != found {
        return corrupted("counts disagree with the map", geometry.header);
    }
    // First, since who writes to free memory may have hit the bins' links: then that is told.
    heap.check_bytes()?;
    if heap.binned() != Some(found.free_count - found.loose) {
        return corrupted("the bins disagree with the map", geometry.bitmap());
    }
    Ok(())
}

/// Compares what magazines hold with what the map says is cached. Unless they are `still`, threads
/// move blocks meanwhile: then nothing is said of a magazine's last. How many there are.
fn check_magazines(geometry: &Geometry, heap: &Heap, depot: &Depot, still: bool) -> Result<u32> {
    for magazine in 0..depot.known() {
        if depot.owner(magazine).is_none() || depot.class(magazine).is_none() {
            let at = geometry.magazine_at(magazine);
            return corrupted("a magazine has an owner or a class that cannot be", at);
        }
    }
    let mut held = 0;
    for Bound { magazine, class, .. } in depot.bound() {
        held += depot.count(magazine);
        if (0..LOOKS).all(|_| is_odd(heap, depot, magazine, class, still)) {
            let at = geometry.magazine_at(magazine);
            return corrupted("a magazine holds what is no cached block", at);
        }
    }
    Ok(held)
}

/// Compares what lies on the shelves with what the map says. How many are cached there.
fn check_shelves(heap: &Heap, shelves: &Shelves) -> Result<u32> {
    let is_cached = |place: &Place| heap.has(place.granule, State::Cached, place.size());
    for place in shelves.all().filter(|place| place.grip == Grip::NONE) {
        let stays = || shelves.place(place.wide, place.at) == Some(place);
        if (0..LOOKS).all(|_| !is_cached(&place) && stays()) {
            return corrupted("what is no cached block is on a shelf", place.at);
        }
    }
    let is_odd = |place: &Place| place.grip.token().is_none() && place.grip != Grip::NONE;
    match shelves.all().find(is_odd) {
        Some(place) => corrupted("a block is in a grip that cannot be", place.at),
        None => Ok(shelves.all().filter(is_cached).count() as u32),
    }
}

/// A magazine in motion is odd only if it is at each of so many looks.
const LOOKS: u32 = 16;

/// Whether a magazine seems to hold what it cannot.
fn is_odd(heap: &Heap, depot: &Depot, magazine: u32, class: u8, still: bool) -> bool {
    let count = depot.count(magazine);
    let judged = if still { count } else { count.saturating_sub(1) };
    let odd = (0..judged).find(|&index| {
        let is_cached = |granule| heap.has(granule, State::Cached, class::size(class));
        !depot.item(magazine, index).is_some_and(is_cached)
    });
    let Some(index) = odd else { return false };
    if still {
        return true;
    }
    // It may have been taken, or handed on, while we looked.
    std::thread::yield_now();
    index + 1 < depot.count(magazine) && depot.class(magazine) == Some(class)
}

/// Goes from block to block and counts.
fn tile(geometry: &Geometry, heap: &Heap) -> Result<(Counts, u32)> {
    let (map, top) = (heap.map(), heap.top());
    let mut counts = Counts::default();
    let mut cached = 0;
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
            counts.add_free(block.size);
            if map.free_before(end) != Some((at, block.size)) {
                return corrupted("a free block's ends disagree about its size", offset);
            }
            if !geometry.has(NO_COMPACT) && (after_free || end == top) {
                return corrupted("a free block was not joined to its neighbour", offset);
            }
        } else if block.state == State::Loose {
            counts.add_loose(1, block.size);
        } else if block.state == State::Cached || block.state.is_live() {
            counts.live_count += 1;
            cached += u32::from(block.state == State::Cached);
        }
        (at, after_free) = (end, is_free);
    }
    match map.next_start(top, heap.watermark()) {
        Some(stray) => corrupted("a block starts above top", geometry.offset(stray)),
        None => Ok((counts, cached)),
    }
}

fn corrupted<T>(what: &'static str, at: usize) -> Result<T> {
    Err(Error::Corrupted { what, at: at as u64 })
}
