"""The meter thread: what each worker takes, measured beside the looks. Floor 4, beside listen.py."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from .settings import Settings
from .usage import Measured, Meter
from .watch import Snapshot

METER_S = 5.0
"""supervisord's shortest TICK, at which superlance's memmon looks as well (TICK_60 by its own advice)."""

SHARE = 200
"""It rests so many times as long as it took: at most half a percent of one CPU, however many workers and connections
there are."""

LONGEST_S = 60.0


class Measures(Protocol):
    """Whom to measure, and where it goes."""

    snapshot: Snapshot

    def put(self, **changes: object) -> None: ...


def run(
    meter: Meter, settings: Callable[[], Callable[[str], Settings]], board: Measures, clock: Callable[[], float]
) -> None:
    """The thread. ``settings`` gives the newest way to look up a group's."""
    while True:
        began = clock()
        measured: Measured = meter.measure(board.snapshot.members, settings())
        board.put(measured=measured)
        took_s = clock() - began
        threading.Event().wait(min(max(METER_S, took_s * SHARE), LONGEST_S))
