//! What the tests share: the C face as methods, memory with traps around it, and children that
//! can crash or hang without taking the run with them.
#![allow(dead_code, unused_imports)] // each test binary uses its own part

pub mod child;
pub mod crowd;
pub mod handle;
pub mod memory;
pub mod other;
pub mod random;
pub mod worker;

pub use handle::{options, Handle, Options};
pub use memory::Memory;
