"""Scripted histories of limits, one behaviour each: who is replaced, what goes before, and what holds it."""

from __future__ import annotations

import itertools

import pytest
from unit.histories import FOREVER, World
from unit.rolls import asked

from supervisor_uvicorn.ledger import Held, Outcome, Reason, Remedy, Result, WouldRestart
from supervisor_uvicorn.model import Answer, State
from supervisor_uvicorn.reload import renewed
from supervisor_uvicorn.settings import Backoff, Budget, ListenSettings, Settings
from supervisor_uvicorn.settings_limits import MaxAge, MaxFds

MB = 1e6
LEAK = Settings(max_rss_bytes=100_000_000)


def test_a_leaking_worker_is_drained_and_the_new_one_stays() -> None:
    world = World(4, LEAK)
    world.leak(1 * MB, 1, again=False)  # 50 MB above what it began with after 50 s
    took_s = world.run_until(lambda: world.restarts, 100)
    assert 50 <= took_s <= 65
    (_, order), *_ = world.restarts
    assert (order.worker.name, order.reason, order.remedy) == ("web:web-1", Reason.MAX_RSS, Remedy.DRAIN)
    assert "MB resident, more than 95.4 MB" in order.detail
    world.run(600)
    assert world.ended() == [(1, "max_rss")]
    assert not world.program.spending.restarts
    assert not world.program.suspended


def test_a_peak_that_is_gone_at_the_next_measurement_is_forgiven() -> None:
    world = World(4, LEAK)
    world.alive(0).rss_bytes = 400 * MB
    world.run_until(lambda: world.past(0).over, 10)
    world.alive(0).rss_bytes = 50 * MB
    world.run(60)
    assert world.ended() == []


def test_looks_between_two_measurements_count_nothing() -> None:
    world = World(4, LEAK)
    world.alive(0).rss_bytes = 400 * MB
    world.run_until(lambda: world.past(0).over, 10)
    for _ in range(40):
        world.look(0.1)
        assert world.ended() == []
    world.run(5)
    assert world.ended() == [(0, "max_rss")]


def test_what_nobody_measures_any_more_is_not_acted_on() -> None:
    world = World(4, LEAK)
    asked_at = world.now
    world.paused = frozenset({"web"})
    world.alive(0).rss_bytes = 400 * MB
    world.run(60)
    assert world.past(0).over_limit
    world.measures = False
    world.run(130)
    world.paused = frozenset()
    world.run(60)
    assert world.ended() == []
    world.measures = True
    world.run(15)
    assert world.ended() == [(0, "max_rss")], asked_at


@pytest.mark.parametrize("most", [1, 4])
def test_four_that_leak_alike_go_one_at_a_time_whatever_max_unavailable_says(most: int) -> None:
    world = World(4, Settings(max_rss_bytes=100_000_000, max_unavailable=most))
    world.leak(1 * MB, 0, 1, 2, 3, again=False)
    away = []
    while len(world.restarts) < 4 or len(world.serving()) < 4:
        world.look(0.5)
        away.append(4 - len(world.serving()))
        assert world.now < 10_300, world.story()
    assert max(away) == 1
    assert sorted(world.ended()) == [(index, "max_rss") for index in range(4)]
    assert world.held() == []  # waiting for its turn is no news


def test_the_only_worker_is_replaced() -> None:
    world = World(1, LEAK)
    world.leak(1 * MB, 0, again=False)
    world.run_until(lambda: world.restarts, 100)
    assert world.ended() == [(0, "max_rss")]


def test_descriptors() -> None:
    world = World(3, Settings(max_fds=MaxFds(share=0.5)))
    world.alive(2).fds = 501  # of 1000
    world.run(20)
    assert world.ended() == [(2, "max_fds")]


def test_ages_are_spread_and_one_goes_at_a_time() -> None:
    world = World(4, Settings(max_age=MaxAge(300.0, 100.0)))
    away = []
    while world.now < 10_000 + 1500:
        world.look(1.0)
        away.append(4 - len(world.serving()))
    assert max(away) == 1
    by_name: dict[int, list[float]] = {}
    for at, order in world.restarts:
        assert order.reason is Reason.MAX_AGE
        by_name.setdefault(int(order.worker.name[-1]), []).append(at)
    assert sorted(by_name) == [0, 1, 2, 3]
    for times in by_name.values():
        lives = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert lives
        assert all(299 <= life_s <= 415 for life_s in lives)


def test_a_limit_that_a_new_worker_is_over_at_once_brakes_itself() -> None:
    world = World(4, LEAK)
    world.leak(20 * MB, 0)
    world.run(3600)
    times = world.restarted_at()
    assert {index for index, _ in world.ended()} == {0}
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps == sorted(gaps)
    assert 300 <= gaps[-1] < 320
    assert ("web:web-0", "backoff") in world.held()


def test_a_hang_does_not_wait_for_the_backoff_of_a_limit() -> None:
    world = World(4, LEAK)
    world.leak(20 * MB, 0)
    world.run(1200)
    before = len(world.restarts)
    world.run_until(lambda: len(world.restarts) > before, 330)
    world.run(10)
    assert world.program.recycled["web:web-0"].wait_s == 300.0
    before = len(world.restarts)
    world.hang(0)
    took_s = world.run_until(lambda: len(world.restarts) > before, 60)
    assert world.ended()[-1] == (0, "silent")
    assert took_s < 35


def test_a_silent_worker_goes_first() -> None:
    world = World(4, LEAK)
    world.leak(1 * MB, 0, again=False)
    world.run(45)
    world.hang(1)
    world.run(60)
    assert [reason for _, reason in world.ended()] == ["silent", "max_rss"]


def test_a_roll_goes_first_and_does_the_limits_work() -> None:
    world = World(4, LEAK)
    for sim in world.sims:
        sim.start_s = 30.0
    world.leak(1 * MB, 3, again=False)
    world.run(40)
    asked(world)
    world.run(200)
    assert world.ended() == [(index, "rolling") for index in range(4)]


def test_a_roll_that_is_asked_for_meanwhile_waits_for_the_new_worker() -> None:
    world = World(3, LEAK)
    world.sims[0].start_s = 20.0
    world.leak(1 * MB, 0, again=False)
    world.run_until(lambda: world.restarts, 100)
    asked(world)
    while world.roll.rolling:
        world.look(0.5)
        assert 3 - len(world.serving()) <= 1
        assert world.now < 10_300
    assert world.ended() == [(0, "max_rss"), (1, "rolling"), (2, "rolling")]


def test_not_in_panic() -> None:
    world = World(4, Settings(max_rss_bytes=100_000_000, path="/healthz"))
    world.run(20)
    world.alive(0).rss_bytes = 400 * MB
    world.paused = frozenset({"web:web-0"})
    world.run(20)
    world.dependency_up = False
    world.run(30)
    assert world.program.panic.since is not None
    world.paused = frozenset()
    world.answer(Answer.BUSY, 0)  # it is well for all that can be said of it
    world.run(40)
    assert world.ended() == []
    world.dependency_up = True
    world.answer(Answer.RIGHT, 0)
    world.run(30)
    assert world.ended() == [(0, "max_rss")]


def test_not_while_the_program_is_suspended() -> None:
    world = World(3, Settings(max_rss_bytes=100_000_000, budget=Budget(1, 600), backoff=Backoff(0, 0)))
    world.hang(1)
    world.run_until(lambda: world.restarts, 60)
    world.run(20)
    world.hang(1)
    world.run(50)
    assert "web" in world.program.suspended or "web:web-1" in world.program.suspended
    world.recover(1)
    world.alive(0).rss_bytes = 400 * MB
    world.run(120)
    assert world.ended() == [(1, "silent")]
    assert ("web:web-0", "suspended") in world.held()
    world.run(500)
    assert (0, "max_rss") in world.ended()


@pytest.mark.parametrize("subject", ["web", "web:web-0"])
def test_not_while_it_is_paused(subject: str) -> None:
    world = World(3, LEAK)
    world.ask("pause", subject)
    world.alive(0).rss_bytes = 400 * MB
    world.run(120)
    assert world.ended() == []
    assert world.held() == [("web:web-0", "paused")]
    world.ask("resume", subject)
    world.run(5)
    assert world.ended() == [(0, "max_rss")]


def test_not_while_a_peer_does_not_serve() -> None:
    world = World(3, LEAK)
    world.sims[1].start_s = 60.0
    world.dies(world.sims[1])
    world.alive(0).rss_bytes = 400 * MB
    world.run(50)
    assert world.ended() == []
    world.run(30)
    assert world.ended() == [(0, "max_rss")]


def test_a_replacement_that_never_comes_up_keeps_the_others() -> None:
    world = World(4, LEAK)
    world.leak(1 * MB, 0, 1, 2, 3, again=False)
    world.run(40)
    for sim in world.sims:
        sim.can_start = False
    world.run(900)
    assert {index for index, _ in world.ended()} == {world.ended()[0][0]}
    assert len(world.serving()) == 3
    assert world.starts  # what we took down is ours


def test_where_a_path_is_set_the_next_waits_for_a_right_answer() -> None:
    world = World(3, Settings(max_rss_bytes=100_000_000, path="/healthz"))
    for sim in world.sims:
        sim.wrong_again = True
    world.leak(1 * MB, 0, 1, 2, again=False)
    world.run_until(lambda: world.restarts, 100)
    world.run(60)
    assert len(world.restarts) == 1


def test_what_is_not_healthy_is_no_matter_of_limits() -> None:
    world = World(3, LEAK)
    world.alive(0).rss_bytes = 400 * MB
    world.alive(0).stopping_since = world.now  # it drains by itself
    world.sims[1].hidden = True
    world.alive(1).rss_bytes = 400 * MB
    world.run(60)
    assert world.ended() == []


def test_a_limit_is_told_in_a_dry_run() -> None:
    world = World(3, Settings(max_rss_bytes=100_000_000, dry_run=True))
    world.alive(0).rss_bytes = 400 * MB
    world.run(300)
    assert world.ended() == []
    told = [note for note in world.told(WouldRestart) if isinstance(note, WouldRestart)]
    assert [note.order.reason for note in told] == [Reason.MAX_RSS]


def test_a_remedy_that_is_called_off_gives_its_backoff_back() -> None:
    world = World(3, LEAK)
    world.sims[0].result = Result.CALLED_OFF
    world.alive(0).rss_bytes = 400 * MB
    world.run_until(lambda: world.restarts, 20)
    assert "web:web-0" in world.program.recycled
    world.run_until(lambda: "web:web-0" not in world.program.recycled, 20)
    assert "web:web-0" not in world.program.waiting
    world.run(60)
    assert len(world.restarts) > 1  # and it is tried again


def test_one_that_is_stuck_is_not_repeated() -> None:
    world = World(3, LEAK)
    world.sims[0].result = Result.STUCK
    world.alive(0).rss_bytes = 400 * MB
    world.run(900)
    assert world.ended() == [(0, "max_rss")]


def test_the_next_listener_knows_the_backoff() -> None:
    world = World(4, LEAK)
    world.leak(20 * MB, 0)
    world.run(1200)
    before = len(world.restarts)
    last_at = world.restarted_at()[-1]
    world.run(10)
    world.new_listener()
    world.run_until(lambda: len(world.restarts) > before, 400)
    assert world.restarted_at()[-1] - last_at >= 300


def test_a_listener_killed_in_mid_drain_takes_nobody_else() -> None:
    world = World(4, LEAK)
    world.sims[0].remedy_s = 20.0
    world.alive(0).rss_bytes = 400 * MB
    world.alive(1).rss_bytes = 400 * MB
    world.run_until(lambda: world.restarts, 20)
    world.new_listener(1.0)
    world.run(15)
    assert world.ended() == [(0, "max_rss")]
    world.run(60)
    assert world.ended() == [(0, "max_rss"), (1, "max_rss")]


def test_a_worker_back_within_its_limit_is_left() -> None:
    world = World(3, LEAK)
    world.paused = frozenset({"web"})
    world.alive(0).rss_bytes = 400 * MB
    world.run(30)
    world.alive(0).rss_bytes = 60 * MB
    world.run(10)
    world.paused = frozenset()
    world.run(60)
    assert world.ended() == []


def test_that_it_waits_is_told_once_and_only_after_a_minute() -> None:
    world = World(3, LEAK)
    world.sims[1].start_s = FOREVER
    world.settings = Settings(max_rss_bytes=100_000_000, start_timeout_s=1000.0)
    world.dies(world.sims[1])
    world.alive(0).rss_bytes = 400 * MB
    world.run(60)
    assert world.held() == []
    world.run(200)
    assert [note.brake for note in world.told(Held) if isinstance(note, Held)] == ["max_unavailable"]


def test_an_outcome_of_another_pid_changes_nothing() -> None:
    world = World(3, LEAK)
    world.outcomes.append(Outcome(world.past(0).worker, Result.CALLED_OFF, "socket"))  # type: ignore[arg-type]
    world.run(10)
    assert not world.program.recycled
    assert {member.state for member in world.members()} == {State.RUNNING}


def test_what_is_under_way_comes_back_also_when_dry_run_is_set_meanwhile() -> None:
    world = World(3, LEAK)
    world.sims[0].autorestart = False
    world.sims[0].remedy_s = 5.0
    world.alive(0).rss_bytes = 400 * MB
    world.run_until(lambda: world.restarts, 20)
    world.settings = Settings(max_rss_bytes=100_000_000, dry_run=True)
    world.alive(1).rss_bytes = 400 * MB
    world.run(60)
    assert [order.name for _, order in world.starts] == ["web:web-0"]
    assert world.serving() == [0, 1, 2]
    assert world.ended() == [(0, "max_rss")]


def test_in_panic_it_is_told_to_wait_for_that() -> None:
    world = World(4, Settings(max_rss_bytes=100_000_000, path="/healthz", failing_after=1))
    world.run(20)
    world.alive(0).rss_bytes = 400 * MB
    world.ask("pause", "web", for_s=30.0)
    world.run(25)
    world.answer(Answer.WRONG, 1, 2, 3)
    world.run(100)
    assert world.ended()[0][1] == "canary"
    assert ("web:web-0", "panic") in world.held()


@pytest.mark.parametrize("sickness", ["hung", "failing"])
def test_one_that_is_sick_and_held_goes_first_whatever_max_unavailable_says(sickness: str) -> None:
    limits = Settings(max_rss_bytes=100_000_000, max_unavailable=3, path="/healthz")
    world = World(4, limits)
    world.run(20)
    world.ask("pause", "web:web-1")
    if sickness == "hung":
        world.hang(1)
    else:
        world.answer(Answer.WRONG, 1)
    world.run(60)
    world.alive(0).rss_bytes = 400 * MB
    world.run(120)
    assert world.ended() == []
    assert ("web:web-0", "sick") in world.held()
    world.ask("resume", "web:web-1")
    world.run(60)
    assert [reason for _, reason in world.ended()] == ["silent" if sickness == "hung" else "failing", "max_rss"]


def test_it_waits_for_the_end_of_a_roll_of_others() -> None:
    world = World(4, LEAK)
    world.sims[1].traced_by = 77  # so that its turn does not come
    world.ask("restart", "web:web-1")
    world.alive(0).rss_bytes = 400 * MB
    world.run(120)
    assert world.ended() == []
    assert ("web:web-0", "rolling") in world.held()
    world.sims[1].traced_by = 0
    world.run(60)
    assert world.ended() == [(1, "rolling"), (0, "max_rss")]


def test_who_is_not_known_to_be_well_is_left() -> None:
    world = World(3, Settings(max_rss_bytes=100_000_000, path="/wrong"), dependency_up=False)
    world.run(20)
    world.alive(0).rss_bytes = 400 * MB
    world.run(30)
    assert world.past(0).verdict.value == "unknown"  # nobody has answered right yet
    assert world.past(0).over_limit
    assert world.ended() == []


def test_a_remedy_that_is_called_off_gives_back_the_backoff_of_limits_and_no_other() -> None:
    world = World(3, LEAK)
    world.hang(0)
    world.run_until(lambda: world.restarts, 60)
    world.run(20)
    assert "web:web-0" in world.program.waiting
    world.sims[0].result = Result.CALLED_OFF
    world.alive(0).rss_bytes = 400 * MB
    world.run_until(lambda: len(world.restarts) > 1, 30)
    world.run_until(lambda: "web:web-0" not in world.program.ours, 20)
    assert world.program.recycled == {}
    assert "web:web-0" in world.program.waiting


def test_whose_loop_does_not_turn_just_now_is_left_until_it_does() -> None:
    """It may compute for half a minute: TERM would not be heard, and KILL would end what it computes."""
    world = World(3, LEAK)
    world.paused = frozenset({"web"})
    world.alive(0).rss_bytes = 400 * MB
    world.run(20)
    world.hang(0, for_s=25.0, burning=True)
    world.run(2)
    world.paused = frozenset()
    world.run(22)
    assert world.past(0).over_limit
    assert world.ended() == []
    world.run(10)
    assert world.ended() == [(0, "max_rss")]


def test_a_peer_that_starts_by_itself_is_waited_for_whatever_max_unavailable_says() -> None:
    world = World(4, Settings(max_rss_bytes=100_000_000, max_unavailable=3))
    world.sims[3].start_s = 60.0
    world.dies(world.sims[3])
    world.alive(1).rss_bytes = 400 * MB
    world.run(50)
    assert world.ended() == []
    world.run(30)
    assert world.ended() == [(1, "max_rss")]


def test_of_two_limits_the_one_that_stays_is_acted_on() -> None:
    world = World(3, Settings(max_rss_bytes=100_000_000, max_age=MaxAge(150.0, 0.0)))
    for index in range(12):
        world.alive(0).rss_bytes = (400 if index % 2 else 50) * MB
        world.run(5)
    assert (0, "max_age") in world.ended()


@pytest.mark.parametrize("limit", [None, 500_000_000])
def test_after_a_reload_only_the_new_limit_counts(limit: int | None) -> None:
    world = World(3, LEAK)
    world.paused = frozenset({"web"})
    world.alive(0).rss_bytes = 400 * MB
    world.run(20)
    assert world.past(0).over_limit
    before, world.settings = world.settings, Settings(max_rss_bytes=limit)
    world.ledger = renewed(world.ledger, ListenSettings(general=before), ListenSettings(general=world.settings))
    world.paused = frozenset()
    world.run(60)
    assert world.ended() == []
