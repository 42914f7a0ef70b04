//! The lock's word, written over: each call waits for a while, and then does without or says so.
//! (What its values mean, and which are waited for, is tried in `tests/lock.rs`.)

use super::call::{is_possible, CALLS};
use super::common::child::{self, End};
use super::common::worker::gettid;
use super::scene::{Kind, Scene, KINDS};
use ::mempool::layout::LOCK_OFFSET;
use std::time::{Duration, Instant};

/// A sleeper is believed for two seconds; some calls of ours are several, and others work here too.
const LIMIT: Duration = Duration::from_secs(90);

/// A thread that sleeps, and its number.
fn sleeper() -> u32 {
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        send.send(gettid()).expect("the test waits for it");
        std::thread::sleep(Duration::from_secs(3600));
    });
    receive.recv().expect("it started")
}

fn endure(kind: Kind, call: usize) {
    let memory = kind.memory();
    let mut scene = Scene::new(kind, &memory);
    let word = scene.geometry.word(LOCK_OFFSET);
    scene.set_word(word, 4, sleeper().into());
    let answer = (CALLS[call].run)(&scene);
    assert!(is_possible(answer), "{}: {answer:?}", CALLS[call].name);
    // Who makes another pool of the buffer need not wait.
    let start = Instant::now();
    scene.build();
    assert!(start.elapsed() < Duration::from_secs(20));
    scene.pool.must_check();
}

#[test]
fn every_call_ends_when_the_word_names_a_sleeper() {
    // All at once: they sleep most of the time.
    let mut children = Vec::new();
    for kind in [KINDS[0], KINDS[6]] {
        for (number, call) in CALLS.iter().enumerate() {
            // Ten times as long as one free.
            if call.name != "free all of them" {
                let child = child::fork(|| {
                    endure(kind, number);
                    0
                });
                children.push((child, kind.name, call.name));
            }
        }
    }
    for (child, kind, call) in children {
        assert_eq!(child.wait(LIMIT), Some(End::Exit(0)), "{kind}: {call}");
    }
}
