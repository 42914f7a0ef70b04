"""A block on its way from one process to another."""

from typing import TYPE_CHECKING, Any, Optional, Tuple

from . import errors

if TYPE_CHECKING:
    from .pool import Pool


class Gift:
    """A block, or an array, that its sender has given away and that one receiver will `take`.

    It pickles to a few dozen bytes, whatever the size of what it carries:

    >>> import mempool, pickle
    >>> pool = mempool.Pool.create(None, 1 << 20)
    >>> block = pool.malloc(500_000)
    >>> message = pickle.dumps(block.give())
    >>> len(message) < 300
    True
    >>> block.view                                      # the sender has done with it
    Traceback (most recent call last):
    mempool.errors.NotAllocated: the block at offset ... was given away
    >>> received = pickle.loads(message).take()         # in whatever process
    >>> received.size
    500000
    >>> received.free()
    >>> pool.close()

    Ownership is by word, not by a count: between `give` and `take` nobody may use the block, and who has taken it frees
    it or gives it on. A count in the pool would need an atomic addition on shared memory, which Python has not, and a
    process killed between two counts would leave the block for ever. In a pool with `Flag.OWNER_TAGS` a gift belongs
    to its sender until it is taken, and then to the taker; so `Pool.reap` frees what a dead sender had given and nobody
    had taken, but for what its visitor keeps.
    """

    __slots__ = ("_form", "_offset", "_pool", "_size", "_taken")

    def __init__(self, pool: "Pool", offset: int, size: int, form: Optional[Tuple[Any, Tuple[int, ...]]]) -> None:
        self._pool = pool
        self._offset = offset
        self._size = size
        self._form = form  # type and shape, if it is an array
        self._taken = False

    @property
    def offset(self) -> int:
        return self._offset

    @property
    def size(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return f"<mempool.Gift offset={self._offset} size={self._size}{' taken' if self._taken else ''}>"

    def take(self) -> Any:
        """The Block, or the array, as it was given; from now on it is this process's to free."""
        if self._taken:
            raise errors.NotAllocated(f"the gift at offset {self._offset} has been taken already")
        block = self._pool.block(self._offset, self._size)
        self._pool.adopt_if_owned(block)
        self._taken = True
        return block if self._form is None else block.array(*self._form)

    def __reduce__(self) -> Tuple[Any, ...]:
        if self._taken:
            raise errors.NotAllocated(f"the gift at offset {self._offset} has been taken already")
        return _load, (self._pool.reference(), self._offset, self._size, self._form)


def _load(
    reference: Tuple[Any, ...], offset: int, size: int, form: Optional[Tuple[Any, Tuple[int, ...]]]
) -> Gift:
    from . import shared

    return Gift(shared.find(reference), offset, size, form)
