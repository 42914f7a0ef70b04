//! How often the pool's one lock is taken.

use crate::peer::{self, SUBJECT};
use crate::plan::Plan;
use crate::table::Table;
use crate::trial::{Order, What};
use crate::workload;

/// A workload, how many threads, and a million calls' acquisitions and exchanges with the depot.
pub type Locks = Vec<(&'static str, usize, f64, f64)>;

/// As many in a million calls at most.
const AIM: f64 = 20_000.0;

pub fn survey(plan: &Plan) -> Locks {
    let subject = peer::find(SUBJECT).expect("it is one");
    let mut all = Vec::new();
    for name in ["larson", "pipe"] {
        let workload = workload::find(name).expect("it is one");
        for workers in [1, 2, 4, 8, 16, 32, 64] {
            if name == "pipe" && workers == 1 {
                continue;
            }
            let mut order = Order::new(plan, What::Locks, subject, workload, workers);
            // Not even in a quick run for less: its beginning, when caches fill, counts too.
            order.amount = 4 * order.amount.max(100);
            let Some(answer) = order.ask() else { continue };
            let figure = |what: &str| answer[what].as_f64().unwrap_or(f64::NAN);
            all.push((name, workers, figure("locks"), figure("exchanges")));
        }
    }
    all
}

pub fn print(all: &Locks) {
    let mut table = Table::default();
    table.row(["a million calls", "threads", "take the lock", "exchange with the depot"]);
    for (workload, workers, locks, exchanges) in all {
        let figures = [format!("{locks:.0}"), format!("{exchanges:.0}")];
        table.row([(*workload).to_string(), workers.to_string()].into_iter().chain(figures));
    }
    table.print();
    let missed = all.iter().filter(|(_, _, locks, _)| *locks > AIM).count();
    println!("Aim: {AIM} acquisitions at most; missed {missed} times. More on a busy machine.\n");
}
