"""Every setting, once: its name, what it takes, its default, its precedent and its help. Floor 0.

The flags of ``listen``, the keys of ``[supervisor-uvicorn]`` and ``[supervisor-uvicorn:GROUP]`` in a file, ``--help``
and ``docs/settings.rst`` all come from :data:`ENTRIES`; a default stands only in the dataclass that the rest of the
package works with. To add a setting: a field in a dataclass, an entry, ``python docs/generate_settings.py``.

Which value counts: the group's section, then the general section, then the flag, then the default.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from supervisor_uvicorn import settings_kinds as kinds
from supervisor_uvicorn.settings_file import GENERAL, SettingsError, Written, read_sections
from supervisor_uvicorn.settings_kinds import Backoff, Budget, Kind

__all__ = [
    "CHECK_KEYS",
    "ENTRIES",
    "Backoff",
    "Budget",
    "Entry",
    "ListenSettings",
    "Settings",
    "SettingsError",
    "add_flags",
    "load",
]

MAX_HEAD_EXTRA_BYTES = 2048
"""For ``path``, ``host`` and ``header`` together: a probe's head stays below 4 KiB with room for its padding."""


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
    exit_on: str = "none"  # or "fatal", "suspended": exit_on.py


@dataclass(frozen=True)
class ListenSettings:
    """The settings of the listener, and of each program that has a section of its own."""

    pulse_s: float = 1.0
    log_format: str = "text"  # or "json"
    groups: tuple[str, ...] = ()  # empty: every program that is found
    general: Settings = field(default_factory=Settings)
    by_group: Mapping[str, Settings] = field(default_factory=dict)

    def of(self, group: str) -> Settings:
        """The settings of ``group``, whether it has a section or not."""
        return self.by_group.get(group, self.general)


@dataclass(frozen=True)
class Entry:
    """One setting.

    ``field`` is its name in :class:`Settings` (scope ``program``: also in a group's section) or in
    :class:`ListenSettings` (scope ``listener``: only in the general section).
    """

    key: str
    field: str
    kind: Kind
    help: str
    precedent: str
    example: str
    scope: str = "program"

    @property
    def flag(self) -> str:
        return "--" + self.key.replace("_", "-")

    @property
    def default(self) -> str:
        """The default as a user would write it; "none" for nothing at all."""
        return self.kind.write(self._value)

    @property
    def is_set(self) -> bool:
        """Is there a value where nobody writes one?"""
        return self.default != "none" or self._value not in (None, ())

    @property
    def _value(self) -> object:
        return getattr(Settings() if self.scope == "program" else ListenSettings(), self.field)


ENTRIES: tuple[Entry, ...] = (
    Entry(
        "pulse",
        "pulse_s",
        kinds.seconds(at_least_s=0.05, at_most_s=60.0),
        "How long between two looks at the event loops. At most half of the smallest silent_after.",
        "gunicorn's arbiter looks each second",
        "1",
        scope="listener",
    ),
    Entry(
        "group",
        "groups",
        kinds.groups(),
        "Watch only these programs (groups of supervisord). Without it: every uvicorn worker that is found.",
        "superlance's httpok -p",
        "web",
        scope="listener",
    ),
    Entry(
        "log_format",
        "log_format",
        kinds.choice("text", "json"),
        "How a line of the log is written: for people, or one JSON object a line.",
        "one event a line, the twelve-factor app's way",
        "json",
        scope="listener",
    ),
    Entry(
        "silent_after",
        "silent_after_s",
        kinds.seconds(at_least_s=1.0),
        "A worker whose event loop has not turned for so long, in three looks or more, is silent, and is replaced.",
        "gunicorn's timeout 30 s; kubelet's 3 failures 10 s apart; uvicorn's own 5 s kills starts that hold the GIL",
        "30",
    ),
    Entry(
        "busy_factor",
        "busy_factor",
        kinds.number(at_least=1.0, at_most=1000.0),
        "A silent worker that burns CPU is given so many times silent_after.",
        "a long computation is not a deadlock",
        "2",
    ),
    Entry(
        "path",
        "path",
        kinds.path(),
        "Ask each worker for this path on every TICK, by itself. Without it only the event loop is watched.",
        "kubelet's httpGet, Pebble's http check",
        "/healthz",
    ),
    Entry(
        "expect",
        "expect",
        kinds.statuses(),
        "The status codes that are a right answer. Redirects are not followed.",
        "kubelet: 200 to 399",
        "200-399",
    ),
    Entry(
        "timeout",
        "timeout_s",
        kinds.seconds(at_least_s=0.1),
        "How long the whole answer to path may take, from the request to the last byte.",
        "Pebble's 3 s; kubelet's 1 s is its most complained-of default",
        "3",
    ),
    Entry(
        "host",
        "host",
        kinds.host(),
        "The Host header of the request for path, for an application that answers only to its own names.",
        "kubelet's httpGet.host",
        "www.example.org",
    ),
    Entry(
        "header",
        "headers",
        kinds.headers(),
        "One more header for the request for path. The flag may be given several times; in a file, one a line.",
        "kubelet's httpHeaders",
        "X-Health: 1",
    ),
    Entry(
        "failing_after",
        "failing_after",
        kinds.count(),
        "So many wrong answers one after another, and a worker is failing.",
        "HAProxy's fall 3, kubelet's failureThreshold 3",
        "3",
    ),
    Entry(
        "panic_threshold",
        "panic_threshold",
        kinds.share(),
        "A failing worker is replaced only while at most this share of the program's workers is failing. Above it "
        "something behind them all is down, and replacing them would make it worse.",
        "Envoy's healthy_panic_threshold 50 %",
        "50%",
    ),
    Entry(
        "start_timeout",
        "start_timeout_s",
        kinds.seconds(at_least_s=1.0),
        "How long a worker may take until it serves. Imports and the lifespan's start-up count.",
        "Passenger's start timeout and systemd's TimeoutStartSec, 90 s",
        "90",
    ),
    Entry(
        "max_unavailable",
        "max_unavailable",
        kinds.count(),
        "Workers are drained only while fewer than so many of the program are not serving, for whatever reason.",
        "Kubernetes' maxUnavailable",
        "1",
    ),
    Entry(
        "backoff",
        "backoff",
        kinds.backoff(),
        "How long until the same worker may be replaced again: from the first figure, doubling, to the second. "
        "Forgotten after 600 s in health; 0 switches it off.",
        "kubelet's CrashLoopBackOff: 10 s doubling to 300 s, reset after 10 minutes",
        "10:300",
    ),
    Entry(
        "budget",
        "budget",
        kinds.budget(),
        "So many replacements of sick workers in so many seconds. When they are used up the program is suspended: "
        "watched and reported, not acted upon.",
        "the restart intensity of an OTP supervisor, systemd's StartLimitBurst",
        "5/600",
    ),
    Entry(
        "abort_wait",
        "abort_wait_s",
        kinds.seconds(at_least_s=0.0),
        "How long a silent worker has, after SIGABRT, to print where it hangs (PYTHONFAULTHANDLER=1) before SIGKILL.",
        "systemd's watchdog and gunicorn: SIGABRT first",
        "2",
    ),
    Entry(
        "drain_timeout",
        "drain_timeout_s",
        kinds.seconds_or("stopwaitsecs"),
        "How long a worker that is drained has, after SIGTERM, to answer what it has accepted before SIGKILL. "
        "Without it: the program's own stopwaitsecs.",
        "supervisord's stopwaitsecs",
        "30",
    ),
    Entry(
        "dry_run",
        "dry_run",
        kinds.flag(),
        "Watch, decide and log would-restart, but touch nothing.",
        "Envoy's enforcing_* 0 %",
        "true",
    ),
    Entry(
        "exit_on",
        "exit_on",
        kinds.choice("none", "fatal", "suspended"),
        "For a container: shut supervisord down, with exit code 69 where [rpcinterface:uvicorn] is there. fatal: when "
        "every worker of a program is FATAL. suspended: also when its budget is spent and none of its workers serves.",
        "supervisord itself ends with 0 whatever became of its programs (Supervisor/supervisor#733, #775, #712)",
        "fatal",
    ),
)

_BY_KEY: Mapping[str, Entry] = MappingProxyType({entry.key: entry for entry in ENTRIES})

CHECK_KEYS = ("path", "expect", "timeout", "host", "header")
"""What the ``check`` verb takes of them: how a worker is asked, and nothing of what is done about it."""


def add_flags(parser: argparse.ArgumentParser, only: Collection[str] | None = None) -> None:
    """Add the flags of ``only`` (keys; all, and ``--settings``, if None) to ``parser``.

    What they leave in the namespace is text, or None where a flag is not given; :func:`load` reads it.
    """
    if only is None:
        parser.add_argument(
            "--settings",
            metavar="FILE",
            help="read [supervisor-uvicorn] and [supervisor-uvicorn:GROUP] from FILE; supervisord.conf will do",
        )
    for entry in ENTRIES:
        if only is not None and entry.key not in only:
            continue
        text = f"{entry.help} [{entry.kind.unit}; default: {entry.default}]".replace("%", "%%")
        if entry.kind.metavar is None:
            parser.add_argument(entry.flag, dest=entry.key, action="store_const", const="true", help=text)
        else:
            action = "append" if entry.kind.repeatable else "store"
            parser.add_argument(entry.flag, dest=entry.key, action=action, metavar=entry.kind.metavar, help=text)


def load(args: argparse.Namespace) -> ListenSettings:
    """The settings of a command line (:func:`add_flags`) and of the file that its ``--settings`` names.

    Raises :class:`SettingsError`, whose text says where the wrong value stands, what it is and what to write instead.
    """
    flags = _from_flags(args)
    sections = read_sections(file) if (file := getattr(args, "settings", None)) else {}
    for group, section in sections.items():
        _check_keys(section, group)
    general_section = sections.get(GENERAL, {})
    # A flag gives way to the file, but what it says wrong is said all the same.
    parsed_flags = {key: _parse(written) for key, written in flags.items()}
    values = parsed_flags | {key: _parse(written) for key, written in general_section.items()}
    written = flags | dict(general_section)
    general = _settings(values, written)
    by_group = {
        group: _settings(
            values | {key: _parse(one) for key, one in section.items()},
            written | dict(section),
        )
        for group, section in sections.items()
        if group != GENERAL
    }
    listen = {entry.field: values[entry.key] for entry in ENTRIES if entry.scope == "listener" and entry.key in values}
    shortest_s = min(one.silent_after_s for one in (general, *by_group.values()))
    if "pulse_s" in listen:
        if listen["pulse_s"] > shortest_s / 2:
            raise written["pulse"].error(
                f"is more than half of the smallest silent_after ({kinds.plain(shortest_s)})",
                kinds.plain(shortest_s / 2),
            )
    else:
        listen["pulse_s"] = min(ListenSettings().pulse_s, shortest_s / 2)
    return ListenSettings(**listen, general=general, by_group=MappingProxyType(by_group))


def _from_flags(args: argparse.Namespace) -> dict[str, Written]:
    written = {}
    for entry in ENTRIES:
        given = getattr(args, entry.key, None)
        if given is not None:
            lines = tuple(given) if isinstance(given, list) else (given,)
            written[entry.key] = Written(entry.key, lines, flag=entry.flag)
    return written


def _check_keys(section: Mapping[str, Written], group: str) -> None:
    for key, written in section.items():
        if key not in _BY_KEY:
            near = difflib.get_close_matches(key.replace("-", "_"), _BY_KEY, n=1)
            hint = f"did you mean {near[0]}?" if near else "there are: " + ", ".join(_BY_KEY)
            raise SettingsError(f"{written.where}: there is no such setting; {hint}")
        if group != GENERAL and _BY_KEY[key].scope == "listener":
            raise SettingsError(
                f"{written.where}: this is one for the whole listener; write it in [supervisor-uvicorn] instead"
            )


def _parse(written: Written) -> Any:
    entry = _BY_KEY[written.key]
    lines: list[Any] = []
    for line in written.lines if entry.kind.repeatable else ("\n".join(written.lines),):
        try:
            lines.append(entry.kind.parse(line))
        except ValueError as problem:
            raise Written(written.key, (line,), written.flag, written.place).error(
                str(problem), entry.example
            ) from None
    return tuple(item for one in lines for item in one) if entry.kind.repeatable else lines[0]


def _settings(values: Mapping[str, Any], written: Mapping[str, Written]) -> Settings:
    own = {entry.field: values[entry.key] for entry in ENTRIES if entry.scope == "program" and entry.key in values}
    settings = dataclasses.replace(Settings(), **own)
    extra_bytes = len(settings.path or "") + len(settings.host or "")
    extra_bytes += sum(len(name) + len(value) + 4 for name, value in settings.headers)
    if extra_bytes > MAX_HEAD_EXTRA_BYTES:
        where = next(written[key].where for key in ("header", "path", "host") if key in written)
        raise SettingsError(
            f"{where}: path, host and headers take {extra_bytes} bytes together; at most {MAX_HEAD_EXTRA_BYTES}, "
            "so that the head of the request stays below 4 KiB"
        )
    return settings
