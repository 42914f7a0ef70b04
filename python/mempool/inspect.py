"""A look at a pool that changes nothing: the memory is mapped for reading only, and no handle is needed."""

import ctypes
import mmap
import os
from ctypes import byref
from dataclasses import dataclass
from typing import Any, List, Tuple

from . import _native, shared
from . import stats as figures
from .pool import run_walk
from .stats import BlockInfo, Stats


@dataclass(frozen=True)
class Inspection:
    """A pool's figures and all its blocks in the order of addresses, as of one moment (nearly, while others work)."""

    stats: Stats
    blocks: List[BlockInfo]

    @property
    def span(self) -> Tuple[int, int]:
        """The offsets between which the pool lies: what is not listed below `top` is the header and the map."""
        end = self.stats.top + self.stats.available - self.stats.free_size - self.stats.cached_size
        return end - self.stats.total, end


def inspect(buffer: Any, *, start: int = 0) -> Inspection:
    """Looks into any buffer that holds a pool, a read-only one too.

    >>> import mempool
    >>> memory = bytearray(1 << 16)
    >>> with mempool.Pool(memory) as pool:
    ...     block = pool.malloc(100)
    >>> seen = mempool.inspect(bytes(memory))
    >>> seen.stats.used_count
    1
    """
    raw = _native.Stats(ctypes.sizeof(_native.Stats))
    options = _native.Options(ctypes.sizeof(_native.Options), start)
    with _native.ReadOnlyAddress(buffer) as (address, length):
        blocks = run_walk(
            lambda callback: _native.library.mempool_inspect(
                address, length, byref(options), byref(raw), callback, None
            )
        )
    return Inspection(figures.stats_of(raw), blocks)


class Target:
    """A file or shared memory, mapped for reading only, to be looked into again and again."""

    def __init__(self, path_or_name: str) -> None:
        path = path_or_name if os.path.exists(path_or_name) else shared.path_of(path_or_name)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._memory = mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
        finally:
            os.close(fd)

    def look(self, start: int = 0) -> Inspection:
        return inspect(self._memory, start=start)

    def __enter__(self) -> "Target":
        return self

    def __exit__(self, *_: object) -> None:
        self._memory.close()
