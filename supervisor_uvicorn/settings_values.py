"""The settings as the rest of the package works with them, and every default. Floor 0.

settings_entries.py says what each one means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from supervisor_uvicorn.settings_kinds import Backoff, Budget
from supervisor_uvicorn.settings_limits import MaxAge, MaxFds
from supervisor_uvicorn.settings_outward import Place


@dataclass(frozen=True)
class Settings:
    """The settings of one program. The entries of :data:`ENTRIES` say what each one means."""

    silent_after_s: float = 30.0
    busy_factor: float = 2.0
    path: str | None = None
    expect: tuple[tuple[int, int], ...] = ((200, 399),)  # closed ranges of status codes
    timeout_s: float = 3.0
    host: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    failing_after: int = 3
    panic_threshold: float = 0.5
    start_timeout_s: float = 90.0
    max_unavailable: int = 1
    backoff: Backoff = field(default_factory=Backoff)
    budget: Budget = field(default_factory=Budget)
    abort_wait_s: float = 2.0
    drain_timeout_s: float | None = None  # None: the program's own stopwaitsecs
    dry_run: bool = False
    max_rss_bytes: int | None = None
    max_age: MaxAge | None = None
    max_fds: MaxFds | None = None
    exit_on: str = "none"  # or "fatal", "suspended": exit_on.py


@dataclass(frozen=True)
class ListenSettings:
    """The settings of the listener, and of each program that has a section of its own."""

    pulse_s: float = 1.0
    log_format: str = "text"  # or "json"
    groups: tuple[str, ...] = ()  # empty: every program that is found
    metrics: Place | None = None  # where Prometheus finds them
    metrics_textfile: str | None = None
    notify: tuple[str, ...] = ()  # a command; empty: none
    notify_url: str | None = None
    general: Settings = field(default_factory=Settings)
    by_group: Mapping[str, Settings] = field(default_factory=dict)

    def of(self, group: str) -> Settings:
        """The settings of ``group``, whether it has a section or not."""
        return self.by_group.get(group, self.general)
