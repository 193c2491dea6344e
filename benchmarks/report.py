"""Turns saved results into the ratio table and the plots of docs/performance.md.

python benchmarks/report.py out/benchmarks.json                                      # the table, on the screen
python benchmarks/report.py benchmarks/results/*.json --table docs/performance_table.md --plots docs/img
python benchmarks/report.py out/benchmarks.json --keep benchmarks/results/cpu.json   # without the single rounds: small
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from textwrap import fill
from typing import Annotated, Any

import matplotlib as mpl
import typer
from matplotlib import pyplot as plt
from rich.console import Console
from rich.table import Table

BASELINE_COLOUR, OTHER_COLOUR = "#c44e52", "#4c72b0"
HEADERS = ("contender", "median", "ratio", "rounds", "notes")


@dataclass
class Row:
    """All rounds of one contender in one group of one run."""

    group: str
    name: str
    median: float  # seconds
    rounds: int
    notes: dict[str, Any]

    @property
    def is_baseline(self) -> bool:
        return bool(self.notes.get("baseline"))

    def remarks(self) -> str:
        """The rates reached, how near estimates are, and how many picks are the reference's."""
        found = []
        if "flops" in self.notes:
            found.append(f"{self.notes['flops'] / self.median / 1e9:.0f} GFLOP/s")
        if "bytes" in self.notes:
            found.append(f"{self.notes['bytes'] / self.median / 1e9:.1f} GB/s")
        if "correlation" in self.notes:
            found.append(f"rank correlation {self.notes['correlation']:.4f}")
        if "agree" in self.notes:
            found.append(f"picks equal {self.notes['agree']}")
        return ", ".join(found)


def read(paths: Iterable[Path]) -> list[Row]:
    """Read files of pytest-benchmark, or files kept by this program; rounds of all turns count alike.

    Two files with the same group and contender are an error: ratios are within one run.
    """
    rows: list[Row] = []
    for path in paths:
        content = json.loads(path.read_text())
        found = [Row(**row) for row in content["rows"]] if "rows" in content else merge_turns(content["benchmarks"])
        seen = {(row.group, row.name) for row in rows}
        for row in found:
            if (row.group, row.name) in seen:
                raise ValueError(f"{path}: {row.group}, {row.name} is in an earlier file too; ratios are within one run")
        rows += found
    return rows


def merge_turns(benchmarks: list[dict[str, Any]]) -> list[Row]:
    seconds: dict[tuple[str, str], list[float]] = {}
    notes: dict[tuple[str, str], dict[str, Any]] = {}
    for entry in benchmarks:
        key = (entry["group"], entry["name"])
        seconds.setdefault(key, []).extend(entry["stats"]["data"])
        notes.setdefault(key, {}).update(entry["extra_info"])
    return [Row(*key, median(data), len(data), notes[key]) for key, data in seconds.items()]


def groups(rows: Iterable[Row]) -> dict[str, tuple[Row, list[Row]]]:
    """Return group -> (its baseline, all its rows); where none is marked as the baseline, it is the first."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.group, []).append(row)
    return {group: (next((row for row in members if row.is_baseline), members[0]), members) for group, members in found.items()}


def readable(seconds: float) -> str:
    for unit, scale in (("s", 1), ("ms", 1e3)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def readable_ratio(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 100 else f"{ratio:.3g}"


def cells(row: Row, baseline: Row) -> tuple[str, ...]:
    ratio = "" if row.notes.get("other_work") else readable_ratio(row.median / baseline.median)
    return row.name, readable(row.median), ratio, str(row.rounds), row.remarks()


def environments(rows: Iterable[Row]) -> list[str]:
    """Return one line for every device with its versions; it names all commits measured there."""
    commits: dict[str, set[str]] = {}
    for row in rows:
        environment = dict(row.notes.get("environment", {}))
        commit = environment.pop("commit", "unknown")
        commits.setdefault(", ".join(f"{name} {value}" for name, value in environment.items()), set()).add(commit)
    return [f"{environment}; commits {', '.join(sorted(found))}" for environment, found in commits.items()]


def markdown(rows: list[Row]) -> str:
    """Return one table a group: medians, and their ratios to the group's baseline (the row with ratio 1)."""
    lines = ["<!-- Written by benchmarks/report.py; do not edit. -->", "", "# Every benchmark", ""]
    for group, (baseline, members) in groups(rows).items():
        lines += [f"## {group}", "", f"| {' | '.join(HEADERS)} |", "| --- | ---: | ---: | ---: | --- |"]
        lines += [f"| {' | '.join(cells(row, baseline))} |" for row in members]
        lines.append("")
    lines += [fill(f"Measured on: {environment}", 140) for environment in environments(rows)]
    return "\n".join(lines) + "\n"


def show(rows: list[Row]) -> None:
    console = Console()
    for group, (baseline, members) in groups(rows).items():
        table = Table(*HEADERS, title=group, title_justify="left")
        for row in members:
            table.add_row(*cells(row, baseline), style="bold" if row.is_baseline else None)
        console.print(table)
    for environment in environments(rows):
        console.print(f"Measured on: {environment}")


def plot(rows: list[Row], folder: Path) -> list[Path]:
    """Write one picture a stage: a panel for every size, median times with their ratios to the baseline."""
    mpl.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    stages: dict[str, list[tuple[str, Row, list[Row]]]] = {}
    for group, (baseline, members) in groups(rows).items():
        stage, _, size = group.partition(" ")
        stages.setdefault(stage, []).append((size, baseline, [row for row in members if not row.notes.get("other_work")]))
    written = []
    for stage, panels in stages.items():
        longest = max(len(members) for _, _, members in panels)
        figure, axes = plt.subplots(len(panels), 1, figsize=(9, (0.3 * longest + 0.9) * len(panels)), squeeze=False, layout="constrained")
        for axis, panel in zip(axes[:, 0], panels, strict=True):
            draw(axis, *panel, log=stage != "activations")
        axes[-1, 0].set_xlabel("median time, s")
        figure.suptitle(f"{stage}: median time and its ratio to the baseline (red)")
        written.append(folder / f"{stage}.png")
        figure.savefig(written[-1], dpi=110)
        plt.close(figure)
    return written


def draw(axis: Any, size: str, baseline: Row, members: list[Row], log: bool) -> None:
    for place, row in enumerate(members):
        ratio = f"{readable_ratio(row.median / baseline.median)} x"
        axis.plot(row.median, place, "o", color=BASELINE_COLOUR if row.is_baseline else OTHER_COLOUR)
        axis.annotate(ratio, (row.median, place), xytext=(8, 0), textcoords="offset points", va="center")
    axis.set_yticks(range(len(members)), [row.name for row in members])
    axis.grid(axis="x", alpha=0.3)
    if log:
        axis.set_xscale("log")
    else:
        axis.set_xlim(left=0)
    axis.set_title(size, loc="left")
    axis.invert_yaxis()
    axis.margins(x=0.12)


def keep(rows: list[Row], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"rows": [asdict(row) for row in rows]}, indent=1) + "\n")


def main(
    results: Annotated[list[Path], typer.Argument(help="Saved by pytest --benchmark-json, or kept by --keep.")],
    table: Annotated[Path | None, typer.Option(help="Write the table there, as markdown.")] = None,
    plots: Annotated[Path | None, typer.Option(help="Write one PNG a stage into this folder.")] = None,
    keep_as: Annotated[Path | None, typer.Option("--keep", help="Write medians and notes there, without the single rounds.")] = None,
) -> None:
    """Show the ratio table of saved benchmark results; write it, its plots, its essence."""
    rows = read(results)
    show(rows)
    if table:
        table.write_text(markdown(rows))
    if plots:
        plot(rows, plots)
    if keep_as:
        keep(rows, keep_as)


if __name__ == "__main__":
    typer.run(main)
