"""What ``/proc`` tells of a process (proc(5)), typed; one file, one function.

Every function raises :class:`Gone` where the process is not there (any more), :class:`Refused` where we may not look,
:class:`Exhausted` where we have no descriptor left for it. ``status``, ``stat`` and ``cmdline`` need no right at all;
``fd``, ``fdinfo`` and ``environ`` do, see :mod:`supervisor_uvicorn.kernel.rights`.
"""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

from supervisor_uvicorn.kernel.errors import Gone, KernelError, Refused, from_os
from supervisor_uvicorn.kernel.rights import as_owner
from supervisor_uvicorn.model import Ticks

_T = TypeVar("_T")
_P = ParamSpec("_P")
_CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_EVENTPOLL = "anon_inode:[eventpoll]"


@dataclass(frozen=True)
class ProcessStatus:
    """From ``/proc/PID/status``: ``state`` is one letter (R, S, D, T stopped, t traced, Z), ids are effective ones."""

    state: str
    tracer_pid: int
    uid: int
    gid: int
    ppid: int
    caught_signals: int  # SigCgt: bit N-1 stands for signal N
    capabilities: int  # CapEff: bit N stands for capability N (capabilities(7))

    def catches(self, signal_number: int) -> bool:
        """True where the process has a handler of its own for that signal."""
        return bool(self.caught_signals >> (signal_number - 1) & 1)


@dataclass(frozen=True)
class Kin:
    """A process' parent and process group."""

    ppid: int
    pgid: int


def understood(read: Callable[_P, _T]) -> Callable[_P, _T]:
    """What no Linux writes is a :class:`KernelError`, too: a sandbox writes a ``/proc`` of its own."""

    @wraps(read)
    def reading(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return read(*args, **kwargs)
        except (ValueError, IndexError) as error:
            raise KernelError(f"/proc, {read.__name__} of {args[:1]}: cannot be understood: {error!r:.200}") from error

    return reading


# -- what everybody may read -----------------------------------------------------------------------------------------


@understood
def born(pid: int) -> int:
    """Start time in clock ticks since boot (``stat``, field 22): with the pid it names a process for ever."""
    return int(_stat(f"/proc/{pid}/stat")[19])


@understood
def ticks(pid: int) -> Ticks:
    """The main thread's counters: voluntary context switches, CPU seconds (user and system), seconds without a CPU."""
    path = f"/proc/{pid}/task/{pid}"
    fields = _stat(f"{path}/stat")
    text = _read(f"{path}/status")
    at = text.rfind(b"\nvoluntary_ctxt_switches:")
    if at < 0:
        raise KernelError(f"{path}/status: no voluntary_ctxt_switches")
    switches = int(text[at + 25 :].split(None, 1)[0])
    return Ticks(switches, (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS_PER_S, _waited_s(path))


def _waited_s(task: str) -> float:
    """``schedstat``: ns on a CPU, ns ready and without one, time slices (the kernel's sched-stats.rst)."""
    try:
        return int(_read(f"{task}/schedstat").split()[1]) / 1e9
    except (KernelError, IndexError, ValueError):  # CONFIG_SCHED_INFO is off, or the thread has just ended
        return 0.0


def status(pid: int) -> ProcessStatus:
    """State, tracer, owner, parent and caught signals."""
    values: dict[bytes, bytes] = {}
    for line in _read(f"/proc/{pid}/status").splitlines():
        key, _, value = line.partition(b":")
        values[key] = value.strip()
    try:
        return ProcessStatus(
            state=values[b"State"][:1].decode(),
            tracer_pid=int(values[b"TracerPid"]),
            uid=int(values[b"Uid"].split()[1]),
            gid=int(values[b"Gid"].split()[1]),
            ppid=int(values[b"PPid"]),
            caught_signals=int(values[b"SigCgt"], 16),
            capabilities=int(values.get(b"CapEff", b"0"), 16),
        )
    except (KeyError, ValueError, IndexError) as error:
        raise KernelError(f"/proc/{pid}/status: cannot be understood: {error!r:.200}") from error


@dataclass(frozen=True)
class Usage:
    """What a whole process has used and uses: CPU seconds since its start, resident memory, threads."""

    cpu_s: float
    rss_bytes: int
    threads: int


@understood
def usage(pid: int) -> Usage:
    """CPU, resident memory (``statm``; pages that it shares are counted in each process) and threads."""
    fields = _stat(f"/proc/{pid}/stat")
    resident_pages = int(_read(f"/proc/{pid}/statm").split()[1])
    return Usage(
        (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS_PER_S, resident_pages * _PAGE_BYTES, int(fields[17])
    )


@understood
def descriptor_limit(pid: int) -> int | None:
    """RLIMIT_NOFILE, the soft one; None where it is unlimited. From ``limits``, which asks for no right."""
    for line in _read(f"/proc/{pid}/limits").splitlines():
        if line.startswith(b"Max open files"):
            soft = line.split()[3]
            return int(soft) if soft.isdigit() else None
    raise KernelError(f"/proc/{pid}/limits: no Max open files")


def cmdline(pid: int) -> list[str]:
    """The arguments; an empty list for a kernel thread or a zombie."""
    data = _read(f"/proc/{pid}/cmdline")
    return [os.fsdecode(part) for part in data.removesuffix(b"\0").split(b"\0")] if data else []


@understood
def process_table() -> dict[int, Kin]:
    """Every process that we are shown, with its parent and process group: one pass over ``/proc``."""
    table: dict[int, Kin] = {}
    for name in _listdir("/proc"):
        if name.isdigit():
            try:
                fields = _stat(f"/proc/{name}/stat")
            except (Gone, Refused):
                continue
            table[int(name)] = Kin(int(fields[1]), int(fields[2]))
    return table


def children(pid: int, table: Mapping[int, Kin] | None = None) -> list[int]:
    """Pids whose parent is ``pid``. ``table``: a :func:`process_table` of just now, where many are asked for."""
    return [child for child, kin in (process_table() if table is None else table).items() if kin.ppid == pid]


def descendants(pid: int, table: Mapping[int, Kin] | None = None) -> list[int]:
    """Children, their children, and so on, without ``pid`` itself; parents come before their children."""
    table = process_table() if table is None else table
    found, waiting = [], [pid]
    while waiting:
        of_this = [child for child in children(waiting.pop(0), table) if child != pid and child not in found]
        found += of_this
        waiting += of_this
    return found


def process_group_members(pgid: int, table: Mapping[int, Kin] | None = None) -> list[int]:
    """Pids in that process group other than its leader."""
    table = process_table() if table is None else table
    return [pid for pid, kin in table.items() if kin.pgid == pgid and pid != pgid]


# -- what takes the owner's rights -----------------------------------------------------------------------------------


def environ(pid: int) -> dict[str, str]:
    """The environment that the process was started with."""
    data = with_rights(pid, lambda: _read(f"/proc/{pid}/environ"))
    pairs = (os.fsdecode(part).partition("=") for part in data.split(b"\0") if b"=" in part)
    return {key: value for key, _, value in pairs}


def cwd(pid: int) -> str:
    """The working directory."""
    return with_rights(pid, lambda: _readlink(f"/proc/{pid}/cwd"))


def descriptors(pid: int) -> dict[int, str]:
    """Every open descriptor and what it points to. 89 ms for 9,000 of them: not for every look."""

    def read() -> dict[int, str]:
        found: dict[int, str] = {}
        for name in _listdir(f"/proc/{pid}/fd"):
            try:
                found[int(name)] = _readlink(f"/proc/{pid}/fd/{name}")
            except Gone:  # closed in between
                continue
        return found

    return with_rights(pid, read)


def find_socket(pid: int, inode: int) -> int | None:
    """The lowest descriptor of ``pid`` that is the socket ``inode``; None: it does not hold it."""

    def find() -> int | None:
        wanted = f"socket:[{inode}]"
        # The lowest numbers are not first in the directory's order, and any one is as good.
        for name in _listdir(f"/proc/{pid}/fd"):
            try:
                if _readlink(f"/proc/{pid}/fd/{name}") == wanted:
                    return int(name)
            except Gone:
                continue
        return None

    return with_rights(pid, find)


def descriptor_numbers(pid: int) -> list[int]:
    """The numbers of every open descriptor, without a look at what each one is: 1 ms for 9,000."""
    return [int(name) for name in with_rights(pid, lambda: _listdir(f"/proc/{pid}/fd"))]


def descriptor_link(pid: int, fd: int) -> str:
    """What one descriptor points to: a path, or ``socket:[INODE]`` and the like."""
    return with_rights(pid, lambda: _readlink(f"/proc/{pid}/fd/{fd}"))


def socket_inodes(pid: int, fds: Sequence[int]) -> list[int]:
    """The inodes of those of ``fds`` that are sockets; some 10 us for each descriptor."""

    def read() -> list[int]:
        found = []
        for fd in fds:
            try:
                link = _readlink(f"/proc/{pid}/fd/{fd}")
            except Gone:  # closed in between
                continue
            if link.startswith("socket:["):
                found.append(int(link[8:-1]))
        return found

    return with_rights(pid, read)


def socket_inode(pid: int, fd: int) -> int | None:
    """The inode of the socket that descriptor ``fd`` of ``pid`` is; None: it is closed, or no socket. One readlink.

    A vanished process is None as well: the kernel answers the same for both.
    """
    try:
        link = with_rights(pid, lambda: _readlink(f"/proc/{pid}/fd/{fd}"))
    except Gone:
        return None
    return int(link[8:-1]) if link.startswith("socket:[") else None


def is_epoll(link: str) -> bool:
    """Whether a descriptor that points to ``link`` is an epoll instance."""
    return link == _EVENTPOLL


@understood
def epoll_watched_inodes(pid: int, links: Mapping[int, str] | None = None) -> frozenset[int]:
    """Inodes of all sockets that the process' event loops watch. ``links``: its :func:`descriptors` of just now."""

    def read() -> frozenset[int]:
        watched: set[int] = set()
        for fd, link in (descriptors(pid) if links is None else links).items():
            if is_epoll(link):
                try:
                    watched |= _watched(_read(f"/proc/{pid}/fdinfo/{fd}"), _sockfs_device())
                except Gone:
                    continue
        return frozenset(watched)

    return with_rights(pid, read)


def wchan(pid: int) -> str:
    """The kernel function in which the main thread sleeps; "" where it runs, or where we may not know."""

    def read() -> str:
        text = _read(f"/proc/{pid}/task/{pid}/wchan").decode("ascii", "replace").strip()
        if text in ("", "0"):  # the kernel's answer to whom it refuses as well (fs/proc/base.c, proc_pid_wchan)
            raise Refused(f"/proc/{pid}/task/{pid}/wchan: not shown")
        return text

    try:
        return with_rights(pid, read)
    except Refused:
        return ""


@understood
def syscall(pid: int) -> tuple[int, tuple[int, ...]] | None:
    """The system call in which the main thread is blocked, and its six arguments; None where it runs.

    Asks for more than the other files here, PTRACE_MODE_ATTACH_FSCREDS: Yama may refuse it (ptrace(2)).
    """
    words = with_rights(pid, lambda: _read(f"/proc/{pid}/task/{pid}/syscall")).split()
    if len(words) < 7 or words[0] == b"-1":  # "running"; -1: blocked, but in no system call (a page fault)
        return None
    return int(words[0]), tuple(int(word, 16) for word in words[1:7])


# -- limits ----------------------------------------------------------------------------------------------------------


def core_limit(pid: int) -> tuple[int, int]:
    """RLIMIT_CORE of ``pid`` in bytes: (soft, hard); -1 is unlimited. Takes its real uid or CAP_SYS_RESOURCE."""
    return _prlimit(pid, None)


def set_core_limit(pid: int, limit_bytes: int) -> None:
    """Set the soft core limit; 1 switches a core off even where ``core_pattern`` is a pipe (core(5))."""
    _, hard = _prlimit(pid, None)
    _prlimit(pid, (limit_bytes if hard < 0 else min(limit_bytes, hard), hard))


def empty_core(pid: int) -> None:
    """Leave all memory out of the core dump of ``pid`` (core(5), ``coredump_filter``): for a root that lacks
    CAP_SYS_RESOURCE, as in a container, and so may not set another user's limit."""

    def write() -> None:
        try:
            with open(f"/proc/{pid}/coredump_filter", "w") as file:
                file.write("0")
        except OSError as error:
            raise from_os(error, f"/proc/{pid}/coredump_filter") from error

    with_rights(pid, write)


def _prlimit(pid: int, limits: tuple[int, int] | None) -> tuple[int, int]:
    try:
        if limits is None:
            return resource.prlimit(pid, resource.RLIMIT_CORE)
        return resource.prlimit(pid, resource.RLIMIT_CORE, limits)
    except OSError as error:
        raise from_os(error, f"prlimit of pid {pid}") from error


# -- reading ---------------------------------------------------------------------------------------------------------


def with_rights(pid: int, read: Callable[[], _T]) -> _T:
    """``read()``, and where it is refused and we are root, once more with the process owner's identity.

    What ``read`` raises besides :class:`Refused` is raised."""
    try:
        return read()
    except Refused:
        if os.geteuid() != 0:
            raise
    owner = status(pid)
    with as_owner(owner.uid, owner.gid):
        return read()


def _read(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise from_os(error, path) from error
    try:
        data = os.read(fd, 65536)
        if len(data) < 4096:  # a short read is the whole file: seq_file gives a page or more while there is more
            return data
        parts = [data]
        while data := os.read(fd, 65536):
            parts.append(data)
        return b"".join(parts)
    except OSError as error:
        raise from_os(error, path) from error
    finally:
        os.close(fd)


def _readlink(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError as error:
        raise from_os(error, path) from error


def _listdir(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError as error:
        raise from_os(error, path) from error


def _stat(path: str) -> list[bytes]:
    """The fields of a ``stat`` file from the third on; the second, the name, may hold blanks and brackets."""
    data = _read(path)
    fields = data[data.rfind(b")") + 2 :].split()
    if len(fields) < 20:
        raise KernelError(f"{path}: cannot be understood")
    return fields


@lru_cache(maxsize=1)
def _sockfs_device() -> int:
    """The device number of all sockets, as the kernel writes it into ``fdinfo``: major << 20 | minor."""
    try:
        with socket.socket(socket.AF_UNIX) as ours:
            device = os.fstat(ours.fileno()).st_dev
    except OSError as error:
        raise from_os(error, "device number of sockets") from error
    return os.major(device) << 20 | os.minor(device)


def _watched(fdinfo: bytes, device: int) -> set[int]:
    """Inodes of the sockets in lines such as ``tfd: 7 events: 19 data: 7 pos:0 ino:1f sdev:8`` (proc(5)).

    A file elsewhere may have the same inode number, so the device counts, too.
    """
    watched = set()
    for line in fdinfo.splitlines():
        if line.startswith(b"tfd:"):
            values = line[line.find(b"ino:") :].split()
            if len(values) == 2 and values[1] == b"sdev:%x" % device:
                watched.add(int(values[0][4:], 16))
    return watched
