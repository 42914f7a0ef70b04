//! The judgement over a pool after a death: it recovers, is whole, has just the blocks that it must
//! have, with their bytes, accounts for every byte, and can be filled and emptied.
//!
//! All of it through the C face, by a process that had nothing to do with the pool before.

use super::scene::{is_stamped, Effect, Scene, State};
use crate::common::handle::{self, Block, Handle, Options};
use crate::common::Memory;
use ::mempool::abi::*;
use ::mempool::layout::{GUARD_BYTES, LOCK_OFFSET};

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub state: State,
    /// Where the block lies that the call made; 0 for none.
    pub block: u64,
    /// The bytes that are still cached when all that the dead had was given back: the living's. None
    /// if nobody was taken for living.
    pub cached: Option<u64>,
}

impl Verdict {
    /// Whether they can be of the same pool.
    pub fn agrees(&self, other: &Verdict) -> bool {
        let cached = self.cached.zip(other.cached).is_none_or(|(mine, its)| mine == its);
        (self.state, self.block) == (other.state, other.block) && cached
    }
}

/// The survivor's first call, which is the one that finds out; or the first to attach after a reboot.
const FIRST_CALLS: usize = 7;
const REBOOT: usize = 6;

macro_rules! ensure {
    ($condition:expr, $($said:tt)+) => {
        if !$condition {
            return Err(format!($($said)+));
        }
    };
}

/// Puts an answer of the C face into words if it is a failure.
fn must<T>(what: &str, answer: Result<T, i32>) -> Result<T, String> {
    answer.map_err(|status| format!("{what}: {status}: {}", handle::last_message()))
}

/// A survivor's place: memory of its own for the pool's bytes.
pub struct Judge<'a> {
    pub memory: &'a Memory,
    pub options: Options,
    pub scene: &'a Scene,
    /// Which of several ways to go about it.
    pub way: usize,
}

impl Judge<'_> {
    /// Judges a pool by its bytes.
    pub fn judge(&self, bytes: &[u8]) -> Result<Verdict, String> {
        self.lay_out(bytes);
        match self.scene.effect() {
            Effect::Birth => self.judge_birth(bytes),
            Effect::End => self.judge_end(bytes),
            _ => {
                if self.way % FIRST_CALLS == REBOOT {
                    self.reboot();
                }
                self.judge_life(must("attach", self.attach())?)
            }
        }
    }

    /// The lock belongs to another boot, of which nobody lives.
    fn reboot(&self) {
        self.memory.bytes_mut(LOCK_OFFSET + 4, 4).iter_mut().for_each(|byte| *byte ^= 0x77);
    }

    fn lay_out(&self, bytes: &[u8]) {
        self.memory.bytes_mut(0, bytes.len()).copy_from_slice(bytes);
    }

    fn attach(&self) -> Result<Handle, i32> {
        handle::attach(self.memory.base(), self.memory.len(), &self.options)
    }

    /// A pool that lives on.
    fn judge_life(&self, pool: Handle) -> Result<Verdict, String> {
        self.call_first(pool)?;
        must("recover", pool.recover())?;
        must("check after recover", pool.check())?;
        let live = live(pool)?;
        let (state, made) = self.scene.sort_out(&live)?;
        let state = self.sort_out_names(pool, state)?;
        let held = self.held(state, made);
        let look = |when: &str| {
            let torn = held.iter().find(|held| !held.is_whole(pool));
            torn.map_or(Ok(()), |torn| Err(format!("{when}: other bytes in {torn:?}")))
        };
        look("after recover")?;
        agree(pool, &live)?;
        must("trim", pool.trim())?;
        must("check after trim", pool.check())?;
        agree(pool, &live)?;
        let cached = pool.stats().cached_size;
        fill_and_empty(pool, &live, cached)?;
        look("after all else was filled")?;
        unbind_all(pool)?;
        for block in &live {
            must("free of a live block", pool.free(pool.pointer(block.offset)))?;
        }
        self.must_be_empty(pool, cached)?;
        must("detach", pool.detach())?;
        let rebooted = self.way % FIRST_CALLS == REBOOT && !self.is_birth_or_end();
        ensure!(!rebooted || cached == 0, "{cached} bytes are cached after a reboot");
        let block = made.map_or(0, |made| made.offset);
        Ok(Verdict { state, block, cached: (!rebooted).then_some(cached) })
    }

    /// Compares the names and the root with those that are known: the state.
    fn sort_out_names(&self, pool: Handle, state: State) -> Result<State, String> {
        let root = must("root", pool.root())?;
        let found = (must("names", pool.names())?, pool.offset(root));
        let [old, new] =
            [self.scene.bound, self.scene.bound_after()].map(|bound| self.scene.named(&bound));
        let is_about_names = self.scene.effect() == Effect::Names;
        let state = match is_about_names && found == new && new != old {
            true => State::New,
            false => state,
        };
        let expected = if state == State::New { &new } else { &old };
        ensure!(found == *expected, "{found:?} instead of {expected:?}, {state:?}");
        for (name, offset) in &found.0 {
            let block = pool.pointer(*offset);
            ensure!(pool.find(name) == Ok(block), "find of {name:?}");
            ensure!(pool.free(block) == Err(MEMPOOL_ERR_BUSY), "free of the block {name:?}");
        }
        ensure!(root.is_null() || pool.free(root) == Err(MEMPOOL_ERR_BUSY), "free of the root");
        Ok(state)
    }

    fn is_birth_or_end(&self) -> bool {
        matches!(self.scene.effect(), Effect::Birth | Effect::End)
    }

    /// Whichever call comes first finds out about the dead.
    fn call_first(&self, pool: Handle) -> Result<(), String> {
        let way = self.way % FIRST_CALLS;
        match way {
            0 => must("recover, first", pool.recover()).map(drop),
            1 => must("check, first", pool.check()),
            2 => must("trim, first", pool.trim()),
            3 => must("stats, first", pool.try_stats()).map(drop),
            4 => must("walk, first", pool.try_walk()).map(drop),
            REBOOT => Ok(()),
            // The pool may be full.
            _ => match pool.malloc(40) {
                Err(MEMPOOL_ERR_OUT_OF_MEMORY) => Ok(()),
                block => must("free, second", pool.free(must("malloc, first", block)?)),
            },
        }
    }

    /// What each live block must hold.
    fn held(&self, state: State, made: Option<Block>) -> Vec<Held> {
        let effect = self.scene.effect();
        let mut held = Vec::new();
        for (slot, known) in self.scene.blocks() {
            let (mut offset, mut len) = (known.offset, known.size);
            match (state, effect) {
                (State::New, Effect::RemovesAll) => continue,
                (State::New, Effect::Removes { slot: gone }) if gone == slot => continue,
                (State::New, Effect::Replaces { slot: moved, size }) if moved == slot => {
                    let new = made.expect("it was replaced");
                    (offset, len) = (new.offset, known.size.min(size as u64 & !7));
                }
                // A walk does not tell which of the two it is if they take as many granules.
                (State::Old, Effect::Replaces { slot: moved, size }) if moved == slot => {
                    let guarded = self.options.flags & MEMPOOL_GUARD != 0;
                    len = if guarded { len.min(size as u64 & !7) } else { len };
                }
                _ => {}
            }
            held.push(Held { offset, len, bytes: Bytes::Stamp(known.stamp) });
        }
        if let (Effect::Adds { size, filled: Some(byte), .. }, Some(made)) = (effect, made) {
            let bytes = Bytes::Fill(byte);
            held.push(Held { offset: made.offset, len: size as u64, bytes });
        }
        held
    }

    /// Nothing lives, and what was cached by the dead is free again.
    fn must_be_empty(&self, pool: Handle, cached: u64) -> Result<(), String> {
        must("trim of an empty pool", pool.trim())?;
        must("check of an empty pool", pool.check())?;
        let stats = pool.stats();
        ensure!(stats.used_count == 0 && stats.used_size == 0, "all was freed, but {stats:?}");
        ensure!(stats.cached_size == cached, "cached by nobody: {stats:?}, {cached} before");
        let guarded = self.options.flags & MEMPOOL_GUARD != 0;
        let guard = if guarded { GUARD_BYTES as u64 } else { 0 };
        let whole = stats.total == stats.overhead + stats.largest_free + guard;
        let joined = self.options.flags & (MEMPOOL_NO_COMPACT | MEMPOOL_NO_SPLIT) == 0;
        ensure!(whole || cached > 0 || !joined, "empty, but not in one piece: {stats:?}");
        Ok(())
    }

    /// A pool that was being made: there is none, or it is complete. Whatever there is, others can
    /// make one.
    fn judge_birth(&self, bytes: &[u8]) -> Result<Verdict, String> {
        let none = Verdict { state: State::Between, block: 0, cached: Some(0) };
        let verdict = match self.attach() {
            Err(MEMPOOL_ERR_NOT_A_POOL) => none,
            answer => {
                let pool = must("attach", answer)?;
                if pool.stats().pool_id == self.scene.pool_id {
                    self.judge_life(pool)?
                } else {
                    self.must_be_new(pool)?;
                    Verdict { state: State::New, ..none }
                }
            }
        };
        self.lay_out(bytes);
        let first_word = u64::from_ne_bytes(bytes[..8].try_into().expect("eight bytes"));
        match handle::open(self.memory.base(), self.memory.len(), &self.options) {
            // Nothing of the new pool is there yet, and what is there is no buffer to open.
            Err(MEMPOOL_ERR_NOT_A_POOL)
                if verdict == none && first_word == self.scene.magic && first_word != 0 => {}
            answer => {
                let (pool, created) = must("open", answer)?;
                let expected = verdict.state == State::Between;
                ensure!(created == expected, "{:?}, but open made one: {created}", verdict.state);
                match verdict.state {
                    State::Old => must("detach", pool.detach())?,
                    _ => self.must_be_new(pool)?,
                }
            }
        }
        self.init_anew(bytes)?;
        Ok(verdict)
    }

    /// A pool that was being ended.
    fn judge_end(&self, bytes: &[u8]) -> Result<Verdict, String> {
        let verdict = match self.attach() {
            Err(MEMPOOL_ERR_NOT_A_POOL) => Verdict { state: State::New, block: 0, cached: Some(0) },
            answer => self.judge_life(must("attach", answer)?)?,
        };
        self.init_anew(bytes)?;
        Ok(verdict)
    }

    fn init_anew(&self, bytes: &[u8]) -> Result<(), String> {
        self.lay_out(bytes);
        let (base, len) = (self.memory.base(), self.memory.len());
        self.must_be_new(must("init anew", handle::init(base, len, &self.options))?)
    }

    fn must_be_new(&self, pool: Handle) -> Result<(), String> {
        must("check of a new pool", pool.check())?;
        let live = live(pool)?;
        ensure!(live.is_empty(), "a new pool with blocks: {live:?}");
        fill_and_empty(pool, &[], 0)?;
        self.must_be_empty(pool, 0)?;
        must("detach", pool.detach())
    }
}

/// Bytes that must be there.
#[derive(Debug)]
struct Held {
    offset: u64,
    len: u64,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    Stamp(u64),
    Fill(u8),
}

impl Held {
    fn is_whole(&self, pool: Handle) -> bool {
        let (block, len) = (pool.pointer(self.offset), self.len as usize);
        match self.bytes {
            Bytes::Stamp(stamp) => is_stamped(block, len, stamp),
            Bytes::Fill(byte) => {
                // SAFETY: a live block of at least that size.
                let bytes = unsafe { std::slice::from_raw_parts(block, len) };
                bytes.iter().all(|&found| found == byte)
            }
        }
    }
}

/// Makes all blocks such as can be freed.
fn unbind_all(pool: Handle) -> Result<(), String> {
    for (name, _) in must("names", pool.names())? {
        must("unbind", pool.unbind(&name))?;
    }
    must("no root", pool.set_root(std::ptr::null()))
}

fn live(pool: Handle) -> Result<Vec<Block>, String> {
    let mut blocks = must("walk", pool.try_walk())?;
    blocks.retain(|block| block.state == MEMPOOL_BLOCK_LIVE);
    Ok(blocks)
}

/// The figures are those of the blocks, and add up.
fn agree(pool: Handle, live: &[Block]) -> Result<(), String> {
    let stats = must("stats", pool.try_stats())?;
    let size: u64 = live.iter().map(|block| block.size).sum();
    ensure!(
        (stats.used_count, stats.used_size) == (live.len() as u64, size),
        "{} blocks of {size} bytes live, but {stats:?}",
        live.len()
    );
    let parts = stats.overhead + stats.used_size + stats.available;
    ensure!(stats.total == parts, "bytes are lost: {stats:?}");
    let mut found = [(0, 0); 4];
    for block in must("walk", pool.try_walk())? {
        let (count, size) = &mut found[block.state as usize & 3];
        (*count, *size) = (*count + 1, *size + block.size);
    }
    let figures = [
        (stats.free_count, stats.free_size),
        (stats.used_count, stats.used_size),
        (stats.cached_count, stats.cached_size),
        // Nothing counts the pool's own blocks but the bytes that the others leave.
        found[MEMPOOL_BLOCK_META as usize],
    ];
    ensure!(found == figures, "the walk finds {found:?}, stats says {figures:?}");
    Ok(())
}

/// Takes every byte that is not live or the living's, once, and gives all of it back.
fn fill_and_empty(pool: Handle, live: &[Block], cached: u64) -> Result<(), String> {
    let stats = pool.stats();
    let mut taken: Vec<(u64, u64)> = live.iter().map(|block| (block.offset, block.size)).collect();
    let mut size = (stats.total as usize / 16).next_power_of_two();
    while size >= 8 {
        match pool.malloc(size) {
            Err(MEMPOOL_ERR_OUT_OF_MEMORY) => size /= 2,
            block => {
                let block = must("malloc", block)?;
                let usable = pool.usable_size(block);
                ensure!(usable >= size, "malloc({size}) gave {usable} bytes");
                // SAFETY: a block that was just delivered.
                unsafe { block.write_bytes(0xfe, usable) };
                taken.push((pool.offset(block), usable as u64));
            }
        }
    }
    let full = pool.stats();
    // Some granules that are left may be too few for a guard.
    let is_full = full.available == cached || full.largest_free == 0;
    ensure!(is_full, "full, but for some bytes: {full:?}, {cached} cached");
    let fills = taken.split_off(live.len());
    taken.extend(&fills);
    taken.sort_unstable();
    let twice = taken.windows(2).find(|pair| pair[0].0 + pair[0].1 > pair[1].0);
    ensure!(twice.is_none(), "delivered twice: {twice:?}");
    for (offset, _) in fills {
        must("free", pool.free(pool.pointer(offset)))?;
    }
    must("check after it was full", pool.check())
}
