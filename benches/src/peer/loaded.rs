//! Allocators in shared libraries, called through pointers as a program's PLT does.

use super::{nothing, null, unchecked, Free, Heap, Malloc, Realloc};
use libloading::{Library, Symbol};
use std::ffi::{c_void, OsStr};
use std::hint::black_box;
use std::ptr::null_mut;

/// What the heap's context points to: one load more than a PLT's slot for each function.
#[repr(C)]
pub struct Loaded {
    pub pool: *mut c_void,
    pub malloc: Malloc,
    pub free: Free,
    pub realloc: Realloc,
}

impl Loaded {
    pub fn heap(self, check: fn(*mut c_void) -> Result<(), String>) -> Heap {
        let ctx = (Box::leak(Box::new(self)) as *mut Loaded).cast();
        Heap { ctx, malloc, free, realloc, enter: nothing, leave: nothing, check }
    }
}

unsafe extern "C" fn malloc(ctx: *mut c_void, size: usize) -> *mut c_void {
    // SAFETY: `Loaded::heap` made the context.
    let loaded = unsafe { &*ctx.cast::<Loaded>() };
    // SAFETY: any size may be asked for.
    unsafe { (loaded.malloc)(loaded.pool, size) }
}

unsafe extern "C" fn free(ctx: *mut c_void, block: *mut c_void) {
    // SAFETY: `Loaded::heap` made the context.
    let loaded = unsafe { &*ctx.cast::<Loaded>() };
    // SAFETY: the caller's: a live block.
    unsafe { (loaded.free)(loaded.pool, block) }
}

unsafe extern "C" fn realloc(ctx: *mut c_void, block: *mut c_void, size: usize) -> *mut c_void {
    // SAFETY: `Loaded::heap` made the context.
    let loaded = unsafe { &*ctx.cast::<Loaded>() };
    // SAFETY: the caller's: a live block.
    unsafe { (loaded.realloc)(loaded.pool, block, size) }
}

pub fn library(name: impl AsRef<OsStr>) -> Result<&'static Library, String> {
    // SAFETY: the libraries loaded here have initializers that harm nobody.
    let library = unsafe { Library::new(name.as_ref()) };
    library.map(|library| &*Box::leak(Box::new(library))).map_err(|error| error.to_string())
}

/// The function called `name`.
///
/// # Safety
/// `F` is a pointer to a function of its type.
pub unsafe fn function<F: Copy>(library: &'static Library, name: &str) -> Result<F, String> {
    // SAFETY: the caller's.
    let symbol: Result<Symbol<F>, _> = unsafe { library.get(name.as_bytes()) };
    symbol.map(|symbol| *symbol).map_err(|error| error.to_string())
}

/// tcmalloc's functions, which know no context.
#[repr(C)]
struct Tcmalloc {
    malloc: unsafe extern "C" fn(usize) -> *mut c_void,
    free: unsafe extern "C" fn(*mut c_void),
    realloc: unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void,
}

pub fn tcmalloc() -> Result<Heap, String> {
    let names = ["libtcmalloc_minimal.so.4", "libtcmalloc.so.4"];
    let library = names.iter().find_map(|name| library(name).ok());
    let library = library.ok_or("no libtcmalloc here (Debian: libtcmalloc-minimal4)")?;
    // SAFETY: the types are those of malloc, free and realloc.
    let functions = unsafe {
        Tcmalloc {
            malloc: function(library, "tc_malloc")?,
            free: function(library, "tc_free")?,
            realloc: function(library, "tc_realloc")?,
        }
    };
    Ok(functions.heap())
}

impl Tcmalloc {
    fn heap(self) -> Heap {
        let ctx = (Box::leak(Box::new(self)) as *mut Tcmalloc).cast();
        let (malloc, free, realloc) = (tc_malloc as _, tc_free as _, tc_realloc as _);
        let (enter, leave) = (nothing as fn(), nothing as fn());
        Heap { ctx, malloc, free, realloc, enter, leave, check: unchecked }
    }
}

/// Called as tcmalloc is.
pub fn null() -> Heap {
    let (malloc, free, realloc) = (null::malloc as _, null::free as _, null::realloc as _);
    black_box(Tcmalloc { malloc, free, realloc }).heap()
}

/// Called as mempool is.
pub fn null_pool() -> Heap {
    let (malloc, free) = (null::pool_malloc as _, null::pool_free as _);
    let realloc = null::pool_realloc as _;
    black_box(Loaded { pool: null_mut(), malloc, free, realloc }).heap(unchecked)
}

unsafe extern "C" fn tc_malloc(ctx: *mut c_void, size: usize) -> *mut c_void {
    // SAFETY: `tcmalloc` made the context; any size may be asked for.
    unsafe { ((*ctx.cast::<Tcmalloc>()).malloc)(size) }
}

unsafe extern "C" fn tc_free(ctx: *mut c_void, block: *mut c_void) {
    // SAFETY: `tcmalloc` made the context; the block is the caller's.
    unsafe { ((*ctx.cast::<Tcmalloc>()).free)(block) }
}

unsafe extern "C" fn tc_realloc(ctx: *mut c_void, block: *mut c_void, size: usize) -> *mut c_void {
    // SAFETY: `tcmalloc` made the context; the block is the caller's.
    unsafe { ((*ctx.cast::<Tcmalloc>()).realloc)(block, size) }
}
