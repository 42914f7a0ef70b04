//! Names and guards: calls that use them, and damage to what they consist of. Entries of the
//! directory with other blocks, links to other entries, tails that tell of another length: each with
//! what makes the library believe it.

use super::World;
use ::mempool::abi::*;
use ::mempool::layout::NAMES_OFFSET;
use mempool_fuzz::handle::Block;
use mempool_fuzz::names::name;
use mempool_fuzz::{hash, Handle};

/// Of an entry; as in src/heap/name.rs and src/names.rs.
const CHILDREN: usize = 4;
const HASH_AT: usize = 16;
const BLOCK_AT: usize = 24;
const SUM_AT: usize = 28;
/// Of a guard; as in src/guard.rs.
const GUARD_BYTES: usize = ::mempool::layout::GUARD_BYTES;
const TAIL_BYTES: usize = 8;
const TAIL_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

impl World {
    /// A call that is about names or the root, or damage to them.
    pub fn name(&mut self, pool: Handle, block: *mut u8) {
        let (how, number) = (self.input.u8(), self.input.u8());
        let (name, many) = (name(number), usize::from(how >> 4) * 3);
        let _ = match how & 15 {
            0..=2 => pool.bind(&name, block),
            3 => {
                let names = (0..many).map(|more| self::name(number ^ more as u8));
                names.for_each(|name| _ = pool.bind(&name, block));
                Ok(())
            }
            4 => pool.find(&name).map(|found| self.must_be_inside(pool, found)),
            5 => pool.unbind(&name),
            6 => pool.unbind_from(&name, block),
            7 => self.see_names(pool, None),
            8 => self.see_names(pool, Some(1 + many)),
            9 => pool.set_root(block),
            10 if how & 0x30 == 0 => pool.set_root(std::ptr::null()),
            10 => pool.root().map(|found| self.must_be_inside(pool, found)),
            11 | 12 => self.scribble_over_entry(),
            13 => self.forge_entry(),
            _ => self.forge_link(),
        };
    }

    fn must_be_inside(&self, pool: Handle, found: *mut u8) {
        let offset = pool.offset(found);
        let is_inside = offset as usize > self.header && (offset as usize) < self.buffer.len();
        assert!(found.is_null() || is_inside, "found outside, at {offset:#x}");
    }

    /// All names are shown, and it ends; every so many of them go meanwhile.
    fn see_names(&self, pool: Handle, every: Option<usize>) -> Result<(), i32> {
        let mut count = 0;
        let seen = pool.names_until(&mut |name, offset| {
            assert!(offset as usize <= self.buffer.len() && !name.is_empty() && name.len() < 256);
            count += 1;
            if every.is_some_and(|every| count % every == 0) {
                let _ = pool.unbind(name);
            }
            true
        })?;
        assert!(seen.len() <= self.buffer.len() / 8, "more names than granules");
        Ok(())
    }

    // ---- Damage ----

    fn half(&self, at: usize) -> u32 {
        self.word(at) as u32
    }

    /// An entry of the directory, and where the link to it lies.
    fn entry(&mut self) -> Option<(usize, usize)> {
        let geometry = self.geometry?;
        let mut way = self.input.u16();
        let mut link = self.header + NAMES_OFFSET;
        let mut found = None;
        // So many bits say where to go; a way may lead in a circle.
        for _ in 0..5 {
            let Some(granule) = self.half(link).checked_sub(1) else { break };
            if granule >= geometry.granules || found.is_some() && way & 4 != 0 {
                break;
            }
            let entry = geometry.offset(granule);
            found = Some((entry, link));
            link = entry + 4 * (usize::from(way) % CHILDREN);
            way >>= 3;
        }
        found
    }

    fn scribble_over_entry(&mut self) -> Result<(), i32> {
        let word = usize::from(self.input.u8() & 15);
        if let Some((entry, _)) = self.entry() {
            self.scribble_at(entry + 4 * word);
        }
        Ok(())
    }

    /// An entry names another block, or a name of another hash, and its sum agrees.
    fn forge_entry(&mut self) -> Result<(), i32> {
        let (which, how) = (self.input.index(self.blocks.len()), self.input.u8());
        let (Some((entry, _)), Some(geometry)) = (self.entry(), self.geometry) else {
            return Ok(());
        };
        let inside = self.blocks[which].saturating_sub(geometry.first);
        let granule = (inside >> geometry.align_log2) as u32;
        match how >> 6 {
            0 => self.scribble_at(entry + HASH_AT + usize::from(how & 7)),
            1 => self.scribble_at(entry + BLOCK_AT),
            _ => self.write(entry + BLOCK_AT, &granule.to_le_bytes()),
        }
        let (hash, block) = (self.word(entry + HASH_AT), self.half(entry + BLOCK_AT));
        let sum = hash::fold([hash, block.into()]) as u32;
        self.write(entry + SUM_AT, &sum.to_le_bytes());
        Ok(())
    }

    /// A link leads to another entry, to some block, or nowhere.
    fn forge_link(&mut self) -> Result<(), i32> {
        let (which, how) = (self.input.index(self.blocks.len()), self.input.u8());
        let (Some((entry, link)), Some(other)) = (self.entry(), self.entry()) else {
            return Ok(());
        };
        let Some(geometry) = self.geometry else { return Ok(()) };
        let to = match how & 7 {
            0..=3 => Some(other.0),
            4 | 5 => Some(entry),
            6 => Some(self.blocks[which]),
            _ => None,
        };
        let granule = |at: usize| (at.saturating_sub(geometry.first) >> geometry.align_log2) as u32;
        let word = to.map_or(0, |at| granule(at) + 1);
        let child = entry + 4 * (usize::from(how >> 3) % CHILDREN);
        let at = if how & 0x80 == 0 { child } else { link };
        self.write(at, &word.to_le_bytes());
        Ok(())
    }

    /// What stands behind a block's bytes: any of it, or its tail tells of another length.
    pub fn scribble_over_guard(&mut self, block: usize, how: u8) {
        let Some(&(pool, mapping)) = self.handles.first() else { return };
        let asked = pool.usable_size(self.buffer.base(mapping).wrapping_add(block));
        if asked == 0 || how < 32 {
            return self.scribble_at(block + asked + usize::from(how));
        }
        let granule = super::pool_granule(&self.options);
        let tail = block + (asked + GUARD_BYTES).next_multiple_of(granule) - TAIL_BYTES;
        let told = u64::from(self.input.u16()) >> (how & 15);
        let salt = hash::mix(block as u64);
        self.put(tail, told.wrapping_add(salt).wrapping_mul(TAIL_FACTOR));
    }

    // ---- The end ----

    /// In a sound pool each name, and the root, is a live block's, which cannot be freed.
    pub fn must_be_found(&self, pool: Handle, walked: &[Block]) {
        let is_live = |offset: u64| {
            let place = walked.binary_search_by_key(&offset, |block| block.offset);
            place.is_ok_and(|place| walked[place].state == MEMPOOL_BLOCK_LIVE)
        };
        let must_stay = |block: *mut u8| {
            assert!(is_live(pool.offset(block)), "a name, or the root, of what is no block");
            assert_eq!(pool.free(block), Err(MEMPOOL_ERR_BUSY), "freed, with a name");
        };
        let names = pool.names().expect("sound, and no names");
        for (name, offset) in names {
            let found = pool.find(&name).expect("shown, and not found");
            assert_eq!(pool.offset(found), offset);
            must_stay(found);
        }
        let root = pool.root().expect("sound, and no root");
        if !root.is_null() {
            must_stay(root);
        }
    }

    /// All names can go, and leave a sound pool.
    pub fn must_be_unbound(&self, pool: Handle) {
        for (name, _) in pool.names().expect("sound, and no names") {
            pool.unbind(&name).expect("unbind");
        }
        pool.set_root(std::ptr::null()).expect("no root");
        assert_eq!(pool.names(), Ok(Vec::new()));
        let walked = pool.try_walk().expect("sound, and no walk");
        for block in walked.iter().filter(|block| block.state == MEMPOOL_BLOCK_LIVE) {
            let freed = pool.free(pool.pointer(block.offset));
            assert_ne!(freed, Err(MEMPOOL_ERR_BUSY), "{:#x} has no name", block.offset);
        }
        // What is wrong with caches and owners may not have been in use yet.
        let has_more = self.geometry.is_none_or(|geometry| geometry.caches + geometry.owners > 0);
        if !has_more {
            pool.must_check();
        }
    }
}
