"""Programs outside the repository use the installed and moved library, or embed its sources, in every way promised."""

import re

import pytest

from conftest import SOURCE, VERSION, run

HERE = SOURCE / "tests" / "consumers"
MAJOR, MINOR, PATCH = (int(part) for part in VERSION.split("."))
SONAME = "libmempool.so." + (f"0.{MINOR}" if MAJOR == 0 else str(MAJOR))
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
COMPILERS = {"c": ["cc", "-std=c11"], "cpp": ["c++", "-std=c++17"], "containers": ["c++", "-std=c++17"]}
SOURCES = {"c": "main.c", "cpp": "main.cpp", "containers": "containers.cpp"}
LANGUAGES = list(SOURCES)


def needed(binary):
    """The shared libraries that a binary names."""
    return re.findall(r"\(NEEDED\).*\[(.+)\]", run("readelf", "--dynamic", "--wide", binary))


def check_program(program, shared, env=None):
    """The program runs, and it has the library from where it should."""
    assert run(program, env=env) == VERSION + "\n"
    assert (SONAME in needed(program)) == shared


# ---- The installed tree ----


def test_installed_files(install):
    """Exactly these files, the links among them relative."""
    files = {str(path.relative_to(install.prefix)) for path in install.prefix.rglob("*") if not path.is_dir()}
    lib = str(install.lib.relative_to(install.prefix))
    manual = {path for path in files if path.startswith("share/man/man3/mempool")}
    assert {"share/man/man3/mempool.3", "share/man/man3/mempool_malloc.3"} <= manual
    assert files - manual == {
        "bin/mempool-run",
        "include/mempool.h",
        "include/mempool.hpp",
        f"{lib}/libmempool.a",
        f"{lib}/libmempool.so",
        f"{lib}/{SONAME}",
        f"{lib}/libmempool.so.{VERSION}",
        f"{lib}/libmempool_preload.so",
        f"{lib}/cmake/mempool/mempoolConfig.cmake",
        f"{lib}/cmake/mempool/mempoolConfigVersion.cmake",
        f"{lib}/pkgconfig/mempool.pc",
        "share/mempool/mempool_gdb.py",
        "share/doc/mempool/LICENSE-APACHE",
        "share/doc/mempool/LICENSE-MIT",
    }
    links = {path.name: str(path.readlink()) for path in install.lib.iterdir() if path.is_symlink()}
    assert links == {"libmempool.so": SONAME, SONAME: f"libmempool.so.{VERSION}"}


def test_soname(install):
    assert f"[{SONAME}]" in run("readelf", "--dynamic", "--wide", install.shared)


def test_no_path_is_absolute(install, build):
    """The texts that build systems read name neither where the tree was built nor where it was installed."""
    for text in [*install.prefix.rglob("*.cmake"), install.pc]:
        content = text.read_text()
        for folder in (SOURCE, build, install.prefix.parent):
            assert str(folder) not in content, f"{text} names {folder}"


# ---- Programs, by each way to reach the library ----


def cmake_consumer(folder, generator, *options, env=None):
    run("cmake", "-G", generator, "-S", HERE, "-B", folder, *options, env=env)
    run("cmake", "--build", folder, env=env)
    return folder


@pytest.fixture(scope="session")
def by_cmake(tmp_path_factory, install, build):
    """The consumer project built once for each way that CMake knows."""
    embed = [f"-DMEMPOOL_SOURCE={SOURCE}", f"-DMEMPOOL_CARGO_TARGET_DIR={build / 'cargo'}"]
    ways = {
        "find_package": ("Unix Makefiles", [f"-DCMAKE_PREFIX_PATH={install.prefix}"]),
        "add_subdirectory": ("Ninja", embed),
        "FetchContent": ("Unix Makefiles", embed),
    }
    done = {}

    def build_once(way):
        if way not in done:
            generator, options = ways[way]
            done[way] = cmake_consumer(tmp_path_factory.mktemp(way), generator, f"-DBY={way}", *options)
        return done[way]

    return build_once


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("target", ["mempool", "static"])
@pytest.mark.parametrize("way", ["find_package", "add_subdirectory", "FetchContent"])
def test_cmake(by_cmake, way, target, language):
    check_program(by_cmake(way) / f"{language}-{target}", shared=target == "mempool")


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", ["shared", "static", "fully-static"])
def test_pkg_config(install, tmp_path, kind, language):
    """`fully-static` is what `cc -static` makes; `static` takes the archive alone and the rest of the system shared."""
    query = ["pkg-config", "--cflags", "--libs", "mempool"]
    if kind != "shared":
        query.insert(1, "--static")
    flags = run(*query, env=install.env).split()
    if kind == "static":
        at = flags.index("-lmempool")
        flags[at : at + 1] = ["-Wl,-Bstatic", "-lmempool", "-Wl,-Bdynamic"]
    elif kind == "fully-static":
        flags.append("-static")

    program = tmp_path / "program"
    run(*COMPILERS[language], *WARNINGS, HERE / SOURCES[language], *flags, "-o", program)
    check_program(program, shared=kind == "shared", env=install.env if kind == "shared" else None)
    if kind == "fully-static":
        assert needed(program) == []


def test_pkg_config_version(install):
    assert run("pkg-config", "--modversion", "mempool", env=install.env) == VERSION + "\n"


# ---- Versions ----


def ask_for(version, install, folder, fails):
    """Configures the consumer, which wants that version of the package."""
    return run(
        "cmake", "-S", HERE, "-B", folder, "-DBY=find_package", f"-DVERSION={version}",
        f"-DCMAKE_PREFIX_PATH={install.prefix}", fails=fails,
    )  # fmt: skip


@pytest.mark.parametrize("version", [f"{MAJOR}.{MINOR}", VERSION, f"{VERSION};EXACT"])
def test_right_version(install, tmp_path, version):
    ask_for(version, install, tmp_path, fails=False)


REFUSED = [f"{MAJOR}.{MINOR}.{PATCH + 1}", f"{MAJOR}.{MINOR + 1}", f"{MAJOR + 1}.0"]
if MAJOR == 0:
    REFUSED.append(f"0.{MINOR - 1}")


@pytest.mark.parametrize("version", REFUSED)
def test_wrong_version_is_refused(install, tmp_path, version):
    """A later one, another major, and while it is 0.N every other N: there the interface may change."""
    said = ask_for(version, install, tmp_path, fails=True)
    assert f"version: {VERSION}" in said, said
