"""The counter of a device's work: what it takes for an operation, a launch, a copy."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

torch = pytest.importorskip("torch")
pytest.importorskip("triton", minversion="3.5")

from device_work import Work, count_device_work  # noqa: E402

from nc_fast.backends.gpu.device import interpreting  # noqa: E402

CPU = torch.device("cpu")


def test_operations_and_their_bytes():
    a, b = torch.ones(100), torch.ones((100, 100))

    def call():
        rows = b[:10].T.reshape(-1).to(torch.float64)  # a copy, then a conversion
        torch.empty(1000)
        return rows, a.add_(1.0), a.expand(50, 100).sum(0)

    copied, converted, added, summed = 4000 * 2, 4000 + 8000, 400 * 2, 400 * 2
    assert count_device_work(call) == Work(operations=4, bytes=copied + converted + added + summed)


def test_copies_to_the_device_and_back():
    there, array = torch.ones(3), np.ones(3)
    assert count_device_work(lambda: torch.from_numpy(array).to(CPU)).copies == 1
    assert count_device_work(lambda: torch.tensor([1, 2], device=CPU)).copies == 1
    assert count_device_work(lambda: (there.cpu(), there.tolist())).copies == 2
    assert count_device_work(lambda: (there.to(CPU), torch.tensor([1]), torch.from_numpy(array))) == Work()


@pytest.mark.skipif(not interpreting(), reason="needs TRITON_INTERPRET=1 for the whole run")
def test_a_launch_is_counted_once_and_still_computes():
    from nc_fast.backends.gpu.kernels.pursue import activate_rows

    z, bias = torch.full((2, 3), -1.0), torch.zeros(2, dtype=torch.float64)
    work = count_device_work(lambda: activate_rows[(1, 1)](z, bias, 2, 3, ACT="relu", BM=2, BN=4))
    assert work == Work(launches=1, bytes=24 + 16)
    assert (z == 0).all()


def test_a_small_pool_asks_little_of_the_device():
    """Below M = 10,000 the product is short and what surrounds it decides."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "benchmarks/device_work.py"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr[-4000:]
    found = json.loads(done.stdout)
    requests = {name: sum(work[kind] for kind in ("operations", "launches", "copies")) for name, work in found.items() if name != "X"}
    assert requests["features"] <= 5
    assert found["features"]["bytes"] <= 1.1 * found["X"]["bytes"]
    assert requests["class_moments"] <= 40
