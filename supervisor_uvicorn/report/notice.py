"""Which events others are told of, and what they read: one JSON object, the log's own and a little more. Pure.

A notice says that something was done to a worker, or is not done any more, so that a person may have to look. That is
why a ``would-restart`` is none: a dry run decides, logs, and does nothing.
"""

from __future__ import annotations

import datetime
import json
from typing import Any

from .events import Event, as_object

NOTIFIED = frozenset({"restart", "explained", "suspended", "held", "resumed"})
"""Kinds of events. No ``error``: it is our own trouble, and what we tell of a notice that failed would be the next."""

MOST_BYTES = 64 * 1024
"""Of a notice, its line feed included: a pipe's whole capacity (pipe(7)), and what chat services take without a word.
What the log says of a restart is some 10 KiB."""

_SPARED = ("evidence", "explanation")  # what is left out first of one that is too long
_BARE = ("time", "level", "event", "message", "worker", "pid", "program", "reason", "host")
_MOST_CHARACTERS = 512


def notice(event: Event, at: datetime.datetime, host: str) -> bytes:
    """The JSON object of ``event`` on one line of ASCII, with its line feed: at most :data:`MOST_BYTES`.

    It has what a JSON line of the log has, and ``host`` and ``program`` (None where it is about the whole listener).
    ``at`` should know its time zone. One that would be longer has no ``evidence``, then no ``explanation``, then only
    its texts, each cut; ``cut`` is true then.
    """
    found = {**as_object(event, at), "host": host}
    found["program"] = _program(found)
    data = _line(found)
    for spared in _SPARED:
        if len(data) > MOST_BYTES and found.pop(spared, None) is not None:
            found["cut"] = True
            data = _line(found)
    if len(data) > MOST_BYTES:
        bare = {key: _short(found[key]) for key in _BARE if key in found}
        data = _line({**bare, "cut": True})
    return data


def _program(found: dict[str, Any]) -> str | None:
    worker = found.get("worker")
    if isinstance(worker, str):
        return worker.partition(":")[0]
    return found.get("program")


def _short(value: Any) -> Any:
    return value[:_MOST_CHARACTERS] if isinstance(value, str) else value


def _line(found: dict[str, Any]) -> bytes:
    return json.dumps(found, default=str).encode("ascii") + b"\n"
