"""Scripted histories of what happens in the middle of a roll, and of what is refused: one behaviour each."""

from __future__ import annotations

import pytest
from unit.histories import World
from unit.rolls import asked, refused, rolled, stages

from supervisor_uvicorn.ledger import GaveBack, Reason, Replaced, RollBegan, RollEnded
from supervisor_uvicorn.model import State, WorkerId
from supervisor_uvicorn.rollout import YOUNG_S, RollState, Stage
from supervisor_uvicorn.settings import Settings
from supervisor_uvicorn.supervisord.request import MOST_AGE_S

PATH = Settings(path="/healthz")

# -- others act in the middle -----------------------------------------------------------------------------------------


def test_one_that_ends_by_itself_has_had_its_turn() -> None:
    world = World(3)
    for sim in world.sims:
        sim.start_s = 5.0
    asked(world)
    world.look(1.0)
    world.dies(world.sims[2])
    rolled(world)
    assert world.roll.state is RollState.DONE
    assert [index for index, _ in world.ended()] == [0, 1]
    assert world.roll.turns[2].new_pid == world.pids()[2]


def test_one_that_the_operator_restarts_has_had_its_turn() -> None:
    world = World(3)
    asked(world)
    world.look(0.1)
    world.operator_stops(1)
    world.operator_starts(1)  # between two looks
    rolled(world)
    assert world.roll.state is RollState.DONE
    assert [index for index, _ in world.ended()] == [0, 2]


def test_one_that_the_operator_stops_is_left() -> None:
    world = World(4)
    asked(world)
    world.look(0.1)
    world.operator_stops(2, 5.0)
    rolled(world)
    assert world.roll.state is RollState.DONE
    assert [index for index, _ in world.ended()] == [0, 1, 3]
    assert (world.roll.turns[2].stage, world.roll.turns[2].detail) == (Stage.LEFT, "stopped by the operator")
    assert world.sims[2].state is State.STOPPED
    assert world.starts == []


def test_one_that_the_operator_stops_while_it_drains_is_left() -> None:
    world = World(3)
    world.sims[0].remedy_s = 10.0
    asked(world)
    world.look(1.0)
    assert world.ended() == [(0, "rolling")]
    world.operator_stops(0)
    rolled(world)
    assert world.roll.turns[0].stage is Stage.LEFT
    assert [index for index, _ in world.ended()] == [0, 1, 2]


def test_a_new_process_that_is_no_worker_yet_holds_the_others() -> None:
    """sh -c 'migrate && exec uvicorn ...': RUNNING in supervisord, and not in our roster until its exec."""
    world = World(3)
    for sim in world.sims:
        sim.start_s = 20.0
    asked(world)
    world.run_until(lambda: world.sims[0].state is State.RUNNING and world.restarts, 10)
    if world.pids()[0] == world.restarts[0][1].worker.pid:
        world.run_until(lambda: world.pids()[0] != world.restarts[0][1].worker.pid, 10, 0.2)
    world.sims[0].listed = False
    world.run(15)
    assert world.ended() == [(0, "rolling")]
    assert world.roll.turns[0].detail == "not seen as a uvicorn worker any more"
    world.sims[0].listed = True
    rolled(world)
    assert world.roll.state is RollState.DONE
    assert [index for index, _ in world.ended()] == [0, 1, 2]


def test_nobody_else_goes_while_one_is_not_seen_however_many_may_be_away() -> None:
    """Two workers: the one that is left looks like the only one there is."""
    world = World(2, Settings(max_unavailable=2))
    asked(world)
    world.run_until(lambda: world.restarts, 5)
    world.sims[0].listed = False
    world.run(20)
    assert world.ended() == [(0, "rolling")]
    world.sims[0].listed = True
    rolled(world)
    assert world.roll.state is RollState.DONE


def test_the_only_worker_may_be_no_worker_for_a_while() -> None:
    world = World(1)
    asked(world)
    world.run_until(lambda: world.restarts, 5)
    world.sims[0].listed = False
    world.run(20)
    assert world.roll.rolling
    world.sims[0].listed = True
    rolled(world)
    assert world.roll.state is RollState.DONE
    assert len(world.told(RollEnded)) == 1


def test_new_code_that_is_a_tree_stops_it() -> None:
    world = World(3, Settings(start_timeout_s=20.0))
    asked(world)
    world.run_until(lambda: world.restarts, 5)
    world.sims[0].not_watched = "it is below a wrapper"
    rolled(world)
    assert "web:web-0 is not seen as a uvicorn worker any more for 20 s" in world.roll.detail
    assert world.ended() == [(0, "rolling")]


def test_a_program_that_is_removed_in_the_middle_ends_it_with_words() -> None:
    world = World(2)
    asked(world)
    world.look(0.1)
    for sim in world.sims:
        sim.listed = False
    world.run_until(lambda: world.told(RollEnded), 120)
    (end,) = world.told(RollEnded)
    assert isinstance(end, RollEnded)
    assert "is not seen as a uvicorn worker any more" in end.roll.detail
    world.look(1.0)
    assert "web" not in world.ledger.programs


def test_autorestart_false_is_started_by_us_and_the_roll_goes_on() -> None:
    world = World(3)
    for sim in world.sims:
        sim.autorestart = False
    asked(world)
    rolled(world)
    assert world.roll.state is RollState.DONE
    assert [order.name for _, order in world.starts] == ["web:web-0", "web:web-1", "web:web-2"]


def test_a_roster_that_stands_still_orders_nobody_twice() -> None:
    world = World(3)
    asked(world)
    world.look(0.1)
    world.frozen, world.roster_at = world.members(), world.now
    world.run(60)
    assert world.ended() == [(0, "rolling")]
    world.frozen, world.roster_at = (), None
    rolled(world)
    assert [index for index, _ in world.ended()] == [0, 1, 2]


# -- a second request -------------------------------------------------------------------------------------------------


def test_a_second_request_at_once_changes_nothing() -> None:
    world = World(3)
    asked(world)
    assert asked(world) == "joined the roll of web that is under way: 0 more to restart, 3 in all"
    rolled(world)
    assert [index for index, _ in world.ended()] == [0, 1, 2]
    assert world.roll.asked == ("ask-0", "ask-1")
    assert len(world.told(RollEnded)) == len(world.told(RollBegan)) == 1


def test_a_second_request_takes_whose_new_process_began_before_it_once_more() -> None:
    world = World(3)
    asked(world)
    world.run_until(lambda: stages(world)[0] == "done", 30)
    world.run_until(lambda: world.sims[1].process is not None and len(world.restarts) == 2, 10, 0.1)
    there = world.pids()
    asked(world)
    rolled(world)
    assert world.roll.state is RollState.DONE
    assert not set(there) & set(world.pids())
    assert [index for index, _ in world.ended()] == [0, 1, 2, 0]


def test_a_second_request_in_the_drain_takes_nobody_twice() -> None:
    world = World(2)
    world.sims[0].remedy_s = 8.0
    asked(world)
    world.run(3)
    assert world.sims[0].state is State.RUNNING
    asked(world)
    rolled(world)
    assert [index for index, _ in world.ended()] == [0, 1]


def test_a_second_request_while_the_new_one_starts_takes_it_again() -> None:
    """It may have read the old code."""
    world = World(2)
    world.sims[0].start_s = 10.0
    asked(world)
    world.run(4)
    assert world.pids()[0] != world.restarts[0][1].worker.pid
    began_before = world.pids()[0]
    asked(world)
    rolled(world)
    assert world.roll.state is RollState.DONE
    assert world.pids()[0] != began_before
    assert [index for index, _ in world.ended()] == [0, 1, 0]


def test_a_second_request_for_others_adds_them() -> None:
    world = World(3)
    asked(world, "web:web-0")
    assert asked(world, "web:web-2", "web:web-0").endswith("1 more to restart, 2 in all")
    rolled(world)
    assert [index for index, _ in world.ended()] == [0, 2]


def test_a_request_right_after_the_operators_start_takes_that_process() -> None:
    """The roster knows it already, the last look does not."""
    world = World(2)
    world.operator_stops(0)
    world.run(5)
    world.operator_starts(0)
    there = world.pids()[0]
    asked(world)
    rolled(world)
    assert world.pids()[0] != there
    assert sorted(index for index, _ in world.ended()) == [0, 1]


# -- the listener is restarted in the middle ---------------------------------------------------------------------------


@pytest.mark.parametrize("after_s", [0.05, 0.5, 1.5, 3.0, 4.0, 6.0])
@pytest.mark.parametrize("signalled", [True, False])
@pytest.mark.parametrize("autorestart", [True, False])
def test_the_next_listener_goes_on(after_s: float, signalled: bool, autorestart: bool) -> None:
    world = World(3, PATH)
    before = world.pids()
    for sim in world.sims:
        sim.remedy_s, sim.autorestart = 1.0, autorestart
    asked(world)
    world.look(0.05)
    world.run(after_s, 0.5)
    world.new_listener(5.0, signalled=signalled)
    rolled(world)
    assert world.roll.state is RollState.DONE, world.roll.detail
    assert not set(before) & set(world.pids())
    assert sorted({index for index, _ in world.ended()}) == [0, 1, 2]
    assert len({order.worker for _, order in world.restarts}) == 3
    assert len(world.serving()) == 3


def test_a_listener_that_was_away_for_long_does_not_wake_it() -> None:
    world = World(3)
    asked(world)
    world.look(0.1)
    world.new_listener(700.0)
    world.run(100)
    assert world.ended() == [(0, "rolling")]
    assert world.roll.state is RollState.STOPPED
    assert "away" in world.roll.detail


def test_what_nobody_watched_over_is_not_held_against_a_slow_start() -> None:
    world = World(2, Settings(start_timeout_s=20.0))
    world.sims[0].start_s = 15.0
    asked(world)
    world.run(5)
    world.new_listener(300.0)
    rolled(world)
    assert world.roll.state is RollState.DONE, world.roll.detail


# -- refused ---------------------------------------------------------------------------------------------------------


def test_what_is_refused_says_what_to_type() -> None:
    world = World(3)
    assert "at least one NAME" in refused(world)
    assert "programs here: web" in refused(world, "api")
    world.operator_stops(2)
    world.run(2)
    assert refused(world, "web:web-2") == "web:web-2 is STOPPED: supervisorctl start web:web-2"
    world.ask("pause", "web:web-1")
    assert refused(world, "web") == "web:web-1 is paused: supervisor-uvicorn resume web:web-1"
    world.ask("pause")
    assert refused(world, "web") == "web:web-0 is paused: supervisor-uvicorn resume all"
    world.ask("resume")
    world.sims[1].not_watched = "it is below a wrapper"
    world.run(1)
    assert refused(world, "web").endswith("so it cannot be rolled: supervisorctl restart web:web-1")
    world.sims[1].not_watched = ""
    world.sims[0].hidden = True
    world.run(1)
    assert refused(world, "web").endswith("ask again in a moment, or supervisorctl restart web:web-0")
    world.sims[0].hidden = False
    world.run(1)
    world.shutting_down = True
    assert "shutting down" in refused(world, "web")


def test_the_stopped_ones_of_a_program_are_left_out() -> None:
    world = World(3)
    world.operator_stops(2)
    world.run(2)
    assert asked(world) == "rolling 2 workers of web"
    rolled(world)
    assert [index for index, _ in world.ended()] == [0, 1]
    for index in (0, 1):
        world.operator_stops(index)
    world.run(2)
    assert refused(world, "web").startswith("nothing to restart, all are STOPPED: supervisorctl start web:web-0")


def test_a_dry_run_refuses_it() -> None:
    world = World(2, Settings(dry_run=True))
    assert refused(world, "web") == "dry_run is set for web: nothing is done to anybody"


def test_before_the_first_look_it_is_refused() -> None:
    world = World(2)
    world.new_listener()
    world.ledger = type(world.ledger)()
    assert refused(world, "web").endswith("has not been looked at yet: ask again in a moment")


# -- what is told -----------------------------------------------------------------------------------------------------


def test_each_replacement_is_told_with_its_reason() -> None:
    world = World(2)
    old = [WorkerId(f"web:web-{index}", pid, pid) for index, pid in enumerate(world.pids())]
    asked(world)
    rolled(world)
    told = [note for note in world.told(Replaced) if isinstance(note, Replaced)]
    assert [(note.old, note.reason) for note in told] == [(one, Reason.ROLLING) for one in old]
    assert not world.told(GaveBack)


def test_its_end_is_told_last() -> None:
    world = World(2)
    asked(world)
    rolled(world)
    kinds = [type(note) for _, note in world.notes]
    assert kinds.index(RollBegan) < kinds.index(Replaced) < kinds.index(RollEnded)


# -- new code that lives for a moment --------------------------------------------------------------------------------


def test_a_new_process_that_dies_soon_after_it_was_proven_stops_it() -> None:
    world = World(4)
    asked(world)
    world.run_until(lambda: stages(world).count("done") == 1, 30)
    world.dies(world.sims[0])
    rolled(world)
    assert world.roll.state is RollState.STOPPED
    assert "has ended by itself" in world.roll.detail
    assert len(world.ended()) <= 2, "the others keep the old code"


def test_a_new_process_that_hangs_is_replaced_and_the_roll_goes_on() -> None:
    """It was ended by us: one hang among four is no proof against the code."""
    world = World(4, Settings(silent_after_s=3.0))
    asked(world)
    world.run_until(lambda: stages(world).count("done") == 1, 30)
    world.hang(0)
    rolled(world)
    assert world.roll.state is RollState.DONE
    assert (0, "silent") in world.ended()


def test_one_that_ends_long_after_it_was_proven_does_not_stop_it() -> None:
    """``--limit-max-requests``, under load, while the roll waits for something else."""
    world = World(4)
    asked(world)
    world.run_until(lambda: stages(world).count("done") == 1, 30)
    world.pauses = {"web": None}
    world.run(YOUNG_S + 10)
    world.dies(world.sims[0])
    world.run(10)
    world.pauses = {}
    rolled(world)
    assert world.roll.state is RollState.DONE


# -- and what else happens -------------------------------------------------------------------------------------------


def test_a_peer_that_hangs_does_not_wait_for_a_long_drain() -> None:
    world = World(2, Settings(silent_after_s=3.0))
    world.sims[0].remedy_s = 3600.0
    asked(world, "web:web-0")
    world.run(2)
    world.hang(1)
    assert world.run_until(lambda: (1, "silent") in world.ended(), 60) < 10


def test_a_supervisord_that_does_not_answer_stops_no_roll() -> None:
    """What supervisord last said is old; nothing new is known of the replacement."""
    world = World(4, Settings(start_timeout_s=10.0))
    asked(world)
    world.run_until(lambda: world.sims[0].state is State.STARTING, 30, 0.1)
    world.look(0.1)
    world.frozen, world.roster_at = world.members(), world.now
    world.run(30)
    assert world.roll.rolling, world.roll.detail
    world.frozen, world.roster_at = (), None
    rolled(world)
    assert world.roll.state is RollState.DONE


def test_who_asked_for_the_roll_before_still_finds_it() -> None:
    world = World(2)
    asked(world, "web:web-0")
    first = world.roll.asked
    rolled(world)
    asked(world, "web:web-1")
    earlier = world.program.earlier
    assert earlier is not None
    assert (earlier.asked, earlier.state) == (first, RollState.DONE)


def test_a_request_that_lay_somewhere_is_refused() -> None:
    world = World(2)
    reply = world.ask("restart", "web", age_s=MOST_AGE_S + 1)
    assert not reply.accepted
    assert "ask again" in reply.detail
    assert world.program.roll is None
