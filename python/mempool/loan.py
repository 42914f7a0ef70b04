"""Who still looks at a block: every view handed out, and all that was derived from it.

A block must not be freed, moved or unmapped under a view that is still in use, so each view gets an *exporter*
of its own: a ctypes array over the block's bytes. Whatever is made of the view (slices, casts, numpy arrays)
keeps the exporter alive, so a weak reference to it says whether anybody is left, without counting anything.
"""

import ctypes
import weakref
from typing import Any, Callable, Optional


def export(memory: memoryview, offset: int, size: int, keep: object) -> Any:
    """A new exporter of some bytes of the pool's memory, which keeps `keep` (the block) alive."""
    exporter = (ctypes.c_char * size).from_buffer(memory, offset)
    exporter.keep = keep  # type: ignore[attr-defined]
    return exporter


class Loan:
    """A memoryview that was handed out.

    `end` releases it, so that touching it raises ValueError from then on, and says whether nothing made of it lives.
    """

    __slots__ = ("_exporter", "_view")

    def __init__(self, exporter: Any, view: memoryview) -> None:
        self._exporter: Callable[[], Optional[object]] = weakref.ref(exporter)
        self._view: Callable[[], Optional[memoryview]] = weakref.ref(view)

    def alive(self) -> bool:
        return self._exporter() is not None

    def view(self) -> Optional[memoryview]:
        """The memoryview, if somebody has it still and did not release it."""
        view = self._view()
        if view is None:
            return None
        try:
            view.nbytes  # noqa: B018 (raises if it was released)
        except ValueError:
            return None
        return view

    def end(self) -> bool:
        view = self.view()
        if view is not None:
            try:
                view.release()
            except BufferError:
                return False  # somebody has a buffer of the view itself
        del view
        return not self.alive()

    def ready(self, given: object) -> bool:
        """First half of ending all loans of a block: what can be checked only by doing it."""
        return self.end()

    def finish(self) -> None:
        """Second half: nothing is left to do."""
