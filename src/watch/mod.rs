//! What tools are told: valgrind's memcheck and AddressSanitizer know of malloc's blocks by
//! themselves, but of a pool's only what the library says. With the features `valgrind` and `asan`
//! it does; without them [`ON`] is false, and nothing of this is compiled.
//!
//! What a tool knows is true of *one process*, and the pool is many processes'. So it is told what
//! this process can be sure of, and no more:
//!
//! ```text
//! a block delivered to this process      its bytes: open, not written yet     its rounding: closed
//! a block that this process frees        closed
//! a pool that this process makes         its free memory: closed
//! a block that is asked for by offset    open, and written: somebody has made it meanwhile
//! all else                               as it was: open
//! ```
//!
//! So what another process made of memory that this one freed is open again when it gets here, by
//! `mempool_pointer`, a walk or any other call that names it. And a block whose offset is asked for
//! is *shown*: others may write to it, and have it for their own; so it counts as written, and is no
//! leak when nothing here points to it any more. A fork shows all blocks.
//!
//! The library's own steps into closed memory (the links of free blocks) are hushed: memcheck does
//! not report what happens under the lock ([`hush`]). AddressSanitizer does not see them.
#![deny(unsafe_code)] // but for what `told` allows itself

mod told;

use crate::sys;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

/// Whether there is anybody to be told.
pub const ON: bool = cfg!(any(feature = "valgrind", feature = "asan"));

/// A handle's part in what tools know of a buffer. The last one that goes opens it: the memory is its
/// owner's, who may do with it what he likes. The buffer itself is left alone, for it may be unmapped.
#[derive(Default)]
pub struct Presence {
    /// From, to; no words at all where nobody is told.
    places: [AtomicUsize; if ON { 2 } else { 0 }],
}

impl Presence {
    /// The handle's pool lies there.
    pub fn begin(&self, from: usize, to: usize) {
        static FORKS_ARE_WATCHED: AtomicBool = AtomicBool::new(false);
        if !is_watched() {
            return;
        }
        if !FORKS_ARE_WATCHED.swap(true, Relaxed) {
            sys::at_fork(show_all);
        }
        told::add_handle(from);
        for (place, at) in self.places.iter().zip([from, to]) {
            place.store(at, Relaxed);
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        if let [from, to] = self.places.each_ref().map(|place| place.load(Relaxed))[..] {
            if from != 0 && told::is_last_handle(from) {
                open(from, to - from);
            }
        }
    }
}

/// Looks for tools: before there is a handle.
pub fn look() {
    #[cfg(feature = "asan")]
    sys::asan::look();
}

/// A block of `len` bytes is this process's, of which it asked for `asked`. They are written, or
/// have still to be.
pub fn allocated(at: usize, asked: usize, len: usize, is_written: bool) {
    if !is_watched() {
        return;
    }
    forget(at, at + asked);
    open(at, asked);
    if told::put(at, asked) {
        tell_allocated(at, asked, is_written);
    }
    close(at + asked, len - asked);
}

/// A block of `len` bytes is about to be free.
pub fn freed(at: usize, len: usize) {
    if !is_watched() {
        return;
    }
    if told::asked(at).is_none() {
        // Another process made it. So that who uses it now is told who has freed it:
        allocated(at, len, len, true);
    }
    forget_one(at);
    forget(at, at + len);
    close(at, len);
}

/// It is not, after all.
pub fn kept(at: usize, len: usize) {
    if is_watched() {
        open(at, len);
    }
}

/// A block of `len` bytes is about to be cut to `asked`, if that is less.
pub fn cut(at: usize, asked: usize, len: usize) {
    if !is_watched() || asked >= len {
        return;
    }
    if let Some(old) = told::asked(at).filter(|&old| old > asked) {
        tell_resized(at, old, asked);
    }
    close(at + asked, len - asked);
}

/// The library is about to read all of a block, and then to free it. The C library's functions, which
/// it does so by, are watched by AddressSanitizer.
pub fn moving(_at: usize, _len: usize) {
    #[cfg(feature = "asan")]
    sys::asan::open(_at, _len);
}

/// A block is `len` bytes long now, of which `asked` were asked for.
pub fn resized(at: usize, asked: usize, len: usize) {
    if !is_watched() {
        return;
    }
    match told::asked(at) {
        Some(old) => tell_resized(at, old, asked),
        None => open(at, asked),
    }
    close(at + asked, len - asked);
}

/// All of a block may be used, not only what was asked for.
pub fn widened(at: usize, len: usize) {
    if !is_watched() {
        return;
    }
    match told::asked(at) {
        Some(_) if told::is_shown(at) => seen(at, len),
        Some(old) => tell_resized(at, old, len),
        None => seen(at, len),
    }
}

/// What this process was told to have: for a block that it got by itself.
pub fn asked(at: usize) -> Option<usize> {
    told::asked(at).filter(|_| is_watched())
}

/// A live block was asked for by its offset, or found: it may be another process's, of any age.
pub fn seen(at: usize, len: usize) {
    if !is_watched() {
        return;
    }
    match told::asked(at) {
        // Nobody else knows it.
        Some(_) if !told::is_shown(at) => return,
        Some(old) => tell_resized(at, old, len),
        // What was here before. But not the block itself, should it be put back and had anew just now.
        None => told::starts(at, at + len).filter(|&start| start != at).for_each(forget_one),
    }
    open(at, len);
}

/// The offset of a block that holds this address was asked for: others may know it from now on.
pub fn shown(inside: usize) {
    if !is_watched() {
        return;
    }
    if let Some((at, asked)) = told::start(inside).and_then(|at| Some((at, told::show(at)?))) {
        open_written(at, asked);
    }
}

/// There is no block between these addresses.
pub fn emptied(from: usize, to: usize) {
    if is_watched() {
        forget(from, to);
        close(from, to - from);
    }
}

/// These bytes are nothing but what they are.
pub fn opened(from: usize, to: usize) {
    if is_watched() {
        forget(from, to);
        open(from, to - from);
    }
}

/// Forgets blocks between these addresses that are live no more: others have freed them.
pub fn forget_dead(from: usize, to: usize, is_live: impl Fn(usize) -> bool) {
    if is_watched() {
        for at in told::starts(from, to) {
            if !is_live(at) {
                forget_one(at);
            }
        }
    }
}

/// While one lives, memcheck does not report what this thread does.
#[must_use]
pub struct Hush(PhantomData<*const ()>);

/// See [`Hush`]; they may be nested.
#[inline(always)]
pub fn hush() -> Hush {
    #[cfg(feature = "valgrind")]
    sys::memcheck::hush();
    Hush(PhantomData)
}

impl Drop for Hush {
    #[inline(always)]
    fn drop(&mut self) {
        #[cfg(feature = "valgrind")]
        sys::memcheck::report();
    }
}

/// Whether a tool is there.
fn is_watched() -> bool {
    #[cfg(feature = "valgrind")]
    if sys::memcheck::is_here() {
        return true;
    }
    #[cfg(feature = "asan")]
    if sys::asan::is_here() {
        return true;
    }
    false
}

/// After a fork there are two who know each block.
extern "C" fn show_all() {
    told::all().for_each(shown);
}

/// Forgets what blocks lie between these addresses: whoever has freed them.
fn forget(from: usize, to: usize) {
    for at in told::starts(from, to) {
        forget_one(at);
    }
}

fn forget_one(at: usize) {
    // Of two threads one gets it.
    if let Some(_asked) = told::take(at) {
        #[cfg(feature = "valgrind")]
        if sys::memcheck::is_here() {
            sys::memcheck::freed(at);
        }
        #[cfg(feature = "asan")]
        sys::asan::close(at, _asked);
    }
}

fn tell_allocated(_at: usize, _asked: usize, _is_written: bool) {
    #[cfg(feature = "valgrind")]
    if sys::memcheck::is_here() {
        sys::memcheck::allocated(_at, _asked, _is_written);
    }
}

fn tell_resized(at: usize, old: usize, new: usize) {
    let is_shown = told::is_shown(at);
    if old == new || told::take(at).is_none() {
        return;
    }
    forget(at + old, at + new);
    let _is_told = told::put(at, new);
    #[cfg(feature = "asan")]
    sys::asan::open(at, new);
    #[cfg(feature = "valgrind")]
    if sys::memcheck::is_here() {
        if _is_told {
            sys::memcheck::resized(at, old, new);
        } else {
            sys::memcheck::freed(at);
            sys::memcheck::open(at, new);
        }
    }
    if is_shown {
        shown(at);
    }
}

fn close(_at: usize, _len: usize) {
    #[cfg(feature = "valgrind")]
    if sys::memcheck::is_here() {
        sys::memcheck::close(_at, _len);
    }
    #[cfg(feature = "asan")]
    sys::asan::close(_at, _len);
}

fn open(at: usize, len: usize) {
    open_written(at, len);
    #[cfg(feature = "asan")]
    sys::asan::open(at, len);
}

/// Bytes that may be touched have been written, for all that is known.
fn open_written(_at: usize, _len: usize) {
    #[cfg(feature = "valgrind")]
    if sys::memcheck::is_here() {
        sys::memcheck::open(_at, _len);
    }
}
