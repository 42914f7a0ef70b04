//! Names to bind, by number, and visitors of names.

use crate::handle::{last_error, Handle, Status};
use ::mempool::abi::*;
use ::mempool::capi::*;
use std::ffi::{c_char, c_void, CStr};
use std::ptr;

/// A name of any length; numbers that differ give names that do.
pub fn name(number: u8) -> Vec<u8> {
    const LENGTHS: [usize; 12] = [1, 2, 3, 4, 7, 11, 12, 20, 35, 36, 100, 255];
    let len = LENGTHS[usize::from(number) % LENGTHS.len()];
    // No byte of it is 0.
    let byte = |at: usize| match at {
        0 => number.max(1),
        1 => 1 + number / 128,
        _ => 1 + (usize::from(number) * 7 + at * 31) as u8 % 255,
    };
    let mut name: Vec<u8> = (0..len).map(byte).collect();
    if number == 0 {
        name.push(b'0');
    }
    name
}

type Named = (Vec<u8>, u64);

struct Way<'a> {
    visit: &'a mut dyn FnMut(&[u8], u64) -> bool,
    seen: Vec<Named>,
}

extern "C" fn visit(name: *const c_char, offset: u64, way: *mut c_void) -> bool {
    // SAFETY: a C string, and the way we gave.
    let (name, way) = unsafe { (CStr::from_ptr(name).to_bytes(), &mut *way.cast::<Way>()) };
    way.seen.push((name.to_vec(), offset));
    (way.visit)(name, offset)
}

impl Handle {
    /// All names as they are shown, until the visitor has seen enough: mempool_names.
    pub fn names_until(
        self,
        visitor: &mut dyn FnMut(&[u8], u64) -> bool,
    ) -> Result<Vec<Named>, Status> {
        let mut way = Way { visit: visitor, seen: Vec::new() };
        // SAFETY: a handle that was not detached; `visit` gets the way it expects.
        let status = unsafe { mempool_names(self.0, Some(visit), ptr::from_mut(&mut way).cast()) };
        if status != MEMPOOL_OK {
            assert_eq!(last_error(), status, "last_error agrees with the status");
            return Err(status);
        }
        Ok(way.seen)
    }
}
