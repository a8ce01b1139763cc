"""What looks like trouble and is none: each of these gets no restart."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from harness import client, processes
from harness.client import Traffic
from harness.judging import nobody_restarted, verdicts, wait_healthy
from harness.supervisord import Program, Supervisord, watched
from harness.waiting import stays_true, wait_for

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]

Figures = Callable[..., None]


def quiet_for(site: Supervisord, seconds: float) -> None:
    stays_true(lambda: site.events("restart") == [], seconds, "no restart")


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_under_load(loop: str, figures: Figures) -> None:
    if not shutil.which("wrk"):
        pytest.skip("wrk is not installed (Debian: apt-get install wrk)")
    with watched(Program(uvicorn=f"--loop {loop} --no-access-log"), "--silent-after 2") as site, nobody_restarted(site):
        url = site.url().replace("tcp://", "http://") + "/pid"
        done = subprocess.run(["wrk", "-t", "1", "-c", "400", "-d", "60s", url], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        figures(loop=loop, wrk=[line.strip() for line in done.stdout.splitlines() if "Requests/sec" in line])
        assert set(verdicts(site).values()) == {"healthy"}


@pytest.mark.parametrize("numprocs", [1, 4])
def test_a_client_that_makes_a_handler_block(numprocs: int) -> None:
    with watched(Program(numprocs=numprocs), "--silent-after 2") as site, nobody_restarted(site):
        with Traffic(site.url(), "/block?s=1.5") as traffic:
            quiet_for(site, 60)
        assert traffic.answered.get(200, 0) >= 35
        assert traffic.failed == []


def test_a_wrong_path() -> None:
    with watched(Program(), "--path /wrong --silent-after 2") as site, nobody_restarted(site):
        quiet_for(site, 300)


def test_every_answer_takes_20_s() -> None:
    program = Program(uvicorn="--http h11")
    with Supervisord(program, listen="--path /health --silent-after 2") as site:
        site.fault_file("health", "slow:20")
        site.wait_pinned()
        with nobody_restarted(site):
            quiet_for(site, 100)
        assert site.events("verdict", verdict="silent") == []


def test_at_the_limit_of_concurrency() -> None:
    """Each worker holds as many connections as it may: it answers 503, also to the probe, and is busy, not sick."""
    program = Program(numprocs=2, uvicorn="--limit-concurrency 25")
    with watched(program, "--path /health --failing-after 1 --silent-after 4") as site:
        pids = wait_healthy(site)
        host, _, port = site.url().removeprefix("tcp://").rpartition(":")
        with nobody_restarted(site), contextlib.ExitStack() as stack:
            for pid in pids.values():
                full = processes.descriptors(pid) + 40
                with client.only(pid, pids.values()):
                    for _ in range(40):
                        held = stack.enter_context(socket.create_connection((host, int(port))))
                        held.sendall(b"GET / HTTP/1.1\r\n")  # an unfinished head, on which uvicorn sets no timer
                    wait_for(lambda pid=pid, full=full: processes.descriptors(pid) >= full, 10, "all accepted")
            assert client.ask(site.url(), "/pid")[0] == 503
            quiet_for(site, 45)
        assert "failing" not in {event["verdict"] for event in site.events("verdict")}


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream-open"])
def test_recycling(stream: bool) -> None:
    """Workers end by themselves after so many requests; one with a stream open drains for as long as that lasts."""
    program = Program(numprocs=3, uvicorn="--limit-max-requests 50", extra="autorestart=true")
    with watched(program, "--silent-after 2 --start-timeout 20") as site:
        with nobody_restarted(site, same_pids=False) as before:
            connections = [site.connect_to(name) for name in before] if stream else []
            for connection in connections:
                connection.send_only("/stream")
            with Traffic(site.url()) as traffic:
                quiet_for(site, 45)
            if stream:
                assert site.pids() == before
                assert "stopping" in verdicts(site).values()
            else:
                assert all(site.pids()[name] != pid for name, pid in before.items())
                assert traffic.answered[200] > 200
            for connection in connections:
                connection.close()
        assert "SIGKILL" not in (site.scratch / "supervisord.log").read_text()


def test_the_operator() -> None:
    """supervisorctl restart, stop, update: the listener neither judges nor undoes what the operator does."""
    with watched(Program(), "--silent-after 2") as site, nobody_restarted(site, same_pids=False):
        assert site.ctl("restart", "web:web-0").returncode == 0
        assert site.ctl("restart", "web:*").returncode == 0
        site.wait_running()
        assert site.ctl("stop", "web:web-1").returncode == 0
        stays_true(lambda: site.states()["web:web-1"] == "STOPPED", 20, "stopped by the operator")
        assert site.ctl("start", "web:web-1").returncode == 0
        site.conf_path.write_text(site.conf_path.read_text().replace("numprocs=4", "numprocs=3"))
        assert site.ctl("update").returncode == 0
        wait_for(lambda: len(site.pids()) == 3 and site.all_running(), 60, "three workers after the update")
        site.wait_pinned()
        quiet_for(site, 15)


def test_supervisord_stopping() -> None:
    """A stream is open on each worker, so that TERM takes stopwaitsecs and the listener sees it all."""
    with watched(Program(numprocs=2, extra="stopwaitsecs=8"), "--silent-after 2") as site:
        for name in site.pids():
            site.fault(name, "/stream")
        assert site.stop() == 0
        assert site.events("restart") == []
        assert site.events("error") == []
        assert site.events("not-json") == []


def test_the_listener_paused() -> None:
    with watched(Program(), "--silent-after 2 --path /health") as site, nobody_restarted(site):
        wait_healthy(site)
        os.kill(site.listener_pid(), signal.SIGSTOP)
        time.sleep(60)  # the pause itself
        os.kill(site.listener_pid(), signal.SIGCONT)
        quiet_for(site, 25)


def test_supervisord_paused() -> None:
    with watched(Program(), "--silent-after 2 --path /health") as site, nobody_restarted(site):
        wait_healthy(site)
        assert site.process is not None
        os.kill(site.process.pid, signal.SIGSTOP)
        time.sleep(30)  # the pause itself
        os.kill(site.process.pid, signal.SIGCONT)
        quiet_for(site, 25)


@pytest.mark.parametrize("start", ["slow:20", "blocked:20"])
def test_a_start_of_20_s(start: str) -> None:
    with Supervisord(Program(environment={"FAULTY_START": start}), listen="--silent-after 2") as site:
        before = site.wait_running()
        with nobody_restarted(site):
            assert site.wait_pinned(60) == before
            quiet_for(site, 10)


def test_a_debugger() -> None:
    """Traced and stopped for 15 s, seven times silent_after."""
    with watched(Program(), "--silent-after 2") as site, nobody_restarted(site) as before:
        with attached(before["web:web-1"]):
            wait_for(lambda: processes.state(before["web:web-1"]) == "t", 10, "the worker traced")
            wait_for(lambda: site.events("held", reason="traced", worker="web:web-1"), 30, "held: traced")
            quiet_for(site, 15)
        quiet_for(site, 15)


@contextlib.contextmanager
def attached(pid: int) -> Iterator[None]:
    """What a debugger does (ptrace(2): PTRACE_ATTACH is 16, PTRACE_DETACH 17), in a process of its own."""
    script = (
        "import ctypes, os, sys\n"
        "trace = ctypes.CDLL(None, use_errno=True).ptrace\n"
        f"assert trace(16, {pid}, None, None) == 0, os.strerror(ctypes.get_errno())\n"
        f"os.waitpid({pid}, 0)\n"
        "print('attached', flush=True)\n"
        "sys.stdin.read()\n"
        f"trace(17, {pid}, None, None)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as debugger:
        try:
            assert debugger.stdout is not None
            assert debugger.stdout.readline() == b"attached\n"
            yield
        finally:
            debugger.communicate(timeout=10)


def test_a_body_that_is_too_long() -> None:
    """A probe reads 64 KiB of a body and cuts it there: a long answer is not a wrong one."""
    with watched(Program(numprocs=2), "--path /health --failing-after 1 --silent-after 4") as site:
        wait_healthy(site)
        site.fault_file("health", "flood")
        with nobody_restarted(site):
            quiet_for(site, 30)
        assert site.events("verdict", verdict="failing") == []
