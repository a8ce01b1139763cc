"""``explain`` on real workers, with and without rights; and the look at processes that are hard to look at."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from harness import interpreter, processes, users
from harness.supervisord import Program, Supervisord
from harness.waiting import wait_for
from played_listener import CTL, PLUGIN
from test_explain import drive
from verbs_desk import page, program, worker

from supervisor_uvicorn.explain import FAULTHANDLER, PY_SPY, Explanation, Trail, before_the_end, now, stack
from supervisor_uvicorn.explain.trail import FAULTHANDLER_OFF
from supervisor_uvicorn.kernel import proc
from supervisor_uvicorn.model import Address, WorkerId
from supervisor_uvicorn.supervisord.board import Board
from supervisor_uvicorn.supervisord.rpc import Rpc

HAS_PY_SPY = stack.program() is not None
needs_py_spy = pytest.mark.skipif(not HAS_PY_SPY, reason="takes py-spy, the extra [explain]")
needs_root = pytest.mark.skipif(not users.is_root(), reason="takes root")
needs_another_user = pytest.mark.skipif(
    not users.is_root() or users.way_prefix() is None, reason="no other user can run the interpreter"
)

STUCK = "web:web-0"
WELL = "web:web-1"
STOPPED = "web:web-2"


def run(site: Supervisord, *words: str, prefix: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    command = [*prefix, interpreter.python(), "-m", "supervisor_uvicorn", "explain", "-c", str(site.conf_path), *words]
    return site._run(command, 60)


@pytest.fixture(scope="module")
def site() -> Iterator[Supervisord]:
    """Three workers, one of them stuck and one stopped; no listener, no rpcinterface."""
    with Supervisord(Program(numprocs=3), listen=None, sections=CTL) as site:
        site.wait_running()
        pids = site.pids()
        wait_for(lambda: all(processes.serving(pid) for pid in pids.values()), 60, "serving")
        site.rpc.stopProcess(STOPPED)
        site.fault(STUCK, "/hang/sleep")
        wait_for(lambda: _does_not_tick(pids[STUCK]), 60, "it hangs")
        yield site


def _does_not_tick(pid: int) -> bool:
    before = proc.ticks(pid).switches
    time.sleep(0.25)  # the time over which ticks are compared
    return proc.ticks(pid).switches == before


# -- the verb


def test_the_text(site: Supervisord) -> None:
    done = run(site, STUCK)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"{STUCK} (pid {site.pids()[STUCK]}), RUNNING"
    assert all(line.startswith("  ") for line in lines[1:])
    if HAS_PY_SPY:
        assert lines[1] == "  main thread, innermost frame first (from py-spy):"
        assert lines[2].startswith("    <lambda> (")
        assert "/faulty.py:" in lines[2]
    assert "its main thread woke 0 times and used 0% of a CPU" in done.stdout
    assert "  connections: 1" in lines
    assert any(line.startswith("  memory ") for line in lines)


def test_the_object_has_each_that_can_be_explained(site: Supervisord) -> None:
    begin = time.monotonic()
    done = run(site, "--json", "web")
    assert time.monotonic() - begin < 10, "all are looked at in the same second"
    assert done.returncode == 0
    assert done.stderr == f"{STOPPED}: there is no process, it is STOPPED\n"
    stuck, well = json.loads(done.stdout)["workers"]
    assert (stuck["name"], stuck["pid"], stuck["state"]) == (STUCK, site.pids()[STUCK], "RUNNING")
    assert (stuck["verdict"], stuck["reason"]) == (None, None), "nobody has judged it"
    assert stuck["explanation"]["facts"]["wakes"] == 0
    assert well["explanation"]["facts"]["wakes"] >= 5, "uvicorn's loop wakes ten times a second"
    assert well["explanation"]["facts"]["connections"] == 0
    assert well["explanation"]["facts"]["threads"] >= 1
    assert well["explanation"]["state"] in ("S", "R")


def test_under_supervisorctl(site: Supervisord) -> None:
    done = site.ctl("uvicorn", "explain", STUCK)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{STUCK} (pid {site.pids()[STUCK]}), RUNNING\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["wob"], "supervisor-uvicorn explain: wob: no such uvicorn worker or program (programs here: web)"),
        ([STOPPED], f"{STOPPED}: there is no process, it is STOPPED"),
        ([], "usage: supervisor-uvicorn explain"),
    ],
)
def test_what_cannot_be_explained_is_2(site: Supervisord, words: list[str], said: str) -> None:
    done = run(site, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(said)
    assert "Traceback" not in done.stderr


@needs_root
def test_from_another_pid_namespace(site: Supervisord) -> None:
    done = run(site, STUCK, prefix=["unshare", "--pid", "--fork", "--mount-proc"])
    assert (done.returncode, done.stdout) == (2, "")
    assert "is not on this machine, or in another PID namespace: explain looks at processes" in done.stderr


def test_a_look_changes_nothing(site: Supervisord) -> None:
    pids, switches = site.pids(), proc.ticks(site.pids()[STUCK]).switches
    run(site, "all")
    assert site.pids() == pids
    assert proc.ticks(pids[STUCK]).switches == switches, "it was not woken, not even for a moment"
    assert proc.status(pids[STUCK]).state == "S"


def test_what_the_listener_knows_is_told_as_well() -> None:
    with Supervisord(Program(numprocs=2), listen=None, sections=PLUGIN) as site:
        site.wait_running()
        pids = site.pids()
        with Rpc(site.server_url) as rpc:
            judged = [
                worker(STUCK, pids[STUCK], verdict="silent", reason="no pulse", lag_s=31.0),
                worker(WELL, pids[WELL] + 1, verdict="healthy"),
            ]
            assert Board(rpc).report(json.dumps(page(program(workers=judged))))
            first, second = run(site, "web").stdout.split("\n\n")
            assert first.startswith(f"{STUCK} (pid {pids[STUCK]}), RUNNING, silent: no pulse\n")
            assert "\n  lag: 31 s" in first
            assert second.startswith(f"{WELL} (pid {pids[WELL]}), RUNNING\n"), "that was said of another process"
            told = json.loads(run(site, "--json", STUCK).stdout)["workers"][0]
            assert (told["verdict"], told["reason"], told["explanation"]["facts"]["lag_s"]) == (
                "silent",
                "no pulse",
                31.0,
            )
            assert Board(rpc).report(json.dumps({**page(program(workers=judged)), "age_s": 600.0}))
            assert "silent" not in run(site, "web").stdout, "nobody has reported for ten minutes"


# -- rights


@needs_another_user
@needs_py_spy
def test_root_without_ptrace_looks_as_the_workers_own_user() -> None:
    """What root has in a container; and a third user, who gets what everybody may see, and why not more."""
    way = users.way_prefix() or []
    workers = Program(numprocs=1, extra="user=nobody")
    with Supervisord(workers, listen=None, command_prefix=way, server_extra="chmod=0777") as site:
        site.wait_running()
        (pid,) = site.pids().values()
        wait_for(lambda: processes.serving(pid), 60, "serving")
        site.fault(STUCK, "/hang/read")
        wait_for(lambda: _does_not_tick(pid), 60, "it hangs")
        without = users.without_ptrace("").split()
        done = run(site, "--json", STUCK, prefix=[*way, *without])
        told = json.loads(done.stdout)["workers"][0]["explanation"]
        assert told["source"] == PY_SPY, told
        assert told["stack"][0].startswith("_read_for_ever (")
        assert told["why_not"] == []
        assert told["syscall"].startswith("recvfrom, descriptor ")
        assert told["facts"]["connections"] == 1

        daemon = ["setpriv", "--reuid=daemon", "--regid=daemon", "--clear-groups"]
        done = run(site, "--json", STUCK, prefix=[*way, *daemon])
        assert done.returncode == 0, done
        told = json.loads(done.stdout)["workers"][0]["explanation"]
        assert (told["source"], told["stack"], told["state"]) == ("kernel", [], "S")
        assert told["why_not"] == [stack.NOT_PERMITTED, "not permitted to see its system call"]
        assert told["facts"]["connections"] is None
        assert told["facts"]["fds"] is None
        assert told["facts"]["rss_bytes"] > 0


# -- the log


def test_the_traceback_is_found_in_the_log_that_supervisord_writes() -> None:
    """``redirect_stderr``: it comes through supervisord into the log of stdout, between other lines."""
    workers = Program(
        numprocs=1, environment={"PYTHONFAULTHANDLER": "1"}, extra="redirect_stderr=true\nautorestart=false"
    )
    with Supervisord(workers, listen=None) as site:
        site.wait_running()
        (pid,) = site.pids().values()
        wait_for(lambda: processes.serving(pid), 60, "serving")
        site.fault(STUCK, "/hang/lock")
        wait_for(lambda: _does_not_tick(pid), 60, "it hangs")
        info = site.rpc.getProcessInfo(STUCK)
        assert info["stderr_logfile"] == ""
        before = Explanation(WorkerId(STUCK, pid, proc.born(pid)))
        trail = Trail(info["stderr_logfile"], info["stdout_logfile"])
        proc.set_core_limit(pid, 1)
        site.rpc.signalProcess(STUCK, "ABRT")
        wait_for(lambda: not processes.alive(pid), 30, "its end", every_s=0.01)
        found, _ = drive(trail.read(before, deadline=time.monotonic() + 30, now=time.monotonic))
        assert found.source == FAULTHANDLER
        assert found.stack[0].startswith("_deadlock (")


# -- processes that are hard to look at


@contextmanager
def process(code: str) -> Iterator[WorkerId]:
    """A Python process that has printed a line."""
    child = subprocess.Popen([interpreter.python(), "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    try:
        assert child.stdout.readline()
        yield WorkerId("web:web-0", child.pid, proc.born(child.pid))
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def looked_at(worker: WorkerId, address: Address | None = None) -> tuple[Explanation, float]:
    return drive(before_the_end(worker, socket=address, deadline=time.monotonic() + 2))


@needs_py_spy
def test_another_thread_that_holds_the_lock_is_told() -> None:
    code = """
import ctypes, threading, time
begin = threading.Event()
def crunch():
    begin.wait()
    print(flush=True)
    ctypes.PyDLL(None).sleep(3600)
threading.Thread(target=crunch, daemon=True).start()
def wait_for_the_lock():
    begin.set()
    while True:
        time.sleep(0.001)
wait_for_the_lock()
"""
    with process(code) as worker:
        # A thread that waits for the lock wakes every 5 ms to ask for it (sys.setswitchinterval), so it does tick.
        explanation = wait_for(
            lambda: found if (found := looked_at(worker)[0]).gil else None, 30, "another thread with the lock"
        )
        assert any(frame.startswith("wait_for_the_lock (") for frame in explanation.stack)
        assert explanation.gil[0].startswith("crunch (")
        assert "another thread holds the interpreter's lock" in explanation.words()


def test_what_a_system_call_waits_for_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as database:
        port = database.getsockname()[1]
        code = f"""
import socket
connection = socket.create_connection(("127.0.0.1", {port}))
print(flush=True)
connection.recv(1)
"""
        with process(code) as worker:
            wait_for(lambda: proc.syscall(worker.pid) and _does_not_tick(worker.pid), 30, "it reads")
            explanation, _ = looked_at(worker)
            assert explanation.syscall.startswith("recvfrom, descriptor ")
            assert explanation.syscall.endswith(f": 127.0.0.1:{port}")


@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_thousands_of_descriptors_hold_nobody_up(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once: list[int] = []
    real = proc.socket_inodes
    monkeypatch.setattr(proc, "socket_inodes", lambda pid, fds: (at_once.append(len(fds)), real(pid, fds))[1])
    path = str(tmp_path / "sock")
    where = ("127.0.0.1", 0) if family == "tcp" else path
    code = f"""
import os, resource, socket, time
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
here = socket.socket(socket.AF_INET if {family!r} == "tcp" else socket.AF_UNIX)
here.bind({where!r})
here.listen(2048)
kept = [os.dup(0) for _ in range(min(9000, limit - 400))]
far = []
for _ in range(100):
    one = socket.socket(here.family)
    one.connect(here.getsockname())
    far.append((one, here.accept()))
print(here.getsockname()[1] if {family!r} == "tcp" else 0, len(kept), flush=True)
time.sleep(3600)
"""
    child = subprocess.Popen([interpreter.python(), "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        port, kept = map(int, child.stdout.readline().split())
        address = Address("tcp", "127.0.0.1", port) if family == "tcp" else Address("unix", path=path)
        worker = WorkerId("web:web-0", child.pid, proc.born(child.pid))
        explanation, longest_s = looked_at(worker, address)
        assert explanation.facts.fds is not None
        assert explanation.facts.fds > kept
        assert explanation.facts.connections == 100
        assert max(at_once) <= 500, "10 us each, and the remedy thread has others to carry out"
        assert longest_s < 0.1, "some milliseconds on a quiet machine"
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_one_that_ends_in_the_middle() -> None:
    code = "import faulthandler, time; faulthandler.enable(); print(flush=True); time.sleep(3600)"
    with process(code) as worker:
        steps = before_the_end(worker, socket=None, deadline=time.monotonic() + 2)
        next(steps)
        os.kill(worker.pid, signal.SIGKILL)
        wait_for(lambda: not processes.alive(worker.pid), 30, "its end")
        explanation, _ = drive(steps)
        assert explanation.stack == ()
        assert explanation.why_not, "and why there is no stack"
        assert FAULTHANDLER_OFF not in explanation.why_not, "a zombie catches nothing"


@needs_py_spy
def test_only_one_that_runs_and_is_to_end_is_stopped_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = stack.program()
    noted = tmp_path / "noted"
    wrapper = tmp_path / "py-spy"
    wrapper.write_text(f'#!/bin/sh\necho "$@" >>{noted}\nexec {real} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setattr(stack, "program", lambda: str(wrapper))

    def stopped_it() -> bool:
        words = noted.read_text()
        noted.unlink()
        return "--nonblocking" not in words

    with process("print(flush=True)\nwhile True: pass") as worker:
        looked_at(worker)
        assert stopped_it()
        now([(worker, None)], look_s=0.05)
        assert not stopped_it(), "it may be well"
        os.kill(worker.pid, signal.SIGSTOP)
        wait_for(lambda: processes.state(worker.pid) == "T", 10, "stopped")
        explanation, _ = looked_at(worker)
        assert not stopped_it(), "it fails on such a one"
        assert explanation.source == PY_SPY
        assert processes.state(worker.pid) == "T"
    with process("import time; print(flush=True); time.sleep(3600)") as worker:
        wait_for(lambda: processes.state(worker.pid) == "S", 10, "asleep")
        looked_at(worker)
        assert not stopped_it(), "what sleeps does not move"


def test_another_worker_with_that_pid(site: Supervisord) -> None:
    pid = site.pids()[WELL]
    explanation, _ = looked_at(replace(WorkerId(WELL, pid, proc.born(pid)), born=1))
    assert explanation.state == ""
