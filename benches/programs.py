#!/usr/bin/env python3
"""Times programs that nobody here wrote with their heap in a pool, beside glibc's and others: `make programs`.

Each program runs ROUNDS (7) times with each allocator, in turns, so that all meet the same moods of the machine; the table
shows the medians of the wall time and of the most memory resident, as ratios to glibc's. Allocators that are not installed
(Debian: libmimalloc2.0, libjemalloc2, libtcmalloc-minimal4) are left out.
"""

import glob
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve()
PRELOAD = TARGET / "release" / "libmempool_preload.so"
TESTS = ROOT / "tests" / "preload"
ROUNDS = int(os.environ.get("ROUNDS", "7"))

GIT = """set -e; rm -rf r; git init -q -b main r; cd r; git config user.name n; git config user.email e@e; git config gc.auto 0
for i in $(seq 40); do seq $i 3000 > f$((i % 9)); git add -A; git commit -qm $i; done
git log -p | md5sum; git gc -q --aggressive --prune=now; git fsck --no-progress"""

PROGRAMS = {
    "Python: objects, threads, processes": [sys.executable, TESTS / "objects.py"],
    "SQLite: a table of 100,000 rows": ["sqlite3", ":memory:", f".read {TESTS / 'big.sql'}"],
    "git: commits, log, gc, fsck": ["bash", "-c", GIT],
    "g++: a program with the standard library": ["g++", "-std=c++17", "-O1", TESTS / "words.cc", "-o", "words"],
    "that program: map, regex, threads": ["./words"],
    "rustc: a program with collections": ["rustc", "--edition", "2021", "-O", TESTS / "words.rs", "-o", "collections"],
    "that program: maps, strings, threads": ["./collections"],
    "sort: a million lines": ["sort", "--parallel=2", "lines"],
    "xz: 20 MB, two threads": ["xz", "-T2", "-3", "-k", "-c", "bytes"],
    "node: objects and JSON": ["node", "-e", "let a=[];for(let i=0;i<1e6;i++)a.push({i});console.log(JSON.stringify(a).length)"],
}


def allocators():
    found = {"glibc": None, "mempool": PRELOAD}
    for name, pattern in {"mimalloc": "libmimalloc.so*", "jemalloc": "libjemalloc.so*", "tcmalloc": "libtcmalloc_minimal.so*"}.items():
        if paths := sorted(glob.glob(f"/usr/lib/*/{pattern}")):
            found[name] = paths[0]
    return found


def run(command, library, folder):
    """Seconds of wall time, and the most KiB that one of its processes had resident."""
    environment = {**os.environ, **({"LD_PRELOAD": str(library)} if library else {})}
    began = time.monotonic()
    with open(os.devnull, "r+b") as nothing:
        process = subprocess.Popen([*map(str, command)], cwd=folder, env=environment, stdin=nothing, stdout=nothing, stderr=subprocess.PIPE)
        complaint = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{command}: {process.returncode}: {complaint.decode(errors='replace')}")
    return time.monotonic() - began, usage.ru_maxrss


def main():
    subprocess.run(["cargo", "build", "--locked", "--release", "--package", "mempool-preload"], cwd=ROOT, check=True)
    peers = allocators()
    print("| program | glibc | " + " | ".join(name for name in peers if name != "glibc") + " |")
    print("|---" * (len(peers) + 1) + "|")
    with tempfile.TemporaryDirectory() as folder:
        # Line by line: what this process ever had resident, its children are said to have had, too.
        with open(Path(folder, "lines"), "w") as file:
            file.writelines(f"{i * 7919 % 1000003}\n" for i in range(1_000_000))
        with open(Path(folder, "bytes"), "wb") as file:
            file.writelines(i.to_bytes(4, "little") for i in range(0, 35_000_000, 7))
        for name, command in PROGRAMS.items():
            results = {peer: [] for peer in peers}
            for _ in range(ROUNDS):
                for peer, library in peers.items():
                    results[peer].append(run(command, library, folder))
            medians = {peer: [statistics.median(column) for column in zip(*rows)] for peer, rows in results.items()}
            seconds, memory = medians.pop("glibc")
            cells = [f"{seconds:.2f} s, {memory / 1024:.0f} MiB"]
            cells += [f"{time / seconds:.2f}, {most / memory:.2f}" for time, most in medians.values()]
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
