//! What a pool says of itself.
#![forbid(unsafe_code)]

/// A snapshot of a pool's figures: bytes unless the name says count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// The region managed: end - start.
    pub total: u64,
    /// Of it, the pool's own: header, bins, map.
    pub overhead: u64,
    /// Blocks that callers hold.
    pub used_count: u64,
    /// Their bytes, with rounding.
    pub used_size: u64,
    /// Free blocks below `top`.
    pub free_count: u64,
    /// Their bytes.
    pub free_size: u64,
    /// Free blocks held in thread caches and the depot.
    pub cached_count: u64,
    /// Their bytes.
    pub cached_size: u64,
    /// Offset of the first byte never handed out, or lowered to by frees.
    pub top: u64,
    /// `free_size + cached_size + (end - top)`.
    pub available: u64,
    /// The largest malloc that can succeed now without giving back caches.
    pub largest_free: u64,
    /// The granule.
    pub align: u64,
    /// Thread caches in use.
    pub thread_caches: u64,
    /// Thread caches at most.
    pub max_threads: u64,
    /// Frees refused since init.
    pub rejected_frees: u64,
    /// Allocations that found no room since init.
    pub failed_allocs: u64,
    /// Dead owners cleaned up after, and hints rebuilt, since init.
    pub recoveries: u64,
    /// Random, new at each init.
    pub pool_id: u64,
}

/// What a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    /// In the heap, for anyone.
    Free = 0,
    /// A caller holds it.
    Live = 1,
    /// Free, held in a thread cache or the depot.
    Cached = 2,
    /// The pool's own.
    Meta = 3,
}

/// A process that owns blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// Its number.
    pub pid: u32,
    /// When it started, in the kernel's ticks since boot; 0 when that is not known.
    pub start: u64,
    /// What it calls itself; 0 unless it has said so.
    pub label: u64,
}

/// What reaping has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reaped {
    /// Dead owners of whom no block is left.
    pub owners: u64,
    /// Blocks freed.
    pub freed_count: u64,
    /// Their bytes, with rounding.
    pub freed_size: u64,
    /// Blocks kept: the visitor wanted it, or they had become somebody's.
    pub kept_count: u64,
    /// Their bytes, with rounding.
    pub kept_size: u64,
}

impl Reaped {
    /// Counts a block that was freed, or kept.
    pub(crate) fn count(&mut self, freed: bool, size: u64) {
        let (count, sum) = match freed {
            true => (&mut self.freed_count, &mut self.freed_size),
            false => (&mut self.kept_count, &mut self.kept_size),
        };
        *count += 1;
        *sum += size;
    }
}

/// One block, as a walk shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Bytes from the buffer's first byte.
    pub offset: u64,
    /// Bytes, with rounding.
    pub size: u64,
    /// What it is.
    pub state: State,
}
