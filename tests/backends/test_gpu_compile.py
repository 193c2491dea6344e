"""Every Triton kernel compiled ahead of time for sm_80, sm_90 and gfx942, without a device; the machine code is read.

About 2 to 5 seconds a case, each in a process of its own. Not every combination: the shapes that can spill or lose their
tensor cores, once each. docs/gpu.md has the whole matrix, and both Triton versions it was run with.
"""

import pytest
from gpu_aot import Case, full, nvidia_tools, one_pass, record, three_pass

pytest.importorskip("triton", minversion="3.5")
if not (nvidia_tools() / "cuobjdump").exists():
    pytest.skip("this triton wheel has no cuobjdump to read machine code with", allow_module_level=True)

SHARED_LIMIT = {"hopper": 232448, "ampere": 163 << 10, "nvidia": 99 << 10, "amd": 64 << 10}
TENSOR_CORES = {
    ("hopper", "float16"): ("HGMMA.64x256x16.F32", "HGMMA.64x128x16.F32", "HGMMA.64x64x16.F32"),
    ("hopper", "float32"): ("HGMMA.64x256x8.F32.TF32", "HGMMA.64x128x8.F32.TF32"),
    ("hopper", "float64"): ("DMMA",),
    ("ampere", "float16"): ("HMMA.16816.F32",),
    ("ampere", "float32"): ("HMMA.1688.F32.TF32",),
    ("ampere", "float64"): ("DMMA",),
    ("nvidia", "float16"): ("HMMA.16816.F32",),
    ("amd", "float16"): ("v_mfma_f32_32x32x8_f16",),
    ("amd", "float32"): ("v_mfma_f32_32x32x2_f32",),
    ("amd", "float64"): ("v_mfma_f64_16x16x4_f64",),
}

PRODUCTS = [
    three_pass("pure_runs", "hopper"),
    three_pass("pure_runs", "hopper", activation="gelu"),
    three_pass("pure_runs", "hopper", activation="elu"),
    one_pass("pure_runs", "hopper", activation="silu"),
    full("pure_runs", "hopper", "float32", "tf32"),
    full("pure_runs", "hopper", "float64", activation="gelu"),
    three_pass("mixed_tiles", "hopper"),
    three_pass("mixed_tiles", "hopper", activation="softplus"),
    three_pass("pure_runs", "ampere"),
    three_pass("mixed_tiles", "ampere", activation="softplus"),
    full("pure_runs", "ampere", "float32", "tf32"),
    full("pure_runs", "ampere", "float64"),
    three_pass("pure_runs", "nvidia"),
    three_pass("pure_runs", "amd"),
    three_pass("mixed_tiles", "amd", activation="tanh"),
    full("pure_runs", "amd", "float32"),
    full("pure_runs", "amd", "float64", activation="gelu"),
]
OTHERS = [
    full("pure_runs", "hopper", "float32"),  # no tensor core takes float32 as it is
    Case("window_greedy", "hopper", window=1024),
    Case("window_greedy", "ampere", window=64),
    Case("window_greedy", "amd", window=256),
    Case("update_gains", "hopper"),
    Case("update_gains", "hopper", targets=1),
    Case("update_gains", "ampere", targets=300),
    Case("update_gains", "amd"),
    Case("activate_rows", "hopper", activation="softplus", source="fp64"),
    Case("activate_rows", "ampere", activation="gelu"),
    Case("activate_rows", "amd", activation="softplus", source="fp64"),
    Case("candidate_constants", "hopper", activation="gelu"),
    Case("candidate_constants", "amd", activation="leaky_relu"),
    Case("pack", "hopper"),
    Case("pack", "ampere", number="float32", weights_low=False, dot="tf32", source="bf16"),
    Case("pack", "amd", source="u8"),
    Case("merge_slots", "hopper"),
    Case("merge_slots", "amd"),
]


def assert_machine_code(case: Case, found: dict) -> None:
    """Raise unless the code keeps its values in registers, fits, and multiplies and copies with the units it should."""
    assert found["shared"] <= SHARED_LIMIT[case.target], f"{found['shared']} bytes of shared memory"
    if case.target == "amd":
        assert found["vgpr_spill_count"] == 0, f"{found['vgpr_spill_count']} vector registers spilled"
        assert found["private_segment_fixed_size"] == 0
    else:
        spilled = {name: count for name, count in found["counts"].items() if name in ("LDL", "STL")}
        words = int(case.window == 1024)  # in Triton 3.8 ptxas keeps its 512 threads within 64 registers of their 128, and spills one
        assert all(count <= words for count in spilled.values()), f"spills: {spilled}"
        assert found["stack"] <= 8 * words
        assert found["registers"] <= 255
    if case.kernel == "update_gains" and case.target != "amd":  # occupancy hides the loads' latency: 5 programs a multiprocessor
        assert "LDG.E.128" in found["instructions"]
        assert found["registers"] <= 96
    if case.kernel not in ("pure_runs", "mixed_tiles"):
        return
    products = [name for name in found["instructions"] if name.startswith(("HGMMA", "HMMA", "DMMA", "v_mfma"))]
    wanted = TENSOR_CORES.get((case.target, case.number), ())
    if case.number == "float32" and case.dot == "ieee" and case.target != "amd":
        wanted = ()
    assert all(name.startswith(wanted) for name in products), f"{products}, not {wanted}"
    assert bool(products) == bool(wanted), f"expected one of {wanted}"
    if case.target == "amd":
        return
    copies = {name for name in found["instructions"] if name.startswith(("UTMALDG", "LDGSTS"))}
    by_tensor_map = case.target == "hopper" and bool(wanted) and case.number != "float64"
    assert copies == ({"UTMALDG.2D"} if by_tensor_map else {"LDGSTS.E.BYPASS.128"}), f"copies by {copies}"
    if by_tensor_map:  # one product in flight while the next operands arrive; sums of a candidate stay within a warp
        assert "pendings = 1" in found["ttgir"]
        assert found["counts"]["SHFL"] <= 32, f"{found['counts']['SHFL']} shuffles: the reduction crosses threads"


@pytest.mark.parametrize("case", PRODUCTS + OTHERS, ids=str)
def test_machine_code(case):
    assert_machine_code(case, record(case))


def test_the_checks_reject_bad_code():
    good = {
        "shared": 1000,
        "counts": {"SHFL": 16},
        "stack": 0,
        "registers": 168,
        "instructions": ["HGMMA.64x256x16.F32", "UTMALDG.2D"],
        "ttgir": "pendings = 1",
    }
    case = PRODUCTS[0]
    assert_machine_code(case, good)
    lies = [
        {"shared": 232449},
        {"counts": {"SHFL": 16, "LDL": 1}},
        {"stack": 8},
        {"instructions": ["HMMA.16816.F32", "UTMALDG.2D"]},
        {"instructions": ["UTMALDG.2D"]},
        {"instructions": ["HGMMA.64x256x16.F32", "LDGSTS.E.BYPASS.128"]},
        {"ttgir": "pendings = 0"},
        {"counts": {"SHFL": 208}},
    ]
    for lie in lies:
        with pytest.raises(AssertionError):
            assert_machine_code(case, good | lie)


@pytest.mark.parametrize("lie", [{"instructions": ["LDG.E.64"]}, {"registers": 128}], ids=str)
def test_the_checks_reject_a_slow_pass(lie):
    good = {"shared": 1024, "counts": {}, "stack": 0, "registers": 80, "instructions": ["LDG.E.128"]}
    case = Case("update_gains", "hopper")
    assert_machine_code(case, good)
    with pytest.raises(AssertionError):
        assert_machine_code(case, good | lie)


def test_a_tile_too_large_is_seen_to_spill(tmp_path, monkeypatch):
    """The same harness on a deliberately wide tile: gelu beside a 128 x 256 accumulator."""
    (tmp_path / "sitecustomize.py").write_text("from nc_fast.backends.gpu import tiles\ntiles.NARROW_ACTIVATIONS = frozenset()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    case = three_pass("pure_runs", "hopper", activation="softplus")
    with pytest.raises(AssertionError, match="spills"):
        assert_machine_code(case, record(case))
