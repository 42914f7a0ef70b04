//! What ctest2 made of `include/mempool.h` and `src/declared.rs`: sizes, field offsets, constants
//! and signatures, as the C compiler and as rustc see them.
#![allow(bad_style, unknown_lints, function_casts_as_integer, clippy::all)]

use ::mempool::abi::*;
use c_tests::declared::*;

include!(concat!(env!("OUT_DIR"), "/abi_test.rs"));
