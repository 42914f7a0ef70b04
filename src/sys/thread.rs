//! Who this thread is, across forks; what the kernel must know before it takes a lock; and
//! whether another thread lives.

use super::futex::errno;
use super::host;
use core::cell::Cell;
use core::ptr;
use core::sync::atomic::{compiler_fence, AtomicPtr, AtomicU32, AtomicU64, Ordering::*};

/// The bits of a futex word that name a thread (linux/futex.h: FUTEX_TID_MASK).
pub const TID_MASK: u32 = 0x3fff_ffff;

/// The kernel's struct robust_list_head (linux/futex.h); it lives in the C library's thread
/// descriptor, and the kernel looks at it when the thread dies.
#[repr(C)]
struct RobustList {
    next: usize,
    futex_offset: isize,
    pending: usize,
}

/// The calling thread.
#[derive(Clone, Copy)]
pub struct Me {
    /// Its number, as the kernel writes it into futex words.
    pub tid: u32,
    /// Another value in each process: a forked child sees that it is one.
    pub generation: u64,
    local: *const Local,
}

struct Local {
    tid: Cell<u32>,
    generation: Cell<u64>,
    robust: Cell<*mut RobustList>,
    holding: Cell<usize>,
}

thread_local! {
    // Const and without Drop: no destructor is registered, nothing is allocated.
    static LOCAL: Local = const {
        Local {
            tid: Cell::new(0),
            generation: Cell::new(0),
            robust: Cell::new(ptr::null_mut()),
            holding: Cell::new(0),
        }
    };
}

/// The calling thread; two loads but for its first call in each process.
pub fn me() -> Me {
    let generation = generation();
    LOCAL.with(|local| {
        if local.generation.get() != generation {
            local.tid.set(gettid());
            local.robust.set(robust_list());
            local.holding.set(0);
            local.generation.set(generation);
        }
        Me { tid: local.tid.get(), generation, local }
    })
}

impl Me {
    /// Says that this thread is about to hold the lock at `word`. None if it does already: the
    /// call comes from a signal handler that interrupted another call.
    pub fn hold(&self, word: &AtomicU32) -> Option<Holding> {
        let local = self.local();
        if local.holding.get() == word.as_ptr() as usize {
            return None;
        }
        let outer = local.holding.replace(word.as_ptr() as usize);
        Some(Holding { me: *self, outer })
    }

    fn local(&self) -> &Local {
        // SAFETY: this thread's, without a destructor: there as long as the thread runs, which a
        // `Me` never leaves, since a pointer is not Send.
        unsafe { &*self.local }
    }

    /// Tells the kernel which word to look at should this thread die: if the word then names the
    /// thread, its owner-died bit is set and a sleeper woken; if it names nobody, a sleeper is
    /// woken. Nothing of this is stored in the buffer. Without a robust list (a C library that
    /// registers none) this does nothing, and the dead are found by [`exists`].
    pub fn announce(&self, word: &AtomicU32) -> Announcement {
        let robust = self.local().robust.get();
        if robust.is_null() {
            return Announcement { robust, outer: 0 };
        }
        // SAFETY: the kernel gave this address for this thread; it is part of the thread's
        // descriptor, which lives as long as the thread runs. Volatile, between compiler fences,
        // because the kernel reads it behind the compiler's back.
        unsafe {
            let offset = ptr::addr_of!((*robust).futex_offset).read_volatile();
            let pending = ptr::addr_of_mut!((*robust).pending);
            let outer = pending.read_volatile();
            pending.write_volatile((word.as_ptr() as usize).wrapping_sub(offset as usize));
            compiler_fence(SeqCst);
            Announcement { robust, outer }
        }
    }
}

/// While it lives, the thread counts as holding a word.
pub struct Holding {
    me: Me,
    outer: usize,
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.me.local().holding.set(self.outer);
    }
}

/// While it lives, the kernel watches over a word.
pub struct Announcement {
    robust: *mut RobustList,
    outer: usize,
}

impl Drop for Announcement {
    fn drop(&mut self) {
        compiler_fence(SeqCst);
        if !self.robust.is_null() {
            // SAFETY: as in `announce`; an announcement never leaves the thread that made it.
            unsafe { ptr::addr_of_mut!((*self.robust).pending).write_volatile(self.outer) };
        }
    }
}

/// Has the C library call a function in each child that it forks, from then on.
pub fn at_fork_in_child(call: extern "C" fn()) {
    // SAFETY: the function lives as long as the library. Fails for want of memory only: then a
    // child that passes NULL for a pool crashes, which it may.
    unsafe { libc::pthread_atfork(None, None, Some(call)) };
}

/// Has the C library call a function before each fork, from then on.
pub fn at_fork(call: extern "C" fn()) {
    // SAFETY: the function lives as long as the library. Fails for want of memory only.
    unsafe { libc::pthread_atfork(Some(call), None, None) };
}

fn gettid() -> u32 {
    // SAFETY: takes and touches nothing.
    unsafe { libc::syscall(libc::SYS_gettid) as u32 & TID_MASK }
}

fn robust_list() -> *mut RobustList {
    let mut head: *mut RobustList = ptr::null_mut();
    let mut len: usize = 0;
    // SAFETY: both out-pointers are valid; 0 means the calling thread.
    let answer = unsafe { libc::syscall(libc::SYS_get_robust_list, 0, &mut head, &mut len) };
    if answer == 0 && len == size_of::<RobustList>() {
        head
    } else {
        ptr::null_mut()
    }
}

/// A page that a fork wipes: it holds the generation, and a child finds 0 there.
static PAGE: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());
/// The last generation given out; a child inherits it and counts on.
static LAST: AtomicU64 = AtomicU64::new(0);
/// Stands in PAGE where the kernel wipes no pages: the process number serves then.
static NO_PAGE: AtomicU64 = AtomicU64::new(0);

fn generation() -> u64 {
    let mut page = PAGE.load(Acquire);
    if page.is_null() {
        page = make_page();
    }
    if ptr::eq(page, &NO_PAGE) {
        // SAFETY: takes and touches nothing.
        return unsafe { libc::getpid() } as u64;
    }
    // SAFETY: made once by `make_page`, never unmapped.
    let cell = unsafe { &*page };
    match cell.load(Relaxed) {
        0 => {
            let next = LAST.fetch_add(1, Relaxed) + 1;
            match cell.compare_exchange(0, next, Relaxed, Relaxed) {
                Ok(_) => next,
                Err(other) => other,
            }
        }
        generation => generation,
    }
}

#[cold]
fn make_page() -> *mut AtomicU64 {
    let made = host::wiped_page()
        .map_or(ptr::addr_of!(NO_PAGE) as *mut AtomicU64, |page| page.as_ptr() as *mut AtomicU64);
    match PAGE.compare_exchange(ptr::null_mut(), made, AcqRel, Acquire) {
        Ok(_) => made,
        Err(first) => {
            if !ptr::eq(made, &NO_PAGE) {
                host::unmap_page(made as *mut u8);
            }
            first
        }
    }
}

/// Whether a thread of this number exists as far as this process can see.
pub fn exists(tid: u32) -> bool {
    // SAFETY: signal 0 is sent to nobody, it only asks.
    let answer = unsafe { libc::syscall(libc::SYS_tkill, tid as libc::c_long, 0) };
    answer == 0 || errno() != libc::ESRCH
}

/// Whether a thread of this number belongs to this process. When in doubt, it does.
pub fn is_of_this_process(tid: u32) -> bool {
    // SAFETY: signal 0 is sent to nobody, it only asks.
    let answer = unsafe {
        libc::syscall(libc::SYS_tgkill, libc::getpid() as libc::c_long, tid as libc::c_long, 0)
    };
    answer == 0 || errno() != libc::ESRCH
}

/// The number of this process.
pub fn process() -> u32 {
    // SAFETY: takes and touches nothing.
    unsafe { libc::getpid() as u32 }
}

/// Whether the process of this number that started then, in ticks since boot, is gone: there is
/// none, or all its threads have ended, or another one has its number. When in doubt, it is not.
pub fn is_process_gone(pid: u32, start: u64) -> bool {
    if !exists(pid) {
        return true;
    }
    let found = stat(pid, |fields| {
        let is_zombie = matches!(fields.next()?.first(), Some(b'Z' | b'X'));
        // Fields 20 and 22 of the line; the state is field 3. A process lives on when its first
        // thread has ended, which then looks like a zombie.
        let threads = number(fields.nth(20 - 4)?);
        let now = number(fields.nth(22 - 21)?);
        Some(is_zombie && threads <= 1 || start != 0 && now != 0 && now != start)
    });
    found.unwrap_or(false)
}

/// What a living thread is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Stopped by a signal or a debugger: it will go on when it is let.
    Stopped,
    /// Asleep of its own will, which nobody is inside a critical section.
    Asleep,
    /// Running, waiting for a page, or not to be known.
    Busy,
    /// Ended, and not yet waited for.
    Dead,
}

/// What the thread is doing.
pub fn state(tid: u32) -> State {
    state_and_start(tid).0
}

/// When the thread started, in ticks since boot; 0 when that cannot be known.
pub fn start_time(tid: u32) -> u64 {
    state_and_start(tid).1
}

/// What the thread is doing, and when it started, in ticks since boot; 0 when that cannot be known.
pub fn state_and_start(tid: u32) -> (State, u64) {
    let found = stat(tid, |fields| {
        let state = match fields.next()?.first() {
            Some(b'T' | b't') => State::Stopped,
            Some(b'S') => State::Asleep,
            Some(b'Z' | b'X') => State::Dead,
            _ => State::Busy,
        };
        // Field 22 of the line; the state is field 3.
        Some((state, fields.nth(22 - 4).map_or(0, number)))
    });
    found.unwrap_or((State::Busy, 0))
}

fn number(digits: &[u8]) -> u64 {
    digits.iter().fold(0, |number: u64, &digit| number.wrapping_mul(10) + u64::from(digit & 15))
}

/// The fields of /proc/TID/stat from the state on.
fn stat<T>(tid: u32, pick: impl FnOnce(&mut dyn Iterator<Item = &[u8]>) -> Option<T>) -> Option<T> {
    let mut path = host::Path::new();
    path.push(b"/proc/");
    path.push_number(tid);
    path.push(b"/stat");
    let mut text = [0u8; 512];
    let len = host::read_file(&path, &mut text);
    // "TID (name) S ...": the name may hold anything, so look for the last parenthesis.
    let name_end = text[..len].iter().rposition(|&byte| byte == b')')?;
    let rest = text[..len].get(name_end + 2..)?;
    pick(&mut rest.split(|&byte| byte == b' '))
}
