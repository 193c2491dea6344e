"""What ``nc-fast demo`` does: a campaign on the reference and on the CPU backend, stage by stage; then training from He and a campaign."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import median
from time import perf_counter
from typing import IO, TYPE_CHECKING, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from nc_fast.api import class_moments
from nc_fast.criteria import ib_scores
from nc_fast.files.read import Dataset
from nc_fast.greedy import select
from nc_fast.inputs import checks
from nc_fast.runtime.threads import thread_count
from nc_fast.types import ClassMoments, Scores, Selection

if TYPE_CHECKING:
    from rich.table import Table

BACKENDS = ("reference", "cpu")
STAGES = ("class_moments", "ib_scores", "select")
REPEAT_SECONDS = 0.25  # a stage runs again until this much time has passed: milliseconds are not to be read off one run
MAX_RUNS = 9
WARM_UP_SAMPLES = 64
CLASSES_SHOWN = 20  # rows of the picture
TRAINED_NETWORK, TRAINING_STEPS, TRAINING_SEEDS = "mlp3", 280, 3

Result = TypeVar("Result")


@dataclass(frozen=True)
class Settings:
    """What the user chose."""

    pool: int
    k: int
    alpha: float
    activation: str
    seed: int

    def check(self) -> None:
        """Raise for what the stages would only refuse after the first of them has run."""
        if self.pool < 1:
            raise ValueError(f"pool: expected pool >= 1, got {self.pool}")
        checks.count("k", self.k, self.pool)
        checks.alpha(self.alpha)
        checks.activation(self.activation)


@dataclass(frozen=True, eq=False)
class BackendRun:
    """One backend's campaign; ``seconds`` by stage."""

    seconds: dict[str, float]
    moments: ClassMoments
    scores: Scores
    selection: Selection


@dataclass(frozen=True, eq=False)
class Demo:
    """What was run and what came out; ``runs`` by backend."""

    dataset: Dataset
    settings: Settings
    W: np.ndarray
    runs: dict[str, BackendRun]


def he_normal(rng: np.random.Generator, n_features: int, n_neurons: int) -> np.ndarray:
    """Draw an (n_features, n_neurons) float32 pool with variance 2 / n_features; columns are neurons."""
    return rng.standard_normal((n_features, n_neurons), dtype=np.float32) * np.float32(np.sqrt(2 / n_features))


def drawn(dataset: Dataset, max_samples: int | None, rng: np.random.Generator) -> Dataset:
    """Return the data with at most ``max_samples`` training samples, drawn at random."""
    X, y = dataset.X_train, dataset.y_train
    if max_samples is None or max_samples >= len(X):
        return dataset
    kept = np.sort(rng.choice(len(X), max_samples, replace=False))
    return replace(dataset, X_train=X[kept], y_train=y[kept])


def run(dataset: Dataset, settings: Settings, *, max_samples: int | None, announce: Callable[[str], None]) -> Demo:
    """Draw a pool and run the campaign on every backend of BACKENDS, one stage after the other."""
    rng = np.random.default_rng(settings.seed)
    dataset = dataset.scaled()
    W = he_normal(rng, dataset.X_train.shape[1], settings.pool)
    dataset = drawn(dataset, max_samples, rng)
    return Demo(dataset, settings, W, {backend: _campaign(backend, dataset, W, settings, announce) for backend in BACKENDS})


def _campaign(backend: str, dataset: Dataset, W: np.ndarray, settings: Settings, announce: Callable[[str], None]) -> BackendRun:
    X, y = dataset.X_train, dataset.y_train
    seconds: dict[str, float] = {}

    def timed(stage: str, function: Callable[[], Result]) -> Result:
        announce(f"{backend}: {stage}")
        result, seconds[stage] = _median_time(function)
        return result

    def moments_of(n_samples: int) -> ClassMoments:
        return class_moments(W, X[:n_samples], y[:n_samples], activation=settings.activation, backend=backend)

    announce(f"{backend}: warming up")
    moments_of(WARM_UP_SAMPLES)
    moments = timed("class_moments", lambda: moments_of(len(X)))
    scores = timed("ib_scores", lambda: ib_scores(moments, alpha=settings.alpha))
    selection = timed("select", lambda: select(W, scores, settings.k, backend=backend))
    return BackendRun(seconds, moments, scores, selection)


def _median_time(function: Callable[[], Result]) -> tuple[Result, float]:
    times: list[float] = []
    while sum(times) < REPEAT_SECONDS and len(times) < MAX_RUNS:
        start = perf_counter()
        result = function()
        times.append(perf_counter() - start)
    return result, median(times)


def tables(demo: Demo) -> Iterator[Table | str]:
    """Yield what the demo prints: its title, the times, the picks by class, the findings."""
    from rich.markup import escape

    n_samples, n_features = demo.dataset.X_train.shape
    settings = demo.settings
    yield (
        f"[bold]Neuron campaign[/] on {escape(demo.dataset.name)}: {n_samples} samples, {n_features} features, "
        f"{settings.k} of {settings.pool} candidates, {settings.activation}, alpha {settings.alpha:g}, seed {settings.seed}\n"
    )
    yield _times(demo)
    yield _notes(demo) + "\n"
    yield _classes(demo)
    yield _findings(demo)


def _times(demo: Demo) -> Table:
    from rich.table import Table

    table = Table("stage", title="Time")
    for header in (*BACKENDS, "ratio"):
        table.add_column(header, justify="right")
    rows = {stage: [demo.runs[backend].seconds[stage] for backend in BACKENDS] for stage in STAGES}
    for stage, (slow, fast) in rows.items():
        table.add_row(stage, duration(slow), duration(fast), f"{slow / fast:.1f}x")
    table.add_section()
    slow, fast = (sum(demo.runs[backend].seconds.values()) for backend in BACKENDS)
    table.add_row("campaign", duration(slow), duration(fast), f"[bold]{slow / fast:.1f}x[/]")
    return table


def _notes(demo: Demo) -> str:
    (n_samples, n_features), threads = demo.dataset.X_train.shape, thread_count()
    # float64: the product, the same plus bias, and the samples; the reference holds all three at once
    gigabytes = n_samples * (2 * demo.settings.pool + n_features) * 8 / 1e9
    return (
        f"[dim]{threads} thread{'s' * (threads > 1)}; medians, a warm-up (imports, compilation) kept out; ib_scores is the same code in "
        f"both. The reference is NumPy in float64 and holds all activations: about {gigabytes:.2g} GB here.[/]"
    )


def _classes(demo: Demo) -> Table:
    from rich.markup import escape
    from rich.table import Table

    picked, candidates = demo.runs["cpu"].selection, demo.runs["cpu"].scores
    table = Table("class", title="Picks by class")
    for header in ("in pool", "picked", "mean score, pool", "mean score, picks"):
        table.add_column(header, justify="right")
    for c, name in enumerate(candidates.classes):
        pool, picks = candidates.score[candidates.group == c], picked.scores[picked.groups == name]
        table.add_row(escape(str(name)), str(len(pool)), str(len(picks)), _mean(pool), _mean(picks))
    table.add_section()
    table.add_row("all", str(len(candidates.score)), str(len(picked.indices)), _mean(candidates.score), f"[bold]{_mean(picked.scores)}[/]")
    return table


def _mean(values: np.ndarray) -> str:
    return f"{values.mean():.4f}" if len(values) else "-"


def _findings(demo: Demo) -> str:
    reference, cpu = (demo.runs[backend].selection for backend in BACKENDS)
    pool = demo.runs["cpu"].scores.score
    k, distinct = len(cpu.indices), len(np.unique(cpu.indices))
    agreeing = reference.indices == cpu.indices
    if agreeing.all():
        same = f"[green]yes[/], all {k} in the same order"
    else:
        first = int(np.argmin(agreeing))
        gap = abs(cpu.gains[first] / reference.gains[first] - 1)
        same = f"[red]no[/], first at pick {first}, where the gains differ by a relative {gap:.1g}; the first candidates may be tied"
    above = (cpu.scores.mean() - pool.mean()) / pool.std() if pool.std() else 0.0
    lines = {
        "same picks": same,
        "distinct picks": f"{distinct} of {k}",
        "mean score": f"{cpu.scores.mean():.4f} picked, {pool.mean():.4f} pool: {above:.1f} standard deviations above",
        "restarts": f"{cpu.restarts} (groups that ran out of directions)",
    }
    return "\n".join(f"{name:<15} {text}" for name, text in lines.items())


def duration(seconds: float) -> str:
    """Return a time to three figures in the unit that fits.

    Examples
    --------
    >>> duration(12.345), duration(0.0123), duration(4.56e-5)
    ('12.3 s', '12.3 ms', '45.6 µs')
    """
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if seconds * factor >= 1 or unit == "µs":
            break
    return f"{seconds * factor:#.3g} {unit}".replace(". ", " ")


def picture(demo: Demo, file: IO[bytes]) -> None:
    """Write a PNG of the picked neurons' receptive fields by class, beside random ones from the pool."""
    from nc_fast.command import demo_picture

    settings, dataset, cpu = demo.settings, demo.dataset, demo.runs["cpu"]
    rng = np.random.default_rng(settings.seed)

    def neurons(columns: np.ndarray) -> demo_picture.Neurons:
        return demo_picture.Neurons(demo.W[:, columns].T, cpu.moments.mean[:, columns].mean(axis=1))

    rows = []
    for name in np.unique(cpu.selection.groups)[:CLASSES_SHOWN]:
        picks = cpu.selection.indices[cpu.selection.groups == name]
        others = rng.choice(settings.pool, len(picks), replace=False)
        mean_sample = dataset.X_train[dataset.y_train == name].mean(axis=0)
        index = int(np.searchsorted(cpu.moments.classes, name))
        rows.append(demo_picture.ClassRow(index, mean_sample, neurons(picks), neurons(others)))
    demo_picture.receptive_fields(
        file,
        [str(name) for name in cpu.moments.classes],
        rows,
        dataset.image_shape,
        title=f"{settings.k} of {settings.pool} candidate neurons, picked on {dataset.name}",
        subtitle=f"{len(dataset.X_train)} samples, {dataset.X_train.shape[1]} features, He normal pool, {settings.activation}, "
        f"alpha {settings.alpha:g}, seed {settings.seed}",
    )


def train(dataset: Dataset, seed: int, file: IO[bytes], announce: Callable[[str], None]) -> list[Table]:
    """Train a network from He and from a campaign for whole epochs of about TRAINING_STEPS steps together; write a PNG of the curves.

    Raises
    ------
    ValueError
        When there are too few samples or classes.
    """
    from nc_fast import compare
    from nc_fast.compare import initializations, networks, plots, tables

    announce("training")
    data = networks.prepare(dataset)
    plan = compare.Plan((TRAINED_NETWORK,), initializations.DEFAULT, tuple(range(seed, seed + TRAINING_SEEDS)))
    plan = replace(plan, epochs=max(1, round(TRAINING_STEPS / plan.epoch_steps(len(data.X)))))
    with threadpool_limits(1):  # fastest where the matrices are small
        runs = list(
            compare.run_plan(plan, list(plan.tasks()), data, None, 1, lambda done, total: announce(f"training: {done} of {total} steps"))
        )
    plots.curves(file, runs, plan, data.name)
    return [
        grid.rich() for grid in list(tables.grids(runs, plan, data.name))[:2]
    ]  # figures and differences; times of so short a training say little
