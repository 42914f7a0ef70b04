//! A thread beside the test's own.

use std::sync::mpsc::{channel, Sender};
use std::thread::JoinHandle;

/// What a thread is told to do.
type Task = Box<dyn FnOnce() + Send>;

/// A thread that does what it is told, and waits.
pub struct Other {
    tasks: Option<Sender<Task>>,
    thread: Option<JoinHandle<()>>,
}

impl Other {
    pub fn new() -> Other {
        let (tasks, receive) = channel::<Task>();
        let thread = std::thread::spawn(move || receive.into_iter().for_each(|task| task()));
        Other { tasks: Some(tasks), thread: Some(thread) }
    }

    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (send, receive) = channel();
        let task = Box::new(move || send.send(work()).expect("the test waits for it"));
        self.tasks.as_ref().expect("not ended").send(task).expect("it lives");
        receive.recv().expect("it did its work")
    }

    /// Returns when the thread is gone.
    pub fn end(mut self) {
        drop(self.tasks.take());
        self.thread.take().expect("not ended").join().expect("it ended well");
    }
}
