//! Makes of the library's own sources what the models run: the lock over words that are watched, as
//! it is and in weakened variants, each of which must be found out; and the heap over a buffer whose
//! every store may be the last.
//!
//! A variant whose words are no longer in the source ends the build: then it has to be thought anew.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

const LIBRARY: &str = "../../src";

/// name, what stands in the source, what the variant has instead
const VARIANTS: &[(&str, &str, &str)] = &[
    (
        "wakes_nobody",
        "            sys::wake(self.word);",
        "            let _ = &self.word;",
    ),
    (
        "releases_by_a_store",
        "if self.word.swap(0, AcqRel) & WAITERS != 0 && ",
        "let seen = self.word.load(Relaxed);\n        self.word.store(0, core::sync::atomic::Ordering::Release);\n        if seen & WAITERS != 0 && ",
    ),
    (
        "releases_without_order",
        "self.word.swap(0, AcqRel)",
        "self.word.swap(0, Relaxed)",
    ),
    (
        "takes_without_order",
        "word.compare_exchange(0, me.tid, Acquire, Relaxed).is_ok()",
        "word.compare_exchange(0, me.tid, Relaxed, Relaxed).is_ok()",
    ),
    (
        "forgets_others_after_sleeping",
        "let mine = me.tid | waiters | seen & WAITERS;",
        "let mine = me.tid | seen & WAITERS;",
    ),
    (
        "sleeps_unseen",
        "            if (seen != asleep || is_first || is_free)\n                && word",
        "            let asleep = seen;\n            if false\n                && word",
    ),
    (
        "announces_too_late",
        "        let announcement = me.announce(word);\n        word.compare_exchange(0, me.tid, Acquire, Relaxed).is_ok().then_some(announcement)",
        "        let won = word.compare_exchange(0, me.tid, Acquire, Relaxed).is_ok();\n        let announcement = me.announce(word);\n        won.then_some(announcement)",
    ),
    (
        "announces_a_takeover_too_late",
        "                let announcement = me.announce(word);\n                let mine = me.tid | waiters | seen & WAITERS;\n                if word.compare_exchange(seen, mine, Acquire, Relaxed).is_ok() {",
        "                let mine = me.tid | waiters | seen & WAITERS;\n                let won = word.compare_exchange(seen, mine, Acquire, Relaxed).is_ok();\n                let announcement = me.announce(word);\n                if won {",
    ),
    (
        "withdraws_too_early",
        "        if self.word.swap(0, AcqRel) & WAITERS != 0 && ",
        "        self._announcement.withdraw();\n        if self.word.swap(0, AcqRel) & WAITERS != 0 && ",
    ),
    (
        "withdraws_before_it_wakes",
        "        if self.word.swap(0, AcqRel) & WAITERS != 0 && ",
        "        let seen = self.word.swap(0, AcqRel);\n        self._announcement.withdraw();\n        if seen & WAITERS != 0 && ",
    ),
    (
        "does_not_tell",
        "return Ok((seen & OWNER_DIED != 0, announcement));",
        "return Ok((false, announcement));",
    ),
    (
        "does_not_tell_of_the_silent",
        "return Ok((true, announcement));",
        "return Ok((false, announcement));",
    ),
    (
        "robs_the_living",
        "let is_nobody = || !sys::exists(tid) || sys::state(tid) == sys::State::Dead;",
        "let is_nobody = || true;",
    ),
    (
        "takes_over_without_looking",
        "word.compare_exchange(asleep, me.tid | WAITERS, Acquire, Relaxed);",
        "Ok::<u32, u32>(word.swap(me.tid | WAITERS, Acquire));",
    ),
    (
        "claims_without_looking",
        "if whole.compare_exchange(found, mine, Acquire, Relaxed).is_err() {",
        "whole.store(mine, Relaxed);\n        if false {",
    ),
    (
        "claims_unannounced",
        "        let announcement = me.announce(word);\n        let mine = u64::from(boot) << 32 | u64::from(me.tid);\n        if whole.compare_exchange(found, mine, Acquire, Relaxed).is_err() {\n            return Ok(None);\n        }",
        "        let mine = u64::from(boot) << 32 | u64::from(me.tid);\n        if whole.compare_exchange(found, mine, Acquire, Relaxed).is_err() {\n            return Ok(None);\n        }\n        let announcement = me.announce(word);",
    ),
];

/// Changes of a lock whose sleepers want to be first at once; see VARIANTS.
const EAGER_VARIANTS: &[(&str, &str, &str)] = &[
    (
        "wakes_not_the_first",
        " && !call(self.first) {",
        " {",
    ),
    (
        "stays_first",
        "                strike_out(first, me.tid);\n                got?",
        "                got?",
    ),
    (
        "asks_unseen_to_be_first",
        "if (seen != asleep || is_first || is_free)",
        "if (seen != asleep || is_free)",
    ),
    (
        "displaces_who_is_first",
        "if is_first && first.compare_exchange(named, me.tid, Relaxed, Relaxed).is_err() {",
        "if is_first {\n                first.store(me.tid, Relaxed);\n            }\n            if false {",
    ),
    (
        "gives_way_to_who_has_gone",
        "if first.load(Relaxed) & TID_MASK != named & TID_MASK {",
        "if false {",
    ),
    (
        "calls_and_leaves_no_word",
        "    let _ = first.compare_exchange(named, named | CALLED, Relaxed, Relaxed);\n",
        "",
    ),
];

/// Changes of the heap's sources that must be found out too; see VARIANTS.
const HEAP_VARIANTS: &[(&str, &str, &str)] = &[
    ("heap", "", ""),
    (
        "heap_that_changes_before_it_seals",
        "        self.record.open(&change);\n        let mut tally",
        "        self.apply(&change);\n        self.record.open(&change);\n        let mut tally",
    ),
    (
        "heap_that_keeps_what_nobody_got",
        "(Kind::Alloc, Some(live)) => self.free(live),",
        "(Kind::Alloc, Some(live)) if live == u32::MAX => self.free(live),",
    ),
    (
        "heap_that_strikes_out_before_it_mends",
        "        if change.kind.is_of_space() {",
        "        self.record.close();\n        if change.kind.is_of_space() {",
    ),
    (
        "heap_that_believes_its_hints",
        "        let rebuilt = self.rebuild();\n        let undone",
        "        let rebuilt = Ok(());\n        let undone",
    ),
    (
        "heap_that_seals_before_it_writes",
        "        for (i, word) in words.into_iter().enumerate() {\n            self.words[word_of(slot, i)].store(word, Relaxed);\n        }\n        // A death comes between two instructions: it is enough that the compiler keeps the order.\n        compiler_fence(SeqCst);\n        self.header[SEAL].store(seal(slot, words), Relaxed);",
        "        self.header[SEAL].store(seal(slot, words), Relaxed);\n        compiler_fence(SeqCst);\n        for (i, word) in words.into_iter().enumerate() {\n            self.words[word_of(slot, i)].store(word, Relaxed);\n        }",
    ),
    (
        "heap_with_one_slot",
        "let slot = if found != 0 { 1 - (found & 1) } else { 0 };",
        "let slot = 0;",
    ),
    (
        "heap_that_heals_nothing",
        "Some(state @ (State::Free | State::Loose)) => self.heal_free(at, state, &mut top),\n",
        "",
    ),
    (
        "heap_that_leaves_gaps",
        "None if !self.map.is_start(at) && is_gap() => {",
        "None if false && is_gap() => {",
    ),
    (
        "heap_that_lets_what_it_heals_stand_beside_each_other",
        "while state == State::Free && end < *top && self.map.state(end) == Some(State::Free) {",
        "while false {",
    ),
    (
        "heap_that_keeps_free_what_ends_at_top",
        "if state == State::Free && end == *top {",
        "if false {",
    ),
    (
        "heap_that_keeps_what_it_was_to_give_a_magazine",
        "            change.loosen(&self.region, &self.map);\n        }\n        let mut at",
        "            let _ = change;\n        }\n        let mut at",
    ),
    (
        "heap_that_keeps_what_it_was_to_give_a_magazine_above_top",
        "let change = Change { top, ..*change };",
        "",
    ),
    (
        "heap_that_makes_blocks_before_it_writes_them_down",
        "            self.heap.region.store32(self.taker.item_at(self.count), block);\n            compiler_fence(SeqCst);\n            self.heap.map.cache(block, self.class);\n",
        "            self.heap.map.cache(block, self.class);\n            self.heap.region.store32(self.taker.item_at(self.count), block);\n",
    ),
    (
        "heap_that_fills_magazines_before_it_seals",
        "        self.record.open(&Change { taker, ..Change::new(Kind::Refill, 0, self.top()) });\n",
        "",
    ),
    (
        "heap_that_fills_once",
        "            self.fill_again(&change);\n            self.apply(&change);\n",
        "            self.apply(&change);\n",
    ),
    (
        "heap_that_fills_too_late",
        "            self.fill_again(&change);\n            self.apply(&change);\n",
        "            self.apply(&change);\n            self.fill_again(&change);\n",
    ),
    (
        "heap_that_fills_before_it_seals",
        "            *place = gone.as_ref().map_or(NOWHERE, |gone| gone.start);\n        }\n",
        "            *place = gone.as_ref().map_or(NOWHERE, |gone| gone.start);\n        }\n        self.fill_freed(&change, &[None, None]);\n",
    ),
    (
        "heap_that_forgets_what_was_asked",
        "            self.fill_again(&change);\n            self.apply(&change);\n",
        "            self.fill_again(&change);\n            self.apply(&Change { taker: Taker::NONE, ..change });\n",
    ),
    (
        "heap_that_guards_before_it_seals",
        "            *place = gone.as_ref().map_or(NOWHERE, |gone| gone.start);\n        }\n",
        "            *place = gone.as_ref().map_or(NOWHERE, |gone| gone.start);\n        }\n        if let Some(guards) = self.guards().filter(|_| change.kind == Kind::Resize) {\n            guards.set(change.at, change.new[0].size, change.taker.count_at);\n        }\n",
    ),
    (
        "heap_that_joins_before_it_seals",
        "                    self.heap.record.open(&Change::new(Kind::Join, 0, self.top));\n",
        "",
    ),
    (
        "heap_that_enters_before_it_seals",
        "        self.record.open(&change);\n        self.settle_name(&change);\n        let mut counts = self.words.counts();\n        counts.live_count = counts.live_count.wrapping_sub(1);",
        "        self.settle_name(&change);\n        self.record.open(&change);\n        let mut counts = self.words.counts();\n        counts.live_count = counts.live_count.wrapping_sub(1);",
    ),
    (
        "heap_that_leaves_marks",
        "Kind::Mark => self.set_state(change.at, change.new[0].state),",
        "Kind::Mark => {}",
    ),
    (
        "heap_with_no_heirs",
        "self.inherit(change.at, second, third);",
        "let _ = third;",
    ),
    (
        "heap_that_holds_nothing",
        "            self.hold(change.old[0]);\n        }\n        self.record.open(&change);",
        "        }\n        self.record.open(&change);",
    ),
    (
        "heap_that_seals_before_it_holds",
        "            self.hold(change.old[0]);\n        }\n        self.record.open(&change);",
        "            self.record.open(&change);\n            self.hold(change.old[0]);\n        }\n        self.record.open(&change);",
    ),
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={LIBRARY}");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap());
    fs::write(out.join("locks.rs"), locks()).unwrap();
    fs::write(out.join("heaps.rs"), heaps()).unwrap();
}

/// A source without what may stand at a file's beginning only.
fn source(path: &str) -> String {
    let whole = Path::new(LIBRARY).join(path);
    let text = fs::read_to_string(&whole).unwrap_or_else(|error| panic!("{path}: {error}"));
    let tests = text.find("\n#[cfg(test)]\n").unwrap_or(text.len());
    let is_inner = |line: &&str| line.starts_with("//!") || line.starts_with("#![");
    text[..tests].lines().filter(|line| !is_inner(line)).fold(String::new(), |mut all, line| {
        writeln!(all, "{line}").unwrap();
        all
    })
}

/// The text with another in the one place where it must be.
fn with(text: &str, name: &str, old: &str, new: &str) -> String {
    assert_eq!(text.matches(old).count(), 1, "{name}: the source has changed, look at it:\n{old}");
    text.replacen(old, new, 1)
}

fn locks() -> String {
    let lock = source("lock.rs");
    let atomics = "use core::sync::atomic::{AtomicU32, AtomicU64, AtomicU8};";
    let watched = "use crate::atomic::AtomicU32;\nuse core::sync::atomic::{AtomicU64, AtomicU8};";
    let lock = with(&lock, "atomics", atomics, watched);
    // One look is as good as a hundred, and there are fewer orders to try.
    let lock = with(&lock, "spins", "const SPINS: u32 = 20;", "const SPINS: u32 = 1;");
    // Three who come once each seldom sleep in vain.
    let eager = with(&lock, "eager", "const IN_VAIN: u32 = 2;", "const IN_VAIN: u32 = 0;");
    let mut all = format!("pub mod lock {{\n{lock}}}\npub mod eager {{\n{eager}}}\n");
    for (lock, variants) in [(&lock, VARIANTS), (&eager, EAGER_VARIANTS)] {
        for &(name, old, new) in variants {
            writeln!(all, "pub mod {name} {{\n{}}}", with(lock, name, old, new)).unwrap();
        }
    }
    all
}

fn heaps() -> String {
    let mut all = String::new();
    for &(name, old, new) in HEAP_VARIANTS {
        let mut text = String::new();
        let below = [
            "class", "counts", "error", "fill", "guard", "hash", "layout", "map", "options",
            "stats",
        ];
        for module in below {
            writeln!(text, "pub mod {module} {{\n{}}}", source(&format!("{module}.rs"))).unwrap();
        }
        writeln!(text, "pub mod region {{\n{}}}", mortal_region()).unwrap();
        let mut heap = source("heap/mod.rs");
        for module in
            ["bins", "bytes", "change", "heal", "loose", "name", "refill", "slot", "tally", "words"]
        {
            let body = source(&format!("heap/{module}.rs"));
            let whole = format!("pub mod {module} {{\n{body}}}\n");
            heap = with(&heap, module, &format!("mod {module};\n"), &whole);
        }
        if !old.is_empty() {
            heap = with(&heap, name, old, new);
        }
        writeln!(text, "pub mod heap {{\n{heap}}}").unwrap();
        let text = text.replace("crate::", &format!("crate::heaps::{name}::"));
        let text = text.replace(&format!("crate::heaps::{name}::death"), "crate::death");
        let text = text.replace("core::sync::atomic", "crate::mortal");
        writeln!(all, "pub mod {name} {{\n{text}}}").unwrap();
    }
    all
}

/// The library's region, in which filling and copying are steps, too, that a thread may not live to
/// make; its words are mortal.
fn mortal_region() -> String {
    let mut region = source("region.rs");
    let stores = [
        "unsafe { self.base.add(at).write_bytes(byte, len) };",
        "unsafe { self.base.add(to).copy_from(self.base.add(from), len) };",
    ];
    for store in stores {
        assert!(region.contains(store), "the source has changed, look at it: {store}");
        region = region.replace(store, &format!("crate::death::store();\n            {store}"));
    }
    region
}
