"""nc-fast compare, run for real: its files, its workers, how it ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")
pytest.importorskip("typer")

from command_line import COMMAND, environment, refusal, run
from init_cases import one_torch_thread
from matplotlib.image import imread

from nc_fast.compare import Plan, statistics, workers


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture(autouse=True)
def _one_thread():
    with one_torch_thread():
        yield


ARGUMENTS = ["compare", "--networks", "mlp5", "--seeds", "2", "--epochs", "2", "--out", "out"]


def figures(path="out/runs.csv"):
    """Everything in a runs.csv but the times."""
    return [line.split(",")[: -len(statistics.time(Plan((), (), ())))] for line in Path(path).read_text().splitlines()]


def test_command_goes_on_after_an_interruption(monkeypatch):
    train, trained = workers.train, []

    def interrupted(task, *rest):
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append(task)
        return train(task, *rest)

    monkeypatch.setattr(workers, "train", interrupted)
    assert run(*ARGUMENTS, "--jobs", 1, code=130).stderr == "nc-fast: interrupted\n"
    assert sorted(path.name for path in Path("out").iterdir()) == ["runs.jsonl", "settings.json"]
    monkeypatch.setattr(workers, "train", lambda task, *rest: trained.append(task) or train(task, *rest))
    output = run(*ARGUMENTS, "--jobs", 1).stdout
    assert output.startswith("3 of 4 runs are finished already\n")
    assert trained == list(Plan(("mlp5",), ("he", "campaign"), (0, 1)).tasks())
    assert sorted(path.name for path in Path("out").iterdir()) == [
        *("curves.csv", "curves.png", "runs.csv", "runs.jsonl", "settings.json", "summary.csv", "table.md")
    ]
    run(*ARGUMENTS[:-1], "whole", "--jobs", 1)
    assert figures() == figures("whole/runs.csv")
    table = Path("out/table.md").read_text()
    row = next(line for line in table.splitlines() if line.startswith("| campaign "))
    assert row.split("|")[2].strip() in output
    assert "holds runs with epochs 2, here 3" in refusal(*ARGUMENTS, "--epochs", 3)
    before = Path("out/runs.jsonl").read_bytes()
    assert "4 of 4" in run(*ARGUMENTS).stdout
    assert Path("out/runs.jsonl").read_bytes() == before


def test_worker_processes_find_the_same():
    run(*ARGUMENTS, "--jobs", 2)
    run(*ARGUMENTS[:-1], "here", "--jobs", 1)
    mine, theirs = figures(), figures("here/runs.csv")
    assert [row[:4] for row in mine] == [row[:4] for row in theirs]
    ours, others = (np.array([row[4:] for row in rows[1:]], float) for rows in (mine, theirs))
    # one thread or two may round products differently, and a sample or two be classified otherwise
    np.testing.assert_allclose(ours, others, rtol=1e-3, atol=1.1)


def ended(group):
    """Whether every process of the group is gone, soon."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def long_comparison(*command):
    """Start a comparison by two workers in a process group of its own."""
    arguments = ["compare", "--seeds", "50", "--epochs", "30", "--networks", "mlp5", "--jobs", "2", "--init", "he", "--out", "out"]
    pipe = subprocess.PIPE
    return subprocess.Popen([*command, *arguments], stdout=pipe, stderr=pipe, text=True, env=environment(), start_new_session=True)


def wait_for_the_first_run():
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (Path("out/runs.jsonl").exists() and Path("out/runs.jsonl").stat().st_size):
        time.sleep(0.1)


def test_workers_end_soon_after_a_main_process_that_is_killed():
    process = long_comparison(*COMMAND)
    wait_for_the_first_run()
    process.kill()
    process.communicate(timeout=60)  # which ends when the last of them lets go of the pipes
    assert ended(process.pid)


def test_process_with_workers_is_interrupted():
    process = long_comparison(*COMMAND)
    wait_for_the_first_run()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: all of them get it
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (130, "nc-fast: interrupted\n")
    assert ended(process.pid)
    assert all(json.loads(line)["curve"] for line in Path("out/runs.jsonl").read_text().splitlines())


WORKER_KILLED = """
import os, signal, subprocess
from nc_fast.command.main import main
from nc_fast.compare import Folder

def append(folder, run, append=Folder.append):
    append(folder, run)
    workers = subprocess.check_output(["pgrep", "--parent", str(os.getpid()), "--full", "popen_loky"])
    os.kill(int(workers.split()[0]), signal.SIGKILL)

Folder.append = append
main()
"""


def test_killed_worker_is_one_clear_error():
    process = long_comparison(sys.executable, "-c", WORKER_KILLED)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert errors == "nc-fast: a worker process ended before its runs did: it was killed, perhaps for want of memory\n"
    assert ended(process.pid)


def test_worker_reports_what_went_wrong(tmp_path):
    plan, digits = Plan(("mlp3",), ("he",), (0, 1), epochs=1), workers.load_data(None, Plan((), (), ()))
    with pytest.raises(OSError, match="absent") as caught:
        list(workers.run_plan(plan, list(plan.tasks()), digits, tmp_path / "absent", 2))
    assert "in _run" in str(caught.value.__cause__)


def test_demo_trains_from_both():
    output = run("demo", "--pool", 100, "--k", 20, "--no-widths", "--out", "picture.png").stdout
    assert "mlp3 on digits, 3 seeds" in output
    assert output.splitlines()[-2:] == ["training curves: picture_training.png", "picture: picture.png"]
    assert imread("picture_training.png").shape[2] >= 3


def test_demo_says_why_it_does_not_train(rng):
    np.savez("few.npz", X=rng.normal(size=(4, 3)), y=[0, 0, 1, 1])
    output = run("demo", "--npz", "few.npz", "--pool", 20, "--k", 4).stdout
    assert "no training curves: few: expected at least 5 samples" in output
    assert not Path("nc_fast_demo_training.png").exists()
