//! The pool of this process, made at the first call.

use crate::memory::{self, Memory};
use crate::settings::Settings;
use crate::text::say;
use crate::{fork, report};
use core::cell::UnsafeCell;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicI32, AtomicPtr, Ordering::*};
use mempool::{Options, Pool};

/// The pool; NULL before the first call, and while it is made.
static POOL: AtomicPtr<Pool> = AtomicPtr::new(null_mut());
/// The number of the thread that makes it; 0 before.
static MAKER: AtomicI32 = AtomicI32::new(0);

struct Shared(UnsafeCell<Settings>);
// SAFETY: written by the maker alone, before anybody reads it.
unsafe impl Sync for Shared {}
static SETTINGS: Shared = Shared(UnsafeCell::new(Settings::new()));

/// What the environment asked for. Before there is a pool: what nobody asked for.
pub fn settings() -> &'static Settings {
    static NONE: Shared = Shared(UnsafeCell::new(Settings::new()));
    let is_made = !POOL.load(Acquire).is_null();
    // SAFETY: not written any more once there is a pool.
    unsafe { &*if is_made { &SETTINGS } else { &NONE }.0.get() }
}

/// The pool; None for the calls that come from its making.
#[inline]
pub fn pool() -> Option<&'static Pool> {
    let pool = POOL.load(Acquire);
    if pool.is_null() {
        return make();
    }
    // SAFETY: never taken down.
    Some(unsafe { &*pool })
}

/// The pool, if there is one by now.
pub fn made() -> Option<&'static Pool> {
    // SAFETY: never taken down.
    unsafe { POOL.load(Acquire).as_ref() }
}

#[cold]
fn make() -> Option<&'static Pool> {
    // SAFETY: takes nothing.
    let me = unsafe { libc::syscall(libc::SYS_gettid) } as i32;
    match MAKER.compare_exchange(0, me, AcqRel, Acquire) {
        Ok(_) => {}
        Err(maker) if maker == me => return None,
        Err(_) => {
            while POOL.load(Acquire).is_null() {
                // SAFETY: takes nothing.
                unsafe { libc::sched_yield() };
            }
            return made();
        }
    }
    // SAFETY: this thread alone, until the pool is there.
    let settings = unsafe { &mut *SETTINGS.0.get() };
    settings.read();
    let memory = Memory::new(settings).unwrap_or_else(|| end());
    if memory.fd < 0 {
        settings.place = crate::settings::Place::Private;
    }
    let options =
        Options { flags: settings.flags | mempool::options::ZEROED, ..Options::default() };
    // SAFETY: new memory, zeroed by the kernel, that is never unmapped.
    let pool = match unsafe { Pool::init(memory.address, memory.len, &options) } {
        Ok(pool) => pool,
        Err(error) => {
            say!("no heap: {error}");
            memory::remove(settings);
            end()
        }
    };
    let pool: &'static Pool = Box::leak(Box::new(pool));
    POOL.store(pool as *const Pool as *mut Pool, Release);
    if memory.fd >= 0 {
        fork::watch(&memory);
    }
    report::at_exit(settings);
    Some(pool)
}

fn end() -> ! {
    // SAFETY: takes nothing. There is no heap for anything else.
    unsafe { libc::_exit(127) }
}

extern "C" fn at_start() {
    pool();
}

/// A program that allocates nothing has a pool as well, so that what was asked for is seen.
#[used]
#[link_section = ".init_array"]
static AT_START: extern "C" fn() = at_start;
