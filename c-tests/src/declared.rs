//! Every function of `include/mempool.h`, declared by hand.

use ::mempool::abi::*;
use core::ffi::{c_char, c_int, c_void};

extern "C" {
    pub fn mempool_init(
        buffer: *mut c_void,
        len: usize,
        options: *const mempool_options_t,
        out: *mut *mut mempool_t,
    ) -> mempool_status_t;
    pub fn mempool_attach(
        buffer: *mut c_void,
        len: usize,
        options: *const mempool_options_t,
        out: *mut *mut mempool_t,
    ) -> mempool_status_t;
    pub fn mempool_open(
        buffer: *mut c_void,
        len: usize,
        options: *const mempool_options_t,
        out: *mut *mut mempool_t,
        created: *mut bool,
    ) -> mempool_status_t;
    pub fn mempool_detach(pool: *mut mempool_t) -> mempool_status_t;
    pub fn mempool_release(pool: *mut mempool_t) -> mempool_status_t;
    pub fn mempool_malloc(pool: *mut mempool_t, size: usize) -> *mut c_void;
    pub fn mempool_calloc(pool: *mut mempool_t, count: usize, size: usize) -> *mut c_void;
    pub fn mempool_calloc_fill(
        pool: *mut mempool_t,
        count: usize,
        size: usize,
        fill: c_int,
    ) -> *mut c_void;
    pub fn mempool_aligned_alloc(
        pool: *mut mempool_t,
        alignment: usize,
        size: usize,
    ) -> *mut c_void;
    pub fn mempool_realloc(pool: *mut mempool_t, block: *mut c_void, size: usize) -> *mut c_void;
    pub fn mempool_realloc_array(
        pool: *mut mempool_t,
        block: *mut c_void,
        count: usize,
        size: usize,
    ) -> *mut c_void;
    pub fn mempool_expand(
        pool: *mut mempool_t,
        block: *mut c_void,
        size: usize,
    ) -> mempool_status_t;
    pub fn mempool_free(pool: *mut mempool_t, block: *mut c_void) -> mempool_status_t;
    pub fn mempool_free_sized(
        pool: *mut mempool_t,
        block: *mut c_void,
        size: usize,
    ) -> mempool_status_t;
    pub fn mempool_malloc_to(pool: *mut mempool_t, size: usize, slot: *mut u64)
        -> mempool_status_t;
    pub fn mempool_calloc_to(
        pool: *mut mempool_t,
        count: usize,
        size: usize,
        slot: *mut u64,
    ) -> mempool_status_t;
    pub fn mempool_free_from(pool: *mut mempool_t, slot: *mut u64) -> mempool_status_t;
    pub fn mempool_free_all(pool: *mut mempool_t) -> mempool_status_t;
    pub fn mempool_usable_size(pool: *const mempool_t, block: *const c_void) -> usize;
    pub fn mempool_good_size(pool: *const mempool_t, size: usize) -> usize;
    pub fn mempool_offset(pool: *const mempool_t, p: *const c_void) -> u64;
    pub fn mempool_pointer(pool: *const mempool_t, offset: u64) -> *mut c_void;
    pub fn mempool_stats(pool: *mut mempool_t, out: *mut mempool_stats_t) -> mempool_status_t;
    pub fn mempool_check(pool: *mut mempool_t) -> mempool_status_t;
    pub fn mempool_walk(
        pool: *mut mempool_t,
        visit: mempool_visit_t,
        context: *mut c_void,
    ) -> mempool_status_t;
    pub fn mempool_inspect(
        buffer: *const c_void,
        len: usize,
        options: *const mempool_options_t,
        stats: *mut mempool_stats_t,
        visit: mempool_visit_t,
        context: *mut c_void,
    ) -> mempool_status_t;
    pub fn mempool_peek(prefix: *const c_void, n: usize, len: *mut u64) -> mempool_status_t;
    pub fn mempool_trim(pool: *mut mempool_t) -> mempool_status_t;
    pub fn mempool_recover(pool: *mut mempool_t, recovered: *mut u64) -> mempool_status_t;
    pub fn mempool_reap(
        pool: *mut mempool_t,
        pid: i32,
        visit: mempool_reap_visit_t,
        context: *mut c_void,
        reaped: *mut mempool_reaped_t,
    ) -> mempool_status_t;
    pub fn mempool_adopt(pool: *mut mempool_t, block: *mut c_void) -> mempool_status_t;
    pub fn mempool_abandon(pool: *mut mempool_t, block: *mut c_void) -> mempool_status_t;
    pub fn mempool_owner_of(
        pool: *const mempool_t,
        block: *const c_void,
        owner: *mut mempool_owner_t,
    ) -> mempool_status_t;
    pub fn mempool_label(pool: *mut mempool_t, label: u64) -> mempool_status_t;
    pub fn mempool_set_root(pool: *mut mempool_t, block: *mut c_void) -> mempool_status_t;
    pub fn mempool_root(pool: *mut mempool_t) -> *mut c_void;
    pub fn mempool_bind(
        pool: *mut mempool_t,
        name: *const c_char,
        block: *mut c_void,
    ) -> mempool_status_t;
    pub fn mempool_find(pool: *mut mempool_t, name: *const c_char) -> *mut c_void;
    pub fn mempool_unbind(pool: *mut mempool_t, name: *const c_char) -> mempool_status_t;
    pub fn mempool_unbind_from(
        pool: *mut mempool_t,
        name: *const c_char,
        block: *const c_void,
    ) -> mempool_status_t;
    pub fn mempool_names(
        pool: *mut mempool_t,
        visit: Option<
            extern "C" fn(name: *const c_char, offset: u64, context: *mut c_void) -> bool,
        >,
        context: *mut c_void,
    ) -> mempool_status_t;
    pub fn mempool_min_len(options: *const mempool_options_t) -> usize;
    pub fn mempool_last_error() -> mempool_status_t;
    pub fn mempool_last_message() -> *const c_char;
    pub fn mempool_strerror(status: mempool_status_t) -> *const c_char;
    pub fn mempool_version() -> *const c_char;
    pub fn mempool_version_number() -> u32;
}
