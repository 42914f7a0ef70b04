//! Nanoseconds an operation, and the table of ratios.

use crate::crew::Kind;
use crate::figures::{geometric_mean, Rounds};
use crate::peer::{Peer, SUBJECT, YARDSTICK};
use crate::plan::Plan;
use crate::table::{cell, Table};
use crate::trial::{progress, Order, What};
use crate::workload::Workload;
use serde_json::{json, Map, Value};

/// One line of the table.
pub struct Row {
    pub workload: &'static Workload,
    pub workers: usize,
    pub rounds: Rounds,
}

/// The scale for heaps that processes share.
const SHARED: &str = "boost";
const STRONGEST: &str = "tcmalloc";

/// Round by round, in each all peers in turn; the first of a round is another each time.
pub fn measure(plan: &Plan) -> Vec<Row> {
    let peers: Vec<&Peer> = plan.peers().collect();
    plan.rows()
        .map(|(workload, workers)| {
            progress(&format!("{} x {workers}", workload.name));
            let mut rounds = Rounds::default();
            let suited: Vec<_> = peers.iter().filter(|peer| workload.suits(peer.home)).collect();
            for round in 0..plan.rounds {
                for turn in 0..suited.len() {
                    let peer = suited[(turn + round) % suited.len()];
                    let answer = Order::new(plan, What::Time, peer, workload, workers).ask();
                    if let Some(nanos) = answer.and_then(|answer| answer["ns"].as_f64()) {
                        rounds.add(peer.name, round, nanos);
                    }
                }
            }
            progress("");
            Row { workload, workers, rounds }
        })
        .collect()
}

pub fn print(plan: &Plan, rows: &[Row]) {
    let others: Vec<&str> =
        plan.peers().map(|peer| peer.name).filter(|name| *name != YARDSTICK).collect();
    let mut table = Table::default();
    let heads = ["ns an operation and worker", "x", SUBJECT, YARDSTICK, "| ratio to it:"];
    table.row(heads.into_iter().chain(others.iter().copied()).chain(["| boost/mempool"]));
    for Row { workload, workers, rounds } in rows {
        let mut line = vec![workload.name.into(), workers.to_string()];
        line.extend([SUBJECT, YARDSTICK].map(|peer| cell(rounds.nanos(peer), 1)));
        line.push("|".into());
        line.extend(others.iter().map(|peer| cell(rounds.ratio(peer, YARDSTICK), 2)));
        line.push(cell(rounds.ratio(SHARED, SUBJECT), 1));
        table.row(line);
    }
    table.print();
    println!("x: workers, threads or (p-) processes. Medians of {} rounds.\n", plan.rounds);
    print_summary(rows);
}

/// What the table comes to, beside what is aimed at.
fn print_summary(rows: &[Row]) {
    let mut table = Table::default();
    table.row(["", "geometric mean", "worst", "", "aim"]);
    for yardstick in [YARDSTICK, STRONGEST] {
        for workers in [1, 2] {
            let ratios = private(rows, workers, yardstick);
            let Some(worst) = worst(&ratios, f64::max) else { continue };
            let name = format!("time of {yardstick}, {workers} thread{}", ["", "s"][workers - 1]);
            let mean = geometric_mean(&ratios.iter().map(|(ratio, _)| *ratio).collect::<Vec<_>>());
            let cells = [format!("{mean:.2}"), format!("{:.2}", worst.0), worst.1.into()];
            table.row([name].into_iter().chain(cells).chain(["<= 1.0, none above 1.5".into()]));
        }
    }
    let gains: Vec<_> = rows.iter().filter_map(gain).collect();
    if let Some(worst) = worst(&gains, f64::min) {
        let mean = geometric_mean(&gains.iter().map(|(gain, _)| *gain).collect::<Vec<_>>());
        let cells = [format!("{mean:.1}"), format!("{:.1}", worst.0), worst.1.into()];
        let name = format!("times faster than {SHARED}, 2 workers or more");
        table.row([name].into_iter().chain(cells).chain([">= 10".into()]));
    }
    table.print();
    println!();
}

type Judged = (f64, &'static str);

fn private(rows: &[Row], workers: usize, yardstick: &str) -> Vec<Judged> {
    rows.iter()
        .filter(|row| row.workers == workers && row.workload.kind == Kind::Threads)
        .filter_map(|row| Some((row.rounds.ratio(SUBJECT, yardstick)?, row.workload.name)))
        .collect()
}

fn gain(row: &Row) -> Option<Judged> {
    let gain = row.rounds.ratio(SHARED, SUBJECT)?;
    (row.workers > 1).then_some((gain, row.workload.name))
}

fn worst(judged: &[Judged], worse: fn(f64, f64) -> f64) -> Option<Judged> {
    judged.iter().copied().reduce(|a, b| if worse(a.0, b.0) == a.0 { a } else { b })
}

pub fn json(rows: &[Row]) -> Value {
    let row = |row: &Row| {
        let nanos: Map<String, Value> =
            row.rounds.all().map(|(peer, nanos)| (peer.into(), json!(nanos))).collect();
        json!({ "workload": row.workload.name, "workers": row.workers, "nanos": nanos })
    };
    rows.iter().map(row).collect()
}
