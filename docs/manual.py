#!/usr/bin/env python3
"""Makes mempool(3), the manual page, from the comments of include/mempool.h: `manual.py FOLDER` writes man3/*.3 there.

One page says it all; each function's own page leads to it. Python 3.9 will do.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LISTED = re.compile(r"^- ", re.M)


def escape(text):
    """Text as troff takes it: no backslash, dot or quote at a line's start means anything else."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.M)


def mark(text):
    """Words in backquotes are italic."""
    return re.sub(r"`([^`]+)`", r"\\fI\1\\fP", escape(text))


def paragraphs(comment):
    """A comment's paragraphs, and its list's items, as troff."""
    lines = []
    for part in re.split(r"\n\s*\n", comment.strip()):
        first, *items = LISTED.split(part)
        if first.strip():
            lines += [".PP", mark(first.strip())]
        for item in items:
            lines += [".IP \\(bu 2", mark(re.sub(r"\n\s+", "\n", item.strip()))]
    return lines


def comment_and_rest(text, start):
    """The /// lines from there on without their slashes, and where they end."""
    found = re.compile(r"(?:^[ ]*///.*\n)+", re.M).match(text, start)
    return re.sub(r"^ */// ?", "", found[0], flags=re.M), found.end()


def declarations(header):
    """Each commented declaration: its comment, and its text up to the semicolon."""
    at = 0
    while (found := re.compile(r"^///", re.M).search(header, at)) is not None:
        comment, at = comment_and_rest(header, found.start())
        if header.startswith("#define", at):
            end = header.index("\n", at)
        elif header.startswith("struct", at) and "{" in header[at : header.index(";", at)]:
            end = header.index("};", at) + 1
        else:
            end = header.index(";", at)
        yield comment, header[at:end].strip()
        at = end


def overview(header):
    """The header's first comment, as named paragraphs: "Buffer    Everything ..."."""
    text = re.search(r"/\*(.*?)\*/", header, re.S)[1]
    text = re.sub(r"^ \* ?", "", text, flags=re.M)
    for name, body in re.findall(r"^([A-Z]\w+) {2,}(.*?)(?=^[A-Z]\w+ {2,}|^Generated|\Z)", text, re.S | re.M):
        yield name, re.sub(r"\n +", "\n", body.strip())


def function_name(declaration):
    found = re.search(r"\b(mempool_\w+)\(", declaration)
    return found[1] if found and not declaration.startswith(("struct", "typedef", "#")) else None


def page(header, version):
    known = list(declarations(header))
    functions = [(function_name(text), comment, text) for comment, text in known if function_name(text)]
    lines = [
        f'.TH MEMPOOL 3 "" "mempool {version}" "Library Functions"',
        ".SH NAME",
        "mempool \\- a heap for many threads and processes in a buffer that the caller owns",
        ".SH SYNOPSIS",
        ".nf",
        ".B #include <mempool.h>",
        "",
    ]
    for _, _, text in functions:
        text = " ".join(re.sub(r"\bMEMPOOL_[A-Z_]+(\([^()]*\))?\s*$", "", text).split())
        lines.append(f".BI \"{escape(text)};\"")
    lines += [".fi", ".PP", "Link with \\fI\\-lmempool\\fP; \\fBpkg-config \\-\\-cflags \\-\\-libs mempool\\fP.", ".SH DESCRIPTION"]
    for name, text in overview(header):
        lines += [f".SS {name}", mark(text)]
    lines.append(".SH FUNCTIONS")
    for name, comment, _ in functions:
        lines += [f".SS {name}()", *paragraphs(comment)]
    lines.append(".SH STRUCTURES")
    for comment, text in known:
        if text.startswith("struct") and "{" in text:
            lines += [f".SS {text.split()[1]}", *paragraphs(comment), ".PP", ".nf"]
            lines += [escape(line) for line in text[text.index("{") + 1 : text.rindex("}")].strip("\n").splitlines()] + [".fi"]
    lines.append(".SH VALUES")
    for comment, text in known:
        if text.startswith("#define"):
            _, name, *value = text.split()
            lines += [".TP", f".B {name} {escape(' '.join(value))}", mark(comment.strip())]
    lines += [".SH SEE ALSO", ".BR mmap (2),", ".BR shm_open (3),", ".BR malloc (3)"]
    return "\n".join(lines) + "\n", [name for name, _, _ in functions]


def main():
    folder = Path(sys.argv[1]) / "man3"
    folder.mkdir(parents=True, exist_ok=True)
    header = (ROOT / "include" / "mempool.h").read_text()
    version = re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]
    text, functions = page(header, version)
    (folder / "mempool.3").write_text(text)
    for name in functions:
        (folder / f"{name}.3").write_text(".so man3/mempool.3\n")


if __name__ == "__main__":
    main()
