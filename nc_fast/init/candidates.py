"""The pool a layer's neurons are picked from: fresh draws of an init function, or given weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nc_fast.init.layers import Layer
from nc_fast.inputs import checks

Base = Callable[[Tensor], Any]  # fills a tensor of the layer's own weight shape in place


@dataclass(frozen=True)
class Pool:
    """Candidate neurons of a layer: weight (M, D), own biases (M,) if they have any, and the rows open to each group."""

    weight: Tensor
    bias: Tensor | None
    members: tuple[Tensor | slice, ...]


@dataclass(frozen=True)
class Given:
    """Candidates the user brings for a layer: weight (wider out, ...), and optionally bias (wider out,)."""

    weight: Tensor
    bias: Tensor | None


def base_functions() -> dict[str, Base]:
    """Return the functions of torch.nn.init that need only a tensor, by name without the underscore."""
    found: dict[str, Base] = {}
    for name, function in vars(nn.init).items():
        if name.endswith("_") and not name.startswith("_") and inspect.isfunction(function):
            parameters = list(inspect.signature(function).parameters.values())
            if all(parameter.default is not parameter.empty for parameter in parameters[1:]):
                found[name.removesuffix("_")] = function
    return found


def compute_dtype(weight: Tensor) -> torch.dtype:
    """Return the dtype candidates are drawn and scored in: float64 for float64 weights, float32 for all others."""
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


def drawn(layer: Layer, base: Base, pool: int, gain: float) -> Pool:
    """Draw the layer's weight ``pool`` times, so that fan_in and fan_out are the layer's own."""
    like = layer.weight
    draws = torch.empty((pool, *like.shape), dtype=compute_dtype(like), device=like.device)
    for draw in draws:
        result = base(draw)
        if isinstance(result, Tensor) and result is not draw:
            draw.copy_(result)
    if gain != 1:
        draws *= gain
    numbers = torch.arange(pool * len(like), device=like.device).reshape(pool, layer.groups, -1)
    return Pool(draws.reshape(pool * len(like), -1), None, _members(layer, [numbers[:, group].flatten() for group in range(layer.groups)]))


def given(layer: Layer, candidates: Given, gain: float) -> Pool:
    """Return given weights as a pool; with groups, each group's share of consecutive rows."""
    like = layer.weight
    weight = candidates.weight.to(like.device, compute_dtype(like)).reshape(len(candidates.weight), -1)
    bias = None if candidates.bias is None else candidates.bias.to(like.device, compute_dtype(like))
    numbers = torch.arange(len(weight), device=like.device).reshape(layer.groups, -1)
    if gain != 1:
        weight, bias = weight * gain, None if bias is None else bias * gain
    return Pool(weight, bias, _members(layer, list(numbers)))


def check_given(layer: Layer, value: Any) -> Given:
    """Check what the user brings for a layer."""
    name = f"candidates[{layer.name!r}]"
    weight, bias = value if isinstance(value, (tuple, list)) and len(value) == 2 else (value, None)
    shape = tuple(layer.weight.shape)
    expected = f"a tensor (M, {', '.join(map(str, shape[1:]))})"
    if not isinstance(weight, Tensor) or not (bias is None or isinstance(bias, Tensor)):
        raise TypeError(f"{name}: expected {expected}, or a pair of it and biases (M,), got {type(value).__name__}")
    if not weight.is_floating_point():
        raise TypeError(f"{name}: expected floating numbers, got {weight.dtype}")
    if tuple(weight.shape[1:]) != shape[1:]:
        raise ValueError(f"{name}: expected {expected}, got shape {tuple(weight.shape)}")
    if len(weight) < shape[0]:
        raise ValueError(f"{name}: expected at least {shape[0]} rows, the layer's neurons, got {len(weight)}")
    if len(weight) % layer.groups:
        raise ValueError(f"{name}: expected rows in {layer.groups} equal groups, got {len(weight)}")
    if bias is not None and tuple(bias.shape) != (len(weight),):
        raise ValueError(f"{name}: expected biases of shape (M,) = ({len(weight)},), got {tuple(bias.shape)}")
    for part, tensor in (("", weight), (" bias", bias)):
        if tensor is not None:
            checks.finite(name + part, tensor.detach())
    return Given(weight.detach(), None if bias is None else bias.detach())


def _members(layer: Layer, rows: list[Tensor]) -> tuple[Tensor | slice, ...]:
    return (slice(None),) if layer.groups == 1 else tuple(rows)
