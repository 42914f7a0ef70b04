//! placeholder: the map of the house comes here
pub mod error;
pub mod options;
pub mod pool;
pub mod stats;
