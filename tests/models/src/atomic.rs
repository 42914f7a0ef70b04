//! The words that threads share: loom's, each use of which is a step. A dead thread makes none.

use crate::{death, sys};
use loom::sync::atomic::{self, Ordering};
use std::sync::Arc;

/// One of loom's words, under the names that the library uses.
macro_rules! word {
    ($name:ident, $inner:ident, $value:ty) => {
        /// Clones are the same word.
        #[derive(Clone)]
        pub struct $name(Arc<atomic::$inner>);

        impl $name {
            pub fn new(value: $value) -> $name {
                $name(Arc::new(atomic::$inner::new(value)))
            }

            pub fn load(&self, order: Ordering) -> $value {
                if death::step() {
                    self.0.load(order)
                } else {
                    0
                }
            }

            pub fn store(&self, value: $value, order: Ordering) {
                if death::step() {
                    self.0.store(value, order);
                }
            }

            pub fn compare_exchange(
                &self,
                old: $value,
                new: $value,
                yes: Ordering,
                no: Ordering,
            ) -> Result<$value, $value> {
                if death::step() {
                    self.0.compare_exchange(old, new, yes, no)
                } else {
                    Ok(old)
                }
            }

            pub fn compare_exchange_weak(
                &self,
                old: $value,
                new: $value,
                yes: Ordering,
                no: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(old, new, yes, no)
            }
        }
    };
}

/// What is done by the steps above.
macro_rules! updated {
    ($name:ident, $value:ty) => {
        impl $name {
            pub fn fetch_update(
                &self,
                yes: Ordering,
                no: Ordering,
                mut update: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                let mut seen = self.load(no);
                while let Some(new) = update(seen) {
                    match self.compare_exchange(seen, new, yes, no) {
                        Ok(old) => return Ok(old),
                        Err(other) => seen = other,
                    }
                }
                Err(seen)
            }
        }
    };
}

word!(AtomicU8, AtomicU8, u8);
word!(AtomicU64, AtomicU64, u64);
updated!(AtomicU8, u8);
updated!(AtomicU32, u32);
updated!(AtomicU64, u64);

/// Half a word may be looked at as such, and as half of the whole.
#[derive(Clone)]
pub enum AtomicU32 {
    Whole(Arc<atomic::AtomicU32>),
    LowHalf(AtomicU64),
}

impl AtomicU32 {
    pub fn new(value: u32) -> AtomicU32 {
        AtomicU32::Whole(Arc::new(atomic::AtomicU32::new(value)))
    }

    /// Whether it is the same word.
    pub fn is(&self, other: &AtomicU32) -> bool {
        match (self, other) {
            (AtomicU32::Whole(one), AtomicU32::Whole(other)) => Arc::ptr_eq(one, other),
            (AtomicU32::LowHalf(one), AtomicU32::LowHalf(other)) => Arc::ptr_eq(&one.0, &other.0),
            _ => false,
        }
    }

    pub fn load(&self, order: Ordering) -> u32 {
        if death::step() {
            self.look(order)
        } else {
            0
        }
    }

    pub fn store(&self, value: u32, order: Ordering) {
        if !death::step() {
            return;
        }
        match self {
            AtomicU32::Whole(word) => word.store(value, order),
            AtomicU32::LowHalf(_) => {
                self.exchange(order, Ordering::Relaxed, |_| Some(value)).ok();
            }
        }
    }

    pub fn swap(&self, value: u32, order: Ordering) -> u32 {
        if !death::step() {
            return 0;
        }
        let seen = match self {
            AtomicU32::Whole(word) => word.swap(value, order),
            AtomicU32::LowHalf(_) => {
                self.exchange(order, Ordering::Relaxed, |_| Some(value)).unwrap_or(0)
            }
        };
        sys::gave_back(seen);
        seen
    }

    pub fn compare_exchange(
        &self,
        old: u32,
        new: u32,
        yes: Ordering,
        no: Ordering,
    ) -> Result<u32, u32> {
        if death::step() {
            self.replace(old, new, yes, no)
        } else {
            Ok(old)
        }
    }

    /// As the kernel looks: no step of a thread.
    pub fn look(&self, order: Ordering) -> u32 {
        match self {
            AtomicU32::Whole(word) => word.load(order),
            AtomicU32::LowHalf(whole) => whole.0.load(order) as u32,
        }
    }

    /// As the kernel does it.
    pub fn replace(&self, old: u32, new: u32, yes: Ordering, no: Ordering) -> Result<u32, u32> {
        match self {
            AtomicU32::Whole(word) => word.compare_exchange(old, new, yes, no),
            AtomicU32::LowHalf(_) => self.exchange(yes, no, |seen| (seen == old).then_some(new)),
        }
    }

    fn exchange(
        &self,
        yes: Ordering,
        no: Ordering,
        change: impl Fn(u32) -> Option<u32>,
    ) -> Result<u32, u32> {
        let AtomicU32::LowHalf(whole) = self else { unreachable!("a whole word") };
        // Fails, or changes nothing: so the last value is seen, as by any read-modify-write.
        let last = whole.0.compare_exchange(0, 0, Ordering::Relaxed, Ordering::Relaxed);
        let mut seen = last.unwrap_or_else(|seen| seen);
        while let Some(new) = change(seen as u32) {
            let new = seen >> 32 << 32 | u64::from(new);
            match whole.0.compare_exchange(seen, new, yes, no) {
                Ok(old) => return Ok(old as u32),
                Err(other) => seen = other,
            }
        }
        Err(seen as u32)
    }
}
