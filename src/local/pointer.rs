//! The pointer to the page of the thread's last pool.

pub use means::*;

/// By the initial-exec model: two loads, where what a shared library gets by default is a call. Eight
/// bytes of the static TLS block, which even a library that is loaded late finds room for.
#[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
mod means {
    use super::super::{Local, NOWHERE};
    use core::arch::{asm, global_asm};

    global_asm!(
        ".section .tdata.mempool_current,\"awT\",@progbits",
        ".hidden mempool_current",
        ".globl mempool_current",
        ".type mempool_current, @object",
        ".size mempool_current, 8",
        ".p2align 3",
        "mempool_current:",
        ".quad {nowhere}",
        ".text",
        nowhere = sym NOWHERE,
    );

    #[inline(always)]
    pub fn get() -> *const Local {
        let local: *const Local;
        // SAFETY: loads this thread's variable and nothing else.
        unsafe {
            asm!(
                "mov {0}, qword ptr [rip + mempool_current@GOTTPOFF]",
                "mov {0}, qword ptr fs:[{0}]",
                out(reg) local,
                options(pure, readonly, nostack, preserves_flags)
            );
        }
        local
    }

    pub fn set(local: *const Local) {
        // SAFETY: stores to this thread's variable and nothing else.
        unsafe {
            asm!(
                "mov {0}, qword ptr [rip + mempool_current@GOTTPOFF]",
                "mov qword ptr fs:[{0}], {1}",
                out(reg) _,
                in(reg) local,
                options(nostack, preserves_flags)
            );
        }
    }
}

/// By the language's own means.
#[cfg(not(all(target_arch = "x86_64", target_env = "gnu")))]
mod means {
    use super::super::{Local, NOWHERE};
    use core::cell::Cell;

    thread_local! {
        static CURRENT: Cell<*const Local> = const { Cell::new(&raw const NOWHERE.0) };
    }

    #[inline(always)]
    pub fn get() -> *const Local {
        CURRENT.with(Cell::get)
    }

    pub fn set(local: *const Local) {
        CURRENT.with(|current| current.set(local));
    }
}
