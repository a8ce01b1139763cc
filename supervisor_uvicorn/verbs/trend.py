"""What became of each worker in the last reports, one character a report, the newest at the right. Pure.

A block is its lag, on a scale on which each step is three times the one before: an event loop's lag goes from
microseconds to a minute, and what matters is by how much it has grown. A letter is a verdict that has no lag to show.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from supervisor_uvicorn.model import Verdict

MOST_REPORTS = 30
STEPS_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""The highest lag, in seconds, of each step but the last."""
BLOCKS = "▁▂▃▄▅▆▇█"  # U+2581 to U+2588
ASCII = ".:-=+*#@"

_LETTERS = {
    Verdict.SILENT.value: "!",
    Verdict.FAILING.value: "x",
    Verdict.STARTING.value: "s",
    Verdict.STOPPING.value: "d",  # it drains
}
UNKNOWN = " "


def mark(worker: Mapping[str, Any], blocks: bool) -> str:
    """One character for a worker of the page.

    >>> [mark({"watched": True, "verdict": "healthy", "lag_s": lag_s}, False) for lag_s in (0.0005, 0.02, 5.0, None)]
    ['.', '=', '@', ' ']
    """
    if not worker["watched"]:
        return UNKNOWN
    lag_s = worker["lag_s"]
    if worker["verdict"] == Verdict.HEALTHY.value and lag_s is not None:
        return (BLOCKS if blocks else ASCII)[bisect_left(STEPS_S, lag_s)]
    return _LETTERS.get(worker["verdict"], UNKNOWN)


class Trends:
    """Gathered while somebody watches: a page knows only now. By a worker's name, so that a restart is in it."""

    def __init__(self, blocks: bool, most: int = MOST_REPORTS) -> None:
        self._blocks, self._most = blocks, most
        self._marks: dict[str, deque[str]] = {}

    def add(self, workers: Sequence[Mapping[str, Any]]) -> None:
        """One report. Whoever is not in it is forgotten."""
        before, self._marks = self._marks, {}
        for worker in workers:
            marks = before.get(worker["name"]) or deque(maxlen=self._most)
            marks.append(mark(worker, self._blocks))
            self._marks[worker["name"]] = marks

    def of(self, name: str) -> str:
        """At most ``most`` characters; "" for a worker that was in no report."""
        return "".join(self._marks.get(name, ()))
