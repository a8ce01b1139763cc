"""The words of this project as values: floor 0, imported by every other room, importing none.

Everything here is frozen: a value goes from room to room and nobody can change it under another's hands.
Times named ``*_s`` are seconds; a bare ``now`` anywhere in this package is :func:`time.monotonic`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class State(str, enum.Enum):
    """supervisord's process states (supervisor 4.3.0, states.py ``ProcessStates``), and no others."""

    STOPPED = "STOPPED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    BACKOFF = "BACKOFF"
    STOPPING = "STOPPING"
    EXITED = "EXITED"
    FATAL = "FATAL"
    UNKNOWN = "UNKNOWN"


class Verdict(str, enum.Enum):
    """What we hold of a worker (design, section 2)."""

    STARTING = "starting"
    HEALTHY = "healthy"
    SILENT = "silent"  # the event loop does not turn
    FAILING = "failing"  # the loop turns, the answers are wrong
    STOPPING = "stopping"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class WorkerId:
    """The identity of one worker: a new pid is a new worker, with no past.

    ``born`` is the kernel's start time of the process in clock ticks since boot (proc(5), ``stat`` field 22). It
    is used rather than supervisord's own ``start``, which supervisord moves when the wall clock is set back
    (supervisor 4.3.0, process.py ``_check_and_adjust_for_system_clock_rollback``).
    """

    name: str  # group:name, as in supervisorctl
    pid: int
    born: int

    @property
    def group(self) -> str:
        return self.name.partition(":")[0]


@dataclass(frozen=True)
class Address:
    """Where a listening socket can be reached from this machine. ``family`` is ``tcp``, ``tcp6`` or ``unix``."""

    family: str
    host: str = ""
    port: int = 0
    path: str = ""  # unix; an abstract name begins with a NUL

    def __str__(self) -> str:
        if self.family == "unix":
            return "unix://" + self.path.replace("\0", "@", 1)
        host = f"[{self.host}]" if self.family == "tcp6" else self.host
        return f"tcp://{host}:{self.port}"


@dataclass(frozen=True)
class Options:
    """What we must know of a worker's uvicorn options, from its command line and its ``UVICORN_*`` environment."""

    fd: int | None = None
    uds: str | None = None
    tls: bool = False
    client_certificate: bool = False  # --ssl-cert-reqs 2: without one no handshake can be finished
    limit_concurrency: int | None = None
    max_head_bytes: int = 16 * 1024  # --h11-max-incomplete-event-size; 16 KiB is h11's own default
    environ_read: bool = True  # False: /proc/PID/environ was refused, so only the command line spoke


@dataclass(frozen=True)
class Member:
    """One process of the roster: a uvicorn worker that should exist now, as supervisord and the kernel show it."""

    name: str  # group:name
    state: State
    pid: int = 0  # 0: no process
    born: int | None = None  # None: no process, or the kernel does not show it to us
    start: int = 0  # supervisord's own start time, whole seconds of wall clock
    socket: Address | None = None
    socket_inode: int | None = None  # of the listening socket
    options: Options = field(default_factory=Options)
    not_watched: str = ""  # a tree: why this process is not watched yet
    stopwaitsecs: float = 10.0
    killasgroup: bool = False

    @property
    def group(self) -> str:
        return self.name.partition(":")[0]

    @property
    def worker(self) -> WorkerId | None:
        """The identity, or None while there is no process that the kernel shows."""
        if self.pid and self.born is not None:
            return WorkerId(self.name, self.pid, self.born)
        return None


class Answer(str, enum.Enum):
    """What became of one HTTP probe."""

    RIGHT = "right"
    WRONG = "wrong"
    BUSY = "busy"  # uvicorn's own --limit-concurrency answer
    UNASKED = "unasked"  # the worker never read the request, or we failed: says nothing


@dataclass(frozen=True)
class HttpOutcome:
    """One HTTP probe, ended. ``reason`` is for people and stands in log lines: "status 500", "no answer within 3 s"."""

    answer: Answer
    reason: str = ""
    status: int | None = None
    seconds: float = 0.0
    body: bytes = b""  # the first 512 bytes, for the explanation


@dataclass(frozen=True)
class Ticks:
    """The main thread's counters (proc(5)): ``voluntary_ctxt_switches`` of ``status``, utime + stime of ``stat``, and
    of ``schedstat`` how long it was ready to run and had no CPU (0 where the kernel does not count that)."""

    switches: int
    cpu_s: float
    waited_s: float = 0.0


@dataclass(frozen=True)
class Usage:
    """What a worker takes of the machine, measured at ``at`` (monotonic). ``None``: not known, or not measured.

    ``rss_bytes`` is resident memory of the worker and its ``helpers`` (all its descendants), added up as ps shows it.
    ``proven_bytes`` is what they take at the least: what they share is counted once where the kernel tells (Pss), else
    the largest of them speaks for all. ``cpu_s`` is the worker's own, since its start. ``connections`` are those that
    it has accepted, the one that we hold among them.
    """

    at: float
    age_s: float
    rss_bytes: int | None = None
    proven_bytes: int | None = None
    cpu_s: float | None = None
    fds: int | None = None
    fds_limit: int | None = None
    connections: int | None = None
    helpers: int = 0


@dataclass(frozen=True)
class Evidence:
    """What one look shows of one worker. ``None`` is *unknown*: our own limit or fault, and never a reason to act."""

    worker: WorkerId
    serving: bool | None = None  # the listening socket is among what its epoll watches
    hidden: bool = False  # its descriptors are closed to us, so that its ticks alone may show that it serves
    pinnable: bool = True  # False: ticks alone speak for it (--limit-concurrency, no right, no sock_diag)
    pinned: bool = False
    unread_since: float | None = None  # monotonic: when the oldest unread pulse was sent; None: all read, or no pin
    lag_s: float | None = None  # age of the oldest unread pulse, or how long the last one took to be read
    queued_since: float | None = None  # monotonic: since when a connection of ours waits unaccepted at its socket
    ticks: Ticks | None = None
    http: HttpOutcome | None = None  # a probe that ended since the last look
    process_state: str = ""  # one letter of proc(5): R, S, D, T (stopped), t (traced), Z
    traced_by: int = 0  # TracerPid
    usage: Usage | None = None  # as last measured, which is not at every look
