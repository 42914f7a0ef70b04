"""What the tests share."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mempool

PYTHON = Path(__file__).resolve().parent.parent
ROOT = PYTHON.parent
HOW = ["fork", "spawn"]


@pytest.fixture
def pool():
    """A pool in shared memory. The test leaves no view behind, or closing it fails."""
    with mempool.Pool.create(None, 1 << 22) as pool:
        yield pool
        if not pool.closed:
            pool.check()


@pytest.fixture(params=HOW)
def processes(request):
    """multiprocessing, with both ways to start a process in turn."""
    return multiprocessing.get_context(request.param)


def alone(code, *arguments, env=None, status=0):
    """Runs code in an interpreter that is no child of multiprocessing: it has a resource tracker of its own."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(PYTHON), **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=60,
    )
    assert result.returncode == status, result.stdout + result.stderr
    return result.stdout, result.stderr
