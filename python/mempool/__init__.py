"""A heap in any writable buffer, shared by threads and processes.

    from multiprocessing.shared_memory import SharedMemory
    import mempool

    memory = SharedMemory(create=True, size=1 << 20)
    with mempool.Pool.init(memory.buf) as pool:
        block = pool.malloc(5)                  # an offset: it means the same in every process
        pool.view(block, 5)[:] = b"hello"       # the block's bytes, no copy

    # elsewhere: mempool.Pool.attach(SharedMemory(name).buf)

The native library is found through the environment variable MEMPOOL_LIBRARY (a file), next to this module, in the
checkout's target/release, or by the system's loader, in that order.
"""

import ctypes
import os
from ctypes import POINTER, Structure, byref, c_char, c_char_p, c_int32, c_size_t, c_uint32, c_uint64, c_void_p

__all__ = ["Error", "OutOfMemory", "Pool"]

_SONAME = "libmempool.so.0.1"
_VERSION = (0, 1)  # major and minor: what this module was written for

_OK = 0
_OUT_OF_MEMORY = -6


class Error(Exception):
    """A call failed; `status` is the library's status, the text its message."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


class OutOfMemory(Error, MemoryError):
    """No free run of the pool fits."""


class _Options(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("start", c_size_t),
        ("end", c_size_t),
        ("align", c_size_t),
        ("min_split", c_size_t),
        ("flags", c_uint32),
        ("max_threads", c_uint32),
    ]


class _Stats(Structure):
    _fields_ = [("struct_size", c_size_t)] + [
        (name, c_uint64)
        for name in (
            "total overhead used_count used_size free_count free_size cached_count cached_size top available "
            "largest_free align thread_caches max_threads rejected_frees failed_allocs recoveries pool_id"
        ).split()
    ]


_SIGNATURES = {
    "mempool_init": (c_int32, c_void_p, c_size_t, POINTER(_Options), POINTER(c_void_p)),
    "mempool_attach": (c_int32, c_void_p, c_size_t, POINTER(_Options), POINTER(c_void_p)),
    "mempool_detach": (c_int32, c_void_p),
    "mempool_malloc": (c_void_p, c_void_p, c_size_t),
    "mempool_free": (c_int32, c_void_p, c_void_p),
    "mempool_usable_size": (c_size_t, c_void_p, c_void_p),
    "mempool_offset": (c_uint64, c_void_p, c_void_p),
    "mempool_stats": (c_int32, c_void_p, POINTER(_Stats)),
    "mempool_check": (c_int32, c_void_p),
    "mempool_last_error": (c_int32,),
    "mempool_last_message": (c_char_p,),
    "mempool_version": (c_char_p,),
    "mempool_version_number": (c_uint32,),
}


def _load():
    """The native library, with the signatures of what this module calls."""
    here = os.path.dirname(os.path.abspath(__file__))
    chosen = os.environ.get("MEMPOOL_LIBRARY")
    places = [chosen] if chosen else [
        os.path.join(here, _SONAME),
        os.path.join(here, "..", "..", "target", "release", "libmempool.so"),
        _SONAME,
    ]
    failures = []
    for place in places:
        try:
            library = ctypes.CDLL(place)
            break
        except OSError as error:
            failures.append(str(error))
    else:
        raise ImportError(
            "the native mempool library was not found (set MEMPOOL_LIBRARY to its file): " + "; ".join(failures)
        )
    try:
        for name, (result, *arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError as error:
        raise ImportError(f"{place} is not the mempool library: {error}") from None
    number = library.mempool_version_number()
    if (number >> 16, number >> 8 & 255) != _VERSION:
        found = library.mempool_version().decode()
        raise ImportError(f"{place} is mempool {found}, this module needs {_VERSION[0]}.{_VERSION[1]}")
    return library


_library = _load()


def _failure():
    """The exception for this thread's last failing call."""
    status = _library.mempool_last_error()
    message = (_library.mempool_last_message() or b"").decode()
    return (OutOfMemory if status == _OUT_OF_MEMORY else Error)(status, message)


def _need(status):
    if status != _OK:
        raise _failure()


def _exact(kind, value):
    """The value, if this C type can hold it: ctypes would cut it to fit without a word."""
    if kind(value).value != value:
        raise ValueError(f"{value} does not fit {kind.__name__}")
    return value


def _options(**values):
    kinds = dict(_Options._fields_)
    return _Options(ctypes.sizeof(_Options), **{name: _exact(kinds[name], value) for name, value in values.items()})


class Pool:
    """A pool in a writable buffer: `Pool.init` formats one, `Pool.attach` opens what is there.

    The pool holds the buffer (its exporter cannot be resized or closed) until `detach`, which a `with` block calls.
    Blocks are named by their offsets in the buffer; a view keeps holding the buffer for as long as it lives.
    All methods but `detach` may be called by any thread at any time.
    """

    _handle = None

    def __init__(self, function, buffer, options):
        with memoryview(buffer) as given:
            self._memory = given.cast("B")
        handle = c_void_p()
        array = None
        try:
            array = (c_char * len(self._memory)).from_buffer(self._memory)  # TypeError if it is read-only
            _need(function(array, len(self._memory), byref(options), byref(handle)))
        except BaseException:
            del array  # it holds the memory view, and the exception would keep it alive through this frame
            self._memory.release()
            raise
        self._array = array
        self._handle = handle

    @classmethod
    def init(cls, buffer, *, start=0, end=0, align=0, min_split=0, flags=0, max_threads=0):
        """Formats the buffer, whatever it holds, as a new pool. Zeros are the library's defaults."""
        options = _options(
            start=start, end=end, align=align, min_split=min_split, flags=flags, max_threads=max_threads
        )
        return cls(_library.mempool_init, buffer, options)

    @classmethod
    def attach(cls, buffer, *, start=0):
        """Opens the pool that is in the buffer."""
        return cls(_library.mempool_attach, buffer, _options(start=start))

    def malloc(self, size):
        """The offset of a new block of at least `size` bytes (not zeroed). Raises OutOfMemory."""
        block = _library.mempool_malloc(self._live(), _exact(c_size_t, size))
        if not block:
            raise _failure()
        return _library.mempool_offset(self._handle, block)

    def free(self, offset):
        """Frees the block at this offset; anything that is no live block raises Error and changes nothing."""
        _need(_library.mempool_free(self._live(), self._address(offset)))

    def view(self, offset, size=None):
        """A memoryview of the block's first `size` bytes; without a size of all it has, rounding included."""
        room = _library.mempool_usable_size(self._live(), self._address(offset))
        if room == 0:
            raise ValueError(f"no live block at offset {offset}")
        if size is None:
            size = room
        if not 0 <= size <= room:
            raise ValueError(f"the block at offset {offset} has {room} bytes, not {size}")
        return self._memory[offset : offset + size]

    def check(self):
        """Walks and verifies the whole pool; raises Error that says what is damaged and where."""
        _need(_library.mempool_check(self._live()))

    def stats(self):
        """The pool's statistics as a dict; the keys are the fields of the C struct mempool_stats."""
        stats = _Stats(ctypes.sizeof(_Stats))
        _need(_library.mempool_stats(self._live(), byref(stats)))
        return {name: getattr(stats, name) for name, _ in _Stats._fields_ if name != "struct_size"}

    def detach(self):
        """Ends this handle and lets go of the buffer; the pool and its blocks stay. Twice is fine."""
        if self._handle is None:
            return
        handle, self._handle = self._handle, None
        status = _library.mempool_detach(handle)
        error = _failure() if status != _OK else None
        self._array = None  # first: it holds an export of the memory view
        self._memory.release()
        if error:
            raise error

    def _live(self):
        if self._handle is None:
            raise ValueError("the pool is detached")
        return self._handle

    def _address(self, offset):
        """The block pointer for an offset; the library judges it, so it may be nonsense, but not 0 (NULL is free's OK)."""
        if not 0 < offset < len(self._memory):
            raise ValueError(f"offset {offset} lies outside the buffer")
        return ctypes.addressof(self._array) + offset

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.detach()

    def __del__(self):
        self.detach()
