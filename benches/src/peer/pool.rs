//! mempool by its C face.

use super::loaded::Loaded;
use super::{Free, Heap, Malloc, Options, Realloc};
use crate::region::Region;
use mempool::abi::{mempool_options_t, mempool_stats_t};
use std::ffi::{c_char, c_void, CStr};
use std::ptr::null_mut;
use std::sync::OnceLock;

const ZEROED: u32 = 4;

/// The functions that are used, typed as in mempool.h; but that free's status is dropped, which
/// the ABI allows a caller to do.
#[derive(Clone, Copy)]
struct Face {
    init:
        unsafe extern "C" fn(*mut c_void, usize, *const mempool_options_t, *mut *mut c_void) -> i32,
    malloc: Malloc,
    free: Free,
    realloc: Realloc,
    check: unsafe extern "C" fn(*mut c_void) -> i32,
    stats: unsafe extern "C" fn(*mut c_void, *mut mempool_stats_t) -> i32,
    last_message: unsafe extern "C" fn() -> *const c_char,
}

static FACE: OnceLock<Face> = OnceLock::new();

pub fn open(options: &Options, region: Region) -> Result<Heap, String> {
    let face = face(options)?;
    let face = FACE.get_or_init(|| face);
    let wanted = mempool_options_t {
        struct_size: size_of::<mempool_options_t>(),
        start: 0,
        end: 0,
        align: 0,
        min_split: 0,
        flags: ZEROED,
        max_threads: 0,
    };
    let mut pool = null_mut();
    // SAFETY: the region is zeroed and this pool's alone.
    let status =
        unsafe { (face.init)(region.base.as_ptr().cast(), region.len, &wanted, &mut pool) };
    if status != 0 {
        return Err(face.message());
    }
    let Face { malloc, free, realloc, .. } = *face;
    Ok(Loaded { pool, malloc, free, realloc }.heap(|ctx| {
        // SAFETY: the context is the one made above.
        let pool = unsafe { (*ctx.cast::<Loaded>()).pool };
        FACE.get().expect("a pool was opened").empty(pool)
    }))
}

/// From the shared library: the one that cargo built along with this program lies beside its other
/// parts.
#[cfg(not(feature = "counts"))]
fn face(options: &Options) -> Result<Face, String> {
    use super::loaded::{function, library};

    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let built = program.with_file_name("deps").join("libmempool.so");
    let library = library(options.library.as_ref().unwrap_or(&built))?;
    // SAFETY: these are the types that mempool.h gives them.
    unsafe {
        Ok(Face {
            init: function(library, "mempool_init")?,
            malloc: function(library, "mempool_malloc")?,
            free: function(library, "mempool_free")?,
            realloc: function(library, "mempool_realloc")?,
            check: function(library, "mempool_check")?,
            stats: function(library, "mempool_stats")?,
            last_message: function(library, "mempool_last_message")?,
        })
    }
}

/// Linked in, since the counts are a Rust function's.
#[cfg(feature = "counts")]
#[allow(clippy::missing_transmute_annotations)] // the fields have the types
fn face(_: &Options) -> Result<Face, String> {
    use mempool::capi::*;
    use std::mem::transmute;

    // SAFETY: pointers to functions, typed with mempool_t where there is c_void above.
    unsafe {
        Ok(Face {
            init: transmute::<*const (), _>(mempool_init as *const ()),
            malloc: transmute::<*const (), _>(mempool_malloc as *const ()),
            free: transmute::<*const (), _>(mempool_free as *const ()),
            realloc: transmute::<*const (), _>(mempool_realloc as *const ()),
            check: transmute::<*const (), _>(mempool_check as *const ()),
            stats: transmute::<*const (), _>(mempool_stats as *const ()),
            last_message: transmute::<*const (), _>(mempool_last_message as *const ()),
        })
    }
}

impl Face {
    fn message(&self) -> String {
        // SAFETY: the message is a string, valid until this thread's next call.
        unsafe { CStr::from_ptr((self.last_message)()) }.to_string_lossy().into_owned()
    }

    fn empty(&self, pool: *mut c_void) -> Result<(), String> {
        // SAFETY: the pool is one; all zero but its size is a valid argument.
        let (sound, stats) = unsafe {
            let mut stats: mempool_stats_t = std::mem::zeroed();
            stats.struct_size = size_of::<mempool_stats_t>();
            let sound = (self.check)(pool) == 0 && (self.stats)(pool, &mut stats) == 0;
            (sound, stats)
        };
        match (sound, stats.used_count, stats.rejected_frees) {
            (false, ..) => Err(self.message()),
            (_, 0, 0) => Ok(()),
            (_, used, rejected) => Err(format!("{used} blocks in use, {rejected} frees rejected")),
        }
    }
}
