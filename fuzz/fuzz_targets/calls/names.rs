//! Blocks with names, and the root: none of them goes, and each is found, as long as it has one.

use super::World;
use ::mempool::abi::*;
use mempool_fuzz::handle;
use mempool_fuzz::names::name;

/// What an entry takes beside its name.
const ENTRY: usize = 32;

impl World {
    /// Whether a block may not be freed.
    pub fn is_bound(&self, offset: u64) -> bool {
        self.root == Some(offset) || self.names.values().any(|&named| named == offset)
    }

    pub fn bind_one(&mut self) {
        let number = self.input.u8();
        if let Some(offset) = self.pick() {
            self.bind(name(number), offset);
        }
    }

    /// Names in a row, for blocks in a row.
    pub fn bind_many(&mut self) {
        let (number, count) = (self.input.u8(), self.input.u8());
        let Some(first) = self.pick() else { return };
        let blocks: Vec<u64> = self.live.range(first..).map(|(&offset, _)| offset).collect();
        for more in 0..=count {
            let block = blocks[usize::from(more) % blocks.len().min(7)];
            self.bind(name(number.wrapping_add(more)), block);
        }
    }

    fn bind(&mut self, name: Vec<u8>, offset: u64) {
        let has_it = self.names.contains_key(&name);
        match self.pool().bind(&name, self.pointer(offset)) {
            Ok(()) => {
                assert!(!has_it, "the name was taken");
                self.names.insert(name, offset);
            }
            Err(MEMPOOL_ERR_EXISTS) => assert!(has_it, "nobody has this name"),
            Err(MEMPOOL_ERR_OUT_OF_MEMORY) => self.must_be_full(ENTRY + name.len()),
            Err(status) => self.must_be_told(status),
        }
        self.must_be_whole(offset);
    }

    /// A name: mostly one that a block has.
    fn pick_name(&mut self) -> Vec<u8> {
        let (number, some) = (self.input.u8(), self.input.u8());
        let names = self.names.keys();
        let known = names.clone().nth(usize::from(some) % names.len().max(1)).cloned();
        known.filter(|_| number < 224).unwrap_or_else(|| name(number))
    }

    pub fn unbind(&mut self) {
        let name = self.pick_name();
        let expected = self.names.get(&name).map(drop).ok_or(MEMPOOL_ERR_NOT_FOUND);
        assert_eq!(self.pool().unbind(&name), expected, "{}", handle::last_message());
        self.names.remove(&name);
    }

    pub fn unbind_from(&mut self) {
        let (name, other) = (self.pick_name(), self.pick());
        let of = self.names.get(&name).copied();
        let from = if self.input.flag() { of.or(other) } else { other.or(of) };
        let Some(from) = from else { return };
        let expected = if of == Some(from) { Ok(()) } else { Err(MEMPOOL_ERR_NOT_FOUND) };
        assert_eq!(self.pool().unbind_from(&name, self.pointer(from)), expected);
        if expected.is_ok() {
            self.names.remove(&name);
        }
    }

    /// Names go while they are visited, up to some name, at which the visitor has seen enough.
    pub fn unbind_on_the_way(&mut self) {
        let (every, enough) = (usize::from(self.input.u8() % 5) + 1, self.input.u8());
        let (pool, mut count, mut gone) = (self.pool(), 0, Vec::new());
        let seen = pool.names_until(&mut |name, offset| {
            count += 1;
            if count % every == 0 {
                assert_eq!(pool.find(name).map(|block| pool.offset(block)), Ok(offset));
                assert_eq!(pool.unbind(name), Ok(()), "{}", handle::last_message());
                gone.push(name.to_vec());
            }
            count <= usize::from(enough)
        });
        let mut seen = seen.expect("names");
        assert_eq!(seen.len(), self.names.len().min(usize::from(enough) + 1), "each once");
        seen.sort();
        assert!(seen.windows(2).all(|pair| pair[0].0 != pair[1].0), "a name was seen twice");
        assert!(seen.iter().all(|(name, offset)| self.names.get(name) == Some(offset)));
        self.names.retain(|name, _| !gone.contains(name));
    }

    pub fn unbind_all(&mut self) {
        for name in std::mem::take(&mut self.names).into_keys() {
            self.pool().unbind(&name).expect("unbind");
        }
        self.root = None;
        self.pool().set_root(std::ptr::null()).expect("no root");
    }

    pub fn set_root(&mut self) {
        let picked = if self.input.u8() < 192 { self.pick() } else { None };
        let block = picked.map_or(std::ptr::null_mut(), |offset| self.pointer(offset));
        assert_eq!(self.pool().set_root(block), Ok(()), "{}", handle::last_message());
        self.root = picked;
    }

    pub fn look_up(&mut self) {
        let name = self.pick_name();
        let expected = self.names.get(&name).map(|&offset| self.pointer(offset));
        assert_eq!(self.pool().find(&name), expected.ok_or(MEMPOOL_ERR_NOT_FOUND));
        let root = self.root.map_or(std::ptr::null_mut(), |offset| self.pointer(offset));
        assert_eq!(self.pool().root(), Ok(root));
    }

    /// All names and the root, as the model has them.
    pub fn must_be_found(&self) {
        let pool = self.pool();
        let names: Vec<_> = self.names.clone().into_iter().collect();
        assert_eq!(pool.names(), Ok(names), "names are the model's");
        for (name, &offset) in &self.names {
            assert_eq!(pool.find(name), Ok(self.pointer(offset)));
        }
        let root = self.root.map_or(std::ptr::null_mut(), |offset| self.pointer(offset));
        assert_eq!(pool.root(), Ok(root));
    }

    /// What is no block gets no name, and what can be no name is none.
    pub fn bad_name(&mut self) {
        let (address, pool, how) = (self.bad_address(), self.pool(), self.input.u8());
        let some = self.pick();
        if self.live.contains_key(&pool.offset(address)) {
            return;
        }
        let none = match some {
            Some(offset) if how & 4 != 0 => {
                let block = self.pointer(offset);
                let long = vec![b'x'; 256];
                let refused = Err(MEMPOOL_ERR_INVALID_ARGUMENT);
                assert_eq!([pool.bind(b"", block), pool.bind(&long, block)], [refused; 2]);
                return;
            }
            _ => [MEMPOOL_ERR_NOT_ALLOCATED, MEMPOOL_ERR_FOREIGN_POINTER],
        };
        let status = match how % 4 {
            0 => pool.set_root(address),
            1 => pool.bind(&name(how), address),
            2 => pool.bind(b"a name that nobody has", address),
            _ => pool.unbind_from(b"a name that nobody has", address),
        };
        let status = status.expect_err("refused");
        let is_unknown = how % 4 == 3 && status == MEMPOOL_ERR_NOT_FOUND;
        assert!(none.contains(&status) || is_unknown, "{status}: {}", handle::last_message());
    }

    /// Where a block of the pool's own lies, if there is one.
    pub fn own_block(&self, some: usize) -> usize {
        if self.names.is_empty() {
            return 0;
        }
        let walked = self.pool().walk();
        let own = walked.iter().filter(|block| block.state == MEMPOOL_BLOCK_META);
        let offsets: Vec<u64> = own.map(|block| block.offset).collect();
        offsets.get(some / 16 % offsets.len().max(1)).map_or(0, |&offset| offset as usize)
    }
}
