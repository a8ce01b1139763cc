"""``exit_on``: supervisord leaves only where a program is seen, twice, to be beyond serving; one behaviour each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.histories import World

from supervisor_uvicorn.exit_on import CHOICES, STEADY_S, Beyond, leave
from supervisor_uvicorn.ledger import Ours, Program, Reason, Remedy
from supervisor_uvicorn.model import Member, State, Verdict, WorkerId
from supervisor_uvicorn.settings import Backoff, Budget, Settings
from supervisor_uvicorn.verdict import Past

NOW = 1000.0
TICK_S = 5.0


def member(name: str, state: State, **more: Any) -> Member:
    alive = state in (State.RUNNING, State.STARTING, State.STOPPING)
    return Member(name, state, 11 if alive else 0, 7 if alive else None, **more)


def group(*states: State, name: str = "web") -> list[Member]:
    return [member(f"{name}:{name}-{number}", state) for number, state in enumerate(states)]


def past(of: Member, verdict: Verdict, **more: Any) -> Past:
    return Past(of.name, of.worker, 0.0, state=of.state, looked=True, verdict=verdict, **more)


def decided(
    members: list[Member], setting: str = "fatal", program: Program | None = None, after_s: float = TICK_S, **more: Any
) -> str:
    """Two rosters that show the same."""
    programs = {"web": program} if program else {}
    beyond, first = leave(Beyond(), members, NOW, programs, lambda _: setting, **more)
    assert first == ""
    return leave(beyond, members, NOW + after_s, programs, lambda _: setting, **more)[1]


FOUR_FATAL = group(*[State.FATAL] * 4)


def test_all_fatal() -> None:
    assert decided(FOUR_FATAL) == "web: all 4 workers that are not stopped are FATAL"
    assert decided(FOUR_FATAL, "suspended") == "web: all 4 workers that are not stopped are FATAL"
    assert decided(FOUR_FATAL, "none") == ""


@pytest.mark.parametrize("state", [state for state in State if state not in (State.FATAL, State.STOPPED)])
def test_one_that_is_not_fatal_keeps_it(state: State) -> None:
    assert decided(group(State.FATAL, State.FATAL, state)) == ""


def test_who_was_stopped_does_not_count_and_nobody_is_no_reason() -> None:
    running = group(State.STOPPED, State.RUNNING)
    fatal = group(State.STOPPED, State.FATAL)
    assert told(running, fatal, fatal)[-1] != ""
    assert decided(group(State.STOPPED, State.STOPPED)) == ""
    assert decided([]) == ""


def told(*rosters: list[Member], setting: str = "fatal") -> list[str]:
    """What is said of each, a TICK apart."""
    beyond, said = Beyond(), []
    for number, members in enumerate(rosters):
        beyond, why = leave(beyond, members, NOW + number * TICK_S, {}, lambda _: setting)
        said.append(why)
    return said


def test_what_the_operator_stops_beside_a_fatal_one_is_no_failure() -> None:
    """supervisord does not stop what is FATAL: after ``stop web:*`` it is all that is left."""
    serving = group(State.FATAL, State.RUNNING, State.RUNNING)
    stopping = group(State.FATAL, State.STOPPING, State.STOPPING)
    stopped = group(State.FATAL, State.STOPPED, State.STOPPED)
    assert told(serving, stopping, *[stopped] * 5) == [""] * 7
    assert told(serving, *[stopped] * 5) == [""] * 6
    assert told(*[stopped] * 5) == [""] * 5, "why they were stopped before our first look, nobody knows"


def test_another_one_that_fails_after_that_counts() -> None:
    stopped = group(State.FATAL, State.STOPPED, State.STOPPED)
    started = group(State.FATAL, State.RUNNING, State.STOPPED)
    failed = group(State.FATAL, State.FATAL, State.STOPPED)
    said = told(started, stopped, stopped, started, failed, failed)
    assert said[:-1] == [""] * 5
    assert said[-1] != ""


def test_one_that_fails_while_another_is_stopped_is_not_enough() -> None:
    """Which of them came last cannot be told."""
    before = group(State.RUNNING, State.RUNNING)
    after = group(State.FATAL, State.STOPPED)
    assert told(before, *[after] * 4) == [""] * 5


def test_one_of_two_programs_is_enough() -> None:
    members = [*group(State.RUNNING, name="api"), *FOUR_FATAL]
    assert decided(members) == "web: all 4 workers that are not stopped are FATAL"


def test_a_setting_is_a_programs_own() -> None:
    settings = {"web": "none", "api": "fatal"}
    members = [*FOUR_FATAL, *group(State.FATAL, name="api")]
    beyond, _ = leave(Beyond(), members, NOW, {}, settings.__getitem__)
    assert leave(beyond, members, NOW + TICK_S, {}, settings.__getitem__)[1].startswith("api: ")


# -- twice


def test_the_same_roster_twice_is_one() -> None:
    assert decided(FOUR_FATAL, after_s=0.0) == ""


@pytest.mark.parametrize(("after_s", "leaves"), [(STEADY_S - 0.1, False), (STEADY_S, True), (4.9, True)])
def test_a_tick_that_comes_early_is_late_enough(after_s: float, leaves: bool) -> None:
    assert bool(decided(FOUR_FATAL, after_s=after_s)) is leaves


def test_a_roster_between_that_shows_otherwise_begins_anew() -> None:
    beyond, _ = leave(Beyond(), FOUR_FATAL, NOW, {}, lambda _: "fatal")
    beyond, _ = leave(beyond, group(State.FATAL, State.STARTING), NOW + 3, {}, lambda _: "fatal")
    beyond, why = leave(beyond, FOUR_FATAL, NOW + 6, {}, lambda _: "fatal")
    assert why == ""
    assert leave(beyond, FOUR_FATAL, NOW + 6 + TICK_S, {}, lambda _: "fatal")[1] != ""


def ours(started_at: float | None) -> Program:
    worker = WorkerId("web:web-0", 11, 7)
    mine = Ours(worker, NOW - 100, Reason.SILENT, Remedy.ABORT, under_way=False, started_at=started_at)
    return Program(ours={"web:web-0": mine})


def test_a_start_of_ours_has_its_time() -> None:
    assert decided(FOUR_FATAL, program=ours(NOW + 2)) == ""
    assert decided(FOUR_FATAL, program=ours(NOW + 2), after_s=2 + STEADY_S) != ""


def test_a_start_that_is_due_some_time_is_not_waited_for() -> None:
    assert decided(FOUR_FATAL, program=ours(None)) != ""


# -- suspended


def suspended(*pasts: Past, subjects: tuple[str, ...] = ("web",)) -> Program:
    return Program(workers={one.name: one for one in pasts}, suspended=frozenset(subjects))


RUNNING = group(State.RUNNING, State.RUNNING)


@pytest.mark.parametrize("verdict", list(Verdict))
def test_only_a_silent_worker_is_seen_not_to_serve(verdict: Verdict) -> None:
    program = suspended(past(RUNNING[0], Verdict.SILENT), past(RUNNING[1], verdict))
    assert bool(decided(RUNNING, "suspended", program)) is (verdict is Verdict.SILENT)
    assert decided(RUNNING, "fatal", program) == ""


def test_a_start_that_never_ends_does_not_serve_either() -> None:
    program = suspended(*(past(one, Verdict.STARTING, overdue=True) for one in RUNNING))
    assert decided(RUNNING, "suspended", program).startswith("web: its budget of restarts is spent")


@pytest.mark.parametrize(
    ("state", "leaves"),
    [
        (State.FATAL, True),
        (State.EXITED, True),
        (State.BACKOFF, True),
        (State.STARTING, False),
        (State.STOPPING, False),
        (State.UNKNOWN, False),
    ],
)
def test_the_peer_of_a_silent_one(state: State, leaves: bool) -> None:
    members = group(State.RUNNING, state)
    program = suspended(past(members[0], Verdict.SILENT))
    assert bool(decided(members, "suspended", program)) is leaves


def test_a_worker_that_we_do_not_see_may_serve() -> None:
    silent = past(RUNNING[0], Verdict.SILENT)
    assert decided(RUNNING, "suspended", suspended(silent)) == ""
    other = replace(past(RUNNING[1], Verdict.SILENT), worker=WorkerId("web:web-1", 12, 9))  # of an earlier pid
    assert decided(RUNNING, "suspended", suspended(silent, other)) == ""
    tree = [RUNNING[0], replace(RUNNING[1], not_watched="its child serves")]
    assert decided(tree, "suspended", suspended(silent, past(RUNNING[1], Verdict.SILENT))) == ""


def test_silent_workers_with_budget_left_are_the_policys_affair() -> None:
    pasts = [past(one, Verdict.SILENT) for one in RUNNING]
    assert decided(RUNNING, "suspended", suspended(*pasts, subjects=())) == ""
    assert decided(RUNNING, "suspended", suspended(*pasts, subjects=("web:web-0",))) == ""
    assert decided(RUNNING, "suspended", suspended(*pasts, subjects=("web:web-0", "web:web-1"))) != ""


# -- never


@pytest.mark.parametrize("paused", ["web", "web:web-2"])
def test_never_while_somebody_has_paused_it(paused: str) -> None:
    assert decided(FOUR_FATAL, paused=frozenset({paused})) == ""
    assert decided(FOUR_FATAL, paused=frozenset({"api", "api:api-0"})) != ""


@pytest.mark.parametrize("flag", ["shutting_down", "dry_run"])
def test_never_in_a_shutdown_or_a_dry_run(flag: str) -> None:
    assert decided(FOUR_FATAL, **{flag: True}) == ""


def test_a_pause_that_ends_begins_anew() -> None:
    beyond, _ = leave(Beyond(), FOUR_FATAL, NOW, {}, lambda _: "fatal")
    beyond, _ = leave(beyond, FOUR_FATAL, NOW + 5, {}, lambda _: "fatal", paused=frozenset({"web"}))
    assert leave(beyond, FOUR_FATAL, NOW + 10, {}, lambda _: "fatal")[1] == ""


@given(
    st.lists(st.sampled_from(State), min_size=1, max_size=6),
    st.sampled_from(CHOICES),
    st.sampled_from(Verdict),
    st.booleans(),
)
def test_a_healthy_worker_always_keeps_it(states: list[State], setting: str, verdict: Verdict, spent: bool) -> None:
    members = [*group(*states), member("web:well", State.RUNNING)]
    pasts = [past(one, verdict) for one in members[:-1]] + [past(members[-1], Verdict.HEALTHY)]
    program = suspended(*pasts, subjects=("web",) if spent else ())
    assert decided(members, setting, program) == ""


def test_while_the_policy_replaces_hung_workers_nobody_leaves() -> None:
    """The policy's own ledger, with its budget spent at once: who is being replaced is on the way back."""
    world = World(2, Settings(budget=Budget(1), backoff=Backoff(0, 0)))
    beyond = Beyond()
    world.hang(0)
    world.run_until(lambda: world.restarts, 60)
    world.hang(1)
    for _ in range(60):
        world.run(1)
        programs = world.ledger.programs
        beyond, why = leave(beyond, world.members(), world.now, programs, lambda _: "suspended")
        assert why == ""
    assert "web" in world.ledger.programs["web"].suspended
