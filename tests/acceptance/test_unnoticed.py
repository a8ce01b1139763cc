"""What we do to a worker is not seen: neither in its log nor by its clients."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from harness import client, processes
from harness.judging import wait_replaced_only
from harness.supervisord import Program, Supervisord, watched
from harness.waiting import stays_true

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(900)]

PULSES = 20_000
PULSE_S = 0.05
WORKERS = 8
OWN_WAKE_UPS = 10.5  # a second: uvicorn's main loop wakes each tenth of a second


def test_twenty_thousand_pulses(figures: Callable[..., None]) -> None:
    """Several times past h11's 16 KiB for each worker. Counted in the workers: each pulse is one wake-up more."""
    with watched(Program(numprocs=WORKERS, uvicorn="--http h11"), f"--pulse {PULSE_S}") as site:
        before, pids = logs(site), site.pids()
        woken_before = sum(processes.wake_ups(pid) for pid in pids.values())
        began = time.monotonic()

        def pulses() -> float:
            woken = sum(processes.wake_ups(pid) for pid in pids.values()) - woken_before
            return woken - OWN_WAKE_UPS * WORKERS * (time.monotonic() - began)

        while pulses() < PULSES:
            assert time.monotonic() - began < 600, f"{pulses()} pulses only"
            stays_true(site.all_running, 5, "all RUNNING", every_s=1)
        assert logs(site) == before
        assert site.pids() == pids
        assert all(len(lines) == 4 for name, lines in before.items() if name.endswith(".err"))
        figures(pulses=int(pulses()), workers=WORKERS, seconds=round(time.monotonic() - began), lines_in_the_logs=0)


def logs(site: Supervisord) -> dict[str, list[str]]:
    return {path.name: path.read_text().splitlines() for path in site.scratch.glob("web-*.*")}


@pytest.mark.parametrize("options", ["--silent-after 2", "--silent-after 4 --path /health"])
def test_limit_concurrency_2(options: str, figures: Callable[..., None]) -> None:
    """uvicorn counts connections: with one of ours every client would get 503. Ticks alone are used, and it is said."""
    program = Program(numprocs=2, uvicorn="--limit-concurrency 2")
    with Supervisord(program, listen=options) as site:
        before = site.wait_running()
        site.wait_event("watching", 30)
        statuses: dict[int, int] = {}
        end = time.monotonic() + 30
        while time.monotonic() < end:
            status, _ = client.ask(site.url(), "/pid")
            statuses[status] = statuses.get(status, 0) + 1
        assert set(statuses) == {200}
        assert [event["message"] for event in site.listener_log() if "limit-concurrency" in event["message"]]
        site.fault("web:web-1", "/hang/sleep")
        wait_replaced_only(site, before, "web:web-1")
        figures(options=options, statuses=statuses)
