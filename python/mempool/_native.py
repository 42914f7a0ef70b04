"""The C face by ctypes: the library is found and loaded, and every exported function gets its signature.

Nothing here knows Python's objects: addresses and sizes go in, statuses and addresses come out.
"""

import ctypes
import os
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    c_bool,
    c_char_p,
    c_int,
    c_int32,
    c_size_t,
    c_uint32,
    c_uint64,
    c_void_p,
)
from typing import Any, Dict, Tuple

SONAME = "libmempool.so.0.1"
VERSION = (0, 1)  # major and minor: what this package was written for

Status = c_int32


class Options(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("start", c_size_t),
        ("end", c_size_t),
        ("align", c_size_t),
        ("min_split", c_size_t),
        ("flags", c_uint32),
        ("max_threads", c_uint32),
    ]


class Stats(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("total", c_uint64),
        ("overhead", c_uint64),
        ("used_count", c_uint64),
        ("used_size", c_uint64),
        ("free_count", c_uint64),
        ("free_size", c_uint64),
        ("cached_count", c_uint64),
        ("cached_size", c_uint64),
        ("top", c_uint64),
        ("available", c_uint64),
        ("largest_free", c_uint64),
        ("align", c_uint64),
        ("thread_caches", c_uint64),
        ("max_threads", c_uint64),
        ("rejected_frees", c_uint64),
        ("failed_allocs", c_uint64),
        ("recoveries", c_uint64),
        ("pool_id", c_uint64),
    ]


class Block(Structure):
    _fields_ = [("offset", c_uint64), ("size", c_uint64), ("state", c_uint32), ("reserved", c_uint32)]


class Owner(Structure):
    _fields_ = [("start", c_uint64), ("label", c_uint64), ("pid", c_int32), ("reserved", c_uint32)]


class Reaped(Structure):
    _fields_ = [
        ("owners", c_uint64),
        ("freed_count", c_uint64),
        ("freed_size", c_uint64),
        ("kept_count", c_uint64),
        ("kept_size", c_uint64),
    ]


Visit = CFUNCTYPE(c_bool, POINTER(Block), c_void_p)
ReapVisit = CFUNCTYPE(c_bool, POINTER(Block), POINTER(Owner), c_void_p)
NameVisit = CFUNCTYPE(c_bool, c_char_p, c_uint64, c_void_p)

# The result, then the arguments. A test compares them with the header.
SIGNATURES: Dict[str, Tuple[Any, ...]] = {
    "mempool_init": (Status, c_void_p, c_size_t, POINTER(Options), POINTER(c_void_p)),
    "mempool_attach": (Status, c_void_p, c_size_t, POINTER(Options), POINTER(c_void_p)),
    "mempool_open": (Status, c_void_p, c_size_t, POINTER(Options), POINTER(c_void_p), POINTER(c_bool)),
    "mempool_detach": (Status, c_void_p),
    "mempool_release": (Status, c_void_p),
    "mempool_free": (Status, c_void_p, c_void_p),
    "mempool_free_sized": (Status, c_void_p, c_void_p, c_size_t),
    "mempool_malloc": (c_void_p, c_void_p, c_size_t),
    "mempool_calloc": (c_void_p, c_void_p, c_size_t, c_size_t),
    "mempool_calloc_fill": (c_void_p, c_void_p, c_size_t, c_size_t, c_int),
    "mempool_aligned_alloc": (c_void_p, c_void_p, c_size_t, c_size_t),
    "mempool_realloc": (c_void_p, c_void_p, c_void_p, c_size_t),
    "mempool_realloc_array": (c_void_p, c_void_p, c_void_p, c_size_t, c_size_t),
    "mempool_expand": (Status, c_void_p, c_void_p, c_size_t),
    "mempool_malloc_to": (Status, c_void_p, c_size_t, c_void_p),
    "mempool_calloc_to": (Status, c_void_p, c_size_t, c_size_t, c_void_p),
    "mempool_free_from": (Status, c_void_p, c_void_p),
    "mempool_free_all": (Status, c_void_p),
    "mempool_usable_size": (c_size_t, c_void_p, c_void_p),
    "mempool_good_size": (c_size_t, c_void_p, c_size_t),
    "mempool_offset": (c_uint64, c_void_p, c_void_p),
    "mempool_pointer": (c_void_p, c_void_p, c_uint64),
    "mempool_stats": (Status, c_void_p, POINTER(Stats)),
    "mempool_check": (Status, c_void_p),
    "mempool_walk": (Status, c_void_p, Visit, c_void_p),
    "mempool_inspect": (Status, c_void_p, c_size_t, POINTER(Options), POINTER(Stats), Visit, c_void_p),
    "mempool_peek": (Status, c_void_p, c_size_t, POINTER(c_uint64)),
    "mempool_trim": (Status, c_void_p),
    "mempool_recover": (Status, c_void_p, POINTER(c_uint64)),
    "mempool_reap": (Status, c_void_p, c_int32, ReapVisit, c_void_p, POINTER(Reaped)),
    "mempool_adopt": (Status, c_void_p, c_void_p),
    "mempool_abandon": (Status, c_void_p, c_void_p),
    "mempool_owner_of": (Status, c_void_p, c_void_p, POINTER(Owner)),
    "mempool_label": (Status, c_void_p, c_uint64),
    "mempool_min_len": (c_size_t, POINTER(Options)),
    "mempool_last_error": (Status,),
    "mempool_last_message": (c_char_p,),
    "mempool_strerror": (c_char_p, Status),
    "mempool_version": (c_char_p,),
    "mempool_version_number": (c_uint32,),
    "mempool_set_root": (Status, c_void_p, c_void_p),
    "mempool_root": (c_void_p, c_void_p),
    "mempool_bind": (Status, c_void_p, c_char_p, c_void_p),
    "mempool_find": (c_void_p, c_void_p, c_char_p),
    "mempool_unbind": (Status, c_void_p, c_char_p),
    "mempool_unbind_from": (Status, c_void_p, c_char_p, c_void_p),
    "mempool_names": (Status, c_void_p, NameVisit, c_void_p),
}


def _candidates() -> Tuple[str, ...]:
    """Where the library may be: in a wheel beside this file, where the user says, where cargo builds it."""
    here = os.path.dirname(os.path.abspath(__file__))
    beside = os.path.join(here, SONAME)
    if os.path.exists(beside):
        return (beside,)
    chosen = os.environ.get("MEMPOOL_LIBRARY")
    if chosen:
        return (chosen,)
    return (os.path.join(here, "..", "..", "target", "release", "libmempool.so"), SONAME)


def _load() -> ctypes.CDLL:
    failures = []
    for place in _candidates():
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
        library.mempool_version_number.restype = c_uint32
        number = library.mempool_version_number()
        if (number >> 16, number >> 8 & 255) != VERSION:
            found = f"{number >> 16}.{number >> 8 & 255}.{number & 255}"
            raise ImportError(f"{place} is mempool {found}, this package needs {VERSION[0]}.{VERSION[1]}")
        for name, (result, *arguments) in SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError as error:
        raise ImportError(f"{place} is not the mempool library: {error}") from None
    return library


library = _load()


class _PyBuffer(Structure):
    """CPython's Py_buffer, whose layout has not changed since 3.3: only its address is read."""

    _fields_ = [
        ("buf", c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", c_int),
        ("ndim", c_int),
        ("format", c_char_p),
        ("shape", c_void_p),
        ("strides", c_void_p),
        ("suboffsets", c_void_p),
        ("internal", c_void_p),
    ]


class ReadOnlyAddress:
    """The address and length of any contiguous buffer, read-only ones included, which ctypes has no other way to.

    A context manager: the buffer is held, and so stays mapped, until its end.
    """

    def __init__(self, buffer: Any) -> None:
        self._buffer = buffer
        self._held = _PyBuffer()

    def __enter__(self) -> Tuple[int, int]:
        get = ctypes.pythonapi.PyObject_GetBuffer
        get.argtypes, get.restype = [ctypes.py_object, c_void_p, c_int], c_int
        get(self._buffer, ctypes.addressof(self._held), 0)  # raises by itself
        return self._held.buf or 0, int(self._held.len)

    def __exit__(self, *_: object) -> None:
        release = ctypes.pythonapi.PyBuffer_Release
        release.argtypes, release.restype = [c_void_p], None
        release(ctypes.addressof(self._held))
