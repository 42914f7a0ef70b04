"""A block of a pool, as Python holds it."""

import threading
import weakref
from typing import TYPE_CHECKING, Any, List, Optional, Tuple, Union

from . import array as arrays
from . import errors
from .loan import Loan, export
from .slot import Slot

if TYPE_CHECKING:
    from .gift import Gift
    from .pool import Pool


class Block:
    """A block of bytes in a pool.

    There is one Block for each block that this process knows of: asking for the same offset again gives the same
    object. It is a name, not an owner: the block stays when the Block is forgotten, until somebody frees it, for
    others may be using it. `with` frees it at the end:

    >>> import mempool
    >>> pool = mempool.Pool(bytearray(1 << 16))
    >>> with pool.malloc(5) as block:
    ...     block.view[:] = b"hello"
    ...     len(block), bytes(block)
    (5, b'hello')
    >>> block.view
    Traceback (most recent call last):
    mempool.errors.NotAllocated: the block at offset ... was freed

    Views end with the block: those handed out by `view` and `array` raise when touched later. What was made of them
    (slices, other arrays) cannot be ended from here, so the free is refused while such things live:

    >>> block = pool.malloc(100)
    >>> part = block.view[10:20]
    >>> block.free()
    Traceback (most recent call last):
    BufferError: the block at offset ... cannot be freed: views of it are still in use ...
    >>> part.release()
    >>> block.free()
    """

    __slots__ = ("__weakref__", "_end", "_loans", "_lock", "_offset", "_pool", "_size")

    def __init__(self, pool: "Pool", offset: int, size: int) -> None:
        self._pool = pool
        self._offset = offset
        self._size = size
        self._end: Optional[str] = None  # how it ended, in words; None while it lives
        self._loans: List[Any] = []
        self._lock = threading.Lock()

    @property
    def pool(self) -> "Pool":
        return self._pool

    @property
    def offset(self) -> int:
        """Bytes from the buffer's first; the same in every process."""
        return self._offset

    @property
    def size(self) -> int:
        """Bytes, as asked for."""
        return self._size

    @property
    def capacity(self) -> int:
        """Bytes that can be used, with the rounding."""
        return self._pool.usable_size(self)

    @property
    def live(self) -> bool:
        """Whether this process may use it: not freed, moved or given away by it, and the pool is open."""
        return self._end is None and not self._pool.closed

    def __len__(self) -> int:
        return self._size

    def __bool__(self) -> bool:
        return True

    def __bytes__(self) -> bytes:
        return bytes(self.view)

    def __repr__(self) -> str:
        state = self._end or ("live" if self.live else "in a closed pool")
        return f"<mempool.Block offset={self._offset} size={self._size} {state}>"

    @property
    def view(self) -> memoryview:
        """The block's bytes, without a copy."""
        with self._lock:
            self.need_live()
            for loan in self._loans:
                view = loan.view() if isinstance(loan, Loan) else None
                if view is not None and view.format == "B" and view.ndim == 1 and view.nbytes == self._size:
                    return view
            return self._lend()

    def _lend(self) -> memoryview:
        """A new view with an exporter of its own; the caller has the lock."""
        exporter = export(self._pool.memory, self._offset, self._size, self)
        view = memoryview(exporter).cast("B")
        self._remember(Loan(exporter, view))
        return view

    def _remember(self, loan: Any) -> None:
        self._loans = [old for old in self._loans if old.alive()]
        self._loans.append(loan)

    def __buffer__(self, flags: int) -> memoryview:
        """The buffer protocol, from Python 3.12 on: `memoryview(block)`, `numpy.frombuffer(block)`."""
        with self._lock:
            self.need_live()
            return self._lend()

    def array(self, dtype: Any = "u8", shape: Union[None, int, Tuple[int, ...]] = None) -> Any:
        """The block as a typed array without a copy: of numpy, if that is installed, else a cast memoryview.

        Without a shape it is as long as fits.
        """
        self.need_live()
        kind = arrays.Kind(dtype)
        form = (self._size // kind.itemsize,) if shape is None else arrays.shape_of(shape)
        if kind.nbytes(form) > self._size:
            raise ValueError(f"{form} elements of {kind.itemsize} bytes do not fit {self._size} bytes")
        return self.typed(kind, form)

    def slot(self, at: int = 0) -> Slot:
        """The slot at this byte of the block: 8 bytes that name another block, see `Slot`."""
        return Slot(self, at)

    def free(self) -> None:
        """Frees the block; see `Pool.free`."""
        self._pool.free(self)

    def realloc(self, size: int) -> "Block":
        """Makes the block larger or smaller, moving it if need be; see `Pool.realloc`."""
        return self._pool.realloc(self, size)

    def give(self) -> "Gift":
        """Hands the block to whoever takes it; see `Pool.give`."""
        return self._pool.give(self)

    def __enter__(self) -> "Block":
        self.need_live()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.free()

    def __reduce__(self) -> Tuple[Any, ...]:
        """Pickles as the pool's name and an offset: the other process sees the same bytes."""
        self.need_live()
        return _load, (self._pool.reference(), self._offset, self._size)

    # ---- For the package ----------------------------------------------------------------------------------------

    def typed(self, kind: arrays.Kind, shape: Tuple[int, ...]) -> Any:
        """An array of a type and shape that fit."""
        with self._lock:
            self.need_live()
            return arrays.make(self, kind, shape)

    def need_live(self) -> None:
        if self._end is not None:
            raise errors.NotAllocated(f"the block at offset {self._offset} {self._end}")
        self._pool.need_open()

    def settle(self, given: object = None) -> bool:
        """Ends the views that can be ended before it is known whether all can; False if others hold some.

        `given` is the array by which the caller names the block: it may live.
        """
        with self._lock:
            return all([loan.ready(given) for loan in self._loans])

    def claim(self, given: object, verb: str) -> None:
        """Settles, and lets nobody else have a view or end the block until `finish` or `resume`; or BufferError."""
        with self._lock:
            self.need_live()
            if not all([loan.ready(given) for loan in self._loans]):
                raise BufferError(
                    f"the block at offset {self._offset} cannot be {verb}: views of it are still in use "
                    "(slices, casts, arrays made of arrays); delete or release them first"
                )
            self._end = "is being ended by another thread"

    def resume(self) -> None:
        """After a claim that came to nothing: all is as before."""
        self._end = None

    def finish(self, end: Optional[str]) -> None:
        """After settling: arrays lose their memory, and the block ends (or goes on, if `end` is None)."""
        with self._lock:
            loans, self._loans = self._loans, []
            self._end = end
        for loan in loans:
            loan.finish()

    def move(self, offset: int, size: int) -> None:
        self._offset, self._size = offset, size


def _load(reference: Tuple[Any, ...], offset: int, size: int) -> Block:
    """What a pickled block becomes."""
    from . import shared

    return shared.find(reference).block(offset, size)


def weak_table() -> "weakref.WeakValueDictionary[int, Block]":
    return weakref.WeakValueDictionary()
