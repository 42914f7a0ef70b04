//! The judges' process: it gets pools' bytes one after the other, and says of each what it found.
//! A judge that crashes or hangs has found something too.

use super::cases::Case as Played;
use super::judge::{Judge, Verdict};
use super::scene::{Scene, State};
use super::target::line_of;
use crate::common::child::{self, Child};
use crate::common::handle::Options;
use crate::common::memory::{error, PAGE};
use crate::common::Memory;
use std::collections::VecDeque;
use std::panic::{self, AssertUnwindSafe};

/// Pools that wait for their judgement.
const SLOTS: usize = 32;
/// What a judge says at most.
const SAID_MAX: usize = 2048;
/// A judgement takes milliseconds; a second or two where a lock must be found abandoned.
const LIMIT_MS: i32 = 30_000;

/// A case for the court, and its answer.
#[repr(C)]
struct Case {
    scene: Scene,
    options: Options,
    way: usize,
    len: usize,
    /// The answer; what the judge said of a wrong pool, so long.
    verdict: Verdict,
    said: [u8; SAID_MAX],
    said_len: usize,
}

/// The tracer's side of the court.
pub struct Court {
    judge: Option<Child>,
    cases: Memory,
    slot_len: usize,
    to_judge: libc::c_int,
    from_judge: libc::c_int,
    next: usize,
    /// What is asked about the pools under judgement, the oldest first.
    pending: VecDeque<(usize, u64)>,
    answers: Vec<(u64, Verdict)>,
}

impl Court {
    /// A court for pools of at most `len` bytes.
    pub fn new(len: usize) -> Court {
        let slot_len = (size_of::<Case>() + len).next_multiple_of(PAGE);
        let cases = Memory::shared(SLOTS * slot_len);
        let ([from, to_judge], [from_judge, to]) = (pipe(), pipe());
        let judge = child::fork(|| {
            // SAFETY: the tracer's ends, which it keeps.
            unsafe { (libc::close(to_judge), libc::close(from_judge)) };
            sit(&cases, slot_len, from, to);
            0
        });
        // SAFETY: the judge's ends, which it keeps.
        unsafe { (libc::close(from), libc::close(to)) };
        Court {
            judge: Some(judge),
            cases,
            slot_len,
            to_judge,
            from_judge,
            next: 0,
            pending: VecDeque::new(),
            answers: Vec::new(),
        }
    }

    /// Submits a pool, which `lay_out` makes in memory for it, and goes on. `point` is what the
    /// answer will be known by, and decides in which of several ways it is judged. Err says what was wrong with one submitted before.
    pub fn submit(
        &mut self,
        scene: &Scene,
        options: &Options,
        point: u64,
        len: usize,
        lay_out: impl FnOnce(&mut [u8]),
    ) -> Result<(), Wrong> {
        if self.pending.len() == SLOTS {
            self.collect()?;
        }
        let slot = self.next;
        self.next = (self.next + 1) % SLOTS;
        let at = slot * self.slot_len;
        assert!(size_of::<Case>() + len <= self.slot_len);
        lay_out(self.cases.bytes_mut(at + size_of::<Case>(), len));
        let verdict = Verdict { state: State::Old, block: 0, cached: None };
        let (way, said) = (point as usize, [0; SAID_MAX]);
        let case = Case { scene: *scene, options: *options, way, len, verdict, said, said_len: 0 };
        // SAFETY: the slot is long enough, page-aligned, and not under judgement.
        unsafe { self.cases.base().add(at).cast::<Case>().write(case) };
        let byte = [slot as u8];
        // SAFETY: our end of the pipe, one byte.
        let written = unsafe { libc::write(self.to_judge, byte.as_ptr().cast(), 1) };
        self.pending.push_back((slot, point));
        // If it has ended, the collection says so.
        if written != 1 {
            self.collect()?;
        }
        Ok(())
    }

    /// All answers since the last time.
    pub fn answers(&mut self) -> Result<Vec<(u64, Verdict)>, Wrong> {
        while !self.pending.is_empty() {
            self.collect()?;
        }
        Ok(std::mem::take(&mut self.answers))
    }

    /// Puts answers back, before all others.
    pub fn remember(&mut self, mut answers: Vec<(u64, Verdict)>) {
        answers.append(&mut self.answers);
        self.answers = answers;
    }

    /// Waits for the oldest answer.
    fn collect(&mut self) -> Result<(), Wrong> {
        let (slot, point) = self.pending.pop_front().expect("one is pending");
        let mut polled = libc::pollfd { fd: self.from_judge, events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd.
        let ready = unsafe { libc::poll(&mut polled, 1, LIMIT_MS) };
        if ready == 0 {
            return self.end(point, "the judge hung");
        }
        let mut byte = [0u8];
        // SAFETY: our end of the pipe, room for one byte.
        let got = unsafe { libc::read(self.from_judge, byte.as_mut_ptr().cast(), 1) };
        if got != 1 {
            return self.end(point, "the judge crashed");
        }
        // SAFETY: written by `submit`, and the judge is done with it.
        let case = unsafe { &*self.cases.base().add(slot * self.slot_len).cast::<Case>() };
        if case.said_len > 0 {
            let said = String::from_utf8_lossy(&case.said[..case.said_len.min(SAID_MAX)]);
            return Err(Wrong { point, said: said.into_owned() });
        }
        self.answers.push((point, case.verdict));
        Ok(())
    }

    fn end(&mut self, point: u64, said: &str) -> Result<(), Wrong> {
        let end = self.judge.take().map(Child::kill);
        Err(Wrong { point, said: format!("{said}: {end:?}") })
    }
}

impl Drop for Court {
    fn drop(&mut self) {
        // SAFETY: our own ends.
        unsafe { (libc::close(self.to_judge), libc::close(self.from_judge)) };
        if let Some(judge) = self.judge.take() {
            judge.kill();
        }
    }
}

/// What is wrong with a pool, and which.
#[derive(Debug)]
pub struct Wrong {
    pub point: u64,
    pub said: String,
}

impl Wrong {
    /// With the line of the instruction, if it is among these points'.
    pub fn at(self, addresses: &[(u64, u64)]) -> Wrong {
        let address = addresses.iter().find(|(point, _)| *point == self.point);
        let line = address.map_or(String::new(), |(_, address)| line_of(*address));
        Wrong { point: self.point, said: self.said + &line }
    }

    /// In words, with how to look at it again.
    pub fn of(self, case: &Played, call: usize) -> String {
        let Wrong { point, said } = self;
        let name = &case.name;
        format!("{name}/{call}/{point}: {said}\n  again: MEMPOOL_STEPPING={name}/{call}/{point}")
    }
}

fn pipe() -> [libc::c_int; 2] {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    let answer = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) };
    assert_eq!(answer, 0, "pipe2: {}", error());
    ends
}

/// Judges until nobody asks any more.
fn sit(cases: &Memory, slot_len: usize, from: libc::c_int, to: libc::c_int) {
    let mut work: Option<Memory> = None;
    let mut byte = [0u8];
    // SAFETY: our end of the pipe, room for one byte.
    while unsafe { libc::read(from, byte.as_mut_ptr().cast(), 1) } == 1 {
        let at = usize::from(byte[0]) * slot_len;
        // SAFETY: the tracer has written it, and leaves it alone until it is answered.
        let case = unsafe { &mut *cases.base().add(at).cast::<Case>() };
        if work.as_ref().is_none_or(|work| work.len() != case.len) {
            work = Some(Memory::shared_low(case.len));
        }
        let memory = work.as_ref().expect("just made");
        let bytes = cases.bytes(at + size_of::<Case>(), case.len);
        let judge = Judge { memory, options: case.options, scene: &case.scene, way: case.way };
        let answer = panic::catch_unwind(AssertUnwindSafe(|| judge.judge(bytes)));
        match answer {
            Ok(Ok(verdict)) => case.verdict = verdict,
            Ok(Err(said)) => say(case, &format!("{said} (way {})", case.way)),
            Err(payload) => {
                let text = payload.downcast_ref::<String>().cloned();
                say(case, &text.unwrap_or_else(|| "the judge panicked".into()));
            }
        }
        // SAFETY: our end of the pipe, one byte.
        unsafe { libc::write(to, byte.as_ptr().cast(), 1) };
    }
}

fn say(case: &mut Case, said: &str) {
    let len = said.len().min(SAID_MAX);
    case.said[..len].copy_from_slice(&said.as_bytes()[..len]);
    case.said_len = len;
}
