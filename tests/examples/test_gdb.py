"""What gdb says about a pool, of a running program and of a core dump."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve()
HERE = Path(__file__).resolve().parent
POOL = "buffer+8 sizeof(buffer)-8"
QUESTIONS = [
    "print status",
    "print wrong",
    f"mempool stats {POOL}",
    f"mempool blocks {POOL}",
    f"mempool find {POOL} text+3",
    f"mempool find {POOL} buffer+20",
    f"mempool find {POOL} buffer+90000",
    f"mempool find {POOL} &status",
    "print to_text",
    "print to_nothing",
    "mempool stats &status 100000",
    "mempool stats nosuch 100000",
]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    program = tmp_path_factory.mktemp("gdb") / "program"
    libraries = [TARGET / "release" / "libmempool.a", "-lpthread", "-ldl", "-lm", "-lrt", "-lutil"]
    command = ["g++", "-std=c++17", "-g", f"-I{ROOT / 'include'}", HERE / "gdb.cc", *libraries, "-o", program]
    subprocess.run(command, check=True)
    return program


def ask(program, *commands):
    arguments = ["-q", "-nx", "-batch", "-ex", f"source {ROOT / 'python' / 'gdb' / 'mempool_gdb.py'}"]
    for command in commands:
        arguments += ["-ex", command]
    environment = {**os.environ, "MEMPOOL_LIBRARY": str(TARGET / "release" / "libmempool.so")}
    ended = subprocess.run(["gdb", *arguments, program], capture_output=True, text=True, env=environment, timeout=120)
    return ended.stdout + ended.stderr


def assert_answers(text):
    assert "= MEMPOOL_OK\n" in text and "= MEMPOOL_ERR_NOT_ALLOCATED\n" in text
    assert re.search(r"^used_count +1$", text, re.M) and re.search(r"^rejected_frees +1$", text, re.M)
    assert re.search(r"^0x[0-9a-f]+ +112  68 65 6c 6c 6f 00", text, re.M)
    assert re.search(r"is byte 3 of a live block of 112 bytes at 0x", text)
    assert "is the pool's own: header or map" in text and "is above top" in text and "is not in this buffer" in text
    assert re.search(r"= 0x[0-9a-f]+.* \"hello\"", text) and "= NULL" in text
    assert "MEMPOOL_ERR_NOT_A_POOL" in text and 'nosuch: No symbol "nosuch"' in text and "Python" not in text


def test_gdb_sees_the_pool_of_a_running_program(program):
    assert_answers(ask(program, "break stop", "run", "up", *QUESTIONS))


def test_gdb_sees_the_pool_in_a_core_dump(program, tmp_path):
    core = tmp_path / "core"
    ask(program, "break stop", "run", f"generate-core-file {core}")
    assert_answers(ask(program, f"core-file {core}", "frame function main", *QUESTIONS))
