//! The directory: which block each name means. A tree of entries, each of which is a block of the
//! pool's own, for who holds the lock.
//!
//! A name's place follows from its hash (a hash trie: Bagwell, *Ideal Hash Trees*, 2001; with entries
//! in the inner nodes, too). Two bits of it, from the highest down, choose the link to follow at each
//! entry; a new name becomes a leaf where the way ends, by one store. So there is nothing to make
//! room for beforehand, nor to make anew when there are many names.
//!
//! ```text
//! header: first --> entry "queue"   hash 10 01 11 ..
//!                   child 0 -- 1 --> "log"    01 .. ..
//!                         3 --> "stats"  11 00 ..
//!                               child 0 --> "users"  11 00 10 ..
//!
//! entry:  0 child 0..3 | 16 hash (u64), lowest byte: the name's length | 24 block: its granule | 28 sum | 32 name
//! ```
//!
//! All below an entry have the bits in common that led to it. So any leaf below can take the place of
//! an entry that goes. And entries further to the right have greater hashes: they can be visited in
//! that order, each once, with nothing remembered but the last name.
//!
//! The hash is mixed with the pool's number, so that names which collide in one pool don't in another.
//!
//! **Invariants**: each block of the pool's own is an entry, which its name's hash leads to; each link
//! leads nowhere or to an entry whose hash leads to that link; each entry's block is bound; a bound
//! block is *named* if one entry, or the root's word, tells of it, *renamed* if several do.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::hash;
use crate::heap::{Heap, Struck, CHILDREN};
use crate::layout::Geometry;
use crate::map::State;
use crate::region::Region;
use core::cmp::Ordering;

const HASH_AT: usize = 16;
const BLOCK_AT: usize = 24;
const SUM_AT: usize = 28;
const NAME_AT: usize = 32;
/// The longest name in bytes.
pub const NAME_MAX: usize = 255;
/// Bits of the hash that choose a child.
const BITS: u32 = CHILDREN.ilog2();
/// A way is no longer than this: after the hash's last bits there is room for names that have it in
/// common, of which nobody will see three.
const DEPTH_MAX: usize = (u64::BITS / BITS) as usize + 8;
/// So many bound blocks are looked at together.
const BATCH: usize = 512;

/// A name is stored and compared by words.
const WORD: usize = 4;

const _: () = assert!(CHILDREN * crate::layout::LINK_BYTES == HASH_AT);
// The last word lies in the name's block: the granule is a multiple of two words.
const _: () = assert!(NAME_AT % WORD == 0);

/// A name: 1 to 255 bytes, none of them 0.
#[derive(Clone, Copy)]
pub struct Name {
    /// Zero behind the name.
    bytes: [u8; NAME_MAX + 1],
    len: u8,
}

/// How many bytes an entry takes.
pub fn bytes_for(name: &Name) -> usize {
    NAME_AT + name.bytes().len()
}

impl Name {
    /// A name of these bytes, if they can be one.
    pub fn new(bytes: &[u8]) -> Result<Name> {
        if bytes.is_empty() || bytes.len() > NAME_MAX || bytes.contains(&0) {
            return Err(Error::Argument("a name has 1 to 255 bytes, none of them 0"));
        }
        let mut name = Name { bytes: [0; NAME_MAX + 1], len: bytes.len() as u8 };
        name.bytes[..bytes.len()].copy_from_slice(bytes);
        Ok(name)
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// As words, the last of them filled with zeros.
    fn words(&self) -> impl Iterator<Item = u32> + '_ {
        let words = self.bytes.chunks_exact(WORD).take(usize::from(self.len).div_ceil(WORD));
        words.map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
    }

    /// The lowest byte is the length.
    fn hash(&self, seed: u64) -> u64 {
        let hash = hash::fold([seed].into_iter().chain(self.words().map(u64::from)));
        hash & !0xff | u64::from(self.len)
    }
}

/// An entry, as it stands in its block.
#[derive(Clone, Copy)]
pub struct Entry {
    granule: u32,
    hash: u64,
    /// The block that it names.
    pub block: u32,
}

/// What one who looks at all names is shown.
pub struct Shown {
    /// As the entry has it: then a damaged one is not shown for ever.
    hash: u64,
    /// The name.
    pub name: Name,
    /// The block that has it.
    pub block: u32,
}

/// Where a name is, or would be.
struct Place {
    /// Where the link lies that leads to it, or would.
    link: usize,
    /// None if no block has the name.
    entry: Option<Entry>,
}

/// The directory of a pool, for who holds its lock.
#[derive(Clone, Copy)]
pub struct Names<'a> {
    region: &'a Region,
    geometry: &'a Geometry,
    heap: &'a Heap,
    seed: u64,
}

impl<'a> Names<'a> {
    /// The directory of the pool of this number.
    pub fn new(region: &'a Region, geometry: &'a Geometry, heap: &'a Heap, seed: u64) -> Self {
        Names { region, geometry, heap, seed }
    }

    /// The block that has a name; None if none has. O(log names).
    pub fn find(&self, name: &Name) -> Result<Option<u32>> {
        let Some(entry) = self.seek(name)?.entry else { return Ok(None) };
        self.must_be_bound(&entry)?;
        Ok(Some(entry.block))
    }

    /// The link for a name that no block has yet. O(log names).
    pub fn vacancy(&self, name: &Name) -> Result<usize> {
        match self.seek(name)? {
            Place { entry: Some(_), .. } => Err(Error::NameTaken),
            Place { link, .. } => Ok(link),
        }
    }

    /// Granules of an entry for a name.
    pub fn granules_for(&self, name: &Name) -> Result<u32> {
        let bytes = bytes_for(name);
        self.geometry.granules_for(bytes).ok_or(Error::OutOfMemory { size: bytes as u64 })
    }

    /// Makes an entry of a block that is nobody's: a leaf.
    pub fn write(&self, granule: u32, name: &Name, block: u32) {
        let at = self.geometry.offset(granule);
        self.region.fill(at, HASH_AT, 0);
        self.region.store64(at + HASH_AT, name.hash(self.seed));
        self.region.store32(at + BLOCK_AT, block);
        self.region.store32(at + SUM_AT, sum(name.hash(self.seed), block));
        for (place, word) in name.words().enumerate() {
            self.region.store32(at + NAME_AT + place * WORD, word);
        }
    }

    /// Takes a name from its block, and the entry out of the directory. O(log names), and O(names) if
    /// the block has others.
    pub fn strike(&self, name: &Name) -> Result<()> {
        let Place { link, entry } = self.seek(name)?;
        let entry = entry.ok_or(Error::NotFound("no block has this name"))?;
        let heir = self.leaf_below(&entry)?;
        let Entry { block, granule, .. } = entry;
        let state = self.state_without(block, Some(granule))?;
        self.heap.strike_name(Struck { entry: granule, link, heir, block, state })
    }

    /// What a block becomes when it loses one of its names, that of this entry, or is not the root any
    /// more. O(1), and O(names) if it has other names.
    pub fn state_without(&self, block: u32, entry: Option<u32>) -> Result<State> {
        if self.heap.block(block).map(|(state, _)| state) != Some(State::Renamed) {
            return Ok(State::Live);
        }
        let is_root = entry.is_some() && self.heap.root() == Some(block);
        let mut reasons = u32::from(is_root);
        let mut last: Option<Entry> = None;
        loop {
            let is_behind =
                |entry: &Entry| last.is_none_or(|last| self.compare(entry, &last).is_gt());
            let Some(next) = self.next(last.map(|last| last.hash), is_behind)? else { break };
            reasons += u32::from(next.block == block && Some(next.granule) != entry);
            if reasons > 1 {
                return Ok(State::Renamed);
            }
            self.heap.show_progress();
            last = Some(next);
        }
        Ok(if reasons == 1 { State::Named } else { State::Live })
    }

    /// The next name, in order of the hashes: after this one, which need not be there any more.
    /// O(log names).
    pub fn after(&self, last: Option<&Shown>) -> Result<Option<Shown>> {
        let is_behind = |entry: &Entry| {
            last.is_none_or(|last| self.words_of(entry).cmp(last.name.words()).is_gt())
        };
        let Some(next) = self.next(last.map(|last| last.hash), is_behind)? else { return Ok(None) };
        Ok(Some(Shown { hash: next.hash, name: self.name_of(&next)?, block: next.block }))
    }

    /// Verifies the directory against the map, and the map against it. O(map and names log names, and
    /// once more for each [`BATCH`] of bound blocks).
    pub fn check(&self) -> Result<()> {
        self.check_link(self.heap.first_link())?;
        let mut granules = 0;
        for (granule, size) in self.blocks(|state| state == State::Meta) {
            self.check_entry(&self.entry(granule, self.geometry.offset(granule))?)?;
            granules += size;
        }
        if self.heap.meta() != granules {
            return self
                .corrupted("granules of names are not counted right", self.heap.first_link());
        }
        if let Some(root) = self.heap.root() {
            if !self.is_bound(root) {
                return self.corrupted("the root is no block", self.heap.first_link());
            }
        }
        let mut from = 0;
        while self.check_bound(&mut from)? {}
        Ok(())
    }

    fn check_entry(&self, entry: &Entry) -> Result<()> {
        let at = self.geometry.offset(entry.granule);
        let name = self.name_of(entry)?;
        if entry.hash != name.hash(self.seed) {
            return self.corrupted("a name does not match its hash", at);
        }
        let found = self.seek(&name)?.entry;
        if found.is_none_or(|found| found.granule != entry.granule) {
            return self.corrupted("a name that no way leads to", at);
        }
        for child in 0..CHILDREN {
            self.check_link(self.heap.link(entry.granule, child))?;
        }
        self.must_be_bound(entry)
    }

    /// A link leads nowhere, or to an entry whose name leads to that link.
    fn check_link(&self, link: usize) -> Result<()> {
        let Some(entry) = self.follow(link)? else { return Ok(()) };
        if self.seek(&self.name_of(&entry)?)?.link != link {
            return self.corrupted("a link leads to a name that belongs elsewhere", link);
        }
        Ok(())
    }

    /// Each of the next bound blocks has as many names as the map says. False if there are no more.
    fn check_bound(&self, from: &mut u32) -> Result<bool> {
        let (mut blocks, mut reasons, mut count) = ([0; BATCH], [0u32; BATCH], 0);
        for (granule, size) in self.blocks_from(*from, State::is_bound).take(BATCH) {
            blocks[count] = granule;
            count += 1;
            *from = granule + size;
        }
        let blocks = &blocks[..count];
        let mut tell = |block| {
            if let Ok(place) = blocks.binary_search(&block) {
                reasons[place] += 1;
            }
        };
        if count > 0 {
            self.heap.root().map(&mut tell);
            for (granule, _) in self.blocks(|state| state == State::Meta) {
                tell(self.region.load32(self.geometry.offset(granule) + BLOCK_AT));
            }
        }
        for (&block, &reasons) in blocks.iter().zip(&reasons) {
            let is_renamed = self.heap.block(block).map(|(state, _)| state) == Some(State::Renamed);
            if reasons == 0 || is_renamed != (reasons > 1) {
                let what = "a block is bound, but not by as many names as the map tells of";
                return self.corrupted(what, self.geometry.offset(block));
            }
        }
        Ok(count == BATCH)
    }

    /// Goes the way of a name.
    fn seek(&self, name: &Name) -> Result<Place> {
        let hash = name.hash(self.seed);
        let (mut link, mut rest) = (self.heap.first_link(), hash);
        for _ in 0..DEPTH_MAX {
            let Some(entry) = self.follow(link)? else { return Ok(Place { link, entry: None }) };
            if entry.hash == hash && self.words_of(&entry).eq(name.words()) {
                return Ok(Place { link, entry: Some(entry) });
            }
            link = self.heap.link(entry.granule, top_bits(rest));
            rest <<= BITS;
        }
        self.corrupted("names are linked in a circle", link)
    }

    /// The least entry behind one of this hash, in order of hash and name; `is_behind` decides between
    /// two of the same hash. None of a hash: the first of all. The way of the hash passes some that are
    /// greater; of all others, those right of the way's last fork are the least.
    fn next(&self, hash: Option<u64>, is_behind: impl Fn(&Entry) -> bool) -> Result<Option<Entry>> {
        let is_next = |entry: &Entry| match hash {
            Some(hash) => entry.hash > hash || entry.hash == hash && is_behind(entry),
            None => true,
        };
        let mut least = None;
        let mut right = Some(self.heap.first_link());
        if let Some(hash) = hash {
            let (mut link, mut rest) = (self.heap.first_link(), hash);
            right = None;
            for depth in 0.. {
                let Some(entry) = self.follow(link)? else { break };
                if depth == DEPTH_MAX {
                    return self.corrupted("names are linked in a circle", link);
                }
                if is_next(&entry) {
                    least = Some(self.lesser(least, entry));
                }
                let child = top_bits(rest);
                right = self.first_child(entry.granule, child + 1).or(right);
                link = self.heap.link(entry.granule, child);
                rest <<= BITS;
            }
        }
        for _ in 0..DEPTH_MAX {
            let Some(link) = right else { break };
            let Some(entry) = self.follow(link)? else { break };
            least = Some(self.lesser(least, entry));
            right = self.first_child(entry.granule, 0);
        }
        // Of damaged entries one may be met that is no greater: nothing may be visited for ever.
        Ok(least.filter(is_next))
    }

    fn lesser(&self, least: Option<Entry>, entry: Entry) -> Entry {
        least.filter(|least| self.compare(least, &entry).is_lt()).unwrap_or(entry)
    }

    fn compare(&self, one: &Entry, other: &Entry) -> Ordering {
        one.hash.cmp(&other.hash).then_with(|| self.words_of(one).cmp(self.words_of(other)))
    }

    /// Some entry without children below this one, and its parent; None if it has none itself.
    fn leaf_below(&self, entry: &Entry) -> Result<Option<(u32, u32)>> {
        let mut leaf = None;
        let mut granule = entry.granule;
        for _ in 0..DEPTH_MAX {
            let Some(link) = self.first_child(granule, 0) else { return Ok(leaf) };
            let Some(child) = self.follow(link)? else { return Ok(leaf) };
            leaf = Some((child.granule, granule));
            granule = child.granule;
        }
        self.corrupted("names are linked in a circle", self.geometry.offset(entry.granule))
    }

    /// The first of an entry's links, from this one on, that leads somewhere.
    fn first_child(&self, granule: u32, from: usize) -> Option<usize> {
        let links = (from..CHILDREN).map(|child| self.heap.link(granule, child));
        links.into_iter().find(|&link| self.heap.linked(link).is_some())
    }

    /// The entry that a link leads to.
    fn follow(&self, link: usize) -> Result<Option<Entry>> {
        self.heap.linked(link).map(|granule| self.entry(granule, link)).transpose()
    }

    /// The entry in a block, to which something at `from` leads.
    fn entry(&self, granule: u32, from: usize) -> Result<Entry> {
        let none = "the directory of names leads to what is no entry of it";
        let Some((State::Meta, size)) = self.heap.block(granule) else {
            return self.corrupted(none, from);
        };
        let (at, bytes) = (self.geometry.offset(granule), self.geometry.bytes(size));
        if bytes <= NAME_AT {
            return self.corrupted(none, from);
        }
        let hash = self.region.load64(at + HASH_AT);
        let len = usize::from(hash as u8);
        if len == 0 || NAME_AT + len > bytes {
            return self.corrupted("a name of no length that could be", at);
        }
        let block = self.region.load32(at + BLOCK_AT);
        if self.region.load32(at + SUM_AT) != sum(hash, block) {
            return self.corrupted("a name's hash and its block do not match their sum", at);
        }
        Ok(Entry { granule, hash, block })
    }

    /// The name of an entry, by words: as many as its length says that there are.
    fn words_of(&self, entry: &Entry) -> impl Iterator<Item = u32> + 'a {
        let (region, at) = (self.region, self.geometry.offset(entry.granule) + NAME_AT);
        let words = usize::from(entry.hash as u8).div_ceil(WORD);
        (0..words).map(move |place| region.load32(at + place * WORD))
    }

    fn name_of(&self, entry: &Entry) -> Result<Name> {
        let mut name = Name { bytes: [0; NAME_MAX + 1], len: entry.hash as u8 };
        for (place, word) in name.bytes.chunks_exact_mut(WORD).zip(self.words_of(entry)) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        let rest = &name.bytes[usize::from(name.len)..];
        if name.bytes().contains(&0) || rest.iter().any(|&byte| byte != 0) {
            let at = self.geometry.offset(entry.granule);
            return self.corrupted("a name with a byte of 0, or more behind it", at);
        }
        Ok(name)
    }

    fn must_be_bound(&self, entry: &Entry) -> Result<()> {
        if self.is_bound(entry.block) {
            return Ok(());
        }
        let what = "a name of what is no bound block: it was freed as it got the name?";
        self.corrupted(what, self.geometry.offset(entry.granule))
    }

    fn is_bound(&self, block: u32) -> bool {
        self.heap.block(block).is_some_and(|(state, _)| state.is_bound())
    }

    /// The blocks in such a state: first granule and size.
    fn blocks(&self, is: fn(State) -> bool) -> impl Iterator<Item = (u32, u32)> + 'a {
        self.blocks_from(0, is)
    }

    fn blocks_from(
        &self,
        from: u32,
        is: fn(State) -> bool,
    ) -> impl Iterator<Item = (u32, u32)> + 'a {
        let heap = self.heap;
        let (mut at, top) = (from, heap.top());
        core::iter::from_fn(move || loop {
            let granule = heap.map().next_start(at, top)?;
            let (state, size) = heap.block(granule).unwrap_or((State::Free, 1));
            at = granule + size;
            heap.show_progress();
            if is(state) {
                return Some((granule, size));
            }
        })
    }

    fn corrupted<T>(&self, what: &'static str, at: usize) -> Result<T> {
        Err(Error::Corrupted { what, at: at as u64 })
    }
}

/// The child that a hash chooses, of which some bits are used up.
fn top_bits(rest: u64) -> usize {
    (rest >> (u64::BITS - BITS)) as usize
}

/// Over what an entry says but for its links and the name, of which the hash tells.
fn sum(hash: u64, block: u32) -> u32 {
    hash::fold([hash, block.into()]) as u32
}
