"""The columns that a pursuit chooses from: held as float32 unit vectors for the pass over all, exact on request for a few."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from nc_fast.backends.gpu import runtime
from nc_fast.backends.gpu.activations import activation_rows, load_samples, product_type
from nc_fast.backends.gpu.plan import round_up
from nc_fast.tolerances import NOTHING_EXPLAINED, RANK_TOLERANCE

HELD_SHARE = 0.5  # of free memory for the columns at most: the allocator rounds up, and others allocate too
BLOCK_BYTES = 64 << 20  # one float64 block of columns on its way into Z
ALIGNED = 16  # a row's length in numbers is a multiple of this: 16-byte loads


class Pool:
    """All candidates and the sample, on the device."""

    def __init__(
        self, W: torch.Tensor, X: torch.Tensor, bias: torch.Tensor, activation: str | Callable[[Any], Any], precision: str
    ) -> None:
        self.W, self._bias, self._activation, self._precision = W, bias, activation, precision
        self._exact_X = load_samples(X, W.device, torch.float64)
        self._X = self._exact_X.to(product_type(W, X))

    def columns(self, index: torch.Tensor, *, exact: bool) -> torch.Tensor:
        """Return the candidates' columns, (m, n) float64 rows of length 1, 0 for the dead.

        From products in float64 where ``exact``; else in the type and precision that the data and the caller ask for.
        """
        X = self._exact_X if exact else self._X
        z = activation_rows(self.W[:, index], X, self._bias[index], self._activation, self._precision, self._X.dtype)
        return unit_rows(z.double())


def unit_rows(z: torch.Tensor) -> torch.Tensor:
    """Return (m, n) float64 rows centred and divided by their length; rows without a deviation beyond rounding noise become 0."""
    z = z / z.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)  # squares neither over- nor underflow
    z -= z[:, :1].clone()  # a constant row becomes exactly 0
    z -= z.mean(1, keepdim=True)
    length: torch.Tensor = torch.linalg.vector_norm(z, dim=1, keepdim=True)
    return torch.where(length > RANK_TOLERANCE * z.shape[1] ** 0.5, z / length, 0.0)


@dataclass(frozen=True, eq=False)
class Held:
    """The columns that compete. A candidate's *place* is its row here."""

    index: torch.Tensor  # (M',) int64, candidate at each place, ascending
    Z: torch.Tensor  # (M', pitch) float32, unit vectors, zeros from n on
    product: torch.Tensor  # (M', C) float64, with the targets
    norm: torch.Tensor  # (M',) float64, squared length: 1, or 0 for the dead


def row_pitch(n: int) -> int:
    """Return the numbers in a row of Z."""
    return round_up(n, ALIGNED)


def hold(pool: Pool, targets: torch.Tensor, k: int) -> Held:
    """Compute the columns that fit in half of the free memory, but k at least: of the largest first gains, ties by lowest index."""
    n, C = targets.shape
    M, device = pool.W.shape[1], targets.device
    index, pitch = torch.arange(M, device=device), row_pitch(n)
    room = int(runtime.free_bytes(device) * HELD_SHARE) // (4 * pitch + 8 * C + 64)
    kept = min(M, max(room, k))
    if kept < M:
        gain = torch.cat([_first_gains(columns, targets) for _, columns in _blocks(pool, index, n)])
        index = torch.argsort(gain, descending=True, stable=True)[:kept].sort().values
    Z = torch.zeros((kept, pitch), dtype=torch.float32, device=device)
    product, norm = targets.new_empty((kept, C)), targets.new_empty(kept)
    for span, columns in _blocks(pool, index, n):
        Z[span, :n] = columns
        product[span] = columns @ targets
        norm[span] = columns.square().sum(1)
    return Held(index, Z, product, norm)


def _blocks(pool: Pool, index: torch.Tensor, n: int) -> Iterator[tuple[slice, torch.Tensor]]:
    m = max(BLOCK_BYTES // 8 // n, 1)
    for first in range(0, len(index), m):
        span = slice(first, min(first + m, len(index)))
        yield span, pool.columns(index[span], exact=False)


def _first_gains(columns: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return (m,) the first gains up to a common factor; -inf for the dead."""
    gain = (columns @ targets).square().sum(1)
    return torch.where((columns != 0).any(1), torch.where(gain > NOTHING_EXPLAINED, gain, 0.0), -torch.inf)
