"""How the kernels of one call run: number form, activation, tile shapes and depth, and what is compiled into each kernel.

One source for the launchers and for what compiles them without a device, so that what is checked is what runs. No tensor,
no device here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nc_fast.backends.gpu.precision import Arithmetic
from nc_fast.backends.gpu.tiles import Tile, Tiles

GROUP = 16  # candidate blocks side by side: 16 x 128 x 1.6 to 4.7 KB of weights (D = 784) stay in a 50 MB L2
PACK_ROWS, PACK_DEPTH = 32, 64  # reads of 128 to 256 bytes along either axis
CONSTANTS_CANDIDATES, CONSTANTS_DEPTH = 64, 32
MERGE_CANDIDATES = 256


def round_up(value: int, multiple: int) -> int:
    """Return the smallest multiple that is not below the value."""
    return -(-value // multiple) * multiple


@dataclass(frozen=True)
class Plan:
    """What all kernels of one call share."""

    arithmetic: Arithmetic
    activation: str
    tiles: Tiles
    D: int

    @property
    def pitch(self) -> int:
        """Numbers in a packed candidate or sample: its parts side by side, then zeros up to a whole number of the tiles' depth."""
        return round_up(len(self.arithmetic.parts[0]) * self.D, self.tiles.pure.depth)

    @property
    def row_bytes(self) -> int:
        """Bytes of a packed candidate or sample."""
        return self.pitch * self.arithmetic.itemsize

    def candidate_bytes(self, n_slots: int) -> int:
        """Return the bytes that a candidate of a block takes: packed, its partial moments, its constants."""
        return self.row_bytes + 16 * n_slots + 64

    def pure_constants(self) -> dict[str, Any]:
        """Return the compile-time arguments of ``kernels.moments.pure_runs``."""
        return {**self._tile_constants(self.tiles.pure), "FLATTEN": self.tiles.pure.flatten}

    def mixed_constants(self) -> dict[str, Any]:
        """Return the compile-time arguments of ``kernels.moments.mixed_tiles``."""
        return self._tile_constants(self.tiles.mixed)

    def _tile_constants(self, tile: Tile) -> dict[str, Any]:
        return {
            "BC": tile.candidates,
            "BS": tile.samples,
            "BK": tile.depth,
            "ACT": self.activation,
            "TMA": self.tiles.tma,
            "DOT": self.arithmetic.dot,
            "GROUP": GROUP,
            "num_warps": tile.warps,
            "num_stages": tile.stages,
            **({"maxnreg": tile.registers} if tile.registers else {}),
        }

    def candidate_constants(self) -> dict[str, Any]:
        """Return the compile-time arguments of ``kernels.prepare.candidate_constants``."""
        lift = self.arithmetic.largest_exponent
        return {"BLOCK_M": CONSTANTS_CANDIDATES, "BLOCK_D": CONSTANTS_DEPTH, "ACT": self.activation, "LIFT": lift}

    def pack_constants(self, parts: str) -> dict[str, Any]:
        """Return the compile-time arguments of ``kernels.prepare.pack``."""
        return {
            "BLOCK_N": PACK_ROWS,
            "BLOCK_D": PACK_DEPTH,
            "PARTS": len(parts),
            "LOW": sum(1 << place for place, part in enumerate(parts) if part == "l"),
            "FACTOR": 2.0**self.arithmetic.largest_exponent,
            "ROUND_TF32": self.arithmetic.dot == "tf32",
        }
