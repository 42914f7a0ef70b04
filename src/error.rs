//! Every way a call can fail: its status, and one line that says what, where, and what to do.
#![forbid(unsafe_code)]

use core::fmt;

/// What a call returns.
pub type Result<T> = core::result::Result<T, Error>;

/// The call did what it says.
pub const OK: i32 = 0;
/// An argument that no pool could accept.
pub const INVALID_ARGUMENT: i32 = -1;
/// The region cannot hold a pool.
pub const BUFFER_TOO_SMALL: i32 = -2;
/// More granules than the pool can number.
pub const BUFFER_TOO_LARGE: i32 = -3;
/// No pool here, or its init never finished.
pub const NOT_A_POOL: i32 = -4;
/// A pool, but not for this library, machine or mapping.
pub const INCOMPATIBLE: i32 = -5;
/// No free run fits.
pub const OUT_OF_MEMORY: i32 = -6;
/// A pointer outside the pool's blocks.
pub const FOREIGN_POINTER: i32 = -7;
/// A pointer inside the pool that is no live block.
pub const NOT_ALLOCATED: i32 = -8;
/// The pool's own bytes are damaged.
pub const CORRUPTED: i32 = -9;
/// No such name.
pub const NOT_FOUND: i32 = -10;
/// The name or slot is taken.
pub const EXISTS: i32 = -11;
/// In use.
pub const BUSY: i32 = -12;

/// A failure. `len`, `needed`, `size`, `align` and `block` are bytes, `at` is an offset from the
/// buffer's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // of fields: named above
pub enum Error {
    /// An argument is wrong; the text says which and what it may be.
    Argument(&'static str),
    /// The region is shorter than a pool needs.
    TooSmall { len: u64, needed: u64 },
    /// The region has more granules than the pool can number.
    TooLarge { align: u64, needed: u64 },
    /// There is no pool; the text says what was found.
    NotAPool(&'static str),
    /// The pool cannot be used here; the text says why.
    Incompatible(&'static str),
    /// The buffer ends before the pool does.
    Truncated { len: u64, needed: u64 },
    /// No free run fits.
    OutOfMemory { size: u64 },
    /// More bytes than there are numbers for.
    Overflow,
    /// The process has no memory left for a handle.
    NoHandle,
    /// A pointer outside [first block, end).
    Foreign { address: u64, first: u64, end: u64 },
    /// A pointer that is no live block; the text says what lies there.
    NotAllocated { what: &'static str, at: u64 },
    /// A size that this block cannot have been asked for.
    WrongSize { at: u64, block: u64, size: u64 },
    /// The pool's bytes are damaged; the text says what lies at the offset.
    Corrupted { what: &'static str, at: u64 },
    /// Of the `asked` bytes of the block at `block` the guard behind them is damaged, first at `at`.
    Overrun { block: u64, asked: u64, at: u64 },
    /// The same, where the guard does not tell any more how long the block was.
    OverrunToTheEnd { block: u64, at: u64 },
    /// Free memory has been written to; `at` is the first byte.
    WrittenFree { at: u64 },
    /// This thread is inside a call on this pool already (a signal handler?).
    Reentered,
    /// The slot is taken.
    Exists { at: u64 },
    /// The name is taken.
    NameTaken,
    /// A block that has a name, or is the root.
    Bound { at: u64 },
    /// There is no such thing; the text says what.
    NotFound(&'static str),
    /// In use; the text says what, and by whom.
    Busy(&'static str),
}

impl Error {
    /// The status that the C face returns.
    pub fn status(&self) -> i32 {
        match self {
            Error::Argument(_) | Error::WrongSize { .. } => INVALID_ARGUMENT,
            Error::TooSmall { .. } => BUFFER_TOO_SMALL,
            Error::TooLarge { .. } => BUFFER_TOO_LARGE,
            Error::NotAPool(_) => NOT_A_POOL,
            Error::Incompatible(_) | Error::Truncated { .. } => INCOMPATIBLE,
            Error::OutOfMemory { .. } | Error::Overflow | Error::NoHandle => OUT_OF_MEMORY,
            Error::Foreign { .. } => FOREIGN_POINTER,
            Error::NotAllocated { .. } => NOT_ALLOCATED,
            Error::Corrupted { .. }
            | Error::Overrun { .. }
            | Error::OverrunToTheEnd { .. }
            | Error::WrittenFree { .. } => CORRUPTED,
            Error::Reentered | Error::Busy(_) | Error::Bound { .. } => BUSY,
            Error::Exists { .. } | Error::NameTaken => EXISTS,
            Error::NotFound(_) => NOT_FOUND,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Error::Argument(what) => write!(f, "invalid argument: {what}"),
            Error::TooSmall { len, needed } => {
                write!(f, "the region has {len} bytes, a pool with these options needs {needed}: give it more, or ask mempool_min_len")
            }
            Error::TooLarge { align, needed } => {
                write!(f, "too many granules of {align} bytes: use align {needed} or more, or a smaller end")
            }
            Error::NotAPool(what) => write!(f, "not a pool: {what}"),
            Error::Incompatible(what) => write!(f, "incompatible pool: {what}"),
            Error::Truncated { len, needed } => {
                write!(f, "the buffer has {len} bytes, the pool in it ends at {needed}: map all of it")
            }
            Error::OutOfMemory { size } => {
                write!(f, "no free run of {size} bytes: free blocks, or ask mempool_stats for largest_free")
            }
            Error::Overflow => f.write_str(
                "count times size is more than any pool has: look how the two were computed",
            ),
            Error::NoHandle => f.write_str("the process has no memory left for the pool's handle"),
            Error::Foreign { address: 0, .. } => {
                f.write_str("NULL lies outside the pool's blocks: a pointer into a live one is wanted")
            }
            Error::Foreign { address, first, end } => {
                write!(f, "pointer {address:#x} lies outside the pool's blocks [{first:#x}, {end:#x}): it belongs to another allocator or pool: use it there")
            }
            Error::NotAllocated { what, at } => write!(f, "no live block at offset {at}: {what}"),
            Error::WrongSize { at, block, size } => {
                write!(f, "the block of {block} bytes at offset {at} was never asked for as {size} bytes: give the size that was last asked for, or call mempool_free")
            }
            Error::Corrupted { what, at } => write!(f, "corrupted at offset {at}: {what}"),
            Error::Overrun { block, asked, at } => {
                let behind = at.wrapping_sub(block).wrapping_sub(asked);
                write!(f, "the block at offset {block} was written beyond its end: at offset {at}, {behind} bytes behind its {asked}")
            }
            Error::OverrunToTheEnd { block, at } => {
                write!(f, "the block at offset {block} was written beyond its end: at offset {at} or before, over all that tells its size")
            }
            Error::WrittenFree { at } => {
                write!(f, "free memory was written to at offset {at}: somebody uses a block that was freed")
            }
            Error::Exists { at } => {
                write!(f, "the slot at offset {at} is not 0: mempool_free_from what it holds first")
            }
            Error::NameTaken => f.write_str("a block has this name: mempool_unbind it first"),
            Error::Bound { at } => {
                write!(f, "the block at offset {at} has a name, or is the root: mempool_unbind it, or mempool_set_root another, first")
            }
            Error::NotFound(what) => write!(f, "not found: {what}"),
            Error::Busy(what) => write!(f, "in use: {what}"),
            Error::Reentered => f.write_str(
                "this thread is already inside a call on this pool: do not call from a signal handler",
            ),
        }
    }
}

impl std::error::Error for Error {}
