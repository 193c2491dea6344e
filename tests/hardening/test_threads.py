"""Any number of threads gives the same bits; the process is left as it was; calls at once and Ctrl-C are safe."""

import dis
import gc
import signal
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import nc_fast
from nc_fast.runtime import threads
from nc_fast.runtime.threads import Stop, ordered_map, thread_count
from nc_fast.testing import CASES


def run(rng_seed=0):
    W, X, y = CASES[-1].draw(np.random.default_rng(rng_seed), np.float32)
    return nc_fast.campaign(W, X, y, 50, activation="gelu")


def bits(result):
    return b"".join(np.ascontiguousarray(a).tobytes() for a in (result.indices, result.gains, result.candidates.score))


def blas_threads():
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def test_the_same_bits_for_any_number_of_threads():
    found = []
    for n_threads in (1, 2, 5):
        with threadpool_limits(n_threads, user_api="blas"):
            assert thread_count() == n_threads
            found.append(bits(run()))
    assert found[0] == found[1] == found[2]


def test_thread_counts_are_left_as_found_also_after_an_exception():
    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        run()
        assert blas_threads() == before

        def fails(z):
            assert min(blas_threads()) == 1  # SciPy may have loaded a BLAS of its own, which nc_fast does not call
            raise RuntimeError("mine")

        with pytest.raises(RuntimeError, match="mine"):
            nc_fast.class_moments(np.ones((2, 3)), np.ones((5, 2)), [0, 1, 0, 1, 0], activation=fails)
        assert blas_threads() == before


def test_calls_from_several_threads_at_once_give_the_bits_of_one():
    expected = [bits(run(seed)) for seed in range(4)]
    found = [b""] * 8
    before = blas_threads()

    def work(i):
        found[i] = bits(run(i % 4))

    workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == expected * 2
    assert blas_threads() == before


def test_blas_is_restored_by_the_last_call_out_whichever_thread_came_first():
    """Also while the thread that came first is alive: threadpoolctl lets nobody else set OpenBLAS then."""
    inside, leave = [threading.Event() for _ in range(2)], [threading.Event() for _ in range(3)]

    def call(i):
        threads.single_threaded_blas(lambda: inside[i].set() or leave[i].wait(60))()
        left[i].set()
        leave[2].wait(60)

    left = [threading.Event() for _ in range(2)]
    with threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        workers = [threading.Thread(target=call, args=(i,)) for i in range(2)]
        for i, worker in enumerate(workers):
            worker.start()
            assert inside[i].wait(60)
        assert min(blas_threads()) == 1
        for i in range(2):
            assert blas_threads() != before
            leave[i].set()
            assert left[i].wait(60)
        assert blas_threads() == before
        leave[2].set()
        for worker in workers:
            worker.join()


def test_an_error_in_a_worker_reaches_the_caller_and_stops_the_rest():
    started = []

    def work(item, stop):
        started.append(item)
        if item == 3:
            raise KeyError(item)
        return item

    with pytest.raises(KeyError, match="3"):
        list(ordered_map(work, range(1000), threads=2))
    assert len(started) < 20


def test_an_error_in_a_worker_keeps_no_arrays_alive():
    arrays = []

    def work(item, stop):
        array = np.ones(item)
        arrays.append(weakref.ref(array))
        raise KeyError(item)

    gc.disable()
    try:
        with pytest.raises(KeyError) as raised:
            list(ordered_map(work, range(5), threads=2))
        assert arrays
        del raised
        assert [array() for array in arrays] == [None] * len(arrays)
    finally:
        gc.enable()


def test_order_is_kept_whoever_finishes_first():
    def work(item, stop):
        time.sleep(0.002 * (item % 3))
        return item

    assert list(ordered_map(work, range(30), threads=4)) == list(range(30))


def test_ctrl_c_wherever_a_loop_goes_on(monkeypatch):
    """Python looks for signals there, and leaves some of these jumps out of the ``try`` that they stand in."""
    stops, interrupted, number, tracer = [], 0, -1, sys.gettrace()
    monkeypatch.setattr(threads, "Stop", lambda: stops.append(Stop()) or stops[-1])
    while interrupted == number + 1:
        number += 1
        seen = iter(range(1000))

        def trace(frame, event, _, number=number, seen=seen):
            if frame.f_code.co_filename != threads.__file__:
                return None
            frame.f_trace_opcodes = True
            if event == "opcode" and frame.f_lasti in jumps_back(frame.f_code) and next(seen) == number:
                raise KeyboardInterrupt
            return trace

        try:
            sys.settrace(trace)
            for _ in ordered_map(lambda item, stop: item, range(6), threads=2):
                pass
        except KeyboardInterrupt:
            interrupted += 1
        finally:
            sys.settrace(tracer)
        assert stops[-1].is_set()
    assert interrupted >= 6


def jumps_back(code):
    instructions = dis.get_instructions(code)
    return {i.offset for i in instructions if "JUMP" in i.opname and "NO_INTERRUPT" not in i.opname and i.argval < i.offset}


SCRIPT = """
import sys, threading, numpy as np, nc_fast
from threadpoolctl import threadpool_info
blas = lambda: [i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas"]
rng = np.random.default_rng(0)
W, X, y = rng.normal(size=(784, 100_000)).astype("f4"), rng.random((20_000, 784), dtype="f4"), np.arange(20_000) % 10
nc_fast.class_moments(W[:, :10], X[:100], y[:100])
before, threads = blas(), threading.active_count()
print("ready", flush=True)
try:
    {call}
except KeyboardInterrupt:
    print("stopped", blas() == before, threading.active_count() == threads, flush=True)
"""


@pytest.mark.parametrize("call", ["nc_fast.campaign(W, X, y, 1000)", "nc_fast.select(W, np.ones(100_000), 20_000, by_class=False)"])
def test_ctrl_c_stops_within_a_second(call):
    with subprocess.Popen([sys.executable, "-c", SCRIPT.format(call=call)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(2.5)
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        assert process.stdout.readline() == "stopped True True\n"
        assert time.monotonic() - start < 1.0
