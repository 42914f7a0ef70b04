//! The pool's own code for what threads share, over a buffer whose words loom watches: it runs a
//! test once for each order of loads and stores that the memory model allows.
#![allow(dead_code)] // the modules below are the library's, whole

#[path = "../../../src/cache.rs"]
pub mod cache;
#[path = "../../../src/class.rs"]
pub mod class;
#[path = "../../../src/counts.rs"]
pub mod counts;
#[path = "../../../src/depot.rs"]
pub mod depot;
#[path = "../../../src/error.rs"]
pub mod error;
#[path = "../../../src/hash.rs"]
pub mod hash;
#[path = "../../../src/layout.rs"]
pub mod layout;
#[path = "../../../src/options.rs"]
pub mod options;
pub mod region;
