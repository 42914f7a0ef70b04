//! Processes of our own: forked ones that share mappings, fresh ones for measuring memory, and a
//! deadline for every one of them.

use std::panic::{self, AssertUnwindSafe};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::Once;
use std::time::{Duration, Instant};

use super::memory::error;

/// A forked child that has not been waited for.
pub struct Child {
    pub pid: libc::pid_t,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Exit(i32),
    Signal(i32),
}

/// The exit code of a child whose body panicked; what it said is on stderr.
pub const PANICKED: i32 = 101;

static IN_CHILD: AtomicBool = AtomicBool::new(false);

/// The test harness keeps what a thread prints, and would lose it with the child: say it on
/// stderr at once.
fn speak_up() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if IN_CHILD.load(Relaxed) {
                let text = format!("in child {}: {info}\n", std::process::id());
                // SAFETY: the text is valid for its length.
                unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
            } else {
                usual(info);
            }
        }));
    });
}

/// Forks a child that runs `body` and exits with what it returns. It dies with its parent.
pub fn fork(body: impl FnOnce() -> i32) -> Child {
    speak_up();
    // SAFETY: the C library keeps its own locks usable in the child; the child runs `body` only.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", error());
    if pid == 0 {
        IN_CHILD.store(true, Relaxed);
        // SAFETY: asks the kernel for a signal at the parent's death; no memory is involved.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        let code = panic::catch_unwind(AssertUnwindSafe(body)).unwrap_or(PANICKED);
        // SAFETY: ends the process without running what its parent left for its own end.
        unsafe { libc::_exit(code) };
    }
    Child { pid }
}

/// Runs `body` in a child of its own; panics if it panics, crashes or takes longer than `limit`.
#[track_caller]
pub fn run(limit: Duration, body: impl FnOnce()) {
    let child = fork(|| {
        body();
        0
    });
    match child.wait(limit) {
        Some(End::Exit(0)) => {}
        Some(end) => panic!("the child ended with {end:?}"),
        None => panic!("the child hung: not done after {limit:?}"),
    }
}

impl Child {
    pub fn signal(&self, signal: i32) {
        // SAFETY: a child of ours that has not been waited for, so the number is still its own.
        let answer = unsafe { libc::kill(self.pid, signal) };
        assert_eq!(answer, 0, "kill({}, {signal}): {}", self.pid, error());
    }

    /// Stops the child, and returns once it is.
    pub fn stop(&self) {
        self.signal(libc::SIGSTOP);
        let mut status = 0;
        // SAFETY: our own child, a valid status word.
        let got = unsafe { libc::waitpid(self.pid, &mut status, libc::WUNTRACED) };
        assert_eq!(got, self.pid, "waitpid: {}", error());
        assert!(libc::WIFSTOPPED(status), "it ended instead: {status:#x}");
    }

    /// Lets a stopped child go on.
    pub fn go_on(&self) {
        self.signal(libc::SIGCONT);
    }

    /// Waits for the end; after `limit` kills the child and says None.
    pub fn wait(self, limit: Duration) -> Option<End> {
        let deadline = Instant::now() + limit;
        let mut pause = Duration::from_micros(50);
        loop {
            if let Some(end) = self.poll() {
                return Some(end);
            }
            if Instant::now() > deadline {
                self.signal(libc::SIGKILL);
                while self.poll().is_none() {
                    std::thread::sleep(pause);
                }
                return None;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    fn poll(&self) -> Option<End> {
        let mut status = 0;
        // SAFETY: our own child, a valid status word.
        let got = unsafe { libc::waitpid(self.pid, &mut status, libc::WNOHANG) };
        assert!(got >= 0, "waitpid({}): {}", self.pid, error());
        if got == 0 {
            None
        } else if libc::WIFSIGNALED(status) {
            Some(End::Signal(libc::WTERMSIG(status)))
        } else {
            Some(End::Exit(libc::WEXITSTATUS(status)))
        }
    }

    /// Kills the child and waits for it.
    pub fn kill(self) -> End {
        self.signal(libc::SIGKILL);
        let mut status = 0;
        // SAFETY: our own child, a valid status word.
        let got = unsafe { libc::waitpid(self.pid, &mut status, 0) };
        assert_eq!(got, self.pid, "waitpid: {}", error());
        if libc::WIFSIGNALED(status) {
            End::Signal(libc::WTERMSIG(status))
        } else {
            End::Exit(libc::WEXITSTATUS(status))
        }
    }
}

/// Runs `body` in a fresh process of this test binary, where nothing else has touched memory
/// yet: the process runs the test named `test` alone, which comes here again and finds itself
/// to be the fresh one.
#[track_caller]
pub fn fresh(test: &str, body: impl FnOnce()) {
    const MARK: &str = "MEMPOOL_TEST_FRESH";
    if std::env::var_os(MARK).is_some() {
        return body();
    }
    let program = std::env::current_exe().expect("this program's own path");
    let output = Command::new(program)
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(MARK, "1")
        .output()
        .expect("this program starts again");
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    // Without what its harness says, which would be counted with what ours says.
    let of_harness =
        |line: &&str| ["running ", "test result: "].iter().any(|own| line.starts_with(own));
    said.lines().filter(|line| !of_harness(line)).for_each(|line| println!("{line}"));
    assert!(output.status.success(), "{test}: {}\n{complained}", output.status);
    assert!(said.contains("1 passed"), "no test is named {test}:\n{said}");
}
