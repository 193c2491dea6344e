"""Short forms of benchmarks/reliability.py: nothing leaks, Ctrl-C at any moment, too little memory; and threads that cannot be had."""

import _thread
import mmap
import os
import re
import subprocess
import sys

import pytest

pytest.importorskip("typer")

import reliability
from conftest import ROOT

from nc_fast.runtime import threads
from nc_fast.runtime.threads import ordered_map

SIZE = (1500, 32, 400, 210)
WORK = reliability.Work(*SIZE)
NAMES = list(WORK.calls)
CALLS = {"campaign, screened": 60}  # instead of 500: it takes 0.15 s a call
WORK_AGAIN = f"r.Work({', '.join(map(str, SIZE))})"

pytestmark = pytest.mark.skipif(not reliability.SELF.is_dir(), reason="/proc/self is read")


@pytest.mark.parametrize("name", NAMES)
def test_calls_leave_nothing_behind(name):
    """In a process that coverage does not watch: it keeps a tracer of every thread that ever was."""
    calls = CALLS.get(name, 500)
    left = unwatched(f"r.screening_always()(r.left_by)({WORK_AGAIN}.calls[{name!r}], {calls})")
    rss, descriptors, threads = map(int, re.findall(r"-?\d+", left))
    assert rss < 6 * reliability.MIB  # one result kept a call: 12 MiB of moments, 10 MiB of screened campaigns
    assert (descriptors, threads) == (0, 0)


def unwatched(expression: str) -> str:
    """Return what is printed of the value in a process of its own, without coverage."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE_")}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])
    program = f"import reliability as r; print({expression})"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_leak_would_be_seen():
    kept = []

    def leaking():
        fresh = mmap.mmap(-1, 100_000)  # not of the heap, which may have that much free from other tests
        fresh.write(b"x" * 100_000)
        kept.append((WORK.calls["select"](), fresh, os.open(os.devnull, os.O_RDONLY)))

    try:
        left = reliability.left_by(leaking, 500, warm=1)
    finally:
        for *_, descriptor in kept:
            os.close(descriptor)
    assert left.rss > 4 * reliability.MIB  # of 50 MB
    assert left.descriptors >= 500


@pytest.mark.parametrize("name", NAMES)
def test_ctrl_c_at_random_moments(name):
    """Without coverage: a tracer interrupted while it holds its own lock never comes back."""
    times = reliability.fewer(100, name)
    assert unwatched(f"*r.screening_always()(r.interrupted)({WORK_AGAIN}, {name!r}, {times})").split() == [str(times), "Counter()"]


def test_ctrl_c_while_blas_is_set_or_restored(monkeypatch):
    """At every call into the BLAS controllers that a call makes, one after the other."""
    library_type = type(threads._blas_libraries()[0])
    set_num_threads, before = library_type.set_num_threads, reliability.blas_threads()
    interrupted, number = 0, -1
    while interrupted == number + 1:
        number += 1
        seen = iter(range(1000))

        def interrupt(self, threads, number=number, seen=seen):
            if next(seen) == number:
                raise KeyboardInterrupt
            return set_num_threads(self, threads)

        monkeypatch.setattr(library_type, "set_num_threads", interrupt)
        try:
            threads.single_threaded_blas(lambda: None)()
        except KeyboardInterrupt:
            interrupted += 1
        monkeypatch.undo()
        assert reliability.blas_threads() == before
    assert interrupted >= 2


@pytest.mark.slow
@pytest.mark.skipif(sys.gettrace() is not None, reason="a tracer needs memory of its own")
def test_too_little_memory_is_a_memory_error_and_no_more():
    work = reliability.Work(500, 64, 40_000, 50, classes=40)  # each result of 12 MiB, several at a time
    WORK.calls["class_moments"]()  # compiled code comes with the first call, and cannot where memory is scarce
    outcomes = reliability.starved_at(work, "class_moments", [16 * reliability.MIB, 512 * reliability.MIB])
    assert list(outcomes.values()) == ["MemoryError", "right"]


def test_without_threads_to_be_had_the_calling_thread_does_the_work(monkeypatch):
    expected = WORK.calls["class_moments"]()

    def refuse(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", refuse)
    assert WORK.calls["class_moments"]() == expected


def test_workers_that_never_begin_are_stood_in_for(monkeypatch):
    monkeypatch.setattr(threads, "IDLE_S", 0.01)
    monkeypatch.setattr(threads._Workers, "_run", lambda self: None)
    assert list(ordered_map(lambda item, stop: item * item, range(20), threads=2)) == [item * item for item in range(20)]


@pytest.mark.parametrize("lost", [{0}, {1}, {0, 1}])
def test_a_call_lost_with_its_worker_is_a_memory_error(monkeypatch, lost):
    """Also where another worker lives on."""
    run, numbers = threads._Call.run, iter(range(10))

    def no_frame(self):
        if next(numbers) in lost:
            raise MemoryError
        run(self)

    monkeypatch.setattr(threads._Call, "run", no_frame)
    with pytest.raises(MemoryError, match="worker thread"):
        list(ordered_map(lambda item, stop: item, range(2), threads=2))
