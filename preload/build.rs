//! The C face of the pool stays inside: a program that links libmempool.so shall get its own.
fn main() {
    println!("cargo:rustc-cdylib-link-arg=-Wl,--exclude-libs,ALL");
}
