//! Compiles the shim over Boost.Interprocess where its headers are; without them the peer is left
//! out.

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo::rustc-check-cfg=cfg(boost)");
    println!("cargo::rerun-if-changed=shim");
    println!("cargo::rerun-if-env-changed=BOOST_ROOT");
    let Some(include) = boost() else { return };
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .file("shim/boost.cpp")
        .include(include)
        .define("NDEBUG", None)
        .define("BOOST_DATE_TIME_NO_LIB", None)
        .opt_level(3)
        .warnings(false)
        .compile("boost_shim");
    println!("cargo::rustc-cfg=boost");
}

/// The directory that holds Boost's headers.
fn boost() -> Option<PathBuf> {
    let root = env::var_os("BOOST_ROOT").map(PathBuf::from);
    let roots = [root, Some("/usr/local".into()), Some("/usr".into())];
    let mut includes = roots.into_iter().flatten().map(|root| root.join("include"));
    includes.find(|dir| dir.join("boost/interprocess/managed_external_buffer.hpp").exists())
}
