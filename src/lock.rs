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
//! A word can also be a lie: scribbled over, or left by an owner whose death the kernel could not
//! announce. Who has waited for long looks closer, and either finds out that the owner cannot be,
//! or gives up with an error. Nothing is ever taken from a thread that may live.

use crate::error::{Error, Result};
use crate::region::Region;
use crate::sys::{self, TID_MASK};
use core::hint;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicU8};
use core::time::Duration;

const WAITERS: u32 = 1 << 31;
const OWNER_DIED: u32 = 1 << 30;
const _: () = assert!(WAITERS | OWNER_DIED == !TID_MASK);

/// Looks at the word before going to sleep.
const SPINS: u32 = 100;
/// The first sleep is short, for a lock lost without a wake-up; then they are longer.
const FIRST_NAP: Duration = Duration::from_millis(2);
const NAP: Duration = Duration::from_millis(50);
/// Nobody sleeps inside the lock: an owner that does all this time does not hold it.
const PATIENCE_ASLEEP: Duration = Duration::from_secs(2);
/// A busy owner may be inside a long walk, or wait for a processor or a page.
const PATIENCE_BUSY: Duration = Duration::from_secs(30);

/// Processes of several namespaces share the pool: thread numbers of the word prove nothing.
const MANY_NAMESPACES: u32 = u32::MAX;

/// This process's side of a pool's lock.
pub struct Lock {
    region: Region,
    /// Offset of the word.
    at: usize,
    /// Offset of the number of the namespace that thread numbers belong to.
    namespace_at: usize,
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
    /// The last owner died holding it.
    pub owner_died: bool,
    // Dropped in this order, after the word was released.
    _announcement: sys::Announcement,
    _holding: sys::Holding,
}

impl Lock {
    /// The lock whose word, boot and namespace lie at these offsets.
    pub fn new(region: Region, at: usize, namespace_at: usize) -> Lock {
        Lock {
            region,
            at,
            namespace_at,
            generation: AtomicU64::new(0),
            mapping: AtomicU8::new(UNKNOWN),
        }
    }

    /// Takes the lock, waiting as long as somebody may hold it. O(1) when it is free.
    ///
    /// Errors: [`Error::Reentered`] from a signal handler inside a call, [`Error::Corrupted`]
    /// when the word names a thread that does not hold it.
    pub fn acquire(&self) -> Result<Held<'_>> {
        let me = sys::me();
        let word = self.word()?;
        let holding = me.hold(word).ok_or(Error::Reentered)?;
        if self.generation.load(Relaxed) != me.generation {
            self.introduce(me.generation);
        }
        let announcement = me.announce(word);
        if word.compare_exchange(0, me.tid, Acquire, Relaxed).is_ok() {
            return Ok(Held {
                word,
                owner_died: false,
                _announcement: announcement,
                _holding: holding,
            });
        }
        drop(announcement);
        let (owner_died, announcement) = self.acquire_slowly(word, me)?;
        Ok(Held { word, owner_died, _announcement: announcement, _holding: holding })
    }

    /// Takes over a lock of another boot, or of none; afterwards it belongs to this one. None if
    /// it does already. Exactly one of many callers gets it.
    pub fn claim(&self) -> Result<Option<Held<'_>>> {
        let boot = sys::boot_hash();
        let whole = self.region.word64(self.at).ok_or(self.misplaced())?;
        let found = whole.load(Relaxed);
        if boot == 0 || (found >> 32) as u32 == boot {
            return Ok(None);
        }
        let me = sys::me();
        let word = self.word()?;
        let holding = me.hold(word).ok_or(Error::Reentered)?;
        let announcement = me.announce(word);
        let mine = u64::from(boot) << 32 | u64::from(me.tid);
        if whole.compare_exchange(found, mine, Acquire, Relaxed).is_err() {
            return Ok(None);
        }
        self.settle();
        let owner_died = found as u32 & !WAITERS != 0;
        Ok(Some(Held { word, owner_died, _announcement: announcement, _holding: holding }))
    }

    /// Takes the lock whatever its word says: for who formats the buffer, whose word may be
    /// anything.
    pub fn seize(&self) -> Result<Held<'_>> {
        let me = sys::me();
        let word = self.word()?;
        let holding = me.hold(word).ok_or(Error::Reentered)?;
        let announcement = me.announce(word);
        let mine = u64::from(sys::boot_hash()) << 32 | u64::from(me.tid);
        self.region.store64(self.at, mine);
        self.settle();
        Ok(Held { word, owner_died: false, _announcement: announcement, _holding: holding })
    }

    fn word(&self) -> Result<&AtomicU32> {
        self.region.word32(self.at).ok_or(self.misplaced())
    }

    fn misplaced(&self) -> Error {
        Error::Corrupted { what: "no lock can be here", at: self.at as u64 }
    }

    /// From now on the thread numbers of this process's namespace are the ones that count. For
    /// who holds a lock that nobody has used before.
    pub fn settle(&self) {
        self.region.store32(self.namespace_at, sys::pid_namespace());
        self.generation.store(sys::me().generation, Relaxed);
        self.mapping.store(UNKNOWN, Relaxed);
    }

    /// Before this process's first call: if its thread numbers mean other threads than the
    /// others', say so.
    #[cold]
    fn introduce(&self, generation: u64) {
        if self.region.load32(self.namespace_at) != sys::pid_namespace() {
            self.region.store32(self.namespace_at, MANY_NAMESPACES);
        }
        self.mapping.store(UNKNOWN, Relaxed);
        self.generation.store(generation, Relaxed);
    }

    #[cold]
    fn acquire_slowly(&self, word: &AtomicU32, me: sys::Me) -> Result<(bool, sys::Announcement)> {
        let mut doubt = Doubt::default();
        // Who has slept cannot know whether others still do.
        let mut waiters = 0;
        loop {
            let seen = spin(word);
            if seen & TID_MASK == 0 {
                let announcement = me.announce(word);
                let mine = me.tid | waiters | seen & WAITERS;
                if word.compare_exchange(seen, mine, Acquire, Relaxed).is_ok() {
                    return Ok((seen & OWNER_DIED != 0, announcement));
                }
                continue;
            }
            let asleep = seen | WAITERS;
            if seen != asleep && word.compare_exchange(seen, asleep, Relaxed, Relaxed).is_err() {
                continue;
            }
            waiters = WAITERS;
            // Not announced while asleep: the kernel compares thread numbers, and another
            // namespace's thread of this number may hold the word.
            if sys::wait(word, asleep, doubt.nap()) {
                doubt = Doubt::default();
                continue;
            }
            if self.names_nobody(asleep & TID_MASK, me.tid) {
                let announcement = me.announce(word);
                if word.compare_exchange(asleep, me.tid | WAITERS, Acquire, Relaxed).is_ok() {
                    return Ok((true, announcement));
                }
            } else if doubt.grows(asleep) {
                let what = "the lock names a thread that does not hold it";
                return Err(Error::Corrupted { what, at: self.at as u64 });
            }
        }
    }

    /// Whether no thread of this number can be the lock's owner. When in doubt, it can.
    fn names_nobody(&self, tid: u32, mine: u32) -> bool {
        if self.is_private() {
            // Only this process can see the word; a fork's child finds its parent's there.
            return tid == mine || !sys::is_of_this_process(tid);
        }
        let namespace = self.region.load32(self.namespace_at);
        let is_known = namespace != 0 && namespace == sys::pid_namespace();
        is_known && (tid == mine || !sys::exists(tid))
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

/// The word once it is free, or after a while.
fn spin(word: &AtomicU32) -> u32 {
    let mut seen = word.load(Relaxed);
    for _ in 0..SPINS {
        if seen & TID_MASK == 0 {
            break;
        }
        hint::spin_loop();
        seen = word.load(Relaxed);
    }
    seen
}

/// How long a sleeper has seen the same word without being woken.
#[derive(Default)]
struct Doubt {
    word: u32,
    naps: u32,
    asleep: Duration,
    busy: Duration,
}

impl Doubt {
    fn nap(&self) -> Duration {
        if self.naps == 0 {
            FIRST_NAP
        } else {
            NAP
        }
    }

    /// After a nap: whether the word's owner has shown for too long that it is none. A stopped
    /// owner is waited for without end.
    fn grows(&mut self, word: u32) -> bool {
        if self.word != word {
            *self = Doubt { word, ..Doubt::default() };
        }
        let nap = self.nap();
        self.naps += 1;
        match sys::state(word & TID_MASK) {
            sys::State::Stopped => (self.asleep, self.busy) = Default::default(),
            sys::State::Asleep => self.asleep += nap,
            sys::State::Busy => {
                self.asleep = Duration::ZERO;
                self.busy += nap;
            }
        }
        self.asleep >= PATIENCE_ASLEEP || self.busy + self.asleep >= PATIENCE_BUSY
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.word.swap(0, Release) & WAITERS != 0 {
            sys::wake(self.word);
        }
    }
}
