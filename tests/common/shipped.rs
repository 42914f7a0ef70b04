//! The shared library as it is shipped, and what the tools of binutils say about it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The shared library as it is shipped: built with the release profile, whatever profile the
/// tests have, and with no flags of the environment.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        // A folder of its own: the running `cargo test` may have locked the usual one.
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("shipped");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--release", "--lib", "--locked", "--offline", "--target-dir"]);
        cargo.arg(&target).current_dir(env!("CARGO_MANIFEST_DIR"));
        for flags in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
            cargo.env_remove(flags);
        }
        let output = cargo.output().expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        target.join("release/libmempool.so")
    })
}

/// What a tool prints about the library.
pub fn ask(tool: &str, arguments: &[&str]) -> String {
    let output = Command::new(tool).args(arguments).arg(library()).output();
    let output = output.unwrap_or_else(|error| panic!("{tool} (binutils): {error}"));
    assert!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}
