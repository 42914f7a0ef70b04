//! What crosses the boundary to C: structures, typedefs and constants, nothing else.
//!
//! The comments here become those of `include/mempool.h`. This file must stay plain: besides
//! rustc and cbindgen, the parser of the ABI test reads it, which knows only old Rust.
#![forbid(unsafe_code)]
#![doc(hidden)]
#![allow(non_camel_case_types)]

use core::ffi::c_void;

/// Major version of the library that this header belongs to; mempool_version_number tells that
/// of the library at run time.
pub const MEMPOOL_VERSION_MAJOR: u32 = 0;
/// Minor version; see MEMPOOL_VERSION_MAJOR.
pub const MEMPOOL_VERSION_MINOR: u32 = 1;
/// Patch version; see MEMPOOL_VERSION_MAJOR.
pub const MEMPOOL_VERSION_PATCH: u32 = 0;

/// The call did what it says.
pub const MEMPOOL_OK: i32 = 0;
/// An argument that no pool could accept: NULL, a size of 0, bad options, an overflow.
pub const MEMPOOL_ERR_INVALID_ARGUMENT: i32 = -1;
/// The region is too short for a pool; see mempool_min_len.
pub const MEMPOOL_ERR_BUFFER_TOO_SMALL: i32 = -2;
/// The region has more granules than a pool can number; the message says which align would do.
pub const MEMPOOL_ERR_BUFFER_TOO_LARGE: i32 = -3;
/// There is no pool here: never one, released, or its init never finished.
pub const MEMPOOL_ERR_NOT_A_POOL: i32 = -4;
/// A pool, but not for this library, machine or mapping: another layout version, architecture,
/// pointer width or libc; a buffer shorter than the pool; mapped at another residue of align.
pub const MEMPOOL_ERR_INCOMPATIBLE: i32 = -5;
/// No free run of blocks fits, or the process has no memory left for a handle.
pub const MEMPOOL_ERR_OUT_OF_MEMORY: i32 = -6;
/// A pointer outside the pool's blocks: another allocator's or another pool's.
pub const MEMPOOL_ERR_FOREIGN_POINTER: i32 = -7;
/// A pointer into the pool that is no live block: free already, inside a block, misaligned, or
/// the pool's own.
pub const MEMPOOL_ERR_NOT_ALLOCATED: i32 = -8;
/// The pool's own bytes are damaged; the message says where and what.
pub const MEMPOOL_ERR_CORRUPTED: i32 = -9;
/// No such name, or nobody owns the block.
pub const MEMPOOL_ERR_NOT_FOUND: i32 = -10;
/// The name is taken, or the slot not 0.
pub const MEMPOOL_ERR_EXISTS: i32 = -11;
/// In use: this thread is inside a call on this pool already (a signal handler called), somebody
/// else works on the same thing, or the process lives whose blocks were to be reaped.
pub const MEMPOOL_ERR_BUSY: i32 = -12;

/// mempool_options.flags: free neighbours are not merged, and top is never lowered.
pub const MEMPOOL_NO_COMPACT: u32 = 1;
/// mempool_options.flags: a free block is handed out whole, whatever is left over.
pub const MEMPOOL_NO_SPLIT: u32 = 2;
/// mempool_options.flags: the caller promises that the region holds zero bytes only, which saves
/// clearing some of them. A broken promise may cost blocks, never memory safety.
pub const MEMPOOL_ZEROED: u32 = 4;
/// mempool_options.flags: no thread caches; every call takes the pool's lock.
pub const MEMPOOL_NO_THREAD_CACHES: u32 = 8;
/// mempool_options.flags: the bytes between what was asked for and a block's end, 16 at least, are a
/// guard, set when the block is made and looked at when it ends or changes (mempool_free,
/// mempool_free_sized, mempool_free_from, mempool_realloc, mempool_expand, mempool_reap) and by
/// mempool_check. If somebody wrote there the call says CORRUPTED and changes nothing, the block stays
/// live, and the message names its offset and the first byte overwritten: "at offset 4136, 0 bytes
/// behind its 40". mempool_free_all looks at no guard, and is the way to begin anew.
/// mempool_usable_size is exactly what was asked for. No thread caches.
pub const MEMPOOL_GUARD: u32 = 16;
/// mempool_options.flags: free memory is filled with bytes 0xdf, and looked at when it is handed out and
/// by mempool_check. If somebody wrote there, into a block that was freed, the call that was to get it
/// fails with CORRUPTED (errno EIO), once: the message names the first byte, the memory is filled
/// anew, and the same call succeeds the next time. The first 8 bytes of a free block are the pool's
/// own: what is written there is told too, if it is none of the pool's. Calls take time in proportion
/// to the bytes that they free or hand out. No thread caches.
pub const MEMPOOL_FILL_FREED: u32 = 32;
/// mempool_options.flags: every live block carries the process that made it, for mempool_reap. It
/// costs a byte for each granule, 24 bytes for each process that there may be (a 64th of the pool, 8
/// to 254 of them), and a few instructions in each mempool_malloc.
pub const MEMPOOL_OWNER_TAGS: u32 = 65536;

/// mempool_block.state: in the heap, for anyone.
pub const MEMPOOL_BLOCK_FREE: u32 = 0;
/// mempool_block.state: a caller holds it.
pub const MEMPOOL_BLOCK_LIVE: u32 = 1;
/// mempool_block.state: free, held in a thread cache or the depot.
pub const MEMPOOL_BLOCK_CACHED: u32 = 2;
/// mempool_block.state: the pool's own.
pub const MEMPOOL_BLOCK_META: u32 = 3;

/// What a call returns: MEMPOOL_OK or one of the negative MEMPOOL_ERR_ values.
pub type mempool_status_t = i32;

/// A pool, as one process sees it; opaque.
///
/// mempool_init, mempool_attach and mempool_open make handles, mempool_detach ends one. A handle
/// means nothing to other processes, but a fork's child inherits it.
pub struct mempool {
    _opaque: [u8; 0],
}
pub type mempool_t = mempool;

/// What a pool may be asked to be. MEMPOOL_OPTIONS_INIT gives the defaults: all zero, but for
/// struct_size.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct mempool_options {
    /// sizeof(mempool_options_t), by which the library knows the caller's version. More is
    /// accepted (up to 4096 bytes) if the options that this library does not know are zero.
    pub struct_size: usize,
    /// First byte of the buffer to use.
    pub start: usize,
    /// One past the last byte to use; 0 = the buffer's length; larger is clamped to it.
    pub end: usize,
    /// The granule in bytes: blocks start at multiples of it and are rounded up to one. A power
    /// of two, 8..65536; 0 = 16.
    pub align: usize,
    /// The least remainder in bytes worth a block of its own; 0 = 16; else more than 8.
    pub min_split: usize,
    /// MEMPOOL_NO_COMPACT .. MEMPOOL_OWNER_TAGS; unknown bits are refused.
    pub flags: u32,
    /// Thread caches at most; 0 = chosen from the pool's size.
    pub max_threads: u32,
}
pub type mempool_options_t = mempool_options;

/// A snapshot of a pool's figures: bytes unless it says count. MEMPOOL_STATS_INIT prepares one.
///
/// When no call is in flight:
/// total == overhead + used_size + free_size + cached_size + (end - top).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct mempool_stats {
    /// sizeof(mempool_stats_t), by which the library knows the caller's version. Of more (up to
    /// 4096 bytes), what this library does not know is zeroed.
    pub struct_size: usize,
    /// The region managed: end - start.
    pub total: u64,
    /// Of it, the pool's own: header, map, caches, magazines.
    pub overhead: u64,
    /// Count of the blocks that callers hold.
    pub used_count: u64,
    /// Their bytes, with rounding.
    pub used_size: u64,
    /// Count of the free blocks below top.
    pub free_count: u64,
    /// Their bytes.
    pub free_size: u64,
    /// Count of the free blocks held in thread caches and the depot.
    pub cached_count: u64,
    /// Their bytes.
    pub cached_size: u64,
    /// Offset of the first byte never handed out, or lowered to by frees.
    pub top: u64,
    /// What malloc can draw on: free_size + cached_size + (end - top).
    pub available: u64,
    /// The largest malloc that can succeed now without giving back caches.
    pub largest_free: u64,
    /// The granule.
    pub align: u64,
    /// Count of the thread caches in use.
    pub thread_caches: u64,
    /// Count of the thread caches at most.
    pub max_threads: u64,
    /// Count of the frees refused since init.
    pub rejected_frees: u64,
    /// Count of the allocations that found no room since init.
    pub failed_allocs: u64,
    /// Count of the dead owners cleaned up after since init.
    pub recoveries: u64,
    /// Random, new at each init.
    pub pool_id: u64,
}
pub type mempool_stats_t = mempool_stats;

/// A block, as mempool_walk and mempool_inspect show it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct mempool_block {
    /// Bytes from the buffer's first byte; mempool_pointer makes a pointer of it.
    pub offset: u64,
    /// Bytes, with rounding.
    pub size: u64,
    /// One of MEMPOOL_BLOCK_FREE .. MEMPOOL_BLOCK_META.
    pub state: u32,
    /// 0.
    pub reserved: u32,
}
pub type mempool_block_t = mempool_block;

/// Looks at one block, which lies in memory only during the call; false ends the walk.
/// `context` is what the caller of the walk passed. It must not throw.
pub type mempool_visit_t =
    Option<extern "C" fn(block: *const mempool_block_t, context: *mut c_void) -> bool>;

/// A process that blocks belong to.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct mempool_owner {
    /// When it started, in clock ticks since boot (field 22 of /proc/PID/stat): tells it from others
    /// that have its number before or after. 0 if it could not be known.
    pub start: u64,
    /// What it has set by mempool_label; 0 unless it has.
    pub label: u64,
    /// Its number.
    pub pid: i32,
    /// 0.
    pub reserved: u32,
}
pub type mempool_owner_t = mempool_owner;

/// Looks at one block that a dead process left: true frees it, false keeps it. Both structures lie
/// in memory only during the call; `context` is what the caller of mempool_reap passed. It must not
/// throw.
pub type mempool_reap_visit_t = Option<
    extern "C" fn(
        block: *const mempool_block_t,
        owner: *const mempool_owner_t,
        context: *mut c_void,
    ) -> bool,
>;

/// What mempool_reap has done.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct mempool_reaped {
    /// Count of the dead processes of whom no block is left.
    pub owners: u64,
    /// Count of the blocks freed.
    pub freed_count: u64,
    /// Their bytes, with rounding.
    pub freed_size: u64,
    /// Count of the blocks kept: visit wanted it, or they had become somebody's meanwhile.
    pub kept_count: u64,
    /// Their bytes, with rounding.
    pub kept_size: u64,
}
pub type mempool_reaped_t = mempool_reaped;
