"""One exception for each status, so that `except` can be as narrow as it likes."""

from typing import Dict, Optional, Type

from . import _native


class Error(Exception):
    """A call failed; `status` is the library's, the text its message."""

    status = 0


class InvalidArgument(Error, ValueError):
    """An argument that no pool could accept: a size of 0, bad options, an overflow."""

    status = -1


class BufferTooSmall(Error, ValueError):
    """The buffer is too short for a pool; see `Pool.min_len`."""

    status = -2


class BufferTooLarge(Error, ValueError):
    """The buffer has more granules than a pool can number; the message says which align would do."""

    status = -3


class NotAPool(Error, ValueError):
    """There is no pool here: never one, released, or its init never finished."""

    status = -4


class Incompatible(Error, ValueError):
    """A pool, but of another layout version, machine, libc or mapping."""

    status = -5


class OutOfMemory(Error, MemoryError):
    """No free run of the pool fits."""

    status = -6


class ForeignPointer(Error, ValueError):
    """Outside the pool's blocks: another pool's or nobody's."""

    status = -7


class NotAllocated(Error, ValueError):
    """No live block: free already, given away, inside a block, misaligned, or the pool's own."""

    status = -8


class Corrupted(Error):
    """The pool's own bytes are damaged; the message says where and what."""

    status = -9


class NotFound(Error, LookupError):
    """No such name, or nobody owns the block."""

    status = -10


class Exists(Error):
    """The name is taken, or the slot not 0."""

    status = -11


class Busy(Error):
    """In use: a bound block, a slot that another changes, a process that lives."""

    status = -12


_BY_STATUS: Dict[int, Type[Error]] = {kind.status: kind for kind in Error.__subclasses__()}


def of(status: int, message: str) -> Error:
    """The exception for a status; one that this package does not know is a plain Error with that status."""
    kind = _BY_STATUS.get(status, Error)
    error = kind(message)
    error.status = status
    return error


def last() -> Error:
    """The exception for this thread's last failing call."""
    message: Optional[bytes] = _native.library.mempool_last_message()
    return of(_native.library.mempool_last_error(), (message or b"").decode(errors="replace"))


def need(status: int) -> None:
    """Raises the library's error unless the status is OK."""
    if status:
        raise last()
