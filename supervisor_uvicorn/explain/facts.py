"""What a worker uses, gathered in small steps: a generator that never holds its caller up for long."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from supervisor_uvicorn.explain.explanation import Facts
from supervisor_uvicorn.kernel import proc
from supervisor_uvicorn.kernel.connections import Connection, Connections
from supervisor_uvicorn.kernel.errors import KernelError
from supervisor_uvicorn.model import Address, Ticks

_DESCRIPTORS_A_STEP = 500  # 5 ms


@dataclass(frozen=True)
class Counters:
    """The main thread's ticks at one moment (monotonic seconds)."""

    at: float
    ticks: Ticks | None


def counters(pid: int, now: float) -> Counters:
    """Raises nothing."""
    try:
        return Counters(now, proc.ticks(pid))
    except KernelError:
        return Counters(now, None)


def connections_here(address: Address | None) -> dict[int, Connection] | None:
    """Every connection of this network namespace by its inode; None where the kernel does not tell."""
    diag = Connections()
    try:
        return diag.by_inode(tcp=True, unix=address is not None and address.family == "unix")
    except KernelError:
        return None
    finally:
        diag.close()


def gather(
    pid: int, before: Counters, now: float, address: Address | None, inodes: dict[int, Connection] | None
) -> Generator[float, None, Facts]:
    """The facts as they are now, and the ticks since ``before``; yields 0 between steps of some milliseconds."""
    after = counters(pid, now)
    look_s = after.at - before.at
    wakes: int | None = None
    share: float | None = None
    if before.ticks is not None and after.ticks is not None and look_s > 0:
        wakes = after.ticks.switches - before.ticks.switches
        share = round((after.ticks.cpu_s - before.ticks.cpu_s) / look_s, 2)
    cpu_s: float | None = None
    rss_bytes: int | None = None
    threads: int | None = None
    fd_limit: int | None = None
    try:
        usage = proc.usage(pid)
        cpu_s, rss_bytes, threads = round(usage.cpu_s, 2), usage.rss_bytes, usage.threads
        fd_limit = proc.descriptor_limit(pid)
    except KernelError:
        pass
    fds, accepted = yield from _descriptors(pid, address, inodes)
    return Facts(cpu_s, share, wakes, round(look_s, 2), rss_bytes, fds, fd_limit, threads, accepted)


def _descriptors(
    pid: int, address: Address | None, inodes: dict[int, Connection] | None
) -> Generator[float, None, tuple[int | None, int | None]]:
    """How many descriptors it has, and how many of them were accepted at ``address``."""
    try:
        numbers = proc.descriptor_numbers(pid)
    except KernelError:
        return None, None
    if address is None or inodes is None:
        return len(numbers), None
    of_ours = {inode for inode, connection in inodes.items() if connection.accepted_at(address)}
    accepted = 0
    for first in range(0, len(numbers), _DESCRIPTORS_A_STEP):
        if first:
            yield 0.0
        try:
            accepted += len(of_ours.intersection(proc.socket_inodes(pid, numbers[first : first + _DESCRIPTORS_A_STEP])))
        except KernelError:
            return len(numbers), None
    return len(numbers), accepted
