"""What a person asks: who is meant, what is remembered, and what a refusal says. The rolls themselves: see
test_policy_rolling.py."""

from __future__ import annotations

import pytest
from unit.histories import World

from supervisor_uvicorn.ledger import Note, Paused, Resumed, Suspended
from supervisor_uvicorn.model import Answer, Member, State
from supervisor_uvicorn.operations import Reply, paused_now, run_out
from supervisor_uvicorn.settings import Backoff, Budget, Settings

MEMBERS = tuple(Member(name, State.RUNNING) for name in ("web:web-0", "web:web-1", "api:api"))


def told(world: World, kind: type[Note]) -> list[tuple[str, str]]:
    return [(note.subject, note.detail) for note in world.told(kind) if isinstance(note, Paused | Resumed | Suspended)]


# -- who is paused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pauses", "expected"),
    [
        ({}, set()),
        ({"web": None}, {"web"}),
        ({"web:web-0": 11.0, "web:web-1": 10.0}, {"web:web-0"}),
        ({"all": None}, {"web", "api"}),
        ({"all": 10.0}, set()),
        ({"all": 10.5, "gone": None}, {"web", "api", "gone"}),
    ],
)
def test_paused_is_who_is_named_until_then(pauses: dict[str, float | None], expected: set[str]) -> None:
    assert paused_now(pauses, MEMBERS, 10.0) == expected


def test_a_pause_that_has_run_out_is_told_once() -> None:
    left, notes = run_out({"web": 10.0, "api": 10.1, "all": None}, 10.0)
    assert left == {"api": 10.1, "all": None}
    assert notes == (Resumed("web", "its pause has run out", "paused"),)
    assert run_out(left, 10.0) == (left, ())


# -- pause and resume -------------------------------------------------------------------------------------------------


def test_a_paused_worker_is_watched_and_not_acted_on() -> None:
    world = World(3, Settings(silent_after_s=3.0))
    assert world.ask("pause", "web:web-1").detail == "paused until resume: web:web-1"
    assert told(world, Paused) == [("web:web-1", "until resume: watched and reported, not acted on")]
    world.hang(1)
    world.run(30)
    assert world.ended() == []
    assert ("web:web-1", "paused") in world.held()
    assert world.ask("resume", "web:web-1").detail == "web:web-1 is no longer paused"
    assert told(world, Resumed) == [("web:web-1", "resume was asked for")]
    world.run_until(lambda: world.ended() == [(1, "silent")], 5)


def test_a_pause_for_so_long_ends_by_itself() -> None:
    world = World(2, Settings(silent_after_s=3.0))
    assert world.ask("pause", "web", for_s=60.0).detail == "paused for 60 s: web"
    world.hang(0)
    world.run(59)
    assert world.ended() == []
    world.run_until(lambda: world.ended() == [(0, "silent")], 5)
    assert told(world, Resumed) == [("web", "its pause has run out")]


def test_a_second_pause_takes_the_place_of_the_first() -> None:
    world = World(2)
    world.ask("pause", "web", for_s=60.0)
    world.ask("pause", "web:*")
    assert world.pauses == {"web": None}
    world.ask("pause", "web", for_s=5.0)
    assert world.pauses == {"web": world.now + 5.0}


@pytest.mark.parametrize("names", [(), ("all",), ("web", "all")])
def test_no_name_is_all(names: tuple[str, ...]) -> None:
    world = World(2)
    assert world.ask("pause", *names).detail == "paused until resume: all"
    assert world.pauses == {"all": None}
    assert world.ask("resume").detail == "all is no longer paused"
    assert world.pauses == {}


def test_resume_of_a_program_lifts_the_pauses_of_its_workers() -> None:
    world = World(3)
    world.ask("pause", "web:web-0", "web:web-2")
    assert world.ask("resume", "web").detail == "web:web-0 is no longer paused; web:web-2 is no longer paused"
    assert world.pauses == {}


def test_resume_of_a_part_of_what_is_paused_is_refused_whole() -> None:
    world = World(3)
    world.ask("pause", "web")
    world.ask("pause", "web:web-1")
    reply = world.ask("resume", "web:web-1", "web:web-0")
    assert not reply.accepted
    assert reply.detail == "web:web-1 is paused as part of web: supervisor-uvicorn resume web"
    assert world.pauses == {"web": None, "web:web-1": None}
    assert world.told(Resumed) == []


def test_resume_where_nothing_is_held_says_so() -> None:
    reply = World(2).ask("resume", "web")
    assert (reply.accepted, reply.detail) == (True, "nothing to resume: web is neither paused nor suspended")


@pytest.mark.parametrize("verb", ["pause", "resume", "restart"])
def test_a_name_that_nobody_has_is_refused_with_those_there_are(verb: str) -> None:
    reply = World(2).ask(verb, "web", "wbe")
    assert not reply.accepted
    assert reply.detail == "wbe: no such uvicorn worker or program (programs here: web)"


# -- resume gives a spent budget back ----------------------------------------------------------------------------------


def spent() -> World:
    """web-0 hangs as soon as it serves, until the budget is spent."""
    world = World(3, Settings(silent_after_s=3.0, backoff=Backoff(0, 0), budget=Budget(2, 600)))
    world.sims[0].poisoned = True
    world.hang(0)
    world.run_until(lambda: world.told(Suspended), 120)
    return world


def test_resume_ends_a_suspension_at_once() -> None:
    world = spent()
    subjects = world.program.suspended
    assert subjects == {"web:web-0"}
    restarts = len(world.restarts)
    world.run(60)
    assert len(world.restarts) == restarts
    assert world.ask("resume", "web:web-0").detail == "web:web-0 is no longer suspended"
    assert world.program.suspended == frozenset()
    assert world.program.spending.restarts == ()
    world.run_until(lambda: len(world.restarts) > restarts, 5)
    assert ("web:web-0", "resume was asked for") in told(world, Resumed)


def test_resume_of_the_program_gives_back_all_of_it() -> None:
    world = spent()
    assert world.ask("resume", "web").detail == "web:web-0 is no longer suspended"
    assert world.program.suspended == frozenset()


def test_resume_of_another_worker_gives_nothing_back() -> None:
    world = spent()
    before = world.program
    assert world.ask("resume", "web:web-1").detail.startswith("nothing to resume")
    assert world.program == before


def test_resume_of_one_worker_of_a_suspended_program_says_which_name_to_type() -> None:
    world = World(4, Settings(path="/healthz", backoff=Backoff(0, 0), budget=Budget(0, 600)))
    world.answer(Answer.WRONG, 1)
    world.run_until(lambda: world.told(Suspended), 60)
    assert world.program.suspended == {"web"}
    reply = world.ask("resume", "web:web-1")
    assert (reply.accepted, reply.detail) == (
        False,
        "web:web-1 is suspended as part of web: supervisor-uvicorn resume web",
    )


# -- replies ---------------------------------------------------------------------------------------------------------


def test_a_reply_comes_back_from_the_board() -> None:
    reply = Reply("an-id", "restart", False, "why")
    assert Reply.of(reply.answer()) == reply
    assert reply.answer() == {"id": "an-id", "verb": "restart", "accepted": False, "detail": "why"}
