"""Test accuracy of one fixed hidden layer on images in IDX files: what the choice of its neurons is worth.

    python benchmarks/pursuit_mnist.py run --data mnist=shared/data/mnist --out out/pursuit_mnist.json      # 10 seeds, some 40 minutes
    python benchmarks/pursuit_mnist.py run --data fashion=/usr/share/datasets/fashion-mnist --out out/pursuit_fashion.json
    python benchmarks/pursuit_mnist.py blocks --data mnist=shared/data/mnist --out out/pursuit_blocks.json  # block="auto" against block=1
    python benchmarks/pursuit_mnist.py table out/pursuit_mnist.json                                         # Markdown

Fashion-MNIST is Debian's package dataset-fashion-mnist. Every layer gets the same head: ridge on all training samples, its strength by
leave-one-out. Choices see a draw of the training samples (--samples); pursuit draws its own by the same seed. Rivals get their best
settings (gamma of RBFSampler; activation of swimnetworks), by 3-fold cross-validation on 10,000 training samples, once per width.
Rows are written as they come; a run that is started again goes on where its file ends.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from environment import environment
from sklearn.kernel_approximation import RBFSampler
from sklearn.model_selection import KFold

import nc_fast
import nc_fast.candidates
from nc_fast.files.read import Dataset, load_idx_folder

try:
    from swimnetworks import Dense
except ImportError:
    Dense = None

ALPHA = 0.5
POOLS, CHOICES, RIVALS = ("gaussian", "data_pairs"), ("none", "campaign", "fisher", "pursuit"), ("rbf", "swim")
NAMES = {
    "gaussian": "Gaussian, centred biases",
    "data_pairs": "data pairs, kink midway",
    "none": "none",
    "campaign": f"campaign, alpha {ALPHA}",
    "fisher": "Fisher, top k",
    "pursuit": "**pursuit**",
    "rbf": "RBFSampler, gamma tuned",
    "swim": "swimnetworks, activation tuned",
}
TARGETS = {("gaussian", "pursuit"): (84, 88.5, 92.8, 95.2), ("data_pairs", "pursuit"): (88.5, 92.0, 94.8, 96.5)}  # MNIST, default widths
SETTINGS = {"rbf": tuple(0.00025 * 2.0**i for i in range(-5, 8)), "swim": ("relu", "tanh")}
TUNING_ROWS, TUNING_FOLDS = 10_000, 3

Features = Callable[[np.ndarray], np.ndarray]
Layers = Callable[[int], Features]


@dataclass(frozen=True)
class Pool:
    """Candidates: W (D, M) float32 and their biases (M,)."""

    W: np.ndarray
    bias: np.ndarray

    def features(self, picks: np.ndarray) -> Features:
        W, bias = np.ascontiguousarray(self.W[:, picks]), self.bias[picks].astype(np.float32)

        def relu(X: np.ndarray) -> np.ndarray:
            Z = X @ W
            Z += bias
            return np.maximum(Z, 0, out=Z)

        return relu


def read(folder: Path, rows: int | None) -> Dataset:
    data = load_idx_folder(folder).scaled()
    return Dataset(data.name, data.X_train[:rows], data.y_train[:rows], data.X_test[:rows], data.y_test[:rows], data.full_scale)


def draw(name: str, data: Dataset, M: int, seed: int) -> Pool:
    if name == "gaussian":
        W = nc_fast.candidates.gaussian(data.X_train.shape[1], M, seed)
        return Pool(W, -(data.X_train.mean(axis=0, dtype=np.float64) @ W))
    return Pool(*nc_fast.candidates.data_pairs(data.X_train, data.y_train, M, seed, where="midway"))


def accuracy(features: Features, data: Dataset, widths: list[int]) -> Iterator[tuple[int, float]]:
    """Yield every width with its test accuracy; the first j neurons are the layer of width j."""
    gram, Z_test = nc_fast.ridge_head(features(data.X_train), data.y_train).gram, features(data.X_test)
    for k in widths:
        head = nc_fast.ridge_head(gram.take(k))
        predicted = head.classes[(Z_test[:, :k] @ head.weights + head.intercept).argmax(axis=1)]
        yield k, 100 * float((predicted == data.y_test).mean())


def chosen(choice: str, pool: Pool, data: Dataset, seed: int, arguments: argparse.Namespace) -> Iterator[tuple[int, float]]:
    if choice == "none":
        yield from accuracy(pool.features(np.arange(max(arguments.widths))), data, arguments.widths)
    elif choice == "pursuit":
        yield from pursued(pool, data, seed, arguments, block=arguments.block)
    else:
        rows = np.random.default_rng(seed).permutation(len(data.X_train))[: arguments.samples]
        moments = nc_fast.class_moments(pool.W, data.X_train[rows], data.y_train[rows], bias=pool.bias)
        if choice == "fisher":
            ratio = moments.between() / np.maximum(moments.within(), 1e-9)
            yield from accuracy(pool.features(np.argsort(-ratio)[: max(arguments.widths)]), data, arguments.widths)
        else:  # a campaign for few neurons is not the start of one for many
            scores = nc_fast.ib_scores(moments, alpha=ALPHA)
            for k in arguments.widths:
                yield from accuracy(pool.features(nc_fast.select(pool.W, scores, k).indices), data, [k])


def pursued(pool: Pool, data: Dataset, seed: int, arguments: argparse.Namespace, **how: Any) -> Iterator[tuple[int, float]]:
    """Yield the accuracies of the first j picks, for every width j, with the heads that come with them."""
    found = nc_fast.pursuit(
        pool.W, data.X_train, data.y_train, max(arguments.widths), bias=pool.bias, max_samples=arguments.samples, rng=seed, **how
    )
    for k in arguments.widths:
        first = found.take(k)
        Z = np.maximum(data.X_test @ first.weights + np.asarray(first.bias, np.float32), 0)
        yield k, 100 * float((first.classes[(Z @ first.head + first.intercept).argmax(axis=1)] == data.y_test).mean())


def rival(name: str, data: Dataset, k: int, seed: int, setting: Any) -> Features:
    """Return the features of a layer of width k as another library makes it."""
    if name == "rbf":
        transform = RBFSampler(gamma=setting, n_components=k, random_state=seed).fit(data.X_train).transform
    else:
        layer = Dense(layer_width=k, activation=setting, parameter_sampler=setting, random_seed=seed, is_classifier=True)
        transform = layer.fit(data.X_train, data.y_train).transform
    return lambda X: np.asarray(transform(X), np.float32)


def tune(name: str, data: Dataset, k: int) -> tuple[Any, dict[str, float]]:
    """Return the setting of the best cross-validated accuracy, and the accuracies of all."""
    rows = np.random.default_rng(0).permutation(len(data.X_train))[:TUNING_ROWS]
    found = {}
    for setting in SETTINGS[name]:
        folds = []
        for train, test in KFold(TUNING_FOLDS).split(rows):
            train, test = rows[train], rows[test]
            part = Dataset("fold", data.X_train[train], data.y_train[train], data.X_train[test], data.y_train[test])
            folds += [value for _, value in accuracy(rival(name, part, k, 0, setting), part, [k])]
        found[setting] = float(np.mean(folds))
    return max(found, key=found.__getitem__), {str(setting): value for setting, value in found.items()}


class Results:
    """Rows (dicts) in a JSON file, written whenever some are added; what is there already is not run again."""

    def __init__(self, path: Path, arguments: argparse.Namespace) -> None:
        self.path = path
        told = {name: value for name, value in vars(arguments).items() if name in ("widths", "pool", "samples", "block", "rows")}
        kept = json.loads(path.read_text()) if path.is_file() else {"rows": [], "settings": {}}
        self.content: dict[str, Any] = {**kept, "environment": environment(), "arguments": told}

    def have(self, **wanted: Any) -> bool:
        return any(wanted.items() <= row.items() for row in self.content["rows"])

    def add(self, accuracies: Iterator[tuple[int, float]], **where: Any) -> None:
        if self.have(**where):
            return
        start = perf_counter()
        rows = [where | {"k": k, "accuracy": value} for k, value in accuracies]
        print(where, [round(row["accuracy"], 2) for row in rows], f"{perf_counter() - start:.1f} s", flush=True)
        self.content["rows"] += rows
        self.save()

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.content, indent=1) + "\n")

    def setting(self, name: str, data: Dataset, k: int, label: str) -> Any:
        """Return the tuned setting of a rival at a width."""
        settings = self.content["settings"]
        if f"{label} {name} {k}" not in settings:
            best, tried = tune(name, data, k)
            settings[f"{label} {name} {k}"] = {"best": best, "tried": tried}
            print(label, name, k, settings[f"{label} {name} {k}"], flush=True)
            self.save()
        return settings[f"{label} {name} {k}"]["best"]


def run(arguments: argparse.Namespace) -> None:
    results = Results(arguments.out, arguments)
    rivals = [name for name in RIVALS if name in arguments.methods and not (name == "swim" and Dense is None)]
    if "swim" in arguments.methods and Dense is None:
        print("swimnetworks is not installed: left out")
    choices = [name for name in CHOICES if name in arguments.methods]
    label, data = arguments.data
    for seed in arguments.seeds:
        for name in POOLS if choices else ():
            pool = draw(name, data, arguments.pool, seed)
            for choice in choices:
                results.add(chosen(choice, pool, data, seed, arguments), data=label, seed=seed, pool=name, method=choice)
        for name in rivals:
            for k in arguments.widths:
                settings = partial(results.setting, name, data, k, label)
                results.add(of_rival(name, data, k, seed, settings), data=label, seed=seed, pool=name, method=name, width=k)


def of_rival(name: str, data: Dataset, k: int, seed: int, setting: Callable[[], Any]) -> Iterator[tuple[int, float]]:
    yield from accuracy(rival(name, data, k, seed, setting()), data, [k])


def blocks(arguments: argparse.Namespace) -> None:
    """Compare picking in windows with the exact greedy choice: the same pool, samples and head."""
    results = Results(arguments.out, arguments)
    label, data = arguments.data
    for seed in arguments.seeds:
        pool = draw("data_pairs", data, arguments.pool, seed)
        for block in ("auto", 1):
            where = {"data": label, "seed": seed, "pool": "data_pairs", "method": f"block={block}"}
            results.add(pursued(pool, data, seed, arguments, block=block), **where)


def table(arguments: argparse.Namespace) -> None:
    for path in arguments.results:
        content = json.loads(path.read_text())
        print(markdown(content["rows"]))


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return a table for every data set: mean ± standard error over seeds, and whether the targets are met."""
    lines = []
    for label in dict.fromkeys(row["data"] for row in rows):
        mine = [row for row in rows if row["data"] == label]
        widths = sorted({row["k"] for row in mine})
        seeds = len({row["seed"] for row in mine})
        lines += [f"**{label}**, {seeds} seeds, test accuracy %: mean ± standard error", ""]
        lines += [f"| pool : choice | {' | '.join(f'k = {k}' for k in widths)} |", "| --- |" + " ---: |" * len(widths)]
        for pool, method in dict.fromkeys((row["pool"], row["method"]) for row in mine):
            cells = []
            for k in widths:
                values = np.array([row["accuracy"] for row in mine if (row["pool"], row["method"], row["k"]) == (pool, method, k)])
                error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
                cells.append(f"{values.mean():.2f} ± {error:.2f}" if len(values) else "")
            name = NAMES[pool] if pool == method else f"{NAMES[pool]} : {NAMES.get(method, method)}"
            lines.append(f"| {name} | {' | '.join(cells)} |")
            if label == "mnist" and (pool, method) in TARGETS and len(widths) == 4:
                lines.append(f"| target | {' | '.join(f'≥ {target}' for target in TARGETS[pool, method])} |")
        lines.append("")
    return "\n".join(lines)


def main(given: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for function in (run, blocks):
        command = commands.add_parser(function.__name__)
        command.set_defaults(function=function)
        command.add_argument("--data", required=True, metavar="NAME=FOLDER", help="a name for the table and a folder of IDX files")
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("--seeds", type=lambda text: list(range(int(text))), default=list(range(10 if function is run else 5)))
        command.add_argument("--widths", type=lambda text: [int(k) for k in text.split(",")], default=[50, 100, 300, 1000])
        command.add_argument("--pool", type=int, default=10_000, help="candidates")
        command.add_argument("--samples", type=int, default=5000, help="what the choice sees")
        command.add_argument("--rows", type=int, help="the first rows of the training and the test set only, for a trial")
    run_command = commands.choices["run"]
    run_command.add_argument("--methods", type=lambda text: text.split(","), default=[*CHOICES, *RIVALS])
    run_command.add_argument("--block", type=lambda text: text if text == "auto" else int(text), default="auto")
    command = commands.add_parser("table")
    command.set_defaults(function=table)
    command.add_argument("results", type=Path, nargs="+")
    arguments = parser.parse_args(given)
    if arguments.function is not table:
        label, _, folder = arguments.data.partition("=")
        arguments.data = label, read(Path(folder), arguments.rows)
    arguments.function(arguments)


if __name__ == "__main__":
    main()
