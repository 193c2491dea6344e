"""What every candidate of the selection keeps outside the span of its group's picks, and the bases of those spans.

The basis vectors that a round adds are taken out of all squared ratios by one product. A ratio that has lost too many digits
so is known no longer: a bound stays until an explicit residual replaces it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from nc_fast.backends.gpu.groups import Candidates, Groups, send
from nc_fast.tolerances import RANK_TOLERANCE

# Subtraction leaves in a square an error of some 1e-16 times the ratio that was explicit. Above this times that ratio, a square
# is good to 3e-12 of itself (measured, D = 784): below the ties' 1e-9.
TRUST = 1e-3
LARGEST_GROWTH = 100.0  # of rounding inside a window: squares of it times 2e-16 are below the ties' 1e-9
BATCH_BYTES = 512 << 20  # float64 arrays held at once


@dataclass(frozen=True, eq=False)
class Ratios:
    """The length of every candidate's unit vector outside the span; (n + 1, S) by tiles, updated in place."""

    squared: torch.Tensor  # float64, squared ratio, exactly 0 where the ratio counts as 0; an upper bound where it is not known
    explicit: torch.Tensor  # float64, the ratio when it was last computed from an explicit residual
    known: torch.Tensor  # bool

    def put(self, where: torch.Tensor, ratio: torch.Tensor) -> torch.Tensor:
        """Write ratios from explicit residuals, at tiles or flat positions; return their squares. Up to RANK_TOLERANCE they are 0."""
        ratio = torch.where(ratio > RANK_TOLERANCE, ratio, 0.0)
        squared = ratio**2
        for whole, part in ((self.squared, squared), (self.explicit, ratio), (self.known, torch.ones_like(ratio, dtype=torch.bool))):
            (whole if where.dim() == 1 else whole.view(-1))[where] = part
        return squared

    def empty_spans(self, emptied: torch.Tensor, alone: torch.Tensor) -> None:
        """Start again at the ratios outside an empty span, in the (n + 1, 1) tiles that are ``emptied``."""
        torch.where(emptied, alone, self.squared, out=self.squared)
        torch.where(emptied, alone, self.explicit, out=self.explicit)
        self.known.logical_or_(emptied)


class Bases:
    """Orthonormal bases of all groups' spans, since their last restarts: rows of one array."""

    def __init__(self, total: int, W: torch.Tensor) -> None:
        self._rows = torch.zeros((total + 1, len(W)), dtype=torch.float64, device=W.device)  # the last one stays 0

    def take(self, first: np.ndarray, count: np.ndarray) -> torch.Tensor:
        """Return (P, max(count), D) float64: ``count`` rows from ``first``, (P,) each, and zeros, which project nothing."""
        place = np.arange(count.max())
        rows = np.where(place < count[:, None], first[:, None] + place, len(self._rows) - 1)
        return self._rows[send(rows, self._rows.device)]

    def put(self, first: np.ndarray, columns: torch.Tensor, used: np.ndarray) -> None:
        """Write an orthonormal basis of the ``used``, (P, T) bool, of (P, D, T) columns to the rows from ``first``, (P,)."""
        rows = np.where(used, first[:, None] + used.cumsum(1) - 1, len(self._rows) - 1)
        device = columns.device
        self._rows[send(rows, device)] = orthonormal_rows(columns, send(used, device))


def orthonormal_rows(columns: torch.Tensor, used: torch.Tensor) -> torch.Tensor:
    """Return (P, T, D) float64, an orthonormal basis of the ``used`` columns of (P, D, T), in order; the other rows are 0.

    Notes
    -----
    Source: Fukaya et al., Shifted Cholesky QR, SIAM J. Sci. Comput. 42 (2020). It is products and triangular solves of whole
    batches, where a device would do one Householder QR after the other. A shift above the rounding of the products keeps the
    factorisation from failing. Two such steps leave nearly orthonormal rows, which the third makes orthonormal to rounding.
    """
    D, T = columns.shape[1:]
    length = torch.linalg.vector_norm(columns, dim=1, keepdim=True)
    rows = (columns * torch.where(used[:, None], 1 / length, 0.0)).mT
    unused = (~used).double()
    shifted = unused + 2 * (D + T) * T * torch.finfo(torch.float64).eps
    for added in (shifted, shifted, unused):
        gram = rows @ rows.mT
        gram.diagonal(dim1=1, dim2=2).add_(added)
        rows = torch.linalg.solve_triangular(torch.linalg.cholesky_ex(gram)[0], rows, upper=False)
    return rows


def follow_spans(candidates: Candidates, ratios: Ratios, bases: Bases, groups: Groups) -> None:
    """Bring ratios or bounds up to date with what the last round picked, in all groups that owe picks."""
    owing = groups.owed > 0
    for tiles, number in _tiles(groups, owing & groups.explicit, groups.rank, candidates):
        recompute(candidates, ratios, tiles, bases.take(groups.row[number], groups.rank[number]))
    old = groups.rank - groups.new
    for tiles, number in _tiles(groups, owing & ~groups.explicit & (groups.new > 0), groups.new, candidates):
        subtract(candidates, ratios, tiles, bases.take((groups.row + old)[number], groups.new[number]))


def recompute(candidates: Candidates, ratios: Ratios, tiles: torch.Tensor, Q: torch.Tensor) -> None:
    """Set the ratios in n tiles from explicit residuals outside (n, r, D) bases."""
    columns = candidates.scaled(candidates.index[tiles], candidates.scale[tiles])
    residual = torch.baddbmm(columns, Q.mT, Q @ columns, alpha=-1)
    ratios.put(tiles, torch.linalg.vector_norm(residual, dim=1) / candidates.length[tiles])


def subtract(candidates: Candidates, ratios: Ratios, tiles: torch.Tensor, Q: torch.Tensor) -> None:
    """Take (n, r, D) new basis vectors out of the squared ratios in n tiles."""
    inner = torch.linalg.vector_norm(Q @ candidates.scaled(candidates.index[tiles], candidates.scale[tiles]), dim=1)
    before, accurate = ratios.squared[tiles], TRUST * ratios.explicit[tiles]
    after = (before - (inner / candidates.length[tiles]) ** 2).clamp(min=0)
    known = ratios.known[tiles] & (after >= accurate)
    ratios.squared[tiles] = torch.where(known, after, torch.minimum(before, accurate))
    ratios.known[tiles] = known


def _tiles(groups: Groups, chosen: np.ndarray, rows: np.ndarray, candidates: Candidates) -> Iterator[tuple[torch.Tensor, np.ndarray]]:
    """Yield (n,) tiles of the chosen groups, and their groups, as many as BATCH_BYTES allows with ``rows`` basis vectors a group."""
    tiles = np.flatnonzero(chosen[groups.of_tile])
    D, S, r = len(candidates.W), candidates.index.shape[1], int(rows.max(initial=0, where=chosen))
    step = max(BATCH_BYTES // (8 * (2 * S * D + r * S + r * D)), 1)
    for first in range(0, len(tiles), step):
        batch = tiles[first : first + step]
        yield send(batch, candidates.W.device), groups.of_tile[batch]
