//! What lies in the bytes of blocks and is no caller's: guards behind what was asked for, and what free
//! memory is filled with; in pools that were asked to look for mistakes. In others each of these calls
//! comes to nothing.
//!
//! All of it is verified before a record is opened, and written under one: so who dies in a call never
//! leaves bytes that look like damage.
#![forbid(unsafe_code)]

use super::bins::Free;
use super::change::{Change, Kind};
use super::{Gone, Heap};
use crate::error::{Error, Result};
use crate::fill::{self, Fill};
use crate::guard::Guards;
use crate::map::{Entry, State};
use crate::options::{FILL_FREED, GUARD};

impl Heap {
    /// The live block that starts here, if its guard is whole. O(guard).
    #[inline(always)]
    pub fn intact(&self, granule: u32) -> Result<Entry> {
        let block = self.live(granule)?;
        if self.is_guarded() {
            self.verify_guard(granule, block.size)?;
        }
        Ok(block)
    }

    /// The size of the live block that starts here, if it may be freed: its guard is whole, and it has
    /// no name. O(guard).
    #[inline(always)]
    pub fn freeable_size(&self, granule: u32) -> Result<u32> {
        let size = self.unbound_size(granule)?;
        if self.is_guarded() {
            self.verify_guard(granule, size)?;
        }
        Ok(size)
    }

    #[cold]
    fn verify_guard(&self, granule: u32, size: u32) -> Result<()> {
        self.guards().map_or(Ok(()), |guards| guards.verify(granule, size).map(|_| ()))
    }

    /// The bytes of a live block of so many granules that are its owner's; 0 if what tells of them
    /// was overwritten. O(1).
    pub fn usable(&self, granule: u32, size: u32) -> usize {
        match self.guards() {
            Some(guards) => guards.asked(granule, size).unwrap_or(0),
            None => self.geometry.bytes(size),
        }
    }

    /// Sets the guard of a live block of which `asked` bytes are its owner's: of one that is not
    /// delivered yet, or by a change that is sealed.
    #[cold]
    pub fn set_guard(&self, granule: u32, asked: usize) {
        if let Some(guards) = self.guards() {
            if let Some((state, size)) = self.block(granule) {
                if state.is_live() {
                    guards.set(granule, size, asked);
                }
            }
        }
    }

    /// Whether blocks have guards.
    #[inline(always)]
    pub fn is_guarded(&self) -> bool {
        self.geometry.has(GUARD)
    }

    /// The guards of the blocks, in pools that have them.
    pub fn guards(&self) -> Option<Guards<'_>> {
        Guards::of(&self.region, &self.geometry)
    }

    /// Verifies what is no caller's in the bytes of all blocks, and above `top`, in pools that know
    /// what it must be. O(bytes).
    pub fn check_bytes(&self) -> Result<()> {
        let (guards, fill) = (self.guards(), Fill::of(&self.region, &self.geometry));
        if guards.is_none() && fill.is_none() {
            return Ok(());
        }
        let written = |from: usize, to: usize| {
            fill.and_then(|fill| fill.find_damage(from, to, || self.show_progress()))
                .map_or(Ok(()), |at| Err(Error::WrittenFree { at: at as u64 }))
        };
        let mut at = 0;
        while let Some(Entry { state, size }) = self.map.read(at, self.top()) {
            let end = at + size;
            match (state, guards) {
                (state, Some(guards)) if state.is_live() => drop(guards.verify(at, size)?),
                (State::Free, _) => {
                    self.written_links((at, size)).map_or(Ok(()), Err)?;
                    let from = self.geometry.offset(at) + fill::LINK_BYTES;
                    written(from, self.geometry.offset(end))?;
                }
                _ => {}
            }
            self.show_progress();
            at = end;
        }
        written(self.geometry.offset(self.top()), self.geometry.offset(self.watermark()))
    }

    /// That somebody wrote to the links of a free block, if it is to be seen and to be told.
    fn written_links(&self, block: Free) -> Option<Error> {
        let word = self.bins.odd_link(block).filter(|_| self.is_filled())?;
        let at = self.geometry.offset(block.0) + word * (fill::LINK_BYTES / 2);
        Some(Error::WrittenFree { at: at as u64 })
    }

    #[cold]
    pub(super) fn any_written_links(&self) -> Option<Error> {
        let (mut at, top) = (0, self.top());
        while let Some(Entry { state, size }) = self.map.read(at, top).filter(|_| self.is_filled())
        {
            self.show_progress();
            if state == State::Free {
                if let Some(written) = self.written_links((at, size)) {
                    return Some(written);
                }
            }
            at += size;
        }
        None
    }

    #[inline]
    pub(super) fn is_filled(&self) -> bool {
        self.geometry.has(FILL_FREED)
    }

    /// Whether the links of a free block that is to be handed out are the heap's. If they are not, that is
    /// told once: they are made anew. O(1), else O(blocks).
    #[cold]
    pub(super) fn must_be_linked(&self, block: Free) -> Result<()> {
        match self.written_links(block) {
            None => Ok(()),
            Some(written) => self.mend().and(Err(written)),
        }
    }

    /// Whether free memory that is to be handed out, from one granule to another, is as it was filled,
    /// but for the links that it begins with; and what becomes the links of the rest behind it. If it is
    /// not, that is told once: it is filled anew. O(bytes).
    #[cold]
    pub(super) fn must_be_filled(
        &self,
        from: u32,
        has_links: bool,
        to: u32,
        has_rest: bool,
    ) -> Result<()> {
        let Some(fill) = Fill::of(&self.region, &self.geometry) else { return Ok(()) };
        let links = |is: bool| if is { fill::LINK_BYTES } else { 0 };
        let from = self.geometry.offset(from) + links(has_links);
        let to = self.geometry.offset(to) + links(has_rest);
        match fill.find_damage(from, to, || self.show_progress()) {
            None => Ok(()),
            Some(at) => {
                fill.fill(from, to, || self.show_progress());
                Err(Error::WrittenFree { at: at as u64 })
            }
        }
    }

    /// Fills what becomes free by a change that is sealed but not made, and what is no link any more.
    #[cold]
    pub(super) fn fill_freed(&self, change: &Change, gone: &[Option<Gone>; 2]) {
        for gone in gone.iter().flatten() {
            self.bins.erase_links((gone.start, gone.size), fill::BYTE);
        }
        let start = change.old[0];
        let from = match change.kind {
            Kind::Free => start,
            Kind::Resize => start + change.new[0].size,
            _ => return,
        };
        if let Some(old) = self.map.read(start, self.top()) {
            self.fill(from, start + old.size);
        }
    }

    /// Fills all that is free after a change and takes part in it: what a dead one may have done of that
    /// is not known. Of a change that lowers `top`, while it is not lowered: it is the last of what
    /// is written of the map, and all is filled before.
    pub(super) fn fill_again(&self, change: &Change) {
        if !self.is_filled() {
            return;
        }
        let (starts, _) = change.starts();
        for (start, new) in starts.into_iter().zip(change.new) {
            if new.state == State::Free {
                self.fill(start, start + new.size);
            }
        }
        self.fill(change.top, self.top());
    }

    /// Fills free granules, from one to another, in pools that do.
    pub(super) fn fill(&self, from: u32, to: u32) {
        if let Some(fill) = Fill::of(&self.region, &self.geometry) {
            let (from, to) = (self.geometry.offset(from), self.geometry.offset(to));
            fill.fill(from, to, || self.show_progress());
        }
    }
}
