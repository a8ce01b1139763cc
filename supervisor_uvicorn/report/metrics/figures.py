"""What is counted between two scrapes, and what the last look knows. The only thing here that changes.

It is fed by the look thread among others, some 1 us an observation, and knows nothing of Prometheus: it is fed
whether metrics are switched on or not. Whoever reads takes a :class:`Taken`, which nobody changes any more.
"""

from __future__ import annotations

import itertools
import threading
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from supervisor_uvicorn.ledger import Ledger
from supervisor_uvicorn.model import Answer, HttpOutcome, Member, Usage, WorkerId
from supervisor_uvicorn.report.events import Error, Event, Restarting
from supervisor_uvicorn.settings import Settings

from .catalogue import (
    ANSWERS,
    CHANNELS,
    DELIVERIES,
    ERRORS,
    EVENTS,
    LAG_BUCKETS_S,
    LOOK_BUCKETS_S,
    OTHER,
)


@dataclass(frozen=True)
class View:
    """What a look knows, as it is left behind for the next scrape.

    ``queues``: group -> (length, limit) of the accept queue of each of its sockets. ``paused``: groups and names, as
    :class:`ledger.Look` has them. ``now`` is monotonic, ``wall`` the same moment in seconds since 1970.
    """

    members: tuple[Member, ...]
    ledger: Ledger
    usages: Mapping[WorkerId, Usage]
    queues: Mapping[str, tuple[tuple[int, int], ...]]
    paused: frozenset[str]
    settings: Callable[[str], Settings]
    now: float
    wall: float


@dataclass(frozen=True)
class Distribution:
    """Observations by bucket: ``counts`` has one more than ``bounds``, and is not cumulative."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float

    @classmethod
    def empty(cls, bounds: tuple[float, ...]) -> Distribution:
        return cls(bounds, (0,) * (len(bounds) + 1), 0.0)


@dataclass(frozen=True)
class Sum:
    """How many there were, and their sum."""

    count: int = 0
    total: float = 0.0


@dataclass(frozen=True)
class OfWorker:
    """What was counted of one worker (one pid)."""

    lag: Distribution = field(default_factory=lambda: Distribution.empty(LAG_BUCKETS_S))
    probe: Sum = Sum()
    probes: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(ANSWERS, 0))
    started_at: float | None = None  # seconds since 1970


NOTHING_YET = OfWorker()


@dataclass(frozen=True)
class Taken:
    """Everything at one moment."""

    view: View | None  # None: no look yet
    workers: Mapping[WorkerId, OfWorker]
    restarts: Mapping[str, Mapping[str, int]]  # name -> reason -> so many
    look: Distribution
    events: Mapping[str, int]
    errors: Mapping[str, int]
    rpc: Sum
    rpc_failures: int
    notifications: Mapping[tuple[str, str], int]


class _Tally:
    """A distribution that grows."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1  # a bound belongs to its bucket: ``le``
        self.total += value

    def taken(self) -> Distribution:
        return Distribution(self.bounds, tuple(self.counts), self.total)


class _Worker:
    __slots__ = ("lag", "probe_count", "probe_total_s", "probes", "started_at")

    def __init__(self) -> None:
        self.lag = _Tally(LAG_BUCKETS_S)
        self.probes = dict.fromkeys(ANSWERS, 0)
        self.probe_count, self.probe_total_s = 0, 0.0
        self.started_at: float | None = None

    def taken(self) -> OfWorker:
        probe = Sum(self.probe_count, self.probe_total_s)
        return OfWorker(self.lag.taken(), probe, dict(self.probes), self.started_at)


class Figures:
    """Every method may be called from any thread; none of them waits, and none raises."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._view: View | None = None
        self._workers: dict[WorkerId, _Worker] = {}
        self._restarts: dict[str, dict[str, int]] = {}
        self._look = _Tally(LOOK_BUCKETS_S)
        self._events = dict.fromkeys(EVENTS, 0)
        self._errors = dict.fromkeys(ERRORS, 0)
        self._rpc_count, self._rpc_total_s, self._rpc_failures = 0, 0.0, 0
        self._notifications = dict.fromkeys(itertools.product(CHANNELS, DELIVERIES), 0)

    # -- what happens -----------------------------------------------------------------------------------------------

    def lag(self, worker: WorkerId, lag_s: float) -> None:
        """A pulse was read after ``lag_s``; once a pulse."""
        with self._lock:
            self._of(worker).lag.add(lag_s)

    def probe(self, worker: WorkerId, outcome: HttpOutcome) -> None:
        """An HTTP probe has ended. How long it took counts only where the worker was asked at all."""
        with self._lock:
            its = self._of(worker)
            its.probes[outcome.answer.value] += 1
            if outcome.answer is not Answer.UNASKED:
                its.probe_count += 1
                its.probe_total_s += outcome.seconds

    def looked(self, seconds: float) -> None:
        """A look has ended that took so long."""
        with self._lock:
            self._look.add(seconds)

    def heard(self, event_name: str) -> None:
        """supervisord has sent an event of this name."""
        with self._lock:
            self._events[event_name if event_name in self._events else OTHER] += 1

    def told(self, event: Event) -> None:
        """An event of ours is told: restarts and errors are counted, everything else is not."""
        if isinstance(event, Error):
            with self._lock:
                self._errors[event.reason if event.reason in self._errors else OTHER] += 1
        elif isinstance(event, Restarting) and event.kind == Restarting.kind:  # not the one of a dry run
            with self._lock:
                reasons = self._restarts.setdefault(event.worker.name, {})
                reasons[event.reason] = reasons.get(event.reason, 0) + 1

    def rpc(self, seconds: float, went_well: bool) -> None:
        """A call to supervisord has ended after ``seconds``, with a result or without."""
        with self._lock:
            self._rpc_count += 1
            self._rpc_total_s += seconds
            self._rpc_failures += not went_well

    def notified(self, channel: str, outcome: str) -> None:
        """News were told, or not: ``command`` or ``url``, and ``sent``, ``failed`` or ``dropped``."""
        key = (channel, outcome)
        with self._lock:
            if key in self._notifications:
                self._notifications[key] += 1

    def show(self, view: View) -> None:
        """A look has ended, and this is what it knows. Whoever is no longer in the roster loses his figures."""
        with self._lock:
            before, self._view = self._view, view
            if before is None or before.members is not view.members:
                self._keep_only(view.members)
            for worker, usage in view.usages.items():
                its = self._workers.get(worker)
                if its is not None and its.started_at is None:  # once a pid, or a moment that never moves would
                    its.started_at = view.wall - (view.now - usage.at) - usage.age_s

    def _keep_only(self, members: tuple[Member, ...]) -> None:
        workers = [worker for member in members if (worker := member.worker) is not None]
        self._workers = {worker: self._workers.get(worker) or _Worker() for worker in workers}
        names = {member.name for member in members}
        self._restarts = {name: reasons for name, reasons in self._restarts.items() if name in names}

    def _of(self, worker: WorkerId) -> _Worker:
        its = self._workers.get(worker)
        if its is None:
            its = self._workers[worker] = _Worker()
        return its

    # -- what is read -----------------------------------------------------------------------------------------------

    @property
    def shown(self) -> bool:
        """Has there been a look?"""
        return self._view is not None

    def taken(self) -> Taken:
        """All of it, as of now."""
        with self._lock:
            return Taken(
                view=self._view,
                workers={worker: its.taken() for worker, its in self._workers.items()},
                restarts={name: dict(reasons) for name, reasons in self._restarts.items()},
                look=self._look.taken(),
                events=dict(self._events),
                errors=dict(self._errors),
                rpc=Sum(self._rpc_count, self._rpc_total_s),
                rpc_failures=self._rpc_failures,
                notifications=dict(self._notifications),
            )
