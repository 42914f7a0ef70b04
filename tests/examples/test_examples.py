"""The examples that need other software, and the bus: each is built as its first lines say, and does what they say."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve()
LIBRARY = [TARGET / "release" / "libmempool.a", "-lpthread", "-ldl", "-lm", "-lrt", "-lutil"]
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]


@pytest.fixture
def example(tmp_path):
    def run(source, *flags):
        program = tmp_path / Path(source).stem
        language = ["gcc", "-std=c11"] if source.endswith(".c") else ["g++", "-std=c++17"]
        command = [*language, "-O2", "-pthread", *WARNINGS, f"-I{ROOT / 'include'}", ROOT / "examples" / source]
        subprocess.run([*command, *LIBRARY, *flags, "-o", program], check=True)
        ended = subprocess.run([program], capture_output=True, text=True, timeout=120)
        assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout + ended.stderr
        return ended.stdout

    return run


def flags(package):
    return subprocess.run(["pkg-config", "--cflags", "--libs", package], capture_output=True, text=True, check=True).stdout.split()


def test_sqlite_reports_that_its_pool_is_full_and_goes_on(example):
    assert example("embed/sqlite.c", "-lsqlite3") == "out of memory\nafter = 0\nlater = 10000\nsound; 0 bad frees\n"


def test_a_lua_script_catches_that_its_pool_is_full(example):
    text = "1000\nfalse\tnot enough memory\n1000\ttrue\n0 blocks left, 0 bad frees, sound\n"
    assert example("embed/lua.c", *flags("lua5.4")) == text


def test_cjson_refuses_what_does_not_fit(example):
    text = "1000 numbers: 1000 read\n100000 numbers: no memory\n2000 numbers: 2000 read\n0 blocks left, 0 bad frees, sound\n"
    assert example("embed/cjson.c", *flags("libcjson")) == text


def test_a_pmr_program_catches_that_its_pool_is_full(example):
    assert example("embed/pmr.cpp") == "1000\nfull: out of memory\n1000\n0 blocks left\n"


def test_the_bus_loses_nothing_while_its_users_are_killed(example):
    text = example("bus.c")
    found = re.fullmatch(r"100 kills, (\d+) messages, \d+ of them twice; 0 blocks besides the bus and \d unfinished messages\n", text)
    assert found and int(found[1]) > 100, text
