//! The allocators, all behind one table of functions, so that a call costs the same everywhere.

use crate::region::Region;
use std::ffi::c_void;
use std::path::PathBuf;

#[cfg(boost)]
mod boost;
mod loaded;
#[cfg(feature = "peers")]
mod locked;
mod null;
mod owned;
mod pool;

pub type Malloc = unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void;
pub type Free = unsafe extern "C" fn(*mut c_void, *mut c_void);
pub type Realloc = unsafe extern "C" fn(*mut c_void, *mut c_void, usize) -> *mut c_void;

/// An allocator that is ready, as its callers see it.
#[derive(Clone, Copy)]
pub struct Heap {
    pub ctx: *mut c_void,
    pub malloc: Malloc,
    pub free: Free,
    pub realloc: Realloc,
    /// A thread's first and last call.
    pub enter: fn(),
    pub leave: fn(),
    /// Called when all blocks are free: is the heap sound and empty?
    pub check: fn(*mut c_void) -> Result<(), String>,
}

// SAFETY: every allocator here may be called by many threads at once.
unsafe impl Send for Heap {}
// SAFETY: as above.
unsafe impl Sync for Heap {}

/// What a peer lives in, which decides what can be asked of it.
#[derive(Clone, Copy, PartialEq)]
#[cfg_attr(not(feature = "peers"), allow(dead_code))]
pub enum Home {
    /// A fixed range that processes share.
    Shared,
    /// A fixed range of this process.
    Fixed,
    /// Whatever it gets from the system, for this process.
    System,
}

/// Where things come from that are not linked in.
#[derive(Clone, Default)]
pub struct Options {
    /// mempool's shared library, if not the one that cargo built along.
    pub library: Option<PathBuf>,
}

pub struct Peer {
    pub name: &'static str,
    pub home: Home,
    /// The peer that does nothing and is called in the same way.
    pub null: &'static str,
    open: Open,
}

type Open = fn(&Options, Region) -> Result<Heap, String>;

impl Peer {
    const fn new(name: &'static str, home: Home, null: &'static str, open: Open) -> Peer {
        Peer { name, home, null, open }
    }

    /// The allocator over a region, which those that live in the system's memory leave alone.
    pub fn open(&self, options: &Options, len: usize) -> Result<Heap, String> {
        (self.open)(options, Region::map(if self.home == Home::System { 1 } else { len }))
    }
}

/// What is measured, and what all ratios are against.
pub const SUBJECT: &str = "mempool";
pub const YARDSTICK: &str = "mimalloc";

/// In the order of the table's columns.
pub const PEERS: &[Peer] = &[
    Peer::new(SUBJECT, Home::Shared, POOL, pool::open),
    #[cfg(feature = "peers")]
    Peer::new(YARDSTICK, Home::System, LINKED, |_, _| Ok(owned::mimalloc())),
    Peer::new("tcmalloc", Home::System, LOADED, |_, _| loaded::tcmalloc()),
    #[cfg(feature = "peers")]
    Peer::new("jemalloc", Home::System, LINKED, |_, _| Ok(owned::jemalloc())),
    #[cfg(feature = "peers")]
    Peer::new("rpmalloc", Home::System, LINKED, |_, _| Ok(owned::rpmalloc())),
    #[cfg(feature = "peers")]
    Peer::new("snmalloc", Home::System, LINKED, |_, _| Ok(owned::snmalloc())),
    Peer::new("glibc", Home::System, LINKED, |_, _| Ok(owned::glibc())),
    #[cfg(feature = "peers")]
    Peer::new("rlsf", Home::Fixed, CALLED, |_, region| Ok(locked::rlsf(region))),
    #[cfg(feature = "peers")]
    Peer::new("talc", Home::Fixed, CALLED, |_, region| Ok(locked::talc(region))),
    #[cfg(boost)]
    Peer::new("boost", Home::Shared, CALLED, |_, region| Ok(boost::open(region))),
];

/// Not measured but subtracted: what calls cost that do nothing, in each of the ways there are.
pub const NULLS: &[Peer] = &[
    Peer::new(CALLED, Home::System, CALLED, |_, _| Ok(null::called())),
    Peer::new(LINKED, Home::System, LINKED, |_, _| Ok(owned::null())),
    Peer::new(LOADED, Home::System, LOADED, |_, _| Ok(loaded::null())),
    Peer::new(POOL, Home::System, POOL, |_, _| Ok(loaded::null_pool())),
];

/// Called by the table; through a function that drops the context; through one that finds a pointer
/// there; through one that finds the pool there too.
const CALLED: &str = "null-called";
const LINKED: &str = "null-linked";
const LOADED: &str = "null-loaded";
const POOL: &str = "null-pool";

pub fn find(name: &str) -> Option<&'static Peer> {
    PEERS.iter().chain(NULLS).find(|peer| peer.name == name)
}

fn nothing() {}

fn unchecked(_: *mut c_void) -> Result<(), String> {
    Ok(())
}
