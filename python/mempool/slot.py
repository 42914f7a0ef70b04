"""Places in blocks that name other blocks, so that structures survive any death."""

from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from .block import Block


class Slot:
    """Eight bytes in a live block that hold another block's offset, or 0.

    Allocation and the store to the slot are one event for any crash, and so are freeing and its clearing:

    >>> import mempool
    >>> pool = mempool.Pool(bytearray(1 << 16))
    >>> shelf = pool.calloc(100, 8)
    >>> slot = shelf.slot(7 * 8)
    >>> book = slot.malloc(300)
    >>> slot.offset == book.offset
    True
    >>> slot.free()
    >>> slot.offset, slot.block
    (0, None)
    """

    __slots__ = ("_at", "_block")

    def __init__(self, block: "Block", at: int) -> None:
        if at % 8 or not 0 <= at <= block.size - 8:
            raise ValueError(f"a slot is 8 bytes at a multiple of 8 inside the block's {block.size}, not at {at}")
        self._block = block
        self._at = at

    @property
    def place(self) -> int:
        """Where it lies: bytes from the buffer's first."""
        self._block.need_live()
        return self._block.offset + self._at

    @property
    def offset(self) -> int:
        """What it holds: the offset of a block, or 0."""
        return int.from_bytes(self._block.pool.memory[self.place : self.place + 8], "little")

    @property
    def block(self) -> "Optional[Block]":
        """The block it names, or None. What a damaged slot names raises NotAllocated."""
        offset = self.offset
        return self._block.pool.block(offset) if offset else None

    def malloc(self, size: int) -> "Block":
        """A new block, and the slot names it; or neither."""
        return self._block.pool.malloc_to(size, self)

    def calloc(self, count: int, size: int) -> "Block":
        """A new block, zeroed before the slot names it."""
        return self._block.pool.calloc_to(count, size, self)

    def free(self) -> None:
        """Frees the block that it names, and the slot is 0; or neither. An empty slot is fine."""
        self._block.pool.free_from(self)
