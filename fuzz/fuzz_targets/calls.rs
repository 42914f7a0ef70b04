//! Any calls in any order, on a pool made in any way, against a model of it: the blocks that the
//! caller has, with what it wrote into them.
//!
//! The input says how the pool is made, then call by call what is done. Codes that no call has do
//! nothing: new calls take free ones, so that the corpus keeps its meaning.
#![no_main]

#[path = "calls/magazines.rs"]
mod magazines;
#[path = "calls/names.rs"]
mod names;
#[path = "calls/writes.rs"]
mod writes;

use ::mempool::abi::*;
use ::mempool::layout::GUARD_BYTES;
use libfuzzer_sys::fuzz_target;
use mempool_fuzz::buffer::Buffer;
use mempool_fuzz::crew::{self, Walk, Who};
use mempool_fuzz::handle::{self, Options, Stats};
use mempool_fuzz::setup::Setup;
use mempool_fuzz::{owners, stamp, Handle, Input};
use std::collections::BTreeMap;
use writes::Writes;

fuzz_target!(|bytes: &[u8]| {
    if let Some(world) = World::new(Input::new(bytes)) {
        crew::run(world).end();
    }
});

/// A block that the caller has.
#[derive(Clone, Copy, Debug)]
struct Live {
    asked: usize,
    usable: usize,
    /// What its bytes are; of a shelf, whose words are slots, None.
    seed: Option<u64>,
    is_owned: bool,
}

struct World {
    input: Input,
    elsewhere: Option<(Who, usize)>,
    buffer: Buffer,
    options: Options,
    granule: usize,
    /// One for each mapping.
    handles: [Handle; 2],
    now: usize,
    after_init: Stats,
    live: BTreeMap<u64, Live>,
    /// What is in the slots of the shelves, by offset of the slot, unless it is 0.
    slots: BTreeMap<u64, u64>,
    /// Where the block lies that has it.
    names: BTreeMap<Vec<u8>, u64>,
    root: Option<u64>,
    writes: Writes,
    /// Blocks that were freed, the last ones.
    freed: Vec<u64>,
    seeds: u64,
    label: Option<u64>,
}

/// Slots of a shelf.
const SLOTS: usize = 8;

/// Attaches to the pool of a buffer, by each of its mappings.
fn attach(buffer: &Buffer, mapping: usize, options: &Options) -> Handle {
    let handle = handle::attach(buffer.base(mapping), buffer.len(), options);
    handle.unwrap_or_else(|status| panic!("attach: {status}: {}", handle::last_message()))
}

impl Walk for World {
    /// Does what the input says, so many steps of it, or until it goes on in another thread.
    fn steps(&mut self, count: usize) {
        for _ in 0..count {
            let Some(code) = self.input.step() else { return };
            self.step(code & 0x3f);
            if self.elsewhere.is_some() {
                return;
            }
        }
    }

    fn turn(&mut self) -> Option<(Who, usize)> {
        self.elsewhere.take()
    }
}

impl World {
    fn new(mut input: Input) -> Option<World> {
        let Setup { options, buffer } = Setup::choose(&mut input)?;
        let first = handle::init(buffer.base(0), buffer.len(), &options)
            .unwrap_or_else(|status| panic!("init: {status}: {}", handle::last_message()));
        let handles = [first, attach(&buffer, 1, &options)];
        let after_init = first.stats();
        Some(World {
            input,
            elsewhere: None,
            buffer,
            granule: after_init.align as usize,
            options,
            handles,
            now: 0,
            after_init,
            live: BTreeMap::new(),
            slots: BTreeMap::new(),
            names: BTreeMap::new(),
            root: None,
            writes: Writes::new(after_init.top),
            freed: Vec::new(),
            seeds: 0,
            label: None,
        })
    }

    fn pool(&self) -> Handle {
        self.handles[self.now]
    }

    fn has(&self, flag: u32) -> bool {
        self.options.flags & flag != 0
    }

    fn has_owners(&self) -> bool {
        self.has(MEMPOOL_OWNER_TAGS)
    }

    fn pointer(&self, offset: u64) -> *mut u8 {
        let pointer = self.pool().pointer(offset);
        assert!(!pointer.is_null(), "{offset:#x} is in the pool");
        pointer
    }

    fn step(&mut self, code: u8) {
        match code {
            0..=7 => self.get(Handle::malloc),
            8 => self.get(|pool, size| pool.calloc(1, size)),
            9 => self.calloc_fill(),
            10 => self.aligned_alloc(),
            11 => self.get(|pool, size| pool.realloc(std::ptr::null_mut(), size)),
            12..=19 => self.free(),
            20 => self.free_sized(),
            21..=24 => self.realloc(),
            25 => self.expand(),
            26 => self.bad_pointer(),
            27 => self.many(),
            28 => self.make_shelf(),
            29 => self.malloc_to(),
            30 => self.free_from(),
            31 => self.store_in_slot(),
            32 => self.bad_slot(),
            33 => self.now = 1 - self.now,
            34 => self.reattach(),
            35 => self.elsewhere = self.input.turn(Who::Other),
            36 => self.elsewhere = self.input.turn(Who::Mortal),
            37 => self.pool().trim().expect("trim"),
            38 => self.recover(),
            39 => self.judge(),
            40 => self.free_all(),
            41 => self.owner(),
            42 => self.label(),
            43 => self.reap(),
            44 => self.free_on_the_way(),
            45 => self.begin_anew(),
            46 => self.bad_arguments(),
            47 => self.look_from_outside(),
            48 | 49 => self.bind_one(),
            50 => self.bind_many(),
            51 => self.unbind(),
            52 => self.unbind_from(),
            53 => self.unbind_on_the_way(),
            54 => self.set_root(),
            55 => self.look_up(),
            56 => self.bad_name(),
            57 => self.write_behind(),
            58 => self.write_free(),
            _ => {}
        }
    }

    // ---- What a call may answer ----

    /// A call has given a block; a shelf is not to be stamped.
    fn take(&mut self, block: *mut u8, asked: usize, stamp: bool) -> u64 {
        let pool = self.pool();
        let (offset, usable) = (pool.offset(block), pool.usable_size(block));
        assert!(usable >= asked, "{usable} bytes instead of {asked}");
        assert!(offset >= self.after_init.top, "in the pool's own bytes");
        let end = offset + self.least(asked, usable);
        assert!(end <= self.end_of_blocks(), "over the end");
        let alignment = self.granule.min(4096);
        assert_eq!(block.addr() % alignment, 0, "misaligned");
        if let Some((&before, live)) = self.live.range(..end).next_back() {
            let end = before + self.least(live.asked, live.usable);
            assert!(end <= offset, "{offset:#x} overlaps {before:#x}");
        }
        assert!(!self.is_loose(asked, usable), "{usable} bytes for {asked}");
        self.writes.must_miss(offset..end);
        let live = Live { asked, usable, seed: None, is_owned: self.has_owners() };
        self.live.insert(offset, live);
        if stamp {
            self.stamp(offset);
        }
        offset
    }

    /// The bytes of the pool that a block takes at least.
    fn least(&self, asked: usize, usable: usize) -> u64 {
        if self.has(MEMPOOL_GUARD) {
            (asked + GUARD_BYTES).next_multiple_of(self.granule) as u64
        } else {
            usable as u64
        }
    }

    /// Whether a block is longer than rounding makes it: with a guard, at all.
    fn is_loose(&self, asked: usize, usable: usize) -> bool {
        if self.has(MEMPOOL_GUARD) {
            return usable != asked;
        }
        self.is_wasteful(asked, usable)
    }

    /// Whether so many bytes are more than rounding makes of these: by more than an eighth, and what
    /// is too little to split off.
    fn is_wasteful(&self, bytes: usize, whole: usize) -> bool {
        let most = bytes.next_multiple_of(self.granule) + self.options.min_split.max(16);
        whole > most + most / 8 + self.granule && !self.has(MEMPOOL_NO_SPLIT)
    }

    /// Whether an empty pool had room for so many bytes.
    fn could_be(&self, size: usize) -> bool {
        let guard = if self.has(MEMPOOL_GUARD) { GUARD_BYTES } else { 0 };
        let needed =
            size.checked_add(guard).and_then(|size| size.checked_next_multiple_of(self.granule));
        needed.is_some_and(|needed| needed as u64 <= self.after_init.available)
    }

    fn end_of_blocks(&self) -> u64 {
        let stats = &self.after_init;
        stats.top + stats.available
    }

    fn stamp(&mut self, offset: u64) {
        self.seeds += 1;
        let (block, seed) = (self.pointer(offset), self.seeds);
        let live = self.live.get_mut(&offset).expect("a block of the caller's");
        live.seed = Some(seed);
        // SAFETY: our own block.
        unsafe { stamp::write(block, live.usable, seed) };
    }

    /// A block has what was written into it, as far as `kept`, in its place or where it went.
    fn must_have(&self, block: *const u8, live: &Live, kept: usize) {
        if let Some(seed) = live.seed {
            // SAFETY: our own block, of at least kept bytes.
            let is_kept = unsafe { stamp::is_kept(block, live.usable, kept, seed) };
            assert!(is_kept, "a block's bytes have changed: {live:?}");
        }
    }

    /// The caller frees a block, or the pool has: what it held is looked at before.
    fn must_be_whole(&self, offset: u64) {
        let live = &self.live[&offset];
        let block = self.pointer(offset);
        let usable = if self.writes.hides_size(offset) { 0 } else { live.usable };
        assert_eq!(self.pool().usable_size(block), usable, "{offset:#x} has changed");
        self.must_have(block, live, live.usable);
    }

    /// What a call that would end a block must say.
    fn ends(&self, offset: u64) -> Result<(), i32> {
        if self.is_bound(offset) {
            return Err(MEMPOOL_ERR_BUSY);
        }
        self.writes.told_of(offset)
    }

    /// A call was to free a block, and has if it could.
    fn must_end(&mut self, offset: u64, answer: Result<(), i32>) {
        assert_eq!(answer, self.ends(offset), "{offset:#x}: {}", handle::last_message());
        match answer {
            Ok(()) => {
                self.must_be_filled(offset);
                self.forget(offset);
            }
            Err(_) => self.must_be_whole(offset),
        }
    }

    fn forget(&mut self, offset: u64) {
        let live = self.live.remove(&offset).expect("a block of the caller's");
        let end = offset + live.usable as u64;
        self.slots.retain(|at, _| !(offset..end).contains(at));
        if self.freed.len() == 16 {
            self.freed.remove(0);
        }
        self.freed.push(offset);
    }

    /// No call for so many bytes may succeed now.
    fn must_be_full(&self, size: usize) {
        let size = size.saturating_add(if self.has(MEMPOOL_GUARD) { GUARD_BYTES } else { 0 });
        let compact = !self.has(MEMPOOL_NO_COMPACT);
        let (mut run, mut longest, mut at) = (0u64, 0, self.after_init.top);
        for block in self.pool().walk() {
            let goes_on = compact && block.state == MEMPOOL_BLOCK_FREE;
            run = match block.state {
                MEMPOOL_BLOCK_FREE if goes_on => run + block.size,
                MEMPOOL_BLOCK_FREE => block.size,
                _ => 0,
            };
            longest = longest.max(run);
            at = block.offset + block.size;
        }
        // What lies behind the last granule is no room.
        let above = (self.end_of_blocks() - at) / self.granule as u64 * self.granule as u64;
        longest = longest.max(if compact { run + above } else { above });
        assert!(longest < size as u64, "there are {longest} bytes, and {size} were refused");
    }

    fn got(&mut self, answer: Result<*mut u8, i32>, size: usize) -> Option<u64> {
        match answer {
            Ok(block) => Some(self.take(block, size, true)),
            Err(MEMPOOL_ERR_INVALID_ARGUMENT) if size == 0 => None,
            Err(MEMPOOL_ERR_OUT_OF_MEMORY) => {
                self.must_be_full(size);
                None
            }
            Err(status) => {
                self.must_be_told(status);
                None
            }
        }
    }

    /// One of the caller's blocks.
    fn pick(&mut self) -> Option<u64> {
        if self.live.is_empty() {
            return None;
        }
        let at = self.input.index(self.live.len());
        self.live.keys().nth(at).copied()
    }

    // ---- Blocks come and go ----

    fn get(&mut self, call: fn(Handle, usize) -> Result<*mut u8, i32>) {
        let size = self.input.size(self.granule);
        let answer = call(self.pool(), size);
        self.got(answer, size);
    }

    fn calloc_fill(&mut self) {
        let (size, fill) = (self.input.size(self.granule), self.input.u8());
        let answer = self.pool().calloc_fill(1, size, fill);
        if let Ok(block) = answer {
            // SAFETY: the new block.
            let bytes = unsafe { std::slice::from_raw_parts(block, size) };
            assert!(bytes.iter().all(|&byte| byte == fill), "not filled");
        }
        self.got(answer, size);
    }

    fn aligned_alloc(&mut self) {
        let (size, log2) = (self.input.size(self.granule), self.input.u8() % 18);
        let alignment = 1usize << log2;
        match self.pool().aligned_alloc(alignment, size) {
            Ok(block) => {
                let is_aligned = block.addr() % alignment == 0;
                assert!(is_aligned || self.granule > 4096, "not aligned to {alignment}");
                self.take(block, size, true);
            }
            Err(MEMPOOL_ERR_INVALID_ARGUMENT) if size == 0 => {}
            // Wherever the free runs lie, one of so many bytes would do.
            Err(MEMPOOL_ERR_OUT_OF_MEMORY) => {
                self.must_be_full(size.saturating_add(alignment + self.granule))
            }
            Err(status) => self.must_be_told(status),
        }
    }

    fn free(&mut self) {
        if let Some(offset) = self.pick() {
            self.must_be_whole(offset);
            let answer = self.pool().free(self.pointer(offset));
            self.must_end(offset, answer);
        }
    }

    fn free_sized(&mut self) {
        let Some(offset) = self.pick() else { return };
        self.must_be_whole(offset);
        let live = self.live[&offset];
        let (block, size) = (self.pointer(offset), self.input.size(self.granule));
        let wrong = match size {
            // What was written behind it may be told first.
            _ if self.writes.told_of(offset).is_err() => None,
            0 => Some(0),
            size if size > live.usable || self.is_loose(size, live.usable) => Some(size),
            _ => None,
        };
        if let Some(wrong) = wrong {
            let answer = self.pool().free_sized(block, wrong);
            assert_eq!(answer, Err(MEMPOOL_ERR_INVALID_ARGUMENT), "{wrong} of {}", live.usable);
        }
        let answer = self.pool().free_sized(block, live.asked);
        self.must_end(offset, answer);
    }

    fn realloc(&mut self) {
        let Some(offset) = self.pick() else { return };
        let (live, size) = (self.live[&offset], self.input.size(self.granule));
        let shelf = self.slots_of(offset);
        self.must_be_whole(offset);
        let (is_bound, told) = (self.is_bound(offset), self.writes.told_of(offset));
        match self.pool().realloc(self.pointer(offset), size) {
            Ok(block) => {
                assert_eq!(told, Ok(()), "written behind");
                assert!(!is_bound || self.pool().offset(block) == offset, "it moves with a name");
                self.must_have(block, &live, live.usable.min(size));
                self.must_hold(block, &shelf, size);
                self.forget(offset);
                self.take(block, size, true);
            }
            Err(MEMPOOL_ERR_INVALID_ARGUMENT) if size == 0 => self.must_be_whole(offset),
            Err(MEMPOOL_ERR_OUT_OF_MEMORY) => {
                assert!(size > live.usable, "it is as long as that");
                let is_first = is_bound || told.is_err();
                assert!(!is_first || !self.could_be(size), "something else comes first");
                self.must_be_whole(offset);
                self.must_be_full(size);
            }
            Err(MEMPOOL_ERR_BUSY) => {
                assert!(is_bound, "it has no name");
                self.must_be_whole(offset);
            }
            Err(status) => {
                if told != Err(status) {
                    self.must_be_told(status);
                }
                self.must_be_whole(offset);
            }
        }
    }

    fn expand(&mut self) {
        let Some(offset) = self.pick() else { return };
        let (live, size) = (self.live[&offset], self.input.size(self.granule));
        self.must_be_whole(offset);
        let block = self.pointer(offset);
        let told = self.writes.told_of(offset);
        match self.pool().expand(block, size) {
            answer if told.is_err() => {
                assert_eq!(answer, told, "{}", handle::last_message());
                self.must_be_whole(offset);
            }
            Ok(()) => {
                self.must_have(block, &live, live.usable);
                let shelf = self.slots_of(offset);
                self.must_hold(block, &shelf, live.usable);
                self.live.remove(&offset);
                let asked = if size > live.usable { size } else { live.asked };
                self.take(block, asked, live.seed.is_some());
                self.live.get_mut(&offset).expect("just taken").is_owned = live.is_owned;
            }
            Err(MEMPOOL_ERR_INVALID_ARGUMENT) if size == 0 => {}
            Err(MEMPOOL_ERR_OUT_OF_MEMORY) => {
                assert!(size > live.usable);
                self.must_be_whole(offset);
            }
            Err(status) => {
                self.must_be_told(status);
                self.must_be_whole(offset);
            }
        }
    }

    /// Many blocks of one size, and every so many of them freed: what fills magazines.
    fn many(&mut self) {
        let (size, how) = (1 + usize::from(self.input.u8()).pow(2) / 64, self.input.u8());
        let count = usize::from(how) + 1;
        let blocks: Vec<u64> = (0..count)
            .map_while(|_| {
                let answer = self.pool().malloc(size);
                self.got(answer, size)
            })
            .collect();
        let step = 1 + usize::from(how) % 3;
        for offset in blocks.into_iter().step_by(step) {
            let answer = self.pool().free(self.pointer(offset));
            self.must_end(offset, answer);
        }
    }

    fn free_all(&mut self) {
        self.live.keys().for_each(|&offset| self.must_be_whole(offset));
        let top = self.pool().stats().top;
        self.pool().free_all().expect("free_all");
        self.writes.all_freed(top);
        self.forget_all();
        self.judge();
        assert_eq!(self.pool().stats().top, self.after_init.top, "all is above top");
    }

    fn forget_all(&mut self) {
        self.live.clear();
        self.slots.clear();
        self.names.clear();
        self.root = None;
    }

    fn free_on_the_way(&mut self) {
        let every = u64::from(self.input.u8() % 7) + 1;
        let mut count = 0;
        let (mut seen, mut chosen) = (Vec::new(), Vec::new());
        let mut choose = |offset, size| {
            seen.push((offset, size));
            count += 1;
            let is_chosen = count % every == 0;
            if is_chosen {
                chosen.push(offset);
            }
            is_chosen
        };
        self.live.keys().for_each(|&offset| self.must_be_whole(offset));
        let freed = self.pool().free_on_the_way(&mut choose).expect("walk");
        let mine = self.live.iter().map(|(&offset, live)| (offset, live.usable));
        let shown = seen.iter().map(|&(offset, size)| (offset, size as usize));
        assert!(self.has(MEMPOOL_GUARD) || shown.eq(mine), "shown is what is live");
        assert_eq!(chosen.len(), self.live.len() / every as usize);
        chosen.retain(|&offset| self.ends(offset).is_ok());
        assert_eq!(freed, chosen, "freed is what may be");
        freed.into_iter().for_each(|offset| self.must_end(offset, Ok(())));
    }

    // ---- What is no block ----

    /// An address that is no live block, and how it is to be refused, if there is but one way.
    fn bad_address(&mut self) -> *mut u8 {
        let pool = self.pool();
        let base = self.buffer.base(self.now);
        let some = self.input.u32() as usize;
        let offset = match self.input.u8() % 6 {
            0 => match self.freed.get(some % 16) {
                Some(&offset) => offset as usize,
                None => self.own_block(some),
            },
            1 => match self.pick() {
                Some(offset) => offset as usize + 1 + some % self.live[&offset].usable,
                None => some,
            },
            2 => some % self.buffer.len(),
            3 => {
                self.after_init.top as usize
                    + some % self.buffer.len() / self.granule * self.granule
            }
            4 => self.buffer.len() + some % 64,
            _ => return self.buffer.base(1 - self.now).wrapping_add(some % self.buffer.len()),
        };
        let address = base.wrapping_add(offset);
        assert!(pool.offset(address) == 0 || pool.offset(address) == offset as u64);
        address
    }

    fn bad_pointer(&mut self) {
        let (address, pool) = (self.bad_address(), self.pool());
        if self.live.contains_key(&pool.offset(address)) {
            return;
        }
        assert_eq!(pool.usable_size(address), 0);
        let before = pool.stats();
        let size = self.input.size(self.granule).max(1);
        let (how, is_counted) = (self.input.u8() % 5, self.input.flag());
        let answer = match how {
            0 => pool.free_sized(address, size),
            1 => pool.realloc(address, size).map(|_| ()),
            2 => pool.expand(address, size),
            3 if self.has_owners() && is_counted => pool.adopt(address),
            3 if self.has_owners() => pool.abandon(address),
            _ => pool.free(address),
        };
        let status = answer.expect_err("refused");
        let expected = [MEMPOOL_ERR_NOT_ALLOCATED, MEMPOOL_ERR_FOREIGN_POINTER];
        assert!(expected.contains(&status), "{status}: {}", handle::last_message());
        let after = pool.stats();
        let counted = u64::from(matches!(how, 0 | 4) || how == 3 && !self.has_owners());
        assert!(after.rejected_frees >= before.rejected_frees + counted, "{how} is counted");
        assert_eq!(after.used_count, before.used_count);
    }

    fn bad_arguments(&mut self) {
        let (pool, size) = (self.pool(), self.input.size(self.granule));
        let refused = [MEMPOOL_ERR_INVALID_ARGUMENT, MEMPOOL_ERR_OUT_OF_MEMORY];
        let many = usize::MAX / size.max(2) + 1;
        let null = std::ptr::null_mut();
        let answers = [
            pool.malloc(0),
            pool.calloc(many, size.max(2)),
            pool.realloc_array(null, many, size.max(2)),
            pool.aligned_alloc(size | 1 | 1 << 20, 8),
            Handle(std::ptr::null_mut()).malloc(size),
        ];
        for (which, answer) in answers.into_iter().enumerate() {
            let status = answer.expect_err("refused");
            assert!(refused.contains(&status), "{which}: {status}");
        }
        assert_eq!(pool.free(null), Ok(()));
        assert_eq!(pool.usable_size(null), 0);
        let good = pool.good_size(size);
        assert!(good >= size || good == 0, "{good} for {size}");
    }

    // ---- Slots ----

    fn make_shelf(&mut self) {
        let size = SLOTS * 8 + usize::from(self.input.u8());
        let answer = self.pool().calloc(1, size);
        if let Some(offset) = self.got(answer, size) {
            self.clear_shelf(offset);
        }
    }

    fn clear_shelf(&mut self, offset: u64) {
        let block = self.pointer(offset);
        let live = self.live.get_mut(&offset).expect("a block of the caller's");
        live.seed = None;
        // SAFETY: our own block.
        unsafe { block.write_bytes(0, live.usable) };
    }

    /// A slot, and what the model has in it.
    fn pick_slot(&mut self) -> Option<(u64, u64)> {
        let offset = self.pick()?;
        let at = offset + 8 * self.input.index(SLOTS) as u64;
        let is_shelf = self.live[&offset].seed.is_none();
        is_shelf.then(|| (at, self.slots.get(&at).copied().unwrap_or(0)))
    }

    fn slot(&self, at: u64) -> *mut u64 {
        self.pointer(at).cast()
    }

    fn read_slot(&self, at: u64) -> u64 {
        // SAFETY: a word of a block of the caller's.
        unsafe { self.slot(at).read() }
    }

    fn slots_of(&self, offset: u64) -> Vec<(u64, u64)> {
        let end = offset + self.live[&offset].usable as u64;
        self.slots.range(offset..end).map(|(&at, &value)| (at - offset, value)).collect()
    }

    /// A shelf that has moved has its words.
    fn must_hold(&self, block: *const u8, shelf: &[(u64, u64)], size: usize) {
        for &(inside, value) in shelf.iter().filter(|(inside, _)| *inside as usize + 8 <= size) {
            // SAFETY: a word of the block, which is as long as that.
            let found = unsafe { block.add(inside as usize).cast::<u64>().read() };
            assert_eq!(found, value, "a slot has moved along");
        }
    }

    fn malloc_to(&mut self) {
        let (size, zeroed) = (self.input.size(self.granule), self.input.flag());
        let Some((at, value)) = self.pick_slot() else { return };
        let (pool, slot) = (self.pool(), self.slot(at));
        let answer =
            if zeroed { pool.calloc_to(1, size, slot) } else { pool.malloc_to(size, slot) };
        let found = self.read_slot(at);
        match answer {
            Ok(()) => {
                assert_eq!(value, 0, "it was empty");
                let offset = self.take(self.pointer(found), size, true);
                self.slots.insert(at, offset);
                if zeroed && size >= SLOTS * 8 {
                    self.clear_shelf(offset);
                }
                return;
            }
            Err(MEMPOOL_ERR_EXISTS) => assert_ne!(value, 0),
            Err(MEMPOOL_ERR_INVALID_ARGUMENT) if size == 0 => {}
            Err(MEMPOOL_ERR_OUT_OF_MEMORY) => self.must_be_full(size),
            Err(MEMPOOL_ERR_CORRUPTED) if self.is_hidden(at) => {}
            Err(status) => self.must_be_told(status),
        }
        assert_eq!(found, value, "a slot is as it was");
    }

    fn free_from(&mut self) {
        let Some((at, value)) = self.pick_slot() else { return };
        let target = self.live.get(&value).copied();
        let is_inside = |live: Live| (value..value + live.usable as u64).contains(&at);
        let inside = target.is_some_and(is_inside);
        if target.is_some() {
            self.must_be_whole(value);
        }
        let answer = self.pool().free_from(self.slot(at));
        if self.is_hidden(at) {
            assert_eq!(answer, Err(MEMPOOL_ERR_CORRUPTED), "written behind the slot's block");
        } else if value == 0 {
            assert_eq!(answer, Ok(()));
        } else if target.is_none() || inside {
            answer.expect_err("a block was freed that is none");
        } else {
            if answer.is_ok() {
                assert_eq!(self.read_slot(at), 0);
                self.slots.remove(&at);
            }
            self.must_end(value, answer);
        }
        let left = self.slots.get(&at).copied().unwrap_or(0);
        assert_eq!(self.read_slot(at), left, "as it was, or empty");
    }

    /// What the caller itself writes into its slots.
    fn store_in_slot(&mut self) {
        let value = match self.input.u8() % 4 {
            0 => self.input.u64(),
            1 => self.input.u64() % self.buffer.len() as u64,
            2 => self.freed.last().copied().unwrap_or(0),
            _ => self.pick().unwrap_or(0),
        };
        if let Some((at, _)) = self.pick_slot() {
            // SAFETY: a word of a block of the caller's.
            unsafe { self.slot(at).write(value) };
            if value == 0 {
                self.slots.remove(&at);
            } else {
                self.slots.insert(at, value);
            }
        }
    }

    /// Slots that are none: misaligned, in no live block, outside.
    fn bad_slot(&mut self) {
        let (address, to) = (self.bad_address(), self.input.flag());
        let offset = self.pool().offset(address);
        let around = self.live.range(..=offset).next_back();
        let is_inside = around.is_some_and(|(&at, live)| offset + 8 <= at + live.usable as u64);
        if is_inside && address.addr() % 8 == 0 {
            return;
        }
        let pool = self.pool();
        let answer = match to {
            true => pool.malloc_to(16, address.cast()),
            false => pool.free_from(address.cast()),
        };
        answer.expect_err("refused");
    }

    // ---- Handles and threads ----

    fn reattach(&mut self) {
        let other = 1 - self.now;
        self.handles[other].detach().expect("detach");
        self.handles[other] = match self.input.flag() {
            true => attach(&self.buffer, other, &self.options),
            false => {
                let base = self.buffer.base(other);
                let (handle, created) =
                    handle::open(base, self.buffer.len(), &self.options).expect("open");
                assert!(!created);
                handle
            }
        };
    }

    fn recover(&mut self) {
        self.pool().recover().expect("recover");
    }

    // ---- Owners ----

    fn owner(&mut self) {
        let Some(offset) = self.pick() else { return };
        let (pool, block) = (self.pool(), self.pointer(offset));
        let is_owned = self.live[&offset].is_owned;
        if !self.has_owners() {
            let refused = Err(MEMPOOL_ERR_INVALID_ARGUMENT);
            assert_eq!((pool.adopt(block), pool.abandon(block)), (refused, refused));
            return;
        }
        match pool.owner_and_label(block) {
            Ok((pid, label)) => {
                assert!(is_owned);
                assert_eq!(pid as u32, std::process::id());
                assert_eq!(label, self.label.unwrap_or(0));
            }
            Err(status) => assert!(!is_owned && status == MEMPOOL_ERR_NOT_FOUND, "{status}"),
        }
        let adopt = self.input.flag();
        if adopt { pool.adopt(block) } else { pool.abandon(block) }.expect("adopt, abandon");
        self.live.get_mut(&offset).expect("picked").is_owned = adopt;
    }

    fn label(&mut self) {
        let label = self.input.u64();
        let answer = self.pool().label(label);
        if self.has_owners() {
            answer.expect("label");
            self.label = Some(label);
        } else {
            assert_eq!(answer, Err(MEMPOOL_ERR_INVALID_ARGUMENT));
        }
    }

    fn reap(&mut self) {
        let pid = if self.input.flag() { std::process::id() as i32 } else { 0 };
        let answer = self.pool().reap_of(pid);
        match answer {
            Ok(freed) => assert_eq!(freed, 0, "all owners live"),
            Err(MEMPOOL_ERR_INVALID_ARGUMENT) => assert!(!self.has_owners()),
            Err(status) => assert!(pid != 0 && status == MEMPOOL_ERR_BUSY, "{status}"),
        }
    }

    // ---- The judges ----

    /// The walk is the model, the figures are the walk's, and `check` says so.
    fn judge(&mut self) {
        let pool = self.pool();
        self.must_check();
        let blocks = pool.walk();
        let mut at = self.after_init.top;
        let mut figures = [(0, 0); 4];
        for block in &blocks {
            assert_eq!(block.offset, at, "blocks lie side by side");
            at += block.size;
            let (count, size) = &mut figures[block.state as usize];
            (*count, *size) = (*count + 1, *size + block.size);
        }
        let live = blocks.iter().filter(|block| block.state == MEMPOOL_BLOCK_LIVE);
        assert!(live.map(|block| block.offset).eq(self.live.keys().copied()), "what is live");
        self.live.keys().for_each(|&offset| self.must_be_whole(offset));
        self.slots.iter().for_each(|(&at, &value)| assert_eq!(self.read_slot(at), value));
        let stats = pool.stats();
        let [_, used, cached, own] = figures;
        self.must_be_tight(&blocks);
        self.must_be_found();
        assert_eq!(own.0, self.names.len() as u64, "an entry for each name");
        assert_eq!(stats.overhead, self.after_init.overhead + own.1);
        self.must_fit_magazines();
        assert_eq!((stats.used_count, stats.used_size), used);
        assert_eq!((stats.cached_count, stats.cached_size), cached);
        // Stats may join free blocks that the walk still saw apart.
        assert!(stats.free_size <= figures[0].1 && stats.top <= at);
        assert_eq!(figures[0].1 - stats.free_size, at - stats.top);
        let above = self.options_end() - stats.top;
        let sum = stats.overhead + stats.used_size + stats.free_size + stats.cached_size + above;
        assert_eq!(sum, stats.total, "figures add up");
        assert!(stats.cached_size * 8 <= stats.total, "the hoard is an eighth at most");
        self.buffer.must_be_alone();
    }

    fn options_end(&self) -> u64 {
        match self.options.end {
            0 => self.buffer.len() as u64,
            end => end as u64,
        }
    }

    /// By who has no handle.
    fn look_from_outside(&mut self) {
        let (base, len) = (self.buffer.base(self.now), self.buffer.len());
        let mut blocks = Vec::new();
        let stats = handle::inspect(base, len, &self.options, &mut blocks).expect("inspect");
        assert_eq!(stats.used_count, self.live.len() as u64);
        let walked = self.pool().walk();
        assert!(blocks
            .iter()
            .map(|block| block.offset)
            .eq(walked.iter().map(|block| block.offset)));
        let told = owners::peek(base, len).expect("peek");
        assert_eq!(told, self.options_end());
    }

    // ---- Ends ----

    /// A pool ends, and another begins in its place.
    fn begin_anew(&mut self) {
        let (base, len) = (self.buffer.base(self.now), self.buffer.len());
        if self.input.flag() {
            self.pool().release().expect("release");
            let gone = Err(MEMPOOL_ERR_NOT_A_POOL);
            assert_eq!(self.handles.map(|pool| pool.malloc(1)), [gone, gone]);
            assert_eq!(
                handle::attach(base, len, &self.options).map(|_| ()),
                Err(MEMPOOL_ERR_NOT_A_POOL)
            );
        }
        if self.has(MEMPOOL_ZEROED) {
            self.buffer.bytes().fill(0);
        }
        let anew = handle::init(base, len, &self.options).expect("init");
        let gone = Err(MEMPOOL_ERR_NOT_A_POOL);
        assert_eq!(self.handles.map(|pool| pool.malloc(1)), [gone, gone], "of the old pool");
        self.handles.iter().for_each(|pool| pool.detach().expect("detach"));
        self.handles[self.now] = anew;
        self.handles[1 - self.now] = attach(&self.buffer, 1 - self.now, &self.options);
        self.after_init = anew.stats();
        self.label = None;
        self.writes = Writes::new(self.after_init.top);
        self.forget_all();
        self.freed.clear();
    }

    /// All goes back, and the pool is as it was in the beginning.
    fn end(mut self) {
        self.judge();
        self.undo_writes();
        self.unbind_all();
        for offset in self.live.keys().copied().collect::<Vec<_>>() {
            self.pool().free(self.pointer(offset)).expect("free");
        }
        self.forget_all();
        self.judge();
        let pool = self.pool();
        self.handles[1 - self.now].detach().expect("detach");
        self.handles[1 - self.now] = attach(&self.buffer, 1 - self.now, &self.options);
        pool.trim().expect("trim");
        let stats = pool.stats();
        assert_eq!(stats.used_count, 0);
        let in_caches = stats.cached_size;
        if !self.has(MEMPOOL_NO_COMPACT) && in_caches == 0 {
            assert_eq!(stats.largest_free, self.after_init.largest_free, "one free run");
        }
        self.handles.iter().for_each(|pool| pool.detach().expect("detach"));
        self.buffer.must_be_alone();
    }
}
