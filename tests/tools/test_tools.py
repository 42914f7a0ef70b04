"""memcheck and AddressSanitizer see into the pool: in a build for both of them they report each planted mistake, at its
line, and say nothing of correct programs. The library as it ships tells them nothing."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from conftest import SOURCE, run

HERE = SOURCE / "tests" / "tools"
PROGRAMS = SOURCE / "c-tests" / "programs"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or SOURCE / "target") / "tools"
VALGRIND = ["valgrind", "--quiet", "--leak-check=full", "--show-leak-kinds=definite", "--errors-for-leak-kinds=definite"]

ASAN = ["-fsanitize=address", "-fsanitize-recover=address"]

# Random work of threads, and of processes that have memory of each other's.
REGRESSIONS = ["threads", "fork_shared"]

# What a tool says of each mistake; where it is made, as a line of bugs.c says; what memcheck knows of the block.
BUGS = {
    "read_past": ("read", "0 bytes after a block of size 100 alloc'd"),
    "write_past": ("write", "0 bytes after a block of size 100 alloc'd"),
    "read_past_a_whole_granule": ("read", "0 bytes after a block of size 112 alloc'd"),
    "read_past_a_large_block": ("read", "0 bytes after a block of size 100,000 alloc'd"),
    "read_past_a_grown_block": ("read", "0 bytes after a block of size 5,000 alloc'd"),
    "read_past_a_cut_block": ("read", "0 bytes after a block of size 100 alloc'd"),
    "read_past_an_expanded_block": ("read", "0 bytes after a block of size 100,100 alloc'd"),
    "read_past_in_a_found_pool": ("read", "0 bytes after a block of size 100 alloc'd"),
    "read_past_in_a_guarded_pool": ("read", "0 bytes after a block of size 100 alloc'd"),
    "read_past_an_aligned_block": ("read", "0 bytes after a block of size 40 alloc'd"),
    "read_what_was_never_allocated": ("read", 'inside data symbol "buffers"'),
    "read_freed": ("read", "50 bytes inside a block of size 100 free'd"),
    "write_freed": ("write", "0 bytes inside a block of size 100 free'd"),
    "read_freed_large": ("read", "0 bytes inside a block of size 100,000 free'd"),
    "read_moved": ("read", "50 bytes inside a block of size 100 free'd"),
    "read_after_free_all": ("read", "50 bytes inside a block of size 100 free'd"),
    # What others may know is as long as it is, not as it was asked for.
    "read_freed_from_a_slot": ("read", "50 bytes inside a block of size 112 free'd"),
    "read_freed_of_another_process": ("read", "50 bytes inside a block of size 112 free'd"),
}
UNWRITTEN = [
    "decide_by_unwritten",
    "decide_by_unwritten_of_reused",
    "decide_by_unwritten_end",
    "decide_by_unwritten_that_moved",
]


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """Built for both tools as CMake does it."""
    folder = tmp_path_factory.mktemp("build")
    run("cmake", "-S", SOURCE, "-B", folder, "-DMEMPOOL_TOOLS=valgrind;asan", f"-DMEMPOOL_CARGO_TARGET_DIR={TARGET}")
    run("cmake", "--build", folder)
    return folder / "lib" / "libmempool.a"


@pytest.fixture(scope="session")
def compiled(library, tmp_path_factory):
    """Compiles a program of C with that library, plain for memcheck or for AddressSanitizer; once."""
    folder = tmp_path_factory.mktemp("programs")
    done = {}

    def compile_once(source, *flags):
        program = folder / "-".join([source.stem, *flags])
        if program not in done:
            options = ["-std=c11", "-O1", "-g", "-pthread", "-Wall", "-Wextra", "-Werror", f"-I{SOURCE / 'include'}"]
            run("cc", *options, *flags, source, library, "-ldl", "-lm", "-lrt", "-lutil", "-o", program)
            done[program] = program
        return done[program]

    return compile_once


def ran(*command, sanitizer=""):
    """What a program complained, its exit status, and what it printed."""
    options = {"MEMPOOL_TEST_SECONDS": "0.1", "ASAN_OPTIONS": f"detect_leaks=0:{sanitizer}"}
    env = {**os.environ, **options}
    result = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
    return result.stderr, result.returncode, result.stdout


def must_be_silent(*command):
    said, status, printed = ran(*command)
    if said or status or not printed.endswith("ok\n"):
        pytest.fail(f"exit status {status}\n{said[:5000]}", pytrace=False)


def line_of(kind):
    """The line of bugs.c on which mistakes of this kind are made."""
    lines = (HERE / "bugs.c").read_text().splitlines()
    (number,) = [n for n, line in enumerate(lines, 1) if line.endswith(f"/* {kind} */")]
    return f"bugs.c:{number}"


def said_of_each(command, names):
    """What a tool says of each mistake, all made by one process; and of it all at its end, by the name "end"."""
    said, _, printed = ran(*command, *names, sanitizer="halt_on_error=0:suppress_equal_pcs=0")
    assert printed == "unnoticed\n", said
    said = re.sub(r"^==\d+== ?", "", said, flags=re.M)
    parts = re.findall(r"^== (\w+)\n(.*?)^== end\n", said, re.M | re.S)
    assert [name for name, _ in parts] == names
    return {**dict(parts), "end": said.split("== end\n")[-1]}


@pytest.fixture(scope="session")
def memcheck(compiled):
    command = [*VALGRIND, "--child-silent-after-fork=yes", compiled(HERE / "bugs.c")]
    return said_of_each(command, [*BUGS, *UNWRITTEN, "leak"])


@pytest.fixture(scope="session")
def asan(compiled):
    return said_of_each([compiled(HERE / "bugs.c", *ASAN)], [*BUGS])


@pytest.mark.parametrize("bug", BUGS)
def test_memcheck_sees_access(memcheck, bug):
    kind, block = BUGS[bug]
    said = memcheck[bug]
    assert said.count("Invalid ") == 1, said
    assert f"Invalid {kind} of size 1\n" in said
    assert re.search(rf"   at 0x\w+: mistake \({line_of(kind)}\)\n   by 0x\w+: {bug} ", said), said
    assert block in said.replace("a recently re-allocated block", "a block"), said
    if "free'd" in block:  # and who has freed it
        freed = said.split("free'd\n")[1].split("Block was alloc'd at")[0]
        assert re.search(r"(mempool_(free|free_all|free_from|realloc)|free_slowly) \(", freed), said
        assert re.search(rf"{bug if bug != 'read_moved' else 'move'} \(bugs\.c", freed), said


@pytest.mark.parametrize("bug", UNWRITTEN)
def test_memcheck_sees_unwritten(memcheck, bug):
    said = memcheck[bug]
    assert said.startswith("Conditional jump or move depends on uninitialised value(s)\n"), said
    assert f"mistake ({line_of('decide')})" in said.splitlines()[1], said


def test_memcheck_sees_leaks(memcheck):
    """Two blocks that nothing points to: one as it was made, one that realloc has moved; where each was made."""
    lost = re.findall(r"^([\d,]+) bytes in (\d+) blocks are definitely lost.*?\n\n", memcheck["end"] + "\n\n", re.M | re.S)
    assert ("100", "1") in lost and ("50,000", "1") in lost, memcheck["end"]
    records = [r for r in memcheck["end"].split("\n\n") if "definitely lost" in r]
    for size in ["100 bytes", "50,000 bytes"]:
        assert any(r.startswith(size) and ": leak (bugs.c:" in r for r in records), memcheck["end"]


@pytest.mark.parametrize("bug", BUGS)
def test_asan_sees_access(asan, bug):
    kind, _ = BUGS[bug]
    said = asan[bug]
    assert said.count("ERROR: AddressSanitizer: use-after-poison") == said.count("ERROR:") == 1, said
    assert f"{kind.upper()} of size 1 at" in said, said
    assert re.search(rf"#0 \w+ in mistake .*{line_of(kind)}\n.*#1 \w+ in {bug} ", said), said


def sources():
    return [HERE / "clean.c", HERE / "beside_a_walk.c", *(PROGRAMS / f"{name}.c" for name in REGRESSIONS)]


@pytest.mark.parametrize("source", sources(), ids=lambda source: source.stem)
def test_memcheck_is_silent(compiled, source):
    # Leaks in clean.c alone: a fork leaves what the C library has of its parent's other threads.
    leaks = [] if source.parent == HERE else ["--leak-check=no"]
    must_be_silent(*VALGRIND, *leaks, "--error-exitcode=9", compiled(source))


@pytest.mark.parametrize("source", sources(), ids=lambda source: source.stem)
def test_asan_is_silent(compiled, source):
    must_be_silent(compiled(source, *ASAN))


def test_nobody_is_told_without_tools(compiled):
    """In a build for tools all is as ever where there is none."""
    assert ran(compiled(HERE / "clean.c"))[1:] == (0, "ok\n")
    assert ran(compiled(HERE / "bugs.c"), *BUGS)[1:] == (0, "unnoticed\n")


def test_the_library_as_it_ships_tells_nobody(library):
    """What begins each of valgrind's requests on x86_64, and the name of the sanitizer's function."""
    marks = [bytes.fromhex("48c1c703 48c1c70d 48c1c73d 48c1c733"), b"__asan_poison_memory_region"]
    assert all(mark in library.read_bytes() for mark in marks)
    shipped = Path(os.environ.get("MEMPOOL_LIBRARY") or SOURCE / "target/release/libmempool.so").read_bytes()
    assert not any(mark in shipped for mark in marks)


def test_cmake_knows_its_tools(tmp_path):
    said = run("cmake", "-S", SOURCE, "-B", tmp_path, "-DMEMPOOL_TOOLS=asan;valgrnd", fails=True)
    assert 'there is no tool "valgrnd"' in said
