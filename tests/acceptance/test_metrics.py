"""Metrics as a real Prometheus has them: what they cost, which alerts fire, and that nothing is left of who is gone."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import statistics
import time
import urllib.request
from collections.abc import Callable, Iterator

import pytest
from harness import processes
from harness.judging import wait_healthy
from harness.prometheus import Prometheus
from harness.promql import dashboard_expressions
from harness.supervisord import PLUGIN, Program, Supervisord, free_port, watched
from harness.waiting import stays_true, wait_for
from played_metrics import NOW, member, usage, view

from supervisor_uvicorn import metrics_server
from supervisor_uvicorn.model import Answer, HttpOutcome, Member, WorkerId
from supervisor_uvicorn.report.events import Restarting
from supervisor_uvicorn.report.metrics.figures import Figures
from supervisor_uvicorn.settings import ListenSettings, Settings
from supervisor_uvicorn.settings_outward import Place

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1200)]

MIB = 1024 * 1024
MORE_BYTES = 8 * MIB
SCRAPE_S = 0.05
SCRAPES = 60
SETTLE_S = 30.0
FIRE_S = 90.0  # until an alert fires whose `for` is a second
MAY_BE_EMPTY = {"Workers that are not up", "What is held of them", "Restarts", "Brakes", "Own errors and failed calls"}
"""Panels of the dashboard that show what goes wrong."""
OURS = '{__name__=~"supervisor_uvicorn_.+"}'


def scrape(port: int) -> tuple[float, str]:
    """How long it took (s), from the connection to the last byte, and the text."""
    began = time.perf_counter()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        data = answer.read()
    return time.perf_counter() - began, data.decode()


def series(port: int) -> set[str]:
    """Every series of a scrape, as it is written: name and labels."""
    return {line.rpartition(" ")[0] for line in scrape(port)[1].splitlines() if not line.startswith("#")}


def ever(prometheus: Prometheus) -> list[dict[str, str]]:
    """Every series of ours that this Prometheus has ever seen, also those that have ended."""
    return list(prometheus.get("series", **{"match[]": OURS}))


# -- what it costs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [4, 64])
def test_a_scrape_and_the_memory(workers: int, figures: Callable[..., None]) -> None:
    """The same site and the same workers: first a listener without metrics, then one with them."""
    port = free_port()
    program = Program(numprocs=workers, uvicorn="--no-access-log --loop asyncio --http h11 --lifespan off")
    with Supervisord(program, listen="--settings {scratch}/settings") as site:
        settings = site.scratch / "settings"
        settings.write_text("[supervisor-uvicorn]\npath = /health\n")
        site.wait_pinned(180)
        without, cpu_without = settled(site, lambda: None)

        settings.write_text(f"[supervisor-uvicorn]\npath = /health\nmetrics = 127.0.0.1:{port}\n")
        site.log_path.write_text("")
        site.rpc.stopProcess(site.listener)
        site.rpc.startProcess(site.listener)
        site.wait_pinned(180)
        took_s: list[float] = []
        with_metrics, cpu_with = settled(site, lambda: took_s.append(scrape(port)[0]))
        text = scrape(port)[1]
        median_s = statistics.median(took_s[-20:])

        with Prometheus(f"127.0.0.1:{port}") as prometheus:
            wait_for(lambda: prometheus.value("count(supervisor_uvicorn_worker_up == 1)") == workers, 60, "all up")
            wait_for(lambda: prometheus.target()["health"] == "up", 60, "the target is up")
            found = prometheus.value(f"count({OURS})")
            target = prometheus.target()
            assert not target["lastError"]
            pulses = "sum(increase(supervisor_uvicorn_worker_lag_seconds_count[10s]))"
            wait_for(lambda: (prometheus.value(pulses) or 0) > workers, 60, "pulses are observed")
            its_own = "scrape_duration_seconds[1m]"
            wait_for(lambda: (prometheus.value(f"count_over_time({its_own})") or 0) >= 20, 90, "twenty scrapes")
            its_median_s = prometheus.value(f"quantile_over_time(0.5, {its_own})")
            assert its_median_s is not None
            shown = {title: 0 for title, _ in dashboard_expressions()}
            for title, expression in dashboard_expressions():
                shown[title] += len(prometheus.query(expression.replace("[1m]", "[20s]")))
            assert {title for title, number in shown.items() if not number} <= MAY_BE_EMPTY
        figures(
            workers=workers,
            series=found,
            text_bytes=len(text),
            scrape_median_ms=round(1e3 * median_s, 2),
            scrape_worst_ms=round(1e3 * max(took_s), 2),
            prometheus_scrape_median_ms=round(1e3 * its_median_s, 2),
            resident_bytes={"without": without, "with": with_metrics, "more": with_metrics - without},
            cpu_share={"without": round(cpu_without, 5), "with": round(cpu_with, 5)},
        )
        assert len(took_s) >= SCRAPES
        assert median_s <= SCRAPE_S
        assert with_metrics - without <= MORE_BYTES


def settled(site: Supervisord, scrapes: Callable[[], None]) -> tuple[int, float]:
    """The listener's resident memory (bytes) and its share of a CPU, over SETTLE_S in which it is scraped."""
    listener = site.listener_pid()
    began, cpu_s = time.monotonic(), processes.cpu_s(listener)

    def still_there() -> bool:
        scrapes()
        return site.listener_pid() == listener

    stays_true(still_there, SETTLE_S, "the listener", every_s=SETTLE_S / SCRAPES / 1.1)
    for _ in range(5):
        scrapes()
    share = (processes.cpu_s(listener) - cpu_s) / (time.monotonic() - began)
    return processes.resident_bytes(listener), share


# -- alerts ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def alerting(options: str, **program: object) -> Iterator[tuple[Supervisord, Prometheus]]:
    """Four workers, a listener, and a Prometheus that has seen them all healthy."""
    port = free_port()
    web = Program(**program)  # type: ignore[arg-type]
    with watched(web, f"--metrics {port} --pulse 0.25 {options}", sections=PLUGIN) as site:
        wait_healthy(site)
        with Prometheus(f"127.0.0.1:{port}") as prometheus:
            wait_for(lambda: prometheus.value("count(supervisor_uvicorn_worker_up == 1)") == 4, 60, "all up")
            yield site, prometheus


def all_firing(prometheus: Prometheus) -> set[str]:
    return {one["labels"]["alertname"] for one in prometheus.get("alerts")["alerts"] if one["state"] == "firing"}


def test_a_hung_worker_that_is_not_replaced(figures: Callable[..., None]) -> None:
    with alerting("--silent-after 2") as (site, prometheus):
        assert all_firing(prometheus) == set()
        assert site.cli("pause", "web").returncode == 0
        began = site.fault("web:web-1", "/hang/sleep")
        fired = wait_for(lambda: prometheus.firing("UvicornWorkerSilent"), FIRE_S, "UvicornWorkerSilent")
        figures(fired_after_s=round(time.monotonic() - began, 1))
        (labels,) = fired
        assert (labels["worker"], labels["program"], labels["severity"]) == ("web:web-1", "web", "page")
        wait_for(lambda: prometheus.firing("UvicornWorkerNotHealthy"), FIRE_S, "UvicornWorkerNotHealthy")
        assert all_firing(prometheus) == {"UvicornWorkerSilent", "UvicornWorkerNotHealthy"}, "paused is somebody's will"
        assert prometheus.value("sum(supervisor_uvicorn_program_paused)") == 1
        assert prometheus.value('supervisor_uvicorn_program_held{brake="paused"}') == 1

        assert site.cli("resume", "web").returncode == 0
        wait_for(lambda: not prometheus.firing("UvicornWorkerSilent"), FIRE_S, "it is over")
        restarts = 'sum by (worker) (supervisor_uvicorn_worker_restarts_total{reason="silent"} > 0)'
        wait_for(lambda: prometheus.value(restarts) == 1, 60, "one restart is counted")
        assert [labels["worker"] for labels, _ in prometheus.query(restarts)] == ["web:web-1"]


def test_a_suspended_program(figures: Callable[..., None]) -> None:
    with alerting("--silent-after 2 --budget 1/600 --backoff 0") as (site, prometheus):
        pids = site.pids()
        site.fault("web:web-0", "/hang/sleep")
        site.wait_event("replaced", 60, worker="web:web-0", old_pid=pids["web:web-0"])
        assert prometheus.firing("UvicornProgramSuspended") == []
        left = "supervisor_uvicorn_program_budget_restarts_left"
        wait_for(lambda: prometheus.value(left) == 0, 60, "nothing is left of the budget")
        began = site.fault("web:web-1", "/hang/sleep")
        fired = wait_for(lambda: prometheus.firing("UvicornProgramSuspended"), FIRE_S, "UvicornProgramSuspended")
        figures(fired_after_s=round(time.monotonic() - began, 1))
        assert [labels["program"] for labels in fired] == ["web"]
        assert prometheus.value("supervisor_uvicorn_program_suspended") == 1
        wait_for(lambda: prometheus.firing("UvicornWorkerSilent"), FIRE_S, "and who is left hanging")

        assert site.cli("resume", "web").returncode == 0
        wait_for(lambda: not prometheus.firing("UvicornProgramSuspended"), FIRE_S, "it is over")


def test_a_queue_that_fills_and_a_listener_that_goes() -> None:
    with (
        alerting("--silent-after 60", uvicorn="--backlog 16") as (site, prometheus),
        contextlib.ExitStack() as stack,
    ):
        limit = prometheus.value("supervisor_uvicorn_program_accept_queue_limit")
        assert limit == 16
        host, _, port = site.url("web").removeprefix("tcp://").rpartition(":")
        for pid in site.pids("web").values():
            os.kill(pid, signal.SIGSTOP)
        try:
            for _ in range(12):
                stack.enter_context(socket.create_connection((host, int(port)), 10))
            length = "supervisor_uvicorn_program_accept_queue_length"
            wait_for(lambda: (prometheus.value(length) or 0) >= 12, 60, "twelve wait")
            wait_for(lambda: prometheus.firing("UvicornAcceptQueueFilling"), FIRE_S, "UvicornAcceptQueueFilling")
        finally:
            for pid in site.pids("web").values():
                os.kill(pid, signal.SIGCONT)
        wait_for(lambda: not prometheus.firing("UvicornAcceptQueueFilling"), FIRE_S, "it is over")

        site.rpc.stopProcess(site.listener)
        wait_for(lambda: prometheus.firing("UvicornListenerGone"), FIRE_S, "UvicornListenerGone")
        site.rpc.startProcess(site.listener)
        wait_for(lambda: all_firing(prometheus) == set(), FIRE_S, "all is well again")


# -- nothing is left ---------------------------------------------------------------------------------------------------


def test_real_workers_that_are_replaced_leave_no_series(figures: Callable[..., None]) -> None:
    """50 times all twenty of a program, killed from outside: 1,000 processes, each of which served."""
    port = free_port()
    rounds, workers = 50, 20
    program = Program(numprocs=workers, extra="startsecs=0", uvicorn="--loop asyncio --http h11 --lifespan off")
    with watched(program, f"--metrics {port}") as site, Prometheus(f"127.0.0.1:{port}") as prometheus:

        def measured() -> bool:
            here = scrape(port)[1]
            return all(
                here.count(f"supervisor_uvicorn_worker_{short}{{") == workers
                for short in ("start_time_seconds", "open_connections", "cpu_seconds_total")
            )

        wait_for(measured, 120, "all measured")
        first = series(port)
        wait_for(lambda: prometheus.value(f"count({OURS})") == len(first), 60, "scraped")
        assert len(ever(prometheus)) == len(first)
        for _ in range(rounds):
            before = site.pids()
            for pid in before.values():
                os.kill(pid, signal.SIGKILL)
            wait_for(lambda: not set(site.pids().values()) & {0, *before.values()}, 60, "new pids")  # noqa: B023
        site.wait_pinned(120)
        wait_for(lambda: measured() and series(port) == first, 120, "the same series as before")
        wait_for(lambda: prometheus.value(f"count({OURS})") == len(first), 60, "scraped")
        seen = len(ever(prometheus))
        figures(replaced=workers * rounds, series=len(first), ever_seen_by_prometheus=seen)
        assert seen == len(first), "Prometheus has never seen any other"


def test_a_thousand_played_workers_leave_no_series(figures: Callable[..., None]) -> None:
    """A played listener: looks of 64 workers of which one is replaced each time, a real endpoint and Prometheus."""
    port = free_port()
    fed = Figures()
    settings = Settings(path="/health")
    members = [member(f"web:web-{number}", 100 + number) for number in range(64)]
    known = usage(rss_bytes=1, cpu_s=1, fds=1, fds_limit=1, connections=1)

    def look(number: int) -> None:
        ids = [worker for one in members if (worker := one.worker) is not None]
        usages = dict.fromkeys(ids, known)
        queues = {"web": ((0, 128),)}
        fed.show(view(members, usages=usages, queues=queues, settings=settings, now=NOW + number))
        for worker in ids:
            fed.lag(worker, 0.001)
            fed.probe(worker, HttpOutcome(Answer.RIGHT, seconds=0.01))

    look(0)
    metrics = metrics_server.start(ListenSettings(metrics=Place("127.0.0.1", port)), fed, lambda _: None)
    assert metrics is not None
    with contextlib.closing(metrics), Prometheus(f"127.0.0.1:{port}") as prometheus:
        first = series(port)
        wait_for(lambda: prometheus.value(f"count({OURS})") == len(first), 60, "scraped")
        assert len(ever(prometheus)) == len(first)
        scrapes = 0
        for number in range(1000):
            place = number % len(members)
            fed.told(Restarting(worker_of(members[place]), "silent", "it hangs", "abort", "silent"))
            members[place] = member(members[place].name, 1000 + number)
            look(number)
            if number % 50 == 0:
                assert series(port) == first
                scrapes += 1
        restarts = "sum(supervisor_uvicorn_worker_restarts_total)"
        wait_for(lambda: prometheus.value(restarts) == 1000, 60, "a thousand restarts are counted")
        seen = len(ever(prometheus))
        figures(replaced=1000, series=len(first), ever_seen_by_prometheus=seen)
        assert series(port) == first
        assert seen == len(first), "Prometheus has never seen any other"


def worker_of(one: Member) -> WorkerId:
    assert one.worker is not None
    return one.worker
