//! Workers that start together, as threads or as processes.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};
use std::thread;

use crate::region::Region;

#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Threads,
    Processes,
}

/// Runs `body` with each worker's number; what workers tell goes through a `Region`.
pub fn run(kind: Kind, workers: usize, body: impl Fn(usize) + Sync) -> Result<(), String> {
    match kind {
        Kind::Threads => thread::scope(|scope| {
            for worker in 0..workers {
                let body = &body;
                scope.spawn(move || body(worker));
            }
        }),
        Kind::Processes => {
            for worker in 0..workers {
                fork(|| body(worker));
            }
            return (0..workers).try_for_each(|_| reap());
        }
    }
    Ok(())
}

fn fork(body: impl Fn()) {
    // SAFETY: this process has one thread, so the child may do what it likes; it ends here.
    unsafe {
        match libc::fork() {
            -1 => panic!("fork: {}", std::io::Error::last_os_error()),
            0 => {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                body();
                libc::_exit(0);
            }
            _ => {}
        }
    }
}

/// The first worker that fails fails the crew; the others die with this process.
fn reap() -> Result<(), String> {
    let mut status = 0;
    // SAFETY: the status is ours.
    match unsafe { libc::wait(&mut status) } {
        -1 => Err(std::io::Error::last_os_error().to_string()),
        _ if status == 0 => Ok(()),
        _ => Err(format!("a worker ended with wait status {status:#x}")),
    }
}

/// Where the workers wait for each other, in memory that processes share.
pub struct Gate(&'static AtomicU32);

impl Gate {
    pub fn new() -> Gate {
        Gate(&Region::of::<AtomicU32>(1)[0])
    }

    /// Opens when all have come; one gate serves once.
    pub fn pass(&self, workers: usize) {
        self.0.fetch_add(1, AcqRel);
        while self.0.load(Acquire) < workers as u32 {
            thread::yield_now();
        }
    }
}

/// What all workers together did, in memory that processes share.
#[derive(Default)]
pub struct Score {
    pub ops: AtomicU64,
    pub nanos: AtomicU64,
}

impl Score {
    pub fn new() -> &'static Score {
        &Region::of::<Score>(1)[0]
    }

    pub fn add(&self, ops: u64, nanos: u64) {
        self.ops.fetch_add(ops, Relaxed);
        self.nanos.fetch_add(nanos, Relaxed);
    }
}
