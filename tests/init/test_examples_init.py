"""The examples of nc_fast.init run, print their report, and learn."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("torch")


EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main()


def test_mlp_digits():
    results = run("mlp_digits")
    assert results["campaign untrained"] > 0.8
    assert results["campaign loss"] < 0.7 * results["He loss"]
    assert results["campaign trained"] > 0.85


@pytest.mark.parametrize("name", ["cnn_digits", "transformer_toy"])
def test_it_learns(name, capsys):
    results = run(name)
    assert results["last loss"] < 0.7 * results["first loss"]
    assert results["accuracy"] > 0.6
    assert "pre-activations, before -> after" in capsys.readouterr().out


def test_shrink_pretrained():
    results = run("shrink_pretrained")
    assert results["wide"] > 0.9
    assert results["pursued"] > max(0.8, results["any"])
    assert results["pursued, tuned"] > 0.8
