//! The tracer: plays a case, and at each instruction of each of its calls takes the child for dead.
//!
//! First order: the call's own instructions. Second order: at some of the points, or at all, the
//! bytes are given to a survivor, who is stepped through its recovery in turn. Real kills: at some
//! of the points another child, brought to the same one, is killed; the bytes that the kernel leaves
//! must be those that [`death`](super::death) makes, and the verdict the same.

use super::cases::{Case, Other};
use super::court::{Court, Wrong};
use super::death;
use super::judge::Verdict;
use super::report::{Figures, Report};
use super::scene::{Call, Effect, Scene, State};
use super::stage::{Board, Place, Stage, DONE, INSIDE};
use super::target::{Stop, Target};
use crate::common::child::{self, Child, End};
use crate::common::handle::{self, Block, Options, Status};
use crate::common::memory::error;
use crate::common::random::Random;
use crate::common::Memory;
use ::mempool::abi::*;
use ::mempool::layout::{Geometry, LOCK_OFFSET, TURN_OFFSET};
use ::mempool::Options as PoolOptions;
use std::process::Command;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Mutex;

/// How much of it is done.
#[derive(Clone, Copy)]
pub struct Extent {
    /// A recovery is stepped through after each state; else after one of a call, until there was one
    /// for its row of the table.
    pub complete: bool,
    /// At most so many points of a case at which a child is killed for real.
    pub kills_max: u64,
}

/// Only this, to look at one failure: a call of the case by its number, and an instruction of it.
#[derive(Clone, Copy, Default)]
pub struct Only {
    pub call: Option<usize>,
    pub point: Option<u64>,
}

/// So many states of a call that makes a block, or a pool, show it: that after the store that delivers
/// it, and the one that follows, of the magazine's count or the lock.
const DELIVERED_MAX: usize = 2;

/// How far above a pool's top its bytes are looked at after each instruction, and farther up after
/// each call.
const WINDOW: usize = 16 << 10;

/// Of so many points one real kill, up to the most.
const KILL_EVERY: u64 = 97;

/// A call that was stepped through.
#[derive(Default)]
struct Played {
    /// Where it belongs in the table.
    row: String,
    points: u64,
    /// The points that left other bytes than those before.
    changes: Vec<u64>,
}

/// One who steps through cases.
pub struct Walker<'a> {
    court: Court,
    extent: Extent,
    only: Only,
    random: Random,
    report: &'a Mutex<Report>,
}

/// The bytes of an instant after the child's death, kept for later.
struct Remains {
    point: u64,
    bytes: Vec<u8>,
    verdict: Option<Verdict>,
}

/// A case's memory, and who is in it.
struct Theatre<'a> {
    case: &'a Case,
    memory: &'a Memory,
    board: &'a Board,
    geometry: Geometry,
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
struct Instant<'a> {
    /// Instructions of the call so far.
    point: u64,
    bytes: &'a [u8],
    /// The child holds the lock, as the kernel knows.
    holds: bool,
    /// The instruction that was the last.
    address: u64,
}

impl<'a> Theatre<'a> {
    /// The stage as it is when the case's own child comes.
    fn open(case: &'a Case, memory: &'a Memory, board: &'a Board) -> Theatre<'a> {
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
    fn window(&self) -> usize {
        let (memory, len) = (self.memory, self.memory.len());
        let mut blocks = Vec::new();
        match handle::inspect(memory.base(), len, &self.case.options, &mut blocks) {
            Ok(stats) if self.board.scene().effect() != Effect::Birth => {
                len.min(stats.top as usize + WINDOW)
            }
            _ => len,
        }
    }

    fn place(&self) -> Place<'a> {
        Place { memory: self.memory, board: self.board, options: self.case.options }
    }

    /// Another process does its part, and ends, or stays, stopped.
    fn send_in(&mut self, other: &Other) {
        let place = self.place();
        let child = child::fork(|| {
            (other.act)(&mut Stage::attached(place));
            if other.stays {
                // SAFETY: stops this process; no memory is involved.
                unsafe { libc::raise(libc::SIGSTOP) };
            }
            0
        });
        let (pid, mut status) = (child.pid, 0);
        // SAFETY: our own child, a valid status word.
        let got = unsafe { libc::waitpid(pid, &mut status, libc::WUNTRACED) };
        assert_eq!(got, pid, "waitpid: {}", error());
        assert_eq!(libc::WIFSTOPPED(status), other.stays, "{}: {status:#x}", self.case.name);
        if other.stays {
            self.others.push(child);
        } else {
            assert_eq!(status, 0, "{}: another process failed", self.case.name);
        }
    }

    fn start(&self) -> Target {
        let (place, case) = (self.place(), self.case);
        // The first to attach after a reboot is looked at.
        let attached = case.has_pool && !case.rebooted;
        Target::start(|| {
            let mut stage = if attached { Stage::attached(place) } else { Stage::bare(place) };
            (case.act)(&mut stage);
        })
    }
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
/// each that differs from the one before in the pool's first `window` bytes; beyond, nothing may
/// change. Returns how many there were.
fn steps(
    target: &mut Target,
    place: Place,
    window: usize,
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
        if holds != held || last.is_empty() || last[..window] != bytes[..window] {
            last.clear();
            last.extend_from_slice(bytes);
            held = holds;
            show(&Instant { point, bytes, holds, address })?;
        }
        point += 1;
    }
    if memory.bytes(window, memory.len() - window) != &last[window..] {
        let said = "it wrote farther up than was looked at: WINDOW is too small".into();
        return Err(Wrong { point, said });
    }
    Ok(point)
}

impl<'r> Walker<'r> {
    pub fn new(extent: Extent, only: Only, len_max: usize, report: &'r Mutex<Report>) -> Self {
        Walker { court: Court::new(len_max), extent, only, random: Random(1), report }
    }

    fn count(&self, row: &str, figures: &Figures) {
        self.report.lock().expect("no walker failed").add(row, figures);
    }

    /// Plays a case to its end. Err says what is wrong, and where.
    pub fn walk(&mut self, case: &Case) -> Result<(), String> {
        let (memory, board) = (Memory::shared_low(case.len), Memory::shared(size_of::<Board>()));
        let board = Board::new(&board);
        let second = Memory::shared_low(case.len);
        // What is chosen depends on the case alone.
        let name =
            case.name.bytes().fold(0, |seed: u64, byte| seed.wrapping_mul(31) + u64::from(byte));
        self.random = Random(name);
        let mut calls = Vec::new();
        {
            let theatre = Theatre::open(case, &memory, board);
            let mut target = theatre.start();
            while self.has_call(case, &mut target)? {
                let number = calls.len();
                if self.only.call.is_some_and(|only| only != number) {
                    assert_eq!(target.go_on(), Stop::Trap);
                    calls.push(Played::default());
                    continue;
                }
                let call = self.call(&theatre, &mut target, &second);
                calls.push(call.map_err(|wrong| wrong.of(case, number))?);
            }
        }
        self.kill_for_real(case, &memory, board, &calls)
    }

    /// Whether the child comes to another call.
    fn has_call(&self, case: &Case, target: &mut Target) -> Result<bool, String> {
        match target.go_on() {
            Stop::Trap => Ok(true),
            Stop::Ended(End::Exit(0)) => Ok(false),
            stop => Err(format!("{}: its child did not play its part: {stop:?}", case.name)),
        }
    }

    /// Steps through the call that the child stands before.
    fn call(
        &mut self,
        theatre: &Theatre,
        target: &mut Target,
        second: &Memory,
    ) -> Result<Played, Wrong> {
        let scene = *theatre.board.scene();
        let before = theatre.memory.bytes(0, theatre.memory.len()).to_vec();
        let mut figures = Figures { calls: 1, ..Figures::default() };
        let mut addresses = Vec::new();
        let stepped =
            self.each_instant(theatre, target, &scene, second, &mut figures, &mut addresses);
        let told = stepped.and_then(|kept| {
            // To the stop behind the call, where its answer stands.
            let stop = target.go_on();
            if stop != Stop::Trap {
                let said = format!("the child did not return: {stop:?}");
                return Err(Wrong { point: figures.points, said });
            }
            let verdicts = self.court.answers()?;
            let status = theatre.board.status.load(Relaxed) as Status;
            let block = theatre.board.block.load(Relaxed);
            // Of one point alone nothing follows.
            if self.only.point.is_none() {
                agree(&scene, status, block, &verdicts)?;
            }
            let row = row(theatre, &scene, status, block, &before);
            let is_due =
                self.report.lock().expect("no walker failed").figures(&row).recoveries == 0;
            if let Some(mut remains) = kept.filter(|_| is_due) {
                let of_point = verdicts.iter().find(|(point, _)| *point == remains.point);
                remains.verdict = of_point.map(|(_, verdict)| *verdict);
                self.second_order(theatre, &scene, &remains, second, &mut figures)?;
            }
            Ok(row)
        });
        let row = told.map_err(|wrong| {
            let address = addresses.iter().find(|(point, _)| *point == wrong.point);
            let line = address.map_or(String::new(), |(_, address)| line_of(*address));
            let said = format!("{:?}: {}{line}", scene.call, wrong.said);
            Wrong { point: wrong.point, said }
        })?;
        self.count(&row, &figures);
        let changes = addresses.into_iter().map(|(point, _)| point).collect();
        Ok(Played { row, points: figures.points, changes })
    }

    /// Submits each instant of a call, and all to a survivor who is stepped through, or keeps one of
    /// them for that.
    fn each_instant(
        &mut self,
        theatre: &Theatre,
        target: &mut Target,
        scene: &Scene,
        second: &Memory,
        figures: &mut Figures,
        addresses: &mut Vec<(u64, u64)>,
    ) -> Result<Option<Remains>, Wrong> {
        let tid = target.pid() as u32;
        let only = self.only.point;
        let mut kept = None;
        figures.points = steps(target, theatre.place(), theatre.window(), u64::MAX, |instant| {
            addresses.push((instant.point, instant.address));
            if only.is_some_and(|only| only != instant.point) {
                return Ok(());
            }
            figures.states += 1;
            self.submit(theatre, scene, instant, tid, instant.point)?;
            let all = only.is_some() || self.extent.complete;
            if !all && self.random.below(figures.states as usize) > 0 {
                return Ok(());
            }
            let mut bytes = instant.bytes.to_vec();
            die(&mut bytes, theatre, scene, instant.holds, tid);
            let mut remains = Remains { point: instant.point, bytes, verdict: None };
            if !all {
                kept = Some(remains);
                return Ok(());
            }
            let earlier = self.court.answers()?;
            remains.verdict = earlier.last().map(|(_, verdict)| *verdict);
            self.second_order(theatre, scene, &remains, second, figures)?;
            self.court.remember(earlier);
            Ok(())
        })?;
        Ok(kept)
    }

    /// Submits the bytes of an instant as they are after the child's death.
    fn submit(
        &mut self,
        theatre: &Theatre,
        scene: &Scene,
        instant: &Instant,
        tid: u32,
        point: u64,
    ) -> Result<(), Wrong> {
        let len = instant.bytes.len();
        self.court.submit(scene, &theatre.case.options, point, len, |copy| {
            copy.copy_from_slice(instant.bytes);
            die(copy, theatre, scene, instant.holds, tid);
        })
    }

    /// A survivor recovers from the child's death at an instant, and dies at each instruction of
    /// that.
    fn second_order(
        &mut self,
        theatre: &Theatre,
        scene: &Scene,
        remains: &Remains,
        second: &Memory,
        figures: &mut Figures,
    ) -> Result<(), Wrong> {
        if matches!(scene.call, Call::Check | Call::Stats | Call::Walk) && !self.extent.complete {
            return Ok(());
        }
        let state = remains.verdict.map(|verdict| verdict.state);
        if scene.effect() == Effect::End && state != Some(State::Old) {
            // There is nothing to recover: whoever comes makes a pool anew.
            return Ok(());
        }
        let board = Memory::shared(size_of::<Board>());
        let board = Board::new(&board);
        second.bytes_mut(0, remains.bytes.len()).copy_from_slice(&remains.bytes);
        let place = Place { memory: second, board, options: theatre.case.options };
        let is_pool = scene.effect() != Effect::Birth;
        let way = remains.point as usize;
        let call = match is_pool {
            // A trim is long.
            true if self.extent.complete => [Call::Recover, Call::Trim, Call::Check][way % 3],
            true => [Call::Recover, Call::Check][way % 2],
            false => [Call::Init, Call::Open][way % 2],
        };
        let mut target = Target::start(|| {
            let mut stage = if is_pool { Stage::attached(place) } else { Stage::bare(place) };
            stage.step(call);
        });
        let context = |wrong: Wrong| Wrong {
            point: remains.point,
            said: format!("{} (at {} of {call:?} by a survivor)", wrong.said, wrong.point),
        };
        assert_eq!(target.go_on(), Stop::Trap);
        let survivor = target.pid() as u32;
        let points = steps(&mut target, place, theatre.window(), u64::MAX, |at| {
            self.court.submit(scene, &theatre.case.options, at.point, at.bytes.len(), |copy| {
                copy.copy_from_slice(at.bytes);
                if at.holds {
                    death::mark_owner_died(copy, survivor);
                }
                death::bury(copy, &theatre.geometry, &[survivor], 1);
            })
        });
        figures.recoveries += 1;
        figures.second_order += points.map_err(context)?;
        for (point, verdict) in self.court.answers().map_err(context)? {
            if Some(verdict) != remains.verdict && is_pool {
                let said = format!("{verdict:?}, but {:?} before", remains.verdict);
                return Err(context(Wrong { point, said }));
            }
        }
        Ok(())
    }

    /// Kills children for real at some points of a case, each call as likely as the next.
    fn kill_for_real(
        &mut self,
        case: &Case,
        memory: &Memory,
        board: &Board,
        calls: &[Played],
    ) -> Result<(), String> {
        let played: Vec<usize> = (0..calls.len()).filter(|&call| calls[call].points > 0).collect();
        let total: u64 = calls.iter().map(|call| call.points).sum();
        let kills = match self.only.point {
            Some(_) => 1,
            None => (total / KILL_EVERY).clamp(1, self.extent.kills_max),
        };
        for kill in 0..kills {
            let call = played[self.random.below(played.len())];
            let Played { row, points, changes } = &calls[call];
            let point = match self.only.point {
                Some(point) => point,
                // At any, and where something has just changed.
                None if kill % 2 == 0 => self.random.next() % points,
                None => changes[self.random.below(changes.len())],
            };
            let killed = self.kill(case, memory, board, call, point);
            killed.map_err(|wrong| format!("{} (by a real kill)", wrong.of(case, call)))?;
            self.count(row, &Figures { kills: 1, ..Figures::default() });
        }
        Ok(())
    }

    /// Brings a child to a point of a call, and kills it there.
    fn kill(
        &mut self,
        case: &Case,
        memory: &Memory,
        board: &Board,
        call: usize,
        point: u64,
    ) -> Result<(), Wrong> {
        let theatre = Theatre::open(case, memory, board);
        let mut target = theatre.start();
        let wrong = |said: String| Wrong { point, said };
        let arrive = |target: &mut Target| match self.has_call(case, target) {
            Ok(true) => Ok(()),
            _ => Err(wrong("the child did not play its part a second time".into())),
        };
        for _ in 0..call {
            arrive(&mut target)?;
            arrive(&mut target)?;
        }
        arrive(&mut target)?;
        let scene = *board.scene();
        let tid = target.pid() as u32;
        let mut holds = false;
        // One more than the instructions before the point, so that the last shown is the point's.
        steps(&mut target, theatre.place(), theatre.window(), point + 1, |instant| {
            holds = instant.holds;
            Ok(())
        })?;
        let mut bytes = memory.bytes(0, memory.len()).to_vec();
        let instant = Instant { point, bytes: &bytes, holds, address: 0 };
        self.submit(&theatre, &scene, &instant, tid, point)?;
        target.kill();
        let real = memory.bytes(0, memory.len());
        self.court.submit(&scene, &case.options, point, real.len(), |copy| {
            copy.copy_from_slice(real);
        })?;
        if holds {
            death::mark_owner_died(&mut bytes, tid);
        }
        if let Some(at) = (0..bytes.len()).find(|&at| bytes[at] != real[at]) {
            let (ours, its) = (bytes[at], real[at]);
            return Err(wrong(format!(
                "the kernel left {its:#x} at {at}, where {ours:#x} is held"
            )));
        }
        let answers = self.court.answers()?;
        if answers[0].1 != answers[1].1 {
            return Err(wrong(format!("a real kill is judged otherwise: {answers:?}")));
        }
        Ok(())
    }
}

/// The child's death, in a copy.
fn die(copy: &mut [u8], theatre: &Theatre, scene: &Scene, holds: bool, tid: u32) {
    if holds {
        death::mark_owner_died(copy, tid);
    }
    death::bury(copy, &theatre.geometry, &scene.threads, 0);
}

/// The verdicts over a call's instants go one way, from old to new, and end where its answer says.
fn agree(
    scene: &Scene,
    status: Status,
    block: u64,
    verdicts: &[(u64, Verdict)],
) -> Result<(), Wrong> {
    for pair in verdicts.windows(2) {
        let ((_, earlier), (point, later)) = (pair[0], pair[1]);
        if later.state < earlier.state || later.cached != earlier.cached {
            let said = format!("{later:?}, but {earlier:?} just before");
            return Err(Wrong { point, said });
        }
    }
    for &(point, verdict) in verdicts {
        if verdict.block != 0 && verdict.block != block {
            let said = format!("{verdict:?}, but the call returned {block}");
            return Err(Wrong { point, said });
        }
    }
    let Some(&(point, last)) = verdicts.last() else { return Ok(()) };
    let delivered = verdicts.iter().filter(|(_, verdict)| verdict.state == State::New).count();
    if matches!(scene.effect(), Effect::Adds { .. }) && delivered > DELIVERED_MAX {
        let said =
            format!("the block is there {delivered} stores before the call has made its last");
        return Err(Wrong { point, said });
    }
    let nothing = match scene.effect() {
        Effect::Nothing => true,
        // It had the room already.
        Effect::Replaces { slot, size } => {
            let old = scene.known[slot];
            block == old.offset && old.size >= size as u64 && last.state == State::Old
        }
        Effect::RemovesAll => scene.blocks().next().is_none(),
        Effect::Birth => scene.call == Call::Open && scene.pool_id != 0,
        _ => false,
    };
    let expected = if status == MEMPOOL_OK && !nothing { State::New } else { State::Old };
    if last.state != expected {
        let said = format!("{last:?} at the end of a call that returned {status}");
        return Err(Wrong { point, said });
    }
    Ok(())
}

/// What the call was in the end, by what it did: the row of the table that it belongs to.
fn row(theatre: &Theatre, scene: &Scene, status: Status, block: u64, before: &[u8]) -> String {
    let after = theatre.memory.bytes(0, before.len());
    let name = match scene.call {
        Call::Malloc { .. } => "malloc",
        Call::Calloc { .. } => "calloc",
        Call::CallocFill { .. } => "calloc_fill",
        Call::AlignedAlloc { .. } => "aligned_alloc",
        Call::Free { .. } | Call::FreeBad { .. } => "free",
        Call::FreeSized { .. } => "free_sized",
        Call::Realloc { .. } | Call::ReallocNull { .. } => "realloc",
        Call::Expand { .. } => "expand",
        Call::FreeAll => "free_all",
        Call::Trim => "trim",
        Call::Recover => "recover",
        Call::Check => "check",
        Call::Stats => "stats",
        Call::Walk => "walk",
        Call::Attach => "attach",
        Call::Detach => "detach",
        Call::Init => "init",
        Call::Open => "open",
        Call::Release => "release",
    };
    if status != MEMPOOL_OK {
        return format!("{name}, fails");
    }
    let way = match scene.effect() {
        Effect::Adds { .. } => way(theatre, before, after),
        Effect::Removes { slot } => {
            let state = block_at(theatre, scene.known[slot].offset).map(|block| block.state);
            match (way(theatre, before, after), state) {
                (way, Some(MEMPOOL_BLOCK_CACHED)) if way == "heap" || way == "top" => {
                    "cache, others given back".into()
                }
                (way, _) => way,
            }
        }
        Effect::Replaces { slot, .. } => {
            let (old, lock) = (scene.known[slot], way(theatre, before, after));
            let size = block_at(theatre, block).map_or(0, |block| block.size);
            match (block == old.offset, size.cmp(&old.size)) {
                (false, _) => format!("moves ({lock})"),
                (true, std::cmp::Ordering::Equal) => "as it is".into(),
                (true, std::cmp::Ordering::Less) => "shrinks".into(),
                (true, std::cmp::Ordering::Greater) => "grows".into(),
            }
        }
        _ => theatre.case.group.into(),
    };
    format!("{name}, {way}")
}

/// Where blocks came from or went to.
fn way(theatre: &Theatre, before: &[u8], after: &[u8]) -> String {
    let geometry = &theatre.geometry;
    let word = |bytes: &[u8], at: usize| {
        u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
    };
    let owners = |bytes: &[u8]| -> Vec<u32> {
        (0..geometry.magazines).map(|at| word(bytes, geometry.magazine_at(at))).collect()
    };
    let stats = |bytes: &[u8]| {
        let mut blocks = Vec::new();
        let seen = handle::inspect(bytes.as_ptr(), bytes.len(), &theatre.case.options, &mut blocks);
        seen.expect("inspect")
    };
    let (old, new) = (stats(before), stats(after));
    let locked = word(before, TURN_OFFSET) != word(after, TURN_OFFSET);
    let claimed = old.thread_caches != new.thread_caches;
    let cached = new.cached_count as i64 - old.cached_count as i64;
    let adds = matches!(theatre.board.scene().effect(), Effect::Adds { .. });
    let way = match (locked, cached) {
        (false, _) if owners(before) != owners(after) => "depot",
        (false, _) => "cache",
        (true, ..=-2) => "caches given back",
        (true, 1..) if adds => "cache, from the heap",
        (true, 1..) => "cache, with the lock",
        (true, -1) if adds => "cache, with the lock",
        (true, _) if old.top != new.top => "top",
        (true, _) => "heap",
    };
    format!("{way}{}", if claimed { ", cache claimed" } else { "" })
}

/// The block that begins there now.
fn block_at(theatre: &Theatre, offset: u64) -> Option<Block> {
    let mut blocks = Vec::new();
    let memory = theatre.memory;
    let seen = handle::inspect(memory.base(), memory.len(), &theatre.case.options, &mut blocks);
    seen.expect("inspect");
    blocks.into_iter().find(|block| block.offset == offset)
}

/// Where in the source an instruction is, as far as this machine's tools know.
fn line_of(address: u64) -> String {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let program = std::env::current_exe().unwrap_or_default();
    let program = program.to_string_lossy();
    let own = maps.lines().find(|line| line.ends_with(&*program));
    let base = own.and_then(|line| u64::from_str_radix(line.split('-').next()?, 16).ok());
    let offset = address.wrapping_sub(base.unwrap_or(0));
    let tool =
        Command::new("addr2line").args(["-Cfpie", &program]).arg(format!("{offset:#x}")).output();
    let line = tool.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    format!(
        "\n  after the instruction at {offset:#x} of {program}: {}",
        line.unwrap_or_default().trim()
    )
}

impl Wrong {
    fn of(self, case: &Case, call: usize) -> String {
        let Wrong { point, said } = self;
        let name = &case.name;
        format!("{name}/{call}/{point}: {said}\n  again: MEMPOOL_STEPPING={name}/{call}/{point}")
    }
}
