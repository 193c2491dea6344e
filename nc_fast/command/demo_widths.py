"""What ``nc-fast demo`` shows first: accuracy against width, for neurons at random, of campaigns and of a pursuit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from nc_fast.activations import ACTIVATIONS
from nc_fast.api import class_moments
from nc_fast.candidates import data_pairs
from nc_fast.command.demo import Settings, drawn
from nc_fast.criteria import ib_scores
from nc_fast.files.read import Dataset
from nc_fast.files.untrusted import replacing
from nc_fast.greedy import select
from nc_fast.heads import ridge_head
from nc_fast.pursue import pursuit

if TYPE_CHECKING:
    from rich.table import Table

WIDTHS = (10, 20, 50, 100, 200, 300)
CANDIDATES_PER_NEURON = 10  # of the largest width: with far more candidates than samples, pursuit overfits
DPI = 150
INK, FAINT, GRID = "#1a1a1a", "#6b6b6b", "#e6e6e6"
LINES = {  # drawn and listed in this order: color, what it is
    "pursuit": ("#1f78b4", "the first picks of one pursuit"),
    "campaign": ("#b2182b", "a campaign for every width"),
    "random": ("#1a1a1a", "the first of the pool"),
}


@dataclass(frozen=True, eq=False)
class Curves:
    """Percentages of the held-out samples that are classified right: ``accuracy`` by selection, a number for each of ``widths``."""

    data: str
    features: int
    training_samples: int
    held_out_samples: int
    candidates: int
    activation: str
    alpha: float
    seed: int
    widths: list[int]
    accuracy: dict[str, list[float]]

    def errors(self, selection: str) -> np.ndarray:
        """Return the standard errors of the accuracies that so few held-out samples leave, in points."""
        percent = np.array(self.accuracy[selection])
        return np.asarray(np.sqrt(percent * (100 - percent) / self.held_out_samples))

    def json(self) -> bytes:
        """Return everything as the text of a JSON object."""
        return json.dumps(asdict(self), indent=2).encode() + b"\n"


def show(
    dataset: Dataset, settings: Settings, max_samples: int | None, json_path: Path | None, file: IO[bytes], announce: Callable[[str], None]
) -> Iterator[Table | str]:
    """Measure, write a PNG of the curves and, when asked for, a JSON file, and return what the demo prints."""
    curves = measure(dataset, settings, max_samples, announce)
    announce("accuracy by width: picture")
    picture(curves, file)
    if json_path:
        with replacing(json_path) as text:
            text.write(curves.json())
    return tables(curves)


def measure(dataset: Dataset, settings: Settings, max_samples: int | None, announce: Callable[[str], None]) -> Curves:
    """Put ridge heads on a fixed hidden layer, its neurons selected in three ways from one pool, and test them on held-out samples.

    Raises
    ------
    ValueError
        When there are too few samples or classes.
    """
    rng = np.random.default_rng(settings.seed)
    dataset = drawn(dataset.scaled().with_test(), max_samples, rng)
    X, y, X_test, y_test = dataset.X_train, dataset.y_train, dataset.X_test, dataset.y_test
    assert X_test is not None
    widths = [width for width in WIDTHS if width < len(X)]  # n centred activations have a rank of at most n - 1
    if not widths:
        raise ValueError(f"{dataset.name}: expected more than {WIDTHS[0]} training samples, got {len(X)}")
    announce("accuracy by width: pool")
    W, bias = data_pairs(X, y, CANDIDATES_PER_NEURON * widths[-1], rng)

    def activations(samples: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return np.asarray(ACTIVATIONS[settings.activation](samples @ W[:, columns] + bias[columns]))

    def accuracy(columns: np.ndarray, weights: np.ndarray, intercept: np.ndarray, classes: np.ndarray | None) -> float:
        assert classes is not None
        outputs = activations(X_test, columns) @ weights + intercept
        return 100 * float(np.mean(classes[outputs.argmax(axis=1)] == y_test))

    found: dict[str, list[float]] = {selection: [] for selection in LINES}
    announce("accuracy by width: pursuit")
    pursued = pursuit(W, X, y, widths[-1], bias=bias, activation=settings.activation, rng=rng)
    for width in widths:
        first = pursued.take(width)
        found["pursuit"].append(accuracy(first.indices, first.head, first.intercept, first.classes))

    announce("accuracy by width: random")
    gram = ridge_head(activations(X, np.arange(widths[-1])), y).gram
    for width in widths:
        head = ridge_head(gram.take(width))
        found["random"].append(accuracy(np.arange(width), head.weights, head.intercept, head.classes))

    announce("accuracy by width: campaign")
    scores = ib_scores(class_moments(W, X, y, bias=bias, activation=settings.activation), alpha=settings.alpha)
    for width in widths:
        picks = select(W, scores, width).indices
        head = ridge_head(activations(X, picks), y)
        found["campaign"].append(accuracy(picks, head.weights, head.intercept, head.classes))

    return Curves(
        dataset.name,
        X.shape[1],
        len(X),
        len(X_test),
        W.shape[1],
        settings.activation,
        settings.alpha,
        settings.seed,
        widths,
        found,
    )


def tables(curves: Curves) -> Iterator[Table | str]:
    """Yield what the demo prints: a row for every width, the best of it in bold; what the columns are."""
    from rich.markup import escape
    from rich.table import Table

    yield (
        f"[bold]Accuracy by width[/] on {escape(curves.data)}: one hidden layer that is not trained, {curves.activation}, "
        f"{curves.candidates} candidates from pairs of samples, seed {curves.seed}\n"
    )
    table = Table("neurons", title=f"Accuracy on {curves.held_out_samples} held-out samples, %")
    selections = list(reversed(LINES))
    for selection in selections:
        table.add_column(selection, justify="right")
    for width, *row in zip(curves.widths, *(curves.accuracy[selection] for selection in selections), strict=True):
        table.add_row(str(width), *(f"[bold]{value:.1f}[/]" if value == max(row) else f"{value:.1f}" for value in row))
    yield table
    errors = np.array([curves.errors(selection) for selection in LINES])
    yield (
        f"[dim]{_legend(curves, '; ')}. The head is ridge regression, its strength by leave-one-out, on {curves.training_samples} training "
        f"samples; pursuit picks on up to 5000 of them. One pool; standard errors of {errors.min():.1f} to {errors.max():.1f} points for "
        "the number of held-out samples. Pursuit overfits where candidates far outnumber samples.[/]\n"
    )


def _legend(curves: Curves, between: str) -> str:
    alpha = {"campaign": f", alpha {curves.alpha:g}"}
    return between.join(f"{selection}: {what}{alpha.get(selection, '')}" for selection, (_, what) in reversed(LINES.items()))


def picture(curves: Curves, file: IO[bytes]) -> None:
    """Write a PNG of the curves, each in a band of a standard error to both sides."""
    from matplotlib.figure import Figure

    figure = Figure((7.2, 4.4), dpi=DPI, layout="constrained", facecolor="white")
    axes = figure.subplots()
    for selection, (color, what) in LINES.items():
        percent, error = np.array(curves.accuracy[selection]), curves.errors(selection)
        axes.plot(curves.widths, percent, color=color, marker="o", markersize=4, linewidth=1.8, label=f"{selection}: {what}")
        axes.fill_between(curves.widths, percent - error, percent + error, color=color, alpha=0.12, linewidth=0)
    axes.set_xscale("log")
    axes.set_xticks(curves.widths, [str(width) for width in curves.widths])
    axes.minorticks_off()
    axes.set_xlabel(f"neurons, of {curves.candidates} candidates from pairs of samples", color=INK)
    axes.set_ylabel(f"accuracy on {curves.held_out_samples} held-out samples, %", color=INK)
    axes.legend(loc="lower right", fontsize=8.5, frameon=False)
    axes.grid(color=GRID, linewidth=0.6)
    axes.tick_params(colors=FAINT, labelsize=8.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_title(
        f"{curves.data}: {curves.training_samples} training samples, {curves.features} features, {curves.activation}, "
        f"alpha {curves.alpha:g}, seed {curves.seed}\nridge head on a fixed hidden layer; bands: one standard error",
        fontsize=9,
        color=FAINT,
        loc="left",
        parse_math=False,
    )
    figure.suptitle("Accuracy by width", x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    figure.savefig(file, format="png", dpi=DPI)
