"""What ``nc-fast compare`` does: run what is missing, with a bar, then write and print."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from nc_fast.compare import plots, tables
from nc_fast.compare.plan import Plan
from nc_fast.compare.records import Folder
from nc_fast.compare.workers import load_data, run_plan
from nc_fast.files.untrusted import PathLike, replacing
from nc_fast.runtime.progress import reporting

if TYPE_CHECKING:
    from rich.console import Console

PICTURE, TABLE = "curves.png", "table.md"
CSV_FILES = {"summary.csv": tables.summary_csv, "runs.csv": tables.runs_csv, "curves.csv": tables.curves_csv}


def numbers(option: str, text: str) -> tuple[float, ...]:
    """Return the numbers of an option, which have commas between them.

    Raises
    ------
    ValueError
        When they are not numbers, naming the option.
    """
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        raise ValueError(f"{option}: expected a number, or several with commas between, got {text!r}") from None


def run_and_write(plan: Plan, source: PathLike | None, jobs: int | None, out: Path, console: Console) -> None:
    """Run the plan's tasks that the folder does not hold yet, write tables and curves into it, print the tables."""
    plan.check()
    data = load_data(source, plan)
    plan.check_samples(data)
    left_out = list(plan.left_out())
    for line in left_out:
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    with Folder(out).opened(plan.fingerprint(data)) as runs:
        finished = {run.task for run in runs}
        tasks = [task for task in plan.tasks() if task not in finished]
        if finished:
            console.print(f"{len(finished)} of {len(finished) + len(tasks)} runs are finished already", highlight=False)
        with reporting(console.is_terminal, "training steps") as bar, closing(run_plan(plan, tasks, data, source, jobs, bar)) as new:
            for run in new:
                Folder(out).append(run)
                runs.append(run)
    grids = list(tables.grids(runs, plan, data.name))
    texts = {name: text_of(runs, plan) for name, text_of in CSV_FILES.items()} | {
        TABLE: "\n".join([*(grid.markdown() for grid in grids), *(f"{line}.\n" for line in left_out)])
    }
    for name, text in texts.items():
        with replacing(out / name) as file:
            file.write(text.encode())
    with replacing(out / PICTURE) as file:
        plots.curves(file, runs, plan, data.name)
    for grid in grids:
        console.print(grid.rich())
    console.print("green: better than he by more than two standard errors; red: worse", highlight=False)
    console.print(f"written to {out}: {', '.join((TABLE, *CSV_FILES, PICTURE))}", soft_wrap=True, markup=False, highlight=False)
