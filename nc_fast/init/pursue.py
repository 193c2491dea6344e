"""A pursuit for one group of a layer's neurons: those whose activations together explain the labels or targets best."""

from __future__ import annotations

from torch import Tensor

from nc_fast.init.candidates import inverse
from nc_fast.init.objective import Answers
from nc_fast.init.pick import GroupPicks, PickRules, SampleBlocks, compute_device
from nc_fast.init.rows import draw_rows
from nc_fast.inputs.arrays import as_numpy
from nc_fast.picks import filled
from nc_fast.stages.moments import CandidatePool

PURSUED = 1 << 26  # samples times candidates times picks, that a pursuit is given time for
LEAST_ROWS = 500  # samples
PICKS = 128  # at most: more explain the rows at hand, and gain nothing; other neurons are the first of the pool
BLOCK = 16  # picks made between looks at all candidates: half the time of exact picks at these sizes, and as good


def pursue_neurons(weight: Tensor, bias: Tensor, samples: SampleBlocks, k: int, rules: PickRules, answers: Answers) -> GroupPicks:
    """Pick k of the candidates, the rows of ``weight`` (M, D), which will be installed with ``bias`` (M,)."""
    device = compute_device(weight)
    count = min(k, PICKS)
    X, labels = draw_rows(samples(), max(LEAST_ROWS, PURSUED // (len(weight) * count)))
    X, W, b = X.to(device), weight.to(device).T, bias.to(device)
    if rules.activation.normalized:
        scale = inverse((X @ W).std(dim=0, correction=0))
        W, b = W * scale, b * scale
    T = answers.design(labels)
    pool = CandidatePool.checked("W", W, b, rules.activation.function, "auto", "auto")
    picks = pool.pursue(X, T - T.mean(axis=0), count, block=BLOCK)
    return GroupPicks(filled(as_numpy(picks.indices), k), float(as_numpy(picks.explained)[-1]), None, k - picks.filled, None)
