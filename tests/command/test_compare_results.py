"""What nc-fast compare keeps and shows of its runs: statistics, tables, curves, the folder."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from matplotlib.image import imread

from nc_fast.compare import Folder, Plan, Point, Run, Task, plots, statistics, tables


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")


def made(initialization, seed, accuracies, loss, init_seconds=0.5, lr=0.1, validation=50.0, diverged=False):
    """A run with 100 steps an epoch, a second each, evaluated every epoch."""
    curve = tuple(Point(100 * number, float(number), accuracy, loss) for number, accuracy in enumerate(accuracies))
    return Run(Task("mlp3", initialization, seed, lr), init_seconds, loss, curve, 100, validation, diverged)


MADE = [
    made("he", 0, [10, 80, 93, 91], 0.5, init_seconds=0.0),
    made("he", 1, [12, 84, 95, 95], 0.4, init_seconds=0.0),
    made("campaign", 0, [40, 90, 92, 92], 0.4),
    made("campaign", 1, [30, 93, 94, 96], 0.36),
]

MADE_PLAN = Plan(("mlp3",), ("he", "campaign"), (0, 1), epochs=3)


TO_92 = statistics.seconds_to(92)


def seeds_of(name, runs=MADE, lr=0.1):
    return statistics.by_seed(runs, "mlp3", name, lr)


def test_statistics_by_hand():
    def mean(metric, name):
        found = statistics.mean_of(metric, seeds_of(name))
        return found.mean, found.error

    assert mean(statistics.UNTRAINED, "campaign") == (35, pytest.approx(5))
    assert mean(statistics.EARLY[0], "he") == mean(statistics.EPOCHS[0], "he") == (82, pytest.approx(2))
    assert mean(statistics.EPOCHS[1], "he") == (94, pytest.approx(1))
    assert mean(statistics.FINAL, "campaign") == (94, pytest.approx(2))
    assert mean(statistics.ERROR, "he") == (6, pytest.approx(1))
    assert mean(statistics.EPOCH, "he") == (2, 0)
    assert mean(statistics.EPOCH, "campaign") == (2.5, pytest.approx(0.5))
    assert mean(TO_92, "he") == (2, 0)
    assert mean(TO_92, "campaign") == (pytest.approx(2.0), pytest.approx(0.5))
    assert mean(statistics.SHARE, "campaign") == (0.5, 0)
    assert mean(statistics.WALL, "campaign") == (3.5, 0)
    loss = statistics.difference(statistics.LOSS, seeds_of("campaign"), seeds_of("he"))
    assert (loss.mean, loss.error, loss.n) == (pytest.approx(-15), pytest.approx(5), 2)
    early = statistics.difference(statistics.EARLY[0], seeds_of("campaign"), seeds_of("he"))
    assert (early.mean, early.error) == (9.5, pytest.approx(0.5))
    assert early.certain_sign
    assert statistics.mean_of(statistics.EARLY[2], seeds_of("he")).n == 0


def test_a_pair_needs_both_seeds():
    assert statistics.difference(statistics.LOSS, seeds_of("campaign", MADE[:3]), seeds_of("he")).n == 1
    never = [*MADE[:3], made("campaign", 1, [10, 20, 30, 40], 2.0)]
    assert statistics.difference(TO_92, seeds_of("campaign", never), seeds_of("he")).n == 1
    assert "2.50 (1 of 2)" in list(tables.grids(never, MADE_PLAN, "digits"))[2].markdown()


SWEEP = [
    run
    for lr, he, campaign in ((0.1, 80, 96), (1.0, 90, 10))
    for seed in (0, 1)
    for run in (
        made("he", seed, [10, 50, he + seed], 0.5, lr=lr, validation=he + seed),
        made("campaign", seed, [10, 60, campaign], np.inf if lr == 1 else 0.4, lr=lr, validation=campaign, diverged=lr == 1),
    )
]
SWEEP_PLAN = Plan(("mlp3",), ("he", "campaign"), (0, 1), epochs=2, lr=(0.1, 1.0), target=(55, 93))


def test_each_is_compared_at_its_best_rate():
    assert [(row.initialization, row.lr, row.he_lr) for row in statistics.best_rows(SWEEP, SWEEP_PLAN, "mlp3")] == [
        ("he", 1.0, 1.0),
        ("campaign", 0.1, 1.0),
    ]
    figures, same, _, best_figures, best, _ = (grid.markdown().splitlines() for grid in tables.grids(SWEEP, SWEEP_PLAN, "digits"))
    assert [line.split(" | ")[:2] for line in figures[4:]] == [[f"| {name}", lr] for lr in ("0.1", "1") for name in ("he", "campaign")]
    assert [line.split(" | ")[-1] for line in figures[2:]] == ["diverged |", "---: |", "0 of 2 |", "0 of 2 |", "0 of 2 |", "2 of 2 |"]
    assert "| inf |" in figures[-1]
    assert "diverged" not in best_figures[2]
    assert same[0].endswith("sgd at lr 0.1, 1, 2 epochs: paired difference to he**")
    assert best[0].endswith("each at its best: paired difference to he at 1**")
    assert best[2].endswith("| Δ seconds to 55 %, % | Δ seconds to 93 %, % |")
    assert best[4].startswith("| campaign | 0.1 | +0.0 ± 0.0 | **+10.00 ± 0.00** |")
    assert "mlp3,campaign,0.1,best,1,final_accuracy,96,0,2,5.5,0.5,2" in tables.summary_csv(SWEEP, SWEEP_PLAN).splitlines()
    with Path("curves.png").open("wb") as file:
        plots.curves(file, SWEEP, SWEEP_PLAN, "digits")


def test_tables_say_what_statistics_say():
    figures, differences, times = (grid.markdown().splitlines() for grid in tables.grids(MADE, MADE_PLAN, "digits"))
    assert figures[0] == "**mlp3 on digits, 2 seeds, sgd at lr 0.1, 3 epochs: mean ± standard error**"
    assert figures[2] == (
        "| init | untrained acc. % | acc. % @100 | acc. % @300 | loss, 1st epoch | acc. % epoch 1 | acc. % epoch 2 | final acc. % "
        "| best error % | at epoch |"
    )
    assert figures[-1] == (
        "| campaign | 35.0 ± 5.0 | 91.50 ± 1.50 | 94.00 ± 2.00 | 0.3800 ± 0.0200 | 91.50 ± 1.50 | 93.00 ± 1.00 | 94.00 ± 2.00 "
        "| 6.00 ± 2.00 | 2.5 ± 0.5 |"
    )
    assert len(differences) == 5  # he is not compared with itself
    assert differences[-1].startswith(
        "| campaign | **+24.0 ± 6.0** | **+9.50 ± 0.50** | **+1.00 ± 0.00** | **-15.0 ± 5.0** | **+9.50 ± 0.50** | **-1.00 ± 0.00** |"
    )
    assert differences[-1].endswith("| +0.0 ± 25.0 |")
    assert times[-1] == "| campaign | 0.500 ± 0.000 | 0.500 ± 0.000 | 3.50 ± 0.00 | 2.00 ± 0.50 |"


def test_worse_is_marked_as_worse():
    runs = [made("he", 0, [10, 90], 0.2), made("he", 1, [10, 91], 0.2), made("lsuv", 0, [10, 70], 0.4), made("lsuv", 1, [10, 71], 0.4)]
    grid = list(tables.grids(runs, Plan(("mlp3",), ("he", "lsuv"), (0, 1), epochs=1), "digits"))[1]
    verdicts = dict(zip(grid.headers, (cell.verdict for cell in grid.rows[0]), strict=True))
    assert verdicts["Δ acc. % @100"] == verdicts["Δ loss, 1st epoch, %"] == verdicts["Δ acc. % epoch 1"] == -1
    assert verdicts["Δ untrained acc. %"] == 0


def test_csv_files():
    rows = [line.split(",") for line in tables.runs_csv(MADE[::-1], MADE_PLAN).splitlines()]
    assert [row[:4] for row in rows[1:]] == [["mlp3", name, "0.1", seed] for seed in "01" for name in ("he", "campaign")]
    assert rows[2][rows[0].index("untrained")] == "40"
    curve = tables.curves_csv(MADE, MADE_PLAN).splitlines()
    assert len(curve) == 1 + 16
    assert curve[5] == "mlp3,campaign,0.1,0,0,0.5000,40,0.4"
    assert "mlp3,campaign,0.1,each,0.1,first_epoch_loss,0.38,0.02,2,-15,5,2" in tables.summary_csv(MADE, MADE_PLAN).splitlines()


def test_picture_shows_both_curves():
    with Path("curves.png").open("wb") as file:
        plots.curves(file, MADE, MADE_PLAN, "digits")
    pixels = imread("curves.png")[..., :3]
    for color in (plots.HE_COLOR, plots.CAMPAIGN_COLOR):
        rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        assert (np.abs(pixels - rgb).max(axis=2) < 0.02).sum() > 500


SETTINGS = {"epochs": 3, "data": "digits"}


def test_runs_survive_a_round_trip_and_a_torn_line():
    folder = Folder(Path("out"))
    with folder.opened(SETTINGS) as runs:
        assert runs == []
        for one in MADE[:3]:
            folder.append(one)
    whole = Path("out/runs.jsonl").read_bytes()
    Path("out/runs.jsonl").write_bytes(whole[:-20])  # the third write was cut short
    with folder.opened(SETTINGS) as runs:
        assert runs == MADE[:2]
        folder.append(MADE[2])
    assert Path("out/runs.jsonl").read_bytes() == whole


def test_other_settings_are_refused_and_say_what_differs():
    folder, other = Folder(Path("out")), {**SETTINGS, "epochs": 5}
    with folder.opened(other):
        assert json.loads(Path("out/settings.json").read_text()) == other
    with folder.opened(SETTINGS):  # nothing was run: not held against it
        folder.append(MADE[0])
    with pytest.raises(ValueError, match=r"holds runs with epochs 3, here 5: delete it"), folder.opened(other):
        pass


def test_one_comparison_at_a_time():
    folder = Folder(Path("out"))
    with folder.opened(SETTINGS), pytest.raises(ValueError, match="in use"), folder.opened(SETTINGS):
        pass


@pytest.mark.parametrize(("name", "content"), [("settings.json", "{"), ("runs.jsonl", "{}\n"), ("runs.jsonl", "nonsense\n")])
def test_damaged_files_are_named(name, content):
    with Folder(Path("out")).opened(SETTINGS):
        Folder(Path("out")).append(MADE[0])
    (Path("out") / name).write_text(content)
    with pytest.raises(ValueError, match=name), Folder(Path("out")).opened(SETTINGS):
        pass
