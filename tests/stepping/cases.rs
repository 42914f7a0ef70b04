//! The cases: in which pool, who has been there before, and what the child does.

use super::scene::Call;
use super::stage::{at_random, Stage};
use crate::common::handle::Options;
use crate::common::options;
use ::mempool::abi::*;

const KIB: usize = 1 << 10;
/// A pool without caches.
const SMALL: usize = 32 * KIB;
/// The smallest with caches: four of them, and sixteen magazines.
const CACHED: usize = 256 * KIB;
/// One of which all bytes are looked at.
const FILLED: usize = KIB;
/// The same, with room for names.
const NAMED: usize = 2 * KIB;
/// The smallest with a shelf: of granules of 8 bytes, for blocks of 36 KiB.
const SHELVED: usize = 9 * KIB * KIB;
const WIDE: usize = 36 * KIB;
/// The longest of all.
pub const LEN_MAX: usize = SHELVED;

type Act = Box<dyn Fn(&mut Stage) + Send + Sync>;

pub struct Case {
    pub name: String,
    /// What its calls that are about no block are called in the table.
    pub group: &'static str,
    pub len: usize,
    pub options: Options,
    /// The buffer holds bytes that mean nothing before; else zeros.
    pub dirty: bool,
    /// There is a pool when the child comes.
    pub has_pool: bool,
    /// The machine has started anew since anybody used the pool.
    pub rebooted: bool,
    /// So many times as many real kills as elsewhere.
    pub kills: u64,
    /// After each state a survivor's mempool_recover is stepped through.
    pub is_complete: bool,
    /// Its recoveries are stepped through in `make soak` only: its pool is so large.
    pub is_long: bool,
    /// After a real kill another goes on with the very block that the dead one's call was about. A child
    /// is killed at each store of each call; in a short run at some of them.
    pub is_taken_over: bool,
    /// Other processes, which come before the child.
    pub others: Vec<Other>,
    /// What the child does.
    pub act: Act,
}

/// A process that uses the pool before the child does.
pub struct Other {
    pub act: fn(&mut Stage),
    /// It stays, and what it has is its; else it ends without a word.
    pub stays: bool,
    /// What it does after the child was killed for real, before anybody knows.
    pub then: fn(&mut Stage),
}

impl Case {
    fn new(
        name: impl Into<String>,
        len: usize,
        act: impl Fn(&mut Stage) + Send + Sync + 'static,
    ) -> Case {
        Case {
            name: name.into(),
            group: "at random",
            len,
            options: options(),
            // A pool with caches has a longer map to clear.
            dirty: len < CACHED,
            has_pool: true,
            rebooted: false,
            kills: 1,
            is_complete: false,
            is_long: false,
            is_taken_over: false,
            others: Vec::new(),
            act: Box::new(act),
        }
    }

    /// What is stepped through is called by the case's name.
    fn called(mut self, group: &'static str) -> Case {
        self.group = group;
        self
    }

    fn with(mut self, change: impl FnOnce(&mut Options)) -> Case {
        change(&mut self.options);
        self
    }

    fn with_kills(mut self, times: u64) -> Case {
        self.kills = times;
        self
    }

    fn complete(mut self) -> Case {
        self.is_complete = true;
        self
    }

    fn without_pool(mut self) -> Case {
        self.has_pool = false;
        self
    }

    fn zeroed(mut self) -> Case {
        self.dirty = false;
        self
    }

    fn dirty(mut self) -> Case {
        self.dirty = true;
        self
    }

    fn after_reboot(mut self) -> Case {
        self.rebooted = true;
        self
    }

    /// Another process has used the pool, and is gone.
    fn after(mut self, act: fn(&mut Stage)) -> Case {
        self.others.push(Other { act, stays: false, then: |_| () });
        self
    }

    /// Another process uses the pool, and stays.
    fn beside(self, act: fn(&mut Stage)) -> Case {
        self.beside_then(act, |_| ())
    }

    /// Another process uses the pool, and goes on with the child's block when that is dead.
    fn taken_over(self, act: fn(&mut Stage), then: fn(&mut Stage)) -> Case {
        Case { is_taken_over: true, ..self.beside_then(act, then) }
    }

    /// Another process uses the pool, and goes on when the child is dead.
    fn beside_then(mut self, act: fn(&mut Stage), then: fn(&mut Stage)) -> Case {
        self.others.push(Other { act, stays: true, then });
        self
    }
}

/// All cases that are always played, the longer ones first.
pub fn all() -> Vec<Case> {
    [
        shelves(),
        caches(),
        death(),
        survival(),
        succession(),
        heap(),
        names(),
        resize(),
        looks(),
        whole(),
        births(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Cases with calls at random, by their number: without end.
pub fn random(number: u64) -> Case {
    let name = format!("random-{number}");
    let flags = [0, MEMPOOL_NO_COMPACT, 0, MEMPOOL_NO_SPLIT][(number / 3 % 4) as usize];
    match number % 3 {
        0 => Case::new(name, SMALL, move |s| at_random(s, number, 50, 4 * KIB, 40))
            .with(|options| options.flags = flags),
        1 => Case::new(name, CACHED, move |s| at_random(s, number, 60, 600, 300)),
        _ => Case::new(name, CACHED, move |s| at_random(s, number, 60, 8 * KIB, 200))
            .after(|s| at_random_quietly(s, 7))
            .beside(|s| at_random_quietly(s, 8)),
    }
}

/// The case of this name.
pub fn named(name: &str) -> Option<Case> {
    if let Some(number) = name.strip_prefix("random-") {
        return number.parse().ok().map(random);
    }
    all().into_iter().find(|case| case.name == name)
}

fn at_random_quietly(stage: &mut Stage, seed: usize) {
    let blocks: Vec<usize> = (0..30).map(|at| stage.get(16 + at * seed % 300)).collect();
    stage.put_all(&blocks[..blocks.len() / 2]);
}

/// Blocks come from the heap and go back to it.
fn heap() -> Vec<Case> {
    vec![
        Case::new("heap-first", SMALL, |s| {
            s.must_step(Call::Malloc { size: 100 });
            s.must_step(Call::Malloc { size: 5000 });
        }),
        Case::new("heap-reuse", SMALL, |s| {
            // Exact, cut from a larger one, of more digits; with walls between.
            let [a, _, b, _, c, _] = s.get_all([64, 16, 200, 16, 3000, 16]);
            s.put_all(&[a, b, c]);
            s.must_step(Call::Malloc { size: 64 });
            s.must_step(Call::Malloc { size: 40 });
            s.must_step(Call::Malloc { size: 2000 });
            s.must_step(Call::Calloc { count: 3, size: 16 });
            s.must_step(Call::CallocFill { count: 1, size: 100, byte: 0xc3 });
        }),
        Case::new("heap-exact-look", SMALL, |s| {
            // The bin's first blocks are too small, and there is nothing else.
            let slots = [1040, 1056, 1072, 1088, 1104, 1136].map(|size| {
                let slot = s.get(size);
                s.get(16);
                slot
            });
            s.exhaust(&[1024, 128, 16]);
            s.put_all(&slots);
            s.step(Call::Malloc { size: 1120 });
            s.step(Call::Malloc { size: 2000 });
            s.step(Call::Calloc { count: 100, size: 100 });
        }),
        Case::new("heap-watermark", 128 * KIB, |s| {
            // The map becomes known a stretch at a time.
            s.get(60 * KIB - 200);
            s.must_step(Call::Malloc { size: 8 * KIB });
        })
        .with(|options| options.flags = MEMPOOL_NO_THREAD_CACHES),
        Case::new("heap-aligned", SMALL, |s| {
            s.get(16);
            s.must_step(Call::AlignedAlloc { alignment: 512, size: 100 });
            let [a, _] = s.get_all([2000, 16]);
            s.put(a);
            s.must_step(Call::AlignedAlloc { alignment: 256, size: 100 });
            s.must_step(Call::AlignedAlloc { alignment: 64, size: 64 });
        }),
        Case::new("heap-free", SMALL, |s| {
            let [a, b, c, d, e, f, g, h] = s.get_all([64, 80, 96, 2000, 32, 48, 160, 16]);
            s.must_step(Call::Free { slot: b });
            s.must_step(Call::Free { slot: c }); // joins the left one
            s.must_step(Call::Free { slot: a }); // the right one
            s.put(e);
            s.must_step(Call::Free { slot: d }); // both
            s.must_step(Call::FreeSized { slot: f, size: 40 });
            s.must_step(Call::Free { slot: h }); // at top
            s.must_step(Call::Free { slot: g }); // at top, with one before it
        }),
        Case::new("heap-refusals", SMALL, |s| {
            let [a, b, _] = s.get_all([64, 64, 64]);
            let at = s.at(a);
            s.put(a);
            s.step(Call::FreeBad { at });
            s.step(Call::FreeBad { at: s.at(b) + 16 });
            s.step(Call::FreeBad { at: s.at(b) + 1 });
            s.step(Call::FreeBad { at: 8 });
            s.step(Call::FreeSized { slot: b, size: 500 });
            s.step(Call::Malloc { size: 100_000 });
            s.step(Call::Realloc { slot: b, size: 100_000 });
        }),
        Case::new("heap-uncompacted", SMALL, |s| {
            let [a, b, c, d] = s.get_all([64, 64, 256, 64]);
            s.must_step(Call::Free { slot: a });
            s.must_step(Call::Free { slot: b });
            s.must_step(Call::Free { slot: c });
            s.must_step(Call::Malloc { size: 100 });
            s.must_step(Call::Realloc { slot: d, size: 200 });
        })
        .with(|options| options.flags = MEMPOOL_NO_COMPACT),
        Case::new("heap-unsplit", SMALL, |s| {
            let [a, b, _] = s.get_all([256, 256, 64]);
            s.must_step(Call::Free { slot: a });
            s.must_step(Call::Malloc { size: 100 });
            s.must_step(Call::Realloc { slot: b, size: 100 });
            s.must_step(Call::Free { slot: b });
        })
        .with(|options| options.flags = MEMPOOL_NO_SPLIT),
        Case::new("heap-other-align", SMALL, |s| {
            let [a, b, _] = s.get_all([200, 300, 64]);
            s.must_step(Call::Free { slot: a });
            s.must_step(Call::Malloc { size: 72 });
            s.must_step(Call::Realloc { slot: b, size: 100 });
            s.must_step(Call::Free { slot: b });
        })
        .with(|options| options.align = 8),
    ]
}

/// Blocks get names and lose them.
fn names() -> Vec<Case> {
    fn give(s: &mut Stage, slot: usize, names: std::ops::Range<usize>) {
        names.for_each(|name| s.bind(slot, name));
    }
    vec![
        Case::new("names-first", SMALL, |s| {
            let [a, b, _] = s.get_all([100, 1000, 16]);
            s.must_step(Call::Bind { slot: a, name: 3 });
            s.must_step(Call::Bind { slot: a, name: 4 });
            s.must_step(Call::Bind { slot: b, name: 5 });
            s.step(Call::Bind { slot: b, name: 3 });
            s.step(Call::Free { slot: a });
            s.must_step(Call::Expand { slot: b, size: 900 });
            s.step(Call::Realloc { slot: a, size: 400 });
            s.must_step(Call::Realloc { slot: b, size: 500 });
            s.must_step(Call::Unbind { name: 4 });
            s.must_step(Call::Unbind { name: 3 });
            s.must_step(Call::Free { slot: a });
        }),
        Case::new("names-many", SMALL, |s| {
            // Inner entries and leaves, beside each other and between blocks.
            let [a, b, c] = s.get_all([100, 48, 600]);
            give(s, b, 0..2);
            s.get(64);
            give(s, a, 2..9);
            s.must_step(Call::Unbind { name: 0 });
            s.must_step(Call::Unbind { name: 1 });
            s.must_step(Call::Unbind { name: 2 });
            s.must_step(Call::Bind { slot: c, name: 0 });
            s.must_step(Call::FreeAll);
        })
        .called("with names"),
        Case::new("names-root", SMALL, |s| {
            let [a, b, _] = s.get_all([100, 1000, 16]);
            s.must_step(Call::SetRoot { slot: a });
            s.must_step(Call::SetRoot { slot: b });
            give(s, b, 1..2);
            s.must_step(Call::SetRoot { slot: a });
            s.must_step(Call::Bind { slot: a, name: 2 });
            s.step(Call::Free { slot: b });
            s.must_step(Call::Unbind { name: 2 });
            s.must_step(Call::NoRoot);
            s.must_step(Call::Free { slot: a });
        }),
        Case::new("names-cached", CACHED, |s| {
            // Of blocks from caches, beside others who have some.
            s.beside(stock);
            let [a, b] = s.get_all([64, 64]);
            give(s, b, 0..2);
            s.must_step(Call::Bind { slot: a, name: 7 });
            s.step(Call::Free { slot: a });
            s.must_step(Call::Unbind { name: 0 });
            s.must_step(Call::Unbind { name: 7 });
            s.must_step(Call::Free { slot: a });
            s.must_step(Call::SetRoot { slot: b });
            s.must_step(Call::FreeAll);
        })
        .called("with names and caches"),
        Case::new("names-no-room", SMALL, |s| {
            let a = s.get(16);
            s.exhaust(&[1024, 128, 16]);
            s.step(Call::Bind { slot: a, name: 10 });
        }),
    ]
}

/// Blocks become longer and shorter.
fn resize() -> Vec<Case> {
    vec![
        Case::new("realloc-in-place", SMALL, |s| {
            let [a, b, _, c] = s.get_all([256, 256, 16, 256]);
            s.must_step(Call::Realloc { slot: a, size: 100 }); // a rest is left
            s.must_step(Call::Realloc { slot: a, size: 48 }); // which grows
            s.must_step(Call::Realloc { slot: a, size: 112 }); // part of it
            s.must_step(Call::Realloc { slot: a, size: 256 }); // all of it
            s.must_step(Call::Realloc { slot: a, size: 250 });
            s.must_step(Call::Realloc { slot: b, size: 1 });
            s.must_step(Call::Expand { slot: b, size: 128 });
            s.step(Call::Expand { slot: b, size: 1000 });
            s.must_step(Call::Realloc { slot: c, size: 600 }); // above top
            s.must_step(Call::Realloc { slot: c, size: 60 }); // and back
            s.must_step(Call::Expand { slot: c, size: 3000 });
        }),
        Case::new("realloc-elsewhere", SMALL, |s| {
            let [a, b, c, d, _] = s.get_all([256, 64, 600, 96, 16]);
            s.put(c);
            s.must_step(Call::Realloc { slot: b, size: 300 }); // to a free block
            s.must_step(Call::Realloc { slot: a, size: 400 }); // above top, joins what b left
            s.must_step(Call::Realloc { slot: d, size: 112 });
            s.must_step(Call::ReallocNull { size: 50 });
        }),
        Case::new("realloc-no-room", SMALL, |s| {
            let [a, _, b, _] = s.get_all([256, 16, 1200, 16]);
            s.exhaust(&[1024, 128, 16]);
            s.step(Call::Realloc { slot: a, size: 600 });
            s.put(b);
            s.must_step(Call::Realloc { slot: a, size: 1000 });
        }),
    ]
}

/// What no caller wrote is looked at: nobody who dies leaves what looks like somebody's mistake.
fn looks() -> Vec<Case> {
    let look = |name, len, flags, act: fn(&mut Stage)| {
        Case::new(name, len, act).with(|options| options.flags = flags)
    };
    vec![
        look("looks-guard", 4 * KIB, MEMPOOL_GUARD, |s| {
            let [a, b, _] = s.get_all([80, 48, 16]);
            s.must_step(Call::Malloc { size: 104 });
            s.must_step(Call::Realloc { slot: a, size: 72 }); // the guard alone
            s.must_step(Call::Realloc { slot: a, size: 16 }); // a rest is left
            s.must_step(Call::Realloc { slot: a, size: 40 }); // part of it
            s.must_step(Call::Expand { slot: a, size: 80 }); // all of it
            s.must_step(Call::Realloc { slot: b, size: 240 }); // elsewhere
            s.must_step(Call::FreeSized { slot: b, size: 240 });
            s.must_step(Call::Calloc { count: 3, size: 16 });
        }),
        look("looks-fill", FILLED, MEMPOOL_GUARD | MEMPOOL_FILL_FREED, |s| {
            s.must_step(Call::Malloc { size: 40 }); // what is reached is filled
            let [a, b, c, _] = s.get_all([40, 72, 40, 16]);
            s.put_all(&[a, c]);
            s.must_step(Call::Free { slot: b }); // joins both
            let slot = s.must_step(Call::Malloc { size: 80 }).expect("a block");
            s.must_step(Call::Realloc { slot, size: 40 });
            s.must_step(Call::FreeAll);
        })
        .called("filled"),
        look("looks-names", NAMED, MEMPOOL_GUARD | MEMPOOL_FILL_FREED, |s| {
            let [a, b, c, _] = s.get_all([40, 72, 40, 16]);
            s.put(c);
            s.must_step(Call::Bind { slot: a, name: 0 }); // where c was
            s.must_step(Call::Bind { slot: a, name: 6 });
            s.must_step(Call::Bind { slot: b, name: 1 });
            s.must_step(Call::Realloc { slot: a, size: 16 }); // a rest is left
            s.must_step(Call::Expand { slot: a, size: 40 });
            s.step(Call::Realloc { slot: a, size: 200 });
            s.step(Call::UnbindFrom { slot: b, name: 0 });
            s.must_step(Call::UnbindFrom { slot: a, name: 0 });
            s.must_step(Call::Unbind { name: 1 });
            s.must_step(Call::SetRoot { slot: b });
            s.must_step(Call::SetRoot { slot: a });
            s.must_step(Call::Free { slot: b });
            s.must_step(Call::FreeAll);
        })
        .called("filled, with names"),
        look("looks-owned", NAMED, MEMPOOL_GUARD | MEMPOOL_FILL_FREED | MEMPOOL_OWNER_TAGS, |s| {
            let [a, _] = s.get_all([40, 16]);
            s.must_step(Call::Bind { slot: a, name: 0 });
            s.must_step(Call::Realloc { slot: a, size: 16 });
            s.must_step(Call::UnbindFrom { slot: a, name: 0 });
            s.must_step(Call::Realloc { slot: a, size: 200 });
        }),
    ]
}

/// The pool as a whole.
fn whole() -> Vec<Case> {
    fn some(s: &mut Stage) {
        let [a, _, b, _] = s.get_all([64, 200, 1500, 32]);
        s.put_all(&[a, b]);
    }
    vec![
        Case::new("whole-looks", SMALL, |s| {
            some(s);
            for call in [Call::Check, Call::Stats, Call::Walk, Call::Trim, Call::Recover] {
                s.must_step(call);
            }
            s.must_step(Call::Attach);
            s.must_step(Call::Open);
            s.must_step(Call::Detach);
        })
        .called("nothing to do"),
        Case::new("whole-free-all", SMALL, |s| {
            some(s);
            s.must_step(Call::FreeAll);
            s.must_step(Call::FreeAll);
        })
        .called("no caches"),
        Case::new("whole-free-all-cached", CACHED, |s| {
            s.beside(some);
            some(s);
            s.must_step(Call::FreeAll);
            s.must_step(Call::Malloc { size: 64 });
        })
        .called("with caches")
        .after(some),
        Case::new("whole-release", SMALL, |s| {
            some(s);
            s.must_step(Call::Release);
        })
        .called("no caches"),
        Case::new("whole-release-cached", CACHED, |s| {
            some(s);
            s.must_step(Call::Release);
        })
        .called("with caches"),
    ]
}

/// Makes the child's first call, so that what it takes to get to know the pool and to claim a cache
/// is not stepped through in each case.
fn begin(s: &mut Stage) {
    let slot = s.get(16);
    s.put(slot);
}

/// Takes and frees a few blocks of a size, stepping through each.
fn to_and_fro(s: &mut Stage, size: usize, count: usize) {
    begin(s);
    let slots: Vec<usize> =
        (0..count).map(|_| s.must_step(Call::Malloc { size }).expect("malloc")).collect();
    for &slot in &slots {
        s.must_step(Call::Free { slot });
    }
}

/// Leaves magazines in the depot, full ones and empty ones.
fn stock(s: &mut Stage) {
    for size in [16, 64] {
        let slots: Vec<usize> = (0..40).map(|_| s.get(size)).collect();
        s.put_all(&slots);
    }
}

/// Blocks come from caches and go back to them.
fn caches() -> Vec<Case> {
    vec![
        Case::new("cache-first", CACHED, |s| {
            s.must_step(Call::Malloc { size: 64 });
            s.must_step(Call::Malloc { size: 16 });
        }),
        Case::new("cache-first-free", CACHED, |s| {
            let slot = s.slots()[0];
            s.must_step(Call::Free { slot });
        })
        .after(|s| {
            s.get(64);
        }),
        Case::new("cache-small", CACHED, |s| to_and_fro(s, 16, 40)),
        Case::new("cache-larger", CACHED, |s| to_and_fro(s, 100, 8)),
        Case::new("cache-beyond", CACHED, |s| to_and_fro(s, 3 * KIB, 2)),
        Case::new("cache-depot", CACHED, |s| {
            // Of what another thread has left, and back.
            s.beside(stock);
            to_and_fro(s, 16, 24);
            to_and_fro(s, 64, 8);
        }),
        Case::new("cache-in-places", CACHED, |s| {
            // What the heap has lies here and there: holes of one block, holes with rests.
            let large = s.get_all([9_984; 11]);
            for (slot, hole) in large.into_iter().zip([16, 48, 16, 16, 112, 48, 64, 16, 48, 64]) {
                s.make(Call::Realloc { slot, size: 9_984 - hole });
            }
            for size in [16, 48, 64] {
                s.must_step(Call::Malloc { size });
            }
        }),
        Case::new("cache-handed-on", CACHED, |s| {
            // One thread allocates, another frees.
            s.beside(|s| {
                for _ in 0..24 {
                    s.get(48);
                }
            });
            begin(s);
            for slot in s.slots() {
                s.must_step(Call::Free { slot });
            }
            for _ in 0..12 {
                s.must_step(Call::Malloc { size: 48 });
            }
        }),
        Case::new("cache-filled", CACHED, |s| {
            begin(s);
            for _ in 0..3 {
                s.must_step(Call::Calloc { count: 2, size: 24 });
            }
            for _ in 0..2 {
                s.must_step(Call::CallocFill { count: 1, size: 100, byte: 0x77 });
            }
            s.must_step(Call::Calloc { count: 1, size: 2100 });
            s.must_step(Call::AlignedAlloc { alignment: 16, size: 48 });
            s.must_step(Call::AlignedAlloc { alignment: 256, size: 48 });
            s.must_step(Call::AlignedAlloc { alignment: 4096, size: 300 });
        }),
        Case::new("cache-realloc", CACHED, |s| {
            let [a, b, c, _] = s.get_all([48, 100, 300, 16]);
            s.must_step(Call::Realloc { slot: a, size: 40 });
            s.must_step(Call::Realloc { slot: a, size: 200 }); // a cache to the heap
            s.must_step(Call::Realloc { slot: a, size: 300 });
            s.must_step(Call::Realloc { slot: a, size: 700 });
            s.must_step(Call::Realloc { slot: c, size: 500 }); // the heap to the heap
            s.must_step(Call::Realloc { slot: c, size: 200 });
            s.must_step(Call::Realloc { slot: b, size: 33 });
            s.must_step(Call::Expand { slot: b, size: 90 });
            s.must_step(Call::ReallocNull { size: 64 });
            s.must_step(Call::FreeSized { slot: b, size: 90 });
        }),
        Case::new("cache-realloc-cached", CACHED, |s| {
            // From a cache to a cache, with walls behind, and from the heap to one.
            let [a, b, c, _, d, _] = s.get_all([16, 16, 16, 16, 140, 16]);
            s.must_step(Call::Realloc { slot: a, size: 40 });
            s.must_step(Call::Realloc { slot: b, size: 44 });
            s.must_step(Call::Realloc { slot: c, size: 100 });
            s.must_step(Call::Realloc { slot: a, size: 110 });
            s.must_step(Call::Realloc { slot: d, size: 30 });
        }),
        Case::new("cache-realloc-moves", CACHED, |s| {
            // From one magazine to another, and nobody else is needed.
            let [_, a, _] = s.get_all([40, 16, 100]);
            s.must_step(Call::Realloc { slot: a, size: 40 }); // to one that comes first
            s.must_step(Call::Realloc { slot: a, size: 100 }); // and last
        })
        .complete(),
        Case::new("cache-refusals", CACHED, |s| {
            let [a, b] = s.get_all([64, 64]);
            let at = s.at(a);
            s.put(a);
            s.step(Call::FreeBad { at });
            s.step(Call::FreeBad { at: s.at(b) + 16 });
            s.step(Call::FreeBad { at: s.at(b) + 1 });
            s.step(Call::FreeBad { at: 8 });
        }),
        Case::new("cache-trim", CACHED, |s| {
            s.beside(stock);
            stock(s);
            s.must_step(Call::Trim);
        })
        .called("a cache and the depot"),
        Case::new("cache-detach", CACHED, |s| {
            stock(s);
            s.must_step(Call::Detach);
        })
        .called("with a cache"),
        Case::new("cache-no-magazine", CACHED, |s| {
            // All magazines are in use, by all the sizes that are cached.
            let sizes = || (16..=128).step_by(16);
            let slots: Vec<usize> =
                sizes().flat_map(|size| [size; 9]).map(|size| s.get(size)).collect();
            for some in slots.chunks(9) {
                s.put_all(&some[..7]);
            }
            for some in slots.chunks(9) {
                s.must_step(Call::Free { slot: some[7] });
            }
            for size in sizes().step_by(3) {
                s.must_step(Call::Malloc { size });
            }
        }),
        Case::new("cache-pressure", CACHED, |s| {
            // Nothing is free but what caches hold: the depot's, this thread's, the dead's.
            s.beside(stock);
            stock(s);
            s.exhaust_heap(&[8 * KIB, KIB, 256, 32]);
            s.must_step(Call::Malloc { size: 100 });
            s.step(Call::Malloc { size: 300 });
        })
        .after(stock)
        .beside(stock),
        Case::new("cache-pressure-alone", CACHED, |s| {
            stock(s);
            s.exhaust_heap(&[8 * KIB, KIB, 256, 32]);
            s.must_step(Call::Malloc { size: 100 });
        }),
        Case::new("cache-looks", CACHED, |s| {
            stock(s);
            for call in [Call::Check, Call::Stats, Call::Attach] {
                s.must_step(call);
            }
        })
        .called("with caches")
        .beside(stock),
    ]
}

/// Leaves blocks on the shelf, and a live one.
fn shelve(s: &mut Stage) {
    let [a, b, _] = s.get_all([WIDE; 3]);
    s.put_all(&[a, b]);
}

/// Blocks too large for magazines.
fn shelves() -> Vec<Case> {
    fn go_on(s: &mut Stage) {
        let [a, b] = s.get_all([WIDE; 2]);
        s.put_all(&[b, a]);
    }
    let case = |name, act: fn(&mut Stage)| {
        let case = Case::new(name, SHELVED, act).with(|options| options.align = 8);
        Case { is_long: true, ..case.zeroed() }
    };
    let mut all = vec![
        case("shelf-to-and-fro", |s| {
            let [a, b, _] = s.get_all([WIDE; 3]);
            s.must_step(Call::Free { slot: a }); // the first of all
            s.must_step(Call::Free { slot: b });
            s.must_step(Call::Malloc { size: WIDE - 100 });
        }),
        case("shelf-handed-on", |s| {
            // Of what others left: beside one who goes on.
            begin(s);
            let slot = s.must_step(Call::Malloc { size: WIDE }).expect("malloc");
            s.must_step(Call::Free { slot });
        })
        .after(shelve)
        .beside_then(shelve, go_on),
        case("shelf-realloc", |s| {
            // From a magazine to a shelf's block.
            shelve(s);
            let [_, a] = s.get_all([KIB; 2]);
            s.must_step(Call::Realloc { slot: a, size: WIDE });
        }),
        case("shelf-trim", |s| {
            shelve(s);
            s.must_step(Call::Trim);
        })
        .called("shelves"),
    ];
    if super::soak().is_some() {
        all.push(
            case("shelf-whole", |s| {
                shelve(s);
                s.must_step(Call::FreeAll);
            })
            .called("with shelves")
            .after(shelve),
        );
    }
    all
}

/// Others have died, and the child comes to know.
fn death() -> Vec<Case> {
    vec![
        Case::new("dead-recover", CACHED, |s| {
            s.must_step(Call::Recover);
        })
        .called("a dead cache")
        .after(stock)
        .beside(stock),
        Case::new("dead-trim", CACHED, |s| {
            s.must_step(Call::Trim);
        })
        .called("a dead cache")
        .after(stock),
        Case::new("dead-claim", CACHED, |s| {
            // There is one cache, and its thread is gone.
            s.must_step(Call::Malloc { size: 64 });
            let slot = s.slots()[0];
            s.must_step(Call::Free { slot });
        })
        .with(|options| options.max_threads = 1)
        .after(stock),
        Case::new("dead-none-to-claim", CACHED, |s| {
            // There is one cache, and its thread lives.
            s.must_step(Call::Malloc { size: 64 });
            s.must_step(Call::Malloc { size: 64 });
        })
        .with(|options| options.max_threads = 1)
        .beside(stock),
        Case::new("dead-reboot", CACHED, |s| {
            s.must_step(Call::Attach);
        })
        .called("after a reboot")
        .after(stock)
        .after_reboot(),
    ]
}

/// Another goes on before anybody knows of the death, with what needs no lock.
fn survival() -> Vec<Case> {
    fn go_on(s: &mut Stage) {
        let small: Vec<usize> = (0..10).map(|_| s.get(16)).collect();
        let larger: Vec<usize> = (0..5).map(|_| s.get(64)).collect();
        s.put_all(&small[..6]);
        s.put_all(&larger[..3]);
    }
    vec![
        Case::new("survival-to-and-fro", CACHED, |s| {
            to_and_fro(s, 16, 6);
            to_and_fro(s, 64, 4);
        })
        .with_kills(6)
        .beside_then(stock, go_on),
        Case::new("survival-trim", CACHED, |s| {
            stock(s);
            s.must_step(Call::Trim);
        })
        .called("a cache and the depot")
        .beside_then(stock, go_on),
        // The pool's first block is cached by another, of the class that the child gives back.
        Case::new("survival-trim-of-the-same", CACHED, |s| {
            begin(s);
            s.must_step(Call::Trim);
        })
        .called("a cache")
        .beside(begin),
        Case::new("survival-recover", CACHED, |s| {
            s.must_step(Call::Recover);
        })
        .called("a dead cache")
        .with_kills(3)
        .after(stock)
        .beside_then(stock, go_on),
    ]
}

/// Another knows that the child is dead, and goes on with the block that its call was about, before
/// anybody recovers: uses all that is told to be of it, or frees it, and has it or others anew.
fn succession() -> Vec<Case> {
    fn meet(s: &mut Stage) {
        for size in [16, 48, 96, 256] {
            let slots = s.get_all([size; 3]);
            s.put_all(&slots);
        }
    }
    fn meet_shelves(s: &mut Stage) {
        meet(s);
        shelve(s);
    }
    let ways: [(&str, fn(&mut Stage)); 3] = [
        ("used", |s| s.use_what_it_had()),
        ("freed", |s| _ = s.free_what_it_had()),
        ("had-anew", |s| {
            if let Some(size) = s.free_what_it_had() {
                (0..3).for_each(|_| _ = s.make(Call::Malloc { size }));
            }
        }),
    ];
    let each = |name: &str, new: &dyn Fn() -> Case, meet| {
        ways.map(|(way, then)| {
            let case = Case { name: format!("taken-over-{name}-{way}"), ..new() };
            case.called("taken over").taken_over(meet, then)
        })
    };
    let small = |name, flags, act: fn(&mut Stage)| {
        let new = || Case::new("", 4 * KIB, act).with(|options| options.flags = flags);
        each(name, &new, begin)
    };
    let cached = |name, act: fn(&mut Stage)| each(name, &|| Case::new("", CACHED, act), meet);
    let shelved = |name, act: fn(&mut Stage)| {
        let new = || Case::new("", SHELVED, act).with(|options| options.align = 8).zeroed();
        each(name, &new, meet_shelves)
    };
    let in_place: fn(&mut Stage) = |s| {
        let [a, _, b] = s.get_all([256, 16, 96]);
        s.must_step(Call::Realloc { slot: a, size: 104 }); // a rest is left
        s.must_step(Call::Expand { slot: a, size: 184 }); // part of it
        s.must_step(Call::Realloc { slot: a, size: 256 }); // all of it
        s.must_step(Call::Realloc { slot: b, size: 304 }); // above top
        s.must_step(Call::Realloc { slot: b, size: 48 }); // and back
        s.must_step(Call::Realloc { slot: a, size: 400 }); // elsewhere
        s.must_step(Call::Free { slot: a });
    };
    let cases = [
        small("heap", 0, in_place),
        small("guard", MEMPOOL_GUARD, in_place),
        small("fill", MEMPOOL_GUARD | MEMPOOL_FILL_FREED, in_place),
        small("names", 0, |s| {
            let [a, b, _] = s.get_all([256, 96, 16]);
            s.bind(a, 0);
            s.must_step(Call::Realloc { slot: a, size: 100 });
            s.must_step(Call::Expand { slot: a, size: 200 });
            s.bind(b, 1);
            s.must_step(Call::Unbind { name: 1 });
            s.must_step(Call::Free { slot: b });
        }),
        cached("cache", |s| {
            let [a, b, c, d, _] = s.get_all([48, 96, 256, 5 * KIB, 16]);
            s.must_step(Call::Realloc { slot: a, size: 96 }); // from one magazine to another
            s.must_step(Call::Free { slot: a });
            s.must_step(Call::Realloc { slot: c, size: 48 }); // where it is, and a rest is left
            s.must_step(Call::Free { slot: c });
            s.must_step(Call::Realloc { slot: b, size: 3 * KIB }); // from a magazine to the heap
            s.must_step(Call::Realloc { slot: d, size: 256 }); // where it is, to what is cached
            s.must_step(Call::Realloc { slot: b, size: 96 });
            s.must_step(Call::FreeSized { slot: b, size: 96 });
        }),
        cached("full-cache", |s| {
            // There is no room in the magazine, and more and more is made.
            let slots: Vec<usize> = (0..70).map(|_| s.get(48)).collect();
            for some in slots.chunks(7) {
                s.put_all(&some[1..]);
                s.must_step(Call::Free { slot: some[0] });
            }
        }),
        cached("scarce", |s| {
            // Magazines are given back, and blocks go to the heap at once.
            let slots: Vec<usize> = (0..60).map(|_| s.get(96)).collect();
            let [a, b, _] = s.get_all([48, 256, 256]);
            s.exhaust_heap(&[8 * KIB, KIB]);
            s.must_step(Call::Free { slot: a });
            s.put_all(&slots[1..40]);
            s.must_step(Call::Free { slot: slots[0] });
            s.must_step(Call::Realloc { slot: b, size: 96 });
            s.must_step(Call::Free { slot: b });
        }),
        shelved("shelf", |s| {
            shelve(s);
            let [a, b] = s.get_all([WIDE, 256]);
            s.must_step(Call::Realloc { slot: b, size: WIDE }); // from a magazine to the shelf's
            s.must_step(Call::Free { slot: a });
            s.must_step(Call::Realloc { slot: b, size: 256 });
            s.must_step(Call::Free { slot: b });
        }),
    ];
    cases.into_iter().flatten().collect()
}

/// Pools come to be.
fn births() -> Vec<Case> {
    let init: fn(&mut Stage) = |s| {
        s.must_step(Call::Init);
    };
    let open: fn(&mut Stage) = |s| {
        s.must_step(Call::Open);
    };
    vec![
        Case::new("init-zero", SMALL, init).called("of zeros").without_pool().zeroed(),
        Case::new("init-dirty", SMALL, init).called("of any bytes").without_pool(),
        Case::new("init-cached", CACHED, init).called("with caches").without_pool().dirty(),
        Case::new("init-over-a-pool", CACHED, init).called("over a pool").after(stock),
        Case::new("open-zero", SMALL, open).called("of zeros").without_pool().zeroed(),
        Case::new("open-cached", CACHED, open).called("with caches").without_pool().zeroed(),
        Case::new("open-a-pool", CACHED, open).called("of a pool").after(stock),
    ]
}
