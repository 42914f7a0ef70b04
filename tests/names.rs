//! A directory that somebody has scribbled over: whatever byte of it is another, `check` says so, and
//! every call returns. (`c-tests/programs/names.c` has what is refused and who is killed, `model.rs`
//! what names mean, `stepping` each instruction.)

mod common;

use ::mempool::abi::*;
use ::mempool::layout::NAMES_OFFSET;
use common::memory::PAGE;
use common::{handle, options, Handle, Memory, Options};

const LEN: usize = 4 * PAGE;
/// Bytes before an entry's name, and of the links among them.
const HEAD: usize = 32;
const LINKS: usize = 16;
/// What looks for mistakes.
const LOOKS: u32 = MEMPOOL_GUARD | MEMPOOL_FILL_FREED;

/// A pool with names of all sorts, and what its memory holds.
struct Scene {
    memory: Memory,
    pool: Handle,
    blocks: Vec<*mut u8>,
    names: Vec<Vec<u8>>,
    before: Vec<u8>,
}

fn name(number: usize) -> Vec<u8> {
    vec![b'a' + number as u8; 1 + number * 11 % 60]
}

impl Scene {
    fn new(align: usize, flags: u32) -> Scene {
        let memory = Memory::private(LEN);
        let options = Options { align, flags, ..options() };
        let pool = handle::init(memory.base(), LEN, &options).expect("init");
        let sizes = [100, 8, 2000, 64, 40, 16];
        let blocks: Vec<_> = sizes.iter().map(|&size| pool.malloc(size).expect("room")).collect();
        let names: Vec<_> = (0..20).map(name).collect();
        for (number, name) in names.iter().enumerate() {
            // The last block has no name, and is the root; the one before has one name.
            let place = if number == 0 { 4 } else { number % 4 };
            pool.bind(name, blocks[place]).expect("bind");
        }
        pool.set_root(blocks[5]).expect("set_root");
        pool.free(pool.malloc(8).expect("room")).expect("free");
        pool.must_check();
        let before = memory.bytes(0, LEN).to_vec();
        Scene { memory, pool, blocks, names, before }
    }

    /// Where the entries lie, and how long their blocks are.
    fn entries(&self) -> Vec<(usize, usize)> {
        let mut blocks = self.pool.walk();
        blocks.retain(|block| block.state == MEMPOOL_BLOCK_META);
        blocks.iter().map(|block| (block.offset as usize, block.size as usize)).collect()
    }

    fn restore(&self) {
        self.memory.bytes_mut(0, LEN).copy_from_slice(&self.before);
    }

    /// Puts other bytes somewhere, which `check` must find; and tries all calls on what is left.
    fn damage(&self, at: usize, bytes: &[u8], what: &str) {
        self.restore();
        let there = self.memory.bytes_mut(at, bytes.len());
        assert_ne!(there, bytes, "{what} at {at}: another byte");
        there.copy_from_slice(bytes);
        let found = self.pool.check();
        assert_eq!(found, Err(MEMPOOL_ERR_CORRUPTED), "{what} at {at}: {bytes:?}");
        for name in &self.names {
            let _ = (self.pool.find(name), self.pool.bind(name, self.blocks[5]));
        }
        for (name, &block) in self.names.iter().zip(self.blocks.iter().cycle()) {
            let _ = self.pool.unbind_from(name, block);
        }
        let _ = (self.pool.names(), self.pool.root());
        let _ = (self.pool.set_root(self.blocks[1]), self.pool.set_root(std::ptr::null()));
        for name in self.names.iter().rev() {
            let _ = self.pool.unbind(name);
        }
        let _ = self.pool.bind(b"another", self.blocks[2]);
        for &block in &self.blocks {
            let _ = self.pool.free(block);
        }
        let _ = (self.pool.names(), self.pool.check(), self.pool.try_stats());
    }

    fn flip(&self, at: usize, bit: u32, what: &str) {
        self.damage(at, &[self.before[at] ^ 1 << bit], what);
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.before[at..at + 4].try_into().expect("four bytes"))
    }
}

#[test]
fn every_other_byte_of_an_entry_is_found() {
    for (align, flags) in [(8, 0), (16, 0), (64, 0), (8, LOOKS), (16, LOOKS | MEMPOOL_OWNER_TAGS)] {
        let scene = Scene::new(align, flags);
        let entries = scene.entries();
        assert_eq!(entries.len(), scene.names.len());
        for &(entry, size) in &entries {
            let len = usize::from(scene.before[entry + LINKS]);
            assert!(HEAD + len <= size && scene.names.iter().any(|name| name.len() == len));
            // To the end of the name's last word; nobody looks behind it.
            for at in entry..entry + (HEAD + len).next_multiple_of(4) {
                for bit in [0, 3, 7] {
                    scene.flip(at, bit, "an entry's byte");
                }
            }
        }
    }
}

#[test]
fn links_that_lead_elsewhere_are_found() {
    lead_elsewhere(&Scene::new(16, 0));
    lead_elsewhere(&Scene::new(16, LOOKS));
}

fn lead_elsewhere(scene: &Scene) {
    let entries = scene.entries();
    let first = (scene.pool.walk()[0].offset) as usize;
    let granule = |at: usize| ((at - first) / 16) as u32 + 1;
    // In circles, to siblings, to blocks that are no entries, to none, and beyond the pool.
    let mut targets: Vec<u32> = entries.iter().map(|&(entry, _)| granule(entry)).collect();
    targets.extend([0, 1, 2, 500, LEN as u32 / 16, u32::MAX]);
    let links = entries.iter().flat_map(|&(entry, _)| (entry..entry + LINKS).step_by(4));
    for link in links.chain([NAMES_OFFSET]) {
        for &target in targets.iter().filter(|&&target| target != scene.word(link)) {
            scene.damage(link, &target.to_ne_bytes(), "a link");
        }
    }
}

#[test]
fn a_header_or_a_map_that_tells_otherwise_is_found() {
    let scene = Scene::new(16, 0);
    for at in NAMES_OFFSET..NAMES_OFFSET + 12 {
        for bit in 0..8 {
            scene.flip(at, bit, "the header's byte");
        }
    }
    // A byte of the map for each granule: find that of the first block, which has several names.
    let first = scene.pool.walk()[0].offset as usize;
    let map = (NAMES_OFFSET..first)
        .find(|&at| matches!(scene.before[at], 0xfb..=0xfe))
        .expect("the first block is bound");
    let bound = |block: &&*mut u8| {
        let at = map + (scene.pool.offset(**block) as usize - first) / 16;
        (at, scene.before[at])
    };
    let starts: Vec<(usize, u8)> = scene.blocks.iter().map(|block| bound(&block)).collect();
    for &(at, byte) in &starts {
        let is_named = matches!(byte, 0xfb | 0xfc);
        // The other kind, of the same size; and live, of no name.
        scene.damage(at, &[if is_named { byte + 2 } else { byte - 2 }], "a start");
        let size = if byte % 2 == 1 { 1 } else { scene.before[at + 1] };
        if (1..=32).contains(&size) {
            scene.damage(at, &[0x40 + size - 1], "a start");
        }
    }
    assert_eq!(starts.iter().filter(|(_, byte)| matches!(byte, 0xfb | 0xfc)).count(), 2);
}
