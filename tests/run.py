#!/usr/bin/env python3
"""Runs every test and ends in one line, `N passed, N failed, N skipped`. `make test` calls it; Python 3.9 will do.

Each runner's own report is counted; one that fails without saying what failed counts as one failure, and so does one
that says nothing at all. The exit status is 0 only if nothing failed (and, if CI=true, nothing was skipped).

What waits much and what computes much run beside each other, in two lanes; each line says whose it is.

With --soak the randomised and the timed tests go on for far longer; SOAK_SECONDS sets how long each timed one takes.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import threading
import time
import venv
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve()

# A test that hangs must not hang the run: no runner takes nearly as long.
LIMIT_S = 1200


# What a failed test said is shown again at the end: so many lines of it, from its start and from its end.
SAID_LINES = 60


@dataclass
class Failure:
    test: str
    said: list = field(default_factory=list)  # lines

    def __str__(self):
        said = self.said
        if len(said) > 2 * SAID_LINES:
            said = [*said[:SAID_LINES], f"[{len(said) - 2 * SAID_LINES} lines]", *said[-SAID_LINES:]]
        return "\n".join([f"failed: {self.test}", *(f"said: {line}" for line in said)])


@dataclass
class Count:
    passed: int = 0
    failed: list = field(default_factory=list)  # Failures
    skipped: list = field(default_factory=list)  # "name: cause"


@dataclass
class Runner:
    name: str
    command: list
    count: Callable  # from the lines it printed, and where it may have left a report

    @property
    def report(self):
        return TARGET / f"{self.name}.xml"


def count_cargo(lines, _report):
    """Adds up what libtest says, program by program; the ABI test is a program that counts its comparisons itself."""
    count = Count()
    failed = 0
    said = sections(lines)
    for line in lines:
        if result := re.match(r"test result: \w+\. (\d+) passed; (\d+) failed;", line):
            count.passed += int(result[1])
            failed += int(result[2])
        elif re.match(r"PASSED \d+ tests$", line):
            count.passed += 1
        elif result := re.match(r"test (.+) \.\.\. FAILED$", line):
            name = result[1].removesuffix(" - should panic")
            count.failed.append(Failure(name, said.get(name, [])))
        elif result := re.match(r"test (.+) \.\.\. ignored(?:, (.+))?$", line):
            count.skipped.append(f"{result[1]}: {result[2] or 'NO CAUSE GIVEN'}")
    # Of a test that prints in between the name is not known.
    count.failed += [Failure("a test")] * (failed - len(count.failed))
    return count


def sections(lines):
    """What libtest repeats of each failed test, by its name."""
    said, section = {}, None
    for line in lines:
        if result := re.match(r"---- (.+) stdout ----$", line):
            section = said[result[1]] = []
        elif line in ("failures:", "successes:"):
            section = None
        elif section is not None:
            section.append(line)
    return said


def count_pytest(_lines, report):
    """Reads the report pytest was asked to write."""
    count = Count()
    for case in ElementTree.parse(report).iter("testcase"):
        skip = case.find("skipped")
        ends = [end for word in ("failure", "error") if (end := case.find(word)) is not None]
        if ends:
            count.failed.append(Failure(case.get("name"), (ends[0].text or "").splitlines()))
        elif skip is not None:
            count.skipped.append(f"{case.get('name')}: {skip.get('message')}")
        else:
            count.passed += 1
    return count


def count_fuzz(lines, _report):
    """A fuzz target that found nothing counts as one test."""
    ends = [match.groups() for line in lines if (match := re.match(r"fuzz (\w+): (passed|failed),", line))]
    failed = [Failure(name, lines) for name, end in ends if end == "failed"]
    return Count(passed=len(ends) - len(failed), failed=failed)


def pytest(name, *folders):
    python = str(VENV / "bin" / "python")
    runner = Runner(name, [python, "-m", "pytest", "-q", "--color=no", "-p", "no:cacheprovider"], count_pytest)
    runner.command += [f"--junitxml={runner.report}", *folders]
    return runner


def runners():
    """What runs, by lane, and what has to be built before, beside each other too."""
    cargo = ["cargo", "test", "--locked", "--no-fail-fast"]
    # Most of the time would go into optimising what the tests are made with: do without, but for proptest and loom,
    # which run long. (c-tests only starts the C programs; the libraries these link are built as they ship, without these words.)
    quick = [
        "--config", "profile.release.package.'*'.opt-level=0",
        "--config", "profile.release.package.c-tests.opt-level=0",
        "--config", "profile.release.package.proptest.opt-level=1",
        "--config", "profile.release.package.loom.opt-level=3",
        "--config", "profile.release.package.generator.opt-level=3",
    ]  # fmt: skip
    # With debug assertions and overflow checks; and optimised, with the C programs.
    debug = Runner("debug", [*cargo, "--package", "mempool", "--features", "allocator-api2"], count_cargo)
    # (The examples in the documentation are run by the first: what they would link here may be, by then, the library as
    # others build it, which does not unwind.)
    members = ["--workspace", "--exclude", "mempool-preload", "--lib", "--tests"]
    release = Runner("release", [*cargo, "--release", *members, *quick], count_cargo)
    builds = [
        Runner("build debug", [*debug.command, "--no-run"], None),
        Runner("build release", [*release.command, "--no-run"], None),
    ]
    lanes = [
        [release, Runner("fuzz", ["env", "FUZZ_SECONDS=10", sys.executable, "tests/fuzz.py"], count_fuzz)],
        [
            debug,
            pytest("python", "python/tests", "--doctest-modules", "python/mempool"),
            pytest("consumers", "tests/consumers", "tests/readme"),
            pytest("programs", "tests/preload", "tests/examples"),
            pytest("tools", "tests/tools"),
        ],
    ]
    return builds, lanes


def environment(soak):
    """What the tests run in: the virtual environment's tools first, and nothing of make's own."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "MFLAGS"}
    env.pop("CARGO_BUILD_TARGET", None)  # the libraries are looked for where the host's lie
    env.pop("PYTHONHOME", None)
    env.update(
        PATH=f"{VENV / 'bin'}{os.pathsep}{env['PATH']}",
        VIRTUAL_ENV=str(VENV),
        CARGO_TARGET_DIR=str(TARGET),
        CARGO_TERM_COLOR="never",
        MEMPOOL_LIBRARY=str(TARGET / "release" / "libmempool.so"),
        PYTHONDONTWRITEBYTECODE="1",
    )
    if soak:
        env.update(
            MEMPOOL_TEST_SECONDS=os.environ.get("SOAK_SECONDS", "60"),
            MEMPOOL_TEST_KILLS="20000",
            PROPTEST_CASES="20000",
        )
    return env


def execute(name, command, env, limit_s):
    """Runs a command, shows what it prints as it comes, and returns (exit status, lines)."""
    try:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # so that it can be ended with all its children
        )
    except OSError as error:
        print(f"--- {name}: {error}", flush=True)
        return 127, []

    def end():
        print(f"--- {name} ended: it ran for longer than {limit_s} s", flush=True)
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(limit_s, end)
    timer.start()
    lines = []
    try:
        for line in process.stdout:
            print(f"{name}: {line}", end="", flush=True)
            lines.append(line.rstrip("\n"))
        return process.wait(), lines
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    finally:
        timer.cancel()


def run(runner, env, limit_s):
    """Runs a runner; its name, what it counted, and the seconds it took."""
    runner.report.unlink(missing_ok=True)
    began = time.monotonic()
    status, lines = execute(runner.name, runner.command, env, limit_s)
    try:
        count = runner.count(lines, runner.report)
    except (OSError, ElementTree.ParseError):
        count = Count()
    silent = not (count.passed or count.failed or count.skipped)
    if silent or (status != 0 and not count.failed):
        count.failed.append(Failure(f"exit status {status}, and no failed test named", lines[-SAID_LINES:]))
    return runner.name, count, time.monotonic() - began


def fill_venv():
    """Fills ./.venv with what requirements.txt pins, unless it holds just that."""
    wanted = (ROOT / "tests" / "requirements.txt").read_text()
    stamp = VENV / "requirements.txt"
    python = VENV / "bin" / "python"
    try:
        if stamp.read_text() == wanted and subprocess.call([python, "-c", ""]) == 0:
            return
    except OSError:
        pass  # not there, or left behind by a Python that is gone
    try:
        venv.create(VENV, clear=True, with_pip=True)
        pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*pip, "-r", ROOT / "tests" / "requirements.txt"], stdin=subprocess.DEVNULL, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"--- no virtual environment: {error}")
        return
    stamp.write_text(wanted)


def main():
    arguments = argparse.ArgumentParser(description="Runs every test.")
    arguments.add_argument("--soak", action="store_true", help="the randomised and timed tests, for far longer")
    soak = arguments.parse_args().soak

    TARGET.mkdir(parents=True, exist_ok=True)
    env = environment(soak)
    limit_s = LIMIT_S * (100 if soak else 1)
    builds, lanes = runners()
    if soak:
        # One after the other: these find more the more of the machine they have.
        lanes = [[runner for lane in lanes for runner in lane if runner.count is count_cargo]]

    # If one of these can't be had, the runners that need it fail and say so.
    print("=== preparing", flush=True)
    fill_venv()
    execute("library", ["cargo", "build", "--locked", "--release", "--lib"], env, limit_s)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda build: execute(build.name, build.command, env, limit_s), builds))
        print("\n=== testing", flush=True)
        lines = list(pool.map(lambda lane: [run(runner, env, limit_s) for runner in lane], lanes))
    table = [row for lane in lines for row in lane]
    total = Count()
    for name, count, _ in table:
        total.passed += count.passed
        total.failed += [Failure(f"{name}: {failure.test}", failure.said) for failure in count.failed]
        total.skipped += count.skipped

    width = max(len(name) for name, _, _ in table)
    print(f"\n{'':{width}}  passed  failed  skipped  seconds")
    for name, count, seconds in table:
        print(f"{name:{width}}  {count.passed:6}  {len(count.failed):6}  {len(count.skipped):7}  {seconds:7.0f}")
    for skip in total.skipped:
        print(f"skipped: {skip}")
    for failure in total.failed:
        print(failure)
    print(f"{total.passed} passed, {len(total.failed)} failed, {len(total.skipped)} skipped", flush=True)
    return 1 if total.failed or (total.skipped and os.environ.get("CI") == "true") else 0


if __name__ == "__main__":
    sys.exit(main())
