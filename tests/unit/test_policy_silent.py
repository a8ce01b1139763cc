"""Scripted histories of workers whose event loop stops: one behaviour each."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from unit.histories import FOREVER, World

from supervisor_uvicorn.ledger import GaveBack, Remedy, Replaced, Resumed, Suspended, WouldRestart
from supervisor_uvicorn.model import Answer, State, Verdict
from supervisor_uvicorn.settings import Backoff, Budget, Settings

FREE = Settings(backoff=Backoff(0, 0), budget=Budget(1000))


def test_a_hung_worker_is_aborted_after_silent_after_and_nobody_else_is() -> None:
    world = World(4)
    world.hang(2)
    took_s = world.run_until(lambda: world.restarts, 40)
    assert 30 <= took_s <= 31
    assert world.ended() == [(2, "silent")]
    assert world.restarts[0][1].remedy is Remedy.ABORT
    world.run(600)
    assert len(world.restarts) == 1


def test_the_replacement_is_told_with_the_old_pid_and_the_time_it_took() -> None:
    world = World(2)
    old = world.alive(0).pid
    world.hang(0)
    world.run(60)
    (replaced,) = world.told(Replaced)
    assert isinstance(replaced, Replaced)
    assert (replaced.old.pid, replaced.worker.pid) == (old, world.alive(0).pid)
    assert 1 < replaced.took_s < 5


def test_less_than_silent_after_is_no_reason() -> None:
    world = World(2)
    world.hang(0, for_s=29)
    world.run(120)
    assert world.ended() == []
    assert world.past(0).verdict is Verdict.HEALTHY


def test_three_looks_are_needed_however_old_the_pulse_is() -> None:
    """Two looks, 40 s apart and not late by their own plan, do not make a worker silent."""
    world = World(2)
    world.hang(0)
    world.look(0.5)
    world.look(40, due_s=40)
    assert world.past(0).verdict is not Verdict.SILENT
    world.look(10, due_s=10)
    assert world.past(0).verdict is Verdict.SILENT


def test_looks_in_one_burst_count_once() -> None:
    """Doubled TICKs: a thousand looks in a second are not three looks."""
    world = World(2)
    world.hang(0)
    world.look(0.5)
    world.look(40, due_s=40)
    for _ in range(1000):
        world.look(0.001, due_s=1)
    assert world.ended() == []


def test_a_worker_that_computes_gets_busy_factor_times_as_long() -> None:
    world = World(2)
    world.hang(0, burning=True)
    assert 60 <= world.run_until(lambda: world.restarts, 70) <= 61


def test_blocking_for_a_while_again_and_again_is_not_silent() -> None:
    """One request after the other that blocks for 1.5 s, with silent_after 2: each time it is read in the end."""
    world = World(2, replace(FREE, silent_after_s=2.0))
    process = world.alive(0)
    process.blocked = [(world.now + 1.6 * turn, world.now + 1.6 * turn + 1.5, False) for turn in range(400)]
    world.run(600, step_s=0.25)
    assert world.ended() == []


def test_hung_before_it_was_ever_pinned_is_found_by_its_ticks() -> None:
    world = World(4)
    world.sims[1].wins_no_accept = True
    world.dies(world.sims[1])
    world.run(10)
    assert (world.past(1).pinned, world.past(1).verdict) == (False, Verdict.UNKNOWN)
    world.hang(1)
    took_s = world.run_until(lambda: world.restarts, 40)
    assert 30 <= took_s <= 32
    assert world.ended() == [(1, "silent")]


def test_not_pinned_and_waking_is_unknown_for_ever() -> None:
    world = World(4)
    world.sims[1].wins_no_accept = True
    world.dies(world.sims[1])
    world.run(3600)
    assert world.past(1).verdict is Verdict.UNKNOWN
    assert world.ended() == []


def test_not_pinned_and_computing_is_unknown_while_its_peers_accept() -> None:
    """A saturated worker never sleeps either; only a pin would tell, so it is left alone."""
    world = World(4)
    world.sims[1].wins_no_accept = True
    world.dies(world.sims[1])
    world.run(10)
    world.hang(1, burning=True)
    world.run(600)
    assert world.past(1).verdict is Verdict.UNKNOWN
    assert world.ended() == []


def test_not_pinned_and_computing_while_our_connection_lies_in_the_queue_is_silent() -> None:
    world = World(1)
    world.sims[0].wins_no_accept = True
    world.dies(world.sims[0])
    world.run(10)
    world.hang(0, burning=True)
    took_s = world.run_until(lambda: world.restarts, 80)
    assert 60 <= took_s <= 63


def test_where_no_pin_may_be_held_ticks_alone_speak() -> None:
    world = World(2)
    world.sims[0].limit_concurrency = True
    world.alive(0).pinned = False
    world.run(10)
    assert (world.past(0).verdict, world.past(0).reason) == (Verdict.HEALTHY, "by its ticks alone")
    world.hang(0)
    assert 29 <= world.run_until(lambda: world.restarts, 40) <= 32


def test_where_no_pin_may_be_held_a_worker_that_only_computes_is_not_called_healthy() -> None:
    world = World(2)
    world.sims[0].limit_concurrency = True
    world.alive(0).pinned = False
    world.run(10)
    world.hang(0, burning=True)
    world.run(300)
    assert world.past(0).verdict is Verdict.UNKNOWN
    assert world.ended() == []


def test_all_silent_one_is_the_test_and_then_half_at_once() -> None:
    world = World(5)
    world.hang(0, 1, 2, 3, 4)
    world.run_until(lambda: world.restarts, 40)
    world.run(0.9, step_s=0.3)
    assert len(world.restarts) == 1
    assert {brake for _, brake in world.held()} == {"trial"}
    world.run_until(lambda: len(world.serving()) == 1, 10, step_s=0.2)
    world.run_until(lambda: len(world.restarts) > 1, 5, step_s=0.2)
    assert len(world.restarts) == 1 + 3
    world.run_until(lambda: len(world.serving()) == 5, 20)
    assert sorted(index for index, _ in world.ended()) == [0, 1, 2, 3, 4]


def test_two_silent_workers_are_never_both_away() -> None:
    world = World(2)
    world.hang(0, 1)
    world.run_until(lambda: world.restarts, 40)
    world.run(1)
    assert len(world.restarts) == 1
    world.run(20)
    assert [index for index, _ in world.ended()] == [0, 1]


def test_a_replacement_that_never_serves_delays_the_next_single_ones() -> None:
    """start_timeout + 60 s after the first, then 120, 240 and 300 s: one by one, and never more."""
    world = World(6, FREE)
    for sim in world.sims:
        sim.can_start = False
    world.hang(*range(6))
    world.run(4000)
    times = world.restarted_at()
    assert [round(later - earlier) for earlier, later in itertools.pairwise(times)] == [
        90 + 60,
        90 + 120,
        90 + 240,
        90 + 300,
        90 + 300,
    ]
    assert len({index for index, _ in world.ended()}) == 6


def test_a_trial_that_hangs_in_its_start_up_does_not_start_the_clock_anew() -> None:
    """Its own replacement is ended at each start_timeout; the next worker's turn comes all the same."""
    world = World(3, FREE)
    for sim in world.sims:
        sim.start_s = FOREVER
    world.hang(0, 1, 2)
    world.run_until(lambda: {1} & {index for index, _ in world.ended()}, 260)
    first = world.restarted_at()[0]
    assert (world.restarted_at()[-1] - first) == pytest.approx(150, abs=2)
    assert {reason for index, reason in world.ended() if index == 0} == {"silent", "start_timeout"}


def test_a_database_that_is_down_costs_one_worker_and_all_come_back() -> None:
    """A blocking driver and a start-up that needs it: the first goes FATAL and is started again, the others wait."""
    world = World(4)
    for sim in world.sims:
        sim.can_start = False
    world.hang(0, 1, 2, 3)
    world.run(31 + 120)
    assert world.ended() == [(0, "silent")]
    assert len(world.starts) >= 2
    for sim in world.sims:
        sim.can_start = True
    assert world.run_until(lambda: len(world.serving()) == 4, 90) <= 90


def test_the_budget_does_not_stand_in_the_way_when_the_database_is_back() -> None:
    """What was tried while nobody served has not been spent."""
    world = World(4)
    for sim in world.sims:
        sim.start_s = FOREVER
    world.hang(0, 1, 2, 3)
    world.run(31 + 900)
    assert len(world.restarts) > 5
    for sim in world.sims:
        sim.start_s = 0.5
    world.run_until(lambda: len(world.serving()) == 4, 90 + 300)
    assert not world.told(Suspended)


def test_the_only_worker_is_replaced_too() -> None:
    world = World(1)
    world.hang(0)
    world.run(60)
    assert world.ended() == [(0, "silent")]
    assert world.serving() == [0]


def test_backoff_doubles_to_its_longest_while_nobody_serves() -> None:
    world = World(1, Settings(silent_after_s=2.0, backoff=Backoff(10, 300)))
    world.sims[0].poisoned = True
    world.hang(0)
    world.run(3000)
    times = world.restarted_at()
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps == pytest.approx([10, 20, 40, 80, 160, 300, 300, 300, 300, 300, 300, 300, 300, 300][: len(gaps)], abs=1)
    assert not world.told(Suspended)


def test_backoff_is_forgotten_after_600_s_in_health() -> None:
    world = World(2, Settings(budget=Budget(1000)))
    for _ in range(2):
        world.hang(0)
        world.run(60)
    assert world.ledger.programs["web"].waiting["web:web-0"].wait_s == 20
    world.run(620)
    assert not world.ledger.programs["web"].waiting
    world.hang(0)
    world.run(60)
    assert world.ledger.programs["web"].waiting["web:web-0"].wait_s == 10


def test_a_hopeless_worker_takes_half_the_budget_and_another_is_still_mended() -> None:
    world = World(4, Settings(silent_after_s=2.0))
    world.sims[0].poisoned = True
    world.hang(0)
    world.run(120)
    assert world.ended() == [(0, "silent")] * 2
    assert [note.subject for note in world.told(Suspended) if isinstance(note, Suspended)] == ["web:web-0"]
    world.hang(3)
    world.run_until(lambda: world.ended()[-1] == (3, "silent"), 90 + 60)  # at the latest: the trial's own limit
    world.run(5)
    assert len(world.serving()) == 3


def test_out_of_budget_is_suspended_until_there_is_room() -> None:
    world = World(4, Settings(silent_after_s=2.0, budget=Budget(2, 100), backoff=Backoff(0, 0)))
    world.hang(1, 2)
    world.run(20)
    world.hang(3)
    world.run(60)
    assert len(world.restarts) == 2
    assert [note.subject for note in world.told(Suspended) if isinstance(note, Suspended)] == ["web"]
    assert world.past(3).verdict is Verdict.SILENT
    world.run(40)
    assert len(world.restarts) == 3
    assert [note.subject for note in world.told(Resumed) if isinstance(note, Resumed)] == ["web"]


def test_hung_in_its_start_up_it_is_ended_after_start_timeout() -> None:
    world = World(2)
    world.sims[0].start_s = FOREVER
    world.dies(world.sims[0])
    took_s = world.run_until(lambda: world.restarts, 100)
    assert 89 <= took_s <= 92
    assert world.ended() == [(0, "start_timeout")]


def test_a_slow_start_below_start_timeout_is_left_alone() -> None:
    world = World(2)
    world.sims[0].start_s = 80
    world.dies(world.sims[0])
    world.run(70)
    assert world.past(0).verdict is Verdict.STARTING
    world.run(60)
    assert world.past(0).verdict is Verdict.HEALTHY
    assert world.ended() == []


def test_stopping_by_itself_is_reported_and_never_ended() -> None:
    """--limit-max-requests with a stream open: it no longer accepts, and takes its time."""
    world = World(2)
    world.alive(0).stopping_since = world.now
    world.run(3600)
    assert world.past(0).verdict is Verdict.STOPPING
    assert world.ended() == []


def test_a_traced_worker_is_held_until_the_debugger_has_gone() -> None:
    world = World(2)
    world.sims[0].traced_by = 77
    world.hang(0)
    world.run(600)
    assert world.ended() == []
    assert world.held() == [("web:web-0", "traced")]
    world.sims[0].traced_by = 0
    world.run(2)
    assert world.ended() == [(0, "silent")]


@pytest.mark.parametrize("what", ["web", "web:web-0"])
def test_paused_it_is_held_once_and_replaced_after_resume(what: str) -> None:
    world = World(2)
    world.paused = frozenset({what})
    world.hang(0)
    world.run(300)
    assert world.ended() == []
    assert world.held() == [("web:web-0", "paused")]
    world.paused = frozenset()
    world.run(1)
    assert world.ended() == [(0, "silent")]


def test_a_dry_run_tells_once_and_does_nothing() -> None:
    world = World(2, Settings(dry_run=True))
    world.hang(0)
    world.run(600)
    assert world.ended() == []
    (note,) = world.told(WouldRestart)
    assert isinstance(note, WouldRestart)
    assert note.order.worker.name == "web:web-0"


def test_a_gap_in_our_clock_moves_the_deadline() -> None:
    """The listener stopped for 60 s: what it could not see it does not count."""
    world = World(2)
    world.hang(0)
    world.run(10)
    world.look(60)
    assert world.ended() == []
    took_s = world.run_until(lambda: world.restarts, 40)
    assert 18 <= took_s <= 21


def test_our_own_stop_for_a_minute_costs_nobody() -> None:
    """Each worker was blocked for a while when the listener was stopped, and is well when it goes on."""
    world = World(4)
    world.hang(0, 1, 2, 3, for_s=20)
    world.run(2)
    world.look(60)
    world.run(60)
    assert world.ended() == []


def test_a_roster_that_does_not_show_the_process_is_unknown() -> None:
    world = World(2)
    world.hang(0)
    world.run(10)
    world.sims[0].hidden = True
    world.run(600)
    assert world.past(0).verdict is Verdict.UNKNOWN
    assert world.ended() == []


def test_what_cannot_be_read_is_unknown() -> None:
    """A full fd table, a refused /proc: our own fault is no evidence, however long it lasts."""
    world = World(2)
    world.hang(0)
    world.run(10)
    world.sims[0].unreadable = True
    world.run(600)
    assert world.past(0).verdict is Verdict.UNKNOWN
    assert world.ended() == []


@pytest.mark.parametrize("state", [State.STARTING, State.BACKOFF, State.STOPPING, State.STOPPED, State.UNKNOWN])
def test_only_a_running_worker_is_ended(state: State) -> None:
    world = World(2)
    world.hang(0)
    world.run(25)
    world.sims[0].state = state
    world.run(300)
    assert world.ended() == []


def test_supervisord_shutting_down_nothing_is_done() -> None:
    world = World(4)
    world.hang(0, 1)
    world.run(25)
    world.shutting_down = True
    world.run(600)
    assert (world.ended(), world.starts) == ([], [])


def test_an_operator_who_stops_it_in_the_middle_is_obeyed() -> None:
    world = World(2)
    world.sims[0].can_start = False
    world.hang(0)
    world.run(35)
    world.operator_stops(0)
    world.run(600)
    assert (world.past(0).state, world.starts) == (State.STOPPED, [])
    assert [note.detail for note in world.told(GaveBack) if isinstance(note, GaveBack)] == [
        "the operator has stopped it"
    ]


def test_an_operator_who_restarts_it_just_before_is_not_followed() -> None:
    world = World(2)
    world.hang(0)
    world.run(29)
    world.operator_stops(0)
    world.run(2)
    world.operator_starts(0)
    world.run(300)
    assert world.ended() == []


def test_every_worker_answers_after_20_s_and_none_is_silent() -> None:
    world = World(4, Settings(silent_after_s=2.0, path="/slow"))
    world.answer(Answer.RIGHT, 0, 1, 2, 3, takes_s=20)
    seen: set[Verdict] = set()
    world.watch = lambda world, look, decision: seen.update(
        past.verdict for past in world.ledger.programs["web"].workers.values()
    )
    world.run(50)
    assert Verdict.SILENT not in seen
    assert world.ended() == []


def test_when_the_trial_has_taken_too_long_the_next_one_still_goes_alone() -> None:
    """The trial itself hangs again and is due again: not both of them in one look."""
    world = World(2, Settings(silent_after_s=2.0, start_timeout_s=5.0, backoff=Backoff(100, 100)))
    world.sims[0].poisoned = True
    world.hang(0)
    world.run(90)
    world.hang(1)
    world.run(60)
    assert {index for index, _ in world.ended()} == {0, 1}
    assert len(set(world.restarted_at())) == len(world.restarts)
