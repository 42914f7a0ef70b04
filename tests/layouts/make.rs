//! How the files were made: by the library of that time, through the C face, with processes that died.

use super::common::worker::{gettid, stamp, Shared};
use super::common::{child, handle, Handle, Memory, Options};
use super::{map, open_change, BOOT_OF_LOCK};
use ::mempool::abi::*;
use ::mempool::layout::Geometry;
use std::time::Duration;

/// The boot that the files' locks are of: none that ever was.
pub const BOOT: u32 = 0x00b0_07ed;

/// A file.
pub struct Case {
    /// What stands behind layout-3 in its name.
    pub name: &'static str,
    /// What its pool was made with.
    pub options: Options,
    pub len: usize,
    /// Leaves in the new pool what is to be found there.
    fill: fn(Handle),
    /// It was copied in the midst of a change.
    pub open: Option<Open>,
}

/// A change that a process is stopped in.
pub struct Open {
    /// As the record says it.
    pub kind: u8,
    /// What makes such changes; again and again.
    work: fn(Handle),
}

const PLAIN: Options = Options {
    struct_size: size_of::<Options>(),
    start: 0,
    end: 0,
    align: 0,
    min_split: 0,
    flags: 0,
    max_threads: 0,
};
const TAGGED: Options = Options { flags: MEMPOOL_OWNER_TAGS, max_threads: 6, ..PLAIN };
const SHELVED: Options = Options { align: 8, ..PLAIN };
const GUARDED: Options = Options {
    start: 100,
    align: 64,
    min_split: 128,
    flags: MEMPOOL_GUARD | MEMPOOL_FILL_FREED,
    ..PLAIN
};
/// The least pool that has caches.
const CACHED: usize = 256 << 10;

const fn open(name: &'static str, kind: u8, work: fn(Handle)) -> Case {
    let open = Some(Open { kind, work });
    // Changes that only caches make need some.
    let len = if matches!(kind, 5..=7) { CACHED } else { 4096 };
    Case { name, options: PLAIN, len, fill: keep, open }
}

/// A pool that is in no file.
pub const UNCACHED: Case = Case {
    name: "",
    options: Options { flags: MEMPOOL_NO_THREAD_CACHES, ..PLAIN },
    len: 0,
    fill: |_| {},
    open: None,
};

pub const CASES: &[Case] = &[
    Case { name: "", options: PLAIN, len: 64 << 10, fill: everything, open: None },
    Case { name: "-caches", options: TAGGED, len: 512 << 10, fill: caches, open: None },
    Case { name: "-shelves", options: SHELVED, len: 9 << 20, fill: shelves, open: None },
    Case { name: "-guard", options: GUARDED, len: 16 << 10, fill: guarded, open: None },
    open("-alloc", 1, come_and_go),
    open("-free", 2, come_and_go),
    open("-resize", 3, resize),
    open("-free-all", 4, free_all),
    open("-refill", 5, fill_and_empty),
    open("-loosen", 6, fill_and_empty),
    open("-join", 7, fill_and_empty),
    open("-deliver", 8, deliver),
    open("-recall", 9, deliver),
    open("-mark", 10, name),
    open("-enter", 11, name),
    open("-strike", 12, name),
    open("-root", 13, other_root),
];

/// Where everything lies in such a pool.
pub fn plan(case: &Case, address: usize, len: usize) -> Geometry {
    let Options { start, end, align, min_split, flags, max_threads, .. } = case.options;
    let options = ::mempool::Options { start, end, align, min_split, flags, max_threads };
    Geometry::plan(address, len, &options).expect("as it was")
}

/// All whom the pool names are of a boot that never was.
pub fn put_into_another_boot(case: &Case, memory: &Memory) {
    let plan = plan(case, memory.base() as usize, memory.len());
    let owners = (0..plan.owners as usize).map(|owner| plan.owner + owner * 24 + 4);
    for at in owners.chain([plan.header + BOOT_OF_LOCK]) {
        memory.bytes_mut(at, 4).copy_from_slice(&BOOT.to_le_bytes());
    }
}

/// The bytes of a file.
pub fn make(case: &Case) -> Memory {
    let memory = Memory::shared(case.len);
    let pool = handle::init(memory.base(), memory.len(), &case.options).expect("init");
    let shared = Shared { memory, pool };
    (case.fill)(pool);
    match &case.open {
        None => shared.memory.copy(),
        Some(open) => caught(&shared, case, open),
    }
}

/// The pool as it is while a process is in the midst of such a change.
fn caught(shared: &Shared, case: &Case, open: &Open) -> Memory {
    let child = child::fork(|| loop {
        (open.work)(shared.pool);
    });
    loop {
        child.stop();
        let found = open_change(&shared.memory, 0).map(|(kind, _)| kind);
        // Nothing else shows loose blocks of one granule: they are soon joined.
        let is_rare = || open.kind != 7 || map(&shared.memory, case).contains(&0xf5);
        if found == Some(open.kind) && is_rare() {
            break;
        }
        child.go_on();
        std::thread::sleep(Duration::from_micros(gettid() as u64 % 7 * 10));
    }
    let copy = shared.memory.copy();
    child.kill();
    copy
}

fn stamped(pool: Handle, size: usize) -> *mut u8 {
    let block = pool.malloc(size).expect("malloc");
    stamp(block, pool.offset(block), size);
    block
}

/// A root with slots, which hold blocks.
fn root(pool: Handle, slots: usize) -> *mut u8 {
    let root = pool.calloc(slots, 8).expect("calloc");
    for index in (0..slots).step_by(2) {
        // SAFETY: inside the block.
        let slot = unsafe { root.cast::<u64>().add(index) };
        pool.malloc_to(40 + 30 * index, slot).expect("malloc_to");
        // SAFETY: as above.
        let offset = unsafe { slot.read() };
        stamp(pool.pointer(offset), offset, 40 + 30 * index);
    }
    pool.set_root(root).expect("set_root");
    root
}

/// What must be there whatever becomes of the change: blocks around a free one, a name, a root.
fn keep(pool: Handle) {
    let root = root(pool, 3);
    let (first, hole) = (stamped(pool, 48), pool.malloc(100).expect("malloc"));
    stamped(pool, 90);
    pool.free(hole).expect("free");
    pool.bind(b"first", first).expect("bind");
    pool.bind(b"root", root).expect("bind");
}

fn everything(pool: Handle) {
    root(pool, 8);
    // Of every size to 34 granules, then larger ones; of each third the middle one goes.
    let small = (1..35).flat_map(|granules| [16 * granules; 3]);
    let sizes = small.chain([1000, 1500, 1500, 2000, 3000, 3000, 5000, 7000]);
    let blocks: Vec<*mut u8> = sizes.map(|size| stamped(pool, size)).collect();
    for (index, &block) in blocks.iter().enumerate() {
        match index % 3 {
            1 => pool.free(block).expect("free"),
            // One granule, and many; one name, and several.
            0 if index % 6 == 0 && index < 60 => {
                pool.bind(format!("block {index}").as_bytes(), block).expect("bind")
            }
            _ => {}
        }
    }
    pool.bind(b"also block 0", blocks[0]).expect("bind");
    pool.bind(&[b'n'; 255], blocks[2]).expect("bind");
    pool.bind("umläut".as_bytes(), pool.root().unwrap()).expect("bind");
    for _ in 0..3 {
        assert!(pool.free(blocks[1]).is_err());
    }
    for _ in 0..2 {
        assert!(pool.malloc(1 << 20).is_err());
    }
}

fn caches(pool: Handle) {
    // Two processes, of whom one calls itself something: they leave blocks, caches, magazines in the depot.
    for process in 0..2 {
        let child = child::fork(|| {
            pool.label(1000 + process).expect("label");
            for size in [16, 48, 64, 200, 512, 1000] {
                let blocks: Vec<*mut u8> = (0..40).map(|_| stamped(pool, size)).collect();
                blocks[4..].iter().for_each(|&block| pool.free(block).expect("free"));
            }
            0
        });
        assert_eq!(child.wait(Duration::from_secs(10)), Some(child::End::Exit(0)));
    }
    let kept = root(pool, 6);
    for index in [0, 2, 4] {
        // SAFETY: inside the root's block.
        let offset = unsafe { kept.cast::<u64>().add(index).read() };
        pool.abandon(pool.pointer(offset)).expect("abandon");
    }
    pool.abandon(kept).expect("abandon");
    for index in 0..20 {
        let block = stamped(pool, 100 + 50 * index);
        pool.bind(format!("of the third, {index}").as_bytes(), block).expect("bind");
    }
    // What is given back by the trim is loose from then on; the rest is cached.
    let row = |size| (0..20).map(|_| stamped(pool, size)).collect::<Vec<_>>();
    let (given_back, cached) = ([16, 96].map(row), [32, 80, 2000].map(row));
    let free =
        |row: &Vec<*mut u8>| row[2..].iter().for_each(|&block| pool.free(block).expect("free"));
    given_back.iter().for_each(free);
    pool.trim().expect("trim");
    cached.iter().for_each(free);
}

/// The file is short as long as nobody writes to the blocks, and these lie where the pool begins.
fn shelves(pool: Handle) {
    let wide = [36 << 10; 6].map(|size| pool.malloc(size).expect("malloc"));
    wide[1..5].iter().for_each(|&block| pool.free(block).expect("free"));
    pool.bind(b"wide", wide[0]).expect("bind");
}

fn guarded(pool: Handle) {
    root(pool, 4);
    let sizes = [1, 7, 16, 47, 48, 49, 100, 500, 1000, 2000];
    let blocks: Vec<*mut u8> =
        sizes.iter().map(|&size| pool.malloc(size).expect("malloc")).collect();
    for (&block, &size) in blocks.iter().zip(&sizes) {
        // SAFETY: a block of ours of this size.
        unsafe { block.write_bytes(size as u8, size) };
    }
    pool.free(blocks[3]).expect("free");
    pool.free(blocks[8]).expect("free");
    pool.bind(b"one granule", blocks[0]).expect("bind");
    pool.bind(b"more", blocks[6]).expect("bind");
    pool.bind(b"and more", blocks[6]).expect("bind");
    pool.bind(b"once and", blocks[1]).expect("bind");
    pool.bind(b"again", blocks[1]).expect("bind");
}

fn come_and_go(pool: Handle) {
    let block = stamped(pool, 70);
    pool.free(block).expect("free");
}

fn resize(pool: Handle) {
    let block = stamped(pool, 300);
    for size in [600, 200, 300].into_iter().cycle().take(1000) {
        pool.realloc(block, size).expect("in place");
    }
    pool.free(block).expect("free");
}

fn free_all(pool: Handle) {
    for size in [200, 100, 50] {
        stamped(pool, size);
    }
    pool.free_all().expect("free_all");
}

fn fill_and_empty(pool: Handle) {
    let sizes = [16, 64].into_iter().flat_map(|size| [size; 40]);
    let blocks: Vec<*mut u8> = sizes.map(|size| stamped(pool, size)).collect();
    let other = stamped(pool, 3000);
    blocks.into_iter().for_each(|block| pool.free(block).expect("free"));
    pool.trim().expect("trim");
    let large = stamped(pool, 5000);
    pool.free(other).expect("free");
    pool.free(large).expect("free");
}

fn deliver(pool: Handle) {
    // SAFETY: the second slot of the root, which is empty.
    let slot = unsafe { pool.root().expect("root").cast::<u64>().add(1) };
    // One granule: such a block is held in another way than a larger one.
    pool.malloc_to(16, slot).expect("malloc_to");
    pool.free_from(slot).expect("free_from");
}

fn name(pool: Handle) {
    let block = pool.find(b"first").expect("find");
    pool.bind(b"second", block).expect("bind");
    pool.unbind(b"second").expect("unbind");
}

fn other_root(pool: Handle) {
    let first = pool.find(b"first").expect("find");
    let root = pool.find(b"root").expect("find");
    pool.set_root(first).expect("set_root");
    pool.set_root(root).expect("set_root");
}
