//! Runs the C programs: each must end well and in time, and say "ok" last.
//!
//! MEMPOOL_TEST_SECONDS (1) is how long each of the random ones goes on, MEMPOOL_TEST_SEED (1)
//! where their random numbers start.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
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
    let status = loop {
        match process.try_wait().expect("our own child") {
            Some(status) => break Some(status),
            None if begin.elapsed() > limit => break None,
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    // Whatever it had started ends with it.
    let group = format!("-{}", process.id());
    let _ended = Command::new("kill")
        .args(["-KILL", "--", &group])
        .stderr(std::process::Stdio::null())
        .status();
    if status.is_none() {
        process.wait().expect("our own child");
    }

    let [stdout, stderr] = output.map(|path| fs::read_to_string(path).expect("readable output"));
    print!("{stdout}{stderr}");
    match status {
        Some(status) => assert!(status.success(), "{program}: {status}"),
        None => panic!("{program}: hangs, or takes more than {limit:?}"),
    }
    assert!(stdout.ends_with("ok\n"), "{program}: ended before its end");
    assert_eq!(stderr, "", "{program}: a complaint");
}
