//! A traced child: it stops at marks, goes one instruction at a time between them, and can be
//! killed at any.

use crate::common::child::{self, Child, End};
use crate::common::memory::error;
use std::arch::asm;
use std::process::Command;
use std::ptr;

/// A child of this thread's own, stopped, whom this thread traces.
pub struct Target {
    child: Option<Child>,
    /// Where the kernel looks for the locks of its first thread.
    robust: u64,
}

/// Why the child is not going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// At a mark, or after an instruction.
    Trap,
    /// It got this signal, which nobody sent.
    Signal(i32),
    Ended(End),
}

/// The kernel's struct robust_list_head (linux/futex.h).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct RobustList {
    next: u64,
    futex_offset: u64,
    pending: u64,
}

/// Stops a traced process for its tracer.
#[inline(always)]
pub fn mark() {
    // SAFETY: traps, and changes nothing.
    unsafe { asm!("int3", options(nostack)) };
}

impl Target {
    /// A child that is stopped before its first call.
    pub fn start(body: impl FnOnce()) -> Target {
        let child = child::fork(|| {
            // SAFETY: asks the parent to trace; no memory is involved.
            let answer = unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
            assert_eq!(answer, 0, "this kernel lets nobody trace: {}", error());
            mark();
            body();
            0
        });
        let mut target = Target { child: Some(child), robust: 0 };
        assert_eq!(target.wait(), Stop::Trap, "a traced child begins with a mark");
        target.robust = target.robust_list();
        target
    }

    pub fn pid(&self) -> libc::pid_t {
        self.child.as_ref().expect("it has not ended").pid
    }

    /// Lets it run to the next mark, or its end.
    pub fn go_on(&mut self) -> Stop {
        self.request(libc::PTRACE_CONT);
        self.wait()
    }

    /// One instruction; a system call is one.
    #[inline]
    pub fn step(&mut self) -> Stop {
        self.request(libc::PTRACE_SINGLESTEP);
        self.wait()
    }

    fn request(&self, request: libc::c_uint) {
        // SAFETY: a stopped child of ours; no memory is involved.
        let answer = unsafe { libc::ptrace(request, self.pid(), 0, 0) };
        assert_eq!(answer, 0, "ptrace {request}: {}", error());
    }

    fn wait(&mut self) -> Stop {
        let (pid, mut status) = (self.pid(), 0);
        // SAFETY: our own child, a valid status word.
        let got = unsafe { libc::waitpid(pid, &mut status, libc::__WALL) };
        assert_eq!(got, pid, "waitpid: {}", error());
        if libc::WIFSTOPPED(status) {
            return match libc::WSTOPSIG(status) {
                libc::SIGTRAP => Stop::Trap,
                signal => Stop::Signal(signal),
            };
        }
        self.child = None;
        Stop::Ended(match libc::WIFSIGNALED(status) {
            true => End::Signal(libc::WTERMSIG(status)),
            false => End::Exit(libc::WEXITSTATUS(status)),
        })
    }

    /// The address of its next instruction, as in this process: it is a fork of it.
    pub fn instruction(&self) -> u64 {
        const RIP: usize = std::mem::offset_of!(libc::user_regs_struct, rip);
        // SAFETY: a stopped child of ours; reads its registers.
        unsafe { libc::ptrace(libc::PTRACE_PEEKUSER, self.pid(), RIP, 0) as u64 }
    }

    /// Whether the kernel would look at the word at this address of its should it die now.
    pub fn announces(&self, word: *const u8) -> bool {
        let mut head = RobustList::default();
        let len = size_of::<RobustList>();
        let local = libc::iovec { iov_base: ptr::from_mut(&mut head).cast(), iov_len: len };
        let remote = libc::iovec { iov_base: self.robust as *mut libc::c_void, iov_len: len };
        // SAFETY: the local buffer is valid for its length; the remote one is the child's.
        let got = unsafe { libc::process_vm_readv(self.pid(), &local, 1, &remote, 1, 0) };
        assert_eq!(got, len as isize, "process_vm_readv: {}", error());
        head.pending != 0 && head.pending.wrapping_add(head.futex_offset) == word as u64
    }

    fn robust_list(&self) -> u64 {
        let (mut head, mut len) = (0u64, 0usize);
        // SAFETY: both out-pointers are valid.
        let answer = unsafe {
            libc::syscall(libc::SYS_get_robust_list, self.pid(), &raw mut head, &raw mut len)
        };
        assert_eq!((answer, len), (0, size_of::<RobustList>()), "get_robust_list: {}", error());
        head
    }

    /// Kills it where it is, and returns once it is gone.
    pub fn kill(mut self) {
        let end = self.child.take().map(Child::kill);
        assert_eq!(end, Some(End::Signal(libc::SIGKILL)));
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            child.kill();
        }
    }
}

/// Where in the source an instruction is, as far as this machine's tools know.
pub fn line_of(address: u64) -> String {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let program = std::env::current_exe().unwrap_or_default();
    let program = program.to_string_lossy();
    let own = maps.lines().find(|line| line.ends_with(&*program));
    let base = own.and_then(|line| u64::from_str_radix(line.split('-').next()?, 16).ok());
    let offset = address.wrapping_sub(base.unwrap_or(0));
    let tool =
        Command::new("addr2line").args(["-Cfpie", &program]).arg(format!("{offset:#x}")).output();
    let line = tool.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    format!(
        "\n  after the instruction at {offset:#x} of {program}: {}",
        line.unwrap_or_default().trim()
    )
}
