//! What a hit in a thread's cache runs through, as the compiler made it: `mempool_malloc` and
//! `mempool_free` of the shared library are a row of instructions each, without a loop, a call, a
//! division or anything that locks the bus; whatever takes more is jumped to.
//!
//! Needs `objdump` (binutils).
#![cfg(all(target_arch = "x86_64", target_env = "gnu"))]

#[path = "common/shipped.rs"]
mod shipped;

use std::sync::OnceLock;

/// The library's instructions, as text.
fn listing() -> &'static str {
    static LISTING: OnceLock<String> = OnceLock::new();
    LISTING.get_or_init(|| shipped::ask("objdump", &["-d", "--no-show-raw-insn", "-M", "intel"]))
}

/// An instruction: where it lies, and its words: prefixes, name, operands.
struct Instruction {
    at: u64,
    words: Vec<&'static str>,
}

impl Instruction {
    fn parse(line: &'static str) -> Option<Instruction> {
        let (at, text) = line.split_once(":\t")?;
        let words = text.split([' ', ',']).filter(|word| !word.is_empty()).collect();
        Some(Instruction { at: u64::from_str_radix(at.trim(), 16).ok()?, words })
    }

    /// Whether it changes a word in one event, which waits for all earlier stores; or takes long.
    fn is_dear(&self) -> bool {
        const DEAR: &[&str] = &[
            "lock", "rep", "repz", "repnz", "call", "div", "idiv", "xadd", "syscall", "mfence",
            "sfence", "cpuid",
        ];
        let is_exchange =
            self.words[0] == "xchg" && self.words.iter().any(|word| word.contains('['));
        let is_one = |word: &&str| DEAR.contains(word) || word.starts_with("cmpxchg");
        is_exchange || self.words.iter().any(is_one)
    }

    /// Where it goes on, if it is a jump.
    fn target(&self) -> Option<u64> {
        let [name, target, ..] = self.words[..] else { return None };
        name.starts_with('j').then(|| u64::from_str_radix(target, 16).expect("an address"))
    }

    /// Whether it is there to fill a line.
    fn is_filler(&self) -> bool {
        self.words.iter().any(|word| ["nop", "nopw", "nopl", "int3"].contains(word))
            || self.words == ["xchg", "ax", "ax"]
    }
}

/// The instructions of a function, in their order.
fn instructions(function: &str) -> Vec<Instruction> {
    let start = format!("<{function}>:");
    let body = listing().lines().skip_while(|line| !line.ends_with(&start)).skip(1);
    body.map_while(Instruction::parse).collect()
}

/// How many instructions a hit runs through.
fn row(function: &str) -> usize {
    let all = instructions(function);
    let is_return = |one: &Instruction| one.words == ["ret"];
    let end = all.iter().position(is_return).expect("it returns");
    let (first, last) = (all[0].at, all[end].at);
    for one in &all[..end] {
        let Instruction { at, words } = one;
        assert!(!one.is_dear(), "{function}: {at:x} {words:?}");
        // Out of the function, or to where such a jump stands behind its end.
        let is_inside = one.target().is_some_and(|target| (first..=last).contains(&target));
        assert!(!is_inside, "{function}: {at:x} {words:?}");
        assert!(!words.contains(&"jmp"), "{function}: {at:x} {words:?}");
    }
    for one in &all[end + 1..] {
        assert!(one.words[0] == "jmp" || one.is_filler(), "{function}: {:?}", one.words);
    }
    end + 1
}

#[test]
fn a_hit_is_a_row_of_plain_instructions() {
    let (malloc, free) = (row("mempool_malloc"), row("mempool_free"));
    println!("malloc {malloc}, free {free} instructions");
    assert!(malloc + free <= 64, "malloc {malloc}, free {free}");
}

/// They are in the library, and would be seen.
#[test]
fn what_is_dear_is_seen() {
    assert!(instructions("mempool_stats").iter().any(Instruction::is_dear), "it calls");
    let of_lines = |text: &str| {
        let lines = listing().lines().filter(|line| line.contains(text));
        lines.filter_map(Instruction::parse).collect::<Vec<_>>()
    };
    for text in ["\tlock cmpxchg ", "\tcall ", "\tlock xadd "] {
        let all = of_lines(text);
        assert!(!all.is_empty() && all.iter().all(Instruction::is_dear), "{text}");
    }
    let of_thread_storage = "5d5f0:\tdata16 rex.W call 1e730 <__tls_get_addr@plt>";
    assert!(Instruction::parse(of_thread_storage).is_some_and(|one| one.is_dear()));
}
