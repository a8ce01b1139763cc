"""The recipe's supervisord.conf, 4 workers, nothing else configured: a hung one is replaced, that one and no other."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable

import pytest
from harness import client
from harness.configurations import Copied
from harness.processes import alive, serving
from harness.waiting import wait_for

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(900)]

RUNS = 20
BOUND_S = 3.5

EXAMPLE = """
import os, time

async def App(scope, receive, send):
    if scope["type"] != "http":
        return
    if scope["path"] == "/hang":
        time.sleep(3600)
    body = b'{"pid": %d}' % os.getpid()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""


def test_twenty_hangs(figures: Callable[..., None]) -> None:
    new_pid_s, running_s, serving_s = [], [], []
    # The brakes are for a worker that is hung again and again; this test does just that.
    copied = Copied("recipe", listen="--silent-after 2 --backoff 0 --budget 1000/600")
    (copied.scratch / "example.py").write_text(EXAMPLE)
    with copied as site:
        wait_for(lambda: site.all_running() and set(site.pids().values()) <= site.pinned(), 60, "four workers pinned")
        url = f"tcp://127.0.0.1:{site.port}"
        for run in range(RUNS):
            name = f"uvicorn:uvicorn-{run % 4}"
            before = site.pids()
            seen = len(site.text_log())
            connection = client.connect_to(url, before[name], before.values())
            began = time.monotonic()
            connection.send_only("/hang")

            def new(name: str = name, before: dict[str, int] = before) -> bool:
                return site.pids()[name] not in {0, before[name]}

            wait_for(new, 30, f"run {run}: a new pid", every_s=0.01)
            new_pid_s.append(time.monotonic() - began)
            assert not alive(before[name])
            now = site.pids()
            wait_for(lambda pid=now[name]: serving(pid), 30, f"run {run}: serving", every_s=0.01)
            serving_s.append(time.monotonic() - began)
            wait_for(site.all_running, 30, f"run {run}: RUNNING", every_s=0.01)
            running_s.append(time.monotonic() - began)
            connection.close()
            client.connect_to(url, now[name], now.values()).close()
            assert site.pids() == now
            assert {other: pid for other, pid in now.items() if other != name} == {
                other: pid for other, pid in before.items() if other != name
            }
            wait_for(lambda name=name, now=now: now[name] in site.pinned(), 30, f"run {run}: pinned anew")
            said = re.findall(r" restart: (.*)", site.text_log()[seen:])
            assert len(said) == 1
            assert name in said[0]
            assert str(before[name]) in said[0]
            assert re.search(r"event loop has not turned for \d+\.\d s", said[0]), said[0]
    figures(
        runs=RUNS,
        new_pid_s=summary(new_pid_s),
        running_s=summary(running_s),
        serving_s=summary(serving_s),
        log_line=said[0],
    )
    # RUNNING is only supervisord's word for "startsecs (1 s) old"; the worker answers long before.
    assert max(serving_s) <= BOUND_S


def summary(values: list[float]) -> dict[str, float]:
    return {
        "minimum": round(min(values), 2),
        "median": round(statistics.median(values), 2),
        "maximum": round(max(values), 2),
    }
