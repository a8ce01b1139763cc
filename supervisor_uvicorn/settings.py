"""The settings of a listener, read from flags and a file. Floor 0.

The flags of ``listen``, the keys of ``[supervisor-uvicorn]`` and ``[supervisor-uvicorn:GROUP]`` in a file, ``--help``
and ``docs/settings.rst`` all come from settings_entries.py; a default stands only in settings_values.py, with which the
rest of the package works.

Which value counts: the group's section, then the general section, then the flag, then the default.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from supervisor_uvicorn import settings_kinds as kinds
from supervisor_uvicorn.settings_entries import CHECK_KEYS, ENTRIES, Entry
from supervisor_uvicorn.settings_file import GENERAL, SettingsError, Written, read_sections
from supervisor_uvicorn.settings_kinds import Backoff, Budget
from supervisor_uvicorn.settings_values import ListenSettings, Settings

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

MASK = "***"
"""In place of a value that may be a secret."""

_BY_KEY: Mapping[str, Entry] = MappingProxyType({entry.key: entry for entry in ENTRIES})


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
            shown = dataclasses.replace(written, lines=(MASK,) if entry.kind.secret else (line,))
            raise shown.error(str(problem), entry.example) from None
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
