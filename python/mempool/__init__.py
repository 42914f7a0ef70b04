"""A heap in any writable buffer, shared by threads and processes.

>>> import mempool
>>> with mempool.Pool.create(None, 1 << 20) as pool:        # in shared memory; elsewhere: Pool.open(pool.name)
...     numbers = pool.array("f64", 1000, fill=1)           # a numpy array where numpy is, else a memoryview
...     block = pool.malloc(5)                              # bytes: block.view
...     pool.free(numbers)
...     block.free()

`Pool` is where to begin; `Block`, `Gift` and `Slot` are what it gives. `inspect` looks in from outside, and so does
`python -m mempool inspect NAME`.
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
