"""nc-fast demo: what it prints, what it draws."""

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
pytest.importorskip("typer")

from command_line import run
from matplotlib.image import imread

import nc_fast
from nc_fast.command import demo, demo_picture
from nc_fast.files import read


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")


DIGIT_COUNTS = ["--pool", "200", "--k", "30", "--no-train", "--no-widths"]  # test_compare_command.py trains


def cells(output: str) -> dict[str, list[str]]:
    """Rows of the printed tables by their first cell."""
    rows = ([cell.strip() for cell in line.strip("│").split("│")] for line in output.splitlines() if line.startswith("│"))
    return {first: rest for first, *rest in rows}


def seconds(text: str) -> float:
    number, unit = text.split()
    return float(number) * {"s": 1, "ms": 1e-3, "µs": 1e-6}[unit]


def test_demo_on_digits():
    output = run("demo", *DIGIT_COUNTS, "--out", "picture.png").stdout
    rows = cells(output)
    stages = ("class_moments", "ib_scores", "select")
    for stage in (*stages, "campaign"):
        slow, fast, ratio = rows[stage]
        assert float(ratio.removesuffix("x")) == pytest.approx(seconds(slow) / seconds(fast), rel=0.1, abs=0.06)
    for column in (0, 1):
        assert seconds(rows["campaign"][column]) == pytest.approx(sum(seconds(rows[stage][column]) for stage in stages), rel=0.02)
    in_pool, picked = (np.array([int(rows[str(c)][column]) for c in range(10)]) for column in (0, 1))
    assert (in_pool.sum(), picked.sum()) == (200, 30)
    assert (picked <= in_pool).all()
    assert rows["all"][:2] == ["200", "30"]
    assert float(rows["all"][3]) > float(rows["all"][2])
    assert re.search(r"^same picks +yes, all 30 in the same order$", output, re.M)
    assert re.search(r"^distinct picks +30 of 30$", output, re.M)
    assert "warm-up (imports, compilation) kept out" in output
    assert output.splitlines()[-1] == "picture: picture.png"


def test_demo_prints_what_the_library_finds():
    rows = cells(run("demo", *DIGIT_COUNTS, "--seed", 3, "--alpha", 0.25, "--activation", "tanh").stdout)
    digits = read.load_digits().scaled()
    W = demo.he_normal(np.random.default_rng(3), 64, 200)
    found = nc_fast.campaign(W, digits.X_train, digits.y_train, 30, alpha=0.25, activation="tanh", backend="reference")
    assert [int(rows[str(c)][1]) for c in range(10)] == np.bincount(found.groups, minlength=10).tolist()
    assert rows["all"][3] == f"{found.scores.mean():.4f}"


def test_he_normal_has_the_layers_own_fan_in():
    assert demo.he_normal(np.random.default_rng(0), 50, 4000).std() == pytest.approx(np.sqrt(2 / 50), rel=0.01)


def test_picture_has_tiles_in_colour():
    run("demo", *DIGIT_COUNTS)
    pixels = imread("nc_fast_demo.png")[..., :3]
    columns = 3
    tiles = demo_picture._Tiles((8, 8), 64)
    (tile_width, height), (field_width, _) = tiles.size(1, 10), tiles.size(columns, 10)
    block = field_width + tile_width + demo_picture.RESPONSE_WIDTH + 4 * demo_picture.GAP
    width = 3 * demo_picture.LETTER + tile_width + 2 * (demo_picture.BLOCK_GAP + block + demo_picture.MARGIN)
    assert pixels.shape[:2] == (demo_picture.HEADER + height + demo_picture.FOOTER, width)
    # The first picked field, weight by weight: a colour per weight, each constant over its square, white where the tile ends.
    left = demo_picture.MARGIN + 3 * demo_picture.LETTER + tile_width + demo_picture.BLOCK_GAP
    size = tile_width // 8
    field = pixels[demo_picture.HEADER :, left:][: tile_width + demo_picture.GAP, : tile_width + demo_picture.GAP]
    squares = field[: 8 * size, : 8 * size].reshape(8, size, 8, size, 3)
    assert (squares == squares[:, :1, :, :1]).all()
    assert len(np.unique(squares[:, 0, :, 0].reshape(-1, 3), axis=0)) > 20
    assert (field[8 * size :] == 1).all()
    weights = demo.he_normal(np.random.default_rng(0), 64, 200)
    digits = read.load_digits().scaled()
    first = nc_fast.campaign(weights, digits.X_train, digits.y_train, 30).indices[0]
    redness = squares[:, 0, :, 0, 0] - squares[:, 0, :, 0, 2]
    clear = np.abs(weights[:, first]) > 0.02
    np.testing.assert_array_equal(redness.ravel()[clear] > 0, weights[clear, first] > 0)


def test_picture_shows_the_pickeds_own_class_as_the_highest_bar():
    run("demo", *DIGIT_COUNTS)
    red = np.abs(imread("nc_fast_demo.png")[..., :3] - [0xB2 / 255, 0x18 / 255, 0x2B / 255]).max(axis=2) < 0.01
    rows = np.array_split(red[demo_picture.HEADER : -demo_picture.FOOTER], 10)
    tallest = [row.sum(axis=0).max() / len(row) for row in rows]
    assert min(tallest) > 0.95 * demo_picture.BAR_HEIGHT  # 0 to the largest answer is BAR_HEIGHT of the row, and the largest is red


def test_demo_on_npz_without_pictures_with_odd_labels(rng):
    names = np.array(["[red]x", "a label too long to be shown", "ö"])
    y = np.repeat(names, 20)
    np.savez("some.npz", X=rng.normal(size=(60, 7)) + 2 * np.eye(3, 7)[np.repeat(range(3), 20)], y=y)
    rows = cells(run("demo", "--npz", "some.npz", "--pool", 90, "--k", 60, "--activation", "identity").stdout)
    assert sum(int(rows[name][1]) for name in names) == 60
    assert imread("nc_fast_demo.png").std() > 0.1


def test_demo_with_more_classes_than_rows_and_few_picks(rng):
    np.savez("many.npz", X=rng.normal(size=(600, 6)), y=np.arange(600) % 150)
    output = run("demo", "--npz", "many.npz", "--pool", 300, "--k", 40, "--no-train", "--no-widths").stdout
    assert "distinct picks  40 of 40" in output
    height = imread("nc_fast_demo.png").shape[0]
    assert height == demo_picture.HEADER + demo_picture.FOOTER + demo_picture._Tiles(None, 6).size(1, demo.CLASSES_SHOWN)[1]


def test_demo_on_large_pictures_stays_small(rng):
    np.savez("large.npz", X=rng.integers(0, 256, (30, 200, 90), dtype=np.uint8), y=np.arange(30) % 2)
    output = run("demo", "--npz", "large.npz", "--pool", 20, "--k", 4, "--max-samples", 12, "--no-train", "--no-widths").stdout
    assert "12 samples, 18000 features" in output
    assert max(imread("nc_fast_demo.png").shape) < 3000


def test_max_samples_is_drawn_by_seed():
    def pool_means(*arguments):
        rows = cells(run("demo", *DIGIT_COUNTS, "--max-samples", 300, *arguments).stdout)
        return [rows[str(c)][2] for c in range(10)]

    assert pool_means() == pool_means()
    assert pool_means() != pool_means("--seed", 1)


def test_demo_says_where_backends_differ(monkeypatch):
    class_moments = demo.class_moments

    def one_class_mean_off(*args, backend, **kwargs):
        moments = class_moments(*args, backend=backend, **kwargs)
        if backend == "cpu":
            moments.mean[0] += np.linspace(0, 1, moments.n_candidates)
        return moments

    monkeypatch.setattr(demo, "class_moments", one_class_mean_off)
    output = run("demo", *DIGIT_COUNTS).stdout
    assert re.search(r"^same picks +no, first at pick \d+, where the gains differ", output, re.M)


@pytest.mark.slow
def test_demo_on_mnist(shared):
    output = run("demo", "--data-dir", shared / "data" / "mnist", "--max-samples", 20000, "--no-train", "--no-widths").stdout
    assert "20000 samples, 784 features" in output
    assert re.search(r"^distinct picks +100 of 100$", output, re.M)
    assert re.search(r"^same picks +yes, all 100", output, re.M)


def test_interrupt_in_a_command_leaves_nothing(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "picture", interrupted)
    result = run("demo", *DIGIT_COUNTS, code=130)
    assert result.stderr == "nc-fast: interrupted\n"
    assert list(Path().iterdir()) == []
