"""Scripted histories of remedies and of what became of the names that we took down: one behaviour each."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from unit.histories import FOREVER, World

from supervisor_uvicorn.ledger import GaveBack, Ledger, Ours, Outcome, Reason, Remedy, Replaced, Result
from supervisor_uvicorn.model import Answer, State, Verdict, WorkerId
from supervisor_uvicorn.reconcile import adopt, hear
from supervisor_uvicorn.settings import Backoff, Budget, Settings
from supervisor_uvicorn.verdict import Ages

FREE = Settings(backoff=Backoff(0, 0), budget=Budget(1000))


def test_a_remedy_that_was_called_off_costs_nothing_and_is_tried_again() -> None:
    world = World(2)
    world.sims[0].result = Result.CALLED_OFF
    world.hang(0)
    world.run_until(lambda: world.restarts, 40)
    world.run(3)
    program = world.ledger.programs["web"]
    assert (program.ours, program.waiting, program.spending.restarts) == ({}, {}, ())
    assert world.held() == [("web:web-0", "socket")]
    world.sims[0].result = Result.ENDED
    world.run_until(lambda: len(world.restarts) > 1, 10)
    assert world.restarted_at()[1] - world.restarted_at()[0] >= 5
    world.run(10)
    assert world.serving() == [0, 1]


def test_what_calls_a_remedy_off_each_time_is_told_once_and_tried_ever_more_seldom() -> None:
    """A stranger on the socket for hours: each try scans all processes and writes to the disk twice."""
    world = World(2)
    world.sims[0].result = Result.CALLED_OFF
    world.hang(0)
    world.run_until(lambda: world.restarts, 40)
    world.run(400)
    at = world.restarted_at()
    between = [later - earlier for earlier, later in itertools.pairwise(at)]
    for found_s, wait_s in zip(between, [5, 10, 20, 40, 60, 60, 60], strict=False):
        assert wait_s <= found_s < wait_s + 3, between
    assert len(between) >= 7
    assert world.held() == [("web:web-0", "socket")]


def test_a_new_pid_and_a_new_brake_begin_anew() -> None:
    world = World(2, FREE)
    world.sims[0].result = Result.CALLED_OFF
    world.hang(0)
    world.run_until(lambda: len(world.restarts) == 4, 200)
    world.run(1)
    entry = world.ledger.programs["web"].called_off["web:web-0"]
    assert (entry.brake, entry.repeats) == ("socket", 3)
    other = Outcome(entry.worker, Result.CALLED_OFF, "supervisord", "no answer")
    mine = Ours(entry.worker, world.now, Reason.SILENT, Remedy.ABORT)
    program = replace(world.ledger.programs["web"], ours={"web:web-0": mine})
    changed = hear(program, [other], Ages(world.now, ())).called_off["web:web-0"]
    assert (changed.brake, changed.repeats) == ("supervisord", 0)
    world.dies(world.sims[0])
    world.run(3)
    assert world.ledger.programs["web"].called_off == {}


def test_a_canary_that_was_called_off_gives_its_turn_back() -> None:
    world = World(4, Settings(path="/healthz"))
    world.sims[0].result = Result.CALLED_OFF
    world.dependency_up = False
    world.run_until(lambda: world.restarts, 100)
    world.run(30)
    assert world.ended() == [(0, "canary"), (1, "canary")]
    program = world.ledger.programs["web"]
    assert (program.panic.canaries, [name for _, name in program.spending.restarts]) == (1, ["web:web-1"])


def test_a_second_remedy_that_was_called_off_leaves_the_name_ours() -> None:
    """Its first process was ended by us: that we must not forget."""
    world = World(2, FREE)
    world.sims[0].start_s = FOREVER
    world.hang(0)
    world.run_until(lambda: world.restarts, 40)
    world.run(5)
    world.sims[0].result = Result.CALLED_OFF
    world.run_until(lambda: len(world.restarts) == 2, 100)
    world.run(2)
    assert "web:web-0" in world.ledger.programs["web"].ours


def test_after_a_signal_in_doubt_nothing_more_until_a_later_roster() -> None:
    world = World(2, FREE)
    world.sims[0].result = Result.IN_DOUBT
    world.sims[0].autorestart = False
    world.hang(0)
    world.run_until(lambda: world.restarts, 40)
    world.run(9)
    assert world.sims[0].state is State.EXITED
    assert world.starts == []  # the signal is sent by name: it would hit the new process
    world.run(6)
    assert len(world.starts) == 1


def test_a_signal_in_doubt_that_did_nothing_leads_to_a_new_verdict_and_a_new_remedy() -> None:
    world = World(2, FREE)
    world.sims[0].remedy_s = FOREVER
    world.hang(0)
    world.run_until(lambda: world.restarts, 40)
    _, worker, _ = world.under_way.pop()
    world.outcomes.append(Outcome(worker, Result.IN_DOUBT))
    world.run(9)
    assert len(world.restarts) == 1
    world.run(5)
    assert len(world.restarts) == 2
    assert "lives on" in str(world.told(GaveBack))


def test_what_outlives_kill_is_not_ended_again() -> None:
    world = World(2, FREE)
    world.sims[0].result = Result.STUCK
    world.hang(0)
    world.run(3600)
    assert len(world.restarts) == 1
    assert world.held() == [("web:web-0", "stuck")]


def test_a_drain_that_takes_longer_than_the_grace_is_not_taken_for_one_that_failed() -> None:
    """The roster at its end is older than its end, and still shows the old pid."""
    world = World(4, Settings(path="/healthz"))
    world.sims[1].autorestart = False
    world.sims[1].remedy_s = FOREVER
    world.answer(Answer.WRONG, 1)
    world.run_until(lambda: world.restarts, 30)
    world.run(28)
    world.frozen, world.roster_at = world.members(), world.now
    _, worker, _ = world.under_way.pop()
    world.dies(world.sims[1])
    world.outcomes.append(Outcome(worker, Result.ENDED))
    world.run(2)
    assert not world.told(GaveBack)
    world.roster_at = None
    world.run(10)
    assert len(world.starts) == 1
    assert len(world.told(Replaced)) == 1


def test_exited_and_not_brought_back_is_started_once_after_three_seconds() -> None:
    world = World(2)
    world.sims[0].autorestart = False
    world.hang(0)
    world.run_until(lambda: world.starts, 60)
    assert world.starts[0][0] - world.restarted_at()[0] == pytest.approx(4, abs=1.1)
    world.run(60)
    assert (len(world.starts), world.serving()) == (1, [0, 1])


def test_fatal_that_we_caused_is_started_again_with_the_backoff() -> None:
    world = World(2)
    world.sims[0].can_start = False
    world.hang(0)
    world.run(1500)
    times = [at for at, _ in world.starts]
    gaps = [round(later - earlier, -1) for earlier, later in itertools.pairwise(times)]
    assert gaps == [20, 40, 80, 160, 300, 300, 300][: len(gaps)]
    assert len(gaps) >= 6


def test_while_nobody_serves_a_start_is_tried_each_half_minute_for_days() -> None:
    world = World(1)
    world.sims[0].can_start = False
    world.hang(0)
    world.run(40)
    program = world.ledger.programs["web"]
    tried = {"web:web-0": Ours(program.ours["web:web-0"].worker, world.now, Reason.SILENT, Remedy.ABORT, starts=5000)}
    world.ledger = adopt(Ledger(), tried)  # as after some days: doubling must not overflow
    world.outcomes.append(Outcome(tried["web:web-0"].worker, Result.ENDED))
    world.run(300)
    times = [at for at, _ in world.starts]
    assert len(times) >= 9
    assert max(later - earlier for earlier, later in itertools.pairwise(times[2:])) <= 32


def test_a_fatal_that_we_did_not_cause_is_left_alone() -> None:
    world = World(2)
    world.sims[0].can_start = False
    world.dies(world.sims[0])
    world.run(3600)
    assert world.sims[0].state is State.FATAL
    assert (world.starts, world.restarts) == ([], [])


def test_an_exit_that_we_did_not_cause_is_left_alone() -> None:
    world = World(2)
    world.sims[0].autorestart = False
    world.dies(world.sims[0])
    world.run(3600)
    assert (world.starts, world.restarts) == ([], [])


@pytest.mark.parametrize("paused", [frozenset({"web"}), frozenset({"web:web-0"})])
def test_what_is_ours_is_not_started_while_paused(paused: frozenset[str]) -> None:
    world = World(2)
    world.sims[0].autorestart = False
    world.hang(0)
    world.run_until(lambda: world.restarts, 40)
    world.paused = paused
    world.run(60)
    assert world.starts == []
    world.paused = frozenset()
    world.run(10)
    assert len(world.starts) == 1


def test_what_an_update_removed_is_no_longer_ours() -> None:
    world = World(2)
    world.sims[0].can_start = False
    world.hang(0)
    world.run_until(lambda: world.restarts, 40)
    world.run(2)
    del world.sims[0]
    world.run(60)
    assert [str(note.detail) for note in world.told(GaveBack) if isinstance(note, GaveBack)] == [
        "it is no longer a process of supervisord"
    ]
    assert world.starts == []


def test_a_listener_restarted_in_the_middle_finishes_what_is_ours() -> None:
    """The worker was ended by the listener before; it is EXITED, and nobody else brings it back."""
    world = World(2)
    old = world.alive(0).pid
    world.sims[0].autorestart = False
    world.dies(world.sims[0])
    worker = WorkerId("web:web-0", old, old)
    mine = Ours(worker, world.now, Reason.SILENT, Remedy.ABORT, under_way=False)
    world.ledger = adopt(Ledger(), {"web:web-0": mine})
    world.run(30)
    assert len(world.starts) == 1
    assert len(world.told(Replaced)) == 1
    program = world.ledger.programs["web"]
    assert program.ours == {}
    assert [name for _, name in program.spending.restarts] == ["web:web-0"]
    assert program.waiting["web:web-0"].wait_s == 10


def test_an_adopted_trial_that_never_serves_does_not_hold_the_others_for_ever() -> None:
    world = World(2)
    world.sims[0].can_start = False
    world.dies(world.sims[0])
    mine = Ours(WorkerId("web:web-0", 1, 1), world.now, Reason.SILENT, Remedy.ABORT, under_way=False)
    world.ledger = adopt(Ledger(), {"web:web-0": mine})
    world.run(5)
    world.hang(1)
    took_s = world.run_until(lambda: world.restarts, 200)
    assert took_s == pytest.approx(145, abs=3)


def test_hung_again_before_it_was_healthy_it_is_still_ours() -> None:
    world = World(2, FREE)
    world.sims[0].poisoned = True
    world.hang(0)
    world.run(75)
    assert [index for index, _ in world.ended()] == [0, 0]
    assert not world.told(Replaced)
    world.sims[0].poisoned = False
    world.run(120)
    assert len(world.told(Replaced)) == 1
    assert world.past(0).verdict is Verdict.HEALTHY


def test_a_name_of_ours_that_became_a_tree_is_given_back() -> None:
    world = World(2)
    world.sims[0].can_start = False
    world.hang(0)
    world.run_until(lambda: world.restarts, 40)
    world.sims[0].can_start = True
    world.sims[0].start_s = FOREVER
    first, second = world.members()
    world.run(1)
    world.frozen = (replace(first, state=State.RUNNING, not_watched="its child process serves"), second)
    world.roster_at = world.now
    world.run(2)
    assert "not watched" in str(world.told(GaveBack))
    assert len(world.restarts) == 1


def test_a_program_that_the_operator_stops_is_not_started_by_us() -> None:
    """A name that is FATAL cannot be stopped: supervisord calls it "not running", and it stays FATAL."""
    world = World(2, FREE)
    world.sims[0].can_start = False
    world.hang(0)
    world.run_until(lambda: world.sims[0].state is State.FATAL, 100)
    world.operator_stops(1)
    world.run(100)
    assert world.starts == []
    assert [note.name for note in world.told(GaveBack)] == ["web:web-0"]


def test_one_that_was_alone_before_is_started_again() -> None:
    world = World(2, FREE)
    world.operator_stops(1)
    world.run(5)
    world.sims[0].autorestart = False
    world.hang(0)
    world.run_until(lambda: world.starts, 60)
    world.run(10)
    assert world.serving() == [0]
