//! placeholder: the map of the house comes here
pub mod abi;
pub mod capi;
mod check;
mod class;
pub mod error;
mod hash;
mod heap;
pub mod layout;
mod lock;
mod map;
pub mod options;
pub mod pool;
mod region;
pub mod stats;
mod sys;
