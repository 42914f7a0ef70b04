//! What the fuzz targets share: the C face as methods (the tests' own), the input as a row of
//! choices, a buffer with traps around it, and threads to make calls from.

pub mod buffer;
pub mod crew;
#[path = "../../tests/common/handle.rs"]
pub mod handle;
#[path = "../../src/hash.rs"]
pub mod hash;
pub mod input;
#[path = "../../tests/common/memory.rs"]
#[allow(dead_code)] // the tests use all of it
pub mod memory;
pub mod owners;
pub mod setup;
pub mod stamp;

pub use handle::Handle;
pub use input::Input;
