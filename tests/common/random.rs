//! Reproducible numbers for tests that choose for themselves.

/// splitmix64: one word of state, every seed is good.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// A number in 1..=2^log2, each order of magnitude as likely as the next.
    pub fn up_to(&mut self, log2: u32) -> usize {
        let bits = self.below(log2 as usize + 1);
        1 + self.below(1 << bits)
    }

    /// A number in from..=to, each order of magnitude as likely as the next.
    pub fn log_uniform(&mut self, from: usize, to: usize) -> usize {
        let bits = self.below((to / from).ilog2() as usize + 1);
        let low = from << bits;
        (low + self.below(low)).min(to)
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}
