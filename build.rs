//! Gives the shared library its soname. While the version is 0.N each N may break the ABI, so N
//! is part of the name; from 1.0 on the major version is.

fn main() {
    let version = |part: &str| std::env::var(format!("CARGO_PKG_VERSION_{part}"));
    let (major, minor) = (version("MAJOR").unwrap(), version("MINOR").unwrap());
    let abi = if major == "0" { format!("0.{minor}") } else { major };
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libmempool.so.{abi}");
    println!("cargo::rerun-if-changed=build.rs");
}
