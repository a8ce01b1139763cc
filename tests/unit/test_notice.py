"""Which events are notices, what a notice says, and how large it may become."""

from __future__ import annotations

import datetime
import inspect
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor_uvicorn.explain import Explanation
from supervisor_uvicorn.model import WorkerId
from supervisor_uvicorn.report import events
from supervisor_uvicorn.report.notice import MOST_BYTES, NOTIFIED, notice

AT = datetime.datetime(2026, 11, 22, 6, 38, 1, 123000, tzinfo=datetime.timezone.utc)
WORKER = WorkerId("web:web-0", 4711, 1)
STUCK = Explanation(WORKER, "py-spy", ("sleep (app.py:7)",))
RESTART = events.Restarting(WORKER, "silent", "no turn for 30 s", "abort", "silent", {"pinned": True}, STUCK)


def read(event: events.Event, host: str = "box") -> dict[str, Any]:
    data = notice(event, AT, host)
    assert data.endswith(b"\n")
    assert data.count(b"\n") == 1
    assert len(data) <= MOST_BYTES
    found = json.loads(data)
    assert isinstance(found, dict)
    return found


def test_it_says_what_the_log_says_and_where() -> None:
    found = read(RESTART)
    log = json.loads(json.dumps(events.as_object(RESTART, AT)))
    assert found == {**log, "host": "box", "program": "web"}
    assert found["explanation"]["stack"] == ["sleep (app.py:7)"]
    assert (found["worker"], found["reason"], found["event"]) == ("web:web-0", "silent", "restart")


@pytest.mark.parametrize(
    ("event", "program"),
    [
        (events.Suspended("web", "is suspended", "budget"), "web"),
        (events.Held("web:web-1", "is held", "panic"), "web"),
        (events.Held("", "is held", "panic", WORKER), "web"),
        (events.Explained(WORKER, STUCK), "web"),
        (events.Resumed("", "acts again"), None),
    ],
)
def test_it_names_the_program(event: events.Event, program: str | None) -> None:
    assert read(event)["program"] == program


def test_every_kind_that_is_notified_exists_and_none_is_our_own_trouble() -> None:
    kinds = {getattr(found, "kind", "") for _, found in inspect.getmembers(events, inspect.isclass)}
    assert kinds > NOTIFIED
    assert not NOTIFIED & {"error", "would-restart"}


def test_what_is_far_too_long_loses_the_evidence_first() -> None:
    long = {"body": "x" * MOST_BYTES}
    found = read(events.Restarting(WORKER, "failing", "status 500", "drain", "failing", long, STUCK))
    assert "evidence" not in found
    assert found["explanation"]["stack"]
    assert found["cut"] is True


def test_then_the_explanation_and_then_words() -> None:
    told = read(events.Restarting(WORKER, "x", "é" * MOST_BYTES, "drain", "failing", {"a": 1}, STUCK))
    assert (told["worker"], told["program"], told["host"], told["cut"]) == ("web:web-0", "web", "box", True)
    assert len(told["message"]) == 512
    assert not {"evidence", "explanation"} & told.keys()


@given(
    st.text(max_size=200_000 // 12).map(lambda text: text * 12),
    st.text(),
    st.dictionaries(st.text(), st.integers() | st.text()),
)
def test_it_is_one_bounded_line_of_json_whatever_stands_in_it(what: str, host: str, more: dict[str, Any]) -> None:
    found = read(events.Held("web", what, "panic", more=more), host)
    assert found["event"] == "held" or "event" in more
