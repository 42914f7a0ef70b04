"""A pool as a picture in the terminal: which bytes are what, and the figures beside it."""

from typing import Dict, List, Tuple

from .inspect import Inspection
from .stats import State

# What a cell of the map may be: the letter, the terminal's colour, the colour in plots, the words.
KINDS: Dict[State, Tuple[str, str, str, str]] = {
    State.LIVE: ("#", "\x1b[34m", "#3b6fb6", "live"),
    State.CACHED: ("+", "\x1b[33m", "#e0a030", "cached"),
    State.FREE: (".", "\x1b[32m", "#9ccc8f", "free"),
    State.META: ("m", "\x1b[35m", "#8e6bb0", "the pool's own"),
}
UNTOUCHED = (" ", "", "#f2f2f2", "never used")
_RESET = "\x1b[0m"


def cells(seen: Inspection, count: int) -> List[Dict[State, int]]:
    """The pool cut into `count` pieces of equal length: of each, how many bytes are what.

    What is below `top` and in no block is the pool's own, too: header and map.
    """
    first, end = seen.span
    pieces: List[Dict[State, int]] = [{} for _ in range(count)]
    length = max(end - first, 1)

    def add(start: int, stop: int, state: State) -> None:
        index = (start - first) * count // length
        while start < stop and 0 <= index < count:
            border = min(stop, first + -(-(index + 1) * length // count))
            pieces[index][state] = pieces[index].get(state, 0) + border - start
            start, index = border, index + 1

    at = first
    for block in seen.blocks:
        if block.offset > at:
            add(at, block.offset, State.META)
        add(block.offset, block.offset + block.size, block.state)
        at = block.offset + block.size
    if seen.stats.top > at:
        add(at, seen.stats.top, State.META)
    return pieces


def main_state(piece: Dict[State, int]) -> "State | None":
    """What most of a piece's used bytes are; None where nothing ever was."""
    return max(piece, key=lambda state: piece[state]) if piece else None


def size_classes(seen: Inspection, state: State) -> Dict[int, int]:
    """How many blocks of this state there are, by the power of two at or above their size."""
    classes: Dict[int, int] = {}
    for block in seen.blocks:
        if block.state is state:
            power = 1 << (block.size - 1).bit_length()
            classes[power] = classes.get(power, 0) + 1
    return dict(sorted(classes.items()))


def human(size: int) -> str:
    value, unit = float(size), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"


def table(seen: Inspection) -> str:
    stats = seen.stats
    total = max(stats.total, 1)
    rows = [
        ("live", stats.used_count, stats.used_size),
        ("cached", stats.cached_count, stats.cached_size),
        ("free", stats.free_count, stats.free_size),
        ("never used", None, stats.available - stats.free_size - stats.cached_size),
        ("the pool's own", None, stats.overhead),
        ("in all", None, stats.total),
    ]
    lines = [f"{'':15} {'blocks':>9} {'bytes':>14} {'':>10} {'share':>7}"]
    for name, count, size in rows:
        blocks = "" if count is None else str(count)
        lines.append(f"{name:15} {blocks:>9} {size:>14} {human(size):>10} {100 * size / total:6.1f}%")
    lines.append("")
    lines.append(
        f"available {human(stats.available)}, the largest run {human(stats.largest_free)}: "
        f"fragmentation {100 * stats.fragmentation:.1f}%"
    )
    lines.append(
        f"granule {stats.align}, thread caches {stats.thread_caches} of {stats.max_threads}, "
        f"refused frees {stats.rejected_frees}, failed mallocs {stats.failed_allocs}, recoveries {stats.recoveries}"
    )
    return "\n".join(lines)


def draw_map(seen: Inspection, width: int, height: int, colour: bool) -> str:
    lines, line = [], ""
    last = ""
    for index, piece in enumerate(cells(seen, width * height)):
        state = main_state(piece)
        letter, tint, _, _ = UNTOUCHED if state is None else KINDS[state]
        if colour:
            line += (tint if tint != last else "") + ("\u2588" if state is not None else "\u00b7")
            last = tint
        else:
            line += letter
        if index % width == width - 1:
            lines.append(line + (_RESET if colour else ""))
            line, last = "", ""
    legend = []
    for letter, tint, _, words in (*KINDS.values(), UNTOUCHED):
        legend.append(f"{tint}\u2588{_RESET} {words}" if colour and tint else f"[{letter}] {words}")
    return "\n".join([*lines, "  ".join(legend)])


def draw_sizes(seen: Inspection, width: int) -> str:
    classes = size_classes(seen, State.LIVE)
    most = max(classes.values(), default=1)
    lines = ["live blocks by size (up to)"]
    for power, count in classes.items():
        lines.append(f"{human(power):>10} {count:>9} " + "=" * max(1, count * (width - 22) // most))
    return "\n".join(lines)


def draw(seen: Inspection, *, width: int = 80, height: int = 12, colour: bool = False) -> str:
    """All of it."""
    return "\n\n".join([table(seen), draw_map(seen, width, height, colour), draw_sizes(seen, width)])
