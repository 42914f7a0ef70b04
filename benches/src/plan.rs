//! What the command line asks for.

use crate::peer::{self, Home, Options, Peer, PEERS, SUBJECT, YARDSTICK};
use crate::trial::{Order, What};
use crate::workload::{self, Workload, WORKLOADS};
use lexopt::prelude::*;
use std::path::PathBuf;

pub const HELP: &str = "\
Measures mempool beside other allocators.

    mempool-bench [what to measure ...] [options]

What to measure; without any of these: --time --memory --latency --instructions
    --time              nanoseconds an operation, and their ratios to mimalloc's
    --memory            how much of a fixed range can be used
    --latency           single calls: median, p99, p99.9, worst
    --instructions      instructions a pair of calls (needs valgrind)
    --locks             acquisitions of the pool's lock (needs the feature counts)
    --verify            no figures: every block is stamped all over and checked

Options
    --quick             fewer and shorter rounds, the peers that matter most: under a minute
    --peers A,B         these and no others (mempool and mimalloc always)
    --workloads A,B     these and no others
    --threads 1,2       these numbers of workers and no others, where a workload can have so many
    --rounds N          repetitions; the figures are medians
    --millis N          how long to measure each time
    --library PATH      mempool's shared library, if not the one that was built along
    --json FILE         writes the figures
    --plots DIRECTORY   writes plots as SVG, but not of a quick run
    --list              says what peers and workloads there are
";

#[derive(Default)]
pub struct Wanted {
    pub time: bool,
    pub memory: bool,
    pub latency: bool,
    pub instructions: bool,
    pub locks: bool,
    pub verify: bool,
}

#[derive(Default)]
pub struct Plan {
    pub wanted: Wanted,
    pub quick: bool,
    pub rounds: usize,
    pub millis: u64,
    pub options: Options,
    pub json: Option<PathBuf>,
    pub plots: Option<PathBuf>,
    absent: Vec<&'static str>,
    peers: Option<Vec<String>>,
    workloads: Option<Vec<String>>,
    threads: Option<Vec<usize>>,
}

/// What a quick run leaves out unless it is named.
const SLOWER: [&str; 4] = ["jemalloc", "rpmalloc", "snmalloc", "talc"];

impl Plan {
    /// None: help was asked for, and given.
    pub fn parse() -> Result<Option<Plan>, lexopt::Error> {
        let mut plan = Plan::default();
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                Long("time") => plan.wanted.time = true,
                Long("memory") => plan.wanted.memory = true,
                Long("latency") => plan.wanted.latency = true,
                Long("instructions") => plan.wanted.instructions = true,
                Long("locks") => plan.wanted.locks = true,
                Long("verify") => plan.wanted.verify = true,
                Long("quick") => plan.quick = true,
                Long("peers") => {
                    plan.peers = Some(names(&mut parser, |name| peer::find(name).is_some())?)
                }
                Long("workloads") => {
                    plan.workloads =
                        Some(names(&mut parser, |name| workload::find(name).is_some())?);
                }
                Long("threads") => {
                    let list =
                        names(&mut parser, |name| name.parse::<usize>().is_ok_and(|n| n > 0))?;
                    plan.threads = Some(list.iter().filter_map(|name| name.parse().ok()).collect());
                }
                Long("rounds") => plan.rounds = parser.value()?.parse()?,
                Long("millis") => plan.millis = parser.value()?.parse()?,
                Long("library") => plan.options.library = Some(parser.value()?.into()),
                Long("json") => plan.json = Some(parser.value()?.into()),
                Long("plots") => plan.plots = Some(parser.value()?.into()),
                Long("list") => return Ok(list()),
                Long("help") | Short('h') => {
                    print!("{HELP}");
                    return Ok(None);
                }
                _ => return Err(argument.unexpected()),
            }
        }
        Ok(Some(plan.with_defaults()))
    }

    fn with_defaults(mut self) -> Plan {
        let wanted = &mut self.wanted;
        if !(wanted.time
            || wanted.memory
            || wanted.latency
            || wanted.instructions
            || wanted.locks
            || wanted.verify)
        {
            (wanted.time, wanted.memory, wanted.latency) = (true, true, true);
            wanted.instructions = !self.quick;
            wanted.locks = cfg!(feature = "counts");
        }
        if self.rounds == 0 {
            self.rounds = if self.quick { 3 } else { 5 };
        }
        if self.millis == 0 {
            self.millis = if self.quick { 25 } else { 100 };
        }
        self
    }

    /// Peers that cannot be opened here are named once, and left out.
    pub fn leave_out_absent(&mut self) {
        let hot = workload::find("hot").expect("it is one");
        let opens = |peer: &Peer| {
            let order = Order { amount: 1, ..Order::new(self, What::Steps, peer, hot, 1) };
            let opened = order.send();
            if let Err(reason) = &opened {
                eprintln!("{} is left out: {reason}", peer.name);
            }
            opened.is_ok()
        };
        self.absent = self.peers().filter(|peer| !opens(peer)).map(|peer| peer.name).collect();
        if !cfg!(boost) {
            eprintln!("boost is left out: no Boost.Interprocess here (Debian: libboost-dev)");
        }
    }

    pub fn peers(&self) -> impl Iterator<Item = &'static Peer> + '_ {
        let present = PEERS.iter().filter(|peer| !self.absent.contains(&peer.name));
        present.filter(|peer| match &self.peers {
            _ if peer.name == SUBJECT || peer.name == YARDSTICK => true,
            Some(named) => named.iter().any(|name| name == peer.name),
            None => !(self.quick && SLOWER.contains(&peer.name)),
        })
    }

    /// Those that can be filled.
    pub fn ranges(&self) -> impl Iterator<Item = &'static Peer> + '_ {
        self.peers().filter(|peer| peer.home != Home::System)
    }

    /// The table's rows.
    pub fn rows(&self) -> impl Iterator<Item = (&'static Workload, usize)> + '_ {
        let workloads = WORKLOADS.iter().filter(|workload| match &self.workloads {
            Some(named) => named.iter().any(|name| name == workload.name),
            None => true,
        });
        workloads.flat_map(|workload| {
            self.workers(workload).into_iter().map(move |workers| (workload, workers))
        })
    }

    fn workers(&self, workload: &Workload) -> Vec<usize> {
        let more = if self.quick { &[] } else { workload.more };
        match &self.threads {
            None => workload.few.iter().chain(more).copied().collect(),
            Some(chosen) => {
                chosen.iter().copied().filter(|&workers| workload.takes(workers)).collect()
            }
        }
    }
}

fn names(
    parser: &mut lexopt::Parser,
    known: impl Fn(&str) -> bool,
) -> Result<Vec<String>, lexopt::Error> {
    let list = parser.value()?.string()?;
    match list.split(',').find(|name| !known(name)) {
        Some(name) => Err(format!("{name:?}: --list says what there is").into()),
        None => Ok(list.split(',').map(Into::into).collect()),
    }
}

fn list() -> Option<Plan> {
    println!("peers: {}\n", PEERS.iter().map(|peer| peer.name).collect::<Vec<_>>().join(", "));
    for workload in WORKLOADS {
        println!("{:14}{}", workload.name, workload.about);
    }
    None
}
