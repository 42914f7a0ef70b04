//! The C face as methods. Every answer is checked for agreeing with itself: NULL with errno and
//! the thread's last error, a failure with a message.

use ::mempool::abi::*;
use ::mempool::capi::*;
use std::ffi::{c_char, c_int, c_void, CStr, CString};
use std::ptr;

pub type Status = mempool_status_t;
pub type Options = mempool_options_t;
pub type Stats = mempool_stats_t;
pub type Block = mempool_block_t;

/// A handle, by value: copies name the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle(pub *mut mempool_t);

// SAFETY: any function may be called from any thread.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

pub fn options() -> Options {
    // SAFETY: integers only; all zero but struct_size are the defaults.
    let mut options: Options = unsafe { std::mem::zeroed() };
    options.struct_size = size_of::<Options>();
    options
}

pub fn no_stats() -> Stats {
    // SAFETY: integers only.
    let mut stats: Stats = unsafe { std::mem::zeroed() };
    stats.struct_size = size_of::<Stats>();
    stats
}

pub fn last_error() -> Status {
    mempool_last_error()
}

pub fn last_message() -> String {
    // SAFETY: a C string that lives until this thread's next failing call.
    let text = unsafe { CStr::from_ptr(mempool_last_message()) };
    text.to_str().expect("messages are UTF-8").to_owned()
}

fn errno() -> c_int {
    // SAFETY: the calling thread's own errno.
    unsafe { *libc::__errno_location() }
}

/// What a status must have set besides.
fn judged(status: Status) -> Result<(), Status> {
    if status == MEMPOOL_OK {
        return Ok(());
    }
    assert_eq!(last_error(), status, "last_error agrees with the status");
    let message = last_message();
    assert!(!message.is_empty() && !message.contains('\n'), "one line: {message:?}");
    Err(status)
}

fn found(block: *mut c_void) -> Result<*mut u8, Status> {
    if !block.is_null() {
        return Ok(block.cast());
    }
    let (errno, status) = (errno(), last_error());
    let expected = match status {
        MEMPOOL_ERR_OUT_OF_MEMORY => libc::ENOMEM,
        MEMPOOL_ERR_CORRUPTED => libc::EIO,
        MEMPOOL_ERR_BUSY => libc::EBUSY,
        MEMPOOL_ERR_NOT_FOUND => libc::ENOENT,
        _ => libc::EINVAL,
    };
    assert_eq!(errno, expected, "errno for status {status}: {}", last_message());
    judged(status)?;
    panic!("NULL, but no error")
}

pub fn init(buffer: *mut u8, len: usize, options: &Options) -> Result<Handle, Status> {
    let mut out: *mut mempool_t = ptr::dangling_mut();
    // SAFETY: the tests' own mapped memory.
    let status = unsafe { mempool_init(buffer.cast(), len, options, &mut out) };
    opened(status, out)
}

pub fn attach(buffer: *mut u8, len: usize, options: &Options) -> Result<Handle, Status> {
    let mut out: *mut mempool_t = ptr::dangling_mut();
    // SAFETY: the tests' own mapped memory.
    let status = unsafe { mempool_attach(buffer.cast(), len, options, &mut out) };
    opened(status, out)
}

pub fn open(buffer: *mut u8, len: usize, options: &Options) -> Result<(Handle, bool), Status> {
    let mut out: *mut mempool_t = ptr::dangling_mut();
    let mut created = false;
    // SAFETY: the tests' own mapped memory.
    let status = unsafe { mempool_open(buffer.cast(), len, options, &mut out, &mut created) };
    Ok((opened(status, out)?, created))
}

fn opened(status: Status, out: *mut mempool_t) -> Result<Handle, Status> {
    assert_eq!(status != MEMPOOL_OK, out.is_null(), "*out is NULL on failure, and only then");
    judged(status).map(|()| Handle(out))
}

pub fn inspect(
    buffer: *const u8,
    len: usize,
    options: &Options,
    blocks: &mut Vec<Block>,
) -> Result<Stats, Status> {
    let mut stats = no_stats();
    // SAFETY: the tests' own mapped memory; `push` gets the vector it expects.
    let status = unsafe {
        let context = ptr::from_mut(blocks).cast();
        mempool_inspect(buffer.cast(), len, options, &mut stats, Some(push), context)
    };
    judged(status).map(|()| stats)
}

pub fn peek(prefix: &[u8]) -> Result<u64, Status> {
    let mut len = 0;
    // SAFETY: a slice is readable.
    let status = unsafe { mempool_peek(prefix.as_ptr().cast(), prefix.len(), &mut len) };
    judged(status).map(|()| len)
}

pub fn min_len(options: &Options) -> usize {
    // SAFETY: valid options.
    unsafe { mempool_min_len(options) }
}

extern "C" fn push(block: *const Block, context: *mut c_void) -> bool {
    // SAFETY: the walk passes a valid block, and the context we gave.
    unsafe { (*context.cast::<Vec<Block>>()).push(*block) };
    true
}

/// A name as C has it.
fn c_name(name: &[u8]) -> CString {
    CString::new(name).expect("no NUL")
}

extern "C" fn push_name(name: *const c_char, offset: u64, context: *mut c_void) -> bool {
    // SAFETY: a C string, and the context we gave.
    unsafe {
        let name = CStr::from_ptr(name).to_bytes().to_vec();
        (*context.cast::<Vec<(Vec<u8>, u64)>>()).push((name, offset));
    }
    true
}

/// Each is the C function of its name.
impl Handle {
    pub fn detach(self) -> Result<(), Status> {
        // SAFETY: no test uses a handle after detaching it.
        judged(unsafe { mempool_detach(self.0) })
    }

    pub fn release(self) -> Result<(), Status> {
        // SAFETY: a handle that was not detached; so in all functions below.
        judged(unsafe { mempool_release(self.0) })
    }

    pub fn malloc(self, size: usize) -> Result<*mut u8, Status> {
        // SAFETY: as in `release`.
        found(unsafe { mempool_malloc(self.0, size) })
    }

    pub fn calloc(self, count: usize, size: usize) -> Result<*mut u8, Status> {
        // SAFETY: as in `release`.
        found(unsafe { mempool_calloc(self.0, count, size) })
    }

    pub fn calloc_fill(self, count: usize, size: usize, fill: u8) -> Result<*mut u8, Status> {
        // SAFETY: as in `release`.
        found(unsafe { mempool_calloc_fill(self.0, count, size, c_int::from(fill)) })
    }

    pub fn aligned_alloc(self, alignment: usize, size: usize) -> Result<*mut u8, Status> {
        // SAFETY: as in `release`.
        found(unsafe { mempool_aligned_alloc(self.0, alignment, size) })
    }

    pub fn realloc(self, block: *mut u8, size: usize) -> Result<*mut u8, Status> {
        // SAFETY: as in `release`; any block pointer is allowed.
        found(unsafe { mempool_realloc(self.0, block.cast(), size) })
    }

    pub fn realloc_array(
        self,
        block: *mut u8,
        count: usize,
        size: usize,
    ) -> Result<*mut u8, Status> {
        // SAFETY: as in `realloc`.
        found(unsafe { mempool_realloc_array(self.0, block.cast(), count, size) })
    }

    pub fn expand(self, block: *mut u8, size: usize) -> Result<(), Status> {
        // SAFETY: as in `realloc`.
        judged(unsafe { mempool_expand(self.0, block.cast(), size) })
    }

    pub fn free(self, block: *mut u8) -> Result<(), Status> {
        // SAFETY: as in `realloc`.
        judged(unsafe { mempool_free(self.0, block.cast()) })
    }

    pub fn free_sized(self, block: *mut u8, size: usize) -> Result<(), Status> {
        // SAFETY: as in `realloc`.
        judged(unsafe { mempool_free_sized(self.0, block.cast(), size) })
    }

    pub fn malloc_to(self, size: usize, slot: *mut u64) -> Result<(), Status> {
        // SAFETY: as in `realloc`; any slot pointer is allowed.
        judged(unsafe { mempool_malloc_to(self.0, size, slot) })
    }

    pub fn calloc_to(self, count: usize, size: usize, slot: *mut u64) -> Result<(), Status> {
        // SAFETY: as in `malloc_to`.
        judged(unsafe { mempool_calloc_to(self.0, count, size, slot) })
    }

    pub fn free_from(self, slot: *mut u64) -> Result<(), Status> {
        // SAFETY: as in `malloc_to`.
        judged(unsafe { mempool_free_from(self.0, slot) })
    }

    pub fn bind(self, name: &[u8], block: *const u8) -> Result<(), Status> {
        // SAFETY: as in `realloc`; a C string.
        judged(unsafe { mempool_bind(self.0, c_name(name).as_ptr(), block.cast_mut().cast()) })
    }

    pub fn find(self, name: &[u8]) -> Result<*mut u8, Status> {
        // SAFETY: as in `release`; a C string.
        found(unsafe { mempool_find(self.0, c_name(name).as_ptr()) })
    }

    pub fn unbind(self, name: &[u8]) -> Result<(), Status> {
        // SAFETY: as in `release`; a C string.
        judged(unsafe { mempool_unbind(self.0, c_name(name).as_ptr()) })
    }

    pub fn unbind_from(self, name: &[u8], block: *const u8) -> Result<(), Status> {
        // SAFETY: as in `release`; a C string, and any pointer is allowed.
        judged(unsafe { mempool_unbind_from(self.0, c_name(name).as_ptr(), block.cast()) })
    }

    /// All names, in order, with the offsets of their blocks.
    pub fn names(self) -> Result<Vec<(Vec<u8>, u64)>, Status> {
        let mut names: Vec<(Vec<u8>, u64)> = Vec::new();
        let context = ptr::from_mut(&mut names).cast();
        // SAFETY: as in `release`; `push_name` gets the vector it expects.
        judged(unsafe { mempool_names(self.0, Some(push_name), context) })?;
        names.sort();
        Ok(names)
    }

    pub fn set_root(self, block: *const u8) -> Result<(), Status> {
        // SAFETY: as in `realloc`.
        judged(unsafe { mempool_set_root(self.0, block.cast_mut().cast()) })
    }

    /// NULL if there is none.
    pub fn root(self) -> Result<*mut u8, Status> {
        // SAFETY: the calling thread's own errno.
        unsafe { *libc::__errno_location() = 0 };
        // SAFETY: as in `release`.
        let root = unsafe { mempool_root(self.0) };
        if root.is_null() && errno() == 0 {
            return Ok(ptr::null_mut());
        }
        found(root)
    }

    pub fn free_all(self) -> Result<(), Status> {
        // SAFETY: as in `release`.
        judged(unsafe { mempool_free_all(self.0) })
    }

    pub fn usable_size(self, block: *const u8) -> usize {
        // SAFETY: as in `realloc`.
        unsafe { mempool_usable_size(self.0, block.cast()) }
    }

    pub fn good_size(self, size: usize) -> usize {
        // SAFETY: as in `release`.
        unsafe { mempool_good_size(self.0, size) }
    }

    pub fn offset(self, p: *const u8) -> u64 {
        // SAFETY: as in `realloc`.
        unsafe { mempool_offset(self.0, p.cast()) }
    }

    pub fn pointer(self, offset: u64) -> *mut u8 {
        // SAFETY: as in `release`.
        unsafe { mempool_pointer(self.0, offset).cast() }
    }

    pub fn try_stats(self) -> Result<Stats, Status> {
        let mut stats = no_stats();
        // SAFETY: as in `release`.
        judged(unsafe { mempool_stats(self.0, &mut stats) })?;
        Ok(stats)
    }

    #[track_caller]
    pub fn stats(self) -> Stats {
        self.try_stats().unwrap_or_else(|status| panic!("stats: {status}: {}", last_message()))
    }

    pub fn check(self) -> Result<(), Status> {
        // SAFETY: as in `release`.
        judged(unsafe { mempool_check(self.0) })
    }

    /// Panics with what is wrong.
    #[track_caller]
    pub fn must_check(self) {
        self.check().unwrap_or_else(|status| panic!("check: {status}: {}", last_message()));
    }

    pub fn try_walk(self) -> Result<Vec<Block>, Status> {
        let mut blocks: Vec<Block> = Vec::new();
        // SAFETY: as in `release`; `push` gets the vector it expects.
        judged(unsafe { mempool_walk(self.0, Some(push), ptr::from_mut(&mut blocks).cast()) })?;
        Ok(blocks)
    }

    #[track_caller]
    pub fn walk(self) -> Vec<Block> {
        self.try_walk().unwrap_or_else(|status| panic!("walk: {status}: {}", last_message()))
    }

    pub fn adopt(self, block: *mut u8) -> Result<(), Status> {
        // SAFETY: as in `realloc`.
        judged(unsafe { mempool_adopt(self.0, block.cast()) })
    }

    pub fn abandon(self, block: *mut u8) -> Result<(), Status> {
        // SAFETY: as in `realloc`.
        judged(unsafe { mempool_abandon(self.0, block.cast()) })
    }

    /// Whose a block is.
    pub fn owner(self, block: *const u8) -> Result<mempool_owner_t, Status> {
        // SAFETY: integers only.
        let mut owner: mempool_owner_t = unsafe { std::mem::zeroed() };
        // SAFETY: as in `realloc`.
        judged(unsafe { mempool_owner_of(self.0, block.cast(), &mut owner) })?;
        Ok(owner)
    }

    /// The number of the process whose block it is.
    pub fn owner_of(self, block: *const u8) -> Result<i32, Status> {
        self.owner(block).map(|owner| owner.pid)
    }

    /// Frees all that the dead left.
    pub fn reap(self) -> Result<mempool_reaped_t, Status> {
        // SAFETY: integers only.
        let mut reaped: mempool_reaped_t = unsafe { std::mem::zeroed() };
        // SAFETY: as in `release`; without a visitor there is no context.
        judged(unsafe { mempool_reap(self.0, 0, None, ptr::null_mut(), &mut reaped) })?;
        Ok(reaped)
    }

    pub fn label(self, label: u64) -> Result<(), Status> {
        // SAFETY: as in `release`.
        judged(unsafe { mempool_label(self.0, label) })
    }

    pub fn trim(self) -> Result<(), Status> {
        // SAFETY: as in `release`.
        judged(unsafe { mempool_trim(self.0) })
    }

    pub fn recover(self) -> Result<u64, Status> {
        let mut count = 0;
        // SAFETY: as in `release`.
        judged(unsafe { mempool_recover(self.0, &mut count) })?;
        Ok(count)
    }
}
