"""What each worker takes of the machine: memory with its helpers, descriptors, CPU, connections, age. Floor 2.

None of it says whether a worker is well, and all of it is slower to read than a pulse; so it is measured beside the
looks (meters.py), and a look takes the newest that there is. What cannot be read is None, and never a reason to act.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .kernel import proc, resources
from .kernel.connections import Connection, Connections
from .kernel.errors import Gone, KernelError
from .limits import FRESH_S
from .model import Member, State, Usage, WorkerId
from .settings import Settings


@dataclass(frozen=True)
class Measured:
    """``queues``: by program, (connections that wait to be accepted, how many may) of each of its listening sockets."""

    at: float = 0.0  # monotonic: when the measuring began
    usages: Mapping[WorkerId, Usage] = field(default_factory=dict)
    queues: Mapping[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)


def still_known(measured: Measured, now: float) -> Measured:
    """``measured``, or nothing where it is too old: whoever measures hangs, and nothing is known any more."""
    return measured if now - measured.at <= FRESH_S else Measured(measured.at)


class Meter:
    """Not thread-safe. ``clock`` is :func:`time.monotonic`. ``connections``: count those, and the accept queues, too: a
    dump of every connection of the host, some 5 us for each."""

    def __init__(self, clock: Callable[[], float], *, connections: bool) -> None:
        self._clock = clock
        self._diag = Connections() if connections else None
        self._epolls: dict[WorkerId, tuple[int, ...]] = {}  # the descriptors of its event loops: they stay

    def measure(self, members: Sequence[Member], settings: Callable[[str], Settings]) -> Measured:
        """Everybody who runs and is watched. Raises nothing."""
        at = self._clock()
        running = {
            member.worker: member
            for member in members
            if member.state is State.RUNNING and member.worker is not None and not member.not_watched
        }
        self._epolls = {worker: fds for worker, fds in self._epolls.items() if worker in running}
        accepted = self._accepted(running.values())
        usages: dict[WorkerId, Usage] = {}
        for worker, member in running.items():
            try:
                usages[worker] = self._one(worker, member, settings(member.group), accepted)
                if proc.born(worker.pid) != worker.born:
                    del usages[worker]
            except KernelError:  # gone, or hidden from us: not known
                usages.pop(worker, None)
        return Measured(at, usages, self._queues(running.values()))

    def _one(
        self, worker: WorkerId, member: Member, settings: Settings, accepted: Mapping[int, Connection] | None
    ) -> Usage:
        used = proc.usage(worker.pid)
        helpers, sizes = _helpers(worker.pid)
        rss_bytes = used.rss_bytes + sum(sizes)
        proven_bytes = rss_bytes
        most_bytes = settings.max_rss_bytes
        if helpers and most_bytes is not None and rss_bytes > most_bytes:
            proven_bytes = _proportional(worker.pid, helpers) or max(used.rss_bytes, *sizes)
        return Usage(
            self._clock(),
            resources.age_s(worker.born),
            rss_bytes,
            proven_bytes,
            used.cpu_s,
            _or_none(resources.descriptor_count, worker.pid),
            _or_none(proc.descriptor_limit, worker.pid),
            None if accepted is None else self._connections(worker, member, accepted),
            len(helpers),
        )

    # -- connections -------------------------------------------------------------------------------------------------

    def _accepted(self, members: Iterable[Member]) -> Mapping[int, Connection] | None:
        if self._diag is None:
            return None
        families = {member.socket.family for member in members if member.socket is not None}
        try:
            return self._diag.by_inode(tcp=bool(families - {"unix"}), unix="unix" in families)
        except KernelError:
            return None

    def _connections(self, worker: WorkerId, member: Member, accepted: Mapping[int, Connection]) -> int | None:
        """Those that its event loop watches: one file, where every descriptor by itself would take 10 us."""
        address = member.socket
        if address is None:
            return None
        try:
            fds = self._epolls.get(worker) or self._find_epolls(worker)
            watched: set[int] = set()
            for fd in fds:
                link = proc.descriptor_link(worker.pid, fd)
                if not proc.is_epoll(link):
                    raise Gone(f"descriptor {fd} of pid {worker.pid} is no epoll any more")
                watched |= proc.epoll_watched_inodes(worker.pid, {fd: link})
        except KernelError:
            self._epolls.pop(worker, None)
            return None
        if not fds:
            return None  # a loop of another kind (select, poll), whose sockets no file shows
        found = (accepted[inode] for inode in watched if inode in accepted)
        return sum(1 for connection in found if connection.accepted_at(address))

    def _find_epolls(self, worker: WorkerId) -> tuple[int, ...]:
        links = proc.descriptors(worker.pid)
        found = tuple(fd for fd, link in links.items() if proc.is_epoll(link))
        self._epolls[worker] = found
        return found

    def _queues(self, members: Iterable[Member]) -> dict[str, tuple[tuple[int, int], ...]]:
        if self._diag is None:
            return {}
        try:
            listening = self._diag.listening()
        except KernelError:
            return {}
        inodes: dict[str, set[int]] = {}
        for member in members:
            if member.socket_inode is not None and member.socket_inode in listening:
                inodes.setdefault(member.group, set()).add(member.socket_inode)
        return {
            group: tuple((listening[inode].queue_length, listening[inode].queue_limit) for inode in sorted(its))
            for group, its in inodes.items()
        }


def _helpers(pid: int) -> tuple[list[int], list[int]]:
    """Pids of all descendants that are still there, and the resident bytes of each."""
    pids: list[int] = []
    sizes: list[int] = []
    for helper in resources.descendants(pid):
        try:
            size_bytes = proc.usage(helper).rss_bytes
        except KernelError:
            continue
        pids.append(helper)
        sizes.append(size_bytes)
    return pids, sizes


def _proportional(pid: int, helpers: Iterable[int]) -> int | None:
    """What they take together, pages that they share counted once; None: the kernel does not tell us."""
    try:
        total_bytes = resources.proportional_bytes(pid)
        for helper in helpers:
            try:
                total_bytes += resources.proportional_bytes(helper)
            except Gone:
                continue
    except KernelError:
        return None
    return total_bytes


def _or_none(read: Callable[[int], int | None], pid: int) -> int | None:
    try:
        return read(pid)
    except KernelError:
        return None
