"""numpy arrays that know their block. Imported only where numpy is.

    array (PoolArray, handed out)  --base-->  root (plain, hidden)  --base-->  memoryview  -->  exporter

Plain views of the array (`numpy.asarray`) get the root as their base, since numpy shortens chains of one type: the
root's reference count, which nobody else raises, tells of them. Slices and reshapes are PoolArrays, which report
themselves in `__array_finalize__`. So it is known whether an array can be ended, and ending it makes it an empty array
with memory of its own: to index it raises IndexError, and there is no way back to the pool's bytes.

What holds an array in other ways cannot be known: a tensor of another framework, `memoryview(array)` before
Python 3.12, a plain view of a slice whose block is freed through that slice.
"""

import sys
import weakref
from typing import TYPE_CHECKING, Any, Callable, Dict, Optional, Tuple

import numpy as np

from .array import FORMATS, Kind
from .loan import export

if TYPE_CHECKING:
    from .block import Block


class PoolArray(np.ndarray):  # type: ignore[type-arg, unused-ignore]
    """A numpy array in a pool; `block` is where. Pickles as the pool's name and an offset while it lies there.

    Results of arithmetic are plain arrays; slices and reshapes lie in the same block.
    """

    _mempool_block: "Optional[Block]" = None
    _mempool_loan: "Optional[ArrayLoan]" = None

    def __array_finalize__(self, parent: Any) -> None:
        if not isinstance(parent, PoolArray) or parent._mempool_block is None:
            return
        base = self.base
        if base is not None and (base is parent or base is parent.base):
            self._mempool_block = parent._mempool_block
            self._mempool_loan = parent._mempool_loan
            if self._mempool_loan is not None:
                self._mempool_loan.add(self)

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        if self is array:
            return array  # an output given by the caller
        return array[()] if return_scalar or array.ndim == 0 else array.view(np.ndarray)

    @property
    def block(self) -> "Optional[Block]":
        """The block it lies in; None for copies and for arrays whose block is gone."""
        return self._mempool_block

    def free(self) -> None:
        """Frees the block; see `Pool.free`."""
        self._need_block().pool.free(self)

    def give(self) -> Any:
        """Hands the array to whoever takes it; see `Pool.give`."""
        return self._need_block().pool.give(self)

    def _need_block(self) -> "Block":
        if self._mempool_block is None:
            raise ValueError("the array lies in no block of a pool (any more)")
        return self._mempool_block

    def __reduce_ex__(self, protocol: Any) -> Any:
        """By reference if it is one stretch of its block; else, like any array, by its elements."""
        block = self._mempool_block
        if block is None or not self.flags.c_contiguous:
            return np.asarray(self).__reduce_ex__(protocol)
        block.need_live()
        reference = block.pool.reference()
        return _load, (reference, block.offset, block.size, place(self), short_of(self.dtype), self.shape)

    if sys.version_info >= (3, 12):

        def __buffer__(self, flags: int) -> memoryview:
            """Buffers are the root's, so that they are known of."""
            loan = self._mempool_loan
            root = loan.root() if loan is not None else None
            if loan is None or root is None or loan.array() is self:
                return memoryview(np.asarray(self))
            # A plain view of a slice would be based on the slice.
            return memoryview(np.ndarray(self.shape, self.dtype, memoryview(root).cast("B"), place(self), self.strides))


class ArrayLoan:
    """An array that was handed out: the counterpart of Loan."""

    def __init__(self, array: PoolArray, exporter: Any) -> None:
        self.array: Callable[[], Optional[PoolArray]] = weakref.ref(array)
        self.root: Callable[[], Any] = weakref.ref(array.base)
        self._exporter: Callable[[], Optional[object]] = weakref.ref(exporter)
        # By identity, since arrays cannot be hashed. A dead one leaves by itself.
        self._derived: "Optional[weakref.WeakValueDictionary[int, PoolArray]]" = None
        self._given: Optional[PoolArray] = None

    def alive(self) -> bool:
        return self._exporter() is not None

    def add(self, derived: PoolArray) -> None:
        if self._derived is None:
            self._derived = weakref.WeakValueDictionary()
        self._derived[id(derived)] = derived

    def ready(self, given: object) -> bool:
        """Whether only the array itself, and the derived one by which the caller names it, looks at the block."""
        self._given = None
        for derived in list(self._derived.values()) if self._derived else ():
            if derived is not given:
                return False
            self._given = derived
        array = self.array()
        if array is None:
            return not self.alive()
        return holders(array) <= HOLDERS

    def finish(self) -> None:
        array, given, self._given = self.array(), self._given, None
        for ended in (given, array):
            if ended is not None:
                ended._mempool_block = ended._mempool_loan = None
                np.ndarray.__setstate__(ended, (1, (0,), ended.dtype, False, b""))  # type: ignore[arg-type]


def holders(array: PoolArray) -> int:
    """How many references the array's root has, some of which are this function's."""
    root = array.base
    return sys.getrefcount(root)


def _fresh() -> int:
    return holders(np.zeros(1).view(PoolArray))


# What `holders` says when nothing else holds the root: it differs between versions of Python.
HOLDERS = _fresh()


def dtype_of(kind: Any) -> "np.dtype[Any]":
    dtype: "np.dtype[Any]" = np.dtype(kind)
    if dtype.hasobject:
        raise TypeError("Python objects cannot lie in a pool: other processes could not follow their addresses")
    if dtype.itemsize == 0:
        raise TypeError(f"elements of {dtype} have no size")
    return dtype


def make(block: "Block", dtype: "np.dtype[Any]", shape: Tuple[int, ...]) -> PoolArray:
    """An array over the block's first bytes; the caller has the block's lock."""
    size = dtype.itemsize
    for length in shape:
        size *= length
    exporter = export(block.pool.memory, block.offset, size, block)
    root: Any = np.ndarray(shape, dtype, memoryview(exporter).cast("B"))
    array: PoolArray = root.view(PoolArray)
    array._mempool_block = block
    loan = ArrayLoan(array, exporter)
    array._mempool_loan = loan
    block._remember(loan)
    return array


def place(array: PoolArray) -> int:
    """Where in its block an array's first element lies."""
    block = array._need_block()
    address: int = array.__array_interface__["data"][0]
    return address - block.pool.address(block)


def short_of(dtype: "np.dtype[Any]") -> Any:
    """The short name of a type that has one, since it pickles to less."""
    return _SHORT.get(dtype, dtype)


_SHORT: Dict[Any, str] = {np.dtype(format): name for name, format in FORMATS.items()}


def _load(reference: Any, offset: int, size: int, at: int, dtype: Any, shape: Tuple[int, ...]) -> Any:
    """What a pickled array becomes: an array over the same bytes."""
    from . import shared

    block = shared.find(reference).block(offset, size)
    if at == 0:
        return block.array(dtype, shape)
    kind = Kind(dtype)
    return block.array("u8", size)[at : at + kind.nbytes(shape)].view(kind.dtype).reshape(shape)
