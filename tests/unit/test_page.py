"""The page: what the listener tells of its workers, and when that is news."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from histories import World
from hypothesis import given
from hypothesis import strategies as st

from supervisor_uvicorn.brakes import Spending
from supervisor_uvicorn.ledger import Ledger, Program
from supervisor_uvicorn.limits import Over
from supervisor_uvicorn.model import Address, Answer, HttpOutcome, Member, State, Usage, Verdict, WorkerId
from supervisor_uvicorn.names import means
from supervisor_uvicorn.report.page import MOST_ANSWERS, changes, page
from supervisor_uvicorn.rollout import Roll, RollState, Stage, Turn
from supervisor_uvicorn.settings import Settings
from supervisor_uvicorn.settings_kinds import Backoff, Budget
from supervisor_uvicorn.verdict import Past

NOW = 1000.0
AT = Address("tcp", "127.0.0.1", 8000)
LISTENER = {"pid": 12, "reports_every_s": 5.0, "dry_run": False}


def member(name: str, pid: int = 4711, state: State = State.RUNNING, **more: Any) -> Member:
    return Member(name, state, pid, pid or None, socket=AT, socket_inode=5, **more)


def past(of: Member, verdict: Verdict = Verdict.HEALTHY, reason: str = "", **more: Any) -> Past:
    return Past(of.name, of.worker, 0.0, state=of.state, verdict=verdict, reason=reason, since=NOW - 312.4, **more)


WEB = [member(f"web:web-{number}", 4711 + number) for number in range(3)]


def told(members: list[Member] = WEB, program: Program | None = None, **changed: Any) -> dict[str, Any]:
    if program is None:
        program = Program(workers={one.name: past(one) for one in members})
    values: dict[str, Any] = {"paused": {}, "restarts": {}, "answers": [], "listener": LISTENER, "now": NOW, **changed}
    return page(members, Ledger({"web": program}), **values)


def seen(world: World, paused: Mapping[str, float | None] | None = None) -> dict[str, Any]:
    """The one program of a simulated world."""
    found = page(
        world.members(), world.ledger, now=world.now, paused=paused or {}, restarts={}, answers=[], listener=LISTENER
    )
    (program,) = json.loads(json.dumps(found))["programs"]
    return dict(program)


def test_the_page_is_what_was_settled() -> None:
    http = HttpOutcome(Answer.RIGHT, "", 200, 0.0041234567)
    program = Program(workers={"web:web-0": past(WEB[0], lag_s=0.00002, http=http)})
    answer = {"id": "a1", "verb": "restart", "accepted": True, "detail": "rolling 4 workers of web"}
    found = json.loads(json.dumps(told(WEB[:1], program, restarts={"web:web-0": 3}, answers=[answer])))
    assert found == {
        "version": 1,
        "listener": LISTENER,
        "age_s": 0.0,
        "programs": [
            {
                "name": "web",
                "socket": "tcp://127.0.0.1:8000",
                "state": "watching",
                "detail": "",
                "workers": [
                    {
                        "name": "web:web-0",
                        "pid": 4711,
                        "state": "RUNNING",
                        "watched": True,
                        "verdict": "healthy",
                        "reason": "",
                        "lag_s": 0.00002,
                        "http": {"status": 200, "seconds": 0.004123},
                        "since_s": 312.4,
                        "restarts": 3,
                        "held": None,
                        "over": "",
                        "rss_bytes": None,
                        "age_s": None,
                        "cpu_s": None,
                        "fds": None,
                        "connections": None,
                        "helpers": None,
                    }
                ],
                "roll": None,
                "earlier_roll": None,
            }
        ],
        "answers": [answer],
    }


USAGE = Usage(NOW - 2.5, 70.0, 63 * 1024**2, cpu_s=4.1234, fds=22, fds_limit=1024, connections=3, helpers=1)


def test_what_a_worker_takes_is_on_it_and_its_age_is_that_of_the_report() -> None:
    its = past(WEB[0], usage=USAGE, over=(Over("max_rss", "63 MB resident, more than 40 MB"),))
    row = told(WEB[:1], Program(workers={"web:web-0": its}))["programs"][0]["workers"][0]
    assert {key: row[key] for key in TAKES} == {
        "rss_bytes": 63 * 1024**2,
        "age_s": 72.5,
        "cpu_s": 4.12,
        "fds": 22,
        "connections": 3,
        "helpers": 1,
    }
    assert row["over"] == "max_rss: 63 MB resident, more than 40 MB"
    bare = replace(its, usage=Usage(NOW, 1.0), over=())
    row = told(WEB[:1], Program(workers={"web:web-0": bare}))["programs"][0]["workers"][0]
    assert [row[key] for key in ("rss_bytes", "age_s", "cpu_s", "fds", "connections")] == [None, 1.0, None, None, None]
    assert row["over"] == ""


def test_a_process_that_is_gone_takes_nothing() -> None:
    its = past(WEB[0], usage=USAGE)
    for now in (replace(WEB[0], pid=0, born=None, state=State.STOPPED), replace(WEB[0], pid=99, born=99)):
        row = told([now], Program(workers={"web:web-0": its}))["programs"][0]["workers"][0]
        assert [row[key] for key in TAKES] == [None] * len(TAKES)


def test_what_a_worker_takes_is_no_news_but_over_which_limit_it_is_is() -> None:
    def situated(**changed: Any) -> Any:
        return changes(told(WEB[:1], Program(workers={"web:web-0": past(WEB[0], **changed)})))

    more = replace(USAGE, at=NOW, age_s=90.0, rss_bytes=1, cpu_s=9.0, fds=1, connections=0, helpers=0)
    assert situated(usage=USAGE) == situated(usage=more) == situated()
    over = situated(over=(Over("max_rss", "63 MB resident, more than 40 MB"),))
    assert over == situated(over=(Over("max_rss", "64 MB resident, more than 40 MB"),))
    assert over not in (situated(), situated(over=(Over("max_fds", "63 open descriptors, more than 40"),)))


TAKES = ("rss_bytes", "age_s", "cpu_s", "fds", "connections", "helpers")


def test_trees_and_names_that_were_never_looked_at_are_in_it() -> None:
    tree = member("old:old", not_watched="it runs with --workers 2")
    down = member("web:web-9", 0, State.FATAL)
    web, old = told([*WEB, down, tree], Program(workers={one.name: past(one) for one in WEB}))["programs"]
    assert (old["name"], old["state"]) == ("old", "watching")
    (worker,) = old["workers"]
    assert (worker["watched"], worker["verdict"], worker["reason"]) == (False, "unknown", "it runs with --workers 2")
    assert (worker["since_s"], worker["restarts"], worker["held"]) == (None, 0, None)
    assert (web["workers"][3]["pid"], web["workers"][3]["verdict"]) == (None, "unknown")


def test_two_sockets_of_a_program_are_both_named() -> None:
    other = replace(WEB[1], socket=Address("unix", path="/run/web.sock"))
    (program,) = told([WEB[0], other, replace(WEB[2], socket=None)])["programs"]
    assert program["socket"] == "tcp://127.0.0.1:8000, unix:///run/web.sock"
    assert told([replace(WEB[0], socket=None)])["programs"][0]["socket"] is None


def test_only_the_last_answers() -> None:
    answers = [{"id": str(number), "accepted": True, "detail": ""} for number in range(60)]
    assert told(answers=answers)["answers"] == answers[-MOST_ANSWERS:]


# -- what holds it ---------------------------------------------------------------------------------------------------


def test_a_program_of_which_nothing_is_held_is_watched() -> None:
    program = seen(World())
    assert (program["state"], program["detail"]) == ("watching", "")
    assert [worker["held"] for worker in program["workers"]] == [None] * 4


def test_panic_says_how_many_and_each_failing_worker_says_what_holds_it() -> None:
    world = World(4, Settings(path="/"))
    world.answer(Answer.WRONG, 0, 1, 2)
    world.run(30)
    program = seen(world)
    assert program["state"] == "panic"
    what = "3 of 4 workers are failing and 1 answer right: the cause may be behind them all"
    assert program["detail"] == f"{what}; nobody was replaced yet"
    assert [worker["held"] for worker in program["workers"]] == ["panic", "panic", "panic", None]
    for sim in world.sims:
        sim.wrong_again = True
    world.run_until(lambda: world.restarts, 120)
    world.run(2)
    assert "; 1 replaced as a trial, the last 2 s ago" in seen(world)["detail"]


def test_a_path_that_nobody_ever_answered_right_is_no_panic_but_is_said() -> None:
    world = World(2, Settings(path="/"), dependency_up=False)
    world.run(150)
    program = seen(world)
    assert [worker["held"] for worker in program["workers"]] == ["path", "path"]
    assert program["state"] == "panic" or "nobody has answered right" in program["detail"]


def test_a_spent_budget_says_which() -> None:
    world = World(4, Settings(silent_after_s=1.0, budget=Budget(2, 600.0), backoff=Backoff(0.0, 0.0)))
    for sim in world.sims[:2]:
        sim.poisoned = True
    world.hang(0, 1)
    world.run_until(lambda: "web" in world.ledger.programs["web"].suspended, 600)
    program = seen(world)
    assert program["state"] == "suspended"
    over_s = world.now - world.ledger.programs["web"].spending.restarts[0][0]
    assert program["detail"].startswith(f"the budget is spent: 2 restarts in {over_s:.0f} s (web:web-")


def test_a_worker_that_has_taken_its_share_of_the_budget_is_suspended_alone() -> None:
    program = Program(workers={one.name: past(one) for one in WEB}, suspended=frozenset({"web:web-1"}))
    (found,) = told(program=program)["programs"]
    assert found["state"] == "watching"
    assert [worker["held"] for worker in found["workers"]] == [None, "suspended", None]


def test_the_trial_that_a_silent_worker_waits_for_is_named() -> None:
    world = World(3, Settings(silent_after_s=1.0))
    world.sims[0].start_s = 60.0
    world.hang(0, 1)
    world.run(20)
    held = [worker["held"] for worker in seen(world)["workers"]]
    assert sorted(held, key=str) == [None, None, "trial"]


@pytest.mark.parametrize(
    ("paused", "state", "detail"),
    [
        ({"web": None}, "paused", "paused until resume"),
        ({"web:*": NOW + 40}, "paused", "paused for 40 s more"),
        ({"all": NOW + 40, "web": NOW + 50}, "paused", "paused for 50 s more"),
        ({"all": NOW + 40, "web": None}, "paused", "paused until resume"),
        ({"web": NOW}, "watching", ""),
        ({"web": NOW - 1, "api": None, "we": None, "web-0": None}, "watching", ""),
        ({"web:web-1": None}, "watching", ""),
        ({f"web:web-{number}": NOW + 10 + number for number in range(3)}, "paused", "paused for 10 s more"),
        ({}, "watching", ""),
    ],
)
def test_paused(paused: dict[str, float | None], state: str, detail: str) -> None:
    (program,) = told(paused=paused)["programs"]
    assert (program["state"], program["detail"]) == (state, detail)


def test_one_paused_worker_is_held_and_paused_goes_before_every_other_brake() -> None:
    program = Program(
        workers={one.name: past(one) for one in WEB},
        suspended=frozenset({"web"}),
        said={"web:web-1": "backoff", "web:web-2": "backoff"},
    )
    (found,) = told(program=program, paused={"web:web-1": None})["programs"]
    assert found["state"] == "suspended"
    assert [worker["held"] for worker in found["workers"]] == [None, "paused", "backoff"]
    assert told(program=program, paused={"web": None})["programs"][0]["state"] == "paused"


@given(st.dictionaries(st.sampled_from(["all", "web", "web:", "web:*", "web:web-0", "api", "*", ""]), st.none()))
def test_a_name_means_here_what_it_means_when_it_is_typed(paused: dict[str, None]) -> None:
    (program,) = told(WEB[:1], paused=paused)["programs"]
    assert (program["state"] == "paused") is any(means(name, "web:web-0") for name in paused)


# -- a roll ----------------------------------------------------------------------------------------------------------


def rolling(**changed: Any) -> Roll:
    def turn(number: int, stage: Stage, **more: Any) -> Turn:
        name = f"web:web-{number}"
        return Turn(name, WorkerId(name, 80 + number, 80 + number), stage, **more)

    turns = (
        turn(0, Stage.DONE, gone_at=NOW - 9, new_pid=4711),
        turn(1, Stage.UNDER_WAY, gone_at=NOW - 2),
        turn(2, Stage.WAITING),
    )
    return replace(Roll(("a1",), turns, NOW - 12.3), **changed)


def roll_of(roll: Roll, members: list[Member] = WEB) -> dict[str, Any]:
    program = Program(workers={one.name: past(one, Verdict.STARTING) for one in members}, roll=roll)
    found: dict[str, Any] = told(members, program)["programs"][0]["roll"]
    return found


def test_a_roll_is_told_turn_by_turn() -> None:
    assert roll_of(rolling()) == {
        "asked": ["a1"],
        "state": "rolling",
        "detail": "",
        "since_s": 12.3,
        "took_s": None,
        "turns": [
            {"name": "web:web-0", "old_pid": 80, "new_pid": 4711, "stage": "done", "detail": ""},
            {"name": "web:web-1", "old_pid": 81, "new_pid": None, "stage": "under way", "detail": "pid 4712 starting"},
            {"name": "web:web-2", "old_pid": 82, "new_pid": None, "stage": "waiting", "detail": ""},
        ],
    }


def test_a_turn_under_way_says_how_far_it_is() -> None:
    turns = list(rolling().turns)
    turns[1] = replace(turns[1], gone_at=None)
    assert roll_of(rolling(turns=tuple(turns)))["turns"][1]["detail"] == "pid 81 draining"
    down = [WEB[0], member("web:web-1", 0, State.BACKOFF), WEB[2]]
    assert roll_of(rolling(), down)["turns"][1]["detail"] == "BACKOFF in supervisord"
    exited = [WEB[0], member("web:web-1", 81, State.EXITED), WEB[2]]
    assert roll_of(rolling(), exited)["turns"][1]["detail"] == "EXITED in supervisord", "and it is the old one"
    turns[1] = replace(turns[1], old=None, gone_at=NOW)
    assert roll_of(rolling(turns=tuple(turns)), down)["turns"][1]["old_pid"] is None


def test_a_roll_that_has_ended_says_how_long_it_took() -> None:
    roll = roll_of(rolling(state=RollState.STOPPED, detail="it does not start", ended_at=NOW - 2))
    assert (roll["state"], roll["detail"], roll["since_s"], roll["took_s"]) == (
        "stopped",
        "it does not start",
        12.3,
        10.3,
    )
    assert [turn["detail"] for turn in roll["turns"]] == ["", "", ""]


def test_the_roll_before_is_told_in_the_same_form() -> None:
    ended = rolling(asked=("a0",), state=RollState.DONE, ended_at=NOW - 2)
    workers = {one.name: past(one) for one in WEB}
    (found,) = told(WEB, Program(workers=workers, roll=rolling(), earlier=ended))["programs"]
    assert (found["roll"]["asked"], found["earlier_roll"]["asked"]) == (["a1"], ["a0"])
    (alone,) = told(WEB, Program(workers=workers, roll=ended))["programs"]
    assert found["earlier_roll"] == alone["roll"]


# -- what is news ----------------------------------------------------------------------------------------------------


def situation(elapsed_s: float = 0.0, **changed: Any) -> dict[str, Any]:
    """A page with everything in it that moves by itself, so long after :data:`NOW`."""
    now = NOW + elapsed_s
    http = HttpOutcome(Answer.RIGHT, "", 200, 0.004 + elapsed_s / 1000)
    workers = {
        "web:web-0": past(WEB[0], lag_s=0.00002 + elapsed_s / 1e6, http=http),
        "web:web-1": past(WEB[1], Verdict.SILENT, f"its event loop has not turned for {31.2 + elapsed_s:.1f} s"),
        "web:web-2": past(WEB[2], Verdict.STARTING, f"not serving after {91 + elapsed_s:.0f} s (start_timeout 90 s)"),
    }
    roll = rolling(detail=f"waits: backoff, again in {100 - elapsed_s:.0f} s")
    spending = Spending(((900.0, "web:web-0"),))
    earlier = rolling(asked=("a0",), state=RollState.STOPPED, detail="it does not start", ended_at=NOW - 2)
    suspended = frozenset({"web"})
    program = Program(workers=workers, roll=roll, earlier=earlier, suspended=suspended, spending=spending)
    return told(WEB, program, now=now, **changed)


def test_what_moves_by_itself_is_no_news() -> None:
    first = situation()
    for elapsed_s in (0.3, 1.0, 7.0):
        later = situation(elapsed_s)
        assert later != first
        assert changes(later) == changes(first)
    paused = {"web": NOW + 40}
    assert changes(situation(paused=paused)) == changes(situation(5.0, paused=paused))
    hash(changes(first))


STILL = {"age_s", "version", "lag_s", "since_s", "seconds", "verb", *TAKES}


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    return [path] if inner is None else list(itertools.chain(*(leaves(child, (*path, key)) for key, child in inner)))


ANSWERS = [{"id": "a1", "verb": "restart", "accepted": True, "detail": "rolling"}]


@pytest.mark.parametrize(
    "path", [path for path in leaves(situation(answers=ANSWERS)) if not STILL & set(path)], ids=str
)
def test_everything_else_is_news(path: tuple[Any, ...]) -> None:
    before = situation(answers=ANSWERS)
    after = copy.deepcopy(before)
    where = after
    for key in path[:-1]:
        where = where[key]
    where[path[-1]] = {"status": 500, "seconds": 0.1} if path[-1] == "http" else "something else"
    assert changes(after) != changes(before)
