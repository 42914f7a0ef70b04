//! Threads that work one at a time: the fuzzer's own, one that lives on from input to input, and
//! ones that end. Each has a cache of its own in the pool.
#![forbid(unsafe_code)]

use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::Mutex;
use std::thread;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The thread that lives on.
    Other,
    /// A thread that ends after it.
    Mortal,
}

/// What goes on step by step, in one thread or another.
pub trait Walk: Send + 'static {
    /// Takes so many steps, less at the end, and where it is to go on in another thread.
    fn steps(&mut self, count: usize);

    /// In which thread it goes on, for how many steps; once for each time.
    fn turn(&mut self) -> Option<(Who, usize)>;
}

/// To the end.
pub fn run<T: Walk>(mut it: T) -> T {
    it.steps(usize::MAX);
    while let Some((who, steps)) = it.turn() {
        it = work(who, it, move |it| it.steps(steps));
        it.steps(usize::MAX);
    }
    it
}

/// Has a thread do something with what it is given, and gives that back.
fn work<T: Send + 'static>(who: Who, mut it: T, job: impl FnOnce(&mut T) + Send + 'static) -> T {
    match who {
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
