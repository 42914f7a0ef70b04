"""Blocks: what they hold, how they end, and that nothing stale goes unnoticed."""

import pickle
import sys
import threading

import pytest

import mempool
from mempool import Flag


def test_bad_frees_raise_and_change_nothing():
    with mempool.Pool(bytearray(1 << 16)) as pool, mempool.Pool(bytearray(1 << 16)) as stranger:
        block, neighbour = pool.malloc(64), pool.malloc(64)
        neighbour.view[:] = b"n" * 64
        foreign = stranger.malloc(64)

        def refused(thing, kind, counted=1):
            before = vars(pool.stats())
            with pytest.raises(kind) as caught:
                pool.free(thing)
            after = vars(pool.stats())
            assert str(caught.value) and caught.value.status == kind.status
            assert after.pop("rejected_frees") == before.pop("rejected_frees") + counted
            assert after == before
            pool.check()

        offset = block.offset
        refused(offset + 16, mempool.NotAllocated)  # inside a block
        refused(offset + 1, mempool.NotAllocated)  # misaligned
        refused(1, mempool.ForeignPointer)  # the pool's header
        refused(foreign, mempool.ForeignPointer)  # another pool's
        assert foreign.live
        for outside in (0, -16, 1 << 16, 1 << 64):
            refused(outside, mempool.ForeignPointer, counted=0)
        pool.free(block)
        refused(offset, mempool.NotAllocated)  # twice, by its offset
        refused(block, mempool.NotAllocated, counted=0)  # twice, by its Block: known without the library
        assert bytes(neighbour.view) == b"n" * 64
        for nonsense in (None, "block", b"bytes", memoryview(b"bytes"), 1.5):
            with pytest.raises(TypeError):
                pool.free(nonsense)


def test_sizes_are_checked_here_and_there():
    with mempool.Pool(bytearray(4096)) as pool:
        for size in (5000, sys.maxsize, 2 * sys.maxsize + 1):
            with pytest.raises(MemoryError) as caught:
                pool.malloc(size)
            assert isinstance(caught.value, mempool.OutOfMemory) and str(size) in str(caught.value)
        for size in (-1, 1 << 64):  # ctypes alone would make these 2**64 - 1 and 0
            with pytest.raises(ValueError):
                pool.malloc(size)
        with pytest.raises(mempool.InvalidArgument):
            pool.malloc(0)
        with pytest.raises(TypeError):
            pool.malloc(1.5)
        with pytest.raises(mempool.OutOfMemory):
            pool.calloc(1 << 40, 1 << 40)
        pool.check()


def test_calloc_fills_and_aligned_alloc_aligns(pool):
    dirty = pool.malloc(1000)
    dirty.view[:] = b"d" * 1000
    dirty.free()
    assert bytes(pool.calloc(10, 100).view) == bytes(1000)
    assert bytes(pool.calloc(1000, fill=7)) == b"\7" * 1000
    assert pool.address(pool.aligned_alloc(4096, 10)) % 4096 == 0
    with pytest.raises(mempool.InvalidArgument):
        pool.aligned_alloc(24, 10)
    with pytest.raises(ValueError):
        pool.calloc(10, fill=256)


def test_a_view_ends_with_its_block(pool):
    block = pool.malloc(20)
    assert (len(block), len(block.view), block.capacity) == (20, 20, 32)
    view = block.view
    assert block.view is view  # asked for again it is the same
    view.release()
    assert block.view is not view  # but not a dead one
    view = block.view
    block.free()
    with pytest.raises(ValueError):
        view[0]
    for call in (lambda: block.view, block.free, block.give, lambda: block.realloc(5), lambda: pickle.dumps(block)):
        with pytest.raises(mempool.NotAllocated, match="was freed"):
            call()
    assert not block.live and "freed" in repr(block)


@pytest.mark.parametrize("end", ["free", "give", "realloc"])
def test_a_block_does_not_end_under_what_was_made_of_its_views(pool, end):
    block = pool.malloc(100)
    block.view[:] = b"x" * 100
    for make in (lambda: block.view[10:20], lambda: block.view.cast("H"), lambda: memoryview(block.view)):
        made = make()
        before = pool.stats().used_count
        with pytest.raises(BufferError, match="still in use"):
            block.realloc(5000) if end == "realloc" else getattr(block, end)()
        assert block.live and pool.stats().used_count == before
        assert bytes(made)[:1] == b"x"
        made.release()
    block.realloc(5000) if end == "realloc" else getattr(block, end)()


def test_with_frees(pool):
    with pool.malloc(10) as block:
        assert pool.stats().used_count == 1
    assert pool.stats().used_count == 0
    with pool.malloc(10) as block:
        block.free()  # before its time is fine
    with pytest.raises(mempool.NotAllocated), block:
        pass


def test_a_forgotten_block_stays(pool):
    offset = pool.malloc(10).offset
    assert pool.stats().used_count == 1
    block = pool.block(offset)
    assert block is pool.block(offset)
    assert block.size == 16  # nobody knows what was asked for
    view = pool.malloc(5).view  # a view keeps its block known
    view[:] = b"alone"
    pool.free(view)
    pool.free(offset)
    assert pool.stats().used_count == 0


def test_realloc_moves_the_block_and_its_bytes(pool):
    walls = [pool.malloc(1000) for _ in range(3)]
    block = walls.pop(1)  # between the others, so that it cannot grow where it is
    block.view[:] = bytes(range(250)) * 4
    old, view = block.offset, block.view
    assert block.realloc(100_000) is block and block.offset != old
    assert bytes(block.view[:1000]) == bytes(range(250)) * 4
    with pytest.raises(ValueError):
        view[0]
    with pytest.raises(mempool.NotAllocated):
        pool.block(old)
    assert pool.block(block.offset) is block
    with pytest.raises(mempool.OutOfMemory):
        block.realloc(1 << 30)
    assert block.live and bytes(block.view[:3]) == b"\0\1\2"
    with pytest.raises(mempool.InvalidArgument):
        block.realloc(0)
    block.realloc(10)
    assert (len(block), bytes(block)) == (10, bytes(range(10)))
    assert pool.realloc(None, 5).size == 5


def test_expand_stays_where_it_is():
    with mempool.Pool(bytearray(1 << 16), flags=Flag.NO_THREAD_CACHES) as pool:
        block = pool.malloc(100)
        view, offset = block.view, block.offset
        pool.expand(block, 1000)
        assert (block.offset, block.size, len(view), len(block.view)) == (offset, 1000, 100, 1000)
        pool.malloc(10)
        with pytest.raises(mempool.OutOfMemory):
            pool.expand(block, 20_000)
        view[0] = 1


def test_the_buffer_protocol(pool):
    block = pool.malloc(5)
    block.view[:] = b"12345"
    assert bytes(block) == b"12345"
    if sys.version_info < (3, 12):
        with pytest.raises(TypeError):
            memoryview(block)
        return
    view = memoryview(block)
    part = view[1:2]
    view.release()
    with pytest.raises(BufferError):
        block.free()
    part.release()
    block.free()
    with pytest.raises((mempool.NotAllocated, BufferError)):
        memoryview(block)


def test_a_block_that_another_handle_freed_is_known_when_its_place_is_given_again():
    buffer = bytearray(1 << 16)
    with mempool.Pool(buffer) as pool, mempool.Pool.attach(buffer) as other:
        block = pool.malloc(64)
        other.free(block.offset)
        again = pool.malloc(64)
        assert again.offset == block.offset and again is not block
        with pytest.raises(mempool.NotAllocated, match="freed by another"):
            block.free()
        again.free()


@pytest.fixture
def restless():
    """Threads take turns as often as the interpreter can."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


def test_many_threads_free_each_block_once(pool, restless):
    """Each of four threads tries to free the same blocks: each block goes once, whoever is first."""
    for _ in range(5):
        blocks = [pool.malloc(64) for _ in range(1000)]
        freed, barrier = [], threading.Barrier(4)

        def work(blocks=blocks, freed=freed, barrier=barrier):
            barrier.wait()
            for block in blocks:
                try:
                    block.free()
                    freed.append(block)
                except mempool.NotAllocated:
                    pass

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(freed) == len(set(map(id, freed))) == 1000
        assert pool.stats().used_count == 0 and pool.stats().rejected_frees == 0


def test_threads_churn(pool, restless):
    """Four threads, blocks with stamps: no byte of one gets into another's."""
    wrong = []

    def work(number):
        mine = []
        for turn in range(400):
            block = pool.malloc(1 + (turn * 37 + number * 91) % 3000)
            block.view[:] = bytes([number]) * len(block)
            mine.append(block)
            if len(mine) > 20:
                old = mine.pop(turn % 20)
                if bytes(old.view) != bytes([number]) * len(old):
                    wrong.append(old)
                old.free()
        for block in mine:
            block.free()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and pool.stats().used_count == 0


def test_slots_link_blocks_in_one_event(pool):
    shelf = pool.calloc(10, 8)
    slot = shelf.slot(16)
    assert (slot.offset, slot.block) == (0, None)
    book = slot.malloc(300)
    assert slot.block is book and slot.offset == book.offset and len(book) == 300
    with pytest.raises(mempool.Exists):
        slot.malloc(10)
    nested = slot.block.slot(0)
    assert isinstance(nested, mempool.Slot)
    part = book.view[3:5]
    with pytest.raises(BufferError):
        slot.free()
    part.release()
    slot.free()
    assert slot.offset == 0 and not book.live
    slot.free()  # an empty one is fine
    assert bytes(pool.calloc_to(4, 8, shelf.offset + 24).view) == bytes(32)  # by offset too
    pool.free_from(shelf.offset + 24)
    for bad in (-8, 4, 80, 73):
        with pytest.raises(ValueError):
            shelf.slot(bad)
    with pytest.raises(mempool.NotAllocated):
        pool.malloc_to(10, shelf.offset + 96)  # behind the block
    shelf.free()
    with pytest.raises(mempool.NotAllocated):
        slot.malloc(10)


def test_names_and_the_root(pool):
    table = pool.malloc(100)
    assert pool.root is None and pool.find("table") is None and pool.names() == {}
    pool.root = table
    assert pool.root is table
    with pytest.raises(mempool.Busy):
        table.free()
    assert table.live
    pool.root = None
    pool.bind("täble", table)
    with mempool.Pool.open(pool.name) as other:
        assert other.find("täble").offset == table.offset
        assert other.names() == {"täble": table.offset}
    with pytest.raises(mempool.Exists):
        pool.bind("täble", pool.malloc(1))
    with pytest.raises(mempool.Busy):
        pool.free(table)
    with pool.malloc(1) as other, pytest.raises(mempool.NotFound):
        pool.unbind("täble", other)
    pool.unbind("täble")
    with pytest.raises(mempool.NotFound):
        pool.unbind("täble")
    for bad in ("", "x" * 256, "a\0b"):
        with pytest.raises(ValueError):
            pool.bind(bad, table)
    table.free()
