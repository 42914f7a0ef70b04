"""What a pool tells of itself: figures, blocks, owners, as plain immutable values."""

import enum
from dataclasses import dataclass
from typing import NamedTuple

from . import _native


class Flag(enum.IntFlag):
    """The option `flags` of a pool; the C header explains them."""

    NO_COMPACT = 1
    NO_SPLIT = 2
    ZEROED = 4
    NO_THREAD_CACHES = 8
    GUARD = 16
    FILL_FREED = 32
    OWNER_TAGS = 65536


class State(enum.IntEnum):
    """What a run of bytes in the pool is."""

    FREE = 0  # in the heap, for anyone
    LIVE = 1  # a caller holds it
    CACHED = 2  # free, held in a thread cache or the depot
    META = 3  # the pool's own


class BlockInfo(NamedTuple):
    """One block, as `Pool.walk` shows it; the size has its rounding."""

    offset: int
    size: int
    state: State


class Owner(NamedTuple):
    """A process that blocks belong to: its number, its start time (clock ticks since boot), what it named itself."""

    pid: int
    start: int
    label: int


@dataclass(frozen=True)
class Reaped:
    """What `Pool.reap` has done."""

    owners: int
    freed_count: int
    freed_size: int
    kept_count: int
    kept_size: int


@dataclass(frozen=True)
class Stats:
    """A snapshot of a pool's figures: bytes unless it says count."""

    total: int
    overhead: int
    used_count: int
    used_size: int
    free_count: int
    free_size: int
    cached_count: int
    cached_size: int
    top: int
    available: int
    largest_free: int
    align: int
    thread_caches: int
    max_threads: int
    rejected_frees: int
    failed_allocs: int
    recoveries: int
    pool_id: int

    @property
    def fragmentation(self) -> float:
        """The part of the available bytes that the largest malloc could not get: 0.0 is one run, near 1.0 is dust."""
        return 1.0 - min(self.largest_free, self.available) / self.available if self.available else 0.0


def stats_of(raw: _native.Stats) -> Stats:
    return Stats(**{name: getattr(raw, name) for name in Stats.__dataclass_fields__})


def block_info(raw: _native.Block) -> BlockInfo:
    return BlockInfo(raw.offset, raw.size, State(raw.state))


def owner_of(raw: _native.Owner) -> Owner:
    return Owner(raw.pid, raw.start, raw.label)
