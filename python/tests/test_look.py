"""The look from outside: read-only, in the terminal and in files."""

import os
import struct
import subprocess
import sys
import threading
import xml.etree.ElementTree as ElementTree
import zlib

import pytest

import mempool
from conftest import PYTHON
from mempool import State, picture, plot
from mempool.inspect import Target


def command(*words, status=0):
    result = subprocess.run(
        [sys.executable, "-W", "error", "-m", "mempool", *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(PYTHON)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=60,
    )
    assert result.returncode == status, result.stdout + result.stderr
    return result.stdout if status == 0 else result.stderr


@pytest.fixture
def worked(pool):
    """A pool with holes; the walk and the figures of it."""
    hole = pool.malloc(100_000)  # too large to be cached
    blocks = [pool.malloc(16 << (n % 10)) for n in range(200)]
    for block in [hole, *blocks[::3]]:
        block.free()
    pool.stats()  # joins what is free, so that later looks see the same
    return pool


def test_inspect_tells_what_the_pool_tells_and_changes_nothing(worked):
    before = bytes(worked.memory)
    seen = mempool.inspect(before)  # bytes: read-only
    assert bytes(worked.memory) == before
    assert seen.stats == worked.stats() and seen.blocks == worked.walk()
    with Target(worked.name) as target:
        assert target.look() == seen
    with pytest.raises(mempool.NotAPool):
        mempool.inspect(bytes(4096))
    with pytest.raises(TypeError):
        mempool.inspect(5)
    with pytest.raises(mempool.Incompatible):
        mempool.inspect(before[: len(before) // 2])


def test_the_map_accounts_for_every_byte(worked):
    seen = mempool.inspect(worked.memory)
    for count in (1, 7, 960, 100_000):
        pieces = picture.cells(seen, count)
        sums = {state: sum(piece.get(state, 0) for piece in pieces) for state in State}
        assert sums[State.LIVE] == seen.stats.used_size
        assert sums[State.FREE] == seen.stats.free_size
        assert sums[State.CACHED] == seen.stats.cached_size
        assert sums[State.META] == seen.stats.overhead
        assert all(sum(piece.values()) <= seen.stats.total // count + 1 for piece in pieces)
    assert sum(picture.size_classes(seen, State.LIVE).values()) == seen.stats.used_count


def test_the_terminal_shows_the_figures_and_the_map(worked):
    text = command("inspect", worked.name, "--width", 60, "--height", 5)
    stats = worked.stats()
    assert f" {stats.used_count} " in text and f" {stats.used_size} " in text and "fragmentation" in text
    lines = text.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("mmm"))
    drawn = lines[first : first + 5]
    assert all(len(line) == 60 and set(line) <= set("#+.m ") for line in drawn)
    assert {"#", ".", "m", " "} <= set("".join(drawn)) and "\x1b" not in text
    coloured = command("inspect", "/dev/shm/" + worked.name, "--colour", "always")
    assert "\x1b[34m\u2588" in coloured


def test_errors_are_one_line(tmp_path):
    assert "No such file" in command("inspect", "mempool-not-there", status=1)
    (tmp_path / "no pool").write_bytes(bytes(4096))
    said = command("inspect", tmp_path / "no pool", status=1)
    assert said.startswith("mempool: ") and said.count("\n") == 1
    (tmp_path / "empty").touch()
    assert command("watch", tmp_path / "empty", status=1).count("\n") == 1


def unfilter(png):
    """The rows of a PNG of three bytes a dot without filters, its checksums looked at."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        kind, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", png, at + 8 + length) == (zlib.crc32(kind + data),)
        chunks[kind] = data
        at += length + 12
    width, height, depth, colour = struct.unpack_from(">IIBB", chunks[b"IHDR"])
    assert (depth, colour) == (8, 2)
    lines = zlib.decompress(chunks[b"IDAT"])
    assert len(lines) == height * (3 * width + 1)
    return [lines[row * (3 * width + 1) + 1 : (row + 1) * (3 * width + 1)] for row in range(height)]


def test_plots_show_the_map(worked, tmp_path):
    command("inspect", worked.name, "--svg", tmp_path / "a.svg", "--png", tmp_path / "a.png")
    tree = ElementTree.parse(tmp_path / "a.svg")
    rects = [shape.attrib for shape in tree.iter("{http://www.w3.org/2000/svg}rect")]
    rows = unfilter((tmp_path / "a.png").read_bytes())
    seen = mempool.inspect(worked.memory)
    pieces = picture.cells(seen, 115 * 28)
    for index, piece in enumerate(pieces):
        state = picture.main_state(piece)
        wanted = picture.UNTOUCHED[2] if state is None else picture.KINDS[state][2]
        y, x = divmod(index, 115)
        assert rects[index + 1]["fill"] == wanted  # the first is the background
        dot = rows[40 + 8 * y + 3][3 * (20 + 8 * x + 3) :][:3]
        assert dot == bytes.fromhex(wanted[1:])
    words = " ".join(text.text for text in tree.iter("{http://www.w3.org/2000/svg}text"))
    assert f"{seen.stats.used_count} live blocks" in words
    assert set("".join(words.split()).upper()) <= set(plot.FONT)  # the PNG can say it too


def test_watch_follows_a_pool_at_work(pool):
    stop = threading.Event()

    def work():
        mine = []
        while not stop.is_set():
            mine.append(pool.malloc(1 + len(mine) * 13 % 5000))
            if len(mine) > 100:
                mine.pop(50).free()
        for block in mine:
            block.free()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        text = command("watch", pool.name, "--count", 5, "--interval", 0.02)
    finally:
        stop.set()
        worker.join()
    assert text.count("fragmentation") == 5


def test_the_mapping_cannot_be_written(worked):
    with Target(worked.name) as target:
        with open("/proc/self/maps") as maps:
            rights = sorted(line.split()[1] for line in maps if line.rstrip().endswith("/dev/shm/" + worked.name))
        assert rights == ["r--s", "rw-s"]  # the look's, and the pool's own
        assert target.look().stats == worked.stats()
