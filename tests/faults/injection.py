"""How a worker is made sick, and what is done to one that is to be left alone.

Each is a generator that is called again and again and never waits: it yields until it is done, and closes what it has
opened when it is closed itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from typing import Any

from harness import processes
from harness.load_client import Failed, Link, request_for

from faults.arena import Arena
from faults.oracle import Done, Facts
from faults.plan import Fault

Steps = Generator[None, None, None]

REACHED_S = 20.0  # so long is it tried to get a connection to the one that is to be made sick


def make_sick(arena: Arena, fault: Fault, done: Done, facts: Facts) -> Steps:
    """Carry out a fault of ``plan.SICK``; ``done`` learns the pid and the moment."""
    what, worker = fault.what, fault.worker
    if what == "stop":
        pid = yield from _present(arena, worker)
        done.pid, done.began = pid, time.time()
        os.kill(pid, signal.SIGSTOP)
    elif what == "unpinned":
        done.pid, _ = yield from _started_with(arena, worker, "hang-after", facts)
        done.began = time.time()
    elif what in ("start-hang", "start-block"):
        done.pid, done.began = yield from _started_with(arena, worker, what.removeprefix("start-"), facts)
    else:
        link = yield from _reached(arena, worker)
        done.pid = arena.workers().get(worker, 0)
        hang = what in ("sleep", "lock", "read", "gil", "spin")
        done.began = time.time()
        if hang:
            arena.held.append(link)  # closed by us it would be an end of file for the handler
            link.send(request_for("keep-alive", f"/hang/{what}"))
        else:
            with contextlib.suppress(Failed):
                link.ask(request_for("keep-alive", f"/set?health={what}"))
            link.close()


def do_harmless(arena: Arena, fault: Fault, facts: Facts) -> Steps:
    """Carry out a fault of ``plan.HARMLESS``."""
    what, worker = fault.what, fault.worker
    if not worker:
        yield from _whole(arena, what, fault.for_s)
    elif what in ("block", "lag"):
        link = yield from _reached(arena, worker)
        arena.held.append(link)
        link.send(request_for("keep-alive", f"/{what}?s={fault.for_s}"))
        yield from _for(fault.for_s)
    elif what == "pause":
        pid = yield from _present(arena, worker)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield from _for(fault.for_s)
        finally:
            _continue(pid)
    elif what == "debugger":
        yield from _debugged(arena, worker, fault.for_s)
    elif what == "max-requests":
        yield from _used_up(arena, worker, facts)
    elif what in ("slow-start", "blocked-start"):
        kind = "slow" if what == "slow-start" else "blocked"
        pid, _ = yield from _started_with(arena, worker, f"{kind}:{fault.for_s - 1}", facts)
        while not processes.serving(pid):
            yield
    else:
        pid = yield from _stopped(arena, worker, facts)
        yield from _for(3.0 if what == "operator-stop" else 0.0)
        yield from _started(arena, worker, pid)


# -- the workers' side -----------------------------------------------------------------------------------------------


def _for(seconds: float) -> Steps:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield


def _present(arena: Arena, worker: str) -> Generator[None, None, int]:
    """Its pid, as soon as it has one."""
    while not (pid := arena.workers().get(worker, 0)):
        yield
    return pid


def _reached(arena: Arena, worker: str) -> Generator[None, None, Link]:
    end = time.monotonic() + REACHED_S
    while (link := arena.reach(worker)) is None:
        if time.monotonic() > end:
            raise TimeoutError(f"no connection to {worker}")
        yield from _for(0.3)
    return link


def _rpc(call: Callable[[], Any]) -> None:
    """A call of the operator; that it is already so, or not yet possible, is seen by what comes of it."""
    with contextlib.suppress(Exception):
        call()


def _stopped(arena: Arena, worker: str, facts: Facts) -> Generator[None, None, int]:
    """The operator stops it; its pid."""
    pid = yield from _present(arena, worker)
    told = time.time()
    facts.others[pid] = (told, told + 60)
    _rpc(lambda: arena.site.rpc.stopProcess(f"web:{worker}", False))
    while processes.alive(pid):
        yield
    facts.others[pid] = (told, time.time())
    return pid


def _started(arena: Arena, worker: str, before: int) -> Generator[None, None, int]:
    """The operator starts it; its new pid, which is not ``before``."""
    while (pid := arena.workers().get(worker, before)) == before:
        _rpc(lambda: arena.site.rpc.startProcess(f"web:{worker}", False))
        yield from _for(0.1)
    return pid


def _started_with(arena: Arena, worker: str, start: str, facts: Facts) -> Generator[None, None, tuple[int, float]]:
    """Stopped and started by the operator, with this start-up (faulty.py); its new pid, and since when it is there.

    The file is gone before its next start.
    """
    file = arena.site.scratch / "faults" / f"start.{worker}"
    before = yield from _stopped(arena, worker, facts)
    log = arena.site.scratch / f"web-{worker.rpartition('-')[2]}.err"
    file.write_text(start)
    try:
        pid = yield from _started(arena, worker, before)
        began = time.time()
        while f"Started server process [{pid}]" not in log.read_text(errors="replace"):
            yield
        if start == "hang-after":
            while not processes.serving(pid) and processes.alive(pid):
                yield
        else:
            yield from _for(0.3)  # it is in its lifespan, and has read the file at its beginning
    finally:
        file.unlink(missing_ok=True)
    return pid, began


def _continue(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


_DEBUGGER = """
import ctypes, os, sys
trace = ctypes.CDLL(None, use_errno=True).ptrace
pid = int(sys.argv[1])
assert trace(16, pid, None, None) == 0, os.strerror(ctypes.get_errno())  # PTRACE_ATTACH
os.waitpid(pid, 0)
print("attached", flush=True)
sys.stdin.read()
trace(17, pid, None, None)  # PTRACE_DETACH
"""


def _debugged(arena: Arena, worker: str, seconds: float) -> Steps:
    pid = yield from _present(arena, worker)
    command = [sys.executable, "-c", _DEBUGGER, str(pid)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as debugger:
        try:
            yield from _for(seconds)
        finally:
            try:
                debugger.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                debugger.kill()


def _used_up(arena: Arena, worker: str, facts: Facts) -> Steps:
    """Ask until ``--limit-max-requests`` ends it."""
    link = yield from _reached(arena, worker)
    pid = arena.workers().get(worker, 0)
    request = request_for("keep-alive", "/pid")
    told = time.time()
    facts.others[pid] = (told, told + 60)
    try:
        asked = 0
        while processes.alive(pid):
            _, last = link.ask(request)
            asked += 1
            if last:
                break
            if asked % 50 == 0:
                yield
    except Failed:
        pass
    link.close()
    while processes.alive(pid):
        yield
    facts.others[pid] = (told, time.time())


def _whole(arena: Arena, what: str, seconds: float) -> Steps:
    """All workers answer alike for a while."""
    file = arena.site.scratch / "faults" / "health"
    new = file.with_suffix(".new")
    new.write_text({"all-flood": "flood", "all-slow": "slow:1", "all-500": "500"}[what])
    new.rename(file)
    try:
        yield from _for(seconds)
    finally:
        file.unlink(missing_ok=True)
