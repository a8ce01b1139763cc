"""Scripted histories of rolling restarts, one behaviour each: the plain way, its ends, and the brakes."""

from __future__ import annotations

import itertools

import pytest
from unit.histories import FOREVER, World
from unit.rolls import asked, rolled, stages

from supervisor_uvicorn.ledger import Outcome, Reason, Remedy, Result, RollBegan, RollEnded
from supervisor_uvicorn.model import Answer, State, Verdict
from supervisor_uvicorn.rollout import LONGEST_WAIT_S, RollState
from supervisor_uvicorn.settings import Backoff, Budget, Settings

PATH = Settings(path="/healthz")

# -- the plain way ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_every_worker_is_replaced_one_after_the_other(workers: int) -> None:
    world = World(workers)
    before = world.pids()
    assert asked(world) == f"rolling {workers} worker{'' if workers == 1 else 's'} of web"
    assert [note.group for note in world.told(RollBegan) if isinstance(note, RollBegan)] == ["web"]
    away: list[int] = []
    while world.roll.rolling:
        world.look(0.5)
        away.append(workers - len(world.serving()))
        assert world.now < 10_200, world.story()
    assert max(away) == 1
    assert world.ended() == [(index, "rolling") for index in range(workers)]
    assert {order.remedy for _, order in world.restarts} == {Remedy.DRAIN}
    assert not set(before) & set(world.pids())
    assert (world.roll.state, stages(world)) == (RollState.DONE, ["done"] * workers)
    assert [turn.new_pid for turn in world.roll.turns] == world.pids()
    assert len(world.told(RollEnded)) == 1
    world.run(300)
    assert len(world.restarts) == workers


def test_the_next_goes_when_the_new_pid_is_proven_and_not_when_it_is_running() -> None:
    world = World(4)
    for sim in world.sims:
        sim.start_s = 20.0  # RUNNING after a second, by startsecs
    asked(world)
    rolled(world)
    gaps = [later - earlier for earlier, later in itertools.pairwise(world.restarted_at())]
    assert min(gaps) >= 20.0


def test_where_a_path_is_set_the_next_goes_after_a_right_answer() -> None:
    world = World(3, PATH)
    world.sims[0].wrong_again = True
    asked(world)
    world.run(30)
    assert world.ended() == [(0, "rolling")]
    assert world.serving() == [0, 1, 2]
    world.answer(Answer.RIGHT, 0)
    rolled(world)
    assert world.ended() == [(0, "rolling"), (1, "rolling"), (2, "rolling")]


def test_max_unavailable_two_takes_two_at_once_and_never_three() -> None:
    world = World(5, Settings(max_unavailable=2))
    asked(world)
    away: list[int] = []
    while world.roll.rolling:
        world.look(0.5)
        away.append(5 - len(world.serving()))
    assert max(away) == 2
    assert len(world.restarts) == 5


def test_max_unavailable_above_all_leaves_one_that_serves() -> None:
    world = World(3, Settings(max_unavailable=9))
    asked(world)
    least = 3
    while world.roll.rolling:
        world.look(0.5)
        least = min(least, len(world.serving()))
    assert least == 1
    assert len(world.restarts) == 3


def test_one_worker_can_be_asked_for() -> None:
    world = World(4)
    asked(world, "web:web-2")
    rolled(world)
    assert world.ended() == [(2, "rolling")]


def test_a_worker_without_a_pin_is_rolled_by_its_ticks_alone() -> None:
    """--limit-concurrency below 20: no connection is held, and no path is asked."""
    world = World(3, PATH)
    for sim in world.sims:
        sim.limit_concurrency = True
    world.run(100)
    asked(world)
    rolled(world)
    assert world.roll.state is RollState.DONE, world.roll.detail
    assert len(world.restarts) == 3


def test_a_roll_spends_neither_budget_nor_backoff() -> None:
    world = World(3, Settings(budget=Budget(1, 600), backoff=Backoff(300, 300), silent_after_s=3.0))
    for _ in range(3):
        asked(world)
        rolled(world)
    assert len(world.restarts) == 9
    assert world.program.spending.restarts == ()
    world.hang(1)
    world.run_until(lambda: (1, "silent") in world.ended(), 10)


# -- it stops --------------------------------------------------------------------------------------------------------


def test_new_code_that_hangs_in_its_start_up_stops_it_at_the_first() -> None:
    world = World(4, Settings(start_timeout_s=20.0))
    for sim in world.sims:
        sim.start_s = FOREVER
    asked(world)
    took_s = rolled(world)
    assert 20 <= took_s <= 24
    assert world.roll.state is RollState.STOPPED
    assert "web:web-0 is not proven healthy after 20 s" in world.roll.detail
    assert "3 workers were not touched" in world.roll.detail
    assert stages(world) == ["under way", "waiting", "waiting", "waiting"]
    assert world.serving() == [1, 2, 3]
    world.run(600)
    assert {index for index, _ in world.ended()} == {0}
    assert len(world.told(RollEnded)) == 1


def test_new_code_that_crashes_at_import_stops_it_with_fatal() -> None:
    world = World(4)
    for sim in world.sims:
        sim.can_start = False
    asked(world)
    took_s = rolled(world)
    assert took_s <= 25
    assert "web:web-0 does not start: supervisord has given it up (FATAL)" in world.roll.detail
    assert world.serving() == [1, 2, 3]
    world.run(600)
    assert world.ended() == [(0, "rolling")]
    assert world.starts  # it is ours, and tried again


def test_new_code_that_answers_wrong_stops_it() -> None:
    world = World(4, PATH)
    for sim in world.sims:
        sim.wrong_again = True
    asked(world)
    rolled(world)
    assert world.roll.state is RollState.STOPPED
    assert "no right answer on /healthz yet" in world.roll.detail
    assert {index for index, _ in world.ended()} == {0}


def test_a_path_that_was_never_right_stops_it_at_the_first() -> None:
    world = World(4, PATH, dependency_up=False)
    asked(world)
    rolled(world)
    assert world.roll.state is RollState.STOPPED
    assert world.ended() == [(0, "rolling")]
    assert len(world.serving()) == 4


def test_after_the_mend_another_request_rolls_all() -> None:
    world = World(3, Settings(start_timeout_s=20.0))
    for sim in world.sims:
        sim.can_start = False
    asked(world)
    rolled(world)
    for sim in world.sims:
        sim.can_start = True
    asked(world)
    assert world.roll.turns[0].name == "web:web-0"
    assert world.roll.turns[0].old is None
    rolled(world)
    assert world.roll.state is RollState.DONE
    assert world.starts[0][1].name == "web:web-0"
    assert [index for index, _ in world.ended()] == [0, 1, 2]
    assert len(world.serving()) == 3


# -- who is down when it is asked for ---------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [State.EXITED, State.FATAL])
def test_names_that_are_down_are_started_first(state: State) -> None:
    world = World(3)
    world.sims[2].autorestart = False
    world.dies(world.sims[2])
    world.sims[2].state = state
    world.run(10)
    assert world.starts == []  # not ours
    asked(world)
    world.look(1.0)
    assert [order.name for _, order in world.starts] == ["web:web-2"]
    assert world.restarts == []
    rolled(world)
    assert world.roll.state is RollState.DONE
    assert [index for index, _ in world.ended()] == [0, 1]
    assert len(world.serving()) == 3


def test_names_that_are_down_are_started_one_after_the_other() -> None:
    world = World(3)
    for sim in world.sims[1:]:
        sim.state, sim.process = State.FATAL, None
    world.run(2)
    asked(world)
    rolled(world)
    assert world.roll.state is RollState.DONE
    assert [order.name for _, order in world.starts] == ["web:web-1", "web:web-2"]
    (first, _), (second, _) = world.starts
    assert second > first


def test_one_that_is_in_backoff_is_waited_for_first() -> None:
    world = World(3)
    world.sims[1].can_start = False
    world.dies(world.sims[1])
    world.run_until(lambda: world.past(1).state is State.BACKOFF, 5)
    world.sims[1].can_start = True
    asked(world)
    world.run(5)
    assert world.ended() == []
    rolled(world)
    assert "web:web-1 does not start" in world.roll.detail  # the world's supervisord gives it up: FATAL
    assert world.ended() == []


def test_a_start_that_is_under_way_already_is_not_ordered_twice() -> None:
    """It is ours and down, reconcile's start is due at the very look at which the roll has its turn."""
    world = World(2, Settings(silent_after_s=3.0))
    world.sims[0].autorestart = False
    world.hang(0)
    world.run_until(lambda: world.sims[0].state is State.EXITED, 20)
    asked(world)
    world.run(1)
    assert len(world.starts) == 1
    assert world.program.ours["web:web-0"].starts == 1
    rolled(world)
    assert len(world.starts) == 1
    assert world.roll.state is RollState.DONE


def test_a_start_waits_while_a_signal_to_the_name_is_in_doubt() -> None:
    """It is sent by name, and would hit the new process."""
    world = World(2, Settings(silent_after_s=3.0))
    world.sims[0].autorestart, world.sims[0].result = False, Result.IN_DOUBT
    world.hang(0)
    world.run_until(lambda: world.sims[0].state is State.EXITED, 20)
    world.look(0.1)
    doubt_at = world.program.ours["web:web-0"].doubt_at
    assert doubt_at is not None
    asked(world, "web:web-0")
    world.run_until(lambda: world.starts, 20, 0.5)
    assert world.now >= doubt_at + 10.0
    assert len(world.starts) == 1


def test_a_debugger_that_was_attached_to_the_dead_process_does_not_hold_the_start() -> None:
    world = World(2)
    world.sims[0].traced_by, world.sims[0].autorestart = 77, False
    world.hang(0)
    world.run(3)
    assert world.past(0).traced_by
    world.dies(world.sims[0])
    world.sims[0].traced_by = 0
    world.run(3)
    asked(world)
    rolled(world)
    assert world.roll.state is RollState.DONE


# -- silent and failing workers ---------------------------------------------------------------------------------------


def test_a_hang_in_the_middle_is_mended_first_and_the_roll_goes_on() -> None:
    world = World(4, Settings(silent_after_s=5.0))
    for sim in world.sims:
        sim.start_s = 8.0
    asked(world)
    world.run(2)
    world.hang(3)
    world.run_until(lambda: (3, "silent") in world.ended(), 40)
    assert [index for index, _ in world.ended()] == [0, 3]
    rolled(world)
    assert world.roll.state is RollState.DONE
    assert [index for index, _ in world.ended()] == [0, 3, 1, 2]
    assert len(world.serving()) == 4


def test_a_silent_worker_of_the_roll_is_aborted_and_goes_first() -> None:
    world = World(3, Settings(silent_after_s=3.0, backoff=Backoff(300, 300)))
    world.hang(1)
    world.run_until(lambda: world.restarts, 10)
    world.run(10)
    world.hang(1)  # its backoff holds it now
    world.run_until(lambda: world.past(1).verdict is Verdict.SILENT, 10)
    assert len(world.restarts) == 1
    asked(world)
    world.look(1.0)
    assert [(order.worker.name, order.remedy, order.reason) for _, order in world.restarts[1:]] == [
        ("web:web-1", Remedy.ABORT, Reason.ROLLING)
    ]
    rolled(world)
    assert [index for index, _ in world.ended()[1:]] == [1, 0, 2]


def test_a_silent_peer_that_cannot_be_mended_holds_it_for_a_bounded_time() -> None:
    world = World(3, Settings(silent_after_s=3.0))
    world.sims[2].traced_by = 77
    world.hang(2)
    world.run_until(lambda: world.past(2).verdict is Verdict.SILENT, 10)
    asked(world, "web:web-0")
    took_s = rolled(world, 400)
    assert took_s == pytest.approx(LONGEST_WAIT_S, abs=3)
    assert "silent: web:web-2 goes first" in world.roll.detail
    assert ("web", "silent") in world.held()
    assert world.ended() == []


def test_a_program_that_is_silent_as_a_whole_can_be_rolled() -> None:
    world = World(3, Settings(silent_after_s=3.0, budget=Budget(0, 600)))
    world.hang(0, 1, 2)
    world.run_until(lambda: world.past(2).verdict is Verdict.SILENT, 10)
    asked(world)
    rolled(world, 300)
    assert world.roll.state is RollState.DONE, world.roll.detail
    assert len(world.serving()) == 3


def test_a_replacement_that_turns_silent_before_it_is_proven_is_replaced_again() -> None:
    world = World(3, Settings(path="/healthz", silent_after_s=3.0))
    world.sims[0].poisoned = True
    asked(world)
    world.run_until(lambda: (0, "silent") in world.ended(), 30)
    assert {index for index, _ in world.ended()} == {0}
    world.sims[0].poisoned = False
    rolled(world)
    assert world.roll.state is RollState.DONE
    assert [index for index, reason in world.ended() if reason == "rolling"] == [0, 1, 2]


def test_a_program_that_fails_as_a_whole_can_be_rolled() -> None:
    """Panic holds the health restarts; new code is what mends it."""
    world = World(4, PATH)
    world.answer(Answer.WRONG, 0, 1, 2, 3)
    world.run_until(lambda: ("web", "panic") in world.held(), 60)
    asked(world)
    rolled(world)
    assert world.roll.state is RollState.DONE
    assert sorted(index for index, _ in world.ended()) == [0, 1, 2, 3]  # the last as failing: half answer right by then
    assert {world.past(index).verdict for index in range(4)} == {Verdict.HEALTHY}


def test_panic_in_the_middle_stops_it_at_the_one_under_way() -> None:
    world = World(4, PATH)
    for sim in world.sims:
        sim.start_s = 10.0
    asked(world)
    world.run(2)
    world.dependency_up = False
    rolled(world, 200)
    assert world.roll.state is RollState.STOPPED
    assert [entry for entry in world.ended() if entry[1] == "rolling"] == [(0, "rolling")]


# -- brakes ----------------------------------------------------------------------------------------------------------


def test_the_last_worker_that_serves_waits_for_another() -> None:
    world = World(2, Settings(max_unavailable=5))
    world.sims[1].start_s = 30.0
    world.dies(world.sims[1])
    world.run(5)
    asked(world, "web:web-0")
    world.run(10)
    assert world.ended() == []
    assert "last_serving" in world.roll.detail
    rolled(world)
    assert world.ended() == [(0, "rolling")]


def test_a_peer_that_is_down_holds_the_others_for_a_bounded_time() -> None:
    world = World(3)
    world.sims[2].autorestart = False
    world.dies(world.sims[2])
    world.run(5)
    asked(world, "web:web-0")
    assert rolled(world, 400) == pytest.approx(LONGEST_WAIT_S, abs=3)
    assert "web:web-2 (max_unavailable 1)" in world.roll.detail
    assert "1 worker was not touched" in world.roll.detail
    assert ("web", "max_unavailable") in world.held()


def test_a_wait_that_ends_is_forgotten() -> None:
    """What has been waited for one peer does not shorten the wait for the next."""
    world = World(6)
    world.sims[5].start_s = 80.0
    asked(world, *(f"web:web-{index}" for index in range(5)))
    began = world.now
    for turns in range(5):
        world.dies(world.sims[5])
        world.run_until(lambda turns=turns: len(world.restarts) > turns, 90)
    rolled(world)
    assert world.now - began > LONGEST_WAIT_S
    assert world.roll.state is RollState.DONE, world.roll.detail


def test_a_debugger_holds_its_worker_and_not_the_others() -> None:
    world = World(3)
    world.sims[0].traced_by = 77
    world.hang(0)
    world.run(2)
    asked(world)
    world.run(20)
    assert world.ended() == []  # it is late, so nobody leans on it
    world.recover(0)
    world.run(60)
    assert [index for index, _ in world.ended()] == [1, 2]
    assert ("web", "traced") in world.held()
    world.sims[0].traced_by = 0
    rolled(world)
    assert [index for index, _ in world.ended()] == [1, 2, 0]


def test_pause_holds_and_resume_lets_it_go_on() -> None:
    world = World(3)
    asked(world)
    world.run_until(lambda: stages(world)[0] == "done", 30)
    world.ask("pause", "web")
    held = len(world.restarts)
    world.run(60)
    assert len(world.restarts) <= held
    assert "paused" in world.roll.detail
    assert ("web", "paused") in world.held()
    world.ask("resume", "web")
    rolled(world)
    assert world.roll.state is RollState.DONE


def test_a_pause_that_runs_out_lets_it_go_on() -> None:
    world = World(2)
    asked(world)
    world.ask("pause", for_s=50.0)
    world.run(49)
    assert world.ended() == []
    rolled(world)
    assert world.roll.state is RollState.DONE


def test_a_remedy_that_is_called_off_is_tried_ever_more_seldom_and_not_for_ever() -> None:
    """A stranger holds the socket; the worker itself is healthy all the time."""
    world = World(1)
    world.sims[0].result = Result.CALLED_OFF
    asked(world)
    took_s = rolled(world, 600, 0.5)
    assert took_s == pytest.approx(LONGEST_WAIT_S, abs=70)
    assert "socket" in world.roll.detail
    gaps = [later - earlier for earlier, later in itertools.pairwise(world.restarted_at())]
    assert gaps[0] >= 5.0
    assert gaps[3] >= 40.0
    assert len(gaps) <= 9
    assert world.serving() == [0]


def test_one_that_is_called_off_does_not_hold_up_the_others() -> None:
    world = World(3)
    world.sims[0].result = Result.CALLED_OFF
    asked(world)
    world.run(30)
    assert {1, 2} <= {index for index, _ in world.ended()}
    world.sims[0].result = Result.ENDED
    rolled(world)
    assert world.roll.state is RollState.DONE


def test_signals_that_are_never_carried_out_do_not_make_it_endless() -> None:
    """Each one times out, and the process lives on."""
    world = World(1)
    asked(world)
    began = world.now
    while world.roll.rolling:
        ordered, world.under_way = [worker for _, worker, _ in world.under_way], []
        world.outcomes += [Outcome(worker, Result.IN_DOUBT) for worker in ordered]
        world.look(1.0)
        assert world.now < began + 400, world.story()
    assert world.roll.state is RollState.STOPPED
    assert "lives on" in world.roll.detail
    assert len(world.restarts) >= 2


def test_one_that_outlives_kill_stops_it() -> None:
    world = World(3)
    world.sims[0].result = Result.STUCK
    asked(world)
    rolled(world)
    assert "the old web:web-0 outlived KILL" in world.roll.detail
    assert world.ended() == [(0, "rolling")]


def test_a_worker_that_cannot_be_looked_at_is_not_ended() -> None:
    world = World(2)
    asked(world, "web:web-0")
    world.sims[0].unreadable = True
    world.run(60)
    assert world.ended() == []
    assert ("web", "state") in world.held()
    world.sims[0].unreadable = False
    rolled(world)
    assert world.roll.state is RollState.DONE
