//! What the shared library shows to linkers: its soname, the functions of the header, nothing
//! else.
//!
//! Needs `nm` and `readelf` (binutils).

#[path = "common/shipped.rs"]
mod shipped;

use shipped::ask;

#[test]
fn exactly_the_listed_functions_are_exported() {
    let listing = ask("nm", &["-D", "--defined-only", "--format=posix"]);
    // Each line: name, kind, value, size.
    let mut exported: Vec<_> = listing
        .lines()
        .map(|line| {
            let mut words = line.split(' ');
            (words.next().unwrap_or(""), words.next().unwrap_or(""))
        })
        .collect();
    exported.sort_unstable();
    let listed: Vec<_> = include_str!("symbols.txt").lines().map(|name| (name, "T")).collect();
    assert_eq!(exported, listed, "tests/symbols.txt is what the library promises to export");
}

#[test]
fn the_soname_holds_what_may_break_the_abi() {
    let name = match (env!("CARGO_PKG_VERSION_MAJOR"), env!("CARGO_PKG_VERSION_MINOR")) {
        ("0", minor) => format!("libmempool.so.0.{minor}"),
        (major, _) => format!("libmempool.so.{major}"),
    };
    let dynamic = ask("readelf", &["-dW"]);
    let soname = dynamic.lines().find(|line| line.contains("(SONAME)")).expect("a soname");
    assert!(soname.ends_with(&format!("[{name}]")), "{soname}");
}

/// No panic can unwind out of the library, for nothing in it can start to unwind. (The standard
/// library's code to go on with one is still there, and to find out where a panic was.)
#[test]
fn nothing_in_the_library_unwinds() {
    let imported = ask("nm", &["-D", "--undefined-only", "--format=posix"]);
    assert!(imported.contains("_Unwind_Backtrace"), "the unwinder's functions have other names");
    for start in ["_Unwind_RaiseException", "_Unwind_ForcedUnwind"] {
        assert!(!imported.contains(start), "{start} is imported");
    }
}
