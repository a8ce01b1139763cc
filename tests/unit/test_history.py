"""The history: what is kept of what was done, how much of it, and what is taken back from an earlier listener."""

from __future__ import annotations

import datetime
import json
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor_uvicorn.model import Verdict, WorkerId
from supervisor_uvicorn.report import events
from supervisor_uvicorn.report.history import MOST_ENTRY_BYTES, MOST_NAMES, History
from supervisor_uvicorn.report.log import json_line
from supervisor_uvicorn.supervisord.board import MAX_TEXT_BYTES

NOW = datetime.datetime(2026, 11, 22, 6, 38, 1, 123456, tzinfo=datetime.timezone.utc)
WORKER = WorkerId("web:web-1", 4711, 99)


def restarting(name: str = "web:web-1", evidence: dict[str, Any] | None = None) -> events.Restarting:
    return events.Restarting(WorkerId(name, 4711, 99), "silent", "for 2 s", "abort", "silent", evidence or {})


def entries(history: History) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(history.text())["entries"]
    return found


@pytest.mark.parametrize(
    ("event", "kept"),
    [
        (restarting(), True),
        (events.WouldRestart(WORKER, "silent", "for 2 s", "abort", "silent"), True),
        (events.Replaced(WORKER, 4000, "silent", 1.2), True),
        (events.Held("web", "is held", "panic"), True),
        (events.Suspended("web", "is suspended", "budget"), True),
        (events.Resumed("web", "is acted on again"), True),
        (events.Paused("all", "is paused"), True),
        (events.Started("web:web-1", "is started"), True),
        (events.Released("web:web-1", "is left to supervisord"), True),
        (events.Rolling("web", "is being rolled"), True),
        (events.RollStopped("web", "is no longer rolled"), True),
        (events.Helpers("web:web-1", "left helpers", more={"helpers": [1]}), True),
        (events.Takeover("", "taken over"), True),
        (events.Error("web:web-1", "outlived KILL"), True),
        (events.Error("", "outlived KILL", worker=WORKER), True),
        (events.Error("", "supervisord does not answer"), False),
        (events.Error("web", "of a program"), False),
        (events.Pinned(WORKER), False),
        (events.Standby("", "stands by"), False),
        (events.TicksAlone("web:web-1", "by its ticks alone", worker=WORKER), False),
        (events.VerdictChanged("web:web-1", WORKER, Verdict.SILENT, "late", None), False),
        (events.Watching("web", "tcp://127.0.0.1:1", ("web:web-0",)), False),
    ],
)
def test_what_is_done_is_kept_as_the_log_has_it(event: events.Event, kept: bool) -> None:
    history = History()
    assert history.add(event, NOW) is kept
    assert entries(history) == ([json.loads(json_line(event, NOW))] if kept else [])


def test_restarts_are_counted_by_name_and_nothing_else_is() -> None:
    history = History()
    for event in (restarting(), restarting(), restarting("api:api"), events.Replaced(WORKER, 1, "silent", 1.0)):
        history.add(event, NOW)
    history.add(events.WouldRestart(WORKER, "silent", "for 2 s", "abort", "silent"), NOW)
    assert history.restarts == {"web:web-1": 2, "api:api": 1}
    assert json.loads(history.text())["restarts"] == {"web:web-1": 2, "api:api": 1}


def test_the_oldest_go_first_and_their_restarts_stay_counted() -> None:
    history = History(most=3)
    for number in range(5):
        history.add(restarting(f"web:web-{number}"), NOW)
    assert [entry["worker"] for entry in entries(history)] == ["web:web-2", "web:web-3", "web:web-4"]
    assert len(history.restarts) == 5


def test_bytes_are_bounded_as_well() -> None:
    history = History(most=1000, most_bytes=5000)
    for _ in range(100):
        history.add(restarting(evidence={"body": "x" * 500}), NOW)
    assert 4 <= len(entries(history)) <= 6
    assert len(history.text()) < 5500


def test_an_entry_that_is_far_too_long_says_what_it_is_about() -> None:
    history = History()
    history.add(restarting(evidence={"body": "x" * MOST_ENTRY_BYTES}), NOW)
    history.add(events.Error("web:web-1", "y" * 100_000), NOW)
    cut, words = entries(history)
    assert (cut["event"], cut["worker"], cut["pid"], cut["reason"]) == ("restart", "web:web-1", 4711, "silent")
    assert "evidence" not in cut
    assert words["message"].startswith("web:web-1 yyy")
    assert len(json.dumps(words)) <= MOST_ENTRY_BYTES


def test_ever_new_names_for_ever_stay_within_the_cell() -> None:
    history = History(most_bytes=10_000_000)
    for number in range(MOST_NAMES + 5):
        history.add(restarting(f"web:{number}"), NOW)
    assert len(history.restarts) == MOST_NAMES
    assert "web:4" not in history.restarts, "the longest ago are forgotten first"
    assert history.restarts["web:5"] == history.restarts[f"web:{MOST_NAMES + 4}"] == 1
    history = History()
    for number in range(3000):
        history.add(restarting("web:" + "ä" * 200 + str(number), {"body": "\0" * 1000}), NOW)
    assert len(history.text()) < MAX_TEXT_BYTES
    assert history.text().isascii()


def test_a_name_that_is_restarted_again_is_not_the_one_to_forget() -> None:
    history = History(most_bytes=200)  # some six names
    for number in range(20):
        history.add(restarting("web:0"), NOW)
        history.add(restarting(f"web:other-{number}"), NOW)
    assert history.restarts["web:0"] == 20


# -- what is taken back ----------------------------------------------------------------------------------------------


def test_the_next_listener_goes_on_where_the_last_one_ended() -> None:
    first, second = History(), History()
    for name in ("web:web-0", "web:web-1"):
        first.add(restarting(name, {"lag_s": 31.0}), NOW)
    second.add(restarting("web:web-1"), NOW)  # before it has read anything
    assert second.restore(first.text())
    assert entries(second) == [*entries(first), json.loads(json_line(restarting("web:web-1"), NOW))]
    assert second.restarts == {"web:web-0": 1, "web:web-1": 2}


def test_more_than_one_holds_is_taken_back_from_the_end() -> None:
    first, second = History(), History(most=2)
    for number in range(5):
        first.add(restarting(f"web:web-{number}"), NOW)
    assert second.restore(first.text())
    assert [entry["worker"] for entry in entries(second)] == ["web:web-3", "web:web-4"]


ENTRY = {"time": "t", "level": "WARN", "event": "restart", "message": "m"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[]",
        "{}",
        '{"version": 1}',
        '{"version": 1, "entries": {}}',
        '{"version": 2, "entries": []}',
        "[" * 100_000,
        json.dumps({"version": 1, "entries": [], "x": "x" * MAX_TEXT_BYTES}),
    ],
)
def test_what_is_no_history_is_refused_and_nothing_is_lost(text: str) -> None:
    history = History()
    history.add(restarting(), NOW)
    before = history.text()
    assert not history.restore(text)
    assert history.text() == before


def test_what_is_no_entry_is_left_out() -> None:
    odd: list[Any] = [
        7,
        {},
        {**ENTRY, "time": 1},
        {**ENTRY, "worker": 7},
        {**ENTRY, "took_s": float("nan")},
        {**ENTRY, "body": "x" * MOST_ENTRY_BYTES},
    ]
    restarts = {"web:web-0": 3, "a": "3", "b": -1, "c": True, "d": 1.5, "e": 10**400}
    history = History()
    assert history.restore(json.dumps({"version": 1, "entries": [ENTRY, *odd, ENTRY], "restarts": restarts}))
    assert entries(history) == [ENTRY, ENTRY]
    assert history.restarts == {"web:web-0": 3}


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(anything | st.fixed_dictionaries({"version": st.just(1), "entries": st.lists(anything), "restarts": anything}))
def test_no_text_at_all_makes_it_raise_or_write_what_is_no_json(found: Any) -> None:
    history = History()
    history.restore(json.dumps(found))

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    json.loads(history.text(), parse_constant=refuse)


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """The interpreter switches threads as often as it can, or the test below would nearly always be true."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty_threads")
def test_several_threads_lose_nothing() -> None:
    history = History(most=10_000, most_bytes=10_000_000)

    def add() -> None:
        for _ in range(200):
            history.add(restarting(), NOW)
            history.text()

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(entries(history)) == 800
    assert history.restarts == {"web:web-1": 800}
