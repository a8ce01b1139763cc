"""The listener ends in the middle of a remedy: the next one finishes it, once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
from harness.judging import wait_healthy
from harness.supervisord import Program, Supervisord, watched
from harness.waiting import stays_true, wait_for

pytestmark = pytest.mark.acceptance

SICK = "web:web-1"


def spawned(site: Supervisord, name: str) -> int:
    return (site.scratch / "supervisord.log").read_text().count(f"spawned: '{name.partition(':')[2]}'")


@pytest.mark.parametrize("how", ["kill", "supervisorctl"])
@pytest.mark.parametrize("autorestart", ["true", "false"])
def test_in_the_middle_of_an_abort(how: str, autorestart: str) -> None:
    program = Program(extra=f"autorestart={autorestart}")
    with watched(program, "--silent-after 2 --backoff 0") as site:
        before = site.pids()
        site.fault(SICK, "/hang/sleep")
        wait_for(lambda: site.events("restart"), 30, "the restart begun", every_s=0.001)
        end_listener(site, how)
        finished_once(site, before)


@pytest.mark.parametrize("command", ["{uvicorn}", "/bin/sh -c 'exec {uvicorn}'"])
def test_between_the_end_of_the_worker_and_its_start(command: str) -> None:
    """Nobody but us starts it again, and the next listener has never seen its process."""
    with watched(Program(command=command, extra="autorestart=false"), "--silent-after 2 --backoff 0") as site:
        before = site.pids()
        site.fault(SICK, "/hang/sleep")
        wait_for(lambda: site.states()[SICK] == "EXITED", 60, "its end", every_s=0.01)
        end_listener(site, "kill")
        finished_once(site, before)
        assert len(site.events("takeover")) == 1
        assert site.events("error") == []


@pytest.mark.parametrize("how", ["kill", "supervisorctl"])
@pytest.mark.parametrize("autorestart", ["true", "false"])
def test_in_the_middle_of_a_drain(how: str, autorestart: str, figures: Callable[..., None]) -> None:
    """A stream is open on the failing worker, so TERM alone does not end it."""
    program = Program(extra=f"autorestart={autorestart}\nstopwaitsecs=6")
    options = "--path /health --failing-after 2 --silent-after 5 --backoff 0"
    with watched(program, options) as site:
        before = wait_healthy(site)
        stream = site.connect_to(SICK)
        stream.send_only("/stream")
        site.tell(SICK, "/set?health=500")
        wait_for(lambda: site.events("restart"), 60, "the restart begun", every_s=0.001)
        assert site.pids()[SICK] == before[SICK]
        end_listener(site, how)
        finished_once(site, before)
        stream.close()
        figures(how=how, autorestart=autorestart, restarts=len(site.events("restart")))


def end_listener(site: Supervisord, how: str) -> None:
    pid = site.listener_pid()
    if how == "kill":
        os.kill(pid, signal.SIGKILL)
    else:
        assert site.ctl("restart", "uvicorn-health").returncode == 0
    wait_for(lambda: site.listener_pid() not in {0, pid}, 30, "the next listener")


def finished_once(site: Supervisord, before: dict[str, int]) -> None:
    wait_for(lambda: site.pids()[SICK] not in {0, before[SICK]} and site.all_running(), 60, "the remedy finished")
    after = site.pids()
    assert {name: pid for name, pid in after.items() if name != SICK} == {
        name: pid for name, pid in before.items() if name != SICK
    }
    stays_true(lambda: site.pids() == after, 20, "finished once")
    assert spawned(site, SICK) == 2
    assert site.all_running()
