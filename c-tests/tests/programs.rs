//! Runs the C programs: each must end well and in time, and say "ok" last.
//!
//! MEMPOOL_TEST_SECONDS (1) is how long each of the random ones goes on, MEMPOOL_TEST_SEED (1)
//! where their random numbers start.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

// mod threads { #[test] fn with_the_static_library() { super::run("threads-static") } .. } and so on
include!(concat!(env!("OUT_DIR"), "/programs.rs"));

fn run(program: &str) {
    let seconds = std::env::var("MEMPOOL_TEST_SECONDS")
        .map_or(1.0, |text| text.parse().expect("MEMPOOL_TEST_SECONDS is a number of seconds"));
    let limit = Duration::from_secs_f64(60.0 + 10.0 * seconds);

    // Files, not pipes: a child process left over would hold a pipe open.
    let path = Path::new(env!("OUT_DIR")).join("programs").join(program);
    let output = [path.with_extension("out"), path.with_extension("err")];
    let [stdout, stderr] =
        output.each_ref().map(|path| File::create(path).expect("an output file"));
    let mut process = Command::new(&path)
        .stdout(stdout)
        .stderr(stderr)
        .process_group(0)
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));

    let begin = Instant::now();
    while !has_ended(&process) && begin.elapsed() < limit {
        std::thread::sleep(Duration::from_millis(5));
    }
    let in_time = has_ended(&process);
    // Whatever it has started ends with it. Not waited for yet, its number cannot mean others.
    // SAFETY: takes numbers only.
    unsafe { libc::kill(-(process.id() as libc::pid_t), libc::SIGKILL) };
    let status = process.wait().expect("our own child");

    let [stdout, stderr] = output.map(|path| fs::read_to_string(path).expect("readable output"));
    print!("{stdout}{stderr}");
    assert!(in_time, "{program}: hangs, or takes more than {limit:?}");
    assert!(status.success(), "{program}: {status}");
    assert!(stdout.ends_with("ok\n"), "{program}: ended before its end");
    assert_eq!(stderr, "", "{program}: a complaint");
}

/// Whether a child has ended, without taking note of it.
fn has_ended(child: &Child) -> bool {
    let how = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: all zero is a siginfo_t, which the kernel fills in if the child has ended.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        libc::waitid(libc::P_PID, child.id(), &mut info, how) == 0 && info.si_pid() != 0
    }
}
