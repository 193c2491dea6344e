"""Where things are: a dozen questions and the files that answer them, and the way of X from the API to the kernel."""

import ast
import re
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from test_layers import PACKAGE, layer_of
from threadpoolctl import threadpool_limits

import nc_fast

QUESTIONS = [
    "tie rule",
    "restart",
    "quota",
    "dead fill-up",
    "NaN check",
    "tile conversion",
    "saved moments' reader",
    "activation after a layer",
    "GPU tile shapes",
    "low parts of float16",
    "tolerance",
    "backend choice",
]
MOST_CALLS = 7


def table():
    """The table of CONTRIBUTING.md, question -> (file, name)."""
    rows = re.findall(r"^\| ([^|`]+) \| `nc_fast/([^`]+)` \| `([^`]+)` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    return {question: (file, name) for question, file, name in rows}


def defined(path):
    """Functions, classes, methods and constants that a file defines."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def test_the_table_has_the_questions():
    assert list(table()) == QUESTIONS


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_answer_is_in_its_file_and_in_no_other(question):
    file, name = table()[question]
    places = [str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if name in defined(path)]
    assert places == [file]


@pytest.mark.parametrize("n_threads", [1, 2])
def test_few_calls_from_the_api_to_the_kernel_and_none_turns_back(monkeypatch, n_threads):
    """Frames of this package on the calling thread, then on the worker's; the threads' own book-keeping counts, but has no layer."""
    from nc_fast.backends.cpu import kernels

    seen = []
    kernel = kernels.tile_moments("relu")

    def frames(frame):
        found = []
        while frame:
            if Path(frame.f_code.co_filename).is_relative_to(PACKAGE):
                found.append((frame.f_globals["__name__"].removeprefix("nc_fast").removeprefix("."), frame.f_code.co_name))
            frame = frame.f_back
        return found[::-1]

    def watched(*arguments):
        stacks = sys._current_frames()
        here, caller = threading.get_ident(), threading.main_thread().ident
        # The caller waits in the book-keeping's own functions by now: its way ends where the work was handed over.
        way = frames(stacks[caller])
        if here != caller:
            handed_over = max(i for i, (module, _) in enumerate(way) if module != "runtime.threads") + 1
            way = [*way[: handed_over + 1], *frames(stacks[here])]
        seen.append(way)
        return kernel(*arguments)

    monkeypatch.setattr(kernels, "tile_moments", lambda _: watched)
    rng = np.random.default_rng(0)
    with threadpool_limits(n_threads, user_api="blas"):
        nc_fast.campaign(rng.normal(size=(3, 20)), rng.normal(size=(3000, 3)), np.arange(3000) % 2, 4)
    assert seen
    for way in seen:
        assert way[0] == ("api", "campaign")
        layers = [layer_of(module) for module, _ in way if module != "runtime.threads"]
        assert layers == sorted(layers, reverse=True), way
        if n_threads == 1:
            assert len(way) <= MOST_CALLS, way
