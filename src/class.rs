//! Size classes, in granules: every count to 32, then eight steps a doubling to 4096.
//!
//! ```text
//! class   0  1  2 ..  31 | 32 33 34 .. 39 | 40 41 .. 47 | .. |  80 ..   87
//! size    1  2  3 ..  32 | 36 40 44 .. 64 | 72 80 .. 128 | .. | 2304 .. 4096
//! ```
#![forbid(unsafe_code)]

/// How many classes there are.
pub const COUNT: u8 = 88;
/// Up to here every size is a class of its own.
const LINEAR: u32 = 32;
/// The largest class.
pub const LARGEST: u32 = 4096;

const _: () = assert!(size(COUNT - 1) == LARGEST);

/// The size of a class.
pub const fn size(class: u8) -> u32 {
    let class = class as u32;
    if class < LINEAR {
        return class + 1;
    }
    let step = class - LINEAR;
    let base = LINEAR << (step / 8);
    base + (base / 8) * (step % 8 + 1)
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

#[cfg(test)]
mod tests {
    use super::*;

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
