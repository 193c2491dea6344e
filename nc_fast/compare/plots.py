"""Curves of a comparison: test accuracy in the first epoch's steps, and test error by epoch, as means over the seeds."""

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
OTHERS = ("#1f78b4", "#33a02c", "#ff7f00", "#6a3d9a", "#a6761d", "#17a2b8", "#e78ac3", "#8da0cb", "#66a61e", "#999999")
EARLY_STEPS = 300  # at least, in the first panel: an epoch of a small data set is a few steps
LOWEST_SHOWN = 40  # percent, at most, where the accuracy axis begins: what matters is above it


def curves(file: IO[bytes], runs: Sequence[Run], plan: Plan, data: str) -> None:
    """Draw a PNG with a row per network.

    Parameters
    ----------
    file : open for binary writing
    runs : the plan's, at least one of them
    plan : Plan
    data : name of the data set
    """
    from matplotlib.figure import Figure

    networks = [network for network in plan.networks if any(run.task.network == network for run in runs)]
    columns = 2 if plan.epochs > 1 else 1
    figure = Figure((2.6 + 4.6 * columns, 0.7 + 3.5 * len(networks)), dpi=DPI, layout="constrained", facecolor="white")
    panels = figure.subplots(len(networks), columns, squeeze=False)
    for network, row in zip(networks, panels, strict=True):
        steps = next(run.epoch_steps for run in runs if run.task.network == network)
        _panel(row[0], runs, plan, network, _early(steps))
        row[0].set(xlabel="steps", ylabel="test accuracy, %", title=f"{network}: {_first(plan, steps)}")
        row[0].set_ylim(bottom=max(row[0].get_ylim()[0], min(LOWEST_SHOWN, row[0].get_ylim()[1] - 10)))
        if columns == 2:
            _panel(row[1], runs, plan, network, lambda run: list(enumerate(statistics.epoch_errors(run), 1)))
            row[1].set(xlabel="epochs", ylabel="test error, %", title=f"{network}: all epochs")
            row[1].xaxis.get_major_locator().set_params(integer=True)
            row[1].set_yscale("log")
            row[1].yaxis.set_minor_formatter("{x:g}")
            row[1].yaxis.set_major_formatter("{x:g}")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
    n = len({run.task.seed for run in runs})
    title = f"{data}: the same batches from different initializations; mean of {n} seed{'s' * (n > 1)}, lr {plan.lr:g}"
    figure.suptitle(title, fontsize=10, color=INK)
    figure.savefig(file, format="png", dpi=DPI)


def _first(plan: Plan, epoch_steps: int) -> str:
    return "first epoch" if plan.epochs == 1 or epoch_steps >= EARLY_STEPS else f"first {min(EARLY_STEPS, plan.epochs * epoch_steps)} steps"


def _early(epoch_steps: int) -> Points:
    last = max(epoch_steps, EARLY_STEPS)
    return lambda run: [(point.step, point.accuracy) for point in run.curve if point.step <= last]


def _panel(axes: Axes, runs: Sequence[Run], plan: Plan, network: str, points: Points) -> None:
    others = iter(OTHERS * len(plan.initializations))
    for name in plan.initializations:
        found = list(statistics.by_seed(runs, network, name).values())
        special = HE_COLOR if name == HE else CAMPAIGN_COLOR if name == "campaign" else None
        color = special or next(others)
        if not found:
            continue
        lines = [points(run) for run in found]
        x, values = np.array([at for at, _ in lines[0]]), np.array([[value for _, value in line] for line in lines])
        mean, error = values.mean(axis=0), values.std(axis=0, ddof=min(1, len(found) - 1)) / np.sqrt(len(found))
        width, order = (2.2, 3) if special else (1.1, 2)
        axes.plot(x, mean, color=color, linewidth=width, zorder=order, label=name, marker="o" if len(x) == 1 else None)
        if special:  # bands of all the others would hide each other
            axes.fill_between(x, mean - error, mean + error, color=color, alpha=0.15, linewidth=0)
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.tick_params(colors=FAINT, labelsize=8)
    axes.title.set_fontsize(9.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
