"""What gdb can say about a pool, in a running program or a core dump: `source mempool_gdb.py`.

    mempool stats BUFFER LENGTH     the pool in a buffer of the program's
    mempool blocks BUFFER LENGTH    its live blocks, with their first bytes
    mempool find BUFFER LENGTH P    what lies at an address: a block, free memory, the pool's own

and mempool::offset_ptr<T>, mempool_status_t and mempool_block_t print as what they mean. BUFFER, LENGTH and P are
expressions of the program. The bytes are copied and looked at by the library's own mempool_inspect, outside the program, which
runs nothing: MEMPOOL_LIBRARY says where libmempool.so is, if the loader does not find it.
"""

import ctypes
import mmap
import os

import gdb
import gdb.printing

FIELDS = (
    "total overhead used_count used_size free_count free_size cached_count cached_size top available largest_free align"
    " thread_caches max_threads rejected_frees failed_allocs recoveries pool_id"
).split()
STATES = {0: "free", 1: "live", 2: "cached", 3: "the pool's own"}
STATUSES = (
    "OK ERR_INVALID_ARGUMENT ERR_BUFFER_TOO_SMALL ERR_BUFFER_TOO_LARGE ERR_NOT_A_POOL ERR_INCOMPATIBLE ERR_OUT_OF_MEMORY"
    " ERR_FOREIGN_POINTER ERR_NOT_ALLOCATED ERR_CORRUPTED ERR_NOT_FOUND ERR_EXISTS ERR_BUSY"
).split()
# Buffers are aligned by address to no more than this.
PAGE = 65536


class Stats(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_size_t)] + [(name, ctypes.c_uint64) for name in FIELDS]


class Block(ctypes.Structure):
    _fields_ = [
        ("offset", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("state", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    ]


Visit = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.POINTER(Block), ctypes.c_void_p)


def library():
    """The library, in gdb's own process."""
    names = [os.environ.get("MEMPOOL_LIBRARY")]
    names += [objfile.filename for objfile in gdb.objfiles() if "libmempool.so" in (objfile.filename or "")]
    for name in [name for name in names if name] + ["libmempool.so.0.1"]:
        try:
            return ctypes.CDLL(name)
        except OSError:
            pass
    raise gdb.GdbError("libmempool.so is not found: set MEMPOOL_LIBRARY")


def number(expression):
    """What an expression of the program comes to; gdb shows other exceptions than this as a mistake of the script."""
    try:
        return int(gdb.parse_and_eval(expression))
    except gdb.error as error:
        raise gdb.GdbError(f"{expression}: {error}") from None


class Pool:
    """A copy of a pool's bytes."""

    def __init__(self, buffer, length):
        self.address = number(buffer)
        length = number(length)
        # The copy lies at the same residue, by which the pool's layout goes.
        residue = self.address % PAGE
        self.memory = mmap.mmap(-1, length + 2 * PAGE)
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.start += (residue - self.start) % PAGE
        inferior = gdb.selected_inferior()
        for at in range(0, length, 1 << 20):
            part = min(1 << 20, length - at)
            try:
                ctypes.memmove(self.start + at, bytes(inferior.read_memory(self.address + at, part)), part)
            except gdb.MemoryError:
                pass  # pages that a core dump leaves out hold zeros, most often
        self.length = length

    def first(self, address, count):
        """The bytes at an address of the program's."""
        return ctypes.string_at(self.start + address - self.address, count)

    def look(self):
        """Its statistics and its blocks, (address, size, state)."""
        blocks = []

        def visit(block, _context):
            block = block.contents
            blocks.append((self.address + block.offset, block.size, STATES.get(block.state, "?")))
            return True

        stats = Stats(struct_size=ctypes.sizeof(Stats))
        call = library().mempool_inspect
        call.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p, Visit, ctypes.c_void_p]
        status = call(self.start, self.length, None, ctypes.byref(stats), Visit(visit), None)
        if status != 0:
            raise gdb.GdbError(f"no pool there that can be looked at: MEMPOOL_{STATUSES[-status]}")
        return stats, blocks


class Command(gdb.Command):
    """Looks at pools: mempool stats, blocks, find."""

    def __init__(self):
        super().__init__("mempool", gdb.COMMAND_DATA)

    def invoke(self, argument, _from_tty):
        words = gdb.string_to_argv(argument)
        wanted = {"stats": 3, "blocks": 3, "find": 4}
        if not words or wanted.get(words[0]) != len(words):
            raise gdb.GdbError("mempool stats BUFFER LENGTH | blocks BUFFER LENGTH | find BUFFER LENGTH ADDRESS")
        pool = Pool(words[1], words[2])
        stats, blocks = pool.look()
        if words[0] == "stats":
            for name in FIELDS:
                print(f"{name:15} {getattr(stats, name)}")
        elif words[0] == "blocks":
            for address, size, state in blocks:
                if state == "live":
                    print(f"{address:#x} {size:10}  {pool.first(address, min(size, 16)).hex(' ')}")
        else:
            self.find(number(words[3]), pool, stats, blocks)

    @staticmethod
    def find(address, pool, stats, blocks):
        if not pool.address <= address < pool.address + pool.length:
            print(f"{address:#x} is not in this buffer")
            return
        for start, size, state in blocks:
            if start <= address < start + size:
                print(f"{address:#x} is byte {address - start} of a {state} block of {size} bytes at {start:#x}")
                return
        where = "above top: never handed out, or free" if address - pool.address >= stats.top else "the pool's own: header or map"
        print(f"{address:#x} is {where}")


class OffsetPtr:
    """mempool::offset_ptr<T>: what it points to. 1 is its NULL."""

    def __init__(self, value):
        self.value = value

    def to_string(self):
        distance = int(self.value["distance_"])
        if distance == 1:
            return "NULL"
        target = self.value.type.template_argument(0)
        # The distance is unsigned, and wraps where the target lies before the pointer.
        address = (int(self.value.address) + distance) % (1 << 64)
        return gdb.Value(address).cast(target.pointer()).format_string(symbols=True)


class Status:
    """mempool_status_t."""

    def __init__(self, value):
        self.value = value

    def to_string(self):
        number = int(self.value)
        return f"MEMPOOL_{STATUSES[-number]}" if 0 <= -number < len(STATUSES) else str(number)


def printer(value):
    """Typedefs are told by their own name, so this comes before gdb strips it."""
    if value.type.name == "mempool_status_t":
        return Status(value)
    return None


def register():
    offset = gdb.printing.RegexpCollectionPrettyPrinter("mempool")
    offset.add_printer("offset_ptr", r"^mempool::offset_ptr<", OffsetPtr)
    gdb.printing.register_pretty_printer(None, offset, replace=True)
    gdb.pretty_printers.insert(0, printer)
    Command()


register()
