"""The last restart of each worker, and how seldom the history is asked for."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from verbs_desk import Desk

from supervisor_uvicorn.model import WorkerId
from supervisor_uvicorn.report.events import Restarting
from supervisor_uvicorn.report.history import History
from supervisor_uvicorn.supervisord.board import Note
from supervisor_uvicorn.supervisord.rpc import RpcError
from supervisor_uvicorn.verbs.last import AGAIN_S, Last, Lasts, read, words

AT = datetime.datetime(2026, 11, 22, 10, 0, tzinfo=datetime.timezone.utc)


def entry(name: str = "web:web-0", reason: str = "silent", **more: Any) -> dict[str, Any]:
    return {"time": AT.isoformat(), "event": "restart", "worker": name, "reason": reason, **more}


def cell(*entries: object, **more: Any) -> str:
    return json.dumps({"version": 1, "entries": list(entries), "restarts": {"web:web-0": len(entries)}, **more})


def test_the_listener_s_own_history() -> None:
    history = History()
    for minutes, reason in ((0, "silent"), (5, "rolling")):
        event = Restarting(WorkerId("web:web-0", 7, 1), reason, "why", "abort", "silent")
        history.add(event, AT + datetime.timedelta(minutes=minutes))
    found = read(history.text())
    assert found.lasts == {"web:web-0": Last("rolling", AT.timestamp() + 300)}
    assert found.counts == {"web:web-0": 2}
    assert words(found.lasts["web:web-0"], AT.timestamp() + 540) == "rolling 4m ago"
    assert words(found.lasts["web:web-0"], AT.timestamp()) == "rolling 0s ago", "a clock was set back"
    assert words(None, 0.0) == "-"


@pytest.mark.parametrize(
    "odd",
    [
        "",
        "[" * 9000,
        "{}",
        cell(entries=7),
        cell(None, 7, "x"),
        cell({}, entry(worker=7), entry(reason=None), entry(event="held"), entry(time=None), entry(time="soon")),
        cell(entry(time="2026-11-22T10:00:00")),
        json.dumps({"version": 99, "entries": [entry()]}),
    ],
)
def test_what_cannot_be_read_is_not_known(odd: str) -> None:
    assert read(odd).lasts == {}


def test_a_reason_of_somebody_else_stays_in_its_column() -> None:
    assert read(cell(entry(reason="\x1b[2J" + "x" * 900))).lasts["web:web-0"].reason == "\\x1b[2Jxxxxx"
    assert read(cell(entry(), restarts=[1])).counts == {}


@given(st.recursive(st.none() | st.text() | st.floats() | st.booleans(), lambda inner: st.lists(inner, max_size=3)))
def test_any_value(value: Any) -> None:
    for key in ("time", "worker", "reason", "event"):
        read(json.dumps({"version": 1, "entries": [{**entry(), key: value}], "restarts": value}))


class Asked(Desk):
    """Counts how often the history was asked for."""

    def __init__(self, text: str) -> None:
        super().__init__(lambda _, __: None)
        self.text: str | None = text
        self.times = 0

    def kept(self, key: str) -> Note | None:
        assert key == "history"
        self.times += 1
        if self.text is None:
            raise RpcError("gone for a moment")
        return Note(self.text, 0.5, 1.0)


def test_it_is_asked_for_when_the_restarts_have_changed() -> None:
    desk = Asked(cell(entry()))
    lasts = Lasts(desk, lambda: desk.now)
    for _ in range(20):
        assert lasts.of({"web:web-0": 0}) == {}
        desk.now += 1
    assert desk.times == 0, "nobody was restarted"
    for _ in range(20):
        assert lasts.of({"web:web-0": 1})["web:web-0"].reason == "silent"
        desk.now += 1
    assert desk.times == 1
    desk.text = cell(entry(), entry(reason="failing"))
    assert lasts.of({"web:web-0": 2})["web:web-0"].reason == "failing"
    assert desk.times == 2


def test_a_history_that_lags_behind_is_asked_for_again_but_not_each_second() -> None:
    desk = Asked(cell(entry()))
    lasts = Lasts(desk, lambda: desk.now)
    began = desk.now
    while desk.now - began < 4 * AGAIN_S:
        assert lasts.of({"web:web-0": 2})["web:web-0"].reason == "silent"
        desk.now += 1
    assert desk.times == 4
    desk.text = None
    assert lasts.of({"web:web-0": 3})["web:web-0"].reason == "silent", "what was known stays"
    desk.text = cell(entry(), entry(), entry(reason="rolling"))
    desk.now += AGAIN_S
    assert lasts.of({"web:web-0": 3})["web:web-0"].reason == "rolling"
