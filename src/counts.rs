//! What a test build counts: what threads do that others may have to wait for. Without the
//! feature `counts` nothing is counted, and the calls below are nothing.
#![forbid(unsafe_code)]

#[cfg(feature = "counts")]
mod counted {
    use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

    static LOCKS: AtomicU64 = AtomicU64::new(0);
    static EXCHANGES: AtomicU64 = AtomicU64::new(0);

    /// How often threads of this process did something, since it started.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Counts {
        /// Took a pool's lock.
        pub locks: u64,
        /// Went to a size class of a depot, to give a magazine or to look for one.
        pub exchanges: u64,
    }

    /// The counts so far.
    pub fn counts() -> Counts {
        Counts { locks: LOCKS.load(Relaxed), exchanges: EXCHANGES.load(Relaxed) }
    }

    pub(crate) fn lock() {
        LOCKS.fetch_add(1, Relaxed);
    }

    pub(crate) fn exchange() {
        EXCHANGES.fetch_add(1, Relaxed);
    }
}

#[cfg(feature = "counts")]
pub use counted::*;

#[cfg(not(feature = "counts"))]
pub(crate) fn lock() {}

#[cfg(not(feature = "counts"))]
pub(crate) fn exchange() {}
