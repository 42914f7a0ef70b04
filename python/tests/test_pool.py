"""Pools over every sort of buffer, their ends, and what they tell."""

import array
import gc
import mmap
import os
import threading
from multiprocessing.shared_memory import SharedMemory

import pytest

import mempool
from mempool import Flag, State


def test_pool_in_a_bytearray():
    buffer = bytearray(1 << 16)
    with mempool.Pool(buffer) as pool:
        before = pool.stats()
        block = pool.malloc(11)
        block.view[:] = b"hello world"
        at = block.offset
        assert bytes(buffer[at : at + 11]) == b"hello world"  # an offset counts from the buffer's first byte
        stats = pool.stats()
        assert (stats.total, stats.align) == (1 << 16, 16)
        assert (stats.used_count, stats.used_size) == (1, 16)
        assert stats.pool_id == before.pool_id == pool.id != 0
        parts = stats.overhead + stats.used_size + stats.free_size + stats.cached_size
        assert stats.total == parts + len(buffer) - stats.top
        pool.check()
        pool.free(block)
        assert pool.stats().available == before.available


@pytest.mark.parametrize("make", [lambda: array.array("Q", bytes(1 << 16)), lambda: mmap.mmap(-1, 1 << 16)])
def test_any_writable_buffer_will_do(make):
    with mempool.Pool(make()) as pool:  # bytes count, not items
        assert pool.stats().total == 1 << 16
        pool.malloc(4000).free()
        pool.check()


def test_attach_sees_what_another_handle_wrote():
    buffer = bytearray(1 << 16)
    with mempool.Pool(buffer) as first, mempool.Pool.attach(buffer) as second:
        block = first.malloc(100)
        block.view[:4] = b"abcd"
        same = second.block(block.offset)
        assert bytes(same.view[:4]) == b"abcd"
        second.free(block)  # another handle's block of the same memory
        assert first.stats().used_count == 0 and not block.live


def test_shared_memory_by_its_own_class():
    memory = SharedMemory(create=True, size=1 << 16)
    try:
        pool = mempool.Pool(memory.buf)
        with pytest.raises(BufferError):
            memory.close()
        view = pool.malloc(16).view
        pool.close()
        with pytest.raises(ValueError):
            view[0]
        with mempool.Pool.open(memory.name) as same:  # what SharedMemory made, we open
            assert same.stats().used_count == 1
    finally:
        memory.close()
        memory.unlink()
    with mempool.Pool.create(None, 1 << 16) as pool:  # what we made, SharedMemory opens
        theirs = SharedMemory(pool.name)
        with mempool.Pool.attach(theirs.buf) as same:
            assert same.id == pool.id
        theirs.close()
        # (Before Python 3.13 opening registered it a second time, which the tracker counts once: nothing to undo.)


def test_create_owns_the_name_and_open_does_not():
    name = f"mempool-test-name-{os.getpid()}"
    with mempool.Pool.create(name, 1 << 16) as pool:
        assert pool.name == name
        with pytest.raises(FileExistsError):
            mempool.Pool.create(name, 1 << 16)
        mempool.Pool.open(pool.name).close()
        assert os.path.exists("/dev/shm/" + name)
    assert not os.path.exists("/dev/shm/" + name)
    with pytest.raises(FileNotFoundError):
        mempool.Pool.open(name)
    forgotten = mempool.Pool.create(name, 1 << 16)
    del forgotten
    gc.collect()
    assert not os.path.exists("/dev/shm/" + name)
    for bad in ("", "a/b", "..", "/"):
        with pytest.raises(ValueError):
            mempool.Pool.create(bad, 1 << 16)
    with pytest.raises(mempool.BufferTooSmall):
        mempool.Pool.create(name, 16)
    with pytest.raises(mempool.InvalidArgument):
        mempool.Pool.create(name, 1 << 16, align=24)
    assert not os.path.exists("/dev/shm/" + name)


def test_a_file_keeps_its_pool(tmp_path):
    path = tmp_path / "pool"
    with pytest.raises(FileNotFoundError):
        mempool.Pool.file(path)
    with mempool.Pool.file(path, 1 << 16, reserve=True) as pool:
        assert pool.created
        pool.malloc(5).view[:] = b"stays"
        offset, name = pool.walk()[0].offset, pool.name
    with mempool.Pool.file(path, 1 << 20) as pool:  # it is there: its length stays
        assert not pool.created and pool.name == name
        assert path.stat().st_size == 1 << 16
        live = [block for block in pool.walk() if block.state is State.LIVE]
        assert bytes(pool.block(live[0].offset, 5).view) == b"stays" and offset
    path.write_bytes(b"x" * 4096)
    for size in (None, 4096):
        with pytest.raises(mempool.NotAPool):
            mempool.Pool.file(path, size)
    assert path.read_bytes() == b"x" * 4096


def test_what_is_no_pool_is_refused_and_the_buffer_let_go():
    buffer = bytearray(4096)
    with pytest.raises(mempool.NotAPool) as caught:
        mempool.Pool.attach(buffer)
    assert caught.value.status == -4 and str(caught.value)
    buffer.append(0)  # BufferError if anything still held it
    with pytest.raises(mempool.InvalidArgument):
        mempool.Pool(bytearray(4096), align=24)
    with pytest.raises(TypeError):
        mempool.Pool(bytes(4096))  # read-only
    for bad in (-1, 1 << 64):
        with pytest.raises(ValueError):
            mempool.Pool(bytearray(4096), start=bad)
    tiny = bytearray(mempool.Pool.min_len() // 2)
    with pytest.raises(mempool.BufferTooSmall):
        mempool.Pool(tiny)
    tiny.append(0)
    with mempool.Pool(bytearray(mempool.Pool.min_len())) as pool:
        pool.malloc(1).free()


def test_options_reach_the_library():
    buffer = bytearray(b"\xaa" * (1 << 20))
    with mempool.Pool(buffer, start=1000, end=600_000, align=64, max_threads=3) as pool:
        stats = pool.stats()
        assert (stats.total, stats.align, stats.max_threads) == (599_000, 64, 3)
        block = pool.malloc(64)
        assert block.offset >= 1000
        block.view[:] = bytes(64)
    assert buffer[:1000] == b"\xaa" * 1000 and buffer[600_000:] == b"\xaa" * (len(buffer) - 600_000)
    with mempool.Pool.attach(buffer, start=1000) as pool:
        pool.free(block.offset)
        pool.check()
    with mempool.Pool(buffer, flags=Flag.NO_THREAD_CACHES) as pool:
        assert pool.stats().max_threads == 0


def test_a_closed_pool_says_so_and_the_buffer_is_free():
    buffer = bytearray(1 << 16)
    pool = mempool.Pool(buffer)
    block = pool.malloc(16)
    with pytest.raises(BufferError):
        buffer.append(0)
    pool.close()
    pool.close()
    buffer.append(0)
    assert pool.closed and not block.live
    for call in (lambda: pool.malloc(1), lambda: block.view, block.free, pool.stats, pool.check, pool.walk, pool.trim):
        with pytest.raises(ValueError):
            call()
    with mempool.Pool.attach(buffer) as again:  # the pool and its blocks stay; the buffer may have grown
        again.free(block.offset)
    forgotten = mempool.Pool.attach(buffer)
    del forgotten
    gc.collect()
    buffer.append(0)


def test_close_waits_for_what_was_made_of_views():
    buffer = bytearray(1 << 16)
    pool = mempool.Pool(buffer)
    blocks = [pool.malloc(100) for _ in range(3)]
    view, part = blocks[0].view, blocks[1].view[10:20]
    with pytest.raises(BufferError, match=f"offset {blocks[1].offset} are still in use"):
        pool.close()
    assert not pool.closed
    part[0] = 7  # memory that is still there
    assert blocks[1].view[10] == 7
    part.release()
    blocks[2].view[:] = bytes(100)
    view = blocks[0].view
    pool.close()
    with pytest.raises(ValueError):
        view[0]
    buffer.append(0)


def test_release_ends_the_pool_for_all():
    buffer = bytearray(1 << 16)
    pool, other = mempool.Pool(buffer), mempool.Pool.attach(buffer)
    pool.release()
    assert pool.closed
    with pytest.raises(mempool.NotAPool):
        other.malloc(1)
    other.close()
    with pytest.raises(mempool.NotAPool):
        mempool.Pool.attach(buffer)


def test_ensure_makes_it_once():
    memory = mmap.mmap(-1, 1 << 20)
    made, barrier = [], threading.Barrier(4)

    def first_use():
        barrier.wait()
        made.append(mempool.Pool.ensure(memory))

    threads = [threading.Thread(target=first_use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(pool.created for pool in made) == [False, False, False, True]
    assert len({pool.id for pool in made}) == 1
    for pool in made:
        pool.close()


def test_free_all_ends_every_block(pool):
    blocks = [pool.malloc(50) for _ in range(10)]
    view = blocks[3].view
    pool.free_all()
    assert pool.stats().used_count == 0 and not any(block.live for block in blocks)
    with pytest.raises(ValueError):
        view[0]
    with pytest.raises(mempool.NotAllocated):
        blocks[3].free()


def test_walk_shows_every_byte_above_the_map_and_carries_exceptions(pool):
    blocks = [pool.malloc(1000 * n) for n in range(1, 20)]
    for block in blocks[::2]:
        block.free()
    stats = pool.stats()  # first: it joins what is free
    seen = pool.walk()
    assert all(a.offset + a.size == b.offset for a, b in zip(seen, seen[1:]))
    assert seen[-1].offset + seen[-1].size == stats.top
    live = {info.offset: info.size for info in seen if info.state is State.LIVE}
    assert all(live[block.offset] == block.capacity for block in blocks if block.live)
    for state, count, size in [
        (State.FREE, stats.free_count, stats.free_size),
        (State.CACHED, stats.cached_count, stats.cached_size),
    ]:
        found = [info.size for info in seen if info.state is state]
        assert (len(found), sum(found)) == (count, size)
    looks = []
    pool.walk(lambda info: looks.append(info) or len(looks) < 3)
    assert len(looks) == 3
    with pytest.raises(ZeroDivisionError):
        pool.walk(lambda info: 1 // 0)
    pool.walk(lambda info: pool.free(info.offset) if info.state is State.LIVE else None)  # it may call anything
    assert 0 < pool.stats().used_count + 1 and not any(i.state is State.LIVE and i.offset in live for i in pool.walk())


def test_damage_is_named():
    buffer = bytearray(1 << 16)
    with mempool.Pool(buffer) as pool:
        pool.malloc(64)
        first = pool.malloc(64)
        with memoryview(buffer) as raw:
            raw[: first.offset - 64] = b"\x5a" * (first.offset - 64)  # header and map
        with pytest.raises((mempool.Corrupted, mempool.NotAPool)) as caught:
            pool.check()
        assert str(caught.value)


def test_fragmentation_is_of_what_is_available():
    with mempool.Pool(bytearray(1 << 16), flags=Flag.NO_THREAD_CACHES) as pool:
        assert pool.stats().fragmentation < 0.01
        blocks = []
        with pytest.raises(mempool.OutOfMemory):
            while True:
                blocks.append(pool.malloc(496))
        for block in blocks[::2]:
            block.free()
        assert pool.stats().fragmentation > 0.9
