"""What a scrape has of what a look knows: played looks, through the text format and back."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from played_metrics import NOW, WALL, member, scraped, series, usage, value, values, view

from supervisor_uvicorn import __version__
from supervisor_uvicorn.brakes import Spending
from supervisor_uvicorn.ledger import Program
from supervisor_uvicorn.model import Answer, HttpOutcome, State, Verdict, WorkerId
from supervisor_uvicorn.panic import Panic
from supervisor_uvicorn.report import events
from supervisor_uvicorn.report.metrics import catalogue
from supervisor_uvicorn.report.metrics.figures import Figures
from supervisor_uvicorn.rollout import Roll
from supervisor_uvicorn.settings import Budget, Settings

WEB = [member(f"web:web-{number}", 100 + number) for number in range(4)]
IDS = [one.worker for one in WEB if one.worker is not None]
OF_0 = {"program": "web", "worker": "web:web-0"}


def shown(**known: object) -> Figures:
    figures = Figures()
    figures.show(view(WEB, **known))  # type: ignore[arg-type]
    return figures


def restart(worker: WorkerId, reason: str) -> events.Restarting:
    return events.Restarting(worker, reason, "it hangs", "abort", "silent")


# -- a worker ----------------------------------------------------------------------------------------------------------


def test_up_and_verdict_of_each_worker() -> None:
    figures = shown(verdicts={"web:web-0": Verdict.SILENT})
    assert value(figures, "worker_up", **OF_0) == 0
    assert value(figures, "worker_up", program="web", worker="web:web-1") == 1
    verdicts = values(figures, "worker_verdict", **OF_0)
    assert {verdict for verdict, there in verdicts.items() if there} == {"silent"}
    assert set(verdicts) == {verdict.value for verdict in Verdict}
    counts = values(figures, "program_workers", program="web")
    assert counts == {**dict.fromkeys(catalogue.VERDICTS, 0), "healthy": 3, "silent": 1}


def test_one_that_an_operator_has_stopped_is_neither_up_nor_down() -> None:
    figures = Figures()
    figures.show(view([*WEB[1:], member("web:web-0", state=State.STOPPED)]))
    assert value(figures, "worker_up", **OF_0) is None
    assert values(figures, "worker_verdict", **OF_0) == {}
    assert sum(values(figures, "program_workers", program="web").values()) == 3


def test_one_that_is_fatal_is_down_and_has_no_process() -> None:
    figures = Figures()
    figures.show(view([*WEB[1:], member("web:web-0", state=State.FATAL)], verdicts={"web:web-0": Verdict.UNKNOWN}))
    assert value(figures, "worker_up", **OF_0) == 0
    assert value(figures, "worker_lag_seconds_count", **OF_0) is None


def test_a_tree_is_not_watched_and_not_shown() -> None:
    figures = Figures()
    figures.show(view([replace(one, not_watched="--reload") for one in WEB]))
    assert [one for one in scraped(figures) if "program" in one.labels] == []


@pytest.mark.parametrize(
    ("lag_s", "le"), [(0.0, "0.001"), (0.001, "0.001"), (0.00101, "0.0025"), (0.8, "1.0"), (59.0, "60.0"), (61, "+Inf")]
)
def test_a_lag_falls_into_its_bucket_and_all_above(lag_s: float, le: str) -> None:
    figures = shown()
    figures.lag(IDS[0], lag_s)
    buckets = values(figures, "worker_lag_seconds_bucket", **OF_0)
    assert list(buckets) == [*(str(bound) for bound in catalogue.LAG_BUCKETS_S), "+Inf"]
    assert [bound for bound, count in buckets.items() if count] == list(buckets)[list(buckets).index(le) :]
    assert value(figures, "worker_lag_seconds_sum", **OF_0) == pytest.approx(lag_s)
    assert value(figures, "worker_lag_seconds_count", **OF_0) == 1


def test_a_new_pid_begins_anew() -> None:
    figures = shown(settings=Settings(path="/health"))
    figures.lag(IDS[0], 0.2)
    figures.probe(IDS[0], HttpOutcome(Answer.RIGHT, seconds=0.1))
    new = member("web:web-0", 900)
    figures.show(view([new, *WEB[1:]], settings=Settings(path="/health")))
    figures.lag(IDS[0], 0.2)  # of a look that began before
    assert value(figures, "worker_lag_seconds_count", **OF_0) == 0
    assert value(figures, "worker_probes_total", **OF_0, outcome="right") == 0


def test_probes_count_and_only_where_the_worker_was_asked_do_they_take_time() -> None:
    figures = shown(settings=Settings(path="/health"))
    for answer, seconds in ((Answer.RIGHT, 0.1), (Answer.WRONG, 0.3), (Answer.UNASKED, 3.0)):
        figures.probe(IDS[0], HttpOutcome(answer, seconds=seconds))
    assert values(figures, "worker_probes_total", **OF_0) == {"right": 1, "wrong": 1, "busy": 0, "unasked": 1}
    assert value(figures, "worker_probe_seconds_count", **OF_0) == 2
    assert value(figures, "worker_probe_seconds_sum", **OF_0) == pytest.approx(0.4)


def test_without_a_path_there_are_no_probes() -> None:
    assert not [name for name, _ in series(shown()) if "probe" in name]


def test_what_a_worker_takes() -> None:
    known = usage(rss_bytes=50_000_000, cpu_s=1.5, fds=20, fds_limit=1024, connections=3, helpers=1)
    figures = shown(usages={IDS[0]: known})
    expected = {
        "worker_resident_memory_bytes": 50_000_000,
        "worker_cpu_seconds_total": 1.5,
        "worker_open_fds": 20,
        "worker_max_fds": 1024,
        "worker_open_connections": 3,
        "worker_helpers": 1,
        "worker_start_time_seconds": WALL - 2 - 100,
    }
    assert {short: value(figures, short, **OF_0) for short in expected} == expected


def test_what_is_not_known_is_absent_and_not_0() -> None:
    figures = shown(usages={IDS[0]: usage(rss_bytes=50_000_000)})
    for short in ("cpu_seconds_total", "open_fds", "max_fds", "open_connections"):
        assert value(figures, f"worker_{short}", **OF_0) is None
    assert value(figures, "worker_resident_memory_bytes", program="web", worker="web:web-1") is None


def test_the_start_time_of_a_pid_never_moves() -> None:
    figures = shown(usages={IDS[0]: usage()})
    before = value(figures, "worker_start_time_seconds", **OF_0)
    figures.show(view(WEB, usages={IDS[0]: replace(usage(), at=NOW + 5, age_s=107.01)}, now=NOW + 6))
    assert value(figures, "worker_start_time_seconds", **OF_0) == before


def test_restarts_by_reason_are_the_names_and_there_from_the_beginning() -> None:
    figures = shown()
    assert set(values(figures, "worker_restarts_total", **OF_0)) == set(catalogue.REASONS)
    figures.told(restart(IDS[0], "silent"))
    figures.show(view([member("web:web-0", 900), *WEB[1:]]))
    figures.told(restart(WorkerId("web:web-0", 900, 9000), "silent"))
    figures.told(restart(IDS[1], "max_rss"))
    assert values(figures, "worker_restarts_total", **OF_0)["silent"] == 2
    assert value(figures, "worker_restarts_total", program="web", worker="web:web-1", reason="max_rss") == 1


def test_a_dry_run_restarts_nobody() -> None:
    figures = shown()
    figures.told(events.WouldRestart(IDS[0], "silent", "it hangs", "abort", "silent"))
    assert set(values(figures, "worker_restarts_total", **OF_0).values()) == {0}


def test_names_that_no_text_can_hold() -> None:
    odd = [member('w"e\\b:n\nl', 1), member("wéb:wéb", 2), member("w\udce9b:w\udce9b", 3)]
    figures = Figures()
    figures.show(view(odd))
    assert {one.labels["worker"] for one in scraped(figures) if one.name == "supervisor_uvicorn_worker_up"} == {
        'w"e\\b:n\nl',
        "wéb:wéb",
        "w\\udce9b:w\\udce9b",
    }


# -- a program ---------------------------------------------------------------------------------------------------------


def test_a_program_that_is_well() -> None:
    figures = shown(queues={"web": ((3, 128),)})
    expected = {
        "panic": 0,
        "suspended": 0,
        "paused": 0,
        "rolling": 0,
        "accept_queue_length": 3,
        "accept_queue_limit": 128,
    }
    assert {short: value(figures, f"program_{short}", program="web") for short in expected} == expected
    assert values(figures, "program_held", program="web") == dict.fromkeys(catalogue.BRAKES, 0)


def test_what_holds_a_program() -> None:
    program = Program(
        panic=Panic(since=1.0),
        suspended=frozenset({"web", "web:web-2"}),
        said={"web:web-0": "trial", "web:web-1": "trial", "web": "panic", "web:web-2": "suspended", "web:web-3": "new"},
        roll=Roll(asked=(), turns=(), since=0.0),
    )
    figures = shown(programs={"web": program})
    for short in ("panic", "suspended", "rolling"):
        assert value(figures, f"program_{short}", program="web") == 1
    held = {brake: count for brake, count in values(figures, "program_held", program="web").items() if count}
    assert held == {"trial": 2, "panic": 1, "suspended": 2, "other": 1}


@pytest.mark.parametrize(
    ("paused", "all_of_them"),
    [(["web"], 1), (["web:*"], 1), (["web:web-0"], 0), ([one.name for one in WEB], 1), (["api"], 0)],
)
def test_paused_is_a_program_whose_workers_all_are(paused: list[str], all_of_them: int) -> None:
    assert value(shown(paused=paused), "program_paused", program="web") == all_of_them


def test_of_several_sockets_the_fullest_counts() -> None:
    figures = shown(queues={"web": ((0, 2048), (90, 100), (100, 2048))})
    assert value(figures, "program_accept_queue_length", program="web") == 90
    assert value(figures, "program_accept_queue_limit", program="web") == 100


def test_without_a_queue_there_is_none() -> None:
    assert value(shown(), "program_accept_queue_length", program="web") is None


def test_the_budget() -> None:
    spent = Program(spending=Spending(((1.0, "web:web-0"), (2.0, "web:web-1"))))
    figures = shown(programs={"web": spent})
    assert value(figures, "program_budget_restarts_limit", program="web") == 4
    assert value(figures, "program_budget_restarts_left", program="web") == 2
    figures = shown(programs={"web": spent}, settings=Settings(budget=Budget(1, 600.0)))
    assert value(figures, "program_budget_restarts_limit", program="web") == 1
    assert value(figures, "program_budget_restarts_left", program="web") == 0


# -- the listener ------------------------------------------------------------------------------------------------------


def test_before_the_first_look_there_is_only_the_listener() -> None:
    figures = Figures()
    assert value(figures, "info", version=__version__) == 1
    assert value(figures, "last_look_timestamp_seconds") is None
    assert not [one for one in scraped(figures) if "program" in one.labels]


def test_what_the_listener_does() -> None:
    figures = shown()
    figures.looked(0.004)
    figures.heard("TICK_5")
    figures.heard("PROCESS_LOG_STDOUT")
    figures.told(events.Error("", "no", reason="supervisord"))
    figures.told(events.Error("", "no", reason="what nobody thought of"))
    figures.told(events.Held("web", "is held"))
    figures.rpc(0.25, True)
    figures.rpc(5.0, False)
    figures.notified("url", "failed")
    figures.notified("pigeon", "lost")
    assert value(figures, "look_seconds_count") == 1
    assert value(figures, "look_seconds_bucket", le="0.005") == 1
    assert value(figures, "last_look_timestamp_seconds") == WALL
    heard = {event: count for event, count in values(figures, "events_total").items() if count}
    assert heard == {"TICK_5": 1, "other": 1}
    errors = {reason: count for reason, count in values(figures, "errors_total").items() if count}
    assert errors == {"supervisord": 1, "other": 1}
    assert value(figures, "rpc_seconds_count") == 2
    assert value(figures, "rpc_seconds_sum") == 5.25
    assert value(figures, "rpc_failures_total") == 1
    assert value(figures, "notifications_total", channel="url", outcome="failed") == 1
    assert sum(one.value for one in scraped(figures) if one.name.endswith("notifications_total")) == 1


# -- the whole ---------------------------------------------------------------------------------------------------------


def test_a_scrape_has_the_catalogue_and_nothing_else() -> None:
    known = usage(rss_bytes=1, cpu_s=1, fds=1, fds_limit=1, connections=1)
    figures = shown(usages=dict.fromkeys(IDS, known), queues={"web": ((0, 128),)}, settings=Settings(path="/health"))
    found: dict[str, set[str]] = {}
    for name, labels in series(figures):
        found.setdefault(name, set()).update(label for label, _ in labels)
    expected = {
        name: {*metric.labels, *(["le"] if name.endswith("_bucket") else [])}
        for metric in catalogue.CATALOGUE
        for name in metric.series
    }
    assert found == expected


def test_the_last_label_has_the_values_that_the_catalogue_has() -> None:
    figures = shown(settings=Settings(path="/health"))
    for metric in catalogue.CATALOGUE:
        if metric.values:
            there = {one.labels[metric.labels[-1]] for one in scraped(figures) if one.name == metric.name}
            assert there == set(metric.values), metric.name


def test_a_thousand_replaced_workers_leave_no_series() -> None:
    settings = Settings(path="/health")
    figures = Figures()
    members = list(WEB)
    first: set[object] | None = None
    for number in range(1000):
        place = number % len(members)
        members[place] = member(members[place].name, 1000 + number)
        ids = [one.worker for one in members if one.worker is not None]
        usages = dict.fromkeys(ids, usage(rss_bytes=1, cpu_s=1, fds=1, fds_limit=1, connections=1))
        figures.show(view(members, usages=usages, settings=settings, now=NOW + number))
        for worker in ids:
            figures.lag(worker, 0.001)
            figures.probe(worker, HttpOutcome(Answer.RIGHT))
        figures.told(restart(ids[place], "silent"))
        if first is None:
            first = set(series(figures))
    assert set(series(figures)) == first
    assert len(figures.taken().workers) == len(members)


def test_a_thousand_names_leave_no_series() -> None:
    figures = shown()
    before = series(figures)
    for number in range(1000):
        other = member(f"g{number}:g{number}", 5000 + number)
        assert other.worker is not None
        figures.show(view([*WEB, other]))
        figures.lag(other.worker, 0.1)
        figures.told(restart(other.worker, "silent"))
    figures.show(view(WEB))
    assert series(figures) == before
    taken = figures.taken()
    assert (len(taken.workers), len(taken.restarts)) == (len(WEB), 0)


def test_figures_from_many_threads_are_all_counted() -> None:
    figures = shown()

    def feed() -> None:
        for _ in range(2000):
            figures.lag(IDS[0], 0.001)
            figures.rpc(0.1, False)
            figures.heard("TICK_5")

    threads = [threading.Thread(target=feed) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert len(figures.taken().workers) == len(WEB)
    assert value(figures, "worker_lag_seconds_count", **OF_0) == 8000
    assert value(figures, "rpc_failures_total") == 8000
    assert value(figures, "events_total", event="TICK_5") == 8000


def test_nothing_of_prometheus_is_imported_by_those_who_count() -> None:
    code = (
        "import sys, supervisor_uvicorn.metrics_server, supervisor_uvicorn.report.metrics.figures\n"
        "sys.exit(any(name.startswith('prometheus') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
