//! A pool as the allocator of Rust's collections: layouts of every alignment, grown and shrunk at
//! random with their bytes, and what it refuses.
#![cfg(feature = "allocator-api2")]

use allocator_api2::alloc::Allocator;
use allocator_api2::vec::Vec;
use mempool::{Error, Options, Pool};
use std::alloc::Layout;
use std::ptr::NonNull;

mod common;
use common::random::Random;

const LEN: usize = 1 << 20;

fn pool_in(memory: &mut [u64], options: &Options) -> Pool {
    let buffer = memory.as_mut_ptr().cast::<u8>();
    // SAFETY: each test's memory outlives its pool, and nothing else uses it.
    unsafe { Pool::init(buffer, size_of_val(memory), options) }.unwrap()
}

fn byte(mark: usize, i: usize) -> u8 {
    (mark * 31 + i * 7 + i / 256) as u8
}

struct Held {
    block: NonNull<u8>,
    layout: Layout,
    mark: usize,
}

impl Held {
    fn stamp(&self) {
        for i in 0..self.layout.size() {
            // SAFETY: the block is ours, and this long.
            unsafe { self.block.add(i).write(byte(self.mark, i)) };
        }
    }

    fn check(&self, size: usize) {
        assert_eq!(self.block.as_ptr() as usize % self.layout.align(), 0);
        for i in 0..size {
            // SAFETY: as above.
            assert_eq!(unsafe { self.block.add(i).read() }, byte(self.mark, i));
        }
    }
}

#[test]
fn layouts_grow_and_shrink_with_their_bytes() {
    let mut memory = vec![0u64; LEN / 8];
    let mut random = Random(1);
    for align in [8, 16, 64, 4096] {
        let pool = pool_in(&mut memory, &Options { align, ..Options::default() });
        let mut held: std::vec::Vec<Held> = std::vec::Vec::new();
        for mark in 0..2000 {
            let size = random.below(3000);
            let layout = Layout::from_size_align(size, 1 << random.below(12)).unwrap();
            if held.len() < 40 {
                let block = pool.allocate(layout).unwrap().cast();
                held.push(Held { block, layout, mark });
                held[held.len() - 1].stamp();
            } else {
                let at = random.below(held.len());
                let old = &mut held[at];
                old.check(old.layout.size());
                let kept = old.layout.size().min(size);
                // SAFETY: a block of this allocator, by its layout; larger or smaller as asked.
                let moved = unsafe {
                    if size >= old.layout.size() {
                        pool.grow(old.block, old.layout, layout)
                    } else {
                        pool.shrink(old.block, old.layout, layout)
                    }
                };
                (old.block, old.layout) = (moved.unwrap().cast(), layout);
                old.check(kept);
                old.stamp();
            }
            if random.below(3) == 0 {
                let one = held.swap_remove(0);
                one.check(one.layout.size());
                // SAFETY: as above, and not used afterwards.
                unsafe { pool.deallocate(one.block, one.layout) };
            }
        }
        for Held { block, layout, .. } in held {
            // SAFETY: as above.
            unsafe { pool.deallocate(block, layout) };
        }
        let stats = pool.stats().unwrap();
        assert_eq!((stats.used_count, stats.rejected_frees), (0, 0));
        pool.check().unwrap();
    }
}

#[test]
fn a_full_pool_is_an_error_and_leaves_the_block() {
    let mut memory = vec![0u64; 512];
    let pool = pool_in(&mut memory, &Options::default());
    let mut numbers = Vec::new_in(&pool);
    while numbers.try_reserve(1).is_ok() {
        numbers.push(numbers.len());
    }
    assert!(numbers.len() > 100 && numbers.iter().enumerate().all(|(i, &number)| i == number));
    drop(numbers);
    assert_eq!(pool.stats().unwrap().used_count, 0);
}

#[test]
fn slices_are_typed_aligned_and_bounded() {
    #[repr(align(256))]
    struct Wide(#[allow(dead_code)] u8);
    let mut memory = vec![0u64; LEN / 8];
    let pool = pool_in(&mut memory, &Options::default());
    let wide = pool.alloc_slice::<Wide>(3).unwrap();
    assert_eq!((wide.len(), wide.cast::<u8>().as_ptr() as usize % 256), (3, 0));
    assert!(pool.usable_size(wide.cast().as_ptr()) >= 3 * size_of::<Wide>());
    assert!(matches!(pool.alloc_slice::<u64>(usize::MAX / 4), Err(Error::Overflow)));
    assert!(matches!(pool.alloc_slice::<u64>(0), Err(Error::Argument(_))));
    assert!(matches!(pool.alloc_slice::<()>(5), Err(Error::Argument(_))));
    // SAFETY: the block is not used afterwards.
    unsafe { pool.free(wide.cast().as_ptr()) }.unwrap();
}

/// A granule above a page promises offsets only; a type is promised addresses, or refused.
#[test]
fn an_alignment_that_the_buffer_cannot_have_is_refused() {
    #[repr(align(8192))]
    struct Huge(#[allow(dead_code)] u8);
    let mut memory = vec![0u64; LEN / 8];
    let skew = memory.as_ptr().align_offset(8192) + 512; // 4096 bytes past a multiple
    let pool = pool_in(&mut memory[skew..], &Options { align: 16384, ..Options::default() });
    assert!(matches!(pool.alloc_slice::<Huge>(1), Err(Error::Argument(_))));
    assert_eq!(pool.stats().unwrap().used_count, 0);
}
