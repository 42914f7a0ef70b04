//! Any bytes as the buffer, any calls on them: whatever the words of a pool are made to say between
//! the calls, none leaves the buffer, panics, or goes on for ever; and when `check` finds no fault in
//! the end, there is none.
//!
//! Sound pools are damaged word by word, in each of their parts; headers are changed with their
//! checksum made to fit; and raw bytes come as they are. Only what would have to be waited for is
//! spared: a lock that names a living thread, or nobody knows whom (tests/lock.rs waits).
#![no_main]

#[path = "damage/names.rs"]
mod names;

use ::mempool::abi::*;
use ::mempool::layout::*;
use libfuzzer_sys::fuzz_target;
use mempool_fuzz::buffer::Buffer;
use mempool_fuzz::crew::{self, Walk, Who};
use mempool_fuzz::handle::{self, Block, Options};
use mempool_fuzz::setup::{geometry, Setup};
use mempool_fuzz::{hash, owners, Handle, Input};
use std::ops::Range;

fuzz_target!(|bytes: &[u8]| {
    if let Some(world) = World::new(Input::new(bytes)) {
        crew::run(world).end();
    }
});

struct World {
    input: Input,
    elsewhere: Option<(Who, usize)>,
    buffer: Buffer,
    options: Options,
    /// Where the pool's parts are, as it was made.
    geometry: Option<Geometry>,
    parts: Vec<Range<usize>>,
    header: usize,
    /// Each with its mapping.
    handles: Vec<(Handle, usize)>,
    now: usize,
    /// Offsets of what calls have given.
    blocks: Vec<usize>,
    locks: usize,
}

const HANDLES_MAX: usize = 4;
const CHECKSUM_AT: usize = 16;
const VERSION_AT: usize = 8;
/// No thread has this number, nor can have: they end at 2^22.
const NOBODY: u32 = 0x2fff_0001;
/// The kernel's word for a lock whose owner is dead.
const OWNER_DIED: u32 = 1 << 30;
/// Words of a change in the record, behind its seal.
const RECORD_WORDS: usize = 6;

/// The seal of a change; as in src/heap/change.rs. Were it another, recovery would believe no record.
fn seal(slot: u32, words: [u64; RECORD_WORDS]) -> u32 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let add = |sum: u64, (place, word): (usize, u64)| {
        sum.wrapping_add(word.wrapping_mul(ODD.rotate_left(11 * place as u32) | 1))
    };
    let sum = words.into_iter().enumerate().fold(0x811c_9dc5_0000_0001u64, add);
    (sum ^ sum >> 32) as u32 & !3 | 2 | slot
}

/// What there is to be damaged, the smaller the likelier.
fn parts(len: usize, header: usize, geometry: Option<Geometry>) -> Vec<Range<usize>> {
    let mut parts = vec![0..len, header..header + HEADER_BYTES];
    if let Some(geometry) = geometry {
        parts.push(geometry.bitmap()..geometry.depot);
        parts.push(geometry.depot..geometry.cache);
        parts.push(geometry.cache..geometry.magazine);
        parts.push(geometry.magazine..geometry.owner);
        parts.push(geometry.owner..geometry.map);
        parts.push(geometry.map..geometry.tags);
        parts.push(geometry.map..geometry.map + 256);
        parts.push(geometry.tags..geometry.first);
        parts.push(geometry.first..geometry.end);
        parts.push(geometry.first..geometry.first + 4096);
    }
    for part in &mut parts {
        part.end = part.end.min(len);
    }
    parts.retain(|part| part.start < part.end);
    parts
}

impl Walk for World {
    fn steps(&mut self, count: usize) {
        for _ in 0..count {
            let Some(code) = self.input.step() else { return };
            match code & 0x3f {
                0..=6 => self.scribble(),
                7..=8 => self.scribble_over_magazine(),
                9..=10 => self.scribble_over_block(),
                11..=12 => self.scribble_over_map(),
                13 => self.scribble_over_words(HEAP_OFFSET..RECORD_OFFSET),
                14 => self.scribble_over_words(RECORD_OFFSET..DEPOT_OFFSET),
                15 => self.scribble_over_words(DEPOT_OFFSET..HEADER_BYTES),
                16 => self.change_header(),
                17 => self.let_somebody_die(),
                18 => self.attach(),
                19 => self.detach(),
                20 => self.now = self.input.index(HANDLES_MAX),
                21 => self.elsewhere = self.input.turn(Who::Other),
                22 => self.elsewhere = self.input.turn(Who::Mortal),
                23 => self.look_from_outside(),
                63 => self.open_record(),
                code => {
                    if !self.handles.is_empty() {
                        let (pool, mapping) = self.handles[self.now % self.handles.len()];
                        self.call(pool, mapping, code);
                    }
                }
            }
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
        let is_raw = input.u8() & 7 == 7;
        let Setup { options, buffer } = Setup::choose(&mut input)?;
        let header = header_at(buffer.base(0).addr(), options.start)?;
        let mut handles = Vec::new();
        if !is_raw {
            let handle = handle::init(buffer.base(0), buffer.len(), &options);
            handles.push((handle.expect("init"), 0));
        }
        let geometry = geometry(&buffer, &options);
        let mut world = World {
            geometry,
            parts: parts(buffer.len(), header, geometry),
            header,
            input,
            elsewhere: None,
            buffer,
            options,
            handles,
            now: 0,
            blocks: vec![0],
            locks: 0,
        };
        if is_raw {
            world.lay_raw_bytes();
        }
        Some(world)
    }

    /// Bytes of the input as the buffer's first, but for the lock, and with the header that `open`
    /// and `attach` look for, if the input says so.
    fn lay_raw_bytes(&mut self) {
        let len = self.input.index(1024);
        for at in (self.options.start..self.buffer.len()).take(len) {
            self.buffer.bytes()[at] = self.input.u8();
        }
        if self.header + HEADER_BYTES <= self.buffer.len() {
            self.buffer.bytes()[self.header + LOCK_OFFSET..][..16].fill(0);
            if self.input.flag() {
                self.put(self.header, MAGIC);
                self.seal_header();
            }
        }
        self.attach();
    }

    /// Makes the checksum that of the header's words.
    fn seal_header(&mut self) {
        let words = [VERSION_AT].into_iter().chain((ID_OFFSET..LOCK_OFFSET).step_by(8));
        let sum = hash::fold(words.map(|at| self.word(self.header + at)));
        self.put(self.header + CHECKSUM_AT, sum);
    }

    fn word(&self, at: usize) -> u64 {
        let bytes = self.buffer.bytes().get(at..at + 8);
        bytes.map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().expect("eight")))
    }

    fn put(&mut self, at: usize, value: u64) {
        self.write(at, &value.to_le_bytes());
    }

    /// Writes what does not lie in the lock's words.
    fn write(&mut self, at: usize, bytes: &[u8]) {
        let lock = self.header + LOCK_OFFSET..self.header + TURN_OFFSET + 4;
        for (at, &byte) in (at..self.buffer.len()).zip(bytes) {
            if !lock.contains(&at) {
                self.buffer.bytes()[at] = byte;
            }
        }
    }

    // ---- Damage ----

    fn place(&mut self) -> usize {
        let which = self.input.index(self.parts.len());
        let part = self.parts[which].clone();
        let at = part.start + self.input.u32() as usize % part.len();
        if self.input.flag() {
            at & !3
        } else {
            at
        }
    }

    fn scribble(&mut self) {
        let at = self.place();
        self.scribble_at(at);
    }

    fn scribble_at(&mut self, at: usize) {
        let how = self.input.u8();
        let value = match how >> 5 {
            0 => self.input.u64(),
            1 => u64::from(self.input.u8()),
            2 => self.word(at) ^ 1 << (self.input.u8() & 63),
            3 => self.word(at).wrapping_add(u64::from(self.input.u8())).wrapping_sub(128),
            4 => {
                let from = self.place();
                self.word(from)
            }
            5 => u64::from_le_bytes([self.input.u8(); 8]),
            6 => u64::from(self.input.u32()) * 0x1_0000_0001,
            _ => u64::MAX,
        };
        let width = [1, 1, 2, 4, 4, 8, 8, 3][usize::from(how & 7)];
        self.write(at, &value.to_le_bytes()[..width]);
    }

    /// Where a magazine that is likely in use says what it holds, and whose it is.
    fn scribble_over_magazine(&mut self) {
        let Some(geometry) = self.geometry.filter(|geometry| geometry.magazines > 0) else {
            return;
        };
        let choice = self.input.u8();
        let magazine = geometry.magazine_at(u32::from(choice & 15) % geometry.magazines);
        let count = usize::from(self.buffer.bytes()[magazine + COUNT_AT]).min(60);
        let at = match choice >> 4 {
            0..=5 => ITEMS_AT + 4 * count.saturating_sub(1),
            6..=7 => ITEMS_AT + 4 * count,
            8..=11 => COUNT_AT,
            12 => COUNT_AT + 1,
            13 => 4,
            14 => ITEMS_AT - 4,
            _ => 0,
        };
        self.scribble_at(magazine + at);
    }

    /// The first words of a block, where links are when it is free; or its guard, if it has one.
    fn scribble_over_block(&mut self) {
        let (which, word) = (self.input.index(self.blocks.len()), self.input.u8());
        if word & 0xc0 == 0xc0 && self.options.flags & MEMPOOL_GUARD != 0 {
            return self.scribble_over_guard(self.blocks[which], word & 0x3f);
        }
        self.scribble_at(self.blocks[which] + 4 * usize::from(word & 3));
    }

    /// The map's byte for a block, or one nearby.
    fn scribble_over_map(&mut self) {
        let Some(geometry) = self.geometry else { return };
        let (which, near) = (self.input.index(self.blocks.len()), self.input.u8());
        let granule = self.blocks[which].saturating_sub(geometry.first) >> geometry.align_log2;
        let at = (geometry.map + granule + usize::from(near % 7)).saturating_sub(1);
        if near < 192 {
            // What a start may be.
            let code = self.input.u8();
            self.write(at, &[code]);
        } else {
            self.scribble_at(at);
        }
    }

    fn scribble_over_words(&mut self, words: Range<usize>) {
        let word = self.input.index(words.len() / 4);
        self.scribble_at(self.header + words.start + 4 * word);
    }

    /// A word of the header that never changes says something else, and the checksum agrees.
    fn change_header(&mut self) {
        let at = self.header + VERSION_AT + self.input.index(LOCK_OFFSET - VERSION_AT);
        let value = self.input.u64();
        let width = 1 + self.input.index(8);
        self.write(at, &value.to_le_bytes()[..width]);
        self.seal_header();
    }

    /// The last change, or one of the input's, is under way again, and who made it is dead: the next to
    /// take the lock finishes it.
    fn open_record(&mut self) {
        let record = self.header + RECORD_OFFSET;
        let slot = self.input.index(2);
        let first = record + 4 + slot * 8 * RECORD_WORDS;
        for _ in 0..self.input.u8() % 4 {
            let half = self.input.index(2 * RECORD_WORDS);
            let value = match self.input.u8() {
                0..96 => u32::from(self.input.u8()),
                96..192 => self.input.u32(),
                // A kind, and what it makes.
                choice => (1 + u32::from(choice % 13)) | ((self.input.u32() & 0x0707_0707) << 8),
            };
            self.write(first + 4 * half, &value.to_le_bytes());
        }
        let words = std::array::from_fn(|word| self.word(first + 8 * word));
        self.write(record, &seal(slot as u32, words).to_le_bytes());
        let lock = self.header + LOCK_OFFSET;
        self.buffer.bytes()[lock..lock + 4].copy_from_slice(&OWNER_DIED.to_le_bytes());
    }

    /// The lock belongs to a thread that is no more, or to another boot.
    fn let_somebody_die(&mut self) {
        self.locks += 1;
        let lock = self.header + LOCK_OFFSET;
        if self.locks > 3 || lock + 8 > self.buffer.len() {
            return;
        }
        let how = self.input.u8();
        // Owner-died, waiters: as the kernel has them.
        let flags = u32::from(how & 3) << 30;
        let owner = if how & 4 != 0 { NOBODY } else { 0 };
        let owner = if flags >> 30 == 2 || how & 8 != 0 { OWNER_DIED } else { owner | flags };
        self.buffer.bytes()[lock..lock + 4].copy_from_slice(&owner.to_le_bytes());
        if how & 16 != 0 {
            self.buffer.bytes()[lock + 4] ^= 0x55;
        }
    }

    // ---- Calls ----

    fn attach(&mut self) {
        if self.handles.len() >= HANDLES_MAX {
            return;
        }
        let how = self.input.u8();
        let mapping = usize::from(how & 1);
        let (base, len) = (self.buffer.base(mapping), self.buffer.len());
        let len = if how & 12 == 12 { self.input.index(len + 1) } else { len };
        let handle = match how & 2 {
            0 => handle::attach(base, len, &self.options),
            _ => handle::open(base, len, &self.options).map(|(handle, _)| handle),
        };
        if let Ok(handle) = handle {
            self.handles.push((handle, mapping));
        }
    }

    fn detach(&mut self) {
        if !self.handles.is_empty() {
            let at = self.now % self.handles.len();
            let (pool, _) = self.handles.remove(at);
            let _ = pool.detach();
        }
    }

    fn look_from_outside(&mut self) {
        let (base, len) = (self.buffer.base(1), self.buffer.len());
        let mut blocks = Vec::new();
        let stats = handle::inspect(base, len, &self.options, &mut blocks);
        if stats.is_ok() {
            must_be_side_by_side(&blocks, len);
        }
        let prefix = self.input.index(len).min(4096);
        let _ = owners::peek(base, prefix);
    }

    /// A pointer: mostly one that a call has given.
    fn pointer(&mut self, mapping: usize) -> *mut u8 {
        let (which, how) = (self.input.index(self.blocks.len()), self.input.u8());
        let block = self.blocks[self.blocks.len() - 1 - which];
        let offset = match how {
            0..192 => block,
            192..224 => block + 8 * usize::from(how % 32),
            _ => self.input.u32() as usize % (self.buffer.len() + 64),
        };
        self.buffer.base(mapping).wrapping_add(offset)
    }

    fn call(&mut self, pool: Handle, mapping: usize, code: u8) {
        let size = self.input.size(pool_granule(&self.options));
        let block = self.pointer(mapping);
        let given = match code {
            24..=31 => pool.malloc(size),
            32 => pool.calloc(1, size),
            33 => pool.calloc_fill(1, size, 0xf2),
            34 => pool.aligned_alloc(1 << (size % 18), size),
            35 | 36 => pool.realloc(block, size),
            _ => {
                self.call_without_block(pool, block, size, code);
                return;
            }
        };
        if let Ok(block) = given {
            self.take(block, mapping, size);
        }
    }

    fn call_without_block(&mut self, pool: Handle, block: *mut u8, size: usize, code: u8) {
        let _ = match code {
            37..=43 => pool.free(block),
            44 => pool.free_sized(block, size),
            45 => pool.expand(block, size),
            46 => pool.malloc_to(size, block.cast()),
            47 => pool.calloc_to(1, size, block.cast()),
            48 => pool.free_from(block.cast()),
            49..=53 if self.options.flags & MEMPOOL_OWNER_TAGS == 0 => {
                return self.name(pool, block);
            }
            59 | 60 if size % 8 != 0 => return self.name(pool, block),
            49 => pool.adopt(block),
            50 => pool.abandon(block),
            51 => pool.owner_and_label(block).map(|_| ()),
            52 => pool.label(size as u64),
            53 => pool.reap_of(0).map(|_| ()),
            54 => pool.trim(),
            55 => pool.recover().map(|_| ()),
            56 => pool.check(),
            57 => pool.try_stats().map(|_| ()),
            58 => pool.free_on_the_way(&mut |offset, _| offset % 3 == 0).map(|_| ()),
            59 => pool.free_all(),
            60 => pool.release(),
            61 | 62 => {
                let sizes = [pool.usable_size(block), pool.good_size(size)];
                assert!(sizes.into_iter().all(|size| size <= self.buffer.len()));
                Ok(())
            }
            _ => Ok(()),
        };
    }

    /// What a call gives lies in the buffer, and its holder writes into it.
    fn take(&mut self, block: *mut u8, mapping: usize, size: usize) {
        let at = block.addr().wrapping_sub(self.buffer.base(mapping).addr());
        assert!(at > self.header && at < self.buffer.len(), "outside");
        assert!(size <= self.buffer.len() - at, "over the end");
        let filled = size.min(64);
        self.write(at, &[size as u8; 64][..filled]);
        self.blocks.push(at);
    }

    // ---- The end ----

    /// A pool in which `check` finds no fault has none.
    fn end(mut self) {
        for (pool, _) in self.handles.clone() {
            // What damaged magazines say of the dead, that a block was not delivered yet, is believed:
            // who is gone is seen to first.
            if pool.check().is_ok() && pool.recover().is_ok() && pool.check().is_ok() {
                self.must_be_sound(pool);
            }
        }
        for (pool, _) in self.handles {
            let _ = pool.detach();
        }
        self.buffer.must_be_alone();
    }

    /// What the walk shows lies side by side, and what is given lies in none of it, nor twice.
    fn must_be_sound(&mut self, pool: Handle) {
        let Ok(walked) = pool.try_walk() else { panic!("sound, and no walk") };
        must_be_side_by_side(&walked, self.buffer.len());
        self.must_be_found(pool, &walked);
        // Of callers, and entries of the directory of names.
        let kept = [MEMPOOL_BLOCK_LIVE, MEMPOOL_BLOCK_META];
        let is_kept = |block: &&Block| kept.contains(&block.state);
        let mut held: Vec<(usize, usize)> = Vec::new();
        held.extend(walked.iter().filter(is_kept).map(|b| (b.offset as usize, b.size as usize)));
        let mut size = 1 + self.input.size(pool_granule(&self.options)) % 5000;
        for _ in 0..300 {
            match pool.malloc(size) {
                Ok(block) => held.push((pool.offset(block) as usize, pool.usable_size(block))),
                Err(MEMPOOL_ERR_OUT_OF_MEMORY) if size > 1 => size /= 2,
                Err(_) => break,
            }
        }
        held.sort_unstable();
        for pair in held.windows(2) {
            let [(at, len), (next, _)] = [pair[0], pair[1]];
            assert!(len > 0 && at + len <= next, "blocks at {at:#x} and {next:#x} overlap");
        }
        self.must_be_unbound(pool);
    }
}

fn pool_granule(options: &Options) -> usize {
    if options.align == 0 {
        16
    } else {
        options.align
    }
}

fn must_be_side_by_side(blocks: &[Block], len: usize) {
    let mut end = 0;
    for block in blocks {
        assert!(block.offset >= end && block.size > 0, "blocks overlap");
        end = block.offset + block.size;
    }
    assert!(end <= len as u64, "a block ends outside");
}
