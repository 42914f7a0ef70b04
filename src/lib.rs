//! A heap in a buffer that the caller owns and others share.
//!
//! Give it any writable bytes (a `static` array, `mmap`, `shm_open`, a file, Python's
//! `SharedMemory`) and they become a heap for any number of threads **and processes**, each of
//! which may map them at its own address. All shared state lies in the buffer, as offsets; the
//! handle is private and trusts nothing it reads there. A process killed inside a call harms
//! nobody, and a pointer that is no live block is refused.
//!
//! ```
//! use mempool::{Options, Pool};
//!
//! let mut buffer = vec![0u8; 64 * 1024];
//! // SAFETY: the buffer outlives the pool, and nothing else uses it.
//! let pool = unsafe { Pool::init(buffer.as_mut_ptr(), buffer.len(), &Options::default()) }?;
//! let block = pool.malloc(100)?;
//! // SAFETY: the block is ours, and not used afterwards.
//! unsafe { pool.free(block.as_ptr()) }?;
//! // SAFETY: nobody uses the block; that it was freed already is found out.
//! assert!(unsafe { pool.free(block.as_ptr()) }.is_err());
//! pool.check()?;
//! # Ok::<(), mempool::Error>(())
//! ```
//!
//! # The map of the house
//!
//! Each layer uses only those above it in this table; what does not say `unsafe` forbids it.
//!
//! | module | noun | |
//! |---|---|---|
//! | [`error`], [`options`], [`stats`] | what is asked and answered | |
//! | `hash` | mixed bits, for checksums | |
//! | `counts` | what a test build counts | |
//! | `sys` | threads, forks, futexes, the boot: every system call | `unsafe` |
//! | `watch` | what memcheck and AddressSanitizer are told, in a build for them | `unsafe` |
//! | `region` | the buffer, by offset, bounds-checked and atomic | `unsafe` |
//! | `class` | size classes | |
//! | [`layout`] | the header; where everything lies | truth, written once |
//! | `map` | one byte per granule: states and sizes of all blocks | truth |
//! | `lock` | the robust lock | |
//! | `heap::words` | `top`, the watermark, counts | truth, truth, hints |
//! | `heap::bins` | free blocks by size | hints |
//! | `heap::change` | the record of the change under way | truth |
//! | `heap::slot` | words of the callers' that name a block, changed with it as one event | |
//! | `heap` | malloc, free, resize: split, coalesce, recover; `heap::loose`: joining late | |
//! | `owners` | whose each live block is, in pools that know it | truth |
//! | `depot` | magazines of cached blocks: whose each is; stacks of them for each class | truth, hints |
//! | `cache` | which thread has which cache | truth |
//! | `local` | what a thread knows of its cache; the fast path of malloc and free | `unsafe` |
//! | `check` | the judge | |
//! | [`pool`] | the Rust face: caches over the heap, and what the living do for the dead | `unsafe` |
//! | [`abi`], [`capi`] | the C face: types, and one thin function each | `unsafe` |
//!
//! *Truth* decides; a *hint* is compared with the truth whenever it is used, and made anew from it
//! when it lies.
//!
//! # A picture of the buffer
//!
//! ```text
//! +--------+------+--------+-----------+--------------------+--------------------------------+
//! | header | bins | caches | magazines | granule map        | granules                       |
//! |        |      | depot  |           | a byte per granule | block | block | free | .. ^top |
//! +--------+------+--------+-----------+--------------------+--------------------------------+
//!                             42 00 00 f1 02 .. 9a 00 00     ^first
//!                             |  |  |  |        |
//!                             |  |  |  |        a cached block of 3 granules starts
//!                             |  |  |  a free block of 2 starts
//!                             |  digits: inside a block
//!                             a live block of 3 granules starts
//! ```
//!
//! # The way of a block
//!
//! ```text
//!  caller    <-- malloc, free: no lock, no atomic read-modify-write -->    a thread's magazines
//!  magazines <-- exchanged whole, by one compare-and-swap           -->    depot, by class
//!  magazines <-- filled and emptied under the pool's lock           -->    heap
//!  loose blocks  -- joined when a malloc needs them, as a hand comes by -->  bins
//! ```
//!
//! # Glossary
//!
//! - **granule**: `align` bytes, the unit of all sizes.
//! - **block**: a run of granules; *live* when a caller holds it, *cached* when a magazine does,
//!   *free* otherwise.
//! - **start, digit**: a map byte that begins a block; any other map byte.
//! - **top**: the first granule above all blocks. **watermark**: the first whose map byte is
//!   unknown, since the caller's buffer may hold anything.
//! - **split, coalesce**: cut a free block in two; join free neighbours.
//! - **bin**: a list of free blocks of about one size.
//! - **loose**: free, but in no bin yet, nor joined to its neighbours. **hand**: what goes round and
//!   joins them.
//! - **change, record**: how the map goes from one state to the next; where it is written down
//!   first, so that the next owner of the lock can finish what a dead one began.
//! - **slot**: a word in a block of the caller's that holds another block's offset, or 0.
//! - **robust lock**: one that the kernel opens when its owner dies.
//! - **size class**: one of 88 sizes; what caches hold is of one of them.
//! - **magazine**: up to 60 cached blocks of one class, with one owner. **Depot**: the magazines that
//!   no thread has. **Thread cache**: those that one has; its **token** is how they name it.
//! - **owner, tag**: the process that a block belongs to; the byte by which the block says so.
//! - **hoard**: what all magazines may hold together, at most an eighth of the pool.

pub mod abi;
mod cache;
pub mod capi;
mod check;
mod class;
mod counts;
mod depot;
pub mod error;
mod hash;
mod heap;
pub mod layout;
mod local;
mod lock;
mod map;
pub mod options;
mod owners;
pub mod pool;
mod region;
pub mod stats;
mod sys;
mod watch;

#[cfg(feature = "counts")]
pub use counts::{counts, Counts};
pub use error::{Error, Result};
pub use options::Options;
pub use pool::Pool;
pub use stats::{Block, Owner, Reaped, State, Stats};
