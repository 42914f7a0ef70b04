//! Blocks that any process finds: by a name, or as the root. See [`crate::names`].
#![forbid(unsafe_code)]

use super::Handle;
use crate::error::{Error, Result};
use crate::heap::Heap;
use crate::map::State;
use crate::names::{bytes_for, Name, Names};
use crate::owners::CONDEMNED;
use core::ptr::NonNull;

impl Handle {
    /// Gives a live block a name, by which [`Handle::find`] knows it in every process: as one event
    /// for any crash. A block may have several names. As long as it has one it cannot be freed, nor
    /// moved by realloc: these say [`Error::Bound`]. O(log names) under the lock.
    ///
    /// A name is 1 to 255 bytes, none of them 0.
    ///
    /// ```
    /// # use mempool::{Options, Pool};
    /// # let mut buffer = vec![0u8; 64 * 1024];
    /// # // SAFETY: the buffer outlives the pool, and nothing else uses it.
    /// # let pool = unsafe { Pool::init(buffer.as_mut_ptr(), buffer.len(), &Options::default()) }?;
    /// let block = pool.malloc(100)?;
    /// pool.bind("queue", block.as_ptr())?;
    /// assert_eq!(pool.find("queue")?, block);
    /// // SAFETY: nobody uses the block; that it has a name is found out.
    /// assert!(unsafe { pool.free(block.as_ptr()) }.is_err());
    /// pool.unbind("queue")?;
    /// // SAFETY: nobody uses the block.
    /// unsafe { pool.free(block.as_ptr()) }?;
    /// # Ok::<(), mempool::Error>(())
    /// ```
    pub fn bind(&self, name: impl AsRef<[u8]>, block: *const u8) -> Result<()> {
        let name = Name::new(name.as_ref())?;
        let granule = self.granule(block)?;
        self.tell_shown(block);
        let answer = self.locked(|heap| {
            self.must_not_be_reaped(heap, granule)?;
            let names = self.directory(heap);
            let link = names.vacancy(&name)?;
            let entry = self.alloc_exactly(heap, names.granules_for(&name)?, 1)?;
            names.write(entry, &name, granule);
            if let Err(error) = heap.mark(granule, Some(entry)) {
                heap.free(entry)?;
                return Err(error);
            }
            heap.enter_name(entry, link);
            Ok(())
        });
        self.count_failure(answer, bytes_for(&name))
    }

    /// The block that has a name. O(log names) under the lock.
    pub fn find(&self, name: impl AsRef<[u8]>) -> Result<NonNull<u8>> {
        let name = Name::new(name.as_ref())?;
        self.locked(|heap| {
            let found = self.directory(heap).find(&name)?;
            self.found(found.ok_or(Error::NotFound("no block has this name"))?)
        })
    }

    /// Takes a name from its block, which stays, as one event for any crash. O(log names) under the
    /// lock; O(names) if the block has other names, or is the root.
    pub fn unbind(&self, name: impl AsRef<[u8]>) -> Result<()> {
        let name = Name::new(name.as_ref())?;
        self.locked(|heap| self.directory(heap).strike(&name))
    }

    /// [`Handle::unbind`], if it is this block that has the name: else [`Error::NotFound`], and nothing
    /// is changed. For who found a block by a name that others may have given to another since.
    pub fn unbind_from(&self, name: impl AsRef<[u8]>, block: *const u8) -> Result<()> {
        let name = Name::new(name.as_ref())?;
        let granule = self.granule(block)?;
        self.locked(|heap| {
            let names = self.directory(heap);
            if names.find(&name)? != Some(granule) {
                return Err(Error::NotFound("this block has no such name"));
            }
            names.strike(&name)
        })
    }

    /// Shows all names and the offsets of their blocks, in no order that means anything, until told
    /// to stop. No lock is held meanwhile: the visitor may call anything, and what comes or goes under
    /// way is seen once or not at all. O(names log names).
    pub fn names(&self, visit: &mut dyn FnMut(&[u8], u64) -> bool) -> Result<()> {
        let mut last = None;
        while let Some(next) = self.locked(|heap| self.directory(heap).after(last.as_ref()))? {
            // One whose block is none is for `find` and `check` to tell of.
            let granule = next.block.min(self.geometry.granules);
            if !visit(next.name.bytes(), self.geometry.offset(granule) as u64) {
                break;
            }
            last = Some(next);
        }
        Ok(())
    }

    /// Makes a live block the root, which every process finds, in place of the one that was; null:
    /// none. One event for any crash. As long as it is the root it cannot be freed, nor moved by
    /// realloc. O(1) under the lock; O(names) if the old root has names, too.
    pub fn set_root(&self, block: *const u8) -> Result<()> {
        let granule = if block.is_null() { None } else { Some(self.granule(block)?) };
        self.tell_shown(block);
        self.locked(|heap| {
            if let Some(granule) = granule {
                self.must_not_be_reaped(heap, granule)?;
            }
            let old = heap.root();
            if granule == old {
                return Ok(());
            }
            let names = self.directory(heap);
            let old_state = old.map_or(Ok(State::Live), |old| names.state_without(old, None))?;
            if let Some(granule) = granule {
                heap.mark(granule, None)?;
            }
            heap.set_root(granule, old_state);
            Ok(())
        })
    }

    /// The root block; None if there is none. O(1) under the lock.
    pub fn root(&self) -> Result<Option<NonNull<u8>>> {
        self.locked(|heap| {
            let Some(granule) = heap.root() else { return Ok(None) };
            if heap.block(granule).is_some_and(|(state, _)| state.is_bound()) {
                return self.found(granule).map(Some);
            }
            Err(Error::Corrupted { what: "the root is no block", at: heap.first_link() as u64 })
        })
    }

    /// A block that another process may have made.
    fn found(&self, granule: u32) -> Result<NonNull<u8>> {
        let block = self.block(granule)?;
        self.tell_seen(block.as_ptr());
        Ok(block)
    }

    /// The names of the pool.
    pub(super) fn directory<'a>(&'a self, heap: &'a Heap) -> Names<'a> {
        Names::new(&self.region, &self.geometry, heap, self.id)
    }

    /// Whether a block is live, and not about to be freed for its dead owner.
    fn must_not_be_reaped(&self, heap: &Heap, granule: u32) -> Result<()> {
        heap.live_size(granule)?;
        if self.geometry.owners > 0 && self.owners().tag(granule) == CONDEMNED {
            let at = self.geometry.offset(granule) as u64;
            return Err(Error::NotAllocated { what: "it is being reaped", at });
        }
        Ok(())
    }
}
