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
use crate::common::handle::{self, Options, Status};
use crate::common::memory::error;
use crate::common::random::Random;
use crate::common::Memory;
use ::mempool::abi::*;
use ::mempool::layout::{Geometry, LOCK_OFFSET, TURN_OFFSET};
use ::mempool::Options as PoolOptions;
use std::process::Command;
use std::sync::atomic::Ordering::Relaxed;

/// How much of it is done.
#[derive(Clone, Copy)]
pub struct Extent {
    /// A recovery is stepped through after each so many states.
    pub second_order: u64,
    /// A child is killed for real at each so many points, but at so many of a case at most.
    pub kill_every: u64,
    pub kills_max: u64,
}

/// Only this, to look at one failure: a call of the case by its number, and an instruction of it.
#[derive(Clone, Copy, Default)]
pub struct Only {
    pub call: Option<usize>,
    pub point: Option<u64>,
}

/// One who steps through cases.
pub struct Walker {
    court: Court,
    extent: Extent,
    only: Only,
    states: u64,
    pub report: Report,
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
/// each that differs from the one before. Returns how many there were.
fn steps(
    target: &mut Target,
    place: Place,
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
        if holds != held || last != bytes {
            last.clear();
            last.extend_from_slice(bytes);
            held = holds;
            show(&Instant { point, bytes, holds, address })?;
        }
        point += 1;
    }
    Ok(point)
}

impl Walker {
    pub fn new(extent: Extent, only: Only, len_max: usize) -> Walker {
        let report = Report::default();
        Walker { court: Court::new(len_max), extent, only, states: 0, report }
    }

    /// Plays a case to its end. Err says what is wrong, and where.
    pub fn walk(&mut self, case: &Case) -> Result<(), String> {
        let (memory, board) = (Memory::shared_low(case.len), Memory::shared(size_of::<Board>()));
        let board = Board::new(&board);
        let second = Memory::shared_low(case.len);
        let mut calls = Vec::new();
        {
            let theatre = Theatre::open(case, &memory, board);
            let mut target = theatre.start();
            while self.has_call(case, &mut target)? {
                let number = calls.len();
                if self.only.call.is_some_and(|only| only != number) {
                    assert_eq!(target.go_on(), Stop::Trap);
                    calls.push(("".into(), 0));
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

    /// Steps through the call that the child stands before: its row in the table, and how many
    /// instructions it has.
    fn call(
        &mut self,
        theatre: &Theatre,
        target: &mut Target,
        second: &Memory,
    ) -> Result<(String, u64), Wrong> {
        let scene = *theatre.board.scene();
        let before = theatre.memory.bytes(0, theatre.memory.len()).to_vec();
        let mut figures = Figures { calls: 1, ..Figures::default() };
        let mut addresses = Vec::new();
        let stepped =
            self.each_instant(theatre, target, &scene, second, &mut figures, &mut addresses);
        let told = stepped.and_then(|()| {
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
            Ok(row(theatre, &scene, status, block, &before))
        });
        let row = told.map_err(|wrong| {
            let address = addresses.iter().find(|(point, _)| *point == wrong.point);
            let line = address.map_or(String::new(), |(_, address)| line_of(*address));
            let said = format!("{:?}: {}{line}", scene.call, wrong.said);
            Wrong { point: wrong.point, said }
        })?;
        self.report.add(&row, &figures);
        Ok((row, figures.points))
    }

    /// Submits each instant of a call, and some to a survivor who is stepped through.
    fn each_instant(
        &mut self,
        theatre: &Theatre,
        target: &mut Target,
        scene: &Scene,
        second: &Memory,
        figures: &mut Figures,
        addresses: &mut Vec<(u64, u64)>,
    ) -> Result<(), Wrong> {
        let tid = target.pid() as u32;
        let (only, every) = (self.only.point, self.extent.second_order);
        figures.points = steps(target, theatre.place(), u64::MAX, |instant| {
            addresses.push((instant.point, instant.address));
            if only.is_some_and(|only| only != instant.point) {
                return Ok(());
            }
            figures.states += 1;
            self.states += 1;
            self.submit(theatre, scene, instant, tid, instant.point)?;
            if only.is_some() || every > 0 && self.states % every == every / 2 {
                figures.second_order += self.second_order(theatre, scene, instant, tid, second)?;
            }
            Ok(())
        })?;
        Ok(())
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

    /// A survivor recovers from the child's death at this instant, and dies at each instruction of
    /// that. Returns how many there were.
    fn second_order(
        &mut self,
        theatre: &Theatre,
        scene: &Scene,
        instant: &Instant,
        tid: u32,
        second: &Memory,
    ) -> Result<u64, Wrong> {
        let earlier = self.court.answers()?;
        let expected = earlier.last().expect("it was just submitted").1;
        let board = Memory::shared(size_of::<Board>());
        let board = Board::new(&board);
        let bytes = second.bytes_mut(0, instant.bytes.len());
        bytes.copy_from_slice(instant.bytes);
        die(bytes, theatre, scene, instant.holds, tid);
        let place = Place { memory: second, board, options: theatre.case.options };
        let birth = matches!(scene.effect(), Effect::Birth | Effect::End);
        let calls = [Call::Recover, Call::Trim, Call::Check];
        let call = match birth {
            true => Call::Init,
            false => calls[(self.states / 7) as usize % calls.len()],
        };
        let mut target = Target::start(|| {
            let mut stage = if birth { Stage::bare(place) } else { Stage::attached(place) };
            stage.must_step(call);
        });
        let context = |wrong: Wrong| Wrong {
            point: instant.point,
            said: format!("{} (at {} of {call:?} by a survivor)", wrong.said, wrong.point),
        };
        assert_eq!(target.go_on(), Stop::Trap);
        let survivor = target.pid() as u32;
        let points = steps(&mut target, place, u64::MAX, |at| {
            self.court.submit(scene, &theatre.case.options, at.point, at.bytes.len(), |copy| {
                copy.copy_from_slice(at.bytes);
                if at.holds {
                    death::mark_owner_died(copy, survivor);
                }
                death::bury(copy, &theatre.geometry, &[survivor], 1);
            })
        })
        .map_err(context)?;
        for (point, verdict) in self.court.answers().map_err(context)? {
            if verdict != expected && !birth {
                let said = format!("{verdict:?}, but {expected:?} before");
                return Err(context(Wrong { point, said }));
            }
        }
        // What was judged before is still to be looked at by the call.
        self.court.remember(earlier);
        Ok(points)
    }

    /// Kills children for real at some points of a case.
    fn kill_for_real(
        &mut self,
        case: &Case,
        memory: &Memory,
        board: &Board,
        calls: &[(String, u64)],
    ) -> Result<(), String> {
        let total: u64 = calls.iter().map(|(_, points)| points).sum();
        if self.extent.kill_every == 0 || total == 0 || self.only.point.is_some() {
            return Ok(());
        }
        let kills = (total / self.extent.kill_every).clamp(1, self.extent.kills_max);
        let mut random = Random(total ^ case.name.len() as u64);
        for _ in 0..kills {
            let mut point = random.next() % total;
            let mut call = 0;
            while point >= calls[call].1 {
                point -= calls[call].1;
                call += 1;
            }
            let killed = self.kill(case, memory, board, call, point);
            killed.map_err(|wrong| format!("{} (by a real kill)", wrong.of(case, call)))?;
            self.report.add(&calls[call].0, &Figures { kills: 1, ..Figures::default() });
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
        steps(&mut target, theatre.place(), point + 1, |instant| {
            holds = instant.holds;
            Ok(())
        })?;
        let mut bytes = memory.bytes(0, memory.len()).to_vec();
        let instant = Instant { point, bytes: &bytes, holds, address: 0 };
        self.submit(&theatre, &scene, &instant, tid, 0)?;
        target.kill();
        let real = memory.bytes(0, memory.len());
        self.court.submit(&scene, &case.options, 1, real.len(), |copy| {
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
        Effect::Adds { .. } | Effect::Removes { .. } => way(theatre, before, after),
        Effect::Replaces { slot, .. } => {
            let (old, lock) = (scene.known[slot], way(theatre, before, after));
            let size = size_at(theatre, block);
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
    let way = match (locked, cached) {
        (false, _) if owners(before) != owners(after) => "depot",
        (false, 0) => "nothing",
        (false, _) => "cache",
        (true, ..=-2) => "caches given back",
        (true, 2..) => "cache, from the heap",
        (true, _) if old.top != new.top => "top",
        (true, 1) => "cache, with the lock",
        (true, _) => "heap",
    };
    format!("{way}{}", if claimed { ", cache claimed" } else { "" })
}

/// The size of the block that lies there now.
fn size_at(theatre: &Theatre, offset: u64) -> u64 {
    let mut blocks = Vec::new();
    let memory = theatre.memory;
    let seen = handle::inspect(memory.base(), memory.len(), &theatre.case.options, &mut blocks);
    seen.expect("inspect");
    blocks.iter().find(|block| block.offset == offset).map_or(0, |block| block.size)
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
