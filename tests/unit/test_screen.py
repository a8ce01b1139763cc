"""A picture that fits a terminal of any size."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from verbs_desk import page, program, roll, turn, worker

from supervisor_uvicorn.verbs.screen import View, _width, picture, wrapped
from supervisor_uvicorn.verbs.usage import with_usage

HEAD = "10:00:00  head"


def view(*programs: dict[str, Any], **more: Any) -> View:
    return View(with_usage(page(*programs), 0.0), **more)


def shown(its: View, columns: int = 200, lines: int = 60, trouble: str = "") -> list[str]:
    return picture(HEAD, trouble, its, columns, lines)


SICK = worker("web:web-3", 14, verdict="silent", reason="not turned for 31.2 s", held="budget", lag_s=31.2)
TAKES = {"rss_bytes": 63 * 1024**2, "age_s": 8040.0, "connections": 3, "fds": 22}
WEB = program(workers=[*(worker(f"web:web-{number}", 11 + number, **TAKES) for number in range(3)), SICK])


def test_the_whole_picture() -> None:
    its = view(WEB, trends={"web:web-0": ".=s."}, lasts={"web:web-0": "silent 4m ago"})
    assert shown(its, 100) == [
        HEAD,
        "NAME       PID  STATE    VERDICT   LAG     SINCE  MEM    AGE    RESTARTS  LAST                 TREND",
        "web  tcp://127.0.0.1:8000  watching  3 of 4 healthy",
        "web:web-0  11   RUNNING  healthy   20 us   1m     63M    2h14m  0         silent 4m ago         .=s.",
        "web:web-1  12   RUNNING  healthy   20 us   1m     63M    2h14m  0         -",
        "web:web-2  13   RUNNING  healthy   20 us   1m     63M    2h14m  0         -",
        "web:web-3  14   RUNNING  silent    31.2 s  1m     -      -      0         -",
        "    not turned for 31.2 s; held: budget",
    ]
    wide = shown(its, 120)
    assert wide[1].split()[7:10] == ["AGE", "CONN", "FDS"]
    assert wide[3].split()[8:11] == ["2h14m", "3", "22"]


def test_columns_that_would_be_empty_are_left_out() -> None:
    assert {"HTTP", "CONN", "FDS"} & set(shown(view(program()))[1].split()) == set()
    probed = worker(http={"status": None, "seconds": 3.0})
    lines = shown(view(program(workers=[probed, worker("web:web-1")])))
    assert "HTTP" in lines[1].split()
    assert ["none" in line for line in lines[3:]] == [True, False]


def test_what_stands_in_eighty_columns_and_in_fewer() -> None:
    its = view(WEB, trends={"web:web-0": "abcdefghijkl"})
    assert shown(its, 79)[1].split() == ["NAME", "VERDICT", "LAG", "MEM", "AGE", "RESTARTS", "LAST", "TREND"]
    assert shown(its, 79)[3].endswith(" cdefghijkl"), "the newest"
    assert shown(its, 60)[1].split() == ["NAME", "VERDICT", "LAG", "MEM", "RESTARTS", "TREND"]
    assert shown(its, 40)[1].split() == ["NAME", "VERDICT", "LAG", "TREND"]


def test_without_the_column_of_states_they_are_told_below() -> None:
    dead = worker("web:web-0", None, state="FATAL", verdict="unknown", reason="FATAL in supervisord")
    left = worker("web:web-1", None, state="EXITED", verdict="unknown")
    lines = shown(view(program(workers=[dead, left])), 60)
    assert [lines[4], lines[6]] == ["    FATAL in supervisord", "    EXITED"]


def test_programs_stand_apart_where_there_is_room_and_have_their_rolls() -> None:
    web, api = program(roll=roll("a", turn("web:web-0", "done"), turn("web:web-1"))), program("api")
    whole = shown(view(web, api), lines=10)
    assert (len(whole), whole[5], whole[6]) == (10, "roll: 1 of 2 done", "")
    close = shown(view(web, api), lines=9)
    assert close == [line for line in whole if line]
    tight = shown(view(web, api), lines=7)
    assert tight[-1] == "... 3 more"
    assert [line.split()[0] for line in tight] == ["10:00:00", "NAME", "web", "web:web-0", "roll:", "api", "..."]


def test_the_sick_ones_first_where_there_is_no_room() -> None:
    many = [worker(f"web:web-{number}", 100 + number) for number in range(64)]
    many[40].update(verdict="failing", reason="status 500")
    many[60].update(verdict="silent", reason="not turned")
    its = view(program(workers=many))
    lines = shown(its, lines=12)
    assert [line.split()[0] for line in lines[3:]] == [
        *("web:web-40", "status", "web:web-60", "not"),
        *("web:web-0", "web:web-1", "web:web-2", "web:web-3", "..."),
    ]
    assert lines[-1] == "... 58 more"
    many[50].update(over="max_rss: 512 MB resident, more than 400 MB")
    many[55].update(held="paused")
    lines = shown(view(program(workers=many)), lines=12)
    assert [line.split()[0] for line in lines[7:]] == ["web:web-50", "max_rss:", "web:web-55", "held:", "..."]
    for one in many:
        one.update(verdict="silent", reason="not turned", over="", held=None)
    lines = shown(view(program(workers=many)), lines=12)
    assert [line.split()[0] for line in lines[3:5]] == ["web:web-0", "not"]
    assert lines[-1] == "... 60 more, 60 of them not healthy"


def test_a_sick_one_of_a_later_program_comes_before_a_healthy_one_of_the_first() -> None:
    lines = shown(view(*(program(f"g{number}") for number in range(9)), WEB), lines=8)
    assert [line.split()[0] for line in lines[2:7]] == ["g0", "g1", "web", "web:web-3", "not"]
    assert lines[-1] == "... 21 more, 7 programs not shown"


def test_nobody_and_no_news() -> None:
    assert shown(view()) == shown(view(program(workers=[]))) == [HEAD, "no uvicorn worker found"]
    assert picture(HEAD, "one\n\ntwo \x1b[2J three", None, 11, 9) == [HEAD[:11], "one", "two \\x1b[2J", "three"]
    assert shown(view(WEB), trouble="stale", lines=60)[1] == "stale"


@pytest.mark.parametrize(
    ("text", "columns", "lines"),
    [
        ("", 9, []),
        ("one two three", 9, ["one two", "three"]),
        ("one two", 7, ["one two"]),
        ("onetwothree", 4, ["onet", "woth", "ree"]),
        ("日本語 text", 5, ["日本", "語", "text"]),
        ("a b c d", 1, ["a", "b", "c"]),
    ],
)
def test_wrapped(text: str, columns: int, lines: list[str]) -> None:
    assert wrapped(text, columns, 3) == lines


TEXT = st.text(max_size=40) | st.sampled_from(["日本語" * 5, "é" * 9, "\x1b[2J\n", "x" * 300])
WORKER = st.builds(
    lambda number, verdict, reason, state, lag_s: worker(
        f"web:{reason[:5]}-{number}", verdict=verdict, reason=reason, state=state, lag_s=lag_s
    ),
    st.integers(0, 9999),
    st.sampled_from(["healthy", "silent", "unknown"]) | TEXT,
    TEXT,
    st.sampled_from(["RUNNING", "STOPPED", "FATAL"]),
    st.none() | st.floats(0, 1e9),
)
PROGRAM = st.builds(
    lambda name, workers, detail, rolled: program(
        name, workers, roll("a", turn(name), detail=detail) if rolled else None, detail=detail
    ),
    TEXT,
    st.lists(WORKER, max_size=6),
    TEXT,
    st.booleans(),
)


@settings(deadline=None)
@given(st.lists(PROGRAM, max_size=4), TEXT, st.integers(0, 130), st.integers(0, 30))
@example([WEB], "", 0, 0)
def test_it_fits_whatever_is_on_the_page(programs: list[dict[str, Any]], words: str, columns: int, lines: int) -> None:
    trends = {one["name"]: "▁" * 30 for its in programs for one in its["workers"]}
    found = picture(words, words, view(*programs, trends=trends), columns, lines)
    assert len(found) <= lines
    assert all(_width(line) <= columns for line in found)
    assert all(char.isprintable() for line in found for char in line)


@settings(deadline=None)
@given(st.integers(0, 20), st.integers(0, 20), st.integers(6, 60))
def test_nobody_is_lost_and_no_sick_one_for_a_healthy_one(sick: int, well: int, lines: int) -> None:
    workers = [worker(f"web:s{number}", verdict="failing", reason="500") for number in range(sick)]
    workers = [*(worker(f"web:w{number}") for number in range(well)), *workers]
    found = shown(view(program(workers=workers)), lines=lines)
    rows = [line.split()[0] for line in found if line.startswith("web:")]
    seen_sick = sum(row.startswith("web:s") for row in rows)
    if sick + well and len(rows) < sick + well:
        expected = f"... {sick + well - len(rows)} more"
        assert found[-1] == expected + (f", {sick - seen_sick} of them not healthy" if seen_sick < sick else "")
        assert len(found) == lines, "no line is wasted"
    if len(rows) > seen_sick:
        assert seen_sick == sick
