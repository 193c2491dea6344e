"""Greedy null-space selection on a GPU: fresh gains of everything, then many picks inside a window of the best, per round.

All arithmetic on ratios and gains is float64. The picks are those of a loop that computes every gain afresh before each
pick: ``kernels.select.window_greedy`` says why.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from nc_fast.backends.gpu.kernels.select import window_greedy
from nc_fast.backends.gpu.runtime import on_device
from nc_fast.backends.gpu.windows import Candidates, Group, Ranking, batches, rank_candidates, window_constants
from nc_fast.runtime.progress import Report
from nc_fast.tolerances import RANK_TOLERANCE, TIE_TOLERANCE
from nc_fast.types import Picks

TRUST = 1e-3  # a pivot this small turns rounding 2e-16 into 1e-11 of a squared ratio: below the ties' 1e-9
CHUNK_BYTES = 64 << 20  # float64 columns of W held at once


def select(
    W: torch.Tensor,
    score: torch.Tensor,
    group: torch.Tensor,
    quota: torch.Tensor,
    *,
    report: Report | None = None,
) -> Picks:
    """Pick ``quota[g]`` candidates from every group g, greedily, in the null space of what the group has picked.

    Parameters
    ----------
    W : (D, M) floating
        Columns are candidates, in any memory layout, on the device that computes.
    score : (M,) float64
    group : (M,) int64
        The group each candidate competes in; -1: not eligible.
    quota : (G,) int64
        Picks per group, at most its members.
    report : callable, optional
        Called with (picks done, picks in all) after every round.

    Returns
    -------
    Picks
        ``indices`` and ``gains`` on W's device, groups in order, within a group in order of picking.

    Raises
    ------
    ValueError
        When W lies neither on a GPU nor, under the interpreter, on the CPU.

    Notes
    -----
    Source: Mao et al., CIKM 2021, section 3.3, with the rules of docs/algorithm.md for ties, parallel vectors and rank.
    """
    with on_device(W), torch.no_grad():
        candidates, groups = _competitors(W, score, group, quota.cpu().numpy())
        total, restarts = sum(group.owed for group in groups), 0
        while owing := [group for group in groups if group.owed]:
            restarts += _round(candidates, owing, len(groups))
            if report:
                report(total - sum(group.owed for group in groups), total)
        indices = np.concatenate([np.zeros(0, np.int64), *(part for group in groups for part in group.indices)])
        gains = np.concatenate([np.zeros(0), *(part for group in groups for part in group.gains)])
        return Picks(torch.from_numpy(indices).to(W.device), torch.from_numpy(gains).to(W.device), restarts)


def _competitors(W: torch.Tensor, score: torch.Tensor, group: torch.Tensor, quota: np.ndarray) -> tuple[Candidates, list[Group]]:
    """Sort the candidates by group and leave out those of none."""
    ends = torch.bincount(group + 1, minlength=len(quota) + 1).cumsum(0).tolist()
    index = torch.argsort(group, stable=True)[ends[0] :]
    nonzero = torch.linalg.vector_norm(W, torch.inf, dim=0)[index] > 0
    left = torch.ones(len(index) + 1, dtype=torch.bool, device=W.device)
    no_basis = torch.zeros((0, W.shape[0]), dtype=torch.float64, device=W.device)
    groups = [Group(p, slice(ends[p] - ends[0], ends[p + 1] - ends[0]), int(owed), no_basis) for p, owed in enumerate(quota)]
    return Candidates(W, index, group[index], score[index], nonzero, left), groups


def _round(candidates: Candidates, groups: list[Group], n_groups: int) -> int:
    """Compute all gains afresh, let each group pick from its window, wait for the device once; return how many spans were emptied."""
    ratio, exhausted = _fresh_ratios(candidates, groups, n_groups)
    gain = torch.where(candidates.score >= 0, candidates.score * ratio, candidates.score / ratio)  # -inf for negative / 0
    ranking = rank_candidates(candidates, gain, groups, n_groups)
    made = [_pick(ranking, ratio, exhausted, *batch) for batch in batches(groups, len(candidates.W))]
    emptied = exhausted.cpu().numpy()
    for picked in made:
        _book(picked, emptied)
    return int(emptied.sum())


def _fresh_ratios(candidates: Candidates, groups: list[Group], n_groups: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (E,) float64 ratios from explicit residuals, and (n_groups,) bool, the groups that start again with an empty span.

    A group does that when everything left of it lies in the span of its picks.
    """
    alone = candidates.nonzero.double()  # the ratio outside an empty span
    ratio, spanned = alone.clone(), torch.zeros(n_groups, dtype=torch.bool)
    for group in groups:
        if len(group.basis):
            spanned[group.number] = True
            _set_ratios(ratio, candidates, group)
    highest = ratio.new_zeros(n_groups)
    highest.scatter_reduce_(0, candidates.group, torch.where(candidates.left[:-1], ratio, 0.0), "amax")
    exhausted = spanned.to(ratio.device) & (highest == 0)
    return torch.where(exhausted[candidates.group], alone, ratio), exhausted


def _set_ratios(ratio: torch.Tensor, candidates: Candidates, group: Group) -> None:
    Q, stop = group.basis, group.members.stop
    step = max(CHUNK_BYTES // 8 // Q.shape[1], 1)
    for first in range(group.members.start, stop, step):
        chunk = slice(first, min(first + step, stop))
        residual = _unit_rows(candidates.W, candidates.index[chunk])
        residual -= (residual @ Q.T) @ Q
        norm = torch.linalg.vector_norm(residual, dim=1)
        ratio[chunk] = torch.where(norm > RANK_TOLERANCE, norm, 0.0)


@dataclass(frozen=True, eq=False)
class _Picked:
    """What P groups picked, T at most, from windows of B candidates; on the device until all batches have run."""

    groups: list[Group]
    residual: torch.Tensor  # (P, B, D) float64, unit vectors less their part in the span
    index: torch.Tensor  # (P, T) int64, candidates
    place: torch.Tensor  # (P, T) int32, where in the window
    gain: torch.Tensor  # (P, T) float64
    in_span: torch.Tensor  # (P, T) int32, whether it extends the span
    count: torch.Tensor  # (G,) int32, picks made


def _pick(ranking: Ranking, ratio: torch.Tensor, exhausted: torch.Tensor, groups: list[Group], B: int) -> _Picked:
    """Start the greedy loop in every group's window, and mark what it picks as no longer left."""
    candidates, device, P = ranking.candidates, ratio.device, len(groups)
    position, valid = ranking.window(groups, B)
    bound, bound_index = ranking.bounds(groups, B)
    index = candidates.index[position]
    residual = _unit_rows(candidates.W, index.reshape(-1)).reshape(P, B, -1)
    numbers = torch.tensor([group.number for group in groups], device=device)
    Q = torch.nn.utils.rnn.pad_sequence([group.basis for group in groups], batch_first=True)  # by zero rows, which project nothing
    Q = Q * ~exhausted[numbers, None, None]
    if Q.shape[1]:
        for _ in range(2):  # a second time: twice is enough
            residual = residual - (residual @ Q.mT) @ Q
    T = min(max(group.owed for group in groups), B)
    place, in_span = (torch.zeros((P, T), dtype=torch.int32, device=device) for _ in range(2))
    gain, count = ratio.new_zeros((P, T)), torch.zeros(P, dtype=torch.int32, device=device)
    window_greedy[(P,)](
        residual @ residual.mT,
        ratio[position] ** 2,
        candidates.score[position],
        index,
        valid,
        bound,
        bound_index,
        torch.tensor([min(group.owed, T) for group in groups], dtype=torch.int32, device=device),
        ratio.new_empty((P, T, B)),
        place,
        gain,
        in_span,
        count,
        T,
        RANK_TOLERANCE**2,
        TIE_TOLERANCE,
        TRUST,
        **window_constants(B),
    )
    picked = position.gather(1, place.long())
    was_made = torch.arange(T, device=device) < count[:, None]
    candidates.left[torch.where(was_made, picked, len(candidates.index))] = False
    return _Picked(groups, residual, candidates.index[picked], place, gain, in_span, count)


def _book(picked: _Picked, emptied: np.ndarray) -> None:
    """Write the picks into their groups and extend the bases of those that owe more."""
    count, index, gain = picked.count.cpu().numpy(), picked.index.cpu().numpy(), picked.gain.cpu().numpy()
    in_span = picked.in_span.cpu().numpy().astype(bool)
    for row, group in enumerate(picked.groups):
        n = count[row]
        group.indices.append(index[row, :n])
        group.gains.append(gain[row, :n])
        group.owed -= int(n)
        if emptied[group.number]:
            group.basis = group.basis[:0]
        extending = np.flatnonzero(in_span[row, :n])
        if group.owed and extending.size:
            rows = picked.place[row, torch.from_numpy(extending).to(picked.place.device)].long()
            Q, _ = torch.linalg.qr(picked.residual[row, rows].T)
            group.basis = torch.cat([group.basis, Q.T])


def _unit_rows(W: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Return the candidates' vectors as float64 rows of length 1; a zero vector stays zero."""
    rows = W[:, candidates].T.double()
    tiny = torch.finfo(torch.float64).tiny
    rows = rows / rows.abs().amax(1, keepdim=True).clamp(min=tiny)  # squares neither over- nor underflow
    norm: torch.Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / norm.clamp(min=tiny)
