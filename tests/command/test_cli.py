"""The command line, run for real: what it prints, what it writes, how it refuses."""

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

from command_line import COMMAND, environment, refusal, run
from conftest import ROOT

import nc_fast
from nc_fast.command import commands, main


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")


def arrays(rng, n=60, d=5, m=40):
    return {"W": rng.normal(size=(d, m)), "X": rng.normal(size=(n, d)), "y": rng.choice(["a", "b", "c"], n)}


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
