"""The folder of one comparison: its settings, and a line per finished run, so that an interrupted one goes on."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nc_fast.compare.plan import Task
from nc_fast.compare.training import Point, Run
from nc_fast.files.untrusted import replacing

SETTINGS, RUNS = "settings.json", "runs.jsonl"


@dataclass(frozen=True)
class Folder:
    """A folder with settings.json and runs.jsonl."""

    path: Path

    @contextmanager
    def opened(self, settings: Mapping[str, Any]) -> Iterator[list[Run]]:
        """Make the folder, or take up what is in it; yield the runs that are finished. One process at a time.

        Raises
        ------
        ValueError
            When its runs were made with other settings, or another process is at work in it.
        """
        self.path.mkdir(exist_ok=True)
        with (self.path / RUNS).open("ab") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"--out: {self.path} is in use by another comparison") from None
            lines = self._lines()
            self._settle(settings, started=bool(lines))
            yield self._parsed(lines)

    def append(self, run: Run) -> None:
        """Add a finished run in one write: an interruption leaves the whole line, or one without its end, which ``opened`` drops."""
        line = json.dumps(asdict(run)).encode() + b"\n"
        with (self.path / RUNS).open("ab", buffering=0) as file:
            file.write(line)
            os.fsync(file.fileno())

    def _settle(self, settings: Mapping[str, Any], *, started: bool) -> None:
        path = self.path / SETTINGS
        if started:
            try:
                found = json.loads(path.read_text())
            except (OSError, ValueError):
                raise ValueError(
                    f"{path}: expected the settings of {RUNS}, got damaged data or none; delete {self.path} or choose another --out"
                ) from None
            differing = [name for name in {**found, **settings} if found.get(name) != settings.get(name)]
            if differing:
                others = "; ".join(f"{name} {found.get(name)!r}, here {settings.get(name)!r}" for name in differing)
                raise ValueError(f"--out: {self.path} holds runs with {others}: delete it or choose another")
        else:
            with replacing(path) as file:
                file.write(json.dumps(settings, indent=1).encode())

    def _lines(self) -> list[bytes]:
        path = self.path / RUNS
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):  # an interruption in the middle of a write
            os.truncate(path, len(whole))
        return whole.splitlines()

    def _parsed(self, lines: list[bytes]) -> list[Run]:
        try:
            return [_run(json.loads(line)) for line in lines]
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{self.path / RUNS}: expected a run per line, got damaged data; delete {self.path} or choose another --out"
            ) from None


def _run(plain: dict[str, Any]) -> Run:
    curve = tuple(Point(**point) for point in plain.pop("curve"))
    return Run(task=Task(**plain.pop("task")), curve=curve, **plain)
