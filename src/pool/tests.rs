//! What is done for the dead while others live. Threads that stay where they are for ever stand for those
//! that died there: what they were about to do is done by hand, store by store. And at the end: how much
//! magazines come to hold.

use super::recover::Death;
use super::*;
use crate::cache;
use crate::depot::{Bound, Depot};
use crate::layout::{COUNT_AT, ITEMS_AT, RECORD_OFFSET};
use crate::map::{Entry, State};
use crate::options::Options;
use crate::pool::Pool;
use crate::shelf::Grip;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc;
use std::time::{Duration, Instant};

fn pool(len: usize) -> &'static Pool {
    pool_of(len, 16)
}

fn pool_of(len: usize, align: usize) -> &'static Pool {
    let bytes = Box::leak(vec![0u64; len / 8].into_boxed_slice());
    let options = Options { align, ..Options::default() };
    // SAFETY: the buffer is there for ever, and nobody else's.
    let pool = unsafe { Pool::init(bytes.as_mut_ptr().cast(), len, &options) };
    Box::leak(Box::new(pool.expect("init")))
}

fn dies<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        tell.send(act()).expect("somebody waits");
        loop {
            std::thread::park();
        }
    });
    told.recv().expect("it comes to its end")
}

fn free(pool: &Pool, block: usize) {
    // SAFETY: nobody uses the block.
    unsafe { pool.free(block as *mut u8) }.expect("live");
}

fn malloc(pool: &Pool, size: usize) -> usize {
    pool.malloc(size).expect("room").as_ptr() as usize
}

/// Comes to have magazines with room.
fn begin(pool: &Pool) {
    for size in [48, 96] {
        let blocks: Vec<usize> = (0..4).map(|_| malloc(pool, size)).collect();
        blocks.into_iter().for_each(|block| free(pool, block));
    }
}

fn granule(pool: &Pool, block: usize) -> u32 {
    pool.granule(block as *mut u8).expect("a block")
}

fn state(pool: &Pool, granule: u32) -> Option<State> {
    pool.heap().map().state(granule)
}

/// The token of this thread's cache.
fn token(pool: &Pool) -> u32 {
    pool.cache().expect("a lock").expect("a cache").token().expect("its token")
}

/// The number of this thread's cache.
fn number(pool: &Pool) -> u32 {
    cache::number(token(pool))
}

/// Does something under the lock.
fn locked(pool: &Pool, act: impl FnOnce(&Heap)) {
    let done = pool.locked(|heap| {
        act(heap);
        Ok(())
    });
    done.expect("a lock");
}

/// The first store of a free: names the block behind the last of the magazine; this one and its class.
fn begin_free(pool: &Pool, granule: u32) -> (u32, u8) {
    let class = pool.heap().map().live_class(granule).expect("a class");
    let local = pool.cache().expect("a lock").expect("a cache");
    let magazine = local.loaded(&pool.region, &pool.geometry, class).expect("a magazine");
    name_behind(pool, magazine, granule);
    (magazine, class)
}

fn name_behind(pool: &Pool, magazine: u32, granule: u32) {
    let count = pool.depot().count(magazine) as usize;
    let items = pool.depot().count_at(magazine) - COUNT_AT + ITEMS_AT;
    pool.region.store32(items + count * 4, granule);
}

/// One dies before a block was freed; another goes on with it, moves it, and dies over that.
fn two_die(is_second_first: bool) {
    let pool = pool(256 << 10);
    let first = move || {
        begin(pool);
        let block = malloc(pool, 48);
        begin_free(pool, granule(pool, block));
        (block, number(pool))
    };
    let (go_on, goes_on) = mpsc::channel();
    let (tell, told) = mpsc::channel();
    let (begun, has_begun) = mpsc::channel();
    let second = move || {
        begin(pool);
        begun.send(()).expect("somebody waits");
        let old: u32 = goes_on.recv().expect("the other is dead");
        pool.make_room(old).expect("a lock");
        let wanted = pool.granules(96).expect("it can be");
        let moved = pool.take(96, wanted).expect("a lock").expect("room");
        pool.move_bytes(old, moved.block(), wanted);
        let pushed = pool.begin_put(old, Some(&moved)).expect("room");
        let new = granule(pool, moved.block().as_ptr() as usize);
        let _ = (moved, pushed);
        tell.send((new, number(pool))).expect("somebody waits");
        loop {
            std::thread::park();
        }
    };
    let dead = (!is_second_first).then(|| dies(first));
    std::thread::spawn(second);
    has_begun.recv().expect("it begins");
    let (block, one) = dead.unwrap_or_else(|| dies(first));
    let old = granule(pool, block);
    go_on.send(old).expect("it waits");
    let (new, two) = told.recv().expect("it dies, too");
    assert_eq!(two < one, is_second_first);
    recover(pool, one.min(two));
    recover(pool, one.max(two));
    let lives = [old, new].map(|granule| state(pool, granule).is_some_and(State::is_live));
    assert_eq!(lives, [false, true], "it was moved");
    pool.check().expect("whole");
}

#[test]
fn what_two_dead_ones_had_in_hand_is_in_one_place() {
    two_die(false);
    two_die(true);
}

/// Cleans up after a dead one again and again, while another, who lives, has the block that the dead one
/// was just freeing, frees it and has it anew.
fn cleans_up(pool: &Pool, block: usize, get: impl Fn() -> usize + Sync, clean: impl Fn(&Heap)) {
    let granule = granule(pool, block);
    let (stop, recoveries) = (AtomicBool::new(false), pool.counter(RECOVERIES_OFFSET));
    let (pairs, cleanings) = std::thread::scope(|scope| {
        let living = scope.spawn(|| {
            let mut pairs = 0;
            begin(pool);
            free(pool, block);
            while !stop.load(SeqCst) {
                let other = get();
                pairs += u64::from(other == block);
                let is_live = other != block || state(pool, granule) == Some(State::Live);
                assert!(is_live, "it was taken from its owner");
                free(pool, other);
            }
            pairs
        });
        let (start, mut cleanings) = (Instant::now(), 0);
        while cleanings < CLEANINGS && start.elapsed() < LIMIT && !living.is_finished() {
            locked(pool, &clean);
            cleanings += 1;
            (0..300).for_each(|_| std::hint::spin_loop());
        }
        stop.store(true, SeqCst);
        (living.join().expect("all is well"), cleanings)
    });
    assert!(pairs > 0 && cleanings > 1000, "{pairs} pairs, {cleanings} cleanings");
    assert_eq!(pool.counter(RECOVERIES_OFFSET), recoveries, "something odd was come upon");
    assert_eq!(state(pool, granule), Some(State::Cached));
    pool.check().expect("whole");
}

/// Takes a second or so where nothing else goes on.
const CLEANINGS: u32 = 50_000;
const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn what_a_living_one_has_is_not_taken_from_him() {
    // With few magazines to be looked through, and with many.
    for others in [0, 8] {
        let pool = pool(64 << 20);
        let (block, magazine, class) = dies(move || {
            begin(pool);
            let block = malloc(pool, 48);
            let (magazine, class) = begin_free(pool, granule(pool, block));
            (block, magazine, class)
        });
        for _ in 0..others {
            dies(move || {
                for size in (1..30).map(|granules| 16 * granules) {
                    let blocks: Vec<usize> = (0..40).map(|_| malloc(pool, size)).collect();
                    blocks.into_iter().for_each(|block| free(pool, block));
                }
            });
        }
        let granule = granule(pool, block);
        cleans_up(
            pool,
            block,
            || malloc(pool, 48),
            |heap| {
                name_behind(pool, magazine, granule);
                pool.settle(heap, magazine, class);
            },
        );
        let depot = pool.depot();
        let items =
            |bound: Bound| (0..depot.count(bound.magazine)).map(move |at| (bound.magazine, at));
        let places = depot.bound().flat_map(items);
        let is_it = |&(magazine, at): &(u32, u32)| depot.item(magazine, at) == Some(granule);
        assert_eq!(places.filter(is_it).count(), 1, "it is in one magazine");
    }
}

#[test]
fn what_a_living_one_has_off_a_shelf_is_not_taken_from_him() {
    for is_filled in [false, true] {
        let (pool, block) = shelved();
        let granule = granule(pool, block);
        let wide = pool.geometry.shelved(size(pool, granule)).expect("a shelf");
        let token = dies(move || token(pool));
        let get = || match is_filled {
            true => pool.calloc(1, WIDE).expect("room").as_ptr() as usize,
            false => malloc(pool, WIDE),
        };
        cleans_up(pool, block, get, |heap| {
            if pool.shelves().put(wide, granule, token).is_some() {
                pool.recover_grip(heap, cache::number(token));
            }
        });
        let places = pool.shelves().all().filter(|place| place.granule == granule);
        assert_eq!(places.map(|place| place.grip).collect::<Vec<_>>(), [Grip::NONE]);
    }
}

/// One died over putting a block on a shelf; one over looking whose it is; and another was just putting it
/// there, or was taking it, all the while.
#[test]
fn what_was_looked_at_by_one_who_died_stays_its_owners() {
    let (pool, block) = shelved();
    let granule = granule(pool, block);
    let size = size(pool, granule);
    let wide = pool.geometry.shelved(size).expect("a shelf");
    let dead = dies(move || token(pool));
    let looks_and_dies = || {
        let place = pool.shelves().put(wide, granule, dead).expect("room");
        pool.shelves().pass(place, Grip::HOLDER).expect("it is there");
        assert!(pool.heap().map().take(granule, size));
        locked(pool, |heap| pool.recover_holder(heap));
    };
    // Where nobody is at it.
    assert!(pool.put_shelved(granule).expect("a lock"));
    looks_and_dies();
    assert_eq!(state(pool, granule), Some(State::Cached));
    // While another has it in his grip, who lets go of it then, or goes on to take it.
    let place = loop {
        let place = pool.shelves().take(wide, token(pool)).expect("it is there");
        if place.granule == granule {
            break place;
        }
    };
    looks_and_dies();
    pool.shelves().let_go(place);
    take(pool, granule);
    assert_eq!(state(pool, granule), Some(State::Taken));
    recover(pool, number(pool));
    assert!(!state(pool, granule).is_some_and(State::is_live));
    pool.check().expect("whole");
}

/// A pool with a shelf that is in use, and a block for it.
fn shelved() -> (&'static Pool, usize) {
    let pool = pool_of(9 << 20, 8);
    let [a, b] = [0; 2].map(|_| malloc(pool, WIDE));
    free(pool, a);
    (pool, b)
}

const WIDE: usize = 36 << 10;

fn size(pool: &Pool, granule: u32) -> u32 {
    pool.heap().block(granule).expect("a block").1
}

fn recover(pool: &Pool, cache: u32) {
    locked(pool, |heap| pool.recover_cache(heap, cache, Death::Anywhere));
}

/// Makes a change, and leaves its record as one would who died before he struck it out.
fn dies_before_the_end(pool: &Pool, change: impl Fn(&Heap)) {
    let at = pool.geometry.header + RECORD_OFFSET;
    let mut seal = 0;
    locked(pool, |heap| {
        change(heap);
        seal = pool.region.load32(at);
    });
    pool.region.store32(at, seal);
}

/// Takes blocks off the shelf until it is this one, which is not delivered.
fn take(pool: &Pool, granule: u32) {
    for _ in 0..100 {
        let taken = pool.take_shelved(size(pool, granule)).expect("a lock").expect("one is there");
        if taken.granule() == granule {
            return;
        }
        let _ = pool.deliver_shelved(taken);
    }
    panic!("it is not on the shelf");
}

#[test]
fn what_one_died_over_while_another_was_putting_it_on_a_shelf_stays_its_owners() {
    let (pool, block) = shelved();
    let block = granule(pool, block);
    let size = size(pool, block);
    let wide = pool.geometry.shelved(size).expect("a shelf");
    let dead = dies(move || {
        let token = token(pool);
        assert!(pool.shelves().put(wide, block, token).is_some());
        cache::number(token)
    });
    // Another had begun to resize it, and died before that was sealed.
    pool.heap().map().write(block, Entry { state: State::Held, size });
    recover(pool, dead);
    assert_eq!(pool.heap().block(block), Some((State::Held, size)));
    assert_eq!(pool.usable_size(pool.block(block).expect("a block").as_ptr()), 8 * size as usize);
    free(pool, pool.block(block).expect("a block").as_ptr() as usize);
    pool.check().expect("whole");
}

/// One died over the end of a change of a block; another put it on a shelf, and just takes it from there.
fn is_had_anew(pool: &Pool, granule: u32, change: impl Fn(&Heap)) {
    dies_before_the_end(pool, change);
    assert!(pool.put_shelved(granule).expect("a lock"));
    take(pool, granule);
    pool.stats().expect("recovered");
    assert_eq!(state(pool, granule), Some(State::Taken), "it is not delivered yet");
    recover(pool, number(pool));
    assert!(!state(pool, granule).is_some_and(State::is_live));
    pool.check().expect("whole");
}

#[test]
fn what_was_resized_and_had_anew_is_not_resized_again() {
    let (pool, block) = shelved();
    let whole = size(pool, granule(pool, block));
    let granule = granule(pool, malloc(pool, WIDE + 20_000));
    is_had_anew(pool, granule, |heap| assert!(heap.resize(granule, whole, WIDE).expect("live")));
}

#[test]
fn what_was_the_root_and_had_anew_is_left_alone() {
    let (pool, block) = shelved();
    pool.set_root(block as *mut u8).expect("live");
    is_had_anew(pool, granule(pool, block), |heap| heap.set_root(None, State::Live));
}

#[test]
fn what_a_living_one_is_taking_off_a_shelf_is_given_back_by_nobody() {
    let (pool, block) = shelved();
    let granule = granule(pool, block);
    let wide = pool.geometry.shelved(size(pool, granule)).expect("a shelf");
    let token = token(pool);
    assert!(pool.put_shelved(granule).expect("a lock"));
    take(pool, granule);
    // At another place too, where it lies for anybody, for all that can be seen.
    let place = pool.shelves().put(wide, granule, token).expect("room");
    pool.shelves().let_go(place);
    locked(pool, |heap| pool.clear_shelves(heap));
    assert_eq!(state(pool, granule), Some(State::Taken));
}

/// One looks again at what he put on a shelf, while another takes it and puts it to the same place, all the
/// while.
#[test]
fn what_a_living_one_takes_is_not_made_cached_by_who_put_it_there() {
    let (pool, block) = shelved();
    let granule = granule(pool, block);
    let size = size(pool, granule);
    let stop = AtomicBool::new(false);
    let (tell, told) = mpsc::channel();
    std::thread::scope(|scope| {
        let living = scope.spawn(|| {
            assert!(pool.put_shelved(granule).expect("a lock"));
            let place = pool.shelves().all().find(|place| place.granule == granule);
            tell.send(place.expect("it is there")).expect("somebody waits");
            while !stop.load(SeqCst) {
                let taken = pool.take_shelved(size).expect("a lock");
                let Some(taken) = taken else { continue };
                let block = pool.deliver_shelved(taken);
                let taken = pool.granule(block.as_ptr()).expect("a block");
                assert_eq!(state(pool, taken), Some(State::Live), "it is its owner's");
                assert!(pool.put_shelved(taken).expect("a lock"));
            }
        });
        let (mine, place) = (token(pool), told.recv().expect("it begins"));
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(2) && !living.is_finished() {
            if state(pool, granule) == Some(State::Taken) {
                pool.look_again(place, mine);
            }
        }
        stop.store(true, SeqCst);
        living.join().expect("all is well");
    });
    assert_eq!(state(pool, granule), Some(State::Cached));
    pool.check().expect("whole");
}

/// Bursts of blocks of a size, now and then of a shelf's.
fn churn(pool: &Pool, mut seed: u64, end: Instant) {
    while Instant::now() < end {
        seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        let size = 16 << (seed >> 60).min(13);
        let count = ((512 << 10) / size).min(300);
        let blocks: Vec<usize> = (0..count).map(|_| malloc(pool, size)).collect();
        blocks.into_iter().for_each(|block| free(pool, block));
    }
}

#[test]
fn what_magazines_may_hold_and_what_is_on_shelves_is_an_eighth_at_most() {
    const LEN: usize = 32 << 20;
    let pool = pool(LEN);
    let (depot, eighth) = (pool.depot(), (LEN / 8 / 16) as u32);
    let bound = || {
        let share = |it: Bound| Depot::share(it.class, depot.rounds(it.magazine, it.class));
        depot.bound().map(share).sum::<u32>()
    };
    let on_shelves = || pool.shelves().all().map(|place| place.size()).sum::<u32>();
    // They go to shelves, where magazines leave no room later.
    let blocks = [(); 8].map(|()| malloc(pool, LEN / 256));
    blocks.into_iter().for_each(|block| free(pool, block));
    assert!((1..=eighth).contains(&on_shelves()));
    let end = Instant::now() + Duration::from_millis(300);
    let threads = [0, 1, 2, 3].map(|seed| std::thread::spawn(move || churn(pool, seed, end)));
    let mut most = 0;
    // Magazines are bound, and come to hold more, under the lock only.
    let mut look = || locked(pool, |_| most = most.max(bound()));
    while Instant::now() < end {
        look();
    }
    threads.into_iter().for_each(|thread| thread.join().expect("it ended well"));
    look();
    assert!((eighth / 2..=eighth).contains(&most), "{most} granules, where {eighth} may be");
    let both = bound() + on_shelves();
    assert!(both <= eighth, "{both} granules, where {eighth} may be");
}
