//! The input as a row of choices: what is missing at its end is 0.
#![forbid(unsafe_code)]

use crate::crew::Who;

pub struct Input {
    bytes: Vec<u8>,
    at: usize,
    steps: usize,
    turns: usize,
}

/// How many choices of what to do next an input has at most: so it ends in good time.
const STEPS_MAX: usize = 600;
/// How often an input goes on in another thread at most: on a loaded machine each time costs more
/// than everything else.
const TURNS_MAX: usize = 8;

impl Input {
    pub fn new(bytes: &[u8]) -> Input {
        Input { bytes: bytes.to_vec(), at: 0, steps: 0, turns: 0 }
    }

    /// What to do next; None at the end.
    pub fn step(&mut self) -> Option<u8> {
        self.steps += 1;
        (self.at < self.bytes.len() && self.steps <= STEPS_MAX).then(|| self.u8())
    }

    /// The thread in which to go on, for so many steps.
    pub fn turn(&mut self, who: Who) -> Option<(Who, usize)> {
        let steps = 1 + usize::from(self.u8() & 0x1f);
        self.turns += 1;
        (self.turns <= TURNS_MAX).then_some((who, steps))
    }

    pub fn u8(&mut self) -> u8 {
        let byte = self.bytes.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        byte
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }

    pub fn u32(&mut self) -> u32 {
        u32::from(self.u16()) | u32::from(self.u16()) << 16
    }

    pub fn u64(&mut self) -> u64 {
        u64::from(self.u32()) | u64::from(self.u32()) << 32
    }

    pub fn flag(&mut self) -> bool {
        self.u8() & 1 != 0
    }

    /// One of `len` things, which are not none.
    pub fn index(&mut self, len: usize) -> usize {
        usize::from(self.u16()) % len
    }

    /// All that is left.
    pub fn rest(&mut self) -> Vec<u8> {
        let rest = self.bytes.get(self.at..).unwrap_or_default().to_vec();
        self.at = self.bytes.len();
        rest
    }

    /// A size to ask for, in a pool with this granule: mostly small, and near what matters.
    pub fn size(&mut self, granule: usize) -> usize {
        let kind = self.u8();
        let low = usize::from(kind & 0x3f);
        match kind >> 6 {
            0 => low,
            1 => (low * granule).saturating_sub(usize::from(self.u8()) % granule),
            2 => (1 << (low & 0xf)) + usize::from(self.u16()) % (1 << (low & 0xf)),
            _ => match low {
                0..32 => usize::from(self.u16()) << (low & 7),
                32..40 => usize::MAX - usize::from(self.u8()) * low,
                40..48 => (1 << (16 + low % 48)) + low - 44,
                _ => granule * (usize::from(self.u16()) & 0xfff),
            },
        }
    }
}
