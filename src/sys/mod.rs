//! What the operating system knows, and we must ask: who this thread is, whether another one
//! lives, how to sleep and to wake. The only module that makes system calls.
//!
//! Linux only, because the lock relies on what its kernel does at a thread's death. x86_64 with
//! glibc is tested; aarch64 and musl are written for, untested.

#[cfg(not(all(
    target_os = "linux",
    target_endian = "little",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
compile_error!(
    "mempool runs on Linux, x86_64 (tested) or aarch64 (untested): another platform needs its own src/sys"
);

#[cfg(feature = "asan")]
pub mod asan;
mod futex;
mod host;
#[cfg(feature = "valgrind")]
pub mod memcheck;
mod thread;

pub use futex::{wait, wake};
pub use host::{boot_hash, is_private_mapping, pid_namespace, random};
pub use host::{now, reserve, unmap_page, wiped_page, PAGE_BYTES};
pub use thread::{
    at_fork, at_fork_in_child, exists, is_of_this_process, is_process_gone, me, process,
    start_time, state, state_and_start, Announcement, Holding, Me, State, TID_MASK,
};
