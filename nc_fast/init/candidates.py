"""The candidates a layer's neurons are picked from: fresh draws of an init function, or given weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nc_fast.candidates import data_pairs
from nc_fast.init.layers.base import Layer
from nc_fast.init.objective import Answers
from nc_fast.inputs import checks

DATA_PAIRS = "data_pairs"  # the base that is no function of a tensor: nc_fast.candidates.data_pairs
InitFunction = Callable[[Tensor], Any]  # fills a tensor of the layer's own weight shape in place, or returns one


@dataclass(frozen=True)
class LayerPool:
    """Candidate neurons of a layer.

    Attributes
    ----------
    weight : (M, D)
    bias : (M,), their own, which are kept; or None
    members : (groups, M / groups), the row numbers open to each of the layer's groups
    """

    weight: Tensor
    bias: Tensor | None
    members: Tensor


@dataclass(frozen=True)
class GivenCandidates:
    """Candidates the user brings for a layer: weight (M, ...), and optionally bias (M,)."""

    weight: Tensor
    bias: Tensor | None


def init_functions() -> dict[str, InitFunction]:
    """Return the functions of torch.nn.init that need only a tensor, by name without the underscore."""
    functions: dict[str, InitFunction] = {}
    for name, function in vars(nn.init).items():
        if name.endswith("_") and not name.startswith("_") and inspect.isfunction(function):
            parameters = list(inspect.signature(function).parameters.values())
            if all(parameter.default is not parameter.empty for parameter in parameters[1:]):
                functions[name.removesuffix("_")] = function
    return functions


def draw_pool(layer: Layer, function: InitFunction, pool: int, gain: float) -> LayerPool:
    """Draw the layer's weight ``pool`` times, so that fan_in and fan_out are the layer's own."""
    like = layer.weight
    # NaN, so that a function that fills nothing is found out.
    draws = torch.full((pool, *like.shape), torch.nan, dtype=compute_dtype(like), device=like.device)
    for draw in draws:
        result = function(draw)
        if isinstance(result, Tensor) and result is not draw:
            draw.copy_(result)
    draws *= gain
    rows = torch.arange(pool * len(like), device=like.device)
    members = rows.reshape(pool, layer.groups, -1).movedim(1, 0).reshape(layer.groups, -1)
    return LayerPool(draws.reshape(len(rows), -1), None, members)


def inverse(spread: Tensor) -> Tensor:
    """Return what gives candidates of these standard deviations one of 1; 1 for constant ones."""
    return torch.where(spread > 0, 1 / spread.clamp(min=torch.finfo(spread.dtype).tiny), torch.ones_like(spread))


def pairs_pool(layer: Layer, pool: int, gain: float, rows: Sequence[tuple[Tensor, np.ndarray]], answers: Answers) -> LayerPool:
    """Draw differences of the layer's samples (rows of each of its groups) that differ in class, or by their targets' distance.

    Each is as long as gives its pre-activation the standard deviation that He's draws have on average. Where the samples are all the
    same, as behind a branch that starts at zero, they are He's draws.
    """
    like = layer.weight
    size = pool * len(like) // layer.groups
    parts = []
    for X, labels in rows:
        if bool((X[:1] == X).all()):
            parts.append(torch.randn(size, X.shape[1], dtype=X.dtype, device=like.device) * (gain * (2 / X.shape[1]) ** 0.5))
            continue
        y = labels if answers.targets is None else answers.design(labels)
        W = torch.as_tensor(data_pairs(X, y, size, int(torch.randint(2**31, ())), ignore_index=None)[0]).to(like.device)
        X = X.to(like.device) - X.mean(dim=0).to(like.device)
        wanted = gain * (2 * X.square().mean()).sqrt()  # sqrt(2 / D) of the root of the features' summed variances
        parts.append((W * (wanted * inverse((X @ W).std(dim=0, correction=0)))).T)
    members = torch.arange(size * layer.groups, device=like.device).reshape(layer.groups, -1)
    return LayerPool(torch.cat(parts), None, members)


def given_pool(layer: Layer, candidates: GivenCandidates, gain: float) -> LayerPool:
    """Return given weights as a pool; with groups, each group's share of consecutive rows."""
    like = layer.weight
    weight = candidates.weight.to(like.device, compute_dtype(like)).reshape(len(candidates.weight), -1) * gain
    bias = None if candidates.bias is None else candidates.bias.to(like.device, compute_dtype(like)) * gain
    return LayerPool(weight, bias, torch.arange(len(weight), device=like.device).reshape(layer.groups, -1))


def check_given(layer: Layer, value: Any) -> GivenCandidates:
    """Check what the user brings for a layer."""
    name = f"candidates[{layer.name!r}]"
    weight, bias = value if isinstance(value, (tuple, list)) and len(value) == 2 else (value, None)
    shape = tuple(layer.weight.shape)
    expected = f"a tensor (M, {', '.join(map(str, shape[1:]))})"
    if not isinstance(weight, Tensor) or not (bias is None or isinstance(bias, Tensor)):
        raise TypeError(f"{name}: expected {expected}, or a pair of it and biases (M,), got {type(value).__name__}")
    if not weight.is_floating_point():
        raise TypeError(f"{name}: expected floating numbers, got {weight.dtype}")
    if bias is not None and not (bias.is_floating_point() or checks.is_integer(bias)):
        raise TypeError(f"{name} bias: expected numbers, got {bias.dtype}")
    if tuple(weight.shape[1:]) != shape[1:]:
        raise ValueError(f"{name}: expected {expected}, got shape {tuple(weight.shape)}")
    if len(weight) < shape[0]:
        raise ValueError(f"{name}: expected at least {shape[0]} rows, the layer's neurons, got {len(weight)}")
    if len(weight) % layer.groups:
        raise ValueError(f"{name}: expected rows in {layer.groups} equal groups, got {len(weight)}")
    if bias is not None and tuple(bias.shape) != (len(weight),):
        raise ValueError(f"{name}: expected biases of shape (M,) = ({len(weight)},), got {tuple(bias.shape)}")
    for part, tensor in ((name, weight), (f"{name} bias", bias)):
        if tensor is not None:
            if tensor.layout != torch.strided or tensor.is_meta:
                raise TypeError(f"{part}: expected a dense tensor with values, got layout {tensor.layout} on {tensor.device}")
            checks.finite(part, tensor.detach())
    return GivenCandidates(weight.detach(), None if bias is None else bias.detach())


def compute_dtype(weight: Tensor) -> torch.dtype:
    """Return the dtype candidates are drawn and scored in: float64 for float64 weights, float32 for all others."""
    return torch.float64 if weight.dtype == torch.float64 else torch.float32
