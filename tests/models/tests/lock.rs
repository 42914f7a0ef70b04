//! The lock, in every order of steps and with a death at every step; and what would not do.
//!
//! Three threads, each of a process of its own, make a change of two parts under the lock. Whatever
//! dies where:
//!
//! - nobody is inside with another (loom would see both touch the parts);
//! - all who live get in, by wake-ups alone (else loom finds that all threads sleep; which naps end
//!   by themselves says [`models::sys`]);
//! - of each owner that died exactly one is told, the next;
//! - so half a change is always finished before the next is begun.

use loom::cell::UnsafeCell;
use loom::thread;
use models::death;
use models::layout::{FIRST_OFFSET, LOCK_OFFSET, NAMESPACE_OFFSET, TURN_OFFSET};
use models::locks;
use models::region::Region;
use models::sys::{self, Quirks};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::Arc;

const BOOT: u32 = 3;
const OLD_BOOT: u32 = 2;

/// A lock, as it is or weakened.
trait Robust {
    fn new(region: Region) -> Self;

    /// Takes it and does this, which is told whether an owner died, and gives it back.
    fn visit(&self, work: impl FnOnce(bool));

    /// The same if it is a lock of another boot; else does nothing and says false.
    fn claim(&self, work: impl FnOnce(bool)) -> bool;
}

macro_rules! robust {
    ($($name:ident)*) => {$(
        impl Robust for locks::$name::Lock {
            fn new(region: Region) -> Self {
                Self::new(region, 0)
            }

            fn visit(&self, work: impl FnOnce(bool)) {
                let held = self.acquire().expect("whom the word names lives, or is dead");
                work(held.owner_died);
            }

            fn claim(&self, work: impl FnOnce(bool)) -> bool {
                let Some(held) = self.claim().expect("a lock") else { return false };
                assert!(held.rebooted);
                work(held.owner_died);
                true
            }
        }
    )*};
}

/// What is changed under the lock: two parts that must agree.
struct Parts {
    one: UnsafeCell<u32>,
    other: UnsafeCell<u32>,
    told: AtomicU32,
    reboots: AtomicU32,
}

// SAFETY: that nobody touches the parts while another does is what loom verifies.
unsafe impl Sync for Parts {}
// SAFETY: as above.
unsafe impl Send for Parts {}

impl Parts {
    fn new(one: u32, other: u32) -> Parts {
        let (told, reboots) = Default::default();
        Parts { one: UnsafeCell::new(one), other: UnsafeCell::new(other), told, reboots }
    }

    fn change(&self, owner_died: bool) {
        self.told.fetch_add(u32::from(owner_died), SeqCst);
        // SAFETY: see above; so in all closures below.
        let (one, other) = unsafe { (self.one.with(|part| *part), self.other.with(|part| *part)) };
        assert!(one == other || owner_died, "half a change, and nobody was told");
        death::step();
        self.other.with_mut(|part| unsafe { *part = one });
        death::step();
        self.one.with_mut(|part| unsafe { *part += 1 });
        death::step();
        self.other.with_mut(|part| unsafe { *part += 1 });
        death::step();
    }
}

/// Who dies where, and what is unusual.
#[derive(Clone, Copy)]
struct Cast {
    /// At which of its steps each thread dies.
    deaths: [Option<u32>; 3],
    quirks: Quirks,
    /// The lock is one of an old boot, and its owner was amid a change.
    is_rebooted: bool,
}

/// A thread's part in it: makes one change.
fn life<L: Robust>(region: &Region, parts: &Parts, cast: &Cast) {
    let lock = L::new(region.clone());
    let claimed = cast.is_rebooted
        && lock.claim(|owner_died| {
            parts.reboots.fetch_add(1, SeqCst);
            parts.change(owner_died);
        });
    if !claimed {
        lock.visit(|owner_died| parts.change(owner_died));
    }
}

/// One order of steps. Who died: a bit for each.
fn play<L: Robust + 'static>(cast: Cast) -> u32 {
    let region = Region::new(4096);
    sys::be(100, BOOT, Quirks::default());
    region.store32(NAMESPACE_OFFSET, sys::pid_namespace());
    let old_owners = u32::from(cast.is_rebooted);
    if cast.is_rebooted {
        region.store64(LOCK_OFFSET, u64::from(OLD_BOOT) << 32 | 77);
    }
    // All words come into being before the threads do.
    region.store32(LOCK_OFFSET, if cast.is_rebooted { 77 } else { 0 });
    region.store32(TURN_OFFSET, 0);
    region.store32(FIRST_OFFSET, 0);
    let word = |at| region.word32(at).unwrap();
    sys::words_are(word(LOCK_OFFSET), word(FIRST_OFFSET));
    let parts = Arc::new(Parts::new(old_owners, 0));
    let dead = Arc::new(AtomicU32::new(0));
    let act = |at: usize| {
        let (region, parts, dead) = (region.clone(), parts.clone(), dead.clone());
        move || {
            sys::be(1 + at as u32, BOOT, cast.quirks);
            match cast.deaths[at] {
                None => life::<L>(&region, &parts, &cast),
                Some(steps) => {
                    let lived = death::mortal(steps, || life::<L>(&region, &parts, &cast));
                    dead.fetch_or(u32::from(!lived) << at, SeqCst);
                }
            }
        }
    };
    let threads = [0, 1].map(|at| thread::spawn(act(at)));
    // The first two die first, if any; the last is this one.
    act(2)();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    if cast.deaths[2].is_none() {
        // Whoever was the last owner, the next is told.
        sys::be(100, BOOT, Quirks { impatient: false, ..cast.quirks });
        L::new(region.clone()).visit(|owner_died| parts.change(owner_died));
    }
    let (told, died) = (parts.told.load(SeqCst), sys::owners_died() + old_owners);
    if cast.deaths[1].is_none() && !cast.is_rebooted {
        assert_eq!(told, died, "told of each, once");
    } else {
        // Who was told may have died before it heard.
        assert!(told <= died && (told > 0) == (died > 0), "told {told} times of {died}");
    }
    assert!(parts.reboots.load(SeqCst) <= 1, "taken over from an old boot by one");
    dead.load(SeqCst)
}

/// All orders of steps. Who died in any of them: a bit for each.
fn all_orders<L: Robust + 'static>(cast: Cast, preemptions: usize) -> u32 {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 10_000;
    let dead = Arc::new(AtomicU32::new(0));
    let seen = dead.clone();
    builder.check(move || {
        seen.fetch_or(play::<L>(cast), SeqCst);
    });
    dead.load(SeqCst)
}

/// One thread dies, at each of its steps in turn. How many these are.
fn one_dies<L: Robust + 'static>(cast: Cast, preemptions: usize) -> u32 {
    let dies_at = |steps| Cast { deaths: [Some(steps), None, None], ..cast };
    let lived = (0..LONGEST).find(|&steps| all_orders::<L>(dies_at(steps), preemptions) == 0);
    lived.expect("it comes to its end")
}

/// Two threads die, at each pair of their steps but that of the first one's only every `stride`-th is
/// tried. How many pairs these are.
fn two_die<L: Robust + 'static>(cast: Cast, preemptions: usize, stride: usize) -> u32 {
    let mut pairs = 0;
    for first in (0..).step_by(stride) {
        for second in 0.. {
            let deaths = [Some(first), Some(second), None];
            pairs += 1;
            if all_orders::<L>(Cast { deaths, ..cast }, preemptions) & 1 << 1 == 0 {
                break; // It has come to its end, and does so from here on.
            }
            assert!(second < LONGEST, "it comes to its end");
        }
        let alone = Cast { deaths: [Some(first), None, None], ..cast };
        if all_orders::<L>(alone, preemptions) == 0 {
            break;
        }
    }
    pairs
}

/// A thread that goes on for so many steps has gone in a circle.
const LONGEST: u32 = 60;

/// Everything at once takes long: what is tried in a soak, and usually.
fn soak<T>(in_soak: T, usually: T) -> T {
    if std::env::var_os("MEMPOOL_TEST_SECONDS").is_some() {
        in_soak
    } else {
        usually
    }
}

/// Every so many steps of the first of two who die.
fn stride() -> usize {
    soak(1, 16)
}

const USUAL: Cast = Cast {
    deaths: [None; 3],
    quirks: Quirks { no_robust_list: false, impatient: false, endless_naps: false },
    is_rebooted: false,
};
const SILENT: Cast = Cast { quirks: Quirks { no_robust_list: true, ..USUAL.quirks }, ..USUAL };
const IMPATIENT: Cast = Cast { quirks: Quirks { impatient: true, ..USUAL.quirks }, ..USUAL };
const ENDLESS: Cast = Cast { quirks: Quirks { endless_naps: true, ..USUAL.quirks }, ..USUAL };
const REBOOTED: Cast = Cast { is_rebooted: true, ..USUAL };

mod lock {
    use super::*;
    use locks::lock::Lock;

    robust!(lock);

    #[test]
    fn all_get_in_one_by_one() {
        all_orders::<Lock>(USUAL, 3);
    }

    #[test]
    fn whoever_dies_where_the_others_get_in() {
        let steps = one_dies::<Lock>(USUAL, soak(3, 2));
        println!("a death at each of {steps} steps");
        assert!(steps > 10);
    }

    #[test]
    fn two_may_die() {
        let pairs = two_die::<Lock>(USUAL, 1, stride());
        println!("two deaths at {pairs} pairs of steps");
    }

    /// The dead are asked after, and their lock is taken over by one.
    #[test]
    fn a_death_that_nobody_is_told_of_is_found_out() {
        let steps = one_dies::<Lock>(SILENT, soak(2, 1));
        println!("a silent death at each of {steps} steps");
    }

    #[test]
    fn two_silent_deaths_are_found_out() {
        two_die::<Lock>(SILENT, 1, stride());
    }

    #[test]
    fn who_does_not_sleep_long_enough_takes_nothing_from_the_living() {
        all_orders::<Lock>(IMPATIENT, 2);
    }

    #[test]
    fn after_a_reboot_one_takes_over() {
        all_orders::<Lock>(REBOOTED, soak(2, 1));
    }

    #[test]
    fn after_a_reboot_whoever_dies_where_one_takes_over() {
        let steps = one_dies::<Lock>(REBOOTED, soak(2, 1));
        println!("after a reboot, a death at each of {steps} steps");
    }

    /// Why sleepers nap: the wake-up that one was given dies with it, and it had not announced the word
    /// yet, since it names the owner's number.
    #[test]
    #[should_panic(expected = "deadlock")]
    fn without_naps_a_wake_up_may_die_with_whom_it_woke() {
        one_dies::<Lock>(ENDLESS, 2);
    }
}

/// Who has to sleep wants to be first at once, and all others give way to it.
mod eager {
    use super::*;
    use locks::eager::Lock;

    robust!(eager);

    #[test]
    fn all_get_in_one_by_one() {
        all_orders::<Lock>(USUAL, soak(3, 2));
    }

    #[test]
    fn whoever_dies_where_the_others_get_in() {
        let steps = one_dies::<Lock>(USUAL, soak(2, 1));
        println!("a death at each of {steps} steps");
        assert!(steps > 10);
    }

    #[test]
    fn two_may_die() {
        two_die::<Lock>(USUAL, 1, stride());
    }

    #[test]
    fn a_death_that_nobody_is_told_of_is_found_out() {
        one_dies::<Lock>(SILENT, soak(2, 1));
    }

    #[test]
    fn who_does_not_sleep_long_enough_takes_nothing_from_the_living() {
        all_orders::<Lock>(IMPATIENT, soak(2, 1));
    }
}

/// A weakened lock, and where it fails.
macro_rules! fails {
    ($($name:ident: $run:expr, $how:literal;)*) => {$(
        mod $name {
            use super::*;
            use locks::$name::Lock;

            robust!($name);

            #[test]
            #[should_panic(expected = $how)]
            fn is_found_out() {
                let run: fn() = $run;
                run();
            }
        }
    )*};
}

fails! {
    wakes_nobody: || { all_orders::<Lock>(USUAL, 2); }, "deadlock";
    releases_by_a_store: || { all_orders::<Lock>(USUAL, 2); }, "deadlock";
    releases_without_order: || { all_orders::<Lock>(USUAL, 2); }, "Causality violation";
    takes_without_order: || { all_orders::<Lock>(USUAL, 2); }, "Causality violation";
    forgets_others_after_sleeping: || { all_orders::<Lock>(USUAL, 2); }, "deadlock";
    sleeps_unseen: || { all_orders::<Lock>(USUAL, 2); }, "deadlock";
    announces_too_late: || { one_dies::<Lock>(USUAL, 2); }, "deadlock";
    announces_a_takeover_too_late: || { one_dies::<Lock>(USUAL, 2); }, "deadlock";
    withdraws_too_early: || { one_dies::<Lock>(USUAL, 2); }, "deadlock";
    withdraws_before_it_wakes: || { one_dies::<Lock>(USUAL, 2); }, "deadlock";
    does_not_tell: || { one_dies::<Lock>(USUAL, 2); }, "told of each, once";
    does_not_tell_of_the_silent: || { one_dies::<Lock>(SILENT, 2); }, "told of each, once";
    robs_the_living: || { all_orders::<Lock>(IMPATIENT, 2); }, "Causality violation";
    takes_over_without_looking: || { one_dies::<Lock>(SILENT, 2); }, "told of each, once";
    claims_without_looking: || { all_orders::<Lock>(REBOOTED, 2); }, "Causality violation";
    wakes_not_the_first: || { all_orders::<Lock>(USUAL, 2); }, "deadlock";
    stays_first: || { all_orders::<Lock>(USUAL, 2); }, "deadlock";
    asks_unseen_to_be_first: || { all_orders::<Lock>(USUAL, 3); }, "deadlock";
    calls_and_leaves_no_word: || { all_orders::<Lock>(USUAL, 2); }, "deadlock";
    displaces_who_is_first: || { all_orders::<Lock>(USUAL, 3); }, "deadlock";
    gives_way_to_who_has_gone: || { all_orders::<Lock>(USUAL, 3); }, "deadlock";
    claims_unannounced: || { one_dies::<Lock>(REBOOTED, 1); }, "deadlock";
}
