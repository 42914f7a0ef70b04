//! From the smallest pool to the largest: how much a small buffer holds, and how little of a
//! sparse one is touched.

mod common;

use ::mempool::abi::*;
use common::memory::PAGE;
use common::{child, handle, options, Handle, Memory, Options};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;
const TIB: usize = 1 << 40;

/// How many blocks of a size a new pool in `len` bytes yields.
fn yields(memory: &Memory, shift: usize, len: usize, size: usize) -> usize {
    let pool = handle::init(memory.base().wrapping_add(shift), len, &options()).expect("init");
    let count = (0..).take_while(|_| pool.malloc(size).is_ok()).count();
    assert_eq!(handle::last_error(), MEMPOOL_ERR_OUT_OF_MEMORY);
    pool.must_check();
    pool.detach().expect("detach");
    count
}

#[test]
fn small_buffers_hold_many_small_blocks() {
    let memory = Memory::private(2 * PAGE);
    for shift in 0..=64 {
        let of_four = yields(&memory, shift, 4 * KIB, 16);
        assert!(of_four >= 210, "{of_four} blocks of 16 bytes in 4 KiB at +{shift}");
        let of_one = yields(&memory, shift, KIB, 16);
        assert!(of_one >= 36, "{of_one} blocks of 16 bytes in 1 KiB at +{shift}");
    }
}

/// Whether a pool in the last `len` bytes before an inaccessible page gives one block.
fn works(memory: &Memory, residue: usize, len: usize, options: &Options) -> bool {
    // The buffer's start has the residue; what is left of the page behind it is not ours.
    let buffer = memory.base().wrapping_add(residue);
    match handle::init(buffer, len, options) {
        Ok(pool) => {
            let block = pool.malloc(1);
            pool.must_check();
            pool.detach().expect("detach");
            block.is_ok()
        }
        Err(status) => {
            assert_eq!(status, MEMPOOL_ERR_BUFFER_TOO_SMALL, "{}", handle::last_message());
            false
        }
    }
}

#[test]
fn the_least_length_is_enough_everywhere_and_one_byte_less_is_not() {
    let default = handle::min_len(&options());
    assert!(default <= 400, "{default}");
    // SAFETY: NULL means the defaults.
    assert_eq!(unsafe { ::mempool::capi::mempool_min_len(std::ptr::null()) }, default);
    for log2 in 3..=16 {
        let starts: &[usize] =
            if log2 <= 8 { &[0, 1, 7, 8, 100, 4095, 70_000] } else { &[0, 4095] };
        for &start in starts {
            let mut options = options();
            options.align = 1 << log2;
            options.start = start;
            let len = handle::min_len(&options);
            let memory = Memory::private(len + PAGE);
            let residues = || 0..options.align.min(PAGE);
            let fails = residues().find(|&residue| !works(&memory, residue, len, &options));
            assert_eq!(fails, None, "align {}, start {start}: {len} bytes", options.align);
            let tight = residues().any(|residue| !works(&memory, residue, len - 1, &options));
            assert!(tight, "align {}, start {start}: {} bytes do", options.align, len - 1);
        }
    }
}

#[test]
fn the_least_length_counts_start_and_ignores_end() {
    let base = handle::min_len(&options());
    for start in [1, 16, 1000, 1 << 20, 1 << 40] {
        let mut options = options();
        options.start = start;
        let len = handle::min_len(&options);
        assert!(len >= base + start - 16 && len <= base + start + 16, "start {start}: {len}");
        for end in [1, start, usize::MAX] {
            options.end = end;
            assert_eq!(handle::min_len(&options), len, "end {end}");
        }
    }
}

/// Options that no pool can have, and what is wrong with them.
fn bad_options() -> Vec<(&'static str, Options)> {
    let with = |name, change: fn(&mut Options)| {
        let mut options = options();
        change(&mut options);
        (name, options)
    };
    vec![
        with("align 1", |o| o.align = 1),
        with("align 4", |o| o.align = 4),
        with("align 24", |o| o.align = 24),
        with("align 48", |o| o.align = 48),
        with("align 2^17", |o| o.align = 1 << 17),
        with("align 2^63", |o| o.align = 1 << 63),
        with("align SIZE_MAX", |o| o.align = usize::MAX),
        with("min_split 1", |o| o.min_split = 1),
        with("min_split 8", |o| o.min_split = 8),
        with("an unknown flag", |o| o.flags = 128),
        with("all flags", |o| o.flags = u32::MAX),
        with("struct_size 0", |o| o.struct_size = 0),
        with("struct_size too small", |o| o.struct_size -= 1),
    ]
}

#[test]
fn bad_options_are_refused() {
    let memory = Memory::private(MIB);
    for (name, options) in bad_options() {
        assert_eq!(handle::min_len(&options), 0, "{name}");
        let answer = handle::init(memory.base(), memory.len(), &options);
        assert_eq!(answer, Err(MEMPOOL_ERR_INVALID_ARGUMENT), "{name}");
        let answer = handle::open(memory.base(), memory.len(), &options);
        assert_eq!(answer, Err(MEMPOOL_ERR_INVALID_ARGUMENT), "{name}");
        assert!(memory.bytes(0, MIB).iter().all(|&byte| byte == 0), "{name}: written to");
    }
}

#[test]
fn regions_that_hold_nothing_are_refused() {
    let memory = Memory::private(64 * KIB);
    let refused = |start: usize, end: usize, len: usize| {
        let mut options = options();
        (options.start, options.end) = (start, end);
        let status = handle::init(memory.base(), len, &options).expect_err("no room");
        let small = [MEMPOOL_ERR_BUFFER_TOO_SMALL, MEMPOOL_ERR_INVALID_ARGUMENT].contains(&status);
        assert!(small, "[{start}, {end}) of {len}: {status}");
    };
    for len in [0, 1, 8, 100, handle::min_len(&options()) - 64] {
        refused(0, 0, len);
        refused(0, len.max(1), 64 * KIB);
    }
    refused(64 * KIB, 0, 64 * KIB);
    refused(64 * KIB - 8, 0, 64 * KIB);
    refused(100 * KIB, 0, 64 * KIB);
    refused(usize::MAX, 0, 64 * KIB);
    refused(usize::MAX - 7, usize::MAX, 64 * KIB);
    refused(5000, 5000, 64 * KIB);
    refused(5000, 4000, 64 * KIB);
    let nowhere = handle::init(std::ptr::null_mut(), 64 * KIB, &options());
    assert_eq!(nowhere, Err(MEMPOOL_ERR_INVALID_ARGUMENT));
    let around = handle::init(memory.base(), usize::MAX, &options());
    assert_eq!(around, Err(MEMPOOL_ERR_INVALID_ARGUMENT));
}

/// The bytes of memory that this process occupies, as the kernel counts them.
fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("statm");
    let pages: usize = text.split(' ').nth(1).and_then(|field| field.parse().ok()).expect("rss");
    pages * PAGE
}

/// What a mapping occupies, in the process or in its file.
fn occupied(memory: &Memory, is_shared: bool) -> usize {
    if is_shared {
        memory.file_bytes() as usize
    } else {
        memory.resident_bytes()
    }
}

/// Makes a pool in all of a sparse mapping and allocates at both of its ends.
fn touch_both_ends(len: usize, align: usize, is_shared: bool) {
    let memory = if is_shared { Memory::shared(len) } else { Memory::private(len) };
    let mut options = options();
    // A cache would take more than one block at either end.
    (options.align, options.flags) = (align, MEMPOOL_ZEROED | MEMPOOL_NO_THREAD_CACHES);
    let before = resident_bytes();
    let pool = handle::init(memory.base(), len, &options).expect("init");
    let available = pool.stats().available as usize;
    let first = pool.malloc(1).expect("at the start");
    // All but the last few granules.
    let most = pool.malloc(available - 5 * align).expect("nearly everything");
    let last = pool.malloc(2 * align).expect("at the end");
    assert!(last as usize - memory.base() as usize > len - 5 * align);
    for block in [first, most, last] {
        // SAFETY: the first and the last byte of a block that is ours.
        unsafe {
            block.write(1);
            block.add(pool.usable_size(block) - 1).write(1);
        }
    }
    let stats = pool.stats();
    assert_eq!((stats.used_count, stats.free_count), (3, 0));
    pool.free(most).expect("free");
    let again = pool.malloc(available / 2).expect("half of it");
    assert_eq!(again, most);
    pool.free(again).expect("free");
    pool.free(first).expect("free");
    pool.free(last).expect("free");
    assert_eq!(pool.stats().available as usize, available);
    let grown = resident_bytes().saturating_sub(before);
    let occupied = occupied(&memory, is_shared);
    println!(
        "{} GiB, align {align}, {}: RSS grew by {} KiB, {} KiB of the mapping are in memory",
        len / GIB,
        if is_shared { "shared" } else { "private" },
        grown / KIB,
        occupied / KIB,
    );
    assert!(grown < 2 * MIB && occupied < 2 * MIB, "{grown} and {occupied} bytes");
}

#[test]
fn a_sparse_private_64_gib_stays_sparse() {
    child::fresh("a_sparse_private_64_gib_stays_sparse", || touch_both_ends(64 * GIB, 16, false));
}

#[test]
fn a_sparse_shared_64_gib_stays_sparse() {
    child::fresh("a_sparse_shared_64_gib_stays_sparse", || touch_both_ends(64 * GIB, 16, true));
}

#[test]
fn a_sparse_private_1_tib_stays_sparse() {
    child::fresh("a_sparse_private_1_tib_stays_sparse", || touch_both_ends(TIB, 4096, false));
}

#[test]
fn a_sparse_shared_1_tib_stays_sparse() {
    child::fresh("a_sparse_shared_1_tib_stays_sparse", || touch_both_ends(TIB, 4096, true));
}

/// With caches, which lie before the map: nor do they cost memory that nobody uses.
fn use_with_caches(len: usize, align: usize, is_shared: bool) {
    let memory = if is_shared { Memory::shared(len) } else { Memory::private(len) };
    let mut options = options();
    (options.align, options.flags) = (align, MEMPOOL_ZEROED);
    let before = resident_bytes();
    let pool = handle::init(memory.base(), len, &options).expect("init");
    let fresh = pool.stats();
    assert!(fresh.max_threads > 0, "caches are the default");
    assert!(fresh.overhead < fresh.total / 8, "{} of {len}", fresh.overhead);
    let first = pool.malloc(1).expect("at the start");
    let most = pool.malloc(pool.stats().largest_free as usize).expect("all the rest");
    assert_eq!(pool.malloc(len / 2), Err(MEMPOOL_ERR_OUT_OF_MEMORY));
    for block in [first, most] {
        // SAFETY: the first and the last byte of a block that is ours.
        unsafe {
            block.write(1);
            block.add(pool.usable_size(block) - 1).write(1);
        }
    }
    pool.free(first).expect("free");
    pool.free(most).expect("free");
    assert_eq!(pool.stats().available, fresh.available);
    pool.trim().expect("trim");
    let stats = pool.stats();
    assert_eq!((stats.used_count, stats.cached_count, stats.free_count), (0, 0, 0));
    assert_eq!((stats.top, stats.available), (fresh.top, fresh.available), "whole again");
    let grown = resident_bytes().saturating_sub(before);
    let occupied = occupied(&memory, is_shared);
    assert!(grown < 2 * MIB && occupied < 2 * MIB, "{grown} and {occupied} bytes");
}

#[test]
fn a_sparse_pool_with_caches_stays_sparse() {
    child::fresh("a_sparse_pool_with_caches_stays_sparse", || {
        for is_shared in [false, true] {
            use_with_caches(64 * GIB, 16, is_shared);
            use_with_caches(TIB, 4096, is_shared);
        }
    });
}

/// Which pages init, and then attach from another mapping, bring into memory.
fn pages_touched(len: usize, options: &Options) -> [Vec<usize>; 2] {
    let memory = Memory::shared(len);
    handle::init(memory.base(), len, options).expect("init").detach().expect("detach");
    let by_init = memory.resident();
    let view = memory.view();
    handle::attach(view.base(), len, &crate::options()).expect("attach").detach().expect("detach");
    // A shared page that is only read comes into memory just the same.
    [by_init, view.resident()]
}

#[test]
fn init_and_attach_touch_the_header_and_the_first_map_page() {
    for flags in [0, MEMPOOL_ZEROED] {
        for len in [64 * KIB, MIB, GIB, 64 * GIB] {
            let mut options = options();
            options.flags = flags;
            let touched = pages_touched(len, &options);
            for (call, pages) in ["init", "attach"].iter().zip(&touched) {
                let expected = (0..pages.len()).collect::<Vec<_>>();
                assert!(*pages == expected && pages.len() <= 2, "{call} of {len}: {pages:?}");
            }
        }
    }
}

#[test]
fn what_cannot_be_numbered_is_refused_with_an_align_that_works() {
    for (len, align) in [(64 * GIB, 8), (TIB, 16), (TIB, 64), (TIB, 128)] {
        let memory = Memory::private(len);
        let mut options = options();
        (options.align, options.flags) = (align, MEMPOOL_ZEROED);
        let answer = handle::init(memory.base(), len, &options);
        assert_eq!(answer, Err(MEMPOOL_ERR_BUFFER_TOO_LARGE), "{len} bytes at align {align}");
        let message = handle::last_message();
        let words = message.split(|c: char| !c.is_ascii_alphanumeric()).collect::<Vec<_>>();
        let named = words.windows(2).filter(|pair| pair[0] == "align");
        let named: Vec<usize> = named.filter_map(|pair| pair[1].parse().ok()).collect();
        let [needed] = named[..] else { panic!("names one align: {message}") };
        assert!(needed > align && needed.is_power_of_two(), "{message}");
        options.align = needed;
        let pool = handle::init(memory.base(), len, &options).expect("with the align it named");
        fill_twice(pool);
        // It names the least one that does.
        options.align = needed / 2;
        let answer = handle::init(memory.base(), len, &options);
        assert_eq!(answer, Err(MEMPOOL_ERR_BUFFER_TOO_LARGE), "half of {needed}");
    }
}

/// One block of everything, twice.
fn fill_twice(pool: Handle) {
    for _ in 0..2 {
        let largest = pool.stats().largest_free as usize;
        let block = pool.malloc(largest).expect("the largest block");
        assert_eq!(pool.malloc(1), Err(MEMPOOL_ERR_OUT_OF_MEMORY));
        pool.free(block).expect("free");
    }
}
