//! What AddressSanitizer is told: which bytes are poisoned. Its runtime is in the program or is
//! not; the library looks for it by name.
//!
//! Nothing here touches the memory that it is about. Bytes of no mapping have a shadow, too.

use core::ffi::{c_void, CStr};
use core::mem::transmute;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

type Mark = unsafe extern "C" fn(*const c_void, usize);

static CLOSE: AtomicUsize = AtomicUsize::new(0);
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// Looks for the runtime. To be called before anything else here is, outside of any lock: the C
/// library may allocate.
pub fn look() {
    let find = |name: &CStr| {
        // SAFETY: the name ends with NUL.
        unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) }.addr()
    };
    let open = find(c"__asan_unpoison_memory_region");
    CLOSE.store(find(c"__asan_poison_memory_region"), Relaxed);
    OPEN.store(open, Relaxed);
}

/// Whether the runtime was found.
pub fn is_here() -> bool {
    OPEN.load(Relaxed) != 0
}

/// Nobody may touch these bytes.
pub fn close(at: usize, len: usize) {
    mark(&CLOSE, at, len);
}

/// These bytes may be touched.
pub fn open(at: usize, len: usize) {
    mark(&OPEN, at, len);
}

fn mark(function: &AtomicUsize, at: usize, len: usize) {
    let function = core::ptr::with_exposed_provenance::<c_void>(function.load(Relaxed));
    if function.is_null() {
        return;
    }
    // SAFETY: the runtime's function of that name, whose type this is.
    let mark: Mark = unsafe { transmute(function) };
    // SAFETY: writes to the shadow of the bytes only, which is there for any address.
    unsafe { mark(core::ptr::without_provenance(at), len) };
}
