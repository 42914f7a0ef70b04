//! The pool against a model of it: random calls, and after each one the whole pool is compared
//! with an interval map that was told what the calls answered.
//!
//! What the model knows is only what the documentation promises: which bytes the caller holds,
//! hence where the free runs lie, hence which calls may fail. `PROPTEST_CASES=100000 cargo test
//! --release --test model` soaks.

mod common;

use ::mempool::abi::*;
use ::mempool::layout::{GUARD_BYTES, LOCK_OFFSET};
use common::handle::{self, Block, Stats};
use common::memory::PAGE;
use common::random::Random;
use common::{child, options, Handle, Memory, Options};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;
use std::time::Duration;

/// How a pool is made.
#[derive(Clone, Debug)]
struct Setup {
    start: usize,
    /// log2
    align: u32,
    min_split: usize,
    flags: u32,
    /// Bytes and granules beyond the least length.
    extra: usize,
    extra_granules: usize,
    end: End,
    /// Bytes from a page's first to the buffer's.
    shift: usize,
    dirt: Dirt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The buffer's.
    Default,
    /// So many bytes before the buffer's.
    Before(usize),
    /// Clamped to the buffer's.
    After(usize),
}

/// What lies in the buffer before init.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dirt {
    Zero,
    Random(u64),
    /// A pool with other options, its lock held by nobody that lives.
    OldPool,
}

/// A size in a call.
#[derive(Clone, Copy, Debug)]
enum Size {
    Bytes(usize),
    /// So many granules, less some bytes.
    Granules(usize, usize),
    /// What stats calls the largest, and some granules.
    Largest(isize),
    /// So much below SIZE_MAX, or a power of two from 2^31 on.
    Absurd(usize),
    AbsurdPower(u32, isize),
}

/// Which block: this number modulo how many there are.
type Pick = u16;

#[derive(Clone, Debug)]
enum Op {
    Malloc(Size),
    Calloc(Size),
    CallocFill(Size, u8),
    AlignedAlloc(u32, Size),
    Realloc(Pick, Size),
    /// To its own size and some granules.
    ReallocBy(Pick, isize),
    ReallocNull(Size),
    Expand(Pick, Size),
    ExpandBy(Pick, isize),
    Free(Pick),
    FreeSized(Pick, Sized),
    Bad(Bad, Pick, usize, Through),
    FreeEveryOther(bool),
    FreeAll,
    BadAlignment(usize),
    Overflow(usize),
    UsableSize(Pick, usize),
    /// The name's number.
    Bind(Pick, usize),
    Unbind(usize),
    /// From this block, whether it has the name or not.
    UnbindFrom(Pick, usize),
    SetRoot(Pick),
    NoRoot,
    /// largest_free is what fits, tried on a copy.
    Probe,
    SwitchMapping,
    Reattach,
    Trim,
    Recover,
    /// A byte behind a block is another for a while: which block, how far behind, and how it changes.
    Overrun(Pick, usize, u8, Through),
    /// The same, in a free block or above top.
    WriteFree(Pick, usize, u8),
}

#[derive(Clone, Copy, Debug)]
enum Sized {
    Asked,
    Usable,
    /// The least size that this block may have had.
    Least,
    Zero,
    TooLarge(usize),
    TooSmall,
}

/// A pointer that is no live block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bad {
    Free,
    InsideFree,
    InsideLive,
    AboveTop,
    OwnBytes,
    OwnBlock,
    AfterEnd,
    Wild,
    OtherMapping,
}

/// The call it is given to.
#[derive(Clone, Copy, Debug)]
enum Through {
    Free,
    FreeSized,
    Realloc,
    Expand,
}

/// A block that the caller holds.
#[derive(Clone, Copy, Debug)]
struct Live {
    asked: usize,
    /// What the caller may write to, and the whole block.
    usable: usize,
    whole: usize,
    stamp: u64,
}

/// What a call may have done to the boundaries between blocks where nothing is compacted.
#[derive(Default)]
struct Change {
    new: BTreeSet<u64>,
    gone: BTreeSet<u64>,
}

struct World {
    align: usize,
    min_split: usize,
    compact: bool,
    split: bool,
    /// Bytes behind each block that are looked at; 0 for none.
    guard: usize,
    options: Options,
    len: usize,
    shift: usize,
    region: std::ops::Range<usize>,
    /// The same bytes, mapped twice.
    mappings: [Memory; 2],
    handles: [Handle; 2],
    now: usize,
    scratch: Memory,
    /// What lay outside the region before init.
    outside: Vec<u8>,
    live: BTreeMap<u64, Live>,
    /// Where the block lies that has it.
    names: BTreeMap<Vec<u8>, u64>,
    root: Option<u64>,
    /// The walk and the stats after the last call.
    blocks: Vec<Block>,
    stats: Stats,
    after_init: Stats,
    first: u64,
    limit: u64,
    rejected: u64,
    failed: u64,
    stamps: u64,
    calls: u64,
}

impl World {
    fn new(setup: &Setup) -> World {
        let mut options = options();
        options.start = setup.start;
        options.align = 1 << setup.align;
        options.min_split = setup.min_split;
        // The model knows a heap that every call reaches: no caches, as in any smaller pool.
        options.flags = setup.flags | MEMPOOL_NO_THREAD_CACHES;
        let least = handle::min_len(&options);
        assert_ne!(least, 0, "the options are good");
        let align = 1usize << setup.align;
        let mut len = least + setup.extra + setup.extra_granules * align;
        let mut end = len;
        match setup.end {
            End::Default => {}
            End::After(by) => options.end = len + by,
            End::Before(by) => {
                options.end = len;
                len += by;
            }
        }
        let mapping = Memory::shared(setup.shift + len + 64);
        let mut old_handle = None;
        let all = mapping.bytes_mut(0, mapping.len());
        let buffer = mapping.base().wrapping_add(setup.shift);
        match setup.dirt {
            Dirt::Zero => {}
            Dirt::Random(seed) => {
                let mut random = Random(seed);
                all.chunks_mut(8)
                    .for_each(|chunk| chunk.copy_from_slice(&random.next().to_ne_bytes()));
            }
            Dirt::OldPool => {
                let mut other = common::options();
                other.start = setup.start;
                other.align = 8;
                let old = handle::init(buffer, len, &other).expect("a pool fits");
                while old.malloc(24).is_ok() {}
                let word = setup.start + LOCK_OFFSET + 8;
                mapping.bytes_mut(setup.shift + (word & !7), 8).fill(0x3f);
                old_handle = Some(old);
            }
        }
        let outside = |memory: &Memory| {
            let bytes = memory.bytes(0, memory.len());
            let region = setup.shift + setup.start..setup.shift + end;
            [&bytes[..region.start], &bytes[region.end..]].concat()
        };
        let outside = outside(&mapping);
        let handle = handle::init(buffer, len, &options)
            .unwrap_or_else(|status| panic!("init: {status}: {}", handle::last_message()));
        if let Some(old) = old_handle {
            // Its pool is gone: nothing is given back to the one in its place.
            old.detach().expect("detach");
        }
        let other = mapping.view();
        let mut start_only = common::options();
        start_only.start = setup.start;
        let second = handle::attach(other.base().wrapping_add(setup.shift), len, &start_only)
            .unwrap_or_else(|status| panic!("attach: {status}: {}", handle::last_message()));
        let stats = handle.stats();
        end = end.min(len);
        let mut world = World {
            align,
            min_split: if setup.min_split == 0 { 16 } else { setup.min_split },
            compact: setup.flags & MEMPOOL_NO_COMPACT == 0,
            split: setup.flags & MEMPOOL_NO_SPLIT == 0,
            guard: if setup.flags & MEMPOOL_GUARD == 0 { 0 } else { GUARD_BYTES },
            options,
            len,
            shift: setup.shift,
            region: setup.start..end,
            scratch: Memory::shared(mapping.len()),
            mappings: [mapping, other],
            handles: [handle, second],
            now: 0,
            outside,
            live: BTreeMap::new(),
            names: BTreeMap::new(),
            root: None,
            blocks: Vec::new(),
            stats,
            after_init: stats,
            first: stats.top,
            limit: stats.top + stats.available,
            rejected: 0,
            failed: 0,
            stamps: 0,
            calls: 0,
        };
        world.made();
        world
    }

    /// What is true of a new pool.
    fn made(&mut self) {
        let stats = &self.stats;
        assert_eq!(stats.total, self.region.len() as u64);
        assert_eq!(stats.align, self.align as u64);
        assert_eq!((stats.used_count, stats.free_count, stats.cached_count), (0, 0, 0));
        assert_eq!(stats.rejected_frees + stats.failed_allocs + stats.recoveries, 0);
        assert!(self.first >= self.region.start as u64);
        assert!(self.limit <= self.region.end as u64, "available counts bytes outside the region");
        assert_eq!(stats.overhead + stats.available, stats.total);
        // What is not a whole granule at the end is either counted as overhead or never usable.
        self.limit -= (self.limit - self.first) % self.align as u64;
        assert!(self.limit - self.first >= self.need(1).unwrap(), "room for malloc(1)");
        self.observe(Change::default());
    }

    fn handle(&self) -> Handle {
        self.handles[self.now]
    }

    /// The buffer in the mapping that is used now.
    fn buffer(&self) -> *mut u8 {
        self.mappings[self.now].base().wrapping_add(self.shift)
    }

    fn at(&self, offset: u64) -> *mut u8 {
        self.buffer().wrapping_add(offset as usize)
    }

    fn bytes(&self, offset: u64, len: usize) -> &[u8] {
        self.mappings[self.now].bytes(self.shift + offset as usize, len)
    }

    fn need(&self, size: usize) -> Option<u64> {
        let size = size.checked_add(self.guard)?.checked_next_multiple_of(self.align)?;
        Some(size as u64)
    }

    fn size(&self, size: Size) -> usize {
        match size {
            Size::Bytes(bytes) => bytes,
            Size::Granules(count, less) => (count * self.align).saturating_sub(less),
            Size::Largest(more) => {
                (self.stats.largest_free as usize).saturating_add_signed(more * self.align as isize)
            }
            Size::Absurd(below) => usize::MAX - below,
            Size::AbsurdPower(log2, more) => (1usize << log2).wrapping_add_signed(more),
        }
    }

    fn frees(&self) -> impl Iterator<Item = &Block> {
        self.blocks.iter().filter(|block| block.state == MEMPOOL_BLOCK_FREE)
    }

    /// The runs that an allocation may be cut from.
    fn runs(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let above = (self.stats.top, self.limit - self.stats.top);
        self.frees().map(|block| (block.offset, block.size)).chain([above])
    }

    /// What the alignment of blocks counts from: address 0; but where granules are larger than a
    /// page and do not lie at multiples of their size, the start of the buffer's page.
    fn origin(&self) -> u64 {
        let buffer = self.buffer() as u64;
        if (buffer + self.first) % self.align as u64 == 0 {
            buffer
        } else {
            buffer % PAGE as u64
        }
    }

    fn fits(&self, size: usize, alignment: usize) -> bool {
        let Some(need) = self.need(size) else { return false };
        let base = self.origin();
        self.runs().any(|(offset, len)| {
            let gap = (base + offset).wrapping_neg() % alignment as u64;
            gap.checked_add(need).is_some_and(|need| need <= len)
        })
    }

    fn pick(&self, pick: Pick) -> Option<(u64, Live)> {
        let at = pick as usize % self.live.len().max(1);
        self.live.iter().nth(at).map(|(&offset, &live)| (offset, live))
    }

    /// How far a block could grow where it lies: over its free right neighbour, and over what is
    /// above top.
    fn reach(&self, end: u64) -> u64 {
        let free = self.frees().find(|block| block.offset == end);
        let end = free.map_or(end, |block| end + block.size);
        if end == self.stats.top {
            self.limit
        } else {
            end
        }
    }

    /// Takes a block into the model.
    fn born(&mut self, block: *mut u8, asked: usize, alignment: usize) -> Change {
        let handle = self.handle();
        let offset = (block as usize).wrapping_sub(self.buffer() as usize) as u64;
        assert!(offset >= self.first && offset < self.limit, "block at {offset}");
        assert_eq!(handle.offset(block), offset);
        assert_eq!(handle.pointer(offset), block);
        assert_eq!(block as usize % self.align.min(PAGE), 0, "aligned by address");
        assert_eq!((self.origin() + offset) % alignment as u64, 0, "aligned as asked");
        assert!(self.align > PAGE || self.origin() == self.buffer() as u64, "asked by address");
        assert_eq!((offset - self.first) % self.align as u64, 0, "on a granule");
        let whole = self.rounding(block, asked);
        if offset >= self.stats.top {
            assert_eq!(Some(whole as u64), self.need(asked), "taken from top, exact");
        }
        assert!(whole as u64 <= self.limit - offset, "ends at {}", offset + whole as u64);
        let next = self.live.range(offset..).next();
        assert!(next.is_none_or(|(&next, _)| offset + whole as u64 <= next), "overlaps the next");
        let previous = self.live.range(..offset).next_back();
        let clear = |(&at, live): (&u64, &Live)| at + live.whole as u64 <= offset;
        assert!(previous.is_none_or(clear), "overlaps the previous");
        self.stamp(offset, asked, whole);
        let bounds = [offset, offset + whole as u64];
        Change { new: bounds.into(), gone: BTreeSet::new() }
    }

    /// The size of a block, which is what was asked for, rounded as promised.
    fn rounding(&self, block: *mut u8, asked: usize) -> usize {
        let handle = self.handle();
        let usable = handle.usable_size(block);
        let need = self.need(asked).expect("a block of that size exists") as usize;
        let whole = if self.guard > 0 {
            assert_eq!((usable, handle.good_size(asked)), (asked, asked), "exactly as asked");
            let offset = handle.offset(block);
            let found = handle.walk().into_iter().find(|found| found.offset == offset);
            found.expect("the walk shows it").size as usize
        } else {
            assert_eq!(handle.good_size(asked), need);
            usable
        };
        assert!(whole >= need, "{whole} for {asked}");
        assert_eq!(whole % self.align, 0);
        let rest = whole - need;
        assert!(rest == 0 || rest < self.min_split || !self.split, "{rest} bytes not split off");
        whole
    }

    /// Fills a block with a number of its own.
    fn stamp(&mut self, offset: u64, asked: usize, whole: usize) {
        let usable = if self.guard > 0 { asked } else { whole };
        self.stamps += 1;
        let stamp = self.stamps.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let from = self.shift + offset as usize;
        let bytes = self.mappings[self.now].bytes_mut(from, usable);
        let stamped = stamp.to_ne_bytes();
        bytes.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&stamped[..chunk.len()]));
        self.live.insert(offset, Live { asked, usable, whole, stamp });
    }

    /// The first `len` bytes of a block are as they were stamped.
    fn intact(&self, offset: u64, stamp: u64, len: usize) {
        let bytes = self.bytes(offset, len);
        let stamp = stamp.to_ne_bytes();
        let head = len.min(8);
        // Each byte equals the one eight before it: one comparison of memory with itself.
        let same = bytes[..head] == stamp[..head] && bytes[head..] == bytes[..len - head];
        assert!(same, "block at {offset}: payload changed");
    }

    fn allocated(
        &mut self,
        answer: Result<*mut u8, i32>,
        asked: usize,
        alignment: usize,
    ) -> Change {
        if asked == 0 {
            assert_eq!(answer, Err(MEMPOOL_ERR_INVALID_ARGUMENT), "size 0");
            return Change::default();
        }
        let fits = self.fits(asked, alignment);
        match answer {
            Ok(block) => {
                assert!(fits, "{asked} bytes given, but no free run is that long");
                self.born(block, asked, alignment)
            }
            Err(MEMPOOL_ERR_OUT_OF_MEMORY) => {
                assert!(!fits, "refused {asked} bytes, but a free run is that long");
                self.failed += 1;
                Change::default()
            }
            Err(status) => panic!("{asked} bytes: {status}: {}", handle::last_message()),
        }
    }

    fn apply(&mut self, op: &Op) {
        let change = match *op {
            Op::Malloc(size) => {
                let size = self.size(size);
                let answer = self.handle().malloc(size);
                self.allocated(answer, size, 1)
            }
            Op::Calloc(size) => {
                let size = self.size(size);
                // Any two factors will do, and one of them 1 keeps primes possible.
                let (count, each) = if size % 3 == 0 { (3, size / 3) } else { (size, 1) };
                let answer = self.handle().calloc(count, each);
                self.filled(answer, size, 0)
            }
            Op::CallocFill(size, fill) => {
                let size = self.size(size);
                let answer = self.handle().calloc_fill(1, size, fill);
                self.filled(answer, size, fill)
            }
            Op::AlignedAlloc(log2, size) => {
                let (alignment, size) = (1 << log2, self.size(size));
                let answer = self.handle().aligned_alloc(alignment, size);
                self.allocated(answer, size, alignment)
            }
            Op::Realloc(pick, size) => self.realloc(pick, self.size(size)),
            Op::ReallocBy(pick, by) => self.realloc(pick, self.nearby(pick, by)),
            Op::ReallocNull(size) => {
                let size = self.size(size);
                let answer = self.handle().realloc(std::ptr::null_mut(), size);
                self.allocated(answer, size, 1)
            }
            Op::Expand(pick, size) => self.expand(pick, self.size(size)),
            Op::ExpandBy(pick, by) => self.expand(pick, self.nearby(pick, by)),
            Op::Free(pick) => {
                if let Some((offset, _)) = self.pick(pick) {
                    self.free(offset);
                }
                Change::default()
            }
            Op::FreeSized(pick, sized) => {
                self.free_sized(pick, sized);
                Change::default()
            }
            Op::Bad(bad, pick, delta, through) => {
                self.bad(bad, pick, delta, through);
                Change::default()
            }
            Op::FreeEveryOther(odd) => {
                let all: Vec<u64> = self.live.keys().copied().collect();
                for &offset in all.iter().skip(usize::from(odd)).step_by(2) {
                    self.free(offset);
                    self.observe(Change::default());
                }
                Change::default()
            }
            Op::FreeAll => return self.free_all(),
            Op::BadAlignment(alignment) => {
                assert!(!alignment.is_power_of_two());
                let answer = self.handle().aligned_alloc(alignment, 1);
                assert_eq!(answer, Err(MEMPOOL_ERR_INVALID_ARGUMENT), "alignment {alignment}");
                Change::default()
            }
            Op::Overflow(count) => {
                let size = usize::MAX / count + 1;
                let handle = self.handle();
                let block =
                    self.pick(0).map_or(std::ptr::null_mut(), |(offset, _)| self.at(offset));
                let answers = [
                    handle.calloc(count, size),
                    handle.calloc_fill(size, count, 1),
                    handle.realloc_array(block, count, size),
                ];
                assert_eq!(answers, [Err(MEMPOOL_ERR_OUT_OF_MEMORY); 3], "{count} * {size}");
                self.failed += 3;
                Change::default()
            }
            Op::UsableSize(pick, delta) => {
                if let Some((offset, live)) = self.pick(pick) {
                    let delta = delta % live.usable;
                    let usable = self.handle().usable_size(self.at(offset + delta as u64));
                    assert_eq!(usable, if delta == 0 { live.usable } else { 0 });
                }
                Change::default()
            }
            Op::Bind(pick, number) => self.bind(pick, &name(number)),
            Op::Unbind(number) => {
                self.unbind(&name(number));
                Change::default()
            }
            Op::UnbindFrom(pick, number) => {
                if let Some((offset, _)) = self.pick(pick) {
                    self.unbind_from(&name(number), offset);
                }
                Change::default()
            }
            Op::SetRoot(pick) => {
                if let Some((offset, _)) = self.pick(pick) {
                    assert_eq!(self.handle().set_root(self.at(offset)), Ok(()));
                    self.root = Some(offset);
                }
                Change::default()
            }
            Op::NoRoot => {
                assert_eq!(self.handle().set_root(std::ptr::null()), Ok(()));
                self.root = None;
                Change::default()
            }
            Op::Probe => {
                self.probe();
                Change::default()
            }
            Op::SwitchMapping => {
                self.now = 1 - self.now;
                Change::default()
            }
            Op::Reattach => {
                self.handle().detach().expect("detach");
                self.handles[self.now] = self.attach().expect("attach");
                Change::default()
            }
            Op::Trim => {
                self.handle().trim().expect("trim");
                Change::default()
            }
            Op::Recover => {
                assert_eq!(self.handle().recover(), Ok(0), "nobody died");
                Change::default()
            }
            Op::Overrun(pick, behind, by, through) => {
                self.overrun(pick, behind, by, through);
                Change::default()
            }
            Op::WriteFree(pick, inside, by) => {
                self.write_free(pick, inside, by);
                Change::default()
            }
        };
        self.observe(change);
    }

    fn attach(&self) -> Result<Handle, i32> {
        let mut start_only = options();
        start_only.start = self.options.start;
        handle::attach(self.buffer(), self.len, &start_only)
    }

    fn filled(&mut self, answer: Result<*mut u8, i32>, size: usize, fill: u8) -> Change {
        if let Ok(block) = answer {
            let offset = block as usize - self.buffer() as usize;
            let bytes = self.bytes(offset as u64, size);
            assert!(bytes.iter().all(|&byte| byte == fill), "every requested byte is {fill}");
        }
        self.allocated(answer, size, 1)
    }

    /// A block's own usable size and so many granules.
    fn nearby(&self, pick: Pick, by: isize) -> usize {
        let usable = self.pick(pick).map_or(0, |(_, live)| live.usable);
        usable.saturating_add_signed(by * self.align as isize).max(1)
    }

    fn realloc(&mut self, pick: Pick, size: usize) -> Change {
        let Some((offset, old)) = self.pick(pick) else { return Change::default() };
        let end = offset + old.whole as u64;
        let answer = self.handle().realloc(self.at(offset), size);
        if size == 0 {
            assert_eq!(answer, Err(MEMPOOL_ERR_INVALID_ARGUMENT), "size 0");
            return Change::default();
        }
        let room = self.reach(end) - offset;
        let in_place = self.need(size).is_some_and(|need| need <= room);
        let could_be = self.need(size).is_some_and(|need| need <= self.limit - self.first);
        if self.is_bound(offset) && !in_place && could_be {
            assert_eq!(answer, Err(MEMPOOL_ERR_BUSY), "a bound block moves");
            return Change::default();
        }
        let Ok(block) = answer else {
            assert_eq!(answer, Err(MEMPOOL_ERR_OUT_OF_MEMORY), "{}", handle::last_message());
            assert!(!in_place && !self.fits(size, 1), "refused {size} bytes, but they fit");
            self.failed += 1;
            return Change::default();
        };
        assert_eq!(block == self.at(offset), in_place, "{} to {size}", old.whole);
        let moved = block as usize - self.buffer() as usize;
        self.intact(moved as u64, old.stamp, size.min(old.usable));
        self.live.remove(&offset);
        if !in_place {
            assert!(self.fits(size, 1), "{size} bytes given, but no free run is that long");
            return self.born(block, size, 1);
        }
        let whole = self.rounding(block, size);
        assert!(whole as u64 <= room);
        self.stamp(offset, size, whole);
        // Where it cannot split, a block below another keeps what it had.
        assert!(self.split || whole >= old.whole || end == self.stats.top);
        self.resized(offset + whole as u64, end)
    }

    /// The block that ended at `old` ends at `new`: what was free between may be part of it.
    fn resized(&self, new: u64, old: u64) -> Change {
        let free = self.frees().filter(|block| block.offset >= old && block.offset < new);
        let gone = free.flat_map(|block| [block.offset, block.offset + block.size]);
        Change { new: [new].into(), gone: gone.chain([old]).collect() }
    }

    fn expand(&mut self, pick: Pick, size: usize) -> Change {
        let Some((offset, old)) = self.pick(pick) else { return Change::default() };
        let end = offset + old.whole as u64;
        let answer = self.handle().expand(self.at(offset), size);
        if size == 0 {
            assert_eq!(answer, Err(MEMPOOL_ERR_INVALID_ARGUMENT), "size 0");
            return Change::default();
        }
        let room = self.reach(end) - offset;
        if self.need(size).is_none_or(|need| need > room) {
            assert_eq!(answer, Err(MEMPOOL_ERR_OUT_OF_MEMORY), "{} to {size}", old.usable);
            return Change::default();
        }
        assert_eq!(answer, Ok(()), "{} to {size}, room is {room}", old.usable);
        self.intact(offset, old.stamp, old.usable);
        if size <= old.usable {
            assert_eq!(self.handle().usable_size(self.at(offset)), old.usable, "never shrinks");
            return Change::default();
        }
        let whole = self.rounding(self.at(offset), size);
        assert!(whole as u64 <= room);
        self.stamp(offset, size, whole);
        self.resized(offset + whole as u64, end)
    }

    fn is_bound(&self, offset: u64) -> bool {
        self.root == Some(offset) || self.names.values().any(|&named| named == offset)
    }

    fn bind(&mut self, pick: Pick, name: &[u8]) -> Change {
        let Some((offset, _)) = self.pick(pick) else { return Change::default() };
        // The entry is cut like any block, from what is free, for the name and what leads to it.
        let fits = self.fits(32 + name.len(), 1);
        let answer = self.handle().bind(name, self.at(offset));
        if self.names.contains_key(name) {
            assert_eq!(answer, Err(MEMPOOL_ERR_EXISTS));
            return Change::default();
        }
        if !fits {
            assert_eq!(answer, Err(MEMPOOL_ERR_OUT_OF_MEMORY));
            self.failed += 1;
            return Change::default();
        }
        assert_eq!(answer, Ok(()), "bind: {}", handle::last_message());
        self.names.insert(name.to_vec(), offset);
        let is_new = |block: &Block| {
            block.state == MEMPOOL_BLOCK_META
                && !keys(&self.blocks).contains(&keys(std::slice::from_ref(block))[0])
        };
        let new: Vec<Block> = self.handle().walk().into_iter().filter(is_new).collect();
        assert_eq!(new.len(), 1, "one entry more");
        assert!(new[0].size as usize >= 32 + name.len());
        Change { new: [new[0].offset, new[0].offset + new[0].size].into(), gone: BTreeSet::new() }
    }

    fn unbind(&mut self, name: &[u8]) {
        let answer = self.handle().unbind(name);
        let expected = self.names.remove(name).map(drop).ok_or(MEMPOOL_ERR_NOT_FOUND);
        assert_eq!(answer, expected, "unbind");
    }

    fn unbind_from(&mut self, name: &[u8], offset: u64) {
        let answer = self.handle().unbind_from(name, self.at(offset));
        if self.names.get(name) != Some(&offset) {
            return assert_eq!(answer, Err(MEMPOOL_ERR_NOT_FOUND), "unbind_from another");
        }
        assert_eq!(answer, Ok(()), "unbind_from");
        self.names.remove(name);
    }

    /// All names and the root, as they are found.
    fn named(&self, handle: Handle, buffer: *mut u8) {
        let at = |offset: u64| buffer.wrapping_add(offset as usize);
        for number in 0..NAMES {
            let name = name(number);
            let expected = self.names.get(&name).map(|&offset| at(offset));
            assert_eq!(handle.find(&name), expected.ok_or(MEMPOOL_ERR_NOT_FOUND));
        }
        let names: Vec<_> = self.names.clone().into_iter().collect();
        assert_eq!(handle.names(), Ok(names));
        assert_eq!(handle.root(), Ok(self.root.map_or(std::ptr::null_mut(), at)));
    }

    fn free(&mut self, offset: u64) {
        let live = self.live[&offset];
        self.intact(offset, live.stamp, live.usable);
        if self.is_bound(offset) {
            assert_eq!(self.handle().free(self.at(offset)), Err(MEMPOOL_ERR_BUSY), "bound");
            self.rejected += 1;
            return;
        }
        assert_eq!(self.handle().free(self.at(offset)), Ok(()), "free of the block at {offset}");
        self.live.remove(&offset);
    }

    fn free_sized(&mut self, pick: Pick, sized: Sized) {
        let Some((offset, live)) = self.pick(pick) else { return };
        // A rest of min_split bytes or more would have been split off.
        let kept = if self.split {
            (self.min_split - 1) / self.align * self.align
        } else {
            live.whole - self.align
        };
        let least = live.whole.saturating_sub(kept + self.align - 1).max(1);
        let (size, good) = match sized {
            Sized::Asked => (live.asked, true),
            Sized::Usable => (live.usable, true),
            Sized::Least => (least, true),
            Sized::Zero => (0, false),
            Sized::TooLarge(by) => (live.usable.saturating_add(by), false),
            Sized::TooSmall => (least - 1, false),
        };
        // A guard tells exactly.
        let good = if self.guard > 0 { size == live.asked } else { good };
        let answer = self.handle().free_sized(self.at(offset), size);
        if good && self.is_bound(offset) {
            assert_eq!(answer, Err(MEMPOOL_ERR_BUSY), "bound");
            self.rejected += 1;
        } else if good {
            assert_eq!(answer, Ok(()), "{size} of {}", live.usable);
            self.live.remove(&offset);
        } else {
            assert_eq!(answer, Err(MEMPOOL_ERR_INVALID_ARGUMENT), "{size} of {}", live.usable);
            self.rejected += 1;
        }
    }

    /// Gives a pointer that is no live block to a call that wants one.
    fn bad(&mut self, bad: Bad, pick: Pick, delta: usize, through: Through) {
        let free = self.frees().nth(pick as usize % self.frees().count().max(1)).copied();
        let inside =
            |offset: u64, size: u64| (size > 1).then(|| offset + 1 + delta as u64 % (size - 1));
        let foreign = MEMPOOL_ERR_FOREIGN_POINTER;
        let not_allocated = MEMPOOL_ERR_NOT_ALLOCATED;
        let found = match bad {
            Bad::Free => free.map(|block| (self.at(block.offset), not_allocated)),
            Bad::InsideFree => free
                .and_then(|block| inside(block.offset, block.size))
                .map(|at| (self.at(at), not_allocated)),
            Bad::InsideLive => self
                .pick(pick)
                .and_then(|(offset, live)| inside(offset, live.usable as u64))
                .map(|at| (self.at(at), not_allocated)),
            Bad::AboveTop => (self.stats.top < self.limit).then(|| {
                let by = delta as u64 % (self.limit - self.stats.top);
                (self.at(self.stats.top + by), not_allocated)
            }),
            Bad::OwnBytes => Some((self.at(delta as u64 % self.first), foreign)),
            Bad::OwnBlock => {
                let mut own = self.blocks.iter().filter(|b| b.state == MEMPOOL_BLOCK_META);
                own.next().map(|block| (self.at(block.offset), not_allocated))
            }
            Bad::AfterEnd => Some((self.at(self.region.end as u64 + delta as u64 % 64), foreign)),
            Bad::Wild => {
                let address = self.buffer() as usize ^ (1 << (40 + delta % 24)) ^ delta;
                Some((address as *mut u8, foreign))
            }
            Bad::OtherMapping => self.pick(pick).map(|(offset, _)| {
                let buffer = self.mappings[1 - self.now].base().wrapping_add(self.shift);
                (buffer.wrapping_add(offset as usize), foreign)
            }),
        };
        let Some((pointer, expected)) = found else { return };
        let whole = self.limit as usize - self.first as usize;
        let before = self.bytes(self.first, whole).to_vec();
        let handle = self.handle();
        let answer = match through {
            Through::Free => handle.free(pointer),
            Through::FreeSized => handle.free_sized(pointer, self.align),
            Through::Realloc => handle.realloc(pointer, 1 + delta % 100).map(|_| ()),
            Through::Expand => handle.expand(pointer, 1 + delta % 100),
        };
        assert_eq!(answer, Err(expected), "{bad:?} through {through:?}");
        assert_eq!(handle.usable_size(pointer), 0);
        assert!(self.bytes(self.first, whole) == before, "a refused call changed a block's bytes");
        if matches!(through, Through::Free | Through::FreeSized) {
            self.rejected += 1;
        }
    }

    /// Changes a byte behind a block, which the call tells of and leaves all as it is; then makes it what
    /// it was.
    fn overrun(&self, pick: Pick, behind: usize, by: u8, through: Through) {
        let Some((offset, live)) = self.pick(pick).filter(|_| self.guard > 0) else { return };
        let at = offset as usize + live.asked + behind % (live.whole - live.asked);
        self.scribble(at, by, || {
            let (handle, block) = (self.handle(), self.at(offset));
            let most = 500.min((self.limit - self.first) as usize - self.guard);
            let answer = match through {
                // A name is what is told first.
                _ if self.is_bound(offset) => handle.expand(block, live.asked),
                Through::Free => handle.free(block),
                Through::FreeSized => handle.free_sized(block, live.asked),
                Through::Realloc => handle.realloc(block, 1 + behind % most).map(|_| ()),
                Through::Expand => handle.expand(block, live.asked + behind % 50),
            };
            // So far behind all else was right, and the last byte of the block may be a guard's, too.
            let tells = |status| {
                assert_eq!(status, Err(MEMPOOL_ERR_CORRUPTED), "{at} of {live:?} at {offset}");
                let message = handle::last_message();
                assert!(message.contains(&format!("block at offset {offset} ")), "{message}");
                assert!(message.contains(&format!("at offset {at}, ")), "{message}: {at}");
            };
            tells(answer);
            tells(handle.check());
        });
    }

    /// Changes a byte of a free block, or above top, which a check tells of; then makes it what it was.
    fn write_free(&self, pick: Pick, inside: usize, by: u8) {
        let mut runs: Vec<_> = self.runs().collect();
        let above = runs.pop().expect("what lies above top");
        let run = runs.get(pick as usize % (runs.len() + 1));
        let filled = self.options.flags & MEMPOOL_FILL_FREED != 0;
        // Links come first; above top only so much was ever reached.
        let (offset, len) = run.map_or((above.0, 0), |&(offset, len)| (offset + 8, len - 8));
        if !filled || len == 0 {
            return;
        }
        let at = offset as usize + inside % len as usize;
        self.scribble(at, by, || {
            assert_eq!(self.handle().check(), Err(MEMPOOL_ERR_CORRUPTED), "byte {at}");
            let message = handle::last_message();
            assert!(message.contains(&format!("written to at offset {at}:")), "{message}: {at}");
        });
    }

    /// Lets a byte be another meanwhile; nothing else changes.
    fn scribble(&self, at: usize, by: u8, meanwhile: impl FnOnce()) {
        let whole = self.limit as usize - self.first as usize;
        let byte = &mut self.mappings[self.now].bytes_mut(self.shift + at, 1)[0];
        *byte ^= by;
        let before = self.bytes(self.first, whole).to_vec();
        meanwhile();
        assert!(
            self.bytes(self.first, whole) == before,
            "a call that is refused changed something"
        );
        *byte ^= by;
    }

    fn free_all(&mut self) {
        self.handle().free_all().expect("free_all");
        self.live.clear();
        self.names.clear();
        self.root = None;
        self.blocks.clear();
        self.stats.top = self.first;
        self.observe(Change::default());
        let mut expected = self.after_init;
        expected.rejected_frees = self.rejected;
        expected.failed_allocs = self.failed;
        assert_eq!(figures(&self.stats), figures(&expected), "as after init");
    }

    /// On a copy of the buffer: what stats calls the largest malloc succeeds, one byte more fails.
    fn probe(&mut self) {
        let from = &self.mappings[self.now];
        self.scratch.bytes_mut(0, from.len()).copy_from_slice(from.bytes(0, from.len()));
        let buffer = self.scratch.base().wrapping_add(self.shift);
        let mut start_only = options();
        start_only.start = self.options.start;
        let copy = handle::attach(buffer, self.len, &start_only).expect("attach to the copy");
        assert_eq!(keys(&copy.walk()), keys(&self.blocks), "the copy is the same");
        let largest = self.stats.largest_free as usize;
        assert_eq!(copy.malloc(largest + 1), Err(MEMPOOL_ERR_OUT_OF_MEMORY), "above {largest}");
        if largest > 0 {
            let block = copy.malloc(largest).expect("largest_free bytes");
            assert!(copy.usable_size(block) >= largest);
        }
        copy.must_check();
        copy.detach().expect("detach");
    }

    /// Compares everything that can be seen with the model.
    fn observe(&mut self, change: Change) {
        self.calls += 1;
        let handle = self.handle();
        let blocks = handle.walk();
        let stats = handle.stats();
        let mut at = self.first;
        for block in &blocks {
            assert_eq!(block.offset, at, "the walk leaves no gap: {blocks:?}");
            assert!(block.size > 0 && block.size % self.align as u64 == 0);
            at += block.size;
        }
        assert_eq!(at, stats.top, "the walk ends at top");
        assert!(at <= self.limit);
        let walked = blocks.iter().filter(|block| block.state == MEMPOOL_BLOCK_LIVE);
        let walked: Vec<_> = walked.map(|block| (block.offset, block.size as usize)).collect();
        let held: Vec<_> = self.live.iter().map(|(&offset, live)| (offset, live.whole)).collect();
        assert_eq!(walked, held, "the live blocks are those that the caller holds");
        let free = |block: &Block| block.state == MEMPOOL_BLOCK_FREE;
        let entries = blocks.iter().filter(|block| block.state == MEMPOOL_BLOCK_META).count();
        assert_eq!(entries, self.names.len(), "an entry for each name");
        let others = blocks.len() - held.len() - entries;
        assert_eq!(blocks.iter().filter(|block| free(block)).count(), others);
        if self.compact {
            assert!(!blocks.windows(2).any(|pair| free(&pair[0]) && free(&pair[1])), "not merged");
            assert!(!blocks.last().is_some_and(free), "top not lowered");
        } else {
            self.bounds(&blocks, &stats, &change);
        }
        self.counts(&blocks, &stats);
        (self.blocks, self.stats) = (blocks, stats);
        let often = self.calls % 8 == 0;
        for (&offset, live) in &self.live {
            self.intact(offset, live.stamp, if often { live.usable } else { live.usable.min(16) });
        }
        if often {
            self.thoroughly();
        }
    }

    /// Uncompacted, blocks are cut and never joined.
    fn bounds(&self, blocks: &[Block], stats: &Stats, change: &Change) {
        let bounds = |blocks: &[Block], top: u64| -> BTreeSet<u64> {
            blocks.iter().map(|block| block.offset).chain([top]).collect()
        };
        let before = bounds(&self.blocks, self.stats.top);
        let after = bounds(blocks, stats.top);
        assert!(stats.top >= self.stats.top, "top never falls");
        let new: Vec<_> = after.difference(&before).filter(|at| !change.new.contains(at)).collect();
        assert!(new.is_empty(), "cut at {new:?} for nothing");
        let gone: Vec<_> =
            before.difference(&after).filter(|at| !change.gone.contains(at)).collect();
        assert!(gone.is_empty(), "joined at {gone:?}");
    }

    fn counts(&self, blocks: &[Block], stats: &Stats) {
        let sum = |state: u32| {
            let blocks = blocks.iter().filter(|block| block.state == state);
            blocks.fold((0, 0), |(count, size), block| (count + 1, size + block.size))
        };
        let used = sum(MEMPOOL_BLOCK_LIVE);
        let free = sum(MEMPOOL_BLOCK_FREE);
        assert_eq!((stats.used_count, stats.used_size), used);
        assert_eq!((stats.free_count, stats.free_size), free);
        assert_eq!((stats.cached_count, stats.cached_size, stats.thread_caches), (0, 0, 0));
        // total == overhead + used + free + cached + (end - top), by way of available.
        assert_eq!(stats.total, stats.overhead + stats.used_size + stats.available);
        assert_eq!(stats.overhead, self.after_init.overhead + sum(MEMPOOL_BLOCK_META).1);
        let largest = blocks.iter().filter(|block| block.state == MEMPOOL_BLOCK_FREE);
        let largest = largest.map(|block| block.size).max().unwrap_or(0);
        let largest = largest.max(self.limit - stats.top).saturating_sub(self.guard as u64);
        assert_eq!(stats.largest_free, largest);
        assert_eq!(stats.rejected_frees, self.rejected);
        assert_eq!(stats.failed_allocs, self.failed);
        assert_eq!(stats.recoveries, 0);
        assert_eq!(stats.pool_id, self.after_init.pool_id);
        assert_eq!((stats.total, stats.align), (self.after_init.total, self.after_init.align));
    }

    /// What need not be looked at after every call.
    fn thoroughly(&self) {
        self.handle().must_check();
        let other = self.handles[1 - self.now];
        assert_eq!(keys(&other.walk()), keys(&self.blocks), "through the other mapping");
        assert_eq!(figures(&other.stats()), figures(&self.stats));
        self.named(self.handle(), self.buffer());
        self.named(other, self.mappings[1 - self.now].base().wrapping_add(self.shift));
        let mut blocks = Vec::new();
        let mut start_only = options();
        start_only.start = self.options.start;
        let stats = handle::inspect(self.buffer(), self.len, &start_only, &mut blocks)
            .unwrap_or_else(|status| panic!("inspect: {status}: {}", handle::last_message()));
        assert_eq!(keys(&blocks), keys(&self.blocks), "inspected");
        assert_eq!(figures(&stats), figures(&self.stats), "inspected");
        let memory = &self.mappings[self.now];
        let bytes = memory.bytes(0, memory.len());
        let (from, to) = (self.shift + self.region.start, self.shift + self.region.end);
        assert!(bytes[..from] == self.outside[..from], "written before start");
        assert!(bytes[to..] == self.outside[from..], "written after end");
    }

    /// Everything given back, the pool is whole again; then it ends.
    fn end(mut self) {
        for number in 0..NAMES {
            self.unbind(&name(number));
        }
        self.apply(&Op::NoRoot);
        let all: Vec<u64> = self.live.keys().copied().collect();
        // From both ends to the middle, so that blocks merge to either side.
        for i in 0..all.len() {
            let at = if i % 2 == 0 { i / 2 } else { all.len() - 1 - i / 2 };
            self.free(all[at]);
            self.observe(Change::default());
        }
        if self.compact {
            assert_eq!((self.stats.top, self.stats.free_count), (self.first, 0), "whole again");
        }
        self.thoroughly();
        self.probe();
        self.handle().release().expect("release");
        for handle in self.handles {
            assert_eq!(handle.malloc(1), Err(MEMPOOL_ERR_NOT_A_POOL));
            assert_eq!(handle.try_stats().err(), Some(MEMPOOL_ERR_NOT_A_POOL));
        }
        assert_eq!(self.attach().err(), Some(MEMPOOL_ERR_NOT_A_POOL));
        for handle in self.handles {
            let _ = handle.detach();
        }
    }
}

fn keys(blocks: &[Block]) -> Vec<(u64, u64, u32)> {
    blocks.iter().map(|block| (block.offset, block.size, block.state)).collect()
}

/// How many names there are to choose from.
const NAMES: usize = 24;

/// A name by its number, of any length.
fn name(number: usize) -> Vec<u8> {
    let len = [1, 2, 3, 4, 11, 12, 20, 35, 36, 100, 254, 255][number % 12];
    let mut random = Random(number as u64);
    (0..len).map(|_| 1 + random.below(255) as u8).collect()
}

/// Every figure of the stats, by name.
fn figures(stats: &Stats) -> [(&'static str, u64); 18] {
    [
        ("total", stats.total),
        ("overhead", stats.overhead),
        ("used_count", stats.used_count),
        ("used_size", stats.used_size),
        ("free_count", stats.free_count),
        ("free_size", stats.free_size),
        ("cached_count", stats.cached_count),
        ("cached_size", stats.cached_size),
        ("top", stats.top),
        ("available", stats.available),
        ("largest_free", stats.largest_free),
        ("align", stats.align),
        ("thread_caches", stats.thread_caches),
        ("max_threads", stats.max_threads),
        ("rejected_frees", stats.rejected_frees),
        ("failed_allocs", stats.failed_allocs),
        ("recoveries", stats.recoveries),
        ("pool_id", stats.pool_id),
    ]
}

fn setup() -> impl Strategy<Value = Setup> {
    let start = prop_oneof![3 => Just(0usize), 1 => 1..64usize, 1 => 0..5000usize];
    let align = prop_oneof![6 => Just(4u32), 6 => 3..8u32, 2 => 8..13u32, 1 => 13..=16u32];
    let min_split = prop_oneof![3 => Just(0usize), 2 => 9..128usize, 1 => 128..5000usize];
    let flags =
        (prop::bool::weighted(0.25), prop::bool::weighted(0.2), any::<bool>(), any::<bool>());
    let looks = (prop::bool::weighted(0.3), prop::bool::weighted(0.3));
    let flags = (flags, prop::bool::weighted(0.25), looks);
    let flags = flags.prop_map(|((apart, whole, zeroed, uncached), owned, (guarded, filled))| {
        (if apart { MEMPOOL_NO_COMPACT } else { 0 })
            | (if whole { MEMPOOL_NO_SPLIT } else { 0 })
            | (if zeroed { MEMPOOL_ZEROED } else { 0 })
            | (if uncached { MEMPOOL_NO_THREAD_CACHES } else { 0 })
            | (if owned { MEMPOOL_OWNER_TAGS } else { 0 })
            | (if guarded { MEMPOOL_GUARD } else { 0 })
            | (if filled { MEMPOOL_FILL_FREED } else { 0 })
    });
    let extra = prop_oneof![1 => 0..64usize, 4 => 64..2048usize, 3 => 2048..65_536usize];
    let extra_granules = prop_oneof![1 => Just(0usize), 1 => 0..12usize];
    let end = prop_oneof![
        2 => Just(End::Default),
        1 => (1..200usize).prop_map(End::Before),
        1 => (1..200usize).prop_map(End::After),
    ];
    let shift = prop_oneof![1 => Just(0usize), 2 => 1..17usize, 1 => 0..4096usize];
    let dirt = prop_oneof![
        1 => Just(Dirt::Zero),
        1 => any::<u64>().prop_map(Dirt::Random),
        1 => Just(Dirt::OldPool),
    ];
    (start, align, min_split, flags, extra, extra_granules, end, shift, dirt).prop_map(
        |(start, align, min_split, flags, extra, extra_granules, end, shift, dirt)| Setup {
            start,
            align,
            min_split,
            flags: if dirt == Dirt::Zero { flags } else { flags & !MEMPOOL_ZEROED },
            extra,
            extra_granules,
            end,
            shift,
            dirt,
        },
    )
}

fn size() -> impl Strategy<Value = Size> {
    prop_oneof![
        8 => (1..=64usize).prop_map(Size::Bytes),
        8 => (1..=600usize).prop_map(Size::Bytes),
        3 => (1..=10_000usize).prop_map(Size::Bytes),
        6 => (1..=40usize, 0..3usize).prop_map(|(count, less)| Size::Granules(count, less)),
        3 => (-3..=2isize).prop_map(Size::Largest),
        1 => (0..100_000usize).prop_map(Size::Absurd),
        1 => (31..=63u32, -20..=20isize).prop_map(|(log2, more)| Size::AbsurdPower(log2, more)),
        1 => Just(Size::Bytes(0)),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let pick = any::<Pick>;
    let by = || prop_oneof![3 => -4..=4isize, 1 => -40..=40isize];
    let sized = prop_oneof![
        Just(Sized::Asked),
        Just(Sized::Usable),
        Just(Sized::Least),
        Just(Sized::Zero),
        (1..=usize::MAX).prop_map(Sized::TooLarge),
        Just(Sized::TooLarge(1)),
        Just(Sized::TooSmall),
    ];
    let bad = prop_oneof![
        2 => Just(Bad::Free),
        1 => Just(Bad::InsideFree),
        2 => Just(Bad::InsideLive),
        1 => Just(Bad::AboveTop),
        1 => Just(Bad::OwnBytes),
        1 => Just(Bad::OwnBlock),
        1 => Just(Bad::AfterEnd),
        1 => Just(Bad::Wild),
        1 => Just(Bad::OtherMapping),
    ];
    let through = prop_oneof![
        2 => Just(Through::Free),
        1 => Just(Through::FreeSized),
        1 => Just(Through::Realloc),
        1 => Just(Through::Expand),
    ];
    let uneven = (3..100_000usize).prop_map(|n| if n.is_power_of_two() { 0 } else { n });
    prop_oneof![
        30 => size().prop_map(Op::Malloc),
        4 => size().prop_map(Op::Calloc),
        4 => (size(), any::<u8>()).prop_map(|(size, fill)| Op::CallocFill(size, fill)),
        8 => (0..=14u32, size()).prop_map(|(log2, size)| Op::AlignedAlloc(log2, size)),
        8 => (pick(), size()).prop_map(|(pick, size)| Op::Realloc(pick, size)),
        8 => (pick(), by()).prop_map(|(pick, by)| Op::ReallocBy(pick, by)),
        1 => size().prop_map(Op::ReallocNull),
        3 => (pick(), size()).prop_map(|(pick, size)| Op::Expand(pick, size)),
        5 => (pick(), by()).prop_map(|(pick, by)| Op::ExpandBy(pick, by)),
        30 => pick().prop_map(Op::Free),
        5 => (pick(), sized).prop_map(|(pick, sized)| Op::FreeSized(pick, sized)),
        8 => (bad, pick(), any::<usize>(), through)
            .prop_map(|(bad, pick, delta, through)| Op::Bad(bad, pick, delta, through)),
        1 => any::<bool>().prop_map(Op::FreeEveryOther),
        1 => Just(Op::FreeAll),
        1 => uneven.prop_map(Op::BadAlignment),
        1 => (2..1000usize).prop_map(Op::Overflow),
        2 => (pick(), any::<usize>()).prop_map(|(pick, delta)| Op::UsableSize(pick, delta)),
        8 => (pick(), 0..NAMES).prop_map(|(pick, name)| Op::Bind(pick, name)),
        6 => (0..NAMES).prop_map(Op::Unbind),
        3 => (pick(), 0..NAMES).prop_map(|(pick, number)| Op::UnbindFrom(pick, number)),
        2 => pick().prop_map(Op::SetRoot),
        1 => Just(Op::NoRoot),
        5 => Just(Op::Probe),
        3 => Just(Op::SwitchMapping),
        2 => Just(Op::Reattach),
        1 => Just(Op::Trim),
        1 => Just(Op::Recover),
        4 => (pick(), any::<usize>(), 1..=255u8, prop_oneof![
            Just(Through::Free),
            Just(Through::FreeSized),
            Just(Through::Realloc),
            Just(Through::Expand),
        ]).prop_map(|(pick, behind, by, through)| Op::Overrun(pick, behind, by, through)),
        2 => (pick(), any::<usize>(), 1..=255u8)
            .prop_map(|(pick, inside, by)| Op::WriteFree(pick, inside, by)),
    ]
}

/// Panics become failures that proptest shrinks, without each step of it being printed.
fn quietly(body: impl FnOnce()) -> Result<(), TestCaseError> {
    thread_local! {
        static QUIET: Cell<bool> = const { Cell::new(false) };
        static SAID: RefCell<String> = const { RefCell::new(String::new()) };
    }
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if QUIET.get() {
                SAID.set(info.to_string());
            } else {
                usual(info);
            }
        }));
    });
    QUIET.set(true);
    let answer = panic::catch_unwind(AssertUnwindSafe(body));
    QUIET.set(false);
    answer.map_err(|_| TestCaseError::fail(SAID.take()))
}

fn config(cases: u32) -> Config {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let cases = if cfg!(debug_assertions) { cases / 10 } else { cases };
    let usual = Config::default();
    Config {
        cases: if asked { usual.cases } else { cases },
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..usual
    }
}

proptest! {
    #![proptest_config(config(3000))]

    #[test]
    fn the_pool_does_what_the_model_says(setup in setup(), ops in prop::collection::vec(op(), 1..250)) {
        quietly(|| {
            let mut world = World::new(&setup);
            ops.iter().for_each(|op| world.apply(op));
            world.end();
        })?;
    }
}

/// The sizes and bytes of a caller who promised zero bytes and gave others.
#[derive(Clone, Debug)]
struct Lie {
    setup: Setup,
    seed: u64,
    calls: usize,
}

fn lie() -> impl Strategy<Value = Lie> {
    (setup(), any::<u64>(), 1..400usize).prop_map(|(setup, seed, calls)| {
        let flags = setup.flags | MEMPOOL_ZEROED;
        Lie { setup: Setup { flags, dirt: Dirt::Random(seed), ..setup }, seed, calls }
    })
}

/// Whatever the map's bytes say, no call leaves the region, and every call returns.
fn endure(lie: &Lie) {
    let mut options = options();
    options.start = lie.setup.start;
    options.align = 1 << lie.setup.align;
    options.flags = lie.setup.flags;
    let mut random = Random(lie.seed);
    let extra = lie.setup.extra + lie.setup.extra_granules * options.align;
    let len = handle::min_len(&options) + extra;
    let memory = Memory::private(lie.setup.shift + len);
    for chunk in memory.bytes_mut(0, memory.len()).chunks_mut(8) {
        // Few bytes are starts that make sense: let half of them be small numbers.
        let word =
            random.next() & if random.below(2) == 0 { u64::MAX } else { 0x8383_8383_8383_8383 };
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    let region = lie.setup.shift + lie.setup.start..lie.setup.shift + len;
    let outside =
        [memory.bytes(0, region.start), memory.bytes(region.end, memory.len() - region.end)]
            .concat();
    let buffer = memory.base().wrapping_add(lie.setup.shift);
    let pool = handle::init(buffer, len, &options).expect("init");
    let inside = |block: *mut u8, size: usize| {
        let at = (block as usize).wrapping_sub(memory.base() as usize);
        assert!(
            at >= region.start && at <= region.end && size <= region.end - at,
            "{size} at {at}"
        );
    };
    let mut blocks: Vec<*mut u8> = vec![std::ptr::null_mut()];
    for _ in 0..lie.calls {
        let block = blocks[random.below(blocks.len())];
        let anywhere = buffer.wrapping_add(random.below(len));
        let size = random.up_to(12);
        let answer = match random.below(9) {
            0 | 1 => pool.malloc(size),
            2 => pool.calloc(1, size),
            3 => pool.aligned_alloc(1 << random.below(12), size),
            4 => pool.realloc(block, size),
            5 => pool.free(block).map(|()| std::ptr::null_mut()),
            6 => pool.free(anywhere).map(|()| std::ptr::null_mut()),
            7 => pool.expand(anywhere, size).map(|()| std::ptr::null_mut()),
            _ => {
                match pool.usable_size(anywhere) {
                    0 => {}
                    size => inside(anywhere, size),
                }
                let _ = (pool.check(), pool.try_walk(), pool.try_stats(), pool.recover());
                Err(0)
            }
        };
        if let Some(block) = answer.ok().filter(|block| !block.is_null()) {
            inside(block, size);
            // SAFETY: inside the region, which is all ours.
            unsafe { block.write_bytes(random.next() as u8, size) };
            blocks.push(block);
        }
    }
    let now = [memory.bytes(0, region.start), memory.bytes(region.end, memory.len() - region.end)]
        .concat();
    assert!(now == outside, "written outside the region");
    let _ = (pool.free_all(), pool.check());
    pool.detach().expect("detach");
}

proptest! {
    #![proptest_config(config(1000))]

    #[test]
    fn a_lie_about_zero_bytes_stays_inside_the_region(lie in lie()) {
        // A child: an access outside would be its end, and a loop ends at the deadline.
        quietly(|| child::run(Duration::from_secs(60), || endure(&lie)))?;
    }
}
