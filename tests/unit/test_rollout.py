"""The arithmetic of a roll, without a policy around it: turns, their ends, waits, and a second request."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor_uvicorn.model import State, Verdict, WorkerId
from supervisor_uvicorn.rollout import (
    FATAL_FRESH_S,
    LONGEST_WAIT_S,
    NOT_SEEN,
    Roll,
    RollState,
    Stage,
    Turn,
    advance,
    begin,
    join,
    order,
    up,
    wait,
    well,
)
from supervisor_uvicorn.settings import Settings
from supervisor_uvicorn.verdict import Ages, Past

NOW = 1000.0
SETTINGS = Settings(start_timeout_s=90.0)
NOBODY: frozenset[WorkerId] = frozenset()


def worker(number: int, pid: int) -> WorkerId:
    return WorkerId(f"web:web-{number}", pid, pid)


def past(number: int, pid: int | None, state: State = State.RUNNING, **more: object) -> Past:
    """A worker that is well, unless ``more`` says otherwise."""
    known = None if pid is None else worker(number, pid)
    whole = Past(
        f"web:web-{number}",
        known,
        0.0,
        state=state,
        looked=True,
        verdict=Verdict.HEALTHY,
        served_since=1.0,
        turns=True,
        pinned=True,
    )
    return replace(whole, **more)  # type: ignore[arg-type]


def later(
    roll: Roll,
    *pasts: Past,
    now: float = NOW,
    taken: frozenset[WorkerId] = NOBODY,
    stuck: frozenset[WorkerId] = NOBODY,
    settings: Settings = SETTINGS,
    roster_at: float | None = None,
    gaps: tuple[tuple[float, float], ...] = (),
) -> Roll:
    workers = {one.name: one for one in pasts}
    return advance(roll, workers, taken, stuck, Ages(now, gaps), settings, now if roster_at is None else roster_at)


def stages(roll: Roll) -> list[Stage]:
    return [turn.stage for turn in roll.turns]


def one_under_way(at: float = NOW) -> Roll:
    """The process of web-0 has been seen gone ``at``; web-1 waits."""
    roll = begin("first", [past(0, 100), past(1, 101)], at - 1)
    roll = later(order(roll, roll.turns[0], at - 1), past(0, 100, State.EXITED), past(1, 101), now=at)
    assert stages(roll) == [Stage.UNDER_WAY, Stage.WAITING]
    assert roll.turns[0].gone_at == at
    return roll


def test_who_is_down_goes_first_then_who_does_not_serve() -> None:
    """A name that is down keeps the memory of the process that it had."""
    pasts = [
        past(0, 100),
        past(1, 101, verdict=Verdict.SILENT),
        past(2, 102, State.EXITED, verdict=Verdict.UNKNOWN),
        past(3, None, State.FATAL, verdict=Verdict.UNKNOWN),
    ]
    roll = begin("first", pasts, NOW)
    assert [(turn.name, turn.old) for turn in roll.turns] == [
        ("web:web-2", None),
        ("web:web-3", None),
        ("web:web-1", worker(1, 101)),
        ("web:web-0", worker(0, 100)),
    ]
    assert (roll.asked, roll.since, roll.rolling, roll.under_way) == (("first",), NOW, True, 0)


def test_a_turn_goes_its_way() -> None:
    roll = begin("first", [past(0, 100)], NOW)
    assert later(roll, past(0, 100)) == roll
    roll = order(roll, roll.turns[0], NOW)
    assert stages(roll) == [Stage.UNDER_WAY]
    assert roll.waiting == ()
    old = worker(0, 100)
    roll = later(roll, past(0, 100), taken=frozenset({old}))
    assert roll.turns[0].gone_at is None
    roll = later(roll, past(0, 100, State.EXITED), now=NOW + 5, taken=frozenset({old}))
    assert roll.turns[0].gone_at == NOW + 5
    roll = later(roll, past(0, 200, State.STARTING, turns=False), now=NOW + 6)
    roll = later(roll, past(0, 200, turns=False), now=NOW + 7)
    assert stages(roll) == [Stage.UNDER_WAY]
    roll = later(roll, past(0, 200), now=NOW + 8)
    assert (roll.state, roll.ended_at, roll.detail) == (RollState.DONE, NOW + 8, "")
    assert roll.turns == (Turn("web:web-0", old, Stage.DONE, NOW + 5, 200, "", NOW + 8),)


def test_an_order_that_came_to_nothing_gives_the_turn_back() -> None:
    roll = begin("first", [past(0, 100)], NOW)
    roll = order(roll, roll.turns[0], NOW)
    assert stages(later(roll, past(0, 100))) == [Stage.WAITING]


def test_a_process_that_has_been_seen_gone_does_not_come_back() -> None:
    """A new one between fork and exec has supervisord's own command line: the memory of the old one stays."""
    roll = one_under_way()
    roll = later(roll, past(0, 100, State.STARTING, verdict=Verdict.STARTING), past(1, 101))
    assert stages(roll) == [Stage.UNDER_WAY, Stage.WAITING]


@pytest.mark.parametrize(
    "unfit",
    [
        {"turns": False},
        {"served_since": None},
        {"looked": False},
        {"verdict": Verdict.STARTING},
        {"verdict": Verdict.SILENT},
        {"verdict": Verdict.STOPPING},
        {"state": State.STARTING},
    ],
)
def test_up_is_no_less_than_this(unfit: dict[str, object]) -> None:
    new = past(0, 200)
    assert up(new, worker(0, 100))
    assert up(new, None)
    assert not up(new, worker(0, 200))
    assert not up(replace(new, **unfit), worker(0, 100))  # type: ignore[arg-type]
    assert not up(replace(new, worker=None), worker(0, 100))


def test_well_wants_a_right_answer_from_whom_can_be_asked() -> None:
    asked = Settings(path="/healthz")
    old = worker(0, 100)
    assert well(past(0, 200), old, SETTINGS)
    assert not well(past(0, 200), old, asked)
    assert well(past(0, 200, right_ever=True), old, asked)
    assert well(past(0, 200, pinned=False), old, asked)  # --limit-concurrency: by its ticks alone
    assert not well(past(0, 100, right_ever=True), old, asked)


def test_start_timeout_stops_it_and_says_what_was_seen() -> None:
    roll = one_under_way()
    new = past(0, 200, turns=False, verdict=Verdict.STARTING, reason="not serving yet")
    assert later(roll, new, past(1, 101), now=NOW + 89.9).rolling
    roll = later(roll, new, past(1, 101), now=NOW + 90)
    assert (roll.state, roll.ended_at) == (RollState.STOPPED, NOW + 90)
    assert roll.detail == (
        "the new web:web-0 is not proven healthy after 90 s (start_timeout): not serving yet; 1 worker was not touched"
    )
    assert later(roll, past(0, 200), past(1, 101), now=NOW + 91) == roll


def test_a_gap_in_our_clock_is_not_held_against_the_new_process() -> None:
    roll = one_under_way()
    new = past(0, 200, turns=False)
    assert later(roll, new, past(1, 101), now=NOW + 500, gaps=((NOW + 490, 480.0),)).rolling


def test_one_that_is_not_seen_any_more_is_waited_for_and_then_stops_it() -> None:
    roll = later(one_under_way(), past(1, 101), now=NOW + 1)
    assert stages(roll) == [Stage.UNDER_WAY, Stage.WAITING]
    assert roll.turns[0].detail == NOT_SEEN
    back = later(roll, past(0, 200, turns=False), past(1, 101), now=NOW + 50)
    assert back.turns[0].detail == ""
    roll = later(roll, past(1, 101), now=NOW + 90)
    assert roll.state is RollState.STOPPED
    assert roll.detail.startswith(f"web:web-0 is {NOT_SEEN} for 90 s (start_timeout)")


def test_fatal_stops_it_at_once() -> None:
    roll = later(one_under_way(), past(0, None, State.FATAL), past(1, 101))
    assert "web:web-0 does not start: supervisord has given it up (FATAL)" in roll.detail


def test_fatal_of_a_name_that_was_fatal_is_believed_of_a_later_roster_alone() -> None:
    down = past(0, None, State.FATAL)
    roll = begin("first", [down], NOW)
    assert later(roll, down) == roll  # it waits to be started
    roll = order(roll, roll.turns[0], NOW)
    assert later(roll, down, now=NOW + 60, roster_at=NOW + FATAL_FRESH_S - 0.1).rolling
    assert later(roll, down, now=NOW + 60, roster_at=NOW + FATAL_FRESH_S).state is RollState.STOPPED


def test_a_name_that_was_down_and_came_up_by_itself_needs_nothing() -> None:
    roll = begin("first", [past(0, None, State.EXITED)], NOW)
    assert later(roll, past(0, 200)).state is RollState.DONE


def test_stopped_is_left_but_for_who_is_just_being_ended() -> None:
    roll = begin("first", [past(0, 100), past(1, 101)], NOW)
    stopped = past(0, 100, State.STOPPED)
    taken = frozenset({worker(0, 100)})
    assert stages(later(roll, stopped, past(1, 101), taken=taken))[0] is Stage.UNDER_WAY
    roll = later(roll, stopped, past(1, 101))
    assert (roll.turns[0].stage, roll.turns[0].detail) == (Stage.LEFT, "stopped by the operator")
    roll = later(roll, past(0, 300), past(1, 201))
    assert (stages(roll), roll.state) == ([Stage.LEFT, Stage.DONE], RollState.DONE)


def test_who_outlived_kill_stops_it_where_we_have_told_it_to_end() -> None:
    roll = begin("first", [past(0, 100), past(1, 101)], NOW)
    stuck = frozenset({worker(0, 100)})
    assert later(roll, past(0, 100), past(1, 101), stuck=stuck).rolling
    roll = later(roll, past(0, 100), past(1, 101), taken=stuck, stuck=stuck)
    assert "the old web:web-0 outlived KILL" in roll.detail


# -- waits -----------------------------------------------------------------------------------------------------------


def test_a_wait_ends_it_after_a_bounded_time() -> None:
    roll = begin("first", [past(0, 100), past(1, 101)], NOW)
    roll = wait(roll, "paused: until resume", Ages(NOW))
    assert (roll.waiting_since, roll.detail, roll.rolling) == (NOW, "waits: paused: until resume", True)
    assert wait(roll, "paused", Ages(NOW + LONGEST_WAIT_S - 0.1)).rolling
    assert wait(roll, "paused", Ages(NOW + 2 * LONGEST_WAIT_S, ((NOW + 50, LONGEST_WAIT_S + 1),))).rolling
    roll = wait(roll, "paused", Ages(NOW + LONGEST_WAIT_S))
    assert (roll.state, roll.detail) == (RollState.STOPPED, "waited 300 s: paused; 2 workers were not touched")


def test_an_order_alone_does_not_end_a_wait_and_a_process_that_has_gone_does() -> None:
    """A remedy may be called off; then it has waited all the time."""
    roll = begin("first", [past(0, 100), past(1, 101)], NOW)
    roll = wait(roll, "socket", Ages(NOW))
    roll = order(roll, roll.turns[0], NOW + 100)
    assert (roll.waiting_since, roll.detail) == (NOW, "")
    back = later(roll, past(0, 100), past(1, 101), now=NOW + 101)
    assert back.waiting_since == NOW
    gone = later(roll, past(0, 100, State.EXITED), past(1, 101), now=NOW + 101)
    assert gone.waiting_since is None


def test_orders_that_end_nobody_end_the_roll() -> None:
    roll = begin("first", [past(0, 100)], NOW)
    roll = order(roll, roll.turns[0], NOW)
    at_work = later(roll, past(0, 100), now=NOW + 900, taken=frozenset({worker(0, 100)}))
    assert at_work.rolling  # a drain may take long
    assert later(roll, past(0, 100), now=NOW + LONGEST_WAIT_S - 0.1).rolling
    ended = later(roll, past(0, 100), now=NOW + LONGEST_WAIT_S)
    assert ended.detail == "waited 300 s: what was told to end lives on; 1 worker was not touched"


# -- a second request -------------------------------------------------------------------------------------------------


def test_a_second_request_adds_who_is_not_in_the_list() -> None:
    roll = one_under_way()
    roll = join(roll, "second", [past(0, 200), past(1, 101), past(2, 102)])
    assert roll.asked == ("first", "second")
    assert [(turn.name, turn.old) for turn in roll.turns] == [
        ("web:web-0", worker(0, 100)),
        ("web:web-1", worker(1, 101)),
        ("web:web-0", worker(0, 200)),
        ("web:web-2", worker(2, 102)),
    ]
    assert [turn.name for turn in roll.waiting] == ["web:web-1", "web:web-2"]  # web-0's first turn has not ended


def test_two_turns_of_one_name_are_never_under_way_together_by_order() -> None:
    roll = join(one_under_way(), "second", [past(0, 200)])
    roll = later(roll, past(0, 200), past(1, 101), now=NOW + 5)
    assert stages(roll) == [Stage.DONE, Stage.WAITING, Stage.WAITING]
    roll = order(roll, roll.turns[2], NOW + 6)
    assert stages(roll) == [Stage.DONE, Stage.WAITING, Stage.UNDER_WAY]
    roll = later(roll, past(0, 300), past(1, 301), now=NOW + 9)
    assert [turn.new_pid for turn in roll.turns] == [200, 301, 300]
    assert roll.state is RollState.DONE


def test_one_that_dies_in_between_ends_both_turns() -> None:
    roll = join(one_under_way(), "second", [past(0, 200)])
    roll = later(roll, past(0, 300), past(1, 101), now=NOW + 5)
    assert stages(roll) == [Stage.DONE, Stage.WAITING, Stage.DONE]


def test_joining_while_the_name_is_down_takes_what_comes_up() -> None:
    roll = join(one_under_way(), "second", [past(0, 100, State.EXITED)])
    assert roll.turns[2] == Turn("web:web-0", None)
    roll = join(roll, "third", [past(0, 100, State.EXITED)])
    assert len(roll.turns) == 3
    roll = later(roll, past(0, 200), past(1, 101), now=NOW + 5)
    assert stages(roll) == [Stage.DONE, Stage.WAITING, Stage.DONE]
