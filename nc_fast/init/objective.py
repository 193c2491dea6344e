"""What a network is trained on, as its start is judged by it: the loss on a few hundred samples, and how sharp it is there.

Sharpness is the largest eigenvalue of the Gauss-Newton matrix J' H J / n of the loss in the parameters that are trained: J is
the output layer's Jacobian, H the loss's Hessian in what that layer returns: a softmax after it is part of the loss. At a start it
agrees with the whole Hessian's (docs/initialization.md). Gradient descent at rate lr is stable below 2 / lr.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from nc_fast.init.batches import LabelledBatch
from nc_fast.init.forward_pass import on_output, tensors_in
from nc_fast.init.labels import SampleLabels
from nc_fast.inputs.labels import IGNORE_INDEX

Loss = Callable[[Any, Tensor], Tensor]  # of the model's outputs and labels or targets; their mean over samples


@dataclass(frozen=True, eq=False)
class Answers:
    """What the outputs for the samples should be.

    Attributes
    ----------
    classes : (C,) distinct labels, sorted.
    outputs : (C,) the output each class stands for; None where classes and outputs do not correspond.
    targets : (N,) or (N, T) float64 targets, of which labels are row numbers; None with labels proper.
    """

    classes: np.ndarray
    outputs: np.ndarray | None
    targets: np.ndarray | None

    def design(self, labels: np.ndarray) -> np.ndarray:
        """Return (n, C) float64 for labels (n,): one-hot of the classes, or the targets."""
        if self.targets is not None:
            rows: np.ndarray = self.targets[labels]
            return rows.reshape(len(labels), -1)
        one_hot: np.ndarray = (labels[:, None] == self.classes).astype(np.float64)
        return one_hot

    def of(self, labels: SampleLabels, outputs: Tensor) -> Tensor:
        """Return what a loss is given beside ``outputs``: output numbers int64, -100 where none counts, or targets in their dtype."""
        if self.targets is not None:
            return torch.from_numpy(self.targets[labels.values]).to(outputs)
        assert self.outputs is not None
        numbers = self.outputs[np.searchsorted(self.classes, labels.values).clip(max=len(self.classes) - 1)]
        if labels.by_position is not None:
            numbers = np.where(labels.by_position, numbers, IGNORE_INDEX)
        return torch.from_numpy(numbers).to(outputs.device)


def default_loss(outputs: Tensor, answers: Tensor) -> Tensor:
    """Return the loss of raw outputs: squared error of float targets, or cross-entropy, binary where there is one output."""
    if answers.is_floating_point():
        return functional.mse_loss(outputs.reshape(answers.shape), answers)
    if outputs.numel() == answers.numel():
        counted = answers != IGNORE_INDEX
        return functional.binary_cross_entropy_with_logits(outputs.reshape(answers.shape)[counted], answers[counted].to(outputs.dtype))
    if outputs.shape[:-1] == answers.shape or (1 in (outputs.ndim - 1, answers.ndim) and outputs.shape[:-1].numel() == answers.numel()):
        return functional.cross_entropy(outputs.flatten(0, -2), answers.flatten())
    return functional.cross_entropy(outputs, answers)


class Objective:
    """The loss of a model on a few batches, in parts of which each is held in memory with what autograd needs."""

    def __init__(
        self,
        model: nn.Module,
        head: nn.Module,
        device: torch.device,
        batches: Sequence[LabelledBatch],
        answers: Answers,
        loss: Loss | None,
        samples_at_once: int,
        place: int = 0,
    ) -> None:
        """``head``: the output layer; ``place``: which of the tensors that the model returns its output becomes."""
        self._model = model
        self._head = head
        self._device = device
        self._parts = [part for batch in batches for part in batch.blocks(samples_at_once)]
        counts = [part.labels.values.size if (mask := part.labels.by_position) is None else int(mask.sum()) for part in self._parts]
        self._shares = [count / sum(counts) for count in counts]  # of the loss, a mean over the labels that count
        self._answers = answers
        self._loss = loss or default_loss
        self._place = place
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def value(self) -> float:
        """Return the loss."""
        with torch.no_grad():
            return sum(share * float(self._loss_of(part)) for share, part in zip(self._shares, self._parts, strict=True))

    def gradient(self) -> list[Tensor]:
        """Return where power iteration starts: the loss's gradient, of which most lies in the sharpest directions, or any if it is 0."""
        total = [torch.zeros_like(parameter) for parameter in self._parameters]
        for share, part in zip(self._shares, self._parts, strict=True):
            with torch.enable_grad():
                own = torch.autograd.grad(self._loss_of(part), self._parameters, materialize_grads=True)
            for whole, more in zip(total, own, strict=True):
                whole.add_(more, alpha=share)
        return total if any(part.any() for part in total) else [torch.randn_like(part) for part in total]

    def sharpness(self, direction: Sequence[Tensor], products: int) -> tuple[float, list[Tensor]]:
        """Return the largest eigenvalue by so many steps of power iteration, and the direction they end with."""
        eigenvalue = 0.0
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivatives
            held = [self._linearized(part) for part in self._parts] if len(self._parts) == 1 else None
            for _ in range(products):
                norm = float(torch.stack(torch._foreach_norm(list(direction))).norm())
                if norm == 0:  # nothing is curved along it
                    return 0.0, list(direction)
                unit = [part / norm for part in direction]
                eigenvalue, direction = 0.0, [torch.zeros_like(part) for part in unit]
                for share, linear in zip(self._shares, held or map(self._linearized, self._parts), strict=True):
                    curvature, product = linear(unit)
                    eigenvalue += share * curvature
                    for total, more in zip(direction, product, strict=True):
                        total.add_(more, alpha=share)
        return eigenvalue, list(direction)

    def _loss_of(self, part: LabelledBatch) -> Tensor:
        outputs = list(tensors_in(part.run(self._model, self._device)))[self._place]
        answers = self._answers.of(part.labels, outputs)
        if torch.is_grad_enabled() and not outputs.requires_grad:
            raise RuntimeError("the model's outputs have no gradient")
        try:
            value = self._loss(outputs, answers)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            given = f"outputs {tuple(outputs.shape)} and y {tuple(answers.shape)} {answers.dtype}"
            raise ValueError(f"loss: expected a function of {given}, got {type(error).__name__}: {error}") from error
        if not isinstance(value, Tensor) or value.numel() != 1:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"loss: expected a tensor of one number, the mean, got {got}")
        if torch.is_grad_enabled() and not value.requires_grad:
            raise ValueError("loss: expected a tensor that has a gradient, got one without")
        return value

    def _linearized(self, part: LabelledBatch) -> Callable[[Sequence[Tensor]], tuple[float, Sequence[Tensor]]]:
        """Return v -> (v' G v, G v), G the Gauss-Newton matrix of the part's mean loss."""
        found: list[Tensor] = []
        with on_output(self._head, found.append):
            loss = self._loss_of(part)
        outputs = found[-1]
        # J v is the derivative of J' w, which is linear in w, in w: two backward passes instead of a forward one with tangents.
        w = torch.zeros_like(outputs, requires_grad=True)
        backward = torch.autograd.grad(outputs, self._parameters, w, create_graph=True, materialize_grads=True)
        (slope,) = torch.autograd.grad(loss, outputs, create_graph=True)

        def product(v: Sequence[Tensor]) -> tuple[float, Sequence[Tensor]]:
            (tangent,) = torch.autograd.grad(backward, w, v, retain_graph=True)
            if not slope.requires_grad:  # a loss that is linear in the outputs
                return 0.0, [torch.zeros_like(part) for part in v]
            (curved,) = torch.autograd.grad(slope, outputs, tangent, retain_graph=True, materialize_grads=True)
            result = torch.autograd.grad(outputs, self._parameters, curved, retain_graph=True, materialize_grads=True)
            return float((tangent * curved).sum()), result

        return product
