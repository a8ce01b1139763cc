"""Scripted histories of workers that answer wrong: one behaviour each."""

from __future__ import annotations

import itertools

import pytest
from unit.histories import FOREVER, World

from supervisor_uvicorn.ledger import Remedy, Replaced, WouldRestart
from supervisor_uvicorn.model import Answer, State, Verdict
from supervisor_uvicorn.settings import Backoff, Budget, Settings

PATH = Settings(path="/healthz")
FREE = Settings(path="/healthz", backoff=Backoff(0, 0), budget=Budget(1000))


def test_one_of_four_is_drained_after_three_wrong_answers() -> None:
    world = World(4, PATH)
    world.answer(Answer.WRONG, 1)
    took_s = world.run_until(lambda: world.restarts, 30)
    assert 10 <= took_s <= 16
    assert world.ended() == [(1, "failing")]
    assert world.restarts[0][1].remedy is Remedy.DRAIN
    world.run(600)
    assert len(world.restarts) == 1


def test_two_wrong_answers_and_a_right_one_again_and_again_are_not_failing() -> None:
    world = World(4, PATH)
    for _ in range(20):
        world.answer(Answer.WRONG, 1)
        world.run_until(lambda: world.past(1).wrong == 2, 20)
        world.answer(Answer.RIGHT, 1)
        world.run_until(lambda: world.past(1).wrong == 0, 20)
    assert world.ended() == []


def test_a_doubled_tick_does_not_make_the_third_wrong_answer() -> None:
    """TICKs in bursts ask again at once; an answer asked within half a TICK of the last counted one is the same one."""
    world = World(4, PATH)
    world.answer(Answer.WRONG, 1)
    for _ in range(20):
        world.look(0.05, tick=True)
    assert world.past(1).wrong == 1
    assert world.ended() == []


def test_two_of_four_are_drained_one_after_the_other() -> None:
    world = World(4, FREE)
    world.answer(Answer.WRONG, 1, 2)
    world.run_until(lambda: world.restarts, 30)
    assert [index for index, _ in world.ended()] == [1]
    assert ("web:web-2", "max_unavailable") in world.held()
    world.run(60)
    assert world.ended() == [(1, "failing"), (2, "failing")]


def test_max_unavailable_two_drains_a_second_while_the_first_is_away() -> None:
    world = World(4, Settings(path="/healthz", max_unavailable=2))
    world.answer(Answer.WRONG, 1, 2)
    world.sims[1].start_s = FOREVER
    world.run_until(lambda: len(world.restarts) == 2, 20)
    assert world.ended() == [(1, "failing"), (2, "failing")]


def test_three_of_four_is_panic_held_once_and_then_one_canary() -> None:
    world = World(4, FREE)
    for sim in world.sims:
        sim.wrong_again = True
    world.answer(Answer.WRONG, 0, 1, 2)
    world.run_until(world.held, 30)
    assert world.held() == [("web", "panic")]
    took_s = world.run_until(lambda: world.restarts, 70)
    assert took_s == pytest.approx(60, abs=2)
    world.run(100)
    assert world.ended() == [(0, "canary")]
    assert world.held() == [("web", "panic")]


def test_canaries_come_after_60_s_and_then_120_240_and_each_300_s() -> None:
    world = World(6, FREE)
    for sim in world.sims:
        sim.wrong_again = True
    world.dependency_up = False
    world.run_until(world.held, 30)
    panic_at = world.now
    world.run(2000)
    gaps = [later - earlier for earlier, later in itertools.pairwise([panic_at, *world.restarted_at()])]
    assert gaps == pytest.approx([60, 120, 240, *[300] * 9][: len(gaps)], abs=2)
    assert len(gaps) >= 6
    assert {reason for _, reason in world.ended()} == {"canary"}


def test_the_pace_of_the_canary_survives_that_the_only_worker_is_away() -> None:
    world = World(1, FREE)
    world.dependency_up = False
    world.run(3000)
    gaps = [later - earlier for earlier, later in itertools.pairwise(world.restarted_at())]
    assert all(later >= earlier - 2 for earlier, later in itertools.pairwise(gaps))
    assert gaps[-1] >= 300


def test_when_the_dependency_is_back_nobody_else_is_restarted() -> None:
    world = World(4, FREE)
    world.dependency_up = False
    world.run(60)
    world.dependency_up = True
    world.run(1000)
    assert world.ended() == []
    assert {world.past(index).verdict for index in range(4)} == {Verdict.HEALTHY}


def test_a_canary_that_helps_is_followed_by_the_others() -> None:
    """All were spoiled by the same request: a new process answers right."""
    world = World(4, FREE)
    world.answer(Answer.WRONG, 0, 1, 2, 3)
    world.run(600)
    assert sorted(index for index, _ in world.ended()) == [0, 1, 2, 3]
    assert [reason for _, reason in world.ended()].count("canary") == 2  # then half of them answer right
    assert len(world.serving()) == 4


def test_after_the_panic_the_next_one_begins_with_60_s_again() -> None:
    world = World(4, FREE)
    world.dependency_up = False
    world.run(400)
    canaries = len(world.restarts)
    assert canaries >= 2
    world.dependency_up = True
    world.run(200)
    world.dependency_up = False
    world.run_until(lambda: world.past(3).verdict is Verdict.FAILING, 30)
    began = world.now
    world.run_until(lambda: len(world.restarts) > canaries, 70)
    assert world.now - began == pytest.approx(60, abs=3)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_wrong_path_is_said_and_never_acted_on(workers: int) -> None:
    world = World(workers, FREE, dependency_up=False)
    world.run(3600)
    assert world.ended() == []
    assert world.held() == [("web", "path")]


def test_a_new_worker_is_not_judged_for_its_answers_before_start_timeout() -> None:
    world = World(4, FREE)
    world.sims[1].wrong_again = True
    world.dies(world.sims[1])
    world.run(80)
    assert world.past(1).verdict is Verdict.UNKNOWN
    assert world.ended() == []
    world.run_until(lambda: world.restarts, 30)
    assert world.ended() == [(1, "failing")]


def test_busy_is_neither_wrong_nor_right() -> None:
    """uvicorn's own 503 for --limit-concurrency, for an hour."""
    world = World(4, PATH)
    world.answer(Answer.BUSY, 1)
    world.run(3600)
    assert world.ended() == []
    assert world.past(1).verdict is Verdict.HEALTHY


def test_the_last_worker_that_serves_is_not_drained() -> None:
    world = World(2, Settings(path="/healthz", max_unavailable=3, panic_threshold=1.0))
    world.run(20)
    world.alive(1).stopping_since = world.now
    world.answer(Answer.WRONG, 0)
    world.run(300)
    assert world.ended() == []
    assert "last_serving" in {brake for _, brake in world.held()} | {"panic"}


def test_last_serving_is_the_brake_where_panic_is_none() -> None:
    """Three workers, one of them failing, the two others late: nobody is left to lean on."""
    world = World(3, Settings(path="/healthz", max_unavailable=3))
    world.answer(Answer.WRONG, 0)
    world.run_until(lambda: world.past(0).wrong == 2, 20)
    world.sims[1].state = world.sims[2].state = State.STARTING
    world.run(15)
    assert world.ended() == []


def test_a_late_peer_is_nobody_to_lean_on() -> None:
    """Its pulse lies unread and it will be silent: the failing one is drained only when it is back."""
    world = World(2, FREE)
    world.answer(Answer.WRONG, 0)
    world.run_until(lambda: world.past(0).wrong == 2, 20)
    world.hang(1)
    world.run(15)
    assert world.past(1).verdict is Verdict.HEALTHY
    assert world.ended() == []
    assert world.held() == [("web:web-0", "max_unavailable")]


def test_the_only_worker_is_replaced_as_a_canary() -> None:
    world = World(1, PATH)
    world.answer(Answer.WRONG, 0)
    world.run(200)
    assert world.ended() == [(0, "canary")]
    assert world.past(0).verdict is Verdict.HEALTHY


def test_replaced_is_told_only_after_a_right_answer() -> None:
    world = World(4, FREE)
    world.sims[1].wrong_again = True
    world.answer(Answer.WRONG, 1)
    world.run_until(lambda: world.restarts, 30)
    world.run(60)
    assert world.serving() == [0, 1, 2, 3]
    assert not world.told(Replaced)
    world.answer(Answer.RIGHT, 1)
    world.run(10)
    assert len(world.told(Replaced)) == 1


def test_a_drained_worker_that_never_answers_right_does_not_hold_up_a_silent_one() -> None:
    world = World(4, FREE)
    world.sims[1].wrong_again = True
    world.answer(Answer.WRONG, 1)
    world.run_until(lambda: world.restarts, 30)
    world.hang(2)
    took_s = world.run_until(lambda: (2, "silent") in world.ended(), 60)
    assert took_s <= 32


def test_nobody_is_drained_while_the_first_replacement_is_the_test() -> None:
    """Though max_unavailable would allow it: until the replacement is healthy no other worker is ended."""
    world = World(4, Settings(path="/healthz", max_unavailable=3, silent_after_s=5.0))
    world.sims[0].start_s = FOREVER
    world.hang(0)
    world.run_until(lambda: world.restarts, 20)
    world.answer(Answer.WRONG, 1)
    world.run(60)
    assert world.ended() == [(0, "silent")]
    assert ("web:web-1", "trial") in world.held()


def test_a_failing_worker_in_backoff_waits() -> None:
    world = World(4, Settings(path="/healthz", backoff=Backoff(100, 300)))
    world.answer(Answer.WRONG, 1)
    world.run(40)
    world.answer(Answer.WRONG, 1)
    world.run(50)
    assert len(world.restarts) == 1
    assert ("web:web-1", "backoff") in world.held()
    world.run(40)
    assert world.restarted_at()[1] - world.restarted_at()[0] == pytest.approx(100, abs=2)


def test_a_dry_run_tells_of_one_canary_at_a_time() -> None:
    world = World(4, Settings(path="/healthz", dry_run=True))
    world.dependency_up = False
    world.run(100)
    assert len(world.told(WouldRestart)) == 1
    world.run(120)
    assert len(world.told(WouldRestart)) == 2
    assert world.ended() == []


def test_a_hang_behind_a_living_loop_is_seen_by_the_path_alone() -> None:
    """A thread pool that is used up: the loop turns, the answer does not come."""
    world = World(4, PATH)
    world.answer(Answer.RIGHT, 1, takes_s=FOREVER)
    world.run(60)
    assert world.ended() == [(1, "failing")]
    assert "no answer within 3 s" in world.restarts[0][1].detail


def test_a_silent_worker_that_was_a_canary_before_is_a_trial_of_its_own() -> None:
    """Its canary came up long ago, though it never answered right: the trial's clock starts with its new end."""
    world = World(5, Settings(path="/healthz", silent_after_s=2.0, start_timeout_s=10.0))
    world.dependency_up = False
    world.run_until(lambda: world.restarts, 100)
    world.run(100)
    assert [index for index, _ in world.ended()] == [0]
    world.sims[0].start_s = FOREVER
    world.hang(0, 1, 2)
    world.run(30)
    assert {index for index, reason in world.ended() if reason == "silent"} == {0}
