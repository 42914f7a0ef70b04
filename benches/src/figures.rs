//! Medians, means, and what the repetitions of a measurement come to.

use std::collections::BTreeMap;

/// Nanoseconds by peer and round; a peer that failed or does not take part has none.
#[derive(Default)]
pub struct Rounds(BTreeMap<&'static str, BTreeMap<usize, f64>>);

impl Rounds {
    pub fn add(&mut self, peer: &'static str, round: usize, nanos: f64) {
        self.0.entry(peer).or_default().insert(round, nanos);
    }

    pub fn nanos(&self, peer: &str) -> Option<f64> {
        median(self.0.get(peer)?.values().copied().collect())
    }

    /// The median of the ratios within each round: what slows the machine for a while slows both.
    pub fn ratio(&self, peer: &str, to: &str) -> Option<f64> {
        let (ours, theirs) = (self.0.get(peer)?, self.0.get(to)?);
        let pairs = ours.iter().filter_map(|(round, nanos)| Some(nanos / theirs.get(round)?));
        median(pairs.collect())
    }

    pub fn all(&self) -> impl Iterator<Item = (&'static str, Vec<f64>)> + '_ {
        self.0.iter().map(|(peer, rounds)| (*peer, rounds.values().copied().collect()))
    }
}

pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[half]),
        _ => Some((values[half - 1] + values[half]) / 2.0),
    }
}

pub fn geometric_mean(values: &[f64]) -> f64 {
    (values.iter().map(|value| value.ln()).sum::<f64>() / values.len() as f64).exp()
}
