"""What keeps a remedy from making an outage worse: backoff and budget. Pure, as values with an age.

The two answer different questions. *Backoff* is of one name: this worker was just replaced, has it helped? *Budget*
is of the program: so many restarts in so short a time are a fault that restarting does not mend, and somebody must
look (Erlang/OTP's restart intensity). Both are spent by health restarts alone, never by rolls and limits; limits have a
backoff of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .settings import Backoff, Budget
from .verdict import Ages


@dataclass(frozen=True)
class Waiting:
    """One name's backoff: when it was last restarted, and how long the next restart has to wait from then."""

    last_at: float
    wait_s: float


def doubled_s(first_s: float, times: int, longest_s: float) -> float:
    """``first_s`` doubled so many times, at most ``longest_s``; for any number of times."""
    return min(first_s * 2.0 ** min(times, 64), longest_s)


def backoff_left_s(waiting: Mapping[str, Waiting], name: str, ages: Ages) -> float:
    """Seconds until ``name`` may be restarted again; 0 when it may."""
    entry = waiting.get(name)
    return 0.0 if entry is None else max(0.0, entry.wait_s - ages.of(entry.last_at))


def after_restart(waiting: Mapping[str, Waiting], name: str, backoff: Backoff, now: float) -> dict[str, Waiting]:
    """The backoffs once ``name`` is restarted: from ``first_s``, doubling to ``longest_s`` (kubelet: 10 s to 300 s)."""
    if backoff.first_s <= 0:
        return dict(waiting)
    before = waiting.get(name)
    wait_s = backoff.first_s if before is None else min(before.wait_s * 2, backoff.longest_s)
    return {**waiting, name: Waiting(now, wait_s)}


@dataclass(frozen=True)
class Spending:
    """The restarts of one program that still count against its budget."""

    restarts: tuple[tuple[float, str], ...] = ()  # (when, name), oldest first

    def still_counting(self, budget: Budget, ages: Ages) -> Spending:
        return Spending(tuple(entry for entry in self.restarts if ages.of(entry[0]) < budget.window_s))

    def spend(self, name: str, now: float) -> Spending:
        return Spending((*self.restarts, (now, name)))

    def refund(self, name: str, at: float) -> Spending:
        """That restart was called off before anything was done: it does not count, if it ever did."""
        return Spending(tuple(entry for entry in self.restarts if entry != (at, name)))

    def left(self, budget: Budget, workers: int) -> int:
        return max(0, allowance(budget, workers) - len(self.restarts))

    def left_of(self, name: str, budget: Budget, workers: int) -> int:
        """What one worker may still take: half, so that a hopeless one does not starve the others.

        Rounded up, or the smallest default budget (3) would leave one restart a worker, and never a second try.
        """
        whole = allowance(budget, workers)
        share = whole if workers < 2 else (whole + 1) // 2
        return max(
            0, min(self.left(budget, workers), share - sum(1 for _, spender in self.restarts if spender == name))
        )


def allowance(budget: Budget, workers: int) -> int:
    """Health restarts in one window; ``max(3, workers)`` where the setting names no figure."""
    return budget.restarts if budget.restarts is not None else max(3, workers)
