"""A pool as a plot in a file: the map, and the sizes of the live blocks. SVG and PNG, both written here.

One drawing on two canvases, which know rectangles and text. The PNG's letters come from a font of 3 x 5 dots.
"""

import struct
import zlib
from html import escape
from typing import Dict, List, Tuple

from .inspect import Inspection
from .picture import KINDS, UNTOUCHED, cells, human, main_state, size_classes
from .stats import State

WIDTH, HEIGHT = 960, 560


class SvgCanvas:
    def __init__(self) -> None:
        self._parts: List[str] = []

    def rect(self, x: int, y: int, width: int, height: int, colour: str) -> None:
        self._parts.append(f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{colour}"/>')

    def text(self, x: int, y: int, words: str) -> None:
        self._parts.append(f'<text x="{x}" y="{y + 10}">{escape(words)}</text>')

    def finish(self) -> bytes:
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
            f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="monospace" font-size="12">'
        )
        return "\n".join([head, *self._parts, "</svg>", ""]).encode()


class PngCanvas:
    def __init__(self) -> None:
        self._rows = [bytearray(b"\xff" * 3 * WIDTH) for _ in range(HEIGHT)]

    def rect(self, x: int, y: int, width: int, height: int, colour: str) -> None:
        right, bottom = min(x + width, WIDTH), min(y + height, HEIGHT)
        stripe = bytes.fromhex(colour[1:]) * max(right - x, 0)
        for row in self._rows[y:bottom]:
            row[3 * x : 3 * right] = stripe

    def text(self, x: int, y: int, words: str) -> None:
        for letter in words.upper():
            for line, dots in enumerate(FONT.get(letter, "00000")):
                for column in range(3):
                    if int(dots) >> (2 - column) & 1:
                        self.rect(x + 2 * column, y + 2 * line, 2, 2, "#000000")
            x += 8

    def finish(self) -> bytes:
        def chunk(kind: bytes, data: bytes) -> bytes:
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

        header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)  # eight bits each of red, green, blue
        lines = b"".join(b"\0" + row for row in self._rows)
        return (
            b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
        )


# Each letter is five lines of three dots, a line being an octal digit.
FONT: Dict[str, str] = dict(
    pair.split("=")
    for pair in (
        "0=75557 1=26227 2=71747 3=71717 4=55711 5=74717 6=74757 7=71244 8=75757 9=75717 A=25755 B=65656 C=34443 "
        "D=65556 E=74647 F=74644 G=34553 H=55755 I=72227 J=11152 K=55655 L=44447 M=57755 N=65555 O=25552 P=65644 "
        "Q=25563 R=65655 S=34216 T=72222 U=55557 V=55522 W=55775 X=55255 Y=55222 Z=71247 .=00002 ,=00024 "
        ":=02020 ;=02024 %=51245 (=24442 )=42224 /=11244 -=00700 '=22000"
    ).split(" ")
)


def plot(seen: Inspection, canvas: "SvgCanvas | PngCanvas") -> bytes:
    canvas.rect(0, 0, WIDTH, HEIGHT, "#ffffff")
    stats = seen.stats
    canvas.text(
        20,
        14,
        f"pool of {human(stats.total)}: {stats.used_count} live blocks, {human(stats.used_size)}; "
        f"fragmentation {100 * stats.fragmentation:.1f}%",
    )
    _map(seen, canvas, 20, 40, 8, 115, 28)
    _legend(canvas, 20, 276)
    _sizes(seen, canvas, 20, 310, WIDTH - 40, 220)
    return canvas.finish()


def _map(
    seen: Inspection, canvas: "SvgCanvas | PngCanvas", x: int, y: int, side: int, columns: int, rows: int
) -> None:
    for index, piece in enumerate(cells(seen, columns * rows)):
        state = main_state(piece)
        colour = UNTOUCHED[2] if state is None else KINDS[state][2]
        row, column = divmod(index, columns)
        canvas.rect(x + column * side, y + row * side, side - 1, side - 1, colour)


def _legend(canvas: "SvgCanvas | PngCanvas", x: int, y: int) -> None:
    for _, _, colour, words in (*KINDS.values(), UNTOUCHED):
        canvas.rect(x, y, 10, 10, colour)
        canvas.text(x + 16, y, words)
        x += 40 + 8 * len(words)


def _sizes(seen: Inspection, canvas: "SvgCanvas | PngCanvas", x: int, y: int, width: int, height: int) -> None:
    """Bars: of each power of two, the live blocks and the free ones."""
    groups: List[Tuple[State, Dict[int, int]]] = [
        (state, size_classes(seen, state)) for state in (State.LIVE, State.FREE)
    ]
    powers = sorted({power for _, classes in groups for power in classes})
    most = max((count for _, classes in groups for count in classes.values()), default=1)
    canvas.text(x, y, "blocks by size (up to), live and free")
    step = min(width // max(len(powers), 1), 80)
    for index, power in enumerate(powers):
        left = x + index * step
        for shift, (state, classes) in enumerate(groups):
            count = classes.get(power, 0)
            tall = count * (height - 50) // most
            canvas.rect(left + shift * (step // 3), y + height - 20 - tall, step // 3, tall, KINDS[state][2])
            if count and step >= 60:
                canvas.text(left + shift * (step // 3), y + height - 34 - tall, str(count))
        canvas.text(left, y + height - 14, human(power).replace(".0", "").replace(" ", "") if step >= 40 else "")


def svg(seen: Inspection) -> bytes:
    return plot(seen, SvgCanvas())


def png(seen: Inspection) -> bytes:
    return plot(seen, PngCanvas())
