"""Every benchmark runs at its tiny size, so that none can rot; the restated original reproduces the recorded one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the restated original needs torch")
pytest.importorskip("pytest_benchmark")

import activations  # noqa: E402
import import_time  # noqa: E402
import memory  # noqa: E402
import moments_ratios  # noqa: E402
import original  # noqa: E402
import pool  # noqa: E402
import report  # noqa: E402
import setups  # noqa: E402
from inputs import inputs  # noqa: E402

from nc_fast.activations import ACTIVATIONS  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
SCORE_TOLERANCE = 2e-6  # both compute in float32
MIB = 1 << 20


@pytest.fixture(autouse=True)
def find_this_nc_fast(monkeypatch):
    paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


def check_golden(path):
    golden = np.load(path)
    meta = json.loads(str(golden["meta"]))
    W, X, y = golden["W"].astype(np.float32), golden["X"].astype(np.float32) / np.float32(meta.get("x_divisor", 1)), golden["y"]
    how = {name: meta[name] for name in ("alpha", "bias", "activation")}
    tensors = [torch.from_numpy(array) for array in (W, X, y)]
    for found in (original.moments_scores_numpy(W, X, y, **how), original.moments_scores_torch(*tensors, **how)):
        scores, groups = (np.asarray(array) for array in found)
        np.testing.assert_allclose(scores, golden["scores"], atol=SCORE_TOLERANCE)
        np.testing.assert_array_equal(groups, golden["groups"])
    if meta["well_defined"]:
        for projection in original.PROJECTIONS:
            picks = original.campaign_numpy(W, X, y, meta["k"], projection=projection, **how)
            np.testing.assert_array_equal(picks, golden["indices"])
            picks = original.campaign_torch(*tensors, meta["k"], projection=projection, **how)
            np.testing.assert_array_equal(picks.numpy(), golden["indices"])
    return meta["well_defined"]


def test_restated_original_reproduces_the_goldens_of_the_clone():
    well_defined = [check_golden(path) for path in sorted((ROOT / "tests" / "data" / "golden").glob("*.npz"))]
    assert sum(well_defined) >= 4


def test_restated_original_reproduces_all_goldens(shared):
    well_defined = [check_golden(path) for path in sorted((shared / "golden").glob("*.npz"))]
    assert len(well_defined) == 51
    assert sum(well_defined) == 31


def test_restated_original_keeps_the_defect_of_repeated_picks():
    """Two candidates of negative score: the one picked has ratio 0 from then on, so its product, 0, is the largest for ever."""
    W = np.eye(2, dtype=np.float32)
    scores, groups = np.array([-0.5, -0.6], np.float32), np.zeros(2, np.int64)
    assert original.select_numpy(W, scores, groups, 2).tolist() == [0, 0]
    assert original.select_torch(*map(torch.from_numpy, (W, scores, groups)), 2).tolist() == [0, 0]


@pytest.fixture(scope="module")
def tiny_results(tmp_path_factory):
    path = tmp_path_factory.mktemp("results") / "tiny.json"
    files = [f"benchmarks/bench_{stage}.py" for stage in ("moments", "select", "campaign", "screening")]
    command = [sys.executable, "-m", "pytest", *files, "-k", "tiny-0", "--benchmark-enable", f"--benchmark-json={path}", "-q"]
    # Under xdist pytest-benchmark measures nothing; the inner run is a suite of its own.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout, done.stdout
    return path


@pytest.mark.slow
def test_every_contender_runs_and_is_correct_at_the_tiny_size(tiny_results):
    found = {(row.group, row.name) for row in report.read([tiny_results])}
    stages = {
        "moments": setups.MOMENTS,
        "activations": setups.ACTIVATION,
        "select": setups.SELECT,
        "campaign": setups.CAMPAIGN,
        "surrogate": setups.SURROGATE,
    }
    assert found == {(f"{stage} tiny", name) for stage, contenders in stages.items() for name in contenders}


@pytest.mark.slow
def test_results_name_their_device_and_no_host(tiny_results):
    assert "node" not in json.loads(tiny_results.read_text())["machine_info"]
    (environment,) = {json.dumps(row.notes["environment"]) for row in report.read([tiny_results])}
    assert {"cpu", "cores", "blas_threads", "numpy", "blas", "torch", "nc_fast", "commit"} <= set(json.loads(environment))


@pytest.mark.slow
def test_report_writes_table_plots_and_essence(tiny_results, tmp_path):
    table, plots, kept = tmp_path / "table.md", tmp_path / "plots", tmp_path / "kept.json"
    report.main([tiny_results], table=table, plots=plots, keep_as=kept)
    assert sorted(path.name for path in plots.iterdir()) == [
        f"{stage}.png" for stage in ("activations", "campaign", "moments", "select", "surrogate")
    ]
    assert report.markdown(report.read([kept])) == table.read_text()
    assert kept.stat().st_size < tiny_results.stat().st_size


def saved(path, seconds):
    """Write a result file with (name, seconds, is baseline) entries."""
    benchmarks = [
        {"group": "stage size", "name": name, "stats": {"data": data}, "extra_info": {"baseline": baseline}}
        for name, data, baseline in seconds
    ]
    path.write_text(json.dumps({"benchmarks": benchmarks}))
    return path


def test_report_takes_the_median_over_all_turns(tmp_path):
    path = saved(tmp_path / "a.json", [("fast", [1.0, 2.0], True), ("slow", [8.0], False), ("fast", [9.0], True)])
    assert "| fast | 2 s | 1 | 3 |" in report.markdown(report.read([path]))
    assert "| slow | 8 s | 4 | 1 |" in report.markdown(report.read([path]))


def test_report_refuses_ratios_across_runs(tmp_path):
    paths = [saved(tmp_path / name, [("fast", [1.0], True)]) for name in ("a.json", "b.json")]
    with pytest.raises(ValueError, match="within one run"):
        report.read(paths)


@pytest.mark.parametrize("kind", memory.X_KINDS)
def test_memory_of_a_campaign(kind):
    found = memory.measure("tiny", kind, "exact")
    assert found["inputs"] > 0
    assert 0 <= found["warm"] < found["cold"] <= 400 * MIB


def test_memory_sees_what_is_allocated():
    memory.reset_peak()
    before = memory.peak_bytes()
    block = np.ones(64 * MIB, dtype=np.uint8)
    assert memory.peak_bytes() - before >= block.nbytes // 2


def test_importing_brings_no_heavy_library():
    assert import_time.measure(processes=1)["heavy"] == []


def test_parts_of_the_moments_stage_are_measured():
    found = activations.measure(rows=16, columns=4, rounds=1, whole_rows=64)
    assert list(found.activations) == list(ACTIVATIONS)
    assert all(value > 0 for table in (*found.activations.values(), found.others, *found.products.values()) for value in table.values())


def test_ratios_of_the_moments_stage_are_measured(monkeypatch):
    monkeypatch.setenv("NC_FAST_SHARED", "absent")
    monkeypatch.setattr(moments_ratios, "PAUSE_S", 0.0)
    monkeypatch.setattr(moments_ratios, "SECONDS", 0.0)
    inputs.cache_clear()
    found = moments_ratios.measure([(60, 5, 4)], (60, 5, 4), (60, 5, 4))
    assert {"N = 60, D = 5, M = 4", "N = 60, D = 5, M = 4, antithetic"} < {row.case for row in found}
    assert len(found) == 2 + len(ACTIVATIONS) - 1 + 2
    assert all(row.ratio > 0 and row.rounds == moments_ratios.ROUNDS[0] for row in found)


def test_the_price_of_a_pool_is_measured():
    assert all(nanoseconds > 0 for nanoseconds in pool.measure(M=2, dtype=np.float32, threads=1, rounds=1).values())
