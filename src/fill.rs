//! What free memory holds, in pools made with [`FILL_FREED`]: so that who writes to a block that it
//! has freed is found out when the memory is handed out again, or by a check.
//!
//! ```text
//!     free block                   live             top               watermark
//!     +-------+-----------------+  +-------------+  +-----------------+------------------+
//!     | links | df df df .. df  |  | the caller's|  | df df df .. df  | never reached:   |
//!     +-------+-----------------+  +-------------+  +-----------------+ may be anything  +
//!      8 bytes: the heap's own
//! ```
//!
//! **Invariant**: below the watermark each byte that is in no block, or in a free one, is 0xdf, but for
//! the links in the first eight bytes of free blocks. What was never reached is filled as the watermark
//! passes it. What becomes free is filled under the record of that change, before the map tells that
//! it is free; who finishes the change for a dead one fills whatever the record may have left.
#![forbid(unsafe_code)]

use crate::layout::Geometry;
use crate::options::FILL_FREED;
use crate::region::Region;

/// Free memory consists of it.
pub const BYTE: u8 = 0xdf;
/// A free block's first bytes are the heap's own.
pub const LINK_BYTES: usize = 8;
/// Longer stretches are worked on in pieces, and between two of them the lock's owner shows that it lives.
const PIECE: usize = 64 << 20;

/// The free memory of a pool that fills it.
#[derive(Clone, Copy)]
pub struct Fill<'a> {
    region: &'a Region,
}

impl<'a> Fill<'a> {
    /// The free memory of the pool with this geometry; None if it is not filled.
    pub fn of(region: &'a Region, geometry: &Geometry) -> Option<Fill<'a>> {
        geometry.has(FILL_FREED).then_some(Fill { region })
    }

    /// Fills the bytes between two offsets. O(bytes).
    pub fn fill(&self, from: usize, to: usize, progress: impl Fn()) {
        let mut at = from;
        while at < to {
            let piece = PIECE.min(to - at);
            self.region.fill(at, piece, BYTE);
            progress();
            at += piece;
        }
    }

    /// The offset of the first byte between two that is not as it was filled. O(bytes).
    pub fn find_damage(&self, from: usize, to: usize, progress: impl Fn()) -> Option<usize> {
        let mut at = from;
        while at < to {
            let piece = PIECE.min(to - at);
            if let Some(found) = self.region.find_other(BYTE, at, at + piece) {
                return Some(found);
            }
            progress();
            at += piece;
        }
        None
    }
}
