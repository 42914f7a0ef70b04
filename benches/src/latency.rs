//! How long single calls take.

use crate::plan::Plan;
use crate::table::Table;
use crate::trial::{Order, What};
use crate::workload;
use serde_json::{json, Value};

pub struct Latency {
    pub peer: &'static str,
    pub workload: &'static str,
    pub workers: usize,
    /// Nanoseconds: p50, p99, p99.9, worst.
    pub malloc: [f64; 4],
    pub free: [f64; 4],
}

const SCENES: [(&str, usize); 4] =
    [("churn-1k", 1), ("churn-1k", 2), ("churn-100k", 1), ("churn-100k", 2)];

pub fn survey(plan: &Plan) -> Vec<Latency> {
    let scenes = &SCENES[..if plan.quick { 2 } else { 4 }];
    let mut all = Vec::new();
    for &(name, workers) in scenes {
        let workload = workload::find(name).expect("it is one");
        for peer in plan.peers() {
            let mut order = Order::new(plan, What::Latency, peer, workload, workers);
            order.amount *= 4;
            let Some(answer) = order.ask() else { continue };
            let figures = |call: &str| serde_json::from_value(answer[call].clone()).ok();
            if let (Some(malloc), Some(free)) = (figures("malloc"), figures("free")) {
                all.push(Latency { peer: peer.name, workload: name, workers, malloc, free });
            }
        }
    }
    all
}

pub fn print(all: &[Latency]) {
    let mut table = Table::default();
    table.row([
        "ns a call",
        "x",
        "peer",
        "malloc p50",
        "p99",
        "p99.9",
        "worst",
        "free p50",
        "p99",
        "p99.9",
        "worst",
    ]);
    for line in all {
        let mut cells = vec![line.workload.into(), line.workers.to_string(), line.peer.into()];
        cells.extend(line.malloc.iter().chain(&line.free).map(|nanos| format!("{nanos:.0}")));
        table.row(cells);
    }
    table.print();
    println!("The worst is mostly the system's: page faults, and other programs' turns.\n");
}

pub fn json(all: &[Latency]) -> Value {
    let line = |line: &Latency| {
        let Latency { peer, workload, workers, malloc, free } = line;
        json!({ "peer": peer, "workload": workload, "workers": workers, "malloc": malloc, "free": free })
    };
    all.iter().map(line).collect()
}
