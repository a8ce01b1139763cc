"""supervisord's event protocol (supervisord/protocol.py)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fuzz.target import Check, Target, holds
from supervisor_uvicorn.supervisord.protocol import (
    MAX_HEADER_CHARS,
    MAX_PAYLOAD_CHARS,
    Event,
    EventReader,
    payload_data,
    payload_fields,
)


@contextmanager
def _session() -> Iterator[Check]:
    yield check


def check(data: bytes) -> None:
    """The first byte says in which pieces the rest comes: whatever they are, the events are the same."""
    step, stream = 1 + data[0] if data else 1, data[1:]
    whole, pieces = EventReader(), EventReader()
    events = whole.feed(stream)
    found = [event for at in range(0, len(stream), step) for event in pieces.feed(stream[at : at + step])]
    holds([_seen(event) for event in events] == [_seen(event) for event in found], "pieces make other events")
    holds(whole.malformed == pieces.malformed, "pieces make other malformed lines")
    for reader in (whole, pieces):
        holds(0 <= reader.held_chars <= MAX_HEADER_CHARS + MAX_PAYLOAD_CHARS, "more is held than may be")
    for event in events:
        holds(event.serial is None or event.serial >= 0, f"serial {event.serial}")
        fields = payload_fields(event.payload)
        holds(all(isinstance(part, str) and part for part in fields), "a field without a name")
        holds(len(payload_data(event.payload)) <= len(event.payload), "data out of nowhere")
        if not event.truncated:
            _written_and_read_again(event)


def _written_and_read_again(event: Event) -> None:
    head = " ".join(f"{key}:{value}" for key, value in event.headers.items())
    again = EventReader().feed(f"{head}\n{event.payload}\n".encode("utf-8", "surrogateescape"))
    holds([_seen(one) for one in again] == [_seen(event)], f"written and read again it is {again!r:.300}")


def _seen(event: Event) -> object:
    return event, dict(event.headers)


def _event(payload: str, name: str = "TICK_5", server: str = "supervisor", serial: int = 21) -> bytes:
    head = (
        f"ver:3.0 server:{server} serial:{serial} pool:web poolserial:10 eventname:{name} len:{len(payload)}\n{payload}"
    )
    return head.encode("utf-8", "surrogateescape")


_STATE = "processname:web-0 groupname:web from_state:STARTING pid:4711"
EVENTS = Target(
    "events",
    "supervisord's events: header, payload, fields",
    _session,
    (
        b"\xff" + _event("when:1201063880"),
        b"\x00" + _event("when:1201063880") * 3,
        b"\x03" + _event(_STATE, "PROCESS_STATE_RUNNING"),
        b"\x05" + _event("type:supervisor-uvicorn\n{}", "REMOTE_COMMUNICATION"),
        b"\x02" + _event("type:a b ü\n\udcff\udcc3", "REMOTE_COMMUNICATION", server="a server: len:3 of mine"),
        b"\x07garbage\n\n len:x\nlen:999999999999999999\nabc",
        b"\x01len:0\nlen:0\nlen:1\n\xc3\xa9len:2\n\xc3",
    ),
    (
        b"len:", b" len:0\n", b"eventname:", b"serial:", b"pool:", b"server:", b"ver:3.0 ", b"\xc3\xa9",
        b"\xe2\x80\xa8", b"\x85",
    ),
    weight=3,
)  # fmt: skip
