"""When and why each worker was last restarted, out of the history's cell; fetched as seldom as will do."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from supervisor_uvicorn.report.log import one_line
from supervisor_uvicorn.report.table import since
from supervisor_uvicorn.supervisord.rpc import RpcError
from supervisor_uvicorn.verbs.asking import Desk
from supervisor_uvicorn.verbs.history import CELL
from supervisor_uvicorn.verbs.stored import BadPage, load

AGAIN_S = 5.0
"""The page and the history are reported one after the other, so a history may lack the restart that the page counts."""
MOST_REASON = 12  # characters; ours have seven


class Last(NamedTuple):
    """``at`` is in seconds since 1970, by the listener's clock, which is supervisord's, too."""

    reason: str
    at: float


class Known(NamedTuple):
    """``counts``: so many restarts of each name the history knows of."""

    lasts: Mapping[str, Last] = {}
    counts: Mapping[str, Any] = {}


def read(text: str) -> Known:
    """The last restart of each name that the cell's text tells of. What cannot be read is left out; raises nothing."""
    try:
        found = load(text, "the history", "history") if text else {}
    except BadPage:
        found = {}
    entries, counts = found.get("entries"), found.get("restarts")
    lasts = {}
    for entry in entries if isinstance(entries, list) else ():
        if not isinstance(entry, dict) or entry.get("event") != "restart":
            continue
        name, reason = entry.get("worker"), entry.get("reason")
        try:
            at = datetime.datetime.fromisoformat(str(entry.get("time")))
        except ValueError:
            continue
        if isinstance(name, str) and isinstance(reason, str) and at.tzinfo is not None:
            lasts[name] = Last(one_line(reason)[:MOST_REASON], at.timestamp())
    return Known(lasts, counts if isinstance(counts, dict) else {})


def words(last: Last | None, now: float) -> str:
    """``silent 4m ago``; ``-``: never, or so long ago that the history has forgotten it. ``now`` as ``Last.at``.

    >>> words(Last("silent", 1000.0), 1245.0)
    'silent 4m ago'
    """
    return "-" if last is None else f"{last.reason} {since(max(0.0, now - last.at))} ago"


class Lasts:
    """Asks for the history when the page counts other restarts than before, and while the history lags behind it."""

    def __init__(self, desk: Desk, clock: Callable[[], float]) -> None:
        self._desk, self._clock = desk, clock
        self._asked_for: dict[str, int] = {}
        self._asked_at = 0.0
        self._known = Known()

    def of(self, restarts: Mapping[str, int]) -> Mapping[str, Last]:
        """``restarts``: by name, as the page counts them. A history that cannot be had leaves what was known."""
        wanted = {name: count for name, count in restarts.items() if count}
        changed = wanted != self._asked_for
        behind = any(self._known.counts.get(name) != count for name, count in wanted.items())
        if changed or (behind and self._clock() - self._asked_at >= AGAIN_S):
            self._asked_for, self._asked_at = wanted, self._clock()
            try:
                note = self._desk.kept(CELL)
            except RpcError:  # the next look at the board will tell
                note = None
            if note is not None:
                self._known = read(note.text)
        return self._known.lasts
