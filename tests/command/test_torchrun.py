"""``nc-fast`` under torchrun: the picks of one process, said once."""

import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

import nc_fast
from nc_fast.command.torchrun import process_group
from nc_fast.testing import CASES

torch = pytest.importorskip("torch")


def torchrun(*arguments):
    pytest.importorskip("torch", minversion="2.9", reason="the command line refuses older torch under torchrun")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"]
    return subprocess.run([*command, "-m", "nc_fast", *map(str, arguments)], env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def problem(tmp_path):
    W, X, y = CASES[1].draw(np.random.default_rng(0), np.float32)
    np.savez(tmp_path / "problem.npz", W=W, X=X, y=y)
    return tmp_path / "problem.npz", nc_fast.campaign(W, X, y, 9)


def test_select_shares_the_samples_and_speaks_once(problem, tmp_path):
    path, expected = problem
    done = torchrun("select", path, "--k", 9, "--out", tmp_path / "picks.npz")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("candidates picked") == done.stdout.count("picks: ") == 1
    np.testing.assert_array_equal(np.load(tmp_path / "picks.npz")["indices"], expected.indices)


def test_an_error_is_said_once(problem):
    done = torchrun("select", problem[0], "--k", 0)
    assert done.returncode != 0
    assert done.stderr.count("nc-fast: rank 0: k: expected 1 <= k <= M = 101, got 0") == 1
    assert 'Traceback (most recent call last):\n  File "<frozen runpy>", line 198, in _run_module_as_main\n    nc_fast' not in done.stderr


def test_a_torch_whose_groups_may_hang_is_refused(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch, "__version__", type(torch.__version__)("2.4.0+cu121"))
    with pytest.raises(ValueError, match=r"torch: expected 2\.9 or later under torchrun, got 2\.4\.0\+cu121"), process_group():
        pass
