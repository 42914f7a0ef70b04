//! Where a case is played: its memory, who is in it, and the child that goes on by instructions.

use super::cases::{Case, Other};
use super::court::Wrong;
use super::death;
use super::scene::Effect;
use super::stage::{Board, Place, Stage, DONE, INSIDE};
use super::target::{line_of, Stop, Target};
use crate::common::child::{self, Child};
use crate::common::handle::{self, Options};
use crate::common::memory::error;
use crate::common::Memory;
use ::mempool::abi::MEMPOOL_NO_SPLIT;
use ::mempool::layout::{Geometry, LOCK_OFFSET};
use ::mempool::Options as PoolOptions;
use std::sync::atomic::Ordering::Relaxed;

/// How far above a pool's top its bytes, and its map's, are looked at after each instruction, and
/// farther up after each call.
const WINDOW: usize = 16 << 10;

/// What can change in a call: the bytes to here of all before the blocks, and of these.
#[derive(Clone, Copy)]
pub struct Window {
    map: usize,
    first: usize,
    end: usize,
}

impl Window {
    fn is_same(&self, one: &[u8], other: &[u8]) -> bool {
        let Window { map, first, end } = *self;
        one[..map] == other[..map] && one[first..end] == other[first..end]
    }

    fn is_same_outside(&self, one: &[u8], other: &[u8]) -> bool {
        let Window { map, first, end } = *self;
        one[map..first] == other[map..first] && one[end..] == other[end..]
    }
}

/// A case's memory, and who is in it.
pub struct Theatre<'a> {
    pub case: &'a Case,
    pub memory: &'a Memory,
    pub board: &'a Board,
    pub geometry: Geometry,
    others: Vec<Child>,
}

impl Drop for Theatre<'_> {
    fn drop(&mut self) {
        for other in self.others.drain(..) {
            other.kill();
        }
    }
}

/// An instant of a stepped child.
pub struct Instant<'a> {
    /// Instructions of the call so far.
    pub point: u64,
    pub bytes: &'a [u8],
    /// The child holds the lock, as the kernel knows.
    pub holds: bool,
    /// The instruction that was the last.
    pub address: u64,
}

impl<'a> Theatre<'a> {
    /// The stage as it is when the case's own child comes.
    pub fn open(case: &'a Case, memory: &'a Memory, board: &'a Board) -> Theatre<'a> {
        let bytes = memory.bytes_mut(0, memory.len());
        bytes.fill(if case.dirty { 0xa5 } else { 0 });
        board.clear();
        board.scene().splits = case.options.flags & MEMPOOL_NO_SPLIT == 0;
        let geometry = geometry(memory, &case.options);
        let mut theatre = Theatre { case, memory, board, geometry, others: Vec::new() };
        if case.has_pool {
            let pool = handle::init(memory.base(), memory.len(), &case.options).expect("init");
            board.scene().pool_id = pool.stats().pool_id;
            pool.detach().expect("detach");
        }
        for other in &case.others {
            theatre.send_in(other);
        }
        // Who came before does not die with the child.
        board.scene().threads.fill(0);
        if case.rebooted {
            // The lock belongs to another boot, of which nobody lives.
            memory.bytes_mut(LOCK_OFFSET + 4, 4).iter_mut().for_each(|byte| *byte ^= 0x5a);
        }
        theatre
    }

    /// How many of its bytes can change in the next call.
    pub fn window(&self) -> Window {
        let (memory, len) = (self.memory, self.memory.len());
        let Geometry { map, first, .. } = self.geometry;
        let mut blocks = Vec::new();
        match handle::inspect(memory.base(), len, &self.case.options, &mut blocks) {
            Ok(stats) if self.board.scene().effect() != Effect::Birth => {
                let top = stats.top as usize;
                let known = map + (top - first) / self.geometry.align() + WINDOW;
                Window { map: first.min(known), first, end: len.min(top + WINDOW) }
            }
            _ => Window { map: first, first, end: len },
        }
    }

    pub fn place(&self) -> Place<'a> {
        Place { memory: self.memory, board: self.board, options: self.case.options }
    }

    /// Another process does its part, and ends, or stays, stopped.
    fn send_in(&mut self, other: &Other) {
        let place = self.place();
        let child = child::fork(|| {
            let mut stage = Stage::attached(place);
            (other.act)(&mut stage);
            if other.stays {
                loop {
                    // SAFETY: stops this process; no memory is involved.
                    unsafe { libc::raise(libc::SIGSTOP) };
                    (other.then)(&mut stage);
                }
            }
            0
        });
        let status = stop_or_end(&child);
        assert_eq!(libc::WIFSTOPPED(status), other.stays, "{}: {status:#x}", self.case.name);
        if other.stays {
            self.others.push(child);
        } else {
            assert_eq!(status, 0, "{}: another process failed", self.case.name);
        }
    }

    /// Whether somebody has stayed.
    pub fn goes_on(&self) -> bool {
        !self.others.is_empty()
    }

    /// Those who have stayed go on for a while.
    pub fn go_on(&self) {
        for other in &self.others {
            other.go_on();
            let status = stop_or_end(other);
            assert!(libc::WIFSTOPPED(status), "{}: {status:#x}", self.case.name);
        }
    }

    /// The death of the child, or of who comes after it, in a copy of the bytes.
    pub fn die(&self, copy: &mut [u8], holds: bool, tid: u32, threads: &[u32]) {
        if holds {
            death::mark_owner_died(copy, tid);
        }
        death::bury(copy, &self.geometry, threads);
    }

    pub fn start(&self) -> Target {
        let (place, case) = (self.place(), self.case);
        // The first to attach after a reboot is looked at.
        let attached = case.has_pool && !case.rebooted;
        Target::start(|| {
            let mut stage = if attached { Stage::attached(place) } else { Stage::bare(place) };
            (case.act)(&mut stage);
        })
    }
}

/// Waits until a child stops or ends; its status.
fn stop_or_end(child: &Child) -> libc::c_int {
    let mut status = 0;
    // SAFETY: our own child, a valid status word.
    let got = unsafe { libc::waitpid(child.pid, &mut status, libc::WUNTRACED) };
    assert_eq!(got, child.pid, "waitpid: {}", error());
    status
}

/// Where everything lies in a pool with these options.
fn geometry(memory: &Memory, options: &Options) -> Geometry {
    let options = PoolOptions {
        start: options.start,
        end: options.end,
        align: options.align,
        min_split: options.min_split,
        flags: options.flags,
        max_threads: options.max_threads,
    };
    Geometry::plan(memory.base() as usize, memory.len(), &options).expect("a pool fits")
}

/// Lets the child go on for at most `limit` instructions of its call, and shows the first instant and
/// each that differs from the one before inside the window; outside, nothing may
/// change. Returns how many there were.
pub fn steps(
    target: &mut Target,
    place: Place,
    window: Window,
    limit: u64,
    mut show: impl FnMut(&Instant) -> Result<(), Wrong>,
) -> Result<u64, Wrong> {
    let Place { memory, board, .. } = place;
    let word = memory.base().wrapping_add(LOCK_OFFSET);
    let tid = target.pid() as u32;
    let mut last = Vec::new();
    let mut held = false;
    let mut point = 0;
    while point < limit {
        let address = target.instruction();
        let stop = target.step();
        let wrong = |said: String| Err(Wrong { point, said: said + &line_of(address) });
        if stop != Stop::Trap {
            return wrong(format!("the call itself did not survive: {stop:?}"));
        }
        match board.phase.load(Relaxed) {
            INSIDE => {}
            DONE => break,
            _ => continue,
        }
        let bytes = memory.bytes(0, memory.len());
        let named = death::owner(bytes) == tid;
        let holds = named && target.announces(word);
        if named && !holds {
            return wrong("the word names the thread, and the kernel does not know".into());
        }
        if holds != held || last.is_empty() || !window.is_same(&last, bytes) {
            last.clear();
            last.extend_from_slice(bytes);
            held = holds;
            show(&Instant { point, bytes, holds, address })?;
        }
        point += 1;
    }
    if !window.is_same_outside(memory.bytes(0, memory.len()), &last) {
        let said = "it wrote farther up than was looked at: WINDOW is too small".into();
        return Err(Wrong { point, said });
    }
    Ok(point)
}
