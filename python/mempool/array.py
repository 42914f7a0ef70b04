"""Typed arrays over blocks: numpy's where it is installed, cast memoryviews otherwise."""

import operator
from typing import TYPE_CHECKING, Any, Dict, Optional, Tuple, Union

if TYPE_CHECKING:
    from types import ModuleType

    from .block import Block

# The short names, and what `memoryview.cast` calls these types.
FORMATS: Dict[str, str] = {
    "u8": "B",
    "i8": "b",
    "u16": "H",
    "i16": "h",
    "u32": "I",
    "i32": "i",
    "f32": "f",
    "f64": "d",
    "i64": "q",
    "u64": "Q",
}
_SIZES = {"B": 1, "b": 1, "H": 2, "h": 2, "I": 4, "i": 4, "f": 4, "d": 8, "q": 8, "Q": 8}

Shape = Union[int, Tuple[int, ...]]


_numpy_side: "Optional[ModuleType]" = None


def numpy_arrays() -> "Optional[ModuleType]":
    """The module with the numpy side, or None where there is no numpy. It is not imported before it is needed."""
    global _numpy_side
    if _numpy_side is None:
        try:
            from . import ndarray
        except ImportError:
            return None
        _numpy_side = ndarray
    return _numpy_side


def shape_of(shape: Any) -> Tuple[int, ...]:
    try:
        lengths: Tuple[int, ...] = (operator.index(shape),)
    except TypeError:
        lengths = tuple(operator.index(length) for length in shape)
    if not lengths or min(lengths) < 1:
        raise ValueError(f"a pool has no arrays of shape {lengths}: each length must be at least 1")
    return lengths


class Kind:
    """What an array's elements are: one of the short names, or anything that numpy takes for a dtype."""

    __slots__ = ("dtype", "format", "itemsize")

    def __init__(self, dtype: Any) -> None:
        numpy_side = numpy_arrays()
        self.format = FORMATS.get(dtype) if isinstance(dtype, str) else None
        self.dtype: Any = None
        if numpy_side is not None:
            self.dtype = numpy_side.dtype_of(self.format or dtype)
            self.itemsize: int = self.dtype.itemsize
        elif self.format is not None:
            self.itemsize = _SIZES[self.format]
        else:
            raise TypeError(f"{dtype!r} is not one of {', '.join(FORMATS)}; other types need numpy")

    def nbytes(self, shape: Tuple[int, ...]) -> int:
        size = self.itemsize
        for length in shape:
            size *= length
        return size


def make(block: "Block", kind: Kind, shape: Tuple[int, ...]) -> Any:
    """An array over the block's first bytes; the caller has the block's lock."""
    numpy_side = numpy_arrays()
    if numpy_side is not None:
        return numpy_side.make(block, kind.dtype, shape)
    assert kind.format is not None
    exact = kind.nbytes(shape)
    from .loan import Loan, export

    exporter = export(block.pool.memory, block.offset, exact, block)
    view: memoryview = memoryview(exporter).cast("B").cast(kind.format, shape)  # type: ignore[call-overload]
    block._remember(Loan(exporter, view))
    return view


def fill(array: Any, value: Any) -> None:
    """Every element becomes the value."""
    if isinstance(array, memoryview):
        flat = array.cast("B").cast(array.format) if array.ndim > 1 else array  # type: ignore[call-overload]
        for index in range(len(flat)):
            flat[index] = value
    else:
        array[...] = value


def form_of(array: Any) -> Tuple[Any, Tuple[int, ...]]:
    """The type and shape by which `Block.array` makes such an array again."""
    if isinstance(array, memoryview):
        names = {format: name for name, format in FORMATS.items()}
        return names[array.format], tuple(array.shape or ())
    numpy_side = numpy_arrays()
    if numpy_side is None or not array.flags.c_contiguous or numpy_side.place(array) != 0:
        raise ValueError("only a whole array can be given: this one is a part of its block")
    return numpy_side.short_of(array.dtype), array.shape


def block_of(thing: Any) -> "Optional[Block]":
    """The block that an array or a view lies in, if it is one of ours."""
    if isinstance(thing, memoryview):
        return getattr(thing.obj, "keep", None)
    return getattr(thing, "_mempool_block", None)
