"""The processes that belong to one test, found through a marker in their environment.

Orphans and forked helpers keep the environment of the supervisord that they came from, whatever became of their parent
and their process group; so a test can end everything that it began, and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

MARKER = "SUPERVISOR_UVICORN_TEST_MARK"


def marked(mark: str) -> list[int]:
    """The live pids (no zombies) whose environment carries the mark."""
    wanted = f"{MARKER}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if wanted in (entry / "environ").read_bytes().split(b"\0") and state(int(entry.name)) != "Z":
                    found.append(int(entry.name))
    return found


def state(pid: int) -> str:
    """The one letter of proc(5); empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def alive(pid: int) -> bool:
    return state(pid) not in {"", "Z"}


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_s(pid: int) -> float:
    """User and system time of all threads (proc(5), ``stat`` fields 14 and 15), in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wake_ups(pid: int) -> int:
    """How often its main thread gave up the CPU by itself (proc(5), ``voluntary_ctxt_switches``)."""
    text = Path(f"/proc/{pid}/task/{pid}/status").read_text()
    return int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0])


def serving(pid: int) -> bool:
    """Its event loop watches the socket that is its descriptor 0 (proc(5), ``fdinfo`` of an epoll: ``tfd:`` lines)."""
    here = Path(f"/proc/{pid}")
    try:
        socket = (here / "fd" / "0").readlink()
        for info in (here / "fdinfo").iterdir():
            for line in info.read_text().splitlines():
                if line.startswith("tfd:") and (here / "fd" / line.split()[1]).readlink() == socket:
                    return True
    except OSError:
        pass
    return False


def kill_marked(mark: str, deadline_s: float = 10.0) -> list[int]:
    """KILL whatever carries the mark, until nothing does. Returns the pids that had to be killed."""
    killed: list[int] = []
    end = time.monotonic() + deadline_s
    while pids := marked(mark):
        if time.monotonic() > end:
            raise AssertionError(f"still alive after KILL: {pids}")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            killed.append(pid)
        time.sleep(0.02)
    return sorted(set(killed))
