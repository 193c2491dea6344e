"""Long runs that the tests repeat in short: what ten thousand calls leave behind, Ctrl-C at random moments, too little memory.

    python benchmarks/reliability.py leaks             # 10,000 calls of each function
    python benchmarks/reliability.py interrupts        # 200 of each
    python benchmarks/reliability.py memory

Each prints a table and exits with 1 where something does not hold. Linux only: they read /proc/self.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from inputs import screening_always
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_info

import nc_fast
from nc_fast._projector import NullSpaceProjector

MIB = 1024 * 1024
ROOT = Path(__file__).resolve().parent.parent
SELF = Path("/proc/self")
SCREENED_POOL = 2000
FEWER = {"campaign, screened": 2}  # times: it takes 0.15 s a call
app = typer.Typer(help=__doc__, add_completion=False)


def fewer(times: int, name: str) -> int:
    """Return how often to make a call where quick ones are made so many times."""
    return times // FEWER.get(name, 1)


class Work:
    """The functions under test on one set of inputs, each returning its result's bits."""

    def __init__(self, N: int, D: int, M: int, k: int, classes: int = 3) -> None:
        rng = np.random.default_rng(0)
        self.W, self.X = rng.standard_normal((D, M), np.float32), rng.random((N, D), np.float32)
        self.y, self.score = np.arange(N) % classes, rng.random(M)
        self.pool = self.W if M >= SCREENED_POOL else rng.standard_normal((D, SCREENED_POOL), np.float32)
        self.calls: dict[str, Callable[[], bytes]] = {
            "class_moments": self._moments,
            "select": lambda: bits(nc_fast.select(self.W, self.score, k, groups=np.arange(M) % 4).indices),
            "campaign": lambda: bits(nc_fast.campaign(self.W, self.X, self.y, k).indices),
            "campaign, screened": self._screened,
            "NullSpaceProjector": self._project,
        }

    def _moments(self) -> bytes:
        moments = nc_fast.class_moments(self.W, self.X, self.y)
        return bits(moments.count, moments.mean, moments.m2)

    def _screened(self) -> bytes:
        return bits(nc_fast.campaign(self.pool, self.X, self.y, 50, method="screened").indices)

    def _project(self) -> bytes:
        projector = NullSpaceProjector(len(self.W))
        for j in range(min(5, len(self.W))):
            projector.add(self.W[:, j])
        return bits(projector.ratios(self.W), projector.copy().basis)

    def inputs(self) -> bytes:
        return bits(self.W, self.X, self.y, self.score)


def bits(*arrays: Any) -> bytes:
    return sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).digest()


def blas_threads() -> list[int]:
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def status(field: str) -> int:
    """Return a number of /proc/self/status; sizes in bytes."""
    line = next(line for line in (SELF / "status").read_text().splitlines() if line.startswith(field + ":")).split()
    return int(line[1]) * (1024 if line[-1] == "kB" else 1)


def descriptors() -> int:
    return len(os.listdir(SELF / "fd"))


def threads(at_most: int = 1) -> int:
    """Return the process's threads; while there are more than expected, those that are ending get half a second to."""
    give_up = time.monotonic() + 0.5
    while status("Threads") > at_most and time.monotonic() < give_up:
        time.sleep(0.001)
    return status("Threads")


@dataclass(frozen=True)
class Left:
    """What calls left behind."""

    rss: int  # bytes
    descriptors: int
    threads: int


def left_by(call: Callable[[], object], calls: int, warm: int = 100) -> Left:
    for _ in range(warm):
        call()
    before = Left(status("VmRSS"), descriptors(), threads())
    for _ in range(calls):
        call()
    return Left(status("VmRSS") - before.rss, descriptors() - before.descriptors, threads(before.threads) - before.threads)


def interrupted(work: Work, name: str, times: int, seed: int = 0) -> tuple[int, Counter[str]]:
    """Interrupt the call at random moments; return how often it was, and what was then not as it should be.

    A timer's signal gets the handler of Ctrl-C: it hits any moment, unlike a thread that would have to wait for the GIL.
    """
    call, wrong, hits = work.calls[name], Counter[str](), 0
    expected, blas, before = call(), blas_threads(), threads()
    duration = min(timed(call) for _ in range(5))
    draw = random.Random(seed)
    old_handler, old_hook = signal.signal(signal.SIGALRM, signal.default_int_handler), sys.unraisablehook
    sys.unraisablehook = lambda _: wrong.update(["interrupt lost"])
    try:
        while hits < times:
            hit = False
            try:
                signal.setitimer(signal.ITIMER_REAL, draw.uniform(1e-6, duration))
                call()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                hit = True
                wrong.update(["BLAS threads not restored"] * (blas_threads() != blas))
            except BaseException as error:
                hit = True
                wrong.update([f"{type(error).__name__} in place of KeyboardInterrupt"])
            if hit:
                hits += 1
                wrong.update(["threads left"] * (threads(before) != before))
                wrong.update(["next call wrong"] * (call() != expected))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old_handler)
        sys.unraisablehook = old_hook
    return hits, wrong


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def in_child(function: Callable[[], str]) -> str:
    """Return what the function returns in a fork of this process, or how the fork died."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.write(write, function().encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        said = answer.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return said if said and code == 0 else f"died with {code}, said {said!r}"


def starved(work: Work, name: str, budget: int, expected: str) -> str:
    """Call with that many bytes of address space on top of what the process has, then without a limit; say what came of it."""
    call, inputs = work.calls[name], work.inputs()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (status("VmSize") + budget, hard))
    try:
        outcome = "right" if call().hex() == expected else "wrong"
    except MemoryError:
        outcome = "MemoryError"
    except BaseException as error:
        outcome = f"{type(error).__name__}: {error}"
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    if work.inputs() != inputs:
        outcome += ", inputs changed"
    if call().hex() != expected:
        outcome += ", next call wrong"
    return outcome


def starved_at(work: Work, name: str, budgets: list[int]) -> dict[int, str]:
    """Return what comes of each budget, every one in a fork: what an earlier call has freed would be used again."""
    expected = in_child(lambda: work.calls[name]().hex())
    return {budget: in_child(lambda budget=budget: starved(work, name, budget, expected)) for budget in budgets}  # type: ignore[misc]


@app.command()
@screening_always()
def leaks(calls: int = 10_000) -> None:
    """Show by how much calls raise resident memory, file descriptors and threads."""
    work, table = Work(1500, 32, 400, 210), Table("function", "calls", "RSS, KiB", "descriptors", "threads", "s")
    held = True
    for name, call in work.calls.items():
        start = time.monotonic()
        n = fewer(calls, name)
        left = left_by(call, n)
        table.add_row(
            name, str(n), f"{left.rss / 1024:+.0f}", f"{left.descriptors:+d}", f"{left.threads:+d}", f"{time.monotonic() - start:.0f}"
        )
        held &= left.rss < 2 * MIB and left.descriptors == left.threads == 0
    finish(table, held)


@app.command()
@screening_always()
def interrupts(times: int = 200, seed: int = 0) -> None:
    """Interrupt each function at random moments, short calls and longer ones; show what was not as it should be."""
    table, held = Table("function", "samples", "interrupted", "not as it should be"), True
    for sizes in ((1500, 32, 400, 210), (60_000, 100, 2000, 600)):
        work = Work(*sizes)
        for name in work.calls:
            hits, wrong = interrupted(work, name, times, seed)
            table.add_row(name, str(sizes[0]), str(hits), ", ".join(f"{what}: {count}" for what, count in wrong.items()) or "nothing")
            held &= not wrong
    finish(table, held)


@app.command()
@screening_always()
def memory(budgets: Annotated[list[int] | None, typer.Argument(help="MiB.")] = None) -> None:
    """Give each function so much address space on top of its inputs and what the process has."""
    for call in Work(1500, 32, 400, 210).calls.values():
        call()  # compiled code and BLAS's buffers come with the first call
    budgets = budgets or [4, 8, 16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 256, 384, 512]
    work, table, held = Work(2000, 256, 40_000, 1000, classes=40), Table("function", "MemoryError", "right", "otherwise"), True
    for name in work.calls:
        outcomes = starved_at(work, name, [budget * MIB for budget in budgets])
        ranges = {outcome: [budget // MIB for budget in outcomes if outcomes[budget] == outcome] for outcome in outcomes.values()}
        shown = [f"{min(found)} to {max(found)} MiB" if (found := ranges.pop(kind, [])) else "-" for kind in ("MemoryError", "right")]
        table.add_row(name, *shown, ", ".join(f"{what}: {at} MiB" for what, at in ranges.items()) or "nothing")
        held &= not ranges
    finish(table, held)


def finish(table: Table, held: bool) -> None:
    Console().print(table)
    print(f"BLAS threads {blas_threads()}, Python {sys.version.split()[0]}, {threading.active_count()} Python threads")
    raise typer.Exit(0 if held else 1)


if __name__ == "__main__":
    app()
