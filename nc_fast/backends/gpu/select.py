"""Greedy null-space selection on a GPU: gains or bounds of everything, then many picks inside a window of the best, per round.

All arithmetic on ratios and gains is float64. The picks are those of a loop that computes every gain afresh before each
pick: ``kernels.select.window_greedy`` says why.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from nc_fast.backends.gpu.groups import Candidates, Groups, lay_out, send
from nc_fast.backends.gpu.kernels.select import window_greedy
from nc_fast.backends.gpu.runtime import on_device
from nc_fast.backends.gpu.spans import Bases, Ratios, follow_spans
from nc_fast.backends.gpu.windows import Ranking, batches, rank_candidates, window_constants
from nc_fast.runtime.progress import Report
from nc_fast.types import Picks


def select(
    W: torch.Tensor,
    score: torch.Tensor,
    group: torch.Tensor,
    quota: torch.Tensor,
    *,
    given: torch.Tensor | None = None,
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
    given : (n,) int64, optional
        Distinct candidates of groups: the first picks of each group, in their order, at most its quota.
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
        owed = quota.cpu().numpy()
        candidates, groups = lay_out(W, score, group, owed, given)
        total, restarts = int(owed.sum()), 0
        ratios = Ratios(candidates.alone.clone(), candidates.alone.clone(), torch.ones_like(candidates.left))
        state, indices, gains = _State(candidates, ratios, Bases(total, W), groups), np.zeros(total, np.int64), np.zeros(total)
        while (groups.owed > 0).any():
            made, emptied = _round(state)
            restarts += int(emptied.sum())
            groups.begin_booking(emptied)
            for picked in made:
                _book(picked, state, indices, gains)
            if report:
                report(total - int(groups.owed.sum()), total)
        return Picks(torch.from_numpy(indices).to(W.device), torch.from_numpy(gains).to(W.device), restarts)


@dataclass(frozen=True, eq=False)
class _State:
    """Where a selection stands; what its parts hold is updated in place."""

    candidates: Candidates
    ratios: Ratios
    bases: Bases
    groups: Groups


def _round(state: _State) -> tuple[list[_Picked], np.ndarray]:
    """Let each group pick from its window; wait for the device once. Return the picks and (G,) bool, whose spans were emptied."""
    candidates, ratios, groups = state.candidates, state.ratios, state.groups
    follow_spans(candidates, ratios, state.bases, groups)
    owing = groups.owed > 0
    taking_part, spanned = send(np.stack([owing, owing & (groups.rank > 0)]), candidates.W.device)
    left = candidates.left & taking_part[candidates.group, None]
    # A group starts again with an empty span when everything left of it lies in the span of its picks.
    exhausted = spanned & (candidates.most(torch.where(left, ratios.squared, 0.0), len(owing)) == 0)
    ratios.empty_spans(exhausted[candidates.group, None], candidates.alone)
    ranking = rank_candidates(candidates, ratios, groups, left)
    made = [_pick(state, ranking, exhausted, *batch) for batch in batches(groups, ranking.size, len(candidates.W))]
    return made, exhausted.cpu().numpy()


@dataclass(frozen=True, eq=False)
class _Picked:
    """What P groups picked, T at most, from windows of B candidates; on the device until all batches have run."""

    number: np.ndarray  # (P,) int64, the groups
    columns: torch.Tensor  # (P, D, T) float64, their unit vectors less the part in the span; B would be four times as many
    index: torch.Tensor  # (P, T) int64, candidates
    gain: torch.Tensor  # (P, T) float64
    in_span: torch.Tensor  # (P, T) int32, whether it extends the span
    count: torch.Tensor  # (P,) int32, picks made
    blocked: torch.Tensor  # (P,) int32, whether bounds kept it from more


def _pick(state: _State, ranking: Ranking, exhausted: torch.Tensor, number: np.ndarray, B: int) -> _Picked:
    """Start the greedy loop in every group's window, and mark what it picks as no longer left."""
    candidates, groups = state.candidates, state.groups
    device, P = exhausted.device, len(number)
    position, valid = ranking.window(groups, number, B)
    index = candidates.index.view(-1)[position]
    T = min(int(groups.owed[number].max()), B)
    chosen, need, given = send(np.stack([number, np.minimum(groups.owed[number], T), groups.prescribed[number]]), device)
    residual = candidates.scaled(index, candidates.scale.view(-1)[position]) / candidates.length.view(-1)[position][:, None]
    if groups.rank[number].any():
        Q = state.bases.take(groups.row[number], groups.rank[number]) * ~exhausted[chosen, None, None]
        for _ in range(2):  # a second time: twice is enough
            residual = torch.baddbmm(residual, Q.mT, Q @ residual, alpha=-1)
    squared = state.ratios.put(torch.where(valid, position, candidates.nowhere), torch.linalg.vector_norm(residual, dim=1))
    place, in_span = (torch.zeros((P, T), dtype=torch.int32, device=device) for _ in range(2))
    gain, (count, blocked) = residual.new_zeros((P, T)), torch.zeros((2, P), dtype=torch.int32, device=device)
    window_greedy[(P,)](
        residual.mT @ residual,
        squared,
        candidates.score.view(-1)[position],
        index,
        valid.int(),
        ranking.bound[chosen],
        ranking.bound_index[chosen],
        ranking.stale[chosen],
        need.int(),
        given.int(),
        residual.new_empty((P, T, B)),
        residual.new_empty((P, T)),
        place,
        gain,
        in_span,
        count,
        blocked,
        T,
        **window_constants(B),
    )
    place = place.long()
    was_made = torch.arange(T, device=device) < count[:, None]
    candidates.left.view(-1)[torch.where(was_made, position.gather(1, place), candidates.nowhere)] = False
    columns = residual.gather(2, place[:, None].expand(-1, residual.shape[1], -1))
    return _Picked(number, columns, index.gather(1, place), gain, in_span, count, blocked)


def _book(picked: _Picked, state: _State, indices: np.ndarray, gains: np.ndarray) -> None:
    """Write the picks down and extend the bases of the groups that owe more."""
    count, number, groups = picked.count.cpu().numpy().astype(np.int64), picked.number, state.groups
    T = int(count.max())
    made = np.arange(T) < count[:, None]
    at = ((groups.row + groups.made)[number, None] + np.arange(T))[made]
    indices[at] = picked.index[:, :T].cpu().numpy()[made]
    gains[at] = picked.gain[:, :T].cpu().numpy()[made]
    groups.add_picks(number, count, picked.blocked.cpu().numpy() != 0)
    used = made & (picked.in_span[:, :T].cpu().numpy() != 0) & (groups.owed[number] > 0)[:, None]
    if used.any():
        state.bases.put((groups.row + groups.rank)[number], picked.columns[:, :, :T], used)
        groups.add_rank(number, used.sum(1), picked.columns.shape[1])
