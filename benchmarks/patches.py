"""How many patches a convolution should be scored on: the start of the CNN of ``nc-fast compare``, and what it costs.

    python benchmarks/patches.py DIR/mnist
    python benchmarks/patches.py seconds

Columns: cross-entropy on 2000 held-out samples untrained; mean loss of the first epoch on 12,000 samples (SGD at
0.1, batches of 60), and the held-out one after it: mean and standard deviation over the seeds. ``seconds``: the layer of 64 channels to
64, 3 x 3, on 2000 pictures of 32 x 32.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import nc_fast.init
from nc_fast.compare.networks import TrainingData, build, prepare
from nc_fast.files.read import load

TRAINED, HELD_OUT, BATCH, RATE = 12_000, 2000, 60, 0.1
PATCHES = (1000, 5000, 20_000, 100_000, 400_000)


def first_epoch(data: TrainingData, patches: int, seed: int) -> tuple[float, float, float]:
    """Return the loss untrained, the mean loss of an epoch, and the loss after it."""
    torch.manual_seed(seed)
    rows = torch.randperm(len(data.X))[: TRAINED + HELD_OUT]
    X, y, X_out, y_out = data.X[rows[HELD_OUT:]], data.y[rows[HELD_OUT:]], data.X[rows[:HELD_OUT]], data.y[rows[:HELD_OUT]]
    model = build("cnn", data)
    nc_fast.init.campaign_(model, (X, y), lr=RATE, max_patches=patches, generator=torch.Generator().manual_seed(seed))
    untrained = loss(model, X_out, y_out)
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    losses = []
    for first in range(0, len(X), BATCH):
        value = cross_entropy(model(X[first : first + BATCH]), y[first : first + BATCH])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
    return untrained, float(np.mean(losses)), loss(model, X_out, y_out)


def loss(model: nn.Module, X: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float(cross_entropy(model(X), y))


def seconds_of_a_layer() -> None:
    """Print the seconds the layer itself takes, the better of three runs."""
    torch.manual_seed(0)
    X, y = torch.randn(2000, 64, 32, 32), torch.arange(2000) % 10
    model = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    print(f"{min(nc_fast.init.campaign_(model, (X, y))['0'].seconds for _ in range(3)):.2f} s")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, or the seconds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    given = parser.parse_args(arguments)
    if str(given.data) == "seconds":
        seconds_of_a_layer()
        return
    data = prepare(load(given.data))
    print("| patches | untrained | first epoch | after it |\n| ---: | ---: | ---: | ---: |")
    for patches in PATCHES:
        found = np.array([first_epoch(data, patches, seed) for seed in range(given.seeds)])
        cells = [f"{column.mean():.3f} ± {column.std():.3f}" for column in found.T]
        print(f"| {patches:,} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
