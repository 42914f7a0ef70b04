"""Typed arrays, with numpy and without it."""

import copy
import gc
import os
import pickle
import sys
import textwrap

import numpy as np
import pytest

import mempool
from conftest import alone


TYPES = {
    "u8": np.uint8,
    "i8": np.int8,
    "u16": np.uint16,
    "i16": np.int16,
    "u32": np.uint32,
    "i32": np.int32,
    "f32": np.float32,
    "f64": np.float64,
    "i64": np.int64,
    "u64": np.uint64,
}


@pytest.mark.parametrize("name", TYPES)
def test_every_type_holds_its_extremes(pool, name):
    array = pool.array(name, 100, fill=0)
    assert array.dtype == TYPES[name] and array.shape == (100,) and not array.any()
    info = np.finfo(TYPES[name]) if name[0] == "f" else np.iinfo(TYPES[name])
    array[0], array[99] = info.min, info.max
    assert (array[0], array[99]) == (info.min, info.max)
    assert pool.stats().used_size >= 100 * array.itemsize
    assert bytes(array.block.view[: array.itemsize]) == array[:1].tobytes()  # it lies in the pool
    pool.free(array)
    assert pool.stats().used_count == 0


def test_shapes_and_numpys_own_types(pool):
    image = pool.array("u8", (48, 64, 3), fill=9)
    assert image.shape == (48, 64, 3) and image.sum() == 9 * 48 * 64 * 3 and image.flags.c_contiguous
    record = pool.array([("id", "<u4"), ("weight", "<f8")], 10, fill=0)
    record["weight"][3] = 2.5
    assert record[3]["weight"] == 2.5 and record.block.size == 120
    assert pool.array(np.complex128, np.int64(3)).dtype == complex
    for bad in (object, "O", [("a", object)], "U0"):
        with pytest.raises(TypeError):
            pool.array(bad, 3)
    for shape in (0, (3, 0), (), -1):
        with pytest.raises(ValueError):
            pool.array("u8", shape)
    before = pool.stats().used_count
    with pytest.raises(mempool.OutOfMemory):
        pool.array("f64", 1 << 40)
    with pytest.raises(ValueError):
        pool.array("f64", (1 << 40, 1 << 40))
    with pytest.raises((ValueError, TypeError)):
        pool.array("f64", 10, fill="no number")
    assert pool.stats().used_count == before


def test_a_freed_array_is_empty(pool):
    array = pool.array("f64", 1000)
    block = array.block
    pool.free(array)
    assert array.shape == (0,) and array.block is None and not block.live
    for touch in (lambda: array[0], lambda: array.__setitem__(0, 1.0)):
        with pytest.raises(IndexError):
            touch()
    with pytest.raises(TypeError):
        pool.free(array)  # it is nobody's array now
    with pytest.raises(TypeError):
        pool.free(np.zeros(3))


MADE_OF_ARRAYS = {
    "slice": lambda a: a[10:20],
    "row": lambda a: a.reshape(10, 10)[3],
    "transposed": lambda a: a.reshape(10, 10).T,
    "plain": lambda a: np.asarray(a),
    "plain slice": lambda a: np.asarray(a)[5:],
    "other type": lambda a: np.asarray(a).view(np.uint8),
    "plain of slice": lambda a: np.asarray(a[10:20]),
    "iterator's row": lambda a: next(iter(a.reshape(10, 10))),
}
if sys.version_info >= (3, 12):
    MADE_OF_ARRAYS["memoryview"] = lambda a: memoryview(a)
    MADE_OF_ARRAYS["memoryview of slice"] = lambda a: memoryview(a[10:20])


@pytest.mark.parametrize("how", MADE_OF_ARRAYS)
def test_an_array_does_not_end_under_what_was_made_of_it(pool, how):
    array = pool.array("f64", 100, fill=3)
    made = MADE_OF_ARRAYS[how](array)
    for end in (array.free, array.give, array.block.free, lambda: pool.realloc_array(array, 10_000), pool.close):
        with pytest.raises(BufferError, match="still in use"):
            end()
        assert array.shape == (100,) and array.block.live
    array[:] = 4
    assert bytes(made)[:1] is not None and pool.stats().used_count == 1
    del made
    gc.collect()
    array.free()
    assert pool.stats().used_count == 0


def test_results_are_plain_and_copies_are_free_of_the_pool(pool):
    array = pool.array("f64", 100, fill=3)
    for result in (array + 1, np.sqrt(array), array * array, array.astype("f4")[1:]):
        assert getattr(result, "block", None) is None
        assert result.flags.owndata or result.base is not None
    assert isinstance(array.sum(), float) and array.mean() == 3.0
    for same in (array.copy(), copy.copy(array), copy.deepcopy(array), np.array(array)):
        assert getattr(same, "block", None) is None and same.sum() == 300
    out = np.add(array, 1, out=array)
    assert out is array and array[0] == 4
    array += 1
    assert array[0] == 5 and array.block is not None
    del out
    array.free()


def test_an_array_by_its_reshaped_self(pool):
    image = pool.array("u8", 12, fill=1).reshape(3, 4)
    assert image.block.size == 12
    pool.free(image)
    assert image.shape == (0,) and pool.stats().used_count == 0


def test_realloc_array_keeps_the_elements(pool):
    old = pool.array("u16", 1000)
    old[:] = np.arange(1000)
    pool.array("u8", 1)
    new = pool.realloc_array(old, (500, 10))
    assert old.shape == (0,) and new.shape == (500, 10) and new.dtype == np.uint16
    assert (new.reshape(-1)[:1000] == np.arange(1000)).all()
    small = pool.realloc_array(new, 3)
    assert list(small) == [0, 1, 2] and small.block.size == 6
    with pytest.raises(mempool.OutOfMemory):
        pool.realloc_array(small, 1 << 40)
    assert list(small) == [0, 1, 2]  # as it was
    with pytest.raises(TypeError):
        pool.realloc_array(np.zeros(3), 5)
    with pytest.raises(TypeError):
        pool.realloc_array(small.block, 5)
    stranger = mempool.Pool(bytearray(1 << 16))
    with pytest.raises(mempool.ForeignPointer):
        pool.realloc_array(stranger.array("u8", 10), 20)


def test_closing_the_pool_ends_its_arrays():
    pool = mempool.Pool.create(None, 1 << 20)
    array, kept = pool.array("f64", 1000), pool.array("u8", 5).block
    pool.close()
    assert array.shape == (0,) and not kept.live
    with pytest.raises(IndexError):
        array[0]


def test_pickled_arrays_are_references(pool):
    array = pool.array("f64", (100, 50), fill=1)
    message = pickle.dumps(array)
    assert len(message) < 250
    same = pickle.loads(message)
    same[3, 4] = 17
    assert array[3, 4] == 17 and same.block is array.block
    row = pickle.loads(pickle.dumps(array[3]))  # one stretch of the block: by reference, too
    assert row.block is array.block and row[4] == 17
    row[4] = 18
    assert array[3, 4] == 18
    column = pickle.loads(pickle.dumps(array[:, 4]))  # scattered: like any array, by its elements
    assert getattr(column, "block", None) is None and column[3] == 18
    del same, row, column
    pool.free(array)
    with pytest.raises(mempool.NotAllocated):
        pickle.loads(message)
    nameless = mempool.Pool(bytearray(1 << 16))
    for thing in (nameless.array("u8", 5), nameless.malloc(5), nameless):
        with pytest.raises(TypeError, match="without a name"):
            pickle.dumps(thing)


def test_a_pickle_of_another_pool_of_the_name_is_refused():
    name = f"mempool-test-again-{os.getpid()}"
    with mempool.Pool.create(name, 1 << 16) as pool:
        message = pickle.dumps(pool.malloc(100))
    with pytest.raises(mempool.NotAPool, match="not there any more"):
        pickle.loads(message)
    with mempool.Pool.create(name, 1 << 16) as pool:
        pool.malloc(100)
        with pytest.raises(mempool.NotAPool, match="replaced"):
            pickle.loads(message)


def test_a_gift_is_taken_once_and_ends_the_givers(pool):
    array = pool.array("i32", (10, 10), fill=5)
    gift = pool.give(array)
    assert array.shape == (0,) and "taken" not in repr(gift)
    message = pickle.dumps(gift)
    assert len(message) < 300
    taken = pickle.loads(message).take()
    assert taken.shape == (10, 10) and taken.sum() == 500
    again = taken.give()
    mine = again.take()
    for late in (again.take, lambda: pickle.dumps(again)):
        with pytest.raises(mempool.NotAllocated, match="taken already"):
            late()
    with pytest.raises(ValueError, match="whole array"):
        pool.give(mine[5:])
    gc.collect()
    block = pool.malloc(10).give().take()
    assert isinstance(block, mempool.Block) and block.size == 10
    mine.free()


WITHOUT_NUMPY = textwrap.dedent("""
    import pickle, sys
    sys.modules["numpy"] = None
    import mempool

    pool = mempool.Pool.create(None, 1 << 20)
    array = pool.array("f64", 1000, fill=0.5)
    assert isinstance(array, memoryview) and array.format == "d" and array.tolist() == [0.5] * 1000
    table = pool.array("u16", (3, 4), fill=0)
    table[2, 3] = 65535
    assert table.shape == (3, 4) and table.tolist()[2] == [0, 0, 0, 65535]
    grown = pool.realloc_array(array, 5000)
    assert grown[999] == 0.5 and len(grown) == 5000
    try:
        array[0]
        raise SystemExit("the old array lives")
    except ValueError:
        pass
    part = grown[1:3]
    try:
        pool.free(grown)
        raise SystemExit("freed under a slice")
    except BufferError:
        part.release()
    grown = pool.block([b.offset for b in pool.walk() if b.state == 1 and b.size >= 40000][0], 40000).array("f64")
    taken = pickle.loads(pickle.dumps(pool.give(grown))).take()
    assert taken.format == "d" and taken[999] == 0.5
    pool.free(taken)
    pool.free(table)
    try:
        pool.array("c16", 3)
        raise SystemExit("a type that needs numpy")
    except TypeError as error:
        assert "numpy" in str(error)
    assert pool.stats().used_count == 0
    last = pool.array("u8", 10)
    pool.close()
    try:
        last[0]
        raise SystemExit("alive after the end")
    except ValueError:
        pass
    print("fine")
""")


def test_all_of_it_without_numpy():
    assert alone(WITHOUT_NUMPY)[0] == "fine\n"
