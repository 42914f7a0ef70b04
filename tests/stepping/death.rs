//! What a death does to a pool's bytes, done to a copy of them.
//!
//! The kernel looks at the word that the thread's robust list announces as pending: if it names the
//! thread, the thread is taken out of it and the owner-died bit set; what else is in the buffer it
//! leaves alone. Afterwards no thread of that number exists. The tracer's child is still there, so
//! in the copy another number takes the place of its own, one that the kernel gives to nobody:
//! wherever the pool says who a thread is, in the lock's word and in the table of caches. Real kills
//! show that this is all (see `walk`): there the bytes are those that the kernel left, and the
//! thread is gone.

use ::mempool::layout::{Geometry, CACHE_BYTES, LOCK_OFFSET};

const WAITERS: u32 = 1 << 31;
const OWNER_DIED: u32 = 1 << 30;
pub const TID_MASK: u32 = OWNER_DIED - 1;

/// No thread has this number, nor those behind it: the kernel's limit is 2^22. All that will be asked
/// about them is whether they live.
const NOBODY: u32 = TID_MASK - 0xff;

fn word(bytes: &mut [u8], at: usize, change: impl FnOnce(u32) -> u32) {
    let place = &mut bytes[at..at + 4];
    let old = u32::from_ne_bytes(place.try_into().expect("four bytes"));
    place.copy_from_slice(&change(old).to_ne_bytes());
}

/// Whose the lock is, if anybody's.
pub fn owner(bytes: &[u8]) -> u32 {
    let word = &bytes[LOCK_OFFSET..LOCK_OFFSET + 4];
    u32::from_ne_bytes(word.try_into().expect("four bytes")) & TID_MASK
}

/// What the kernel does at the death of a thread that has announced the lock's word.
pub fn mark_owner_died(bytes: &mut [u8], tid: u32) {
    word(bytes, LOCK_OFFSET, |old| match old & TID_MASK == tid {
        true => old & WAITERS | OWNER_DIED,
        false => old,
    });
}

/// Takes these threads for dead.
pub fn bury(bytes: &mut [u8], geometry: &Geometry, threads: &[u32]) {
    let buried = |tid: u32| {
        let place = threads.iter().position(|&thread| thread != 0 && thread == tid);
        place.map(|place| NOBODY + place as u32)
    };
    word(bytes, LOCK_OFFSET, |old| match buried(old & TID_MASK) {
        Some(nobody) => old & !TID_MASK | nobody,
        None => old,
    });
    // A cache's entry begins with its thread's number.
    for cache in 0..geometry.caches as usize {
        word(bytes, geometry.cache + cache * CACHE_BYTES, |old| buried(old).unwrap_or(old));
    }
}
