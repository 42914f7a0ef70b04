#!/usr/bin/env python3
"""Makes what is released, and tries it: `dist.py make`, `dist.py check`. `make dist` and `make dist-check` call it.

    target/dist/mempool-VERSION-linux-MACHINE.tar.gz    the installed tree: library, headers, CMake package, manual, tools
    target/dist/mempool-VERSION-py3-none-PLATFORM.whl   the Python package with its library, and its source package
    target/dist/mempool-VERSION.crate                   the Rust crate

The check unpacks each in a folder of its own and uses it there as a stranger would, with nothing of this repository in reach.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

import run as tests

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve()
DIST = TARGET / "dist"
VERSION = re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]
TREE = f"mempool-{VERSION}-linux-{platform.machine()}"
CRATE = f"mempool-{VERSION}.crate"

C_PROGRAM = (ROOT / "examples" / "hello.c").read_text()
CMAKE_LISTS = """\
cmake_minimum_required(VERSION 3.16)
project(hello C)
find_package(mempool %s EXACT REQUIRED)
foreach(kind mempool static)
  add_executable(hello-${kind} hello.c)
  target_link_libraries(hello-${kind} mempool::${kind})
endforeach()
"""
PYTHON_PROGRAM = """\
import mempool, os, sys
assert os.path.realpath(mempool.__file__).startswith(os.path.realpath(sys.prefix)), mempool.__file__
with mempool.Pool(bytearray(1 << 20)) as pool:
    with pool.malloc(100) as block:
        block.view[:5] = b"hello"
    assert pool.stats().used_count == 0
    pool.check()
print("ok")
"""
RUST_PROGRAM = """\
use mempool::{Options, Pool};

fn main() -> Result<(), mempool::Error> {
    let mut buffer = vec![0u8; 1 << 16];
    let pool = unsafe { Pool::init(buffer.as_mut_ptr(), buffer.len(), &Options::default()) }?;
    let block = pool.malloc(100)?;
    unsafe { pool.free(block.as_ptr()) }?;
    assert!(unsafe { pool.free(block.as_ptr()) }.is_err());
    println!("ok");
    pool.check()
}
"""


def run(*command, **more):
    """Runs a command, shows it, and ends the run if it fails; what it printed."""
    print("$", *command, flush=True)
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, **more).stdout


def make():
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        build, tree = Path(scratch) / "build", Path(scratch) / TREE
        run("cmake", "-S", ROOT, "-B", build, "-DCMAKE_BUILD_TYPE=Release", f"-DMEMPOOL_CARGO_TARGET_DIR={TARGET}")
        run("cmake", "--build", build)
        run("cmake", "--install", build, "--prefix", tree)
        with tarfile.open(DIST / f"{TREE}.tar.gz", "w:gz") as archive:
            archive.add(tree, TREE)
        run(tests.VENV / "bin" / "python", "-m", "build", "--outdir", DIST, ROOT, env=tests.environment(soak=False))
    run("cargo", "package", "--locked", "--allow-dirty", "--no-verify", "--package", "mempool", cwd=ROOT)
    shutil.copy(TARGET / "package" / CRATE, DIST)
    print(*sorted(path.name for path in DIST.iterdir()), sep="\n")


def clean_environment(home):
    """Of the environment only what finds the tools."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "SSL_CERT_FILE", "PIP_INDEX_URL") if name in os.environ}
    cargo = {"CARGO_HOME": str(Path.home() / ".cargo"), "RUSTUP_HOME": str(Path.home() / ".rustup")}
    return {**kept, **cargo, "HOME": str(home)}


def assert_hello(printed):
    assert "refused: mempool_free: " in printed and "\n0 blocks in use, " in printed, printed


def check_tree(at, env):
    with tarfile.open(DIST / f"{TREE}.tar.gz") as archive:
        archive.extractall(at)
    tree = (at / TREE).rename(at / "moved")
    (at / "hello.c").write_text(C_PROGRAM)
    config = next(tree.rglob("pkgconfig"))
    flags = run("pkg-config", "--cflags", "--libs", "mempool", env={**env, "PKG_CONFIG_PATH": str(config)}).split()
    run("cc", "-std=c11", "-Wall", "-Wextra", "-Werror", "hello.c", "-o", "hello", *flags, cwd=at, env=env)
    library = {**env, "LD_LIBRARY_PATH": str(config.parent)}
    assert_hello(run(at / "hello", env=library))

    (at / "CMakeLists.txt").write_text(CMAKE_LISTS % VERSION)
    run("cmake", "-S", at, "-B", at / "build", f"-DCMAKE_PREFIX_PATH={tree}", env=env)
    run("cmake", "--build", at / "build", env=env)
    for kind in ("mempool", "static"):
        assert_hello(run(at / "build" / f"hello-{kind}", env=env))

    assert run(tree / "bin" / "mempool-run", "echo", "in a pool", env=env) == "in a pool\n"
    manual = tree / "share" / "man" / "man3"
    assert "mempool_malloc" in (manual / "mempool.3").read_text()
    assert (manual / "mempool_free.3").read_text() == ".so man3/mempool.3\n"


def check_python(at, env):
    venv.create(at / "venv", with_pip=True)
    python = at / "venv" / "bin" / "python"
    sources = [path for path in DIST.glob("mempool-*.tar.gz") if "linux" not in path.name]
    # The wheel as it is; the sources as pip makes a wheel of them.
    for package in (*DIST.glob("*.whl"), *sources):
        run(python, "-m", "pip", "install", "--quiet", "--force-reinstall", package, env=env)
        assert run(python, "-c", PYTHON_PROGRAM, cwd=at, env=env) == "ok\n"


def check_crate(at, env):
    with tarfile.open(DIST / CRATE) as archive:
        archive.extractall(at)
    project = at / "project"
    (project / "src").mkdir(parents=True)
    (project / "src" / "main.rs").write_text(RUST_PROGRAM)
    manifest = f'[package]\nname = "project"\nedition = "2021"\n[dependencies]\nmempool = {{ path = "../mempool-{VERSION}" }}\n[workspace]\n'
    (project / "Cargo.toml").write_text(manifest)
    assert run("cargo", "run", "--quiet", "--release", cwd=project, env=env) == "ok\n"


def check():
    for trial in (check_tree, check_python, check_crate):
        print(f"=== {trial.__name__}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            trial(Path(folder), clean_environment(folder))
    print("dist: all was right")


if __name__ == "__main__":
    # CMake and build come from PyPI, as for the tests.
    tests.fill_venv()
    os.environ["PATH"] = tests.environment(soak=False)["PATH"]
    {"make": make, "check": check}[sys.argv[1]]()
