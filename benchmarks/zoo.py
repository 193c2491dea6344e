"""The networks of zoo_models.py, started by campaign_ and trained five steps: docs/zoo.md, and the checks of tests/init/test_init_zoo.py.

python benchmarks/zoo.py run --out benchmarks/results/zoo.json
python benchmarks/zoo.py page benchmarks/results/zoo.json > docs/zoo.md
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from environment import environment
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate
from zoo_data import SAMPLES, first
from zoo_models import MODELS, ZooModel

from nc_fast.init import campaign_
from nc_fast.init.report import InitReport

STEPS, RATE, SEED = 5, 0.01, 0
ATTENTION = ("q", "k", "v")  # as the report names the projections of MultiheadAttention
UNREACHED = "the data never reaches it"
PACKAGES = ("torchvision", "timm", "transformers")


@dataclass(frozen=True)
class Start:
    """A network that was started, and what it was before.

    Attributes
    ----------
    before : every parameter by name, as the package made it.
    state : modes, hooks, buffers and kinds of parameters by name, before and after.
    """

    network: nn.Module
    before: dict[str, Tensor]
    state: tuple[dict[str, Any], dict[str, Any]]
    report: InitReport
    X: Any
    y: Tensor


def start(model: ZooModel) -> Start:
    X, y = model.data()
    torch.manual_seed(SEED)
    network = model.build()
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    found = state_of(network)
    report = campaign_(network, (X, y), generator=torch.Generator().manual_seed(SEED))
    return Start(network, before, (found, state_of(network)), report, X, y)


def state_of(network: nn.Module) -> dict[str, Any]:
    """Return what a campaign may not change, comparable with ==."""
    return {
        **{f"mode of {name}": module.training for name, module in network.named_modules()},
        **{f"hooks of {name}": (len(one._forward_pre_hooks), len(one._forward_hooks)) for name, one in network.named_modules()},
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


def changed(started: Start) -> list[str]:
    """Return the parameters that are other than they were."""
    return [name for name, parameter in started.network.named_parameters() if not torch.equal(parameter, started.before[name])]


def unchanged_layers(started: Start) -> list[str]:
    """Return the layers said to be initialized of which no parameter changed."""
    names = changed(started)
    alone = {layer.name: replace(started.report, layers=(layer,)) for layer in started.report.layers}
    return [layer for layer, report in alone.items() if not any(initialized(name, report) for name in names)]


def reached_all_the_same(started: Start) -> list[str]:
    """Return the weights of layers said never to be reached that the outputs depend on."""
    network = started.network.eval()
    unreached = replace(started.report, kept=tuple(layer for layer in started.report.kept if layer.reason == UNREACHED))
    weights = {name: parameter for name, parameter in network.named_parameters() if kept(name, unreached)}
    if not weights:
        return []
    gradients = torch.autograd.grad(outputs_of(network, first(started.X)).sum(), list(weights.values()), allow_unused=True)
    return [name for name, gradient in zip(weights, gradients, strict=True) if gradient is not None]


def outputs_of(network: nn.Module, X: Any) -> Tensor:
    """Return the class scores: (N, C), (N, words, C) or (N, C, height, width)."""
    returned = network(**X) if isinstance(X, Mapping) else network(X)
    if isinstance(returned, Mapping):
        returned = returned["out"] if "out" in returned else returned["logits"]
    scores: Tensor = getattr(returned, "logits", returned)
    return scores


def loss_of(network: nn.Module, X: Any, y: Tensor) -> Tensor:
    scores = outputs_of(network, X)
    if scores.ndim == 3:
        scores = scores.transpose(1, 2)
    elif scores.ndim == 4 and scores.shape[2:] != y.shape[1:]:  # Segformer's are of a grid four times coarser
        scores = interpolate(scores, y.shape[1:], mode="bilinear")
    return cross_entropy(scores, y)


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


def row(model: ZooModel) -> dict[str, Any]:
    """Return a network's row: the campaign's second run, for the first compiles and fills caches; the loss in training mode."""
    about = {"package": model.package, "name": model.name}
    try:
        start(model)
        started = start(model)
    except (RuntimeError, TypeError, ValueError) as error:
        return {**about, "error": f"{type(error).__name__}: {error}"}
    report = started.report
    return {
        **about,
        "initialized": len(report.layers),
        "kept": reasons(report),
        "lost": lost(started.network, report),
        "seconds": report.seconds,
        "losses": train(started),
    }


def reasons(report: InitReport) -> dict[str, dict[str, int]]:
    """Return the kinds of layers kept for each reason, without what is after a colon there (names), and their numbers."""
    found: dict[str, dict[str, int]] = {}
    for layer in report.kept:
        kinds = found.setdefault(layer.reason.partition(":")[0], {})
        kinds[layer.kind] = kinds.get(layer.kind, 0) + 1
    return found


PAGE = """\
# The zoo

Networks of torchvision, timm and transformers, built as users build them but smaller and with random weights, are given to
`nc_fast.init.campaign_` and then trained {steps} steps. The test of the same networks (`nox -s zoo`) holds that every weight is
initialized or kept with a reason, that all else is as it was (modes, buffers, hooks, other parameters), and that the loss stays finite
and does not explode.

`python benchmarks/zoo.py run`: {samples} samples, gradient descent at {rate}; the loss is that of training mode, on all samples;
seconds are the campaign's, everything compiled before.
{versions}; Python {python};
{threads} threads of {cpu}.

| network | initialized | kept, and why | seconds | loss before | after |
| --- | ---: | --- | ---: | ---: | ---: |
{rows}
"""


def page(found: Mapping[str, Any]) -> str:
    """Return docs/zoo.md."""
    machine = found["environment"]
    return PAGE.format(
        steps=STEPS,
        samples=SAMPLES,
        rate=RATE,
        versions=", ".join(f"{name} {number}" for name, number in found["versions"].items()),
        python=machine["python"],
        threads=machine["torch_threads"],
        cpu=machine["cpu"],
        rows="\n".join(map(table_line, found["rows"])),
    )


def table_line(one: Mapping[str, Any]) -> str:
    name = f"{one['package']} {one['name']}"
    if "error" in one:
        return f"| {name} | | {one['error']} | | | |"
    why = [f"{', '.join(f'{count} {kind}' for kind, count in kinds.items())}: {reason}" for reason, kinds in one["kept"].items()]
    why += [f"{len(one['lost'])} not mentioned"] if one["lost"] else []
    before, *_, after = one["losses"]
    return f"| {name} | {one['initialized']} | {'; '.join(why)} | {one['seconds']:.2f} | {before:.2f} | {after:.2f} |"


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="start and train all networks of the packages that are installed")
    run.add_argument("--out", type=Path, required=True)
    run.add_argument("--only", default="", help="part of the networks' names")
    commands.add_parser("page", help="print docs/zoo.md").add_argument("file", type=Path)
    arguments = parser.parse_args(given)
    if arguments.command == "page":
        print(page(json.loads(arguments.file.read_text())), end="")
        return
    rows = []
    for model in MODELS:
        if arguments.only in str(model) and find_spec(model.package):
            rows.append(row(model))
            print(table_line(rows[-1]), flush=True)
    versions = {name: version(name) for name in ("torch", *PACKAGES) if find_spec(name)}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"environment": environment(), "versions": versions, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
