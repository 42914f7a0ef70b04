//! What the holder of a block writes into it: all of a small one, and of a large one both ends and a
//! byte here and there between.

const WHOLE: usize = 128;
const STEP: usize = 509;

/// Where a block of `len` bytes has stamped bytes.
fn places(len: usize) -> impl Iterator<Item = usize> {
    let ends = (0..len.min(WHOLE)).chain(len.saturating_sub(64).max(len.min(WHOLE))..len);
    ends.chain((WHOLE..len).step_by(STEP))
}

fn byte(seed: u64, at: usize) -> u8 {
    (seed.wrapping_mul(0x9e37_79b9) >> 8) as u8 ^ (at.wrapping_mul(29) >> 1) as u8
}

/// # Safety
/// The `len` bytes are the caller's.
pub unsafe fn write(block: *mut u8, len: usize, seed: u64) {
    for at in places(len) {
        // SAFETY: below len.
        unsafe { block.add(at).write(byte(seed, at)) };
    }
}

/// Whether the first `kept` bytes are still those written to a block of `len` bytes.
///
/// # Safety
/// The `kept` bytes are the caller's.
pub unsafe fn is_kept(block: *const u8, len: usize, kept: usize, seed: u64) -> bool {
    // SAFETY: below kept.
    places(len).filter(|&at| at < kept).all(|at| unsafe { block.add(at).read() } == byte(seed, at))
}
