"""Prints one figure of several comparisons as a Markdown table: a row per comparison and network, a column per initialization.

    python benchmarks/initialization_table.py first_epoch_loss benchmarks/results/initialization-mnist-sgd.csv ...

The files are the ``summary.csv`` of ``nc-fast compare``. Cells are paired differences to He with their standard errors, He's own
column its mean; bold is beyond two standard errors. With several learning rates the rows at each initialization's best are shown.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

HE = "he"
DIGITS = {"first_epoch_loss": (4, 1)}  # after the decimal point, of He's mean and of differences; others (2, 2)


def cells(rows: Sequence[dict[str, str]], metric: str) -> Iterator[tuple[str, str, str]]:
    """Yield (network, initialization, text) for the rows of a metric."""
    of_mean, of_difference = DIGITS.get(metric, (2, 2))
    best = any(row["rate"] == "best" for row in rows)
    for row in rows:
        if row["metric"] != metric or (row["rate"] == "best") != best:
            continue
        rate = f" (lr {row['lr']})" if best else ""
        if row["init"] == HE:
            yield row["network"], HE, f"{float(row['mean']):.{of_mean}f}{rate}"
        else:
            difference, error = float(row["difference"]), float(row["difference_error"])
            text = f"{difference:+.{of_difference}f} ± {error:.{of_difference}f}"
            shown = f"**{text}**" if abs(difference) > 2 * error else text
            yield row["network"], row["init"], (shown if math.isfinite(difference) else "some diverged") + rate


def table(files: Sequence[Path], metric: str) -> str:
    """Return the table."""
    found: dict[str, dict[str, str]] = {}
    for file in files:
        with file.open(newline="") as opened:
            for network, name, text in cells(list(csv.DictReader(opened)), metric):
                found.setdefault(f"{file.stem.removeprefix('initialization-')}, {network}", {})[name] = text
    names = sorted({name for texts in found.values() for name in texts}, key=lambda name: (name != HE, name))
    lines = [["", *names], ["---", *["---:"] * len(names)]]
    lines += [[row, *(texts.get(name, "") for name in names)] for row, texts in found.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("metric")
    parser.add_argument("files", nargs="+", type=Path)
    arguments = parser.parse_args()
    print(table(arguments.files, arguments.metric))
