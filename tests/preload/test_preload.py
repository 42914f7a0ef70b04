"""Programs that nobody here wrote, and some that were, with their whole heap in one pool."""

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve()
LIBRARY = TARGET / "release" / "libmempool_preload.so"
RUN = ROOT / "preload" / "mempool-run"
# Nothing here is about speed.
LIMIT_S = 300


@pytest.fixture(scope="session", autouse=True)
def library():
    subprocess.run(["cargo", "build", "--locked", "--release", "--package", "mempool-preload"], cwd=ROOT, check=True)


@pytest.fixture
def build(tmp_path):
    """Compiles a program of this folder."""

    def build(source, *flags):
        program = tmp_path / Path(source).stem
        compiler = "g++" if source.endswith(".cc") else "gcc"
        subprocess.run([compiler, "-O1", "-pthread", "-w", *flags, HERE / source, "-o", program], check=True)
        return program

    return build


def plain_environment():
    return {name: value for name, value in os.environ.items() if not name.startswith("MEMPOOL_PRELOAD")}


def alone(command, **more):
    return subprocess.run(command, capture_output=True, env=plain_environment(), timeout=LIMIT_S, **more)


class Pooled:
    """A command with its heap in a pool, and what each of its processes reported at its exit."""

    def __init__(self, tmp_path):
        self.reports = tmp_path / "reports"

    def command(self, *command, options=()):
        return [RUN, "--library", LIBRARY, f"--report={self.reports}", *options, "--", *command]

    def run(self, *command, options=(), **more):
        return alone(self.command(*command, options=options), **more)

    def lines(self):
        return self.reports.read_text().splitlines() if self.reports.exists() else []

    def assert_nothing_bad(self):
        assert self.lines(), "nobody reported"
        for line in self.lines():
            assert "; 0 bad frees, 0 failed allocations, 0 recoveries;" in line, line


@pytest.fixture
def pooled(tmp_path):
    return Pooled(tmp_path)


@pytest.fixture(params=["private", "shm", "file"])
def place(request, tmp_path):
    return {
        "private": [],
        "shm": ["--shm", f"/mempool-test-{os.getpid()}-%p", "--size", "128M"],
        "file": ["--file", str(tmp_path / "heap-%p"), "--size", "128M"],
    }[request.param]


def test_nothing_but_malloc_and_its_kin_is_exported():
    listing = subprocess.run(["nm", "-D", "--defined-only", LIBRARY], capture_output=True, text=True, check=True).stdout
    names = sorted(line.split()[2] for line in listing.splitlines())
    assert names == sorted(
        "malloc calloc realloc reallocarray free memalign posix_memalign aligned_alloc valloc pvalloc"
        " malloc_usable_size".split()
    )


def test_the_calls_do_what_their_manual_says(build, pooled, place):
    program = build("calls.c")
    assert alone([program]).stdout == b"ok\n", "the test itself is right about glibc"
    ended = pooled.run(program, options=place)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"ok\n", b"")


@pytest.mark.parametrize(
    "mistake, message",
    [
        ("twice", r"free\(0x[0-9a-f]+\): no live block at offset \d+: "),
        ("inside", r"free\(0x[0-9a-f]+\): no live block at offset \d+: "),
        ("foreign", r"free\(0x[0-9a-f]+\): pointer 0x[0-9a-f]+ lies outside the pool's blocks"),
        ("realloc", r"realloc\(0x[0-9a-f]+\): no live block at offset \d+: "),
    ],
)
def test_a_bad_free_is_named_and_the_user_chooses_what_follows(build, pooled, mistake, message):
    program = build("mistakes.c", "-fno-builtin")
    ended = pooled.run(program, mistake)
    assert ended.returncode == -signal.SIGABRT and b"went on" not in ended.stdout
    assert re.match(rf"mempool\[\d+\]: {message}", ended.stderr.decode())

    ended = pooled.run(program, mistake, options=["--bad-free", "report"])
    assert (ended.returncode, ended.stdout) == (0, b"went on\n")
    assert re.match(rf"mempool\[\d+\]: {message}", ended.stderr.decode())

    ended = pooled.run(program, mistake, options=["--bad-free", "ignore"])
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"went on\n", b"")


class Stats(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_size_t)] + [
        (name, ctypes.c_uint64)
        for name in "total overhead used_count used_size free_count free_size cached_count cached_size top available"
        " largest_free align thread_caches max_threads rejected_frees failed_allocs recoveries pool_id".split()
    ]


def inspect(path):
    """The statistics of a pool in a file that is mapped read-only."""
    bytes_ = path.read_bytes()
    library = ctypes.CDLL(os.environ.get("MEMPOOL_LIBRARY", str(TARGET / "release" / "libmempool.so")))
    stats = Stats(struct_size=ctypes.sizeof(Stats))
    library.mempool_inspect.argtypes = [ctypes.c_char_p, ctypes.c_size_t] + [ctypes.c_void_p] * 4
    status = library.mempool_inspect(bytes_, len(bytes_), None, ctypes.byref(stats), None, None)
    assert status == 0
    return stats


@pytest.mark.parametrize("kind", ["shm", "file"])
def test_a_heap_can_be_looked_into_while_the_program_runs(build, pooled, tmp_path, kind):
    name = f"mempool-test-look-{os.getpid()}"
    path = Path("/dev/shm") / name if kind == "shm" else tmp_path / name
    options = ["--size", "16M"] + (["--shm", f"/{name}"] if kind == "shm" else ["--file", path])
    program = build("sleeper.c")
    command = pooled.command(program, options=options)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": plain_environment()}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == b"ready\n"
        stats = inspect(path)
        assert stats.used_count >= 1000 and stats.used_size >= 1000 * 1000
        assert path.stat().st_blocks * 512 >= 16 << 20, "allocated as a whole"

        # Who else wants the name meanwhile gets memory of his own.
        assert alone(pooled.command("true", options=options)).returncode == 0
        assert inspect(path).pool_id == stats.pool_id
        process.communicate(b"\n")
    assert process.returncode == 0 and not path.exists()

    # What a killed one has left is taken, and kept if so asked.
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == b"ready\n"
        process.kill()
    assert inspect(path).used_count >= 1000, "there to be looked into"
    looked_into = open(path, "rb")
    assert alone(pooled.command("true", options=[*options, "--keep"])).returncode == 0
    assert inspect(path).used_count < 1000
    with looked_into:
        assert os.fstat(looked_into.fileno()).st_size == 16 << 20, "who has it mapped keeps it"
    path.unlink()


@pytest.mark.parametrize("kind", ["shm", "file"])
def test_what_is_no_heap_is_left_alone(pooled, tmp_path, kind):
    name = f"mempool-test-other-{os.getpid()}"
    path = Path("/dev/shm") / name if kind == "shm" else tmp_path / name
    options = ["--size", "16M"] + (["--shm", f"/{name}"] if kind == "shm" else ["--file", path])
    path.write_text("precious")
    try:
        ended = pooled.run("echo", "went on", options=options)
        assert (ended.returncode, ended.stdout) == (0, b"went on\n")
        assert b"holds something else, which is left alone: private memory instead" in ended.stderr
        assert path.read_text() == "precious"
    finally:
        path.unlink()


def test_the_library_is_found_from_anywhere(pooled, tmp_path):
    """Through a link to the script, by a relative path; and a path that LD_PRELOAD cannot hold is refused."""
    link = tmp_path / "run"
    link.symlink_to(RUN)
    tree = tmp_path / "tree"
    for folder, file in (("bin", RUN), ("lib", LIBRARY)):
        (tree / folder).mkdir(parents=True)
        shutil.copy(file, tree / folder)
    link.unlink()
    link.symlink_to(tree / "bin" / RUN.name)
    script = ["sh", "-c", "cd / && grep -c libmempool_preload /proc/self/maps"]
    for command in ([link], [link, "--library", os.path.relpath(LIBRARY, tmp_path)]):
        ended = alone([*command, *script], cwd=tmp_path)
        assert (ended.returncode, ended.stderr) == (0, b"") and int(ended.stdout) > 0, command

    tree = tree.rename(tmp_path / "a tree")
    ended = alone([tree / "bin" / RUN.name, "echo", "ran"])
    assert (ended.returncode, ended.stdout) == (2, b"") and b"takes no space or colon" in ended.stderr


def test_options_take_their_values_either_way(pooled):
    for options in (["--size", "48M"], ["--size=48M"]):
        ended = alone([RUN, f"--library={LIBRARY}", *options, "--report", "true"])
        assert ended.returncode == 0 and b" of 48 MiB;" in ended.stderr, ended.stderr
    ended = alone([RUN, "--size"])
    assert (ended.returncode, ended.stderr) == (2, b"mempool-run: --size needs a value; --help says which\n")


def test_a_limit_is_a_limit(pooled):
    code = "try:\n    bytearray(100 << 20)\nexcept MemoryError:\n    print('none')\nprint(len(bytearray(1 << 20)))"
    ended = pooled.run(sys.executable, "-c", code, options=["--size", "48M"])
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"none\n1048576\n", b"")


def test_a_report_is_made_though_the_program_has_closed_its_errors(pooled):
    ended = alone([RUN, "--library", LIBRARY, "--report", "sort", "/dev/null"])
    assert re.fullmatch(rb"mempool\[\d+\]: sort: \d+ KiB in \d+ blocks live at exit, .* resident\n", ended.stderr)


def test_a_programs_own_descriptors_stay_its_own(build, pooled, place, tmp_path):
    """What was the library's is the program's once it has closed all and opened others."""
    program, file = build("closer.c"), tmp_path / "file"
    ended = alone([RUN, "--library", LIBRARY, "--report", *place, program, file])
    assert (ended.returncode, ended.stdout) == (0, b"0 0\n")
    assert file.read_bytes() == b"" and ended.stderr == b""


def test_what_is_misspelt_is_said(pooled):
    ended = alone(["env", "MEMPOOL_PRELOAD_SIZE=huge", "MEMPOOL_PRELOAD_SIZ=1G", f"LD_PRELOAD={LIBRARY}", "true"])
    assert ended.returncode == 0
    assert ended.stderr.count(b"not understood") == 2


# ---- Programs ----


def same(pooled, command, options=(), **more):
    """Runs a command without the pool and with it: the same comes out."""
    expected = alone(command, **more)
    ended = pooled.run(*command, options=options, **more)
    assert (ended.returncode, ended.stdout, ended.stderr) == (expected.returncode, expected.stdout, expected.stderr)
    pooled.assert_nothing_bad()
    return ended


def test_a_shell_with_pipelines(pooled, place):
    script = "for i in $(seq 40); do (echo $i; printf '%s\\n' {1..200}) | sort -n | uniq -c | tail -n 1; done; wait"
    same(pooled, ["bash", "-c", script], place)


def test_sqlite(pooled, place):
    with open(HERE / "big.sql", "rb") as script:
        text = script.read()
    ended = same(pooled, ["sqlite3", ":memory:"], place, input=text)
    assert ended.stdout.splitlines()[-1] == b"66667|1"


def test_git_on_a_repository(pooled, tmp_path):
    script = """set -e
    git init -q -b main r; cd r; git config user.name n; git config user.email e@e; git config gc.auto 0
    for i in $(seq 30); do seq $i 2000 > f$((i % 7)); git add -A; GIT_COMMITTER_DATE="$((1700000000 + i)) +0000" git commit -qm $i --date "$((1700000000 + i)) +0000"; done
    git log -p | md5sum; git gc -q --aggressive --prune=now; git fsck --no-progress; git rev-parse HEAD; git grep -c 77 | md5sum"""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    expected = alone(["bash", "-c", script], cwd=tmp_path / "a")
    ended = pooled.run("bash", "-c", script, cwd=tmp_path / "b")
    assert ended.returncode == 0, ended.stderr
    assert (ended.stdout, ended.stderr) == (expected.stdout, expected.stderr)
    pooled.assert_nothing_bad()


def test_compilers_build_what_runs(build, pooled, tmp_path):
    program = tmp_path / "words-pooled"
    ended = pooled.run("g++", "-std=c++17", "-O1", "-pthread", HERE / "words.cc", "-o", program)
    assert (ended.returncode, ended.stderr) == (0, b"")
    same(pooled, [program])
    ended = pooled.run("rustc", "--edition", "2021", "-O", HERE / "words.rs", "-o", tmp_path / "words-rust")
    assert (ended.returncode, ended.stderr) == (0, b"")
    same(pooled, [tmp_path / "words-rust"])


def test_pythons_own_tests(pooled, tmp_path):
    tests = "test_dict test_list test_json test_thread test_array test_deque".split()
    if os.environ.get("MEMPOOL_TEST_SECONDS"):
        tests += "test_set test_bytes test_gc test_mmap test_weakref test_threading test_subprocess test_fork1 test_ctypes test_os test_io test_re test_pickle".split()
        tests += "test_concurrent_futures test_multiprocessing_fork test_asyncio test_sqlite3 test_zlib test_lzma".split()
    # Debian leaves the tests out of its packages, others leave some out: then a program of our own has to do.
    code = "import importlib.util, sys; print(*[name for name in sys.argv[1:] if importlib.util.find_spec('test.' + name)])"
    tests = alone([sys.executable, "-c", code, *tests]).stdout.decode().split()
    if not tests:
        same(pooled, [sys.executable, HERE / "objects.py"])
        return

    def failures(run):
        ended = run(sys.executable, "-m", "test", *tests, cwd=tmp_path)
        text = ended.stdout.decode(errors="replace")
        assert "Total tests: run=" in text or "tests OK" in text or "test OK" in text, text + ended.stderr.decode()
        return sorted(set(re.findall(r"^test (\w+) (?:failed|crashed)", text, re.M)))

    environment = {**plain_environment(), "PYTHONMALLOC": "malloc"}
    with_pool = failures(lambda *command, **more: subprocess.run(
        pooled.command(*command), capture_output=True, env=environment, timeout=20 * LIMIT_S, **more))
    if with_pool:
        assert with_pool == failures(lambda *command, **more: alone(command, **more))
    assert not [line for line in pooled.lines() if "; 0 bad frees" not in line]


def test_python_objects_threads_and_processes(pooled, place):
    same(pooled, [sys.executable, HERE / "objects.py"], place)


@pytest.fixture
def port():
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_redis_under_load(pooled, port, tmp_path, place):
    server = ["redis-server", "--port", str(port), "--save", "", "--bind", "127.0.0.1"]
    client = ["redis-cli", "-p", str(port)]
    log = open(tmp_path / "log", "wb")
    with subprocess.Popen(pooled.command(*server, options=place), stdout=log, env=plain_environment(), cwd=tmp_path) as process:
        try:
            for _ in range(500):
                if alone([*client, "ping"]).stdout == b"PONG\n":
                    break
                time.sleep(0.02)
            load = ["redis-benchmark", "-p", str(port), "-q", "-n", "10000", "-c", "10", "-r", "5000", "-d", "200"]
            ended = alone([*load, "-t", "set,get,lpush,lpop,sadd,hset,zadd"])
            assert ended.returncode == 0, ended.stderr
            size = alone([*client, "dbsize"]).stdout
            # A forked child writes all of it down, while the parent goes on.
            assert b"started" in alone([*client, "bgsave"]).stdout
            alone([*load, "-t", "set"])
            for _ in range(500):
                info = alone([*client, "info", "persistence"]).stdout
                if b"rdb_bgsave_in_progress:0" in info:
                    break
                time.sleep(0.02)
            assert b"rdb_last_bgsave_status:ok" in info
            assert int(size.split()[-1]) > 1000
            assert (tmp_path / "dump.rdb").stat().st_size > 100_000
        finally:
            alone([*client, "shutdown", "nosave"])
            process.wait(20)
    assert process.returncode == 0
    pooled.assert_nothing_bad()


def test_node_or_java_if_they_are_here(pooled):
    """Programs with heaps of their own beside ours."""
    programs = []
    if shutil.which("node"):
        programs.append(["node", "-e", "let a=[];for(let i=0;i<3e5;i++)a.push({i});console.log(JSON.stringify(a).length)"])
    if shutil.which("java"):
        programs.append(["java", "-Xmx64m", "--version"])
    for program in programs:
        same(pooled, program)
