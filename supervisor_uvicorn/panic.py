"""Are the failing workers to blame, or something behind them all? Pure; a part of policy.py.

A worker that answers wrong while its peers answer right is ill itself, and a new process helps. When too many are
wrong at once, the database is more likely down than each of them ill, and every restart would only take more capacity
away. But nobody stands behind us who would mend it (Envoy, whose 50 % this is, only steers traffic), and all of them
may have been spoiled by the same request. So while it lasts one worker at a time, the canary, is replaced to learn
whether that helps: the first after 60 s, then after 120, 240 and each 300 s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from . import brakes
from .model import Verdict
from .verdict import Ages, Past

CANARY_FIRST_S, CANARY_LONGEST_S = 60.0, 300.0
"""Patient enough for a dependency to come back (design, section 6)."""


@dataclass(frozen=True)
class Panic:
    """What is remembered of it. ``canaries`` are forgotten when nobody fails and somebody answers right."""

    since: float | None = None
    canary_at: float | None = None
    canaries: int = 0

    def after(self, why: str, roster: Sequence[Past], now: float) -> Panic:
        """After a look at which :func:`blame` said ``why``."""
        if why:
            return self if self.since is not None else replace(self, since=now)
        # The only worker of a program is away after its own canary: that is not yet the end of it.
        failing = any(past.verdict is Verdict.FAILING for past in roster)
        well = any(past.serves and past.answers_right for past in roster)
        return Panic() if well and not failing else replace(self, since=None)

    def canary_due(self, ages: Ages) -> bool:
        if self.since is None or ages.of(self.since) < CANARY_FIRST_S:
            return False
        wait_s = brakes.doubled_s(CANARY_FIRST_S, self.canaries, CANARY_LONGEST_S)
        return self.canary_at is None or ages.of(self.canary_at) >= wait_s

    def with_canary(self, now: float) -> Panic:
        return replace(self, canary_at=now, canaries=self.canaries + 1)


def blame(roster: Sequence[Past], threshold: float) -> str:
    """Why the failing ones may not be to blame; empty where they stand out from their peers.

    ``threshold`` is the largest share of the judged workers that may fail. Judged is who serves and has ever answered
    right, or fails; the peers are all others of the roster, and those that do not serve do not answer right.
    """
    failing = sum(1 for past in roster if past.verdict is Verdict.FAILING)
    judged = sum(1 for past in roster if past.serves and (past.verdict is Verdict.FAILING or past.right_ever))
    if not failing or not judged:
        return ""
    if failing / judged > threshold:
        return f"{failing} of {judged} judged workers are failing (panic_threshold {threshold:.0%})"
    peers = len(roster) - 1
    right = sum(1 for past in roster if past.serves and past.answers_right)
    return f"only {right} of its {peers} peers answer right" if right < peers / 2 else ""
