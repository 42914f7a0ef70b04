//! Threads that work one at a time: the fuzzer's own, one that lives on from input to input, and
//! ones that end. Each has a cache of its own in the pool.
#![forbid(unsafe_code)]

use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::Mutex;
use std::thread;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Whoever asks.
    Here,
    /// The thread that lives on.
    Other,
    /// A thread that ends after it.
    Mortal,
}

/// Has a thread do something with what it is given, and gives that back.
pub fn work<T: Send + 'static>(who: Who, mut it: T, job: fn(&mut T)) -> T {
    match who {
        Who::Here => {
            job(&mut it);
            it
        }
        Who::Mortal => thread::spawn(move || {
            job(&mut it);
            it
        })
        .join()
        .expect("a panic ends the process"),
        Who::Other => {
            let (send, receive) = channel();
            hand_over(Box::new(move || {
                job(&mut it);
                send.send(it).unwrap_or_else(|_| unreachable!("somebody waits for it"));
            }));
            receive.recv().expect("a panic ends the process")
        }
    }
}

fn hand_over(job: Job) {
    static OTHER: Mutex<Option<Sender<Job>>> = Mutex::new(None);
    let mut other = OTHER.lock().expect("a panic ends the process");
    let jobs = other.get_or_insert_with(|| {
        let (jobs, mine): (Sender<Job>, Receiver<Job>) = channel();
        thread::spawn(move || mine.into_iter().for_each(|job| job()));
        jobs
    });
    jobs.send(job).expect("it lives on");
}
