"""The pool: the C face with Python's manners."""

import ctypes
import operator
import sys
from ctypes import byref, c_bool, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any, Callable, Dict, List, Optional, Tuple, TypeVar, Union

from . import _native, errors, shared
from . import array as arrays
from . import stats as figures
from .block import Block, weak_table
from .errors import need
from .gift import Gift
from .loan import export
from .slot import Slot
from .stats import BlockInfo, Owner, Reaped, Stats

_library = _native.library
_SIZE_MAX = c_size_t(-1).value
_SelfPool = TypeVar("_SelfPool", bound="Pool")


class Pool:
    """A heap in a writable buffer, for as many threads and processes as like.

    `Pool(buffer)` formats the buffer, whatever it holds, as a new pool; `Pool.attach(buffer)` opens the one that is
    there. `Pool.create(name, size)`, `Pool.open(name)` and `Pool.file(path, size)` bring the buffer along.

    >>> import mempool
    >>> with mempool.Pool(bytearray(1 << 16)) as pool:
    ...     block = pool.malloc(11)
    ...     block.view[:] = b"hello world"
    ...     pool.free(block)
    ...     pool.stats().used_count
    0

    Options, 0 being the library's default: `start` and `end` (the part of the buffer to use), `align` (the granule, a
    power of two), `min_split`, `flags` (see `Flag`), `max_threads` (thread caches at most).

    The pool holds its buffer until `close`, which a `with` block calls. All methods but `close`, `free_all` and
    `release` may be called by any thread at any time. Blocks stay when the pool is closed or the process ends.
    """

    _handle: Optional[int] = None
    _segment: Optional[shared.Segment] = None

    def __init__(
        self,
        buffer: Any,
        *,
        start: int = 0,
        end: int = 0,
        align: int = 0,
        min_split: int = 0,
        flags: int = 0,
        max_threads: int = 0,
    ) -> None:
        options = _options(start, end, align, min_split, flags, max_threads)
        self._map(buffer, start, lambda *where: _library.mempool_init(*where[:2], byref(options), where[2]))

    # ---- Ways to one ------------------------------------------------------------------------------------------------

    @classmethod
    def attach(cls: "type[_SelfPool]", buffer: Any, *, start: int = 0) -> "_SelfPool":
        """Opens the pool that is in a buffer, made by whatever process."""
        pool = cls.__new__(cls)
        options = _options(start)
        pool._map(buffer, start, lambda *where: _library.mempool_attach(*where[:2], byref(options), where[2]))
        return pool

    @classmethod
    def ensure(
        cls: "type[_SelfPool]",
        buffer: Any,
        *,
        start: int = 0,
        end: int = 0,
        align: int = 0,
        min_split: int = 0,
        flags: int = 0,
        max_threads: int = 0,
    ) -> "_SelfPool":
        """The race-free first use of memory that processes share: of many callers exactly one formats zero-filled
        memory, the others attach. `created` says whether it was this one.
        """
        pool = cls.__new__(cls)
        pool._ensure(buffer, start, _options(start, end, align, min_split, flags, max_threads))
        return pool

    def _ensure(self, buffer: Any, start: int, options: _native.Options) -> None:
        created = c_bool()
        self._map(
            buffer, start, lambda *where: _library.mempool_open(*where[:2], byref(options), where[2], byref(created))
        )
        self._created = created.value

    @classmethod
    def create(
        cls: "type[_SelfPool]", name: Optional[str], size: int, *, reserve: bool = False, **options: int
    ) -> "_SelfPool":
        """A pool in new shared memory of this name (None: one is made up), which `SharedMemory(name)` opens as well.

        The name is removed when this pool is closed or forgotten, or this process ends, in whatever way; who has it
        open may go on. `reserve` takes all the memory now, so that it cannot run out later.

        >>> import mempool
        >>> with mempool.Pool.create(None, 1 << 20) as pool:
        ...     with mempool.Pool.open(pool.name) as same:
        ...         same.id == pool.id
        True
        """
        segment = shared.create(name, size, reserve)
        try:
            options["flags"] = options.get("flags", 0) | figures.Flag.ZEROED
            return cls.__new__(cls)._in_segment(segment, lambda pool: Pool.__init__(pool, segment.memory, **options))
        except BaseException:
            segment.unlink()
            raise

    @classmethod
    def open(cls: "type[_SelfPool]", name: str, *, start: int = 0) -> "_SelfPool":
        """The pool in the shared memory of this name, which stays its creator's: ending leaves it where it is."""
        segment = shared.open_shared(name)
        return cls.__new__(cls)._in_segment(segment, lambda pool: pool._attach_segment(segment, start))

    @classmethod
    def file(
        cls: "type[_SelfPool]",
        path: shared.Path,
        size: Optional[int] = None,
        *,
        reserve: bool = False,
        **options: int,
    ) -> "_SelfPool":
        """The pool in a file, which outlives the processes. With a size one is made where there is none (exactly once,
        whoever else tries); a file that is there keeps its own length. `created` tells.
        """
        wanted = _options(**options)

        def enter(pool: "Pool") -> None:
            if size is None:
                pool._attach_segment(segment, wanted.start)
            else:
                pool._ensure(segment.memory, wanted.start, wanted)

        with shared.open_file(path, size, reserve, wanted.start) as segment:
            return cls.__new__(cls)._in_segment(segment, enter)

    def _attach_segment(self, segment: shared.Segment, start: int) -> None:
        options = _options(start)
        self._map(segment.memory, start, lambda *where: _library.mempool_attach(*where[:2], byref(options), where[2]))

    def _in_segment(self: _SelfPool, segment: shared.Segment, enter: "Callable[[_SelfPool], object]") -> _SelfPool:
        try:
            enter(self)
        except BaseException:
            segment.close()
            raise
        self._segment = segment
        shared.remember(self, segment.kind, segment.name, self._start)
        return self

    def _map(self, buffer: Any, start: int, function: Callable[..., int]) -> None:
        """Takes hold of the buffer and calls one of the three functions that make handles."""
        self._created = True
        self._start = start
        self._blocks = weak_table()
        self._owners: Optional[bool] = None  # whether blocks have owners; None: not asked yet
        with memoryview(buffer) as given:
            self._memory = given.cast("B")
        anchor = None
        handle = c_void_p()
        try:
            if self._memory.readonly:
                raise TypeError("a pool needs a buffer that can be written")
            anchor = export(self._memory, 0, len(self._memory), None)
            need(function(ctypes.addressof(anchor), len(self._memory), byref(handle)))
        except BaseException:
            del anchor  # it holds the memory view, and the exception would keep it alive through this frame
            self._memory.release()
            raise
        self._anchor: Any = anchor
        self._base = ctypes.addressof(anchor)
        self._handle = handle.value
        self._id = self.stats().pool_id

    # ---- The end ----------------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        return self._handle is None

    def close(self) -> None:
        """Ends this process's use of the pool, lets go of the buffer, and removes the name if `create` made it.

        Views and arrays handed out end: they raise when touched later. If anything made of them (slices, casts) is
        still in use this raises BufferError instead, and the pool stays open. Twice is fine.

        >>> import mempool
        >>> pool = mempool.Pool(bytearray(1 << 16))
        >>> part = pool.malloc(100).view[10:20]
        >>> pool.close()
        Traceback (most recent call last):
        BufferError: the pool cannot be closed: views of the block at offset ... are still in use ...
        >>> part.release()
        >>> pool.close()
        """
        if self._handle is None:
            return
        blocks = self._settle("closed")
        for block in blocks:
            block.finish(None)
        handle, self._handle = self._handle, None
        shared.forget(self)
        status = _library.mempool_detach(handle)
        error = errors.last() if status else None
        self._anchor = None  # first: it holds an export of the memory view
        self._memory.release()
        if self._segment is not None:
            self._segment.close()
            self._segment.unlink()
        if error:
            raise error

    def _settle(self, verb: str) -> List[Block]:
        """All blocks that this process knows of, their views ended; or BufferError."""
        blocks = list(self._blocks.values())
        stuck = [block.offset for block in blocks if not block.settle()]
        if stuck:
            more = f", and of {len(stuck) - 1} more," if len(stuck) > 1 else ""
            raise BufferError(
                f"the pool cannot be {verb}: views of the block at offset {stuck[0]}{more} are still in use "
                "(slices, casts, arrays made of arrays); delete or release them first"
            )
        return blocks

    def release(self) -> None:
        """Ends the pool itself, for every process, and closes it. Nobody may be inside a call on it."""
        self.need_open()
        for block in self._settle("released"):
            block.finish("went with its pool")
        need(_library.mempool_release(self._handle))
        self.close()

    def __enter__(self: _SelfPool) -> _SelfPool:
        self.need_open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # No view is left, for views keep their blocks and those the pool. At the interpreter's end the process's
        # end is enough.
        if self._handle is not None and not sys.is_finalizing():
            self.close()

    # ---- What it is -------------------------------------------------------------------------------------------------

    @property
    def name(self) -> Optional[str]:
        """Of shared memory the name, of a file its path, else None."""
        return self._segment.name if self._segment is not None else None

    @property
    def id(self) -> int:
        """Random, new at each init."""
        return self._id

    @property
    def created(self) -> bool:
        """Whether this object made the pool, or found it."""
        return self._created

    @property
    def memory(self) -> memoryview:
        """The whole buffer. Writing here is at your own risk."""
        self.need_open()
        return self._memory

    def __repr__(self) -> str:
        where = f" {self.name!r}" if self.name else ""
        return f"<mempool.Pool{where} {'closed' if self.closed else f'of {len(self._memory)} bytes'}>"

    def __reduce__(self) -> Tuple[Any, ...]:
        """Pickles as its name: the other process opens the same pool."""
        return shared.find, (self.reference(),)

    def reference(self) -> shared.Reference:
        """How pickles name this pool."""
        self.need_open()
        if self._segment is None:
            raise TypeError(
                "cannot pickle what lies in a pool without a name, since other processes could not find it: "
                "make the pool by Pool.create or Pool.file"
            )
        return self._segment.kind, self._segment.name, self._id, self._start

    # ---- Blocks -----------------------------------------------------------------------------------------------------

    def malloc(self, size: int) -> Block:
        """A new block of this many bytes, not zeroed. Raises OutOfMemory."""
        return self._new(_library.mempool_malloc(self.need_open(), _size(size)), size)

    def calloc(self, count: int, size: int = 1, fill: int = 0) -> Block:
        """A new block of count * size bytes, each of them `fill`."""
        _exact(ctypes.c_ubyte, fill)
        if fill:
            address = _library.mempool_calloc_fill(self.need_open(), _size(count), _size(size), fill)
        else:
            address = _library.mempool_calloc(self.need_open(), _size(count), _size(size))
        return self._new(address, count * size)

    def aligned_alloc(self, alignment: int, size: int) -> Block:
        """A new block whose address in this process is a multiple of `alignment`, a power of two."""
        return self._new(_library.mempool_aligned_alloc(self.need_open(), _size(alignment), _size(size)), size)

    def realloc(self, block: Optional[Block], size: int) -> Block:
        """Makes a block larger or smaller, in place or by moving it: the same Block, its offset may be another.

        Its views end first, whether or not there is room: BufferError if they cannot, OutOfMemory if there is none;
        the block stays as it was then. None: malloc.

        >>> import mempool
        >>> pool = mempool.Pool(bytearray(1 << 16))
        >>> block = pool.malloc(5)
        >>> old = block.view
        >>> old[:] = b"bytes"
        >>> bytes(pool.realloc(block, 1000).view[:5])
        b'bytes'
        >>> old[0]
        Traceback (most recent call last):
        ValueError: operation forbidden on released memoryview object
        """
        if block is None:
            return self.malloc(size)
        size = _size(size)
        handle = self.need_open()
        self._need_mine(block)
        self._claim(block, None, "resized")
        address = _library.mempool_realloc(handle, self.address(block), size)
        if not address:
            raise self._resume(block)
        block.move(self._offset(address), size)
        block.finish(None)
        self._enter(block)
        return block

    def expand(self, block: Block, size: int) -> None:
        """Makes a block at least `size` bytes long without moving it, or raises OutOfMemory. Views stay as they are."""
        block.need_live()
        need(_library.mempool_expand(self.need_open(), self.address(block), _size(size)))
        block.move(block.offset, max(size, block.size))

    def free(self, thing: Any) -> None:
        """Frees a block, named by its Block, an array or a view of it, or its offset.

        What is no live block is refused with ForeignPointer or NotAllocated, and nothing is changed:

        >>> import mempool
        >>> pool = mempool.Pool(bytearray(1 << 16))
        >>> block = pool.malloc(64)
        >>> pool.free(block.offset + 16)
        Traceback (most recent call last):
        mempool.errors.NotAllocated: mempool_free: no live block at offset ...
        >>> pool.free(block)
        >>> pool.free(block)
        Traceback (most recent call last):
        mempool.errors.NotAllocated: the block at offset ... was freed

        BufferError says that something made of its views is still in use: then it stays live.
        """
        if isinstance(thing, int):
            known = self._blocks.get(thing)
            if known is None or not known.live:
                need(_library.mempool_free(self.need_open(), self._address(thing)))
                return
            block, given = known, None
        else:
            block, given = self._resolve(thing)
        block.need_live()
        handle = self.need_open()
        if block.pool is not self:
            # Perhaps another handle's of the same memory: the library tells by the address.
            if not _library.mempool_usable_size(handle, block.pool.address(block)):
                need(_library.mempool_free(handle, block.pool.address(block)))
        block.pool._claim(block, given, "freed")
        if _library.mempool_free(handle, block.pool.address(block)):
            raise block.pool._resume(block)
        block.finish("was freed")

    def free_all(self) -> None:
        """Frees all blocks at once. Nobody, in any process, may be inside a call, or use a block afterwards."""
        self.need_open()
        blocks = self._settle("emptied")
        need(_library.mempool_free_all(self._handle))
        for block in blocks:
            block.finish("was freed with all others")
        self._blocks.clear()

    def block(self, offset: int, size: Optional[int] = None) -> Block:
        """The live block at this offset, got by whatever process. Without a size it is as long as it has room."""
        handle = self.need_open()
        room = _library.mempool_usable_size(handle, self._address(offset))
        if room == 0:
            raise errors.NotAllocated(f"there is no live block at offset {offset}")
        if size is not None and not 0 < size <= room:
            raise errors.NotAllocated(f"the block at offset {offset} has {room} bytes, not {size}")
        known = self._blocks.get(offset)
        if known is not None and known.live and known.size <= room and size in (None, known.size):
            return known
        return self._enter(Block(self, offset, room if size is None else size))

    def usable_size(self, block: Union[Block, int]) -> int:
        """How many bytes of a block can be used: what was asked for, with its rounding. 0 if no live block is there."""
        offset = block if isinstance(block, int) else block.offset
        return int(_library.mempool_usable_size(self.need_open(), self._address(offset)))

    def good_size(self, size: int) -> int:
        """How many bytes a malloc of this size would give: ask for that, and nothing is lost to rounding."""
        return int(_library.mempool_good_size(self.need_open(), _size(size)))

    # ---- Arrays -----------------------------------------------------------------------------------------------------

    def array(self, dtype: Any, shape: Any, fill: Any = None) -> Any:
        """A typed array in a block of its own: of numpy, if that is installed, else a cast memoryview.

        The types are u8 i8 u16 i16 u32 i32 u64 i64 f32 f64, or whatever numpy takes for a dtype (without objects).
        Its elements are `fill`, or undefined without one.

        >>> import mempool
        >>> pool = mempool.Pool(bytearray(1 << 16))
        >>> numbers = pool.array("f64", 1000, fill=0.5)
        >>> len(numbers), float(numbers[999])
        (1000, 0.5)
        >>> pool.free(numbers)
        """
        kind, form = arrays.Kind(dtype), arrays.shape_of(shape)
        zeroed = fill is not None and not isinstance(fill, (str, bytes)) and fill == 0
        block = self.calloc(kind.nbytes(form)) if zeroed else self.malloc(kind.nbytes(form))
        try:
            array = block.typed(kind, form)
            if fill is not None and not zeroed:
                arrays.fill(array, fill)
        except BaseException:
            array = None
            block.free()
            raise
        return array

    def realloc_array(self, array: Any, shape: Any) -> Any:
        """A new array with the old one's type and, up to the shorter length, its elements; the old one ends.

        >>> import mempool
        >>> pool = mempool.Pool(bytearray(1 << 16))
        >>> old = pool.array("u16", 3, fill=7)
        >>> new = pool.realloc_array(old, 500)
        >>> [int(n) for n in new[:3]]
        [7, 7, 7]
        """
        block, given = self._resolve(array)
        if given is None:
            raise TypeError("realloc_array needs an array; a Block has realloc")
        dtype, _ = arrays.form_of(array)
        kind, form = arrays.Kind(dtype), arrays.shape_of(shape)
        size, handle = _size(kind.nbytes(form)), self.need_open()
        self._need_mine(block)
        self._claim(block, given, "resized")
        address = _library.mempool_realloc(handle, self.address(block), size)
        if not address:
            raise self._resume(block)
        block.move(self._offset(address), size)
        block.finish(None)
        self._enter(block)
        return block.typed(kind, form)

    # ---- From hand to hand ------------------------------------------------------------------------------------------

    def give(self, thing: Any) -> Gift:
        """Ends this process's use of a block or an array and makes a Gift of it, to be sent to whoever takes it."""
        block, given = self._resolve(thing)
        self._need_mine(block)
        form = None if given is None else arrays.form_of(given)
        self._claim(block, given, "given away")
        block.finish("was given away")
        return Gift(self, block.offset, block.size, form)

    def reap(self, pid: int = 0, visit: Optional[Callable[[BlockInfo, Owner], bool]] = None) -> Reaped:
        """Frees what a dead process has left (0: what all of them have) in a pool made with `Flag.OWNER_TAGS`.

        `visit(block, owner)` sees each block first: true frees it, false keeps it. Busy: the process lives.
        """
        raised: List[BaseException] = []

        def call(block: Any, owner: Any, _: Any) -> bool:
            try:
                if raised or visit is None:
                    return not raised
                return bool(visit(figures.block_info(block.contents), figures.owner_of(owner.contents)))
            except BaseException as error:
                raised.append(error)  # there is no way back through C: what comes after is kept
                return False

        callback = _native.ReapVisit(call) if visit is not None else _native.ReapVisit()
        reaped = _native.Reaped()
        status = _library.mempool_reap(self.need_open(), _exact(ctypes.c_int32, pid), callback, None, byref(reaped))
        if raised:
            raise raised[0]
        need(status)
        return Reaped(**{name: getattr(reaped, name) for name, *_ in _native.Reaped._fields_})

    def adopt(self, block: Union[Block, int]) -> None:
        """Makes a block this process's, whosever it was; `Gift.take` does it by itself."""
        need(_library.mempool_adopt(self.need_open(), self._of(block)))

    def abandon(self, block: Union[Block, int]) -> None:
        """Makes a block nobody's: `reap` leaves it alone, whoever dies."""
        need(_library.mempool_abandon(self.need_open(), self._of(block)))

    def owner_of(self, block: Union[Block, int]) -> Optional[Owner]:
        """Whose a block is; None if it is nobody's."""
        owner = _native.Owner()
        status = _library.mempool_owner_of(self.need_open(), self._of(block), byref(owner))
        if status == errors.NotFound.status:
            return None
        need(status)
        return figures.owner_of(owner)

    def label(self, label: int) -> None:
        """Gives this process a number of its own choice, which `Owner.label` shows to others."""
        need(_library.mempool_label(self.need_open(), _exact(c_uint64, label)))

    def adopt_if_owned(self, block: Block) -> None:
        """`adopt`, where blocks have owners."""
        if self._owners is False:
            return
        try:
            self.adopt(block)
            self._owners = True
        except errors.InvalidArgument:
            self._owners = False

    # ---- Structures that survive ------------------------------------------------------------------------------------

    def malloc_to(self, size: int, slot: Union[Slot, int]) -> Block:
        """A new block, and its offset in the slot (a Slot, or the offset of one), as one event for any crash."""
        place = slot if isinstance(slot, int) else slot.place
        need(_library.mempool_malloc_to(self.need_open(), _size(size), self._address(place)))
        return self._at_slot(place, size)

    def calloc_to(self, count: int, size: int, slot: Union[Slot, int]) -> Block:
        """`malloc_to` of count * size bytes that are zero before the slot names them."""
        place = slot if isinstance(slot, int) else slot.place
        need(_library.mempool_calloc_to(self.need_open(), _size(count), _size(size), self._address(place)))
        return self._at_slot(place, count * size)

    def _at_slot(self, place: int, size: int) -> Block:
        return self._enter(Block(self, int.from_bytes(self._memory[place : place + 8], sys.byteorder), size))

    def free_from(self, slot: Union[Slot, int]) -> None:
        """Frees the block that a slot names and clears the slot, as one event. An empty slot is fine."""
        place = slot if isinstance(slot, int) else slot.place
        address = self._address(place)
        offset = int.from_bytes(self.memory[place : place + 8], sys.byteorder)
        known = self._blocks.get(offset)
        if known is not None:
            self._claim(known, None, "freed")
        if _library.mempool_free_from(self.need_open(), address):
            raise errors.last() if known is None else self._resume(known)
        if known is not None:
            known.finish("was freed")

    # ---- Names and the root -----------------------------------------------------------------------------------------

    @property
    def root(self) -> Optional[Block]:
        """One block that every process finds, or None. Assign a block, or None to clear it."""
        address = _library.mempool_root(self.need_open())
        return self.block(self._offset(address)) if address else None

    @root.setter
    def root(self, block: Union[None, Block, int]) -> None:
        need(_library.mempool_set_root(self.need_open(), None if block is None else self._of(block)))

    def bind(self, name: str, block: Union[Block, int]) -> None:
        """Gives a block a name of 1 to 255 bytes by which every process finds it. Exists: the name is taken.

        A bound block cannot be freed (Busy) until it is unbound.
        """
        need(_library.mempool_bind(self.need_open(), _name(name), self._of(block)))

    def find(self, name: str) -> Optional[Block]:
        """The block of this name, or None."""
        address = _library.mempool_find(self.need_open(), _name(name))
        if address:
            return self.block(self._offset(address))
        if _library.mempool_last_error() != errors.NotFound.status:
            raise errors.last()
        return None

    def unbind(self, name: str, block: Union[None, Block, int] = None) -> None:
        """Takes the name from its block, which stays. NotFound: there is no such name, or it is not this block's."""
        if block is None:
            need(_library.mempool_unbind(self.need_open(), _name(name)))
        else:
            need(_library.mempool_unbind_from(self.need_open(), _name(name), self._of(block)))

    def names(self) -> Dict[str, int]:
        """All names, and the offsets of their blocks."""
        found: Dict[str, int] = {}

        def call(name: bytes, offset: int, _: Any) -> bool:
            found[name.decode("utf-8", "surrogateescape")] = offset
            return True

        need(_library.mempool_names(self.need_open(), _native.NameVisit(call), None))
        return found

    # ---- Looking inside ---------------------------------------------------------------------------------------------

    def stats(self) -> Stats:
        """The pool's figures, in microseconds; exact in the quiet, close while others work."""
        raw = _native.Stats(ctypes.sizeof(_native.Stats))
        need(_library.mempool_stats(self.need_open(), byref(raw)))
        return figures.stats_of(raw)

    def check(self) -> None:
        """Walks and verifies the whole pool; Corrupted says what is damaged, and where."""
        need(_library.mempool_check(self.need_open()))

    def walk(self, visit: Optional[Callable[[BlockInfo], Any]] = None) -> List[BlockInfo]:
        """All blocks, free ones included, in the order of addresses.

        With `visit` none are listed: it is called for each, may call anything, and ends the walk by returning False.
        """
        handle = self.need_open()
        return run_walk(lambda callback: _library.mempool_walk(handle, callback, None), visit)

    def trim(self) -> None:
        """Gives what this thread and the depot have cached back to the heap, for other sizes to use."""
        need(_library.mempool_trim(self.need_open()))

    def recover(self) -> int:
        """Looks for processes and threads that died inside calls, and cleans up after them: how many there were.

        Other calls do so as they meet them.
        """
        recovered = c_uint64()
        need(_library.mempool_recover(self.need_open(), byref(recovered)))
        return recovered.value

    @staticmethod
    def min_len(*, start: int = 0, align: int = 0, min_split: int = 0, flags: int = 0, max_threads: int = 0) -> int:
        """The least buffer that becomes a pool with these options."""
        options = _options(start, 0, align, min_split, flags, max_threads)
        return int(_library.mempool_min_len(byref(options)))

    # ---- For the package --------------------------------------------------------------------------------------------

    def need_open(self) -> int:
        if self._handle is None:
            raise ValueError("the pool is closed")
        return self._handle

    def address(self, block: Block) -> int:
        return self._base + block.offset

    def _address(self, offset: int) -> int:
        """The pointer for an offset; the library judges it, so it may be nonsense, but not 0: NULL is free's OK."""
        self.need_open()
        if not 0 < offset < len(self._memory):
            raise errors.ForeignPointer(f"offset {offset} lies outside the buffer")
        return self._base + offset

    def _offset(self, address: int) -> int:
        return address - self._base

    def _of(self, block: Union[Block, int]) -> int:
        """The pointer of a block, given as such or by its offset."""
        if isinstance(block, int):
            return self._address(block)
        block.need_live()
        return block.pool.address(block)

    def _new(self, address: Optional[int], size: int) -> Block:
        if not address:
            raise errors.last()
        return self._enter(Block(self, address - self._base, size))

    def _enter(self, block: Block) -> Block:
        """From now on this is the Block of its offset. Another one there was freed by another process."""
        old = self._blocks.get(block.offset)
        self._blocks[block.offset] = block
        if old is not None and old is not block and old.live:
            old.settle()
            old._end = "was freed by another process"
        return block

    def _claim(self, block: Block, given: Any, verb: str) -> None:
        """Of several threads that end a block only one goes on; its offset may be another block's soon."""
        block.claim(given, verb)
        if self._blocks.get(block.offset) is block:
            del self._blocks[block.offset]

    def _resume(self, block: Block) -> errors.Error:
        """The library would not: the block goes on. Why, as an exception."""
        error = errors.last()
        self._blocks[block.offset] = block
        block.resume()
        return error

    def _need_mine(self, block: Block) -> None:
        block.need_live()
        if block.pool is not self:
            raise errors.ForeignPointer(f"the block at offset {block.offset} is another pool's")

    def _resolve(self, thing: Any) -> Tuple[Block, Any]:
        """The block, and the array or view by which it was named, if it was."""
        if isinstance(thing, Block):
            return thing, None
        block = arrays.block_of(thing)
        if not isinstance(block, Block):
            raise TypeError(f"this {type(thing).__name__} is no block of a pool, nor an array in one (any more)")
        return block, thing


def run_walk(
    start: Callable[[Any], int], visit: Optional[Callable[[BlockInfo], Any]] = None
) -> List[BlockInfo]:
    """Starts a walk with a callback that collects, or calls `visit`, and carries its exception over C."""
    found: List[BlockInfo] = []
    raised: List[BaseException] = []

    def call(block: Any, _: Any) -> bool:
        try:
            info = figures.block_info(block.contents)
            if visit is None:
                found.append(info)
                return True
            return visit(info) is not False
        except BaseException as error:
            raised.append(error)
            return False

    status = start(_native.Visit(call))
    if raised:
        raise raised[0]
    need(status)
    return found


def _name(name: str) -> bytes:
    encoded = name.encode("utf-8", "surrogateescape")
    if b"\0" in encoded:
        raise ValueError("a name cannot hold a zero byte")
    return encoded


def _exact(kind: Any, value: int) -> int:
    """The value, if this C type can hold it: ctypes would cut it to fit without a word."""
    value = operator.index(value)
    if kind(value).value != value:
        raise ValueError(f"{value} does not fit {kind.__name__}")
    return value


def _size(value: int) -> int:
    value = operator.index(value)
    if not 0 <= value <= _SIZE_MAX:
        raise ValueError(f"{value} is no size")
    return value


def _options(
    start: int = 0, end: int = 0, align: int = 0, min_split: int = 0, flags: int = 0, max_threads: int = 0
) -> _native.Options:
    return _native.Options(
        ctypes.sizeof(_native.Options),
        _size(start),
        _size(end),
        _size(align),
        _size(min_split),
        _exact(c_uint32, flags),
        _exact(c_uint32, max_threads),
    )

