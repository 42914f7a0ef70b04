//! Stands for the library's module of this name: the same calls, over loom's atomics. A word comes
//! into being when it is first looked at, as zero.

use crate::atomic::{AtomicU32, AtomicU64, AtomicU8};
use loom::sync::atomic::Ordering::Relaxed;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

#[derive(Default)]
struct Words {
    bytes: BTreeMap<usize, Box<AtomicU8>>,
    halves: BTreeMap<usize, Box<AtomicU32>>,
    words: BTreeMap<usize, Box<AtomicU64>>,
}

/// A buffer of zeros. Each offset is looked at by one width only, but for those whose whole word was
/// looked at first.
#[derive(Clone)]
pub struct Region {
    words: Arc<Mutex<Words>>,
    len: usize,
}

/// For as long as its region: words are boxed, and never go before the region does.
fn stays<'a, T>(word: &T) -> &'a T {
    // SAFETY: see above; the callers bind the lifetime to that of the region.
    unsafe { &*std::ptr::from_ref(word) }
}

#[allow(clippy::len_without_is_empty)] // as the library's
impl Region {
    pub fn new(len: usize) -> Region {
        Region { words: Arc::default(), len }
    }

    pub fn address(&self) -> usize {
        4096
    }

    pub fn len(&self) -> usize {
        self.len
    }

    fn byte(&self, at: usize) -> &AtomicU8 {
        let mut words = self.words.lock().unwrap();
        stays(words.bytes.entry(at).or_insert_with(|| Box::new(AtomicU8::new(0))))
    }

    pub fn word32(&self, at: usize) -> Option<&AtomicU32> {
        let mut words = self.words.lock().unwrap();
        let whole = words.words.get(&at).map(|whole| AtomicU32::LowHalf((**whole).clone()));
        let new = || Box::new(whole.unwrap_or_else(|| AtomicU32::new(0)));
        Some(stays(words.halves.entry(at).or_insert_with(new)))
    }

    pub fn word64(&self, at: usize) -> Option<&AtomicU64> {
        let mut words = self.words.lock().unwrap();
        Some(stays(words.words.entry(at).or_insert_with(|| Box::new(AtomicU64::new(0)))))
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
