//! What a pool may be asked to be.
#![forbid(unsafe_code)]

/// Free neighbours are kept apart: no coalescing, and `top` is never lowered.
pub const NO_COMPACT: u32 = 1;
/// A free block is handed out whole, whatever is left over.
pub const NO_SPLIT: u32 = 2;
/// The caller promises that the buffer holds zero bytes only.
pub const ZEROED: u32 = 4;
/// Every call takes the pool's lock: no thread caches.
pub const NO_THREAD_CACHES: u32 = 8;
/// Bytes behind each block are set, and looked at when it ends or changes: see `guard`.
pub const GUARD: u32 = 16;
/// Free memory is filled, and looked at when it is handed out: see `fill`.
pub const FILL_FREED: u32 = 32;
/// Every live block is tagged with the process that made it, so that what the dead left can be freed.
pub const OWNER_TAGS: u32 = 65_536;

/// The choices of [`Pool::init`](crate::pool::Pool::init); all zero means the defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// First byte of the buffer to use.
    pub start: usize,
    /// One past the last byte to use; 0 means the buffer's length, larger is clamped to it.
    pub end: usize,
    /// The granule in bytes: a power of two, 8..=65536; 0 means 16.
    pub align: usize,
    /// The least remainder in bytes worth a block of its own; 0 means 16; else more than 8.
    pub min_split: usize,
    /// The bits above; unknown ones are refused.
    pub flags: u32,
    /// Thread caches at most; 0: chosen from the pool's size.
    pub max_threads: u32,
}
