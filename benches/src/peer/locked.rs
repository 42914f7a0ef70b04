//! Allocators over a fixed range that know no threads, each under one mutex.

use super::{nothing, unchecked, Heap};
use crate::region::Region;
use rlsf::Tlsf;
use std::alloc::Layout;
use std::ffi::c_void;
use std::ptr::{null_mut, NonNull};
use std::sync::Mutex;
use talc::base::Talc;
use talc::source::Manual;
use talc::DefaultBinning;

const ALIGN: usize = 16;

/// An allocator as its mutex guards it.
trait Locked: Send + 'static {
    fn malloc(&mut self, size: usize) -> *mut u8;
    /// # Safety
    /// The block is live.
    unsafe fn free(&mut self, block: NonNull<u8>);
    /// # Safety
    /// The block is live.
    unsafe fn realloc(&mut self, block: NonNull<u8>, size: usize) -> *mut u8;
}

fn heap<L: Locked>(locked: L) -> Heap {
    let ctx = (Box::leak(Box::new(Mutex::new(locked))) as *mut Mutex<L>).cast();
    let (malloc, free, realloc) = (malloc::<L>, free::<L>, realloc::<L>);
    Heap { ctx, malloc, free, realloc, enter: nothing, leave: nothing, check: unchecked }
}

/// # Safety
/// `ctx` comes from `heap::<L>`.
unsafe fn locked<'a, L: Locked>(ctx: *mut c_void) -> std::sync::MutexGuard<'a, L> {
    // SAFETY: the caller's; the mutex lives as long as the process.
    unsafe { &*ctx.cast::<Mutex<L>>() }.lock().expect("nobody panics under this lock")
}

unsafe extern "C" fn malloc<L: Locked>(ctx: *mut c_void, size: usize) -> *mut c_void {
    // SAFETY: the context is this heap's.
    unsafe { locked::<L>(ctx) }.malloc(size).cast()
}

unsafe extern "C" fn free<L: Locked>(ctx: *mut c_void, block: *mut c_void) {
    let Some(block) = NonNull::new(block.cast()) else { return };
    // SAFETY: the context is this heap's, the block the caller's.
    unsafe { locked::<L>(ctx).free(block) }
}

unsafe extern "C" fn realloc<L: Locked>(
    ctx: *mut c_void,
    block: *mut c_void,
    size: usize,
) -> *mut c_void {
    match NonNull::new(block.cast()) {
        // SAFETY: the context is this heap's.
        None => unsafe { malloc::<L>(ctx, size) },
        // SAFETY: the context is this heap's, the block the caller's.
        Some(block) => unsafe { locked::<L>(ctx).realloc(block, size) }.cast(),
    }
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, ALIGN).expect("sizes here are far below the limit")
}

fn address(block: Option<NonNull<u8>>) -> *mut u8 {
    block.map_or(null_mut(), NonNull::as_ptr)
}

/// Two-level segregated fit for blocks below 8 GiB.
type Fit = Tlsf<'static, u32, u32, 28, 32>;

struct Rlsf(Fit);

pub fn rlsf(region: Region) -> Heap {
    let mut fit = Fit::new();
    // SAFETY: the region is this allocator's alone, for good.
    unsafe { fit.insert_free_block_ptr(NonNull::slice_from_raw_parts(region.base, region.len)) };
    heap(Rlsf(fit))
}

impl Locked for Rlsf {
    fn malloc(&mut self, size: usize) -> *mut u8 {
        address(self.0.allocate(layout(size)))
    }

    unsafe fn free(&mut self, block: NonNull<u8>) {
        // SAFETY: the caller's.
        unsafe { self.0.deallocate(block, ALIGN) }
    }

    unsafe fn realloc(&mut self, block: NonNull<u8>, size: usize) -> *mut u8 {
        // SAFETY: the caller's.
        address(unsafe { self.0.reallocate(block, layout(size)) })
    }
}

/// talc wants a block's size back, which C does not give: it stands before the block.
struct Sized(Talc<Manual, DefaultBinning>);

const HEADER: usize = ALIGN;

// SAFETY: the range it points into goes where it goes.
unsafe impl Send for Sized {}

pub fn talc(region: Region) -> Heap {
    let mut talc = Talc::new(Manual);
    // SAFETY: the region is this allocator's alone, for good.
    unsafe { talc.claim(region.base.as_ptr(), region.len) };
    heap(Sized(talc))
}

impl Locked for Sized {
    fn malloc(&mut self, size: usize) -> *mut u8 {
        // SAFETY: the size is not zero, and the header lies in the block.
        unsafe {
            let Some(start) = self.0.allocate(layout(HEADER + size)) else { return null_mut() };
            start.cast::<usize>().write(HEADER + size);
            start.add(HEADER).as_ptr()
        }
    }

    unsafe fn free(&mut self, block: NonNull<u8>) {
        // SAFETY: the header lies before every live block.
        unsafe {
            let start = block.sub(HEADER);
            self.0.deallocate(start.as_ptr(), layout(start.cast::<usize>().read()));
        }
    }

    unsafe fn realloc(&mut self, block: NonNull<u8>, size: usize) -> *mut u8 {
        // SAFETY: the header lies before every live block.
        unsafe {
            let start = block.sub(HEADER);
            let old = start.cast::<usize>().read();
            if self.0.try_realloc_in_place(start.as_ptr(), layout(old), HEADER + size) {
                start.cast::<usize>().write(HEADER + size);
                return block.as_ptr();
            }
            let moved = self.malloc(size);
            if !moved.is_null() {
                moved.copy_from_nonoverlapping(block.as_ptr(), (old - HEADER).min(size));
                self.free(block);
            }
            moved
        }
    }
}
