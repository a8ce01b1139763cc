"""What a benchmark hands over: tables to read, and a JSON file with every single run behind them."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import ROOT

NONE = "-"  # a cell of which there is nothing to say; an empty first cell would not be a row of reStructuredText


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


@dataclasses.dataclass
class Table:
    """One table; cells are text. ``notes`` are sentences that a reader needs to read it."""

    title: str
    columns: list[str]
    rows: list[list[str]] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def add(self, *cells: object) -> None:
        """One row; ValueError where it has another number of cells than there are columns."""
        if len(cells) != len(self.columns):
            raise ValueError(f"{len(cells)} cells in {len(self.columns)} columns: {cells}")
        self.rows.append([str(cell) or NONE for cell in cells])

    def lines(self) -> list[str]:
        """A simple table of reStructuredText, which is as well to read on a terminal."""
        widths = [max(len(row[at]) for row in [self.columns, *self.rows]) for at in range(len(self.columns))]
        rule = "  ".join("=" * width for width in widths)

        def line(cells: Sequence[str]) -> str:
            return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()

        return [rule, line(self.columns), rule, *[line(row) for row in self.rows], rule]

    def text(self) -> str:
        """For a terminal."""
        return "\n".join([self.title, "", *self.lines(), *[f"  {note}" for note in self.notes], ""])


@dataclasses.dataclass
class Report:
    """Collects what one benchmark measures. ``options``: those that change what is measured, for the reader."""

    benchmark: str
    options: Mapping[str, Any]
    versions: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)  # environment -> its distributions
    runs: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # every single one, also the failed ones
    tables: list[Table] = dataclasses.field(default_factory=list)
    began: str = dataclasses.field(default_factory=_now)

    def as_json(self) -> dict[str, Any]:
        """As it is written to a file."""
        return {
            "benchmark": self.benchmark,
            "began": self.began,
            "ended": _now(),
            "machine": machine(),
            "commit": commit(),
            "options": dict(self.options),
            "versions": self.versions,
            "tables": [dataclasses.asdict(table) for table in self.tables],
            "runs": self.runs,
        }

    def write(self, path: Path) -> None:
        """Whole or not at all; the directory is made. Each run says at which commit it was made."""
        now = commit()
        self.runs = [{"commit": now, **run} for run in self.runs]
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(path.suffix + ".new")
        new.write_text(json.dumps(self.as_json(), indent=1) + "\n")
        new.rename(path)

    def print(self) -> None:
        """The tables to stdout."""
        for table in self.tables:
            print(f"\n{table.text()}", flush=True)


def machine() -> dict[str, Any]:
    """Where it was measured."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def commit() -> str:
    """The commit of this checkout, with ``+`` behind it where the package differs from it; empty without git."""
    try:
        at = _git("rev-parse", "--short=12", "HEAD")
        return at + ("+" if _git("status", "--porcelain", "--", "supervisor_uvicorn", "setup.py") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return " ".join(line.partition(":")[2].split())
    return platform.machine()


# --- figures --------------------------------------------------------------------------------------------------------


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which so many percent lie, interpolated between neighbours; ValueError without values."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


@dataclasses.dataclass(frozen=True)
class Summary:
    """Of several runs of the same: how they lie."""

    count: int
    lowest: float
    median: float
    highest: float

    @property
    def spread(self) -> float:
        """From the lowest to the highest."""
        return self.highest - self.lowest


def summary(values: Sequence[float]) -> Summary | None:
    """None: there are no values."""
    if not values:
        return None
    return Summary(len(values), min(values), statistics.median(values), max(values))


def say(line: str) -> None:
    """Progress, one line, at once; to stderr, because the tables go to stdout."""
    print(line, file=sys.stderr, flush=True)
