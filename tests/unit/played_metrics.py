"""A site that was never there, as a look leaves it behind for a scrape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from supervisor_uvicorn.ledger import Ledger, Program
from supervisor_uvicorn.model import Member, State, Usage, Verdict, WorkerId
from supervisor_uvicorn.report.metrics.collector import Collector
from supervisor_uvicorn.report.metrics.figures import Figures, View
from supervisor_uvicorn.settings import Settings
from supervisor_uvicorn.verdict import Past

NOW, WALL = 1000.0, 1.7e9


def member(name: str, pid: int = 0, state: State = State.RUNNING) -> Member:
    return Member(name, state, pid=pid, born=pid * 10 if pid else None)


def past(one: Member, verdict: Verdict = Verdict.HEALTHY) -> Past:
    return Past(one.name, one.worker, 0.0, state=one.state, looked=True, verdict=verdict)


def usage(**known: float) -> Usage:
    return replace(Usage(at=NOW - 2, age_s=100.0), **known)  # type: ignore[arg-type]


def view(
    members: Iterable[Member],
    *,
    verdicts: Mapping[str, Verdict] | None = None,
    programs: Mapping[str, Program] | None = None,
    usages: Mapping[WorkerId, Usage] | None = None,
    queues: Mapping[str, tuple[tuple[int, int], ...]] | None = None,
    paused: Iterable[str] = (),
    settings: Settings | None = None,
    now: float = NOW,
) -> View:
    """``programs``: what is more of a program than its workers, who are put in here: healthy but for ``verdicts``."""
    its = tuple(members)
    known: dict[str, Program] = {}
    for group in {one.group for one in its}:
        workers = {
            one.name: past(one, (verdicts or {}).get(one.name, Verdict.HEALTHY))
            for one in its
            if one.group == group and not one.not_watched
        }
        known[group] = replace((programs or {}).get(group, Program()), workers=workers)
    same = settings or Settings()
    return View(
        members=its,
        ledger=Ledger(known),
        usages=usages or {},
        queues=queues or {},
        paused=frozenset(paused),
        settings=lambda _: same,
        now=now,
        wall=WALL + now - NOW,
    )


def scraped(figures: Figures) -> list[Sample]:
    """Every sample of one scrape, through the text and back."""
    text = generate_latest(Collector(figures)).decode()
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def series(figures: Figures) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    """The names and labels of one scrape; AssertionError for one that is there twice."""
    found = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in scraped(figures)]
    assert len(found) == len(set(found))
    return set(found)


def value(figures: Figures, short: str, **labels: str) -> float | None:
    """The value of this very series; None where there is no such."""
    found = [
        one.value for one in scraped(figures) if one.name == f"supervisor_uvicorn_{short}" and one.labels == labels
    ]
    assert len(found) <= 1
    return found[0] if found else None


def values(figures: Figures, short: str, **labels: str) -> dict[str, float]:
    """Of the series with these labels and one more: its value -> the sample's."""
    found = {}
    for one in scraped(figures):
        if one.name == f"supervisor_uvicorn_{short}" and labels.items() <= one.labels.items():
            (last,) = one.labels.keys() - labels.keys()
            found[one.labels[last]] = one.value
    return found
