"""One channel of notices: what waits, when the next try is due, and what is told of its failures. Floor 2.

It may be slow, down or hanging as it pleases: what waits is bounded, what is too old is given up, and a series of
failures is told twice, when it begins and when it is over.

A notice is tried again only where that is safe and may help (:attr:`Result.AGAIN`); then after 1 s, 2 s, 4 s, at most
60 s. The pause belongs to the channel, not to the notice: what is down is not asked more often because much waits.
"""

from __future__ import annotations

import enum
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from .report import events

MOST_WAITING = 100
GIVE_UP_AFTER_S = 600.0
"""Since it was put: what is older is no news, and a page of long ago misleads."""

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0

SENT, FAILED, DROPPED = "sent", "failed", "dropped"
"""What becomes of a notice."""


class Result(enum.Enum):
    """What became of one try."""

    SENT = enum.auto()
    AGAIN = enum.auto()
    FAILED = enum.auto()  # and no other try would be any better, or safe


@dataclass(frozen=True)
class Attempt:
    """``why`` is for people and holds no secret; ``wait_s`` is how long the other side has asked us to wait."""

    result: Result
    why: str = ""
    wait_s: float = 0.0


@dataclass(eq=False)
class _Waiting:
    render: Callable[[], bytes]
    since: float


class Channel:
    """:meth:`put` may be called from any thread; everything else is one thread's affair.

    ``name`` is ``command`` or ``url``; ``shown`` is how it stands in the log. ``deliver`` makes one try, in some ten
    seconds, and raises nothing.
    """

    def __init__(
        self,
        name: str,
        shown: str,
        deliver: Callable[[bytes], Attempt],
        tell: Callable[[events.Event], None],
        counted: Callable[[str, str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._shown = shown
        self._deliver = deliver
        self._tell = tell
        self._counted = counted
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: deque[_Waiting] = deque()
        self._under_way = False  # the first of them
        self._dropped = 0  # and not counted yet
        self._dropping_told = False
        self._tries_failed = 0  # one after another
        self._lost = 0  # meanwhile
        self._pause_s = FIRST_PAUSE_S
        self._not_before = clock()

    def put(self, render: Callable[[], bytes]) -> None:
        """Have what ``render`` makes sent soon. Never blocks; where too many wait, the oldest is dropped."""
        with self._changed:
            if len(self._waiting) >= MOST_WAITING:
                del self._waiting[1 if self._under_way else 0]
                self._dropped += 1
            self._waiting.append(_Waiting(render, self._clock()))
            self._changed.notify()

    def run(self) -> None:
        """The thread."""
        while True:
            wait_s = self.step()
            with self._changed:
                if wait_s is None:
                    self._changed.wait_for(lambda: self._waiting)
                elif wait_s > 0:
                    self._changed.wait(wait_s)

    def step(self) -> float | None:
        """Make one try, if one is due. Seconds until the next is; None: there is nothing to send."""
        self._count_dropped()
        now = self._clock()
        with self._changed:
            if not self._waiting:
                self._dropping_told = False
                return None
            first = self._waiting[0]
            left_s = first.since + GIVE_UP_AFTER_S - now
            due_in_s = self._not_before - now
            if left_s > 0 and due_in_s > 0:
                return min(left_s, due_in_s)
            self._under_way = True
        attempt = self._deliver(first.render()) if left_s > 0 else None
        with self._changed:
            self._under_way = False
            if attempt is None or attempt.result is not Result.AGAIN:
                self._waiting.popleft()
        self._conclude(attempt)
        return 0.0

    def _conclude(self, attempt: Attempt | None) -> None:
        """Count and tell; None: it was given up."""
        if attempt is not None and attempt.result is Result.SENT:
            self._counted(self.name, SENT)
            if self._tries_failed:
                lost = f", {self._lost} notice{'' if self._lost == 1 else 's'} lost" if self._lost else ""
                times = "one failure" if self._tries_failed == 1 else f"{self._tries_failed} failures"
                self._say(f"{self._shown} works again, after {times}{lost}")
            self._tries_failed, self._lost, self._pause_s = 0, 0, FIRST_PAUSE_S
            return
        again = attempt is not None and attempt.result is Result.AGAIN
        if not again:
            self._lost += 1
            self._counted(self.name, FAILED)
        if attempt is None:
            return
        if not self._tries_failed:
            then = f"tried again for {GIVE_UP_AFTER_S / 60:g} minutes" if again else "this notice is lost"
            self._say(f"{self._shown} failed: {attempt.why}; {then}. Told again when it works")
        self._tries_failed += 1
        if again:
            self._not_before = self._clock() + max(self._pause_s, min(attempt.wait_s, LONGEST_PAUSE_S))
            self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)

    def _count_dropped(self) -> None:
        with self._changed:
            dropped, self._dropped = self._dropped, 0
        for _ in range(dropped):
            self._counted(self.name, DROPPED)
        if self._tries_failed:
            self._lost += dropped
        if dropped and not self._dropping_told:
            self._dropping_told = True
            self._say(f"{self._shown}: more than {MOST_WAITING} notices wait, so the oldest are dropped")

    def _say(self, what: str) -> None:
        self._tell(events.Error("", what, reason="notify"))
