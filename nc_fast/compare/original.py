"""The published program's recipe, restated, defects included: what a comparison with it has to reproduce.

Mao et al., CIKM 2021; nothing of the authors' program is copied. Per layer: a pool of ``pool`` times the width, drawn as a
(D, M) array whose He scale takes M for the fan_in; scores of all samples, with bias 0, which is also installed; one share of the
picks per class; a greedy loop that masks no pick and multiplies negative scores by the ratio, so that a neuron may be picked
again. I(X;Z) alone scores the first layer, I(Z;Y) alone the others. The scores come from nc_fast, which is faster than the
original and equal to it where that is well defined.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

import nc_fast
from nc_fast.inputs.arrays import as_numpy

TINY = 1e-30  # keeps a vanished residual from dividing 0 by 0, as in the original


def initialize(model: nn.Sequential, X: Tensor, y: Tensor, pool: int) -> None:
    """Initialize the linear layers of a Sequential in place, drawing from torch's global generator."""
    labels = y.cpu().numpy()
    first = True
    for layer in model:
        if isinstance(layer, nn.Linear):
            W = nn.init.kaiming_normal_(X.new_empty(layer.in_features, pool * layer.out_features))
            is_last = layer is model[-1]
            moments = nc_fast.class_moments(W, X, labels, activation="identity" if is_last else "relu")
            scores = nc_fast.ib_scores(moments, alpha=1.0 if first else 0.0)
            picks = greedy(as_numpy(W), as_numpy(scores.score), as_numpy(scores.group), layer.out_features)
            layer.weight.copy_(W.T[torch.from_numpy(picks).to(W.device)])
            nn.init.zeros_(layer.bias)
            first = False
        X = layer(X)


def greedy(W: np.ndarray, score: np.ndarray, group: np.ndarray, k: int) -> np.ndarray:
    """Return the (k,) picks among the columns of W, group by group in order of picking; repeats are possible."""
    picks = []
    for g, quota in enumerate(nc_fast.share_quota(np.bincount(group), k)):
        members = np.flatnonzero(group == g)
        candidates = W[:, members]
        lengths = np.linalg.norm(candidates, axis=0)
        Q = np.zeros((len(W), 0), W.dtype)
        for _ in range(quota):
            projected = candidates - Q @ (Q.T @ candidates)
            norms = np.linalg.norm(projected, axis=0)
            best = int(np.argmax(score[members] * (norms / lengths)))
            picks.append(members[best])
            Q = np.column_stack([Q, projected[:, best] / max(norms[best], W.dtype.type(TINY))])
    return np.array(picks, np.int64)
