"""The GPU backend's launchers on CPU tensors, through Triton's own front end, for a device that is not there: compiled, not started.

Types, constants and alignment are those of a launch. In a process without TRITON_INTERPRET, which is read when kernels are decorated.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import driver as nvidia
from triton.runtime import build, driver
from triton.runtime.jit import JITFunction

from nc_fast.backends.gpu import moments as gpu_moments
from nc_fast.backends.gpu import runtime
from nc_fast.backends.gpu.activations import activations
from nc_fast.backends.gpu.pursue import pursue
from nc_fast.backends.gpu.select import select
from nc_fast.backends.gpu.tiles import Tile, Tiles, variants
from nc_fast.backends.gpu.windows import WINDOW_PER_PICK

TARGETS = {
    "hopper": GPUTarget("cuda", 90, 32),
    "ampere": GPUTarget("cuda", 80, 32),
    "nvidia": GPUTarget("cuda", 86, 32),
    "amd": GPUTarget("hip", "gfx942", 64),
}
FREE_BYTES = 64 << 30  # what the launchers are told: the blocks of a large device
LAUNCHERS_IN_C = hasattr(nvidia, "make_launcher")  # before Triton 3.7: one for each signature, built by gcc
CLASSES = (600, 700)  # samples of each: whole tiles of every size, and remainders of both


@dataclass(frozen=True)
class Launch:
    """A kernel as a launcher started it, and what became of it."""

    kernel: str
    grid: tuple[int, ...]
    arguments: dict[str, int | float | str]  # the scalars by name, what is compiled in included
    compiled: Any  # triton.compiler.CompiledKernel
    cached: bool | None  # whether Triton's cache on disk had it; None where this process had

    @property
    def signature(self) -> dict[str, str]:
        """Types of the arguments as the front end sees them; "constexpr" is compiled in."""
        return {name: str(kind) for name, kind in self.compiled.src.signature.items()}

    @property
    def called(self) -> dict[str, Any]:
        """How it was started."""
        return {"kernel": self.kernel, "grid": self.grid, "arguments": self.arguments, "signature": self.signature}

    @property
    def options(self) -> dict[str, Any]:
        """How it was compiled."""
        return {name: getattr(self.compiled.metadata, name, None) for name in ("num_warps", "num_stages", "maxnreg")}


class _Driver:
    """What the front end asks of a driver before a launch."""

    def __init__(self, target: str) -> None:
        self._target = target

    def get_current_target(self) -> GPUTarget:
        return TARGETS[self._target]

    def get_current_device(self) -> str:
        return self._target  # the key under which a kernel is kept: several targets in one process do not mix

    def get_current_stream(self, _: str) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


@contextmanager
def compiling(target: str) -> Iterator[list[Launch]]:
    """Let the launchers compile for a target in TARGETS inside the block and start nothing; yields the launches, in order."""
    if triton.knobs.runtime.interpret:
        raise RuntimeError("TRITON_INTERPRET: expected it unset, got it set: the interpreter compiles nothing")
    launches: list[Launch] = []
    hits: list[bool] = []
    whole = JITFunction.run

    def run(function: JITFunction[Any], *args: Any, grid: Any, **options: Any) -> Any:
        compiled = whole(function, *args, grid=grid, **options | {"warmup": True})
        named = dict(zip(function.arg_names, args, strict=False)) | options
        scalars = {name: value for name, value in named.items() if isinstance(value, (int, float, str))}
        launches.append(Launch(function.__name__, tuple(grid), scalars, compiled, hits.pop() if hits else None))
        if function.__name__ in STAND_INS:
            STAND_INS[function.__name__](named)
        return compiled

    with ExitStack() as stack:
        for holder, name, value in (
            (driver, "_active", _Driver(target)),
            (JITFunction, "run", run),
            (triton.knobs.compilation, "listener", lambda *, cache_hit, **_: hits.append(cache_hit)),
            (runtime, "InterpretedFunction", JITFunction),  # what tensors on the CPU are let pass for
            (runtime, "target", lambda _: target),
            (runtime, "free_bytes", lambda _: FREE_BYTES),
        ):
            stack.enter_context(patch.object(holder, name, value))
        yield launches


@contextmanager
def building_launchers() -> Iterator[list[str]]:
    """Let :func:`build_launchers` work inside the block without CUDA's driver; yields the names of the C modules that were built."""
    built: list[str] = []
    whole = build._build

    def counted(name: str, *args: Any, **options: Any) -> Any:
        built.append(name)
        return whole(name, *args, **options)

    with tempfile.TemporaryDirectory() as folder, patch.object(build, "_build", counted):
        if LAUNCHERS_IN_C:
            # The modules are linked with the driver's library and loaded. An empty one of that name will do, as none of it is called.
            library, source = Path(folder) / "libcuda.so.1", Path(folder) / "empty.c"
            source.touch()
            subprocess.run(["gcc", "-shared", f"-Wl,-soname,{library.name}", "-o", library, source], check=True)
            library.with_suffix("").symlink_to(library)
            ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
            sys.setdlopenflags(os.RTLD_LAZY)
            triton.knobs.nvidia.libcuda_path = folder
            nvidia.CudaUtils()
        yield built


def build_launchers(launches: list[Launch]) -> None:
    """Build the C modules that start these kernels on NVIDIA's devices, where they have any."""
    if LAUNCHERS_IN_C:
        for compiled in {id(launch.compiled): launch.compiled for launch in launches}.values():
            nvidia.CudaLauncher(compiled.src, compiled.metadata)


def _pick_all(arguments: dict[str, Any]) -> None:
    """Write what ``window_greedy`` leaves when every group gets what it is owed: the selection's loop ends."""
    arguments["Count"].copy_(arguments["Need"])
    arguments["Place"].copy_(torch.arange(arguments["Place"].shape[1]))
    arguments["InSpan"].fill_(1)


def _bound_by_nothing(arguments: dict[str, Any]) -> None:
    """Write what ``update_gains`` leaves when no bound can rival a gain computed afresh: the pursuit's first round picks."""
    arguments["Gain"].fill_(0)
    arguments["Fresh"].fill_(0)


STAND_INS: dict[str, Callable[[dict[str, Any]], None]] = {"window_greedy": _pick_all, "update_gains": _bound_by_nothing}


def launch_moments(
    activation: str = "relu",
    precision: str = "auto",
    weights: str = "float32",
    samples: str = "float32",
    classes: Sequence[int] = CLASSES,
    M: int = 1000,
    D: int = 784,
    centred: bool = False,
    spread: bool = False,
    transposed: bool = False,
    variant: str | None = None,
    tiles: Mapping[str, Any] | None = None,
) -> None:
    """Start ``class_moments`` on data of these types and sizes.

    Parameters
    ----------
    classes : samples of each class.
    centred, spread : what the features' kernels, which do not run, would say.
    transposed : whether W and X lie in memory as their transposes do.
    variant : a name in ``tiles.variants``, in place of the first.
    tiles : {"pure": fields of a Tile, "mixed": ..., "tma": ...}, tiles that are in no table.
    """
    X, W = _unread(sum(classes), D, samples, transposed), _unread(D, M, weights, transposed)
    codes = torch.from_numpy(np.repeat(np.arange(len(classes)), classes))
    measure = gpu_moments.measure_features
    with ExitStack() as stack:
        said = {"centred": centred, "spread": spread}
        stack.enter_context(patch.object(gpu_moments, "measure_features", lambda *args: replace(measure(*args), **said)))
        if variant or tiles:
            own = tiles and Tiles(Tile(**tiles["pure"]), Tile(**tiles["mixed"]), tma=tiles["tma"])
            stack.enter_context(patch.object(gpu_moments, "choose_tiles", lambda *plan: own or variants(*plan)[variant]))
        gpu_moments.class_moments(W, X, codes, np.arange(len(classes)), bias=_zeros(M), activation=activation, precision=precision)


def launch_selection(window: int = 64, owed: int | None = None, groups: int = 2, D: int = 50) -> None:
    """Start ``select`` on groups whose windows have this size, and that are owed as many picks; by default about the most."""
    M = groups * 2 * window
    W = torch.rand((D, M), generator=torch.Generator().manual_seed(0))
    quota = torch.full((groups,), owed or window // WINDOW_PER_PICK - 1)
    select(W, torch.rand(M, dtype=torch.float64), torch.arange(M) % groups, quota)


def launch_pursuit(
    targets: int = 10, activation: str = "relu", precision: str = "auto", weights: str = "float32", M: int = 100, n: int = 200
) -> None:
    """Start ``pursue`` for one pick."""
    generator = torch.Generator().manual_seed(0)
    W, X, T = (torch.rand(shape, dtype=torch.float64, generator=generator) for shape in ((50, M), (n, 50), (n, targets)))
    W, X = W.to(getattr(torch, weights)), X.float()
    pursue(W, X, T - T.mean(0), 1, bias=_zeros(M), activation=activation, precision=precision, damping=1e-3, block=1)


def launch_activations(activation: str = "relu", weights: str = "float32", M: int = 100, n: int = 200) -> None:
    """Start ``activations``."""
    activations(_zeros(50, M, kind=weights), _zeros(n, 50, kind="float32"), bias=_zeros(M), activation=activation)


def _zeros(*shape: int, kind: str = "float64") -> torch.Tensor:
    return torch.zeros(shape, dtype=getattr(torch, kind))


def _unread(rows: int, columns: int, kind: str, transposed: bool) -> torch.Tensor:
    """Return a matrix that only kernels would read: as it was never written, it takes no memory."""
    shape = (columns, rows) if transposed else (rows, columns)
    matrix = torch.empty(shape, dtype=getattr(torch, kind))
    return matrix.T if transposed else matrix


LAUNCHERS: dict[str, Callable[..., None]] = {
    "moments": launch_moments,
    "selection": launch_selection,
    "pursuit": launch_pursuit,
    "activations": launch_activations,
}
