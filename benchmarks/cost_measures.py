"""What one process takes, and how long a look takes: the single readings of :mod:`benchmarks.cost`."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import shutil
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.supervisord import Supervisord
from harness.waiting import wait_for

from supervisor_uvicorn.kernel.sock_diag import SockDiag
from supervisor_uvicorn.model import Member
from supervisor_uvicorn.probe.pins import Pins
from supervisor_uvicorn.roster import Roster
from supervisor_uvicorn.settings import load
from supervisor_uvicorn.supervisord import calls
from supervisor_uvicorn.supervisord.rpc import Rpc
from supervisor_uvicorn.watch import Snapshot, Watch, workers

LOOK = "supervisor_uvicorn_look_seconds"
PINNED_S = 60.0  # so long is tried to pin all, in a process of our own


# --- memory -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Memory:
    """Of one process, in bytes. ``private``: what would be free if it ended; ``pss``: with its share of what others
    have mapped as well (proc(5), ``smaps_rollup``)."""

    rss_bytes: int
    pss_bytes: int
    private_bytes: int


def memory(pid: int) -> Memory:
    """Raises OSError where there is no such process, or it is hidden from us."""
    return read_rollup(Path(f"/proc/{pid}/smaps_rollup").read_text())


def read_rollup(text: str) -> Memory:
    """KeyError where a line is missing."""
    found = {}
    for line in text.splitlines()[1:]:
        name, _, rest = line.partition(":")
        found[name] = int(rest.split()[0]) * 1024
    private = sum(found[name] for name in ("Private_Clean", "Private_Dirty"))
    return Memory(found["Rss"], found["Pss"], private)


# --- looks, as the listener counts them -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Looks:
    """The histogram of its metrics. ``buckets``: (at most so many seconds, so many looks), cumulative."""

    count: int
    sum_s: float
    buckets: tuple[tuple[float, int], ...]

    def since(self, before: Looks) -> Looks:
        """Those that came after ``before``."""
        earlier = dict(before.buckets)
        buckets = tuple((at_most_s, count - earlier[at_most_s]) for at_most_s, count in self.buckets)
        return Looks(self.count - before.count, self.sum_s - before.sum_s, buckets)

    @property
    def mean_s(self) -> float | None:
        return self.sum_s / self.count if self.count else None

    @property
    def all_within_s(self) -> float | None:
        """The smallest bound of a bucket that holds every look."""
        return next((at_most_s for at_most_s, count in self.buckets if count == self.count), None)


def scrape(port: int) -> Looks:
    """From the listener's ``--metrics`` on the loopback. OSError where it does not answer."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return read_metrics(answer.read().decode())


def read_metrics(text: str) -> Looks:
    """KeyError where there is no such histogram."""
    values: dict[str, float] = {}
    buckets = []
    for line in text.splitlines():
        name, _, value = line.rpartition(" ")
        if name.startswith(LOOK + "_bucket"):
            bound = name.partition('le="')[2].partition('"')[0]
            buckets.append((float(bound), int(float(value))))
        elif name.startswith(LOOK):
            values[name] = float(value)
    return Looks(int(values[LOOK + "_count"]), values[LOOK + "_sum"], tuple(sorted(buckets)))


# --- looks, in a process of our own -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class OwnLooks:
    """``acquired_s``: until all were pinned or PINNED_S were over, which took looks of ``acquiring_s`` each;
    ``pinned``: how many were then. Of the looks after that: ``wall_s`` and ``cpu_s`` of each."""

    pinned: int
    acquired_s: float
    acquiring_s: list[float]
    wall_s: list[float]
    cpu_s: list[float]


def own_looks(site: Supervisord, *, path: str | None, count: int, every_s: float) -> OwnLooks:
    """Look at the workers as the listener does, with its Watch. ``path``: full looks, with HTTP probes.

    AssertionError where not all workers serve.
    """
    settings = load(argparse.Namespace(path=path))
    with Rpc(site.server_url) as rpc, _pins() as pins:
        watch = Watch(settings, pins)
        members = _members(calls.Supervisord(rpc))

        def look(*, full: bool) -> tuple[float, float]:
            began, cpu = time.monotonic(), time.thread_time()
            watch.look(began, Snapshot(members, began), full=full, due_s=every_s)
            return time.monotonic() - began, time.thread_time() - cpu

        began = time.monotonic()
        acquiring = []
        while _pinned(watch) < len(members) and time.monotonic() - began < PINNED_S:
            acquiring.append(look(full=True)[0])
        acquired_s = time.monotonic() - began
        wall, cpu = [], []
        for _ in range(count):
            until = time.monotonic() + every_s
            wall_s, cpu_s = look(full=path is not None)
            wall.append(wall_s)
            cpu.append(cpu_s)
            while (left_s := until - time.monotonic()) > 0:  # as the listener: fine looks while something is unread
                due = pins.recheck_at
                time.sleep(left_s if due is None else max(0.0, min(left_s, due - time.monotonic())))
                pins.recheck()
        return OwnLooks(_pinned(watch), acquired_s, acquiring, wall, cpu)


@contextlib.contextmanager
def _pins() -> Iterator[Pins]:
    pins = Pins(SockDiag(), time.monotonic, _in_a_thread)
    try:
        yield pins
    finally:
        pins.close()


def _in_a_thread(job: Callable[[], None]) -> None:
    threading.Thread(target=job, daemon=True).start()


def _members(supervisord: calls.Supervisord) -> tuple[Member, ...]:
    roster = Roster(SockDiag())
    configs = supervisord.configs()
    members = roster.read(supervisord.processes(), configs)
    if roster.unsettled:
        raise AssertionError("not all workers serve")
    return members


def _pinned(watch: Watch) -> int:
    return sum(past.pinned for past in workers(watch.ledger).values())


# --- system calls -----------------------------------------------------------------------------------------------------


def can_trace() -> bool:
    """Is strace here?"""
    return shutil.which("strace") is not None


def system_calls(pid: int, seconds: float, scratch: Path) -> dict[str, int]:
    """By name, of all threads of the process, counted by ``strace -c`` for so long.

    Raises RuntimeError where strace cannot attach, and OSError where there is no strace, or no such process.
    """
    out, told = scratch / f"strace.{pid}", scratch / f"strace.{pid}.err"
    with told.open("w") as stderr:
        process = subprocess.Popen(["strace", "-f", "-c", "-q", "-o", str(out), "-p", str(pid)], stderr=stderr)
    try:
        wait_for(lambda: _traced(pid) or process.poll() is not None, 10, "strace", every_s=0.01)
        if process.poll() is not None:
            raise RuntimeError(f"strace: {told.read_text().strip()[-200:]}")
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)  # it lets go of the process, and writes its summary
        process.wait(20)
    finally:
        if process.poll() is None:
            process.kill()  # the kernel then lets go of what it traced
            process.wait()
    return read_strace(out.read_text())


def _traced(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return status.partition("\nTracerPid:")[2].split()[0] != "0"


def read_strace(text: str) -> dict[str, int]:
    """The summary of ``strace -c``: columns % time, seconds, usecs/call, calls, (errors,) name."""
    found = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) in (5, 6) and words[3].isdigit() and words[-1] != "total":
            found[words[-1]] = int(words[3])
    return found


# --- the log ----------------------------------------------------------------------------------------------------------


def pinned(log: Path) -> set[int]:
    """The pids that a listener has told to be pinned."""
    found = set()
    for line in log.read_text(errors="replace").splitlines() if log.exists() else ():
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict) and entry.get("event") == "pinned":
                found.add(entry["pid"])
    return found
