//! How a worker takes and gives back blocks: as fast as it can, stamping them, or timing each call.

use crate::histogram::{Clock, Histogram};
use crate::peer::Heap;

pub trait Hand {
    /// A block whose first word was written to; null if there is none.
    fn try_get(&mut self, size: usize) -> *mut u8;

    /// Gives back a block that any hand of the crew got.
    fn put(&mut self, block: *mut u8);

    /// The block with its content, at least `size` bytes long, maybe elsewhere.
    fn resize(&mut self, block: *mut u8, size: usize) -> *mut u8;

    fn get(&mut self, size: usize) -> *mut u8 {
        let block = self.try_get(size);
        assert!(!block.is_null(), "no block of {size} bytes");
        block
    }
}

#[derive(Clone, Copy)]
pub struct Plain(pub Heap);

impl Hand for Plain {
    fn try_get(&mut self, size: usize) -> *mut u8 {
        // SAFETY: any size may be asked for, and none here is less than a word.
        unsafe {
            let block = (self.0.malloc)(self.0.ctx, size).cast::<u8>();
            if !block.is_null() {
                block.cast::<u64>().write(size as u64);
            }
            block
        }
    }

    fn put(&mut self, block: *mut u8) {
        // SAFETY: the workloads give back what they got, once.
        unsafe { (self.0.free)(self.0.ctx, block.cast()) }
    }

    fn resize(&mut self, block: *mut u8, size: usize) -> *mut u8 {
        // SAFETY: the workloads hold the block.
        let block = unsafe { (self.0.realloc)(self.0.ctx, block.cast(), size) };
        assert!(!block.is_null(), "no block of {size} bytes to grow into");
        block.cast()
    }
}

pub struct Timed {
    pub heap: Plain,
    pub clock: Clock,
    pub mallocs: &'static Histogram,
    pub frees: &'static Histogram,
}

impl Hand for Timed {
    fn try_get(&mut self, size: usize) -> *mut u8 {
        let heap = self.heap.0;
        // SAFETY: any size may be asked for.
        let call = || unsafe { (heap.malloc)(heap.ctx, size) };
        let (ticks, block) = self.clock.time(call);
        self.mallocs.add(ticks);
        if !block.is_null() {
            // SAFETY: no size here is less than a word.
            unsafe { block.cast::<u64>().write(size as u64) };
        }
        block.cast()
    }

    fn put(&mut self, block: *mut u8) {
        let (ticks, ()) = self.clock.time(|| self.heap.put(block));
        self.frees.add(ticks);
    }

    fn resize(&mut self, block: *mut u8, size: usize) -> *mut u8 {
        self.heap.resize(block, size)
    }
}

/// Fills every block with a stamp of its own and looks at every byte of it before it goes: two
/// blocks that overlap, or one that was handed out twice, spoil a stamp.
///
/// ```text
/// | size u32 | tag u32 | words made from the tag ... | the last word's first bytes |
/// ```
pub struct Stamped {
    heap: Plain,
    tag: u32,
    step: u32,
}

const WORD: usize = size_of::<u64>();

impl Stamped {
    /// The workers' tags differ: worker k of n counts k, k + n, k + 2n ...
    pub fn new(heap: Heap, worker: usize, workers: usize) -> Stamped {
        Stamped { heap: Plain(heap), tag: worker as u32, step: workers as u32 }
    }

    fn stamp(&mut self, block: *mut u8, size: usize) {
        self.tag = self.tag.wrapping_add(self.step);
        let head = size as u64 | u64::from(self.tag) << 32;
        // SAFETY: the block is this worker's, and at least `size` bytes long.
        unsafe {
            each_word(block, size, |at, bytes| {
                write(at, word(head, at as usize - block as usize), bytes)
            })
        }
    }

    /// The size in the stamp, after all of the stamp's first `most` bytes were found right.
    fn verify(&self, block: *mut u8, most: usize) -> usize {
        // SAFETY: the block is live and no smaller than a word.
        let head = unsafe { block.cast::<u64>().read_unaligned() };
        let size = head as u32 as usize;
        assert!((WORD..=1 << 30).contains(&size), "block {block:p}: freed already, or overwritten");
        // SAFETY: the block is live, and its stamp says how long it is.
        unsafe {
            each_word(block, size.min(most), |at, bytes| {
                let offset = at as usize - block as usize;
                let found = read(at, bytes);
                let wanted = word(head, offset) & (u64::MAX >> (64 - 8 * bytes));
                assert!(found == wanted, "block {block:p} of {size}: overwritten at {offset}");
            });
        }
        size
    }
}

impl Hand for Stamped {
    fn try_get(&mut self, size: usize) -> *mut u8 {
        let block = self.heap.try_get(size);
        if !block.is_null() {
            assert!(block as usize % 16 == 0, "block {block:p} of {size} is not aligned");
            self.stamp(block, size);
        }
        block
    }

    fn put(&mut self, block: *mut u8) {
        self.verify(block, usize::MAX);
        // SAFETY: the block is live: from now on it has no stamp that holds.
        unsafe { block.cast::<u64>().write(0) };
        self.heap.put(block);
    }

    fn resize(&mut self, block: *mut u8, size: usize) -> *mut u8 {
        self.verify(block, usize::MAX);
        let block = self.heap.resize(block, size);
        self.verify(block, size);
        self.stamp(block, size);
        block
    }
}

/// The stamp's word at an offset.
fn word(head: u64, offset: usize) -> u64 {
    match offset {
        0 => head,
        _ => (head ^ offset as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15),
    }
}

/// Calls `visit` with the address of each word and how many of its bytes count.
///
/// # Safety
/// `size` bytes at `block` may be touched.
unsafe fn each_word(block: *mut u8, size: usize, mut visit: impl FnMut(*mut u8, usize)) {
    for offset in (0..size).step_by(WORD) {
        // SAFETY: inside the block.
        visit(unsafe { block.add(offset) }, WORD.min(size - offset));
    }
}

fn write(at: *mut u8, word: u64, bytes: usize) {
    // SAFETY: `each_word` vouches for these bytes.
    unsafe { at.copy_from_nonoverlapping(word.to_le_bytes().as_ptr(), bytes) }
}

fn read(at: *mut u8, bytes: usize) -> u64 {
    let mut word = [0; WORD];
    // SAFETY: `each_word` vouches for these bytes.
    unsafe { at.copy_to_nonoverlapping(word.as_mut_ptr(), bytes) };
    u64::from_le_bytes(word)
}
