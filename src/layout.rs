//! Where everything lies in the buffer, and the header that says so.
//!
//! ```text
//! buffer                                                                          end
//! |  start                                                                          |
//! v  v                                                                              v
//! +--+-+--------+------+-------+--------+---------+-----------+-------------+--+--------+-+
//! |  |.| header | bins | depot | caches | shelves | magazines | granule map |..| blocks |.|
//! +--+-+--------+------+-------+--------+---------+-----------+-------------+--+--------+-+
//!    |<------------------------ overhead ------------------------>|  ^first     ^top
//! ```
//!
//! Depot, caches and magazines are there in pools of 256 KiB and more, unless the options forbid
//! them. They take a 25th of the pool at most, and no memory until they are used. Shelves are there in
//! pools of 18 MiB and more (of granules of 16 bytes), one for each wide class that has any. With
//! [`options::OWNER_TAGS`] owners lie before the granule map, and their tags behind it.
//!
//! The header starts at the first address divisible by 8, the granules at one divisible by
//! min(align, 4096); both depend on where the buffer lies, so a pool can be mapped anywhere at
//! the same residue. All numbers are little-endian.
//!
//! ```text
//! header      0 magic            the layout below is complete
//!             8 version, machine what can read it
//!            16 checksum         of version .. options, by a fold of its words
//!            24 pool id          random, new at each init
//!            32 start, end       the region, as offsets
//!            48 min_split
//!            56 flags, max_threads
//!            64 residue, log2 of align
//!    --- so far written once; from here on it changes ---
//!            72 lock             low half the futex word, high half the boot it belongs to
//!            80 namespace, turn  where the numbers in the lock's word mean threads; its owners so far
//!            88 counters         rejected frees, failed allocations, recoveries
//!           112 heap             top, watermark; live and free blocks, free granules, loose blocks, hand
//!           140 record           the change under way: which slot, two slots
//!           240 depot            hoard, magazines ever bound, first idle magazine
//!           252 names            the directory's first entry, the root block, granules of entries
//!           264 caches           how many were ever claimed
//!           268 shelves          whether they were ever used
//!           272 first            the thread that has waited for long and goes first, if one does
//!           280 ...              the bins
//! ```
#![forbid(unsafe_code)]

use crate::class;
use crate::error::{Error, Result};
use crate::hash;
use crate::options::{self, Options};
use crate::region::Region;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed};

/// The first word of a pool whose layout is complete: "mempool" and a byte no text has.
pub const MAGIC: u64 = u64::from_le_bytes(*b"mempool\x9d");
/// The first word while a pool is being made. Far from the magic: a bit that tipped over must not make
/// a pool one that may be formatted.
pub const FORMATTING: u64 = u64::from_le_bytes(*b"formats\x9c");
const _: () = assert!((MAGIC ^ FORMATTING).count_ones() > 8 && FORMATTING.count_ones() > 8);
/// Changes whenever any byte of the layout changes its meaning.
pub const VERSION: u32 = 5;

const VERSION_AT: usize = 8;
const MACHINE_AT: usize = 12;
const CHECKSUM_AT: usize = 16;
const ID_AT: usize = ID_OFFSET;
const START_AT: usize = 32;
const END_AT: usize = 40;
const MIN_SPLIT_AT: usize = 48;
const FLAGS_AT: usize = 56;
const MAX_THREADS_AT: usize = 60;
const RESIDUE_AT: usize = 64;
const ALIGN_LOG2_AT: usize = 68;
/// Where the pool's number lies.
pub const ID_OFFSET: usize = 24;
/// Where the lock lies, in bytes from the header's first.
pub const LOCK_OFFSET: usize = 72;
/// Where the lock's namespace lies.
pub const NAMESPACE_OFFSET: usize = 80;
/// Where the lock's turn lies: it changes with each owner.
pub const TURN_OFFSET: usize = 84;
/// Where the count of refused frees lies.
pub const REJECTED_OFFSET: usize = 88;
/// Where the count of failed allocations lies.
pub const FAILED_OFFSET: usize = 96;
/// Where the count of recoveries lies.
pub const RECOVERIES_OFFSET: usize = 104;
/// Where the heap's words lie.
pub const HEAP_OFFSET: usize = 112;
/// Where the depot's words lie.
pub const DEPOT_OFFSET: usize = 240;
/// Where the count of caches ever claimed lies: not beside the hoard, which threads change without
/// the lock.
pub const CACHES_OFFSET: usize = 264;
/// Where the record of the change under way lies: so that the lock, the heap's words and the first
/// slot, of which most changes need no more, share two cache lines.
pub const RECORD_OFFSET: usize = 140;
/// Where the names' words lie.
pub const NAMES_OFFSET: usize = 252;
/// Where it says whether shelves were ever used: until then their bytes mean nothing.
pub const SHELVES_OFFSET: usize = 268;
/// Where it stands which thread the lock is left to next.
pub const FIRST_OFFSET: usize = 272;
/// The header's length in bytes; the bins follow.
pub const HEADER_BYTES: usize = 280;
/// The header as words of 32 bits, and of 64.
pub type Header32 = [AtomicU32; HEADER_BYTES / 4];
/// See [`Header32`].
pub type Header64 = [AtomicU64; HEADER_BYTES / 8];

/// Smaller regions have no thread caches.
pub const CACHED_REGION_MIN: usize = 256 << 10;
/// A thread cache's entry in the table of caches.
pub const CACHE_BYTES: usize = 16;
/// A magazine's: four lines.
pub const MAGAZINE_BYTES: usize = 256;
/// Where in a magazine the count of its blocks lies.
pub const COUNT_AT: usize = 8;
/// Where in a magazine its blocks' granules lie.
pub const ITEMS_AT: usize = 16;
/// Stands in a magazine where no block does.
pub const NO_BLOCK: u32 = u32::MAX;
/// The blocks a magazine has room for.
pub const MAGAZINE_ITEMS: u32 = 60;
/// Magazines take this part of the region; more of a small one, up to so many.
const MAGAZINES_SHARE: usize = 256;
const MAGAZINES_SHARE_SMALL: usize = 64;
const MAGAZINES_SMALL: usize = 256;
/// The table of caches takes this part at most, and one cache is made for so many bytes.
const CACHES_SHARE: usize = 64;
const CACHE_REGION: usize = 64 << 10;
const MAGAZINES_MAX: usize = 1 << 16;
const CACHES_MAX: usize = (1 << 12) - 2;
/// Thread caches at most, in pools that were not asked for more.
const CACHES_DEFAULT: usize = 256;
/// What caches and depot hold together is at most an eighth of the region.
const HOARD_SHARE: usize = 8;
/// A magazine's blocks are at most this part of the hoard.
const MAGAZINE_SHARE: u32 = 8;
/// A shelf has room for so many blocks at least, and for more in a large pool: one for so many bytes.
pub const SHELF_SLOTS_MIN: usize = 64;
const SHELF_SLOTS_MAX: usize = 512;
const SHELF_REGION: usize = 2 << 20;
/// A block on a shelf is at most this part of the hoard.
const SHELF_SHARE: u32 = 32;
/// Two words of 64 bits for each class: full magazines, empty ones.
const DEPOT_BYTES: usize = class::COUNT as usize * 16;

/// An owner of blocks.
pub const OWNER_BYTES: usize = 24;
/// They take this part of the region, but for a few in small pools; a tag of one byte names them.
const OWNERS_SHARE: usize = 64;
const OWNERS_MIN: usize = 8;
const OWNERS_MAX: usize = 254;

/// A word that leads to an entry of the directory of names.
pub const LINK_BYTES: usize = 4;
/// What lies behind the bytes of a guarded block at least: see `guard`.
pub const GUARD_BYTES: usize = 16;

/// A word of the caller's in which a block's offset is delivered.
pub const SLOT_BYTES: usize = 8;

/// A pool as long as this has no larger number of granules than a link can name.
const GRANULES_MAX: u64 = u32::MAX as u64 - 1;
/// Blocks are aligned by address up to a page, beyond that by offset.
const ADDRESS_ALIGN_MAX: usize = 4096;
const ALIGN_MAX: usize = 65_536;
const DEFAULT: usize = 16;

/// Which machines can share a pool: the architecture, the width of a pointer, and the C library
/// whose threads the lock's word names.
const MACHINE: u32 = {
    let architecture = if cfg!(target_arch = "x86_64") { 1 } else { 2 };
    let library = if cfg!(target_env = "musl") { 2 } else { 1 };
    architecture | (usize::BITS << 8) | (library << 16)
};

/// Where everything lies: computed from options and the buffer's place, never read from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// First byte of the region.
    pub start: usize,
    /// One past its last.
    pub end: usize,
    /// log2 of the granule's bytes.
    pub align_log2: u32,
    /// The least remainder in bytes worth a block.
    pub min_split: usize,
    /// As in [`options`].
    pub flags: u32,
    /// As asked for.
    pub max_threads: u32,
    /// The buffer's address modulo min(align, 4096).
    pub residue: usize,
    /// Offset of the header.
    pub header: usize,
    /// log2 of the bins to a doubling.
    pub bin_log2: u32,
    /// How many bins there are.
    pub bin_count: u32,
    /// Offset of the depot.
    pub depot: usize,
    /// The most granules that caches and depot may hold together.
    pub hoard_max: u32,
    /// How many thread caches there can be.
    pub caches: u32,
    /// Offset of the first.
    pub cache: usize,
    /// How many wide classes have a shelf: the smallest ones.
    pub shelves: u32,
    /// Offset of the first.
    pub shelf: usize,
    /// For how many blocks each has room: a power of two.
    pub shelf_slots: usize,
    /// How many magazines there can be.
    pub magazines: u32,
    /// Offset of the first.
    pub magazine: usize,
    /// How many owners of blocks there can be; 0 if the pool does not know them.
    pub owners: u32,
    /// Offset of the first.
    pub owner: usize,
    /// Offset of the map.
    pub map: usize,
    /// Offset of the tags, one for each granule, if there are owners.
    pub tags: usize,
    /// Offset of the first block.
    pub first: usize,
    /// How many granules there are.
    pub granules: u32,
}

impl Geometry {
    /// The geometry of a pool with these options in a buffer of `len` bytes at `address`.
    pub fn plan(address: usize, len: usize, options: &Options) -> Result<Geometry> {
        let mut asked = Geometry::asked(options)?;
        if len > isize::MAX as usize {
            return Err(Error::Argument("no buffer is as long as this"));
        }
        if options.end != 0 && options.end <= options.start {
            return Err(Error::Argument("end must lie behind start, or be 0 for the buffer's"));
        }
        asked.end = if options.end == 0 { len } else { options.end.min(len) };
        asked.residue = address % asked.address_align();
        asked.complete().map_err(|misfit| match misfit {
            Misfit::Small => Error::TooSmall {
                len: asked.end.saturating_sub(asked.start) as u64,
                needed: asked.least_len().saturating_sub(asked.start) as u64,
            },
            Misfit::Large(needed) => Error::TooLarge { align: asked.align() as u64, needed },
        })
    }

    /// What the options alone decide.
    fn asked(options: &Options) -> Result<Geometry> {
        Ok(Geometry {
            start: options.start,
            end: 0,
            align_log2: granule(options)?.ilog2(),
            min_split: min_split(options)?,
            flags: flags(options)?,
            max_threads: options.max_threads,
            residue: 0,
            header: 0,
            bin_log2: 0,
            bin_count: 0,
            depot: 0,
            hoard_max: 0,
            caches: 0,
            cache: 0,
            shelves: 0,
            shelf: 0,
            shelf_slots: 0,
            magazines: 0,
            magazine: 0,
            owners: 0,
            owner: 0,
            map: 0,
            tags: 0,
            first: 0,
            granules: 0,
        })
    }

    /// Fills in what follows from the rest.
    fn complete(mut self) -> core::result::Result<Geometry, Misfit> {
        let align = self.align();
        // Then no sum below can be too large for a number.
        if self.start >= self.end {
            return Err(Misfit::Small);
        }
        self.header = header_at(self.residue, self.start).ok_or(Misfit::Small)?;
        let bins = self.header.checked_add(HEADER_BYTES).ok_or(Misfit::Small)?;
        // Granules end at the last boundary before `end`; each needs its bytes and one of map.
        let last = (self.end + self.residue) / align * align;
        let last = last.saturating_sub(self.residue);
        self.reserve();
        let reserved = if self.caches == 0 {
            0
        } else {
            DEPOT_BYTES
                + 64
                + self.caches as usize * CACHE_BYTES
                + self.shelves as usize * self.shelf_bytes()
                + self.magazines as usize * MAGAZINE_BYTES
        };
        let owners = self.owners as usize * OWNER_BYTES;
        let tag = usize::from(self.owners > 0);
        let at_most = (last.saturating_sub(bins + reserved + owners) / (align + 1 + tag)) as u64;
        if at_most > GRANULES_MAX {
            let needed = (align as u64 * (at_most / GRANULES_MAX + 1)).next_power_of_two();
            return Err(Misfit::Large(needed));
        }
        self.bin_log2 = bin_log2(at_most as u32);
        self.bin_count = bin_of((at_most as u32).max(1), self.bin_log2) + 1;
        self.depot = bins + self.bins_bytes();
        self.map = self.depot;
        if self.caches > 0 {
            // At a line's start, in a buffer that starts at one.
            self.cache = self.depot + DEPOT_BYTES;
            let shelf = self.cache + self.caches as usize * CACHE_BYTES;
            self.shelf = (shelf + self.residue).next_multiple_of(64) - self.residue;
            self.magazine = self.shelf + self.shelves as usize * self.shelf_bytes();
            self.map = self.magazine + self.magazines as usize * MAGAZINE_BYTES;
        }
        self.owner = self.map;
        self.map += owners;
        let granules = last.saturating_sub(self.map) / (align + 1 + tag);
        // One byte can be had at least, with its guard.
        if granules < (1 + self.guard()).div_ceil(align) {
            return Err(Misfit::Small);
        }
        self.granules = granules as u32;
        self.tags = self.map + granules;
        self.first = last - granules * align;
        Ok(self)
    }

    /// How many thread caches and magazines the pool can have.
    fn reserve(&mut self) {
        let region = self.end.saturating_sub(self.start);
        self.hoard_max = ((region / HOARD_SHARE) >> self.align_log2).min(u32::MAX as usize) as u32;
        if self.has(options::OWNER_TAGS) {
            self.owners =
                (region / OWNERS_SHARE / OWNER_BYTES).clamp(OWNERS_MIN, OWNERS_MAX) as u32;
        }
        // What looks for mistakes does so under the lock, at each call.
        let checked = options::GUARD | options::FILL_FREED;
        let plain = options::NO_THREAD_CACHES | options::NO_COMPACT | options::NO_SPLIT | checked;
        if self.has(plain) || region < CACHED_REGION_MIN {
            return;
        }
        let wanted = match self.max_threads {
            0 => (region / CACHE_REGION).min(CACHES_DEFAULT),
            threads => (threads as usize).min(region / CACHES_SHARE / CACHE_BYTES),
        };
        self.caches = wanted.min(CACHES_MAX) as u32;
        let few = (region / MAGAZINES_SHARE_SMALL / MAGAZINE_BYTES).min(MAGAZINES_SMALL);
        let magazines = (region / MAGAZINES_SHARE / MAGAZINE_BYTES).clamp(few, MAGAZINES_MAX);
        self.magazines = magazines as u32;
        if self.rounds_max(0) == 0 {
            (self.caches, self.magazines) = (0, 0);
        }
        let shelved = (0..class::WIDE_COUNT).take_while(|&wide| self.suits_a_shelf(wide));
        self.shelves = shelved.count() as u32;
        let slots = (region / SHELF_REGION).clamp(SHELF_SLOTS_MIN, SHELF_SLOTS_MAX);
        self.shelf_slots = slots.next_power_of_two();
    }

    /// A shelf is a word of 64 bits for each block.
    fn shelf_bytes(&self) -> usize {
        self.shelf_slots * 8
    }

    fn suits_a_shelf(&self, wide: u8) -> bool {
        self.caches > 0 && class::wide_size(wide) <= self.hoard_max / SHELF_SHARE
    }

    /// How many blocks of a class a magazine takes at most: fewer of larger ones; 0 if the class
    /// is too large to be cached.
    pub fn rounds_max(&self, class: u8) -> u32 {
        if !self.is_cached(class) {
            return 0;
        }
        (self.hoard_max / MAGAZINE_SHARE / class::size(class)).min(MAGAZINE_ITEMS)
    }

    /// Whether a magazine may take so many blocks of a class. Without a division.
    pub fn has_rounds(&self, class: u8, rounds: u32) -> bool {
        self.is_cached(class)
            && rounds <= MAGAZINE_ITEMS
            && rounds * class::size(class) <= self.hoard_max / MAGAZINE_SHARE
    }

    /// Whether blocks of a class are cached: two at least fit into a magazine.
    pub fn is_cached(&self, class: u8) -> bool {
        self.caches > 0 && 2 * class::size(class) <= self.hoard_max / MAGAZINE_SHARE
    }

    /// The wide class of blocks for so many granules, if it has a shelf.
    pub fn shelved(&self, granules: u32) -> Option<u8> {
        class::wide_at_least(granules).filter(|&wide| u32::from(wide) < self.shelves)
    }

    /// Offset of a wide class's shelf.
    pub fn shelf_at(&self, wide: u8) -> usize {
        self.shelf + usize::from(wide) * self.shelf_bytes()
    }

    /// Offset of a magazine.
    pub fn magazine_at(&self, magazine: u32) -> usize {
        self.magazine + magazine as usize * MAGAZINE_BYTES
    }

    /// Whether the count of a magazine lies at this offset.
    pub fn is_count(&self, at: usize) -> bool {
        let inside = at.wrapping_sub(self.magazine + COUNT_AT);
        inside / MAGAZINE_BYTES < self.magazines as usize && inside % MAGAZINE_BYTES == 0
    }

    /// Whether a word of a block can lie at this offset.
    pub fn is_slot(&self, at: usize) -> bool {
        let last = self.offset(self.granules) - SLOT_BYTES;
        (self.first..=last).contains(&at) && (self.residue + at) % SLOT_BYTES == 0
    }

    /// Whether a word that leads to an entry of the directory can lie at this offset: the header's,
    /// or one in a block.
    pub fn is_link(&self, at: usize) -> bool {
        let last = self.offset(self.granules) - LINK_BYTES;
        let is_inside = (self.first..=last).contains(&at);
        at == self.word(NAMES_OFFSET) || is_inside && (self.residue + at) % LINK_BYTES == 0
    }

    /// Bytes of the bins: a bitmap, then a word for each.
    fn bins_bytes(&self) -> usize {
        self.bitmap_words() as usize * 8 + (self.bin_count as usize * 4).next_multiple_of(8)
    }

    /// How many words of 64 bits the bins' bitmap has.
    pub fn bitmap_words(&self) -> u32 {
        self.bin_count.div_ceil(64)
    }

    /// Offset of the bins' bitmap.
    pub fn bitmap(&self) -> usize {
        self.header + HEADER_BYTES
    }

    /// Offset of the first bin.
    pub fn bins(&self) -> usize {
        self.bitmap() + self.bitmap_words() as usize * 8
    }

    /// Bytes of a granule.
    pub fn align(&self) -> usize {
        1 << self.align_log2
    }

    /// What the addresses of all blocks are multiples of: of a larger granule only their offsets are.
    pub fn address_align(&self) -> usize {
        self.align().min(ADDRESS_ALIGN_MAX)
    }

    /// Whether one of the flags of [`options`] is set.
    pub fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// Offset of a granule.
    pub fn offset(&self, granule: u32) -> usize {
        self.first + ((granule as usize) << self.align_log2)
    }

    /// Bytes of this many granules.
    pub fn bytes(&self, granules: u32) -> usize {
        (granules as usize) << self.align_log2
    }

    /// Bytes at the end of each block that are its guard; 0 in pools without.
    pub fn guard(&self) -> usize {
        if self.has(options::GUARD) {
            GUARD_BYTES
        } else {
            0
        }
    }

    /// Granules that hold this many bytes, and their guard; None if no block could.
    pub fn granules_for(&self, bytes: usize) -> Option<u32> {
        let granules = bytes.checked_add(self.guard())?.div_ceil(self.align());
        u32::try_from(granules).ok().filter(|&granules| granules <= self.granules)
    }

    /// Offset of a word of the header.
    pub fn word(&self, offset: usize) -> usize {
        self.header + offset
    }

    /// The least buffer that holds one granule at any residue, with this start.
    fn least_len(&self) -> usize {
        let align = self.align();
        let fits =
            |end: usize, residue: usize| Geometry { end, residue, ..*self }.complete().is_ok();
        // The worst residues leave most behind the last granule; eight of them in a row meet
        // every distance of the header to its word.
        let fits_anywhere = |len: usize| {
            let residues = align.min(ADDRESS_ALIGN_MAX);
            let worst = align.wrapping_sub(1).wrapping_sub(len) % align;
            (0..8).all(|k| {
                let residue = worst.wrapping_sub(k) % align;
                fits(len, if residue < residues { residue } else { residues - 1 - k })
            })
        };
        // One granule, its byte of the map, what alignment may cost, and the fewest bins. More is
        // never worse, so the least is found by halving.
        let mut too_short = self.start.saturating_add(HEADER_BYTES);
        let owners = if self.has(options::OWNER_TAGS) { OWNERS_MIN * OWNER_BYTES + 1 } else { 0 };
        let mut enough = too_short.saturating_add(2 * align + 2 * self.guard() + 256 + owners);
        if enough > isize::MAX as usize || !fits_anywhere(enough) {
            return usize::MAX;
        }
        while enough - too_short > 1 {
            let len = too_short + (enough - too_short) / 2;
            *(if fits_anywhere(len) { &mut enough } else { &mut too_short }) = len;
        }
        enough
    }

    /// Writes the part of the header that never changes, but for the magic.
    pub fn write(&self, region: &Region, id: u64) {
        let at = |offset| self.word(offset);
        region.store32(at(VERSION_AT), VERSION);
        region.store32(at(MACHINE_AT), MACHINE);
        region.store64(at(ID_AT), id);
        region.store64(at(START_AT), self.start as u64);
        region.store64(at(END_AT), self.end as u64);
        region.store64(at(MIN_SPLIT_AT), self.min_split as u64);
        region.store32(at(FLAGS_AT), self.flags);
        region.store32(at(MAX_THREADS_AT), self.max_threads);
        region.store32(at(RESIDUE_AT), self.residue as u32);
        region.store32(at(ALIGN_LOG2_AT), self.align_log2);
        region.store64(at(CHECKSUM_AT), checksum(region, self.header));
    }

    /// Whether the header still says what this geometry was made from.
    pub fn still_written(&self, region: &Region) -> bool {
        read_header(region, self.header).is_ok_and(|header| header.geometry == *self)
    }
}

/// Why a region holds no pool.
enum Misfit {
    Small,
    /// The granule that would do.
    Large(u64),
}

/// What a header says.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// Where everything lies.
    pub geometry: Geometry,
    /// Which pool this is.
    pub id: u64,
}

/// Offset of the header in a buffer that lies at `address`, were there one.
pub fn header_at(address: usize, start: usize) -> Option<usize> {
    start.checked_add(address.wrapping_add(start).wrapping_neg() % 8)
}

/// Finds, validates and reads the header of the pool in a buffer.
pub fn find(region: &Region, start: usize) -> Result<Header> {
    let header = header_at(region.address(), start)
        .filter(|&at| at.saturating_add(HEADER_BYTES) <= region.len())
        .ok_or(Error::NotAPool("the buffer is too short to hold one"))?;
    // Acquire: whoever sees the magic sees the header that it completes.
    match region.word64(header).map_or(0, |magic| magic.load(Acquire)) {
        MAGIC => {}
        FORMATTING => return Err(Error::NotAPool("its init has not finished: init it again")),
        _ if is_misplaced(region, start) => return Err(MISPLACED),
        _ => return Err(Error::NotAPool("no header at the start of the buffer: init it first")),
    }
    find_at(region, header)
}

/// The header of a pool that ends because another is made in its place, or that ended; whatever its
/// magic, for who ended it may have died over that.
pub fn find_remains(region: &Region, start: usize) -> Option<Header> {
    let header = header_at(region.address(), start)
        .filter(|&at| at.saturating_add(HEADER_BYTES) <= region.len())?;
    find_at(region, header).ok()
}

/// Reads and validates a header that lies there, whatever its magic.
fn find_at(region: &Region, header: usize) -> Result<Header> {
    let found = read_header(region, header)?;
    let geometry = found.geometry;
    let residue = region.address() % geometry.address_align();
    if geometry.residue != residue || geometry.header != header {
        return Err(MISPLACED);
    }
    if geometry.end > region.len() {
        let (len, needed) = (region.len() as u64, geometry.end as u64);
        return Err(Error::Truncated { len, needed });
    }
    Ok(found)
}

const MISPLACED: Error =
    Error::Incompatible("mapped at another residue of align: map it as it was when it was made");

/// Whether a header lies where another residue of the mapping would put it.
fn is_misplaced(region: &Region, start: usize) -> bool {
    let Some(last) = region.len().checked_sub(HEADER_BYTES) else { return false };
    let mut places = (start..start.saturating_add(8)).take_while(|&at| at <= last);
    places.any(|at| region.load64_bytewise(at) == MAGIC)
}

/// Reads the header at an offset whose magic was seen; checks all it says against itself.
pub fn read_header(region: &Region, header: usize) -> Result<Header> {
    let word = |at: usize| region.load64(header + at);
    let half = |at: usize| region.load32(header + at);
    if half(VERSION_AT) != VERSION {
        return Err(Error::Incompatible(
            "made by a library with another layout version: use that version, or make the pool anew",
        ));
    }
    if half(MACHINE_AT) != MACHINE {
        return Err(Error::Incompatible(
            "made on another architecture, pointer width or C library: share it among programs of one kind",
        ));
    }
    let what = "the header does not match its checksum: make the pool anew";
    let corrupted = Error::Corrupted { what, at: header as u64 };
    if word(CHECKSUM_AT) != checksum(region, header) {
        return Err(corrupted);
    }
    let geometry = (|| {
        let options = Options {
            start: usize::try_from(word(START_AT)).ok()?,
            end: usize::try_from(word(END_AT)).ok()?,
            align: 1usize.checked_shl(half(ALIGN_LOG2_AT))?,
            min_split: usize::try_from(word(MIN_SPLIT_AT)).ok()?,
            flags: half(FLAGS_AT),
            max_threads: half(MAX_THREADS_AT),
        };
        Geometry::plan(half(RESIDUE_AT) as usize, options.end, &options).ok()
    })();
    let geometry = geometry.ok_or(corrupted)?;
    Ok(Header { geometry, id: word(ID_AT) })
}

/// Whether the pool of this number is the one whose header this is.
#[inline]
pub fn names(header: &Header64, id: u64) -> bool {
    header[0].load(Relaxed) == MAGIC && header[ID_AT / 8].load(Relaxed) == id
}

/// Over everything between the checksum and the words that change, and the version before it.
fn checksum(region: &Region, header: usize) -> u64 {
    let words = [VERSION_AT].into_iter().chain((ID_AT..LOCK_OFFSET).step_by(8));
    hash::fold(words.map(|at| region.load64(header + at)))
}

/// The least buffer length for these options, at any address.
pub fn min_len(options: &Options) -> Result<usize> {
    let least = Geometry::asked(options)?.least_len();
    let is_possible = least <= isize::MAX as usize;
    is_possible.then_some(least).ok_or(Error::Argument("no buffer is as long as this start asks"))
}

fn granule(options: &Options) -> Result<usize> {
    let align = if options.align == 0 { DEFAULT } else { options.align };
    if align.is_power_of_two() && (8..=ALIGN_MAX).contains(&align) {
        Ok(align)
    } else {
        Err(Error::Argument("align must be a power of two from 8 to 65536, or 0 for 16"))
    }
}

fn min_split(options: &Options) -> Result<usize> {
    match options.min_split {
        0 => Ok(DEFAULT),
        1..=8 => Err(Error::Argument("min_split must be more than 8, or 0 for 16")),
        bytes => Ok(bytes),
    }
}

fn flags(options: &Options) -> Result<u32> {
    const KNOWN: u32 = options::NO_COMPACT
        | options::NO_SPLIT
        | options::ZEROED
        | options::NO_THREAD_CACHES
        | options::GUARD
        | options::FILL_FREED
        | options::OWNER_TAGS;
    if options.flags & !KNOWN != 0 {
        return Err(Error::Argument("flags has a bit that this version does not know"));
    }
    Ok(options.flags)
}

/// Finer bins where there is room for them: log2 of the bins to a doubling.
fn bin_log2(granules: u32) -> u32 {
    match granules {
        0..1024 => 2,
        1024..16_384 => 3,
        16_384..262_144 => 4,
        _ => 5,
    }
}

/// The bin of a size: one for each size up to two doublings' worth, then 2^log2 a doubling (two-level
/// segregated fit; Masmano, Ripoll, Crespo, Real 2004), numbered in order of size.
pub fn bin_of(size: u32, log2: u32) -> u32 {
    debug_assert!(size > 0);
    let doubling = size.max(1).ilog2().saturating_sub(log2);
    (doubling << log2) + (size >> doubling)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_are_in_order_of_size_and_leave_no_gap() {
        for log2 in [2, 3, 4] {
            let mut last = 0;
            for size in 1..20_000 {
                let bin = bin_of(size, log2);
                assert!(bin == last || bin == last + 1, "size {size}");
                last = bin;
            }
            assert!(bin_of(u32::MAX, log2) > last);
        }
    }

    #[test]
    fn nothing_overlaps_and_all_is_aligned() {
        for align in [8, 16, 64, 4096, 65_536] {
            for residue in [0, 1, 7, 8, 15, 63, 4095] {
                for len in (0..2000).step_by(3).chain((3..40).map(|k| k * 65_521)) {
                    for start in [0, 5, 333] {
                        let options = Options { start, align, ..Options::default() };
                        let Ok(g) = Geometry::plan(residue, len, &options) else { continue };
                        assert!(g.start <= g.header && g.header < g.start + 8);
                        assert_eq!((residue + g.header) % 8, 0);
                        assert!(g.bins() + g.bin_count as usize * 4 <= g.map);
                        assert!(bin_of(g.granules, g.bin_log2) < g.bin_count);
                        assert!(g.map + g.granules as usize <= g.first);
                        assert_eq!((g.owners, g.owner), (0, g.map), "nothing for owners");
                        let hoard = (g.hoard_max as usize) << g.align_log2;
                        assert!(hoard * 8 <= g.end - g.start, "an eighth may be cached");
                        let owned = Options { flags: options::OWNER_TAGS, ..options };
                        let Ok(g) = Geometry::plan(residue, len, &owned) else { continue };
                        assert_eq!((residue + g.owner) % 8, 0);
                        assert!(g.owners >= 8 && g.bins() + g.bin_count as usize * 4 <= g.owner);
                        assert!(g.owner + g.owners as usize * OWNER_BYTES <= g.map);
                        assert!(g.map + g.granules as usize <= g.tags);
                        assert!(g.tags + g.granules as usize <= g.first);
                        assert!(g.offset(g.granules) <= g.end);
                        assert!(g.end - g.offset(g.granules) < align, "nothing wasted behind");
                        assert_eq!((g.residue + g.first) % align, 0);
                    }
                }
            }
        }
    }

    #[test]
    fn the_least_length_is_enough_everywhere_and_one_less_is_not() {
        for align in [0, 8, 16, 32, 128, 1024, 4096, 16_384, 65_536] {
            let (owned, guarded) = (options::OWNER_TAGS, options::GUARD);
            let all = [(0, 0), (1, 0), (4, 0), (100, 0), (0, owned), (0, guarded), (3, guarded)];
            for (start, flags) in all {
                let options = Options { start, align, flags, ..Options::default() };
                let len = min_len(&options).unwrap();
                let plan = |len, residue| Geometry::plan(residue, len, &options);
                let at = |len, residue| {
                    let plan = plan(len, residue);
                    plan.is_ok_and(|plan| plan.granules_for(1).is_some())
                };
                assert!((0..4096).all(|residue| at(len, residue)), "align {align} start {start}");
                assert!(!(0..4096).all(|residue| at(len - 1, residue)), "align {align}");
            }
        }
    }

    #[test]
    fn what_no_pool_can_be_is_refused() {
        let plan = |options: &Options| Geometry::plan(0, 1 << 20, options);
        for align in [1, 2, 4, 12, 24, 131_072, usize::MAX] {
            assert!(plan(&Options { align, ..Options::default() }).is_err());
        }
        for min_split in 1..=8 {
            assert!(plan(&Options { min_split, ..Options::default() }).is_err());
        }
        for start in [1 << 20, usize::MAX, usize::MAX - 7, (1 << 20) - 100] {
            assert!(plan(&Options { start, ..Options::default() }).is_err());
        }
        let huge = Geometry::plan(0, 1 << 40, &Options::default());
        assert_eq!(huge, Err(Error::TooLarge { align: 16, needed: 256 }));
        assert!(Geometry::plan(0, 1 << 40, &Options { align: 256, ..Options::default() }).is_ok());
    }
}
