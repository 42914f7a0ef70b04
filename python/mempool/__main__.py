"""`python -m mempool inspect` and `watch`: a pool in the terminal, without disturbing it."""

import argparse
import shutil
import sys
import time
from typing import List, Optional

from . import errors, picture, plot
from .inspect import Target


def parse(words: Optional[List[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m mempool", description="Looks into a pool without changing it.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in (("inspect", "once"), ("watch", "again and again, while processes work on it")):
        command = commands.add_parser(name, help=f"shows a pool, {what}")
        command.add_argument("pool", metavar="PATH_OR_NAME", help="a file, or the name of shared memory")
        command.add_argument("--start", type=int, default=0, help="where in it the pool begins, in bytes")
        command.add_argument("--width", type=int, help="columns of the map; the terminal's unless given")
        command.add_argument("--height", type=int, default=12, help="lines of the map")
        command.add_argument("--colour", "--color", choices=("auto", "always", "never"), default="auto")
        if name == "inspect":
            command.add_argument("--svg", metavar="FILE", help="writes a plot")
            command.add_argument("--png", metavar="FILE", help="writes a plot")
        else:
            command.add_argument("--interval", type=float, default=0.5, help="seconds between looks")
            command.add_argument("--count", type=int, default=0, help="how many looks; 0: until interrupted")
    return parser.parse_args(words)


def show(target: Target, asked: argparse.Namespace, before: str = "") -> None:
    seen = target.look(asked.start)
    colour = asked.colour == "always" or (asked.colour == "auto" and sys.stdout.isatty())
    width = max(asked.width or shutil.get_terminal_size().columns, 24)
    text = picture.draw(seen, width=width, height=max(asked.height, 1), colour=colour)
    print(before + text, flush=True)
    if asked.command == "inspect":
        for file, draw in ((asked.svg, plot.svg), (asked.png, plot.png)):
            if file:
                with open(file, "wb") as out:
                    out.write(draw(seen))


def watch(target: Target, asked: argparse.Namespace) -> None:
    # From the top left, then what is left of the screen is cleared: less flicker than clearing first.
    clear = "\x1b[H\x1b[J" if sys.stdout.isatty() else ""
    looks = 0
    while True:
        show(target, asked, clear)
        looks += 1
        if looks == asked.count:
            return
        time.sleep(max(asked.interval, 0.01))


def main(words: Optional[List[str]] = None) -> int:
    asked = parse(words)
    try:
        with Target(asked.pool) as target:
            if asked.command == "watch":
                watch(target, asked)
            else:
                show(target, asked)
    except KeyboardInterrupt:
        return 130
    except (OSError, ValueError, errors.Error) as error:
        print(f"mempool: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
