"""The ctypes loader against the real library, in this process and in a second one."""

import array
import ctypes.util
import gc
import multiprocessing
import os
import subprocess
import sys
from multiprocessing.shared_memory import SharedMemory

import pytest

import mempool

# What the C header says; the module itself only carries the library's number along.
OUT_OF_MEMORY, FOREIGN_POINTER, NOT_ALLOCATED, NOT_A_POOL, BUFFER_TOO_SMALL, CORRUPTED = -6, -7, -8, -4, -2, -9


@pytest.fixture
def shared():
    memory = SharedMemory(create=True, size=1 << 20)
    yield memory
    memory.close()  # BufferError if a pool or a view still holds it
    memory.unlink()


def test_pool_in_a_bytearray():
    buffer = bytearray(1 << 16)
    with mempool.Pool.init(buffer) as pool:
        before = pool.stats()
        block = pool.malloc(11)
        pool.view(block, 11)[:] = b"hello world"
        assert bytes(buffer[block : block + 11]) == b"hello world"  # an offset counts from the buffer's first byte
        stats = pool.stats()
        assert stats["total"] == 1 << 16
        assert stats["align"] == 16
        assert (stats["used_count"], stats["used_size"]) == (1, 16)
        assert stats["pool_id"] == before["pool_id"] != 0
        assert stats["total"] == sum(
            stats[part] for part in ("overhead", "used_size", "free_size", "cached_size")
        ) + len(buffer) - stats["top"]
        pool.check()
        pool.free(block)
        assert pool.stats()["available"] == before["available"]
        assert pool.stats()["used_count"] == 0


def test_attach_sees_what_another_handle_wrote():
    buffer = bytearray(1 << 16)
    with mempool.Pool.init(buffer) as first, mempool.Pool.attach(buffer) as second:
        block = first.malloc(100)
        first.view(block)[:4] = b"abcd"
        assert bytes(second.view(block)[:4]) == b"abcd"
        second.free(block)
        assert first.stats()["used_count"] == 0


def test_a_freed_block_stays_with_its_thread_until_detach(shared):
    with mempool.Pool.init(shared.buf) as pool:
        fresh = pool.stats()
        assert fresh["max_threads"] > 0
        pool.free(pool.malloc(100))
        stats = pool.stats()
        assert (stats["used_count"], stats["thread_caches"]) == (0, 1)
        assert stats["cached_count"] > 0
        assert stats["available"] == fresh["available"]
        pool.check()
    with mempool.Pool.attach(shared.buf) as pool:
        stats = pool.stats()
        assert (stats["used_count"], stats["thread_caches"]) == (0, 0)
        assert stats["available"] == fresh["available"]
    with mempool.Pool.init(shared.buf, max_threads=3) as pool:
        assert pool.stats()["max_threads"] == 3
    with mempool.Pool.init(shared.buf, flags=8) as pool:  # MEMPOOL_NO_THREAD_CACHES
        assert pool.stats()["max_threads"] == 0


def test_start_leaves_the_bytes_before_it_alone():
    buffer = bytearray(b"\xaa" * 8192)
    with mempool.Pool.init(buffer, start=1000) as pool:
        block = pool.malloc(64)
        assert block >= 1000
        pool.view(block)[:] = bytes(64)
    assert buffer[:1000] == b"\xaa" * 1000
    with mempool.Pool.attach(buffer, start=1000) as pool:
        pool.free(block)
        pool.check()


def test_bad_frees_raise_and_change_nothing():
    with mempool.Pool.init(bytearray(1 << 16)) as pool:
        block, neighbour = pool.malloc(64), pool.malloc(64)
        pool.view(neighbour)[:] = b"n" * 64

        def refused(offset, status):
            before = pool.stats()
            with pytest.raises(mempool.Error) as caught:
                pool.free(offset)
            after = pool.stats()
            assert caught.value.status == status
            assert str(caught.value)
            assert after.pop("rejected_frees") == before.pop("rejected_frees") + 1
            assert after == before
            pool.check()

        refused(block + 16, NOT_ALLOCATED)  # inside a block
        refused(block + 1, NOT_ALLOCATED)  # misaligned
        refused(1, FOREIGN_POINTER)  # the pool's header
        pool.free(block)
        refused(block, NOT_ALLOCATED)  # twice
        assert bytes(pool.view(neighbour)) == b"n" * 64
        for outside in (0, -16, 1 << 16, 1 << 64):
            with pytest.raises(ValueError):
                pool.free(outside)


def test_views_stay_inside_their_block():
    with mempool.Pool.init(bytearray(1 << 16)) as pool:
        block = pool.malloc(20)
        assert len(pool.view(block, 20)) == 20
        assert len(pool.view(block)) == 32  # with the rounding to the alignment
        for size in (33, -1):
            with pytest.raises(ValueError):
                pool.view(block, size)
        pool.free(block)
        with pytest.raises(ValueError):
            pool.view(block)


def test_out_of_memory_is_a_memory_error_with_the_librarys_words():
    with mempool.Pool.init(bytearray(4096)) as pool:
        for size in (5000, sys.maxsize, 2 * sys.maxsize + 1):
            with pytest.raises(MemoryError) as caught:
                pool.malloc(size)
            assert caught.value.status == OUT_OF_MEMORY
            assert str(size) in str(caught.value)
        for size in (-1, 1 << 64):  # ctypes alone would make these 2**64 - 1 and 0
            with pytest.raises(ValueError):
                pool.malloc(size)
        with pytest.raises(mempool.Error):
            pool.malloc(0)
        pool.check()


def test_what_is_no_pool_is_refused_and_the_buffer_let_go():
    buffer = bytearray(4096)
    with pytest.raises(mempool.Error) as caught:
        mempool.Pool.attach(buffer)
    assert caught.value.status == NOT_A_POOL
    buffer.append(0)  # BufferError if anything still held it
    tiny = bytearray(16)
    with pytest.raises(mempool.Error) as caught:
        mempool.Pool.init(tiny)
    assert caught.value.status == BUFFER_TOO_SMALL
    tiny.append(0)
    with pytest.raises(mempool.Error):
        mempool.Pool.init(bytearray(4096), align=24)
    with pytest.raises(TypeError):
        mempool.Pool.init(bytes(4096))  # read-only


def test_detach_lets_the_buffer_go_and_ends_the_handle():
    buffer = bytearray(4096)
    pool = mempool.Pool.init(buffer)
    block = pool.malloc(16)
    with pytest.raises(BufferError):
        buffer.append(0)
    pool.detach()
    pool.detach()
    buffer.append(0)
    with pytest.raises(ValueError):
        pool.malloc(16)
    with mempool.Pool.attach(buffer) as again:  # the pool and its blocks stay; the buffer may have grown
        again.free(block)
    forgotten = mempool.Pool.attach(buffer)
    del forgotten
    gc.collect()
    buffer.append(0)


def test_any_writable_buffer_will_do():
    words = array.array("Q", bytes(8192))
    with mempool.Pool.init(words) as pool:  # bytes count, not items
        assert pool.stats()["total"] == 8192
        pool.free(pool.malloc(4000))
        pool.check()


def test_damage_is_named():
    buffer = bytearray(1 << 16)
    with mempool.Pool.init(buffer) as pool:
        pool.malloc(64)
        first = pool.malloc(64)
        with memoryview(buffer) as raw:
            raw[: first - 64] = b"\x5a" * (first - 64)  # header and map
        with pytest.raises(mempool.Error) as caught:
            pool.check()
        assert caught.value.status in (CORRUPTED, NOT_A_POOL)


def second_process(name, block, answers):
    """Runs in a fresh interpreter: reads what the first process wrote, frees it, answers with a block of its own."""
    memory = SharedMemory(name)
    with mempool.Pool.attach(memory.buf) as pool:
        with pool.view(block, 21) as view:
            text = bytes(view)
        pool.free(block)
        answer = pool.malloc(len(text))
        with pool.view(answer, len(text)) as view:
            view[:] = text.upper()
        pool.check()
    memory.close()
    answers.put((os.getpid(), text, answer))


def test_a_second_process_reads_what_the_first_wrote(shared):
    # A spawned child shares our resource tracker, which counts a name once: it does not unlink the memory when the
    # child ends. (A process that is no child must say track=False from Python 3.13 on, unregister before.)
    spawn = multiprocessing.get_context("spawn")
    answers = spawn.Queue()
    with mempool.Pool.init(shared.buf) as pool:
        whole = pool.stats()["available"]
        block = pool.malloc(21)
        with pool.view(block, 21) as view:
            view[:] = b"written by the parent"
        child = spawn.Process(target=second_process, args=(shared.name, block, answers))
        child.start()
        pid, text, answer = answers.get(timeout=60)
        child.join(60)
        assert child.exitcode == 0
        assert pid != os.getpid()
        assert text == b"written by the parent"
        with pool.view(answer, 21) as view:
            assert bytes(view) == b"WRITTEN BY THE PARENT"
        assert pool.stats()["used_count"] == 1
        pool.free(answer)
        pool.check()
        assert pool.stats()["used_count"] == 0
        assert pool.stats()["available"] == whole


def test_shared_memory_closes_after_detach(shared):
    pool = mempool.Pool.init(shared.buf)
    with pytest.raises(BufferError):
        shared.close()
    block = pool.malloc(16)  # the mapping is still there, for the pool holds it
    view = pool.view(block)
    pool.detach()
    with pytest.raises(BufferError):
        shared.close()  # a view holds it as well
    view.release()
    shared.close()


@pytest.mark.parametrize(
    "place, words",
    [("/nonexistent/libmempool.so", "nonexistent"), (ctypes.util.find_library("c"), "not the mempool library")],
)
def test_a_wrong_library_is_refused(place, words):
    run = subprocess.run(
        [sys.executable, "-c", "import mempool"],
        env={**os.environ, "MEMPOOL_LIBRARY": place, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    assert run.returncode == 1
    assert "ImportError" in run.stderr and words in run.stderr
