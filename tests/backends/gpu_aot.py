"""Compile a Triton kernel ahead of time for a device that is not there, and read the machine code.

A case is compiled in a process of its own, without TRITON_INTERPRET: that variable is read when a kernel is decorated.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TARGETS = {"hopper": ("cuda", 90, 32), "ampere": ("cuda", 80, 32), "nvidia": ("cuda", 86, 32), "amd": ("hip", "gfx942", 64)}
DIVISIBLE = {"m_padded", "K", "pitch_w", "pitch_x", "pitch"}  # by 16, as the launchers make them
SIGNATURES = {
    "fused": "Inverse=*sums Offset=*sums Pivot=*sums RunRow=*i32 PartRow=*i32 TilePart=*i32 Mean=*sums M2=*sums m_padded=i32 n_runs=i32 "
    "n_tiles=i32 n_blocks=i32 K=i32 pitch_w=i32 pitch_x=i32 first_row=i32 first_slot=i32",
    "merge_slots": "SlotMean=*sums SlotM2=*sums ClassSlot=*i32 Slot=*i32 SlotCount=*fp64 Class=*i32 Before=*fp64 Mean=*fp64 M2=*fp64 "
    "m=i32 M=i32 m_padded=i32",
    "candidate_constants": "Bias=*fp64 Shift=*fp64 Mean=*fp64 Scale=*fp64 Largest=*fp64 Offset=*sums Pivot=*sums m=i32 m_padded=i32 D=i32 "
    "stride_d=i32 stride_m=i32",
    "pack": "Shift=*fp64 Scale=*fp64 RowScale=*fp64 n=i32 n_padded=i32 D=i32 K=i32 pitch=i32 stride_n=i32 stride_d=i32",
    "window_greedy": "Gram=*fp64 Squared=*fp64 Score=*fp64 Index=*i64 Valid=*i32 Bound=*fp64 BoundIndex=*i64 Need=*i32 Factor=*fp64 "
    "Place=*i32 Gain=*fp64 InSpan=*i32 Count=*i32 T=i32 rank_squared=fp64 tie=fp64 trust=fp64",
    "activate_rows": "Bias=*fp64 m=i32 n=i32",
    "update_gains": "Z=*fp32 Q=*fp64 Share=*fp64 Picked=*i1 Product=*fp64 Norm=*fp64 Open=*i1 Gain=*fp64 Fresh=*i1 M=i32 C=i32 pitch=i32 "
    "damping=fp32 noise=fp32",
}


@dataclass(frozen=True)
class Case:
    """One kernel on one target.

    Attributes
    ----------
    kernel : a kernel in nc_fast.backends.gpu.kernels.
    target : a tiles.Target.
    number, weights_low, samples_low, dot : as in precision.Arithmetic.
    activation : compiled into the kernel.
    source : Triton type of the unpacked operand, for the two ``prepare`` kernels.
    window : candidates in a window, for ``window_greedy``.
    targets : of a pursuit, for ``update_gains``.
    """

    kernel: str
    target: str
    number: str = "float16"
    weights_low: bool = True
    samples_low: bool = True
    dot: str = "ieee"
    activation: str = "relu"
    source: str = "fp32"
    window: int = 0
    targets: int = 10

    def __str__(self) -> str:
        form = f"fp16x{1 + self.weights_low + self.samples_low}" if self.number == "float16" else f"{self.number}-{self.dot}"
        detail = {
            "pure_runs": f"{form}-{self.activation}",
            "mixed_tiles": f"{form}-{self.activation}",
            "pack": f"{self.source}-{form}",
            "candidate_constants": f"{self.source}-{self.activation}",
            "window_greedy": str(self.window),
            "activate_rows": f"{self.source}-{self.activation}",
            "update_gains": str(self.targets),
        }
        return "-".join(filter(None, [self.target, self.kernel, detail.get(self.kernel)]))


def three_pass(kernel: str, target: str, **fields: Any) -> Case:
    """Return a case at precision "auto"."""
    return Case(kernel, target, **fields)


def one_pass(kernel: str, target: str, **fields: Any) -> Case:
    """Return a case at precision "fp16"."""
    return Case(kernel, target, weights_low=False, samples_low=False, **fields)


def full(kernel: str, target: str, number: str, dot: str = "ieee", **fields: Any) -> Case:
    """Return a case at precision "tf32" or "ieee"."""
    return Case(kernel, target, number, weights_low=False, samples_low=False, dot=dot, **fields)


def record(case: Case) -> dict[str, Any]:
    """Compile the case in a process of its own; return what :func:`measure` finds."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    command = [sys.executable, __file__, json.dumps(dataclasses.asdict(case))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"{case} does not compile:\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def nvidia_tools() -> Path:
    """Return the folder of the binary tools that triton's wheel carries."""
    import triton

    return Path(triton.__file__).parent / "backends/nvidia/bin"


def compiled(case: Case) -> Any:
    """Return Triton's compiled kernel, with the launcher's types and constants."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function, signature, constants, options = arguments(case)
    runtime = [name for name in function.arg_names if name not in constants]
    divisible = [name for name in runtime if signature[name].startswith("*") or name in DIVISIBLE]
    source = ASTSource(
        fn=function,
        signature={name: "constexpr" if name in constants else signature[name] for name in function.arg_names},
        constexprs=constants,
        attrs={(function.arg_names.index(name),): [["tt.divisibility", 16]] for name in divisible},
    )
    options["enable_fp_fusion"] = True  # what a launch resolves it to; ahead of time Triton 3.9 takes False
    return triton.compile(source, target=GPUTarget(*TARGETS[case.target]), options=options)


def arguments(case: Case) -> tuple[Any, dict[str, str], dict[str, Any], dict[str, int]]:
    """Return (kernel, signature, compile-time constants, launch options) of a case."""
    from nc_fast.backends.gpu.kernels import moments, prepare, pursue, select
    from nc_fast.backends.gpu.plan import MERGE_CANDIDATES, Plan
    from nc_fast.backends.gpu.precision import Arithmetic
    from nc_fast.backends.gpu.tiles import choose_tiles

    arithmetic = Arithmetic(case.number, case.weights_low, case.samples_low, case.dot)
    number = case.number.replace("float", "fp")
    listed = SIGNATURES.get(case.kernel, SIGNATURES["fused"])
    signature = dict(item.split("=") for item in listed.replace("*sums", "*" + arithmetic.sums.replace("float", "fp")).split())
    tiles = choose_tiles(case.target, arithmetic, case.activation)
    plan = Plan(arithmetic, case.activation, tiles, K=0)  # a kernel is compiled for any K
    if case.kernel in ("pure_runs", "mixed_tiles"):
        pure = case.kernel == "pure_runs"
        tile = tiles.pure if pure else tiles.mixed
        constants = plan.pure_constants() if pure else plan.mixed_constants()
        for name, rows in (("W", tile.candidates), ("X", tile.samples)):
            signature[name] = f"tensordesc<{number}[{rows}, {tile.depth}]>" if tiles.tma else f"*{number}"
        options = {name: constants.pop(name) for name in ("num_warps", "num_stages")}
        return getattr(moments, case.kernel), signature, constants, options
    if case.kernel == "merge_slots":
        return moments.merge_slots, signature, {"BC": MERGE_CANDIDATES}, {}
    if case.kernel == "window_greedy":
        from nc_fast.backends.gpu.windows import window_constants

        constants = window_constants(case.window)
        return select.window_greedy, signature, constants, {"num_warps": constants.pop("num_warps")}
    if case.kernel == "update_gains":
        from nc_fast.backends.gpu.pursue import pass_constants

        constants = pass_constants(case.targets)
        return pursue.update_gains, signature, constants, {"num_warps": constants.pop("num_warps")}
    if case.kernel == "activate_rows":
        from nc_fast.backends.gpu.activations import COLUMNS, ROWS

        signature["Z"] = f"*{case.source}"
        return pursue.activate_rows, signature, {"ACT": case.activation, "BM": ROWS, "BN": COLUMNS}, {}
    if case.kernel == "pack":
        signature |= {"Source": f"*{case.source}", "Packed": f"*{number}"}
        return prepare.pack, signature, plan.pack_constants(low=case.weights_low), {}
    signature["W"] = f"*{case.source}"
    return prepare.candidate_constants, signature, plan.candidate_constants(), {}


def measure(kernel: Any, case: Case) -> dict[str, Any]:
    """Count what matters in the machine code of a compiled kernel."""
    found: dict[str, Any] = {"shared": kernel.metadata.shared, "ttgir": kernel.asm["ttgir"]}
    if case.target == "amd":
        text = kernel.asm["amdgcn"]
        for name in ("vgpr_spill_count", "sgpr_spill_count", "private_segment_fixed_size"):
            found[name] = int(re.search(rf"\.{name}:\s+(\d+)", text).group(1))  # type: ignore[union-attr]
        found["instructions"] = sorted(set(re.findall(r"\bv_mfma_\w+", text)))
        return found
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(kernel.asm["cubin"])
        text, usage = (
            subprocess.run([nvidia_tools() / "cuobjdump", flag, path], capture_output=True, text=True, check=True).stdout
            for flag in ("-sass", "-res-usage")
        )
    names = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?\s*([A-Z][\w.]*)", text, re.M)
    found["counts"] = {name: sum(full.split(".")[0] == name for full in names) for name in {full.split(".")[0] for full in names}}
    found["instructions"] = sorted({full for full in names if full.startswith(("HGMMA", "HMMA", "DMMA", "LDG", "UTMALDG"))})
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", usage).groups()  # type: ignore[union-attr]
    return found | {"registers": int(registers), "stack": int(stack)}


if __name__ == "__main__":
    requested = Case(**json.loads(sys.argv[1]))
    sys.stdout.write(json.dumps(measure(compiled(requested), requested)) + "\n")
