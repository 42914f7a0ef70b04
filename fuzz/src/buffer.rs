//! A buffer at either end of a mapping, a trap beside it and bytes beside it that nobody may change;
//! and another mapping of the same bytes. One for all inputs, since mappings are slow to make.

use crate::memory::Memory;
use std::sync::OnceLock;

/// The longest buffer.
pub const LEN_MAX: usize = 640 << 10;
/// So many bytes beside the buffer are looked after.
const MARGIN: usize = 512;
const UNTOUCHED: u8 = 0xc5;

pub struct Buffer {
    mappings: &'static [Memory; 2],
    from: usize,
    len: usize,
}

static MAPPINGS: OnceLock<[Memory; 2]> = OnceLock::new();

impl Buffer {
    /// `len` bytes, right before a trap or, if `low`, some bytes behind one. Each is `fill`.
    pub fn new(len: usize, low: Option<u8>, fill: u8) -> Buffer {
        let mappings = MAPPINGS.get_or_init(|| {
            let memory = Memory::shared(LEN_MAX + 512);
            let view = memory.view();
            [memory, view]
        });
        let from = match low {
            Some(shift) => usize::from(shift),
            None => mappings[0].len() - len,
        };
        let buffer = Buffer { mappings, from, len };
        buffer.beside().for_each(|part| buffer.all(part).fill(UNTOUCHED));
        buffer.bytes().fill(fill);
        buffer
    }

    /// The ranges of the mapping right before the buffer and behind it.
    fn beside(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let (end, len) = (self.from + self.len, self.mappings[0].len());
        [self.from.saturating_sub(MARGIN)..self.from, end..len.min(end + MARGIN)].into_iter()
    }

    #[allow(clippy::mut_from_ref)] // as in Memory
    fn all(&self, part: std::ops::Range<usize>) -> &mut [u8] {
        self.mappings[0].bytes_mut(part.start, part.len())
    }

    /// The bytes, while no call is in flight.
    #[allow(clippy::mut_from_ref)] // as in Memory
    pub fn bytes(&self) -> &mut [u8] {
        self.all(self.from..self.from + self.len)
    }

    /// Where it lies in a mapping, 0 or 1.
    pub fn base(&self, mapping: usize) -> *mut u8 {
        self.mappings[mapping].base().wrapping_add(self.from)
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Nobody has written beside it.
    pub fn must_be_alone(&self) {
        for part in self.beside() {
            assert!(self.all(part).iter().all(|&byte| byte == UNTOUCHED), "written outside");
        }
    }
}
