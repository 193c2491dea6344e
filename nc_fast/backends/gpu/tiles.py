"""Tile shapes of the two product kernels, by device, number form and activation. Pure Python: no tensor, no device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nc_fast.backends.gpu.precision import Arithmetic

Target = Literal["interpreter", "hopper", "ampere", "nvidia", "amd"]

# Computing these takes so many registers that a tile of the full width spills: tests/backends/test_gpu_compile.py sees it.
NARROW_ACTIVATIONS = frozenset({"gelu", "softplus"})
NARROWEST_ACTIVATIONS = frozenset({"softplus"})  # a tile of half the width spills too, where a thread has 168 registers or fewer


@dataclass(frozen=True)
class Tile:
    """Shape and schedule of one kernel's tile."""

    candidates: int  # rows of the product
    samples: int  # its columns
    depth: int  # features multiplied at a step
    warps: int  # per program
    stages: int  # depth of the copy pipeline
    flatten: bool = False  # the loops over tiles and over depth as one, so that copies run on while a tile is summed up
    registers: int | None = None  # a thread may have at most, where fewer let more programs run at a time


@dataclass(frozen=True)
class Tiles:
    """How the two product kernels run on one kind of device."""

    pure: Tile  # of one class
    mixed: Tile  # of several classes' remainders; as many candidates as ``pure``; its depth divides that of ``pure``
    tma: bool = False  # copies by tensor-map descriptors; otherwise by pointers


def choose_tiles(target: Target, arithmetic: Arithmetic, activation: str) -> Tiles:
    """Return tile shapes that compile without spills (tests/backends/test_gpu_compile.py)."""
    return next(iter(variants(target, arithmetic, activation).values()))


def variants(target: Target, arithmetic: Arithmetic, activation: str) -> dict[str, Tiles]:
    """Return the tile shapes worth trying on a device, by name; the first is the one that :func:`choose_tiles` returns."""
    narrow = activation in NARROW_ACTIVATIONS
    depth = 128 // arithmetic.itemsize
    if target == "interpreter":
        tile = Tile(16, 16, 16, 4, 1)
        return {"pointers": Tiles(tile, tile), "tensor maps": Tiles(tile, tile, tma=True)}
    if arithmetic.number == "float64":
        if target == "amd":
            tile = Tile(64, 64, depth // 2, 4, 2)
        elif target == "nvidia":
            tile = Tile(64, 32, depth, 4, 3)  # no double-precision tensor core
        else:
            tile = Tile(64, 64, depth, 8, 3)
    elif arithmetic.number == "float32" and arithmetic.dot == "ieee" and target != "amd":
        tile = Tile(64, 64, 16, 4, 3)  # no tensor core: larger tiles spill
    elif target == "hopper":
        return _hopper_variants(depth, activation)
    elif target == "ampere":
        return {"pointers": Tiles(Tile(128, 128, depth, 8, 4), Tile(128, 64 if narrow else 128, depth, 8, 4))}
    elif target == "amd":
        tile = Tile(128, 128, depth // 2, 8, 2)
    else:  # other NVIDIA devices: 72 KiB of shared memory, within the 99 KiB that consumer devices have
        tile = Tile(128, 64, depth, 4, 3)
    return {"pointers": Tiles(tile, tile)}


def _hopper_variants(depth: int, activation: str) -> dict[str, Tiles]:
    """Return ways to hide the time in which a tile's activations are summed up and no product runs."""
    wide = 128 if activation in NARROW_ACTIVATIONS else 256
    if activation in NARROWEST_ACTIVATIONS:
        mixed, half = Tile(128, 64, depth, 8, 3), 64
    else:
        mixed, half = Tile(128, 128, depth, 8, 3, registers=128), 128  # of 147: two programs a multiprocessor
    pure = {
        "flattened": Tile(128, wide, depth, 8, 4, flatten=True),
        "nested": Tile(128, wide, depth, 8, 4),
        "two programs": Tile(128, half, depth, 4, 3),  # one multiplies while the other sums up
        "deep": Tile(128, wide, 2 * depth, 8, 2),
    }
    return {name: Tiles(tile, mixed, tma=True) for name, tile in pure.items()}
