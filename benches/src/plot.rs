//! Pictures of the figures, as SVG that reads well on light and dark.

use crate::latency::Latency;
use crate::memory::{worst, Shares};
use crate::peer::{SUBJECT, YARDSTICK};
use crate::plan::Plan;
use crate::times::Row;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Where pictures go, if anywhere.
pub struct Plots {
    directory: Option<PathBuf>,
}

impl Plots {
    pub fn new(directory: Option<&Path>) -> Plots {
        Plots { directory: directory.map(Into::into) }
    }

    fn save(&self, name: &str, svg: Svg) -> Result<(), String> {
        match &self.directory {
            Some(directory) => crate::write(&directory.join(name), &svg.finish()),
            None => Ok(()),
        }
    }

    /// A line for each row of the table, a dot on it for each peer.
    pub fn times(&self, plan: &Plan, rows: &[Row]) -> Result<(), String> {
        let peers: Vec<&str> = plan.peers().map(|peer| peer.name).collect();
        let lines = rows.iter().filter(|row| row.workers <= 2).filter_map(|row| {
            row.rounds.nanos(YARDSTICK)?;
            let dots =
                peers.iter().filter_map(|peer| Some((*peer, row.rounds.ratio(peer, YARDSTICK)?)));
            Some((format!("{} x {}", row.workload.name, row.workers), dots.collect()))
        });
        let axis = Axis {
            from: 0.25,
            to: 64.0,
            marks: &[0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0],
        };
        let title = "Time of an operation, as a multiple of mimalloc's (left is faster)";
        self.save("times.svg", dots(title, &peers, &axis, &lines.collect::<Vec<_>>()))?;
        self.scaling(&peers, rows)
    }

    /// Where blocks change threads: time by the number of threads.
    fn scaling(&self, peers: &[&str], rows: &[Row]) -> Result<(), String> {
        let lines = rows.iter().filter(|row| {
            row.workload.name.ends_with("larson") || row.workload.name.ends_with("pipe")
        });
        let lines = lines.map(|row| {
            let dots = peers.iter().filter_map(|peer| Some((*peer, row.rounds.nanos(peer)?)));
            (format!("{} x {}", row.workload.name, row.workers), dots.collect())
        });
        let axis = Axis {
            from: 8.0,
            to: 32768.0,
            marks: &[8.0, 32.0, 128.0, 512.0, 2048.0, 8192.0, 32768.0],
        };
        let title = "Blocks freed by others: nanoseconds an operation, by workers (p-: processes)";
        self.save("scaling.svg", dots(title, peers, &axis, &lines.collect::<Vec<_>>()))
    }

    /// Four lines a peer: the quantiles of malloc under churn.
    pub fn latency(&self, lines: &[Latency]) -> Result<(), String> {
        let first: Vec<&Latency> =
            lines.iter().filter(|line| line.workload == "churn-1k" && line.workers == 2).collect();
        let peers: Vec<&str> = first.iter().map(|line| line.peer).collect();
        let quantiles = ["p50", "p99", "p99.9", "worst"];
        let row = |call: &str, figures: fn(&Latency) -> [f64; 4], at: usize| {
            let dots = first.iter().map(|line| (line.peer, figures(line)[at])).collect();
            (format!("{call} {}", quantiles[at]), dots)
        };
        let mallocs = (0..4).map(|at| row("malloc", |line| line.malloc, at));
        let frees = (0..4).map(|at| row("free", |line| line.free, at));
        let axis = Axis { from: 4.0, to: 4e6, marks: &[10.0, 100.0, 1e3, 1e4, 1e5, 1e6] };
        let title = "Nanoseconds of single calls, 1,000 live blocks a thread, 2 threads";
        self.save(
            "latency.svg",
            dots(title, &peers, &axis, &mallocs.chain(frees).collect::<Vec<_>>()),
        )
    }

    /// Bars: how much of 64 MiB was in use when malloc failed.
    pub fn memory(&self, all: &[(&str, Shares)]) -> Result<(), String> {
        const BAR: f64 = 16.0;
        let height = 64.0 + all.len() as f64 * (2.0 * BAR + 14.0);
        let mut svg = Svg::new(760.0, height);
        svg.text(12.0, 22.0, "start", "bold", "Percent of 64 MiB in use when malloc fails: fresh, and the worst refill after half was freed");
        for (at, (peer, shares)) in all.iter().enumerate() {
            let top = 44.0 + at as f64 * (2.0 * BAR + 14.0);
            svg.text(100.0, top + BAR + 4.0, "end", weight(peer), peer);
            let refilled = worst(&shares.refills[0]);
            for (line, (share, opacity)) in
                [(shares.fresh, 1.0), (refilled, 0.55)].into_iter().enumerate()
            {
                let y = top + line as f64 * BAR;
                svg.bar(112.0, y, 560.0 * share, BAR - 2.0, color(peer), opacity);
                svg.text(
                    118.0 + 560.0 * share,
                    y + 11.0,
                    "start",
                    "normal",
                    &format!("{:.1}", 100.0 * share),
                );
            }
        }
        self.save("memory.svg", svg)
    }
}

/// A logarithmic one.
struct Axis {
    from: f64,
    to: f64,
    marks: &'static [f64],
}

const LEFT: f64 = 150.0;
const WIDTH: f64 = 570.0;
const LINE: f64 = 20.0;
const TOP: f64 = 70.0;

impl Axis {
    /// What lies outside stands at the edge.
    fn x(&self, value: f64) -> f64 {
        let share = (value / self.from).ln() / (self.to / self.from).ln();
        LEFT + WIDTH * share.clamp(0.0, 1.0)
    }
}

type Line<'a> = (String, Vec<(&'a str, f64)>);

/// Lines with a dot for each peer, the subject's on top.
fn dots(title: &str, peers: &[&str], axis: &Axis, lines: &[Line]) -> Svg {
    let bottom = TOP + lines.len() as f64 * LINE;
    let mut svg = Svg::new(LEFT + WIDTH + 30.0, bottom + 30.0);
    svg.text(12.0, 22.0, "start", "bold", title);
    for (at, peer) in peers.iter().enumerate() {
        let x = 16.0 + at as f64 * 71.0 + if at > 0 { 16.0 } else { 0.0 };
        svg.dot(x, 42.0, color(peer), *peer == SUBJECT);
        svg.text(x + 9.0, 46.0, "start", weight(peer), peer);
    }
    for &mark in axis.marks {
        let x = axis.x(mark);
        svg.line(x, TOP - 8.0, x, bottom, if mark == 1.0 { 0.9 } else { 0.3 });
        svg.text(x, bottom + 16.0, "middle", "normal", &short(mark));
    }
    for (at, (name, dots)) in lines.iter().enumerate() {
        let y = TOP + (at as f64 + 0.5) * LINE;
        svg.text(LEFT - 14.0, y + 4.0, "end", "normal", name);
        svg.line(LEFT, y, LEFT + WIDTH, y, 0.15);
        let (ours, theirs): (Vec<_>, Vec<_>) =
            dots.iter().copied().partition(|dot| dot.0 == SUBJECT);
        for (peer, value) in theirs.into_iter().chain(ours) {
            svg.dot(axis.x(value), y, color(peer), peer == SUBJECT);
        }
    }
    svg
}

fn short(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{}M", v / 1e6),
        v if v >= 1e4 => format!("{}k", (v / 1e3).round()),
        v => v.to_string(),
    }
}

fn weight(peer: &str) -> &'static str {
    if peer == SUBJECT {
        "bold"
    } else {
        "normal"
    }
}

/// Told apart by most eyes, on white and on black.
fn color(peer: &str) -> &'static str {
    match peer {
        SUBJECT => "#e8590c",
        YARDSTICK => "#2f81f7",
        "tcmalloc" => "#2da44e",
        "jemalloc" => "#a371f7",
        "rpmalloc" => "#00a0b0",
        "snmalloc" => "#d29922",
        "glibc" => "#8c959f",
        "rlsf" => "#bf5af2",
        "talc" => "#c08552",
        _ => "#e0569b",
    }
}

/// Ink that is legible on white and on black.
const INK: &str = "#7d8590";

struct Svg {
    text: String,
}

impl Svg {
    fn new(width: f64, height: f64) -> Svg {
        let text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n"
        );
        Svg { text }
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, weight: &str, text: &str) {
        self.add(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"{INK}\" text-anchor=\"{anchor}\" \
             font-weight=\"{weight}\">{text}</text>"
        ));
    }

    fn line(&mut self, x1: f64, y1: f64, x2: f64, y2: f64, opacity: f64) {
        self.add(format_args!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{INK}\" \
             stroke-opacity=\"{opacity}\"/>"
        ));
    }

    fn dot(&mut self, x: f64, y: f64, color: &str, large: bool) {
        let radius = if large { 6 } else { 4 };
        self.add(format_args!(
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" fill=\"{color}\"/>"
        ));
    }

    fn bar(&mut self, x: f64, y: f64, width: f64, height: f64, color: &str, opacity: f64) {
        self.add(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"2\" \
             fill=\"{color}\" fill-opacity=\"{opacity}\"/>"
        ));
    }

    fn add(&mut self, element: std::fmt::Arguments) {
        writeln!(self.text, "{element}").expect("text can grow");
    }

    fn finish(mut self) -> String {
        self.text += "</svg>\n";
        self.text
    }
}
