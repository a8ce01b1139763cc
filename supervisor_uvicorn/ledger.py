"""What the policy remembers and what it says: the values that go into :func:`policy.decide` and come out of it.

Nothing here decides. The ledger is one frozen value a program, so that a test can write down any situation and a
listener can be restarted from what it had written down.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from .brakes import Spending, Waiting
from .model import Evidence, Member, WorkerId
from .panic import Panic
from .rollout import Roll
from .verdict import Past


class Remedy(str, enum.Enum):
    """How a worker is ended."""

    ABORT = "abort"  # silent: ABRT where it is caught, then KILL
    DRAIN = "drain"  # TERM, then KILL after drain_timeout


class Reason(str, enum.Enum):
    """Why a worker is restarted; the ``reason`` of the log's ``restart`` lines."""

    SILENT = "silent"
    START_TIMEOUT = "start_timeout"
    FAILING = "failing"
    CANARY = "canary"  # failing together with too many others: one, to learn whether a restart helps
    ROLLING = "rolling"  # somebody asked for it (rollout.py)
    MAX_RSS = "max_rss"  # over a limit (limits.py)
    MAX_AGE = "max_age"
    MAX_FDS = "max_fds"

    @property
    def of_the_loop(self) -> bool:
        """True where the replacement is proven by a turning loop alone: answers are another question."""
        return self in (Reason.SILENT, Reason.START_TIMEOUT)

    @property
    def of_a_limit(self) -> bool:
        """True for a worker that is well, and over a limit."""
        return self in (Reason.MAX_RSS, Reason.MAX_AGE, Reason.MAX_FDS)

    @property
    def of_health(self) -> bool:
        """True for a sick worker: what spends budget and backoff, as rolls and limits do not."""
        return self is not Reason.ROLLING and not self.of_a_limit


class Result(str, enum.Enum):
    """How a remedy ended."""

    ENDED = "ended"  # that process is gone; supervisord has it, or we start it
    CALLED_OFF = "called off"  # nothing was done to it
    IN_DOUBT = "in doubt"  # a signal may still be carried out
    STUCK = "stuck"  # still there after KILL; said, and not repeated


@dataclass(frozen=True)
class Outcome:
    """A remedy has ended. ``brake`` and ``detail`` say why it was called off."""

    worker: WorkerId
    result: Result
    brake: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Restart:
    """An order: end this worker, and see that its name comes back."""

    worker: WorkerId
    remedy: Remedy
    reason: Reason
    detail: str
    seen: Past | None = field(default=None, compare=False)  # what it was condemned for; not part of the order


@dataclass(frozen=True)
class Start:
    """An order: start a name that we took down and that supervisord does not bring back."""

    name: str
    detail: str


@dataclass(frozen=True)
class Ours:
    """A name that we took down. It is ours until its new pid is healthy, whatever state it goes through."""

    worker: WorkerId  # the one that was ended
    since: float
    reason: Reason
    remedy: Remedy
    detail: str = ""
    under_way: bool = True  # the remedy has not reported its end yet
    ended_at: float | None = None  # when we heard that the remedy is over
    doubt_at: float | None = None  # a signal timed out then: nothing more before a later roster
    down_since: float | None = None  # first look that found it EXITED or FATAL
    starts: int = 0
    started_at: float | None = None
    others_ran: bool = False  # since then another name of its group was seen that nobody had stopped
    came_up: bool = False  # its new pid has served, whatever it answers: as a trial it has passed
    taken_at: float | None = None  # when its name was first ended in this episode; None: at ``since``
    waiting_before: Waiting | None = None  # what a restart that is called off gives back: its backoff (of its kind),
    panic_before: Panic | None = None  # the turn of a canary,
    ours_before: Ours | None = None  # and that it was ours already

    @property
    def first_at(self) -> float:
        return self.since if self.taken_at is None else self.taken_at


@dataclass(frozen=True)
class CalledOff:
    """A remedy of this worker was called off before anything was done to it."""

    worker: WorkerId
    at: float
    brake: str
    detail: str
    repeats: int = 0  # so many times before, one after another, by the same brake


@dataclass(frozen=True)
class Program:
    """All that is remembered of one group."""

    workers: Mapping[str, Past] = field(default_factory=dict)
    ours: Mapping[str, Ours] = field(default_factory=dict)
    waiting: Mapping[str, Waiting] = field(default_factory=dict)
    # The same for limits, apart: what leaks soon again waits, and its next hang does not.
    recycled: Mapping[str, Waiting] = field(default_factory=dict)
    spending: Spending = field(default_factory=Spending)
    suspended: frozenset[str] = frozenset()  # names, or the group itself
    right_ever: bool = False  # somebody answered its path right since the listener started
    panic: Panic = field(default_factory=Panic)
    healed: bool = False  # in this episode of silence a replacement has proven healthy
    called_off: Mapping[str, CalledOff] = field(default_factory=dict)  # until that pid is gone or healthy
    stuck: frozenset[WorkerId] = frozenset()
    said: Mapping[str, str] = field(default_factory=dict)  # what is held -> the brake, as last told
    roll: Roll | None = None  # the one under way, or the last that was
    earlier: Roll | None = None  # the one before it: who asked for that one may not have seen its end yet


@dataclass(frozen=True)
class Ledger:
    """All programs, and the gaps in our own clock that are forgiven."""

    programs: Mapping[str, Program] = field(default_factory=dict)
    last_look: float | None = None
    gaps: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Look:
    """Everything that one look found. ``roster_at`` is when the members were read from supervisord."""

    members: tuple[Member, ...]
    evidence: Mapping[WorkerId, Evidence]
    roster_at: float
    due_s: float = 1.0  # this look was to come so long after the last one
    outcomes: tuple[Outcome, ...] = ()
    paused: frozenset[str] = frozenset()  # groups and names
    shutting_down: bool = False  # supervisord is: nothing is done to anybody


@dataclass(frozen=True)
class Held:
    """A brake holds what would have been done; told once per change. ``subject`` is a name, or a group."""

    subject: str
    brake: str
    detail: str
    worker: WorkerId | None = None


@dataclass(frozen=True)
class WouldRestart:
    """Dry run: what would have been done."""

    order: Restart


@dataclass(frozen=True)
class Suspended:
    """The budget of ``subject`` (a name, or a group) is spent: watched and reported, not acted on."""

    subject: str
    detail: str


@dataclass(frozen=True)
class Resumed:
    """``subject`` is acted on again; ``brake``, which is over, is ``budget`` or ``paused``."""

    subject: str
    detail: str
    brake: str = "budget"


@dataclass(frozen=True)
class Paused:
    """Somebody asked for it: ``subject`` (a name, a group, or ``all``) is watched and reported, not acted on."""

    subject: str
    detail: str


@dataclass(frozen=True)
class Replaced:
    """The new pid of a name that we took down is healthy."""

    worker: WorkerId
    old: WorkerId
    reason: Reason
    took_s: float


@dataclass(frozen=True)
class GaveBack:
    """A name is no longer ours: the operator stopped it, or its group is gone."""

    name: str
    detail: str


@dataclass(frozen=True)
class RollBegan:
    """A rolling restart of ``group`` was asked for."""

    group: str
    roll: Roll


@dataclass(frozen=True)
class RollEnded:
    """A rolling restart of ``group`` is done, or was stopped; ``roll`` says which, and why."""

    group: str
    roll: Roll


Note = Held | WouldRestart | Suspended | Resumed | Paused | Replaced | GaveBack | RollBegan | RollEnded


@dataclass(frozen=True)
class Decision:
    """What is to be done, in this order, and what is to be told."""

    orders: tuple[Restart | Start, ...] = ()
    notes: tuple[Note, ...] = ()
