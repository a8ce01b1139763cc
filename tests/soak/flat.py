"""Does something grow? A straight line through what was measured, the warm-up left out. Pure."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence

Sample = tuple[float, float]  # seconds since the begin, value


@dataclasses.dataclass(frozen=True)
class Trend:
    """The line: what it gains over the span that was looked at. ``bound`` is what it may gain there."""

    first: float
    last: float
    growth: float
    bound: float
    samples: int

    @property
    def flat(self) -> bool:
        return self.growth <= self.bound


def trend(samples: Sequence[Sample], warm_up_s: float, bound: float) -> Trend:
    """Least squares through the samples after ``warm_up_s``. ValueError where fewer than three are left.

    >>> trend([(0.0, 9.0), (10.0, 1.0), (20.0, 2.0), (30.0, 3.0)], 5.0, 1.5).growth
    2.0
    """
    kept = [sample for sample in samples if sample[0] >= warm_up_s]
    if len(kept) < 3:
        raise ValueError(f"{len(kept)} samples after {warm_up_s:g} s; at least 3 are needed")
    times = [at for at, _ in kept]
    values = [value for _, value in kept]
    slope, _ = statistics.linear_regression(times, values)
    return Trend(values[0], values[-1], round(slope * (times[-1] - times[0]), 3), bound, len(kept))
