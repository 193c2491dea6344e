"""The tables of a comparison, for the terminal, for Markdown and for CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nc_fast.compare import statistics
from nc_fast.compare.initializations import HE
from nc_fast.compare.plan import Plan
from nc_fast.compare.statistics import Estimate, Metric
from nc_fast.compare.training import Run

if TYPE_CHECKING:
    from rich.table import Table


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
    """Yield three tables per network: figures, paired differences against He, time."""
    for network in plan.networks:
        rows = [name for name in plan.initializations if statistics.by_seed(runs, network, name)]
        if not rows:
            continue
        n = max(len(statistics.by_seed(runs, network, name)) for name in rows)
        where = f"{network} on {data}, {n} seed{'s' * (n > 1)}, lr {plan.lr:g}, {plan.epochs} epoch{'s' * (plan.epochs > 1)}"
        quality = [metric for metric in statistics.QUALITY if statistics.mean_of(metric, runs, network, HE, plan.target).n]
        yield Grid(
            f"{where}: mean ± standard error",
            ("init", *(metric.title for metric in quality)),
            [(Cell(name), *_means(quality, runs, network, name, plan)) for name in rows],
        )
        compared = [*(metric for metric in quality if metric.better), statistics.TARGET]
        differences = [
            (Cell(name), *(_difference(metric, runs, network, name, plan) for metric in compared)) for name in rows if name != HE
        ]
        if differences:
            yield Grid(f"{where}: paired difference to he", ("init", *(_change(metric, plan) for metric in compared)), differences)
        yield Grid(
            f"{where}: time",
            ("init", *(_titled(metric, plan) for metric in statistics.TIME)),
            [(Cell(name), *_means(statistics.TIME, runs, network, name, plan)) for name in rows],
        )


def runs_csv(runs: Sequence[Run], plan: Plan) -> str:
    """Return a line per run with all metrics."""
    rows = [(*_name(run), *(f"{metric.of(run, plan.target):.6g}" for metric in statistics.METRICS)) for run in _sorted(runs, plan)]
    return _csv(("network", "init", "seed", *(metric.key for metric in statistics.METRICS)), rows)


def curves_csv(runs: Sequence[Run], plan: Plan) -> str:
    """Return a line per evaluation."""
    rows = [
        (*_name(run), str(point.step), f"{run.init_seconds + point.seconds:.4f}", f"{point.accuracy:.4g}", f"{point.loss:.5g}")
        for run in _sorted(runs, plan)
        for point in run.curve
    ]
    return _csv(("network", "init", "seed", "step", "seconds", "accuracy", "loss"), rows)


def summary_csv(runs: Sequence[Run], plan: Plan) -> str:
    """Return a line per network, initialization and metric: mean, standard error, n, and the same of the paired difference."""
    rows = []
    for network in plan.networks:
        for name in plan.initializations:
            for metric in statistics.METRICS:
                mean = statistics.mean_of(metric, runs, network, name, plan.target)
                difference = statistics.against_he(metric, runs, network, name, plan.target)
                figures = (f"{value:.6g}" for value in (mean.mean, mean.error, mean.n, difference.mean, difference.error, difference.n))
                rows.append((network, name, metric.key, *figures))
    return _csv(("network", "init", "metric", "mean", "error", "n", "difference", "difference_error", "pairs"), rows)


def _means(metrics: Sequence[Metric], runs: Sequence[Run], network: str, name: str, plan: Plan) -> Iterator[Cell]:
    for metric in metrics:
        yield Cell(_number(statistics.mean_of(metric, runs, network, name, plan.target), f".{metric.digits}f"))


def _difference(metric: Metric, runs: Sequence[Run], network: str, name: str, plan: Plan) -> Cell:
    value = statistics.against_he(metric, runs, network, name, plan.target)
    verdict = metric.better * (1 if value.mean > 0 else -1) if value.certain_sign else 0
    return Cell(_number(value, f"+.{1 if metric.relative else metric.digits}f"), verdict)


def _number(value: Estimate, form: str) -> str:
    if value.n == 0:
        return "-"
    return f"{value.mean:{form}}" + (f" ± {value.error:{form.removeprefix('+')}}" if value.n > 1 else "")


def _titled(metric: Metric, plan: Plan) -> str:
    return f"to {plan.target:g} %, s" if metric is statistics.TARGET else metric.title


def _change(metric: Metric, plan: Plan) -> str:
    return f"Δ {metric.title}, %" if metric.relative else f"Δ {_titled(metric, plan)}"


def _sorted(runs: Sequence[Run], plan: Plan) -> list[Run]:
    order = {task: number for number, task in enumerate(plan.tasks())}
    return sorted(runs, key=lambda run: order[run.task])


def _name(run: Run) -> tuple[str, str, str]:
    return run.task.network, run.task.initialization, str(run.task.seed)


def _csv(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
