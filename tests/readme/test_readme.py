"""Runs the code blocks of README.md and of each page of docs/, top to bottom, against a staged install.

(python/README.md is run by python/tests, src/lib.rs by cargo test.)

All blocks share one scratch folder, where `mempool` is a copy of the sources, and an environment in which the install
is found (and HOME is scratch too). What happens to a block follows from its tag:

  sh         run, starting in the scratch folder; must succeed
  console    the lines after `$ ` are run; the others are what they print
  c, cpp     compiled without warnings as C11 or C++17, and run; a fragment (no main) gets a fresh `pool` to work on
  python     run
  others     nothing, unless a comment says so; an untagged or text block is no code

HTML comments, which no reader sees, say more about the block that follows:

  <!-- file: NAME -->       only save it under that name in the scratch folder, for a later block to use
  <!-- in: FOLDER -->       start in this folder of the scratch folder, `mempool` say
  <!-- prints -->           it is what the block before it printed; `...` stands for anything
  <!-- not run: WHY -->     don't
  <!-- sh: COMMANDS -->     no block follows: these commands, of any number of lines, are run like a block

A code block of another tag with no such comment fails, so that none is forgotten.
"""

import os
import re
import shutil
import sys
import textwrap
from pathlib import Path

import pytest

from conftest import SOURCE, run

PAGES = [SOURCE / "README.md", *sorted((SOURCE / "docs").glob("*.md"))]
if os.environ.get("MEMPOOL_README"):
    PAGES = [Path(os.environ["MEMPOOL_README"])]

TOKEN = re.compile(
    r"^ *<!--\s*(?P<word>file|in|prints|not run|sh)\b:?(?P<rest>.*?)-->"
    r"|^(?P<fence> *```+)(?P<tag>\S*)[^\n]*\n(?P<code>.*?)^(?P=fence)\s*$",
    re.MULTILINE | re.DOTALL,
)

COMPILE = {
    "c": ["cc", "-std=c11"],
    "cpp": ["c++", "-std=c++17"],
}
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]

# What stands around a fragment.
FRAGMENT = """\
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <mempool.h>
int main(void)
{
    static unsigned char buffer[1 << 20];
    mempool_t *pool = NULL;
    if (mempool_init(buffer, sizeof buffer, NULL, &pool) != MEMPOOL_OK)
        return 1;
    {
%s
    }
    return mempool_check(pool) != MEMPOOL_OK;
}
"""


class Block:
    def __init__(self, page, line, tag, code, said):
        self.page = page
        self.line = line
        self.tag = tag
        self.code = code
        self.said = said  # what the comments before it said

    def __str__(self):
        what = self.said.get("file") or ("prints" if "prints" in self.said else self.tag)
        return f"{self.page.name}:{self.line} {what}"


def blocks(page):
    """The blocks of a page that are to be run or compared."""
    text = page.read_text()
    said = {}
    for token in TOKEN.finditer(text):
        line = text.count("\n", 0, token.start()) + 1
        if token["word"] == "sh":
            yield Block(page, line, "sh", textwrap.dedent(token["rest"]).strip() + "\n", said)
        elif token["word"]:
            said[token["word"]] = token["rest"].strip()
            continue
        elif "not run" in said:
            assert said["not run"], f"{page}:{line}: say why it is not run"
        elif said or token["tag"] not in ("", "text"):
            yield Block(page, line, token["tag"], textwrap.dedent(token["code"]), said)
        said = {}
    assert not said, f"{page}: no block follows the last comment"


@pytest.fixture(scope="session")
def scratch(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    (folder / "home").mkdir()
    made = {"target", "build", "dist", ".venv", ".git"}
    shutil.copytree(
        SOURCE, folder / "mempool", ignore=lambda at, names: made & set(names) if Path(at) == SOURCE else ()
    )
    return folder


@pytest.fixture(scope="session")
def env(scratch, install):
    home = Path.home()
    return {
        "CARGO_HOME": str(home / ".cargo"),
        "RUSTUP_HOME": str(home / ".rustup"),
        **os.environ,
        **install.env,
        "HOME": str(scratch / "home"),
        "MEMPOOL_LIBRARY": str(install.shared),
        "PYTHONPATH": str(SOURCE / "python"),
        # What these programs need was fetched when the library was built.
        "CARGO_NET_OFFLINE": "true",
        # The copy of the sources keeps what it builds to itself.
        "CARGO_TARGET_DIR": str(scratch / "mempool" / "target"),
    }


@pytest.fixture(scope="session")
def printed():
    """What the latest block printed, in a list of one."""
    return [""]


def compare(expected, got):
    """Ends the test unless that was printed; `...` stands for anything."""
    pattern = re.escape(expected.strip()).replace(re.escape("..."), ".*?")
    if not re.fullmatch(pattern, got.strip(), re.DOTALL):
        pytest.fail(f"expected:\n{expected.strip()}\ngot:\n{got.strip()}", pytrace=False)


def run_program(block, at, env):
    """Compiles a C or C++ block, or what makes a program of it, and runs it."""
    code = block.code
    if not re.search(r"\bmain\s*\(", code):
        code = FRAGMENT % code
    source = at / f"{block.page.stem}-{block.line}.{block.tag}"
    source.write_text(code)
    program = source.with_suffix("")
    flags = run("pkg-config", "--cflags", "--libs", "mempool", env=env).split()
    run(*COMPILE[block.tag], *WARNINGS, source, *flags, "-o", program, cwd=at, env=env)
    return run(program, cwd=at, env=env)


def run_console(block, at, env):
    """The lines after `$ `, and what they go on in after a backslash, are the commands."""
    commands, expected, goes_on = [], [], False
    for line in block.code.splitlines():
        if goes_on or line.startswith("$ "):
            commands.append(line if goes_on else line[2:])
            goes_on = line.endswith("\\")
        else:
            expected.append(line)
    got = run("sh", "-eu", "-c", "\n".join(commands), cwd=at, env=env)
    if expected:
        compare("\n".join(expected), got)
    return got


@pytest.mark.parametrize("block", [block for page in PAGES for block in blocks(page)], ids=str)
def test_block(block, scratch, env, printed):
    at = scratch / block.said.get("in", "")
    if "prints" in block.said:
        compare(block.code, printed[0])
    elif "file" in block.said:
        target = at / block.said["file"]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(block.code)
    elif block.tag in ("sh", "bash"):
        printed[0] = run(block.tag, "-eu", "-c", block.code, cwd=at, env=env)
    elif block.tag == "console":
        printed[0] = run_console(block, at, env)
    elif block.tag in COMPILE:
        printed[0] = run_program(block, at, env)
    elif block.tag == "python":
        printed[0] = run(sys.executable, "-c", block.code, cwd=at, env=env)
    else:
        pytest.fail(f"no comment says what to do with a block of {block.tag}", pytrace=False)


# ---- Links ----

LINK = re.compile(r"\]\(([^)\s]+)\)")
READ = [*PAGES, SOURCE / "examples" / "README.md", SOURCE / "python" / "README.md"]


def anchors(page):
    """What a page's headings are called in links to them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", READ, ids=lambda page: os.path.relpath(page, SOURCE))
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for link in LINK.findall(text):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
