//! What is known of a pool at the instant before a call, and what the call is: all that a judge
//! needs to tell what may be found after a death inside it.

use crate::common::handle::Block;
use crate::common::random::Random;

/// The blocks that a scene can know of.
pub const KNOWN_MAX: usize = 640;
/// The threads that a child can have.
pub const THREADS_MAX: usize = 8;

/// The names that a scene can know of.
pub const NAMES_MAX: usize = 16;

/// A call of the C face. `slot` is a known block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Malloc {
        size: usize,
    },
    Calloc {
        count: usize,
        size: usize,
    },
    CallocFill {
        count: usize,
        size: usize,
        byte: u8,
    },
    AlignedAlloc {
        alignment: usize,
        size: usize,
    },
    Free {
        slot: usize,
    },
    FreeSized {
        slot: usize,
        size: usize,
    },
    /// Of what is no block, by its offset: refused.
    FreeBad {
        at: u64,
    },
    Realloc {
        slot: usize,
        size: usize,
    },
    ReallocNull {
        size: usize,
    },
    Expand {
        slot: usize,
        size: usize,
    },
    /// A name by its number.
    Bind {
        slot: usize,
        name: usize,
    },
    Unbind {
        name: usize,
    },
    /// Takes a name from this block.
    UnbindFrom {
        slot: usize,
        name: usize,
    },
    SetRoot {
        slot: usize,
    },
    NoRoot,
    FreeAll,
    Trim,
    Recover,
    Check,
    Stats,
    Walk,
    Attach,
    Detach,
    Init,
    Open,
    Release,
}

/// What a call may change of the blocks that live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Nothing,
    /// One more, of so many bytes, at a multiple of this; these bytes of it are set to this.
    Adds {
        size: usize,
        alignment: usize,
        filled: Option<u8>,
    },
    Removes {
        slot: usize,
    },
    /// The block stands for the other, with what bytes of it fit.
    Replaces {
        slot: usize,
        size: usize,
    },
    /// A block gets a name or loses it, or another is the root.
    Names,
    RemovesAll,
    /// The pool comes to be.
    Birth,
    /// The pool ends.
    End,
}

impl Call {
    /// The block that it is about, if that may end or become another by it.
    pub fn slot(self) -> Option<usize> {
        match self.effect() {
            Effect::Removes { slot } | Effect::Replaces { slot, .. } => Some(slot),
            _ => None,
        }
    }

    fn effect(self) -> Effect {
        let adds = |size| Effect::Adds { size, alignment: 1, filled: None };
        match self {
            Call::Malloc { size } | Call::ReallocNull { size } => adds(size),
            Call::Calloc { count, size } => {
                Effect::Adds { size: count * size, alignment: 1, filled: Some(0) }
            }
            Call::CallocFill { count, size, byte } => {
                Effect::Adds { size: count * size, alignment: 1, filled: Some(byte) }
            }
            Call::AlignedAlloc { alignment, size } => {
                Effect::Adds { size, alignment, filled: None }
            }
            Call::Free { slot } | Call::FreeSized { slot, .. } => Effect::Removes { slot },
            Call::Realloc { slot, size } | Call::Expand { slot, size } => {
                Effect::Replaces { slot, size }
            }
            Call::Bind { .. }
            | Call::Unbind { .. }
            | Call::UnbindFrom { .. }
            | Call::SetRoot { .. }
            | Call::NoRoot => Effect::Names,
            Call::FreeAll => Effect::RemovesAll,
            Call::Init | Call::Open => Effect::Birth,
            Call::Release => Effect::End,
            Call::FreeBad { .. }
            | Call::Trim
            | Call::Recover
            | Call::Check
            | Call::Stats
            | Call::Walk
            | Call::Attach
            | Call::Detach => Effect::Nothing,
        }
    }
}

/// A block that a call had delivered, and what its holder wrote into all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    pub offset: u64,
    /// 0: no block.
    pub size: u64,
    /// With what is not its holder's, as a walk shows it.
    pub whole: u64,
    pub stamp: u64,
}

/// Which known block has each name, and is the root: its slot + 1, or 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    pub names: [usize; NAMES_MAX],
    pub root: usize,
}

/// A name by its number: of any length.
pub fn name(number: usize) -> Vec<u8> {
    vec![b'a' + number as u8; 1 + number * 7 % 40]
}

/// Before a call. Plain numbers, since it lies in memory that processes share.
#[derive(Clone, Copy)]
pub struct Scene {
    pub call: Call,
    pub known: [Known; KNOWN_MAX],
    pub bound: Bound,
    /// The threads that die with the child.
    pub threads: [u32; THREADS_MAX],
    /// The number of the pool that is there before; 0 for none.
    pub pool_id: u64,
    /// The buffer's first word before.
    pub magic: u64,
    /// Whether free blocks that are larger than asked for are cut.
    pub splits: bool,
}

/// What a scene's pool was found to be after a death.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// As before the call.
    Old,
    /// No pool: what there was is gone, what there will be is not yet there.
    Between,
    /// As after it.
    New,
}

impl Scene {
    pub fn new() -> Scene {
        Scene {
            call: Call::Check,
            known: [Known::default(); KNOWN_MAX],
            bound: Bound::default(),
            threads: [0; THREADS_MAX],
            pool_id: 0,
            magic: 0,
            splits: true,
        }
    }

    /// What the call may change.
    pub fn effect(&self) -> Effect {
        match self.call {
            Call::Open if self.pool_id != 0 => Effect::Nothing,
            call => call.effect(),
        }
    }

    /// The blocks that are known, with their slots.
    pub fn blocks(&self) -> impl Iterator<Item = (usize, Known)> + '_ {
        self.known.iter().copied().enumerate().filter(|(_, known)| known.size > 0)
    }

    /// Which block has each name after the call.
    pub fn bound_after(&self) -> Bound {
        let mut after = self.bound;
        match self.call {
            Call::Bind { slot, name } => after.names[name] = slot + 1,
            Call::Unbind { name } | Call::UnbindFrom { name, .. } => after.names[name] = 0,
            Call::SetRoot { slot } => after.root = slot + 1,
            Call::NoRoot => after.root = 0,
            Call::FreeAll => after = Bound::default(),
            _ => {}
        }
        after
    }

    /// The names with their blocks' offsets, in order, and the root's, 0 for none.
    pub fn named(&self, bound: &Bound) -> (Vec<(Vec<u8>, u64)>, u64) {
        let offset = |place: usize| place.checked_sub(1).map(|slot| self.known[slot].offset);
        let names = bound.names.iter().enumerate();
        let names = names.filter_map(|(number, &place)| Some((name(number), offset(place)?)));
        let mut names: Vec<_> = names.collect();
        names.sort();
        (names, offset(bound.root).unwrap_or(0))
    }

    /// How many names a block has, and whether it is the root.
    pub fn reasons(&self, bound: &Bound, slot: usize) -> usize {
        let names = bound.names.iter().filter(|&&place| place == slot + 1);
        names.count() + usize::from(bound.root == slot + 1)
    }

    /// Compares the blocks that live with those that are known: the state, and the block that the
    /// call made, if there is one.
    pub fn sort_out(&self, live: &[Block]) -> Result<(State, Option<Block>), String> {
        let is_known = |block: &Block| {
            self.blocks()
                .any(|(_, known)| (known.offset, known.whole) == (block.offset, block.size))
        };
        let is_live = |known: &Known| {
            let place = live.binary_search_by_key(&known.offset, |block| block.offset);
            place.is_ok_and(|at| live[at].size == known.whole)
        };
        let more: Vec<Block> = live.iter().filter(|block| !is_known(block)).copied().collect();
        let effect = self.effect();
        // Who goes on after a death may have got the very block that the dead one was giving back.
        let is_anothers = |slot: usize, known: &Known| {
            let was_given_back = matches!(
                effect,
                Effect::Removes { slot: gone } | Effect::Replaces { slot: gone, .. } if gone == slot
            );
            let mut others = self.blocks().filter(|&(other, _)| other != slot);
            was_given_back && others.any(|(_, other)| other.offset == known.offset)
        };
        let fewer: Vec<(usize, Known)> = self
            .blocks()
            .filter(|(slot, known)| !is_live(known) || is_anothers(*slot, known))
            .collect();
        let found = match (effect, more.as_slice(), fewer.as_slice()) {
            (_, [], []) => Some((State::Old, None)),
            (Effect::Adds { size, alignment, .. }, [block], []) => {
                let fits =
                    is_size(block.size, size, self.splits) && block.offset % alignment as u64 == 0;
                fits.then_some((State::New, Some(*block)))
            }
            (Effect::Removes { slot }, [], [(missing, _)]) if *missing == slot => {
                Some((State::New, None))
            }
            (Effect::Replaces { slot, size }, [block], [(missing, _)]) if *missing == slot => {
                is_size(block.size, size, self.splits).then_some((State::New, Some(*block)))
            }
            (Effect::RemovesAll, [], _) if live.is_empty() => Some((State::New, None)),
            _ => None,
        };
        found.ok_or_else(|| {
            format!("live and not known: {more:?}; delivered and not live: {fewer:?}")
        })
    }
}

/// Whether a block of this size may answer a request.
fn is_size(block: u64, asked: usize, splits: bool) -> bool {
    let asked = asked as u64;
    // The granule, a remainder too small to split, an eighth of rounding.
    block >= asked && (block <= asked + asked / 8 + 64 || !splits)
}

/// Writes all of a block.
pub fn stamp(block: *mut u8, size: usize, stamp: u64) {
    let mut words = Random(stamp);
    for at in (0..size).step_by(8) {
        // SAFETY: the caller's own live block of that size, which is a multiple of 8.
        unsafe { block.add(at).cast::<u64>().write_unaligned(words.next()) };
    }
}

/// Whether the first `size` bytes of a block are those of [`stamp`].
pub fn is_stamped(block: *const u8, size: usize, stamp: u64) -> bool {
    let mut words = Random(stamp);
    (0..size).step_by(8).all(|at| {
        // SAFETY: the caller's own live block of that size, which is a multiple of 8.
        unsafe { block.add(at).cast::<u64>().read_unaligned() == words.next() }
    })
}
