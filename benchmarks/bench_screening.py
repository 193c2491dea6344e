"""Screened campaigns: are the picks the exact ones, is the certificate honest, what is gained. Numbers in docs/screening.md.

    python benchmarks/bench_screening.py identity --fashion /usr/share/datasets/fashion-mnist
    python benchmarks/bench_screening.py honesty
    python benchmarks/bench_screening.py speed 100000
    python benchmarks/bench_screening.py useless
    python benchmarks/bench_screening.py costs out/costs.json
    python benchmarks/bench_screening.py recall --out docs/img --costs out/costs.json
    pytest benchmarks/bench_screening.py --benchmark-enable        # the surrogates alone

``identity`` and ``recall`` take exact moments of a pool of 20000 once per data set and seed (a minute each on two cores).
"""

from __future__ import annotations

import json
from pathlib import Path
from time import perf_counter
from typing import Annotated

import numpy as np
import sizes
import typer
from contest import compete, turns
from inputs import screening_always, shared_folder
from scipy.stats import binom
from setups import SURROGATE, mixture, subsample

import nc_fast
from nc_fast.activations import ACTIVATIONS
from nc_fast.files.read import load_idx_folder

PICKS, ALPHAS, SEEDS, POOL = (100, 1000), (0.0, 0.5, 1.0), (0, 1, 2), 20_000
FASHION = Path("/usr/share/datasets/fashion-mnist")  # Debian: dataset-fashion-mnist
ADVERSARIES = ("normal", "heavy tails", "sparse", "two points", "D = 5", "class of 3", "mostly dead")
app = typer.Typer(add_completion=False, help=__doc__)


@turns(SURROGATE, sizes.SURROGATE)
def test_surrogate(benchmark, size, name):
    compete(benchmark, "surrogate", SURROGATE, size, name)


def images(name: str, fashion: Path) -> tuple[np.ndarray, np.ndarray]:
    data = load_idx_folder(fashion if name == "fashion" else shared_folder() / "data" / "mnist")
    X = data.X_train.astype(np.float32)
    X /= data.full_scale
    return X, data.y_train.astype(np.int64)


def pool(D: int, M: int, seed: int) -> np.ndarray:
    W = np.random.default_rng(seed).standard_normal((D, M), dtype=np.float32)
    W *= np.sqrt(2 / D, dtype=np.float32)
    return W


def compare(found: nc_fast.Campaign, exact: np.ndarray) -> tuple[int, int]:
    """Return how many picks are missing, and how many are not in their place."""
    indices = np.asarray(found.indices)
    return len(set(exact.tolist()) - set(indices.tolist())), int((indices != exact).sum())


@app.command()
def identity(fashion: Path = FASHION, out: Path | None = None, data: Annotated[str, typer.Option()] = "mnist,fashion") -> None:
    """Picks of both methods on image data: 60000 x 784, relu, M = 20000."""
    runs = []
    for name in data.split(","):
        X, y = images(name, fashion)
        for seed in SEEDS:
            W = pool(784, POOL, seed)
            moments = nc_fast.class_moments(W, X, y)
            for k in PICKS:
                for alpha in ALPHAS:
                    exact = nc_fast.select(W, nc_fast.ib_scores(moments, alpha=alpha), k).indices
                    found = nc_fast.campaign(W, X, y, k, alpha=alpha, method="screened")
                    missing, moved = compare(found, np.asarray(exact))
                    c = found.certificate
                    runs.append(
                        {"data": name, "seed": seed, "k": k, "alpha": alpha, "missing": missing, "moved": moved, "shortlist": c.shortlist}
                        | {"audit": c.audit, "probability": c.probability, "weights_risk": c.weights_risk, "reason": c.reason}
                    )
                    print(runs[-1], flush=True)
    if out:
        out.write_text(json.dumps(runs))
    same = sum(run["missing"] == 0 for run in runs)
    picks = sum(run["k"] for run in runs)
    print(f"identical picks in {same} of {len(runs)} runs; {1 - sum(run['missing'] for run in runs) / picks:.4%} of {picks} picks")
    print(f"in the same place: {1 - sum(run['moved'] for run in runs) / picks:.3%}")
    print(f"stated: {sum(run['probability'] for run in runs):.2f} runs that differ")


def adversary(kind: str, rng: np.random.Generator, N: int = 3000, D: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return N samples (X, y) of four or five classes; D is 5, or as given, or drawn."""
    D = 5 if kind == "D = 5" else int(rng.integers(10, 60)) if D is None else D
    y = rng.integers(0, 4, size=N)
    shift = rng.normal(size=(5, D)) * rng.uniform(0.1, 1)
    if kind == "class of 3":
        y[:3] = 4
    if kind == "heavy tails":
        X = rng.standard_t(2.2, size=(N, D))
    elif kind == "sparse":
        X = rng.exponential(size=(N, D)) * (rng.random(size=(N, D)) < 0.05)
    elif kind == "two points":
        X = np.where(rng.random(size=(N, 1)) < 0.3, 1.0, -1.0) * rng.normal(size=D) + 0.05 * rng.normal(size=(N, D))
    else:
        X = rng.normal(size=(N, D))
    X = (X + shift[y]).astype(np.float32)
    return (np.abs(X) if kind == "mostly dead" else X), y


@app.command()
def honesty(problems: int = 200, out: Path | None = None) -> None:
    """Stated against observed: small random problems, every activation, data the surrogate is wrong for."""
    runs = []
    with screening_always():
        for seed in range(problems):
            rng = np.random.default_rng(seed)
            kind, activation = ADVERSARIES[seed % len(ADVERSARIES)], tuple(ACTIVATIONS)[seed % len(ACTIVATIONS)]
            X, y = adversary(kind, rng)
            W = rng.normal(size=(X.shape[1], 3000)).astype(np.float32) / np.sqrt(X.shape[1]).astype(np.float32)
            if kind == "mostly dead":
                activation, W = "relu", np.abs(W) * np.where(rng.random(3000) < rng.uniform(0.03, 0.3), 1, -1).astype(np.float32)
            k, alpha, by_class = int(rng.integers(1, 80)), float(rng.choice([0, 0.25, 0.5, 1])), bool(rng.random() < 0.8)
            rules = {"alpha": alpha, "by_class": by_class, "activation": activation}
            found, exact = (nc_fast.campaign(W, X, y, k, method=method, **rules) for method in ("screened", "exact"))
            missing, moved = compare(found, exact.indices)
            c = found.certificate
            runs.append({"seed": seed, "kind": kind, "activation": activation, "k": k, "alpha": alpha, "by_class": by_class})
            runs[-1] |= {"missing": missing, "moved": moved, "probability": c.probability, "known": c.shortlist + c.audit}
            runs[-1] |= {"exclusion_risk": c.exclusion_risk, "weights_risk": c.weights_risk, "quota_risk": c.quota_risk}
            if missing or c.probability > 0.1:
                print(runs[-1], flush=True)
    if out:
        out.write_text(json.dumps(runs))
    failures, stated = sum(run["missing"] > 0 for run in runs), np.array([run["probability"] for run in runs])
    # The number of failures if every stated probability is right: a sum of Bernoulli variables.
    draws = (np.random.default_rng(0).random((20_000, len(stated))) < stated).sum(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    print(f"{failures} of {problems} differ; stated {stated.sum():.2f}, 95 % interval {low:.0f} to {high:.0f}")
    print(f"mean share scored exactly: {np.mean([run['known'] for run in runs]) / 3000:.1%}")
    for kind in ADVERSARIES:
        mine = [run for run in runs if run["kind"] == kind]
        print(f"{kind:11}", sum(r["missing"] > 0 for r in mine), "of", len(mine), f"stated {sum(r['probability'] for r in mine):.2f}")
    print(f"binomial check of the mean: {binom.cdf(failures, problems, stated.mean()):.3f}")


@app.command()
def speed(M: Annotated[int, typer.Argument()] = 100_000, exact: bool = True, repeat: int = 1) -> None:
    """Seconds of both methods on MNIST, 60000 x 784, relu, alpha 0.5."""
    X, y = images("mnist", FASHION)
    W = pool(784, M, 0)
    nc_fast.campaign(W[:, :600], X[:2000], y[:2000], 5)  # compiled code, threads
    for k in PICKS:
        times = []
        for _ in range(repeat):
            started = perf_counter()
            found = nc_fast.campaign(W, X, y, k, method="screened")
            times.append(perf_counter() - started)
        print(f"M = {M}, k = {k}: screened {min(times):.2f} s. {found.certificate}", flush=True)
        if exact:
            started = perf_counter()
            expected = nc_fast.campaign(W, X, y, k)
            seconds = perf_counter() - started
            missing, moved = compare(found, expected.indices)
            print(f"  exact {seconds:.2f} s: {seconds / min(times):.1f} x; {missing} picks differ, {moved} in another place", flush=True)


@app.command()
def useless(N: int = 60_000, D: int = 400, M: int = 6000, k: int = 200, rounds: int = 3) -> None:
    """Seconds of both methods where the surrogate is wrong: the worst that screening costs."""
    for kind in ADVERSARIES:
        X, y = adversary(kind, np.random.default_rng(0), N, D)
        W = np.random.default_rng(1).standard_normal((X.shape[1], M), dtype=np.float32)
        nc_fast.campaign(W[:, :600], X[:2000], y[:2000], 5)
        seconds: dict[str, list[float]] = {"exact": [], "screened": []}
        for _ in range(rounds):
            for method, taken in seconds.items():
                started = perf_counter()
                found = nc_fast.campaign(W, X, y, k, method=method)
                taken.append(perf_counter() - started)
        ratio = np.median([own / whole for whole, own in zip(*seconds.values(), strict=True)])
        print(f"{kind:11} exact {np.median(seconds['exact']):.2f} s, screened {ratio:.2f} of it. {found.certificate}", flush=True)


@app.command()
def costs(out: Path, pools: Annotated[str, typer.Option()] = "2500,5000,10000,20000,50000,100000") -> None:
    """Seconds against the number of candidates, MNIST, alpha 0.5, for the picture; exact seconds once."""
    X, y = images("mnist", FASHION)
    W = pool(784, max(map(int, pools.split(","))), 0)
    nc_fast.campaign(W[:, :600], X[:2000], y[:2000], 5)
    table: dict[str, list[tuple[int, float]]] = {"exact, k = 100": []} | {f"screened, k = {k}": [] for k in PICKS}
    for M in map(int, pools.split(",")):
        part = np.ascontiguousarray(W[:, :M])
        for k, method, label in ((100, "exact", "exact, k = 100"), *((k, "screened", f"screened, k = {k}") for k in PICKS)):
            started = perf_counter()
            nc_fast.campaign(part, X, y, k, method=method)
            table[label].append((M, perf_counter() - started))
            print(f"M = {M}, {label}: {table[label][-1][1]:.2f} s", flush=True)
    out.write_text(json.dumps(table))


@app.command()
def recall(out: Path = Path("docs/img"), fashion: Path = FASHION, costs: Path | None = None) -> None:
    """Plot how many of the exact picks the best n by surrogate score hold, and (from a JSON of M -> seconds) cost against M."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    out.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
    for axis, name in zip(axes, ("mnist", "fashion"), strict=True):
        X, y = images(name, fashion)
        W = pool(784, POOL, 0)
        guess, sample = (nc_fast.ib_scores(estimate(W, X, y, np.arange(10))) for estimate in (mixture, subsample))
        exact = nc_fast.ib_scores(nc_fast.class_moments(W, X, y))
        picks = nc_fast.select(W, exact, 1000).indices
        for label, scores in (("Gaussian mixture", guess), ("1500 samples", sample)):
            place = np.empty(POOL, np.int64)
            for g in range(10):  # place in its own group, as the surrogate has it
                mine = np.flatnonzero(scores.group == g)
                place[mine[np.argsort(-scores.score[mine])]] = np.arange(len(mine))
            lost = scores.group[picks] != exact.group[picks]
            ranks = np.sort(np.where(lost, POOL, place[picks]))
            steps = np.arange(50, 400, 5)
            axis.plot(steps / 100, [np.mean(ranks < n) for n in steps], label=label)
        axis.set_title(f"{name}, M = 20000, k = 1000")
        axis.set_xlabel("shortlist per class / picks per class")
    axes[0].set_ylabel("exact picks held")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(out / "screening-recall.png", dpi=110)
    if costs:
        table = json.loads(costs.read_text())
        figure, axis = plt.subplots(figsize=(5, 3.4))
        for label, points in table.items():
            axis.loglog(*zip(*points, strict=True), "o-", label=label)
        axis.set_xlabel("candidates M")
        axis.set_ylabel("seconds, two cores")
        axis.legend()
        figure.tight_layout()
        figure.savefig(out / "screening-cost.png", dpi=110)


if __name__ == "__main__":
    app()
