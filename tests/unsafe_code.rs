//! Unsafe code stays where the map of the house says it is: read off the sources, so that no file
//! loses its `forbid` unseen. (That each use says why it is sound is clippy's to see.)

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const FORBID: &str = "#![forbid(unsafe_code)]";
/// What a module forbids, its parts could not allow: whose parts have unsafe code denies it to itself.
const DENY: &str = "#![deny(unsafe_code)]";
/// What a root forbids, its modules could not allow.
const ROOTS: [&str; 2] = ["lib.rs", "sys/mod.rs"];

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the sources").map(|entry| entry.unwrap().path());
    let (folders, mut found): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    found.extend(folders.iter().flat_map(|folder| files(folder)));
    found
}

/// Each file of src/ by its path there, and whether it has unsafe code.
fn sources() -> Vec<(String, String, bool)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("a source");
        let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
        let is_unsafe = code.flat_map(str::split_whitespace).any(|word| word == "unsafe");
        (path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned(), text, is_unsafe)
    };
    let found: Vec<_> = files(&src).into_iter().map(read).collect();
    assert!(found.len() > 20 && found.iter().any(|(.., is_unsafe)| *is_unsafe), "all are seen");
    found
}

#[test]
fn what_can_do_without_unsafe_code_forbids_it() {
    let sources = sources();
    for (path, text, is_unsafe) in &sources {
        let forbids = text.lines().any(|line| line == FORBID);
        let folder = path.strip_suffix("mod.rs").unwrap_or(path);
        let is_part = |other: &str| other != path && other.starts_with(folder);
        let has_unsafe_parts = sources.iter().any(|source| source.2 && is_part(&source.0));
        if ROOTS.contains(&path.as_str()) {
            assert!(!is_unsafe, "src/{path} has but modules");
        } else if has_unsafe_parts && !is_unsafe {
            let denies = text.lines().any(|line| line.starts_with(DENY));
            assert!(denies, "src/{path}: {DENY}, for its parts only have unsafe code");
        } else {
            assert_ne!(forbids, *is_unsafe, "src/{path}: {FORBID}, or a use of unsafe");
        }
    }
}

#[test]
fn the_map_of_the_house_says_where_unsafe_code_is() {
    let sources = sources();
    let module = |path: &str| path.split(['/', '.']).next().unwrap().to_owned();
    let used: BTreeSet<String> =
        sources.iter().filter(|source| source.2).map(|source| module(&source.0)).collect();
    let (_, house, _) = sources.iter().find(|source| source.0 == "lib.rs").expect("lib.rs");
    let mut said = BTreeSet::new();
    for row in house.lines().filter_map(|line| line.strip_prefix("//! | ")) {
        let cells: Vec<&str> = row.split(" | ").collect();
        let names: Vec<&str> = cells[0].split('`').skip(1).step_by(2).collect();
        let is_unsafe = cells.last().is_some_and(|cell| cell.contains("`unsafe`"));
        let found = names.iter().any(|name| used.contains(*name));
        let is_part = names.iter().any(|name| name.contains("::"));
        assert!(is_part || found == is_unsafe, "src/lib.rs says otherwise: {row}");
        said.extend(names.into_iter().filter(|_| is_unsafe).map(str::to_owned));
    }
    assert!(used.is_subset(&said), "src/lib.rs does not tell of all of these: {used:?}");
}
