"""What was done to which worker, when, why and with which evidence: bounded, and kept beyond our own life.

The history lies in a cell of supervisord's memory, as one JSON object:
``{"version": 1, "entries": [oldest first, each as a JSON log line has it], "restarts": {"web:web-0": 3}}``.
"""

from __future__ import annotations

import datetime
import json
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

from supervisor_uvicorn.memory import cell_object

from .events import Event, as_object

VERSION = 1
MOST_ENTRIES = 200
MOST_BYTES = 256 * 1024
MOST_ENTRY_BYTES = 12 * 1024
MOST_NAMES = 10_000
MOST_RESTARTS = 1 << 53  # what every JSON reader can count

KEPT = frozenset(
    {
        "restart",
        "would-restart",
        "replaced",
        "held",
        "suspended",
        "resumed",
        "paused",
        "started",
        "released",
        "roll",
        "reloaded",
        "exit",
        "explained",
        "helpers",
        "takeover",
    }
)
"""Kinds of events. An ``error`` is kept where it names a worker: the others are our own affairs, and in the log."""

_BARE = ("time", "level", "event", "message", "worker", "pid", "program", "reason")
_MOST_BARE_CHARACTERS = 512


class History:
    """The last ``most`` entries, in at most ``most_bytes``; and in as many bytes the restarts of each worker's name,
    of which the longest ago are forgotten first. Safe to use from several threads."""

    def __init__(self, most: int = MOST_ENTRIES, most_bytes: int = MOST_BYTES) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._lock = threading.Lock()
        self._entries: deque[str] = deque()  # as JSON, in ASCII
        self._entries_bytes = 0
        self._restarts: dict[str, int] = {}  # the last restarted at the end
        self._names_bytes = 0

    def add(self, event: Event, at: datetime.datetime) -> bool:
        """True where the event is of a kind that is kept."""
        fields = event.fields
        if event.kind not in KEPT and not (event.kind == "error" and "worker" in fields):
            return False
        entry = _compact(as_object(event, at))
        with self._lock:
            if event.kind == "restart":
                self._count(str(fields["worker"]), 1)
            self._append(entry)
        return True

    @property
    def restarts(self) -> Mapping[str, int]:
        """So often was each name restarted by us, since supervisord began; a copy."""
        with self._lock:
            return dict(self._restarts)

    def text(self) -> str:
        """The cell's text: ASCII, at most two times ``most_bytes`` and a little."""
        with self._lock:
            entries, restarts = ", ".join(self._entries), json.dumps(self._restarts)
        return f'{{"version": {VERSION}, "entries": [{entries}], "restarts": {restarts}}}'

    def restore(self, text: str) -> bool:
        """Put what an earlier listener had written before what this one has; once. False: it cannot be read.

        Raises nothing. An entry that is none is left out.
        """
        found = cell_object(text)
        if found is None or found.get("version") != VERSION or not isinstance(found.get("entries"), list):
            return False
        earlier = [entry for one in found["entries"] if (entry := _checked(one)) is not None]
        counts = found.get("restarts")
        counts = counts if isinstance(counts, dict) else {}
        with self._lock:
            ours, self._entries, self._entries_bytes = self._entries, deque(), 0
            for entry in (*earlier, *ours):
                self._append(entry)
            newer, self._restarts, self._names_bytes = self._restarts, {}, 0
            for name, count in (*counts.items(), *newer.items()):
                if isinstance(count, int) and not isinstance(count, bool) and 0 < count <= MOST_RESTARTS:
                    self._count(name, count)
        return True

    def _append(self, entry: str) -> None:
        self._entries.append(entry)
        self._entries_bytes += len(entry) + 2
        while self._entries and (len(self._entries) > self._most or self._entries_bytes > self._most_bytes):
            self._entries_bytes -= len(self._entries.popleft()) + 2

    def _count(self, name: str, restarts: int) -> None:
        if name not in self._restarts:
            self._names_bytes += _name_bytes(name)
        self._restarts[name] = min(self._restarts.pop(name, 0) + restarts, MOST_RESTARTS)
        while self._restarts and (len(self._restarts) > MOST_NAMES or self._names_bytes > self._most_bytes):
            oldest = next(iter(self._restarts))
            del self._restarts[oldest]
            self._names_bytes -= _name_bytes(oldest)


def _name_bytes(name: str) -> int:
    """In the text, with the longest count."""
    return len(json.dumps(name)) + 20


def _compact(entry: Mapping[str, Any]) -> str:
    """As JSON; of one that is far too long, only what it is about."""
    text = json.dumps(entry, default=str)
    if len(text) <= MOST_ENTRY_BYTES:
        return text
    bare = {key: entry[key] for key in _BARE if key in entry}
    return json.dumps(
        {key: value[:_MOST_BARE_CHARACTERS] if isinstance(value, str) else value for key, value in bare.items()},
        default=str,
    )


def _checked(entry: object) -> str | None:
    """An entry of the cell as JSON; None where it has not what every entry has."""
    if not isinstance(entry, dict):
        return None
    if not all(isinstance(entry.get(key), str) for key in ("time", "level", "event", "message")):
        return None
    if not all(isinstance(entry.get(key, ""), str) for key in ("worker", "program", "reason")):
        return None
    try:
        text = json.dumps(entry, allow_nan=False)
    except (ValueError, RecursionError):
        return None
    return text if len(text) <= MOST_ENTRY_BYTES else None
