//! Threads that put blocks on a shelf and take them from there, in every order; one of them dies at
//! any of its steps, and others clean up after him, or give all back to the heap meanwhile.
//!
//! What the pool does with a place besides, which is a byte of the map, is done here as there.

use loom::sync::{Arc, Mutex};
use loom::thread;
use models::death;
use models::layout::{Geometry, CACHES_OFFSET};
use models::options::Options;
use models::region::Region;
use models::shelf::{Grip, Place, Shelves};
use models::sys::{self, Quirks};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// The smallest pool with a shelf.
const LEN: usize = 9 << 20;
const FREE: u8 = 1;
const LIVE: u8 = 2;
const CACHED: u8 = 3;
const TAKEN: u8 = 4;
/// Of caches 1, 2 and 3: each begins at a line of its own.
const ONE: u32 = 1 << 12 | 1;
const TWO: u32 = 1 << 12 | 2;
/// Begins where the first does.
const NINE: u32 = 1 << 12 | 9;

struct Pool {
    region: Region,
    geometry: Geometry,
    lock: Mutex<()>,
}

impl Pool {
    /// With so many live blocks, of granules 0, 1 and so on.
    fn new(blocks: u32) -> Arc<Pool> {
        let region = Region::new(LEN);
        let options = Options { align: 8, ..Options::default() };
        let geometry = Geometry::plan(region.address(), LEN, &options).unwrap();
        assert_eq!(geometry.shelves, 1);
        let pool = Pool { region, geometry, lock: Mutex::new(()) };
        pool.shelves().begin();
        // All words come into being before the threads do.
        pool.region.store32(geometry.word(CACHES_OFFSET), 3);
        (0..blocks).for_each(|block| pool.set(block, LIVE));
        Arc::new(pool)
    }

    fn shelves(&self) -> Shelves<'_> {
        Shelves::new(&self.region, &self.geometry)
    }

    fn state(&self, block: u32) -> u8 {
        self.region.load8(self.geometry.map + block as usize)
    }

    fn set(&self, block: u32, state: u8) {
        self.region.store8(self.geometry.map + block as usize, state);
    }

    fn free(&self, token: u32, block: u32) {
        assert_eq!(self.state(block), LIVE);
        let place = self.shelves().put(0, block, token).expect("room");
        self.set(block, CACHED);
        self.shelves().let_go(place);
    }

    fn malloc(&self, token: u32) -> Option<u32> {
        let place = self.shelves().take(0, token)?;
        assert_eq!(self.state(place.granule), CACHED, "whoever put it there has said so");
        self.set(place.granule, TAKEN);
        self.set(place.granule, LIVE);
        self.shelves().clear(place);
        Some(place.granule)
    }

    /// Gives back what is in a grip that this one may take it from.
    fn give_back(&self, may: impl Fn(&Place) -> bool) {
        let _held = self.lock.lock().unwrap();
        for place in self.shelves().all().filter(may) {
            if let Some(place) = self.shelves().pass(place, Grip::HOLDER) {
                let state = self.state(place.granule);
                assert!([CACHED, TAKEN, LIVE].contains(&state));
                if state != LIVE && self.shelves().elsewhere(place).is_none() {
                    self.set(place.granule, FREE);
                }
                self.shelves().clear(place);
            }
        }
    }

    /// Each block is free, or cached in one place, or among those that the living hold.
    fn must_be_whole(&self, blocks: u32, held: &[u32]) {
        for block in 0..blocks {
            let places = self.shelves().all().filter(|place| place.granule == block);
            let places: Vec<Grip> = places.map(|place| place.grip).collect();
            let holders = held.iter().filter(|&&other| other == block).count();
            match self.state(block) {
                FREE => assert_eq!((places.len(), holders), (0, 0)),
                CACHED => assert_eq!((places, holders), (vec![Grip::NONE], 0)),
                _ => assert_eq!((places.len(), holders), (0, 1), "block {block} is live"),
            }
        }
    }
}

fn model(preemptions: usize, test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(test);
}

#[test]
fn what_one_puts_there_one_other_takes() {
    model(3, || {
        let pool = Pool::new(2);
        pool.free(NINE, 0);
        let other = pool.clone();
        let putting = thread::spawn(move || other.free(ONE, 1));
        let other = pool.clone();
        let taking = thread::spawn(move || other.malloc(NINE));
        let mut held: Vec<u32> = pool.malloc(ONE).into_iter().collect();
        putting.join().unwrap();
        held.extend(taking.join().unwrap());
        pool.must_be_whole(2, &held);
    });
}

#[test]
fn two_who_put_there_find_a_place_each() {
    model(3, || {
        let pool = Pool::new(2);
        let other = pool.clone();
        let putting = thread::spawn(move || other.free(ONE, 1));
        pool.free(NINE, 0);
        let held: Vec<u32> = pool.malloc(NINE).into_iter().collect();
        assert_eq!(held.len(), 1);
        putting.join().unwrap();
        pool.must_be_whole(2, &held);
    });
}

#[test]
fn giving_back_meets_those_who_put_and_take() {
    model(2, || {
        let pool = Pool::new(2);
        pool.free(ONE, 0);
        let other = pool.clone();
        let putting = thread::spawn(move || {
            other.free(NINE, 1);
            other.malloc(NINE)
        });
        let other = pool.clone();
        let giving = thread::spawn(move || other.give_back(|place| place.grip == Grip::NONE));
        let mut held: Vec<u32> = pool.malloc(ONE).into_iter().collect();
        held.extend(putting.join().unwrap());
        giving.join().unwrap();
        pool.must_be_whole(2, &held);
    });
}

/// Whether a thread that puts and takes died before it had made so many steps. Another may free what is
/// the dead one's, before anybody cleans up.
fn one_dies(steps: u32, is_freed: bool) -> bool {
    let has_died = std::sync::Arc::new(AtomicBool::new(false));
    let seen = has_died.clone();
    model(1, move || {
        let pool = Pool::new(3);
        sys::be(9, 1, Quirks::default());
        pool.free(TWO, 2);
        let (other, seen) = (pool.clone(), seen.clone());
        let mortal = thread::spawn(move || {
            sys::be(31, 1, Quirks::default());
            let lived = death::mortal(steps, || {
                other.free(ONE, 0);
                let _ = other.malloc(ONE);
            });
            seen.fetch_or(!lived, SeqCst);
            lived
        });
        let mut held: Vec<u32> = pool.malloc(TWO).into_iter().collect();
        pool.free(TWO, 1);
        if mortal.join().unwrap() {
            return;
        }
        // The dead one had 0, or has just got it or another back.
        let in_grip = pool.shelves().all().filter(|place| place.grip == Grip::of(ONE));
        let in_grip: Vec<Place> = in_grip.collect();
        assert!(in_grip.len() <= 1);
        // Until it was freed, and after a malloc was delivered, it is his, in his grip or not.
        let is_his = |block: &u32| pool.state(*block) == LIVE && !held.contains(block);
        let his: Vec<u32> = (0..3).filter(is_his).collect();
        let is_gone = in_grip.iter().any(|place| pool.state(place.granule) != LIVE);
        assert!(his.len() <= 1 && !(is_gone && his.len() == 1), "{his:?}");
        if is_freed {
            his.iter().for_each(|&block| pool.free(NINE, block));
        } else {
            held.extend(his);
        }
        pool.give_back(|place| place.grip == Grip::of(ONE));
        pool.must_be_whole(3, &held);
    });
    has_died.load(SeqCst)
}

#[test]
fn whoever_dies_leaves_what_he_had_in_his_grip() {
    for is_freed in [false, true] {
        let lives = |&steps: &u32| !one_dies(steps, is_freed);
        let steps = (0..500).find(lives).expect("it comes to an end");
        println!("a death at each of {steps} steps");
        assert!(steps > 6);
    }
}
