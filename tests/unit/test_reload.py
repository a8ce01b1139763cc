"""Settings that are read again: what has changed, and what that does to what is remembered."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from unit.histories import World

from supervisor_uvicorn.brakes import Waiting
from supervisor_uvicorn.exit_on import STEADY_S, Beyond, leave
from supervisor_uvicorn.ledger import Ledger, Ours, Program, Reason, Remedy, Resumed, Suspended, WouldRestart
from supervisor_uvicorn.model import Answer, Member, State, Verdict, WorkerId
from supervisor_uvicorn.panic import Panic
from supervisor_uvicorn.reload import Changes, changes, fit_backoff, forget_answers, in_force, renewed
from supervisor_uvicorn.rollout import RollState
from supervisor_uvicorn.settings import ENTRIES, Backoff, Budget, ListenSettings, Settings
from supervisor_uvicorn.verdict import Past

OLD = Settings(path="/old")


def reload(world: World, **changed: Any) -> None:
    """As the look thread does it between two looks (watch.py ``renew``)."""
    after = replace(world.settings, **changed)
    before = ListenSettings(general=world.settings)
    world.ledger, world.settings = renewed(world.ledger, before, ListenSettings(general=after)), after


# -- what has changed --------------------------------------------------------------------------------------------------


def listening(by_group: dict[str, Settings] | None = None, general: Settings | None = None, **more: Any) -> Any:
    return ListenSettings(general=general or Settings(), by_group=by_group or {}, **more)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (listening(), listening(), ()),
        (
            listening(),
            listening(general=Settings(silent_after_s=20), pulse_s=0.5),
            ("pulse 1 -> 0.5", "silent_after 30 -> 20"),
        ),
        (
            listening({"web": Settings(silent_after_s=30)}),
            listening({"web": Settings(silent_after_s=20)}),
            ("silent_after 30 -> 20 (web)",),
        ),
        (  # its own section has the same change: once is enough
            listening({"web": Settings()}),
            listening({"web": Settings(dry_run=True)}, Settings(dry_run=True)),
            ("dry_run false -> true",),
        ),
        (  # a section that has come, and one that has gone
            listening({"api": Settings(path="/a")}),
            listening({"web": Settings(path="/w")}),
            ("path /a -> none (api)", "path none -> /w (web)"),
        ),
        (listening(groups=("web", "api")), listening(), ("group web,api -> none",)),
        (listening(), listening(general=Settings(backoff=Backoff(0, 0))), ("backoff 10:300 -> 0",)),
        (listening(), listening(general=Settings(budget=Budget(5))), ("budget max(3, workers)/600 -> 5/600",)),
        (listening(), listening(general=Settings(path="/" + "x" * 500)), ("path none -> /" + "x" * 76 + "...",)),
    ],
)
def test_what_has_changed(before: ListenSettings, after: ListenSettings, said: tuple[str, ...]) -> None:
    assert changes(before, after) == Changes(said)


def test_what_may_be_a_secret_is_not_written_out() -> None:
    before = listening({"web": Settings(headers=(("X-Token", "s3cret"),))}, notify_url="https://h/s3cret")
    after = listening(
        {"web": Settings(headers=(("X-Token", "t0ken"),))}, notify=("/bin/x", "t0ken"), notify_url="https://h/t0ken"
    )
    found = changes(before, after)
    assert found == Changes(("header has changed (web)",), ("notify has changed", "notify_url has changed"))


def test_what_counts_only_at_the_start_stays_and_is_said_each_time() -> None:
    before, loaded = listening(), listening(general=Settings(dry_run=True), log_format="json", metrics_textfile="/x")
    assert changes(before, loaded).at_start == ("log_format text -> json", "metrics_textfile none -> /x")
    now = in_force(before, loaded)
    assert (now.log_format, now.metrics_textfile, now.general.dry_run) == ("text", None, True)
    assert changes(now, loaded) == Changes((), ("log_format text -> json", "metrics_textfile none -> /x"))


def test_of_a_program_everything_is_taken() -> None:
    assert [entry.key for entry in ENTRIES if entry.at_start and entry.scope != "listener"] == []


# -- what is remembered of answers -------------------------------------------------------------------------------------


def known() -> Program:
    """One that has seen right answers, wrong ones, a panic and a canary."""
    worker = WorkerId("web:web-0", 7, 7)
    past = Past("web:web-0", worker, 1.0, wrong=2, wrong_asked_at=5.0, right_ever=True, answers_right=True)
    panic = Panic(10.0, 20.0, 1)
    canary = Ours(worker, 20.0, Reason.CANARY, Remedy.DRAIN, panic_before=panic)
    return Program({past.name: past}, {past.name: canary}, right_ever=True, panic=panic)


@pytest.mark.parametrize(
    "changed",
    [
        {"path": "/new"},
        {"path": None},
        {"host": "example.org"},
        {"headers": (("X", "y"),)},
        {"expect": ((200, 200),)},
        {"timeout_s": 0.1},
    ],
)
def test_another_question_is_a_new_beginning(changed: dict[str, Any]) -> None:
    program = forget_answers(known(), OLD, replace(OLD, **changed))
    past = program.workers["web:web-0"]
    assert (past.wrong, past.wrong_asked_at, past.right_ever, past.answers_right) == (0, None, False, False)
    assert (program.right_ever, program.panic) == (False, Panic())
    assert program.ours["web:web-0"].panic_before is None, "a canary that is called off gives no old panic back"


@pytest.mark.parametrize("changed", [{"failing_after": 1}, {"silent_after_s": 5}, {"panic_threshold": 0.1}, {}])
def test_the_same_question_keeps_all_answers(changed: dict[str, Any]) -> None:
    assert forget_answers(known(), OLD, replace(OLD, **changed)) == known()


def test_how_nobody_is_asked_is_no_question() -> None:
    """``host`` without a ``path``: nothing is remembered that could be forgotten."""
    assert forget_answers(known(), Settings(), Settings(host="x")) == known()


def test_each_program_by_its_own_settings() -> None:
    before = listening({"web": OLD}, OLD)
    after = listening({"web": Settings(path="/new")}, OLD)
    ledger = renewed(Ledger({"web": known(), "api": known()}), before, after)
    assert [ledger.programs[group].right_ever for group in ("web", "api")] == [False, True]


# -- histories ---------------------------------------------------------------------------------------------------------


def test_a_wrong_new_path_ends_nobody() -> None:
    """What the worlds answer stands for the new path: everybody is wrong on it, for hours."""
    world = World(4, replace(OLD, backoff=Backoff(0, 0), budget=Budget(1000)))
    assert world.program.right_ever
    reload(world, path="/slip")
    world.answer(Answer.WRONG, 0, 1, 2, 3)
    world.run(3600)
    assert world.restarts == []
    assert ("web", "path") in world.held()


def test_without_forgetting_it_would_end_some() -> None:
    """The same, with what the policy would make of it: so the one above can fail."""
    world = World(4, replace(OLD, backoff=Backoff(0, 0), budget=Budget(1000)))
    world.settings = replace(world.settings, path="/slip")
    world.answer(Answer.WRONG, 0, 1, 2, 3)
    world.run(3600)
    assert "canary" in {reason for _, reason in world.ended()}


def test_after_a_right_answer_on_the_new_path_the_wrong_are_judged_again() -> None:
    world = World(4, OLD)
    reload(world, path="/new")
    world.answer(Answer.WRONG, 0, 1, 2, 3)
    world.run(60)
    assert world.restarts == []
    world.answer(Answer.RIGHT, 0, 2, 3)
    world.run_until(lambda: world.restarts, 60)
    assert world.ended() == [(1, "failing")]


def test_a_path_that_is_taken_away_ends_the_failing() -> None:
    world = World(2, replace(OLD, max_unavailable=1))
    world.answer(Answer.WRONG, 0, 1)
    world.run_until(lambda: world.past(0).verdict is Verdict.FAILING, 30)
    reload(world, path=None)
    world.run(5)
    assert [world.past(index).verdict for index in (0, 1)] == [Verdict.HEALTHY, Verdict.HEALTHY]
    world.run(600)
    assert world.restarts == []


def test_a_new_listener_with_another_path_ends_nobody_either() -> None:
    """memory.py keeps the panic and the canaries of the old path, but not that anybody has answered right."""
    world = World(4, replace(OLD, backoff=Backoff(0, 0), budget=Budget(1000)))
    world.answer(Answer.WRONG, 0, 1, 2, 3)
    world.run_until(lambda: world.restarts, 200)
    before = len(world.restarts)
    world.run(30)
    world.settings = replace(world.settings, path="/slip")
    for sim in world.sims:
        sim.wrong_again = True
    world.answer(Answer.WRONG, 0, 1, 2, 3)
    world.new_listener(2.0)
    world.run(3600)
    assert len(world.restarts) == before


@pytest.mark.parametrize("step_s", [0.25, 1.0])
def test_silent_after_made_shorter_while_one_is_unread(step_s: float) -> None:
    world = World(4, Settings())
    world.hang(1)
    world.run(12, step_s)
    assert world.restarts == []
    reload(world, silent_after_s=10.0)
    assert world.run_until(lambda: world.restarts, 10, step_s) <= 2 * step_s, "it was unread in three looks already"
    assert world.ended() == [(1, "silent")]


def test_made_shorter_it_still_takes_three_looks() -> None:
    world = World(4, Settings())
    world.hang(1)
    world.look(1.0)
    world.look(1.5)
    reload(world, silent_after_s=1.0)
    world.look(0.01)
    assert world.restarts == [], "one look of ours is no evidence, however old the pulse is"
    world.run_until(lambda: world.restarts, 2, 0.25)
    assert world.ended() == [(1, "silent")]


def test_silent_after_made_longer_while_one_is_unread() -> None:
    world = World(4, Settings(silent_after_s=10))
    world.hang(1)
    world.run(9)
    reload(world, silent_after_s=60.0)
    world.run(45)
    assert world.restarts == []
    assert world.past(1).verdict is not Verdict.SILENT
    world.run_until(lambda: world.restarts, 15)


def test_made_longer_one_that_was_silent_and_held_is_so_no_more() -> None:
    world = World(4, Settings(silent_after_s=10))
    world.paused = frozenset({"web"})
    world.hang(1)
    world.run(15)
    assert world.past(1).verdict is Verdict.SILENT
    reload(world, silent_after_s=60.0)
    world.paused = frozenset()
    world.run(20)
    assert world.restarts == []
    world.run_until(lambda: world.restarts, 40)


def test_a_smaller_budget_suspends_and_a_larger_one_ends_it() -> None:
    world = World(4, Settings(silent_after_s=5, backoff=Backoff(0, 0)))
    for index in (0, 1):
        world.hang(index)
        world.run(20)
    assert len(world.restarts) == 2
    reload(world, budget=Budget(1))
    world.hang(2)
    world.run(30)
    assert len(world.restarts) == 2, "the two that were spent are more than the new budget"
    assert [note.subject for note in world.told(Suspended)] == ["web"]
    reload(world, budget=Budget(10))
    world.run_until(lambda: len(world.restarts) == 3, 5)
    assert [note.subject for note in world.told(Resumed)] == ["web"]


def hung_again_and_again(world: World, times: int) -> None:
    world.sims[1].poisoned = True
    world.hang(1)
    world.run_until(lambda: len(world.restarts) == times, 2000)


@pytest.mark.parametrize("backoff", [Backoff(0, 0), Backoff(1, 2)])
def test_backoff_off_or_shorter_counts_for_those_who_wait(backoff: Backoff) -> None:
    world = World(4, Settings(silent_after_s=5, budget=Budget(1000), start_timeout_s=1))
    hung_again_and_again(world, 5)
    assert world.program.waiting["web:web-1"].wait_s == 160
    reload(world, backoff=backoff)
    assert world.run_until(lambda: len(world.restarts) == 6, 400) < 80


def test_a_longer_backoff_leaves_who_waits() -> None:
    one = {"web:web-0": Waiting(5.0, 20.0)}
    program = Program(waiting=one, recycled=one)
    assert fit_backoff(program, Backoff(10, 300)) == program
    assert fit_backoff(program, Backoff(0, 0)) == Program(), "those of limits, too"


def test_dry_run_while_a_remedy_is_under_way() -> None:
    world = World(4, Settings(silent_after_s=5))
    world.sims[1].remedy_s = 3.0
    world.hang(1)
    world.run_until(lambda: world.restarts, 20)
    old = world.pids()[1]
    reload(world, dry_run=True)
    world.run(10)
    assert world.pids()[1] != old, "what is under way is finished"
    world.run_until(lambda: not world.program.ours, 30)
    world.hang(2)
    world.run(30)
    assert len(world.restarts) == 1
    assert len(world.told(WouldRestart)) == 1
    reload(world, dry_run=False)
    world.run_until(lambda: len(world.restarts) == 2, 10)


def test_max_unavailable_made_larger_and_smaller_during_a_roll() -> None:
    world = World(6, Settings())
    for sim in world.sims:
        sim.start_s = 4.0
    most = 0

    def away() -> int:
        return sum(sim.state is not State.RUNNING or not sim.process.serves(world.now) for sim in world.sims)

    world.ask("restart", "web")
    world.run_until(lambda: away() == 1, 10)
    reload(world, max_unavailable=3)
    world.run_until(lambda: away() == 3, 10)
    reload(world, max_unavailable=1)
    world.run_until(lambda: away() <= 1, 20)
    while world.roll.state is RollState.ROLLING:
        world.look(0.5)
        most = max(most, away())
    assert (world.roll.state, most) == (RollState.DONE, 1)


def test_another_path_during_a_roll() -> None:
    """The new ones have to answer right on the new path, and no old one is taken for proven by the old one."""
    world = World(4, OLD)
    world.ask("restart", "web")
    world.run_until(lambda: len(world.restarts) == 2, 30)
    reload(world, path="/slip")
    for sim in world.sims:
        sim.wrong_again = True
    world.answer(Answer.WRONG, 0, 2, 3)
    world.run_until(lambda: world.roll.state is not RollState.ROLLING, 300)
    assert world.roll.state is RollState.STOPPED
    assert len(world.restarts) == 2, "the wrong path stops the roll after the worker that was under way"


def test_exit_on_is_asked_anew_at_each_look() -> None:
    down = [Member("web:web-0", State.FATAL)]
    beyond, why = leave(Beyond(), down, 100.0, {}, lambda group: "none")
    beyond, why = leave(beyond, down, 200.0, {}, lambda group: "fatal")
    assert why == "", "two rosters, as after a start: not at once"
    assert leave(beyond, down, 200.0 + STEADY_S, {}, lambda group: "fatal")[1] != ""
