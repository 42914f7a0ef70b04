"""Memory that processes find by name, and the pools that this process has in it.

The shared memory is what `multiprocessing.shared_memory.SharedMemory` makes: each opens what the other made, by the
same name. It is not opened *through* that class, because before Python 3.13 every process that opens a SharedMemory
tells its resource tracker to remove it, so that a mere visitor that ends takes the memory from its creator.
"""

import contextlib
import ctypes
import fcntl
import mmap
import os
import secrets
import threading
import weakref
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any, Dict, Iterator, Optional, Tuple, Union

from . import _native, errors

if TYPE_CHECKING:
    from .pool import Pool

_FOLDER = "/dev/shm"

# ("shm" or "file", name or path, pool id, start): how a pickle names a pool.
Reference = Tuple[str, str, int, int]

Path = Union[str, "os.PathLike[str]"]


def path_of(name: str) -> str:
    """Where the system keeps the shared memory of this name."""
    name = name[1:] if name.startswith("/") else name
    if not name or "/" in name or "\0" in name or name in (".", ".."):
        raise ValueError(f"{name!r} is no name for shared memory: it must be one plain word")
    return os.path.join(_FOLDER, name)


class Segment:
    """A mapping of shared memory or of a file. Who created shared memory removes its name again."""

    def __init__(self, kind: str, name: str, fd: int, owned: bool = False) -> None:
        self.kind = kind
        self.name = name
        self._unlink: Optional[weakref.finalize[Any, Any]] = None
        if owned:
            # The tracker removes it if this process is killed; the finalizer when it ends or forgets the pool.
            resource_tracker.register("/" + name, "shared_memory")
            self._unlink = weakref.finalize(self, _unlink, name, os.getpid())
        try:
            length = os.fstat(fd).st_size
            if length == 0:
                raise errors.NotAPool(f"{name} is empty: nobody has made a pool in it yet")
            self.memory = mmap.mmap(fd, length)
        except BaseException:
            self.unlink()
            raise
        finally:
            os.close(fd)

    @property
    def owned(self) -> bool:
        return self._unlink is not None and self._unlink.alive

    def close(self) -> None:
        self.memory.close()

    def unlink(self) -> None:
        """Removes the name, if it is ours to remove; mappings stay."""
        if self._unlink is not None:
            self._unlink()


def _unlink(name: str, creator: int) -> None:
    if os.getpid() != creator:
        return  # a fork's child
    try:
        os.unlink(path_of(name))
    except FileNotFoundError:
        pass
    resource_tracker.unregister("/" + name, "shared_memory")


def create(name: Optional[str], size: int, reserve: bool) -> Segment:
    """New shared memory, zero-filled; FileExistsError if the name is taken."""
    if size <= 0:
        raise ValueError(f"shared memory of {size} bytes cannot be")
    name = f"mempool-{secrets.token_hex(8)}" if name is None else name
    path = path_of(name)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        _resize(fd, size, reserve)
    except BaseException:
        os.close(fd)
        os.unlink(path)
        raise
    return Segment("shm", os.path.basename(path), fd, owned=True)


def open_shared(name: str) -> Segment:
    path = path_of(name)
    return Segment("shm", os.path.basename(path), os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW))


@contextlib.contextmanager
def open_file(path: Path, size: Optional[int], reserve: bool, start: int = 0) -> Iterator[Segment]:
    """The file, made and given its size if it is not there or empty; else as long as it is.

    Where no finished pool is it stays locked for the `with` block, in which whoever makes the pool formats it (flock, as
    mempool.hpp does): another maker could shorten it meanwhile.
    """
    fd = _open_or_make(path) if size is not None else os.open(path, os.O_RDWR | os.O_CLOEXEC)
    locked = False
    try:
        if size is not None and not _is_pool(fd, start):
            fcntl.flock(fd, fcntl.LOCK_EX)
            locked = True
            if os.fstat(fd).st_size == 0:
                _resize(fd, size, reserve)
        yield Segment("file", os.path.abspath(os.fspath(path)), os.dup(fd))
    finally:
        if locked:
            fcntl.flock(fd, fcntl.LOCK_UN)  # by name: the mapping keeps the file open
        os.close(fd)


def _open_or_make(path: Path) -> int:
    """Not by O_CREAT alone: where fs.protected_regular is set that is refused for another user's file, there or not."""
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)


def _is_pool(fd: int, start: int) -> bool:
    """Whether a finished pool begins there, of whose header the first few hundred bytes tell."""
    prefix = os.pread(fd, 1024, start)
    return bool(_native.library.mempool_peek(prefix, len(prefix), ctypes.byref(ctypes.c_uint64())) == 0)


def _resize(fd: int, size: int, reserve: bool) -> None:
    """Sparse, or with every byte reserved: a full file system then says so now, and not by SIGBUS later."""
    if reserve:
        os.posix_fallocate(fd, 0, size)
    else:
        os.ftruncate(fd, size)


# ---- The pools of this process, by name -----------------------------------------------------------------------------

_lock = threading.RLock()
_known: "weakref.WeakValueDictionary[Tuple[str, str, int], Pool]" = weakref.WeakValueDictionary()
# Those that messages have brought here stay open, for there will be more messages.
_visited: "Dict[Tuple[str, str, int], Pool]" = {}

if hasattr(os, "register_at_fork"):
    # A fork while another thread is in `find` must not leave the child a lock that nobody holds.
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def remember(pool: "Pool", kind: str, name: str, start: int) -> None:
    with _lock:
        _known[kind, name, start] = pool


def forget(pool: "Pool") -> None:
    with _lock:
        for table in (_known, _visited):
            for key in [key for key, known in list(table.items()) if known is pool]:
                del table[key]


def find(reference: Reference) -> "Pool":
    """The pool that a pickle names: one that is open here, or else opened now and kept."""
    kind, name, pool_id, start = reference
    with _lock:
        pool = _known.get((kind, name, start))
        if pool is not None and not pool.closed and pool.id == pool_id:
            return pool
        from .pool import Pool

        try:
            pool = Pool.open(name, start=start) if kind == "shm" else Pool.file(name, start=start)
        except (FileNotFoundError, errors.NotAPool) as error:
            raise errors.NotAPool(f"the pool {name!r} that this came from is not there any more: {error}") from error
        if pool.id != pool_id:
            pool.close()
            raise errors.NotAPool(f"the pool {name!r} that this came from has been replaced by another")
        _visited[kind, name, start] = pool
        return pool
