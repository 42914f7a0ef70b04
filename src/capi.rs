//! The C face: each function checks its arguments, calls [`Pool`], and translates the outcome
//! into a status or a pointer with errno. What it means to the caller stands in its comment,
//! which becomes the one in `include/mempool.h`.
//!
//! Nothing unwinds into C: an `extern "C"` function aborts where a panic would leave it, and the
//! release profile aborts at the panic itself.
#![doc(hidden)] // Rust programs use the pool itself
#![allow(clippy::missing_safety_doc)] // the comment that C callers read is the contract

use core::cell::{Cell, UnsafeCell};
use core::ffi::{c_char, c_int, c_void, CStr};
use core::fmt::{self, Write};
use core::mem::{offset_of, size_of};
use core::ptr::{null_mut, NonNull};
use core::slice;

use crate::abi::*;
use crate::error::{self, Error, Result};
use crate::layout;
use crate::names::NAME_MAX;
use crate::options::{self, Options};
use crate::pool::{self, Handle, Pool};
use crate::stats::{Block, Owner, Reaped, State, Stats};

// ---- One truth: Cargo.toml's version, the Rust face's constants, the C layout of 0.1 ----

const fn is(number: u32, text: &str) -> bool {
    matches!(u32::from_str_radix(text, 10), Ok(n) if n == number)
}

const _: () = {
    assert!(is(MEMPOOL_VERSION_MAJOR, env!("CARGO_PKG_VERSION_MAJOR")));
    assert!(is(MEMPOOL_VERSION_MINOR, env!("CARGO_PKG_VERSION_MINOR")));
    assert!(is(MEMPOOL_VERSION_PATCH, env!("CARGO_PKG_VERSION_PATCH")));
    assert!(MEMPOOL_VERSION_MINOR < 256 && MEMPOOL_VERSION_PATCH < 256);

    assert!(MEMPOOL_OK == error::OK);
    assert!(MEMPOOL_ERR_INVALID_ARGUMENT == error::INVALID_ARGUMENT);
    assert!(MEMPOOL_ERR_BUFFER_TOO_SMALL == error::BUFFER_TOO_SMALL);
    assert!(MEMPOOL_ERR_BUFFER_TOO_LARGE == error::BUFFER_TOO_LARGE);
    assert!(MEMPOOL_ERR_NOT_A_POOL == error::NOT_A_POOL);
    assert!(MEMPOOL_ERR_INCOMPATIBLE == error::INCOMPATIBLE);
    assert!(MEMPOOL_ERR_OUT_OF_MEMORY == error::OUT_OF_MEMORY);
    assert!(MEMPOOL_ERR_FOREIGN_POINTER == error::FOREIGN_POINTER);
    assert!(MEMPOOL_ERR_NOT_ALLOCATED == error::NOT_ALLOCATED);
    assert!(MEMPOOL_ERR_CORRUPTED == error::CORRUPTED);
    assert!(MEMPOOL_ERR_NOT_FOUND == error::NOT_FOUND);
    assert!(MEMPOOL_ERR_EXISTS == error::EXISTS);
    assert!(MEMPOOL_ERR_BUSY == error::BUSY);

    assert!(MEMPOOL_NO_COMPACT == options::NO_COMPACT);
    assert!(MEMPOOL_NO_SPLIT == options::NO_SPLIT);
    assert!(MEMPOOL_ZEROED == options::ZEROED);
    assert!(MEMPOOL_NO_THREAD_CACHES == options::NO_THREAD_CACHES);
    assert!(MEMPOOL_GUARD == options::GUARD);
    assert!(MEMPOOL_FILL_FREED == options::FILL_FREED);
    assert!(MEMPOOL_OWNER_TAGS == options::OWNER_TAGS);

    assert!(MEMPOOL_BLOCK_FREE == State::Free as u32);
    assert!(MEMPOOL_BLOCK_LIVE == State::Live as u32);
    assert!(MEMPOOL_BLOCK_CACHED == State::Cached as u32);
    assert!(MEMPOOL_BLOCK_META == State::Meta as u32);
};

/// `sizeof(mempool_options_t)` in version 0.1: no caller can have less.
const OPTIONS_SIZE_0_1: usize = 48;
/// `sizeof(mempool_stats_t)` in version 0.1.
const STATS_SIZE_0_1: usize = 152;
/// No caller's structure is longer: a larger struct_size was never set.
const STRUCT_SIZE_MAX: usize = 4096;

// Fields may be added behind these, but these never move.
const _: () = {
    assert!(offset_of!(mempool_options, max_threads) + 4 == OPTIONS_SIZE_0_1);
    assert!(offset_of!(mempool_stats, pool_id) + 8 == STATS_SIZE_0_1);
    assert!(size_of::<mempool_options>() >= OPTIONS_SIZE_0_1);
    assert!(size_of::<mempool_stats>() >= STATS_SIZE_0_1);
    assert!(size_of::<mempool_block>() == 24);
    assert!(size_of::<mempool_owner>() == 24);
    assert!(size_of::<mempool_reaped>() == 40);
};

// ---- The last failure of each thread ----

/// The longest message, its NUL included.
const MESSAGE_SIZE: usize = 256;

struct LastFailure {
    /// The function that failed, and how.
    what: Cell<Option<(&'static str, Error)>>,
    /// Where mempool_last_message puts the failure into words.
    text: UnsafeCell<[u8; MESSAGE_SIZE]>,
}

thread_local! {
    // Built at compile time and never dropped: needs no allocation and is there until the
    // thread's last instruction.
    static LAST_FAILURE: LastFailure = const {
        LastFailure { what: Cell::new(None), text: UnsafeCell::new([0; MESSAGE_SIZE]) }
    };
}

/// Remembers a failure. Words are made of it only when someone asks: a failing malloc or expand
/// may be all in a day's work.
#[cold]
fn fail(function: &'static str, error: Error) -> mempool_status_t {
    LAST_FAILURE.with(|last| last.what.set(Some((function, error))));
    error.status()
}

/// A result as the status of a function.
fn status(function: &'static str, result: Result<()>) -> mempool_status_t {
    match result {
        Ok(()) => MEMPOOL_OK,
        Err(error) => fail(function, error),
    }
}

/// A result as the pointer that an allocating function returns, or NULL and errno.
fn block(function: &'static str, result: Result<NonNull<u8>>) -> *mut c_void {
    match result {
        Ok(block) => block.as_ptr().cast(),
        Err(error) => {
            let errno = errno_of(fail(function, error));
            // SAFETY: the C library gives each thread an errno that is valid while it runs.
            unsafe { *libc::__errno_location() = errno };
            null_mut()
        }
    }
}

/// A result as a number of which 0 says that there is none.
fn number<N: Default>(function: &'static str, result: Result<N>) -> N {
    result.unwrap_or_else(|error| {
        fail(function, error);
        N::default()
    })
}

fn errno_of(status: mempool_status_t) -> c_int {
    match status {
        MEMPOOL_ERR_OUT_OF_MEMORY => libc::ENOMEM,
        MEMPOOL_ERR_CORRUPTED => libc::EIO,
        MEMPOOL_ERR_BUSY => libc::EBUSY,
        MEMPOOL_ERR_NOT_FOUND => libc::ENOENT,
        _ => libc::EINVAL,
    }
}

/// Writes what fits, and always leaves room for a NUL at the end.
struct Line<'a> {
    text: &'a mut [u8; MESSAGE_SIZE],
    len: usize,
}

impl Write for Line<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let mut n = s.len().min(MESSAGE_SIZE - 1 - self.len);
        while !s.is_char_boundary(n) {
            n -= 1;
        }
        self.text[self.len..self.len + n].copy_from_slice(&s.as_bytes()[..n]);
        self.len += n;
        if n == s.len() {
            Ok(())
        } else {
            Err(fmt::Error)
        }
    }
}

/// Puts a failure into words, cut at the buffer's end.
fn describe(text: &mut [u8; MESSAGE_SIZE], function: &str, error: &dyn fmt::Display) {
    let mut line = Line { text, len: 0 };
    let _cut = write!(line, "{function}: {error}");
    line.text[line.len] = 0;
}

// ---- Arguments ----

const NO_POOL: &str = "pool is NULL: mempool_init, mempool_open and mempool_attach make handles";

/// The pool behind a handle.
///
/// # Safety
/// `pool` is NULL or a handle that is not detached before the reference's last use.
unsafe fn handle<'a>(pool: *const mempool_t) -> Result<&'a Handle> {
    // SAFETY: a handle is what `give_handle` made, valid until mempool_detach.
    unsafe { pool.cast::<Handle>().as_ref() }.ok_or(Error::Argument(NO_POOL))
}

/// Makes a pool and stores its handle in `*out`, or NULL there.
///
/// # Safety
/// `out` is NULL or valid for a write.
unsafe fn give_handle(out: *mut *mut mempool_t, make: impl FnOnce() -> Result<Pool>) -> Result<()> {
    if out.is_null() {
        return Err(Error::Argument("out is NULL: it says where the handle goes"));
    }
    // SAFETY: not NULL, so valid for a write.
    unsafe { out.write(null_mut()) };
    let handle = Box::into_raw(make()?.into_handle());
    // SAFETY: as above.
    unsafe { out.write(handle.cast()) };
    Ok(())
}

/// Writes a result where the caller wants it, if anywhere.
///
/// # Safety
/// `to` is NULL or valid for a write.
unsafe fn store<T>(to: *mut T, value: T) {
    if !to.is_null() {
        // SAFETY: the caller's promise.
        unsafe { to.write(value) };
    }
}

/// The end of what [`give_handle`] began.
///
/// # Safety
/// `pool` is a handle that nobody uses again.
unsafe fn take_handle(pool: *mut mempool_t) -> Pool {
    // SAFETY: made by `give_handle`, and ours alone.
    Pool::from_handle(unsafe { Box::from_raw(pool.cast::<Handle>()) })
}

/// How many bytes of a caller's structure the library reads or writes, by its struct_size.
fn known_size(given: usize, oldest: usize, ours: usize) -> Result<usize> {
    if given < oldest {
        return Err(Error::Argument(
            "struct_size is less than any version's: start from MEMPOOL_OPTIONS_INIT or MEMPOOL_STATS_INIT",
        ));
    }
    if given > STRUCT_SIZE_MAX {
        return Err(Error::Argument(
            "struct_size is more than 4096: start from MEMPOOL_OPTIONS_INIT or MEMPOOL_STATS_INIT",
        ));
    }
    Ok(given.min(ours))
}

/// A caller's options, of whichever version.
///
/// # Safety
/// `given` is NULL or valid for reads of its struct_size bytes.
unsafe fn read_options(given: *const mempool_options_t) -> Result<Options> {
    if given.is_null() {
        return Ok(Options::default());
    }
    // SAFETY: not NULL, and every version has the struct_size, first.
    let given_size = unsafe { (*given).struct_size };
    let known = known_size(given_size, OPTIONS_SIZE_0_1, size_of::<mempool_options>())?;
    let given = given.cast::<u8>();

    // SAFETY: known <= given_size, and the caller's bytes reach so far.
    let unknown = unsafe { slice::from_raw_parts(given.add(known), given_size - known) };
    if unknown.iter().any(|&byte| byte != 0) {
        return Err(Error::Argument(
            "an option that only a later version of the library knows is set",
        ));
    }

    let mut ours = mempool_options {
        struct_size: 0,
        start: 0,
        end: 0,
        align: 0,
        min_split: 0,
        flags: 0,
        max_threads: 0,
    };
    // SAFETY: known is at most the size of either, and any bytes make integers.
    unsafe { given.copy_to_nonoverlapping((&raw mut ours).cast(), known) };
    Ok(Options {
        start: ours.start,
        end: ours.end,
        align: ours.align,
        min_split: ours.min_split,
        flags: ours.flags,
        max_threads: ours.max_threads,
    })
}

/// How many bytes of the caller's stats the library knows.
///
/// # Safety
/// `out` is NULL or valid for a read of its struct_size.
unsafe fn stats_size(out: *const mempool_stats_t) -> Result<usize> {
    if out.is_null() {
        return Err(Error::Argument("the mempool_stats_t is NULL"));
    }
    // SAFETY: not NULL, so its struct_size can be read; the rest need not be anything yet.
    known_size(unsafe { (*out).struct_size }, STATS_SIZE_0_1, size_of::<mempool_stats>())
}

/// Fills a caller's stats, of whichever version; what we don't know becomes zero.
///
/// # Safety
/// `known` is what [`stats_size`] said of `out`, which is valid for its struct_size bytes.
unsafe fn write_stats(out: *mut mempool_stats_t, known: usize, stats: &Stats) {
    // SAFETY: the caller's promise.
    let struct_size = unsafe { (*out).struct_size };
    let ours = mempool_stats {
        struct_size,
        total: stats.total,
        overhead: stats.overhead,
        used_count: stats.used_count,
        used_size: stats.used_size,
        free_count: stats.free_count,
        free_size: stats.free_size,
        cached_count: stats.cached_count,
        cached_size: stats.cached_size,
        top: stats.top,
        available: stats.available,
        largest_free: stats.largest_free,
        align: stats.align,
        thread_caches: stats.thread_caches,
        max_threads: stats.max_threads,
        rejected_frees: stats.rejected_frees,
        failed_allocs: stats.failed_allocs,
        recoveries: stats.recoveries,
        pool_id: stats.pool_id,
    };
    let out = out.cast::<u8>();
    // SAFETY: known is at most the size of either; the rest ends where struct_size says.
    unsafe {
        out.copy_from_nonoverlapping((&raw const ours).cast(), known);
        out.add(known).write_bytes(0, struct_size - known);
    }
}

/// A caller's name, as far as it can be one.
///
/// # Safety
/// `name` is NULL or a C string that nobody changes meanwhile.
unsafe fn read_name<'a>(name: *const c_char) -> Result<&'a [u8]> {
    if name.is_null() {
        return Err(Error::Argument("name is NULL"));
    }
    // SAFETY: a C string; what is behind its NUL, or too far for a name, is not looked at.
    unsafe {
        let len = libc::strnlen(name, NAME_MAX + 1);
        Ok(slice::from_raw_parts(name.cast(), len))
    }
}

/// A C visitor as a Rust one.
fn visitor(
    visit: extern "C" fn(*const mempool_block_t, *mut c_void) -> bool,
    context: *mut c_void,
) -> impl FnMut(&Block) -> bool {
    move |block| visit(&shown(block), context)
}

fn shown(block: &Block) -> mempool_block {
    mempool_block { offset: block.offset, size: block.size, state: block.state as u32, reserved: 0 }
}

fn shown_owner(owner: &Owner) -> mempool_owner {
    let Owner { pid, start, label } = *owner;
    mempool_owner { start, label, pid: pid as i32, reserved: 0 }
}

// ---- The functions, in the header's order ----

/// Formats a buffer as a new pool and attaches to it.
///
/// The buffer may be anywhere, hold anything (an old pool included) and have any length from
/// mempool_min_len up. It stays the caller's: it must outlive every handle. It becomes a pool in
/// one last store, so a crash on the way leaves none. An old pool in it must not be in use.
///
/// - `len`: bytes. `options`: NULL = the defaults. `*out`: the handle, NULL on failure.
/// - Errors: INVALID_ARGUMENT, BUFFER_TOO_SMALL, BUFFER_TOO_LARGE, OUT_OF_MEMORY (no memory in
///   the process for the handle).
/// - Threads: any, but nobody else may use the buffer meanwhile; mempool_open lets them.
/// - Cost: O(1), whatever the length.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_init(
    buffer: *mut c_void,
    len: usize,
    options: *const mempool_options_t,
    out: *mut *mut mempool_t,
) -> mempool_status_t {
    // SAFETY: the pointers are the caller's to answer for; the buffer outlives the handle.
    status("mempool_init", unsafe {
        give_handle(out, || Pool::init(buffer.cast(), len, &read_options(options)?))
    })
}

/// Attaches to the pool that is in a buffer, made by any process, mapped here at any address.
///
/// The buffer must start at the same byte as where the pool was made, at an address with the
/// same residue of the pool's align (at most 4096: page-aligned mappings always do). Everything
/// that the library relies on is validated.
///
/// - `len`: bytes; may be more than the pool's. `options`: NULL or where to look: only `start` is
///   read. `*out`: the handle, NULL on failure.
/// - Errors: INVALID_ARGUMENT, NOT_A_POOL, INCOMPATIBLE, CORRUPTED, OUT_OF_MEMORY (no memory in
///   the process for the handle).
/// - Threads: any, at any time.
/// - Cost: O(1); after a reboot, or a death inside a call, what mempool_recover costs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_attach(
    buffer: *mut c_void,
    len: usize,
    options: *const mempool_options_t,
    out: *mut *mut mempool_t,
) -> mempool_status_t {
    // SAFETY: the pointers are the caller's to answer for; the buffer outlives the handle.
    status("mempool_attach", unsafe {
        give_handle(out, || Pool::attach(buffer.cast(), len, read_options(options)?.start))
    })
}

/// Attaches to the pool in a buffer, or makes one if the buffer is zero-filled: the race-free
/// first use of shared memory.
///
/// Of many callers at once exactly one formats; the others wait for it and attach. A caller that
/// dies while formatting is taken over.
///
/// - `len`: bytes. `options`: NULL = the defaults; of a pool that exists only `start` is read.
///   `*out`: the handle, NULL on failure. `*created`: whether this call made the pool; may be
///   NULL.
/// - Errors: those of mempool_init and mempool_attach; NOT_A_POOL if the buffer holds anything
///   else.
/// - Threads: any, at any time.
/// - Cost: O(1), plus the wait for another's formatting.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_open(
    buffer: *mut c_void,
    len: usize,
    options: *const mempool_options_t,
    out: *mut *mut mempool_t,
    created: *mut bool,
) -> mempool_status_t {
    let mut made = false;
    // SAFETY: the pointers are the caller's to answer for; the buffer outlives the handle.
    let result = unsafe {
        give_handle(out, || {
            let (pool, new) = Pool::open(buffer.cast(), len, &read_options(options)?)?;
            made = new;
            Ok(pool)
        })
    };
    // SAFETY: NULL or the caller's to write.
    unsafe { store(created, made) };
    status("mempool_open", result)
}

/// Ends this process's use of a handle, and the handle with it.
///
/// The caches that this process's threads have through it are given back; blocks and other handles stay. After the
/// last handle the buffer may be unmapped. A process that dies without detaching loses nothing.
///
/// - Errors: INVALID_ARGUMENT (pool is NULL). Any other failure leaves the handle ended too.
/// - Threads: none may be inside a call with this handle, or use it again.
/// - Cost: O(1) for each cache given back.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_detach(pool: *mut mempool_t) -> mempool_status_t {
    let result = if pool.is_null() {
        Err(Error::Argument(NO_POOL))
    } else {
        // SAFETY: a handle, and the caller gives it up.
        unsafe { take_handle(pool) }.detach()
    };
    status("mempool_detach", result)
}

/// Ends the pool, for every process: later attaches and calls fail with NOT_A_POOL.
///
/// The buffer is the caller's again. Handles, this one included, are still to be detached.
///
/// - Errors: INVALID_ARGUMENT, NOT_A_POOL.
/// - Threads: nobody, in any process, may be inside a call on this pool.
/// - Cost: O(1).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_release(pool: *mut mempool_t) -> mempool_status_t {
    // SAFETY: NULL or a handle.
    status("mempool_release", unsafe { handle(pool) }.and_then(Handle::release))
}

/// Frees a block.
///
/// A pointer that is no live block is refused: it is counted in `rejected_frees` and nothing
/// else changes. Beyond any allocator's reach is a pointer freed long ago whose block has been
/// handed out again since.
///
/// - `block`: from this pool, got by any process; NULL is OK and does nothing.
/// - Errors: FOREIGN_POINTER, NOT_ALLOCATED, BUSY (it has a name, or is the root; counted, too),
///   INVALID_ARGUMENT (pool is NULL); CORRUPTED if the pool has MEMPOOL_GUARD and somebody wrote beyond the
///   block, which stays live then.
/// - Threads: any, at any time. A block that fits the thread's cache takes no lock.
/// - Cost: O(1); O(a magazine of 60 blocks) when what threads cache has reached its bound.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_free(
    pool: *mut mempool_t,
    block: *mut c_void,
) -> mempool_status_t {
    // The key alone is looked at: no thread has a cache for NULL.
    if pool::free_fast(pool.addr(), block.cast()) {
        return MEMPOOL_OK;
    }
    // SAFETY: as promised by the caller.
    unsafe { free_slowly(pool, block) }
}

#[cold]
#[inline(never)]
unsafe fn free_slowly(pool: *mut mempool_t, block: *mut c_void) -> mempool_status_t {
    // SAFETY: NULL or a handle; of a live block the caller says that nobody uses it any more.
    status("mempool_free", unsafe { handle(pool).and_then(|pool| pool.free(block.cast())) })
}

/// Frees a block of a size that the caller knows, and refuses it if the block cannot have been
/// asked for with that size.
///
/// - `size`: bytes, as last asked for. With MEMPOOL_GUARD any other is refused.
/// - Errors: those of mempool_free; INVALID_ARGUMENT also for the wrong size.
/// - Threads: any, at any time.
/// - Cost: O(1).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_free_sized(
    pool: *mut mempool_t,
    block: *mut c_void,
    size: usize,
) -> mempool_status_t {
    // SAFETY: NULL or a handle; of a live block the caller says that nobody uses it any more.
    status("mempool_free_sized", unsafe {
        handle(pool).and_then(|pool| pool.free_sized(block.cast(), size))
    })
}

/// cbindgen:postfix=MEMPOOL_BLOCK(2)
/// Allocates a block of at least `size` bytes, whose content is not defined.
///
/// Blocks are aligned by address to the pool's align, or to 4096 if that is less; a larger align
/// holds for their offsets. Any process may use and free them. While at least half of the pool is
/// free, sizes above 32 granules are rounded up by at most an eighth, so that thread caches can serve
/// them: see mempool_good_size.
///
/// - Returns NULL with errno EINVAL: size is 0, or pool is NULL; ENOMEM: no free run fits; EBUSY: the
///   pool has MEMPOOL_OWNER_TAGS, and no room for another process that owns blocks (see
///   mempool_reap); EIO: the pool has MEMPOOL_FILL_FREED, and somebody wrote to the memory after it was
///   freed. So do all that allocate.
/// - Threads: any, at any time. A size that the thread's cache has takes no lock.
/// - Cost: O(1), or O(a magazine of 60 blocks) when a cache is filled; not so a call that fails, or
///   nearly does, which gives caches back and looks at every block, and the
///   first use of memory, whose map entries are cleared once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_malloc(pool: *mut mempool_t, size: usize) -> *mut c_void {
    // The key alone is looked at: no thread has a cache for NULL.
    match pool::malloc_fast(pool.addr(), size) {
        Some(block) => block.as_ptr().cast(),
        // SAFETY: as promised by the caller.
        None => unsafe { malloc_slowly(pool, size) },
    }
}

#[cold]
#[inline(never)]
unsafe fn malloc_slowly(pool: *mut mempool_t, size: usize) -> *mut c_void {
    // SAFETY: NULL or a handle.
    block("mempool_malloc", unsafe { handle(pool) }.and_then(|pool| pool.malloc(size)))
}

/// cbindgen:postfix=MEMPOOL_ARRAY(2, 3)
/// Allocates an array of `count` elements of `size` bytes, all bytes zero.
///
/// - Returns NULL with errno EINVAL: a size of 0, or pool is NULL; ENOMEM: no free run fits, or
///   count * size overflows.
/// - Threads: any, at any time.
/// - Cost: that of mempool_malloc, and of clearing the block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_calloc(
    pool: *mut mempool_t,
    count: usize,
    size: usize,
) -> *mut c_void {
    // SAFETY: NULL or a handle.
    block("mempool_calloc", unsafe { handle(pool) }.and_then(|pool| pool.calloc(count, size)))
}

/// cbindgen:postfix=MEMPOOL_ARRAY(2, 3)
/// Allocates an array of `count` elements of `size` bytes, every byte of them set to `fill`
/// (converted to unsigned char, as by memset).
///
/// - Returns NULL with errno as mempool_calloc.
/// - Threads: any, at any time.
/// - Cost: that of mempool_malloc, and of filling the block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_calloc_fill(
    pool: *mut mempool_t,
    count: usize,
    size: usize,
    fill: c_int,
) -> *mut c_void {
    // SAFETY: NULL or a handle.
    block(
        "mempool_calloc_fill",
        unsafe { handle(pool) }.and_then(|pool| pool.calloc_fill(count, size, fill as u8)),
    )
}

/// cbindgen:postfix=MEMPOOL_BLOCK(3)
/// Allocates a block of at least `size` bytes whose address, in the caller's mapping, is a
/// multiple of `alignment`.
///
/// It is freed like any block. mempool_realloc keeps no more than the pool's align. Another
/// mapping sees the block aligned as far as both lie alike: page-aligned mappings, to 4096. Where
/// no address can be a multiple (align is more than 4096 and the buffer starts at no multiple of
/// it) the offset is, as for all blocks of such a pool.
///
/// - `alignment`: bytes, a power of two; less than the pool's align is as good as that.
/// - Returns NULL with errno EINVAL: size is 0, alignment is no power of two, or pool is NULL;
///   ENOMEM: no free run fits.
/// - Threads: any, at any time.
/// - Cost: that of mempool_malloc.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_aligned_alloc(
    pool: *mut mempool_t,
    alignment: usize,
    size: usize,
) -> *mut c_void {
    // SAFETY: NULL or a handle.
    block(
        "mempool_aligned_alloc",
        unsafe { handle(pool) }.and_then(|pool| pool.aligned_alloc(alignment, size)),
    )
}

/// cbindgen:postfix=MEMPOOL_BLOCK(3)
/// Makes a block larger or smaller, in place if it can, else by moving it; its content up to the
/// lesser size stays.
///
/// - `block`: NULL = mempool_malloc. `size`: bytes; 0 is an error, and the block stays.
/// - Returns the block, moved or not, or NULL with errno EINVAL: size is 0, block is no live
///   block (mempool_last_error says which way), or pool is NULL; ENOMEM: no free run fits; EBUSY: the
///   block would have to move, and it has a name or is the root; EIO: see MEMPOOL_GUARD and
///   MEMPOOL_FILL_FREED. On failure the block is as it was.
/// - Threads: any, at any time; the block must not be used by others meanwhile.
/// - Cost: O(1) in place; else that of mempool_malloc, and of copying the block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_realloc(
    pool: *mut mempool_t,
    block: *mut c_void,
    size: usize,
) -> *mut c_void {
    // SAFETY: NULL or a handle; a live block is the caller's alone meanwhile.
    self::block("mempool_realloc", unsafe {
        handle(pool).and_then(|pool| pool.realloc(block.cast(), size))
    })
}

/// cbindgen:postfix=MEMPOOL_ARRAY(3, 4)
/// mempool_realloc to an array of `count` elements of `size` bytes, with a check for overflow.
///
/// - Returns as mempool_realloc; NULL with errno ENOMEM also if count * size overflows.
/// - Threads: any, at any time; the block must not be used by others meanwhile.
/// - Cost: that of mempool_realloc.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_realloc_array(
    pool: *mut mempool_t,
    block: *mut c_void,
    count: usize,
    size: usize,
) -> *mut c_void {
    // SAFETY: NULL or a handle; a live block is the caller's alone meanwhile.
    self::block("mempool_realloc_array", unsafe {
        handle(pool).and_then(|pool| pool.realloc_array(block.cast(), count, size))
    })
}

/// Makes a block at least `size` bytes long without moving it.
///
/// - `size`: bytes; no more than the block has is OK and changes nothing.
/// - Errors: OUT_OF_MEMORY (no room behind the block, which stays as it was), FOREIGN_POINTER
///   (NULL too), NOT_ALLOCATED, INVALID_ARGUMENT (size is 0, or pool is NULL), CORRUPTED (see
///   MEMPOOL_GUARD and MEMPOOL_FILL_FREED).
/// - Threads: any, at any time.
/// - Cost: O(1), but for the first use of memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_expand(
    pool: *mut mempool_t,
    block: *mut c_void,
    size: usize,
) -> mempool_status_t {
    // SAFETY: NULL or a handle.
    status(
        "mempool_expand",
        unsafe { handle(pool) }.and_then(|pool| pool.expand(block.cast(), size)),
    )
}

/// Allocates a block of at least `size` bytes and stores its offset in a slot, as one event: whoever
/// dies at whatever instruction, the slot holds the block, or there is no such block.
///
/// A slot is a uint64_t inside a live block: of a root structure, or of another block that a slot
/// names. Structures whose blocks all come and go through slots leak nothing at a death.
/// When a process has died, whoever takes over the structure calls mempool_recover once before it
/// looks at the slots: it finishes what the dead had begun. examples/queue.c shows the pattern.
///
/// The block's content is not defined: use mempool_calloc_to if it has slots itself, or let nobody
/// else look at the slot until the block is filled.
///
/// - `slot`: aligned to 8 bytes, anywhere in a live block of this pool; it holds 0. Until the call
///   returns nobody may change it but by these three functions.
/// - Errors: EXISTS (the slot is not 0), OUT_OF_MEMORY, FOREIGN_POINTER (the slot lies outside the
///   pool's blocks; NULL too), NOT_ALLOCATED (it is misaligned, or in no live block),
///   INVALID_ARGUMENT (size is 0, or pool is NULL). On failure the slot is as it was.
/// - Threads: any, at any time; one slot is for one caller at a time, others are refused.
/// - Cost: that of mempool_malloc under the pool's lock, and a step for every 8 granules between the
///   slot and the start of its block: put slots near the start of large blocks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_malloc_to(
    pool: *mut mempool_t,
    size: usize,
    slot: *mut u64,
) -> mempool_status_t {
    // SAFETY: NULL or a handle; the slot is the caller's to change.
    status("mempool_malloc_to", unsafe { handle(pool).and_then(|pool| pool.malloc_to(size, slot)) })
}

/// mempool_malloc_to of an array of `count` elements of `size` bytes, all of which are zero before
/// the slot names them: slots in the new block are empty, whoever dies.
///
/// - Errors: those of mempool_malloc_to; OUT_OF_MEMORY also if count * size overflows.
/// - Threads: as mempool_malloc_to.
/// - Cost: that of mempool_malloc_to, and of clearing the block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_calloc_to(
    pool: *mut mempool_t,
    count: usize,
    size: usize,
    slot: *mut u64,
) -> mempool_status_t {
    // SAFETY: NULL or a handle; the slot is the caller's to change.
    status("mempool_calloc_to", unsafe {
        handle(pool).and_then(|pool| pool.calloc_to(count, size, slot))
    })
}

/// Frees the block whose offset a slot holds and sets the slot to 0, as one event: whoever dies at
/// whatever instruction, the slot holds the live block, or 0 and the block is free. As with
/// mempool_malloc_to, a death inside the call is finished by mempool_recover, or by the next call
/// that takes the pool's lock.
///
/// - `slot`: as for mempool_malloc_to. It holds a block's offset, or 0: then nothing is done, which
///   is OK. It must not lie in the block that it names.
/// - Errors: those of mempool_free for what the slot holds, which are counted in `rejected_frees`:
///   FOREIGN_POINTER, NOT_ALLOCATED; the same for a slot outside the pool's blocks (NULL too),
///   misaligned or in no live block; INVALID_ARGUMENT (the slot lies in the block that it names, or
///   pool is NULL); BUSY (the block has a name, or is the root; or somebody else changes the slot). On failure nothing is changed.
/// - Threads: any, at any time; of several at once for one slot, one frees and the others find 0.
/// - Cost: O(1) under the pool's lock, and the way to the start of the slot's block, as for
///   mempool_malloc_to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_free_from(
    pool: *mut mempool_t,
    slot: *mut u64,
) -> mempool_status_t {
    // SAFETY: NULL or a handle; of a live block the caller says that nobody uses it any more.
    status("mempool_free_from", unsafe { handle(pool).and_then(|pool| pool.free_from(slot)) })
}

/// Frees all blocks at once, and with them all names and the root. The pool's id and its counters since
/// init stay.
///
/// - Errors: INVALID_ARGUMENT (pool is NULL).
/// - Threads: nobody, in any process, may be inside a call on this pool, and no block may be
///   used afterwards.
/// - Cost: O(the pool's map).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_free_all(pool: *mut mempool_t) -> mempool_status_t {
    // SAFETY: NULL or a handle; the caller says that nobody uses a block any more.
    status("mempool_free_all", unsafe { handle(pool).and_then(|pool| pool.free_all()) })
}

/// How many bytes of a block can be used: what was asked for, with its rounding; with MEMPOOL_GUARD
/// exactly what was asked for.
///
/// - Returns bytes; 0 if what tells them was overwritten; 0 for a pointer that is no live block, or if pool is NULL.
/// - Threads: any, at any time.
/// - Cost: O(1).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_usable_size(
    pool: *const mempool_t,
    block: *const c_void,
) -> usize {
    // SAFETY: NULL or a handle.
    number(
        "mempool_usable_size",
        unsafe { handle(pool) }.map(|pool| pool.usable_size(block.cast())),
    )
}

/// How many bytes could be used of a block that mempool_malloc makes for `size`: what to ask for
/// so that nothing is lost to rounding.
///
/// - Returns bytes, at least size; 0 if size is 0 or more than the whole pool, or if pool is NULL.
/// - Threads: any, at any time.
/// - Cost: O(1).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_good_size(pool: *const mempool_t, size: usize) -> usize {
    // SAFETY: NULL or a handle.
    number("mempool_good_size", unsafe { handle(pool) }.map(|pool| pool.good_size(size)))
}

/// A pointer as an offset, which means the same in every process.
///
/// - `p`: anywhere in the pool, inside blocks too.
/// - Returns bytes from the buffer's first byte; 0 for NULL, for a pointer outside the pool, or
///   if pool is NULL.
/// - Threads: any, at any time.
/// - Cost: O(1).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_offset(pool: *const mempool_t, p: *const c_void) -> u64 {
    // SAFETY: NULL or a handle.
    number("mempool_offset", unsafe { handle(pool) }.map(|pool| pool.offset(p.cast())))
}

/// An offset as a pointer in this process.
///
/// - `offset`: bytes from the buffer's first byte, as mempool_offset gives.
/// - Returns NULL for 0, for an offset outside the pool, or if pool is NULL. It does not ask
///   whether a live block is there: an offset read from shared memory is as good as its writer.
/// - Threads: any, at any time.
/// - Cost: O(1).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_pointer(pool: *const mempool_t, offset: u64) -> *mut c_void {
    // SAFETY: NULL or a handle.
    match unsafe { handle(pool) } {
        Ok(pool) => pool.pointer(offset).cast(),
        Err(error) => block("mempool_pointer", Err(error)),
    }
}

/// Takes a snapshot of the pool's figures: exact in the quiet, close while calls are under way.
///
/// - `out`: prepared with MEMPOOL_STATS_INIT; not written on failure.
/// - Errors: INVALID_ARGUMENT.
/// - Threads: any, at any time.
/// - Cost: O(1), cheap enough to poll; no walk of the blocks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_stats(
    pool: *mut mempool_t,
    out: *mut mempool_stats_t,
) -> mempool_status_t {
    // SAFETY: NULL or a handle; out is NULL or as long as its struct_size says.
    let result = unsafe {
        handle(pool).and_then(|pool| {
            let known = stats_size(out)?;
            write_stats(out, known, &pool.stats()?);
            Ok(())
        })
    };
    status("mempool_stats", result)
}

/// Walks the whole pool and verifies everything that can be verified; changes nothing.
///
/// It is safe on any bytes. While others work, it judges only what cannot be in motion.
///
/// - Errors: CORRUPTED (mempool_last_message says what is wrong, and where), INVALID_ARGUMENT.
/// - Threads: any, at any time.
/// - Cost: O(the pool's map); with MEMPOOL_FILL_FREED O(the free bytes).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_check(pool: *mut mempool_t) -> mempool_status_t {
    // SAFETY: NULL or a handle.
    status("mempool_check", unsafe { handle(pool) }.and_then(Handle::check))
}

/// Shows every block, free ones included, in the order of addresses.
///
/// No lock is held during `visit`, which may call any function, freeing of the visited block
/// included. What others change meanwhile may be missed, or seen once.
///
/// - `visit`: false stops, which is no error. `context` is passed on to it.
/// - Errors: INVALID_ARGUMENT (pool or visit is NULL), CORRUPTED.
/// - Threads: any, at any time.
/// - Cost: O(the pool's map), and what visit costs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_walk(
    pool: *mut mempool_t,
    visit: mempool_visit_t,
    context: *mut c_void,
) -> mempool_status_t {
    // SAFETY: NULL or a handle.
    let result = unsafe { handle(pool) }.and_then(|pool| {
        let visit = visit.ok_or(Error::Argument("visit is NULL: it is called for each block"))?;
        pool.walk(&mut visitor(visit, context))
    });
    status("mempool_walk", result)
}

/// Stats and walk of a pool that this process may have mapped for reading only: never writes,
/// never locks, needs no handle.
///
/// - `len`: bytes. `options`: NULL or where to look: only `start` is read. `stats`: prepared with
///   MEMPOOL_STATS_INIT; not written on failure. `visit`: as for mempool_walk, or NULL for none.
/// - Errors: those of mempool_attach; INVALID_ARGUMENT also if stats is NULL.
/// - Threads: any, at any time; exact in the quiet, close while calls are under way.
/// - Cost: O(1) without visit; else O(the pool's map), and what visit costs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_inspect(
    buffer: *const c_void,
    len: usize,
    options: *const mempool_options_t,
    stats: *mut mempool_stats_t,
    visit: mempool_visit_t,
    context: *mut c_void,
) -> mempool_status_t {
    let inspect = || {
        let mut visit = visit.map(|visit| visitor(visit, context));
        let visit = visit.as_mut().map(|visit| visit as &mut dyn FnMut(&Block) -> bool);
        // SAFETY: buffer is readable for len bytes, options and stats as their struct_size says.
        unsafe {
            let start = read_options(options)?.start;
            let known = stats_size(stats)?;
            write_stats(stats, known, &pool::inspect(buffer.cast(), len, start, visit)?);
        }
        Ok(())
    };
    status("mempool_inspect", inspect())
}

/// Tells from a pool's first bytes how long a mapping it needs.
///
/// - `prefix`: `n` bytes read or mapped from the buffer, anywhere in memory; the first 512 from
///   the option `start` on are enough. `*len`: bytes from the buffer's first; 0 on failure.
/// - Errors: NOT_A_POOL (or too few bytes to tell), INCOMPATIBLE, CORRUPTED, INVALID_ARGUMENT.
/// - Threads: any, at any time.
/// - Cost: O(n), up to the pool's header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_peek(
    prefix: *const c_void,
    n: usize,
    len: *mut u64,
) -> mempool_status_t {
    let result = if len.is_null() {
        Err(Error::Argument("len is NULL"))
    } else {
        // SAFETY: n bytes are readable from prefix, unless it is NULL, which is refused.
        unsafe { pool::peek(prefix.cast(), n) }
    };
    // SAFETY: NULL or the caller's to write.
    unsafe { store(len, result.unwrap_or(0)) };
    status("mempool_peek", result.map(drop))
}

/// Gives the calling thread's cache and the depot back to the heap, for other sizes to use.
///
/// - Errors: INVALID_ARGUMENT (pool is NULL).
/// - Threads: any, at any time.
/// - Cost: O(the blocks given back).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_trim(pool: *mut mempool_t) -> mempool_status_t {
    // SAFETY: NULL or a handle.
    status("mempool_trim", unsafe { handle(pool) }.and_then(Handle::trim))
}

/// Looks for owners (processes and threads) that died inside a call or with a cache, and cleans
/// up after them. Other calls do so as they meet them: this one is for who wants it done now.
///
/// - `*recovered`: count of the owners cleaned up after; 0 on failure; may be NULL.
/// - Errors: INVALID_ARGUMENT (pool is NULL).
/// - Threads: any, at any time.
/// - Cost: O(caches); O(the pool's map) if hints of the heap have to be rebuilt.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_recover(
    pool: *mut mempool_t,
    recovered: *mut u64,
) -> mempool_status_t {
    // SAFETY: NULL or a handle.
    let result = unsafe { handle(pool) }.and_then(Handle::recover);
    // SAFETY: NULL or the caller's to write.
    unsafe { store(recovered, result.unwrap_or(0)) };
    status("mempool_recover", result.map(drop))
}

/// Frees what dead processes have left in a pool that was made with MEMPOOL_OWNER_TAGS. No other call
/// ever does: a block stays live when its owner dies, until somebody says that nobody needs it.
///
/// A block belongs to the process that allocated it (a realloc counts), whichever of its threads
/// did; a fork's child is another process, an exec is none. Blocks that live on elsewhere are handed
/// over: whoever receives one calls mempool_adopt, and what shall outlive all, a root structure
/// say, is nobody's after mempool_abandon. What was sent but not adopted yet is what `visit` is for:
/// it can look into queues and mailboxes, keep the block, or adopt it.
///
/// For a supervisor, after waitpid or at any time:
///
///   mempool_reaped_t reaped;
///   mempool_reap(pool, pid, NULL, NULL, &reaped);                  all that this child left
///   mempool_reap(pool, 0, keep_what_is_queued, &queues, &reaped);  what all the dead left, but ..
///
/// Dead is who has no process of this number and start time any more, or an unreaped zombie: it
/// does not matter that a number was given to another process since. When in doubt, a process
/// lives. Who reaps may die at any instruction: the next call goes on.
///
/// - `pid`: the process, 0 = all of the dead. One that never owned a block is OK, nothing is freed.
/// - `visit`: sees each block before it goes; no lock is held, it may call any function. NULL frees
///   all. One that has a name, or is the root, is kept whatever it says. `context` is passed on to it.
///   `*reaped`: what was done, before an error too; may be NULL.
/// - Errors: BUSY (the process lives; or processes of several pid namespaces use the pool, so no
///   death can be told), INVALID_ARGUMENT (the pool is without MEMPOOL_OWNER_TAGS or NULL, pid is
///   negative), CORRUPTED. What was freed before an error stays freed. Blocks beyond which somebody
///   wrote (see MEMPOOL_GUARD) are kept; the others go, and then the first of these is told.
/// - Threads: any, at any time, several at once; nobody may use the blocks that go.
/// - Cost: O(the pool's map), and what visit costs; the lock is held for a part at a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_reap(
    pool: *mut mempool_t,
    pid: i32,
    visit: mempool_reap_visit_t,
    context: *mut c_void,
    reaped: *mut mempool_reaped_t,
) -> mempool_status_t {
    let mut visitor = |block: &Block, owner: &Owner| {
        visit.is_none_or(|visit| visit(&shown(block), &shown_owner(owner), context))
    };
    let mut done = Reaped::default();
    // SAFETY: NULL or a handle; of what goes the caller says that nobody uses it any more.
    let result = unsafe {
        handle(pool).and_then(|pool| {
            let pid = u32::try_from(pid)
                .map_err(|_| Error::Argument("pid must be a process's number, or 0 for all"))?;
            pool.reap_into(Some(pid).filter(|&pid| pid != 0), &mut visitor, &mut done)
        })
    };
    let Reaped { owners, freed_count, freed_size, kept_count, kept_size } = done;
    let done = mempool_reaped { owners, freed_count, freed_size, kept_count, kept_size };
    // SAFETY: NULL or the caller's to write.
    unsafe { store(reaped, done) };
    status("mempool_reap", result)
}

/// Makes a block this process's, whosever it was: for who receives it from another. From then on
/// mempool_reap of the sender leaves it alone.
///
/// - `block`: a live block of a pool with MEMPOOL_OWNER_TAGS.
/// - Errors: FOREIGN_POINTER (NULL too), NOT_ALLOCATED (also if it is being reaped, or adopted by
///   another at the same time), BUSY (more processes own blocks than the pool has room for: reap the
///   dead), INVALID_ARGUMENT (the pool is without owners, or NULL).
/// - Threads: any, at any time.
/// - Cost: O(1), no lock but after a death; at a process's first call what mempool_malloc costs then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_adopt(
    pool: *mut mempool_t,
    block: *mut c_void,
) -> mempool_status_t {
    // SAFETY: NULL or a handle.
    status("mempool_adopt", unsafe { handle(pool) }.and_then(|pool| pool.adopt(block.cast())))
}

/// Makes a block nobody's: mempool_reap leaves it alone, whoever dies.
///
/// - `block`: as for mempool_adopt.
/// - Errors: as for mempool_adopt, but for BUSY.
/// - Threads: any, at any time.
/// - Cost: O(1), no lock but after a death.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_abandon(
    pool: *mut mempool_t,
    block: *mut c_void,
) -> mempool_status_t {
    // SAFETY: NULL or a handle.
    status("mempool_abandon", unsafe { handle(pool) }.and_then(|pool| pool.abandon(block.cast())))
}

/// Tells whose a block is.
///
/// - `block`: a live block of a pool with MEMPOOL_OWNER_TAGS. `*owner`: its owner, alive or not; all
///   0 on failure.
/// - Errors: NOT_FOUND (it is nobody's), FOREIGN_POINTER (NULL too), NOT_ALLOCATED, INVALID_ARGUMENT
///   (the pool is without owners; pool or owner is NULL).
/// - Threads: any, at any time.
/// - Cost: O(1), no lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_owner_of(
    pool: *const mempool_t,
    block: *const c_void,
    owner: *mut mempool_owner_t,
) -> mempool_status_t {
    // SAFETY: NULL or a handle.
    let result = unsafe { handle(pool) }.and_then(|pool| {
        if owner.is_null() {
            return Err(Error::Argument("owner is NULL"));
        }
        pool.owner(block.cast())?.ok_or(Error::NotFound("the block is nobody's"))
    });
    // SAFETY: NULL or the caller's to write.
    unsafe { store(owner, shown_owner(&result.unwrap_or_default())) };
    status("mempool_owner_of", result.map(drop))
}

/// Gives this process a number of its own choice, a worker's number say, which visitors of
/// mempool_reap and mempool_owner_of see beside its process number. It goes with the process's blocks
/// in this pool, by whatever handle.
///
/// - Errors: BUSY, INVALID_ARGUMENT, as for mempool_adopt.
/// - Threads: any, at any time.
/// - Cost: O(1); at a process's first call what mempool_malloc costs then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_label(pool: *mut mempool_t, label: u64) -> mempool_status_t {
    // SAFETY: NULL or a handle.
    status("mempool_label", unsafe { handle(pool) }.and_then(|pool| pool.set_label(label)))
}

/// Makes a block the pool's root, which mempool_root returns in every process: the one that a
/// structure begins with, say. It takes the place of the root before, if there is one, as one event:
/// whoever dies at whatever instruction, the one is the root, or the other.
///
/// As long as a block is the root, or has a name, calls that would free it are refused with
/// MEMPOOL_ERR_BUSY (mempool_free, _free_sized, _free_from, and _realloc where it would move the
/// block) and change nothing; mempool_reap keeps it. All else can be done with it: its slots can be
/// filled, it can grow and shrink where it is. mempool_free_all ends all names and the root, too.
///
/// - `block`: a live block of this pool, made by any process; NULL = there is no root any more.
/// - Errors: FOREIGN_POINTER, NOT_ALLOCATED (also if it is being reaped), INVALID_ARGUMENT (pool is
///   NULL), CORRUPTED. On failure the root is as it was.
/// - Threads: any, at any time; nobody may free the block meanwhile.
/// - Cost: O(1) under the pool's lock; O(all names) if the block that was the root has a name, too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_set_root(
    pool: *mut mempool_t,
    block: *mut c_void,
) -> mempool_status_t {
    // SAFETY: NULL or a handle.
    let result = unsafe { handle(pool) }.and_then(|pool| pool.set_root(block.cast()));
    status("mempool_set_root", result)
}

/// The pool's root, which some process has set with mempool_set_root.
///
/// - Returns the block, or NULL: if there is no root, which is no failure and leaves errno as it was
///   (set it to 0 before the call to tell), or with errno EINVAL (pool is NULL, or the pool is gone)
///   or EIO (corrupted).
/// - Threads: any, at any time. The block is there until another becomes the root, and is freed: that
///   nobody does so under those who use it is theirs to agree on.
/// - Cost: O(1) under the pool's lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_root(pool: *mut mempool_t) -> *mut c_void {
    // SAFETY: the C library gives each thread an errno that is valid while it runs; so below.
    let before = unsafe { *libc::__errno_location() };
    // SAFETY: NULL or a handle.
    match unsafe { handle(pool) }.and_then(Handle::root).transpose() {
        None => {
            // SAFETY: as above. Who asked about a dead owner, or waited, has changed it.
            unsafe { *libc::__errno_location() = before };
            null_mut()
        }
        Some(result) => block("mempool_root", result),
    }
}

/// Gives a block a name, by which mempool_find knows it in every process, as one event: whoever dies
/// at whatever instruction, the block has the name, or nothing has happened. When many give one name
/// at once exactly one does, and the others are told EXISTS.
///
/// A block may have several names, and be the root. Until it has none any more it cannot be freed:
/// see mempool_set_root.
///
/// Each name takes a block of the pool's own, of 32 bytes and the name's, rounded up to `align`; it
/// counts as overhead in mempool_stats.
///
/// - `name`: a C string of 1 to 255 bytes, which may be any; it is copied. `block`: a live block of
///   this pool, made by any process.
/// - Errors: EXISTS (some block has this name, be it this one), OUT_OF_MEMORY, FOREIGN_POINTER (NULL
///   too), NOT_ALLOCATED (also if it is being reaped), INVALID_ARGUMENT (name is NULL, empty or too
///   long, or pool is NULL), CORRUPTED. On failure nothing is changed.
/// - Threads: any, at any time; nobody may free the block meanwhile.
/// - Cost: O(log of the number of names) under the pool's lock, and that of a mempool_malloc.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_bind(
    pool: *mut mempool_t,
    name: *const c_char,
    block: *mut c_void,
) -> mempool_status_t {
    // SAFETY: NULL or a handle; NULL or a C string.
    let result = unsafe { handle(pool).and_then(|pool| pool.bind(read_name(name)?, block.cast())) };
    status("mempool_bind", result)
}

/// The block that has a name.
///
/// - `name`: as for mempool_bind.
/// - Returns the block, or NULL with errno ENOENT (no block has this name: mempool_last_error says
///   NOT_FOUND), EINVAL (name is NULL, empty or too long; pool is NULL, or the pool is gone) or EIO
///   (corrupted).
/// - Threads: any, at any time. The block is there until somebody takes the name from it and frees it:
///   that nobody does so under those who use it is theirs to agree on.
/// - Cost: O(log of the number of names) under the pool's lock.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_find(pool: *mut mempool_t, name: *const c_char) -> *mut c_void {
    // SAFETY: NULL or a handle; NULL or a C string.
    block("mempool_find", unsafe { handle(pool).and_then(|pool| pool.find(read_name(name)?)) })
}

/// Takes a name from its block, as one event: whoever dies at whatever instruction, the block has the
/// name still, or it has it no more. The block stays; once it has no name, and is not the root, it can
/// be freed. The name can be given again.
///
/// - `name`: as for mempool_bind.
/// - Errors: NOT_FOUND (no block has this name), INVALID_ARGUMENT (name is NULL, empty or too long, or
///   pool is NULL), CORRUPTED. On failure nothing is changed.
/// - Threads: any, at any time; of several at once for one name one is OK, the others are told
///   NOT_FOUND.
/// - Cost: O(log of the number of names) under the pool's lock; O(all names) if the block has others,
///   or is the root.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_unbind(
    pool: *mut mempool_t,
    name: *const c_char,
) -> mempool_status_t {
    // SAFETY: NULL or a handle; NULL or a C string.
    let result = unsafe { handle(pool).and_then(|pool| pool.unbind(read_name(name)?)) };
    status("mempool_unbind", result)
}

/// Takes a name from a block, if it is this block that has it: mempool_unbind for who has found a
/// block by its name, which others may have given to another block since. Of several who do so at once
/// one is OK, and may free the block.
///
/// - `name`: as for mempool_bind. `block`: what mempool_find has returned for it.
/// - Errors: NOT_FOUND (no block has this name, or another has), FOREIGN_POINTER (NULL too),
///   NOT_ALLOCATED (misaligned), INVALID_ARGUMENT (name is NULL, empty or too long, or pool is NULL),
///   CORRUPTED. On failure nothing is changed.
/// - Threads: any, at any time.
/// - Cost: that of mempool_unbind.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_unbind_from(
    pool: *mut mempool_t,
    name: *const c_char,
    block: *const c_void,
) -> mempool_status_t {
    // SAFETY: NULL or a handle; NULL or a C string.
    let result =
        unsafe { handle(pool).and_then(|pool| pool.unbind_from(read_name(name)?, block.cast())) };
    status("mempool_unbind_from", result)
}

/// Shows every name with the offset of its block, in no order that means anything.
///
/// - `visit`: returns whether to go on. `name` is valid until it returns; `context` is passed on to it.
/// - Errors: INVALID_ARGUMENT (pool or visit is NULL), CORRUPTED.
/// - Threads: any, at any time. No lock is held during visit, which may call any function,
///   mempool_unbind of this name included; names that come or go meanwhile are seen once or missed,
///   all others are seen once.
/// - Cost: O(log of the number of names) under the pool's lock for each, and what visit costs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_names(
    pool: *mut mempool_t,
    visit: Option<extern "C" fn(name: *const c_char, offset: u64, context: *mut c_void) -> bool>,
    context: *mut c_void,
) -> mempool_status_t {
    // SAFETY: NULL or a handle.
    let result = unsafe { handle(pool) }.and_then(|pool| {
        let visit = visit.ok_or(Error::Argument("visit is NULL"))?;
        pool.names(&mut |name, offset| {
            let mut text = [0u8; NAME_MAX + 1];
            text[..name.len()].copy_from_slice(name);
            visit(text.as_ptr().cast(), offset, context)
        })
    });
    status("mempool_names", result)
}

/// The least length that mempool_init accepts with these options, wherever the buffer lies, and
/// from which one mempool_malloc(pool, 1) succeeds.
///
/// - `options`: NULL = the defaults; `start` counts, `end` is ignored.
/// - Returns bytes; 0 for bad options.
/// - Threads: any, at any time.
/// - Cost: O(1).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mempool_min_len(options: *const mempool_options_t) -> usize {
    // SAFETY: NULL or as long as its struct_size says.
    let len = unsafe { read_options(options) }.and_then(|options| layout::min_len(&options));
    number("mempool_min_len", len)
}

/// The calling thread's last failure.
///
/// - Returns its status; MEMPOOL_OK if no call has failed on this thread. Success does not reset
///   it.
/// - Threads: any, at any time; each has its own.
/// - Cost: O(1).
#[unsafe(no_mangle)]
pub extern "C" fn mempool_last_error() -> mempool_status_t {
    let last = LAST_FAILURE.with(|last| last.what.get());
    last.map_or(MEMPOOL_OK, |(_, error)| error.status())
}

/// cbindgen:postfix=MEMPOOL_NEVER_NULL
/// The calling thread's last failure in one line: which function, what, where, what to do.
///
/// - Returns a string of at most 255 bytes, "" if no call has failed on this thread. It stays
///   valid until this thread's next failing call.
/// - Threads: any, at any time; each has its own.
/// - Cost: O(1).
#[unsafe(no_mangle)]
pub extern "C" fn mempool_last_message() -> *const c_char {
    LAST_FAILURE.with(|last| {
        if let Some((function, error)) = last.what.get() {
            // SAFETY: the text is this thread's, and no other reference to it is alive: C has
            // only the pointer below, and nothing called here comes back to this place.
            describe(unsafe { &mut *last.text.get() }, function, &error);
        }
        last.text.get().cast()
    })
}

/// cbindgen:postfix=MEMPOOL_NEVER_NULL
/// What a status means, in words.
///
/// - Returns a static string, for unknown values too.
/// - Threads: any, at any time.
/// - Cost: O(1).
#[unsafe(no_mangle)]
pub extern "C" fn mempool_strerror(status: mempool_status_t) -> *const c_char {
    let words: &CStr = match status {
        MEMPOOL_OK => c"ok",
        MEMPOOL_ERR_INVALID_ARGUMENT => c"invalid argument",
        MEMPOOL_ERR_BUFFER_TOO_SMALL => c"buffer too small",
        MEMPOOL_ERR_BUFFER_TOO_LARGE => c"buffer too large for its align",
        MEMPOOL_ERR_NOT_A_POOL => c"not a pool",
        MEMPOOL_ERR_INCOMPATIBLE => c"incompatible pool",
        MEMPOOL_ERR_OUT_OF_MEMORY => c"out of memory",
        MEMPOOL_ERR_FOREIGN_POINTER => c"pointer outside the pool's blocks",
        MEMPOOL_ERR_NOT_ALLOCATED => c"no live block at this pointer",
        MEMPOOL_ERR_CORRUPTED => c"pool corrupted",
        MEMPOOL_ERR_NOT_FOUND => c"name not found",
        MEMPOOL_ERR_EXISTS => c"exists already",
        MEMPOOL_ERR_BUSY => c"in use",
        _ => c"unknown status",
    };
    words.as_ptr()
}

/// cbindgen:postfix=MEMPOOL_NEVER_NULL
/// The version of the library at run time, such as "0.1.0".
///
/// - Returns a static string.
/// - Threads: any, at any time.
/// - Cost: O(1).
#[unsafe(no_mangle)]
pub extern "C" fn mempool_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// The version of the library at run time as a number that grows with it.
///
/// - Returns MAJOR<<16 | MINOR<<8 | PATCH.
/// - Threads: any, at any time.
/// - Cost: O(1).
#[unsafe(no_mangle)]
pub extern "C" fn mempool_version_number() -> u32 {
    MEMPOOL_VERSION_MAJOR << 16 | MEMPOOL_VERSION_MINOR << 8 | MEMPOOL_VERSION_PATCH
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::ptr::null;

    fn text_of(function: &str, error: &dyn fmt::Display) -> ([u8; MESSAGE_SIZE], usize) {
        let mut text = [0xFF; MESSAGE_SIZE];
        describe(&mut text, function, error);
        let len = text.iter().position(|&byte| byte == 0).expect("no NUL");
        (text, len)
    }

    #[test]
    fn a_message_names_its_function() {
        let (text, len) = text_of("mempool_free", &Error::NotAllocated { what: "free", at: 7 });
        assert_eq!(&text[..len], b"mempool_free: no live block at offset 7: free");
    }

    #[test]
    fn a_message_is_cut_so_that_its_nul_fits() {
        for over in 0..4 {
            let (_, len) = text_of("f", &"x".repeat(MESSAGE_SIZE - 5 + over));
            assert_eq!(len, (MESSAGE_SIZE - 2 + over).min(MESSAGE_SIZE - 1));
        }
        // Cut at any place, it is still text.
        for shift in 0..3 {
            let (text, len) = text_of(&"f".repeat(1 + shift), &"\u{20AC}".repeat(200));
            assert!(len >= MESSAGE_SIZE - 3);
            assert!(core::str::from_utf8(&text[..len]).is_ok());
        }
    }

    #[test]
    fn no_message_with_numbers_is_too_long() {
        let n = u64::MAX;
        for error in [
            Error::TooSmall { len: n, needed: n },
            Error::TooLarge { align: n, needed: n },
            Error::Truncated { len: n, needed: n },
            Error::OutOfMemory { size: n },
            Error::Foreign { address: n, first: n, end: n },
            Error::WrongSize { at: n, block: n, size: n },
            Error::Overflow,
            Error::NoHandle,
            Error::Reentered,
            Error::Exists { at: n },
            Error::Bound { at: n },
        ] {
            let (_, len) = text_of("mempool_realloc_array", &error);
            assert!(len < MESSAGE_SIZE - 1, "{error}");
        }
    }

    #[test]
    fn the_last_failure_belongs_to_its_thread() {
        let status = fail("mempool_walk", Error::Reentered);
        assert_eq!(status, MEMPOOL_ERR_BUSY);
        assert_eq!(mempool_last_error(), MEMPOOL_ERR_BUSY);
        std::thread::spawn(|| {
            assert_eq!(mempool_last_error(), MEMPOOL_OK);
            // SAFETY: never NULL, and ends with a NUL.
            assert_eq!(unsafe { CStr::from_ptr(mempool_last_message()) }, c"");
        })
        .join()
        .unwrap();
        // SAFETY: as above.
        let message = unsafe { CStr::from_ptr(mempool_last_message()) };
        assert!(message.to_bytes().starts_with(b"mempool_walk: "));
    }

    #[test]
    fn errno_tells_what_malloc_has_words_for() {
        assert_eq!(errno_of(MEMPOOL_ERR_OUT_OF_MEMORY), libc::ENOMEM);
        assert_eq!(errno_of(MEMPOOL_ERR_CORRUPTED), libc::EIO);
        assert_eq!(errno_of(MEMPOOL_ERR_BUSY), libc::EBUSY);
        assert_eq!(errno_of(MEMPOOL_ERR_NOT_FOUND), libc::ENOENT);
        for status in [MEMPOOL_ERR_INVALID_ARGUMENT, MEMPOOL_ERR_NOT_ALLOCATED] {
            assert_eq!(errno_of(status), libc::EINVAL);
        }
    }

    #[test]
    fn every_status_has_words_of_its_own() {
        let words = |status| {
            // SAFETY: a static string.
            unsafe { CStr::from_ptr(mempool_strerror(status)) }
        };
        let mut seen = std::collections::HashSet::new();
        for status in MEMPOOL_ERR_BUSY..=MEMPOOL_OK {
            assert_ne!(words(status), c"unknown status");
            assert!(seen.insert(words(status)), "{status}");
        }
        for status in [1, MEMPOOL_ERR_BUSY - 1, i32::MIN, i32::MAX] {
            assert_eq!(words(status), c"unknown status");
        }
    }

    #[test]
    fn the_version_is_one() {
        // SAFETY: a static string.
        let version = unsafe { CStr::from_ptr(mempool_version()) };
        assert_eq!(version.to_str(), Ok(env!("CARGO_PKG_VERSION")));
        let mut number = 0;
        for part in env!("CARGO_PKG_VERSION").split('.') {
            number = number << 8 | part.parse::<u32>().unwrap();
        }
        assert_eq!(mempool_version_number(), number);
    }

    /// A caller's structure of any version, as words.
    const WORDS: usize = STRUCT_SIZE_MAX / 8 + 1;

    fn options_of_size(size: usize, edit: impl FnOnce(&mut [u64; WORDS])) -> Result<Options> {
        let mut words = [0; WORDS];
        words[0] = size as u64;
        edit(&mut words);
        // SAFETY: the words are as many bytes as any size that gets past known_size.
        unsafe { read_options(words.as_ptr().cast()) }
    }

    #[test]
    fn options_of_every_version_are_read() {
        // SAFETY: NULL is allowed.
        assert_eq!(unsafe { read_options(null()) }, Ok(Options::default()));
        for size in [OPTIONS_SIZE_0_1, OPTIONS_SIZE_0_1 + 1, 200, STRUCT_SIZE_MAX] {
            assert_eq!(options_of_size(size, |_| ()), Ok(Options::default()), "{size}");
            let expected =
                Options { start: 1, end: 2, align: 3, min_split: 4, flags: 5, max_threads: 6 };
            let numbered = options_of_size(size, |words| {
                words[1..5].copy_from_slice(&[1, 2, 3, 4]);
                words[5] = u64::from_ne_bytes([5, 0, 0, 0, 6, 0, 0, 0]);
            });
            assert_eq!(numbered, Ok(expected));
        }
    }

    #[test]
    fn options_of_no_version_are_refused() {
        for size in [0, 8, OPTIONS_SIZE_0_1 - 1, STRUCT_SIZE_MAX + 1, usize::MAX] {
            assert!(options_of_size(size, |_| ()).is_err(), "{size}");
        }
    }

    #[test]
    fn unknown_options_must_be_zero_up_to_struct_size() {
        let ours = size_of::<mempool_options>();
        let set = |at: usize, size| {
            options_of_size(size, |words| {
                words[at / 8] = u64::from_ne_bytes(core::array::from_fn(|i| (i == at % 8) as u8));
            })
        };
        for at in [ours, ours + 1, ours + 100] {
            assert!(set(at, at + 1).is_err(), "{at}");
            assert!(set(at, at).is_ok(), "{at}");
        }
    }

    #[test]
    fn stats_of_every_version_are_written_and_no_more() {
        let stats = Stats { total: 11, pool_id: 22, ..Stats::default() };
        let ours = size_of::<mempool_stats>();
        for size in [STATS_SIZE_0_1, ours + 1, ours + 64, STRUCT_SIZE_MAX] {
            let mut words = [u64::MAX; WORDS];
            words[0] = size as u64;
            let out: *mut mempool_stats_t = words.as_mut_ptr().cast();
            // SAFETY: the words are longer than size bytes.
            unsafe {
                let known = stats_size(out).unwrap();
                write_stats(out, known, &stats);
            }
            assert_eq!((words[0], words[1]), (size as u64, 11));
            assert_eq!(words[ours / 8 - 1], 22);
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            assert!(bytes[ours.min(size)..size].iter().all(|&byte| byte == 0));
            assert!(bytes[size..].iter().all(|&byte| byte == 0xFF));
        }
    }

    #[test]
    fn stats_of_no_version_are_refused() {
        // SAFETY: NULL is allowed.
        assert!(unsafe { stats_size(null()) }.is_err());
        for size in [0, STATS_SIZE_0_1 - 1, STRUCT_SIZE_MAX + 1, usize::MAX] {
            let mut words = [0u64; WORDS];
            words[0] = size as u64;
            // SAFETY: struct_size can be read.
            assert!(unsafe { stats_size(words.as_ptr().cast()) }.is_err(), "{size}");
        }
    }
}
