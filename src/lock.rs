//! The robust lock: one futex word in the buffer that outlives its owner.
//!
//! ```text
//! bits 63..32     31        30          29..0
//!      boot     | waiters | owner-died | thread
//!
//! thread  owner-died  waiters
//!   0        0           -      free
//!   n        0           0      held by thread n
//!   n        0           1      held, and somebody may be asleep
//!   0        1           -      the kernel says: the owner died; whoever takes it recovers
//! ```
//!
//! While a thread takes, holds or releases the lock, its robust list's `list_op_pending` names
//! the word (set_robust_list(2); the kernel's robust-futex-ABI), so that the kernel marks the
//! word when the thread dies, however it dies. The boot is a number of the running boot: a word
//! of another boot names nobody, and [`Lock::claim`] takes it over.
//!
//! Whoever finds it free takes it, those who have just given it back first of all: that is fast, and
//! would leave a sleeper behind for ever where somebody is inside nearly always. So who has slept a few
//! times in vain writes its thread number to a second word, *first*, and sleeps there. As long as that
//! names somebody all others leave a free lock alone, call it, and sleep; if it does not come in time,
//! be it stopped, dead, or a number that nobody wrote, they strike it out. It is a hint: whatever it
//! says, nobody gets in who would not, and nobody waits for longer than a nap.
//!
//! ```text
//! first   31       | 29..0
//!         called   | thread
//! ```
//!
//! A word can also be a lie: scribbled over, or left by an owner whose death the kernel could not
//! announce. Who has waited for long looks closer, and either finds out that the owner cannot be,
//! or gives up with an error. Nothing is ever taken from a thread that may live.
#![forbid(unsafe_code)]

use crate::counts;
use crate::error::{Error, Result};
use crate::layout::{FIRST_OFFSET, LOCK_OFFSET, NAMESPACE_OFFSET, TURN_OFFSET};
use crate::region::Region;
use crate::sys::{self, TID_MASK};
use core::hint;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicU8};
use core::time::Duration;
use std::time::Instant;

const WAITERS: u32 = 1 << 31;
const OWNER_DIED: u32 = 1 << 30;
const _: () = assert!(WAITERS | OWNER_DIED == !TID_MASK);
/// Who goes first has been called since it last looked.
const CALLED: u32 = 1 << 31;

/// Looks at the word before going to sleep.
const SPINS: u32 = 20;
/// Pauses of the processor between two looks, at most.
const PAUSES: u32 = 128;
/// The first sleep is short, for a lock lost without a wake-up; then they are longer.
const FIRST_NAP: Duration = Duration::from_millis(2);
const NAP: Duration = Duration::from_millis(50);
/// Who has slept so often, and others were there before, wants to be first.
const IN_VAIN: u32 = 2;
/// But not while one thread holds it for so long: then sleeps may be long, too.
const LONG: Duration = Duration::from_millis(100);
/// So long a free lock is left to who goes first, and may have to wait for its turn on a processor.
const WAY: Duration = Duration::from_millis(10);
/// Nobody sleeps inside the lock: an owner that does all this time does not hold it. (But a frozen
/// container's threads seem asleep too; then a call fails, and nothing is taken.)
const PATIENCE_ASLEEP: Duration = Duration::from_secs(2);
/// A busy owner may wait for a processor or a page; in long work it takes a new turn now and then.
const PATIENCE_BUSY: Duration = Duration::from_secs(30);

/// Processes of several namespaces share the pool: thread numbers of the word prove nothing.
const MANY_NAMESPACES: u32 = u32::MAX;

/// This process's side of a pool's lock.
pub struct Lock {
    region: Region,
    /// Offset of the word.
    at: usize,
    /// Offset of the number of the thread that goes first, if one does.
    first_at: usize,
    /// Offset of the number of the namespace that thread numbers belong to.
    namespace_at: usize,
    /// Offset of the number that changes with each owner.
    turn_at: usize,
    /// The process that has made itself known; another after a fork.
    generation: AtomicU64,
    mapping: AtomicU8,
}

/// What is known of the buffer's mapping.
const UNKNOWN: u8 = 0;
const SHARED: u8 = 1;
const PRIVATE: u8 = 2;

/// The lock, held.
pub struct Held<'a> {
    word: &'a AtomicU32,
    first: &'a AtomicU32,
    /// The last owner died holding it.
    pub owner_died: bool,
    /// It belonged to another boot, of which no thread lives.
    pub rebooted: bool,
    // Dropped in this order, after the word was released.
    _announcement: sys::Announcement,
    _holding: sys::Holding,
}

impl Lock {
    /// The lock of the pool whose header lies at this offset.
    pub fn new(region: Region, header: usize) -> Lock {
        let within = |offset: usize| header.saturating_add(offset);
        Lock {
            region,
            at: within(LOCK_OFFSET),
            first_at: within(FIRST_OFFSET),
            namespace_at: within(NAMESPACE_OFFSET),
            turn_at: within(TURN_OFFSET),
            generation: AtomicU64::new(0),
            mapping: AtomicU8::new(UNKNOWN),
        }
    }

    /// Takes the lock, waiting as long as somebody may hold it. O(1) when it is free.
    ///
    /// Errors: [`Error::Reentered`] from a signal handler inside a call, [`Error::Corrupted`]
    /// when the word names a thread that does not hold it.
    pub fn acquire(&self) -> Result<Held<'_>> {
        counts::lock();
        let me = sys::me();
        let (word, first) = (self.word()?, self.first()?);
        let holding = me.hold(word).ok_or(Error::Reentered)?;
        let is_new = self.generation.load(Relaxed) != me.generation;
        if is_new {
            self.introduce();
        }
        let (owner_died, announcement) = match self.acquire_free(word, first, me) {
            Some(announcement) => (false, announcement),
            None => {
                let got = self.acquire_slowly(word, first, me);
                strike_out(first, me.tid);
                got?
            }
        };
        if is_new {
            // Once more: the last owner may have settled since.
            self.introduce();
            self.generation.store(me.generation, Relaxed);
        }
        Ok(self.held(word, first, owner_died, announcement, holding))
    }

    /// Takes over a lock of another boot, or a free one of none; afterwards it belongs to this one.
    /// None if it does already. Exactly one of many callers gets it.
    pub fn claim(&self) -> Result<Option<Held<'_>>> {
        let boot = sys::boot_hash();
        let whole = self.region.word64(self.at).ok_or(self.misplaced())?;
        let found = whole.load(Relaxed);
        let its_boot = (found >> 32) as u32;
        // Without a boot it is the lock of somebody who could not tell, and who may hold it now.
        let may_be_held = its_boot == 0 && found as u32 & TID_MASK != 0;
        if boot == 0 || its_boot == boot || may_be_held {
            return Ok(None);
        }
        let me = sys::me();
        let (word, first) = (self.word()?, self.first()?);
        let holding = me.hold(word).ok_or(Error::Reentered)?;
        let announcement = me.announce(word);
        let mine = u64::from(boot) << 32 | u64::from(me.tid);
        if whole.compare_exchange(found, mine, Acquire, Relaxed).is_err() {
            return Ok(None);
        }
        if its_boot == 0 {
            // Its maker may live, in a namespace that he could not tell either.
            self.introduce();
            self.generation.store(me.generation, Relaxed);
        } else {
            self.settle();
        }
        let owner_died = found as u32 & !WAITERS != 0;
        let mut held = self.held(word, first, owner_died, announcement, holding);
        held.rebooted = its_boot != 0;
        Ok(Some(held))
    }

    /// Takes the lock whatever its word says: for who formats the buffer, whose word may be
    /// anything.
    pub fn seize(&self) -> Result<Held<'_>> {
        let me = sys::me();
        let (word, first) = (self.word()?, self.first()?);
        let holding = me.hold(word).ok_or(Error::Reentered)?;
        let announcement = me.announce(word);
        let mine = u64::from(sys::boot_hash()) << 32 | u64::from(me.tid);
        self.region.store64(self.at, mine);
        self.settle();
        Ok(self.held(word, first, false, announcement, holding))
    }

    fn held<'a>(
        &self,
        word: &'a AtomicU32,
        first: &'a AtomicU32,
        owner_died: bool,
        announcement: sys::Announcement,
        holding: sys::Holding,
    ) -> Held<'a> {
        self.region.store32(self.turn_at, self.turn().wrapping_add(1));
        let rebooted = false;
        Held { word, first, owner_died, rebooted, _announcement: announcement, _holding: holding }
    }

    fn turn(&self) -> u32 {
        self.region.load32(self.turn_at)
    }

    fn word(&self) -> Result<&AtomicU32> {
        self.region.word32(self.at).ok_or(self.misplaced())
    }

    fn first(&self) -> Result<&AtomicU32> {
        self.region.word32(self.first_at).ok_or(self.misplaced())
    }

    fn misplaced(&self) -> Error {
        Error::Corrupted { what: "no lock can be here", at: self.at as u64 }
    }

    /// From now on the thread numbers of this process's namespace are the ones that count. For
    /// who holds a lock that nobody has used before.
    pub fn settle(&self) {
        self.region.store32(self.namespace_at, sys::pid_namespace());
        self.region.store32(self.first_at, 0);
        self.generation.store(sys::me().generation, Relaxed);
        self.mapping.store(UNKNOWN, Relaxed);
    }

    /// Before this process's first call: if its thread numbers mean other threads than the
    /// others', say so.
    #[cold]
    fn introduce(&self) {
        if self.region.load32(self.namespace_at) != sys::pid_namespace() {
            self.region.store32(self.namespace_at, MANY_NAMESPACES);
        }
        self.mapping.store(UNKNOWN, Relaxed);
    }

    /// Takes the lock if it is free, and nobody goes first. Announced only then: a thread that dies
    /// with the word of another namespace's thread of its number announced would be taken for that one.
    fn acquire_free(
        &self,
        word: &AtomicU32,
        first: &AtomicU32,
        me: sys::Me,
    ) -> Option<sys::Announcement> {
        if word.load(Relaxed) != 0 || first.load(Relaxed) != 0 {
            return None;
        }
        let announcement = me.announce(word);
        word.compare_exchange(0, me.tid, Acquire, Relaxed).is_ok().then_some(announcement)
    }

    #[cold]
    fn acquire_slowly(
        &self,
        word: &AtomicU32,
        first: &AtomicU32,
        me: sys::Me,
    ) -> Result<(bool, sys::Announcement)> {
        let mut doubt: Option<Doubt> = None;
        // Who has slept cannot know whether others still do.
        let mut waiters = 0;
        let mut naps = 0;
        loop {
            let seen = spin(word);
            let named = first.load(Relaxed);
            let is_mine = named & TID_MASK == me.tid;
            let is_free = seen & TID_MASK == 0;
            if is_free && (named == 0 || is_mine) {
                let announcement = me.announce(word);
                let mine = me.tid | waiters | seen & WAITERS;
                if word.compare_exchange(seen, mine, Acquire, Relaxed).is_ok() {
                    return Ok((seen & OWNER_DIED != 0, announcement));
                }
                continue;
            }
            let is_long = doubt.as_ref().is_some_and(|doubt| doubt.waited > LONG);
            if is_long {
                strike_out(first, me.tid);
            }
            let is_first = !is_long && (is_mine || named == 0 && naps >= IN_VAIN);
            // Never over another's number, who sleeps there and would not be called.
            if is_first && first.compare_exchange(named, me.tid, Relaxed, Relaxed).is_err() {
                continue;
            }
            // Who gives the lock back after this sees that somebody sleeps, and who is first.
            let asleep = seen | WAITERS;
            if (seen != asleep || is_first || is_free)
                && word.compare_exchange(seen, asleep, AcqRel, Relaxed).is_err()
            {
                continue;
            }
            waiters = WAITERS;
            naps += 1;
            // Not announced while asleep: the kernel compares thread numbers, and another
            // namespace's thread of this number may hold the word.
            if is_free {
                give_way(word, asleep, first, named);
                doubt = None;
                continue;
            }
            let nap = if doubt.is_none() { FIRST_NAP } else { NAP };
            let woken = if is_first {
                sys::wait(first, me.tid, FIRST_NAP)
            } else {
                sys::wait(word, asleep, nap)
            };
            if woken {
                doubt = None;
            } else if let Some(announcement) = self.question(word, asleep, me, &mut doubt)? {
                return Ok((true, announcement));
            }
        }
    }

    /// After a nap in which nobody called: takes the lock over if the word, as it was, names nobody who
    /// can hold it. An error once its owner has shown for too long that it does not.
    fn question(
        &self,
        word: &AtomicU32,
        asleep: u32,
        me: sys::Me,
        doubt: &mut Option<Doubt>,
    ) -> Result<Option<sys::Announcement>> {
        let owner = asleep & TID_MASK;
        if self.names_nobody(owner, me.tid) {
            let announcement = me.announce(word);
            let taken = word.compare_exchange(asleep, me.tid | WAITERS, Acquire, Relaxed);
            return Ok(taken.is_ok().then_some(announcement));
        }
        let (turn, state) = ((asleep, self.turn()), self.state(owner));
        if doubt.get_or_insert_with(|| Doubt::new(turn)).grows(turn, state) {
            let what = "the lock names a thread that does not hold it";
            return Err(Error::Corrupted { what, at: self.at as u64 });
        }
        Ok(None)
    }

    /// What can be asked about threads that use the pool.
    pub fn inquiry(&self) -> Inquiry {
        let private = self.is_private();
        Inquiry { private, possible: private || self.numbers_are_ours() }
    }

    /// Whether no thread of this number can be the lock's owner. When in doubt, it can.
    fn names_nobody(&self, tid: u32, mine: u32) -> bool {
        if self.is_private() {
            // Only this process can see the word; a fork's child finds its parent's there.
            return tid == mine || !sys::is_of_this_process(tid);
        }
        let is_nobody = || !sys::exists(tid) || sys::state(tid) == sys::State::Dead;
        self.numbers_are_ours() && (tid == mine || is_nobody())
    }

    /// Whether the word's thread numbers are those of this process's namespace, for all users.
    fn numbers_are_ours(&self) -> bool {
        let namespace = self.region.load32(self.namespace_at);
        namespace != 0 && namespace == sys::pid_namespace()
    }

    /// What the thread of this number is doing, if it can be known.
    fn state(&self, tid: u32) -> sys::State {
        if self.is_private() || self.numbers_are_ours() {
            sys::state(tid)
        } else {
            sys::State::Busy
        }
    }

    fn is_private(&self) -> bool {
        let known = self.mapping.load(Relaxed);
        if known != UNKNOWN {
            return known == PRIVATE;
        }
        let private = sys::is_private_mapping(self.region.address() + self.at) == Some(true);
        self.mapping.store(if private { PRIVATE } else { SHARED }, Relaxed);
        private
    }
}

/// How to ask whether threads live; made once for many of them.
#[derive(Clone, Copy)]
pub struct Inquiry {
    private: bool,
    possible: bool,
}

impl Inquiry {
    /// Whether deaths can be told at all.
    pub fn is_possible(&self) -> bool {
        self.possible
    }

    /// Whether the process of this number that started then is gone, or a zombie. When in doubt, it
    /// is not.
    pub fn is_process_gone(&self, pid: u32, start: u64) -> bool {
        if self.private {
            // Nobody else sees the buffer; what a parent made is left by one who has gone.
            return pid != sys::process();
        }
        self.possible && sys::is_process_gone(pid, start)
    }

    /// Whether the thread of this number that started then is gone. When in doubt, it is not. Asked
    /// `closely` a zombie counts as gone, and one whose number another thread has by now: that takes
    /// far longer.
    pub fn is_gone(&self, tid: u32, start: u64, closely: bool) -> bool {
        if !self.possible {
            return false;
        }
        let exists = if self.private { sys::is_of_this_process(tid) } else { sys::exists(tid) };
        if !exists || !closely {
            return !exists;
        }
        let (state, now) = sys::state_and_start(tid);
        state == sys::State::Dead || start != 0 && now != 0 && now != start
    }
}

/// Leaves a free lock to the one that goes first, and sleeps until it gives it back. One that does not
/// come in time, or before a signal ends this sleep, does not go first any more.
fn give_way(word: &AtomicU32, asleep: u32, first: &AtomicU32, named: u32) {
    if first.load(Relaxed) & TID_MASK != named & TID_MASK {
        // It has come and gone, and has not seen that somebody sleeps.
        return;
    }
    call(first);
    if !sys::wait(word, asleep, WAY) {
        strike_out(first, named & TID_MASK);
    }
}

/// Tells who goes first that the lock is free; false if nobody was asleep there. Who is about to sleep
/// finds another value in the word than the one it left.
fn call(first: &AtomicU32) -> bool {
    let named = first.load(Relaxed);
    if named == 0 {
        return false;
    }
    let _ = first.compare_exchange(named, named | CALLED, Relaxed, Relaxed);
    sys::wake(first)
}

/// The thread of this number does not go first any more, if it was to.
fn strike_out(first: &AtomicU32, tid: u32) {
    let is_its = |named: u32| (named != 0 && named & TID_MASK == tid).then_some(0);
    let _ = first.fetch_update(Relaxed, Relaxed, is_its);
}

/// The word once it is free, or after a while. Looks become rarer: an owner who comes back soon
/// then finds all he works with in his own cache, which is worth more than being fair.
fn spin(word: &AtomicU32) -> u32 {
    let mut seen = word.load(Relaxed);
    let mut pauses = 1;
    for _ in 0..SPINS {
        if seen & TID_MASK == 0 {
            break;
        }
        for _ in 0..pauses {
            hint::spin_loop();
        }
        pauses = (2 * pauses).min(PAUSES);
        seen = word.load(Relaxed);
    }
    seen
}

/// How long a sleeper has seen the same owner without being woken.
struct Doubt {
    /// The word and the turn of the owner.
    owner: (u32, u32),
    waited: Duration,
    /// Of this, while the owner was asleep all the time.
    asleep: Duration,
    last_look: Instant,
}

impl Doubt {
    fn new(owner: (u32, u32)) -> Doubt {
        let (waited, asleep) = Default::default();
        Doubt { owner, waited, asleep, last_look: Instant::now() }
    }

    /// After a nap: whether the owner has shown for too long that it is none. A stopped one is
    /// waited for without end.
    fn grows(&mut self, owner: (u32, u32), state: sys::State) -> bool {
        if self.owner != owner || state == sys::State::Stopped {
            *self = Doubt::new(owner);
        }
        // The clock, since a signal cuts a nap short; but no more than a nap, since the sleeper
        // itself may have been stopped.
        let now = Instant::now();
        let nap = (now - self.last_look).min(NAP);
        self.last_look = now;
        self.waited += nap;
        self.asleep = if state == sys::State::Asleep { self.asleep + nap } else { Duration::ZERO };
        self.asleep >= PATIENCE_ASLEEP || self.waited >= PATIENCE_BUSY
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.word.swap(0, AcqRel) & WAITERS != 0 && !call(self.first) {
            sys::wake(self.word);
        }
    }
}
