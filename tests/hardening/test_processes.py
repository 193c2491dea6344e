"""Calls from eight threads, from forked and spawned processes, and beside a DataLoader's workers: the bits of one call."""

import multiprocessing
import os
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("typer")

import reliability
from threadpoolctl import threadpool_limits

import nc_fast
from nc_fast.runtime.threads import single_threaded_blas, thread_count

WORK = reliability.Work(3000, 32, 400, 210)  # several tiles, and a selection large enough for threads


def results():
    return {name: call().hex() for name, call in WORK.calls.items()}


@pytest.fixture(scope="module")
def expected():
    return results()


def send_results(queue):
    queue.put(results())


def test_eight_threads_that_call_different_functions_get_the_bits_of_one(expected):
    names = list(WORK.calls)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: (names[i % 4], WORK.calls[names[i % 4]]().hex()), range(80)))
    assert all(expected[name] == answer for name, answer in found)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_process_started_after_use_gets_the_same_bits(method, expected):
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: a fork of a process with threads
        processes = [context.Process(target=send_results, args=(queue,)) for _ in range(2)]
        for process in processes:
            process.start()
    assert [queue.get(timeout=120) for _ in processes] == [expected] * 2
    for process in processes:
        process.join(60)
        assert process.exitcode == 0


def test_a_fork_amid_another_threads_call_has_its_blas_threads_back():
    inside, leave = threading.Event(), threading.Event()

    def hold():
        single_threaded_blas(lambda: inside.set() or leave.wait(60))()

    with threadpool_limits(2, user_api="blas"):
        other = threading.Thread(target=hold)
        other.start()
        assert inside.wait(60)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                found = reliability.in_child(lambda: repr((reliability.blas_threads(), thread_count(), WORK.calls["campaign"]().hex())))
            assert min(reliability.blas_threads()) == 1
        finally:
            leave.set()
            other.join()
        assert found == repr((reliability.blas_threads(), 2, WORK.calls["campaign"]().hex()))


def test_a_fork_inside_a_call_leaves_the_child_inside_it():
    with threadpool_limits(2, user_api="blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        before = reliability.blas_threads()

        def fork():
            return reliability.in_child(lambda: str(min(reliability.blas_threads())))

        assert single_threaded_blas(fork)() == "1"
        assert reliability.blas_threads() == before


LOADER = """
import sys, numpy as np, torch, nc_fast
from torch.utils.data import DataLoader, TensorDataset
if __name__ == "__main__":
    rng = np.random.default_rng(0)
    W, X, y = rng.standard_normal((32, 200), np.float32), rng.random((3000, 32), np.float32), np.arange(3000) % 3
    expected = nc_fast.class_moments(W, X, y)  # used before the workers are made
    loader = DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(y)), 250, num_workers=2, multiprocessing_context=sys.argv[1])
    for _ in range(2):
        found = nc_fast.class_moments(W, loader)
        for name in ("count", "mean", "m2"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    print("the same bits")
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_dataloader_with_workers(method, tmp_path):
    pytest.importorskip("torch")
    script = tmp_path / "loader.py"
    script.write_text(LOADER)
    path = os.pathsep.join([str(reliability.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, str(script), method],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.stdout == "the same bits\n", done.stderr


def test_workers_of_a_dataloader_may_call_it():
    torch = pytest.importorskip("torch")

    class Moments(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, number):
            return nc_fast.class_moments(WORK.W, WORK.X, WORK.y).mean[:, number]

    expected = nc_fast.class_moments(WORK.W, WORK.X, WORK.y).mean
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        found = list(torch.utils.data.DataLoader(Moments(), batch_size=None, num_workers=2, multiprocessing_context="fork"))
    np.testing.assert_array_equal(np.stack(found, axis=1), expected[:, :4])
