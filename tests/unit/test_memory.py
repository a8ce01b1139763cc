"""What survives a listener's restart: nothing is lost on the way, and nothing odd is taken for true."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.histories import World

from supervisor_uvicorn.brakes import Spending, Waiting
from supervisor_uvicorn.ledger import Ledger, Program
from supervisor_uvicorn.memory import (
    MOST_ANSWERS,
    MOST_S,
    MOST_TEXT_BYTES,
    ROLL_FRESH_S,
    Memory,
    cell_object,
    from_text,
    to_text,
)
from supervisor_uvicorn.model import Verdict, WorkerId
from supervisor_uvicorn.panic import Panic
from supervisor_uvicorn.rollout import Roll, RollState, Stage, Turn
from supervisor_uvicorn.verdict import Past

AT = 5000.0
OLD = WorkerId("web:web-0", 88, 1234)
ROLL = Roll(
    ("a1", "b2"),
    (
        Turn("web:web-0", OLD, Stage.UNDER_WAY, 4990.0),
        Turn("web:web-1", WorkerId("web:web-1", 89, 1235)),
        Turn("web:web-2", None, Stage.DONE, 4980.0, 4800),
        Turn("web:web-3", WorkerId("web:web-3", 90, 1236), Stage.LEFT, detail="stopped by the operator"),
    ),
    4970.0,
    detail="waits: a peer",
    waiting_since=4995.0,
)
WEB = Program(
    spending=Spending(((4000.0, "web:web-0"), (4500.5, "web:web-1"))),
    waiting={"web:web-0": Waiting(4000.0, 20.0)},
    suspended=frozenset({"web", "web:web-1"}),
    panic=Panic(4900.0, 4960.0, 2),
    roll=ROLL,
)
ANSWER = {"id": "a1", "verb": "restart", "accepted": True, "detail": "rolling 4 workers of web"}
PAUSED = {"all": None, "web:web-2": 5040.0}


def written(program: Program = WEB, at: float = AT, **changes: Any) -> str:
    """The text, with parts of the program's entry put in place of what to_text wrote."""
    found = json.loads(to_text(Ledger({"web": program}), PAUSED, [ANSWER], at))
    found["programs"]["web"].update(changes)
    return json.dumps(found)


def read(text: str, now: float = AT + 1) -> Program:
    memory = from_text(text, now)
    assert memory is not None
    return memory.programs["web"]


def test_everything_that_is_kept_comes_back() -> None:
    memory = from_text(written(), AT + 1)
    assert memory == Memory({"web": WEB}, PAUSED, (ANSWER,), 1.0)


def test_what_a_new_listener_must_see_for_itself_is_not_kept() -> None:
    past = Past("web:web-0", OLD, 1.0, verdict=Verdict.SILENT)
    seen = replace(WEB, workers={past.name: past}, right_ever=True, healed=True, stuck=frozenset({OLD}))
    assert read(written(seen)) == WEB
    assert json.loads(to_text(Ledger({"web": Program(right_ever=True)}), {}, [], AT))["programs"] == {}


# -- any ledger ------------------------------------------------------------------------------------------------------

moments = st.floats(0, AT)
names = st.integers(0, 300).map("web:web-{}".format)
words = st.text(max_size=60)


@st.composite
def turns(draw: st.DrawFn) -> Turn:
    name = draw(names)
    old = draw(st.none() | st.builds(WorkerId, st.just(name), st.integers(1, 4_000_000), st.integers(0, 1 << 60)))
    gone_at, new_pid = draw(st.none() | moments), draw(st.integers(0, 4_000_000))
    return Turn(name, old, draw(st.sampled_from(Stage)), gone_at, new_pid, draw(words))


@st.composite
def rolls(draw: st.DrawFn) -> Roll:
    state = draw(st.sampled_from(RollState))
    ended_at = None if state is RollState.ROLLING else draw(moments)
    asked = tuple(draw(st.lists(st.text(min_size=1, max_size=64), max_size=3)))
    its = tuple(draw(st.lists(turns(), min_size=1, max_size=5)))
    return Roll(asked, its, draw(moments), state, draw(words), ended_at, draw(st.none() | moments))


programs = st.builds(
    Program,
    spending=st.lists(st.tuples(moments, names), max_size=5).map(
        lambda restarts: Spending(tuple(sorted(restarts, key=lambda restart: restart[0])))
    ),
    waiting=st.dictionaries(names, st.builds(Waiting, moments, st.floats(0, 1e6)), max_size=5),
    suspended=st.frozensets(names | st.just("web"), max_size=3),
    panic=st.builds(Panic, st.none() | moments, st.none() | moments, st.integers(0, 1000)),
    roll=st.none() | rolls(),
)
pauses = st.dictionaries(st.sampled_from(["all", "web", "web:*"]) | names, st.none() | st.floats(AT + 600, MOST_S))
answers = st.lists(
    st.fixed_dictionaries(
        {"id": st.text(min_size=1, max_size=64), "verb": st.just("pause"), "accepted": st.booleans(), "detail": words}
    ),
    max_size=60,
)


@given(programs, pauses, answers, st.floats(0, ROLL_FRESH_S - 1))
def test_any_ledger_comes_back_as_it_was(
    program: Program, paused: dict[str, float | None], told: list[dict[str, Any]], away_s: float
) -> None:
    text = to_text(Ledger({"web": program}), paused, told, AT)
    assert text.isascii()
    memory = from_text(text, AT + away_s)
    assert memory is not None
    assert memory.programs.get("web", Program()) == program
    assert memory.paused == paused
    assert list(memory.answers) == told[-MOST_ANSWERS:]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(anything | st.text(), st.floats(0, 1e9))
def test_no_text_at_all_makes_it_raise(found: Any, now: float) -> None:
    from_text(json.dumps(found), now)
    if isinstance(found, str):
        from_text(found, now)


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Of everything inside of a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(one for key, child in inner for one in paths(child, (*path, key)))]


PATHS = paths(json.loads(written()))


@given(st.sampled_from([path for path in PATHS if path]), anything, st.floats(0, 1e5))
def test_one_odd_part_never_raises_and_every_value_is_one_that_the_policy_can_bear(
    path: tuple[Any, ...], odd: Any, now: float
) -> None:
    found = json.loads(written())
    where = found
    for key in path[:-1]:
        where = where[key]
    where[path[-1]] = odd
    memory = from_text(json.dumps(found), now)
    if memory is None:
        return
    for group, program in memory.programs.items():
        restarts = program.spending.restarts
        assert all(0 <= at <= now and name.startswith(group + ":") for at, name in restarts)
        assert list(restarts) == sorted(restarts, key=lambda restart: restart[0])
        for waiting in program.waiting.values():
            assert 0 <= waiting.last_at <= now
            assert 0 <= waiting.wait_s <= MOST_S
        for moment in (program.panic.since, program.panic.canary_at):
            assert moment is None or 0 <= moment <= now
        assert program.panic.canaries >= 0
        if program.roll is not None:
            assert all(turn.name.startswith(group + ":") for turn in program.roll.turns)
            assert all(turn.old is None or turn.old.name == turn.name for turn in program.roll.turns)
            assert program.roll.rolling is (program.roll.ended_at is None)
            if program.roll.rolling:
                assert len(program.roll.turns) == len(ROLL.turns), "whole, or not at all"
    for until in memory.paused.values():
        assert until is None or (until > now and math.isfinite(until))


# -- what is odd -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        "nonsense",
        '{"version": 2, "at": 1}',
        '{"version": 1}',
        '{"version": 1, "at": -1}',
        '{"version": 1, "at": NaN}',
        '{"version": 1, "at": Infinity}',
        '{"version": 1, "at": "1"}',
        '{"version": 1, "at": true}',
        "[" * 100_000,
        '{"a":' * 100_000,
        " " * MOST_TEXT_BYTES + "{}",
    ],
)
def test_what_is_no_memory_of_ours_is_none(text: str) -> None:
    assert from_text(text, AT) is None


def test_an_odd_part_is_left_out_and_the_rest_is_kept() -> None:
    odd: dict[str, Any] = {
        "spending": [[4000.0, "web:web-0"], [math.nan, "web:web-1"], [-1, "web:web-1"], [1.0, "api:api"], 7, [1.0]],
        "waiting": {
            "web:web-0": [4000.0, 20.0],
            "web:web-1": [1.0],
            "web:web-2": [1.0, math.inf],
            "api:api": [1.0, 2.0],
        },
        "suspended": ["web", 7, "api", ""],
        "panic": {"since": 1.0, "canary_at": None, "canaries": -1},
    }
    found = read(written(**odd))
    assert found.spending.restarts == ((4000.0, "web:web-0"),)
    assert found.waiting == {"web:web-0": Waiting(4000.0, 20.0)}
    assert found.suspended == {"web"}
    assert found.panic == Panic()
    assert found.roll == ROLL


@pytest.mark.parametrize(
    ("path", "odd"),
    [
        (("turns", 1, "stage"), "running"),
        (("turns", 1, "stage"), None),
        (("turns", 1, "name"), "api:api"),
        (("turns", 1, "name"), "web"),
        (("turns", 1, "old"), [0, 1]),
        (("turns", 1, "old"), [True, 1]),
        (("turns", 1, "old"), [1 << 23, 1]),
        (("turns", 1, "old"), [88]),
        (("turns", 1, "old"), [88, -1]),
        (("turns", 1, "old"), [88.0, 1]),
        (("turns", 1, "gone_at"), math.nan),
        (("turns", 1, "gone_at"), AT + 0.5),
        (("turns", 1, "new_pid"), None),
        (("turns", 1, "detail"), None),
        (("turns", 1), None),
        (("turns",), []),
        (("turns",), None),
        (("asked",), [7]),
        (("asked",), "a1"),
        (("since",), None),
        (("since",), math.inf),
        (("state",), "paused"),
        (("state",), "done"),  # and yet it has not ended
        (("ended_at",), 4999.0),  # and yet it rolls
        (("detail",), 7),
    ],
)
def test_a_roll_with_anything_odd_in_it_is_left_out_whole(path: tuple[Any, ...], odd: Any) -> None:
    roll = json.loads(written())["programs"]["web"]["roll"]
    where = roll
    for key in path[:-1]:
        where = where[key]
    assert where[path[-1]] != odd
    where[path[-1]] = odd
    found = read(written(roll=roll))
    assert found == replace(WEB, roll=None)


# -- time ------------------------------------------------------------------------------------------------------------


def test_a_roll_goes_on_after_a_short_absence_only() -> None:
    assert read(written(), AT + ROLL_FRESH_S - 0.1).roll == ROLL
    now = AT + ROLL_FRESH_S
    stopped = read(written(), now).roll
    detail = "the listener was away for 600 s"
    assert stopped == replace(ROLL, state=RollState.STOPPED, detail=detail, ended_at=now)
    done = replace(ROLL, state=RollState.DONE, ended_at=AT)
    assert read(written(replace(WEB, roll=done)), now).roll == done, "what has ended stays as it was"


def test_by_another_clock_times_that_lie_ahead_are_now_and_no_roll_goes_on() -> None:
    now = 100.0
    memory = from_text(written(), now)
    assert memory is not None
    found = memory.programs["web"]
    assert found.spending.restarts == ((now, "web:web-0"), (now, "web:web-1"))
    assert found.waiting == {"web:web-0": Waiting(now, 20.0)}
    assert found.panic == Panic(now, now, 2)
    assert found.roll is not None
    assert (found.roll.state, found.roll.ended_at, found.roll.since) == (RollState.STOPPED, now, now)
    assert found.roll.detail == "the listener was away for a time that cannot be told"
    assert memory.paused == {"all": None, "web:web-2": now + 40.0}, "40 s were left of the pause, and are"
    assert memory.away_s == 0.0


def test_a_pause_that_cannot_be_read_lasts_until_resume_and_one_that_is_over_is_over() -> None:
    paused: dict[str, Any] = {"web": math.inf, "api": 1e300, "a": "soon", "b": -1, "c": AT, "d": AT + 1, "e": AT + 1.5}
    memory = from_text(to_text(Ledger(), paused, [], AT), AT + 1)
    assert memory is not None
    assert memory.paused == {"web": None, "api": None, "a": None, "b": None, "e": AT + 1.5}


def test_of_the_answers_only_those_that_are_some_and_only_the_last() -> None:
    odd: list[Any] = [7, {}, {**ANSWER, "id": ""}, {**ANSWER, "accepted": 1}, {**ANSWER, "detail": "x" * 10_000}]
    many = [{**ANSWER, "id": str(number), "later": 1} for number in range(60)]
    text = json.dumps({**json.loads(to_text(Ledger(), {}, [], AT)), "answers": [*many, *odd]})
    memory = from_text(text, AT)
    assert memory is not None
    assert list(memory.answers) == [{**ANSWER, "id": str(number)} for number in range(10, 60)]


def test_it_fits_into_its_cell_and_brakes_go_before_rolls() -> None:
    workers = [f"web:web-{number}" for number in range(10_000)]
    roll = replace(ROLL, turns=tuple(Turn(name, WorkerId(name, 1, 1)) for name in workers))
    text = to_text(Ledger({"web": replace(WEB, roll=roll)}), {}, [], AT)
    assert len(text) <= MOST_TEXT_BYTES
    assert read(text) == replace(WEB, roll=None)


def test_a_cell_is_a_json_object() -> None:
    assert cell_object('{"a": 1}') == {"a": 1}
    assert cell_object('["a"]') is None


def test_who_was_seen_to_serve_is_not_taken_for_one_that_never_came_up() -> None:
    """It drains by itself, for longer than start_timeout, when the listener is started anew."""
    world = World()
    world.alive(0).stopping_since = world.now
    world.run(2)
    world.new_listener(5.0)
    world.run(2 * world.settings.start_timeout_s)
    assert world.past(0).verdict is Verdict.STOPPING
    assert world.restarts == []
