//! Pools of several kinds, small, with something in each of their parts: live blocks, free ones in
//! several bins, and where there are caches magazines in use, in the depot and idle.

use super::call::Answer;
use super::common::handle::{self, Block, Status};
use super::common::memory::PAGE;
use super::common::{options, Handle, Memory, Options};
use ::mempool::abi::*;
use ::mempool::layout::Geometry;
use std::cell::{Cell, RefCell};

/// What a pool is made like.
#[derive(Clone, Copy)]
pub struct Kind {
    pub name: &'static str,
    shift: usize,
    len: usize,
    start: usize,
    end: usize,
    align: usize,
    flags: u32,
    max_threads: u32,
    /// Names that a block has, and another.
    names: [&'static [&'static [u8]]; 2],
}

const PLAIN: Kind = Kind {
    name: "plain",
    shift: 0,
    len: 4096,
    start: 0,
    end: 0,
    align: 16,
    flags: 0,
    max_threads: 0,
    names: [&[], &[]],
};

pub const KINDS: [Kind; 10] = [
    PLAIN,
    Kind { name: "named", names: [&[b"a", b"ab", b"name"], &[b"b", b"nam"]], ..PLAIN },
    Kind { name: "bytes8", shift: 5, start: 3, end: 3001, align: 8, ..PLAIN },
    Kind { name: "behind", shift: 8, start: 1000, len: 6000, ..PLAIN },
    Kind { name: "pages", len: 190 * PAGE, align: PAGE, ..PLAIN },
    Kind { name: "apart", flags: MEMPOOL_NO_COMPACT | MEMPOOL_NO_SPLIT, ..PLAIN },
    Kind { name: "owners", len: 5000, flags: MEMPOOL_OWNER_TAGS, ..PLAIN },
    Kind { name: "cached", shift: 4, len: 264_000, max_threads: 4, ..PLAIN },
    Kind { name: "cached64", len: 300_000, align: 64, max_threads: 2, ..PLAIN },
    Kind { name: "cached-owners", len: 266_000, flags: MEMPOOL_OWNER_TAGS, ..PLAIN },
];

/// A pool of a kind, as it is before the damage.
pub struct Scene<'a> {
    pub kind: Kind,
    memory: &'a Memory,
    pub pool: Handle,
    pub geometry: Geometry,
    /// Live blocks: offset, and the bytes that were asked for.
    pub kept: Vec<(usize, usize)>,
    /// The blocks that have names, if any has: offset, and the bytes that were asked for.
    pub bound: [(usize, usize); 2],
    /// Offset of a block with slots: one that is empty, one that names a block.
    slots: usize,
    /// Offset of a block that is free, or cached.
    pub freed: usize,
    /// Bytes of a hole among the live blocks.
    pub hole: usize,
    /// Bytes of the largest block that is to be had.
    pub most: usize,
    /// For each eight bytes whether they belong to somebody.
    taken: RefCell<Vec<bool>>,
    /// Those of the live blocks that were given up.
    gone: RefCell<Vec<usize>>,
    /// Whether a block was given out that is somebody's.
    pub overlaps: Cell<bool>,
}

impl Kind {
    pub fn memory(&self) -> Memory {
        Memory::private(self.shift + self.len)
    }

    fn options(&self) -> Options {
        let Kind { start, end, align, flags, max_threads, .. } = *self;
        Options { start, end, align, flags, max_threads, ..options() }
    }
}

impl<'a> Scene<'a> {
    pub fn new(kind: Kind, memory: &'a Memory) -> Scene<'a> {
        let address = memory.base() as usize + kind.shift;
        let Kind { start, end, align, flags, max_threads, .. } = kind;
        let asked = ::mempool::Options { start, end, align, min_split: 0, flags, max_threads };
        let geometry = Geometry::plan(address, kind.len, &asked).expect("a plan");
        let mut scene = Scene {
            kind,
            memory,
            pool: Handle(std::ptr::null_mut()),
            geometry,
            kept: Vec::new(),
            bound: [(0, 0); 2],
            slots: 0,
            freed: 0,
            hole: 60 * align,
            most: 1,
            taken: RefCell::default(),
            gone: RefCell::default(),
            overlaps: Cell::new(false),
        };
        scene.build();
        scene.most = scene.pool.stats().largest_free as usize;
        scene.build();
        scene
    }

    /// Makes the pool anew, the same each time.
    pub fn build(&mut self) {
        let old = self.pool;
        self.pool = handle::init(self.at(0), self.len(), &self.options()).expect("init");
        if !old.0.is_null() {
            // Its pool is gone, whatever became of it.
            old.detach().expect("detach");
        }
        let (pool, align) = (self.pool, self.align());
        let mut make = |granules: usize| {
            let block = pool.calloc(granules, align).expect("room");
            (block as usize - self.at(0) as usize, granules * align)
        };
        let (slots, named) = (make(16usize.div_ceil(align)), make(2));
        let granules = [3, 2, 5, 8, 1, 41, 1, 60, 3, 3, 1, 36, 2, 1, 1, 1];
        let all = granules.map(&mut make);
        self.bound = [make(4), make(2)];
        self.slots = slots.0;
        // SAFETY: a word of a live block.
        unsafe { self.slot().add(1).write(named.0 as u64) };
        let is_hole = |at: usize| [2, 4, 7, 9, 11, 13].contains(&at);
        let holes = all.iter().enumerate().filter(|(at, _)| is_hole(*at));
        holes.for_each(|(_, hole)| pool.free(self.at(hole.0)).expect("free"));
        self.freed = all[2].0;
        self.kept = [0, 1, 3, 5, 6, 8, 10, 12, 14, 15].map(|at| all[at]).to_vec();
        self.fill_depot();
        for ((at, _), names) in self.bound.into_iter().zip(self.kind.names) {
            names.iter().for_each(|name| pool.bind(name, self.at(at)).expect("bind"));
        }
        let mut taken = vec![false; self.len() / 8 + 1];
        for &(at, size) in self.kept.iter().chain([&slots, &named]).chain(&self.bound) {
            taken[self.unit(at)..self.unit(at + size)].fill(true);
        }
        for &(at, size) in &self.kept {
            self.memory.bytes_mut(self.kind.shift + at, size).fill(mark(at));
        }
        self.taken.replace(taken);
        self.gone.borrow_mut().clear();
        self.overlaps.set(false);
    }

    /// What was cached through a handle that is gone is the depot's.
    fn fill_depot(&self) {
        if self.geometry.caches == 0 {
            return;
        }
        let other = handle::attach(self.at(0), self.len(), &self.options()).expect("attach");
        let sizes = [4, 4, 4, 1, 1, 1, 1].map(|granules| granules * self.align());
        let blocks = sizes.map(|size| other.malloc(size).expect("room"));
        blocks.into_iter().for_each(|block| other.free(block).expect("free"));
        other.detach().expect("detach");
    }

    pub fn options(&self) -> Options {
        self.kind.options()
    }

    pub fn len(&self) -> usize {
        self.kind.len
    }

    pub fn align(&self) -> usize {
        self.kind.align
    }

    pub fn at(&self, offset: usize) -> *mut u8 {
        self.memory.base().wrapping_add(self.kind.shift).wrapping_add(offset)
    }

    pub fn bytes(&self) -> &[u8] {
        self.memory.bytes(self.kind.shift, self.kind.len)
    }

    /// Which eight bytes of the blocks lie at an offset.
    fn unit(&self, at: usize) -> usize {
        (at - self.geometry.first) / 8
    }

    /// The first of two slots.
    pub fn slot(&self) -> *mut u64 {
        self.at(self.slots).cast()
    }

    /// The word of `width` bytes at an offset.
    pub fn word(&self, at: usize, width: usize) -> u64 {
        let mut word = [0; 8];
        word[..width].copy_from_slice(&self.bytes()[at..at + width]);
        u64::from_le_bytes(word)
    }

    pub fn set_word(&self, at: usize, width: usize, value: u64) {
        let bytes = self.memory.bytes_mut(self.kind.shift + at, width);
        bytes.copy_from_slice(&value.to_le_bytes()[..width]);
    }

    /// Judges what an allocation returned: a block that is given out lies in the pool to its end.
    pub fn made(&self, answer: Result<*mut u8, Status>, size: usize) -> Answer {
        let at = answer? as usize - self.at(0) as usize;
        let Geometry { first, end, .. } = self.geometry;
        assert!(at >= first && at < end && size <= end - at, "{size} bytes at {at} are outside");
        let mut taken = self.taken.borrow_mut();
        let block = &mut taken[self.unit(at)..=self.unit(at + size - 1)];
        if block.contains(&true) {
            self.overlaps.set(true);
        }
        block.fill(true);
        Ok(0)
    }

    /// A block is nobody's any more.
    pub fn given_back(&self, block: *mut u8, size: usize) {
        let at = block as usize - self.at(0) as usize;
        self.taken.borrow_mut()[self.unit(at)..=self.unit(at + size - 1)].fill(false);
    }

    /// Frees a kept block.
    pub fn free(&self, block: (usize, usize)) -> Answer {
        self.pool.free(self.at(block.0))?;
        Ok(self.gone(block))
    }

    /// A kept block was given up.
    pub fn gone(&self, (at, size): (usize, usize)) -> usize {
        self.given_back(self.at(at), size);
        self.gone.borrow_mut().push(at);
        0
    }

    /// A realloc of a kept block to so many times its size, or to a granule for 1.
    pub fn moved(&self, (at, size): (usize, usize), times: usize) -> Answer {
        let wanted = if times == 1 { self.align() } else { times * size };
        let answer = self.pool.realloc(self.at(at), wanted);
        if let Ok(block) = answer {
            self.gone((at, size));
            self.made(answer, wanted)?;
            // SAFETY: inside the pool, as was just judged; any byte may be read.
            let bytes = unsafe { std::slice::from_raw_parts(block, size.min(wanted)) };
            if bytes.iter().any(|&byte| byte != mark(at)) {
                self.overlaps.set(true);
            }
        }
        answer.map(|_| 0)
    }

    /// Whether all that the live blocks hold is as it was, but for blocks that were given up.
    pub fn is_intact(&self) -> bool {
        let is_whole = |&(at, size): &(usize, usize)| {
            let is_gone = self.gone.borrow().contains(&at);
            is_gone || self.bytes()[at..at + size].iter().all(|&byte| byte == mark(at))
        };
        self.kept.iter().all(is_whole)
    }

    /// Blocks that are shown lie in the pool.
    pub fn must_be_inside(&self, blocks: &[Block]) {
        for block in blocks {
            let (at, size) = (block.offset as usize, block.size as usize);
            self.must_hold(at);
            assert!(size <= self.geometry.end - at, "{block:?} is outside");
        }
    }

    /// An offset lies in the pool.
    pub fn must_hold(&self, at: usize) {
        let Geometry { first, end, .. } = self.geometry;
        assert!((first..end).contains(&at), "{at} is outside");
    }
}

fn mark(at: usize) -> u8 {
    (at / 8 % 251) as u8 + 1
}
