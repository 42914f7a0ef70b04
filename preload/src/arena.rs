//! Memory of the library's own. The process's malloc is the pool, so what making the pool needs has
//! to come from elsewhere: a static array, handed out from front to end, nothing ever given back
//! but the last piece.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The pool's handle takes a few hundred bytes; the rest is for callers that the making of the pool
/// calls (the C library's `pthread_atfork`), and for the loader's first calls in other threads.
const BYTES: usize = 256 << 10;

#[repr(align(64))]
struct Room(UnsafeCell<[u8; BYTES]>);
// SAFETY: each byte is handed out once.
unsafe impl Sync for Room {}

static ROOM: Room = Room(UnsafeCell::new([0; BYTES]));
static USED: AtomicUsize = AtomicUsize::new(0);

/// In front of each piece: its length, so that it can be moved.
const HEAD: usize = 16;

/// Zeroed memory, aligned to 16 or more; NULL when there is no more.
pub fn take(size: usize, align: usize) -> *mut u8 {
    let start = ROOM.0.get() as usize;
    let align = align.max(HEAD);
    let mut used = USED.load(Relaxed);
    loop {
        let Some(piece) = (start + used + HEAD).checked_next_multiple_of(align) else {
            return null_mut();
        };
        let end = (piece - start).checked_add(size).filter(|&end| end <= BYTES);
        let Some(end) = end else {
            return null_mut();
        };
        match USED.compare_exchange_weak(used, end, Relaxed, Relaxed) {
            Ok(_) => {
                let piece = piece as *mut u8;
                // SAFETY: [used, end) of the room is ours alone, HEAD bytes of it before the piece,
                // which is a multiple of 16.
                unsafe { piece.sub(HEAD).cast::<usize>().write(size) };
                return piece;
            }
            Err(now) => used = now,
        }
    }
}

/// Whether the pointer lies in the arena.
#[inline]
pub fn has(pointer: *const u8) -> bool {
    (pointer as usize).wrapping_sub(ROOM.0.get() as usize) < BYTES
}

/// How long the piece is.
///
/// # Safety
/// [`take`] returned it.
pub unsafe fn len(piece: *const u8) -> usize {
    // SAFETY: written by `take`.
    unsafe { piece.sub(HEAD).cast::<usize>().read() }
}

struct Arena;

// SAFETY: pieces do not overlap, and are as long and aligned as asked.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size(), layout.align())
    }

    unsafe fn dealloc(&self, _piece: *mut u8, _layout: Layout) {}

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        take(layout.size(), layout.align())
    }
}

/// What Rust code in this library allocates does not come from the process's malloc.
#[global_allocator]
static ARENA: Arena = Arena;
