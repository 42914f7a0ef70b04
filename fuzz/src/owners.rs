//! More of the C face: what only owners of blocks, and whoever has no handle yet, ask for.

use crate::handle::{last_error, Handle, Status};
use ::mempool::abi::*;
use ::mempool::capi::*;
use std::ffi::c_void;
use std::ptr;

fn judged(status: Status) -> Result<(), Status> {
    if status == MEMPOOL_OK {
        return Ok(());
    }
    assert_eq!(last_error(), status, "last_error agrees with the status");
    Err(status)
}

impl Handle {
    /// The owner's process and label: mempool_owner_of.
    pub fn owner_and_label(self, block: *const u8) -> Result<(i32, u64), Status> {
        // SAFETY: integers only.
        let mut owner: mempool_owner_t = unsafe { std::mem::zeroed() };
        // SAFETY: a handle that was not detached; any block pointer is allowed. So in all below.
        judged(unsafe { mempool_owner_of(self.0, block.cast(), &mut owner) })?;
        Ok((owner.pid, owner.label))
    }

    /// How many blocks of a process were freed, none of which was kept: mempool_reap.
    pub fn reap_of(self, pid: i32) -> Result<u64, Status> {
        // SAFETY: integers only.
        let mut reaped: mempool_reaped_t = unsafe { std::mem::zeroed() };
        // SAFETY: as in `owner_and_label`; no visitor.
        judged(unsafe { mempool_reap(self.0, pid, None, ptr::null_mut(), &mut reaped) })?;
        Ok(reaped.freed_count)
    }

    /// Walks and frees the live blocks for whose offset `choose` says so, while they are visited.
    pub fn free_on_the_way(
        self,
        choose: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Vec<u64>, Status> {
        let mut way = Way { pool: self, choose, freed: Vec::new() };
        // SAFETY: as in `owner_and_label`; `visit` gets the way it expects.
        judged(unsafe { mempool_walk(self.0, Some(visit), ptr::from_mut(&mut way).cast()) })?;
        Ok(way.freed)
    }
}

struct Way<'a> {
    pool: Handle,
    choose: &'a mut dyn FnMut(u64, u64) -> bool,
    freed: Vec<u64>,
}

extern "C" fn visit(block: *const mempool_block_t, way: *mut c_void) -> bool {
    // SAFETY: the walk passes a valid block, and the way we gave.
    let (block, way) = unsafe { (&*block, &mut *way.cast::<Way>()) };
    let is_live = block.state == MEMPOOL_BLOCK_LIVE;
    if is_live && (way.choose)(block.offset, block.size) {
        let freed = way.pool.free(way.pool.pointer(block.offset));
        if freed.is_ok() {
            way.freed.push(block.offset);
        }
    }
    true
}

/// The length that a pool's first bytes tell.
pub fn peek(prefix: *const u8, n: usize) -> Result<u64, Status> {
    let mut len = 0;
    // SAFETY: the caller's own memory.
    judged(unsafe { mempool_peek(prefix.cast(), n, &mut len) })?;
    Ok(len)
}
