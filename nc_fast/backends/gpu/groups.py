"""The candidates of a selection, laid out in tiles of one group each, and what the host knows of the groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

LARGEST_TILE = 4096  # candidates


@dataclass(frozen=True, eq=False)
class Candidates:
    """Those that compete, in n tiles of S places: groups in order, ascending inside, tiles of a group one after the other.

    A candidate's *position* is its place in the tiles, counted from the first. Places past a group's last candidate are empty,
    as is the whole of tile n: what must go nowhere is written to its first place, ``nowhere``.
    """

    W: torch.Tensor  # (D, M) floating, all candidates
    index: torch.Tensor  # (n + 1, S) int64, column of W
    group: torch.Tensor  # (n + 1,) int64
    score: torch.Tensor  # (n + 1, S) float64
    scale: torch.Tensor  # (n + 1, S) float64, makes the largest entry of a column 1: squares neither over- nor underflow
    length: torch.Tensor  # (n + 1, S) float64, of the column so scaled; 1 where it is all zeros
    alone: torch.Tensor  # (n + 1, S) float64, the ratio outside an empty span: 0 where the column is all zeros, else 1
    left: torch.Tensor  # (n + 1, S) bool, whether there is a candidate, not picked yet; updated in place
    turn: torch.Tensor | None  # (n + 1, S) float64, of the given: higher is earlier; 0 of all others; None where none are given

    @property
    def nowhere(self) -> int:
        """The position that stands for none."""
        return self.index.numel() - self.index.shape[1]

    def scaled(self, index: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Return (n, D, S) float64, the scaled columns of (n, S) candidates."""
        columns: torch.Tensor = self.W[:, index.view(-1)] * scale.view(-1)
        return columns.view(-1, *index.shape).transpose(0, 1)

    def most(self, value: torch.Tensor, groups: int) -> torch.Tensor:
        """Return (groups,), the highest of the (n + 1, S) values of each group that has any."""
        highest = value.amax(1)  # by tile first: one atomic maximum a candidate would wait for the others
        return highest[-1:].expand(groups).scatter_reduce(0, self.group, highest, "amax")


@dataclass(eq=False)
class Groups:
    """What the host knows of the G groups; updated in place."""

    of_tile: np.ndarray  # (n,) int64, each tile's group
    size: np.ndarray  # (G,) int64, candidates
    row: np.ndarray  # (G,) int64, where its picks and its basis begin: quotas of the groups before
    owed: np.ndarray  # (G,) int64, picks still to be made
    given: np.ndarray  # (G,) int64, how many of its picks, the first ones, are given
    made: np.ndarray  # (G,) int64, picks made
    rank: np.ndarray  # (G,) int64, vectors in its basis
    new: np.ndarray  # (G,) int64, how many of them the last round added
    explicit: np.ndarray  # (G,) bool, whether its ratios are to be explicit: bounds kept it from picking, or its basis is complete

    @property
    def prescribed(self) -> np.ndarray:
        """Given candidates not picked yet, (G,) int64."""
        prescribed: np.ndarray = np.maximum(self.given - self.made, 0)
        return prescribed

    @property
    def left(self) -> np.ndarray:
        """Candidates not picked yet, (G,) int64."""
        left: np.ndarray = self.size - self.made
        return left

    def begin_booking(self, emptied: np.ndarray) -> None:
        """Note whose spans were emptied, (G,) bool."""
        self.rank[emptied] = self.new[:] = 0
        self.explicit[emptied] = False

    def add_picks(self, number: np.ndarray, count: np.ndarray, blocked: np.ndarray) -> None:
        """Note how many picks some groups made; one that was ``blocked``, (P,) bool, will be again: its ratios stay explicit."""
        self.owed[number] -= count
        self.made[number] += count
        self.explicit[number] |= blocked | (count == 0)

    def add_rank(self, number: np.ndarray, count: np.ndarray, D: int) -> None:
        """Note by how many vectors their bases of (D,) vectors grew."""
        self.rank[number] += count
        self.new[number] = count
        self.explicit[number] |= self.rank[number] >= D


def lay_out(
    W: torch.Tensor, score: torch.Tensor, group: torch.Tensor, quota: np.ndarray, given: torch.Tensor | None = None
) -> tuple[Candidates, Groups]:
    """Sort the candidates by group into tiles; leave out those of none."""
    ends = torch.bincount(group + 1, minlength=len(quota) + 1).cumsum(0).cpu().numpy()
    size = np.diff(ends)
    S = tile_size(size)
    pieces = -(-size // S)
    of_tile = np.repeat(np.arange(len(quota)), pieces)
    first = ends[of_tile] + S * (np.arange(len(of_tile)) - np.repeat(pieces.cumsum() - pieces, pieces))
    table = send(np.pad(np.stack([of_tile, first, ends[of_tile + 1]]), ((0, 0), (0, 1))), W.device)
    at = table[1][:, None] + torch.arange(S, device=W.device)
    there = at < table[2][:, None]
    index = torch.argsort(group, stable=True)[torch.where(there, at, 0)]
    scale = 1 / torch.linalg.vector_norm(W, torch.inf, dim=0).double().clamp(min=torch.finfo(torch.float64).tiny)
    length = _lengths(W, scale)[index]
    alone = (there & (length > 0)).double()
    first_picks, made, rank, new = np.zeros((4, len(quota)), np.int64)
    turn = None
    if given is not None and len(given):
        turn = torch.zeros_like(scale)
        turn[given] = torch.arange(len(given), 0, -1, dtype=turn.dtype, device=W.device)
        turn = turn[index]
        first_picks = torch.bincount(group[given], minlength=len(quota)).cpu().numpy()
    candidates = Candidates(W, index, table[0], score[index], scale[index], torch.where(length > 0, length, 1.0), alone, there, turn)
    row = quota.cumsum() - quota
    return candidates, Groups(of_tile, size, row, quota.copy(), first_picks, made, rank, new, explicit=rank > 0)


def send(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Return the array on the device, without waiting for what was enqueued before: CUDA stages pageable memory at once."""
    return torch.from_numpy(array).to(device, non_blocking=True)


def tile_size(size: np.ndarray) -> int:
    """Return S: at most the mean size of a group, so that there are fewer empty places than candidates."""
    mean = max(int(size.sum()) // max(len(size), 1), 1)
    return -(-mean // -(-mean // LARGEST_TILE))


def _lengths(W: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return (M,) float64, the lengths of the scaled columns, a block at a time."""
    step = max((64 << 20) // (8 * len(W)), 1)
    blocks = [slice(first, first + step) for first in range(0, len(scale), step)]
    return torch.cat([torch.linalg.vector_norm(W[:, block] * scale[block], dim=0) for block in blocks])
