"""The first run on a device, rehearsed in Triton's interpreter: benchmarks/first_run.sh and what it starts."""

import json
import os
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from gpu_cases import torch

import gpu_machine  # isort: skip - before what else is in benchmarks/
import gpu_results
import gpu_smoke
import gpu_sweep

SCRIPT = ROOT / "benchmarks" / "first_run.sh"


def environment(**more):
    """This process's, without what the runner of the tests put there: the inner run is one of its own, which coverage does not slow down."""
    theirs = ("PYTEST_", "NC_FAST_", "COVERAGE_", "COV_CORE_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(theirs) and name != "OUT"}
    return kept | {"TRITON_INTERPRET": "1", "PYTHON": sys.executable} | more


def first_run(*arguments, **more):
    return subprocess.run(
        ["bash", SCRIPT, *arguments], env=environment(**more), capture_output=True, text=True, check=False, cwd=ROOT.parent, timeout=900
    )


def steps(folder, part):
    """Return the table of a command: the name of a step, and how it ended."""
    lines = [line.split("\t") for line in (folder / f"{part}.steps.tsv").read_text().splitlines()]
    return {name: how for name, _, _, how in lines}


BARE = """
import runpy, sys
from importlib.util import find_spec
root, program = sys.argv[1:]
sys.path = [root + "/benchmarks", *(place for place in sys.path if place not in ("", root))]
sys.meta_path = [finder for finder in sys.meta_path if "__editable__" not in getattr(finder, "__module__", getattr(finder, "__name__", ""))]
assert find_spec("nc_fast") is None
runpy.run_path(program, run_name="imported")
"""


@pytest.mark.parametrize("program", ["gpu_report", "gpu_smoke", "gpu_sweep", "gpu_watched", "gpu_compile"])
def test_programs_find_a_tree_that_is_not_installed(program, tmp_path):
    own = environment(PYTHONPATH="") | ({"TRITON_INTERPRET": "0"} if program == "gpu_compile" else {})
    command = [sys.executable, "-c", BARE, ROOT, ROOT / "benchmarks" / f"{program}.py"]
    done = subprocess.run(command, env=own, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr


def test_a_report_that_is_killed_leaves_what_it_measured(tmp_path):
    path = tmp_path / "report.json"
    command = [sys.executable, ROOT / "benchmarks" / "gpu_report.py", "--tiny", "--out", path]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL) as report:
        try:
            while report.poll() is None and not (path.exists() and len(json.loads(path.read_text())["rows"]) >= 8):
                time.sleep(0.05)
        finally:
            report.kill()
    whole = json.loads(path.read_text())
    assert report.returncode == -9, "it ended before it was killed"
    assert [row["stage"] for row in whole["rows"]][:7] == ["ceiling"] * 6 + ["prepare"]
    assert whole["rows"][6]["seconds"] > 0
    assert "device CPU, interpreting" in gpu_results.table(path)


def test_the_smoke_test_ends_at_the_first_wrong_value(monkeypatch, capsys):
    right = gpu_smoke.class_moments

    def wrong(*arguments, precision, **options):
        found = right(*arguments, precision=precision, **options)
        found.mean[2, 5] += 1e-3 * (precision == "auto")
        return found

    monkeypatch.setattr(gpu_smoke, "class_moments", wrong)
    monkeypatch.setattr(sys, "argv", ["gpu_smoke.py"])
    monkeypatch.setattr(gpu_smoke, "CHECKS", {name: gpu_smoke.CHECKS[name] for name in ("fp16", "auto", "tf32")})
    assert gpu_smoke.main() == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("right  fp16")
    assert said[1].startswith("WRONG  auto: moments differ from float64's by 0.001")
    assert len(said) == 2


def test_the_smoke_test_sees_values_that_are_no_numbers():
    problem = gpu_smoke.Problem.draw(gpu_machine.Machine(1))
    found = problem.moments()
    assert problem.error(found) <= gpu_smoke.ERROR["auto"]
    found.m2[1, 3] = torch.nan
    assert problem.error(found) == float("inf")


def test_the_sweep_tells_wrong_tiles(monkeypatch, tmp_path):
    right = gpu_smoke.Problem.error
    monkeypatch.setattr(gpu_smoke.Problem, "error", lambda self, found: right(self, found) + 1)
    monkeypatch.setattr(gpu_sweep, "PRECISIONS", ("fp16",))
    rows = gpu_sweep.main(["--tiny", "--out", str(tmp_path / "sweep.json")])
    assert [row.name for row in rows] == ["fp16, pointers", "fp16, tensor maps"]
    assert not any(row.notes["right"] for row in rows)
    assert all(row.seconds > 0 for row in rows)


STAND_IN = """#!/usr/bin/env bash
case "$*" in
    {case}
esac
exit 0
"""


@pytest.mark.parametrize(
    ("case", "part", "ended"),
    [
        ("*gpu_smoke*) exit 1 ;;", "first", {"import, versions": "ok", "smoke test": "failed, exit status 1"}),
        (
            "*pytest*tests*) exit 3 ;;",
            "first",
            {"import, versions": "ok", "smoke test": "ok", "device tests": "failed, exit status 3", "report": "ok"},
        ),
        (
            "*gpu_report.py*) kill -KILL $$ ;;",
            "first",
            {"import, versions": "ok", "smoke test": "ok", "device tests": "ok", "report": "killed"},
        ),
        ("*_projector*) exit 1 ;; *setup.py*) echo built ;;", "first", {"build nc_fast._projector": "ok", "report": "ok"}),
    ],
    ids=["wrong values", "failing tests", "killed", "bare tree"],
)
def test_a_step_that_fails_is_a_line_and_only_the_smoke_test_ends_the_run(case, part, ended, tmp_path):
    python = tmp_path / "python"
    python.write_text(STAND_IN.format(case=case))
    python.chmod(0o755)
    done = first_run("--rehearse", part, "--out", tmp_path / "out", PYTHON=str(python))
    found = steps(tmp_path / "out", part)
    assert {name: found[name] for name in ended} == ended
    assert len(found) == len(ended) or "build nc_fast._projector" in found
    assert done.returncode == (0 if set(ended.values()) == {"ok"} else 1)
    assert "report\t" in done.stdout or "smoke test\t" in done.stdout


@pytest.mark.parametrize("arguments", [[], ["third"], ["--out"]], ids=" ".join)
def test_the_script_refuses_what_it_does_not_know(arguments, tmp_path):
    done = first_run(*arguments, OUT=str(tmp_path / "out"))
    assert done.returncode
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_rehearsal_passes(tmp_path):
    done = first_run("--rehearse", "--out", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for part in ("first", "second"):
        assert set(steps(tmp_path, part).values()) == {"ok"}
    assert len(list(tmp_path.iterdir())) <= 8
    assert "passed" not in done.stdout.partition("== report")[0]  # device tests are collected, and skipped without one
    assert "skipped" in done.stdout
    assert len(done.stdout.partition("== Summary of the second")[2]) < 12_000
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert {"ceiling", "prepare", "kernels", "moments", "campaign", "select", "agree", "pursue"} == {row["stage"] for row in rows}
    assert {row["name"] for row in rows if row["stage"] == "kernels"} == {"auto", "fp16", "tf32", "ieee"}
    assert all(row["notes"]["same bits"] for row in rows if row["stage"] == "moments")
    agreed = [row["notes"] for row in rows if row["stage"] == "agree" and row["name"].startswith("auto")]
    assert agreed
    assert all(notes["same position"] == notes["of"] for notes in agreed)
