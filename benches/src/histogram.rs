//! How long calls took: counts by time, in memory that processes share, and the clock for it.

use crate::region::Region;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// 32 steps a doubling, so that a quantile is right to three percent.
const STEPS: usize = 32;
const BUCKETS: usize = 60 * STEPS;

pub struct Histogram {
    counts: [AtomicU64; BUCKETS],
    worst: AtomicU64,
}

impl Histogram {
    pub fn new() -> &'static Histogram {
        &Region::of::<Histogram>(1)[0]
    }

    pub fn add(&self, ticks: u64) {
        self.counts[bucket(ticks)].fetch_add(1, Relaxed);
        if ticks > self.worst.load(Relaxed) {
            self.worst.fetch_max(ticks, Relaxed);
        }
    }

    pub fn worst(&self) -> u64 {
        self.worst.load(Relaxed)
    }

    /// The ticks that a share of the calls did not exceed.
    pub fn quantile(&self, share: f64) -> u64 {
        let total: u64 = self.counts.iter().map(|count| count.load(Relaxed)).sum();
        let mut left = (total as f64 * share).ceil() as u64;
        let found = self.counts.iter().position(|count| {
            let count = count.load(Relaxed);
            let here = left <= count;
            left = left.saturating_sub(count);
            here
        });
        found.map_or(0, floor)
    }
}

/// Below `STEPS` a tick each; then by the leading bits.
fn bucket(ticks: u64) -> usize {
    if ticks < STEPS as u64 {
        return ticks as usize;
    }
    let shift = ticks.ilog2() as usize - STEPS.ilog2() as usize;
    (shift + 1) * STEPS + (ticks >> shift) as usize - STEPS
}

/// The least ticks that fall into a bucket.
fn floor(bucket: usize) -> u64 {
    match bucket / STEPS {
        0 => bucket as u64,
        doubling => ((bucket % STEPS + STEPS) as u64) << (doubling - 1),
    }
}

/// The processor's counter where there is one, since the system's clock takes as long as malloc.
#[derive(Clone, Copy)]
pub struct Clock {
    /// What timing nothing shows, which is taken off.
    idle: u64,
    pub nanos_per_tick: f64,
}

impl Clock {
    pub fn new() -> Clock {
        let idle = (0..10_000).map(|_| Clock::ticks_of(|| ()).0).min().unwrap_or(0);
        let (start, ticks) = (Instant::now(), ticks());
        while start.elapsed() < Duration::from_millis(20) {}
        let nanos = start.elapsed().as_nanos() as f64;
        Clock { idle, nanos_per_tick: nanos / (self::ticks() - ticks) as f64 }
    }

    pub fn time<T>(&self, call: impl FnOnce() -> T) -> (u64, T) {
        let (ticks, result) = Clock::ticks_of(call);
        (ticks.saturating_sub(self.idle), result)
    }

    fn ticks_of<T>(call: impl FnOnce() -> T) -> (u64, T) {
        let start = ticks();
        let result = call();
        (ticks() - start, result)
    }
}

#[cfg(target_arch = "x86_64")]
fn ticks() -> u64 {
    // SAFETY: both are in every x86-64 processor. The fence keeps what comes before from being
    // measured as what comes after.
    unsafe {
        std::arch::x86_64::_mm_lfence();
        std::arch::x86_64::_rdtsc()
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn ticks() -> u64 {
    use std::sync::OnceLock;
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}
