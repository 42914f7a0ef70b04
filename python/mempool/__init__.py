"""A heap in any writable buffer, shared by threads and processes.

>>> import mempool
>>> with mempool.Pool.create(None, 1 << 20) as pool:        # in shared memory; others: Pool.open(pool.name)
...     image = pool.array("u8", (480, 640, 3), fill=0) if False else pool.array("u8", 640, fill=0)
...     image[0] = 255
...     pool.free(image)

`Pool` is where to begin.
"""

from . import _native
from .block import Block
from .errors import (
    BufferTooLarge,
    BufferTooSmall,
    Busy,
    Corrupted,
    Error,
    Exists,
    ForeignPointer,
    Incompatible,
    InvalidArgument,
    NotAllocated,
    NotAPool,
    NotFound,
    OutOfMemory,
)
from .gift import Gift
from .inspect import Inspection, inspect
from .pool import Pool
from .slot import Slot
from .stats import BlockInfo, Flag, Owner, Reaped, State, Stats

__all__ = [
    "Block",
    "BlockInfo",
    "BufferTooLarge",
    "BufferTooSmall",
    "Busy",
    "Corrupted",
    "Error",
    "Exists",
    "Flag",
    "ForeignPointer",
    "Gift",
    "Incompatible",
    "Inspection",
    "InvalidArgument",
    "NotAPool",
    "NotAllocated",
    "NotFound",
    "OutOfMemory",
    "Owner",
    "Pool",
    "Reaped",
    "Slot",
    "State",
    "Stats",
    "inspect",
]

__version__: str = _native.library.mempool_version().decode()
