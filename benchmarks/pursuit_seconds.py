"""Seconds to a test accuracy on MNIST, from samples in memory: pursuit, scikit-learn's MLPClassifier, SGD in torch.

    python benchmarks/pursuit_seconds.py --data shared/data/mnist --out out/pursuit_seconds.json

Ours is drawn, picked and fitted once: all of it counts, and it reaches the goal or not. The others are trained in steps until they do; the
time of looking at the test set is not counted. Compiling and importing are outside: everything runs once on a few rows before.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from environment import environment
from sklearn.neural_network import MLPClassifier

import nc_fast
import nc_fast.candidates
from nc_fast.files.read import Dataset, load_idx_folder

POOL, NEURONS, STEPS, MOST_SECONDS = 10_000, 1000, 100, 120.0
Predict = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Network:
    """A network trained by SGD: hidden sizes, learning rate, momentum, batch."""

    hidden: tuple[int, ...]
    lr: float
    momentum: float = 0.0
    batch: int = 100

    def __str__(self) -> str:
        return f"torch SGD {'-'.join(map(str, self.hidden))}, lr {self.lr}, momentum {self.momentum}, batch {self.batch}"

    def train(self, X: np.ndarray, y: np.ndarray, seed: int) -> Iterator[Predict]:
        """Yield after every hundred steps."""
        torch.manual_seed(seed)
        widths = (X.shape[1], *self.hidden, int(y.max()) + 1)
        layers = [layer for a, b in pairwise(widths) for layer in (torch.nn.Linear(a, b), torch.nn.ReLU())]
        network = torch.nn.Sequential(*layers[:-1])
        optimizer = torch.optim.SGD(network.parameters(), lr=self.lr, momentum=self.momentum)
        X_all, y_all = torch.from_numpy(X), torch.from_numpy(y)
        step = 0

        def predict(X_test: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return network(torch.from_numpy(X_test)).argmax(dim=1).numpy()

        while True:
            for rows in torch.randperm(len(X)).split(self.batch):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(network(X_all[rows]), y_all[rows]).backward()
                optimizer.step()
                step += 1
                if step % STEPS == 0:
                    yield predict


def mlp(X: np.ndarray, y: np.ndarray, seed: int, hidden: int) -> Iterator[Predict]:
    """Yield after every epoch of scikit-learn's, Adam and the rest by default."""
    model = MLPClassifier((hidden,), random_state=seed)
    while True:
        model.partial_fit(X, y, classes=np.unique(y))
        yield model.predict


def pursuit(X: np.ndarray, y: np.ndarray, seed: int) -> Iterator[Predict]:
    W, bias = nc_fast.candidates.data_pairs(X, y, POOL, seed)
    found = nc_fast.pursuit(W, X, y, NEURONS, bias=bias, rng=seed)
    yield lambda X: found.classes[(np.maximum(X @ found.weights + found.bias, 0) @ found.head + found.intercept).argmax(axis=1)]


CONTENDERS: dict[str, Callable[[np.ndarray, np.ndarray, int], Iterator[Predict]]] = {
    f"pursuit, {NEURONS} of {POOL} data pairs": pursuit,
    "MLPClassifier 100 (default)": lambda X, y, seed: mlp(X, y, seed, 100),
    "MLPClassifier 256": lambda X, y, seed: mlp(X, y, seed, 256),
    **{
        str(network): network.train
        for network in (
            Network((256,), 0.1),
            Network((256,), 0.3),
            Network((256, 100), 0.3),
            Network((256,), 0.1, 0.9),
            Network((256, 100), 0.1, 0.9),
            Network((256, 100), 0.3, batch=32),
        )
    },
}


def seconds_to(goal: float, training: Iterator[Predict], data: Dataset) -> tuple[float, float]:
    """Return the seconds trained until the goal is reached, or the training ends, or gives up; and the accuracy there."""
    spent, accuracy = 0.0, 0.0
    start = perf_counter()
    for predict in training:
        spent += perf_counter() - start
        accuracy = 100 * float((predict(data.X_test) == data.y_test).mean())
        if accuracy >= goal or spent > MOST_SECONDS:
            break
        start = perf_counter()
    return spent, accuracy


def main(given: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of IDX files")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--goal", type=float, default=96.5, help="test accuracy %%")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args(given)
    data = load_idx_folder(arguments.data).scaled()
    y, rows = data.y_train.astype(np.int64), []
    for train in CONTENDERS.values():
        next(train(data.X_train[:2000], y[:2000], 0))
    for seed in range(arguments.seeds):
        for name, train in CONTENDERS.items():
            seconds, accuracy = seconds_to(arguments.goal, train(data.X_train, y, seed), data)
            rows.append({"name": name, "seed": seed, "seconds": seconds, "accuracy": accuracy, "reached": accuracy >= arguments.goal})
            print(rows[-1], flush=True)
            if arguments.out:
                arguments.out.parent.mkdir(parents=True, exist_ok=True)
                arguments.out.write_text(json.dumps({"environment": environment(), "goal": arguments.goal, "rows": rows}, indent=1) + "\n")
    print(f"\n| seconds to {arguments.goal} % | median | range | accuracy there | reached |\n| --- | ---: | ---: | ---: | ---: |")
    for name in CONTENDERS:
        mine = [row for row in rows if row["name"] == name]
        times, reached = np.array([row["seconds"] for row in mine]), sum(row["reached"] for row in mine)
        accuracy = np.mean([row["accuracy"] for row in mine])
        print(f"| {name} | {np.median(times):.2f} | {times.min():.2f} to {times.max():.2f} | {accuracy:.2f} | {reached} of {len(mine)} |")


if __name__ == "__main__":
    main()
