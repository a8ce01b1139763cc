"""What the listener knows, as the families of one scrape. Imports prometheus_client: only where metrics are on.

Families are built anew at each scrape from values that nobody changes any more, and forgotten after it. So there is no
second book of series to be kept true: whoever is not in the last look's roster has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family

from supervisor_uvicorn import __version__, brakes
from supervisor_uvicorn.ledger import Program
from supervisor_uvicorn.model import Member, State, Usage, Verdict
from supervisor_uvicorn.settings import Settings
from supervisor_uvicorn.verdict import Past

from . import catalogue
from .catalogue import Metric
from .figures import NOTHING_YET, Distribution, Figures, OfWorker, Sum, Taken, View

Value = float | Distribution | Sum | None
Row = tuple[tuple[str, ...], Value]
"""Label values, and what is known there; None: there is no such series."""


class Collector:
    """What prometheus_client asks at each scrape (its ``registry.Collector``)."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Family]:
        return families(self._figures.taken())


def families(taken: Taken) -> Iterator[Family]:
    """Every family that has a series, in the order of the catalogue; one after the other, so that the samples of all
    of them are never there at once."""
    view = taken.view
    if view is not None:
        workers = list(_workers(view, taken))
        for metric, read in _OF_WORKER.items():
            yield from _family(metric, (((*one.labels, *more), value) for one in workers for more, value in read(one)))
        programs = list(_programs(view))
        for metric, read_program in _OF_PROGRAM.items():
            rows = (((its.group, *more), value) for its in programs for more, value in read_program(its))
            yield from _family(metric, rows)
    for metric, read_listener in _OF_LISTENER.items():
        yield from _family(metric, read_listener(taken))


def _family(metric: Metric, rows: Iterable[Row]) -> Iterator[Family]:
    family = _NEW[metric.kind](metric)
    for labels, value in rows:
        if value is not None:
            _add(family, [_utf8(label) for label in labels], value)
    if family.samples:
        yield family


_NEW: dict[str, Callable[[Metric], Family]] = {
    "gauge": lambda metric: GaugeMetricFamily(metric.name, metric.help, labels=metric.labels),
    "counter": lambda metric: CounterMetricFamily(metric.name, metric.help, labels=metric.labels),
    "histogram": lambda metric: HistogramMetricFamily(metric.name, metric.help, labels=metric.labels),
    "summary": lambda metric: SummaryMetricFamily(metric.name, metric.help, labels=metric.labels),
}


def _add(family: Family, labels: Sequence[str], value: float | Distribution | Sum) -> None:
    if isinstance(family, HistogramMetricFamily) and isinstance(value, Distribution):
        family.add_metric(labels, _cumulative(value), value.total)
    elif isinstance(family, SummaryMetricFamily) and isinstance(value, Sum):
        family.add_metric(labels, value.count, value.total)
    elif isinstance(family, GaugeMetricFamily | CounterMetricFamily) and isinstance(value, float | int):
        family.add_metric(labels, value)
    else:
        raise TypeError(f"{family.name} is a {family.type}, and {value!r} is no value for it")


def _cumulative(value: Distribution) -> list[tuple[str, float]]:
    found, so_far = [], 0
    for bound, count in zip((*value.bounds, float("inf")), value.counts, strict=True):
        so_far += count
        found.append(("+Inf" if bound == float("inf") else str(bound), float(so_far)))
    return found


def _utf8(label: str) -> str:
    """What no UTF-8 can hold (a lone surrogate of a name) is written out, or the whole scrape would fail."""
    return label if label.isascii() else label.encode("utf-8", "backslashreplace").decode("utf-8")


# -- workers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Worker:
    """All that is known of one name of the roster."""

    labels: tuple[str, str]
    verdict: Verdict | None  # None: an operator has stopped it
    usage: Usage | None
    counted: OfWorker | None  # None: no process
    restarts: dict[str, int]
    asked: bool  # a path is set


def _workers(view: View, taken: Taken) -> Iterator[_Worker]:
    for member in view.members:
        if member.not_watched:
            continue
        worker = member.worker
        past = _past(view, member)
        verdict = None if member.state is State.STOPPED else past.verdict if past is not None else Verdict.UNKNOWN
        yield _Worker(
            labels=(member.group, member.name),
            verdict=verdict,
            usage=view.usages.get(worker) if worker is not None else None,
            counted=taken.workers.get(worker, NOTHING_YET) if worker is not None else None,
            restarts=dict(taken.restarts.get(member.name, {})),
            asked=view.settings(member.group).path is not None,
        )


def _past(view: View, member: Member) -> Past | None:
    program = view.ledger.programs.get(member.group)
    return program.workers.get(member.name) if program is not None else None


def _one(value: Value) -> list[Row]:
    return [((), value)]


def _verdicts(one: _Worker) -> list[Row]:
    if one.verdict is None:
        return []
    return [((value,), float(value == one.verdict.value)) for value in catalogue.VERDICTS]


def _probes(one: _Worker) -> list[Row]:
    if one.counted is None or not one.asked:
        return []
    return [((answer,), count) for answer, count in one.counted.probes.items()]


def _restarts(one: _Worker) -> list[Row]:
    """All reasons, also at 0: a counter that first appears at 1 has not increased, as ``increase()`` sees it."""
    known = {reason: one.restarts.get(reason, 0) for reason in catalogue.REASONS}
    return [((reason,), count) for reason, count in known.items()]


def _used(read: Callable[[Usage], float | None]) -> Callable[[_Worker], list[Row]]:
    return lambda one: _one(read(one.usage)) if one.usage is not None else []


_OF_WORKER: dict[Metric, Callable[[_Worker], list[Row]]] = {
    catalogue.WORKER_UP: lambda one: _one(None if one.verdict is None else float(one.verdict is Verdict.HEALTHY)),
    catalogue.WORKER_VERDICT: _verdicts,
    catalogue.WORKER_LAG: lambda one: _one(one.counted.lag if one.counted is not None else None),
    catalogue.WORKER_PROBE_SECONDS: lambda one: _one(one.counted.probe if one.counted and one.asked else None),
    catalogue.WORKER_PROBES: _probes,
    catalogue.WORKER_RESTARTS: _restarts,
    catalogue.WORKER_RSS: _used(lambda usage: usage.rss_bytes),
    catalogue.WORKER_CPU: _used(lambda usage: usage.cpu_s),
    catalogue.WORKER_CONNECTIONS: _used(lambda usage: usage.connections),
    catalogue.WORKER_FDS: _used(lambda usage: usage.fds),
    catalogue.WORKER_MAX_FDS: _used(lambda usage: usage.fds_limit),
    catalogue.WORKER_START: lambda one: _one(one.counted.started_at if one.counted is not None else None),
    catalogue.WORKER_HELPERS: _used(lambda usage: usage.helpers),
}


# -- programs --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Program:
    """All that is known of one program."""

    group: str
    program: Program
    settings: Settings
    roster: tuple[Past, ...]  # without those that an operator has stopped
    queue: tuple[int, int] | None
    paused: bool


def _programs(view: View) -> Iterator[_Program]:
    groups: dict[str, list[Member]] = {}
    for member in view.members:
        if not member.not_watched:
            groups.setdefault(member.group, []).append(member)
    for group, members in groups.items():
        program = view.ledger.programs.get(group) or Program()
        queues = [queue for queue in view.queues.get(group, ()) if queue[1] > 0]
        yield _Program(
            group=group,
            program=program,
            settings=view.settings(group),
            roster=tuple(past for past in program.workers.values() if past.state is not State.STOPPED),
            queue=max(queues, key=lambda queue: queue[0] / queue[1], default=None),
            paused=all(_is_paused(member, view.paused) for member in members),
        )


def _is_paused(member: Member, paused: frozenset[str]) -> bool:
    return bool({"all", member.group, f"{member.group}:", f"{member.group}:*", member.name} & paused)


def _by_verdict(its: _Program) -> list[Row]:
    return [((value,), sum(1 for past in its.roster if past.verdict.value == value)) for value in catalogue.VERDICTS]


def _held(its: _Program) -> list[Row]:
    counts = dict.fromkeys(catalogue.BRAKES, 0)
    suspended = {(subject, "suspended") for subject in its.program.suspended}
    for _, brake in suspended.union(its.program.said.items()):
        counts[brake if brake in counts else catalogue.OTHER] += 1
    return [((brake,), count) for brake, count in counts.items()]


def _budget_left(its: _Program) -> int:
    return its.program.spending.left(its.settings.budget, len(its.roster))


_OF_PROGRAM: dict[Metric, Callable[[_Program], list[Row]]] = {
    catalogue.PROGRAM_WORKERS: _by_verdict,
    catalogue.PROGRAM_QUEUE: lambda its: _one(its.queue[0] if its.queue else None),
    catalogue.PROGRAM_QUEUE_LIMIT: lambda its: _one(its.queue[1] if its.queue else None),
    catalogue.PROGRAM_PANIC: lambda its: _one(float(its.program.panic.since is not None)),
    catalogue.PROGRAM_SUSPENDED: lambda its: _one(float(its.group in its.program.suspended)),
    catalogue.PROGRAM_PAUSED: lambda its: _one(float(its.paused)),
    catalogue.PROGRAM_ROLLING: lambda its: _one(float(its.program.roll is not None and its.program.roll.rolling)),
    catalogue.PROGRAM_HELD: _held,
    catalogue.PROGRAM_BUDGET_LEFT: lambda its: _one(_budget_left(its)),
    catalogue.PROGRAM_BUDGET_LIMIT: lambda its: _one(brakes.allowance(its.settings.budget, len(its.roster))),
}


# -- the listener ----------------------------------------------------------------------------------------------------


_OF_LISTENER: dict[Metric, Callable[[Taken], list[Row]]] = {
    catalogue.INFO: lambda taken: [((__version__,), 1)],
    catalogue.LOOK: lambda taken: _one(taken.look),
    catalogue.LAST_LOOK: lambda taken: _one(taken.view.wall if taken.view is not None else None),
    catalogue.EVENTS_HEARD: lambda taken: [((event,), count) for event, count in taken.events.items()],
    catalogue.ERRORS_TOLD: lambda taken: [((reason,), count) for reason, count in taken.errors.items()],
    catalogue.RPC: lambda taken: _one(taken.rpc),
    catalogue.RPC_FAILURES: lambda taken: _one(taken.rpc_failures),
    catalogue.NOTIFICATIONS: lambda taken: list(taken.notifications.items()),
}
