"""nc-fast demo: accuracy by width, in numbers, in a table, in a picture."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
pytest.importorskip("typer")

from command_line import refusal, run
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from sklearn.linear_model import RidgeCV

import nc_fast
from nc_fast.command import demo, demo_widths
from nc_fast.files import read

QUICK = ["--pool", "20", "--k", "4", "--no-train", "--json", "widths.json"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")


def curves(*arguments):
    """What the command printed, and the numbers it wrote."""
    output = run("demo", *arguments, *QUICK).stdout
    return output, json.loads(Path("widths.json").read_text())


def digits_npz(n, n_test):
    digits = read.load_digits().scaled()
    names = np.array([f"digit {c}" for c in range(10)])
    parts = {"X": digits.X_train[:n], "y": names[digits.y_train[:n]]}
    if n_test:
        parts |= {"X_test": digits.X_test[:n_test], "y_test": names[digits.y_test[:n_test]]}
    np.savez("some.npz", **parts)
    return parts


def accuracy(parts, W, bias, activation):
    """The accuracy of scikit-learn's ridge regression on these neurons, its strength by leave-one-out."""
    Z, Z_test = (activation((parts[name] @ W + bias).astype(np.float64)) for name in ("X", "X_test"))
    mean, deviation = Z.mean(axis=0), Z.std(axis=0)
    deviation[deviation == 0] = 1
    classes, codes = np.unique(parts["y"], return_inverse=True)
    head = RidgeCV(alphas=len(Z) * 10.0 ** np.arange(2, -8.1, -0.5)).fit((Z - mean) / deviation, np.eye(len(classes))[codes])
    return 100 * np.mean(classes[head.predict((Z_test - mean) / deviation).argmax(axis=1)] == parts["y_test"])


@pytest.mark.parametrize(("activation", "function"), [("relu", lambda z: np.maximum(z, 0)), ("tanh", np.tanh)])
def test_accuracies_are_those_of_separate_selections(activation, function):
    parts = digits_npz(150, 200)
    output, found = curves("--npz", "some.npz", "--seed", 3, "--alpha", 0.25, "--activation", activation)
    assert {name: value for name, value in found.items() if name != "accuracy"} == {
        "data": "some",
        "features": 64,
        "training_samples": 150,
        "held_out_samples": 200,
        "candidates": 1000,
        "activation": activation,
        "alpha": 0.25,
        "seed": 3,
        "widths": [10, 20, 50, 100],
    }
    X, y = parts["X"], parts["y"]
    W, bias = nc_fast.candidates.data_pairs(X, y, 1000, np.random.default_rng(3))
    for number, width in enumerate(found["widths"]):
        picks = {
            "random": np.arange(width),
            "campaign": nc_fast.campaign(W, X, y, width, bias=bias, alpha=0.25, activation=activation).indices,
            "pursuit": nc_fast.pursuit(W, X, y, width, bias=bias, activation=activation).indices,
        }
        expected = {name: accuracy(parts, W[:, columns], bias[columns], function) for name, columns in picks.items()}
        # a borderline sample may be decided by rounding
        assert {name: values[number] for name, values in found["accuracy"].items()} == pytest.approx(expected, abs=0.5)
        row = re.search(rf"^│ {width} +│ +(\S+) │ +(\S+) │ +(\S+) │$", output, re.M)
        assert row
        assert row.groups() == tuple(f"{found['accuracy'][name][number]:.1f}" for name in ("random", "campaign", "pursuit"))


def test_what_is_said_beside_the_table():
    output, found = curves("--max-samples", 200)
    text = " ".join(output.split())
    assert (found["training_samples"], found["held_out_samples"]) == (200, 360)
    assert found["widths"] == [10, 20, 50, 100]
    assert "relu, 1000 candidates from pairs of samples, seed 0" in text
    assert "Accuracy on 360 held-out samples, %" in text
    assert "on 200 training samples" in text
    percents = np.concatenate(list(found["accuracy"].values()))
    errors = 100 * np.sqrt(percents / 100 * (1 - percents / 100) / 360)
    assert f"standard errors of {errors.min():.1f} to {errors.max():.1f} points" in text
    shown = [line.split(":")[0] for line in output.splitlines() if line.endswith(".png")]
    assert shown == ["accuracy by width", "picture"]  # the curves come first


def test_pursuit_beats_random_on_digits():
    found = curves()[1]
    assert found["widths"] == list(demo_widths.WIDTHS)
    pursued, random = (np.array(found["accuracy"][name][:3]) for name in ("pursuit", "random"))
    assert (pursued > random + 3).all()


def test_picture_shows_three_curves_where_they_belong():
    accuracy = {"pursuit": [80.0, 90.0, 95.0], "campaign": [70.0, 80.0, 90.0], "random": [50.0, 60.0, 70.0]}
    with Path("picture.png").open("wb") as file:
        demo_widths.picture(demo_widths.Curves("a $ b", 4, 1000, 500, 3000, "relu", 0.5, 0, [10, 50, 300], accuracy), file)
    pixels = imread("picture.png")[..., :3]
    heights = []
    for selection in ("pursuit", "campaign", "random"):
        near = np.abs(pixels - to_rgb(demo_widths.LINES[selection][0])).max(axis=2) < 0.02
        near[:150], near[:, :150] = False, False  # title, axis
        left = near[:, : pixels.shape[1] // 2]  # the legend is on the right
        assert left.sum() > 300
        heights.append(np.flatnonzero(left.any(axis=1)).min())
    assert heights == sorted(heights)


def test_a_fifth_is_held_out_of_data_without_test_samples():
    digits_npz(60, 0)
    found = curves("--npz", "some.npz")[1]
    assert found["training_samples"] + found["held_out_samples"] == 60
    assert found["held_out_samples"] == 12
    assert found["widths"] == [10, 20]
    assert found["candidates"] == 200


def test_too_few_samples_are_said_and_the_demo_goes_on():
    digits_npz(12, 5)
    output = run("demo", "--npz", "some.npz", "--max-samples", 10, *QUICK[:-2]).stdout
    assert "no accuracy by width: some: expected more than 10 training samples, got 10" in output
    assert [path.name for path in Path().glob("*.png")] == ["nc_fast_demo.png"]


def test_numbers_that_were_asked_for_and_cannot_be_had_are_an_error():
    digits_npz(12, 5)
    assert "expected more than 10 training samples, got 10" in refusal("demo", "--npz", "some.npz", "--max-samples", 10, *QUICK)
    assert [path.name for path in Path().iterdir()] == ["some.npz"]


def test_numbers_and_table_need_no_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    found = demo_widths.measure(read.load_digits(), demo.Settings(20, 4, 0.5, "relu", 0), 30, lambda stage: None)
    assert any("30 training samples" in str(shown) for shown in demo_widths.tables(found))


@pytest.mark.parametrize("step", ["data_pairs", "pursuit", "select", "picture"])
def test_interrupt_leaves_nothing(monkeypatch, step):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_widths, step, interrupted)
    assert run("demo", "--max-samples", 100, *QUICK, code=130).stderr == "nc-fast: interrupted\n"
    assert list(Path().iterdir()) == []
