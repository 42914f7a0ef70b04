//! Changes of the directory of names and of the root: how a block gets a name and loses it, as one
//! event.
//!
//! A block that has a name or is the root is *bound*: its start byte in the map says so, and whether
//! that has one reason or more. So who frees it is refused without a look at the names.
//!
//! ```text
//! bind       Alloc   the entry is nobody's: who recovers frees it
//!            Mark    the block is bound, and has no name yet: who recovers makes it what it was
//!            Enter   the entry is the directory's: who recovers sees to it that the link holds it
//! unbind     Strike  it is nobody's: who recovers takes it out, lets the block go, frees the entry
//!            Free    as ever
//! set_root   Mark    the new root is bound
//!            Root    it is the root, and the old one is let go
//! ```
//!
//! The events are the stores of the seals of *Enter*, *Strike* and *Root*. A block is bound before it
//! and let go after it; and who finds it bound takes the lock before he says so. So between a death
//! and the recovery nobody frees a block that has a name.
//!
//! An entry is a block of the pool's own:
//!
//! ```text
//! 0 child 0 | 4 child 1 | 8 child 2 | 12 child 3 | ..   links: granule + 1 of another entry, or 0
//! ```
//!
//! What follows them is [`crate::names`]'.
#![forbid(unsafe_code)]

use super::change::{Change, Kind, Taker, NOWHERE};
use super::Heap;
use crate::error::{Error, Result};
use crate::layout::{LINK_BYTES, NAMES_OFFSET};
use crate::map::{Entry, State};

/// Links to other entries in each.
pub const CHILDREN: usize = 4;

/// An entry that the directory loses.
#[derive(Clone, Copy)]
pub struct Struck {
    /// Its first granule.
    pub entry: u32,
    /// Where the link to it lies.
    pub link: usize,
    /// An entry without children somewhere below it, which takes its place, and that one's parent.
    pub heir: Option<(u32, u32)>,
    /// The block that it named, and what that becomes.
    pub block: u32,
    /// See `block`.
    pub state: State,
}

impl Heap {
    /// Where the link to the directory's first entry lies.
    pub fn first_link(&self) -> usize {
        self.geometry.word(NAMES_OFFSET)
    }

    /// Where a link of an entry lies.
    pub fn link(&self, entry: u32, child: usize) -> usize {
        self.geometry.offset(entry) + child * LINK_BYTES
    }

    /// The entry that a link leads to; None if it leads nowhere.
    pub fn linked(&self, link: usize) -> Option<u32> {
        if !self.geometry.is_link(link) {
            return None;
        }
        self.region.load32(link).checked_sub(1)
    }

    /// Granules in the directory's entries.
    pub fn meta(&self) -> u32 {
        self.words.meta()
    }

    /// The root block, if there is one.
    pub fn root(&self) -> Option<u32> {
        self.words.root()
    }

    /// Makes a live block one that may not be freed, which the next change gives a reason for. The
    /// entry is one that the change under way has made.
    pub fn mark(&self, block: u32, entry: Option<u32>) -> Result<()> {
        let Entry { state, .. } = self.live(block)?;
        if entry == Some(block) {
            // Somebody freed it in this very instant, and its granules were what the entry got.
            let at = self.geometry.offset(block) as u64;
            return Err(Error::NotAllocated { what: "it was freed while it was bound", at });
        }
        let mut change = Change::new(Kind::Mark, block, self.top());
        change.old[0] = entry.unwrap_or(NOWHERE);
        change.new[0].state = state;
        self.record.open(&change);
        self.set_state(block, if state.is_bound() { State::Renamed } else { State::Named });
        Ok(())
    }

    /// Makes an entry the directory's, which the change under way names, by a link that led nowhere.
    pub fn enter_name(&self, entry: u32, link: usize) {
        let taker = Taker::of_one(link, 0);
        let change = Change { taker, ..Change::new(Kind::Enter, entry, self.top()) };
        self.record.open(&change);
        self.settle_name(&change);
        let mut counts = self.words.counts();
        counts.live_count = counts.live_count.wrapping_sub(1);
        self.words.set_counts(counts);
        let size = self.block(entry).map_or(0, |(_, size)| size);
        self.words.set_meta(self.words.meta().saturating_add(size));
    }

    /// Takes an entry out of the directory and frees it.
    pub fn strike_name(&self, struck: Struck) -> Result<()> {
        let Struck { entry, link, heir, block, state } = struck;
        let (leaf, parent) = heir.unwrap_or((NOWHERE, NOWHERE));
        let block = if block < self.top() { block } else { NOWHERE };
        let taker = Taker::of_one(link, 0);
        let old = [block, leaf, parent];
        let mut change = Change { taker, old, ..Change::new(Kind::Strike, entry, self.top()) };
        change.new[0].state = state;
        self.record.open(&change);
        self.settle_name(&change);
        let mut counts = self.words.counts();
        counts.live_count = counts.live_count.wrapping_add(1);
        self.words.set_counts(counts);
        let size = self.live_size(entry)?;
        self.words.set_meta(self.words.meta().saturating_sub(size));
        self.free(entry)
    }

    /// Makes a marked block the root, or none, and the one that was it what it is without that.
    pub fn set_root(&self, block: Option<u32>, old_state: State) {
        let mut change = Change::new(Kind::Root, 0, self.top());
        let old = self.root().filter(|&old| old < self.top());
        change.old = [block.unwrap_or(NOWHERE), old.unwrap_or(NOWHERE), NOWHERE];
        change.new[0].state = old_state;
        self.record.open(&change);
        self.settle_name(&change);
    }

    /// Does what a change says of names, as often as need be; of a [`Kind::Mark`], undoes it.
    pub(super) fn settle_name(&self, change: &Change) {
        let [first, second, third] = change.old;
        match change.kind {
            Kind::Mark => self.set_state(change.at, change.new[0].state),
            Kind::Enter => {
                self.set_own(change.at, State::Meta);
                self.set_link(change.taker.count_at, change.at);
            }
            Kind::Strike => {
                if second != NOWHERE {
                    self.inherit(change.at, second, third);
                }
                self.set_link(change.taker.count_at, second);
                self.set_state(first, change.new[0].state);
                self.set_own(change.at, State::Live);
            }
            Kind::Root => {
                self.words.set_root(Some(first).filter(|&block| block != NOWHERE));
                self.set_state(second, change.new[0].state);
            }
            _ => {}
        }
    }

    /// Leaves no name and no root.
    pub(super) fn forget_names(&self) {
        self.set_link(self.first_link(), NOWHERE);
        self.words.set_root(None);
    }

    /// Gives a leaf the children of the entry whose place it takes, and its parent none in its stead.
    fn inherit(&self, entry: u32, leaf: u32, parent: u32) {
        for child in 0..CHILDREN {
            let link = self.link(parent, child);
            if self.linked(link) == Some(leaf) {
                self.set_link(link, NOWHERE);
            }
        }
        for child in 0..CHILDREN {
            let heritage = self.linked(self.link(entry, child)).unwrap_or(NOWHERE);
            self.set_link(self.link(leaf, child), heritage);
        }
    }

    fn set_link(&self, link: usize, entry: u32) {
        if self.geometry.is_link(link) {
            self.region.store32(link, entry.wrapping_add(1));
        }
    }

    /// Makes a live block one that may be freed, or may not. One that is not live, because somebody
    /// freed it in the very instant in which it was bound, stays what it is; as does one that may be freed
    /// already, and may be in others' hands since.
    fn set_state(&self, block: u32, state: State) {
        if let Some(Entry { state: old, size }) = self.map.read(block, self.top()) {
            let is_known = old.is_bound() || state.is_bound() && old.is_live();
            if is_known && old != state {
                self.map.write(block, Entry { state, size });
            }
        }
    }

    /// Makes a block the pool's own, or a live one again.
    fn set_own(&self, entry: u32, state: State) {
        if let Some(Entry { state: old, size }) = self.map.read(entry, self.top()) {
            if matches!(old, State::Live | State::Meta) && old != state {
                self.map.write(entry, Entry { state, size });
            }
        }
    }
}
