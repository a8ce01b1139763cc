"""Differences of a percent, on a machine that drifts by several: paired slices, their median, and its interval.

A slice without and one with lie beside each other in time, so that what slows the machine down slows both. Who comes
first changes from pair to pair, so that a drift in one direction favours nobody.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterator, Sequence

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Difference:
    """The median of paired differences, and an interval that holds the true one with :data:`CONFIDENCE`.

    ``low`` and ``high`` are None where there are too few pairs to say so (below six).
    """

    pairs: int
    median: float
    low: float | None
    high: float | None

    def above(self, bound: float) -> bool:
        """Is the whole interval above?"""
        return self.low is not None and self.low > bound

    def text(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.median:+.2f} (too few)"
        return f"{self.median:+.2f} ({self.low:+.2f} to {self.high:+.2f})"


def percents(before: Sequence[float], after: Sequence[float]) -> list[float]:
    """By how many percent each of ``after`` is above its own of ``before``; ValueError where they are no pairs."""
    return [100 * (second / first - 1) for first, second in zip(before, after, strict=True)]


def difference(values: Sequence[float]) -> Difference | None:
    """The median, and the interval that a sign test does not refuse; nothing is assumed of how the values lie.

    Between the k-th lowest and the k-th highest value lies the true median unless fewer than k of the values fall on
    one side of it, of which the binomial distribution says how likely it is. None without values.
    """
    if not values:
        return None
    ordered = sorted(values)
    cut = _cut(len(ordered))
    low, high = (ordered[cut - 1], ordered[-cut]) if cut else (None, None)
    return Difference(len(ordered), statistics.median(ordered), low, high)


def _cut(count: int) -> int:
    """The largest k with 2 * P(fewer than k of ``count`` coins show heads) <= 1 - CONFIDENCE; 0: there is none."""
    below = 0.0
    for k in range(count // 2 + 1):
        below += math.comb(count, k) / 2**count
        if 2 * below > 1 - CONFIDENCE:
            return k
    return count // 2


def orders(pairs: int) -> Iterator[tuple[bool, bool]]:
    """Of each pair, which comes first: without, with; with, without; and so on."""
    for pair in range(pairs):
        yield (False, True) if pair % 2 == 0 else (True, False)
