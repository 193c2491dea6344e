"""The wheel and the sdist build; what they install runs from a clean virtual environment, away from the checkout."""

import os
import subprocess
import sys
import tarfile
import zipfile

import pytest
from conftest import ROOT

import nc_fast

pytest.importorskip("build.env")  # a folder build/ beside the tests would pass for the package itself

SCRIPT = """
import numpy as np, nc_fast
rng = np.random.default_rng(0)
for backend in ("reference", "cpu"):
    result = nc_fast.campaign(rng.normal(size=(8, 60)).astype("f4"), rng.random((90, 8), dtype="f4"), np.arange(90) % 3, 9, backend=backend)
    assert len(set(result.indices.tolist())) == 9
assert "site-packages" in nc_fast.__file__, nc_fast.__file__
print(nc_fast.__version__)
"""


def run(*command, cwd, returncode=0):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV"))}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == returncode, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """A wheel built from the sdist built from the checkout: what a release does."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


@pytest.mark.slow
def test_what_is_inside(distributions):
    wheel, sdist = distributions
    inside = zipfile.ZipFile(wheel).namelist()
    assert any(name.startswith("nc_fast/_projector.") and name.endswith(".so") for name in inside)
    for name in ("nc_fast/py.typed", "nc_fast/_projector.pyi", "nc_fast/backends/gpu/moments.py", "nc_fast/init/__init__.py"):
        assert name in inside
    assert not [name for name in inside if name.startswith(("tests", "benchmarks", "csrc"))]
    with tarfile.open(sdist) as archive:
        sources = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"csrc/bindings.cpp", "csrc/projector.hpp", "setup.py", "LICENSE", "tests/stages/test_golden.py", "noxfile.py"} <= sources


@pytest.mark.slow
def test_it_runs_from_a_clean_environment(distributions, tmp_path):
    wheel, _ = distributions
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", wheel, cwd=tmp_path)
    assert run(python, "-c", SCRIPT, cwd=tmp_path).strip() == nc_fast.__version__
    message = run(python.parent / "nc-fast", "--help", cwd=tmp_path, returncode=1)
    assert message.strip() == 'nc-fast: typer, rich, sklearn, matplotlib not installed: pip install "nc_fast[demo]"'
