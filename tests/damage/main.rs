//! Damage.
#[path = "../common/mod.rs"]
mod common;
mod misuse;
