"""How many threads a call uses, and running ordered work on them.

The count is the one the process's BLAS is set to, so that OPENBLAS_NUM_THREADS, OMP_NUM_THREADS and
``threadpoolctl.threadpool_limits`` govern nc_fast as they govern ``X @ W``.
"""

from __future__ import annotations

import _thread
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial, wraps
from queue import Empty, SimpleQueue
from threading import Lock, get_ident, gettrace
from typing import Any, Generic, ParamSpec, TypeVar

from threadpoolctl import ThreadpoolController

Item = TypeVar("Item")
Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


@cache
def _blas() -> Any:
    import numpy  # noqa: F401  (its BLAS must be loaded to be found)

    return ThreadpoolController().select(user_api="blas")


class _SingleThreadedBlas:
    """Holds the process's BLAS at one thread while any caller is inside; the last one out restores what the first one found."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._callers: dict[object, int] = {}  # and the threads they are on
        self._found: list[int] = []
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self._lock.acquire, after_in_parent=self._lock.release, after_in_child=self._after_fork)

    def threads(self) -> int:
        with self._lock:
            return max(self._found) if self._callers else _threads_set()

    def __call__(self, function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        """Return the function as one that is called while BLAS is held.

        No context manager: Ctrl-C at the first instruction of an ``__exit__`` would leave BLAS held for good. It may also cut
        ``_leave`` short, so that it is called twice, the second time mostly for nothing.
        """

        @wraps(function)
        def held(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            caller = object()
            try:
                self._enter(caller)
                return function(*args, **kwargs)
            finally:
                try:
                    self._leave(caller)
                finally:
                    self._leave(caller)

        return held

    def _enter(self, caller: object) -> None:
        with self._lock:
            libraries = _blas().lib_controllers
            if not self._callers:
                self._found = [library.num_threads for library in libraries] or [_threads_set()]
            self._callers[caller] = get_ident()  # before anything is set: from here on _leave sets it right
            for library in libraries:
                _set_threads(library, 1)

    def _leave(self, caller: object) -> None:
        with self._lock:
            if len(self._callers) == 1 and caller in self._callers:
                self._restore()
            self._callers.pop(caller, None)

    def _restore(self) -> None:
        for library, threads in zip(_blas().lib_controllers, self._found, strict=False):
            _set_threads(library, threads)

    def _after_fork(self) -> None:
        """Forget the callers on threads that the child does not have."""
        mine = {caller: thread for caller, thread in self._callers.items() if thread == get_ident()}
        if self._callers and not mine:
            self._restore()
        self._callers = mine
        self._lock.release()


def _set_threads(library: Any, threads: int) -> None:
    # threadpoolctl 3.8 ignores all threads but the first that set OpenBLAS, while that one lives: a caller beside a user's limit,
    # or last out after another came in first, would set nothing.
    release = getattr(library, "clear_controlling_thread", lambda **_: None)
    release(force=True)
    library.set_num_threads(threads)
    release(force=True)


def _threads_set() -> int:
    libraries = _blas().lib_controllers
    if not libraries:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(int(library.num_threads) for library in libraries)


single_threaded_blas = _SingleThreadedBlas()
thread_count = single_threaded_blas.threads


class Stopped(Exception):  # noqa: N818 (nothing went wrong)
    """Raised inside a worker whose result nobody waits for any more."""


class Stop:
    """Whether anybody still waits. A threading.Event that Ctrl-C cuts short while it is set stays locked."""

    _set = False

    def set(self) -> None:
        self._set = True

    def is_set(self) -> bool:
        return self._set


IDLE_S = 0.5  # how soon waiting threads look whether the others are still there


class _Call(Generic[Result]):
    """A function's call on a worker, and what came of it."""

    _result: Result
    _error: BaseException | None = None

    def __init__(self, function: Callable[[], Result]) -> None:
        self.done = False
        self._function = function
        self._waiting = Lock()
        self._waiting.acquire()

    def run(self) -> None:
        try:
            self._result = self._function()
        except BaseException as error:
            self._error = error
        self.done = True
        self._waiting.release()
        del self  # an error's traceback holds this frame: no cycle that keeps arrays alive

    def wait(self) -> None:
        """Wait until it is done, but no longer than ``IDLE_S``."""
        self._waiting.acquire(timeout=IDLE_S)

    def result(self) -> Result:
        if self._error is None:
            return self._result
        try:
            raise self._error
        finally:
            del self  # as above


class _Worker:
    """A thread that runs calls from a queue until it is stopped.

    Started by hand: Ctrl-C in ``Thread.start`` leaves a thread running that nobody knows of. What the calling thread does here is
    either one call into C, which Ctrl-C does not cut short, or may be done again.
    """

    def __init__(self, calls: SimpleQueue[_Call[Any] | None], stop: Stop) -> None:
        self.running = False
        self._calls = calls
        self._stop = stop
        self._ended = Lock()
        self._ended.acquire()

    def start(self) -> None:
        """Start it. Raises RuntimeError where no thread can be had."""
        _thread.start_new_thread(self._run, ())

    def _run(self) -> None:
        self.running = True
        try:
            sys.settrace(gettrace())  # as a Thread does, for debuggers and coverage
            while not self._stop.is_set():
                try:
                    call = self._calls.get(timeout=IDLE_S)
                except Empty:
                    continue
                if call is not None:
                    call.run()
                del call  # its result is not kept alive while this worker waits
        except MemoryError:  # not of the call, which keeps its own: not even a frame could be had
            pass
        finally:
            self.running = False
            self._ended.release()

    def join(self) -> None:
        """Wait for its end, once ``stop`` is set; may be called again."""
        while self.running:
            self._ended.acquire(timeout=IDLE_S)


def _started(workers: list[_Worker]) -> bool:
    """Start as many as the system has threads for; fewer do the same work."""
    started = 0
    for worker in workers:
        try:
            worker.start()
        except RuntimeError:  # "can't start new thread": memory or the number of threads is limited
            break
        started += 1
    return started > 0


def ordered_map(function: Callable[[Item, Stop], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Yield ``function(item, stop)`` for every item, in order, computed by ``threads`` threads.

    At most ``threads + 1`` results are held or under way. When the consumer leaves early (an exception, Ctrl-C), ``stop``
    is set and running calls are waited for; ``function`` looks at it often.
    """
    stop = Stop()
    calls: SimpleQueue[_Call[Result] | None] = SimpleQueue()
    workers = [_Worker(calls, stop) for _ in range(threads if threads > 1 else 0)]
    pending: deque[_Call[Result]] = deque()
    try:
        if not _started(workers):
            for item in items:
                yield function(item, stop)
            return
        for item in items:
            pending.append(_Call(partial(function, item, stop)))
            calls.put(pending[-1])
            if len(pending) > threads:
                yield _result(pending.popleft(), workers, calls)
        while pending:
            yield _result(pending.popleft(), workers, calls)
    finally:
        try:
            _end(workers, calls, stop)
        finally:  # again, where Ctrl-C cut it short
            _end(workers, calls, stop)


def _result(call: _Call[Result], workers: list[_Worker], calls: SimpleQueue[Any]) -> Result:
    while not call.done:
        call.wait()
        if call.done or any(worker.running for worker in workers):
            continue
        try:  # threads that ran out of memory before they did anything: their work is done here
            calls.get_nowait().run()
        except Empty:
            if not call.done and not any(worker.running for worker in workers):
                raise MemoryError("a worker thread ended for want of memory") from None
    return call.result()


def _end(workers: list[_Worker], calls: SimpleQueue[Any], stop: Stop) -> None:
    stop.set()
    try:
        for _ in workers:
            calls.put(None)  # wakes one
    finally:
        for worker in workers:
            worker.join()
