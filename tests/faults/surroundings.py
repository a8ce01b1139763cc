"""Faults of the surroundings: supervisord, its RPC, ``/proc``, descriptors, the log, the clock, CPU, memory, ourselves.

Nothing of it is a worker's fault, so nothing may be done to a worker that is well; and what is sick meanwhile must
still be found. Whatever was set is set back when the generator ends or is closed.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Callable, Generator
from pathlib import Path

from harness import processes

from faults.arena import Arena
from faults.oracle import Facts
from faults.plan import SURROUNDINGS, Fault

Steps = Generator[None, None, None]

CPU_CGROUP = Path("/sys/fs/cgroup/cpu")  # version 1
CPU_SHARE = 0.04  # of one CPU, while the CPU is limited
CLOCK_STEP_S = 3 * 3600.0
MORE_BYTES = 0  # of address space, while memory is limited: what the listener has already it may use
KILL_WAIT_S = 45.0  # for the step at which the listener is to be killed; some steps never come


def possible(socket: str) -> list[str]:
    """Those that can be had here: what a full log has lost is read from the history, which the rpcinterface keeps."""
    return [kind for kind in SURROUNDINGS if kind != "log-full" or socket != "unix"]


def trouble(arena: Arena, fault: Fault, facts: Facts) -> Steps:
    """Carry out a fault of ``plan.SURROUNDINGS``."""
    what, seconds = fault.what, fault.for_s
    if what == "supervisord-paused":
        assert arena.site.process is not None
        yield from _paused(arena.site.process.pid, seconds)
    elif what == "listener-paused":
        yield from _paused(arena.listener(), seconds)
    elif what.startswith("rpc-"):
        yield from _rpc(arena, what.removeprefix("rpc-"), seconds)
    elif what.startswith("proc-"):
        yield from _controlled(arena.control / "proc", what.removeprefix("proc-"), seconds)
    elif what.startswith("clock-"):
        step_s = CLOCK_STEP_S if what == "clock-forward" else -CLOCK_STEP_S
        yield from _controlled(arena.control / "clock", f"{step_s}", seconds)
    elif what == "emfile":
        yield from _limited(arena.listener(), resource.RLIMIT_NOFILE, processes.descriptors, seconds)
    elif what == "log-full":
        arena.lines_lost = True
        size = arena.site.log_path.stat().st_size
        yield from _limited(arena.listener(), resource.RLIMIT_FSIZE, lambda _: size, seconds)
    elif what == "memory-limit":
        facts.listener_killed |= {arena.listener()}  # it may end by it, as it may under the kernel's own killer
        yield from _limited(arena.listener(), resource.RLIMIT_AS, lambda pid: _address_space(pid) + MORE_BYTES, seconds)
    elif what == "cpu-limit":
        yield from _slowed(arena.listener(), seconds)
    else:
        yield from _killed(arena, what.removeprefix("listener-killed-"), facts)


def _for(seconds: float) -> Steps:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield


def _paused(pid: int, seconds: float) -> Steps:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield from _for(seconds)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _rpc(arena: Arena, mode: str, seconds: float) -> Steps:
    arena.proxy.mode = mode
    try:
        yield from _for(seconds)
    finally:
        arena.proxy.mode = "well"


def _controlled(file: Path, text: str, seconds: float) -> Steps:
    new = file.with_suffix(".new")
    new.write_text(text)
    new.rename(file)
    try:
        yield from _for(seconds)
    finally:
        file.unlink(missing_ok=True)


def _limited(pid: int, which: int, limit: Callable[[int], int], seconds: float) -> Steps:
    """A soft limit of the listener's own, set from outside (prlimit(2))."""
    before = resource.prlimit(pid, which)
    resource.prlimit(pid, which, (limit(pid), before[1]))
    try:
        yield from _for(seconds)
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, which, before)


def _address_space(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _slowed(pid: int, seconds: float) -> Steps:
    """A quota of CPU by a cgroup of its own; where there can be none, the lowest priority."""
    group = CPU_CGROUP / f"su-faults-{os.getpid()}-{pid}"
    try:
        group.mkdir()
        (group / "cpu.cfs_quota_us").write_text(f"{int(CPU_SHARE * 100_000)}")
        home = _cpu_group(pid)
        (group / "cgroup.procs").write_text(f"{pid}")
    except OSError:
        with contextlib.suppress(OSError):
            group.rmdir()
        yield from _nice(pid, seconds)
        return
    try:
        yield from _for(seconds)
    finally:
        with contextlib.suppress(OSError):  # it has ended
            (home / "cgroup.procs").write_text(f"{pid}")
        end = time.monotonic() + 5
        while group.exists() and time.monotonic() < end:
            with contextlib.suppress(OSError):  # for a moment after its last process has left
                group.rmdir()


def _cpu_group(pid: int) -> Path:
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "cpu" in controllers.split(","):
            return CPU_CGROUP / path.lstrip("/")
    raise FileNotFoundError("no cpu controller of version 1")


def _nice(pid: int, seconds: float) -> Steps:
    try:
        os.setpriority(os.PRIO_PROCESS, pid, 19)
        yield from _for(seconds)
    finally:
        with contextlib.suppress(OSError):  # gone, or not root: then it stays as low as it is
            os.setpriority(os.PRIO_PROCESS, pid, 0)


def _killed(arena: Arena, step: str, facts: Facts) -> Steps:
    """KILL the listener when it has come so far with one of the sick (plan.STEPS)."""
    pid = arena.listener()
    seen = len(arena.said.events)
    end = time.monotonic() + KILL_WAIT_S
    while not _has_come(arena, step, facts, seen):
        if time.monotonic() > end:
            return
        yield
    facts.listener_killed |= {pid}
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    while arena.listener() in (0, pid):
        yield


def _has_come(arena: Arena, step: str, facts: Facts, seen: int) -> bool:
    sick = {done.pid: done for done in facts.sick if done.pid}
    new = arena.said.events[seen:]
    if step == "verdict":
        return any(e["event"] == "verdict" and e.get("pid") in sick and e["verdict"] != "healthy" for e in new)
    if step == "restart":
        return any(e["event"] == "restart" and e["pid"] in sick for e in new)
    if step == "ended":
        return any(done.gone for done in sick.values())
    if step == "spawned":
        pids = arena.workers()
        return any(done.gone and pids.get(done.worker, done.pid) != done.pid for done in sick.values())
    return True
