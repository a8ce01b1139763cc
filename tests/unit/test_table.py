"""A page for people: one line a worker, whatever is in it; and whether all is well."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor_uvicorn.model import Address, Member, State, Verdict
from supervisor_uvicorn.report.page import glance
from supervisor_uvicorn.report.table import memory, since, table, well
from supervisor_uvicorn.verdict import Past

AT = Address("tcp", "127.0.0.1", 8000)
WEB0 = Member("web:web-0", State.RUNNING, 4711, 9, socket=AT, socket_inode=5)
WEB1 = Member("web:web-1", State.RUNNING, 4712, 9, socket=AT, socket_inode=5)
API = Member("api:api", State.STOPPED)
TREE = Member("old:old", State.RUNNING, 4713, 9, not_watched="it runs with --workers 2")


def past(member: Member, verdict: Verdict, reason: str = "") -> Past:
    return Past(member.name, member.worker, 0.0, state=member.state, verdict=verdict, reason=reason, lag_s=0.00002)


def worker(number: int = 0, **changed: Any) -> dict[str, Any]:
    return {
        "name": f"web:web-{number}",
        "pid": 4711 + number,
        "state": "RUNNING",
        "watched": True,
        "verdict": "healthy",
        "reason": "",
        "lag_s": 0.00002,
        "http": {"status": 200, "seconds": 0.004},
        "since_s": 312.4,
        "restarts": 0,
        "held": None,
        "over": "",
        "rss_bytes": 63 * 1024**2,
        **changed,
    }


def program(*workers: dict[str, Any], **changed: Any) -> dict[str, Any]:
    socket = "tcp://127.0.0.1:8000"
    its = list(workers)
    return {"name": "web", "socket": socket, "state": "watching", "detail": "", "workers": its, "roll": None, **changed}


def page(*programs: dict[str, Any], dry_run: bool = False) -> dict[str, Any]:
    listener = {"pid": 12, "reports_every_s": 5.0, "dry_run": dry_run}
    return {"version": 1, "listener": listener, "age_s": 0.0, "programs": list(programs), "answers": []}


# -- check -----------------------------------------------------------------------------------------------------------


def test_the_table_of_check_is_a_line_a_worker_whatever_a_worker_says() -> None:
    reason = "status \x1b[2J\n500"
    text = table(glance([WEB0, WEB1], {"web:web-0": past(WEB0, Verdict.FAILING, reason)}))
    lines = text.splitlines()
    assert len(lines) == 3
    assert lines[0].split() == ["NAME", "PID", "STATE", "VERDICT", "LAG", "HTTP", "REASON"]
    assert "\x1b" not in text
    assert "status \\x1b[2J\\n500" in lines[1]
    assert table(glance([], {})) == "no uvicorn worker found\n"


def test_a_tree_says_why_it_is_not_watched() -> None:
    line = table(glance([TREE], {})).splitlines()[1]
    assert line == "old:old  4713  RUNNING  not watched  -    -     it runs with --workers 2"


def test_well_needs_every_worker_that_should_exist_and_at_least_one() -> None:
    healthy = {"web:web-0": past(WEB0, Verdict.HEALTHY)}
    assert well(glance([WEB0], healthy))
    assert well(glance([WEB0, API], healthy)), "the operator has stopped it"
    assert not well(glance([], {}))
    assert not well(glance([API], {}))
    assert not well(glance([WEB0, TREE], healthy)), "nobody has proven that the tree is well"
    assert not well(glance([WEB0, WEB1], {**healthy, "web:web-1": past(WEB1, Verdict.STARTING)}))
    assert not well(glance([WEB0, replace(API, state=State.FATAL)], healthy))


# -- status ----------------------------------------------------------------------------------------------------------


def test_the_table_of_status() -> None:
    sick = worker(1, verdict="silent", reason="not turned for 31.2 s", lag_s=31.2, held="trial")
    down = worker(2, pid=None, state="STOPPED", verdict="unknown", lag_s=None, http=None, since_s=None, restarts=12)
    del down["rss_bytes"]  # a page of an older listener
    api = program(worker(name="api:api", since_s=8040.0), name="api", socket="unix:///run/api.sock")
    web = program(worker(), sick, down, state="paused", detail="paused for 40 s more")
    assert table(page(web, api)).splitlines() == [
        "web  tcp://127.0.0.1:8000  paused  1 of 2 healthy, 1 stopped  paused for 40 s more",
        "NAME       PID   STATE    VERDICT  LAG     HTTP  SINCE  MEM  RESTARTS  REASON",
        "web:web-0  4711  RUNNING  healthy  20 us   200   5m     63M  0",
        "web:web-1  4712  RUNNING  silent   31.2 s  200   5m     63M  0         not turned for 31.2 s; held: trial",
        "web:web-2  -     STOPPED  unknown  -       -     -      -    12",
        "",
        "api  unix:///run/api.sock  watching  1 of 1 healthy",
        "NAME       PID   STATE    VERDICT  LAG     HTTP  SINCE  MEM  RESTARTS  REASON",
        "api:api    4711  RUNNING  healthy  20 us   200   2h14m  63M  0",
    ]


def test_over_a_limit_stands_where_the_verdict_has_no_reason() -> None:
    over = "max_rss: 512 MB resident, more than 400 MB"
    rows = (worker(over=over), worker(1, over=over, held="budget"), worker(2, over=over, reason="status 500"))
    lines = table(page(program(*rows))).splitlines()[2:]
    assert [line.partition("63M  0         ")[2] for line in lines] == [over, f"{over}; held: budget", "status 500"]


def test_nobody_and_what_is_not_known() -> None:
    assert table(page()) == "no uvicorn worker found\n"
    assert table(page(program())) == "no uvicorn worker found\n"
    empty = program(name="old", socket=None, state=None, detail=None)
    lines = table(page(program(worker(held="paused")), empty)).splitlines()
    assert lines[2].endswith("  held: paused")
    assert "old  no socket seen  unknown  0 of 0 healthy" in lines
    assert "watching (dry run)" in table(page(program(worker()), dry_run=True))


def roll(*stages: str, **changed: Any) -> dict[str, Any]:
    turns = [
        {"name": f"web:web-{number}", "old_pid": 80 + number, "new_pid": None, "stage": stage, "detail": ""}
        for number, stage in enumerate(stages)
    ]
    return {
        "asked": ["a"],
        "state": "rolling",
        "detail": "",
        "since_s": 52.3,
        "took_s": None,
        "turns": turns,
        **changed,
    }


def line(roll: dict[str, Any]) -> str:
    return table(page(program(worker(), roll=roll))).splitlines()[3]


def test_the_line_of_a_roll_under_way() -> None:
    found = roll("done", "done", "under way", "waiting")
    found["turns"][2]["detail"] = "pid 88 draining"
    assert line(found) == "roll: 2 of 4 done, web:web-2 under way (pid 88 draining)"
    waits = roll("done", "left", "waiting", detail="waits: backoff")
    assert line(waits) == "roll: 1 of 3 done, 1 left out, waits: backoff"


def test_the_line_of_a_roll_that_has_ended() -> None:
    done = roll("done", "done", "done", "left", state="done", took_s=12.3)
    assert line(done) == "roll done 40 s ago: 3 workers in 12.3 s, 1 left out"
    assert line(roll("done", state="done", took_s=2.3, since_s=182.3)) == "roll done 3m ago: 1 worker in 2.3 s"
    old = roll("done", state="done", took_s=12.3, since_s=612.3)
    assert len(table(page(program(worker(), roll=old))).splitlines()) == 3, "no news any more"
    why = "web:web-1 does not start\nat all"
    stopped = roll("done", "under way", state="stopped", took_s=12.3, detail=why)
    assert line(stopped) == "roll stopped 40 s ago: web:web-1 does not start\\nat all"
    assert line({**stopped, "since_s": 500_000.0}).startswith("roll stopped 5d ago: "), "until the next roll"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.0, "0s"),
        (59.9, "59s"),
        (60.0, "1m"),
        (3599.9, "59m"),
        (3600.0, "1h"),
        (8040.0, "2h14m"),
        (86399.0, "23h59m"),
        (86400.0, "1d"),
        (480_000.0, "5d"),
    ],
)
def test_ages(seconds: float, shown: str) -> None:
    assert since(seconds) == shown


@pytest.mark.parametrize(
    ("size_bytes", "shown"),
    [
        (None, "-"),
        (0, "0K"),
        (1023 * 1024, "1023K"),
        (1024**2 - 1, "1M"),
        (1024**2, "1M"),
        (33456128, "32M"),
        (1023 * 1024**2, "1023M"),
        (1024**3 - 1, "1.0G"),
        (1024**3, "1.0G"),
        (99.96 * 1024**3, "100G"),
        (120 * 1024**3, "120G"),
        (2 * 1024**4, "2.0T"),
    ],
)
def test_memory(size_bytes: float | None, shown: str) -> None:
    assert memory(None if size_bytes is None else int(size_bytes)) == shown


@given(st.text(), st.text(), st.text(), st.text(), st.booleans())
def test_no_word_from_outside_makes_a_line_more(reason: str, detail: str, name: str, turn: str, listener: bool) -> None:
    stopped = roll("under way", state="stopped", detail=detail, took_s=1.0)
    going = roll("under way", detail=detail)
    going["turns"][0]["detail"] = turn
    programs = [
        program(worker(reason=reason, over=turn, name=name), detail=detail, socket=detail or None, roll=one)
        for one in (stopped, going)
    ]
    found = page(*programs)
    if not listener:
        found["listener"] = None
    lines = table(found).splitlines()
    assert len(lines) == (9 if listener else 3)
    assert all(char.isprintable() for one in lines for char in one)
