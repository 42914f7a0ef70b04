//! One measurement, made in a process of its own: the program starts itself with an order, and the
//! child answers with one line of JSON.

use crate::crew::{self, Gate, Score};
use crate::hand::{Hand, Plain, Stamped, Timed};
use crate::histogram::{Clock, Histogram};
use crate::memory;
use crate::peer::{self, Heap, Options, Peer};
use crate::plan::Plan;
use crate::workload::{self, Workload};
use serde_json::{json, Value};
use std::io::IsTerminal;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// What a child is told.
#[derive(Clone)]
pub struct Order {
    pub what: What,
    pub peer: &'static str,
    pub workload: &'static str,
    pub workers: usize,
    /// How long to measure; for instructions: how many steps to take.
    pub amount: u64,
    pub options: Options,
}

#[derive(Clone, Copy, PartialEq)]
pub enum What {
    Time,
    Verify,
    Latency,
    Memory,
    Steps,
    Locks,
}

const WHATS: [(What, &str); 6] = [
    (What::Time, "time"),
    (What::Verify, "verify"),
    (What::Latency, "latency"),
    (What::Memory, "memory"),
    (What::Steps, "steps"),
    (What::Locks, "locks"),
];

/// What a child may take beyond the time that it measures.
const PATIENCE: Duration = Duration::from_secs(60);

impl Order {
    pub fn new(plan: &Plan, what: What, peer: &Peer, workload: &Workload, workers: usize) -> Order {
        let (peer, workload) = (peer.name, workload.name);
        let (amount, options) = (plan.millis, plan.options.clone());
        Order { what, peer, workload, workers, amount, options }
    }

    /// The arguments that make a child of this program obey.
    pub fn arguments(&self) -> Vec<String> {
        let what = WHATS.iter().find(|(what, _)| *what == self.what).expect("it has a name").1;
        let mut line = vec!["--trial".into(), what.into(), self.peer.into(), self.workload.into()];
        line.extend([self.workers.to_string(), self.amount.to_string()]);
        line.extend(self.options.library.iter().map(|path| path.display().to_string()));
        line
    }

    fn parse(line: &[String]) -> Option<Order> {
        let [what, peer, workload, workers, amount, library @ ..] = line else { return None };
        Some(Order {
            what: WHATS.iter().find(|(_, name)| name == what)?.0,
            peer: peer::find(peer)?.name,
            workload: workload::find(workload)?.name,
            workers: workers.parse().ok()?,
            amount: amount.parse().ok()?,
            options: Options { library: library.first().map(Into::into) },
        })
    }

    /// The answer; a measurement that fails is a line on stderr, and a dash in the table.
    pub fn ask(&self) -> Option<Value> {
        let answer = self.send();
        if let Err(reason) = &answer {
            progress("");
            eprintln!("{} {} x {}: {reason}", self.peer, self.workload, self.workers);
        }
        answer.ok()
    }

    /// Has a child do it.
    pub fn send(&self) -> Result<Value, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut child = Command::new(program)
            .args(self.arguments())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|error| error.to_string())?;
        let deadline = Instant::now() + PATIENCE + Duration::from_millis(self.amount);
        while child.try_wait().map_err(|error| error.to_string())?.is_none() {
            if Instant::now() > deadline {
                // SAFETY: the group is the child's, which has not been waited for.
                unsafe { libc::kill(-(child.id() as i32), libc::SIGKILL) };
                return Err("took too long".into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let output = child.wait_with_output().map_err(|error| error.to_string())?;
        serde_json::from_slice(&output.stdout)
            .map_err(|_| reason(&String::from_utf8_lossy(&output.stderr), output.status))
    }
}

/// The line that says why, among those that a panic prints.
fn reason(errors: &str, status: ExitStatus) -> String {
    let mut lines = errors.lines().filter(|line| !line.is_empty() && !line.starts_with("thread "));
    lines.next().map_or_else(|| status.to_string(), Into::into)
}

/// The child's side.
pub fn obey(line: &[String]) -> Result<(), String> {
    let order = Order::parse(line).ok_or("not an order that this program gives")?;
    let peer = peer::find(order.peer).expect("the order was parsed");
    let workload = workload::find(order.workload).expect("the order was parsed");
    println!("{}", Trial { peer, workload, order: &order }.answer()?);
    Ok(())
}

struct Trial<'a> {
    peer: &'static Peer,
    workload: &'static Workload,
    order: &'a Order,
}

impl Trial<'_> {
    fn answer(&self) -> Result<Value, String> {
        match self.order.what {
            What::Time => self.time(),
            What::Verify => self.verify(),
            What::Latency => self.latency(),
            What::Memory => memory::measure(self.open(memory::LEN)?),
            What::Steps => self.steps(),
            What::Locks => self.locks(),
        }
    }

    fn open(&self, len: usize) -> Result<Heap, String> {
        self.peer.open(&self.order.options, len)
    }

    fn time(&self) -> Result<Value, String> {
        let heap = self.open(self.workload.region_len())?;
        let score = self.work(heap, |_| Plain(heap))?;
        let (ops, nanos) = (score.ops.load(Relaxed), score.nanos.load(Relaxed));
        Ok(json!({ "ns": nanos as f64 / ops as f64, "ops": ops }))
    }

    fn verify(&self) -> Result<Value, String> {
        let heap = self.open(self.workload.region_len())?;
        let workers = self.order.workers;
        let score = self.work(heap, |worker| Stamped::new(heap, worker, workers))?;
        (heap.check)(heap.ctx)?;
        Ok(json!({ "ops": score.ops.load(Relaxed) }))
    }

    fn latency(&self) -> Result<Value, String> {
        let heap = self.open(self.workload.region_len())?;
        let (clock, mallocs, frees) = (Clock::new(), Histogram::new(), Histogram::new());
        self.work(heap, |_| Timed { heap: Plain(heap), clock, mallocs, frees })?;
        let figures = |times: &Histogram| {
            let quantiles = [0.5, 0.99, 0.999].map(|share| times.quantile(share));
            let ticks = quantiles.into_iter().chain([times.worst()]);
            ticks.map(|ticks| ticks as f64 * clock.nanos_per_tick).collect::<Vec<_>>()
        };
        Ok(json!({ "malloc": figures(mallocs), "free": figures(frees) }))
    }

    /// A number of steps by one worker, for somebody else to count.
    fn steps(&self) -> Result<Value, String> {
        let heap = self.open(64 << 20)?;
        (heap.enter)();
        let mut job = self.workload.job(&self.workload.board(1), 0, Plain(heap));
        let ops: u64 = (0..self.order.amount).map(|_| job.step()).sum();
        Ok(json!({ "ops": ops }))
    }

    #[cfg(feature = "counts")]
    fn locks(&self) -> Result<Value, String> {
        let heap = self.open(self.workload.region_len())?;
        let before = mempool::counts();
        let score = self.work(heap, |_| Plain(heap))?;
        let (after, calls) =
            (mempool::counts(), (score.ops.load(Relaxed) * self.workload.calls()) as f64);
        let per_million = |count: u64| count as f64 * 1e6 / calls;
        Ok(json!({
            "locks": per_million(after.locks - before.locks),
            "exchanges": per_million(after.exchanges - before.exchanges),
        }))
    }

    #[cfg(not(feature = "counts"))]
    fn locks(&self) -> Result<Value, String> {
        Err("built without the feature counts".into())
    }

    /// The whole crew: each warms up, starts with the others, measures, and cleans up when all are
    /// done.
    fn work<H: Hand + 'static>(
        &self,
        heap: Heap,
        hand: impl Fn(usize) -> H + Sync,
    ) -> Result<&'static Score, String> {
        let workers = self.order.workers;
        let amount = Duration::from_millis(self.order.amount);
        let score = Score::new();
        let (ready, start, finish) = (Gate::new(), Gate::new(), Gate::new());
        let board = self.workload.board(workers);
        crew::run(self.workload.kind, workers, |worker| {
            (heap.enter)();
            let mut job = self.workload.job(&board, worker, hand(worker));
            let mut spend = |limit: Duration| {
                let (begun, mut ops) = (Instant::now(), 0);
                while begun.elapsed() < limit {
                    ops += job.step();
                }
                (ops, begun.elapsed().as_nanos() as u64)
            };
            ready.pass(workers);
            spend(self.workload.warm_up(amount));
            start.pass(workers);
            let (ops, nanos) = spend(amount);
            score.add(ops, nanos);
            finish.pass(workers);
            job.drain();
            (heap.leave)();
        })?;
        Ok(score)
    }
}

/// Says on a terminal what is going on, over what it said before.
pub fn progress(what: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K{what}");
    }
}
