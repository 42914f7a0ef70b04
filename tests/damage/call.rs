//! Every kind of call, and what is true of its answer in a pool of whatever bytes.

use super::common::handle::{self, Status};
use super::common::Handle;
use super::scene::Scene;
use ::mempool::abi::*;

/// What came of a call: how many bytes, where that matters, or a status.
pub type Answer = Result<usize, Status>;

/// A kind of call: its name, and the call itself.
pub struct Call {
    pub name: &'static str,
    pub run: fn(&Scene) -> Answer,
}

/// Sizes in granules: a cached one, one that caches do not take, and so on.
const FEW: usize = 3;
const SOME: usize = 20;

/// Every kind of call, those of one function on different ways.
pub const CALLS: [Call; 44] = [
    Call { name: "malloc", run: |s| s.made(s.pool.malloc(FEW * s.align()), FEW * s.align()) },
    Call { name: "malloc one", run: |s| s.made(s.pool.malloc(1), 1) },
    Call {
        name: "malloc some",
        run: |s| s.made(s.pool.malloc(SOME * s.align()), SOME * s.align()),
    },
    Call { name: "malloc most", run: |s| s.made(s.pool.malloc(s.most), s.most) },
    Call { name: "malloc of a hole's size", run: |s| s.made(s.pool.malloc(s.hole), s.hole) },
    Call { name: "malloc too much", run: |s| s.made(s.pool.malloc(s.len()), s.len()) },
    Call { name: "malloc all", run: malloc_all },
    Call { name: "calloc", run: |s| s.made(s.pool.calloc(FEW, s.align()), FEW * s.align()) },
    Call { name: "calloc some", run: |s| s.made(s.pool.calloc(SOME, s.align()), SOME * s.align()) },
    Call { name: "aligned_alloc", run: |s| s.made(s.pool.aligned_alloc(256, 40), 40) },
    Call { name: "aligned_alloc, page", run: |s| s.made(s.pool.aligned_alloc(4096, 9), 9) },
    Call { name: "realloc to more", run: |s| s.moved(s.kept[0], 4) },
    Call { name: "realloc to far more", run: |s| s.moved(s.kept[1], 30) },
    Call { name: "realloc to less", run: |s| s.moved(s.kept[2], 1) },
    Call { name: "expand", run: |s| done(s.pool.expand(s.at(s.kept[1].0), s.kept[1].1 + 1)) },
    Call { name: "free", run: |s| s.free(s.kept[0]) },
    Call { name: "free, large", run: |s| s.free(s.kept[3]) },
    Call { name: "free, last", run: |s| s.free(s.kept[s.kept.len() - 1]) },
    Call { name: "free all of them", run: free_each },
    Call { name: "free of what is free", run: |s| done(s.pool.free(s.at(s.freed))) },
    Call { name: "free_sized", run: |s| free_sized(s) },
    Call { name: "malloc_to", run: |s| done(s.pool.malloc_to(40, s.slot())) },
    Call { name: "calloc_to", run: |s| done(s.pool.calloc_to(3, s.align(), s.slot())) },
    Call { name: "free_from", run: |s| done(s.pool.free_from(s.slot().wrapping_add(1))) },
    Call { name: "usable_size", run: usable_size },
    Call { name: "stats", run: |s| done(s.pool.try_stats()) },
    Call { name: "check", run: |s| done(s.pool.check()) },
    Call { name: "walk", run: |s| walk(s) },
    Call { name: "inspect", run: inspect },
    Call { name: "trim", run: |s| done(s.pool.trim()) },
    Call { name: "recover", run: |s| done(s.pool.recover()) },
    Call { name: "attach, malloc, detach", run: attach },
    Call { name: "open", run: open },
    Call { name: "peek", run: peek },
    Call { name: "free_all", run: |s| done(s.pool.free_all()) },
    Call { name: "release", run: |s| done(s.pool.release()) },
    Call { name: "owners", run: owners },
    Call { name: "bind", run: |s| done(s.pool.bind(b"another", s.at(s.kept[0].0))) },
    Call { name: "find", run: find_names },
    Call { name: "names", run: names },
    Call { name: "unbind", run: |s| done(s.pool.unbind(b"name")) },
    Call { name: "unbind_from", run: |s| done(s.pool.unbind_from(b"b", s.at(s.bound[1].0))) },
    Call { name: "unbind all", run: unbind_all },
    Call { name: "set_root, root", run: roots },
];

const NAMES: [&[u8]; 6] = [b"nam", b"a", b"b", b"ab", b"name", b"none"];

fn find_names(scene: &Scene) -> Answer {
    let mut found = 0;
    for name in NAMES {
        match scene.pool.find(name) {
            Ok(block) => {
                scene.must_hold(scene.pool.offset(block) as usize);
                found += 1;
            }
            Err(MEMPOOL_ERR_NOT_FOUND) => {}
            Err(status) => return Err(status),
        }
    }
    Ok(found)
}

fn names(scene: &Scene) -> Answer {
    let names = scene.pool.names()?;
    names.iter().for_each(|&(_, offset)| scene.must_hold(offset as usize));
    Ok(names.len())
}

/// What has a name is freed once it has none.
fn unbind_all(scene: &Scene) -> Answer {
    let mut answers: Vec<Answer> =
        NAMES.map(|name| done(scene.pool.unbind(name))).into_iter().collect();
    answers.extend(scene.bound.map(|block| scene.free(block)));
    let is_ok = answers.iter().filter(|answer| answer.is_ok()).count();
    let others = answers.into_iter().filter(|&answer| answer != Err(MEMPOOL_ERR_NOT_FOUND));
    others.fold(Ok(is_ok), Result::and).map(|_| is_ok)
}

/// The old root, a new one, and none.
fn roots(scene: &Scene) -> Answer {
    for block in [scene.at(scene.kept[0].0), std::ptr::null_mut()] {
        let root = scene.pool.root()?;
        if !root.is_null() {
            scene.must_hold(scene.pool.offset(root) as usize);
        }
        scene.pool.set_root(block)?;
    }
    Ok(0)
}

fn done<T>(answer: Result<T, Status>) -> Answer {
    answer.map(|_| 0)
}

/// All that is to be had: how many bytes.
fn malloc_all(scene: &Scene) -> Answer {
    let mut all = 0;
    for size in [SOME * scene.align(), FEW * scene.align(), 1] {
        loop {
            let made = scene.pool.malloc(size);
            if scene.made(made, size).is_err() {
                break;
            }
            // Each takes a granule at least: no more of them than there are. What a damaged map says is
            // free, and is not, may be given once more.
            all += made.map_or(0, |block| scene.pool.usable_size(block).max(scene.align()));
            assert!(all <= 2 * scene.len(), "more than there is");
        }
    }
    Ok(all)
}

fn free_sized(scene: &Scene) -> Answer {
    let block = scene.kept[0];
    scene.pool.free_sized(scene.at(block.0), block.1)?;
    Ok(scene.gone(block))
}

/// What is live, in an order of its own.
fn free_each(scene: &Scene) -> Answer {
    let (odd, even): (Vec<_>, Vec<_>) = scene.kept.iter().enumerate().partition(|(i, _)| i % 2 > 0);
    let answers = odd.iter().chain(&even).map(|(_, &block)| scene.free(block));
    answers.fold(Ok(0), Result::and)
}

fn usable_size(scene: &Scene) -> Answer {
    let known = |&(at, size): &(usize, usize)| {
        let usable = scene.pool.usable_size(scene.at(at));
        assert!(usable <= scene.len() - at, "{usable} bytes at {at}");
        usable >= size
    };
    if scene.kept.iter().all(known) {
        Ok(0)
    } else {
        Err(MEMPOOL_ERR_NOT_ALLOCATED)
    }
}

fn walk(scene: &Scene) -> Answer {
    scene.must_be_inside(&scene.pool.try_walk()?);
    Ok(0)
}

fn inspect(scene: &Scene) -> Answer {
    let (options, mut blocks) = (scene.options(), Vec::new());
    handle::inspect(scene.at(0), scene.len(), &options, &mut blocks)?;
    scene.must_be_inside(&blocks);
    Ok(0)
}

fn attach(scene: &Scene) -> Answer {
    let pool = handle::attach(scene.at(0), scene.len(), &scene.options())?;
    let answer = make_and_free(scene, pool);
    pool.detach()?;
    answer
}

fn make_and_free(scene: &Scene, pool: Handle) -> Answer {
    let size = FEW * scene.align();
    let made = pool.malloc(size);
    scene.made(made, size)?;
    let block = made?;
    pool.free(block)?;
    scene.given_back(block, size);
    Ok(0)
}

fn open(scene: &Scene) -> Answer {
    let (pool, created) = handle::open(scene.at(0), scene.len(), &scene.options())?;
    assert!(!created, "what is no blank memory is never formatted");
    done(pool.detach())
}

fn peek(scene: &Scene) -> Answer {
    let prefix = scene.bytes();
    let len = handle::peek(&prefix[..prefix.len().min(4096)])? as usize;
    assert!(len <= scene.len(), "{len}");
    Ok(0)
}

fn owners(scene: &Scene) -> Answer {
    let (pool, block) = (scene.pool, scene.at(scene.kept[0].0));
    let other = scene.at(scene.kept[3].0);
    let answers = [
        pool.adopt(block),
        pool.owner_of(block).map(|_| ()),
        pool.label(7),
        pool.abandon(other),
        pool.reap().map(|_| ()),
    ];
    done(answers.into_iter().fold(Ok(()), Result::and))
}

/// What follows a call in a damaged pool is as safe.
pub fn aftermath(scene: &Scene) {
    let _ = make_and_free(scene, scene.pool);
    let calls = ["free", "check", "stats", "walk", "trim", "attach, malloc, detach", "malloc most"];
    for name in calls {
        let _ = (find(name).run)(scene);
    }
}

pub fn find(name: &str) -> &'static Call {
    let call = CALLS.iter().find(|call| call.name == name);
    call.unwrap_or_else(|| panic!("no call is named {name}"))
}

/// Whether a call may answer so, whatever the pool's bytes.
pub fn is_possible(answer: Answer) -> bool {
    let possible = [
        MEMPOOL_ERR_INVALID_ARGUMENT,
        MEMPOOL_ERR_NOT_A_POOL,
        MEMPOOL_ERR_INCOMPATIBLE,
        MEMPOOL_ERR_OUT_OF_MEMORY,
        MEMPOOL_ERR_FOREIGN_POINTER,
        MEMPOOL_ERR_NOT_ALLOCATED,
        MEMPOOL_ERR_CORRUPTED,
        MEMPOOL_ERR_NOT_FOUND,
        MEMPOOL_ERR_EXISTS,
        MEMPOOL_ERR_BUSY,
    ];
    answer.map_or_else(|status| possible.contains(&status), |_| true)
}
