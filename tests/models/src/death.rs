//! Threads that die: at any of their steps, of which each use of a shared word is one. From then on
//! nothing that they do reaches others, whatever their stacks still unwind; and the kernel does what
//! it does at a thread's death, see [`crate::sys`].

use crate::sys;
use std::cell::Cell;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};

/// What unwinds the stack of a dead thread.
struct Death;

loom::thread_local! {
    static STEPS_LEFT: Cell<Option<u32>> = Cell::new(None);
    static IS_DEAD: Cell<bool> = Cell::new(false);
}

/// Does this as a thread that dies at its step of this number. Whether it lived on.
pub fn mortal(steps: u32, life: impl FnOnce()) -> bool {
    STEPS_LEFT.with(|left| left.set(Some(steps)));
    let ended = catch_unwind(AssertUnwindSafe(life));
    STEPS_LEFT.with(|left| left.set(None));
    match ended {
        Ok(()) => true,
        Err(cause) if cause.is::<Death>() => false,
        Err(cause) => resume_unwind(cause),
    }
}

/// Before a thread's next step: false if it is dead, and must not make it.
pub fn step() -> bool {
    if IS_DEAD.with(Cell::get) {
        return false;
    }
    match STEPS_LEFT.with(Cell::get) {
        None => true,
        Some(0) => {
            sys::thread_dies();
            IS_DEAD.with(|dead| dead.set(true));
            resume_unwind(Box::new(Death))
        }
        Some(left) => {
            STEPS_LEFT.with(|steps| steps.set(Some(left - 1)));
            true
        }
    }
}

thread_local! {
    static STORES_LEFT: Cell<Option<u32>> = const { Cell::new(None) };
}

/// Does this, where no others are, up to its store of this number. Whether it came to its end.
pub fn until_store(stores: u32, life: impl FnOnce()) -> bool {
    STORES_LEFT.set(Some(stores));
    let ended = catch_unwind(AssertUnwindSafe(life));
    STORES_LEFT.set(None);
    match ended {
        Ok(()) => true,
        Err(cause) if cause.is::<Death>() => false,
        Err(cause) => resume_unwind(cause),
    }
}

/// Before a store to a buffer that nobody else looks at.
pub fn store() {
    match STORES_LEFT.get() {
        None => {}
        Some(0) => resume_unwind(Box::new(Death)),
        Some(left) => STORES_LEFT.set(Some(left - 1)),
    }
}
