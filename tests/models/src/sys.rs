//! Stands for the library's module of this name: threads and futexes as the kernel has them.
//!
//! - A wait compares and falls asleep in one step; a wake wakes the one that has slept longest.
//! - At a death the kernel looks at the word that the thread had announced: if it names the thread,
//!   its owner-died bit is set, and one sleeper woken if there may be any; if it names nobody, one
//!   sleeper is woken (Linux, kernel/futex: `handle_futex_death`; before 6.2 only if the word is 0).
//! - Naps do not end by themselves, so that wake-ups alone must suffice, but for these: when a thread
//!   dies that owed a wake-up which nobody else gives, see below; when it dies unheard of, having no
//!   robust list; as long as who goes first is dead; of who sleeps where that stands, of whom the kernel
//!   does not know, at each death; and one for each thread that is said to be impatient.
//!
//! A thread owes a wake-up from when it is woken, or gives back a lock that others wait for, until it
//! wakes somebody or sleeps again. If it dies before, the kernel gives it instead where the word is
//! announced and names nobody; and whom the word names, with its waiters bit, will. Nobody does if it
//! names another without that bit, who took the free lock and knows of no sleeper; nor if who was woken
//! has not announced the word yet. Who gives back has.

use crate::atomic::AtomicU32;
use crate::death;
use loom::sync::{Condvar, Mutex};
use std::cell::{Cell, RefCell};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::Arc;
use std::time::Duration;

pub const TID_MASK: u32 = 0x3fff_ffff;
const WAITERS: u32 = 1 << 31;
const OWNER_DIED: u32 = 1 << 30;

/// What is different from what the kernel usually does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quirks {
    /// The C library registers no robust list: nobody is told of a death.
    pub no_robust_list: bool,
    /// A thread's first nap ends at once.
    pub impatient: bool,
    /// No nap ends because a wake-up died with who owed it.
    pub endless_naps: bool,
}

#[derive(Default)]
struct Kernel {
    sleepers: Vec<Sleeper>,
    dead: Vec<u32>,
    owners_died: u32,
    /// The lock's word, and where it stands who goes first.
    lock: Option<AtomicU32>,
    first: Option<AtomicU32>,
}

/// By what a thread has come to owe a wake-up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Debt {
    Woken,
    GaveBack,
}

struct Sleeper {
    tid: u32,
    /// On which word.
    word: AtomicU32,
    /// What it was woken by: a wake, or the end of its nap.
    end: Option<bool>,
    bell: Arc<Condvar>,
}

impl Kernel {
    /// Wakes the first that sleeps on a word; false if nobody does.
    fn wake(&mut self, word: &AtomicU32) -> bool {
        let mut sleepers = self.sleepers.iter_mut();
        let first = sleepers.find(|sleeper| sleeper.end.is_none() && sleeper.word.is(word));
        if let Some(sleeper) = first {
            sleeper.end = Some(true);
            sleeper.bell.notify_one();
            return true;
        }
        false
    }

    /// Whether it is the word where it stands who goes first.
    fn is_first(&self, word: &AtomicU32) -> bool {
        self.first.as_ref().is_some_and(|first| first.is(word))
    }

    /// Whether somebody goes first who is dead.
    fn awaits_the_dead(&self) -> bool {
        let named = self.first.as_ref().map(|first| first.look(SeqCst) & TID_MASK);
        named.is_some_and(|named| self.dead.contains(&named))
    }

    fn end_all_naps(&mut self) {
        self.end_naps(|_| true);
    }

    fn end_naps(&mut self, of: impl Fn(&AtomicU32) -> bool) {
        let asleep = self.sleepers.iter_mut().filter(|sleeper| sleeper.end.is_none());
        for sleeper in asleep.filter(|sleeper| of(&sleeper.word)) {
            sleeper.end = Some(false);
            sleeper.bell.notify_one();
        }
    }
}

loom::lazy_static! {
    static ref KERNEL: Mutex<Kernel> = Mutex::new(Kernel::default());
}

#[derive(Default)]
struct Thread {
    tid: Cell<u32>,
    boot: Cell<u32>,
    quirks: Cell<Quirks>,
    pending: RefCell<Option<AtomicU32>>,
    owes: Cell<Option<Debt>>,
    has_napped: Cell<bool>,
    /// Deaths that have ended a nap of its.
    deaths: Cell<usize>,
}

loom::thread_local! {
    static THREAD: Thread = Thread::default();
}

/// Who the calling thread is from now on.
pub fn be(tid: u32, boot: u32, quirks: Quirks) {
    THREAD.with(|thread| {
        thread.tid.set(tid);
        thread.boot.set(boot);
        thread.quirks.set(quirks);
    });
}

/// The lock's word, and where it stands who goes first.
pub fn words_are(lock: &AtomicU32, first: &AtomicU32) {
    let mut kernel = KERNEL.lock().unwrap();
    kernel.lock = Some(lock.clone());
    kernel.first = Some(first.clone());
}

/// How many died while the lock's word named them.
pub fn owners_died() -> u32 {
    KERNEL.lock().unwrap().owners_died
}

/// The calling thread makes no further step.
pub fn thread_dies() {
    THREAD.with(|thread| {
        let tid = thread.tid.get();
        let mut kernel = KERNEL.lock().unwrap();
        kernel.dead.push(tid);
        let pending = thread.pending.borrow();
        let quirks = thread.quirks.get();
        let left_alone = match &*pending {
            Some(word) if quirks.no_robust_list => {
                if word.look(SeqCst) & TID_MASK == tid {
                    kernel.owners_died += 1;
                }
                kernel.end_all_naps();
                None
            }
            Some(word) => mark_owner_died(&mut kernel, word, tid),
            None if thread.owes.get() == Some(Debt::Woken) => {
                kernel.lock.as_ref().map(|word| word.look(SeqCst))
            }
            None => None,
        };
        // Whether it names nobody, or another who knows of no sleeper.
        let is_nobodys =
            |seen| seen & TID_MASK == 0 || seen & TID_MASK != tid && seen & WAITERS == 0;
        let is_lost = thread.owes.get().is_some() && left_alone.is_some_and(is_nobodys);
        if is_lost && !quirks.endless_naps {
            kernel.end_all_naps();
        }
        if kernel.awaits_the_dead() {
            kernel.end_all_naps();
        } else if let Some(first) = kernel.first.clone() {
            kernel.end_naps(|word| first.is(word));
        }
    });
}

/// What the kernel does about the word that the dead thread had announced. Nothing if it names another:
/// then returns the word.
fn mark_owner_died(kernel: &mut Kernel, word: &AtomicU32, tid: u32) -> Option<u32> {
    let mut seen = word.look(SeqCst);
    loop {
        if seen & TID_MASK == 0 {
            kernel.wake(word);
            return None;
        }
        if seen & TID_MASK != tid {
            return Some(seen);
        }
        match word.replace(seen, seen & WAITERS | OWNER_DIED, SeqCst, SeqCst) {
            Ok(_) => break,
            Err(other) => seen = other,
        }
    }
    kernel.owners_died += 1;
    if seen & WAITERS != 0 {
        kernel.wake(word);
    }
    None
}

/// What the calling thread has read as it gave a word back, which is what a lock swaps for.
pub fn gave_back(seen: u32) {
    owes((seen & WAITERS != 0).then_some(Debt::GaveBack));
}

fn owes(debt: Option<Debt>) {
    THREAD.with(|thread| thread.owes.set(debt));
}

pub fn wait(word: &AtomicU32, expected: u32, _: Duration) -> bool {
    if !death::step() {
        return true;
    }
    let (tid, is_impatient, no_robust_list) = THREAD.with(|thread| {
        let quirks = thread.quirks.get();
        let is_impatient = quirks.impatient && !thread.has_napped.replace(true);
        (thread.tid.get(), is_impatient, quirks.no_robust_list)
    });
    owes(None);
    let mut kernel = KERNEL.lock().unwrap();
    if word.look(SeqCst) != expected {
        return true;
    }
    if kernel.awaits_the_dead() {
        // It takes a while, in which another makes a step: whoever holds the lock, say.
        drop(kernel);
        loom::thread::yield_now();
        return false;
    }
    let is_news = |dead| THREAD.with(|thread| thread.deaths.replace(dead) < dead);
    if is_impatient
        || no_robust_list && kernel.dead.contains(&(expected & TID_MASK))
        || kernel.is_first(word) && is_news(kernel.dead.len())
    {
        return false;
    }
    let bell = Arc::new(Condvar::new());
    let word = word.clone();
    kernel.sleepers.push(Sleeper { tid, word, end: None, bell: bell.clone() });
    loop {
        let mine = kernel.sleepers.iter().position(|sleeper| sleeper.tid == tid);
        let mine = mine.expect("asleep");
        if let Some(woken) = kernel.sleepers[mine].end {
            kernel.sleepers.remove(mine);
            drop(kernel);
            owes(woken.then_some(Debt::Woken));
            death::step();
            return woken;
        }
        kernel = bell.wait(kernel).unwrap();
    }
}

pub fn wake(word: &AtomicU32) -> bool {
    if !death::step() {
        return false;
    }
    let mut kernel = KERNEL.lock().unwrap();
    let has_woken = kernel.wake(word);
    // Where it stands who goes first perhaps nobody sleeps, and others do at the lock's word.
    if has_woken || !kernel.is_first(word) {
        owes(None);
    }
    has_woken
}

#[derive(Clone, Copy)]
pub struct Me {
    pub tid: u32,
    pub generation: u64,
}

/// Each thread is a process of its own.
pub fn me() -> Me {
    let tid = THREAD.with(|thread| thread.tid.get());
    Me { tid, generation: u64::from(tid) }
}

pub struct Holding;

pub struct Announcement;

impl Me {
    pub fn hold(&self, _: &AtomicU32) -> Option<Holding> {
        Some(Holding)
    }

    pub fn announce(&self, word: &AtomicU32) -> Announcement {
        death::step();
        THREAD.with(|thread| thread.pending.replace(Some(word.clone())));
        death::step();
        Announcement
    }
}

impl Announcement {
    /// For a variant of the lock that does so too early.
    pub fn withdraw(&self) {
        death::step();
        THREAD.with(|thread| thread.pending.replace(None));
        death::step();
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        if death::step() {
            THREAD.with(|thread| thread.pending.replace(None));
            death::step();
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Stopped,
    Asleep,
    Busy,
    Dead,
}

pub fn exists(tid: u32) -> bool {
    !KERNEL.lock().unwrap().dead.contains(&tid)
}

pub fn state(_: u32) -> State {
    State::Busy
}

pub fn state_and_start(_: u32) -> (State, u64) {
    (State::Busy, 0)
}

pub fn is_of_this_process(_: u32) -> bool {
    unreachable!("the buffer is shared")
}

pub fn process() -> u32 {
    unreachable!("the buffer is shared")
}

pub fn is_process_gone(_: u32, _: u64) -> bool {
    unreachable!("nobody asks about processes here")
}

pub fn is_private_mapping(_: usize) -> Option<bool> {
    Some(false)
}

pub fn pid_namespace() -> u32 {
    7
}

pub fn boot_hash() -> u32 {
    THREAD.with(|thread| thread.boot.get())
}
