"""Processes: started either way, killed, strangers to each other."""

import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import mempool
from conftest import PYTHON, alone
from mempool import Flag, State


def upper(block):
    """Runs in a worker, on the sender's bytes."""
    block.view[:] = bytes(block.view).upper()
    return os.getpid(), block.pool.malloc(10)


def test_blocks_travel_by_reference(pool, processes):
    with processes.Pool(2) as workers:
        blocks = []
        for number in range(20):
            block = pool.malloc(100)
            block.view[:] = b"%03d" % number + b"a" * 97
            blocks.append(block)
        answers = workers.map(upper, blocks)
        assert os.getpid() not in {pid for pid, _ in answers}
    for number, (block, (_, answer)) in enumerate(zip(blocks, answers)):
        assert bytes(block.view) == b"%03d" % number + b"A" * 97
        assert answer.pool is pool and answer.size == 10
        block.free()
        answer.free()
    assert pool.stats().used_count == 0


def double(todo, done):
    for gift in iter(todo.get, None):
        array = gift.take()
        array *= 2
        done.put(array.give())
    done.put(os.getpid())


def test_arrays_are_given_and_taken(pool, processes):
    """Megabytes go there and back in messages of some hundred bytes; none is lost, none is in two hands."""
    todo, done = processes.Queue(), processes.Queue()
    workers = [processes.Process(target=double, args=(todo, done), daemon=True) for _ in range(2)]
    for worker in workers:
        worker.start()
    sums, messages = [], []
    for turn in range(10):
        array = pool.array("f64", (100, 1000))
        array[:] = turn
        gift = array.give()
        messages.append(len(pickle.dumps(gift)))
        todo.put(gift)
        result = done.get(timeout=60).take()
        assert result.shape == (100, 1000)
        sums.append(float(result.sum()))
        result.free()
    for _ in workers:
        todo.put(None)
    assert len({done.get(timeout=60) for _ in workers}) == 2
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert sums == [2 * turn * 100_000 for turn in range(10)] and max(messages) < 300
    pool.check()
    assert pool.stats().used_count == 0


def open_by_pickle(pool, offset):
    same = pool.block(offset, 5)
    same.view[:] = b"child"
    pool.close()
    os._exit(0 if pool.closed else 1)


def test_a_pool_travels_and_the_child_leaves_it_alone(pool, processes):
    block = pool.malloc(5)
    child = processes.Process(target=open_by_pickle, args=(pool, block.offset), daemon=True)
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert bytes(block.view) == b"child" and os.path.exists("/dev/shm/" + pool.name)


def test_who_opens_before_there_is_a_pool_is_told_so(tmp_path):
    name = f"mempool-test-empty-{os.getpid()}"
    for path, visit in ((f"/dev/shm/{name}", lambda: mempool.Pool.open(name)), (tmp_path / "file", None)):
        with open(path, "w"):
            pass
        try:
            with pytest.raises(mempool.NotAPool, match="is empty"):
                visit() if visit else mempool.Pool.file(path)
        finally:
            os.unlink(path)


def test_a_misspelt_option_makes_no_file(tmp_path):
    for size in (None, 1 << 16):
        with pytest.raises(TypeError):
            mempool.Pool.file(tmp_path / "pool", size, max_thread=3)
    assert not os.listdir(tmp_path)


def test_two_makers_of_one_file_agree_on_its_length(tmp_path):
    """One is held up when it has seen that the file is empty. The other may not make it long, and then find it short."""
    code = """
import sys, threading, mempool
from mempool import shared
seen, go, resize = threading.Event(), threading.Event(), shared._resize
def slow(*arguments):
    if not seen.is_set():
        seen.set()
        go.wait(30)
    resize(*arguments)
shared._resize = slow
pools = []
def make(size):
    pools.append(mempool.Pool.file(sys.argv[1], size))
first = threading.Thread(target=make, args=(1 << 16,))
first.start()
seen.wait(30)
second = threading.Thread(target=make, args=(1 << 24,))
second.start()
second.join(0.3)
go.set()
first.join(30), second.join(30)
for pool in pools:
    pool.array("u8", 1000, fill=1)
    pool.check()
print(sorted(pool.created for pool in pools), {pool.id for pool in pools} == {pools[0].id}, {len(pool.memory) for pool in pools})
"""
    assert alone(code, tmp_path / "file") == ("[False, True] True {65536}\n", "")


def test_a_stranger_that_opens_and_ends_leaves_the_pool():
    """Before Python 3.13 the resource tracker of a process that opened a SharedMemory removes it."""
    with mempool.Pool.create(None, 1 << 20) as pool:
        code = """
import sys, mempool
pool = mempool.Pool.open(sys.argv[1])
pool.malloc(5).view[:] = b"hello"
if sys.argv[2] == "close": pool.close()
"""
        for end in ("close", "just end"):
            _, said = alone(code, pool.name, end)
            assert said == ""
            time.sleep(0.1)  # a tracker would work after its process
            mempool.Pool.open(pool.name).close()
        assert pool.stats().used_count == 2


@pytest.mark.parametrize(
    "end", ["pass", "sys.exit(0)", "view = pool.malloc(9).view", "os.kill(os.getpid(), signal.SIGKILL)", "os.fork()"]
)
def test_the_creators_end_removes_the_name(end):
    code = f"""
import mempool, os, signal, sys
pool = mempool.Pool.create(None, 1 << 20)
array = pool.array("u8", 100) if len(sys.argv) > 1 else None
print(pool.name, flush=True)
{end}
"""
    out, said = alone(code, "array", status=-9 if "KILL" in end else 0)
    path = "/dev/shm/" + out.split()[0]
    deadline = time.monotonic() + 30
    while os.path.exists(path) and time.monotonic() < deadline:
        time.sleep(0.01)  # the tracker's work after a kill
    assert not os.path.exists(path)
    assert said == "" or ("KILL" in end and "leaked shared_memory" in said)


def test_a_forks_child_that_ends_normally_does_not_take_the_name():
    code = """
import mempool, os, sys
pool = mempool.Pool.create(None, 1 << 20)
child = os.fork()
if child == 0:
    pool.malloc(100).free()
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
assert os.path.exists("/dev/shm/" + pool.name)
pool.close()
assert not os.path.exists("/dev/shm/" + pool.name)
print("fine")
"""
    assert alone(code) == ("fine\n", "")


CHURN = """
import os, random, sys, mempool
pool = mempool.Pool.open(sys.argv[1])
r, mine, stamp = random.Random(int(sys.argv[2])), [], bytes([int(sys.argv[2]) % 251])
print("begun", flush=True)
while True:
    block = pool.malloc(r.randrange(1, 5000))
    block.view[:] = stamp * len(block)
    mine.append(block)
    if len(mine) > 40:
        old = mine.pop(r.randrange(len(mine)))
        assert bytes(old.view) == stamp * len(old)
        old.free() if r.random() < 0.7 or len(mine) > 60 else mine.append(old.realloc(r.randrange(1, 5000)))
        for block in mine[-1:]:
            block.view[:] = stamp * len(block)
"""


def test_killed_processes_lose_nothing_but_their_own():
    """Processes are killed at work; a witness's blocks keep their bytes, and what the dead left is reaped."""
    rounds = 5 * max(1, int(os.environ.get("MEMPOOL_TEST_SECONDS", "1")))
    with mempool.Pool.create(None, 1 << 23, flags=Flag.OWNER_TAGS) as pool:
        mine = [pool.malloc(3000) for _ in range(50)]
        for number, block in enumerate(mine):
            block.view[:] = bytes([number]) * 3000
        for turn in range(rounds):
            churn = [
                subprocess.Popen(
                    [sys.executable, "-c", CHURN, pool.name, str(2 * turn + n)],
                    env={**os.environ, "PYTHONPATH": str(PYTHON)},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
                for n in range(2)
            ]
            for process in churn:
                assert process.stdout.readline() == b"begun\n"
            time.sleep(0.02 + 0.01 * (turn % 7))
            for process in churn:
                process.send_signal(signal.SIGKILL)
                _, said = process.communicate(timeout=60)
                assert process.returncode == -signal.SIGKILL, said.decode()
            pool.check()
            left = sum(pool.reap(process.pid).freed_count for process in churn)
            assert left > 0
            assert pool.stats().used_count == 50
        assert all(bytes(block.view) == bytes([number]) * 3000 for number, block in enumerate(mine))
        pool.free_all()
        assert pool.stats().available >= pool.stats().total - pool.stats().overhead


def take_and_leave(pool, todo, done):
    pool.label(77)
    block = todo.get().take()
    done.put(pool.owner_of(block))
    time.sleep(600)  # until it is killed


def test_a_gift_changes_its_owner_when_it_is_taken(processes):
    with mempool.Pool.create(None, 1 << 20, flags=Flag.OWNER_TAGS) as pool:
        todo, done = processes.Queue(), processes.Queue()
        child = processes.Process(target=take_and_leave, args=(pool, todo, done), daemon=True)
        child.start()
        block, nobodys, sent = pool.malloc(100), pool.malloc(10), pool.malloc(20)
        offset = block.offset
        pool.abandon(nobodys)
        assert pool.owner_of(block).pid == os.getpid() and pool.owner_of(nobodys) is None
        todo.put(block.give())
        owner = done.get(timeout=60)
        assert (owner.pid, owner.label) == (child.pid, 77)
        assert pool.owner_of(offset) == owner
        with pytest.raises(mempool.Busy):
            pool.reap(child.pid)
        child.kill()
        child.join(60)
        kept = pool.reap(child.pid, lambda info, owner: False)
        assert (kept.kept_count, kept.freed_count) == (1, 0)
        with pytest.raises(ZeroDivisionError):
            pool.reap(child.pid, lambda info, owner: 1 // 0)
        seen = []
        freed = pool.reap(0, lambda info, owner: seen.append((info, owner)) or True)
        assert (freed.freed_count, freed.owners) == (1, 1)
        assert seen[0][0].offset == offset and seen[0][0].state is State.LIVE and seen[0][1].label == 77
        assert sent.live and pool.stats().used_count == 2
        pool.adopt(nobodys)
        assert pool.owner_of(nobodys).pid == os.getpid()


def test_owners_need_a_pool_that_has_them(pool):
    block = pool.malloc(10)
    for call in (lambda: pool.adopt(block), lambda: pool.abandon(block), lambda: pool.owner_of(block), pool.reap):
        with pytest.raises(mempool.InvalidArgument):
            call()
    assert pool.recover() == 0
    taken = block.give().take()  # all the same
    taken.free()


def fill_rows(array, row):
    array[row] = row


def test_workers_write_into_one_array(pool, processes):
    array = pool.array("i64", (8, 1000), fill=0)
    with processes.Pool(2) as workers:
        workers.starmap(fill_rows, [(array, row) for row in range(8)])
    assert (array == np.arange(8)[:, None]).all()
    array.free()
