//! Makes what the tests run: the ABI test from the header and `src/declared.rs`, the library as it
//! is shipped, each C program in `programs/` twice, with the static and the shared library, and
//! each of a mistake in `misuse/`. A line `// also NAME: FLAGS` in a program has it built once more
//! in that way, with the static one.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, thread};

/// What the static library needs; `cargo rustc -- --print native-static-libs` says.
const NATIVE_LIBS: [&str; 7] = ["-lgcc_s", "-lutil", "-lrt", "-lpthread", "-lm", "-ldl", "-lc"];
const WARNINGS: [&str; 5] = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"];
const COMMON: [&str; 4] = ["-O2", "-g", "-pthread", "-I../include"];
const C: [&str; 1] = ["-std=c11"];
const CPP: [&str; 3] = ["-std=c++17", "-Wold-style-cast", "-Wzero-as-null-pointer-constant"];

fn main() {
    // All this package has, and of the library what it is made from.
    println!("cargo:rerun-if-changed=.");
    for path in ["include", "src", "build.rs", "Cargo.toml", "Cargo.lock"] {
        println!("cargo:rerun-if-changed=../{path}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap());
    let functions = functions_of_header();
    make_abi_test(&functions, &out);
    let library = build_library(&out);
    build_programs(&library, &out);
    build_misuses(&out);
}

/// Every `mempool_x(` of the header.
fn functions_of_header() -> BTreeSet<String> {
    let header = fs::read_to_string("../include/mempool.h").unwrap();
    let functions: BTreeSet<String> = header
        .match_indices("mempool_")
        .filter(|&(at, _)| !header[..at].ends_with(is_of_name))
        .filter_map(|(at, _)| {
            let end = at + header[at..].find(|c| !is_of_name(c))?;
            header[end..].starts_with('(').then(|| header[at..end].to_owned())
        })
        .collect();
    assert!(functions.contains("mempool_init"), "no functions found in include/mempool.h");
    functions
}

fn is_of_name(c: char) -> bool {
    c == '_' || c.is_ascii_alphanumeric()
}

fn make_abi_test(functions: &BTreeSet<String>, out: &Path) {
    let mut test = ctest2::TestGenerator::new();
    test.header("mempool.h").include("../include");
    // In C a structure has two names, `struct x` and `x_t`.
    test.type_name(|name, is_struct, _| match name {
        name if is_struct && !name.ends_with("_t") => format!("struct {name}"),
        name => name.to_owned(),
    });
    // Opaque: there is nothing to compare.
    test.skip_struct(|name| name == "mempool").skip_type(|name| name == "mempool_t");
    test.generate("src/abi_root.rs", "abi_test.rs");

    // ctest2 is silent about functions that only the header has.
    let generated = fs::read_to_string(out.join("abi_test.rs")).unwrap();
    for function in functions {
        assert!(
            generated.contains(&format!("fn fn_{function}()")),
            "{function} is in include/mempool.h but not in c-tests/src/declared.rs"
        );
    }
    let mut same_types = String::new();
    for function in functions {
        writeln!(
            same_types,
            "const _: () = {{ let _ = [mempool::capi::{function}, declared::{function}]; }};"
        )
        .unwrap();
    }
    fs::write(out.join("same_types.rs"), same_types).unwrap();
}

/// Builds the library in the profile of these tests, but as users get it: with that profile's way
/// to panic, which cargo overrides in whatever it builds for a test.
fn build_library(out: &Path) -> PathBuf {
    let target = env::var("TARGET").unwrap();
    let profile = env::var("PROFILE").unwrap();
    let mut cargo = Command::new(env::var_os("CARGO").unwrap());
    cargo
        .args([
            "build",
            "--quiet",
            "--locked",
            "--lib",
            "--manifest-path",
            "../Cargo.toml",
            "--target",
            &target,
        ])
        .arg("--target-dir")
        .arg(out.join("library"))
        .env_remove("RUSTC_WORKSPACE_WRAPPER"); // clippy's
    if profile == "release" {
        cargo.arg("--release");
    }
    run(&mut cargo);
    let built = out.join("library").join(target).join(profile);

    // A program finds the shared library by its soname.
    let shared = out.join("shared");
    let _old = fs::remove_dir_all(&shared);
    fs::create_dir(&shared).unwrap();
    fs::copy(built.join("libmempool.so"), shared.join("libmempool.so")).unwrap();
    let dynamic = Command::new("readelf")
        .args(["-d", "-W"])
        .arg(shared.join("libmempool.so"))
        .output()
        .unwrap();
    let dynamic = String::from_utf8(dynamic.stdout).unwrap();
    let soname = dynamic.split("soname: [").nth(1).and_then(|rest| rest.split(']').next());
    let soname = soname.expect("libmempool.so has a soname");
    std::os::unix::fs::symlink("libmempool.so", shared.join(soname)).unwrap();
    built.join("libmempool.a")
}

/// programs/x.c becomes OUT_DIR/programs/x-static and x-shared, and a test for each.
fn build_programs(static_library: &Path, out: &Path) {
    fs::create_dir_all(out.join("programs")).unwrap();
    let sources = sources_in("programs");
    let mut tests = String::new();
    thread::scope(|scope| {
        for source in &sources {
            let name = source.file_stem().unwrap().to_str().unwrap();
            let program = out.join("programs").join(name);
            write!(
                tests,
                "mod {name} {{\n\
                     #[test] fn with_the_static_library() {{ super::run(\"{name}-static\") }}\n\
                     #[test] fn with_the_shared_library() {{ super::run(\"{name}-shared\") }}\n"
            )
            .unwrap();
            for (way, flags) in other_ways(source) {
                writeln!(tests, "#[test] fn {way}() {{ super::run(\"{name}-{way}\") }}").unwrap();
                let program = named(&program, &format!("-{way}"));
                scope.spawn(move || build_in_a_way(source, &program, &flags, static_library));
            }
            tests.push_str("}\n");
            scope.spawn(move || build_program(source, &program, static_library, out));
        }
    });
    fs::write(out.join("programs.rs"), tests).unwrap();
}

/// misuse/x.c becomes OUT_DIR/misuse/x, and a test.
fn build_misuses(out: &Path) {
    const AT_ONCE: usize = 4;
    let folder = out.join("misuse");
    fs::create_dir_all(&folder).unwrap();
    let sources = sources_in("misuse");
    thread::scope(|scope| {
        for first in 0..AT_ONCE {
            let (sources, folder) = (&sources, &folder);
            let mine = sources.iter().skip(first).step_by(AT_ONCE);
            scope.spawn(move || mine.for_each(|source| build_misuse(source, folder, out)));
        }
    });
    let mut tests = String::new();
    for source in &sources {
        let name = source.file_stem().unwrap().to_str().unwrap();
        writeln!(tests, "#[test] fn {name}() {{ run(\"{name}\") }}").unwrap();
    }
    fs::write(out.join("misuse.rs"), tests).unwrap();
}

fn build_misuse(source: &Path, folder: &Path, out: &Path) {
    let compiler = cc::Build::new().get_compiler();
    run(compiler
        .to_command()
        .args(C)
        .args(WARNINGS)
        .args(COMMON)
        .arg("-O0")
        .arg(source)
        .arg("-L")
        .arg(out.join("shared"))
        .arg("-lmempool")
        .arg(to_shared(out))
        .arg("-o")
        .arg(folder.join(source.file_stem().unwrap())));
}

/// Where a program finds the shared library.
fn to_shared(out: &Path) -> std::ffi::OsString {
    let mut rpath = std::ffi::OsString::from("-Wl,-rpath,");
    rpath.push(out.join("shared"));
    rpath
}

fn sources_in(folder: &str) -> Vec<PathBuf> {
    let mut sources: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    sources.retain(|path| matches!(path.extension().and_then(OsStr::to_str), Some("c" | "cc")));
    sources.sort();
    sources
}

/// What the lines `// also NAME: FLAGS` of a program say.
fn other_ways(source: &Path) -> Vec<(String, Vec<String>)> {
    let text = fs::read_to_string(source).unwrap();
    let ways = text.lines().filter_map(|line| line.strip_prefix("// also "));
    ways.map(|way| {
        let (name, flags) = way.split_once(": ").expect("// also NAME: FLAGS");
        (name.to_owned(), flags.split_whitespace().map(str::to_owned).collect())
    })
    .collect()
}

fn build_in_a_way(source: &Path, program: &Path, flags: &[String], static_library: &Path) {
    let object = named(program, ".o");
    compile(source, &object, flags);
    let mut link = compiler(source).to_command();
    run(link.arg(&object).args(flags).arg(static_library).args(NATIVE_LIBS).arg("-o").arg(program));
}

fn build_program(source: &Path, program: &Path, static_library: &Path, out: &Path) {
    let object = named(program, ".o");
    compile(source, &object, &[]);
    run(compiler(source)
        .to_command()
        .arg(&object)
        .arg(static_library)
        .args(NATIVE_LIBS)
        .arg("-o")
        .arg(named(program, "-static")));
    run(compiler(source)
        .to_command()
        .arg(&object)
        .arg("-L")
        .arg(out.join("shared"))
        .args(["-lmempool", "-pthread"])
        .arg(to_shared(out))
        .arg("-o")
        .arg(named(program, "-shared")));
}

/// Later flags win.
fn compile(source: &Path, object: &Path, flags: &[String]) {
    let language = if is_cpp(source) { &CPP[..] } else { &C[..] };
    let mut command = compiler(source).to_command();
    command.args(language).args(WARNINGS).args(COMMON).args(flags);
    run(command.arg("-c").arg(source).arg("-o").arg(object));
}

fn compiler(source: &Path) -> cc::Tool {
    cc::Build::new().cpp(is_cpp(source)).get_compiler()
}

fn is_cpp(source: &Path) -> bool {
    source.extension() == Some(OsStr::new("cc"))
}

fn named(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}
