"""Every way to be sick, on TCP and on a unix socket: found, and only its worker replaced."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.client import Traffic
from harness.judging import replaced_only, wait_healthy, wait_replaced_only
from harness.supervisord import Program, Supervisord, watched
from harness.waiting import wait_for

pytestmark = pytest.mark.acceptance

Figures = Callable[..., None]
BRAKES_OFF = "--backoff 0 --budget 1000/600"
SICK = "web:web-1"

both_sockets = pytest.mark.parametrize("socket", ["tcp", "unix"])


@both_sockets
@pytest.mark.parametrize("kind", ["sleep", "spin", "lock", "read", "gil", "stop"])
def test_silent(socket: str, kind: str, figures: Figures) -> None:
    with watched(Program(socket=socket), f"--silent-after 2 {BRAKES_OFF}") as site:
        before = site.pids()
        began = time.monotonic()
        if kind == "stop":
            os.kill(before[SICK], signal.SIGSTOP)
        else:
            began = site.fault(SICK, f"/hang/{kind}")
        wait_for(lambda: site.events("restart"), 60, "the restart", every_s=0.02)
        restarted_s = time.monotonic() - began
        wait_replaced_only(site, before, SICK)
        figures(socket=socket, kind=kind, restart_s=round(restarted_s, 2), line=site.events("restart")[0]["message"])
        assert site.events("restart")[0]["reason"] == "silent"
        # busy_factor 2: burning CPU buys twice as long; the rest is the time between two looks.
        assert restarted_s < (2 if kind == "spin" else 1) * 2 + 3


@both_sockets
def test_hung_before_it_was_ever_pinned(socket: str, figures: Figures) -> None:
    with watched(Program(socket=socket), f"--silent-after 2 {BRAKES_OFF}") as site:
        site.fault_file("next-start", "hang-after")
        site.rpc.stopProcess(SICK)
        site.rpc.startProcess(SICK)
        before = site.wait_running()
        wait_replaced_only(site, before, SICK)
        assert site.events("pinned", pid=before[SICK]) == []
        figures(socket=socket, line=site.events("restart")[0]["message"])


@both_sockets
@pytest.mark.parametrize("kind", ["hang", "block"])
def test_hung_in_lifespan_startup(socket: str, kind: str, figures: Figures) -> None:
    with watched(Program(socket=socket), f"--start-timeout 8 --silent-after 5 {BRAKES_OFF}") as site:
        site.fault_file("next-start", kind)
        site.rpc.stopProcess(SICK)
        began = time.monotonic()
        site.rpc.startProcess(SICK)
        before = site.wait_running()
        wait_replaced_only(site, before, SICK)
        restart = site.events("restart")[0]
        figures(socket=socket, kind=kind, reason=restart["reason"], line=restart["message"])
        assert time.monotonic() - began > 8
        assert restart["reason"] == "start_timeout"


@both_sockets
@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize("health", ["500", "slow:10", "endless", "drip", "close", "garbage"])
def test_failing(socket: str, http: str, health: str, figures: Figures) -> None:
    if http == "httptools":
        pytest.importorskip("httptools")
    program = Program(socket=socket, uvicorn=f"--http {http}")
    with watched(program, f"--path /health --silent-after 4 {BRAKES_OFF}") as site:
        before = wait_healthy(site)
        site.tell(SICK, f"/set?health={health}")
        took_s = wait_replaced_only(site, before, SICK, deadline_s=90)
        restart = site.events("restart")[0]
        figures(socket=socket, http=http, health=health, replaced_s=round(took_s, 1), line=restart["message"])
        assert restart["reason"] == "failing"


@both_sockets
def test_all_hung(socket: str, figures: Figures) -> None:
    with watched(Program(socket=socket), f"--silent-after 2 {BRAKES_OFF}") as site:
        before = site.pids()
        inode = listening_inode(before[SICK])
        closed_before = supervisord_log(site).count("Closing socket")  # once, at its start: it tries the address
        with Traffic(site.url()) as traffic:
            for name in before:
                site.fault(name, "/hang/sleep")
            began = time.monotonic()
            wait_for(lambda: replaced_only(site, before, *before), 120, "all replaced")
            all_back_s = time.monotonic() - began
            answered = dict(traffic.answered)
            wait_for(lambda: traffic.answered.get(200, 0) > answered.get(200, 0) + 20, 60, "requests answered again")
        refused = [failure for failure in traffic.failed if "Refused" in failure or "FileNotFound" in failure]
        figures(socket=socket, all_back_s=round(all_back_s, 1), failed=len(traffic.failed), refused=len(refused))
        assert refused == []
        assert {listening_inode(pid) for pid in site.pids().values()} == {inode}
        assert supervisord_log(site).count("Closing socket") == closed_before
        assert sorted(event["pid"] for event in site.events("restart")) == sorted(before.values())


def listening_inode(pid: int) -> str:
    return str(Path(f"/proc/{pid}/fd/0").readlink())


def supervisord_log(site: Supervisord) -> str:
    return (site.scratch / "supervisord.log").read_text()
