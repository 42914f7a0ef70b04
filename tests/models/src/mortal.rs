//! Atomics for a buffer that nobody else looks at, each of whose stores may be a thread's last.

use crate::death;
pub use core::sync::atomic::{compiler_fence, fence, Ordering};

macro_rules! mortal {
    ($($name:ident of $word:ty;)*) => {$(
        /// The library's words, with a death before each store.
        #[repr(transparent)]
        pub struct $name(core::sync::atomic::$name);

        impl $name {
            pub const fn new(value: $word) -> Self {
                Self(core::sync::atomic::$name::new(value))
            }

            pub fn load(&self, order: Ordering) -> $word {
                self.0.load(order)
            }

            pub fn store(&self, value: $word, order: Ordering) {
                death::store();
                self.0.store(value, order);
            }

            pub fn fetch_add(&self, value: $word, order: Ordering) -> $word {
                death::store();
                self.0.fetch_add(value, order)
            }

            pub fn compare_exchange(
                &self,
                from: $word,
                to: $word,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$word, $word> {
                death::store();
                self.0.compare_exchange(from, to, success, failure)
            }
        }
    )*};
}

mortal! {
    AtomicU8 of u8;
    AtomicU32 of u32;
    AtomicU64 of u64;
}
