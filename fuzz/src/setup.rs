//! How a pool is made, as the input says.

use crate::buffer::{Buffer, LEN_MAX};
use crate::handle::{self, Options};
use crate::input::Input;
use ::mempool::abi::*;
use ::mempool::layout::Geometry;
use ::mempool::options::Options as Plan;

pub struct Setup {
    pub options: Options,
    pub buffer: Buffer,
}

impl Setup {
    /// None where the options are such that no pool fits.
    pub fn choose(input: &mut Input) -> Option<Setup> {
        let mut options = options(input);
        let least = handle::min_len(&options);
        let extra = match input.u8() {
            // Of any length, or so long that there are thread caches.
            choice @ 0..160 => usize::from(input.u16()) << (choice % 4),
            choice => (256 << 10) + (usize::from(input.u16()) << (choice % 3)),
        };
        let behind = usize::from(input.u8() & 0x3f);
        let len = (least + extra + behind).min(LEN_MAX);
        if least == 0 || least + behind > len {
            return None;
        }
        options.end = if behind > 0 { len - behind } else { 0 };
        let (low, fill) = (input.u8(), input.u8());
        let fill = if options.flags & MEMPOOL_ZEROED != 0 { 0 } else { fill };
        let buffer = Buffer::new(len, (low & 1 == 0).then_some(low), fill);
        Some(Setup { options, buffer })
    }
}

/// Where a pool with these options has its parts.
pub fn geometry(buffer: &Buffer, options: &Options) -> Option<Geometry> {
    let plan = Plan {
        start: options.start,
        end: options.end,
        align: options.align,
        min_split: options.min_split,
        flags: options.flags,
        max_threads: options.max_threads,
    };
    Geometry::plan(buffer.base(0).addr(), buffer.len(), &plan).ok()
}

fn options(input: &mut Input) -> Options {
    let mut options = handle::options();
    let flags = input.u16();
    let checked = MEMPOOL_GUARD | MEMPOOL_FILL_FREED;
    let low = MEMPOOL_NO_COMPACT | MEMPOOL_NO_SPLIT | MEMPOOL_NO_THREAD_CACHES | checked;
    // Half of the pools may have thread caches.
    options.flags = if flags & 0x400 != 0 { u32::from(flags) & low } else { 0 };
    options.flags |= if flags & 0x100 != 0 { MEMPOOL_OWNER_TAGS } else { 0 };
    options.flags |= if flags & 0x200 != 0 { MEMPOOL_ZEROED } else { 0 };
    options.align = match input.u8() {
        0..128 => 0,
        choice => 8 << (choice % 14),
    };
    options.min_split = match input.u8() {
        0..128 => 0,
        choice => 9 + (usize::from(choice) - 128) * usize::from(choice & 15),
    };
    options.max_threads = u32::from(input.u8() & 7);
    options.start = usize::from(input.u8() / 3);
    options
}
