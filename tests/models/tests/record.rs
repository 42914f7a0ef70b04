//! The record of the change under way: the library's own heap, over a buffer in which any store may
//! be the last of whoever holds the lock.
//!
//! Each kind of change is begun and ends at each of its stores; who comes next recovers, and ends at
//! each of its stores too; the one after that comes to the end. Then
//!
//! - the pool is as it was before, or as the change makes it: never between, and what nobody got is
//!   nobody's;
//! - which of the two does not depend on where recoverers died; and once the change is bound to
//!   happen it is, wherever later its maker dies;
//! - bins and counts say what the map says, and nothing is left to be done.
//!
//! Nobody else is here: changes and recoveries are made under the lock, of which tests/lock.rs tells.

/// The test for one heap: as it is, or weakened.
macro_rules! protocol {
    ($name:ident) => {
        use models::death;
        use models::heaps::$name::class;
        use models::heaps::$name::heap::{Heap, Struck, Taker, CHILDREN};
        use models::heaps::$name::layout::{Geometry, COUNT_AT, ITEMS_AT, NO_BLOCK};
        use models::heaps::$name::map::{Entry, State};
        use models::heaps::$name::options::{Options, FILL_FREED, GUARD};
        use models::heaps::$name::region::Region;
        use std::ptr::NonNull;

        /// A pool and its bytes.
        struct Pool {
            bytes: Vec<u64>,
            region: Region,
            geometry: Geometry,
        }

        /// What can be seen of a pool in the quiet.
        #[derive(Clone, Debug, PartialEq, Eq)]
        struct Seen {
            blocks: Vec<(u32, State, u32)>,
            items: Vec<u32>,
            /// What the live were asked for, and their first bytes, where that is looked at.
            contents: Vec<(usize, u64)>,
            /// The entries of the directory, by the way to them: which child of which.
            entries: Vec<(Vec<usize>, u32)>,
            root: Option<u32>,
        }

        impl Pool {
            fn new(len: usize) -> Pool {
                Pool::with(len, 0)
            }

            fn with(len: usize, flags: u32) -> Pool {
                let mut bytes = vec![0; len / 8];
                // SAFETY: the vector is never moved from where it is, nor made longer.
                let region = unsafe { Region::new(NonNull::from(&mut bytes[0]).cast(), len) };
                let options = Options { min_split: 16, flags, ..Options::default() };
                let geometry = Geometry::plan(region.address(), len, &options).expect("a pool");
                let pool = Pool { bytes, region, geometry };
                pool.heap().format(false);
                if pool.geometry.caches > 0 {
                    pool.hold(&[]);
                }
                pool
            }

            fn heap(&self) -> Heap {
                Heap::new(&self.region, &self.geometry).expect("it lies in the buffer")
            }

            /// Where the count of the only magazine lies.
            fn count_at(&self) -> usize {
                self.geometry.magazine_at(0) + COUNT_AT
            }

            fn item_at(&self, index: usize) -> usize {
                self.geometry.magazine_at(0) + ITEMS_AT + index * 4
            }

            /// Makes the magazine hold these.
            fn hold(&self, granules: &[u32]) {
                for index in 0..60 {
                    let granule = granules.get(index).copied().unwrap_or(NO_BLOCK);
                    self.region.store32(self.item_at(index), granule);
                }
                self.region.store8(self.count_at(), granules.len() as u8);
            }

            /// As who takes the lock does it, and gives it back.
            fn recover(&self) {
                let heap = self.heap();
                heap.enter(|| {
                    if self.geometry.caches > 0 {
                        self.hold(&[]);
                    }
                })
                .expect("the record is of a change that can be");
                heap.leave();
            }

            /// What the map and the magazine say, once bins and counts were found to say the same.
            fn seen(&self) -> Seen {
                let (heap, mut at) = (self.heap(), 0);
                let mut blocks = Vec::new();
                while let Some((state, size)) = heap.block(at) {
                    let inside = heap.map().next_start(at + 1, at + size);
                    assert_eq!(inside, None, "nothing starts inside a block");
                    // Held by one who died before it sealed, or after: whoever frees it takes the lock.
                    let state = if state == State::Held { State::Live } else { state };
                    blocks.push((at, state, size));
                    at += size;
                }
                assert_eq!(at, heap.top(), "the map can be walked");
                let is_binned = |block: Option<&(u32, State, u32)>| {
                    block.is_some_and(|&(_, state, _)| state == State::Free)
                };
                let beside = |pair: &[_]| is_binned(pair.first()) && is_binned(pair.get(1));
                assert!(!blocks.windows(2).any(beside), "free blocks of bins are joined");
                assert!(!is_binned(blocks.last()), "and no such block ends at top");
                let are = |wanted| blocks.iter().filter(move |(_, state, _)| *state == wanted);
                let (binned, loose) = (are(State::Free).count(), are(State::Loose).count());
                let free = || are(State::Free).chain(are(State::Loose));
                let counts = heap.counts();
                assert_eq!(heap.binned(), Some(binned as u32), "each free block is in a bin");
                assert_eq!(counts.loose as usize, loose);
                assert_eq!(counts.free_count as usize, binned + loose);
                assert_eq!(counts.free, free().map(|(_, _, size)| size).sum::<u32>());
                let metas = || are(State::Meta);
                let lives = blocks.len() - free().count() - metas().count();
                assert_eq!(counts.live_count as usize, lives);
                assert_eq!(heap.meta(), metas().map(|(_, _, size)| size).sum::<u32>());
                let mut entries = Vec::new();
                self.enter(heap.first_link(), &mut Vec::new(), &mut entries);
                assert_eq!(entries.len(), metas().count(), "an entry is in one place");
                let has_magazine = self.geometry.caches > 0;
                let count = if has_magazine { self.region.load8(self.count_at()) } else { 0 };
                let item = |index| self.region.load32(self.item_at(index));
                let items = (0..usize::from(count)).map(item).collect();
                let behind = (usize::from(count)..60).all(|index| item(index) == NO_BLOCK);
                assert!(behind || !has_magazine, "behind the last stand only nones");
                heap.check_bytes().expect("what no caller wrote is as it must be");
                let contents = if self.geometry.has(GUARD) {
                    let lives = blocks.iter().filter(|(_, state, _)| state.is_live());
                    lives.map(|&(at, _, size)| self.content(at, size)).collect()
                } else {
                    Vec::new()
                };
                Seen { blocks: told(&blocks), items, contents, entries, root: heap.root() }
            }

            fn content(&self, at: u32, size: u32) -> (usize, u64) {
                (self.heap().usable(at, size), self.region.load64(self.geometry.offset(at)))
            }

            /// A block with a guard, and bytes that tell it from others.
            fn make(&self, size: u32, alignment: usize) -> u32 {
                let heap = self.heap();
                let granule = heap.alloc(size, alignment).expect("room");
                let asked = self.geometry.bytes(size) - 20;
                heap.set_guard(granule, asked);
                self.region.fill(self.geometry.offset(granule), asked, 1 + size as u8);
                granule
            }

            /// All entries from a link on.
            fn enter(&self, link: usize, way: &mut Vec<usize>, all: &mut Vec<(Vec<usize>, u32)>) {
                let heap = self.heap();
                let Some(entry) = heap.linked(link) else { return };
                assert!(way.len() < 9, "no way is as long as this");
                let is_entry = matches!(heap.block(entry), Some((State::Meta, _)));
                assert!(is_entry, "a link leads to an entry");
                all.push((way.clone(), entry));
                for child in 0..CHILDREN {
                    way.push(child);
                    self.enter(heap.link(entry, child), way, all);
                    way.pop();
                }
            }

            /// As who binds a block does it.
            fn bind(&self, block: u32, link: usize) {
                let heap = self.heap();
                let entry = heap.alloc(3, 1).expect("room");
                self.region.fill(self.geometry.offset(entry), 16, 0);
                heap.mark(block, Some(entry)).expect("live");
                heap.enter_name(entry, link);
                heap.leave();
            }

            /// The entry that a way leads to, and the link to it.
            fn at(&self, way: &[usize]) -> (u32, usize) {
                let heap = self.heap();
                let mut link = heap.first_link();
                for &child in way {
                    link = heap.link(heap.linked(link).expect("an entry"), child);
                }
                (heap.linked(link).unwrap_or(u32::MAX), link)
            }

            /// As who unbinds a block does it.
            fn strike(&self, way: &[usize], heir: Option<&[usize]>, block: u32, state: State) {
                let (entry, link) = self.at(way);
                let heir = heir.map(|way| (self.at(way).0, self.at(&way[..way.len() - 1]).0));
                let struck = Struck { entry, link, heir, block, state };
                self.heap().strike_name(struck).expect("an entry");
                self.heap().leave();
            }

            fn set(&mut self, bytes: &[u64]) {
                self.bytes.copy_from_slice(bytes);
            }
        }

        /// What callers can tell of blocks: free ones beside each other are one, and what is free
        /// below top is as good as what lies above.
        fn told(blocks: &[(u32, State, u32)]) -> Vec<(u32, State, u32)> {
            let mut told: Vec<(u32, State, u32)> = Vec::new();
            for &(start, state, size) in blocks {
                let state = if state == State::Loose { State::Free } else { state };
                match told.last_mut() {
                    Some((_, State::Free, before)) if state == State::Free => *before += size,
                    _ => told.push((start, state, size)),
                }
            }
            if told.last().is_some_and(|last| last.1 == State::Free) {
                told.pop();
            }
            told
        }

        /// Those of these blocks that the map shows as live, and in no call's hands.
        fn in_no_hands(pool: &Pool, seen: &Seen) -> Vec<(u32, State, u32)> {
            let is_live = |&&(start, state, size): &&(u32, State, u32)| {
                let shown = pool.heap().map().read(start, pool.geometry.granules);
                state == State::Live && shown == Some(Entry { state, size })
            };
            seen.blocks.iter().filter(is_live).copied().collect()
        }

        /// What a change may be: made from the blocks that are there, ended by its last store.
        type Call = fn(&Pool, &[u32]);

        /// Of the second recoverer's deaths one in so many is tried.
        const STRIDE: usize = 11;

        /// Whether it counts although it was cut short, from some store on.
        #[derive(Clone, Copy, PartialEq, Eq)]
        enum Fate {
            Undone,
            Finished,
        }

        /// Seven blocks, every other of them free; the last ends at top.
        fn rows(pool: &Pool) -> Vec<u32> {
            let heap = pool.heap();
            let blocks: Vec<u32> = [3, 2, 5, 1, 4, 9, 2]
                .iter()
                .map(|&size| heap.alloc(size, 1).expect("room"))
                .collect();
            for block in [blocks[1], blocks[3], blocks[5]] {
                heap.free(block).expect("live");
            }
            heap.leave();
            blocks
        }

        /// Tries one kind of change, at all deaths. How many there were.
        fn dies_anywhere(pool: &mut Pool, blocks: &[u32], fate: Fate, call: Call) -> u64 {
            let (bytes, before) = (pool.bytes.clone(), pool.seen());
            call(pool, blocks);
            let after = pool.seen();
            assert_ne!(before, after);
            let (mut deaths, mut is_bound) = (0, false);
            for stores in 0.. {
                pool.set(&bytes);
                if death::until_store(stores, || call(pool, blocks)) {
                    break;
                }
                let cut = pool.bytes.clone();
                // Others may go on with these before anybody recovers, and take no lock.
                let live = in_no_hands(pool, &before);
                pool.recover();
                let first = pool.seen();
                let is_kept = |block| after.blocks.is_empty() || first.blocks.contains(block);
                assert!(live.iter().all(is_kept), "{stores} stores: {live:?}, then {first:?}");
                assert!(
                    first == before || first == after,
                    "{stores} stores: between {before:?} and {after:?}: {first:?}"
                );
                let is_after = first == after;
                assert!(
                    is_after <= (fate == Fate::Finished),
                    "{stores} stores: nobody got it: {first:?}"
                );
                assert!(is_after >= is_bound, "{stores} stores: it was bound to happen");
                is_bound = is_after;
                for more in 0.. {
                    pool.set(&cut);
                    deaths += 1;
                    if death::until_store(more, || pool.recover()) {
                        break;
                    }
                    let cut_again = pool.bytes.clone();
                    pool.recover();
                    assert_eq!(pool.seen(), first, "{stores} stores, and {more} of recovery");
                    let rest = death::until_store(1, || pool.recover());
                    assert!(rest, "only the record is struck out once more");
                    // The next one may die as well; that is tried at some stores only.
                    for again in (0..).step_by(STRIDE) {
                        pool.set(&cut_again);
                        deaths += 1;
                        if death::until_store(again, || pool.recover()) {
                            break;
                        }
                        pool.recover();
                        assert_eq!(pool.seen(), first, "{stores}, {more} and {again} stores");
                    }
                }
            }
            assert_eq!(is_bound, fate == Fate::Finished);
            pool.set(&bytes);
            deaths
        }

        fn small() -> (Pool, Vec<u32>) {
            let pool = Pool::new(4096);
            let blocks = rows(&pool);
            (pool, blocks)
        }

        /// A pool with magazines: one holds three cached neighbours.
        fn large() -> (Pool, Vec<u32>) {
            let pool = Pool::new(256 << 10);
            let mut blocks = rows(&pool);
            let heap = pool.heap();
            let count = heap.refill(class(3), 3, pool.count_at()).expect("honest");
            heap.leave();
            assert_eq!(count, 3);
            blocks.extend((0..3).map(|index| pool.region.load32(pool.item_at(index))));
            (pool, blocks)
        }

        /// A block that becomes a caller's.
        pub fn allocations() -> u64 {
            let calls: [Call; 6] = [
                |pool, _| {
                    pool.heap().alloc(2, 1).expect("a hole");
                    pool.heap().leave();
                },
                |pool, _| {
                    pool.heap().alloc(6, 1).expect("a hole with a rest");
                    pool.heap().leave();
                },
                |pool, _| {
                    pool.heap().alloc(20, 1).expect("above top");
                    pool.heap().leave();
                },
                |pool, _| {
                    pool.heap().alloc(1, 64).expect("with a gap");
                    pool.heap().leave();
                },
                |pool, _| {
                    pool.heap().alloc(30, 256).expect("with a gap above top");
                    pool.heap().leave();
                },
                |pool, _| {
                    pool.heap().alloc(9, 1).expect("a hole");
                    pool.heap().leave();
                },
            ];
            let (mut pool, blocks) = small();
            calls.iter().map(|&call| dies_anywhere(&mut pool, &blocks, Fate::Undone, call)).sum()
        }

        /// A block that becomes free, shorter or longer, or all of them.
        pub fn frees_and_resizes() -> u64 {
            let calls: [Call; 10] = [
                |pool, b| {
                    pool.heap().free(b[0]).expect("right");
                    pool.heap().leave();
                },
                |pool, b| {
                    pool.heap().free(b[2]).expect("both");
                    pool.heap().leave();
                },
                |pool, b| {
                    pool.heap().free(b[4]).expect("both");
                    pool.heap().leave();
                },
                |pool, b| {
                    pool.heap().free(b[6]).expect("left and top");
                    pool.heap().leave();
                },
                |pool, b| {
                    assert!(pool.heap().resize(b[0], 1, 0).expect("shorter"));
                    pool.heap().leave();
                },
                |pool, b| {
                    assert!(pool.heap().resize(b[0], 4, 0).expect("longer"));
                    pool.heap().leave();
                },
                |pool, b| {
                    assert!(pool.heap().resize(b[0], 5, 0).expect("all of it"));
                    pool.heap().leave();
                },
                |pool, b| {
                    assert!(pool.heap().resize(b[6], 12, 0).expect("above top"));
                    pool.heap().leave();
                },
                |pool, b| {
                    assert!(pool.heap().resize(b[6], 1, 0).expect("top comes down"));
                    pool.heap().leave();
                },
                |pool, _| {
                    pool.heap().free_all().expect("whole");
                    pool.heap().leave();
                },
            ];
            let (mut pool, blocks) = small();
            calls.iter().map(|&call| dies_anywhere(&mut pool, &blocks, Fate::Finished, call)).sum()
        }

        /// A block that moves: two changes, of which the second begins as the first ends.
        pub fn moves() -> u64 {
            let calls: [Call; 2] = [
                |pool, b| {
                    let heap = pool.heap();
                    let to = heap.alloc(8, 1).expect("a hole");
                    let offset = |granule| pool.geometry.offset(granule);
                    pool.region.copy(offset(b[2]), offset(to), pool.geometry.bytes(5));
                    heap.free(b[2]).expect("live");
                    heap.leave();
                },
                |pool, b| {
                    let heap = pool.heap();
                    heap.alloc(40, 1).expect("above top");
                    heap.free(b[6]).expect("live");
                    heap.leave();
                },
            ];
            let (mut pool, blocks) = small();
            calls.iter().map(|&call| dies_anywhere(&mut pool, &blocks, Fate::Finished, call)).sum()
        }

        /// A pool that looks for mistakes: seven blocks, every other of them free.
        fn looking() -> (Pool, Vec<u32>) {
            let pool = Pool::with(4096, GUARD | FILL_FREED);
            let sizes = [3, 2, 5, 2, 4, 9, 5];
            let blocks: Vec<u32> = sizes.iter().map(|&size| pool.make(size, 1)).collect();
            for block in [blocks[1], blocks[3], blocks[5]] {
                pool.heap().free(block).expect("live");
            }
            pool.heap().leave();
            (pool, blocks)
        }

        /// What no caller wrote is as it must be, wherever who writes it dies: guards, and free memory.
        pub fn looks() -> u64 {
            let mallocs: [Call; 5] = [
                |pool, _| {
                    pool.make(2, 1);
                    pool.heap().leave();
                },
                |pool, _| {
                    pool.make(6, 1);
                    pool.heap().leave();
                },
                |pool, _| {
                    pool.make(20, 1);
                    pool.heap().leave();
                },
                |pool, _| {
                    pool.make(2, 64);
                    pool.heap().leave();
                },
                |pool, _| {
                    pool.make(30, 256);
                    pool.heap().leave();
                },
            ];
            let others: [Call; 12] = [
                |pool, b| {
                    pool.heap().free(b[0]).expect("right");
                    pool.heap().leave();
                },
                |pool, b| {
                    pool.heap().free(b[2]).expect("both");
                    pool.heap().leave();
                },
                |pool, b| {
                    pool.heap().free(b[6]).expect("left and top");
                    pool.heap().leave();
                },
                |pool, b| {
                    assert!(pool.heap().resize(b[0], 2, 9).expect("shorter"));
                    pool.heap().leave();
                },
                |pool, b| {
                    assert!(pool.heap().resize(b[0], 3, 30).expect("as many granules"));
                    pool.heap().leave();
                },
                |pool, b| {
                    assert!(pool.heap().resize(b[0], 4, 48).expect("longer"));
                    pool.heap().leave();
                },
                |pool, b| {
                    assert!(pool.heap().resize(b[0], 5, 50).expect("all of it"));
                    pool.heap().leave();
                },
                |pool, b| {
                    assert!(pool.heap().resize(b[4], 2, 8).expect("shorter, beside a free one"));
                    pool.heap().leave();
                },
                |pool, b| {
                    assert!(pool.heap().resize(b[6], 12, 150).expect("above top"));
                    pool.heap().leave();
                },
                |pool, b| {
                    assert!(pool.heap().resize(b[6], 2, 16).expect("top comes down"));
                    pool.heap().leave();
                },
                |pool, b| {
                    let to = pool.make(8, 1);
                    let offset = |granule| pool.geometry.offset(granule);
                    pool.region.copy(offset(b[2]), offset(to), pool.geometry.bytes(5) - 20);
                    pool.heap().free(b[2]).expect("live");
                    pool.heap().leave();
                },
                |pool, _| {
                    pool.heap().free_all().expect("whole");
                    pool.heap().leave();
                },
            ];
            let (mut pool, blocks) = looking();
            let mut deaths = 0;
            for (fate, calls) in [(Fate::Undone, &mallocs[..]), (Fate::Finished, &others[..])] {
                for &call in calls {
                    deaths += dies_anywhere(&mut pool, &blocks, fate, call);
                }
            }
            deaths
        }

        /// Blocks that go from the heap to a magazine and back.
        pub fn exchanges() -> u64 {
            let calls: [Call; 3] = [
                |pool, _| {
                    let two = Taker { count_at: pool.count_at(), count: 1, run: 2, size: 3 };
                    assert_eq!(pool.heap().loosen_all(two), 2);
                    pool.heap().leave();
                },
                |pool, _| {
                    let all = Taker { count_at: pool.count_at(), count: 0, run: 3, size: 3 };
                    assert_eq!(pool.heap().loosen_all(all), 3);
                    pool.heap().leave();
                },
                |pool, b| {
                    let one = Taker::of_one(pool.count_at(), 2);
                    pool.heap().take_back(b[9], one).expect("cached");
                    pool.heap().leave();
                },
            ];
            let (mut pool, blocks) = large();
            let mut deaths: u64 = calls
                .iter()
                .map(|&call| dies_anywhere(&mut pool, &blocks, Fate::Finished, call))
                .sum();
            // A moving realloc whose new block comes from the magazine, and is live already.
            pool.heap().map().write(blocks[9], Entry { state: State::Live, size: 3 });
            let delivers: Call = |pool, b| {
                pool.heap().free_and_deliver(b[0], pool.count_at(), 2).expect("live");
                pool.heap().leave();
            };
            deaths += dies_anywhere(&mut pool, &blocks, Fate::Finished, delivers);
            deaths
        }

        /// Blocks that are made for a magazine, which a death gives to nobody: of several free ones,
        /// with rests and without; above top; of loose ones that are joined.
        pub fn refills() -> u64 {
            fn refill(pool: &Pool, size: u32, most: u32) -> u32 {
                let heap = pool.heap();
                let count = heap.refill(class(size), most, pool.count_at()).expect("honest");
                heap.leave();
                count
            }
            let calls: [Call; 6] = [
                |pool, _| assert_eq!(refill(pool, 1, 5), 5, "two holes and of a third a part"),
                |pool, _| assert_eq!(refill(pool, 1, 20), 12, "all holes"),
                |pool, _| assert_eq!(refill(pool, 2, 3), 3, "a hole, and a part of another"),
                |pool, _| assert_eq!(refill(pool, 3, 9), 3, "a hole"),
                |pool, _| assert_eq!(refill(pool, 4, 9), 2, "a hole with a rest"),
                |pool, _| assert_eq!(refill(pool, 12, 7), 7, "above top"),
            ];
            let mut pool = Pool::new(256 << 10);
            let blocks = rows(&pool);
            let mut deaths = 0;
            for call in calls {
                deaths += dies_anywhere(&mut pool, &blocks, Fate::Undone, call);
            }
            let (mut pool, blocks) = scattered();
            let calls: [Call; 2] = [
                |pool, _| assert_eq!(refill(pool, 2, 4), 4, "a loose stretch"),
                |pool, _| assert_eq!(refill(pool, 10, 60), 8, "two stretches, with rests"),
            ];
            for call in calls {
                deaths += dies_anywhere(&mut pool, &blocks, Fate::Undone, call);
            }
            deaths
        }

        fn class(size: u32) -> u8 {
            class::exact(size).expect("a class's size")
        }

        /// A directory: blocks 0 and 2 have two names each, block 4 one, and is the root.
        fn named((pool, blocks): (Pool, Vec<u32>)) -> (Pool, Vec<u32>) {
            let ways: [(usize, &[usize]); 5] =
                [(0, &[]), (0, &[1]), (2, &[3]), (2, &[1, 0]), (4, &[1, 0, 2])];
            for (block, way) in ways {
                pool.bind(blocks[block], pool.at(way).1);
            }
            pool.heap().mark(blocks[4], None).expect("live");
            pool.heap().set_root(Some(blocks[4]), State::Live);
            pool.heap().leave();
            (pool, blocks)
        }

        /// Blocks get names, lose them, and are the root.
        pub fn names() -> u64 {
            let calls: [Call; 11] = [
                |pool, b| pool.bind(b[6], pool.at(&[0]).1),
                |pool, b| pool.bind(b[4], pool.at(&[1, 0, 2, 1]).1),
                |pool, b| pool.strike(&[3], None, b[2], State::Named),
                |pool, b| pool.strike(&[1, 0, 2], None, b[4], State::Named),
                // A leaf of its own, or from far below, takes its place.
                |pool, b| pool.strike(&[], Some(&[3]), b[0], State::Named),
                |pool, b| pool.strike(&[], Some(&[1, 0, 2]), b[0], State::Named),
                |pool, b| pool.strike(&[1, 0], Some(&[1, 0, 2]), b[2], State::Live),
                |pool, b| {
                    pool.heap().mark(b[6], None).expect("live");
                    pool.heap().set_root(Some(b[6]), State::Named);
                    pool.heap().leave();
                },
                |pool, _| {
                    pool.heap().set_root(None, State::Named);
                    pool.heap().leave();
                },
                |pool, b| {
                    assert!(pool.heap().resize(b[0], 2, 9).expect("shorter"));
                    assert!(pool.heap().free(b[0]).is_err(), "it has a name");
                    pool.heap().leave();
                },
                |pool, _| {
                    pool.heap().free_all().expect("whole");
                    pool.heap().leave();
                },
            ];
            let mut deaths = 0;
            for rows in [small(), looking()] {
                let (mut pool, blocks) = named(rows);
                for call in calls {
                    deaths += dies_anywhere(&mut pool, &blocks, Fate::Finished, call);
                }
            }
            deaths
        }

        /// A pool with loose blocks: three beside each other between free blocks of bins, two
        /// before the last block, two that end at top.
        fn scattered() -> (Pool, Vec<u32>) {
            let pool = Pool::new(256 << 10);
            let heap = pool.heap();
            let sizes = [4, 2, 3, 1, 2, 5, 1, 70, 3, 2, 1, 6, 2];
            let blocks: Vec<u32> =
                sizes.iter().map(|&size| heap.alloc(size, 1).expect("room")).collect();
            for at in [1, 5] {
                heap.free(blocks[at]).expect("live");
            }
            for at in [2, 3, 4, 7, 8, 11, 12] {
                heap.loosen(blocks[at]).expect("live");
            }
            heap.leave();
            (pool, blocks)
        }

        /// Loose blocks that are made, joined and taken, and grown into.
        pub fn sweeps() -> u64 {
            let calls: [Call; 4] = [
                |pool, b| {
                    pool.heap().loosen(b[6]).expect("live");
                    pool.heap().leave();
                },
                |pool, b| {
                    assert!(pool.heap().resize(b[6], 30, 0).expect("into a loose one"));
                    pool.heap().leave();
                },
                |pool, b| {
                    pool.heap().free(b[9]).expect("beside a loose one");
                    pool.heap().leave();
                },
                |pool, b| {
                    assert!(pool.heap().resize(b[9], 1, 0).expect("shorter"));
                    pool.heap().leave();
                },
            ];
            let (mut pool, blocks) = scattered();
            let mut deaths: u64 = calls
                .iter()
                .map(|&call| dies_anywhere(&mut pool, &blocks, Fate::Finished, call))
                .sum();
            let taken: Call = |pool, _| {
                pool.heap().alloc(9, 1).expect("a loose stretch");
                pool.heap().leave();
            };
            deaths += dies_anywhere(&mut pool, &blocks, Fate::Undone, taken);
            deaths
        }

        /// Several changes, each whole or not begun: all loose blocks are joined.
        pub fn joins() -> u64 {
            let (mut pool, _) = scattered();
            let (bytes, before) = (pool.bytes.clone(), pool.seen());
            let loose = |pool: &Pool| pool.heap().counts().loose;
            assert!(loose(&pool) > 0);
            let mut deaths = 0;
            for stores in 0.. {
                pool.set(&bytes);
                let ended = death::until_store(stores, || {
                    pool.heap().join_all().expect("whole");
                    pool.heap().leave();
                });
                if ended {
                    break;
                }
                let cut = pool.bytes.clone();
                for more in 0.. {
                    pool.set(&cut);
                    deaths += 1;
                    let ended = death::until_store(more, || pool.recover());
                    pool.recover();
                    assert_eq!(pool.seen(), before, "{stores} stores, and {more} of recovery");
                    if ended {
                        break;
                    }
                }
            }
            assert_eq!(loose(&pool), 0);
            deaths
        }
    };
}

mod heap {
    protocol!(heap);
    use models::heaps::heap::{layout::HEAP_OFFSET, options::NO_COMPACT};

    #[test]
    fn a_malloc_that_was_cut_short_is_undone() {
        println!("{} deaths of makers and recoverers", allocations());
    }

    #[test]
    fn a_free_or_a_resize_is_as_if_not_begun_or_finished() {
        println!("{} deaths of makers and recoverers", frees_and_resizes());
    }

    #[test]
    fn a_block_that_moves_is_in_one_place() {
        println!("{} deaths of makers and recoverers", moves());
    }

    #[test]
    fn what_no_caller_wrote_is_as_it_must_be() {
        println!("{} deaths of makers and recoverers", looks());
    }

    #[test]
    fn a_name_is_there_or_not_and_so_is_the_root() {
        println!("{} deaths of makers and recoverers", names());
    }

    #[test]
    fn what_is_loose_is_joined_and_taken_or_left_alone() {
        println!("{} deaths of makers and recoverers", sweeps());
    }

    #[test]
    fn what_is_joined_is_no_more_and_no_less() {
        println!("{} deaths of makers and recoverers", joins());
    }

    #[test]
    fn what_was_to_go_to_a_magazine_is_free() {
        println!("{} deaths of makers and recoverers", refills());
    }

    /// Blocks side by side; those of one size are freed, but for walls between them.
    fn with_holes(pool: &Pool, sizes: &[u32], hole: u32) -> Vec<u32> {
        let heap = pool.heap();
        let blocks: Vec<u32> =
            sizes.iter().map(|&size| heap.alloc(size, 1).expect("room")).collect();
        for (&block, _) in blocks.iter().zip(sizes).filter(|(_, &size)| size == hole) {
            heap.free(block).expect("live");
        }
        heap.leave();
        blocks
    }

    /// Where bins hold blocks of several sizes those that are too small hide no others.
    #[test]
    fn a_magazine_is_filled_from_below_top_if_there_is_room() {
        let pool = Pool::new(256 << 10);
        let blocks = with_holes(&pool, &[16, 1, 34, 1, 34, 1, 34, 1, 34, 1], 34);
        let heap = pool.heap();
        heap.free(blocks[0]).expect("live");
        let top = heap.top();
        assert_eq!(heap.refill(class(17), 8, pool.count_at()), Ok(8));
        heap.leave();
        assert_eq!(heap.top(), top);
        pool.seen();
    }

    /// Who makes space whole makes none of a block whose start somebody wrote over: that is damage, and
    /// told.
    #[test]
    fn what_is_damaged_is_not_taken_for_free_after_a_death() {
        for (size, byte) in [(70, 0x05), (70, 0xff), (70, 0xf8), (5, 0x98 + 2)] {
            for stores in 0..30 {
                let pool = Pool::new(256 << 10);
                let blocks = with_holes(&pool, &[3, 3, size, 3, 9, 3], 9);
                let heap = pool.heap();
                pool.region.store8(pool.geometry.map + blocks[2] as usize, byte);
                death::until_store(stores, || {
                    heap.refill(class(2), 4, pool.count_at()).expect("a hole");
                    heap.leave();
                });
                // It may say that the map is damaged.
                let _ = heap.enter(|| ());
                heap.leave();
                while let Ok(granule) = heap.alloc(2, 1) {
                    let owners = blocks[2]..blocks[2] + size;
                    assert!(!owners.contains(&granule), "{byte:x}, {stores} stores: {granule}");
                    heap.leave();
                }
            }
        }
    }

    /// What says how many blocks are loose is a hint.
    #[test]
    fn where_nothing_is_loose_a_wrong_count_of_that_joins_nothing() {
        let pool = Pool::with(4096, NO_COMPACT | FILL_FREED);
        let heap = pool.heap();
        let blocks: Vec<u32> = (0..6).map(|_| heap.alloc(3, 1).expect("room")).collect();
        blocks[1..4].iter().for_each(|&block| heap.free(block).expect("live"));
        heap.leave();
        let (bytes, loose) = (pool.bytes.clone(), pool.geometry.word(HEAP_OFFSET + 5 * 4));
        let mut pool = pool;
        for stores in 0..60 {
            pool.set(&bytes);
            pool.region.store32(loose, 1);
            death::until_store(stores, || _ = pool.heap().alloc(3, 1));
            pool.heap().enter(|| ()).expect("sound");
            pool.heap().leave();
            pool.heap().check_bytes().expect("nobody wrote to free memory");
            let blocks = (0..5).map(|at| pool.heap().block(3 * at).expect("one").1);
            assert!(blocks.into_iter().all(|size| size == 3), "{stores} stores");
        }
    }

    /// Who comes to a bin of which head and bit disagree makes all bins anew: else one of them would be
    /// put right, and what the bin had held stay hidden.
    #[test]
    fn a_bin_that_lost_its_blocks_gets_them_back_with_the_next() {
        for is_head in [true, false] {
            let pool = Pool::new(4096);
            let blocks = with_holes(&pool, &[2, 1, 2, 1, 2, 1, 3, 1], 2);
            let (bitmap, heads) = (pool.geometry.bitmap(), pool.geometry.bins());
            if is_head {
                let all = (0..pool.geometry.bin_count as usize).map(|bin| heads + 4 * bin);
                all.for_each(|head| pool.region.store32(head, u32::MAX));
            } else {
                pool.region.store64(bitmap, 0);
            }
            let heap = pool.heap();
            // Becomes shorter, and leaves a hole of the same size.
            assert_eq!(heap.resize(blocks[6], 1, 0), Ok(true));
            heap.leave();
            pool.seen();
        }
    }

    /// What stands far behind a magazine's last block was never to be its.
    #[test]
    fn a_refill_that_is_undone_gives_up_its_own_blocks_only() {
        let (mut pool, blocks) = large();
        let bytes = pool.bytes.clone();
        for stores in 0..60 {
            pool.set(&bytes);
            pool.hold(&[]);
            pool.region.store32(pool.item_at(30), blocks[8]);
            death::until_store(stores, || {
                pool.heap().refill(class(3), 4, pool.count_at()).expect("above top");
            });
            pool.recover();
            assert!(pool.heap().has(blocks[8], State::Cached, 3), "{stores} stores");
        }
    }

    #[test]
    fn what_goes_to_a_magazine_or_comes_back_is_in_one_place() {
        println!("{} deaths of makers and recoverers", exchanges());
    }
}

/// A weakened heap, and what finds it out.
macro_rules! fails {
    ($($name:ident: $test:ident, $how:literal;)*) => {$(
        #[allow(dead_code)]
        mod $name {
            protocol!($name);

            #[test]
            #[should_panic(expected = $how)]
            fn is_found_out() {
                $test();
            }
        }
    )*};
}

fails! {
    heap_that_changes_before_it_seals: frees_and_resizes, "can be walked";
    heap_that_keeps_what_nobody_got: allocations, "nobody got it";
    heap_that_strikes_out_before_it_mends: frees_and_resizes, "in a bin";
    heap_that_believes_its_hints: frees_and_resizes, "in a bin";
    heap_that_seals_before_it_writes: moves, " stores";
    heap_with_one_slot: moves, " stores";
    heap_that_heals_nothing: refills, "of a change that can be";
    heap_that_leaves_gaps: joins, "of a change that can be";
    heap_that_lets_what_it_heals_stand_beside_each_other: joins, "are joined";
    heap_that_keeps_free_what_ends_at_top: joins, "ends at top";
    heap_that_keeps_what_it_was_to_give_a_magazine: refills, " stores";
    heap_that_keeps_what_it_was_to_give_a_magazine_above_top: refills, " stores";
    heap_that_makes_blocks_before_it_writes_them_down: refills, " stores";
    heap_that_fills_magazines_before_it_seals: refills, "in a bin";
    heap_that_joins_before_it_seals: joins, "in a bin";
    heap_that_fills_once: looks, "as it must be";
    heap_that_fills_too_late: looks, "as it must be";
    heap_that_fills_before_it_seals: looks, "as it must be";
    heap_that_forgets_what_was_asked: looks, "as it must be";
    heap_that_guards_before_it_seals: looks, "as it must be";
    heap_that_enters_before_it_seals: names, "an entry is in one place";
    heap_that_leaves_marks: names, "stores";
    heap_with_no_heirs: names, "an entry is in one place";
    heap_that_holds_nothing: frees_and_resizes, ", then ";
    heap_that_seals_before_it_holds: frees_and_resizes, ", then ";
}
