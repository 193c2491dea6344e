"""What ``nc-fast compare`` does: run what is missing, with a bar, then write and print."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from nc_fast.compare import plots, tables
from nc_fast.compare.plan import Plan
from nc_fast.compare.records import Folder
from nc_fast.compare.workers import cores, load_samples, run_plan
from nc_fast.files.read import PathLike, replacing
from nc_fast.runtime.progress import reporting

if TYPE_CHECKING:
    from rich.console import Console

PICTURE, TABLE = "curves.png", "table.md"
CSV_FILES = {"summary.csv": tables.summary_csv, "runs.csv": tables.runs_csv, "curves.csv": tables.curves_csv}


def compare(plan: Plan, source: PathLike | None, jobs: int | None, out: Path, console: Console) -> None:
    """Run the plan's tasks that the folder does not hold yet, write tables and curves into it, print the tables."""
    plan.check()
    samples = load_samples(source, plan.device)
    with Folder(out).opened(plan.fingerprint(samples)) as runs:
        finished = {run.task for run in runs}
        tasks = [task for task in plan.tasks() if task not in finished]
        if finished:
            console.print(f"{len(finished)} of {len(finished) + len(tasks)} runs are finished already", highlight=False)
        steps = plan.steps(len(samples.X))
        with reporting(console.is_terminal, "training steps") as bar:
            report = _accumulated(bar, len(tasks) * steps)
            for run in run_plan(plan, tasks, samples, source, jobs or (cores() if plan.device == "cpu" else 1), report):
                Folder(out).append(run)
                runs.append(run)
    grids = list(tables.grids(runs, plan, samples.name))
    for name, text_of in CSV_FILES.items():
        _write(out / name, text_of(runs, plan))
    _write(out / TABLE, "\n".join(grid.markdown() for grid in grids))
    with replacing(out / PICTURE) as file:
        plots.curves(file, runs, plan, samples.name)
    for grid in grids:
        console.print(grid.rich())
    console.print("green: better than he by more than two standard errors; red: worse", highlight=False)
    console.print(f"written to {out}: {', '.join((TABLE, *CSV_FILES, PICTURE))}", soft_wrap=True, markup=False, highlight=False)


def _accumulated(bar: Callable[[int, int], None] | None, total: int) -> Callable[[int], None]:
    done = 0

    def report(steps: int) -> None:
        nonlocal done
        done += steps
        if bar:
            bar(done, total)

    return report


def _write(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())
