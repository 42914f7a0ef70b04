//! Damage: buffers whose bytes somebody has written over, by accident or on purpose. Whatever they
//! hold, no call leaves the buffer, crashes or hangs; what is a hint is made anew from the map, and
//! of the rest `check` tells.
//!
//! - `misuse`: what callers do by mistake, and random words.
//! - `words`: each word that the pool keeps, each nasty value in it, under each kind of call.
//! - `header`: each bit of the header; pools of others; too short buffers.
//! - `word_of_lock`: the lock's word, under each kind of call.
//! - `scribbler`: somebody writes while calls are under way.
//!
//! All run in children, in memory with a trap on either side. A case that ends badly is named, and
//! run alone by MEMPOOL_DAMAGE_CASE.

#[path = "../common/mod.rs"]
mod common;

mod call;
mod header;
mod misuse;
mod scene;
mod scribbler;
mod word_of_lock;
mod words;
