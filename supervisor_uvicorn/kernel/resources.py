"""What a process and its descendants take of the machine (proc(5)), beside proc.py and in its manner."""

from __future__ import annotations

import os
import time

from supervisor_uvicorn.kernel import proc
from supervisor_uvicorn.kernel.errors import Gone, KernelError, from_os

_CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_MOST_PROCESSES = 4096  # of one worker: a fork bomb is not counted to its end


def age_s(born: int) -> float:
    """How long ago ``born`` (clock ticks since the boot, :func:`proc.born`) was; time in suspend counts."""
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - born / _CLOCK_TICKS_PER_S)


def descriptor_count(pid: int) -> int:
    """How many descriptors are open. Since Linux 6.2 the size of the directory (fs/proc/fd.c, ``proc_fd_getattr``),
    which asks for no right and takes 2 us; before, the directory is read."""
    path = f"/proc/{pid}/fd"
    try:
        counted = os.stat(path).st_size
    except OSError as error:
        raise from_os(error, path) from error
    return counted or len(proc.descriptor_numbers(pid))


@proc.understood
def descendants(pid: int) -> list[int]:
    """Children, their children, and so on, each once. By ``task/TID/children`` (CONFIG_PROC_CHILDREN), some 10 us a
    thread; where the kernel has no such file, by a pass over all of ``/proc``."""
    found: list[int] = []
    waiting = [pid]
    while waiting and len(found) < _MOST_PROCESSES:
        parent = waiting.pop()
        try:
            of_this = _children(parent)
        except Gone:
            if parent == pid:
                raise
            continue  # it ended just now
        if of_this is None:
            return proc.descendants(pid)
        found += of_this
        waiting += of_this
    return found


def _children(pid: int) -> list[int] | None:
    """Of all its threads; None: this kernel has no such file."""
    tasks = f"/proc/{pid}/task"
    try:
        threads = os.listdir(tasks)
    except OSError as error:
        raise from_os(error, tasks) from error
    found: list[int] = []
    for thread in threads:
        try:
            with open(f"{tasks}/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
        except (FileNotFoundError, ProcessLookupError):
            if thread == str(pid) and os.path.exists(f"{tasks}/{thread}/stat"):
                return None
            continue  # that thread has ended
        except OSError as error:
            raise from_os(error, f"{tasks}/{thread}/children") from error
    return found


@proc.understood
def proportional_bytes(pid: int) -> int:
    """Pss of ``smaps_rollup`` (Linux 4.14): what is shared with others is counted in parts. Takes the owner's rights,
    and some milliseconds for a large process, whose page faults wait meanwhile: not for every look."""
    path = f"/proc/{pid}/smaps_rollup"

    def read() -> bytes:
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            raise from_os(error, path) from error

    for line in proc.with_rights(pid, read).splitlines():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) * 1024
    raise KernelError(f"{path}: no Pss")
