"""Class moments of samples that are spread over ranks, merged; and of candidates that are, put side by side.

The merge is an all-reduce with Chan's formula as its operator: every rank merges a slice of the candidates, in rank order,
and hands it to all. So it is deterministic, equal to ``moments_0 + moments_1 + ...`` bit by bit, and moves what an
all-reduce moves.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import torch

from nc_fast.distributed.ranks import Ranks
from nc_fast.inputs.arrays import like
from nc_fast.inputs.labels import LABEL_KINDS, join_labels, kind_of
from nc_fast.merging import chan_merge
from nc_fast.types import ClassMoments

DTYPE_BYTES = 16  # of a label dtype's name


def union_of_classes(ranks: Ranks, classes: np.ndarray | None) -> np.ndarray:
    """Return the sorted distinct labels of all ranks; None where a rank has no sample."""
    own = b"" if classes is None else classes.dtype.str.encode().ljust(DTYPE_BYTES) + np.ascontiguousarray(classes).tobytes()
    length = int(ranks.all_gather(torch.tensor(len(own)), "labels").max())
    sent = ranks.all_gather_numpy(np.frombuffer(json.dumps(len(own)).encode().ljust(DTYPE_BYTES) + own.ljust(length), np.uint8), "labels")
    found = [_parse(row.tobytes()) for row in sent]
    present = [labels for labels in found if labels is not None]
    if not present:
        raise ValueError("X: expected samples on at least one rank, got none")
    kinds = {rank: kind_of(labels) for rank, labels in enumerate(found) if labels is not None}
    first = min(kinds)
    for rank, kind in kinds.items():
        if kind != kinds[first]:
            raise ValueError(f"y: expected labels of one kind on every rank, {kinds[first]} as on rank {first}, got {kind} on rank {rank}")
    return np.unique(join_labels(present))


def merge_samples(ranks: Ranks, moments: ClassMoments) -> ClassMoments:
    """Return the moments of all ranks' samples, the same bits on every rank; all have the same classes."""
    C, M = moments.mean.shape
    P = ranks.size
    width = -(-M // P)  # candidates a rank merges; the last slice is filled up with zeros
    counts = ranks.all_gather(torch.as_tensor(moments.count), "moments")
    parts = ranks.all_to_all(_mean_and_m2(moments, P * width).reshape(2, C, P, width).movedim(2, 0), "moments")
    merged = (counts[0], parts[0, 0], parts[0, 1])
    for rank in range(1, P):
        merged = chan_merge(merged, (counts[rank], parts[rank, 0], parts[rank, 1]))
    whole = ranks.all_gather(torch.stack(merged[1:]), "moments").movedim(0, 2).reshape(2, C, P * width)[:, :, :M]
    return _like(moments, merged[0], whole)


def gather_candidates(ranks: Ranks, moments: ClassMoments, widths: Sequence[int]) -> ClassMoments:
    """Return the moments of all ranks' candidates, in rank order; ``widths`` are their numbers."""
    gathered = ranks.all_gather(_mean_and_m2(moments, max(widths)), "moments")
    return _like(moments, moments.count, torch.cat([part[:, :, :width] for part, width in zip(gathered, widths, strict=True)], 2))


def _mean_and_m2(moments: ClassMoments, width: int) -> torch.Tensor:
    """Return both as (2, C, width), filled up with zeros."""
    both = torch.stack([torch.as_tensor(moments.mean), torch.as_tensor(moments.m2)])
    return torch.nn.functional.pad(both, (0, width - moments.n_candidates))


def _like(template: ClassMoments, count: torch.Tensor, mean_and_m2: torch.Tensor) -> ClassMoments:
    mean, m2 = mean_and_m2
    return ClassMoments(template.classes, *(like(template.mean, array) for array in (count, mean.contiguous(), m2.contiguous())))


def _parse(sent: bytes) -> np.ndarray | None:
    length, sent = json.loads(sent[:DTYPE_BYTES]), sent[DTYPE_BYTES:]
    if not length:
        return None
    dtype = np.dtype(sent[:DTYPE_BYTES].decode().strip())
    assert dtype.kind in LABEL_KINDS
    return np.frombuffer(sent[DTYPE_BYTES:length], dtype)
