//! Whose blocks are, and what the dead have left: shown to who asks for it, and freed.
//!
//! A block is freed in three steps, of which each may be the last of who reaps: it is seen to be a
//! dead owner's, it is condemned, it is free. What was condemned is freed by whoever reaps next.

use super::{shown, Handle};
use crate::error::{Error, Result};
use crate::heap::Heap;
use crate::local::{self, Local, Popped};
use crate::map::{Entry, State};
use crate::owners::{Owners, Process, CONDEMNED, NOBODY};
use crate::stats::{Block, Owner, Reaped};
use crate::sys;
use crate::watch;
use core::ptr::NonNull;
use core::sync::atomic::Ordering::Relaxed;

/// So many blocks are looked at under one hold of the lock.
const LOOKS: u32 = 1024;
/// What there can be of tags.
const TAGS: usize = 256;

/// The owners whose blocks are to be reaped, by tag.
type Dead = [Option<Process>; TAGS];

/// A block of a dead owner.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Left {
    granule: u32,
    size: u32,
    tag: u8,
}

/// What a look at some blocks has found.
enum Look {
    Left(Left),
    Nothing,
    AllSeen,
}

impl Handle {
    /// Frees what dead processes left: that of this number, or all of them. `visit` sees each block
    /// before it goes, and may keep it; one that has a name, or is the root, is kept whatever it says.
    /// The living are refused. No lock is held during `visit`, which may call anything. O(map).
    ///
    /// # Safety
    /// Nobody uses the blocks that `visit` lets go.
    pub unsafe fn reap(
        &self,
        pid: Option<u32>,
        visit: &mut dyn FnMut(&Block, &Owner) -> bool,
    ) -> Result<Reaped> {
        let mut reaped = Reaped::default();
        // SAFETY: as promised by the caller.
        unsafe { self.reap_into(pid, visit, &mut reaped) }.map(|()| reaped)
    }

    /// [`Handle::reap`], which tells what it has done when it fails, too.
    ///
    /// # Safety
    /// As for [`Handle::reap`].
    pub(crate) unsafe fn reap_into(
        &self,
        pid: Option<u32>,
        visit: &mut dyn FnMut(&Block, &Owner) -> bool,
        reaped: &mut Reaped,
    ) -> Result<()> {
        self.must_have_owners()?;
        let dead = self.dead(pid)?;
        if dead.iter().all(Option::is_none) {
            return Ok(());
        }
        // After their death was seen: what the dead held in caches and locks is none of the blocks.
        self.recover()?;
        let (mut from, mut damage) = (0, Ok(()));
        loop {
            let left = match self.locked(|heap| self.look(heap, &dead, &mut from))? {
                Look::AllSeen => break,
                Look::Nothing => continue,
                Look::Left(left) => left,
            };
            let block = self.shown(left);
            let goes = left.tag == CONDEMNED || visit(&block, &self.owner_of(left.tag, &dead));
            let freed = match goes {
                true => self.locked(|heap| self.free_left(heap, left, &dead)),
                false => Ok(false),
            };
            let freed = match freed {
                // It stays, and the others go.
                Err(error @ (Error::Overrun { .. } | Error::OverrunToTheEnd { .. })) => {
                    damage = damage.and(Err(error));
                    false
                }
                freed => freed?,
            };
            reaped.count(freed, block.size);
        }
        self.locked(|heap| {
            let in_use = self.tags_in_use(heap);
            for owner in self.owners().all() {
                let is_dead = dead[usize::from(owner)]
                    .is_some_and(|process| self.owners().get(owner) == Some(process));
                if is_dead && !in_use[usize::from(owner)] {
                    self.owners().release(owner);
                    reaped.owners += 1;
                }
            }
            Ok(())
        })?;
        damage
    }

    /// Makes a block this process's, whosever it was. O(1), takes no lock but at a process's first
    /// call, and after a death.
    pub fn adopt(&self, block: *const u8) -> Result<()> {
        self.must_have_owners()?;
        let granule = self.granule(block)?;
        let mine = self.own_unlocked()?;
        self.tell_seen(block);
        self.hand_over(granule, mine)
    }

    /// Makes a block nobody's: it is never reaped. O(1), takes no lock but after a death.
    pub fn abandon(&self, block: *const u8) -> Result<()> {
        self.must_have_owners()?;
        self.hand_over(self.granule(block)?, NOBODY)?;
        self.tell_shown(block);
        Ok(())
    }

    /// Whose a live block is; None if it is nobody's. O(1), takes no lock.
    pub fn owner(&self, block: *const u8) -> Result<Option<Owner>> {
        self.must_have_owners()?;
        let granule = self.granule(block)?;
        self.is_here()?;
        self.heap().live_size(granule)?;
        let owners = self.owners();
        let tag = owners.tag(granule);
        Ok(owners.get(tag).map(|process| shown_owner(process, owners.label(tag))))
    }

    /// Gives this process a number of its own choice, which goes with its blocks. O(1).
    pub fn set_label(&self, label: u64) -> Result<()> {
        self.must_have_owners()?;
        let mine = self.own_unlocked()?;
        self.is_here()?;
        self.owners().set_label(mine, label);
        Ok(())
    }

    /// A block from the heap, tagged before anybody can see it.
    #[inline]
    pub(super) fn alloc(&self, heap: &Heap, granules: u32, alignment: usize) -> Result<u32> {
        if self.geometry.owners == 0 {
            return self.alloc_untagged(heap, granules, alignment);
        }
        let mine = self.own(heap)?;
        let granule = self.alloc_untagged(heap, granules, alignment)?;
        self.owners().set_tag(granule, mine);
        Ok(granule)
    }

    /// A block of a thread's cache, tagged before it is live.
    pub(super) fn pop(&self, local: &Local, size: usize) -> Result<Option<Popped>> {
        if self.geometry.owners == 0 {
            return Ok(local.pop_any(size));
        }
        let mine = self.own_unlocked()?;
        Ok(local.pop_marked(size, |granule| self.owners().set_tag(granule, mine)))
    }

    /// [`super::malloc_fast`] of pools with owners: needs the handle.
    #[inline]
    pub(super) fn malloc_tagged(&self, size: usize) -> Option<NonNull<u8>> {
        if self.geometry.owners == 0 {
            return None;
        }
        if watch::ON {
            return None;
        }
        let mine = self.own_known()?;
        let mark = |granule| self.owners().set_tag(granule, mine);
        local::pop_marked(self.key(), size, mark).map(Popped::deliver)
    }

    /// What realloc returns is the caller's, moved or not.
    pub(super) fn reowned(&self, answer: Result<NonNull<u8>>) -> Result<NonNull<u8>> {
        if self.geometry.owners > 0 {
            if let Ok(block) = answer {
                // Should there be no room for this owner, it stays whose it was.
                let _ = self.adopt(block.as_ptr());
            }
        }
        answer
    }

    pub(super) fn owners(&self) -> Owners<'_> {
        Owners::new(&self.region, &self.geometry)
    }

    /// Verifies that every live block's owner is one. For who holds the lock. O(map).
    pub(super) fn check_owners(&self, heap: &Heap) -> Result<()> {
        if self.geometry.owners == 0 {
            return Ok(());
        }
        let owners = self.owners();
        let is_odd = |tag| !matches!(tag, NOBODY | CONDEMNED) && owners.get(tag).is_none();
        match live(heap).find(|&(granule, _)| is_odd(owners.tag(granule))) {
            Some((granule, _)) => {
                let at = self.geometry.offset(granule) as u64;
                Err(Error::Corrupted { what: "a block's owner is none", at })
            }
            None => Ok(()),
        }
    }

    fn must_have_owners(&self) -> Result<()> {
        if self.geometry.owners == 0 {
            return Err(Error::Argument(
                "the pool was made without MEMPOOL_OWNER_TAGS: init it with that flag",
            ));
        }
        Ok(())
    }

    /// This process's tag, if it has got one through this handle.
    fn own_known(&self) -> Option<u8> {
        let own = self.own.load(Relaxed);
        (own >> 8 == sys::me().generation).then_some(own as u8)
    }

    /// This process's tag, for who does not hold the lock.
    pub(super) fn own_unlocked(&self) -> Result<u8> {
        match self.own_known() {
            Some(mine) => Ok(mine),
            None => self.locked(|heap| self.own(heap)),
        }
    }

    /// This process's tag, for who holds the lock. At a process's first call O(owners), and O(map)
    /// if there is no room for another.
    fn own(&self, heap: &Heap) -> Result<u8> {
        if let Some(mine) = self.own_known() {
            return Ok(mine);
        }
        let (owners, me) = (self.owners(), sys::process());
        let me = Process { pid: me, boot: sys::boot_hash(), start: sys::start_time(me) };
        let mine = match owners.find(me) {
            Some(mine) => mine,
            None => {
                let idle = owners.idle().or_else(|| self.forget_owners(heap));
                let room = Error::Busy("the pool has no room for another owner: mempool_reap");
                let mine = idle.ok_or(room)?;
                owners.claim(mine, me);
                mine
            }
        };
        self.own.store(sys::me().generation << 8 | u64::from(mine), Relaxed);
        Ok(mine)
    }

    /// Makes the dead that own no block nobody: one of these entries.
    fn forget_owners(&self, heap: &Heap) -> Option<u8> {
        let owners = self.owners();
        let in_use = self.tags_in_use(heap);
        for owner in owners.all().filter(|&owner| !in_use[usize::from(owner)]) {
            if owners.get(owner).is_some_and(|process| self.is_gone(process)) {
                owners.release(owner);
            }
        }
        owners.idle()
    }

    /// The tags that live blocks have. O(map).
    fn tags_in_use(&self, heap: &Heap) -> [bool; TAGS] {
        let mut in_use = [false; TAGS];
        for (granule, _) in live(heap) {
            in_use[usize::from(self.owners().tag(granule))] = true;
        }
        in_use
    }

    /// The dead owners, or that one.
    fn dead(&self, pid: Option<u32>) -> Result<Dead> {
        if !self.lock.inquiry().is_possible() {
            return Err(Error::Busy("of processes of several pid namespaces no death can be told"));
        }
        let mut known: Dead = [None; TAGS];
        self.locked(|_| {
            for owner in self.owners().all() {
                known[usize::from(owner)] = self.owners().get(owner);
            }
            Ok(())
        })?;
        let is_meant = |process: &Process| pid.is_none_or(|pid| pid == process.pid);
        let meant = known.map(|process| process.filter(is_meant));
        let dead = meant.map(|process| process.filter(|&process| self.is_gone(process)));
        if pid.is_some() && meant.iter().any(Option::is_some) && dead.iter().all(Option::is_none) {
            return Err(Error::Busy("the process lives, and its blocks are its own"));
        }
        Ok(dead)
    }

    fn is_gone(&self, process: Process) -> bool {
        let boot = sys::boot_hash();
        let rebooted = boot != 0 && process.boot != 0 && process.boot != boot;
        rebooted || self.lock.inquiry().is_process_gone(process.pid, process.start)
    }

    /// Goes on to the next block of a dead owner.
    fn look(&self, heap: &Heap, dead: &Dead, from: &mut u32) -> Result<Look> {
        let top = heap.top();
        for _ in 0..LOOKS {
            let Some(granule) = heap.map().next_start(*from, top) else { return Ok(Look::AllSeen) };
            let Some((state, size)) = heap.block(granule) else {
                let at = self.geometry.offset(granule) as u64;
                let what = "the map tells of no block that could be";
                return Err(Error::Corrupted { what, at });
            };
            *from = granule + size;
            let left = Left { granule, size, tag: self.owners().tag(granule) };
            if state.is_live() && self.is_left(left.tag, dead) {
                // While it is there.
                self.tell_visited(&self.shown(left));
                return Ok(Look::Left(left));
            }
        }
        Ok(Look::Nothing)
    }

    /// What a visitor sees of a dead owner's block.
    fn shown(&self, left: Left) -> Block {
        shown(&self.geometry, left.granule, Entry { state: State::Live, size: left.size })
    }

    /// Whether blocks of this tag are a dead owner's, who still has it.
    fn is_left(&self, tag: u8, dead: &Dead) -> bool {
        let process = dead[usize::from(tag)];
        tag == CONDEMNED || process.is_some() && self.owners().get(tag) == process
    }

    /// Frees a block that is still a dead owner's; false if it is not.
    fn free_left(&self, heap: &Heap, left: Left, dead: &Dead) -> Result<bool> {
        let Left { granule, size, tag } = left;
        let is_same = heap.unbound_size(granule) == Ok(size) && self.is_left(tag, dead);
        if is_same {
            heap.intact(granule)?;
        }
        if !is_same || !self.owners().change_tag(granule, tag, CONDEMNED) {
            return Ok(false);
        }
        self.tell_freed(granule);
        heap.free(granule)?;
        Ok(true)
    }

    fn hand_over(&self, granule: u32, to: u8) -> Result<()> {
        self.is_here()?;
        self.settled_size(granule)?;
        let tag = self.owners().tag(granule);
        if tag != CONDEMNED && self.owners().change_tag(granule, tag, to) {
            return Ok(());
        }
        let at = self.geometry.offset(granule) as u64;
        Err(Error::NotAllocated { what: "it is being reaped, or made another's", at })
    }

    fn owner_of(&self, tag: u8, dead: &Dead) -> Owner {
        let label = self.owners().label(tag);
        dead[usize::from(tag)].map_or(Owner::default(), |process| shown_owner(process, label))
    }
}

fn shown_owner(process: Process, label: u64) -> Owner {
    Owner { pid: process.pid, start: process.start, label }
}

/// The live blocks: first granule and size.
fn live<'a>(heap: &'a Heap) -> impl Iterator<Item = (u32, u32)> + 'a {
    let (mut from, top) = (0, heap.top());
    core::iter::from_fn(move || loop {
        let granule = heap.map().next_start(from, top)?;
        let (state, size) = heap.block(granule).unwrap_or((State::Free, 1));
        from = granule + size;
        heap.show_progress();
        if state.is_live() {
            return Some((granule, size));
        }
    })
}
