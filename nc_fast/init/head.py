"""The fitted head: the output layer by ridge regression on its inputs, as large as the loss asks for and its sharpness allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from nc_fast.heads import loo_predictions, ridge_head
from nc_fast.init.labels import SampleLabels
from nc_fast.init.layers.base import Layer
from nc_fast.init.objective import Answers, Objective, default_loss
from nc_fast.init.rows import draw_rows

SCALES = 2.0 ** np.arange(0, 5.1, 0.5)  # tried on the leave-one-out predictions of labels
FIRST_PRODUCTS, MORE_PRODUCTS = 3, 2  # of power iteration at the first scale; at every other one, from where the last ended
TRIALS = 5  # scales whose sharpness is measured, at most
AIM, NEAR_ENOUGH = 0.95, 0.8  # of the limit: what is tried, and what is not improved on
ADAPTIVE_LIMIT = 75.0  # sharper starts go further down at first, and are behind He's after two epochs of AdamW
SHARPEST = 40.0  # a rate below 0.05 gets no sharper start: one that was ten times too small a guess would then diverge
TOLERATED = 1.25  # times the least sharpness found, where that is above the limit
LEAST_SCALE = 1e-9  # tried, whatever the layers below make of the sharpness
STEEPEST, SHALLOWEST = 2.0, 0.5  # sharpness grows like a power of the scale between these; at first the steepest is expected
SIGMOID_SLOPE = 0.25  # at 0
HEAD_ROWS = 5000  # of the layer's samples: a few positions of every one, where there are many


@dataclass(frozen=True)
class FittedHead:
    """A head of scale 1, as it is installed.

    Attributes
    ----------
    layer : the output layer.
    weight, bias : (outputs, k) and (outputs,), of squared error.
    wanted : the scale of the least leave-one-out cross-entropy, or of the least loss that the user gave.
    ridge : the strength, see :func:`nc_fast.ridge_head`.
    explained : share of the targets' variance that leave-one-out predictions explain.
    """

    layer: Layer
    weight: Tensor
    bias: Tensor
    wanted: float
    ridge: float
    explained: float

    def install(self, scale: float) -> None:
        """Write weight and bias into the layer."""
        self.layer.install(scale * self.weight)
        if self.layer.trains_bias:
            self.layer.install_bias(scale * self.bias)


def fit_head(layer: Layer, samples: Iterable[tuple[Tensor, np.ndarray]], answers: Answers, before_sigmoid: bool = False) -> FittedHead:
    """Fit the output layer to what it reads, install it at scale 1 and return it.

    Float targets of a sigmoid's outputs are taken to its inputs, along its slope in the middle.

    Activations are not standardised: the weight of one that hardly varies would be large, and with it the sharpness.
    """
    X, labels = draw_rows(samples, HEAD_ROWS)
    n_outputs = len(layer.weight)
    T = answers.design(labels)
    if answers.targets is not None and before_sigmoid:
        T = (T - 0.5) / SIGMOID_SLOPE
    if answers.outputs is not None:
        columns = np.zeros((len(T), max(2, n_outputs)))
        columns[:, answers.outputs] = T
        T = columns[:, -n_outputs:]  # one output of two is the second's
    head = ridge_head(X, T, standardize=False)
    predictions = torch.from_numpy(loo_predictions(head)).to(X)
    bias, wanted = head.intercept, 1.0
    if answers.outputs is not None:
        middle = 1 / max(2, n_outputs)  # of one-hot targets; raw outputs are about 0
        predictions, bias = predictions - middle, bias - middle
        given = answers.of(SampleLabels(labels), predictions)
        if len(np.unique(labels)) > 1:  # one class alone asks for any scale
            wanted = _best_scale(lambda scale: float(default_loss(scale * predictions, given)))
    unexplained = head.loo_error / max(float(T.var(axis=0).sum()), np.finfo(float).tiny)
    fitted = FittedHead(layer, head.weights.T, bias, wanted, head.ridge, 1 - unexplained)
    fitted.install(1.0)
    if changes := layer.changes_of(fitted.weight):
        raise ValueError(f"{changes[0]}, so that it cannot be fitted; remove the parametrization, or use campaign_ with head='campaign'")
    return fitted


def scale_of_loss(head: FittedHead, objective: Objective) -> FittedHead:
    """Return the head with the scale that a user's loss asks for: one of the model's outputs, which may be other than the head's."""

    def loss(scale: float) -> float:
        head.install(scale)
        return objective.value()

    return replace(head, wanted=_best_scale(loss))


def _best_scale(loss: Callable[[float], float]) -> float:
    return float(SCALES[int(np.argmin([loss(scale) for scale in SCALES.tolist()]))])


def _next_scale(tried: list[tuple[float, float]], limit: float) -> float:
    """Return a scale whose sharpness should be near the limit, by a power law through two tried, on both sides of it if there are any."""
    flat = max((pair for pair in tried if pair[1] <= limit), default=None)
    steep = min((pair for pair in tried if pair[1] > limit and (flat is None or pair > flat)), default=None)
    (a, at_a), (b, at_b) = (flat, steep) if flat and steep else (tried[-2:] if len(tried) > 1 else (tried[-1], tried[-1]))
    if not at_b > 0:
        return math.inf
    growth = STEEPEST
    if a != b and at_a > 0:
        growth = min(max(math.log(at_b / at_a) / math.log(b / a), SHALLOWEST), STEEPEST)
    return max(float(b * (AIM * limit / at_b) ** (1 / growth)), LEAST_SCALE)


def sharpness_limit(lr: float | None) -> float:
    """Return what a start's sharpness is to stay below."""
    return ADAPTIVE_LIMIT if lr is None else min(2 / lr, SHARPEST)


def settle_scale(head: FittedHead, objective: Objective, lr: float | None) -> tuple[float, float]:
    """Install the head at the largest scale, up to the one wanted, whose sharpness the rate bears; return scale and sharpness.

    The search goes up from 1, for the loss is flat again at very large scales, where training would not stay. What the layers
    below make of the sharpness no scale takes away: where that is above the limit, a scale is taken that adds little to it.
    """
    limit = sharpness_limit(lr)
    scale, products, direction = 1.0, FIRST_PRODUCTS, objective.gradient()
    tried: list[tuple[float, float]] = []
    while True:
        head.install(scale)
        sharpness, direction = objective.sharpness(direction, products)
        if not math.isfinite(sharpness):
            raise ValueError(f"loss: expected one with finite second derivatives at the start, got a sharpness of {sharpness}")
        tried.append((scale, sharpness))
        if (sharpness <= limit and (scale == head.wanted or sharpness >= NEAR_ENOUGH * limit)) or len(tried) == TRIALS:
            break
        scale, products = min(head.wanted, _next_scale(tried, limit)), MORE_PRODUCTS
    bearable = max(limit, TOLERATED * min(sharpness for _, sharpness in tried))
    best = max(pair for pair in tried if pair[1] <= bearable)
    head.install(best[0])
    return best
