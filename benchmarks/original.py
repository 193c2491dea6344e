"""The authors' algorithm restated in the project's own words, in NumPy and in torch: what nc_fast is measured against.

It restates, from the description in docs/algorithm.md and from recorded results, the PyTorch program published with Mao
et al., "Neuron Campaign for Initialization Guided by Information Bottleneck Theory", CIKM 2021 (arXiv 2108.06530). No line
of that program is copied. float32 throughout, as the original:

1. the activations of the whole pool, (N, M), are formed and kept;
2. mean and standard deviation of every class by grouping the samples: a scatter-add in torch, a loop over classes in NumPy;
3. unit-norm spread, between- and within-class deviation, and from them the scores; the class of highest mean is the group;
4. k shared over the groups;
5. in each group a greedy loop that, per pick, projects *all* candidates of the group, takes argmax of score * ratio, and
   extends the span. The picked are not masked, negative scores not treated apart: the original's defects are kept.

What is not known of the original is how it projects. Two forms are here, both natural, with the same picks:
"matrix" holds the (D, D) projector P, updated by rank one, and forms P @ W; "basis" holds an orthonormal basis Q of the span and
forms W - Q (Q^T W), fewer operations as long as a group has fewer than D / 2 picks. Benchmarks time both and name both.

``alpha`` is nc_fast's (the weight of I(X;Z)); the original's is 1 - alpha. Labels are class numbers 0, 1, ...; as in the original,
a number that does not occur counts as a class with mean 0. The torch functions run where their tensors live.
"""

from __future__ import annotations

import numpy as np
import torch

from nc_fast import share_quota

PROJECTIONS = ("matrix", "basis")
TINY = 1e-30  # keeps a vanished residual from dividing 0 by 0 in float32
NUMPY_ACTIVATIONS = {
    "identity": lambda z: z,
    "relu": lambda z: np.maximum(z, 0),
    "tanh": np.tanh,
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
}
TORCH_ACTIVATIONS = {"identity": lambda z: z, "relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}


def campaign_numpy(W, X, y, k, alpha=0.5, bias=0.0, activation="relu", projection="matrix"):
    """Return the (k,) picks: columns of W, group by group in order of picking; repeats are possible, as in the original."""
    scores, groups = moments_scores_numpy(W, X, y, alpha, bias, activation)
    return select_numpy(W, scores, groups, k, projection)


def moments_scores_numpy(W, X, y, alpha=0.5, bias=0.0, activation="relu"):
    """Return score (M,) float32 and group (M,) int64 of every candidate."""
    z = NUMPY_ACTIVATIONS[activation](X.astype(np.float32, copy=False) @ W + np.float32(bias))  # (N, M)
    n_classes = int(y.max()) + 1
    mean, std = np.zeros((2, n_classes, W.shape[1]), np.float32)
    for c in range(n_classes):
        own = z[y == c]
        if len(own):
            mean[c] = own.mean(axis=0)
            std[c] = own.std(axis=0, ddof=1) if len(own) > 1 else 0
    input_information = _unit_numpy(z.std(axis=0, ddof=1))
    label_information = _unit_numpy(_unit_numpy(mean.std(axis=0, ddof=1)) - _unit_numpy(std.mean(axis=0)))
    return alpha * input_information + (1 - alpha) * label_information, mean.argmax(axis=0)


def select_numpy(W, scores, groups, k, projection="matrix"):
    """Return the (k,) picks of the greedy loop."""
    picks = []
    for group, quota in enumerate(share_quota(np.bincount(groups), k)):
        members = np.flatnonzero(groups == group)
        candidates, score = W[:, members], scores[members]
        lengths = np.linalg.norm(candidates, axis=0)
        P = np.eye(len(W), dtype=W.dtype)
        Q = np.zeros((len(W), 0), W.dtype)
        for _ in range(quota):
            projected = P @ candidates if projection == "matrix" else candidates - Q @ (Q.T @ candidates)
            ratio = np.linalg.norm(projected, axis=0) / lengths
            best = np.argmax(score * ratio)
            picks.append(members[best])
            q = projected[:, best] / max(np.linalg.norm(projected[:, best]), TINY)
            if projection == "matrix":
                P -= np.outer(q, q)
            else:
                Q = np.column_stack([Q, q])
    return np.array(picks, dtype=np.int64)


def campaign_torch(W, X, y, k, alpha=0.5, bias=0.0, activation="relu", projection="matrix"):
    """Return the (k,) picks as a tensor on the device of W."""
    scores, groups = moments_scores_torch(W, X, y, alpha, bias, activation)
    return select_torch(W, scores, groups, k, projection)


def moments_scores_torch(W, X, y, alpha=0.5, bias=0.0, activation="relu"):
    """Return score (M,) float32 and group (M,) int64 of every candidate, as tensors on the device of W."""
    z = TORCH_ACTIVATIONS[activation](X.to(torch.float32) @ W + bias)  # (N, M)
    n_classes = int(y.max()) + 1
    count = torch.bincount(y, minlength=n_classes).to(z.dtype)[:, None]
    label = y[:, None].expand_as(z)
    mean = torch.zeros(n_classes, z.shape[1], device=z.device).scatter_add_(0, label, z) / count.clamp(min=1)
    squares = (z - mean.gather(0, label)) ** 2
    std = (torch.zeros_like(mean).scatter_add_(0, label, squares) / (count - 1).clamp(min=1)).sqrt()
    input_information = _unit_torch(z.std(0))
    label_information = _unit_torch(_unit_torch(mean.std(0)) - _unit_torch(std.mean(0)))
    return alpha * input_information + (1 - alpha) * label_information, mean.argmax(0)


def select_torch(W, scores, groups, k, projection="matrix"):
    """Return the (k,) picks of the greedy loop, as a tensor on the device of W."""
    picks = []
    for group, quota in enumerate(share_quota(torch.bincount(groups).cpu().numpy(), k)):
        members = torch.nonzero(groups == group)[:, 0]
        candidates, score = W[:, members], scores[members]
        lengths = candidates.norm(dim=0)
        P = torch.eye(len(W), dtype=W.dtype, device=W.device)
        Q = W.new_zeros(len(W), 0)
        for _ in range(quota):
            projected = P @ candidates if projection == "matrix" else candidates - Q @ (Q.T @ candidates)
            ratio = projected.norm(dim=0) / lengths
            best = torch.argmax(score * ratio)
            picks.append(members[best])
            q = projected[:, best] / projected[:, best].norm().clamp(min=TINY)
            if projection == "matrix":
                P -= torch.outer(q, q)
            else:
                Q = torch.column_stack([Q, q])
    return torch.stack(picks)


def _unit_numpy(v):
    return v / max(np.linalg.norm(v), TINY)


def _unit_torch(v):
    return v / v.norm().clamp(min=TINY)
