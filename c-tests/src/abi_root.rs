// What ctest2 parses; never compiled. Its parser knows only old Rust, and given the library's
// lib.rs it would find no function to test.
#[path = "../../src/abi.rs"]
pub mod abi;
#[path = "declared.rs"]
pub mod declared;
