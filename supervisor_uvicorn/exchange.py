"""What the listener's threads know of each other. Floor 4, beside listen.py: the one thing that they share."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace

from .ledger import Outcome
from .model import Member
from .operations import Reply
from .settings import ListenSettings
from .usage import Measured
from .watch import Snapshot

REQUESTS_MOST = 1000  # of one look; nobody types more


@dataclass
class Exchange:
    """Frozen values, handed over. Every field is changed under the condition."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    snapshot: Snapshot = field(default_factory=Snapshot)
    measured: Measured = field(default_factory=Measured)
    tick: bool = False
    news: bool = False  # the roster has changed: somebody may have to be pinned
    roster_wanted: bool = True
    outcomes: list[Outcome] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)  # what persons ask; not heard while another listener acts
    settings: ListenSettings | None = None  # read again, and not looked with yet (reloads.py)
    replies: list[Reply] = field(default_factory=list)  # to those who asked for that
    acting: bool = False
    stopping: bool = False  # supervisord has said so itself

    @property
    def reloaded(self) -> bool:
        return self.settings is not None or bool(self.replies)

    def put(self, **changes: object) -> None:
        with self.changed:
            for name, value in changes.items():
                setattr(self, name, value)
            self.changed.notify_all()

    def put_roster(self, members: tuple[Member, ...], at: float) -> None:
        with self.changed:
            self.news = self.news or members != self.snapshot.members
            self.snapshot = Snapshot(members, at)
            self.changed.notify_all()

    def wait_roster_wanted(self, at_most_s: float) -> None:
        with self.changed:
            if not self.roster_wanted:
                self.changed.wait_for(lambda: self.roster_wanted, at_most_s)
            self.roster_wanted = False

    def put_shutting_down(self, at: float) -> None:
        self.put(snapshot=replace(self.snapshot, at=at, shutting_down=True))

    def add_request(self, data: str) -> bool:
        """False: it is not heard here, because another listener acts."""
        with self.changed:
            if self.acting and len(self.requests) < REQUESTS_MOST:
                self.requests.append(data)
                self.changed.notify_all()
            return self.acting

    def put_reloaded(self, settings: ListenSettings | None, replies: list[Reply]) -> None:
        """``settings`` None: they were wrong, and stay."""
        with self.changed:
            self.settings = settings or self.settings
            self.replies += replies
            self.changed.notify_all()

    def take_reloaded(self) -> tuple[ListenSettings | None, list[Reply]]:
        with self.changed:
            found = self.settings, self.replies
            self.settings, self.replies = None, []
            return found

    def add_outcome(self, outcome: Outcome) -> None:
        with self.changed:
            self.outcomes.append(outcome)
            self.roster_wanted = True
            self.changed.notify_all()
