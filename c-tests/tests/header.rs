//! `include/mempool.h` is what cbindgen makes of the sources, and complete.
//!
//! After a change of `src/abi.rs`, `src/capi.rs` or `cbindgen.toml`, write it anew:
//! `MEMPOOL_BLESS=1 cargo test -p c-tests --test header`

use std::path::Path;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

fn generated() -> String {
    let root = Path::new(ROOT);
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("cbindgen.toml");
    let mut header = Vec::new();
    cbindgen::Builder::new()
        .with_config(config)
        .with_src(root.join("src/abi.rs"))
        .with_src(root.join("src/capi.rs"))
        .generate()
        .expect("cbindgen reads the sources")
        .write(&mut header);
    String::from_utf8(header).expect("a header is text")
}

#[test]
fn the_committed_header_is_what_the_sources_say() {
    let path = Path::new(ROOT).join("include/mempool.h");
    let generated = generated();
    if std::env::var_os("MEMPOOL_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &generated).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    let mut lines = committed.lines().zip(generated.lines()).enumerate();
    if let Some((n, (old, new))) = lines.find(|(_, (old, new))| old != new) {
        panic!("mempool.h:{}: has\n  {old}\nshould have\n  {new}\n{BLESS}", n + 1);
    }
    assert!(committed == generated, "mempool.h is shorter or longer than it should be\n{BLESS}");
}

const BLESS: &str =
    "if the change is meant, run: MEMPOOL_BLESS=1 cargo test -p c-tests --test header";

/// The functions, each with the comment before it.
fn functions(header: &str) -> Vec<(&str, String)> {
    let mut found = Vec::new();
    let mut comment = String::new();
    for line in header.lines() {
        if let Some(text) = line.strip_prefix("///") {
            comment += text;
            comment += "\n";
        } else {
            // A declaration begins where the line does: `type mempool_name(`.
            let declares = line.starts_with(|c: char| c.is_ascii_lowercase());
            let before = line.split_once('(').map_or("", |(before, _)| before);
            let name = before.rsplit([' ', '*']).next().unwrap_or("");
            if declares && name.starts_with("mempool_") {
                found.push((name, core::mem::take(&mut comment)));
            }
            comment.clear();
        }
    }
    found
}

#[test]
fn every_function_is_there_and_says_what_it_must() {
    let header = generated();
    let functions = functions(&header);
    let mut names: Vec<_> = functions.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    let exported: Vec<_> = include_str!("../../tests/symbols.txt").lines().collect();
    assert_eq!(names, exported, "the header declares what the library exports");

    for (name, comment) in &functions {
        for point in [&["- Threads: "] as &[_], &["- Cost: "], &["- Errors: ", "- Returns "]] {
            assert!(point.iter().any(|word| comment.contains(word)), "{name}: no {point:?}");
        }
    }
}
