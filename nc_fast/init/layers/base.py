"""What every kind of layer has: a weight and a bias to read and install, and inputs that become labelled samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from nc_fast.init.labels import Grids, SampleLabels

CHANGED, TINY = 1e-3, 1e-30  # a parametrization that moves a weight by more, relatively, is reported
HELD_BYTES, LEAST_PATCHES = 48 << 20, 5000  # of a convolution: wide ones look at fewer patches, not at fewer than these
SAME_NUMBERS = 0.3  # times the square root of the dtype's eps, relatively: 1e-4 in float32
SETTLING_READS = 20  # of a parametrized weight in training mode; spectral_norm starts with 15 power iterations

CallArguments = tuple[tuple[Any, ...], dict[str, Any]]  # what a module is called with: positional and keyword


@dataclass(frozen=True)
class BatchAxis:
    """Where the samples are in a layer's input: which dimension, how many consecutive rows belong to one, which labels to its positions."""

    dim: int
    rows: int
    grids: Grids = field(default_factory=dict)


@dataclass(frozen=True)
class PatchDraw:
    """How many patches a convolution looks at.

    Attributes
    ----------
    most : of all samples.
    samples : how many there are.
    seed : they are drawn with.
    """

    most: int
    samples: int
    seed: int

    def of(self, n: int, patch_bytes: int) -> int:
        """Return how many of n of the samples, of so many bytes each: they are held."""
        return max(1, min(self.most, max(LEAST_PATCHES, HELD_BYTES // patch_bytes)) * n // self.samples)


class Layer(ABC):
    """A weight that a campaign can fill: ``out`` neurons, each reading D features of the layer's input.

    Attributes
    ----------
    name : in the report and in the arguments ``layers``, ``activations``, ``candidates``.
    host : the module whose call brings the input.
    module, weight_name, bias_name : where weight and bias are.
    groups : output rows fall into this many blocks, each with input channels of its own.
    own_forward : whether the module's class has a forward of its own, so that :meth:`computes` has to tell.
    """

    kind: str
    groups = 1
    own_forward = False
    weight_name = "weight"
    bias_name = "bias"

    def __init__(self, name: str, host: nn.Module, module: nn.Module) -> None:
        self.name = name
        self.host = host
        self.module = module

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
        return any(parameter.requires_grad for parameter in parameters_behind(self.module, self.bias_name))

    def install(self, weight: Tensor) -> None:
        """Write the weight, (out, D), in place or through the parametrization."""
        self._write(self.weight_name, weight.reshape(self.weight.shape).to(self.weight.dtype))

    def changes_of(self, wanted: Tensor) -> tuple[str, ...]:
        """Return a note where a parametrization made something else of a weight (out, D) that was installed."""
        moved = float((self.weight.reshape(wanted.shape).to(wanted.dtype) - wanted).norm() / wanted.norm().clamp(min=TINY))
        tolerance = max(CHANGED, 4 * torch.finfo(self.weight.dtype).eps)
        return (f"its parametrization changed the weights by {moved:.0%}",) if moved > tolerance else ()

    def install_bias(self, bias: Tensor) -> None:
        """Write the bias, (out,)."""
        self._write(self.bias_name, bias.to(self.weight.dtype))

    def _write(self, name: str, value: Tensor) -> None:
        if parametrize.is_parametrized(self.module, name):
            setattr(self.module, name, value.clone())
            _settle(self.module, name)
        else:
            getattr(self.module, name).copy_(value)

    def input(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Return the layer's input from the arguments of its host's call: the first one, unless the kind says otherwise."""
        return args[0] if args else kwargs["input"]  # type: ignore[no-any-return]

    @abstractmethod
    def rows(self, x: Tensor, axis: BatchAxis, labels: SampleLabels, group: int, draw: PatchDraw) -> Iterator[tuple[Tensor, np.ndarray]]:
        """Yield what a group's neurons read as samples (n, D) with their labels (n,), in blocks of bounded size."""

    @abstractmethod
    def preactivation(self, x: Tensor, axis: BatchAxis, labels: SampleLabels) -> Tensor:
        """Return the output for the first samples of an input, those that the labels are of, as (rows, out); positions that count."""

    @abstractmethod
    def computes(self, x: Tensor, output: Tensor) -> bool:
        """Whether the module made ``output`` of an input by its weight and bias, and by nothing else."""

    def _weight_and_bias_like(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype)


def rows_that_count(X: Tensor, labels: tuple[np.ndarray, np.ndarray | None]) -> tuple[Tensor, np.ndarray]:
    """Return rows (n, D) and their labels as they were spread, without those that do not count."""
    y, counted = labels[0].reshape(-1), labels[1]
    if counted is None:
        return X, y
    rows = np.flatnonzero(counted)
    return X[torch.from_numpy(rows).to(X.device)], y[rows]


def same_numbers(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal but for rounding."""
    if a.shape != b.shape:
        return False
    tolerance = SAME_NUMBERS * torch.finfo(b.dtype).eps ** 0.5
    return torch.allclose(a.float(), b.float(), rtol=tolerance, atol=tolerance * float(b.float().abs().mean()))


def kind_of(module: nn.Module) -> str:
    """Return the name of a module's class."""
    return parametrize.type_before_parametrizations(module).__name__


def parameters_behind(module: nn.Module, name: str) -> list[nn.Parameter]:
    """Return the parameters a weight or bias consists of: itself, the originals behind a parametrization, or none."""
    if parametrize.is_parametrized(module, name):
        parametrization: Any = module.parametrizations[name]  # type: ignore[index]
        # without the parameters of the parametrization's own modules
        return [parameter for path, parameter in parametrization.named_parameters(recurse=False) if path.startswith("original")]
    value = getattr(module, name, None)
    return [value] if isinstance(value, nn.Parameter) else []


def _settle(module: nn.Module, name: str) -> None:
    """Let a parametrization that estimates something of its weight (spectral_norm) do so for the new one."""
    parts = list(module.parametrizations[name].modules())  # type: ignore[index, union-attr]
    for training in (True, False):
        for part in parts:
            part.training = training
        for _ in range(SETTLING_READS if training else 0):
            getattr(module, name)
