//! What a hit in a thread's cache runs through, as the compiler made it: `mempool_malloc` and
//! `mempool_free` of the shared library are a row of instructions each, without a loop, a call, a
//! division or anything that locks the bus; whatever takes more is jumped to.
//!
//! Needs `objdump` (binutils).
#![cfg(target_arch = "x86_64")]

#[path = "common/shipped.rs"]
mod shipped;

/// An instruction: its name, with prefixes, and what it is about.
struct Instruction {
    name: String,
    about: String,
}

/// The instructions of a function, in their order.
fn instructions(function: &str) -> Vec<Instruction> {
    let start = format!("<{function}>:");
    let text = shipped::ask("objdump", &["-d", "--no-show-raw-insn", "-M", "intel"]);
    let body = text.lines().skip_while(|line| !line.ends_with(&start)).skip(1);
    let body = body.take_while(|line| !line.is_empty());
    let instruction = |line: &str| {
        let (_, text) = line.split_once(":\t").expect("an address before it");
        let prefixes = ["lock ", "rep ", "repz ", "repnz "];
        let prefix =
            prefixes.iter().find(|prefix| text.starts_with(**prefix)).map_or(0, |p| p.len());
        let end = text[prefix..].find(' ').map_or(text.len(), |end| prefix + end);
        Instruction { name: text[..end].to_string(), about: text[end..].trim().to_string() }
    };
    let all: Vec<_> = body.map(instruction).collect();
    // What comes behind the last return is there to fill a line.
    let len = all.iter().rposition(|one| one.name == "ret").expect("it returns") + 1;
    all.into_iter().take(len).collect()
}

/// What changes a word in one event, which waits for all earlier stores; or takes long.
fn is_dear(one: &Instruction) -> bool {
    let exchanges_with_memory = one.name == "xchg" && one.about.contains('[');
    let is_any_of = |names: &[&str]| names.iter().any(|name| one.name.starts_with(name));
    exchanges_with_memory
        || is_any_of(&["lock", "rep", "call", "div", "idiv", "cmpxchg", "xadd", "syscall"])
        || is_any_of(&["mfence", "sfence", "lfence", "cpuid", "rdtsc"])
}

#[test]
fn a_hit_is_a_row_of_plain_instructions() {
    let [malloc, free] = ["mempool_malloc", "mempool_free"].map(|function| {
        let all = instructions(function);
        let inside = format!("<{function}");
        for (at, one) in all.iter().enumerate() {
            let Instruction { name, about } = one;
            assert!(!is_dear(one), "{function}: {name} {about}");
            assert!(
                !name.starts_with('j') || !about.contains(&inside),
                "{function}: {name} {about}"
            );
            assert_eq!(name == "ret", at + 1 == all.len(), "{function} returns at its end");
        }
        all.len()
    });
    println!("malloc {malloc}, free {free} instructions");
    assert!(malloc + free <= 64, "malloc {malloc}, free {free}");
}

/// The test can see them: a pool's lock is taken by one.
#[test]
fn what_is_dear_is_in_the_library() {
    let text = shipped::ask("objdump", &["-d", "--no-show-raw-insn", "-M", "intel"]);
    assert!(text.contains("\tlock cmpxchg ") && text.contains("\tcall "));
}
