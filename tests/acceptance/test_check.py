"""``check``: what it prints, how long it takes, what it exits with."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable

import pytest
from harness import processes
from harness.supervisord import Program, Supervisord
from harness.waiting import wait_for

pytestmark = pytest.mark.acceptance

BOUND_S = 3.0
SICK = "web:web-2"


def timed(site: Supervisord, *words: str) -> tuple[subprocess.CompletedProcess[str], float]:
    began = time.monotonic()
    done = site.check(*words)
    return done, time.monotonic() - began


def asleep(pid: int) -> bool:
    """Its main thread has not woken for 0.3 s; uvicorn's own loop wakes each tenth of a second."""
    before = processes.wake_ups(pid)
    time.sleep(0.3)
    return processes.wake_ups(pid) == before


def verdict_of(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    programs = json.loads(done.stdout)["programs"]
    return {worker["name"]: worker["verdict"] for program in programs for worker in program["workers"]}


@pytest.mark.parametrize("socket", ["tcp", "unix"])
@pytest.mark.parametrize("hung", ["after-a-check", "before-any-check"])
def test_one_of_four_hung(socket: str, hung: str, figures: Callable[..., None]) -> None:
    """No listener: ``check`` looks by itself."""
    with Supervisord(Program(socket=socket), listen=None) as site:
        pids = site.wait_running()
        if hung == "after-a-check":
            done, seconds = timed(site)
            assert done.returncode == 0, done.stdout + done.stderr
            assert seconds <= BOUND_S
            assert all(name in done.stdout for name in pids)
        site.fault(SICK, "/hang/sleep")
        wait_for(lambda: asleep(pids[SICK]), 20, "the worker blocked")
        table, table_s = timed(site)
        as_json, json_s = timed(site, "--json")
        figures(socket=socket, hung=hung, table_s=round(table_s, 2), json_s=round(json_s, 2), table=table.stdout)
        assert table.returncode == as_json.returncode == 1
        assert max(table_s, json_s) <= BOUND_S
        line = next(line for line in table.stdout.splitlines() if SICK in line)
        assert "silent" in line
        found = verdict_of(as_json)
        assert found.pop(SICK) == "silent"
        assert set(found.values()) == {"healthy"}
        assert site.pids() == pids


def test_the_object() -> None:
    with Supervisord(Program(numprocs=2), listen=None) as site:
        pids = site.wait_running()
        done = wait_for(lambda: (d := site.check("--json", "--path", "/health")).returncode == 0 and d, 20, "healthy")
        program = json.loads(done.stdout)["programs"][0]
        assert (program["name"], program["socket"]) == ("web", site.url())
        worker = program["workers"][0]
        assert worker["pid"] == pids[worker["name"]]
        assert worker["state"] == "RUNNING"
        assert worker["watched"] is True
        assert worker["lag_s"] < 1
        assert worker["http"]["status"] == 200
        assert site.check("--json", "--path", "/wrong").returncode == 1


def test_names() -> None:
    with Supervisord(Program(numprocs=2), Program(name="other", numprocs=1), listen=None) as site:
        site.wait_running()
        assert set(verdict_of(site.check("--json", "web:*"))) == {"web:web-0", "web:web-1"}
        assert set(verdict_of(site.check("--json", "web:web-1", "other"))) == {"web:web-1", "other:other-0"}
        wrong = site.check("nobody")
        assert wrong.returncode == 2
        assert "nobody" in wrong.stderr


def test_no_supervisord() -> None:
    with Supervisord(Program(numprocs=1), listen=None) as site:
        url = f"unix://{site.scratch}/nothing.sock"
        began = time.monotonic()
        done = site.cli("check", "-s", url)
        assert time.monotonic() - began <= BOUND_S
        assert done.returncode == 2
        assert done.stdout == ""
        assert len(done.stderr.strip().splitlines()) == 1
        assert "nothing.sock" in done.stderr
