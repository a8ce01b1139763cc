"""Limits on real workers under load: who leaks is replaced without a lost request, and never two at a time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from harness.load import KEPT, NEW, Load
from harness.supervisord import PLUGIN, SERVE, Program, Supervisord, watched
from harness.waiting import wait_for

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(900)]

MB = 1024**2
WORKERS = 4


def program(**how: Any) -> Program:
    return Program(numprocs=WORKERS, module=SERVE, uvicorn="--no-access-log", **how)


def replaced(site: Supervisord, restarts: int, deadline_s: float) -> list[dict[str, Any]]:
    """The `restart` and `replaced` events, once there are so many restarts and each one is replaced."""

    def done() -> list[dict[str, Any]]:
        found = [event for event in site.listener_log() if event["event"] in ("restart", "replaced")]
        began = [event for event in found if event["event"] == "restart"]
        enough = len(began) >= restarts and len(found) == 2 * len(began)
        return found if enough else []

    return wait_for(done, deadline_s, f"{restarts} restarts, each of them replaced")


@pytest.mark.parametrize("socket", ["tcp", "unix"])
@pytest.mark.parametrize("kind", [NEW, KEPT])
def test_a_leaking_worker_is_replaced_under_load_and_no_request_fails(
    kind: str, socket: str, figures: Callable[..., None]
) -> None:
    with (
        watched(program(socket=socket), sections=PLUGIN, listen="--max-rss 200MB") as site,
        Load(site.url(), kind, clients=12) as load,
    ):
        before = site.wait_pinned()
        load.wait_done(1000, 60)
        began = time.monotonic()
        site.tell("web:web-2", "/leak?mb=300")
        (restart, new) = replaced(site, 1, 120)
        took_s = time.monotonic() - began
        load.wait_done(load.done + 2000, 60)  # also by the new one
        result = load.stop()
        after = site.pids()
    figures(kind=kind, socket=socket, took_s=round(took_s, 1), detail=restart["detail"], **result.figures())
    assert (restart["worker"], restart["pid"], restart["reason"]) == ("web:web-2", before["web:web-2"], "max_rss")
    assert new["old_pid"] == before["web:web-2"]
    assert {name for name in before if before[name] != after[name]} == {"web:web-2"}
    assert result.failed == {}, result.examples


@pytest.mark.parametrize("kind", [NEW, KEPT])
def test_four_that_leak_alike_go_one_at_a_time(kind: str, figures: Callable[..., None]) -> None:
    """Each request leaves 20 kB behind, in every worker; the new ones leak on."""
    leaking = program(environment={"FAULTY_LEAK_BYTES": "20000"})
    with (
        watched(leaking, sections=PLUGIN, listen="--max-rss 200MB --max-unavailable 3") as site,
        Load(site.url(), kind, clients=12) as load,
    ):
        before = site.wait_pinned()

        def every_one() -> bool:
            return len({event["worker"] for event in site.events("restart")}) == WORKERS

        wait_for(every_one, 400, "each worker restarted once")
        site.cli("pause", "-c", str(site.conf_path), "web")
        told = replaced(site, WORKERS, 60)
        result = load.stop()
    kinds = [event["event"] for event in told]
    assert kinds == ["restart", "replaced"] * (len(kinds) // 2), "two at a time"
    assert {event["reason"] for event in told} == {"max_rss"}
    figures(kind=kind, restarts=len(kinds) // 2, **result.figures())
    assert set(before) == {event["worker"] for event in told}
    assert result.failed == {}, result.examples


def test_descriptors_and_age(figures: Callable[..., None]) -> None:
    with watched(program(), sections=PLUGIN, listen="--max-fds 300 --max-age 60:40") as site:
        before = site.wait_pinned()
        site.tell("web:web-1", "/open?n=400")
        (restart, _) = replaced(site, 1, 60)
        assert (restart["worker"], restart["reason"]) == ("web:web-1", "max_fds")
        told = replaced(site, 1 + WORKERS, 300)
        restarts = [event for event in told if event["event"] == "restart"]
        ages = {event["worker"]: event["detail"] for event in restarts if event["reason"] == "max_age"}
        figures(ages=ages)
        kinds = [event["event"] for event in told]
        assert kinds == ["restart", "replaced"] * (len(kinds) // 2)
        assert not set(before.values()) & set(site.pids().values())


def test_a_helper_that_shares_the_leak_counts_once(figures: Callable[..., None]) -> None:
    """Two forked helpers of a worker of 150 MB show 450 MB in ps, and are no reason to act at 300 MB."""
    with watched(
        program(extra="stopasgroup=true\nkillasgroup=true"), sections=PLUGIN, listen="--max-rss 300MB"
    ) as site:
        before = site.wait_pinned()
        site.tell("web:web-0", "/leak?mb=100")
        for _ in range(2):
            site.tell("web:web-0", "/fork")
        page = wait_for(lambda: shown(site, "web:web-0", 2), 60, "two helpers measured")
        figures(rss_mb=page["rss_bytes"] // MB)
        assert page["rss_bytes"] > 300 * MB
        measured_twice(site, "web:web-0")
        assert site.pids() == before
        site.tell("web:web-0", "/leak?mb=250")
        (restart, _) = replaced(site, 1, 60)
        assert (restart["worker"], restart["reason"]) == ("web:web-0", "max_rss")
        assert "with 2 helpers" in restart["detail"]


def shown(site: Supervisord, name: str, helpers: int) -> dict[str, Any]:
    done = site.cli("status", "-c", str(site.conf_path), "--json", name)
    worker = json.loads(done.stdout)["programs"][0]["workers"][0]
    return worker if worker.get("helpers") == helpers and worker.get("rss_bytes") else {}


def measured_twice(site: Supervisord, name: str) -> None:
    """Ages as of the measurement grow with each: two more have come."""
    seen: set[object] = set()

    def two_more() -> bool:
        worker = shown(site, name, 2)
        seen.add((worker.get("cpu_s"), round(worker["age_s"] / 6) if worker else None))
        return len(seen) >= 4

    wait_for(two_more, 120, "two more measurements")
