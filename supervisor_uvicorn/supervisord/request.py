"""What a person asks of the listener: one REMOTE_COMMUNICATION event (supervisor 4.3.0, ``sendRemoteCommEvent``).

An event has no answer. Whoever asks makes up an ``ident``; the listener answers under it on the board, and carries out
a request that comes twice once.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

KIND = "supervisor-uvicorn"  # the event's type; events of other types are somebody else's
VERBS = ("restart", "pause", "resume")
MOST_NAMES = 1000


class BadRequest(Exception):  # noqa: N818 - it reads as what it is
    """Of our kind, and not to be understood; ``ident`` is "" where not even that could be read."""

    def __init__(self, why: str, ident: str = "") -> None:
        super().__init__(why)
        self.ident = ident


@dataclass(frozen=True)
class Request:
    """``names`` are as in supervisorctl; empty means everything (``pause``, ``resume``)."""

    ident: str
    verb: str
    names: tuple[str, ...] = ()
    for_s: float | None = None  # pause: so long; None: until resume

    def text(self) -> str:
        """The event's data."""
        return json.dumps({"id": self.ident, "verb": self.verb, "names": list(self.names), "for_s": self.for_s})


def parse(data: str) -> Request:
    """The request in an event of our kind. Raises :class:`BadRequest`."""
    try:
        found = json.loads(data)
    except ValueError as error:
        raise BadRequest(f"no JSON: {error}") from None
    if not isinstance(found, dict):
        raise BadRequest("no JSON object")
    ident, verb, names, for_s = (found.get(key) for key in ("id", "verb", "names", "for_s"))
    if not isinstance(ident, str) or not 0 < len(ident) <= 64 or not ident.isprintable():
        raise BadRequest("no id of 1 to 64 characters")
    if verb not in VERBS:
        raise BadRequest(f"verb is {verb!r}, and the listener knows {', '.join(VERBS)}", ident)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(names) > MOST_NAMES:
        raise BadRequest(f"names is no list of at most {MOST_NAMES} texts", ident)
    number = isinstance(for_s, int | float) and not isinstance(for_s, bool)
    if for_s is not None and not (number and math.isfinite(for_s) and for_s > 0):
        raise BadRequest(f"for_s is {for_s!r}, and no number of seconds above 0", ident)
    return Request(ident, verb, tuple(names), float(for_s) if for_s is not None else None)
