"""The command line, run for real: what it prints, what it writes, how it refuses."""

import os
import re
import runpy
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
pytest.importorskip("typer")

from matplotlib.image import imread
from typer.testing import CliRunner

import nc_fast
from nc_fast.command import commands, demo, demo_picture, main
from nc_fast.files import read

ROOT = Path(__file__).resolve().parents[2]
DIGIT_COUNTS = ["--pool", "200", "--k", "30", "--no-train"]  # tests/command/test_compare.py trains


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")


def run(*arguments, code=0):
    result = CliRunner().invoke(commands.app, [str(argument) for argument in arguments], prog_name="nc-fast")
    assert result.exit_code == code, (result.output, result.exception)
    return result


def refusal(*arguments) -> str:
    """The one line on stderr with which a command refuses its input."""
    result = run(*arguments, code=2)
    assert result.stdout == ""
    assert result.stderr.startswith("nc-fast: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("nc-fast: ").rstrip()


def cells(output: str) -> dict[str, list[str]]:
    """Rows of the printed tables by their first cell."""
    rows = ([cell.strip() for cell in line.strip("│").split("│")] for line in output.splitlines() if line.startswith("│"))
    return {first: rest for first, *rest in rows}


def seconds(text: str) -> float:
    number, unit = text.split()
    return float(number) * {"s": 1, "ms": 1e-3, "µs": 1e-6}[unit]


def arrays(rng, n=60, d=5, m=40):
    return {"W": rng.normal(size=(d, m)), "X": rng.normal(size=(n, d)), "y": rng.choice(["a", "b", "c"], n)}


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
    output = run("demo", "--npz", "many.npz", "--pool", 300, "--k", 40, "--no-train").stdout
    assert "distinct picks  40 of 40" in output
    height = imread("nc_fast_demo.png").shape[0]
    assert height == demo_picture.HEADER + demo_picture.FOOTER + demo_picture._Tiles(None, 6).size(1, demo.CLASSES_SHOWN)[1]


def test_demo_on_large_pictures_stays_small(rng):
    np.savez("large.npz", X=rng.integers(0, 256, (30, 200, 90), dtype=np.uint8), y=np.arange(30) % 2)
    output = run("demo", "--npz", "large.npz", "--pool", 20, "--k", 4, "--max-samples", 12, "--no-train").stdout
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
    output = run("demo", "--data-dir", shared / "data" / "mnist", "--max-samples", 20000, "--no-train").stdout
    assert "20000 samples, 784 features" in output
    assert re.search(r"^distinct picks +100 of 100$", output, re.M)
    assert re.search(r"^same picks +yes, all 100", output, re.M)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--k", 2000], "k: expected 1 <= k <= M = 1000, got 2000"),
        (["demo", "--k", 0], "k: expected 1 <= k <= M = 1000, got 0"),
        (["demo", "--pool", 0], "pool: expected pool >= 1, got 0"),
        (["demo", "--alpha", 1.5], "alpha: expected a number in [0, 1], got 1.5"),
        (["demo", "--activation", "rleu"], "activation: expected one of .* did you mean 'relu'?"),
        (["demo", "--data-dir", "x", "--npz", "y"], "--data-dir and --npz: expected one of them, got both"),
        (["demo", "--data-dir", "absent"], "--data-dir: expected a folder, got absent"),
        (["demo", "--data-dir", "."], "expected a file train-images-idx3-ubyte or train-images-idx3-ubyte.gz, got none"),
        (["demo", "--npz", "absent.npz"], "[Errno 2] No such file or directory: 'absent.npz'"),
        (["demo", "--out", "absent/x.png"], "--out: expected a file in a folder that exists, got absent/x.png"),
        (["demo", "--k", "many"], "(see nc-fast --help)"),
        (["demo", "--max-samples", 0], "--max-samples"),
        (["dmeo"], "No such command 'dmeo'."),
        (["select", "absent.npz", "--k", 3], "No such file or directory"),
        (["select", "absent.npz"], "--k"),
    ],
)
def test_refusals(arguments, message):
    line = refusal(*arguments)
    assert message in line or re.search(message, line)
    assert list(Path().iterdir()) == []


def test_traceback_on_request():
    assert isinstance(run("--traceback", "demo", "--alpha", 2, code=1).exception, ValueError)


def test_select_writes_the_campaigns_picks(rng):
    some = arrays(rng)
    np.savez("some.npz", **some, bias=np.linspace(-1, 1, 40))
    output = run("select", "some.npz", "--k", 9, "--alpha", 0.3, "--activation", "gelu", "--no-by-class", "--out", "picks.npz").stdout
    found = nc_fast.campaign(some["W"], some["X"], some["y"], 9, bias=np.linspace(-1, 1, 40), alpha=0.3, activation="gelu", by_class=False)
    with np.load("picks.npz") as written:
        assert sorted(written) == sorted(commands.ARRAYS_WRITTEN)
        for name in written:
            np.testing.assert_array_equal(written[name], getattr(found, name))
    assert output.startswith("9 of 40 candidates picked, restarts: 1\n")
    names, counts = np.unique(found.groups, return_counts=True)
    assert "picks per class: " + ", ".join(f"{name}: {count}" for name, count in zip(names, counts, strict=True)) in output


def test_select_refuses_what_does_not_fit(rng):
    some = arrays(rng)
    np.savez("bad.npz", W=some["W"], X=some["X"][:, :4], y=some["y"])
    assert refusal("select", "bad.npz", "--k", 3) == "X: expected shape (N, D) = (N, 5) to match W, got (60, 4)"
    np.savez("no_w.npz", X=some["X"], y=some["y"])
    assert "expected arrays W, X, y, got X, y" in refusal("select", "no_w.npz", "--k", 3)
    np.savez("good.npz", **some)
    assert "expected 1 <= k <= M = 40" in refusal("select", "good.npz", "--k", 41)
    assert "backend: expected one of" in refusal("select", "good.npz", "--k", 4, "--backend", "tpu")
    assert not Path("picks.npz").exists()


def test_warnings_are_one_line_each(rng):
    some = arrays(rng)
    some["W"][:, 5:] = 0
    np.savez("dead.npz", **some)
    result = run("select", "dead.npz", "--k", 8)
    assert result.stderr.startswith("nc-fast: warning: k = 8 exceeds the 5 live candidates")
    assert result.stderr.count("\n") == 1
    assert Path("picks.npz").exists()


def test_info():
    lines = run("info").stdout.splitlines()
    facts = dict(re.split(r"  +", line, maxsplit=1) for line in lines)
    assert facts["nc_fast"] == nc_fast.__version__
    assert facts["Python"].startswith(".".join(map(str, sys.version_info[:3])))
    assert facts["numpy"] == np.__version__
    assert int(facts["threads"]) >= 1
    assert facts["SIMD"] in ("avx2+fma", "baseline")
    assert facts["backend reference"] == facts["backend cpu"] == "available"
    assert {"backend gpu", "CPU", "BLAS", "torch"} <= set(facts)


def test_info_without_torch_and_with_gpus(monkeypatch):
    import torch

    from nc_fast.command import info

    monkeypatch.setattr(info, "PACKAGES", ("no-such-package",))
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    facts = dict(info.facts())
    assert (facts["no-such-package"], facts["OMP_NUM_THREADS"]) == ("not installed", "7")

    class Device:
        name, total_memory, major, minor = "Some GPU", 80 << 30, 9, 0

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: Device)
    assert dict(info._gpus())["GPU 0"] == "Some GPU, 80 GiB, compute capability 9.0"
    monkeypatch.setattr(info, "_version", lambda package: "not installed")
    assert dict(info._gpus()) == {}


def test_version_and_help():
    assert run("--version").stdout == f"{nc_fast.__version__}\n"
    assert all(command in run("--help").stdout for command in ("demo", "select", "info"))
    assert "--max-samples" in run("demo", "-h").stdout


def test_missing_extras_are_named(monkeypatch):
    monkeypatch.setattr(main, "EXTRAS", ("rich", "no_such_package"))
    with pytest.raises(SystemExit) as left:
        main.main()
    assert left.value.code == 'nc-fast: no_such_package not installed: pip install "nc_fast[demo]"'


def test_main_runs_a_command_and_exits(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["nc-fast", "--version"])
    with pytest.raises(SystemExit) as left:
        main.main()
    assert (left.value.code, capsys.readouterr().out) == (0, f"{nc_fast.__version__}\n")

    def interrupted(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "app", interrupted)
    with pytest.raises(SystemExit) as left:
        main.main()
    assert left.value.code == 130


def test_interrupt_in_a_command_leaves_nothing(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "picture", interrupted)
    result = run("demo", *DIGIT_COUNTS, code=130)
    assert result.stderr == "nc-fast: interrupted\n"
    assert list(Path().iterdir()) == []


COMMAND = [sys.executable, "-c", "from nc_fast.command.main import main; main()"]


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}


def test_process_refuses_in_one_line():
    found = subprocess.run([*COMMAND, "select", "absent.npz", "--k", "3"], capture_output=True, text=True, env=environment(), check=False)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == "nc-fast: [Errno 2] No such file or directory: 'absent.npz'\n"


ANNOUNCED = """
import nc_fast
from nc_fast.command.main import main

def campaign(*args, campaign=nc_fast.campaign, **kwargs):
    print("ready", flush=True)
    return campaign(*args, **kwargs)

nc_fast.campaign = campaign
main()
"""


def test_process_is_interrupted(rng):
    np.savez("big.npz", W=rng.normal(size=(200, 4000)), X=rng.normal(size=(20000, 200)), y=np.arange(20000) % 7)
    command = [sys.executable, "-c", ANNOUNCED, "select", "big.npz", "--k", "500", "--backend", "reference"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "nc-fast: interrupted\n")
    assert list(Path().iterdir()) == [Path("big.npz")]


def test_help_imports_nothing_heavy():
    script = "import sys; sys.argv = ['nc-fast', '--help']\nfrom nc_fast.command.main import main\ntry: main()\nexcept SystemExit: print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment(), check=True)
    assert not {"torch", "numba", "sklearn", "matplotlib", "scipy"} & set(found.stdout.splitlines()[-1].split())


def test_example(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runpy.run_path(str(ROOT / "examples" / "campaign_digits.py"), run_name="__main__")
    output = capsys.readouterr().out
    assert "distinct picks: 64\n" in output
    picked, pool = map(float, re.search(r"mean score: (\S+) picked, (\S+) pool", output).groups())
    assert picked > pool
    assert output.endswith("network output for five digits: (5, 10)\n")
