"""Tile shapes, number forms and compile-time constants of the kernels, by device.

One source for the launchers and for the tests that compile ahead of time, so that what is checked is what runs.
Pure Python: no tensor, no device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Target = Literal["interpreter", "hopper", "ampere", "nvidia", "amd"]

GROUP = 16  # candidate blocks side by side: 16 x 128 x 1.6 KB of weights (D = 784) stay in a 50 MB L2
NARROW_ACTIVATIONS = frozenset({"gelu", "softplus"})  # whose registers do not fit beside the widest accumulators
SPECIALIZE = False  # opt-in: 3 to 10 % predicted, never run on a device
SPECIALIZE_TRITON = ((3, 6), (3, 7))  # from, before: the versions it compiles with (3.9 fails)
PACK_ROWS, PACK_DEPTH = 32, 64  # reads of 128 to 256 bytes along either axis
CONSTANTS_CANDIDATES, CONSTANTS_DEPTH = 64, 32
MERGE_CANDIDATES = 256
FACTOR_ROWS = 4


@dataclass(frozen=True)
class Tile:
    """Shape and schedule of one kernel's tile.

    Attributes
    ----------
    candidates, samples, depth : int
        The product's rows, columns and step.
    warps, stages : int
        Warps per program; depth of the copy pipeline.
    """

    candidates: int
    samples: int
    depth: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Schedule:
    """How the two product kernels run on one kind of device.

    Attributes
    ----------
    pure, mixed : Tile
        Tiles of whole classes, and of several classes' remainders.
    tma : bool
        Copies by tensor-map descriptors; otherwise by pointers.
    specialize : bool
        A producer warp group of its own for the copies.
    """

    pure: Tile
    mixed: Tile
    tma: bool = False
    specialize: bool = False


@dataclass(frozen=True)
class Arithmetic:
    """Number form of the packed operands.

    Attributes
    ----------
    number : str
        Type of the packed operands. Sums are float64 for float64, else float32.
    weights_low, samples_low : bool
        Whether what float16 cannot hold is kept as a second float16.
    dot : str
        Triton's input precision for float32 operands.
    """

    number: Literal["float16", "float32", "float64"]
    weights_low: bool = False
    samples_low: bool = False
    dot: str = "ieee"

    @property
    def itemsize(self) -> int:
        """Bytes of a packed number."""
        return int(self.number.removeprefix("float")) // 8

    @property
    def sums(self) -> Literal["float32", "float64"]:
        """Type of the sums."""
        return "float64" if self.number == "float64" else "float32"

    @property
    def largest_exponent(self) -> int:
        """Scaled operands are below 2 to this: float16 ends at 2 ** 16, and the low parts need room below."""
        return 14 if self.number == "float16" else 0


def specializes(triton_version: tuple[int, int]) -> bool:
    """Whether copies get a producer warp group of their own."""
    return SPECIALIZE and SPECIALIZE_TRITON[0] <= triton_version < SPECIALIZE_TRITON[1]


def schedule(target: Target, arithmetic: Arithmetic, activation: str, *, specialize: bool = False) -> Schedule:
    """Return tile shapes that compile without spills (tests/backends/test_gpu_compile.py), by device and number form."""
    if target == "interpreter":
        tile = Tile(16, 16, 16, 4, 1)
        return Schedule(pure=tile, mixed=tile)
    depth = 128 // arithmetic.itemsize
    if arithmetic.number == "float64":
        if target == "amd":
            tile = Tile(64, 64, depth // 2, 4, 2)
        elif target == "nvidia":
            tile = Tile(64, 32, depth, 4, 3)  # no double-precision tensor core
        else:
            tile = Tile(64, 64, depth, 8, 3)
        return Schedule(pure=tile, mixed=tile)
    if arithmetic.number == "float32" and arithmetic.dot == "ieee" and target != "amd":
        tile = Tile(64, 64, 16, 4, 3)  # no tensor core: larger tiles spill
        return Schedule(pure=tile, mixed=tile)
    narrow = activation in NARROW_ACTIVATIONS
    if target == "hopper":
        pure = Tile(128, 128 if narrow else 256, depth, 4 if specialize else 8, 4)
        return Schedule(pure=pure, mixed=Tile(128, 64 if narrow else 128, depth, 8, 3), tma=True, specialize=specialize)
    if target == "ampere":
        return Schedule(pure=Tile(128, 128, depth, 8, 4), mixed=Tile(128, 64 if narrow else 128, depth, 8, 4))
    # Other NVIDIA devices: 72 KiB, within the 99 KiB that consumer devices have
    tile = Tile(128, 128, depth // 2, 8, 2) if target == "amd" else Tile(128, 64, depth, 4, 3)
    return Schedule(pure=tile, mixed=tile)


def pure_constants(chosen: Schedule, arithmetic: Arithmetic, activation: str) -> dict[str, Any]:
    """Return the compile-time arguments of ``kernels.moments.pure_runs``."""
    return {
        **_tile_constants(chosen.pure, chosen, arithmetic, activation),
        "FLATTEN": chosen.tma and not chosen.specialize,  # with pointers it loses the asynchronous copies
        "SPECIALIZE": chosen.specialize,
    }


def mixed_constants(chosen: Schedule, arithmetic: Arithmetic, activation: str) -> dict[str, Any]:
    """Return the compile-time arguments of ``kernels.moments.mixed_tiles``."""
    return _tile_constants(chosen.mixed, chosen, arithmetic, activation)


def _tile_constants(tile: Tile, chosen: Schedule, arithmetic: Arithmetic, activation: str) -> dict[str, Any]:
    return {
        "BC": tile.candidates,
        "BS": tile.samples,
        "BK": tile.depth,
        "ACT": activation,
        "W_LOW": arithmetic.weights_low,
        "X_LOW": arithmetic.samples_low,
        "TMA": chosen.tma,
        "DOT": arithmetic.dot,
        "GROUP": GROUP,
        "num_warps": tile.warps,
        "num_stages": tile.stages,
    }


def candidate_constants(activation: str) -> dict[str, Any]:
    """Return the compile-time arguments of ``kernels.prepare.candidate_constants``."""
    return {"BLOCK_M": CONSTANTS_CANDIDATES, "BLOCK_D": CONSTANTS_DEPTH, "ACT": activation}


def pack_constants(arithmetic: Arithmetic, *, low: bool) -> dict[str, Any]:
    """Return the compile-time arguments of ``kernels.prepare.pack``."""
    return {"BLOCK_N": PACK_ROWS, "BLOCK_D": PACK_DEPTH, "LOW": low, "ROUND_TF32": arithmetic.dot == "tf32"}


def window_constants(window: int) -> dict[str, Any]:
    """Return the compile-time arguments of ``kernels.select.window_greedy``: two places of the window a thread."""
    return {"B": window, "ROWS": FACTOR_ROWS, "num_warps": max(window // 64, 1)}
