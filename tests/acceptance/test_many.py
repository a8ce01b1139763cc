"""More workers at one socket than the listener keeps busy: they are pinned by volleys (probe/acquire.py), and the sick
are replaced, round after round, while clients come."""

from __future__ import annotations

import functools
import os
import signal
import time
from collections.abc import Callable

import pytest
from harness.client import Traffic
from harness.judging import replaced_only
from harness.supervisord import Program, Supervisord, watched
from harness.waiting import wait_for

pytestmark = pytest.mark.acceptance

Figures = Callable[..., None]
WORKERS = 16
ROUNDS = (["web:web-3"], ["web:web-3", "web:web-11"], [f"web:web-{number}" for number in range(WORKERS)], ["web:web-3"])


def all_pinned(site: Supervisord) -> bool:
    pinned = {entry["pid"] for entry in site.events("pinned")}
    return pinned >= set(site.pids().values())


@pytest.mark.parametrize("socket", ["tcp", "unix"])
@pytest.mark.parametrize("limit", [None, 40])
def test_each_sick_one_of_sixteen_is_replaced(socket: str, limit: int | None, figures: Figures) -> None:
    """One, two, all, and one again; of replacements too, so each was pinned anew. Nobody else is touched, and no
    client is refused, also where a worker takes so few connections that a volley is but two."""
    program = Program(socket=socket, numprocs=WORKERS, uvicorn=f"--limit-concurrency {limit}" if limit else "")
    ended: list[tuple[str, int]] = []
    with watched(program, "--silent-after 2 --backoff 0 --budget 1000/600") as site, Traffic(site.url()) as traffic:
        replaced_s = []
        for names in ROUNDS:
            wait_for(lambda: all_pinned(site), 120, "all pinned")
            before = site.pids()
            for name in names:
                os.kill(before[name], signal.SIGSTOP)
            began = time.monotonic()
            wait_for(functools.partial(replaced_only, site, before, *names), 120, f"{names} replaced")
            replaced_s.append(round(time.monotonic() - began, 1))
            ended += [(name, before[name]) for name in names]
            assert sorted((entry["worker"], entry["pid"]) for entry in site.events("restart")) == sorted(ended)
        answered = traffic.answered.get(200, 0)
        wait_for(lambda: traffic.answered.get(200, 0) > answered + 20, 60, "requests answered at the end")
    figures(socket=socket, limit=limit, replaced_s=replaced_s, answered=dict(traffic.answered))
    assert [failure for failure in traffic.failed if "Refused" in failure or "FileNotFound" in failure] == []
    assert set(traffic.answered) == {200}, "no 503 because of us"
    assert site.events("not-json") == []
