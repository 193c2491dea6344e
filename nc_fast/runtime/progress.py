"""Progress for long calls, when asked for: a rich bar, or the caller's own function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[int, int], None]
Progress = bool | Report


@contextmanager
def reporting(progress: Progress, what: str) -> Iterator[Report | None]:
    """Yield what a stage reports (done, total) to: None, the caller's function, or a bar that lives as long as the block.

    Raises
    ------
    ImportError
        When a bar is asked for and rich is not installed.
    """
    if not isinstance(progress, bool):
        yield progress
    elif not progress:
        yield None
    else:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, transient=True) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total or None)
