"""The rows of a measurement: printed and written to a JSON file as they come, so that a run that is killed leaves what it measured.

``python benchmarks/gpu_results.py FILE...`` prints such files as tables.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Row:
    """One measurement.

    Attributes
    ----------
    stage, name, shape : what was measured
    seconds : median
    floor : seconds of what the row is compared with; 0 where there is nothing
    peak : bytes allocated on the device at most, inputs included
    notes : anything else
    """

    stage: str
    name: str
    shape: str = ""
    seconds: float = 0.0
    floor: float = 0.0
    peak: int = 0
    notes: dict[str, Any] = field(default_factory=dict)


class Results:
    """Rows, and the file that always holds all of them."""

    def __init__(self, path: Path, facts: dict[str, Any], judge: Callable[[list[Row]], list[str]] = lambda _: []) -> None:
        self.rows: list[Row] = []
        self._path, self._facts, self._judge = path, facts, judge
        path.parent.mkdir(parents=True, exist_ok=True)

    def collect(self, measurements: Iterable[Callable[[], Iterator[Row]]], after: Callable[[], object] = lambda: None) -> None:
        """Run the measurements, and ``after`` each of them; a failure becomes a row, and the others go on."""
        for measurement in measurements:
            try:
                for row in measurement():
                    self.add(row)
            except Exception as error:  # out of memory on a small device, say
                self.add(Row("failed", type(error).__name__, notes={"error": str(error)[-500:]}))
            after()

    def add(self, row: Row) -> None:
        """Print the row and write all rows so far; the file is replaced in one step, so it is whole at any time."""
        self.rows.append(row)
        print(line(row), flush=True)
        whole = {"machine": self._facts, "targets": self._judge(self.rows), "rows": [asdict(row) for row in self.rows]}
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(whole, indent=1, default=str))
        os.replace(partial, self._path)


def line(row: Row, without: tuple[str, ...] = ()) -> str:
    """Return a row as one line, ``without`` some of its notes."""
    said = [f"{row.seconds * 1e3:.4g} ms"] if row.seconds else []
    said += [f"{row.seconds / row.floor:.3g} x floor"] if row.seconds and row.floor else []
    notes = {key: value for key, value in row.notes.items() if key not in without}
    said += [f"{key}: {value:.4g}" if isinstance(value, float) else f"{key}: {value}" for key, value in notes.items()]
    return f"{row.stage:8} {row.name} {row.shape}".rstrip() + " | " + ", ".join(said)


def table(path: Path) -> str:
    """Return a file of results as a short table, the verdicts on the targets last."""
    whole = json.loads(path.read_text())
    facts = ", ".join(f"{key} {value}" for key, value in whole["machine"].items() if value)
    return "\n".join([facts, *(line(Row(**row), without=("spread",)) for row in whole["rows"]), *whole["targets"]])


if __name__ == "__main__":
    print("\n\n".join(table(Path(name)) for name in sys.argv[1:]))
