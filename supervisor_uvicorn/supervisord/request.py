"""What a person asks of the listener: one REMOTE_COMMUNICATION event (supervisor 4.3.0, ``sendRemoteCommEvent``).

An event has no answer. Whoever asks makes up an ``ident``; the listener answers under it on the board, and carries out
a request that comes twice once. supervisord keeps events for a listener that is not there, so a request says when it
was asked: one that is older than :data:`MOST_AGE_S` is carried out by nobody.

Whoever may call supervisord may send anything, so whatever is read here is bounded.
"""

from __future__ import annotations

import json
import reprlib
from dataclasses import dataclass

KIND = "supervisor-uvicorn"  # the event's type; events of other types are somebody else's
RELOAD = "reload"
VERBS = ("restart", "pause", "resume", RELOAD)
MOST_AGE_S = 10.0  # whoever asked has given up by then
MOST_NAMES = 1000
MOST_NAME_CHARACTERS = 512
MOST_IDENT_CHARACTERS = 64
MOST_FOR_S = 10 * 365 * 86400  # ten years
MOST_QUOTED_CHARACTERS = 80
_MOST_TIME = 253_402_300_799  # the end of the year 9999, in seconds since 1970: the last one of ``datetime``


class BadRequest(Exception):  # noqa: N818 - it reads as what it is
    """Of our kind, and not to be understood; ``ident`` is "" where not even that could be read. The words are short,
    whatever was sent."""

    def __init__(self, why: str, ident: str = "") -> None:
        super().__init__(why)
        self.ident = ident


@dataclass(frozen=True)
class Request:
    """``names`` are as in supervisorctl; empty means everything (``pause``, ``resume``). ``reload`` has none."""

    ident: str
    verb: str
    names: tuple[str, ...] = ()
    for_s: float | None = None  # pause: so long; None: until resume
    sent_at: float = 0.0  # seconds since 1970 by supervisord's clock; 0: not sent yet, and refused by every listener

    def text(self) -> str:
        """The event's data."""
        return json.dumps(
            {
                "id": self.ident,
                "verb": self.verb,
                "names": list(self.names),
                "for_s": self.for_s,
                "sent_at": self.sent_at,
            }
        )


def parse(data: str) -> Request:
    """The request in an event of our kind. Raises :class:`BadRequest`, and nothing else."""
    try:
        found = json.loads(data)
    except ValueError as error:
        raise BadRequest(f"no JSON: {error}") from None
    except RecursionError:
        raise BadRequest("no JSON that can be read: it is nested too deep") from None
    if not isinstance(found, dict):
        raise BadRequest("no JSON object")
    ident, verb, names = found.get("id"), found.get("verb"), found.get("names")
    if not isinstance(ident, str) or not 0 < len(ident) <= MOST_IDENT_CHARACTERS or not ident.isprintable():
        raise BadRequest(f"no id of 1 to {MOST_IDENT_CHARACTERS} characters")
    if not isinstance(verb, str) or verb not in VERBS:
        raise BadRequest(f"verb is {_quoted(verb)}, and the listener knows {', '.join(VERBS)}", ident)
    for_s = _for_s(found.get("for_s"), ident)
    sent_at = _number(found.get("sent_at"), 0, _MOST_TIME)
    if sent_at is None:
        raise BadRequest(f"sent_at is {_quoted(found.get('sent_at'))}, and no time in seconds since 1970", ident)
    return Request(ident, verb, _names(names, ident), for_s, sent_at)


def _names(names: object, ident: str) -> tuple[str, ...]:
    if not isinstance(names, list) or len(names) > MOST_NAMES:
        raise BadRequest(f"names is no list of at most {MOST_NAMES} NAMEs", ident)
    for name in names:
        if not isinstance(name, str) or len(name) > MOST_NAME_CHARACTERS:
            raise BadRequest(
                f"a NAME is {_quoted(name)}, and no text of at most {MOST_NAME_CHARACTERS} characters", ident
            )
    return tuple(names)


def _for_s(value: object, ident: str) -> float | None:
    if value is None:
        return None
    for_s = _number(value, 0, MOST_FOR_S)
    if not for_s:
        raise BadRequest(
            f"for_s is {_quoted(value)}, and no number of seconds above 0 and of at most {MOST_FOR_S} (ten years)",
            ident,
        )
    return for_s


def _number(value: object, least: int, most: int) -> float | None:
    """Compared before it is made a float: an integer may be larger than one can be. NaN is within no bounds."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        return None
    return float(value)


_BRIEF = reprlib.Repr()
_BRIEF.maxlevel = 2
_BRIEF.maxstring = _BRIEF.maxlong = _BRIEF.maxother = MOST_QUOTED_CHARACTERS


def _quoted(value: object) -> str:
    """At most :data:`MOST_QUOTED_CHARACTERS` of it, however large or deep it is."""
    try:
        return _BRIEF.repr(value)[:MOST_QUOTED_CHARACTERS]
    except (ValueError, RecursionError):  # an integer of more figures than Python writes out
        return "what cannot be shown"
