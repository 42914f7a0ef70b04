//! Random numbers, and how large the blocks of programs are.

/// xorshift64*: one multiplication and three shifts, so that what is measured is the allocator.
pub struct Random(u64);

impl Random {
    /// A sequence of its own for each seed.
    pub fn new(seed: u64) -> Random {
        Random((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub fn word(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Uniform in 0..bound.
    pub fn below(&mut self, bound: usize) -> usize {
        (((self.word() >> 32) * bound as u64) >> 32) as usize
    }

    /// Uniform in (0, 1].
    fn unit(&mut self) -> f64 {
        ((self.word() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

/// Sizes drawn beforehand, handed out in a circle: drawing costs more than malloc.
pub struct Sizes {
    drawn: Box<[u32]>,
    next: usize,
}

impl Sizes {
    const COUNT: usize = 1 << 14;

    /// The realistic mix: log-normal, as the sizes of programs' blocks about are (many small, few
    /// large, these with most of the bytes). Median 150 and sigma 1.8, drawn again outside
    /// 16..=32768, give a mean of about 760; one block in six is larger than 1 KiB.
    pub fn mixed(random: &mut Random) -> Sizes {
        Sizes::draw(|| loop {
            let normal =
                (-2.0 * random.unit().ln()).sqrt() * (std::f64::consts::TAU * random.unit()).cos();
            let size = 150.0 * (1.8 * normal).exp();
            if (16.0..=32768.0).contains(&size) {
                return size as u32;
            }
        })
    }

    /// 64 KiB to 4 MiB, as many in each doubling.
    pub fn large(random: &mut Random) -> Sizes {
        Sizes::draw(|| (65536.0 * 64f64.powf(random.unit())) as u32)
    }

    fn draw(mut one: impl FnMut() -> u32) -> Sizes {
        Sizes { drawn: (0..Sizes::COUNT).map(|_| one()).collect(), next: 0 }
    }

    pub fn next(&mut self) -> usize {
        self.next = (self.next + 1) % Sizes::COUNT;
        self.drawn[self.next] as usize
    }
}
