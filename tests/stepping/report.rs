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
    /// Recoveries from a death in it that were stepped through,
    pub recoveries: u64,
    /// and their instructions, at each of which the recoverer died too.
    pub second_order: u64,
    /// Children that were killed for real.
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
        self.recoveries += more.recoveries;
        self.second_order += more.second_order;
        self.kills += more.kills;
    }
}

impl Report {
    pub fn add(&mut self, row: &str, more: &Figures) {
        self.rows.entry(row.to_owned()).or_default().add(more);
    }

    /// What was counted of a row so far.
    pub fn figures(&self, row: &str) -> Figures {
        self.rows.get(row).copied().unwrap_or_default()
    }

    /// Whether there is such a row.
    pub fn has(&self, row: &str) -> bool {
        self.rows.contains_key(row)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let wide = self.rows.keys().map(String::len).max().unwrap_or(0).max(9);
        let mut line = |name: &str, of: [&dyn fmt::Display; 6]| {
            let [calls, points, states, recoveries, second_order, kills] = of;
            writeln!(
                f,
                "{name:<wide$} {calls:>6} {points:>10} {states:>8} {recoveries:>10} \
                 {second_order:>12} {kills:>6}"
            )
        };
        line(
            "operation",
            [&"calls", &"points", &"states", &"recoveries", &"second order", &"kills"],
        )?;
        let mut row = |name: &str, figures: &Figures| {
            let Figures { calls, points, states, recoveries, second_order, kills } = figures;
            line(name, [calls, points, states, recoveries, second_order, kills])
        };
        let mut total = Figures::default();
        for (name, figures) in &self.rows {
            row(name, figures)?;
            total.add(figures);
        }
        row("all", &total)
    }
}
