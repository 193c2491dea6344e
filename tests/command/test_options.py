"""Every option of every command refuses a wrong value in one line, before any work: nothing is written."""

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("typer")

import typer.main
from command_line import refusal

from nc_fast.command.commands import app

# (command, parameter) -> arguments after the command, and what the line says. {good} is a file that select takes.
WRONG = {
    ("demo", "--data-dir"): [
        ("--data-dir absent", "--data-dir: expected a folder, got absent"),
        ("--data-dir .", "expected a file train-images-idx3-ubyte or train-images-idx3-ubyte.gz, got none"),
        ("--data-dir x --npz y", "--data-dir and --npz: expected one of them, got both"),
    ],
    ("demo", "--npz"): [
        ("--npz", "Option '--npz' requires an argument"),
        ("--npz absent.npz", "[Errno 2] No such file or directory: 'absent.npz'"),
    ],
    ("demo", "--pool"): [("--pool 0", "pool: expected pool >= 1, got 0")],
    ("demo", "--k"): [
        ("--k 0", "k: expected 1 <= k <= M = 1000, got 0"),
        ("--k 2000", "k: expected 1 <= k <= M = 1000, got 2000"),
        ("--k many", "'--k'"),
    ],
    ("demo", "--alpha"): [
        ("--alpha 2", "alpha: expected a number in [0, 1], got 2.0"),
        ("--alpha nan", "alpha: expected a number in [0, 1], got nan"),
    ],
    ("demo", "--activation"): [("--activation rellu", "got 'rellu'; did you mean 'relu'?")],
    ("demo", "--seed"): [("--seed -1", "'--seed'"), (f"--seed {2**61}", "'--seed'")],
    ("demo", "--json"): [
        ("--json absent/x.json", "--json: expected a file in a folder that exists, got absent/x.json"),
        ("--json x.json --no-widths", "--json: expected --widths, got --no-widths"),
    ],
    ("demo", "--max-samples"): [("--max-samples 0", "'--max-samples'")],
    ("demo", "--out"): [
        ("--out absent/x.png", "--out: expected a file in a folder that exists, got absent/x.png"),
        ("--out .", "--out: expected a file in a folder that exists, got ."),
    ],
    ("compare", "--data-dir"): [("--data-dir absent", "--data-dir: expected a folder, got absent")],
    ("compare", "--npz"): [
        ("--npz", "Option '--npz' requires an argument"),
        ("--npz absent.npz", "[Errno 2] No such file or directory: 'absent.npz'"),
    ],
    ("compare", "--networks"): [
        (
            "--networks mlp4",
            "--networks: expected one of 'mlp2', 'mlp3', 'mlp5', 'mlp10', 'cnn', 'resnet', 'transformer', got 'mlp4'; did you mean 'mlp5'?",
        ),
        ("--networks mlp5,mlp5", "--networks: expected one or more different values, got mlp5, mlp5"),
    ],
    ("compare", "--init"): [
        ("--init campaign", "--init: expected 'he' among the initializations"),
        ("--init he --init hee", "got 'hee'; did you mean 'he'?"),
        ("--init he --init he", "--init: expected one or more different values"),
        ("--init he --init he:gian=2", "--init he: expected one of 'gain', 'like', got 'gian'; did you mean 'gain'?"),
        ("--init he --init he-head:gain=2", "--init he-head: expected one of 'lr', got 'gain'"),
    ],
    ("compare", "--seeds"): [("--seeds 0", "'--seeds'")],
    ("compare", "--first-seed"): [("--first-seed -1", "'--first-seed'"), (f"--first-seed {2**61}", "'--first-seed'")],
    ("compare", "--epochs"): [("--epochs 0", "--epochs: expected at least 1, got 0"), ("--epochs 1.5", "'--epochs'")],
    ("compare", "--optimizer"): [("--optimizer adam", "--optimizer: expected one of 'sgd', 'momentum', 'adamw', got 'adam'")],
    ("compare", "--lr"): [
        *((f"--lr 0.1,{value}", f"--lr: expected numbers > 0, got {value}") for value in ("0.0", "nan", "inf")),
        ("--lr 0.1,", "--lr: expected a number, or several with commas between, got '0.1,'"),
        ("--lr 0.1,0.1", "--lr: expected one or more different values, got 0.1, 0.1"),
    ],
    ("compare", "--batch"): [("--batch 0", "--batch: expected at least 1, got 0")],
    ("compare", "--target"): [
        *((f"--target 95,{value}", f"--target: expected percentages in (0, 100], got {value}") for value in ("0", "101", "nan")),
        ("--target most", "--target: expected a number, or several with commas between, got 'most'"),
    ],
    ("compare", "--eval-every"): [("--eval-every 0", "--eval-every: expected at least 1, got 0")],
    ("compare", "--train-samples"): [
        (f"--train-samples {n}", f"--train-samples: expected 10 (the classes) to 1437 (the training samples), got {n}") for n in (9, 1438)
    ],
    ("compare", "--device"): [
        ("--device nowhere", "--device: expected a device that torch can use, got 'nowhere'"),
        ("--device meta", "--device: expected a device that torch can use, got 'meta'"),
    ],
    ("compare", "--jobs"): [("--jobs 0", "'--jobs'")],
    ("compare", "--out"): [
        ("--out absent/out", "--out: expected a folder, or a new one in a folder that exists, got absent/out"),
        ("--out {good}", "--out: expected a folder, or a new one in a folder that exists, got "),
    ],
    ("select", "file"): [
        ("--k 3", "Missing argument"),
        ("absent.npz --k 3", "[Errno 2] No such file or directory: 'absent.npz'"),
        (". --k 3", "Is a directory"),
    ],
    ("select", "--k"): [("{good}", "'--k'"), ("{good} --k 0", "k: expected 1 <= k <= M = 40, got 0"), ("{good} --k 41", "got 41")],
    ("select", "--out"): [("{good} --k 3 --out absent/x.npz", "--out: expected a file in a folder that exists, got absent/x.npz")],
    ("select", "--alpha"): [("{good} --k 3 --alpha -1", "alpha: expected a number in [0, 1], got -1.0")],
    ("select", "--activation"): [("{good} --k 3 --activation rellu", "got 'rellu'; did you mean 'relu'?")],
    ("select", "--backend"): [("{good} --k 3 --backend tpu", "backend: expected one of 'auto', 'reference', 'cpu', 'gpu', got 'tpu'")],
}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A file that select takes."""
    path, rng = tmp_path_factory.mktemp("good") / "good.npz", np.random.default_rng(0)
    np.savez(path, W=rng.normal(size=(5, 40)), X=rng.normal(size=(60, 5)), y=np.arange(60) % 3)
    return path


def test_every_option_that_takes_a_value_has_a_row():
    commands = typer.main.get_command(app).commands
    assert commands
    taking_values = {
        (name, parameter.opts[0])
        for name, command in commands.items()
        for parameter in command.params
        if not getattr(parameter, "is_flag", False)
    }
    assert taking_values == set(WRONG)


@pytest.mark.parametrize(("command", "arguments", "message"), [(key[0], *case) for key, cases in WRONG.items() for case in cases])
def test_a_wrong_value_is_refused_before_any_work(command, arguments, message, good, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refusal(command, *arguments.format(good=good).split())
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("name", ["dmeo", "Demo"])
def test_unknown_commands_are_refused(name):
    assert f"No such command '{name}'." in refusal(name)


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ("campaign:select=campaign,alpha=7", r"alpha: expected a number in \[0, 1\], got 7"),
        ("campaign:pool=0", "pool: expected at least 1, got 0"),
        ("normal:std=-1", "--init normal:std=-1: normal expects std >= 0.0"),
        ("normal:std=wide", "must be float, not str"),
    ],
)
def test_a_wrong_value_of_an_initialization_is_found_before_the_first_run(init, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert re.search(message, refusal("compare", "--init", "he", "--init", init, "--out", "out"))
    assert Path("out/runs.jsonl").read_bytes() == b""
