"""Pursuit and the process: threads, Ctrl-C, progress, and memory that is not its own."""

import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from pursuit_cases import small
from stream_cases import drawn_problem
from threadpoolctl import threadpool_limits

import nc_fast
from nc_fast.backends.cpu import pursue as cpu

HOSTS = ["cpu", "reference"]


@pytest.mark.parametrize("block", [1, 16, "auto"])
def test_the_same_bits_for_any_number_of_threads(block, monkeypatch):
    monkeypatch.setattr(cpu, "SMALL_POOL", 0)
    rng = np.random.default_rng(1)
    W, X = rng.normal(size=(20, 2500)).astype(np.float32), rng.normal(size=(5000, 20)).astype(np.float32)
    y = np.abs(X[:, :3]).argmax(axis=1)
    found = []
    for threads in (1, 2, 3):
        with threadpool_limits(threads, user_api="blas"):
            result = nc_fast.pursuit(W, X, y, 40, block=block, max_samples=1100)
        arrays = (result.indices, result.gains, result.explained, result.head, result.intercept, result.gram.gram, result.ridge)
        found.append(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays))
    assert found[0] == found[1] == found[2]


SCRIPT = """
import threading, numpy as np, nc_fast
from threadpoolctl import threadpool_info
blas = lambda: [i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas"]
rng = np.random.default_rng(0)
W, X, y = rng.normal(size=(64, 20_000)).astype("f4"), rng.random((20_000, 64), dtype="f4"), np.arange(20_000) % 10
nc_fast.pursuit(W[:, :50], X[:100], y[:100], 5)
before, threads = blas(), threading.active_count()
print("ready", flush=True)
try:
    nc_fast.pursuit(W, X, y, 4000, block={block})
except KeyboardInterrupt:
    print("stopped", blas() == before, threading.active_count() == threads, flush=True)
"""


@pytest.mark.parametrize("block", ["1", "'auto'"])
def test_ctrl_c_stops_within_a_second(block):
    with subprocess.Popen([sys.executable, "-c", SCRIPT.format(block=block)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(2.5)
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        assert process.stdout.readline() == "stopped True True\n"
        assert time.monotonic() - start < 1.0


@pytest.mark.parametrize("backend", HOSTS)
@pytest.mark.parametrize("block", [1, 16])
def test_progress_reaches_its_total(backend, block, monkeypatch):
    monkeypatch.setattr(cpu, "SMALL_POOL", 0)
    W, X, y = drawn_problem()
    seen = []
    nc_fast.pursuit(W, X, y, 20, max_samples=300, block=block, backend=backend, progress=lambda done, total: seen.append((done, total)))
    picks, head = ([pair for pair in seen if pair[1] == total] for total in (20, len(X)))
    assert seen == picks + head
    for reports in (picks, head):
        assert reports[-1][0] == reports[-1][1]
        assert [done for done, _ in reports] == sorted({done for done, _ in reports})
    assert len(head) == 3


@pytest.mark.parametrize("backend", HOSTS)
def test_what_is_given_is_not_changed(backend):
    W, X, _ = small()
    given = {"W": W, "X": X, "y": X[:, :2] + 5, "bias": np.linspace(-1, 1, 60)}
    before = {name: array.tobytes() for name, array in given.items()}
    for array in given.values():
        array.flags.writeable = False
    for activation in ("relu", "identity", lambda z: z):
        found = nc_fast.pursuit(W, X, given["y"], 5, bias=given["bias"], activation=activation, backend=backend)
        gram = [array.tobytes() for array in (found.gram.gram, found.gram.cross, *found.gram.rows)]
        found.take(2)
        nc_fast.ridge_head(found.gram, ridge=0.1)
        assert gram == [array.tobytes() for array in (found.gram.gram, found.gram.cross, *found.gram.rows)]
    assert before == {name: array.tobytes() for name, array in given.items()}
