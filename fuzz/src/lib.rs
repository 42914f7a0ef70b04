//! What the fuzz targets share: the C face as methods (the tests' own), the input as a row of
//! choices, a buffer with traps around it, and threads to make calls from.

pub mod buffer;
pub mod crew;
#[path = "../../tests/common/handle.rs"]
#[allow(clippy::not_unsafe_ptr_arg_deref)] // any pointer is allowed
pub mod handle;
#[path = "../../src/hash.rs"]
pub mod hash;
pub mod input;
#[path = "../../tests/common/memory.rs"]
#[allow(dead_code, clippy::len_without_is_empty)] // the tests use all of it
pub mod memory;
pub mod names;
pub mod owners;
pub mod setup;
pub mod stamp;

pub use handle::Handle;
pub use input::Input;
