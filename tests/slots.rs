//! Slots: every way in which a call on one can be refused, at every address of small pools and for
//! every value; what is refused changes nothing. (`c-tests/programs/slots.c` kills.)

mod common;

use ::mempool::abi::*;
use ::mempool::layout::{FAILED_OFFSET, HEADER_BYTES, REJECTED_OFFSET, TURN_OFFSET};
use common::memory::PAGE;
use common::{handle, options, Handle, Memory, Options};

/// A small pool with live blocks, holes and space above top, and what its memory held then.
struct Scene {
    memory: Memory,
    shift: usize,
    len: usize,
    pool: Handle,
    live: Vec<Block>,
    first: usize,
    before: Vec<u8>,
}

type Block = handle::Block;

impl Scene {
    fn new(shift: usize, align: usize, flags: u32) -> Scene {
        let memory = Memory::private(3 * PAGE);
        let len = 2000 + 24 * align;
        let options = Options { align, flags, ..options() };
        let buffer = memory.base().wrapping_add(shift);
        let pool = handle::init(buffer, len, &options).expect("init");
        let blocks: Vec<_> =
            [3, 1, 2, 5, 1, 4, 1].map(|n| pool.calloc(n, align).expect("room")).into();
        for hole in [1, 3, 6] {
            pool.free(blocks[hole]).expect("free");
        }
        let mut scene =
            Scene { memory, shift, len, pool, live: Vec::new(), first: 0, before: Vec::new() };
        scene.live = pool.walk();
        scene.live.retain(|block| block.state == MEMPOOL_BLOCK_LIVE);
        scene.first = pool.stats().overhead as usize;
        scene.before = scene.bytes().to_vec();
        scene
    }

    fn bytes(&self) -> &[u8] {
        self.memory.bytes(self.shift, self.len)
    }

    fn at(&self, offset: usize) -> *mut u8 {
        self.memory.base().wrapping_add(self.shift + offset)
    }

    fn slot(&self, offset: usize) -> *mut u64 {
        self.at(offset).cast()
    }

    /// Puts all bytes back, and a slot's on top.
    fn restore(&self, slot: Option<(usize, u64)>) {
        let bytes = self.memory.bytes_mut(self.shift, self.len);
        bytes.copy_from_slice(&self.before);
        if let Some((at, value)) = slot {
            bytes[at..at + 8].copy_from_slice(&value.to_ne_bytes());
        }
    }

    /// Nothing has changed but the slot that was set before, and what counts calls.
    fn must_be_untouched(&self, slot: Option<(usize, u64)>, what: &str) {
        let header = (self.at(0) as usize).wrapping_neg() % 8;
        let mut before = self.before.clone();
        if let Some((at, value)) = slot {
            before[at..at + 8].copy_from_slice(&value.to_ne_bytes());
        }
        let counts = |at: usize| {
            let at = at.wrapping_sub(header);
            let inside = |from: usize, len: usize| (from..from + len).contains(&at);
            inside(TURN_OFFSET, 4) || inside(REJECTED_OFFSET, 8) || inside(FAILED_OFFSET, 8)
        };
        let changed = (0..self.len).find(|&at| self.bytes()[at] != before[at] && !counts(at));
        assert_eq!(changed, None, "{what} has changed a byte, header {HEADER_BYTES} at {header}");
    }

    /// Whether a live block is around this offset.
    fn around(&self, at: usize) -> Option<&Block> {
        self.live.iter().find(|b| (b.offset..b.offset + b.size).contains(&(at as u64)))
    }

    /// How a call on a slot at this offset is refused, whatever it holds.
    fn refusal(&self, at: isize) -> Option<handle::Status> {
        let Ok(at) = usize::try_from(at) else { return Some(MEMPOOL_ERR_FOREIGN_POINTER) };
        if at < self.first || at >= self.len {
            return Some(MEMPOOL_ERR_FOREIGN_POINTER);
        }
        let aligned = self.slot(at).is_aligned();
        (!aligned || self.around(at).is_none()).then_some(MEMPOOL_ERR_NOT_ALLOCATED)
    }
}

/// Pools of several granules and flags, at two alignments of the buffer.
fn scenes() -> impl Iterator<Item = Scene> {
    let shapes = [(0, 16, 0), (8, 8, 0), (4, 64, 0), (1, 16, MEMPOOL_NO_COMPACT)];
    shapes.into_iter().map(|(shift, align, flags)| Scene::new(shift, align, flags))
}

#[test]
fn a_slot_is_an_aligned_word_anywhere_in_a_live_block() {
    for scene in scenes() {
        let pool = scene.pool;
        for at in -40..scene.len as isize + 40 {
            let slot = scene.memory.base().wrapping_add(scene.shift).wrapping_offset(at).cast();
            scene.restore(None);
            let made = pool.malloc_to(24, slot);
            if let Some(status) = scene.refusal(at) {
                assert_eq!(made, Err(status), "malloc_to at {at}");
                assert_eq!(pool.calloc_to(3, 8, slot), Err(status), "calloc_to at {at}");
                assert_eq!(pool.stats().rejected_frees, 0);
                assert_eq!(pool.free_from(slot), Err(status), "free_from at {at}");
                assert_eq!(pool.stats().rejected_frees, 1, "free_from at {at} is counted");
                scene.must_be_untouched(None, "a bad slot");
                continue;
            }
            let at = at as usize;
            assert_eq!(made, Ok(()), "malloc_to at {at}");
            // SAFETY: a word of a live block.
            let held = || unsafe { slot.read() };
            let made = held();
            assert!(pool.usable_size(pool.pointer(made)) >= 24, "a block of the pool");
            assert_eq!(pool.stats().used_count, scene.live.len() as u64 + 1);
            assert_eq!(pool.malloc_to(24, slot), Err(MEMPOOL_ERR_EXISTS));
            assert_eq!(pool.calloc_to(3, 8, slot), Err(MEMPOOL_ERR_EXISTS));
            assert_eq!(held(), made, "what is there stays");
            assert_eq!(pool.free_from(slot), Ok(()));
            assert_eq!(held(), 0);
            assert_eq!(pool.free_from(slot), Ok(()), "of nothing");
            assert_eq!(pool.stats().used_count, scene.live.len() as u64);
            assert_eq!(pool.usable_size(pool.pointer(made)), 0, "freed");
            pool.must_check();
        }
    }
}

#[test]
fn only_live_blocks_are_freed_from_a_slot() {
    for scene in scenes() {
        let pool = scene.pool;
        // In the middle of the first block, of several granules.
        let own = scene.live[0];
        let at = (own.offset + own.size) as usize - 16;
        let huge = [u64::MAX, u64::MAX - 7, 1 << 63, 1 << 32];
        for value in (0..scene.len as u64 + 100).chain(huge) {
            let slot = Some((at, value));
            scene.restore(slot);
            let starts = scene.live.iter().any(|block| block.offset == value);
            let inside = (scene.first as u64..scene.len as u64).contains(&value);
            let expected = match value {
                0 => Ok(()),
                value if value == own.offset => Err(MEMPOOL_ERR_INVALID_ARGUMENT),
                _ if starts => Ok(()),
                _ if inside => Err(MEMPOOL_ERR_NOT_ALLOCATED),
                _ => Err(MEMPOOL_ERR_FOREIGN_POINTER),
            };
            assert_eq!(pool.free_from(scene.slot(at)), expected, "a slot that holds {value}");
            assert_eq!(pool.stats().rejected_frees, u64::from(expected.is_err()));
            if expected.is_err() || value == 0 {
                scene.must_be_untouched(slot, "a refused free");
                continue;
            }
            // SAFETY: a word of a live block.
            assert_eq!(unsafe { scene.slot(at).read() }, 0);
            assert_eq!(pool.stats().used_count, scene.live.len() as u64 - 1);
            assert_eq!(pool.usable_size(scene.at(value as usize)), 0);
            pool.must_check();
        }
    }
}

#[test]
fn what_cannot_be_had_leaves_the_slot_empty() {
    for scene in scenes() {
        let pool = scene.pool;
        let slot = scene.slot(scene.live[0].offset as usize);
        let refused = [0, scene.len, usize::MAX / 2, usize::MAX].map(|size| {
            let expected =
                if size == 0 { MEMPOOL_ERR_INVALID_ARGUMENT } else { MEMPOOL_ERR_OUT_OF_MEMORY };
            assert_eq!(pool.malloc_to(size, slot), Err(expected), "{size}");
            assert_eq!(pool.calloc_to(1, size, slot), Err(expected), "{size}");
            2 * u64::from(size != 0)
        });
        assert_eq!(pool.calloc_to(usize::MAX / 4, 8, slot), Err(MEMPOOL_ERR_OUT_OF_MEMORY));
        assert_eq!(pool.calloc_to(0, 8, slot), Err(MEMPOOL_ERR_INVALID_ARGUMENT));
        assert_eq!(pool.stats().failed_allocs, refused.iter().sum::<u64>() + 1);
        assert_eq!(pool.stats().rejected_frees, 0);
        scene.must_be_untouched(None, "no memory");

        let none = Handle(std::ptr::null_mut());
        assert_eq!(none.malloc_to(8, slot), Err(MEMPOOL_ERR_INVALID_ARGUMENT));
        assert_eq!(none.calloc_to(1, 8, slot), Err(MEMPOOL_ERR_INVALID_ARGUMENT));
        assert_eq!(none.free_from(slot), Err(MEMPOOL_ERR_INVALID_ARGUMENT));
        for call in [pool.malloc_to(8, std::ptr::null_mut()), pool.free_from(std::ptr::null_mut())]
        {
            assert_eq!(call, Err(MEMPOOL_ERR_FOREIGN_POINTER));
        }
        // To the last byte.
        scene.restore(None);
        let mut chain = slot;
        while pool.calloc_to(1, 8, chain).is_ok() {
            // SAFETY: a word of a live block, and then the one that it names.
            chain = pool.pointer(unsafe { chain.read() }).cast();
        }
        assert_eq!(handle::last_error(), MEMPOOL_ERR_OUT_OF_MEMORY);
        assert_eq!(pool.stats().largest_free, 0);
        pool.must_check();
        pool.release().expect("release");
        assert_eq!(pool.malloc_to(8, slot), Err(MEMPOOL_ERR_NOT_A_POOL));
        assert_eq!(pool.free_from(slot), Err(MEMPOOL_ERR_NOT_A_POOL));
    }
}

#[test]
fn what_caches_hold_is_neither_a_slot_nor_freed_from_one() {
    let memory = Memory::private(1 << 20);
    let pool = handle::init(memory.base(), memory.len(), &options()).expect("init");
    let root = pool.calloc(4, 8).expect("room");
    let slot: *mut u64 = root.cast();
    let (kept, cached) = (pool.malloc(64).expect("room"), pool.malloc(64).expect("room"));
    pool.free(cached).expect("free");
    assert!(pool.stats().cached_count > 0);
    assert_eq!(pool.malloc_to(8, cached.cast()), Err(MEMPOOL_ERR_NOT_ALLOCATED));
    // SAFETY: a word of a live block.
    unsafe { slot.write(pool.offset(cached)) };
    assert_eq!(pool.free_from(slot), Err(MEMPOOL_ERR_NOT_ALLOCATED));
    assert_eq!(pool.stats().rejected_frees, 1);
    // A block from a cache can be freed from a slot, and one from a slot into a cache.
    // SAFETY: as above.
    unsafe { slot.write(pool.offset(kept)) };
    assert_eq!(pool.free_from(slot), Ok(()));
    assert_eq!(pool.malloc_to(64, slot), Ok(()));
    // SAFETY: as above.
    let delivered = unsafe { slot.read() };
    assert_eq!(pool.free(pool.pointer(delivered)), Ok(()));
    assert_eq!(pool.free_from(slot), Err(MEMPOOL_ERR_NOT_ALLOCATED), "freed already");
    // SAFETY: as above.
    unsafe { slot.write(0) };
    pool.free(root).expect("free");
    pool.trim().expect("trim");
    pool.must_check();
    assert_eq!(pool.stats().used_count, 0);
}

#[test]
fn a_slot_far_behind_its_blocks_start_is_found() {
    let memory = Memory::private(40 << 20);
    let pool = handle::init(memory.base(), memory.len(), &options()).expect("init");
    let len = 32 << 20;
    let large = pool.calloc(1, len).expect("room");
    for at in [0, 8, 16, 4096, len / 2, len - 8] {
        let slot = large.wrapping_add(at).cast();
        assert_eq!(pool.malloc_to(100, slot), Ok(()), "at {at}");
        assert_eq!(pool.free_from(slot), Ok(()), "at {at}");
    }
    // Behind its end.
    let size = pool.usable_size(large);
    assert_eq!(pool.malloc_to(8, large.wrapping_add(size).cast()), Err(MEMPOOL_ERR_NOT_ALLOCATED));
    pool.must_check();
}
