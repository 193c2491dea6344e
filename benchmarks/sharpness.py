"""How far the sharpness that ``nc_fast.init`` measures is from the whole Hessian's, and from that on more samples.

    python benchmarks/sharpness.py DIR/mnist

Networks with He weights, centred biases and the fitted head at several scales. Columns: the Hessian's largest eigenvalue and the
Gauss-Newton matrix's, by 30 steps of power iteration on 2000 samples; the latter on 128 samples, as ``nc_fast.init`` takes it, and
by 5 steps only.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import nc_fast.init
from nc_fast.compare.networks import TrainingData, build, prepare
from nc_fast.files.read import load
from nc_fast.init.batches import LabelledBatch
from nc_fast.init.labels import SampleLabels
from nc_fast.init.objective import Answers, Objective

STEPS, FEW_STEPS = 30, 5


def hessian_sharpness(model: nn.Module, X: Tensor, y: Tensor, steps: int) -> float:
    """Return the Hessian's largest eigenvalue in magnitude."""
    parameters = list(model.parameters())
    loss = nn.functional.cross_entropy(model(X), y)
    gradient = torch.autograd.grad(loss, parameters, create_graph=True)
    v, eigenvalue = [g.detach() for g in gradient], 0.0
    for _ in range(steps):
        norm = torch.stack([part.norm() for part in v]).norm()
        v = [part / norm for part in v]
        product = torch.autograd.grad(sum((g * part).sum() for g, part in zip(gradient, v, strict=True)), parameters, retain_graph=True)
        eigenvalue = float(sum((p * part).sum() for p, part in zip(product, v, strict=True)))
        v = list(product)
    return eigenvalue


def objective(model: nn.Module, data: TrainingData, n: int) -> Objective:
    """Return the loss on the first n test samples: none that a head was fitted to."""
    classes = np.arange(data.n_classes)
    batch = LabelledBatch(data.X_test[:n], SampleLabels(data.y_test[:n].numpy()))
    head = list(model.modules())[-1]
    return Objective(model, head, torch.device("cpu"), [batch], Answers(classes, classes, None), None, n)


def gauss_newton_sharpness(model: nn.Module, data: TrainingData, n: int, steps: int) -> float:
    """Return what ``nc_fast.init`` measures."""
    loss = objective(model, data, n)
    return loss.sharpness(loss.gradient(), steps)[0]


def rows(data: TrainingData, networks: Sequence[str], scales: Sequence[float], many: int) -> list[list[str]]:
    """Return the table's rows."""
    found = []
    for network in networks:
        model = build(network, data)
        samples = (data.X, data.y)
        report = nc_fast.init.campaign_(model, samples, pool=1, base="kaiming_normal", generator=torch.Generator().manual_seed(0)).head
        layer = list(model.modules())[-1]
        with torch.no_grad():
            weight, bias = layer.weight / report.scale, layer.bias / report.scale
        X, y = data.X_test[:many], data.y_test[:many]
        for scale in scales:
            with torch.no_grad():
                layer.weight.copy_(scale * weight)
                layer.bias.copy_(scale * bias)
            values = (
                hessian_sharpness(model, X, y, STEPS),
                gauss_newton_sharpness(model, data, many, STEPS),
                gauss_newton_sharpness(model, data, 128, STEPS),
                gauss_newton_sharpness(model, data, 128, FEW_STEPS),
            )
            found.append([network, f"{scale:g}", *(f"{value:.1f}" for value in values)])
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--networks", default="mlp3,mlp5,mlp10,cnn")
    parser.add_argument("--scales", default="1,2,4,8")
    parser.add_argument("--samples", type=int, default=2000)
    given = parser.parse_args(arguments)
    scales = [float(scale) for scale in given.scales.split(",")]
    header = ["network", "scale", "Hessian", "Gauss-Newton", "on 128", "by 5 steps"]
    table = rows(prepare(load(given.data)), given.networks.split(","), scales, given.samples)
    for line in (header, ["---", *["---:"] * (len(header) - 1)], *table):
        print(f"| {' | '.join(line)} |")


if __name__ == "__main__":
    main()
