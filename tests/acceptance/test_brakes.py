"""A worker that is sick again after each restart: backoff, its half of the budget, then suspended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from harness import client
from harness.supervisord import Program, Supervisord, watched
from harness.waiting import stays_true, wait_for

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]

SICK = "web:web-1"


def test_sick_again_and_again(figures: Callable[..., None]) -> None:
    with watched(Program(), "--silent-after 2 --backoff 3:12 --budget 4/300 --start-timeout 10") as site:
        before = site.pids()
        site.fault_file("start.web-1", "hang-after")
        site.fault(SICK, "/hang/sleep")
        wait_for(lambda: len(restarts(site, SICK)) == 2, 90, "its half of the budget spent")
        wait_for(lambda: "backoff" in brakes(site), 5, "held: backoff")
        first, second = restarts(site, SICK)
        site.wait_event("suspended", 60, worker=SICK)
        stays_true(lambda: len(restarts(site, SICK)) == 2, 20, "no third restart of the same worker")

        hang(site, "web:web-2")
        wait_for(lambda: mended(site, before, "web:web-2"), 60, "another worker's hang mended")
        hang(site, "web:web-3")
        wait_for(lambda: mended(site, before, "web:web-3"), 60, "a third worker's hang mended")
        hang(site, "web:web-0")
        wait_for(lambda: whole_program_suspended(site), 60, "the whole program suspended")
        stays_true(lambda: len(site.events("restart")) == 4, 20, "nothing done while suspended")
        assert site.pids()["web:web-0"] == before["web:web-0"]
        figures(
            lines=[
                f"{event['time']} {event['event']}: {event['message']}"
                for event in site.listener_log()
                if event["event"] in {"restart", "held", "suspended"}
            ],
            between_restarts=[first["time"], second["time"]],
        )


def restarts(site: Supervisord, name: str) -> list[dict[str, Any]]:
    return site.events("restart", worker=name)


def whole_program_suspended(site: Supervisord) -> bool:
    return any("worker" not in event and "budget" in event["message"] for event in site.events("suspended"))


def brakes(site: Supervisord) -> set[str]:
    return {event["reason"] for event in site.events("held")}


def mended(site: Supervisord, before: dict[str, int], name: str) -> bool:
    return site.pids()[name] not in {0, before[name]} and bool(site.events("replaced", worker=name))


def hang(site: Supervisord, name: str) -> None:
    pids = site.pids()
    client.connect_to(site.url(), pids[name], pids.values()).send_only("/hang/sleep")
