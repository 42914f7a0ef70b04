//! Threads that exchange magazines through the depot, claim caches, and clean up after the dead,
//! in every order.
//!
//! A magazine's blocks are told apart by their granules; each must be in one magazine at the end,
//! and whoever owns a magazine must see what its last owner put there.

use loom::sync::{Arc, Mutex};
use loom::thread;
use models::cache::{self, Caches, Thread};
use models::death;
use models::depot::{Bound, Depot, Owner, Stack};
use models::layout::{Geometry, FIRST_OFFSET, ITEMS_AT, LOCK_OFFSET};
use models::layout::{NAMESPACE_OFFSET, TURN_OFFSET};
use models::locks::lock::Lock;
use models::options::Options;
use models::region::Region;
use models::sys::{self, Quirks};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

const CLASS: u8 = 3;
const LEN: usize = 1 << 18;

/// What threads share: a pool's magazines, and its lock.
struct Pool {
    region: Region,
    geometry: Geometry,
    lock: Mutex<()>,
}

impl Pool {
    fn new() -> Arc<Pool> {
        let region = Region::new(LEN);
        let geometry = Geometry::plan(region.address(), LEN, &Options::default()).unwrap();
        let pool = Pool { region, geometry, lock: Mutex::new(()) };
        pool.depot().format();
        pool.caches().format();
        Arc::new(pool)
    }

    fn depot(&self) -> Depot<'_> {
        Depot::new(&self.region, &self.geometry)
    }

    fn caches(&self) -> Caches<'_> {
        Caches::new(&self.region, &self.geometry)
    }

    /// A thread's cache.
    fn claim(&self, tid: u32) -> u32 {
        let _held = self.lock.lock().unwrap();
        self.caches().claim(Thread { tid, start: 1 }, tid).expect("there are more")
    }

    /// A magazine of this cache with these blocks.
    fn filled(&self, token: u32, granules: &[u32]) -> u32 {
        let held = self.lock.lock().unwrap();
        let magazine = self.depot().bind(CLASS, 4, token).expect("there is room");
        drop(held);
        for (index, &granule) in granules.iter().enumerate() {
            self.put(magazine, index as u32, granule);
        }
        magazine
    }

    /// What a free does.
    fn put(&self, magazine: u32, index: u32, granule: u32) {
        let at = self.geometry.magazine_at(magazine) + ITEMS_AT + index as usize * 4;
        self.region.store32(at, granule);
        self.depot().set_count(magazine, index + 1);
    }

    /// The blocks of a magazine, for its owner.
    fn blocks(&self, magazine: u32) -> Vec<u32> {
        let depot = self.depot();
        let item = |index| depot.item(magazine, index).expect("its last owner wrote it");
        (0..depot.count(magazine)).map(item).collect()
    }

    /// All blocks of all magazines, once nobody moves them.
    fn all(&self) -> Vec<u32> {
        let bound: Vec<Bound> = self.depot().bound().collect();
        let mut all: Vec<u32> =
            bound.iter().flat_map(|bound| self.blocks(bound.magazine)).collect();
        all.sort_unstable();
        all
    }

    /// How many magazines of the class a stack gives.
    fn stacked(&self, stack: Stack) -> usize {
        let taken = std::iter::from_fn(|| self.depot().take(CLASS, stack, Owner::Holder));
        taken.take(9).count()
    }

    /// What the living do for a dead thread's cache, as far as magazines go.
    fn bury(&self, cache: u32) {
        let _held = self.lock.lock().unwrap();
        self.recover_cache(cache);
    }

    /// The same under the lock that outlives who buries, as a thread of a process of its own.
    fn bury_as(&self, tid: u32, cache: u32) {
        sys::be(tid, 1, Quirks::default());
        let lock = Lock::new(self.region.clone(), 0);
        let held = lock.acquire().expect("a lock");
        if held.owner_died {
            self.recover_holder();
        }
        if self.caches().thread(cache).is_some() {
            self.recover_cache(cache);
        }
    }

    fn recover_holder(&self) {
        let depot = self.depot();
        for Bound { magazine, owner, class } in depot.bound() {
            if owner == Owner::Holder {
                depot.give(magazine, class, Stack::Full);
            }
        }
        depot.relist();
        depot.recount(0);
    }

    fn recover_cache(&self, cache: u32) {
        let depot = self.depot();
        for Bound { magazine, owner, class } in depot.bound() {
            if !owner.is_cache(cache) {
                continue;
            }
            if depot.count(magazine) > 0 {
                depot.give(magazine, class, Stack::Full);
            } else if depot.change_owner(magazine, owner, Owner::Holder) {
                depot.unbind(magazine, class);
            }
        }
        self.caches().release(cache);
    }
}

fn model(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.max_branches = 10_000;
    builder.check(test);
}

#[test]
fn what_one_gives_another_takes_whole() {
    model(|| {
        let pool = Pool::new();
        let (giver, taker) = (pool.claim(11), pool.claim(12));
        let magazine = pool.filled(giver, &[]);
        let other = pool.clone();
        let giving = thread::spawn(move || {
            other.put(magazine, 0, 5);
            other.put(magazine, 1, 6);
            other.depot().give(magazine, CLASS, Stack::Full);
        });
        if let Some(taken) = pool.depot().take(CLASS, Stack::Full, Owner::Cache(taker)) {
            assert_eq!((taken, pool.blocks(taken)), (magazine, vec![5, 6]));
        }
        giving.join().unwrap();
        assert_eq!(pool.all(), [5, 6]);
    });
}

#[test]
fn two_takers_never_have_the_same_magazine() {
    model(|| {
        let pool = Pool::new();
        let owner = pool.claim(10);
        for granule in [1, 2] {
            let magazine = pool.filled(owner, &[granule]);
            pool.depot().give(magazine, CLASS, Stack::Full);
        }
        let takers = [21, 22].map(|tid| {
            let pool = pool.clone();
            thread::spawn(move || {
                let token = tid << 12 | tid;
                // Takes, gives back and takes again: the stack's head comes round.
                let first = pool.depot().take(CLASS, Stack::Full, Owner::Cache(token))?;
                assert_eq!(pool.blocks(first).len(), 1);
                pool.depot().give(first, CLASS, Stack::Full);
                pool.depot().take(CLASS, Stack::Full, Owner::Cache(token))
            })
        });
        let [one, other] = takers.map(|taker| taker.join().unwrap());
        assert!(one.is_none() || one != other, "both have {one:?}");
        assert_eq!(pool.all(), [1, 2]);
        let in_hand = usize::from(one.is_some()) + usize::from(other.is_some());
        assert_eq!(pool.stacked(Stack::Full) + in_hand, 2, "none was lost");
    });
}

/// While the one looks at the top and what comes below it, the other takes both, puts another
/// there and the top back on it: it looks the same, and is not.
#[test]
fn a_top_that_went_and_came_back_is_seen_through() {
    model(|| {
        let pool = Pool::new();
        let owner = pool.claim(10);
        for granule in [1, 2] {
            let magazine = pool.filled(owner, &[granule]);
            pool.depot().give(magazine, CLASS, Stack::Full);
        }
        let third = pool.filled(owner, &[3]);
        let other = pool.clone();
        let busy = thread::spawn(move || {
            let take = || other.depot().take(CLASS, Stack::Full, Owner::Cache(owner));
            let (Some(top), kept) = (take(), take()) else { unreachable!("two were there") };
            other.depot().give(third, CLASS, Stack::Full);
            other.depot().give(top, CLASS, Stack::Full);
            kept
        });
        let one = pool.depot().take(CLASS, Stack::Full, Owner::Cache(21 << 12 | 21));
        let kept = busy.join().unwrap();
        let in_hand = usize::from(one.is_some()) + usize::from(kept.is_some());
        assert!(kept.is_none() || one != kept);
        assert_eq!(pool.stacked(Stack::Full) + in_hand, 3, "none was lost");
    });
}

/// Who goes through all magazines, and not by the stacks, sees what was put into them too.
#[test]
fn what_is_found_without_its_stack_is_whole() {
    model(|| {
        let pool = Pool::new();
        let giver = pool.claim(11);
        let magazine = pool.filled(giver, &[]);
        let other = pool.clone();
        let giving = thread::spawn(move || {
            other.put(magazine, 0, 5);
            other.depot().give(magazine, CLASS, Stack::Full);
        });
        let depot = pool.depot();
        if depot.change_owner(magazine, Owner::Depot(CLASS), Owner::Holder) {
            assert_eq!(pool.blocks(magazine), [5]);
        }
        giving.join().unwrap();
        // The stack may name one that is not the depot's any more.
        let taken = depot.take(CLASS, Stack::Full, Owner::Cache(giver));
        let held = depot.owner(magazine) == Some(Owner::Holder);
        assert_eq!(taken.is_none(), held);
    });
}

#[test]
fn full_ones_go_one_way_and_empty_ones_the_other() {
    model(|| {
        let pool = Pool::new();
        let (producer, consumer) = (pool.claim(11), pool.claim(12));
        let full = pool.filled(producer, &[7]);
        let empty = pool.filled(consumer, &[]);
        let other = pool.clone();
        let producing = thread::spawn(move || {
            other.depot().give(full, CLASS, Stack::Full);
            let got = other.depot().take(CLASS, Stack::Empty, Owner::Cache(producer));
            assert!(got.is_none_or(|got| other.depot().count(got) == 0));
        });
        let depot = pool.depot();
        if let Some(got) = depot.take(CLASS, Stack::Full, Owner::Cache(consumer)) {
            assert_eq!(pool.blocks(got), [7]);
            depot.cut(got, 0);
            depot.give(got, CLASS, Stack::Empty);
        }
        depot.give(empty, CLASS, Stack::Empty);
        producing.join().unwrap();
        assert!(pool.all().len() <= 1);
        assert_eq!(depot.bound().count(), 2);
    });
}

#[test]
fn binding_and_handing_over_do_not_disturb_each_other() {
    model(|| {
        let pool = Pool::new();
        let tokens = [pool.claim(11), pool.claim(12)];
        let room = pool.depot().room();
        let threads = tokens.map(|token| {
            let pool = pool.clone();
            thread::spawn(move || {
                let magazine = pool.filled(token, &[token & 0xfff]);
                pool.depot().give(magazine, CLASS, Stack::Full);
            })
        });
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(pool.all(), tokens.map(|token| token & 0xfff));
        assert_eq!(pool.stacked(Stack::Full), 2);
        let share = Depot::share(CLASS, 4);
        assert_eq!(pool.depot().room(), room - 2 * share, "both are counted");
    });
}

#[test]
fn claimed_caches_are_never_shared() {
    model(|| {
        let pool = Pool::new();
        let threads = [11, 12].map(|tid| {
            let pool = pool.clone();
            thread::spawn(move || pool.claim(tid))
        });
        let [one, other] = threads.map(|thread| thread.join().unwrap());
        assert_ne!(cache::number(one), cache::number(other));
        assert_eq!(pool.caches().claimed(), 2);
    });
}

/// The dead one has stopped after any number of its steps; what it did before, the living see, as
/// the kernel tells of a death only after it.
#[test]
fn a_dead_threads_magazines_are_handed_on_while_others_take_and_give() {
    for steps in 0..4 {
        model(move || {
            let pool = Pool::new();
            let (dead, living) = (pool.claim(11), pool.claim(12));
            let mine = pool.filled(living, &[9]);
            let magazine = pool.filled(dead, &[]);
            let other = pool.clone();
            let dying = thread::spawn(move || {
                if steps > 0 {
                    other.put(magazine, 0, 5);
                }
                if steps > 1 {
                    other.depot().give(magazine, CLASS, Stack::Full);
                }
                if steps > 2 {
                    let _ = other.depot().take(CLASS, Stack::Full, Owner::Cache(dead));
                }
            });
            let other = pool.clone();
            let burying = thread::spawn(move || {
                dying.join().unwrap();
                other.bury(cache::number(dead));
            });
            pool.depot().give(mine, CLASS, Stack::Full);
            let got = pool.depot().take(CLASS, Stack::Full, Owner::Cache(living));
            burying.join().unwrap();
            assert_eq!(pool.all(), if steps > 0 { vec![5, 9] } else { vec![9] });
            let dead_has = pool.depot().bound().any(|b| b.owner.is_cache(cache::number(dead)));
            assert!(!dead_has);
            let stacked = pool.stacked(Stack::Full) + usize::from(got.is_some());
            assert_eq!(stacked, if steps > 0 { 2 } else { 1 }, "none is out of reach");
        });
    }
}

#[test]
fn giving_all_back_meets_those_who_take_and_give() {
    model(|| {
        let pool = Pool::new();
        let token = pool.claim(11);
        let [one, two] = [1, 2].map(|granule| pool.filled(token, &[granule]));
        pool.depot().give(one, CLASS, Stack::Full);
        let other = pool.clone();
        let emptying = thread::spawn(move || {
            let _held = other.lock.lock().unwrap();
            let depot = other.depot();
            let mut freed = Vec::new();
            while let Some(magazine) = depot.take(CLASS, Stack::Full, Owner::Holder) {
                freed.extend(other.blocks(magazine));
                depot.cut(magazine, 0);
                depot.unbind(magazine, CLASS);
            }
            freed
        });
        pool.depot().give(two, CLASS, Stack::Full);
        let got = pool.depot().take(CLASS, Stack::Full, Owner::Cache(token));
        let mut all = emptying.join().unwrap();
        if let Some(got) = got {
            assert_eq!(pool.blocks(got).len(), 1, "nobody emptied it under its owner");
        }
        all.extend(pool.all());
        all.sort_unstable();
        assert_eq!(all, [1, 2], "each is in one place");
    });
}

/// Who buries the dead may die of it at any step; another does it after, or with him, while a third
/// takes and gives magazines. Whether anybody died.
fn a_burier_dies(steps: u32) -> bool {
    let any_dead = std::sync::Arc::new(AtomicBool::new(false));
    let seen = any_dead.clone();
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(1);
    builder.max_branches = 10_000;
    builder.check(move || {
        let pool = Pool::new();
        sys::be(9, 1, Quirks::default());
        for word in [LOCK_OFFSET, TURN_OFFSET, FIRST_OFFSET] {
            pool.region.store32(word, 0);
        }
        pool.region.store32(NAMESPACE_OFFSET, sys::pid_namespace());
        let (dead, living) = (pool.claim(11), pool.claim(12));
        let mine = pool.filled(living, &[9]);
        pool.filled(dead, &[5, 6]);
        pool.filled(dead, &[]);
        let cache = cache::number(dead);
        let other = pool.clone();
        let seen = seen.clone();
        let mortal = thread::spawn(move || {
            sys::be(31, 1, Quirks::default());
            let lived = death::mortal(steps, || other.bury_as(31, cache));
            seen.fetch_or(!lived, SeqCst);
        });
        let other = pool.clone();
        let next = thread::spawn(move || other.bury_as(32, cache));
        pool.depot().give(mine, CLASS, Stack::Full);
        let got = pool.depot().take(CLASS, Stack::Full, Owner::Cache(living));
        if let Some(got) = got {
            assert!([vec![9], vec![5, 6]].contains(&pool.blocks(got)), "whole, or not at all");
        }
        mortal.join().unwrap();
        next.join().unwrap();
        // Whatever the last of them left, the next holder sees to.
        pool.bury_as(33, cache);
        let depot = pool.depot();
        assert_eq!(pool.all(), [5, 6, 9]);
        assert_eq!(pool.caches().thread(cache), None, "its cache is anybody's");
        let bound: Vec<Bound> = depot.bound().collect();
        let is_in_order = |bound: &Bound| match bound.owner {
            Owner::Depot(class) => class == CLASS,
            Owner::Cache(token) => token == living && Some(bound.magazine) == got,
            _ => false,
        };
        assert!(bound.iter().all(is_in_order), "{bound:?}");
        let hoard: u32 =
            bound.iter().map(|b| Depot::share(CLASS, depot.rounds(b.magazine, CLASS))).sum();
        assert_eq!(depot.room(), pool.geometry.hoard_max - hoard, "what is bound is counted");
        // Given but on no stack, since its giver died: found by who goes through all.
        let stacked = pool.stacked(Stack::Full);
        let left = depot.bound().filter(|bound| bound.owner == Owner::Depot(CLASS)).count();
        assert!(left <= 1, "one death, one of them");
        assert_eq!(stacked + left + usize::from(got.is_some()), bound.len());
    });
    any_dead.load(SeqCst)
}

#[test]
fn who_buries_the_dead_and_dies_is_followed_by_another() {
    let steps = (0..500).find(|&steps| !a_burier_dies(steps)).expect("it comes to an end");
    println!("a death at each of {steps} steps");
    assert!(steps > 20);
}
