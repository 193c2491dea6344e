import os
import signal
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from nc_fast import _projector, tolerances
from nc_fast.backends.registry import BACKENDS

for _name in ("RANK_TOLERANCE", "TIE_TOLERANCE"):
    _compiled, _declared = getattr(_projector, _name, None), getattr(tolerances, _name)
    if _compiled != _declared:
        raise RuntimeError(
            f"{_name}: csrc/tolerances.hpp, as built, has {_compiled}, nc_fast/tolerances.py has {_declared}; change one and build again"
        )

# A shell that starts the suite in the background has children ignore Ctrl-C; the tests that send it need it heard.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


if os.environ.get("TRITON_INTERPRET") == "1" and find_spec("triton"):
    from interpreter import mend_interpreter  # of benchmarks/

    mend_interpreter()

ROOT = Path(__file__).resolve().parent.parent
INTERPRETER_ACTIVATIONS = 4000  # N x M that Triton's interpreter gets through in a second


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20211101)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of large inputs beside the checkout (MNIST, all goldens), or the one NC_FAST_SHARED names."""
    folder = Path(os.environ.get("NC_FAST_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: set NC_FAST_SHARED to the folder that holds data/ and golden/")
    return folder


@pytest.fixture(scope="session")
def mnist(shared: Path):
    from nc_fast.files.read import load_idx_folder

    return load_idx_folder(shared / "data" / "mnist")


@pytest.fixture(params=list(BACKENDS))
def backend(request) -> str:
    """Every backend of the dispatch table that can run here; the GPU's runs in Triton's interpreter."""
    reason = BACKENDS[request.param].missing()
    if reason:
        pytest.skip(reason)
    case = request.node.callspec.params.get("case")
    if request.param == "gpu" and case and case.N * case.M > INTERPRETER_ACTIVATIONS and os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip(f"{case.name}: too large for Triton's interpreter; the odd shapes of test_gpu_*.py stand for it")
    return request.param


@pytest.fixture(autouse=True)
def _one_thread_for_small_networks(request):
    """Threads cost the networks of tests/init far more than they bring when other processes are at work."""
    if request.path.parent.name != "init":
        yield
        return
    from init_cases import one_torch_thread  # here, for it needs torch

    with one_torch_thread():
        yield
