#!/usr/bin/env python3
"""Builds the fuzz targets with a stable Rust, replays their corpora and goes on from there, all at once.

    tests/fuzz.py                 for FUZZ_SECONDS (1800) each: `make fuzz`; `make test` gives it 10
    tests/fuzz.py calls FILE ..   one target on these inputs: what a finding says
    tests/fuzz.py --merge         the corpora in fuzz/corpus anew, from them and from what was found since

New inputs that reach something new are kept in the target directory, findings too. Each target ends in a line
`fuzz NAME: passed, ...` or `fuzz NAME: failed, ...`.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CORPUS = ROOT / "fuzz" / "corpus"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve() / "fuzz"
TARGETS = ["calls", "damage"]

# Of each target so much is committed: what reaches all edges, and of the others the shortest.
KEPT_BYTES = 145_000

# What cargo-fuzz passes, less what needs a nightly: these are options of LLVM, which any rustc passes on. Comparisons
# are not traced: the inputs are choices, in which no number has to be guessed, and it takes half of the time.
RUSTFLAGS = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Ccodegen-units=1",
    "--cfg=fuzzing",
]
# A call may hang for so long: a loaded machine is no finding, a loop without end is.
LIMITS = ["-timeout=30", "-rss_limit_mb=1024", "-max_len=2048", "-print_final_stats=1", "-verbosity=1"]


def build():
    """The folder with the built targets."""
    about = subprocess.run(["rustc", "-vV"], check=True, stdout=subprocess.PIPE, text=True).stdout
    host = re.search(r"host: (\S+)", about)[1]
    env = dict(os.environ, CARGO_TARGET_DIR=str(TARGET), CARGO_ENCODED_RUSTFLAGS="\x1f".join(RUSTFLAGS))
    # With a target named, the flags are not for what runs during the build.
    command = ["cargo", "build", "--locked", "--release", "--manifest-path", ROOT / "fuzz" / "Cargo.toml"]
    subprocess.run([*command, "--target", host], env=env, check=True)
    return TARGET / host / "release"


def start(folder, name, seconds):
    found, kept = TARGET / "found", TARGET / "corpus" / name
    found.mkdir(exist_ok=True)
    kept.mkdir(parents=True, exist_ok=True)
    options = [*LIMITS, f"-max_total_time={seconds}", f"-artifact_prefix={found}/{name}-"]
    log = open(TARGET / f"{name}.log", "w+", errors="replace")
    command = [folder / name, *options, kept, CORPUS / name]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT), log


def finish(name, process, log):
    """Waits for a target, and says how it ended."""
    status = process.wait()
    log.seek(0)
    text = log.read()
    runs = re.findall(r"number_of_executed_units: (\d+)", text)
    reached = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", text)
    if status == 0 and runs and reached:
        edges, features, inputs = reached[-1]
        print(f"fuzz {name}: passed, {runs[0]} inputs, {edges} edges, {features} features, a corpus of {inputs}")
        return True
    print(text[-8000:])
    print(f"fuzz {name}: failed, status {status}; the input is named above: tests/fuzz.py {name} FILE", flush=True)
    return False


def fuzz():
    seconds = os.environ.get("FUZZ_SECONDS", "1800")
    folder = build()
    running = [(name, *start(folder, name, seconds)) for name in TARGETS]
    # All of them are waited for, whatever one of them says.
    return all([finish(*target) for target in running])


def merge():
    folder = build()
    for name in TARGETS:
        sources = [path for path in [CORPUS / name, TARGET / "corpus" / name] if path.is_dir()]
        anew = select(folder, name, "merged", sources)
        edges = select(folder, name, "edges", [anew], "-use_counters=0")
        needed = {path.name for path in edges.iterdir()}
        shutil.rmtree(CORPUS / name, ignore_errors=True)
        (CORPUS / name).mkdir(parents=True)
        room = KEPT_BYTES
        for path in sorted(anew.iterdir(), key=lambda path: (path.name not in needed, path.stat().st_size, path.name)):
            room -= path.stat().st_size
            if path.name in needed or room >= 0:
                shutil.copy(path, CORPUS / name)


def select(folder, name, kind, sources, *options):
    """A folder with the fewest inputs that reach what all of these do."""
    found = TARGET / kind / name
    shutil.rmtree(found, ignore_errors=True)
    found.mkdir(parents=True)
    subprocess.run([folder / name, *LIMITS, *options, "-set_cover_merge=1", found, *sources], check=True)
    return found


def main(arguments):
    if not arguments:
        return 0 if fuzz() else 1
    if arguments == ["--merge"]:
        return merge()
    name, *inputs = arguments
    return subprocess.run([build() / name, *LIMITS, *inputs]).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
