//! The pool's own code for what threads share, over a buffer whose words loom watches: it runs a
//! test once for each order of loads and stores that the memory model allows.
//!
//! Of the lock there are weakened variants besides, and the heap is here once more, over a buffer in
//! which any store may be a thread's last; `build.rs` makes both from the library's sources.
#![allow(dead_code)] // the modules below are the library's, whole

pub mod atomic;
#[path = "../../../src/cache.rs"]
pub mod cache;
#[path = "../../../src/class.rs"]
pub mod class;
#[path = "../../../src/counts.rs"]
pub mod counts;
pub mod death;
#[path = "../../../src/depot.rs"]
pub mod depot;
#[path = "../../../src/error.rs"]
pub mod error;
#[path = "../../../src/hash.rs"]
pub mod hash;
/// The heap, and what it stands on: as it is, and what would not do.
#[allow(warnings, clippy::all)] // the variants leave something unused
pub mod heaps {
    include!(concat!(env!("OUT_DIR"), "/heaps.rs"));
}
#[path = "../../../src/layout.rs"]
pub mod layout;
/// The lock: as it is, and what would not do.
#[allow(warnings, clippy::all)] // the variants leave something unused
pub mod locks {
    include!(concat!(env!("OUT_DIR"), "/locks.rs"));
}
pub mod mortal;
#[path = "../../../src/options.rs"]
pub mod options;
pub mod region;
#[path = "../../../src/shelf.rs"]
pub mod shelf;
pub mod sys;
