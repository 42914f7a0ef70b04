//! Runs the programs of one mistake each: what comes of it must be what the comment at the program's
//! head says, word for word. See `misuse/misuse.h`.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;

// #[test] fn double_free() { run("double_free") } .. and so on
include!(concat!(env!("OUT_DIR"), "/misuse.rs"));

fn run(name: &str) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("misuse").join(name);
    let source = fs::read_to_string(source.with_extension("c")).expect("its source");
    let program = Path::new(env!("OUT_DIR")).join("misuse").join(name);
    let output = Command::new(&program).output().expect("it can be run");
    let [stdout, stderr] = [output.stdout, output.stderr]
        .map(|bytes| String::from_utf8(bytes).expect("text, as all messages are"));
    assert!(output.status.success(), "{name}: {}: {stdout}{stderr}", output.status);
    assert_eq!(stderr, "", "{name}: a complaint");

    let mut lines: Vec<&str> = stdout.lines().collect();
    let said = lines.pop().expect("what came of it");
    let told: HashMap<&str, u64> = lines.into_iter().map(number).collect();
    assert_eq!(said, expected(&source, &told), "{name}");
    // What the words are for: who, and if a number was worth telling, where.
    assert!(told.keys().all(|name| is_named(&source, name)), "{name}: a number of no use");
}

/// `name=number`
fn number(line: &str) -> (&str, u64) {
    let (name, number) = line.split_once('=').expect("name=number");
    (name, number.parse().expect("a number"))
}

/// What the comment at the head of a program expects, with the numbers that the program has told.
fn expected(source: &str, told: &HashMap<&str, u64>) -> String {
    let comment = source.split("*/").next().expect("a comment");
    let (_, expected) = comment.split_once("* expect: ").expect("what to expect");
    let lines: Vec<&str> = expected.lines().map(|line| line.trim_matches([' ', '*'])).collect();
    let mut text = lines.join(" ").trim_end().to_owned();
    for (name, number) in told {
        text = text.replace(&format!("{{{name}}}"), &number.to_string());
        text = text.replace(&format!("{{{name}:x}}"), &format!("{number:#x}"));
    }
    text
}

fn is_named(source: &str, name: &str) -> bool {
    source.contains(&format!("{{{name}}}")) || source.contains(&format!("{{{name}:x}}"))
}
