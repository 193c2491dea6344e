"""The measurements of pursuit run at toy sizes, so that none can rot, and their tables say what was measured."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

pytest.importorskip("torch", reason="the benchmarks name its version")
pytest.importorskip("pytest_benchmark")

import pursuit_mnist
import pursuit_seconds
import pursuit_tabular
import report

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Write scikit-learn's digits as four IDX files."""
    folder = tmp_path_factory.mktemp("digits")
    X, y = load_digits(return_X_y=True)
    for part, rows in (("train", slice(0, 1400)), ("t10k", slice(1400, None))):
        for name, array in ((f"{part}-images-idx3-ubyte", 15 * X[rows].reshape(-1, 8, 8)), (f"{part}-labels-idx1-ubyte", y[rows])):
            sizes = b"".join(length.to_bytes(4, "big") for length in array.shape)
            (folder / name).write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes())
    return folder


def test_accuracy_of_every_choice_and_that_a_run_goes_on_where_it_ended(images, tmp_path, capsys):
    out = tmp_path / "digits.json"
    command = ["run", f"--data=digits={images}", f"--out={out}", "--widths=10,30", "--pool=200", "--samples=500", "--seeds=1"]
    pursuit_mnist.main([*command, "--methods=none,fisher,pursuit"])
    pursuit_mnist.main([*command, "--methods=none,campaign,fisher,pursuit,rbf"])
    rows = json.loads(out.read_text())["rows"]
    found = {(row["pool"], row["method"], row["k"]): row["accuracy"] for row in rows}
    assert len(found) == len(rows) == 2 * (2 * len(pursuit_mnist.CHOICES) + 1)
    for pool in pursuit_mnist.POOLS:
        assert found[pool, "pursuit", 10] > found[pool, "none", 10]
        assert 60 < found[pool, "pursuit", 30] < 100
    capsys.readouterr()
    pursuit_mnist.main(["table", str(out)])
    assert f"| {found['data_pairs', 'pursuit', 30]:.2f} ± nan |" in capsys.readouterr().out


def test_blocks_are_compared_on_one_pool(images, tmp_path):
    out = tmp_path / "blocks.json"
    pursuit_mnist.main(["blocks", f"--data=digits={images}", f"--out={out}", "--widths=20", "--pool=100", "--samples=400", "--seeds=1"])
    assert {row["method"] for row in json.loads(out.read_text())["rows"]} == {"block=auto", "block=1"}


@pytest.mark.slow
def test_seconds_end_where_the_goal_is_reached(images):
    data = pursuit_mnist.read(images, None)
    network = pursuit_seconds.Network((50,), 0.3)
    seconds, accuracy = pursuit_seconds.seconds_to(85.0, network.train(data.X_train, data.y_train.astype(np.int64), 0), data)
    assert seconds > 0
    assert 85 <= accuracy < 100


@pytest.mark.slow
def test_table_of_estimators_says_where_the_guard_and_the_default_lose(tmp_path, capsys):
    out = tmp_path / "tabular.json"
    pursuit_tabular.main(["run", f"--out={out}", "--seeds=1", "--widths=10", "--sets=iris,diabetes"])
    content = json.loads(out.read_text())
    assert len(content["rows"]) == 2 * (len(pursuit_tabular.RIVALS) + 2 * len(pursuit_tabular.SELECTS))
    for row in content["rows"]:
        if row["model"] == "auto 10" and row["set"] == "iris":
            row["score"] = 12.0
    out.write_text(json.dumps(content))
    capsys.readouterr()
    pursuit_tabular.main(["table", str(out)])
    told = capsys.readouterr().out
    assert "- not on iris at 10: -" in told
    assert "auto at 10 loses to linear on" in told


@pytest.mark.slow
def test_every_contender_picks_what_it_should_at_the_tiny_size(tmp_path):
    path = tmp_path / "tiny.json"
    command = [sys.executable, "-m", "pytest", "benchmarks/bench_pursuit.py", "-k", "tiny-0", "--benchmark-enable", "-q"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run([*command, f"--benchmark-json={path}"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {row.group for row in report.read([path])} == {"pursuit tiny", "peers tiny"}
