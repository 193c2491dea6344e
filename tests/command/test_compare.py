"""nc-fast compare: initializations, training, what is kept, statistics, the command."""

import json
import os
import re
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

import original as benchmark_original
import torch
from init_cases import one_torch_thread
from matplotlib.image import imread
from test_cli import COMMAND, environment, refusal, run
from torch import nn

import nc_fast
from nc_fast.compare import Folder, Plan, Point, Run, Task, initializations, original, plots, statistics, tables, training, workers
from nc_fast.compare.initializations import ALL, layers, parse
from nc_fast.compare.networks import NETWORKS, build
from nc_fast.compare.samples import prepare
from nc_fast.files.read import Dataset, load_digits


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture(autouse=True)
def _one_thread():
    with one_torch_thread():
        yield


@pytest.fixture(scope="module")
def digits():
    return prepare(load_digits())


def initialized(spec, samples, network="mlp3", seed=0):
    model = build(network, samples)
    parse(spec)(model, samples, torch.Generator().manual_seed(seed))
    return model


SCALES = {
    "normal": lambda out, fan_in: 0.01,
    "normal:std=0.5": lambda out, fan_in: 0.5,
    "xavier": lambda out, fan_in: (2 / (out + fan_in)) ** 0.5,
    "he": lambda out, fan_in: (2 / fan_in) ** 0.5,
    "he:gain=1.41": lambda out, fan_in: 1.41 * (2 / fan_in) ** 0.5,
    "orthogonal": lambda out, fan_in: (2 / max(out, fan_in)) ** 0.5,
    "he-center": lambda out, fan_in: (2 / fan_in) ** 0.5,
    "he-center-assign": lambda out, fan_in: (2 / fan_in) ** 0.5,
    "original": lambda out, fan_in: (2 / (5 * out)) ** 0.5,  # its fan_in is the pool's size
    "original:pool=20": lambda out, fan_in: (2 / (20 * out)) ** 0.5,
}


@pytest.mark.parametrize("spec", SCALES)
def test_weights_have_the_scale_of_their_recipe(spec, digits):
    for layer in layers(initialized(spec, digits)):
        expected = SCALES[spec](layer.out_features, layer.in_features)
        # 1000 weights of the output layer know their scale to 2 %; a selection moves it a little
        assert float(layer.weight.detach().pow(2).mean().sqrt()) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("spec", ["normal", "xavier", "he", "he:like=campaign", "orthogonal", "lsuv", "original"])
def test_biases_are_zero(spec, digits):
    assert not any(layer.bias.any() for layer in layers(initialized(spec, digits)))


def test_orthogonal_rows():
    samples = prepare(Dataset("zeros", np.zeros((20, 64), np.float32), np.arange(20) % 2))
    weight = layers(initialized("orthogonal", samples, "mlp5"))[0].weight.detach()
    np.testing.assert_allclose(weight @ weight.T, 2 * np.eye(32), atol=1e-5)


def test_lsuv_gives_unit_variance(digits):
    model, x = initialized("lsuv", digits), digits.X
    with torch.no_grad():
        for layer in model:
            x = layer(x)
            if isinstance(layer, nn.Linear):
                assert float(x.std()) == pytest.approx(1, abs=0.11)  # its tolerance is 0.1


@pytest.mark.parametrize("spec", ["he-center", "he-center-assign", "campaign"])
def test_centred_layers_have_mean_zero(spec, digits):
    model, x = initialized(spec, digits), digits.X
    with torch.no_grad():
        for layer in model:
            x = layer(x)
            if isinstance(layer, nn.Linear):
                assert float(x.mean(0).abs().max()) < 1e-4


def test_assigned_outputs_answer_to_their_class(digits):
    def right(spec):
        return np.mean([training.accuracy(initialized(spec, digits, seed=seed), digits) for seed in range(4)])

    assert right("he-center-assign") > right("he-center") + 5


def test_campaign_is_campaign_with_its_options(digits):
    options = {"pool": 3, "alpha": [1.0, 0.5, 0.25], "bias": "zeros", "max_samples": None, "by_class": False, "criterion": "fisher"}
    model = initialized("campaign:pool=3,alpha=1/0.5/0.25,bias=zeros,max_samples=none,by_class=false,criterion=fisher", digits)
    twin = build("mlp3", digits)
    nc_fast.init.campaign_(twin, (digits.X, digits.y), generator=torch.Generator().manual_seed(0), **options)
    for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("other", ["campaign", "original"])
def test_scale_matched_he_has_the_others_scale_and_hes_direction(other, digits):
    he, matched, scale = (layers(initialized(spec, digits)) for spec in ("he", f"he:like={other}", other))
    for plain, mine, theirs in zip(he, matched, scale, strict=True):
        ratio = (mine.weight / plain.weight).detach()
        torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio))
        if other == "original":  # drawn after He's weights, so not from the same random numbers: the same scale up to sampling
            assert float(mine.weight.detach().norm()) == pytest.approx(float(theirs.weight.detach().norm()), rel=0.1)
    assert not torch.equal(he[0].weight, matched[0].weight)


@pytest.mark.parametrize("spec", ALL)
def test_an_initialization_follows_its_generator_alone(spec, digits):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = [parameter.clone() for parameter in initialized(spec, digits, "mlp5", seed=5).parameters()]
    torch.manual_seed(1)
    build("mlp5", digits)  # torch's own initialization draws from the global state
    after_build = torch.get_rng_state()
    torch.manual_seed(1)
    second = list(initialized(spec, digits, "mlp5", seed=5).parameters())
    assert torch.equal(torch.get_rng_state(), after_build)
    assert not torch.equal(before, after_build)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    third = list(initialized(spec, digits, "mlp5", seed=6).parameters())
    assert not torch.equal(first[0], third[0])


def test_original_repeats_neurons_as_the_restated_program_does(rng):
    W = rng.normal(size=(12, 90)).astype(np.float32)
    score = rng.normal(size=90).astype(np.float32) - 0.5
    group = rng.integers(0, 3, 90)
    mine = original.greedy(W, score, group, 45).reshape(3, 15)
    theirs = benchmark_original.select_numpy(W, score, group, 45, "basis").reshape(3, 15)
    for ours, others in zip(mine.tolist(), theirs.tolist(), strict=True):
        repeated = next(number for number in range(15) if others[number] in others[:number])
        assert repeated >= 3
        assert ours[:repeated] == others[:repeated]
        assert ours[repeated] in ours[:repeated]  # which one is left to rounding, and all that follows


@pytest.mark.parametrize("spec", ["hee", "he:gian=2", "he:gain", "campaign:pol=2", "he:like=xavir", "normal:gain=2"])
def test_unknown_specs_are_refused(spec):
    with pytest.raises(ValueError, match="--init"):
        parse(spec)


def test_lsuv_absent_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "lsuv", None)
    with pytest.raises(ImportError, match=r"lsuv is not installed: pip install"):
        parse("lsuv")


@pytest.mark.parametrize("network", NETWORKS)
def test_networks(network, digits):
    model = build(network, digits)
    widths = {"mlp2": [100, 10], "mlp3": [256, 100, 10], "mlp5": [32, 32, 32, 32, 10], "cnn": [8, 16, 10]}
    assert [len(layer.weight) for layer in layers(model)] == widths[network]
    assert model(digits.X[:3]).shape == (3, 10)


def test_cnn_on_odd_pictures_and_without(rng):
    X, y = rng.random((30, 7 * 5), dtype=np.float32), np.arange(30) % 3
    assert build("cnn", prepare(Dataset("odd", X, y, image_shape=(7, 5))))(torch.from_numpy(X)).shape == (30, 3)
    with pytest.raises(ValueError, match="cnn needs pictures"):
        build("cnn", prepare(Dataset("flat", X, y)))


def test_samples_are_held_out_by_class_and_classes_numbered():
    y = np.repeat(["a", "b", "c"], [10, 1, 4])
    samples = prepare(Dataset("some", np.arange(15, dtype=np.float32)[:, None], y))
    assert sorted([*samples.X.flatten().tolist(), *samples.X_test.flatten().tolist()]) == list(range(15))
    assert samples.X_test.flatten().tolist() == [4, 9, 14]
    assert samples.y_test.tolist() == [0, 0, 2]
    assert samples.n_classes == 3


@pytest.mark.parametrize(
    ("y", "y_test", "message"),
    [
        ([1] * 9, None, "two classes"),
        ([0, 1, 2], None, "expected at least 5 samples"),
        ([0, 1] * 3, [0, 2], "labels that occur in training, got 2"),
    ],
)
def test_samples_that_cannot_be_compared(y, y_test, message):
    X_test = None if y_test is None else np.zeros((2, 2))
    with pytest.raises(ValueError, match=message):
        prepare(Dataset("bad", np.zeros((len(y), 2)), np.array(y), X_test, None if y_test is None else np.array(y_test)))


PLAN = Plan(("mlp5",), ("he", "campaign"), (3, 4), epochs=3, lr=0.2, batch=64, eval_every=8)


def test_training_is_plain_sgd_on_the_seeds_batches(digits):
    found = training.train(Task("mlp5", "he", 3), PLAN, digits, lambda steps: None)
    model = initialized("he", digits, "mlp5", seed=6)
    optimizer, order = torch.optim.SGD(model.parameters(), lr=0.2), torch.Generator().manual_seed(7)
    losses, accuracies = [], {0: training.accuracy(model, digits)}
    steps = len(digits.X) // 64
    for epoch in range(3):
        permutation = torch.randperm(len(digits.X), generator=order)
        for number in range(steps):
            rows = permutation[64 * number : 64 * (number + 1)]
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(digits.X[rows]), digits.y[rows])
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
            accuracies[epoch * steps + number + 1] = 100 * float((model(digits.X_test).argmax(1) == digits.y_test).double().mean())
    assert [point.step for point in found.curve] == [0, 8, 16, 22, 44, 66]
    for before, point in zip(found.curve, found.curve[1:], strict=False):
        assert point.accuracy == pytest.approx(accuracies[point.step], abs=0.6)  # rounding may turn a sample or two
        assert point.loss == pytest.approx(np.mean(losses[before.step : point.step]), rel=1e-4)
    assert found.first_epoch_loss == pytest.approx(np.mean(losses[:steps]), rel=1e-4)
    assert found.epoch_steps == steps
    assert all(a.seconds < b.seconds for a, b in zip(found.curve, found.curve[1:], strict=False))


def test_training_reports_every_step(digits):
    reported = []
    training.train(Task("mlp5", "he", 3), PLAN, digits, reported.append)
    assert sum(reported) == PLAN.steps(len(digits.X)) == 66


def made(initialization, seed, accuracies, loss, init_seconds=0.5, network="mlp3"):
    """A run with 100 steps an epoch, a second each, evaluated every epoch."""
    curve = tuple(Point(100 * number, float(number), accuracy, loss) for number, accuracy in enumerate(accuracies))
    return Run(Task(network, initialization, seed), init_seconds, loss, curve, 100)


MADE = [
    made("he", 0, [10, 80, 93, 91], 0.5, init_seconds=0.0),
    made("he", 1, [12, 84, 95, 95], 0.4, init_seconds=0.0),
    made("campaign", 0, [40, 90, 92, 92], 0.4),
    made("campaign", 1, [30, 93, 94, 96], 0.36),
]
MADE_PLAN = Plan(("mlp3",), ("he", "campaign"), (0, 1), epochs=3)


def test_statistics_by_hand():
    def mean(metric, name):
        found = statistics.mean_of(metric, MADE, "mlp3", name, 92.0)
        return found.mean, found.error

    assert mean(statistics.UNTRAINED, "campaign") == (35, pytest.approx(5))
    assert mean(statistics.EARLY[0], "he") == (82, pytest.approx(2))
    assert mean(statistics.ERROR, "he") == (6, pytest.approx(1))
    assert mean(statistics.EPOCH, "he") == (2, 0)
    assert mean(statistics.EPOCH, "campaign") == (2.5, pytest.approx(0.5))
    assert mean(statistics.TARGET, "he") == (2, 0)
    assert mean(statistics.TARGET, "campaign") == (pytest.approx(2.0), pytest.approx(0.5))
    assert mean(statistics.SHARE, "campaign") == (0.5, 0)
    assert mean(statistics.WALL, "campaign") == (3.5, 0)
    loss = statistics.against_he(statistics.LOSS, MADE, "mlp3", "campaign", 92.0)
    assert (loss.mean, loss.error, loss.n) == (pytest.approx(-15), pytest.approx(5), 2)
    early = statistics.against_he(statistics.EARLY[0], MADE, "mlp3", "campaign", 92.0)
    assert (early.mean, early.error) == (9.5, pytest.approx(0.5))
    assert early.certain_sign
    assert statistics.mean_of(statistics.EARLY[2], MADE, "mlp3", "he", 92.0).n == 0


def test_a_pair_needs_both_seeds():
    assert statistics.against_he(statistics.LOSS, MADE[:3], "mlp3", "campaign", 92.0).n == 1
    never = [*MADE[:3], made("campaign", 1, [10, 20, 30, 40], 2.0)]
    assert statistics.against_he(statistics.TARGET, never, "mlp3", "campaign", 92.0).n == 1


def test_tables_say_what_statistics_say():
    figures, differences, times = (grid.markdown().splitlines() for grid in tables.grids(MADE, MADE_PLAN, "digits"))
    assert figures[0] == "**mlp3 on digits, 2 seeds, lr 0.1, 3 epochs: mean ± standard error**"
    assert "| init | untrained acc. % | acc. % @100 | acc. % @300 | loss, 1st epoch | best error % | at epoch |" in figures
    assert figures[-1] == "| campaign | 35.0 ± 5.0 | 91.50 ± 1.50 | 94.00 ± 2.00 | 0.3800 ± 0.0200 | 6.00 ± 2.00 | 2.5 ± 0.5 |"
    assert len(differences) == 5  # he is not compared with itself
    assert differences[-1].startswith(
        "| campaign | **+24.0 ± 6.0** | **+9.50 ± 0.50** | **+1.00 ± 0.00** | **-15.0 ± 5.0** | +0.00 ± 1.00 |"
    )
    assert times[-1] == "| campaign | 0.500 ± 0.000 | 0.500 ± 0.000 | 3.50 ± 0.00 | 2.00 ± 0.50 |"


def test_worse_is_marked_as_worse():
    runs = [made("he", 0, [10, 90], 0.2), made("he", 1, [10, 91], 0.2), made("lsuv", 0, [10, 70], 0.4), made("lsuv", 1, [10, 71], 0.4)]
    grid = list(tables.grids(runs, Plan(("mlp3",), ("he", "lsuv"), (0, 1), epochs=1), "digits"))[1]
    verdicts = dict(zip(grid.headers, (cell.verdict for cell in grid.rows[0]), strict=True))
    assert verdicts["Δ acc. % @100"] == verdicts["Δ loss, 1st epoch, %"] == verdicts["Δ best error %"] == -1
    assert verdicts["Δ untrained acc. %"] == 0


def test_csv_files():
    rows = [line.split(",") for line in tables.runs_csv(MADE[::-1], MADE_PLAN).splitlines()]
    assert [row[:3] for row in rows[1:]] == [["mlp3", name, seed] for seed in "01" for name in ("he", "campaign")]
    assert rows[2][rows[0].index("untrained")] == "40"
    curve = tables.curves_csv(MADE, MADE_PLAN).splitlines()
    assert len(curve) == 1 + 16
    assert curve[5] == "mlp3,campaign,0,0,0.5000,40,0.4"
    assert "mlp3,campaign,first_epoch_loss,0.38,0.02,2,-15,5,2" in tables.summary_csv(MADE, MADE_PLAN).splitlines()


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


ARGUMENTS = ["compare", "--networks", "mlp5", "--seeds", "2", "--epochs", "2", "--out", "out"]


def figures(path="out/runs.csv"):
    """Everything in a runs.csv but the times."""
    return [line.split(",")[: -len(statistics.TIME)] for line in Path(path).read_text().splitlines()]


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
    assert [row[:3] for row in mine] == [row[:3] for row in theirs]
    ours, others = (np.array([row[3:] for row in rows[1:]], float) for rows in (mine, theirs))
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
    arguments = ["compare", "--seeds", "50", "--epochs", "30", "--networks", "mlp5", "--jobs", "2", "--out", "out"]
    pipe = subprocess.PIPE
    return subprocess.Popen([*command, *arguments], stdout=pipe, stderr=pipe, text=True, env=environment(), start_new_session=True)


def test_process_with_workers_is_interrupted():
    process = long_comparison(*COMMAND)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (Path("out/runs.jsonl").exists() and Path("out/runs.jsonl").stat().st_size):
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: all of them get it
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (130, "nc-fast: interrupted\n")
    assert ended(process.pid)
    assert all(json.loads(line)["curve"] for line in Path("out/runs.jsonl").read_text().splitlines())


WORKER_KILLED = """
import multiprocessing
from nc_fast.command.main import main
from nc_fast.compare import Folder

def append(folder, run, append=Folder.append):
    append(folder, run)
    multiprocessing.active_children()[0].kill()

Folder.append = append
main()
"""


def test_killed_worker_is_one_clear_error():
    process = long_comparison(sys.executable, "-c", WORKER_KILLED)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert errors == "nc-fast: a worker process ended before its runs did: it was killed, perhaps for want of memory\n"
    assert ended(process.pid)


def test_worker_reports_what_went_wrong(digits, tmp_path):
    plan = Plan(("mlp3",), ("he",), (0, 1), epochs=1)
    with pytest.raises(OSError, match="absent") as caught:
        list(workers.run_plan(plan, plan.tasks(), digits, tmp_path / "absent", 2, lambda _: None))
    assert "in _work" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--networks", "mlp4"], "--networks: expected one of"),
        (["--init", "campaign"], "--init: expected 'he' among the initializations"),
        (["--init", "he", "--init", "hee"], "--init: expected one of .* did you mean 'he'"),
        (["--init", "he", "--init", "he"], "--init: expected one or more different values"),
        (["--init", "he", "--init", "campaign:alpha=7"], "alpha: expected a number in .0, 1., got 7"),
        (["--epochs", 0], "--epochs: expected at least 1, got 0"),
        (["--eval-every", 0], "--eval-every: expected at least 1, got 0"),
        (["--lr", 0], "--lr: expected a number > 0, got 0"),
        (["--target", 101], "--target: expected a percentage"),
        (["--device", "nowhere"], "--device: expected a device that torch can use, got 'nowhere'"),
        (["--data-dir", "absent"], "--data-dir: expected a folder, got absent"),
        (["--out", "absent/out"], "--out: expected a folder"),
    ],
)
def test_command_refuses(arguments, message):
    assert re.search(message, refusal("compare", *arguments))


def test_demo_trains_from_both():
    output = run("demo", "--pool", 100, "--k", 20, "--out", "picture.png").stdout
    assert "mlp3 on digits, 3 seeds" in output
    assert output.splitlines()[-2:] == ["training curves: picture_training.png", "picture: picture.png"]
    assert imread("picture_training.png").shape[2] >= 3


def test_demo_says_why_it_does_not_train(rng):
    np.savez("few.npz", X=rng.normal(size=(4, 3)), y=[0, 0, 1, 1])
    output = run("demo", "--npz", "few.npz", "--pool", 20, "--k", 4).stdout
    assert "no training: few: expected at least 5 samples" in output
    assert not Path("nc_fast_demo_training.png").exists()


def test_defaults_are_among_all():
    assert set(initializations.DEFAULT) <= set(ALL)
    for spec in ALL:
        parse(spec)
