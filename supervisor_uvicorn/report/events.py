"""What the listener has to tell, as values. An event knows its words; where it is written is another's affair.

``kind`` is the ``event`` of a JSON log line and part of the interface (design, section 5).
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from supervisor_uvicorn.explain import Explanation, headline
from supervisor_uvicorn.model import Verdict, WorkerId


@dataclass(frozen=True)
class Event:
    """The common part. ``fields`` gives what stands in a JSON line beside time, level, event and message."""

    kind: ClassVar[str] = ""
    level: ClassVar[str] = "INFO"

    @property
    def message(self) -> str:
        raise NotImplementedError

    @property
    def fields(self) -> dict[str, Any]:
        return {}


def as_object(event: Event, now: datetime.datetime) -> dict[str, Any]:
    """The event as a JSON log line and the history have it: ``time`` (RFC 3339), ``level``, ``event``, ``message``,
    then the event's own fields. ``now`` should know its time zone."""
    return {
        "time": now.isoformat(timespec="milliseconds"),
        "level": event.level,
        "event": event.kind,
        "message": event.message,
        **event.fields,
    }


def _of(worker: WorkerId | None) -> dict[str, Any]:
    return {} if worker is None else {"worker": worker.name, "pid": worker.pid}


def _named(worker: WorkerId) -> str:
    return f"{worker.name} (pid {worker.pid})"


@dataclass(frozen=True)
class Watching(Event):
    """A program is watched from now on, or its workers or its socket have changed."""

    kind: ClassVar[str] = "watching"
    program: str
    socket: str
    workers: tuple[str, ...]

    @property
    def message(self) -> str:
        number = len(self.workers)
        return f"{self.program}: {number} worker{'' if number == 1 else 's'} at {self.socket}"

    @property
    def fields(self) -> dict[str, Any]:
        return {"program": self.program, "socket": self.socket, "workers": list(self.workers)}


@dataclass(frozen=True)
class NotWatched(Event):
    """A tree: uvicorn serves, but not in the process that supervisord knows."""

    kind: ClassVar[str] = "watching"
    level: ClassVar[str] = "WARN"
    name: str
    why: str

    @property
    def message(self) -> str:
        return f"{self.name} is not watched yet: {self.why}"

    @property
    def fields(self) -> dict[str, Any]:
        return {"worker": self.name, "reason": self.why, "watched": False}


@dataclass(frozen=True)
class Pinned(Event):
    """A connection is held that this very worker has accepted; once per pid."""

    kind: ClassVar[str] = "pinned"
    worker: WorkerId

    @property
    def message(self) -> str:
        return f"{_named(self.worker)} is pinned"

    @property
    def fields(self) -> dict[str, Any]:
        return _of(self.worker)


@dataclass(frozen=True)
class VerdictChanged(Event):
    """What we hold of a worker has changed."""

    kind: ClassVar[str] = "verdict"
    name: str
    worker: WorkerId | None
    verdict: Verdict
    reason: str
    before: Verdict | None

    @property
    def message(self) -> str:
        who = _named(self.worker) if self.worker else self.name
        why = f": {self.reason}" if self.reason else ""
        return f"{who} is {self.verdict.value}{why}"

    @property
    def fields(self) -> dict[str, Any]:
        before = self.before.value if self.before else None
        known = _of(self.worker) or {"worker": self.name}
        return {**known, "verdict": self.verdict.value, "reason": self.reason, "before": before}


@dataclass(frozen=True)
class Restarting(Event):
    """A worker is being ended: the first signal is about to go out. ``evidence`` is what a look had shown of it
    (:func:`report.evidence.evidence`): for the JSON and the history, not for the line that people read."""

    kind: ClassVar[str] = "restart"
    level: ClassVar[str] = "WARN"
    worker: WorkerId
    reason: str
    detail: str
    remedy: str
    verdict: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    explanation: Explanation | None = None  # where it was stuck

    @property
    def message(self) -> str:
        where = f"; {headline(self.explanation)}" if self.explanation else ""
        return f"restarting {_named(self.worker)}, {self.reason}: {self.detail}; {self.remedy}{where}"

    @property
    def fields(self) -> dict[str, Any]:
        return {
            **_of(self.worker),
            "reason": self.reason,
            "detail": self.detail,
            "remedy": self.remedy,
            "verdict": self.verdict,
            **({"evidence": dict(self.evidence)} if self.evidence else {}),
            **({"explanation": self.explanation.as_object()} if self.explanation else {}),
        }


@dataclass(frozen=True)
class Explained(Event):
    """Where a worker was stuck that has been ended, told by the traceback in its own log."""

    kind: ClassVar[str] = "explained"
    worker: WorkerId
    explanation: Explanation

    @property
    def message(self) -> str:
        return f"{_named(self.worker)} was stuck {headline(self.explanation)} ({self.explanation.source})"

    @property
    def fields(self) -> dict[str, Any]:
        return {**_of(self.worker), "explanation": self.explanation.as_object()}


@dataclass(frozen=True)
class WouldRestart(Restarting):
    """Dry run: a restart that was not made."""

    kind: ClassVar[str] = "would-restart"

    @property
    def message(self) -> str:
        return f"would restart {_named(self.worker)}, {self.reason}: {self.detail} (dry run)"


@dataclass(frozen=True)
class Replaced(Event):
    """The new pid of a name that we took down is healthy."""

    kind: ClassVar[str] = "replaced"
    worker: WorkerId
    old_pid: int
    reason: str
    took_s: float

    @property
    def message(self) -> str:
        return f"{_named(self.worker)} has replaced pid {self.old_pid}, ended {self.took_s:.1f} s ago"

    @property
    def fields(self) -> dict[str, Any]:
        took_s = round(self.took_s, 3)
        return {**_of(self.worker), "old_pid": self.old_pid, "reason": self.reason, "took_s": took_s}


@dataclass(frozen=True)
class Told(Event):
    """An event of few words: ``held``, ``suspended``, ``resumed``, ``paused``, ``started``, ``helpers``,
    ``released``, ``roll``, ``standby``, ``takeover``, ``error``."""

    subject: str  # a worker's name, a program, or "" for the listener itself
    what: str
    reason: str = ""
    worker: WorkerId | None = None
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def message(self) -> str:
        if self.worker:
            return f"{_named(self.worker)} {self.what}"
        return f"{self.subject} {self.what}" if self.subject else self.what

    @property
    def fields(self) -> dict[str, Any]:
        if self.worker:
            known = _of(self.worker)
        elif ":" in self.subject:
            known = {"worker": self.subject}
        else:
            known = {"program": self.subject} if self.subject else {}
        return {**known, **({"reason": self.reason} if self.reason else {}), **self.more}


class Held(Told):
    """A brake holds what would have been done; once per change."""

    kind = "held"
    level = "WARN"


class Suspended(Told):
    """A budget is spent."""

    kind = "suspended"
    level = "ERROR"


class Resumed(Told):
    """There is room in the budget again, or a person has said ``resume``, or a pause is over."""

    kind = "resumed"


class Paused(Told):
    """A person has said ``pause``: watched and reported, not acted on."""

    kind = "paused"
    level = "WARN"


class Rolling(Told):
    """A rolling restart was asked for, goes on, or is done."""

    kind = "roll"


class RollStopped(Told):
    """A rolling restart was stopped: the rest of the workers is left as it was."""

    kind = "roll"
    level = "ERROR"


class Started(Told):
    """We have asked supervisord to start a name that we took down."""

    kind = "started"


class Helpers(Told):
    """Processes that a worker had started are left behind, or were ended with it."""

    kind = "helpers"
    level = "WARN"


class Released(Told):
    """A name that we took down is no longer ours."""

    kind = "released"


class TicksAlone(Told):
    """A worker is watched by its ticks alone, because of how it was set up: no fault."""

    kind = "watching"
    level = "WARN"


class Reloaded(Told):
    """The settings were read again, without a restart (reload.py); what was wrong with them is an ``error``."""

    kind = "reloaded"


class Leaving(Told):
    """supervisord is shut down by us (``exit_on``): a program can no longer serve."""

    kind = "exit"
    level = "ERROR"


class Standby(Told):
    """Another listener acts for this supervisord; or it has ended, and we act."""

    kind = "standby"
    level = "WARN"


class Takeover(Told):
    """Remedies that an earlier listener left unfinished (it was restarted, or died) are finished by this one."""

    kind = "takeover"
    level = "WARN"


class Error(Told):
    """Our own trouble: never a worker's."""

    kind = "error"
    level = "ERROR"
