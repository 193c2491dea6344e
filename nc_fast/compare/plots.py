"""Curves of a comparison: test accuracy in the first epoch's steps and in seconds, test error by epoch; means over the seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import IO, TYPE_CHECKING

import numpy as np

from nc_fast.compare import statistics
from nc_fast.compare.initializations import HE
from nc_fast.compare.plan import Plan
from nc_fast.compare.training import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = Callable[[Run], Sequence[tuple[float, float]]]

DPI = 150
INK, FAINT = "#1a1a1a", "#6b6b6b"
HE_COLOR, CAMPAIGN_COLOR = "#1a1a1a", "#b2182b"
SPECIAL = {HE: HE_COLOR, "campaign": CAMPAIGN_COLOR}
OTHERS = ("#1f78b4", "#33a02c", "#ff7f00", "#6a3d9a", "#a6761d", "#17a2b8", "#e78ac3", "#8da0cb", "#66a61e", "#999999")
EARLY_STEPS = 300  # at least, in the first panel: an epoch of a small data set is a few steps
LOWEST_SHOWN = 40  # percent, at most, where an accuracy axis begins: what matters is above it


def curves(file: IO[bytes], runs: Sequence[Run], plan: Plan, data: str) -> None:
    """Draw a PNG with a row per network; after a sweep, each initialization at its best rate.

    Parameters
    ----------
    file : open for binary writing
    runs : the plan's, at least one of them
    plan : Plan
    data : name of the data set
    """
    from matplotlib.figure import Figure

    networks = [network for network in plan.networks if any(run.task.network == network for run in runs)]
    columns = 3 if plan.epochs > 1 else 2
    figure = Figure((2.6 + 4.6 * columns, 0.7 + 3.5 * len(networks)), dpi=DPI, layout="constrained", facecolor="white")
    panels = figure.subplots(len(networks), columns, squeeze=False)
    for network, row in zip(networks, panels, strict=True):
        steps = next(run.epoch_steps for run in runs if run.task.network == network)
        _panel(row[0], runs, plan, network, _early(steps))
        row[0].set(xlabel="steps", ylabel="test accuracy, %", title=f"{network}: {_first(plan, steps)}")
        _panel(row[1], runs, plan, network, lambda run: [(run.init_seconds + point.seconds, point.accuracy) for point in run.curve])
        row[1].set(xlabel="seconds, initialization included", ylabel="test accuracy, %", title=f"{network}: against time")
        for axes in row[:2]:
            axes.set_ylim(bottom=max(axes.get_ylim()[0], min(LOWEST_SHOWN, axes.get_ylim()[1] - 10)))
        if plan.epochs > 1:
            _panel(row[2], runs, plan, network, lambda run: list(enumerate(statistics.epoch_errors(run), 1)))
            row[2].set(xlabel="epochs", ylabel="test error, %", title=f"{network}: all epochs")
            row[2].xaxis.get_major_locator().set_params(integer=True)
            row[2].set_yscale("log")
            row[2].yaxis.set_minor_formatter("{x:g}")
            row[2].yaxis.set_major_formatter("{x:g}")
    handles = {label: handle for axes in panels[:, 0] for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside right center", fontsize=8, frameon=False)
    n = len({run.task.seed for run in runs})
    rate = f"lr {plan.lr[0]:g}" if len(plan.lr) == 1 else "each at its best lr"
    title = f"{data}: the same batches from different initializations; mean of {n} seed{'s' * (n > 1)}, {plan.optimizer}, {rate}"
    figure.suptitle(title, fontsize=10, color=INK)
    figure.savefig(file, format="png", dpi=DPI)


def _first(plan: Plan, epoch_steps: int) -> str:
    return "first epoch" if plan.epochs == 1 or epoch_steps >= EARLY_STEPS else f"first {min(EARLY_STEPS, plan.epochs * epoch_steps)} steps"


def _early(epoch_steps: int) -> Points:
    last = max(epoch_steps, EARLY_STEPS)
    return lambda run: [(point.step, point.accuracy) for point in run.curve if point.step <= last]


def _panel(axes: Axes, runs: Sequence[Run], plan: Plan, network: str, points: Points) -> None:
    others = iter(OTHERS * len(plan.initializations))
    colors = {name: SPECIAL.get(name) or next(others) for name in plan.initializations}
    for row in statistics.best_rows(runs, plan, network):
        name = row.initialization
        lines = np.array([points(run) for run in statistics.by_seed(runs, network, name, row.lr).values()])
        x, values = lines[:, :, 0].mean(axis=0), lines[:, :, 1]
        mean, error = values.mean(axis=0), values.std(axis=0, ddof=min(1, len(lines) - 1)) / np.sqrt(len(lines))
        width, order = (2.2, 3) if name in SPECIAL else (1.1, 2)
        axes.plot(x, mean, color=colors[name], linewidth=width, zorder=order, label=name, marker="o" if len(x) == 1 else None)
        if name in SPECIAL:  # bands of all the others would hide each other
            axes.fill_between(x, mean - error, mean + error, color=colors[name], alpha=0.15, linewidth=0)
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.tick_params(colors=FAINT, labelsize=8)
    axes.title.set_fontsize(9.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
