"""Has supervisord given this listener up? Pure.

A listener whose stdout carried one wrong byte is in state UNKNOWN for ever: it gets no event any more, its process
stays RUNNING, and no stock RPC tells (supervisor 4.3.0, states.py ``EventListenerStates``). What can be seen is that
no TICK comes although supervisord answers its RPC. An answer alone is not enough: a supervisord that was paused
answers before it ticks again.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

GIVEN_UP_PERIODS = 3  # design, section 5
TICK_LATE_S = 2.0  # a TICK comes up to 1 s late (supervisor 4.3.0, supervisord.py ``runforever``)
NO_TICK_S = 180.0  # three periods of TICK_60


class Sign(enum.Enum):
    """What the silence of supervisord means now."""

    FINE = "fine"
    NO_TICK = "no TICK has ever come"
    ASK = "ask whether supervisord answers its RPC"
    GIVEN_UP = "supervisord has given this listener up"


@dataclass
class Vigil:
    """When events came, by the monotonic clock of the caller."""

    since: float
    period_s: float | None = None  # of the shortest TICK that comes
    answered_at: float | None = None

    def heard(self, now: float, event: str) -> bool:
        """An event has come; True for a TICK."""
        self.since, self.answered_at = now, None
        if not (event.startswith("TICK_") and event[5:].isdigit()):
            return False
        self.period_s = min(float(event[5:]), self.period_s or float("inf"))
        return True

    def sign(self, now: float) -> Sign:
        """What to make of the time since the last event."""
        if self.period_s is None:
            return Sign.NO_TICK if now - self.since > NO_TICK_S else Sign.FINE
        if now - self.since <= GIVEN_UP_PERIODS * self.period_s:
            return Sign.FINE
        if self.answered_at is None:
            return Sign.ASK
        return Sign.GIVEN_UP if now - self.answered_at > self.period_s + TICK_LATE_S else Sign.FINE
