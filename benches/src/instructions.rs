//! Instructions a pair of calls, counted by valgrind.
//!
//! A child does a number of steps under callgrind, then another does more; the difference is free
//! of the start. So is a peer that does nothing measured, and taken off: what is left are the
//! instructions of malloc, of free, and of what they call, without the loop that calls them and
//! without the jump into the library.

use crate::peer::{Peer, NULLS, SUBJECT};
use crate::plan::Plan;
use crate::table::{cell, Table};
use crate::trial::{progress, Order, What};
use crate::workload;
use std::collections::BTreeMap;
use std::process::Command;

/// By peer: a malloc(64) and a free; a random pair among 1,000 live blocks.
pub type Counts = Vec<(&'static str, [Option<f64>; 2])>;

/// As many a pair of calls at most.
const AIMS: [f64; 2] = [64.0, 80.0];

const PAIRS: [&str; 2] = ["hot", "churn-1k"];
/// What the functions that do nothing do: an address and two returns.
const NULL: f64 = 3.0;
const STEPS: [u64; 2] = [100, 400];
/// What a step of either does.
const OPS: u64 = 512;

pub fn survey(plan: &Plan) -> Counts {
    if Command::new("valgrind").arg("--version").output().is_err() {
        eprintln!("no valgrind here: instructions are not counted");
        return Vec::new();
    }
    let idle = |null: &'static Peer| (null.name, PAIRS.map(|pair| count(plan, null, pair)));
    let idle: BTreeMap<_, _> = NULLS.iter().map(idle).collect();
    plan.peers()
        .map(|peer| {
            let net = |at: usize| {
                let idle = idle[peer.null][at]? - NULL;
                Some(count(plan, peer, PAIRS[at])? - idle)
            };
            (peer.name, [net(0), net(1)])
        })
        .collect()
}

fn count(plan: &Plan, peer: &'static Peer, pair: &str) -> Option<f64> {
    progress(&format!("instructions of {}", peer.name));
    let workload = workload::find(pair).expect("it is one");
    let mut order = Order::new(plan, What::Steps, peer, workload, 1);
    let mut total = |steps| {
        order.amount = steps;
        callgrind(&order)
    };
    let totals = total(STEPS[0]).zip(total(STEPS[1]));
    progress("");
    if totals.is_none() {
        eprintln!("{} {pair}: fails under valgrind", peer.name);
    }
    let (few, many) = totals?;
    Some((many - few) as f64 / (OPS * (STEPS[1] - STEPS[0])) as f64)
}

/// All that a child executes.
fn callgrind(order: &Order) -> Option<u64> {
    let program = std::env::current_exe().ok()?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args(order.arguments())
        .output()
        .ok()?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let figure = errors.lines().find_map(|line| line.split_once("Collected : ")).map(|(_, n)| n);
    figure.filter(|_| output.status.success())?.trim().parse().ok()
}

pub fn print(counts: &Counts) {
    let mut table = Table::default();
    table.row(["instructions a pair", "malloc(64)", "random, 1,000 live"]);
    for (peer, [hot, random]) in counts {
        table.row([(*peer).into(), cell(*hot, 1), cell(*random, 1)]);
    }
    table.print();
    let [hot, random] = AIMS;
    println!("Those of malloc and free and all they call, without the calls. Aim for {SUBJECT}: {hot} and {random}.\n");
}

/// Whether the subject needs more than is aimed at.
pub fn is_missed(counts: &Counts) -> bool {
    let ours = counts.iter().filter(|(peer, _)| *peer == SUBJECT);
    ours.flat_map(|(_, pair)| pair.iter().zip(AIMS)).any(|(count, aim)| *count > Some(aim))
}
