//! What lies in thread caches and the depot is no more than they may hold.

use super::World;
use ::mempool::layout::{COUNT_AT, DEPOT_OFFSET, MAGAZINE_BYTES};
use mempool_fuzz::setup;

/// In the header: how many granules all may hold, and how many magazines were ever used.
const HOARD: usize = DEPOT_OFFSET;
const KNOWN: usize = DEPOT_OFFSET + 4;
/// In a magazine: how many blocks it may hold. First comes whose it is, or 0.
const ROUNDS_AT: usize = COUNT_AT + 2;

impl World {
    pub fn must_fit_magazines(&self) {
        let Some(geometry) = setup::geometry(&self.buffer, &self.options) else { return };
        if geometry.magazines == 0 {
            return;
        }
        let bytes = self.buffer.bytes();
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four"));
        let known = word(geometry.word(KNOWN));
        assert!(known <= geometry.magazines && word(geometry.word(HOARD)) <= geometry.hoard_max);
        for magazine in 0..known {
            let at = geometry.magazine_at(magazine);
            let [count, rounds] = [COUNT_AT, ROUNDS_AT].map(|place| bytes[at + place]);
            let is_bound = word(at) != 0;
            let name = &bytes[at..at + MAGAZINE_BYTES.min(24)];
            assert!(!is_bound || count <= rounds, "{count} of {rounds} blocks in {name:?}");
        }
    }
}
