"""What the launchers compile for sm_80, sm_86, sm_90 and gfx942, without a device; the machine code is read.

The launchers run on CPU tensors through Triton's own front end (benchmarks/gpu_launches.py), so types, constants and alignment are a
launch's. A group of cases shares a process. Not every combination: the shapes that can spill or lose their tensor cores, once each;
``benchmarks/gpu_compile.py table`` has them all.
"""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

pytest.importorskip("triton", minversion="3.5")

from machine_code import TOOLS

from nc_fast.backends.gpu import pursue

if not (TOOLS / "cuobjdump").exists():
    pytest.skip("this triton wheel has no cuobjdump to read machine code with", allow_module_level=True)

SECONDS = 300  # for a process, 20 on an idle machine: a launcher that waits for what no kernel computed would never end
SHARED_LIMIT = {"hopper": 232448, "ampere": 163 << 10, "nvidia": 99 << 10, "amd": 64 << 10}
REGISTERS, SHARED = 65536, 233472  # of a multiprocessor of sm_90
TENSOR_CORES = {
    ("hopper", "fp16"): ("HGMMA.64x256x16.F32", "HGMMA.64x128x16.F32", "HGMMA.64x64x16.F32"),
    ("hopper", "fp32"): ("HGMMA.64x256x8.F32.TF32", "HGMMA.64x128x8.F32.TF32"),
    ("hopper", "fp64"): ("DMMA",),
    ("ampere", "fp16"): ("HMMA.16816.F32",),
    ("ampere", "fp32"): ("HMMA.1688.F32.TF32",),
    ("ampere", "fp64"): ("DMMA",),
    ("nvidia", "fp16"): ("HMMA.16816.F32",),
    ("amd", "fp16"): ("v_mfma_f32_32x32x8_f16",),
    ("amd", "fp32"): ("v_mfma_f32_32x32x2_f32",),
    ("amd", "fp64"): ("v_mfma_f64_16x16x4_f64",),
}
# Triton takes a number of Python as float32. A pursuit's may be: test_rounded_scalars_leave_a_bound_a_bound says why.
FLOAT_SCALARS = {"update_gains": {"damping", "noise"}}

PURE, MIXED, BOTH = {"classes": [512, 512]}, {"classes": [100, 60]}, {}  # whole tiles only, remainders only
GROUPS = {
    "hopper, moments": (
        "hopper",
        [
            ("moments", BOTH),
            ("moments", PURE | {"activation": "gelu"}),
            ("moments", PURE | {"activation": "elu"}),
            ("moments", PURE | {"activation": "silu", "precision": "fp16"}),
            ("moments", MIXED | {"activation": "softplus"}),
        ],
    ),
    "hopper, other numbers": (
        "hopper",
        [
            ("moments", PURE | {"precision": "tf32"}),
            ("moments", PURE | {"weights": "float64", "activation": "gelu"}),
            ("moments", PURE | {"precision": "ieee"}),  # no tensor core takes float32 as it is
            ("moments", PURE | {"samples": "uint8", "variant": "nested"}),
            ("moments", PURE | {"variant": "two programs", "activation": "gelu"}),
            ("moments", PURE | {"variant": "two programs"}),
            ("moments", PURE | {"variant": "deep"}),
        ],
    ),
    "hopper, picks": (
        "hopper",
        [
            ("selection", {"window": 1024}),
            ("pursuit", {"targets": 10}),
            ("pursuit", {"targets": 1}),
            ("activations", {"activation": "softplus", "weights": "float64"}),
        ],
    ),
    "ampere": (
        "ampere",
        [
            ("moments", BOTH),
            ("moments", MIXED | {"activation": "softplus"}),
            ("moments", PURE | {"precision": "tf32", "samples": "bfloat16"}),
            ("moments", PURE | {"weights": "float64"}),
            ("selection", {"window": 64}),
            ("pursuit", {"targets": 300}),
            ("activations", {"activation": "gelu"}),
        ],
    ),
    "nvidia": ("nvidia", [("moments", PURE)]),
    "amd": (
        "amd",
        [
            ("moments", PURE | {"activation": "leaky_relu"}),
            ("moments", MIXED | {"activation": "tanh"}),
            ("moments", PURE | {"precision": "ieee", "samples": "uint8"}),
            ("moments", PURE | {"weights": "float64", "activation": "gelu"}),
            ("selection", {"window": 256}),
            ("pursuit", {"targets": 10}),
            ("activations", {"activation": "softplus", "weights": "float64"}),
        ],
    ),
}
KERNELS = {
    "moments": {"feature_sums", "finish_features", "pack", "candidate_constants", "merge_slots"},
    "selection": {"window_greedy"},
    "pursuit": {"activate_rows", "update_gains"},
    "activations": {"activate_rows"},
}


def read(target, cases):
    """Compile each case in one process without the interpreter; return the records of benchmarks/gpu_compile.py for each."""
    return json.loads(gpu_compile("read", target, json.dumps(cases)))


def gpu_compile(*arguments):
    """Run the command without the interpreter; return what it prints."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, ROOT / "benchmarks" / "gpu_compile.py", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert not done.returncode, f"{arguments}:\n{done.stderr[-4000:]}"
    return done.stdout


def programs_at_a_time(found):
    """How many programs the registers and the shared memory of a multiprocessor of sm_90 hold."""
    registers = -(-found["registers"] // 8) * 8 * 32 * found["num_warps"]
    return min(REGISTERS // registers, SHARED // (found["shared"] + 1024))


def assert_machine_code(target, found):
    """Raise unless the code keeps its values in registers, fits, and multiplies and copies with the units it should."""
    kernel, arguments, amd = found["kernel"], found["arguments"], target == "amd"
    assert found["shared"] <= SHARED_LIMIT[target], f"{found['shared']} bytes of shared memory"
    # In Triton 3.8 ptxas keeps the 512 threads of the largest window within 64 registers of their 128, and spills one.
    one_word = 8 if kernel == "window_greedy" and arguments["B"] == 1024 and not amd else 0
    assert found["stack"] <= one_word, f"spills: a stack of {found['stack']} bytes"
    if not amd:
        assert found["registers"] <= min(found["maxnreg"] or 255, REGISTERS // (32 * found["num_warps"]))
    floats = {name for name, kind in found["signature"].items() if kind in ("fp32", "fp64")}
    assert floats <= FLOAT_SCALARS.get(kernel, set()), f"{floats} lose bits on their way into the kernel"
    if kernel == "update_gains" and not amd:  # occupancy hides the loads' latency: 5 programs a multiprocessor
        assert "LDG.E.128" in found["loads"]
        assert found["registers"] <= 96
    if kernel not in ("pure_runs", "mixed_tiles"):
        return
    assert found["spilled"] == 0, f"{found['spilled']} moves of spilled words"
    number = found["signature"]["W"].removeprefix("tensordesc<").removeprefix("*")[:4]
    wanted = () if number == "fp32" and arguments["DOT"] == "ieee" and not amd else TENSOR_CORES[target, number]
    assert all(name.startswith(wanted) for name in found["products"]), f"{found['products']}, not {wanted}"
    assert bool(found["products"]) == bool(wanted), f"expected one of {wanted}"
    if amd:
        return
    by_tensor_map = target == "hopper" and bool(wanted) and number != "fp64"
    assert found["copies"] == (["UTMALDG.2D"] if by_tensor_map else ["LDGSTS.E.BYPASS.128"]), f"copies by {found['copies']}"
    if by_tensor_map:  # one product in flight while the next operands arrive; sums of a candidate stay within a warp
        assert 1 in found["in_flight"]
        assert found["counts"]["SHFL"] <= 32, f"{found['counts']['SHFL']} shuffles: the reduction crosses threads"
    if found["maxnreg"]:
        assert programs_at_a_time(found) >= 2, "fewer registers, and no second program for it"


@pytest.mark.parametrize("group", GROUPS)
def test_machine_code(group):
    target, cases = GROUPS[group]
    failures = []
    for (launcher, options), kernels in zip(cases, read(target, cases), strict=True):
        wanted = set(KERNELS[launcher])
        if launcher == "moments":
            wanted |= {"pure_runs"} if options.get("classes") != MIXED["classes"] else set()
            wanted |= {"mixed_tiles"} if options.get("classes") != PURE["classes"] else set()
        assert {found["kernel"] for found in kernels} == wanted, f"{launcher} {options}"
        for found in kernels:
            try:
                assert_machine_code(target, found)
                if options.get("variant") == "two programs" and found["kernel"] == "pure_runs":
                    assert programs_at_a_time(found) >= 2
            except AssertionError as error:
                failures.append(f"{launcher} {options}, {found['kernel']}: {str(error).splitlines()[0]}")
    assert not failures, "\n".join(failures)


PRODUCT = {
    "kernel": "pure_runs",
    "arguments": {"DOT": "ieee"},
    "signature": {"W": "tensordesc<fp16[128, 64]>", "pitch": "i32"},
    "shared": 1000,
    "counts": {"SHFL": 16},
    "stack": 0,
    "spilled": 0,
    "registers": 128,
    "num_warps": 8,
    "maxnreg": 128,
    "products": ["HGMMA.64x256x16.F32"],
    "copies": ["UTMALDG.2D"],
    "in_flight": [0, 1],
}
PASS = PRODUCT | {"kernel": "update_gains", "signature": {"damping": "fp32"}, "registers": 80, "maxnreg": None, "loads": ["LDG.E.128"]}
WINDOW = PRODUCT | {"kernel": "window_greedy", "arguments": {"B": 64}, "signature": {"T": "i32"}}
LIES = [
    (PRODUCT, {"shared": 232449}),
    (PRODUCT, {"spilled": 1}),
    (PRODUCT, {"stack": 8}),
    (PRODUCT, {"registers": 129}),
    (PRODUCT, {"registers": 256, "maxnreg": None, "num_warps": 4}),
    (PRODUCT, {"registers": 136, "maxnreg": None, "num_warps": 16}),
    (PRODUCT, {"shared": 120000}),
    (PRODUCT, {"products": ["HMMA.16816.F32"]}),
    (PRODUCT, {"products": []}),
    (PRODUCT, {"copies": ["LDGSTS.E.BYPASS.128"]}),
    (PRODUCT, {"in_flight": [0]}),
    (PRODUCT, {"counts": {"SHFL": 208}}),
    (PASS, {"loads": ["LDG.E.64"]}),
    (PASS, {"registers": 128}),
    (WINDOW, {"signature": {"T": "i32", "tie": "fp32"}}),
    (WINDOW, {"stack": 8}),
]


@pytest.mark.parametrize(("good", "lie"), LIES, ids=lambda value: value.get("kernel", str(value)))
def test_the_checks_reject_bad_code(good, lie):
    assert_machine_code("hopper", good)
    with pytest.raises(AssertionError):
        assert_machine_code("hopper", good | lie)


def test_a_tile_too_large_is_seen_to_spill():
    """The same harness on a deliberately wide tile: softplus beside a 128 x 256 accumulator."""
    tile = {"candidates": 128, "samples": 256, "depth": 64, "warps": 8, "stages": 4, "flatten": True}
    tiles = {"pure": tile, "mixed": tile, "tma": True}
    [kernels] = read("hopper", [("moments", PURE | {"activation": "softplus", "tiles": tiles})])
    [found] = [found for found in kernels if found["kernel"] == "pure_runs"]
    with pytest.raises(AssertionError, match="spills"):
        assert_machine_code("hopper", found)


def test_the_commands(tmp_path):
    """A table has a row for each kernel; a second process finds what is packed."""
    few = ("--cases", json.dumps([("selection", {"window": 64})]))
    rows = gpu_compile("table", "--targets", "ampere,amd", *few).splitlines()[4:]
    assert [(row.split(" | ")[0], row.split(" | ")[2]) for row in rows] == [("| ampere", "window_greedy"), ("| amd", "window_greedy")]
    says = gpu_compile("cache", tmp_path / "kernels.tar.gz", *few)
    assert re.fullmatch(r"1 kernels, [02] launchers in \d+ s, 0\.\d\d MB; from the file: 0 kernels, 0 launchers\n", says)


def test_rounded_scalars_leave_a_bound_a_bound():
    """``damping`` and ``noise`` reach update_gains as float32, which errs by 2 ** -24 of either.

    Targets have length 1, so adding the noise to the length of their part raises a bound by at least twice the noise, relatively:
    more than a rounded damping, in the denominator, can lower it.
    """
    rounding = np.finfo(np.float32).eps / 2
    assert 2 * min(pursue.NOISE, pursue.TF32_NOISE) > 5 * rounding
    assert abs(float(np.float32(pursue.NOISE)) / pursue.NOISE - 1) <= rounding
