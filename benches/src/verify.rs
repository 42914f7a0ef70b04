//! Every workload once more, with every block stamped all over and checked.

use crate::plan::Plan;
use crate::trial::{progress, Order, What};

/// How many workloads failed.
pub fn run(plan: &Plan) -> usize {
    let (mut right, mut wrong) = (0, 0);
    for (workload, workers) in plan.rows() {
        for peer in plan.peers().filter(|peer| workload.suits(peer.home)) {
            progress(&format!("verify {} {} x {workers}", peer.name, workload.name));
            match Order::new(plan, What::Verify, peer, workload, workers).ask() {
                Some(_) => right += 1,
                None => wrong += 1,
            }
        }
    }
    progress("");
    println!("verified: {right} right, {wrong} wrong\n");
    wrong
}
