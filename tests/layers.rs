//! The map of the house in src/lib.rs: it names every module, and none uses one that stands below it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the sources").map(|entry| entry.unwrap().path());
    let (folders, mut found): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    found.extend(folders.iter().flat_map(|folder| files(folder)));
    found
}

/// Each module that has a row, and which; those of one row may use each other.
fn rows(map: &str) -> BTreeMap<String, usize> {
    let rows = map.lines().filter_map(|line| line.strip_prefix("//! | "));
    let first = rows.filter_map(|row| row.split(" | ").next());
    let modules = first.enumerate().flat_map(|(row, cell)| {
        cell.split('`').skip(1).step_by(2).map(move |module| (module.to_owned(), row))
    });
    modules.collect()
}

/// The row of a path: of its longest part that has one.
fn row(rows: &BTreeMap<String, usize>, path: &[&str]) -> Option<usize> {
    (1..=path.len()).rev().find_map(|len| rows.get(&path[..len].join("::")).copied())
}

/// What follows each of these words, as paths of two parts at most; comments and tests left out.
fn used<'a>(code: &'a str, word: &str) -> Vec<Vec<&'a str>> {
    let code = code.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let lines = code.lines().map(|line| line.split("//").next().unwrap_or_default());
    let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let parts = lines.flat_map(|line| line.split(word).skip(1).collect::<Vec<_>>());
    let paths = parts.map(|rest| rest.split(|c| !is_name(c)).next().unwrap_or_default());
    paths.map(|path| path.split("::").take(2).collect()).collect()
}

#[test]
fn every_module_has_its_row_and_uses_only_what_stands_above_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let rows = rows(&fs::read_to_string(src.join("lib.rs")).expect("lib.rs"));
    let mut uses = 0;
    for path in files(&src) {
        let module = path.strip_prefix(&src).unwrap().with_extension("");
        let mut parts: Vec<&str> = module.iter().map(|part| part.to_str().unwrap()).collect();
        if parts == ["lib"] {
            continue;
        }
        if parts.last() == Some(&"mod") {
            parts.pop();
        }
        let own = row(&rows, &parts).unwrap_or_else(|| panic!("{parts:?} has no row"));
        let code = fs::read_to_string(&path).expect("a source");
        for used in used(&code, "crate::") {
            let theirs = row(&rows, &used);
            // What has no row is lib.rs's own: it hands on what others have.
            let Some(theirs) = theirs else { continue };
            assert!(theirs <= own, "{parts:?} uses {used:?}, which stands below it");
            uses += 1;
        }
    }
    assert!(
        rows.len() > 20 && uses > 100,
        "{} rows, {uses} uses: the sources are read",
        rows.len()
    );
}
