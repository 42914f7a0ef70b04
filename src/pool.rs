//! stub: signatures only, the body is being written
#![allow(missing_docs, unused_variables, clippy::missing_safety_doc)]
use crate::error::Result;
use crate::options::Options;
use crate::stats::{Block, Stats};
use core::ptr::NonNull;

pub struct Pool { _p: () }
impl Pool {
    pub unsafe fn init(buffer: *mut u8, len: usize, o: &Options) -> Result<Pool> { todo!() }
    pub unsafe fn attach(buffer: *mut u8, len: usize, start: usize) -> Result<Pool> { todo!() }
    pub unsafe fn open(buffer: *mut u8, len: usize, o: &Options) -> Result<(Pool, bool)> { todo!() }
    pub fn detach(self) -> Result<()> { todo!() }
    pub fn release(&self) -> Result<()> { todo!() }
    pub fn malloc(&self, size: usize) -> Result<NonNull<u8>> { todo!() }
    pub fn calloc(&self, count: usize, size: usize) -> Result<NonNull<u8>> { todo!() }
    pub fn calloc_fill(&self, count: usize, size: usize, fill: u8) -> Result<NonNull<u8>> { todo!() }
    pub fn aligned_alloc(&self, alignment: usize, size: usize) -> Result<NonNull<u8>> { todo!() }
    pub unsafe fn realloc(&self, block: *mut u8, size: usize) -> Result<NonNull<u8>> { todo!() }
    pub unsafe fn realloc_array(&self, block: *mut u8, count: usize, size: usize) -> Result<NonNull<u8>> { todo!() }
    pub fn expand(&self, block: *mut u8, size: usize) -> Result<()> { todo!() }
    pub unsafe fn free(&self, block: *mut u8) -> Result<()> { todo!() }
    pub unsafe fn free_sized(&self, block: *mut u8, size: usize) -> Result<()> { todo!() }
    pub unsafe fn free_all(&self) -> Result<()> { todo!() }
    pub fn usable_size(&self, block: *const u8) -> usize { todo!() }
    pub fn good_size(&self, size: usize) -> usize { todo!() }
    pub fn offset(&self, p: *const u8) -> u64 { todo!() }
    pub fn pointer(&self, offset: u64) -> *mut u8 { todo!() }
    pub fn stats(&self) -> Result<Stats> { todo!() }
    pub fn check(&self) -> Result<()> { todo!() }
    pub fn walk(&self, visit: &mut dyn FnMut(&Block) -> bool) -> Result<()> { todo!() }
    pub fn trim(&self) -> Result<()> { todo!() }
    pub fn recover(&self) -> Result<u64> { todo!() }
}
pub unsafe fn inspect(buffer: *const u8, len: usize, start: usize, visit: Option<&mut dyn FnMut(&Block) -> bool>) -> Result<Stats> { todo!() }
pub fn peek(prefix: &[u8]) -> Result<u64> { todo!() }
pub fn min_len(o: &Options) -> usize { todo!() }
