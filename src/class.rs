//! Size classes, in granules: every count to 32, then eight steps a doubling to 4096. Above that are
//! the *wide* ones, six steps a doubling to 262144, each an eighth larger than the one before: of
//! these fewer are better, since each wants blocks of its own on the shelves.
//!
//! ```text
//! class   0  1  2 ..  31 | 32 33 34 .. 39 | 40 41 .. 47 | .. |  80 ..   87
//! size    1  2  3 ..  32 | 36 40 44 .. 64 | 72 80 .. 128 | .. | 2304 .. 4096
//!
//! wide     0    1    2    3    4    5  |  6 ..   11  | .. |   30 ..     35
//! size   4608 5184 5832 6561 7381 8192 | 9216 .. 16384 | .. | 147456 .. 262144
//! ```
#![forbid(unsafe_code)]

/// How many classes there are.
pub const COUNT: u8 = 88;
/// Up to here every size is a class of its own.
const LINEAR: u32 = 32;
/// The largest class.
pub const LARGEST: u32 = 4096;

const _: () = assert!(size(COUNT - 1) == LARGEST);

/// The sizes of all; for what is no class, too, so that nothing is compared, and never 0.
static SIZES: [u16; 256] = {
    let mut sizes = [LARGEST as u16; 256];
    let mut class = 0;
    while class < COUNT as usize {
        sizes[class] = if class < LINEAR as usize {
            class as u16 + 1
        } else {
            let step = class as u16 - LINEAR as u16;
            let base = (LINEAR as u16) << (step / 8);
            base + (base / 8) * (step % 8 + 1)
        };
        class += 1;
    }
    sizes
};

/// The size of a class.
pub const fn size(class: u8) -> u32 {
    SIZES[class as usize] as u32
}

/// The smallest class of at least this size, for sizes from 1 to [`LARGEST`].
pub const fn at_least(size: u32) -> u8 {
    if size <= LINEAR {
        return size.saturating_sub(1) as u8;
    }
    // base < size <= 2 * base, base a power of two.
    let doubling = (size - 1).ilog2() - LINEAR.ilog2();
    let step_log2 = doubling + LINEAR.ilog2() - 3;
    (LINEAR + doubling * 8 + ((size - 1) >> step_log2) - 8) as u8
}

/// The class whose size this is exactly.
pub const fn exact(size: u32) -> Option<u8> {
    if size == 0 || size > LARGEST {
        return None;
    }
    let class = at_least(size);
    if self::size(class) == size {
        Some(class)
    } else {
        None
    }
}

/// How many wide classes there are.
pub const WIDE_COUNT: u8 = 36;
/// The largest.
pub const WIDEST: u32 = LARGEST << 6;
/// The first doubling of them.
const WIDE_STEPS: [u32; 6] = [4608, 5184, 5832, 6561, 7381, 8192];

const _: () = assert!(WIDE_STEPS[5] == 2 * LARGEST);

/// The sizes of all.
static WIDE_SIZES: [u32; WIDE_COUNT as usize] = {
    let mut sizes = [0; WIDE_COUNT as usize];
    let mut wide = 0;
    while wide < sizes.len() {
        sizes[wide] = WIDE_STEPS[wide % WIDE_STEPS.len()] << (wide / WIDE_STEPS.len());
        wide += 1;
    }
    sizes
};

/// The size of a wide class.
pub fn wide_size(wide: u8) -> u32 {
    WIDE_SIZES[usize::from(wide)]
}

/// The smallest wide class of at least this size; None for sizes that have no wide class.
pub const fn wide_at_least(size: u32) -> Option<u8> {
    if size <= LARGEST || size > WIDEST {
        return None;
    }
    let doubling = (size - 1).ilog2() - LARGEST.ilog2();
    let mut step = 0;
    while size > WIDE_STEPS[step] << doubling {
        step += 1;
    }
    Some(doubling as u8 * WIDE_STEPS.len() as u8 + step as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_sizes_and_classes_agree_and_waste_at_most_an_eighth() {
        let mut smaller = LARGEST;
        for wide in 0..WIDE_COUNT {
            let this = wide_size(wide);
            assert!(this > smaller && (this - smaller - 1) * 8 <= smaller + 1);
            assert_eq!(wide_at_least(this), Some(wide));
            for between in smaller + 1..this {
                assert_eq!(wide_at_least(between), Some(wide));
            }
            smaller = this;
        }
        assert_eq!(smaller, WIDEST);
        for size in [0, 1, LARGEST, WIDEST + 1, u32::MAX] {
            assert_eq!(wide_at_least(size), None);
        }
    }

    #[test]
    fn sizes_and_classes_agree_and_waste_at_most_an_eighth() {
        let mut smaller = 0;
        for class in 0..COUNT {
            let this = size(class);
            assert!(this > smaller);
            assert!(this == smaller + 1 || (this - smaller - 1) * 8 <= smaller + 1);
            assert_eq!(exact(this), Some(class));
            assert_eq!(at_least(this), class);
            for between in smaller + 1..this {
                assert_eq!(exact(between), None);
                assert_eq!(at_least(between), class);
            }
            smaller = this;
        }
        assert_eq!(exact(0), None);
        assert_eq!(exact(LARGEST + 1), None);
    }
}
