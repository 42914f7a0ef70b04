//! Stands for the library's module of this name: the same calls, over loom's atomics. A word comes
//! into being when it is first looked at, as zero.

use loom::sync::atomic::{AtomicU32, AtomicU64, AtomicU8, Ordering::Relaxed};
use std::collections::BTreeMap;
use std::sync::Mutex;

#[derive(Default)]
struct Words {
    bytes: BTreeMap<usize, &'static AtomicU8>,
    halves: BTreeMap<usize, &'static AtomicU32>,
    words: BTreeMap<usize, &'static AtomicU64>,
}

/// A buffer of zeros. Each offset is looked at by one width only.
#[derive(Clone, Copy)]
pub struct Region {
    words: &'static Mutex<Words>,
    len: usize,
}

/// Lives as long as the test: loom's own bookkeeping ends with each run.
fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

#[allow(clippy::len_without_is_empty)] // as the library's
impl Region {
    pub fn new(len: usize) -> Region {
        Region { words: leak(Mutex::default()), len }
    }

    pub fn address(&self) -> usize {
        4096
    }

    pub fn len(&self) -> usize {
        self.len
    }

    fn byte(&self, at: usize) -> &'static AtomicU8 {
        let mut words = self.words.lock().unwrap();
        words.bytes.entry(at).or_insert_with(|| leak(AtomicU8::new(0)))
    }

    pub fn word32(&self, at: usize) -> Option<&'static AtomicU32> {
        let mut words = self.words.lock().unwrap();
        Some(words.halves.entry(at).or_insert_with(|| leak(AtomicU32::new(0))))
    }

    pub fn word64(&self, at: usize) -> Option<&'static AtomicU64> {
        let mut words = self.words.lock().unwrap();
        Some(words.words.entry(at).or_insert_with(|| leak(AtomicU64::new(0))))
    }

    pub fn load8(&self, at: usize) -> u8 {
        self.byte(at).load(Relaxed)
    }

    pub fn store8(&self, at: usize, value: u8) {
        self.byte(at).store(value, Relaxed);
    }

    pub fn load32(&self, at: usize) -> u32 {
        self.word32(at).unwrap().load(Relaxed)
    }

    pub fn store32(&self, at: usize, value: u32) {
        self.word32(at).unwrap().store(value, Relaxed);
    }

    pub fn load64(&self, at: usize) -> u64 {
        self.word64(at).unwrap().load(Relaxed)
    }

    pub fn store64(&self, at: usize, value: u64) {
        self.word64(at).unwrap().store(value, Relaxed);
    }

    pub fn load64_bytewise(&self, _: usize) -> u64 {
        0
    }
}
