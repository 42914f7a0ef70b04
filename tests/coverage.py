#!/usr/bin/env python3
"""Measures which lines of src/ the tests execute, and prints a table by file; `make coverage` calls it.

Everything runs with debug assertions. The counters lie in files that are mapped into each process
(LLVM's continuous mode), so they survive forks and SIGKILL. What is behind `#[cfg(test)]` in a file is not counted.

The corpora of the fuzz targets count too. Arguments, if any, are passed on to `cargo test` instead: `tests/coverage.py --test damage`.
It needs LLVM's own tools, of rustc's version or later: Debian's llvm-22, or rustup's component llvm-tools.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve() / "coverage"
PROFILES = TARGET / "profiles"
# The core is all but the C face, whose functions are a line or two around the core's.
FACE = {"capi.rs", "abi.rs"}
# The models run copies of the sources, and count for themselves.
TESTS = ["--workspace", "--exclude", "models", "--features", "mempool/allocator-api2"]


def output(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def tool(name):
    """LLVM's tool of this name, not older than rustc's LLVM."""
    about = output("rustc", "-vV")
    wanted = int(re.search(r"LLVM version: (\d+)", about)[1])
    host = re.search(r"host: (\S+)", about)[1]
    ours = Path(output("rustc", "--print", "sysroot").strip()) / "lib" / "rustlib" / host / "bin" / name
    for path in [str(ours), *(f"{name}-{version}" for version in range(wanted, wanted + 9)), name]:
        if found := shutil.which(path):
            version = re.search(r"LLVM version (\d+)", output(found, "--version"))
            if version and int(version[1]) >= wanted:
                return found
    sys.exit(f"no {name} of LLVM {wanted}: apt-get install llvm-{wanted}, or rustup component add llvm-tools")


def environment():
    env = dict(os.environ)
    env.update(
        CARGO_TARGET_DIR=str(TARGET),
        # The programs that are stepped through would take for ever without any.
        CARGO_PROFILE_DEV_OPT_LEVEL="1",
        CARGO_PROFILE_DEV_BUILD_OVERRIDE_OPT_LEVEL="0",
        RUSTFLAGS="-Cinstrument-coverage -Cllvm-args=-runtime-counter-relocation",
        # A file for each process: a fork's child goes on with its parent's.
        LLVM_PROFILE_FILE=str(PROFILES / "%c%m.profraw"),
    )
    return env


def run_tests(arguments):
    """Runs the tests, and returns the programs and libraries that were run."""
    env = environment()
    command = ["cargo", "test", "--locked", "--no-fail-fast", *arguments]
    build = subprocess.run(
        [*command, "--no-run", "--message-format=json"], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, check=True
    )
    objects = []
    for line in build.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable"):
            objects.append(message["executable"])
        if message.get("reason") == "build-script-executed" and "c-tests" in message["package_id"]:
            out = Path(message["out_dir"])
            objects += [str(path) for path in sorted(out.glob("programs/*-static"))]
            objects.append(str(out / "shared" / "libmempool.so"))
    shutil.rmtree(PROFILES, ignore_errors=True)
    status = subprocess.run(command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL).returncode
    return objects, status


def replay_corpora():
    """Runs the fuzz targets on their corpora, and returns them. Nothing is looked for, only counted."""
    env = environment()
    folder = ROOT / "fuzz"
    subprocess.run(["cargo", "build", "--locked", "--release"], cwd=folder, env=env, check=True)
    targets = []
    for corpus in sorted((folder / "corpus").iterdir()):
        target = str(TARGET / "release" / corpus.name)
        inputs = [str(path) for path in corpus.iterdir()]
        subprocess.run([target, "-timeout=60", *inputs], env=env, stderr=subprocess.DEVNULL, check=True)
        targets.append(target)
    return targets


def merge(objects):
    """The count of each line of each file of src/."""
    profile = TARGET / "all.profdata"
    raw = [str(path) for path in PROFILES.glob("*.profraw")]
    merged = [tool("llvm-profdata"), "merge", "-sparse", "--failure-mode=all", "-o", str(profile), *raw]
    subprocess.run(merged, check=True)
    named = [word for path in objects[1:] for word in ("-object", path)]
    exported = output(
        tool("llvm-cov"), "export", "-format=lcov", f"-instr-profile={profile}", objects[0], *named, "--sources", str(SRC)
    )
    counts, lines = {}, None
    for line in exported.splitlines():
        if line.startswith("SF:"):
            lines = counts.setdefault(Path(line[3:]), {})
        elif line.startswith("DA:"):
            at, count = line[3:].split(",")[:2]
            lines[int(at)] = lines.get(int(at), 0) + int(count)
    return counts


def without_tests(path, lines):
    text = path.read_text().splitlines()
    # A module of tests stands at the end of its file, if not in one of its own.
    starts = (at for at, line in enumerate(text) if line == "#[cfg(test)]" and text[at + 1].endswith("{"))
    end = next(starts, len(text)) + 1
    return {at: count for at, count in lines.items() if at < end}


def spans(numbers):
    """[1, 2, 3, 7] as 1-3, 7."""
    found = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in found)


def report(counts):
    total = {"the core": [0, 0], "the C face": [0, 0]}
    print(f"\n{'file':24} {'lines':>6} {'missed':>6} {'covered':>8}  not executed")
    for path, lines in sorted(counts.items()):
        if path.name == "tests.rs":
            continue
        lines = without_tests(path, lines)
        name = str(path.relative_to(SRC))
        missed = sorted(at for at, count in lines.items() if count == 0)
        part = total["the C face" if name in FACE else "the core"]
        part[0] += len(lines)
        part[1] += len(missed)
        if lines:
            covered = 100 * (1 - len(missed) / len(lines))
            print(f"{name:24} {len(lines):6} {len(missed):6} {covered:7.1f}%  {spans(missed)}")
    for name, (lines, missed) in total.items():
        if lines:
            print(f"{name:24} {lines:6} {missed:6} {100 * (1 - missed / lines):7.1f}%")


def main():
    tool("llvm-profdata")
    objects, status = run_tests(sys.argv[1:] or TESTS)
    if not sys.argv[1:]:
        objects += replay_corpora()
    report(merge(objects))
    return status


if __name__ == "__main__":
    sys.exit(main())
