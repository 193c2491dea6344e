"""The kinds of layers: how an input becomes samples, and a weight becomes rows of neurons and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

PATCH_BYTES = 64 << 20  # of unfolded patches at a time
SETTLING_READS = 20  # of a parametrized weight in training mode; spectral_norm starts with 15 power iterations
ROOT = "model"  # the name of a layer that is the whole model
KNOWN_FORWARDS = tuple(kind.forward for kind in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention))
UNKNOWN_KINDS = (
    nn.Embedding,
    nn.EmbeddingBag,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.Bilinear,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


@dataclass(frozen=True)
class BatchAxis:
    """Where the samples are in a layer's input: which dimension, and how many consecutive rows belong to one sample."""

    dim: int
    rows: int


class Layer(ABC):
    """A weight that a campaign can fill: ``out`` neurons, each reading D features of the layer's input.

    Attributes
    ----------
    name : in the report and in the arguments ``layers``, ``activations``, ``candidates``.
    host : the module whose call brings the input.
    module, weight_name, bias_name : where weight and bias are.
    groups : output rows fall into this many blocks, each with input channels of its own.
    """

    kind: str
    groups = 1
    weight_name = "weight"
    bias_name = "bias"

    def __init__(self, name: str, host: nn.Module, module: nn.Module) -> None:
        self.name = name
        self.host = host
        self.module = module

    @abstractmethod
    def input(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Return the layer's input from the arguments of its host's call."""

    @property
    def weight(self) -> Tensor:
        """The weight as the forward pass uses it, (out, fan_in / groups, ...)."""
        return getattr(self.module, self.weight_name).detach()  # type: ignore[no-any-return]

    @property
    def bias(self) -> Tensor | None:
        """The bias (out,), or None."""
        bias = getattr(self.module, self.bias_name, None)
        return None if bias is None else bias.detach()

    @property
    def trains_bias(self) -> bool:
        """Whether there is a bias to set: it exists and is not frozen."""
        if parametrize.is_parametrized(self.module, self.bias_name):
            return any(original.requires_grad for original in _originals(self.module, self.bias_name))
        bias = getattr(self.module, self.bias_name, None)
        return bias is not None and bias.requires_grad

    def install(self, weight: Tensor) -> None:
        """Write the weight, (out, D), in place or through the parametrization."""
        self._write(self.weight_name, weight.reshape(self.weight.shape).to(self.weight.dtype))

    def install_bias(self, bias: Tensor) -> None:
        """Write the bias, (out,)."""
        self._write(self.bias_name, bias.to(self.weight.dtype))

    def _write(self, name: str, value: Tensor) -> None:
        if parametrize.is_parametrized(self.module, name):
            setattr(self.module, name, value.clone())
            _settle(self.module, name)
        else:
            getattr(self.module, name).copy_(value)

    def grid(self, x: Tensor) -> tuple[int, ...]:
        """Return how many neurons' positions an input has: () for a vector, tokens, or the output's spatial shape."""
        return tuple(x.shape[1:-1])

    def rows(self, x: Tensor, axis: BatchAxis, labels: np.ndarray, _group: int) -> Iterator[tuple[Tensor, np.ndarray]]:
        """Yield what a group's neurons read as samples (n, D) with their labels (n,), in blocks of bounded size."""
        x = x.movedim(axis.dim, 0)
        spread = spread_labels(labels, axis.rows, self.grid(x))
        yield x.reshape(-1, x.shape[-1]), spread.reshape(-1)

    def preactivation(self, x: Tensor, axis: BatchAxis, n: int) -> Tensor:
        """Return the output for the first n samples as (rows, out)."""
        x = x.movedim(axis.dim, 0)[: n * axis.rows]
        return functional.linear(x, self.weight.to(x.dtype), _cast(self.bias, x)).reshape(-1, len(self.weight))


class LinearLayer(Layer):
    """nn.Linear; every leading position (token) is a sample."""

    kind = "Linear"

    def input(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Return the one argument."""
        return _first(args, kwargs)


class ConvLayer(Layer):
    """nn.Conv1d, 2d, 3d; every patch the kernel sees is a sample with its image's label."""

    module: Any  # nn.Conv1d | nn.Conv2d | nn.Conv3d, whose common base torch keeps private

    def __init__(self, name: str, module: Any) -> None:
        super().__init__(name, module, module)
        self.kind = _kind(module)
        self.groups = module.groups

    def input(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Return the one argument."""
        return _first(args, kwargs)

    def grid(self, x: Tensor) -> tuple[int, ...]:
        """Return the spatial shape of the output."""
        m = self.module
        sides = zip(_padded_sides(m), x.shape[2:], m.kernel_size, m.dilation, m.stride, strict=True)
        return tuple((sum(pad) + side - dilation * (kernel - 1) - 1) // stride + 1 for pad, side, kernel, dilation, stride in sides)

    def rows(self, x: Tensor, axis: BatchAxis, labels: np.ndarray, group: int) -> Iterator[tuple[Tensor, np.ndarray]]:
        """Yield patches of a block of images at a time."""
        grid = self.grid(x)
        x = x.chunk(self.groups, 1)[group]
        spread = spread_labels(labels, axis.rows, grid).reshape(len(x), -1)
        bytes_per_image = prod(grid) * x.shape[1] * prod(self.module.kernel_size) * x.element_size()
        images = max(1, PATCH_BYTES // max(1, bytes_per_image))
        for first in range(0, len(x), images):
            block = slice(first, first + images)
            yield patches(self.module, x[block]), spread[block].reshape(-1)

    def preactivation(self, x: Tensor, axis: BatchAxis, n: int) -> Tensor:
        """Return the output for the first n images, positions as rows."""
        out = self.module._conv_forward(x[: n * axis.rows], self.weight.to(x.dtype), _cast(self.bias, x))
        return out.movedim(1, -1).reshape(-1, len(self.weight))  # type: ignore[no-any-return]


class ProjectionLayer(Layer):
    """One of the query, key and value projections of nn.MultiheadAttention, packed into one weight or separate."""

    host: nn.MultiheadAttention

    def __init__(self, name: str, host: nn.MultiheadAttention, which: int) -> None:
        super().__init__(f"{name}.{'qkv'[which]}" if name else "qkv"[which], host, host)
        self.kind = f"attention {'qkv'[which]}"
        self._which = which
        self._packed = host.in_proj_weight is not None
        self.weight_name = "in_proj_weight" if self._packed else f"{'qkv'[which]}_proj_weight"
        self.bias_name = "in_proj_bias"
        self._slice = slice(which * host.embed_dim, (which + 1) * host.embed_dim)

    def input(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Return query, key or value."""
        return args[self._which] if len(args) > self._which else kwargs[("query", "key", "value")[self._which]]  # type: ignore[no-any-return]

    @property
    def weight(self) -> Tensor:
        """The projection's part of the packed weight."""
        return super().weight[self._slice] if self._packed else super().weight

    @property
    def bias(self) -> Tensor | None:
        """The projection's part of the packed bias."""
        bias = super().bias
        return None if bias is None else bias[self._slice]

    def _write(self, name: str, value: Tensor) -> None:
        if self._packed or name == self.bias_name:
            whole = getattr(self.module, name).detach().clone()
            whole[self._slice] = value
            value = whole
        super()._write(name, value)


class AttentionOutput(Layer):
    """nn.MultiheadAttention's output projection; its samples are the concatenated heads."""

    kind = "attention out"
    host: nn.MultiheadAttention

    def __init__(self, name: str, host: nn.MultiheadAttention) -> None:
        super().__init__(f"{name}.out_proj" if name else "out_proj", host, host.out_proj)

    def input(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Return what the heads hand over: the attention's own output under an identity projection."""
        weight = self.weight
        identity = {"out_proj.weight": torch.eye(len(weight), dtype=weight.dtype, device=weight.device)}
        if self.bias is not None:
            identity["out_proj.bias"] = torch.zeros_like(self.bias)
        heads, _ = torch.func.functional_call(self.host, identity, args, kwargs)
        return heads  # type: ignore[no-any-return]


def patches(conv: Any, x: Tensor) -> Tensor:
    """Return every patch the convolution's kernel sees as a row: (images · positions, channels · kernel)."""
    padding = [side for pad in reversed(_padded_sides(conv)) for side in pad]
    x = functional.pad(x, padding, mode="constant" if conv.padding_mode == "zeros" else conv.padding_mode)
    n = len(conv.kernel_size)
    for axis, (kernel, stride, dilation) in enumerate(zip(conv.kernel_size, conv.stride, conv.dilation, strict=True)):
        x = x.unfold(2 + axis, dilation * (kernel - 1) + 1, stride)[..., ::dilation]
    # (B, C, *positions, *kernel) -> (B, *positions, C, *kernel)
    x = x.permute(0, *range(2, 2 + n), 1, *range(2 + n, 2 + 2 * n))
    return x.reshape(prod(x.shape[: 1 + n]), -1)


def spread_labels(labels: np.ndarray, rows: int, grid: tuple[int, ...]) -> np.ndarray:
    """Give every position of a sample its label: (B,) or (B, *some positions) -> (B · rows, *grid).

    Raises
    ------
    ValueError
        When labels for positions do not fit the positions there are.
    """
    positions = ((rows,) if rows > 1 else ()) + grid
    given = labels.shape[1:]
    if given != positions[: len(given)]:
        raise ValueError(f"labels for each of {given} positions do not fit an input with {positions}")
    spread = np.broadcast_to(labels.reshape(*labels.shape, *(1,) * (len(positions) - len(given))), (len(labels), *positions))
    return spread.reshape(len(labels) * rows, *grid)


def find(model: nn.Module) -> tuple[list[Layer], dict[str, tuple[str, str]]]:
    """Return the layers campaigns can fill, in the order of registration, and name -> (kind, reason) of those they cannot."""
    layers: list[Layer] = []
    unfit: dict[str, tuple[str, str]] = {}
    inside: set[nn.Module] = set()
    for name, module in model.named_modules():
        if module in inside:
            continue
        if isinstance(module, nn.MultiheadAttention):
            inside.update(module.modules())
            found: list[Layer] = [ProjectionLayer(name, module, which) for which in range(3)]
            found.append(AttentionOutput(name, module))
        elif isinstance(module, nn.Linear):
            found = [LinearLayer(name or ROOT, module, module)]
        elif isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            found = [ConvLayer(name or ROOT, module)]
        else:
            if isinstance(module, UNKNOWN_KINDS):
                unfit[name or ROOT] = (_kind(module), "campaigns know Linear, Conv1d, Conv2d, Conv3d and MultiheadAttention")
            continue
        layers += found
    return [layer for layer in layers if not _unfit(layer, model, unfit)], unfit


def _kind(module: nn.Module) -> str:
    return parametrize.type_before_parametrizations(module).__name__


def _unfit(layer: Layer, model: nn.Module, unfit: dict[str, tuple[str, str]]) -> bool:
    reason = _reason(layer, model)
    if reason:
        unfit[layer.name] = (layer.kind, reason)
    return reason is not None


def _reason(layer: Layer, model: nn.Module) -> str | None:
    module, name = layer.module, layer.weight_name
    if type(layer.host).forward not in KNOWN_FORWARDS:
        return f"{_kind(layer.host)} has a forward of its own"
    if parametrize.is_parametrized(module, name):
        originals = _originals(module, name)
        if not all(hasattr(step, "right_inverse") for step in module.parametrizations[name]):  # type: ignore[index]
            return "its parametrization has no right_inverse, so that a weight cannot be set"
    elif isinstance(getattr(module, name), nn.Parameter):
        originals = [getattr(module, name)]
    else:
        return "its weight is computed by a hook; torch.nn.utils.parametrizations has the forms whose weight can be set"
    if not layer.weight.dtype.is_floating_point:
        return f"its weight is {layer.weight.dtype}"
    if not any(parameter.requires_grad for parameter in originals):
        return "frozen (requires_grad is False)"
    owners = [path for path, parameter in model.named_parameters(remove_duplicate=False) if parameter is originals[0]]
    if len({path.rpartition(".")[0] for path in owners}) > 1:
        return f"its weight is shared: {', '.join(owners)}"
    return None


def _settle(module: nn.Module, name: str) -> None:
    """Let a parametrization that estimates something of its weight (spectral_norm) do so for the new one."""
    parts = list(module.parametrizations[name].modules())  # type: ignore[index, union-attr]
    for training in (True, False):
        for part in parts:
            part.training = training
        for _ in range(SETTLING_READS if training else 0):
            getattr(module, name)


def _originals(module: nn.Module, name: str) -> list[nn.Parameter]:
    """Return the parameters behind a parametrized tensor, leaving out those of the parametrizations themselves."""
    steps: Any = module.parametrizations[name]  # type: ignore[index]
    return [parameter for path, parameter in steps.named_parameters(recurse=False) if path.startswith("original")]


def _padded_sides(conv: Any) -> list[tuple[int, int]]:
    if conv.padding == "same":
        totals = [dilation * (kernel - 1) for kernel, dilation in zip(conv.kernel_size, conv.dilation, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    if conv.padding == "valid":
        return [(0, 0)] * len(conv.kernel_size)
    return [(side, side) for side in conv.padding]


def _cast(bias: Tensor | None, x: Tensor) -> Tensor | None:
    return None if bias is None else bias.to(x.dtype)


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return args[0] if args else kwargs["input"]  # type: ignore[no-any-return]
