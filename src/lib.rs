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
//! # A tour
//!
//! Processes pass blocks on as offsets, or find them by names; typed slices save casts; and with the
//! feature `allocator-api2` a pool is the allocator of a process's own collections.
//!
//! ```
//! use mempool::{Options, Pool, State};
//!
//! # let mut buffer = vec![0u64; 32 * 1024];
//! # let (memory, len) = (buffer.as_mut_ptr().cast::<u8>(), 256 * 1024);
//! // Whoever comes first makes the pool. This is one memory of zeros, mapped once; other processes
//! // have it at other addresses.
//! // SAFETY: the buffer outlives both handles, and nothing else uses it.
//! let (mine, created) = unsafe { Pool::open(memory, len, &Options::default()) }?;
//! let (others, again) = unsafe { Pool::open(memory, len, &Options::default()) }?;
//! assert!(created && !again);
//!
//! // A slice of 100 numbers, by its name and by its offset.
//! let mut numbers = mine.alloc_slice::<u32>(100)?;
//! // SAFETY: nobody else knows the block yet.
//! unsafe { numbers.as_mut() }.iter_mut().for_each(|number| _ = number.write(7));
//! mine.bind("numbers", numbers.cast().as_ptr())?;
//! let found = others.find("numbers")?;
//! assert_eq!(others.pointer(mine.offset(numbers.cast().as_ptr())), found.as_ptr());
//! // SAFETY: a live block of 400 bytes, all written.
//! assert_eq!(unsafe { *found.cast::<u32>().add(99).as_ref() }, 7);
//!
//! // What has a name cannot be freed; what is freed, not again.
//! // SAFETY: nobody uses the block from here on.
//! assert!(unsafe { others.free(found.as_ptr()) }.is_err());
//! others.unbind("numbers")?;
//! unsafe { others.free(found.as_ptr()) }?;
//! assert!(unsafe { mine.free(found.as_ptr()) }.is_err());
//!
//! // Looking inside.
//! let mut live = 0;
//! mine.walk(&mut |block| {
//!     live += u32::from(block.state == State::Live);
//!     true
//! })?;
//! assert_eq!((live, mine.stats()?.used_count, mine.stats()?.rejected_frees), (0, 0, 2));
//! mine.check()?;
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
//! | `guard` | what lies behind the bytes of each block, in pools that look for overruns | truth |
//! | `fill` | what free memory holds, in pools that look for writes to it | |
//! | `lock` | the robust lock | |
//! | `heap::words` | `top`, the watermark, the root; counts | truth; hints |
//! | `heap::bins` | free blocks by size | hints |
//! | `heap::tally` | bins and counts while a change is made | |
//! | `heap::change` | the record of the change under way | truth |
//! | `heap::slot` | words of the callers' that name a block, changed with it as one event | |
//! | `heap::name` | how a block gets a name and loses it, as one event | |
//! | `heap` | malloc, free, resize: split, coalesce, recover; `heap::loose`: joining late; `heap::refill`: blocks for magazines; `heap::heal`: what a death leaves of these two; `heap::bytes`: guards and filled memory | |
//! | `owners` | whose each live block is, in pools that know it | truth |
//! | `names` | the directory: which block each name means | truth |
//! | `depot` | magazines of cached blocks: whose each is; stacks of them for each class | truth, hints |
//! | `shelf` | cached blocks too large for magazines, and in whose grip each is | truth |
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
//! | header | bins | depot  | magazines | granule map        | granules                       |
//! |        |      | caches |           | a byte per granule | block | block | free | .. ^top |
//! |        |      | shelves|           |                    |                                |
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
//!  caller    <-- malloc, free: one compare-and-swap             -->    shelves, by wide class
//!  shelves   <-- what is on none comes from there; what has no room goes there  -->  heap
//!  loose blocks  -- joined when a malloc needs them, as a hand comes by -->  bins
//! ```
//!
//! # Glossary
//!
//! - **granule**: `align` bytes, the unit of all sizes.
//! - **block**: a run of granules; *live* when a caller holds it, *cached* when a magazine does,
//!   *free* otherwise. A live one is *held* while a call under the lock ends or resizes it; *taken* is
//!   one that is cached no more and nobody's yet.
//! - **start, digit**: a map byte that begins a block; any other map byte.
//! - **region**: the bytes of the buffer that the pool uses. **Residue**: what is left of its address
//!   when that is divided by a granule; the same in each mapping.
//! - **top**: the first granule above all blocks. **watermark**: the first whose map byte is
//!   unknown, since the caller's buffer may hold anything.
//! - **split, coalesce**: cut a free block in two; join free neighbours.
//! - **bin**: a list of free blocks of about one size.
//! - **loose**: free, but in no bin yet, nor joined to its neighbours. **hand**: what goes round and
//!   joins them.
//! - **change, record**: how the map goes from one state to the next; where it is written down
//!   first, so that the next owner of the lock can finish what a dead one began. **Seal**: the word
//!   that makes a record count, by one store. **Recover**: finish, or undo, what a record tells of.
//! - **fill**: the byte that free memory consists of, in pools that look for writes to it.
//! - **guard**: the bytes between those that were asked for and the block's end.
//! - **slot**: a word in a block of the caller's that holds another block's offset, or 0.
//! - **name, root**: by which any process finds a block. A block that has one is *bound*: it may not
//!   be freed. **Entry**: a block of the pool's own that holds a name; the **directory** is a tree of
//!   them.
//! - **robust lock**: one that the kernel opens when its owner dies. **Turn**: counts its owners.
//!   **Boot, namespace**: in which the numbers of threads that the buffer holds mean anything.
//! - **size class**: one of 88 sizes; what caches hold is of one of them. **Wide class**: one of 36
//!   above these. **Shelf**: where cached blocks of a wide class lie for all threads. **Grip**: who is
//!   just putting one there, or taking it.
//! - **magazine**: up to 60 cached blocks of one class, with one owner. **Depot**: the magazines that
//!   no thread has. **Thread cache**: those that one has; its **token** is how they name it.
//! - **owner, tag**: the process that a block belongs to; the byte by which the block says so.
//! - **hoard**: what all magazines may hold together, and what lies on shelves: at most an eighth of
//!   the pool. **Credit**: the part of it that a thread may put on shelves without counting.

pub mod abi;
mod cache;
pub mod capi;
mod check;
mod class;
mod counts;
mod depot;
pub mod error;
mod fill;
mod guard;
mod hash;
mod heap;
pub mod layout;
mod local;
mod lock;
mod map;
mod names;
pub mod options;
mod owners;
pub mod pool;
mod region;
mod shelf;
pub mod stats;
mod sys;
mod watch;

#[cfg(feature = "counts")]
pub use counts::{counts, Counts};
pub use error::{Error, Result};
pub use options::Options;
pub use pool::Pool;
pub use stats::{Block, Owner, Reaped, State, Stats};
