//! Measures mempool beside other allocators.
//!
//! | module | noun |
//! |---|---|
//! | `region` | memory that processes share |
//! | `size` | random numbers, and how large blocks are |
//! | `peer` | the allocators, behind one table of functions |
//! | `histogram` | how long calls took |
//! | `hand` | how a worker takes and gives back blocks: plainly, stamped, timed |
//! | `workload` | what is done |
//! | `crew` | who does it: threads or processes |
//! | `trial` | one measurement, in a process of its own |
//! | `plan` | the command line |
//! | `figures`, `table` | medians and ratios; text |
//! | `times`, `memory`, `latency`, `instructions`, `locks`, `verify` | what can be measured |
//! | `plot` | pictures of it |

mod crew;
mod figures;
mod hand;
mod histogram;
mod instructions;
mod latency;
mod locks;
mod memory;
mod peer;
mod plan;
mod plot;
mod region;
mod size;
mod table;
mod times;
mod trial;
mod verify;
mod workload;

use plan::Plan;
use plot::Plots;
use serde_json::{json, Map, Value};
use std::fs;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let line: Vec<String> = std::env::args().skip(1).collect();
    let result = match line.first().map(String::as_str) {
        Some("--trial") => trial::obey(&line[1..]),
        _ => report(),
    };
    if let Err(reason) = result {
        eprintln!("{reason}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Measures, prints and keeps what is asked for, one part after the other.
fn report() -> Result<(), String> {
    let Some(mut plan) = Plan::parse().map_err(|error| error.to_string())? else { return Ok(()) };
    plan.leave_out_absent();
    let (plan, wanted) = (&plan, &plan.wanted);
    if wanted.verify && verify::run(plan) > 0 {
        return Err("what was got is not what was given".into());
    }
    let mut figures = Map::new();
    let mut missed = false;
    // A quick run has too little to show.
    let plots = Plots::new(plan.plots.as_deref().filter(|_| !plan.quick));
    if wanted.time {
        let rows = times::measure(plan);
        times::print(plan, &rows);
        plots.times(plan, &rows)?;
        figures.insert("times".into(), times::json(&rows));
    }
    if wanted.memory {
        let shares = memory::survey(plan);
        memory::print(&shares);
        plots.memory(&shares)?;
        figures.insert("memory".into(), json!(shares));
    }
    if wanted.latency {
        let lines = latency::survey(plan);
        latency::print(&lines);
        plots.latency(&lines)?;
        figures.insert("latency".into(), latency::json(&lines));
    }
    if wanted.instructions {
        let counts = instructions::survey(plan);
        instructions::print(&counts);
        missed = instructions::is_missed(&counts);
        figures.insert("instructions".into(), json!(counts));
    }
    if wanted.locks {
        let locks = locks::survey(plan);
        locks::print(&locks);
        figures.insert("locks".into(), json!(locks));
    }
    if let Some(path) = &plan.json {
        write(path, &format!("{:#}\n", Value::Object(figures)))?;
    }
    // Counted, so the same however busy the machine is.
    if missed {
        return Err("more instructions than are aimed at".into());
    }
    Ok(())
}

/// Writes a file, in a directory that may not exist yet.
fn write(path: &Path, text: &str) -> Result<(), String> {
    let directory = path.parent().map_or(Ok(()), fs::create_dir_all);
    let written = directory.and_then(|()| fs::write(path, text));
    written.map_err(|error| format!("{}: {error}", path.display()))
}
