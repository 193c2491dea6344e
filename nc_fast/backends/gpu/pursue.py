"""Pursuit on a GPU: one pass over all columns per pick for bounds of the gains, float64 for the best of them.

Columns and targets are scaled to length 1 throughout, so that a gain is a share of the targets' squares.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton

from nc_fast.backends.gpu.columns import Held, Pool, hold, row_pitch
from nc_fast.backends.gpu.kernels.pursue import update_gains
from nc_fast.backends.gpu.runtime import on_device, reporter
from nc_fast.picks import PursuitPicks
from nc_fast.runtime.progress import Report
from nc_fast.tolerances import EXHAUSTED, NOTHING_EXPLAINED, TIE_TOLERANCE

SHORTLIST = 31  # candidates computed afresh in a round, beside the one carried over: 32 columns of a product
NOISE, TF32_NOISE = 3e-7, 1e-5  # of squared lengths and of products with unit vectors; float32 columns were measured to err by 4e-8
ROUNDS = 32  # between two looks at the device: the host waits once in so many picks
REFRESHED = 1024  # columns computed afresh at a time when nothing seems to be left


def pass_constants(C: int) -> dict[str, int]:
    """Return the compile-time arguments of ``kernels.pursue.update_gains``: 16 float64 sums a thread."""
    return {"BM": 16, "BN": 128, "BC": min(triton.next_power_of_2(C), 32), "num_warps": 4}


def pursue(
    W: torch.Tensor,
    X: torch.Tensor,
    T: torch.Tensor,
    k: int,
    *,
    bias: torch.Tensor,
    activation: str | Callable[[Any], Any],
    precision: str = "auto",
    damping: float,
    block: int | str,
    report: Report | None = None,
) -> PursuitPicks:
    """Pick k candidates whose activations explain the targets, each the best one beside those already picked.

    Parameters
    ----------
    W : (D, M) floating
        Columns are candidates, in any memory layout, on the device that computes.
    X : (n, D) floating or integer
        Samples, on the same device or in host memory; moved there whole.
    T : (n, C) float64
        Centred targets, on W's device.
    k : int
        Picks, at most M.
    bias : (M,) float64
    activation : str or callable
        A name in the table, or an elementwise function of an (n, m) tensor.
    precision : "auto", "fp16", "tf32" or "ieee"
        Of the products behind the held columns, as in :func:`.activations.activations`. Gains of picks are float64 at each.
    damping : float
        At least 0, in units of a column's squared length.
    block : int or "auto"
        Every value means one pass per pick here: a pass runs at the memory's bandwidth, and picks are the exact greedy's.
    report : callable, optional
        Called with (picks done, k) about every 32 picks.

    Returns
    -------
    PursuitPicks
        Tensors on W's device.

    Raises
    ------
    ValueError
        When W lies neither on a GPU nor, under the interpreter, on the CPU; when a callable does not keep the shape.

    Notes
    -----
    Source: Chen, Cowan and Grant, "Orthogonal least squares learning algorithm for radial basis function networks", 1991.
    Columns that do not fit in half of the free memory are left out, those of the smallest first gains: ``kept`` says how many
    compete.
    """
    with on_device(W), torch.no_grad():
        total = T.square().sum()
        targets = T / torch.where(total > 0, total, 1.0).sqrt()
        loop = _Loop(Pool(W, X, bias, activation, precision), targets, k, damping, TF32_NOISE if precision == "tf32" else NOISE)
        tell = reporter(report, W.device)
        done = 0
        while done < k:
            for ahead in range(min(ROUNDS, k - done)):
                loop.round(done + ahead)
            done, eligible = loop.look()
            tell(done, k)
            if done < k and not eligible and not loop.refresh(done):
                break
        return loop.picks(done, total)


class _Loop:
    """The state of a pursuit, all of it on the device; :meth:`round` and what it calls never wait for it."""

    def __init__(self, pool: Pool, targets: torch.Tensor, k: int, damping: float, noise: float) -> None:
        self._pool, self._targets, self._k, self._damping, self._noise = pool, targets, k, damping, noise
        n, C = targets.shape
        device = targets.device
        self._basis = targets.new_zeros((k, row_pitch(n)))  # row t: the residual of pick t, of length 1; 0 until it is made
        self._share = targets.new_zeros((k, C))  # its products with the targets
        self._picked = torch.zeros(k, dtype=torch.int64, device=device)  # places
        self._gains = targets.new_zeros(k)
        self._done = torch.zeros(1, dtype=torch.int64, device=device)
        self._carried = torch.zeros(1, dtype=torch.int64, device=device)  # the best place so far
        self._held: Held = hold(pool, targets, k)
        M = len(self._held.index)
        self._place = torch.arange(M, device=device)
        self._open = torch.ones(M, dtype=torch.bool, device=device)  # neither picked nor known to be dead or exhausted
        self._fresh = torch.zeros(M, dtype=torch.bool, device=device)  # whether the gain is computed afresh since the last pick
        self._gain = targets.new_empty(M)
        self._pass(self._basis[0], self._share[0], torch.ones(1, dtype=torch.bool, device=device))  # takes nothing out yet

    def round(self, at_most: int) -> None:
        """Compute the most promising gains afresh; pick the best one, unless one that is only bounded may rival it.

        ``at_most`` picks have been made. Without a pick, the next round computes the next most promising.
        """
        bound, M = torch.where(self._fresh, -torch.inf, self._gain), len(self._gain)
        order = torch.where(bound == bound.amax(), M + 1.0 - self._place, bound)  # equals of the best first, by index
        places = torch.cat([self._carried, torch.topk(order, min(SHORTLIST, M)).indices])
        residual, norm = self._compute_afresh(places, at_most)

        known = torch.where(self._fresh, self._gain, -torch.inf)
        best = known.amax()
        chosen = torch.where(known >= _below(best), self._place, M).amin()
        rival = ~self._fresh & (self._gain >= _below(best)) & ((self._gain > 0) | (self._place < chosen))
        here = places == chosen
        legal = ((best > -torch.inf) & ~rival.any() & here.any()).reshape(1)
        own = here.to(torch.uint8).argmax().reshape(1)
        row = torch.where(legal, residual.index_select(0, own) / norm.index_select(0, own).sqrt(), 0.0)
        share = row @ self._targets
        row = torch.nn.functional.pad(row, (0, self._basis.shape[1] - row.shape[1]))

        self._basis.index_copy_(0, self._done, row)
        self._share.index_copy_(0, self._done, share)
        self._picked.index_copy_(0, self._done, chosen.reshape(1))
        self._gains.index_copy_(0, self._done, best.reshape(1))
        self._open &= ~(legal & (self._place == chosen))
        self._done += legal
        self._carried = chosen.reshape(1)
        self._pass(row, share, legal)

    def look(self) -> tuple[int, bool]:
        """Wait for the device; return the picks made and whether any candidate seems eligible."""
        done, highest = torch.cat([self._done.double(), self._gain.amax().reshape(1)]).tolist()
        return int(done), highest > -torch.inf

    def refresh(self, done: int) -> bool:
        """Compute all that may be dead or exhausted afresh, and return whether some is neither."""
        for places in torch.split(self._open.nonzero()[:, 0], REFRESHED):
            self._compute_afresh(places, done)
        return bool(self._open.any())

    def picks(self, done: int, total: torch.Tensor) -> PursuitPicks:
        """Return the picks, filled up by lowest index."""
        picked = self._held.index[self._picked[:done]]
        left = torch.ones(self._pool.W.shape[1], dtype=torch.bool, device=picked.device)
        left[picked] = False
        indices = torch.cat([picked, left.nonzero()[: self._k - done, 0]])
        self._gains[done:] = 0  # a round without a pick wrote there
        explained = self._share.square().sum(1).cumsum(0)
        return PursuitPicks(indices, self._gains * total, explained, len(self._held.index), self._k - done)

    def _compute_afresh(self, places: torch.Tensor, at_most: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the exact gains of these places, and what they are made of; return (s, n) residuals and their squared lengths."""
        residual = self._pool.columns(self._held.index[places], exact=True)
        basis = self._basis[:at_most, : residual.shape[1]]
        for _ in range(2):  # a second time: twice is enough
            residual = residual - (residual @ basis.T) @ basis
        norm, product = residual.square().sum(1), residual @ self._targets
        eligible = self._open[places] & (norm > EXHAUSTED)
        gain = product.square().sum(1) / (torch.where(eligible, norm, 1.0) + self._damping)
        gain = torch.where(gain > NOTHING_EXPLAINED, gain, 0.0)
        self._held.product.index_copy_(0, places, product)
        self._held.norm.index_copy_(0, places, norm)
        self._gain.index_copy_(0, places, torch.where(eligible, gain, -torch.inf))
        self._open.index_copy_(0, places, eligible)
        self._fresh.index_fill_(0, places, True)
        return residual, norm

    def _pass(self, row: torch.Tensor, share: torch.Tensor, picked: torch.Tensor) -> None:
        held, (M, C) = self._held, self._held.product.shape
        constants = pass_constants(C)
        update_gains[(triton.cdiv(M, constants["BM"]),)](
            held.Z,
            row,
            share,
            picked,
            held.product,
            held.norm,
            self._open,
            self._gain,
            self._fresh,
            M,
            C,
            held.Z.shape[1],
            self._damping,
            self._noise,
            **constants,
        )


def _below(best: torch.Tensor) -> torch.Tensor:
    """Return the least gain that is tied with the best one."""
    return best - TIE_TOLERANCE * best.abs()
