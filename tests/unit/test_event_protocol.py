"""The event-listener protocol as supervisord really writes it, and everything else that may stand on stdin."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor_uvicorn.supervisord.protocol import (
    MAX_HEADER_CHARS,
    MAX_PAYLOAD_CHARS,
    OK,
    READY,
    Event,
    EventReader,
    payload_data,
    payload_fields,
)


def envelope(payload: str, *, name: str = "TICK_5", serial: int = 21, server: str = "supervisor") -> bytes:
    """As supervisor 4.3.0 writes it (process.py ``_eventEnvelope``): len() of the text, then UTF-8."""
    header = f"ver:3.0 server:{server} serial:{serial} pool:health poolserial:7 eventname:{name} len:{len(payload)}\n"
    return (header + payload).encode("utf-8", "surrogateescape")


def test_the_two_words_we_ever_say_are_what_supervisord_takes() -> None:
    dispatchers = pytest.importorskip("supervisor.dispatchers")
    tokens = dispatchers.PEventListenerDispatcher
    assert tokens.READY_FOR_EVENTS_TOKEN == READY
    assert OK[: len(tokens.RESULT_TOKEN_START)] == tokens.RESULT_TOKEN_START


def test_one_event() -> None:
    reader = EventReader()
    (event,) = reader.feed(envelope("when:1201063880"))
    assert event == Event("TICK_5", 21, "health", {}, "when:1201063880")
    assert event.headers["poolserial"] == "7"
    assert reader.malformed == 0


def test_supervisords_own_envelope_is_read() -> None:
    """The real writer, not our idea of it."""
    process = pytest.importorskip("supervisor.process")
    events = pytest.importorskip("supervisor.events")

    class Config:
        name = "health"

        class options:  # noqa: N801
            identifier = "my host: a len:3 b"

    pool = process.EventListenerPool.__new__(process.EventListenerPool)
    pool.config = Config
    event = events.RemoteCommunicationEvent("pause", "héy\ndätä")
    event.serial, event.pool_serials = 5, {"health": 6}
    payload = event.payload()
    text = pool._eventEnvelope(events.RemoteCommunicationEvent, 5, 6, payload)
    (read,) = EventReader().feed(text.encode() if isinstance(text, str) else text)
    assert (read.name, read.serial, read.pool) == ("REMOTE_COMMUNICATION", 5, "health")
    assert payload_fields(read.payload) == {"type": "pause"}
    assert payload_data(read.payload) == "héy\ndätä"


def test_len_counts_characters_not_bytes() -> None:
    reader = EventReader()
    stream = envelope("type:héy\ndätä") + envelope("when:5", serial=22)
    assert [event.payload for event in reader.feed(stream)] == ["type:héy\ndätä", "when:5"]


def test_bytes_that_are_no_utf8_count_one_each_and_survive() -> None:
    (event,) = EventReader().feed(b"eventname:X len:3\na\xff\xfe")
    assert event.payload.encode("utf-8", "surrogateescape") == b"a\xff\xfe"


def test_an_empty_payload_is_an_event() -> None:
    (event,) = EventReader().feed(envelope("", name="SUPERVISOR_STATE_CHANGE_RUNNING"))
    assert (event.name, event.payload) == ("SUPERVISOR_STATE_CHANGE_RUNNING", "")


@pytest.mark.parametrize("server", ["my host", "a:b", "x len:5 y", "serial:9", "two\nlines", "", "ü ", "pool:z"])
def test_a_server_identifier_may_be_anything(server: str) -> None:
    (event,) = EventReader().feed(envelope("when:1", server=server))
    assert (event.name, event.serial, event.pool, event.payload) == ("TICK_5", 21, "health", "when:1")


def test_tokens_in_any_order() -> None:
    tokens = ["ver:3.0", "server:s", "serial:4", "pool:p", "poolserial:1", "eventname:E", "len:2"]
    for seed in range(30):
        random.Random(seed).shuffle(tokens)
        (event,) = EventReader().feed((" ".join(tokens) + "\nok").encode())
        assert (event.name, event.serial, event.pool, event.payload) == ("E", 4, "p", "ok")


@pytest.mark.parametrize(
    "line", [b"\n", b"eventname:TICK_5\n", b"len:x\n", b"len:-1\n", b"len:\n", b"len:1e3\n", b"xlen:3\n", b"\xff\n"]
)
def test_a_header_without_a_length_is_no_event_and_is_counted(line: bytes) -> None:
    reader = EventReader()
    (event,) = reader.feed(line + envelope("when:1"))
    assert event.payload == "when:1"
    assert reader.malformed == 1


def test_a_length_beyond_any_number_is_no_event() -> None:
    reader = EventReader()
    assert len(reader.feed(b"len:" + b"9" * 5000 + b"\n" + envelope("when:1"))) == 1
    assert reader.malformed == 1


def test_a_serial_that_is_no_number_is_none() -> None:
    (event,) = EventReader().feed(b"serial:seven eventname:E len:0\n")
    assert event.serial is None


def test_a_huge_payload_is_cut_and_the_next_event_is_in_step() -> None:
    reader = EventReader()
    size = MAX_PAYLOAD_CHARS + 100_000
    stream = envelope("a" * size) + envelope("when:2", serial=22)
    events: list[Event] = []
    for at in range(0, len(stream), 50_000):
        events += reader.feed(stream[at : at + 50_000])
        assert reader.held_chars <= MAX_HEADER_CHARS + MAX_PAYLOAD_CHARS
    assert [event.truncated for event in events] == [True, False]
    assert [len(event.payload) for event in events] == [MAX_PAYLOAD_CHARS, 6]


def test_a_payload_of_exactly_the_limit_is_whole() -> None:
    (event,) = EventReader().feed(envelope("a" * MAX_PAYLOAD_CHARS))
    assert (event.truncated, len(event.payload)) == (False, MAX_PAYLOAD_CHARS)


@pytest.mark.parametrize("step", [1_000, 65_536, 10**9])
def test_an_endless_header_line_is_skipped_to_its_end(step: int) -> None:
    reader = EventReader()
    stream = b"eventname:E len:3 " + b"x" * 1_000_000 + b"\n" + envelope("when:2")
    events: list[Event] = []
    for at in range(0, len(stream), step):
        events += reader.feed(stream[at : at + step])
        assert reader.held_chars <= MAX_HEADER_CHARS
    assert [event.payload for event in events] == ["when:2"]
    assert reader.malformed == 1


def test_the_memory_of_an_unending_stream_is_bounded() -> None:
    reader = EventReader()
    tracemalloc.start()
    try:
        for start in (b"x", b"\neventname:E len:999999999999999999\n"):
            reader.feed(start)
            for _ in range(200):
                assert reader.feed(b"y" * 100_000) == []
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 8 * 1024 * 1024


def test_end_of_input_in_the_middle_is_nothing_special() -> None:
    whole = envelope("when:12345")
    for cut in range(len(whole)):
        reader = EventReader()
        assert reader.feed(whole[:cut]) == []
        assert reader.feed(b"") == []
        assert reader.malformed == 0


_payloads = st.text(max_size=60)
_events = st.lists(
    st.one_of(
        st.builds(envelope, _payloads, name=st.sampled_from(["TICK_5", "PROCESS_STATE_EXITED", "NEW"])),
        st.binary(max_size=20).map(lambda data: data.replace(b"len:", b"lan:") + b"\n"),
    ),
    max_size=6,
).map(b"".join)


@settings(max_examples=300, deadline=None)
@given(_events, st.lists(st.integers(min_value=0, max_value=600), max_size=20))
def test_any_split_of_the_stream_gives_the_same_events(stream: bytes, cuts: list[int]) -> None:
    whole, pieces = EventReader(), EventReader()
    expected = whole.feed(stream)
    edges = sorted({0, len(stream), *(min(cut, len(stream)) for cut in cuts)})
    got: list[Event] = []
    for start, end in zip(edges, [*edges[1:], len(stream)], strict=True):
        got += pieces.feed(stream[start:end])
    assert got == expected
    assert [event.headers for event in got] == [event.headers for event in expected]
    assert pieces.malformed == whole.malformed


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=40).filter(lambda text: text.isprintable()), max_size=8))
def test_what_supervisord_wrote_is_what_is_read(payloads: list[str]) -> None:
    stream = b"".join(envelope(payload, serial=n) for n, payload in enumerate(payloads))
    events = EventReader().feed(stream)
    assert [(event.serial, event.payload) for event in events] == list(enumerate(payloads))


def test_ten_thousand_malformed_inputs_never_raise() -> None:
    """Generated from real events by cutting, doubling, swapping and soiling them; one reader takes them all."""
    chance = random.Random(20261)
    tokens = [b"len:", b"9", b"len:5", b"\n", b" ", b":", b"eventname:", b"serial:", b"\xff", b"\x00", b"len:99999999"]
    seed_event = envelope("processname:web-0 groupname:web from_state:RUNNING expected:0 pid:7")
    reader = EventReader()
    for _ in range(10_000):
        soiled = bytearray(seed_event)
        for _ in range(chance.randint(1, 8)):
            at = chance.randrange(len(soiled) + 1)
            what = chance.randrange(4)
            if what == 0:
                del soiled[at : at + chance.randint(1, 20)]
            elif what == 1:
                soiled[at:at] = chance.choice(tokens)
            elif what == 2:
                soiled[at:at] = chance.randbytes(chance.randint(1, 9))
            else:
                soiled += soiled[:at]
        for event in reader.feed(bytes(soiled)):
            assert isinstance(payload_fields(event.payload), dict)
        assert reader.held_chars <= MAX_HEADER_CHARS + MAX_PAYLOAD_CHARS
        if chance.random() < 0.2:
            reader = EventReader()  # a length that eats all of the rest would hide the rest of the inputs


@pytest.mark.parametrize(
    ("payload", "fields"),
    [
        ("when:123", {"when": "123"}),
        ("", {}),
        ("processname:a groupname:b from_state:RUNNING expected:0 pid:7", {"expected": "0", "groupname": "b"}),
        ("groupname:web\n", {"groupname": "web"}),
        ("type:roll now\ndata:1", {"type": "roll now"}),
        ("lonely a:b:c :x", {"a": "b:c :x"}),
    ],
)
def test_payload_fields_are_read_tolerantly(payload: str, fields: dict[str, str]) -> None:
    assert fields.items() <= payload_fields(payload).items()


@given(st.text())
def test_payload_fields_never_raise(payload: str) -> None:
    assert all(key for key in payload_fields(payload))
