"""What a compiled Triton kernel's machine code says: registers, spills, shared memory, instructions. No device is needed."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import triton

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"  # that triton's wheel carries
PRODUCTS = ("HGMMA", "HMMA", "DMMA", "v_mfma")  # the tensor cores' instructions
COPIES = ("UTMALDG", "LDGSTS")  # from global to shared memory past the registers: by tensor maps, by threads
SASS = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+ )?\s*([A-Z][\w.]*)(?:.*?\b0x([0-9a-f]+))?", re.MULTILINE)
AMD_FIELDS = ("vgpr_count", "vgpr_spill_count", "private_segment_fixed_size")  # scalar registers spill into lanes of vector registers


def read_machine_code(kernel: Any, *, instructions: bool = True) -> dict[str, Any]:
    """Return what counts in a ``CompiledKernel`` that was compiled with all its stages kept.

    Parameters
    ----------
    instructions : bool
        Whether to read them one by one too, which takes 0.4 s for NVIDIA's.

    Returns
    -------
    dict
        registers : a thread's; stack : bytes a thread, which hold what is spilled; shared : bytes a program. With instructions also
        spilled : moves of words that had no register; instructions : in all; counts : by name without suffix;
        products, copies, loads : full names; in_flight : products that a wait may leave unfinished;
        loops : of NVIDIA's, innermost first, (instructions, products among them).
    """
    found: dict[str, Any] = {"shared": kernel.metadata.shared}
    lines: list[tuple[int, str, str]] = []
    if kernel.metadata.target.backend == "hip":
        text = kernel.asm["amdgcn"]
        registers, spilled, stack = (int(re.search(rf"\.{name}:\s+(\d+)", text)[1]) for name in AMD_FIELDS)  # type: ignore[index]
        names = re.findall(r"^\t([a-z]\w+)", text, re.MULTILINE)
    else:
        text = _dumped(kernel.asm["cubin"], *(["-sass"] if instructions else []))
        registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", text).groups())  # type: ignore[union-attr]
        lines = [(int(address, 16), name, operand) for address, name, operand in SASS.findall(text)]
        names = [name for _, name, _ in lines]
        spilled = sum(name.startswith(("LDL", "STL")) for name in names)
    found |= {"registers": registers, "stack": stack}
    if not instructions:
        return found
    in_flight = re.findall(r"warp_group_dot_wait.*pendings = (\d+)", kernel.asm["ttgir"])
    return found | {
        "spilled": spilled,
        "instructions": len(names),
        "counts": Counter(name.split(".")[0] for name in names),
        "products": sorted({name for name in names if name.startswith(PRODUCTS)}),
        "n_products": sum(name.startswith(PRODUCTS) for name in names),
        "copies": sorted({name for name in names if name.startswith(COPIES)}),
        "loads": sorted({name for name in names if name.startswith("LDG.")}),
        "in_flight": sorted(set(map(int, in_flight))),
        "loops": _loops(lines),
    }


def _dumped(cubin: bytes, *flags: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        return subprocess.run([TOOLS / "cuobjdump", "-res-usage", *flags, path], capture_output=True, text=True, check=True).stdout


def _loops(lines: list[tuple[int, str, str]]) -> list[tuple[int, int]]:
    """Return (instructions, products among them) of what each branch backwards repeats, shortest first."""
    loops = []
    for address, name, operand in lines:
        if name == "BRA" and operand and int(operand, 16) < address:
            body = [inside for at, inside, _ in lines if int(operand, 16) <= at <= address]
            loops.append((len(body), sum(inside.startswith(PRODUCTS) for inside in body)))
    return sorted(loops)
