//! The C face from C's side: its declarations, which `tests/abi.rs` compares with the header, and
//! which are compared with the library's definitions here. `programs/` holds the C programs.

#[allow(improper_ctypes)] // the handle is opaque: only pointers to it cross
pub mod declared;

// For each function `[mempool::capi::f, declared::f]`: compiles only if both have one type.
include!(concat!(env!("OUT_DIR"), "/same_types.rs"));
