"""The tables of a comparison, for the terminal, for Markdown and for CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nc_fast.compare import statistics
from nc_fast.compare.initializations import HE
from nc_fast.compare.plan import Plan
from nc_fast.compare.statistics import Estimate, Metric, Row
from nc_fast.compare.training import Run

if TYPE_CHECKING:
    from rich.table import Table

NAME = ("network", "init", "lr", "seed")


@dataclass(frozen=True)
class Cell:
    """Text, and whether it says better (1), worse (-1) or neither."""

    text: str
    verdict: int = 0


@dataclass(frozen=True)
class Grid:
    """A table: a title, headers, and rows that begin with a name."""

    title: str
    headers: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]

    def rich(self) -> Table:
        """Return it for the terminal: better in green, worse in red."""
        from rich.markup import escape
        from rich.table import Table
        from rich.text import Text

        styles = {1: "green", -1: "red", 0: ""}
        table = Table(title=escape(self.title))
        for number, header in enumerate(self.headers):
            table.add_column(escape(header), justify="right" if number else "left")
        for row in self.rows:
            table.add_row(*(Text(cell.text, styles[cell.verdict]) for cell in row))
        return table

    def markdown(self) -> str:
        """Return it as Markdown: differences beyond two standard errors in bold."""
        lines = [f"**{self.title}**", "", _line(self.headers), _line(["---", *["---:"] * (len(self.headers) - 1)])]
        lines += [_line([f"**{cell.text}**" if cell.verdict else cell.text for cell in row]) for row in self.rows]
        return "\n".join(lines) + "\n"


def grids(runs: Sequence[Run], plan: Plan, data: str) -> Iterator[Grid]:
    """Yield three tables per network: figures, paired differences against He, time; after a sweep three more, each at its best rate."""
    for network in plan.networks:
        rows = statistics.rows(runs, plan, network)
        if not rows:
            continue
        n = len({run.task.seed for run in runs if run.task.network == network})
        samples = "" if plan.train_samples is None else f", {plan.train_samples} training samples"
        rates = ", ".join(f"{lr:g}" for lr in plan.lr)
        seeds, epochs = f"{n} seed{'s' * (n > 1)}", f"{plan.epochs} epoch{'s' * (plan.epochs > 1)}"
        where = f"{network} on {data}{samples}, {seeds}, {plan.optimizer} at lr {rates}, {epochs}"
        yield from _three(where, HE, rows, runs, plan, network)
        if len(plan.lr) > 1:
            best = statistics.best_rows(runs, plan, network)
            yield from _three(f"{where}, each at its best", f"{HE} at {best[0].he_lr:g}", best, runs, plan, network)


def _three(where: str, he: str, rows: Sequence[Row], runs: Sequence[Run], plan: Plan, network: str) -> Iterator[Grid]:
    runs_of = {row: statistics.by_seed(runs, network, row.initialization, row.lr) for row in rows}
    he_of = {row: statistics.by_seed(runs, network, HE, row.he_lr) for row in rows}
    names = {row: (Cell(row.initialization), *((Cell(f"{row.lr:g}"),) if len(plan.lr) > 1 else ())) for row in rows}
    first = ("init", "lr")[: len(names[rows[0]])]
    quality = [metric for metric in statistics.quality(plan) if any(statistics.mean_of(metric, found).n for found in runs_of.values())]
    diverged = any(run.diverged for found in runs_of.values() for run in found.values())
    yield Grid(
        f"{where}: mean ± standard error",
        (*first, *(metric.title for metric in quality), *((statistics.DIVERGED.title,) if diverged else ())),
        [(*names[row], *_means(quality, found), *((_diverged(found),) if diverged else ())) for row, found in runs_of.items()],
    )
    compared = [*(metric for metric in quality if metric.better), *statistics.targets(plan)]
    differences = [
        (*names[row], *(_difference(metric, found, he_of[row]) for metric in compared))
        for row, found in runs_of.items()
        if row.initialization != HE
    ]
    if differences:
        titles = (f"Δ {metric.title}, %" if metric.relative else f"Δ {metric.title}" for metric in compared)
        yield Grid(f"{where}: paired difference to {he}", (*first, *titles), differences)
    times = statistics.time(plan)
    yield Grid(
        f"{where}: time",
        (*first, *(metric.title for metric in times)),
        [(*names[row], *_means(times, found)) for row, found in runs_of.items()],
    )


def runs_csv(runs: Sequence[Run], plan: Plan) -> str:
    """Return a line per run with all metrics."""
    metrics = statistics.metrics(plan)
    rows = [(*_name(run), *(f"{metric.of(run):.6g}" for metric in metrics)) for run in _sorted(runs, plan)]
    return _csv((*NAME, *(metric.key for metric in metrics)), rows)


def curves_csv(runs: Sequence[Run], plan: Plan) -> str:
    """Return a line per evaluation."""
    rows = [
        (*_name(run), str(point.step), f"{run.init_seconds + point.seconds:.4f}", f"{point.accuracy:.4g}", f"{point.loss:.5g}")
        for run in _sorted(runs, plan)
        for point in run.curve
    ]
    return _csv((*NAME, "step", "seconds", "accuracy", "loss"), rows)


def summary_csv(runs: Sequence[Run], plan: Plan) -> str:
    """Return a line per network, initialization, learning rate and metric: mean, standard error, n, and of the paired difference to He.

    ``he_lr`` is He's rate in that difference: the same one, and in the lines where ``rate`` is "best" both have their own best.
    """
    lines = []
    for network in plan.networks:
        kinds = {"each": statistics.rows(runs, plan, network)}
        if len(plan.lr) > 1:
            kinds["best"] = statistics.best_rows(runs, plan, network)
        for kind, row in ((kind, row) for kind, rows in kinds.items() for row in rows):
            found = statistics.by_seed(runs, network, row.initialization, row.lr)
            he = statistics.by_seed(runs, network, HE, row.he_lr)
            for metric in statistics.metrics(plan):
                estimates = statistics.mean_of(metric, found), statistics.difference(metric, found, he)
                figures = (f"{value:.6g}" for each in estimates for value in (each.mean, each.error, each.n))
                lines.append((network, row.initialization, f"{row.lr:g}", kind, f"{row.he_lr:g}", metric.key, *figures))
    header = ("network", "init", "lr", "rate", "he_lr", "metric", "mean", "error", "n", "difference", "difference_error", "pairs")
    return _csv(header, lines)


def _means(metrics: Sequence[Metric], runs: Mapping[int, Run]) -> Iterator[Cell]:
    for metric in metrics:
        yield Cell(_number(statistics.mean_of(metric, runs), f".{metric.digits}f", len(runs)))


def _difference(metric: Metric, runs: Mapping[int, Run], he: Mapping[int, Run]) -> Cell:
    value = statistics.difference(metric, runs, he)
    verdict = metric.better * (1 if value.mean > 0 else -1) if value.certain_sign else 0
    return Cell(_number(value, f"+.{1 if metric.relative else metric.digits}f", len(runs)), verdict)


def _diverged(runs: Mapping[int, Run]) -> Cell:
    return Cell(f"{sum(run.diverged for run in runs.values())} of {len(runs)}")


def _number(value: Estimate, form: str, of: int) -> str:
    """Return a mean with its error, and of how many of the runs it is the mean, where not of all."""
    if value.n == 0:
        return "-"
    error = f" ± {value.error:{form.removeprefix('+')}}" if math.isfinite(value.error) else ""
    return f"{value.mean:{form}}{error}" + (f" ({value.n} of {of})" if value.n < of else "")


def _sorted(runs: Sequence[Run], plan: Plan) -> list[Run]:
    order = {task: number for number, task in enumerate(plan.tasks())}
    return sorted(runs, key=lambda run: order[run.task])


def _name(run: Run) -> tuple[str, ...]:
    return run.task.network, run.task.initialization, f"{run.task.lr:g}", str(run.task.seed)


def _csv(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
