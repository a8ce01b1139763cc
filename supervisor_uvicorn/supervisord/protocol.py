"""supervisord's event-listener protocol, without I/O: bytes go in, events come out (the h11 way).

What supervisord writes to a listener's stdin (supervisor 4.3.0, process.py ``EventListenerPool._eventEnvelope``)::

    ver:3.0 server:supervisor serial:21 pool:web poolserial:10 eventname:TICK_5 len:15\\n
    when:1201063880

Four things in it are not what they look like, and each has silenced or desynchronised a listener somewhere:

* ``len`` counts *characters*, because supervisord takes ``len()`` of a str and then encodes it as UTF-8; its manual
  says bytes. So the input is decoded before anything is counted.
* ``server`` is ``[supervisord] identifier=``, free text: spaces, colons, even a line break. So the header is searched
  for the keys that are known, never split at blanks and colons.
* Events arrive that were never subscribed to, and some arrive twice (a pool with the same priority gets what another
  listener refused: process.py ``EventListenerPool.handle_rejected``). An event is therefore only what it says, and
  what to do about a serial that was seen before is the caller's affair.
* ``TICK`` payloads are one line without a line break (events.py ``TickEvent.payload``).

The reader holds a bounded amount whatever comes in: at most ``MAX_HEADER_CHARS`` of an unfinished header, at most
``MAX_PAYLOAD_CHARS`` of a payload. It never raises for what it reads.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

READY = b"READY\n"
"""What a listener writes when it can take an event (supervisor 4.3.0, dispatchers.py ``READY_FOR_EVENTS_TOKEN``)."""

OK = b"RESULT 2\nOK"
"""The one answer we ever give: anything else makes supervisord send the event again, at once and for ever."""

MAX_HEADER_CHARS = 64 * 1024
MAX_PAYLOAD_CHARS = 1024 * 1024

_KEYS = "ver|server|serial|pool|poolserial|eventname|len"
_KEY = re.compile(rf"(?:^|(?<=\s))({_KEYS}):")
# int() takes other alphabets' digits too, and raises above 4,300 digits; supervisord writes neither.
_NUMBER = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True)
class Event:
    """One event. ``serial`` is None where the header has none that is a number; ``name`` may be one we do not know.

    ``payload`` is text in which bytes that are not UTF-8 stand as lone surrogates (``surrogateescape``);
    ``truncated`` says that it was longer than ``MAX_PAYLOAD_CHARS`` and that the rest was thrown away.
    """

    name: str
    serial: int | None
    pool: str
    headers: Mapping[str, str] = field(compare=False)
    payload: str
    truncated: bool = False


class EventReader:
    """Takes what comes from stdin, in any pieces, and gives the events that are complete.

    ``malformed`` counts header lines that were no events (no ``len``, or too long). They are skipped and must not be
    answered: an answer that supervisord does not wait for puts the listener into state UNKNOWN for good.
    """

    def __init__(self) -> None:
        self.malformed = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._line: list[str] = []  # pieces of a header that has no line break yet
        self._line_chars = 0
        self._headers: Mapping[str, str] | None = None  # None: between events, reading a header
        self._due_chars = 0  # of the payload, still to come
        self._kept: list[str] = []
        self._kept_chars = 0
        self._truncated = False

    def feed(self, data: bytes) -> list[Event]:
        """Take ``data`` and return the events that it completes, in order; often none. Never raises."""
        text = self._decoder.decode(data)
        events: list[Event] = []
        at = 0
        while True:
            if self._headers is None:
                at = self._read_header(text, at)
                if self._headers is None:
                    return events
            at = self._read_payload(text, at)
            if self._due_chars:
                return events
            events.append(self._finish())

    @property
    def held_chars(self) -> int:
        """How many characters are held of what is not complete yet; bounded, for whoever watches our memory."""
        return min(self._line_chars, MAX_HEADER_CHARS) + self._kept_chars

    def _read_header(self, text: str, at: int) -> int:
        """Read header lines from ``at`` until one begins an event or ``text`` ends; return where reading stopped."""
        while at < len(text):
            end = text.find("\n", at)
            piece = text[at:] if end < 0 else text[at:end]
            self._line_chars += len(piece)
            if self._line_chars <= MAX_HEADER_CHARS:
                self._line.append(piece)
            else:
                self._line.clear()  # too long to be one: skip to its line break, hold nothing
            if end < 0:
                return len(text)
            at = end + 1
            headers = parse_header("".join(self._line)) if self._line_chars <= MAX_HEADER_CHARS else {}
            self._line.clear()
            self._line_chars = 0
            length = headers.get("len", "")
            if _NUMBER.fullmatch(length):
                self._headers = MappingProxyType(headers)
                self._due_chars = int(length)
                return at
            self.malformed += 1
        return at

    def _read_payload(self, text: str, at: int) -> int:
        piece = text[at : at + self._due_chars]
        self._due_chars -= len(piece)
        room = MAX_PAYLOAD_CHARS - self._kept_chars
        if len(piece) > room:
            self._truncated = True
        if kept := piece[:room]:
            self._kept.append(kept)
            self._kept_chars += len(kept)
        return at + len(piece)

    def _finish(self) -> Event:
        headers = self._headers or {}
        serial = headers.get("serial", "")
        event = Event(
            name=headers.get("eventname", ""),
            serial=int(serial) if _NUMBER.fullmatch(serial) else None,
            pool=headers.get("pool", ""),
            headers=headers,
            payload="".join(self._kept),
            truncated=self._truncated,
        )
        self._headers = None
        self._kept = []
        self._kept_chars = 0
        self._truncated = False
        return event


def parse_header(line: str) -> dict[str, str]:
    """The known keys of a header line, in whatever order they stand.

    Of a key that stands there twice the last one counts: supervisord writes its free text (``server``) near the
    front, so what imitates a key there comes before the real one.
    """
    found = list(_KEY.finditer(line))
    ends = [match.start() for match in found[1:]] + [len(line)]
    return {match[1]: line[match.end() : end].strip() for match, end in zip(found, ends, strict=False)}


def payload_fields(payload: str) -> dict[str, str]:
    """The ``key:value key:value`` tokens of a payload's first line; what follows the line is :func:`payload_data`.

    A token without a colon belongs to the value before it (``type:`` of a REMOTE_COMMUNICATION is free text);
    one that nothing stands before is skipped. ``TICK`` payloads have no line break, and an empty one has no fields.
    """
    fields: dict[str, str] = {}
    last = ""
    for token in payload.partition("\n")[0].split():
        key, colon, value = token.partition(":")
        if colon and key:
            fields[key] = value
            last = key
        elif last:
            fields[last] += " " + token
    return fields


def payload_data(payload: str) -> str:
    """What follows the first line of a payload: the data of REMOTE_COMMUNICATION and PROCESS_COMMUNICATION events."""
    return payload.partition("\n")[2]
