"""The networks of zoo_models.py, started by campaign_ and trained five steps: docs/zoo.md and the checks of tests/init/test_init_zoo.py.

python benchmarks/zoo.py --out benchmarks/results/zoo.json   # run all, save the rows
python benchmarks/zoo.py --table benchmarks/results/zoo.json > docs/zoo.md
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from environment import environment
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from zoo_models import MODELS, ZooModel

from nc_fast.init import campaign_
from nc_fast.init.report import InitReport

STEPS, RATE, SEED = 5, 0.01, 0
ATTENTION = ("q", "k", "v")  # as the report names the projections of MultiheadAttention
PACKAGES = ("torch", "torchvision", "timm", "transformers")


@dataclass(frozen=True)
class Start:
    """A network that was started, and what it was before.

    Attributes
    ----------
    before : every parameter by name, as the package made it.
    state : modes, buffers, requires_grad and numbers of hooks by name, before and after.
    """

    network: nn.Module
    before: dict[str, Tensor]
    state: tuple[dict[str, Any], dict[str, Any]]
    report: InitReport
    X: Any
    y: Tensor


def start(model: ZooModel) -> Start:
    torch.manual_seed(SEED)
    network = model.build()
    X, y = model.data()
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    found = state_of(network)
    report = campaign_(network, (X, y), generator=torch.Generator().manual_seed(SEED))
    return Start(network, before, (found, state_of(network)), report, X, y)


def state_of(network: nn.Module) -> dict[str, Any]:
    """Return what a campaign may not change, comparable with ==."""
    return {
        **{f"mode of {name}": module.training for name, module in network.named_modules()},
        **{f"hooks of {name}": (len(module._forward_hooks), len(module._forward_pre_hooks)) for name, module in network.named_modules()},
        **{f"buffer {name}": (id(buffer), buffer.tolist()) for name, buffer in network.named_buffers()},
        **{f"parameter {name}": (id(parameter), parameter.requires_grad) for name, parameter in network.named_parameters()},
    }


def owner(name: str) -> str:
    """Return the name of the layer that a parameter belongs to."""
    return name.partition(".parametrizations.")[0] if ".parametrizations." in name else name.rpartition(".")[0]


def initialized(name: str, report: InitReport) -> bool:
    """Whether a parameter belongs to a layer that was initialized: to the module of that name, or it, or a part of it, is the layer."""
    names = {layer.name for layer in report.layers}
    if name.rpartition(".")[2] in ("in_proj_weight", "in_proj_bias"):
        return any(f"{owner(name)}.{which}" in names for which in ATTENTION)
    own = [f"{owner(name)}.{which}" for which in ATTENTION if name.endswith(f".{which}_proj_weight")]
    return any(layer in (owner(name), name, *own) or layer.startswith((f"{name}.", f"{name}[")) for layer in names)


def kept(name: str, report: InitReport) -> bool:
    """Whether a parameter is in the report's list of what was kept, itself or with the module it is in, and a reason is given."""
    if name.endswith(".in_proj_weight"):
        name = f"{owner(name)}.{ATTENTION[0]}.weight"
    return any(layer.reason and (name == layer.name or name.startswith(f"{layer.name}.")) for layer in report.kept)


def lost(network: nn.Module, report: InitReport) -> list[str]:
    """Return the weights, with shapes, that the report does not mention; biases, norms and scales are of one dimension and no weights.

    A weight that several layers share may be mentioned under any of its names.
    """
    names: dict[int, list[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        if sum(side > 1 for side in parameter.shape) > 1:
            names.setdefault(id(parameter), []).append(name)
    shapes = {name: tuple(parameter.shape) for name, parameter in network.named_parameters(remove_duplicate=False)}
    return [
        f"{own[0]} {shapes[own[0]]}" for own in names.values() if not any(initialized(name, report) or kept(name, report) for name in own)
    ]


def changed(started: Start) -> set[str]:
    return {name for name, parameter in started.network.named_parameters() if not torch.equal(parameter, started.before[name])}


def untouched(started: Start) -> list[str]:
    """Return the initialized layers of which no parameter is other than it was."""
    names = changed(started)
    one_each = ((layer, type(started.report)((layer,), (), None, 0, 0, 0.0)) for layer in started.report.layers)
    return [layer.name for layer, alone in one_each if not any(initialized(name, alone) for name in names)]


def outputs_of(network: nn.Module, X: Any) -> Tensor:
    """Return the class scores, the classes in the last dimension but for pixels, where they are in the second."""
    returned = network(**X) if isinstance(X, Mapping) else network(X)
    if isinstance(returned, Mapping):
        returned = returned["out"] if "out" in returned else returned["logits"]
    scores: Tensor = getattr(returned, "logits", returned)
    return scores


def loss_of(network: nn.Module, X: Any, y: Tensor) -> Tensor:
    scores = outputs_of(network, X)
    return cross_entropy(scores.transpose(1, 2) if scores.ndim == 3 else scores, y)


def train(started: Start) -> list[float]:
    """Train with plain gradient descent, in training mode; return the loss before every step and after the last."""
    network, X, y = started.network.train(), started.X, started.y
    optimizer = torch.optim.SGD(network.parameters(), RATE)
    torch.manual_seed(SEED)
    losses = []
    for step in range(STEPS + 1):
        loss = loss_of(network, X, y)
        losses.append(float(loss.detach()))
        if step < STEPS:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return losses
