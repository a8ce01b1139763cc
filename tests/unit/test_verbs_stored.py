"""Whatever stands on the board, or in the history: a verb shows it, or refuses it in words, and that is all."""

from __future__ import annotations

import copy
import itertools
import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from verbs_desk import Desk, Screen, page, program, roll, turn, worker, yes

from supervisor_uvicorn import cli
from supervisor_uvicorn.supervisord.board import Note
from supervisor_uvicorn.supervisord.request import Request
from supervisor_uvicorn.verbs import command
from supervisor_uvicorn.verbs.page import BadPage, read_page
from supervisor_uvicorn.verbs.stored import MOST_DEPTH

PARSER = cli.parser()
HUGE = int("9" * 401)
ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["rolling", "done", "stopped", "STOPPED", "web", HUGE, -HUGE, 1e308]),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["name", "turns", "asked", "x"]), inner),
    max_leaves=8,
)


def full() -> dict[str, Any]:
    """A page in which everything is there."""
    http = {"status": 200, "seconds": 0.004}
    its = roll("a1", turn("web:web-0", "done", 11, 21), turn("web:web-1", "under way", detail="draining"))
    ended = roll("a0", turn("web:web-0", "left"), state="stopped", detail="why", took_s=2.0)
    sick = worker("web:web-1", 12, verdict="failing", reason="status 500", held="panic", http=http, restarts=2)
    return page(program(workers=[worker(http=http), sick], roll=its, earlier_roll=ended), answers=[yes("a1")])


def cell() -> dict[str, Any]:
    entry = {"time": "2026-11-22T10:00:00.000+00:00", "level": "WARN", "event": "restart", "message": "m", "pid": 3}
    entries = [{**entry, "worker": "web:web-0", "evidence": {"lag_s": 3.0}}, {**entry, "program": "web"}]
    return {"version": 1, "entries": entries, "restarts": {"web:web-0": 3}}


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Of every node in it."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *itertools.chain(*(paths(child, (*path, key)) for key, child in inner))]


def put(whole: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    changed = copy.deepcopy(whole)
    where = changed
    for key in path[:-1]:
        where = where[key]
    where[path[-1]] = value
    return changed


def no_constant(name: str) -> Any:
    raise AssertionError(f"{name} is no JSON")


def shown_or_refused(board: str, history: str) -> None:
    for words in (
        ["status"],
        ["status", "--json"],
        ["status", "web"],
        ["restart", "--timeout", "2", "web"],
        ["history"],
        ["history", "--json"],
        ["history", "shop"],
        ["pause"],
    ):

        def play(_: float, asked: Request | None) -> Note:
            return Note(board if asked is None else board.replace("a1", asked.ident), 0.5, 1.0)

        desk = Desk(play, history=Note(history, 0.5, 1.0))
        screen = Screen(desk, live=words[0] == "restart" and "x" in board)
        code = command.carry_out(PARSER.parse_args(words), desk, screen.console)
        assert code in (0, 1, 2)
        assert code != 2 or screen.notes, "a refusal has words"
        assert len(screen.notes) < 2000
        assert "\x1b" not in screen.out.getvalue() + screen.notes
        if "--json" in words and screen.lines:
            json.loads(screen.out.getvalue(), parse_constant=no_constant)


@pytest.mark.parametrize("path", paths(full()), ids=str)
@example(value="\x1b[2J\n")
@settings(max_examples=15, deadline=None)
@given(value=ANY)
def test_any_value_anywhere_on_the_page(path: tuple[Any, ...], value: Any) -> None:
    shown_or_refused(json.dumps(put(full(), path, value)), "")


@pytest.mark.parametrize("path", paths(cell()), ids=str)
@example(value="\x1b[2J\n")
@settings(max_examples=15, deadline=None)
@given(value=ANY)
def test_any_value_anywhere_in_the_history(path: tuple[Any, ...], value: Any) -> None:
    shown_or_refused(json.dumps(full()), json.dumps(put(cell(), path, value)))


@settings(deadline=None)
@given(st.text())
@example("[" * 5000)
@example('{"version": 1, "x": ' + "[" * 900 + "]" * 900 + "}")
@example('{"version": 1, "x": 1e999}')
@example('{"version": ' + "9" * 4000 + "}")
@example('{"version": 1, "programs": [{"name": "\\ud800", "workers": [{"name": "\\ud800:\\u001b[2J"}]}]}')
def test_any_text(text: str) -> None:
    shown_or_refused(text, text)
    shown_or_refused(json.dumps(full()), text)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("programs", 0), 7, r"programs\[0\] is 7, not an object"),
        (("programs", 0, "name"), None, r"programs\[0\].name is None, not a text"),
        (("programs", 0, "workers", 1), [], r"workers\[1\] is \[\], not an object"),
        (("programs", 0, "workers", 1, "lag_s"), "x", r"workers\[1\].lag_s is 'x', not a number or null"),
        (("programs", 0, "workers", 1, "since_s"), HUGE, r"since_s is 9{77}\.\.\., not a number"),
        (("programs", 0, "workers", 0, "pid"), True, r"pid is True, not a whole number or null"),
        (("programs", 0, "workers", 0, "watched"), "no", r"watched is 'no', not true or false"),
        (("programs", 0, "workers", 0, "http"), 200, r"http is 200, not an object"),
        (("programs", 0, "workers", 0, "http", "status"), "200", r"http.status is '200', not a whole number"),
        (("programs", 0, "roll", "asked"), None, r"roll.asked is None, not a list of texts"),
        (("programs", 0, "earlier_roll", "asked"), [1], r"earlier_roll.asked is \[1\], not a list of texts"),
        (("programs", 0, "roll", "turns", 0, "name"), 1, r"roll.turns\[0\].name is 1, not a text"),
        (("listener", "reports_every_s"), 0, r"listener.reports_every_s is 0, not a number above 0"),
        (("answers", 0, "accepted"), "no", r"answers\[0\].accepted is 'no', not true or false"),
        (("programs", 0, "socket"), float("inf"), "no page of a supervisor-uvicorn listener: .* a number that JSON"),
    ],
)
def test_what_is_wrong_and_where(path: tuple[Any, ...], value: Any, said: str) -> None:
    text = json.dumps(put(full(), path, value))
    with pytest.raises(BadPage, match=said) as bad:
        read_page(Note(text, 0.5, 1.0))
    desk = Desk(lambda _, __: Note(text, 0.5, 1.0))
    screen = Screen(desk)
    assert command.carry_out(PARSER.parse_args(["status"]), desk, screen.console) == 2
    assert (screen.out.getvalue(), screen.notes) == ("", f"supervisor-uvicorn status: {bad.value}\n")


def test_what_a_later_version_adds_is_kept_up_to_a_depth() -> None:
    def nested(depth: int) -> Any:
        return [nested(depth - 1)] if depth else []

    found = read_page(Note(json.dumps({**full(), "more": nested(MOST_DEPTH - 2)}), 0.5, 1.0))
    assert found.body["more"] == nested(MOST_DEPTH - 2)
    with pytest.raises(BadPage, match="nested too deep"):
        read_page(Note(json.dumps({**full(), "more": nested(MOST_DEPTH)}), 0.5, 1.0))


def test_the_whole_page_is_shown_as_it_is() -> None:
    found = read_page(Note(json.dumps(full()), 0.0, 1.0))
    assert found.body == full()
