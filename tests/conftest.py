"""What the tests of the package share: the repository, how to run a command, and a staged install that was moved."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent
VERSION = re.search(r'^version = "(.+)"', (SOURCE / "Cargo.toml").read_text(), re.M).group(1)


def run(*command, cwd=None, env=None, fails=False):
    """Runs a command and returns what it printed, or what it complained if it should fail; else the test ends."""
    command = [str(word) for word in command]
    result = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if (result.returncode != 0) != fails:
        said = f"{result.stdout}{result.stderr}"
        pytest.fail(f"{' '.join(command)}: exit status {result.returncode}\n{said}", pytrace=False)
    return result.stderr if fails else result.stdout


class Install:
    """An installed tree."""

    def __init__(self, prefix):
        self.prefix = prefix
        (self.pc,) = prefix.glob("**/mempool.pc")
        self.lib = self.pc.parent.parent
        self.shared = self.lib / "libmempool.so"
        # What a user would set to have the tree found where it lies.
        self.env = {
            "CMAKE_PREFIX_PATH": str(prefix),
            "PKG_CONFIG_PATH": str(self.pc.parent),
            "LD_LIBRARY_PATH": str(self.lib),
        }


@pytest.fixture(scope="session")
def build(tmp_path_factory):
    """The build folder of the library's own CMake project, configured the plain way."""
    folder = tmp_path_factory.mktemp("build")
    run("cmake", "-S", SOURCE, "-B", folder)
    run("cmake", "--build", folder)
    return folder


@pytest.fixture(scope="session")
def install(build, tmp_path_factory):
    """Installed in one place, then moved to another: nothing may depend on the first."""
    root = tmp_path_factory.mktemp("install")
    run("cmake", "--install", build, "--prefix", root / "stage")
    shutil.move(root / "stage", root / "moved")
    return Install(root / "moved")
