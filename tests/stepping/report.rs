//! The table: what was stepped through, and how far.

use std::collections::BTreeMap;
use std::fmt;

/// What is counted of a row.
#[derive(Clone, Copy, Default)]
pub struct Figures {
    pub calls: u64,
    /// Instructions.
    pub points: u64,
    /// Those of them that left other bytes than the one before: each was judged.
    pub states: u64,
    /// Instructions of recoveries, at each of which the recoverer died too.
    pub second_order: u64,
    pub kills: u64,
}

/// What was done, by what the calls turned out to do.
#[derive(Default)]
pub struct Report {
    rows: BTreeMap<String, Figures>,
}

impl Figures {
    fn add(&mut self, more: &Figures) {
        self.calls += more.calls;
        self.points += more.points;
        self.states += more.states;
        self.second_order += more.second_order;
        self.kills += more.kills;
    }
}

impl Report {
    pub fn add(&mut self, row: &str, more: &Figures) {
        self.rows.entry(row.to_owned()).or_default().add(more);
    }

    pub fn merge(&mut self, other: &Report) {
        other.rows.iter().for_each(|(row, figures)| self.add(row, figures));
    }

    /// Whether some row's name begins so.
    pub fn has(&self, start: &str) -> bool {
        self.rows.keys().any(|row| row.starts_with(start))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let wide = self.rows.keys().map(String::len).max().unwrap_or(0).max(9);
        writeln!(
            f,
            "{:<wide$} {:>6} {:>9} {:>7} {:>13} {:>6}",
            "operation", "calls", "points", "states", "second order", "kills"
        )?;
        let mut total = Figures::default();
        let mut line = |name: &str, figures: &Figures| {
            let Figures { calls, points, states, second_order, kills } = figures;
            writeln!(
                f,
                "{name:<wide$} {calls:>6} {points:>9} {states:>7} {second_order:>13} {kills:>6}"
            )
        };
        for (name, figures) in &self.rows {
            line(name, figures)?;
            total.add(figures);
        }
        line("all", &total)
    }
}
