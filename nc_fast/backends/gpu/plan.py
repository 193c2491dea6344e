"""How the kernels of one call run: number form, activation, tile shapes and depth, and what is compiled into each kernel.

One source for the launchers and for the tests that compile ahead of time, so that what is checked is what runs. No tensor,
no device here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nc_fast.backends.gpu.precision import Arithmetic
from nc_fast.backends.gpu.tiles import Tile, Tiles

GROUP = 16  # candidate blocks side by side: 16 x 128 x 1.6 KB of weights (D = 784) stay in a 50 MB L2
PACK_ROWS, PACK_DEPTH = 32, 64  # reads of 128 to 256 bytes along either axis
CONSTANTS_CANDIDATES, CONSTANTS_DEPTH = 64, 32
MERGE_CANDIDATES = 256


@dataclass(frozen=True)
class Plan:
    """What all kernels of one call share."""

    arithmetic: Arithmetic
    activation: str
    tiles: Tiles
    K: int  # features, rounded up to the tiles' depth

    @property
    def pitch_w(self) -> int:
        """Numbers in a packed candidate, low parts included."""
        return self.K * (1 + self.arithmetic.weights_low)

    @property
    def pitch_x(self) -> int:
        """Numbers in a packed sample, low parts included."""
        return self.K * (1 + self.arithmetic.samples_low)

    def pure_constants(self) -> dict[str, Any]:
        """Return the compile-time arguments of ``kernels.moments.pure_runs``."""
        return {
            **self._tile_constants(self.tiles.pure),
            "FLATTEN": self.tiles.tma,  # with pointers it loses the asynchronous copies
        }

    def mixed_constants(self) -> dict[str, Any]:
        """Return the compile-time arguments of ``kernels.moments.mixed_tiles``."""
        return self._tile_constants(self.tiles.mixed)

    def _tile_constants(self, tile: Tile) -> dict[str, Any]:
        return {
            "BC": tile.candidates,
            "BS": tile.samples,
            "BK": tile.depth,
            "ACT": self.activation,
            "W_LOW": self.arithmetic.weights_low,
            "X_LOW": self.arithmetic.samples_low,
            "TMA": self.tiles.tma,
            "DOT": self.arithmetic.dot,
            "GROUP": GROUP,
            "num_warps": tile.warps,
            "num_stages": tile.stages,
        }

    def candidate_constants(self) -> dict[str, Any]:
        """Return the compile-time arguments of ``kernels.prepare.candidate_constants``."""
        return {"BLOCK_M": CONSTANTS_CANDIDATES, "BLOCK_D": CONSTANTS_DEPTH, "ACT": self.activation}

    def pack_constants(self, *, low: bool) -> dict[str, Any]:
        """Return the compile-time arguments of ``kernels.prepare.pack``."""
        return {"BLOCK_N": PACK_ROWS, "BLOCK_D": PACK_DEPTH, "LOW": low, "ROUND_TF32": self.arithmetic.dot == "tf32"}
