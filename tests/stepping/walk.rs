//! The tracer: plays a case, and at each instruction of each of its calls takes the child for dead.
//!
//! First order: the call's own instructions. Second order: at some of the points, or at all, the
//! bytes are given to a survivor, who is stepped through its recovery in turn. Real kills: at some
//! of the points another child, brought to the same one, is killed; the bytes that the kernel leaves
//! must be those that [`death`](super::death) makes, and the verdict the same.

use super::cases::Case;
use super::course::agree;
use super::court::{Court, Wrong};
use super::death;
use super::judge::Verdict;
use super::report::{Figures, Report};
use super::rows::row;
use super::scene::{Call, Effect, Scene, State};
use super::stage::{Board, Place, Stage};
use super::target::{Stop, Target};
use super::theatre::{steps, Instant, Theatre};
use crate::common::child::End;
use crate::common::handle::Status;
use crate::common::random::Random;
use crate::common::Memory;
use ::mempool::abi::MEMPOOL_OK;
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
    /// Of so many stores one, where each is one to be killed at.
    pub stores_per_kill: usize,
}

/// Only this, to look at one failure: a call of the case by its number, and an instruction of it.
#[derive(Clone, Copy, Default)]
pub struct Only {
    pub call: Option<usize>,
    pub point: Option<u64>,
}

/// Of so many points one real kill, up to the most.
const KILL_EVERY: u64 = 97;

/// About as many stores as a recovery has.
const RECOVERY_STORES: usize = 30;

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
            let had = self.report.lock().expect("no walker failed").figures(&row).recoveries > 0;
            let is_due = !had && status == MEMPOOL_OK && figures.states > 3;
            let is_due = is_due && (self.extent.complete || !theatre.case.is_long);
            if let Some(mut remains) = kept.filter(|_| is_due) {
                let of_point = verdicts.iter().find(|(point, _)| *point == remains.point);
                remains.verdict = of_point.map(|(_, verdict)| *verdict);
                self.second_order(theatre, &scene, &remains, second, &mut figures)?;
            }
            Ok(row)
        });
        let row = told.map_err(|wrong| {
            let Wrong { point, said } = wrong.at(&addresses);
            Wrong { point, said: format!("{:?}: {said}", scene.call) }
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
            let soaks = self.extent.complete && !theatre.case.is_long;
            let all = only.is_some() || soaks || theatre.case.is_complete;
            if !all && self.random.below(figures.states as usize) > 0 {
                return Ok(());
            }
            let mut bytes = instant.bytes.to_vec();
            theatre.die(&mut bytes, instant.holds, tid, &scene.threads);
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
            theatre.die(copy, instant.holds, tid, &scene.threads);
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
            true if theatre.case.is_complete => Call::Recover,
            // A trim is long.
            true if self.extent.complete => [Call::Recover, Call::Trim, Call::Check][way % 3],
            true => [Call::Recover, Call::Check][way % 2],
            false => [Call::Init, Call::Open][way % 2],
        };
        let mut target = Target::start(|| {
            let mut stage = if is_pool { Stage::attached(place) } else { Stage::bare(place) };
            stage.step(call);
        });
        let mut addresses = Vec::new();
        assert_eq!(target.go_on(), Stop::Trap);
        let survivor = target.pid() as u32;
        let points = steps(&mut target, place, theatre.window(), u64::MAX, |at| {
            addresses.push((at.point, at.address));
            self.court.submit(scene, &theatre.case.options, at.point, at.bytes.len(), |copy| {
                copy.copy_from_slice(at.bytes);
                theatre.die(copy, at.holds, survivor, &[survivor]);
            })
        });
        let context = |wrong: Wrong| {
            let Wrong { point, said } = wrong.at(&addresses);
            let said = format!("{said}\n  at {point} of {call:?} by a survivor");
            Wrong { point: remains.point, said }
        };
        figures.recoveries += 1;
        figures.second_order += points.map_err(context)?;
        for (point, verdict) in self.court.answers().map_err(context)? {
            if !remains.verdict.is_some_and(|before| before.agrees(&verdict)) && is_pool {
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
        let by_kill =
            |call| move |wrong: Wrong| format!("{} (by a real kill)", wrong.of(case, call));
        if case.is_taken_over && self.only.point.is_none() {
            for &call in &played {
                let Played { row, changes, .. } = &calls[call];
                for &point in changes {
                    if self.random.below(self.extent.stores_per_kill) > 0 {
                        continue;
                    }
                    self.kill(case, memory, board, call, point).map_err(by_kill(call))?;
                    self.count(row, &Figures { kills: 1, ..Figures::default() });
                }
            }
            return Ok(());
        }
        let kills = match self.only.point {
            Some(_) => 1,
            None => (total / KILL_EVERY).clamp(1, self.extent.kills_max * case.kills),
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
            self.kill(case, memory, board, call, point).map_err(by_kill(call))?;
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
        if holds {
            death::mark_owner_died(&mut bytes, tid);
        }
        let real = memory.bytes(0, memory.len());
        if let Some(at) = (0..bytes.len()).find(|&at| bytes[at] != real[at]) {
            let (ours, its) = (bytes[at], real[at]);
            return Err(wrong(format!(
                "the kernel left {its:#x} at {at}, where {ours:#x} is held"
            )));
        }
        // Perhaps a survivor dies too; and whoever is there goes on before anybody recovers.
        let goes_on = theatre.goes_on() && !case.is_taken_over;
        if self.random.below(2) == 0 && goes_on {
            self.kill_survivor(&theatre)?;
        }
        theatre.go_on();
        let later = Scene { call: scene.call, ..*board.scene() };
        self.court.submit(&later, &case.options, point, real.len(), |copy| {
            copy.copy_from_slice(real);
        })?;
        let answers = self.court.answers()?;
        let [foretold, found] = [answers[0].1, answers[1].1];
        if case.is_taken_over {
            // What was foretold is another block's by now.
            return Ok(());
        }
        // What the living cache is another thing by now, if they went on.
        let cached = if theatre.goes_on() { None } else { found.cached };
        if !foretold.agrees(&Verdict { cached, ..found }) {
            return Err(wrong(format!("{found:?} after a real kill, but {foretold:?} foretold")));
        }
        Ok(())
    }

    /// A survivor begins to recover, and is killed, for real.
    fn kill_survivor(&mut self, theatre: &Theatre) -> Result<(), Wrong> {
        let board = Memory::shared(size_of::<Board>());
        let board = Board::new(&board);
        let place = Place { board, ..theatre.place() };
        let mut target = Target::start(|| {
            Stage::attached(place).step(Call::Recover);
        });
        assert_eq!(target.go_on(), Stop::Trap);
        // At any of its first stores, or its end.
        let mut left = self.random.below(RECOVERY_STORES);
        let stepped = steps(&mut target, place, theatre.window(), u64::MAX, |at| {
            left = left.saturating_sub(1);
            let (point, said) = (at.point, String::new());
            if left > 0 {
                Ok(())
            } else {
                Err(Wrong { point, said })
            }
        });
        stepped
            .map(drop)
            .or_else(|wrong| if wrong.said.is_empty() { Ok(()) } else { Err(wrong) })?;
        target.kill();
        Ok(())
    }
}
