//! How much of a fixed range its users get: what they asked for when malloc first fails, in a
//! fresh range and again after random frees.

use crate::peer::{Heap, Peer};
use crate::plan::Plan;
use crate::size::{Random, Sizes};
use crate::table::Table;
use crate::trial::{Order, What};
use crate::workload;
use serde::{Deserialize, Serialize};
use serde_json::{json, Value};

/// The range that is filled.
pub const LEN: usize = 64 << 20;

/// What is freed at random before each refill: one block in two, in four, in ten. The fewer go, the
/// smaller the holes are.
const FREED: [(&str, usize); 3] = [("1/2", 2), ("1/4", 4), ("1/10", 10)];
const REFILLS: usize = 8;

/// The shares of the range that are in use when malloc fails: of the fresh one, and of each refill
/// by what was freed before.
#[derive(Serialize, Deserialize)]
pub struct Shares {
    pub fresh: f64,
    pub refills: [[f64; REFILLS]; FREED.len()],
}

pub fn measure(heap: Heap) -> Result<Value, String> {
    let mut random = Random::new(0);
    let mut filling =
        Filling { sizes: Sizes::mixed(&mut random), heap, blocks: Vec::new(), used: 0 };
    let fresh = filling.fill();
    let refills = FREED.map(|(_, part)| {
        filling.keep(0);
        filling.fill();
        [(); REFILLS].map(|()| {
            random.shuffle(&mut filling.blocks);
            filling.keep(filling.blocks.len() - filling.blocks.len() / part);
            filling.fill()
        })
    });
    filling.keep(0);
    (heap.check)(heap.ctx)?;
    Ok(json!(Shares { fresh, refills }))
}

struct Filling {
    heap: Heap,
    sizes: Sizes,
    blocks: Vec<(*mut u8, usize)>,
    used: usize,
}

impl Filling {
    fn fill(&mut self) -> f64 {
        loop {
            let size = self.sizes.next();
            // SAFETY: any size may be asked for.
            let block = unsafe { (self.heap.malloc)(self.heap.ctx, size) };
            if block.is_null() {
                return self.used as f64 / LEN as f64;
            }
            self.blocks.push((block.cast(), size));
            self.used += size;
        }
    }

    fn keep(&mut self, count: usize) {
        for (block, size) in self.blocks.drain(count..) {
            // SAFETY: the block is live.
            unsafe { (self.heap.free)(self.heap.ctx, block.cast()) };
            self.used -= size;
        }
    }
}

pub fn survey(plan: &Plan) -> Vec<(&'static str, Shares)> {
    let fill = workload::find("fill").expect("it is one");
    let measured = |peer: &'static Peer| {
        let answer = Order::new(plan, What::Memory, peer, fill, 1).ask()?;
        Some((peer.name, serde_json::from_value(answer).ok()?))
    };
    plan.ranges().filter_map(measured).collect()
}

pub fn print(all: &[(&str, Shares)]) {
    let mut table = Table::default();
    let heads = FREED.map(|(part, _)| [format!("{part} freed: worst"), "mean".into()]);
    let first = ["percent of 64 MiB in use when malloc fails", "fresh"].map(String::from);
    table.row(first.into_iter().chain(heads.into_iter().flatten()));
    for (peer, shares) in all {
        let refills = shares.refills.iter().flat_map(|refills| [worst(refills), mean(refills)]);
        let figures = [shares.fresh].into_iter().chain(refills);
        let cells = figures.map(|share| format!("{:.1}", 100.0 * share));
        table.row([(*peer).to_string()].into_iter().chain(cells));
    }
    table.print();
    println!("{REFILLS} refills of each kind. Aim: 90 fresh, 88 refilled.\n");
}

pub fn worst(refills: &[f64]) -> f64 {
    refills.iter().copied().fold(1.0, f64::min)
}

fn mean(refills: &[f64]) -> f64 {
    refills.iter().sum::<f64>() / refills.len() as f64
}
