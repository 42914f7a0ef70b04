//! Blocks as Rust has them: typed slices, and with the feature `allocator-api2` an allocator for
//! collections.

use super::Handle;
use crate::error::{Error, Result};
use core::alloc::Layout;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

impl Handle {
    /// A block for `count` values of type `T`, aligned for them and not initialised. It is a block
    /// like any other: [`Handle::free`] ends it, and the values are the caller's to drop. A slice of
    /// no bytes is an argument error. O(1) but when it fails.
    ///
    /// ```
    /// # use mempool::{Options, Pool};
    /// # let mut buffer = vec![0u8; 64 * 1024];
    /// # // SAFETY: the buffer outlives the pool, and nothing else uses it.
    /// # let pool = unsafe { Pool::init(buffer.as_mut_ptr(), buffer.len(), &Options::default()) }?;
    /// let mut squares = pool.alloc_slice::<u64>(100)?;
    /// // SAFETY: the block is ours alone.
    /// for (i, square) in unsafe { squares.as_mut() }.iter_mut().enumerate() {
    ///     square.write((i * i) as u64);
    /// }
    /// // SAFETY: all of it has just been written.
    /// let squares = unsafe { &*(squares.as_ptr() as *const [u64]) };
    /// assert_eq!(squares[99], 9801);
    /// // SAFETY: the block is not used afterwards.
    /// unsafe { pool.free(squares.as_ptr() as *mut u8) }?;
    /// # Ok::<(), mempool::Error>(())
    /// ```
    pub fn alloc_slice<T>(&self, count: usize) -> Result<NonNull<[MaybeUninit<T>]>> {
        let size = self.product(count, size_of::<T>())?;
        let block = self.aligned(size, align_of::<T>())?;
        Ok(NonNull::slice_from_raw_parts(block.cast(), count))
    }

    /// A block whose address is a multiple of `alignment`, or none.
    fn aligned(&self, size: usize, alignment: usize) -> Result<NonNull<u8>> {
        if alignment <= self.geometry.address_align() {
            return self.malloc(size);
        }
        let block = self.aligned_alloc(alignment, size)?;
        if block.as_ptr() as usize % alignment == 0 {
            return Ok(block);
        }
        // SAFETY: nobody has it yet.
        unsafe { self.free(block.as_ptr()) }?;
        Err(Error::Argument("no address in this buffer is a multiple of the alignment"))
    }

    /// [`Handle::realloc`], where the new place needs no more alignment than all places have.
    #[cfg_attr(not(feature = "allocator-api2"), allow(dead_code))]
    unsafe fn moved(&self, block: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<u8>> {
        if new.align() <= self.geometry.address_align() {
            // SAFETY: as promised by the caller.
            return unsafe { self.realloc(block.as_ptr(), new.size()) };
        }
        let place = self.aligned(new.size(), new.align())?;
        let bytes = old.size().min(new.size());
        // SAFETY: two live blocks of at least as many bytes; the old one is the caller's to give up.
        unsafe {
            block.copy_to_nonoverlapping(place, bytes);
            self.free(block.as_ptr())?;
        }
        Ok(place)
    }
}

#[cfg(feature = "allocator-api2")]
mod allocator {
    use crate::pool::Pool;
    use allocator_api2::alloc::{AllocError, Allocator};
    use core::alloc::Layout;
    use core::ptr::{self, NonNull};

    /// What no bytes are asked for lies nowhere.
    fn nowhere(layout: Layout) -> NonNull<u8> {
        NonNull::new(ptr::without_provenance_mut(layout.align())).unwrap_or(NonNull::dangling())
    }

    fn slice(block: NonNull<u8>, layout: Layout) -> NonNull<[u8]> {
        NonNull::slice_from_raw_parts(block, layout.size())
    }

    /// For collections whose elements lie in the pool while they themselves, which point to them,
    /// belong to this process. What they free is never refused, so long as nobody else frees it.
    ///
    /// ```
    /// # use mempool::{Options, Pool};
    /// use allocator_api2::{boxed::Box, vec::Vec};
    /// # let mut buffer = vec![0u8; 64 * 1024];
    /// # // SAFETY: the buffer outlives the pool, and nothing else uses it.
    /// # let pool = unsafe { Pool::init(buffer.as_mut_ptr(), buffer.len(), &Options::default()) }?;
    /// let mut numbers = Vec::new_in(&pool);
    /// numbers.extend(0..1000);
    /// let answer = Box::new_in(42, &pool);
    /// assert_eq!((numbers[999], *answer, pool.stats()?.used_count), (999, 42, 2));
    /// drop((numbers, answer));
    /// assert_eq!(pool.stats()?.used_count, 0);
    /// # Ok::<(), mempool::Error>(())
    /// ```
    // SAFETY: a live block stays where it is until it is freed, by whatever handle, and the buffer is
    // there as long as the handle is used: whoever made the pool has promised it.
    unsafe impl Allocator for Pool {
        fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
            if layout.size() == 0 {
                return Ok(slice(nowhere(layout), layout));
            }
            let block = self.aligned(layout.size(), layout.align()).map_err(|_| AllocError)?;
            Ok(slice(block, layout))
        }

        unsafe fn deallocate(&self, block: NonNull<u8>, layout: Layout) {
            if layout.size() > 0 {
                // SAFETY: as promised by the caller. A refusal has been counted; there is nobody to tell.
                let _ = unsafe { self.free(block.as_ptr()) };
            }
        }

        unsafe fn grow(
            &self,
            block: NonNull<u8>,
            old: Layout,
            new: Layout,
        ) -> Result<NonNull<[u8]>, AllocError> {
            if old.size() == 0 {
                return self.allocate(new);
            }
            // SAFETY: as promised by the caller.
            let moved = unsafe { self.moved(block, old, new) }.map_err(|_| AllocError)?;
            Ok(slice(moved, new))
        }

        unsafe fn shrink(
            &self,
            block: NonNull<u8>,
            old: Layout,
            new: Layout,
        ) -> Result<NonNull<[u8]>, AllocError> {
            if new.size() == 0 {
                // SAFETY: as promised by the caller.
                unsafe { self.deallocate(block, old) };
                return Ok(slice(nowhere(new), new));
            }
            // SAFETY: as promised by the caller.
            let moved = unsafe { self.moved(block, old, new) }.map_err(|_| AllocError)?;
            Ok(slice(moved, new))
        }
    }
}
