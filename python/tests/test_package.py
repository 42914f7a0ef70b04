"""The package from outside the repository: the wheel, the sdist, the types, the example."""

import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile

import pytest

from conftest import PYTHON, ROOT, alone

TARGET = os.path.abspath(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
VERSION = re.search(r'^version = "(.+)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]

QUICK = {"CARGO_PROFILE_RELEASE_OPT_LEVEL": "0", "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16"}
MYPY = (sys.executable, "-m", "mypy", "--cache-dir", os.path.join(TARGET, "mypy"))


def run(*command, cwd, env=None):
    given = {**os.environ, **(env or {})}
    for name in ("PYTHONPATH", "MEMPOOL_LIBRARY"):
        given.pop(name, None)
    result = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=given,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


def build(kind, source, out, target, env=None):
    """Without isolation: what pyproject.toml requires is in the tests' environment."""
    tools = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
    run(
        *(sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", out, source),
        cwd=out,
        env={"SKBUILD_CMAKE_DEFINE": f"MEMPOOL_CARGO_TARGET_DIR={target}", "PATH": tools, **(env or {})},
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Of the checkout, whose library cargo has built already."""
    out = tmp_path_factory.mktemp("wheel")
    build("wheel", ROOT, out, TARGET)
    (wheel,) = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    out = tmp_path_factory.mktemp("sdist")
    build("sdist", ROOT, out, TARGET)
    (sdist,) = out.glob("*.tar.gz")
    return sdist


def install(wheel, folder):
    """A fresh environment with nothing but the wheel; its interpreter."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-index", "--no-deps", wheel, cwd=folder)
    return python


TRY = """
import mempool, os, pickle, subprocess, sys
assert mempool.__file__.startswith(sys.prefix), mempool.__file__
with open("/proc/self/maps") as maps:
    (library,) = {line.split()[-1] for line in maps if "libmempool" in line}
assert library == os.path.join(os.path.dirname(mempool.__file__), "libmempool.so.0.1"), library
with mempool.Pool.create(None, 1 << 20) as pool:
    array = pool.array("f64", 1000, fill=0.25)
    block = array.obj.keep
    code = "import pickle, sys; b = pickle.loads(bytes.fromhex(sys.argv[1])); b.array('f64')[999] = 7"
    subprocess.check_call([sys.executable, "-c", code, pickle.dumps(block).hex()])
    assert array[999] == 7 and array[998] == 0.25
    subprocess.check_call([sys.executable, "-m", "mempool", "inspect", pool.name], stdout=subprocess.DEVNULL)
    array.release()
    block.free()
    pool.check()
print(mempool.__version__)
"""


def test_the_wheel_is_one_for_all_pythons_and_needs_nothing(wheel, tmp_path):
    assert re.fullmatch(rf"mempool-{re.escape(VERSION)}-py3-none-linux_\w+\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        modules = {f"mempool/{path.name}" for path in (PYTHON / "mempool").glob("*.py")}
        assert {name for name in names if name.startswith("mempool/")} == {
            *modules,
            "mempool/py.typed",
            "mempool/libmempool.so.0.1",
        }
        metadata = archive.read(f"mempool-{VERSION}.dist-info/METADATA").decode()
        assert "\nRequires-Python: >=3.9\n" in metadata and "\nRequires-Dist: numpy; extra == \"numpy\"" in metadata
    assert run(install(wheel, tmp_path / "env"), "-c", TRY, cwd=tmp_path) == VERSION + "\n"


def test_the_sdist_builds_by_itself(sdist, tmp_path):
    """The library too, in a folder of its own: another source would leave its library in the shared one.

    Not optimised, for that is where the time would go.
    """
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path)
    build("wheel", tmp_path / f"mempool-{VERSION}", tmp_path, tmp_path / "target", QUICK)
    (wheel,) = tmp_path.glob("*.whl")
    assert run(install(wheel, tmp_path / "env"), "-c", TRY, cwd=tmp_path) == VERSION + "\n"


def test_the_types_are_right():
    run(*MYPY, "--python-version", "3.9", cwd=ROOT)


def test_a_users_types_are_known(tmp_path):
    """What mypy says of a program that uses the package."""
    (tmp_path / "user.py").write_text(
        "import mempool\n"
        "with mempool.Pool.create(None, 1 << 20) as pool:\n"
        "    reveal_type(pool)\n"
        "    reveal_type(pool.malloc(5).view)\n"
        "    reveal_type(pool.stats().used_count)\n"
        "    pool.malloc('five')\n"
    )
    said = subprocess.run(
        [*MYPY, "--python-version", "3.9", "--strict", "user.py"],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(PYTHON)},
        stdout=subprocess.PIPE,
        universal_newlines=True,
    ).stdout
    revealed = re.findall(r'Revealed type is "(.*?)"', said)
    assert [name.replace("builtins.", "") for name in revealed] == ["mempool.pool.Pool", "memoryview[int]", "int"]
    assert 'incompatible type "str"; expected "int"' in said and "Found 1 error" in said


def test_the_readmes_code_runs():
    first, second, third = re.findall(r"```python\n(.*?)```", (PYTHON / "README.md").read_text(), re.DOTALL)
    assert alone(first) == ("2 b'hello'\n", "")
    assert alone(second)[0] == "[0. 1. 2. 3. 4. 5. 6. 7.]\n"
    compile(third, "README.md", "exec")  # a part of what the example does


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_the_example_hands_its_images_over(start):
    said = subprocess.run(
        [sys.executable, str(PYTHON / "examples" / "images.py"), "--start", start],
        env={**os.environ, "PYTHONPATH": str(PYTHON)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        timeout=60,
    ).stdout
    assert re.findall(r"^(.+): 50 images of 256 KiB in [\d.]+ s$", said, re.MULTILINE) == [
        "by offset",
        "pickled",
        "SharedMemory",
    ]
