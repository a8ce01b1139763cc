"""The oracle and the plan by themselves: an oracle that cannot say "wrong" proves nothing."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import pytest

from faults.load import Lost
from faults.oracle import Done, Facts, judge
from faults.plan import HARMLESS, SICK, SOCKETS, SURROUNDINGS, WORKERS, Fault, Round, plan
from faults.trace import End, Event

LISTENER = "uvicorn-health"
BEGAN = 1_000_000.0
ROUND = Round(0, (Fault("sleep", 0.0, "web-1"),))


def stamp(moment: float) -> str:
    return datetime.datetime.fromtimestamp(moment, datetime.timezone.utc).isoformat(timespec="milliseconds")


def restart(pid: int, after_s: float, reason: str = "silent") -> Event:
    return {"event": "restart", "pid": pid, "reason": reason, "time": stamp(BEGAN + after_s), "message": f"pid {pid}",
            "worker": "web:web-1"}  # fmt: skip


def replaced(pid: int) -> Event:
    return {"event": "replaced", "pid": pid + 100, "old_pid": pid, "time": stamp(BEGAN + 5)}


def killed_before_it_said(reason: str) -> Facts:
    """The listener was killed between its order and the line that tells it; the next one tells what came of it."""
    its = facts()
    its.events = [event | {"reason": reason} for event in its.events if event["event"] == "replaced"]
    its.listener_killed = frozenset({99})
    return its


def verdict(pid: int, words: str) -> Event:
    return {"event": "verdict", "pid": pid, "verdict": words, "worker": "web:web-2", "message": f"pid {pid}",
            "time": stamp(BEGAN + 1)}  # fmt: skip


def facts(**how: Any) -> Facts:
    """One hung worker, pid 11, that was found and replaced as it should be."""
    done = Done("sleep", "web-1", 11, BEGAN, least_s=1.95, bound_s=5.5, gone=BEGAN + 2.6)
    ends = [End("web-1", 11, "terminated by SIGKILL; not expected")]
    return Facts(**{"sick": [done], "ends": ends, "events": [restart(11, 2.5), replaced(11)], **how})


def wrong(found: Facts) -> list[str]:
    judgement = judge(ROUND, found, LISTENER)
    return judgement.wrong + [what for line in judgement.faults for what in line["wrong"]]  # type: ignore[attr-defined]


def lost(pid: int | None, after_s: float, how: str = "unanswered") -> Lost:
    return Lost(BEGAN - 1, BEGAN + after_s, pid, how, "")


def test_what_is_right_is_called_right() -> None:
    assert wrong(facts()) == []


def test_a_listener_killed_before_it_could_say_so() -> None:
    assert wrong(killed_before_it_said("silent")) == []
    assert wrong(killed_before_it_said("failing")) == ["as failing instead of silent"]
    alone = killed_before_it_said("silent")
    alone.listener_killed = frozenset()
    assert wrong(alone) == ["the listener did not say that it restarts it"]


def test_a_spin_beside_slow_answers_may_be_called_failing() -> None:
    spin = Fault("spin", 1.0, "web-1")
    slow = Round(0, (spin,), (Fault("all-slow", 0.0, "", 12.0),))
    assert slow.reasons(spin) == ("silent", "failing")
    assert slow.bound_s(spin) > Round(0, (spin,)).bound_s(spin)
    assert Round(0, (spin,)).reasons(spin) == ("silent",)
    its = facts()
    its.events[0]["reason"] = "failing"
    its.ends = [End("web-1", 11, "terminated by SIGTERM; not expected")]
    assert wrong(its) == ["as failing instead of silent"]
    its.sick[0].may_be = ("failing",)
    assert wrong(its) == []


def test_every_trouble_has_its_time_to_recover() -> None:
    for what in SURROUNDINGS:
        sleep = Fault("sleep", 0.0, "web-1")
        alone, around = Round(0, (sleep,)), Round(0, (sleep,), surroundings=Fault(what, 1.0, for_s=4.0))
        assert 5.0 < around.bound_s(sleep) - alone.bound_s(sleep) <= 25.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.events.pop(0), "did not say that it restarts"),
        (lambda f: f.events.pop(1), "did not say that it was replaced"),
        (lambda f: f.events.__setitem__(0, restart(11, 2.5, "failing")), "as failing instead of silent"),
        (lambda f: f.events.__setitem__(0, restart(11, 1.5)), "after 1.50 s"),
        (lambda f: f.events.__setitem__(0, restart(11, 9.0)), "after 9.00 s"),
        (lambda f: f.events.append(restart(11, 2.7)), "restarted 2 times"),
        (lambda f: f.events.append(restart(12, 2.7)), "wrong restart"),
        (lambda f: f.ends.clear(), "was not ended"),
        (lambda f: f.ends.append(End("web-2", 12, "terminated by SIGKILL")), "nothing demanded it"),
        (lambda f: f.ends.append(End(LISTENER, 9, "exit status 1")), "the listener (pid 9) has ended"),
        (lambda f: f.lost.append(lost(12, 2.6)), "lost by a healthy worker"),
        (lambda f: f.lost.append(lost(None, 4.0)), "lost by a healthy worker"),
        (lambda f: f.lost.append(lost(None, 1.0)), "lost by a healthy worker"),
        (lambda f: f.lost.append(lost(None, 2.6, "refused")), "lost by a healthy worker"),
        (lambda f: f.left_over.append("processes [7]"), "left over"),
        (lambda f: f.events.append(verdict(12, "silent")), "wrong verdict"),
        (lambda f: f.events.append(verdict(12, "failing")), "wrong verdict"),
        (lambda f: f.events.__setitem__(0, restart(11, 0.5, "failing")), "without the time to drain"),
        (lambda f: f.events.extend([restart(12, 3.0, "failing")]), "while another one was not back (pid 11)"),
        (lambda f: f.trouble.append("no connection"), "the campaign itself"),
    ],
)
def test_what_is_wrong_is_called_wrong(change: Callable[[Facts], Any], words: str) -> None:
    found = facts()
    change(found)
    assert [what for what in wrong(found) if words in what], wrong(found)


def test_what_a_sick_worker_takes_along_is_not_lost_by_a_healthy_one() -> None:
    found = facts(lost=[lost(11, 2.6), lost(None, 2.7)])
    assert wrong(found) == []
    assert judge(ROUND, found, LISTENER).lost_with_the_sick == 2


def test_what_ends_by_itself_or_by_the_operator_is_nobodys_fault() -> None:
    found = facts(others={12: (BEGAN, BEGAN + 1)}, lost=[lost(12, 0.5), lost(None, 1.2)])
    found.ends.append(End("web-2", 12, "exit status 0; expected"))
    assert wrong(found) == []
    assert judge(ROUND, found, LISTENER).lost_with_the_ended == 2


def test_a_sick_worker_that_ends_by_itself_proves_nothing() -> None:
    found = facts(events=[], others={11: (BEGAN, BEGAN + 1)})
    assert wrong(found) == []
    assert "void" in judge(ROUND, found, LISTENER).faults[0]


def test_a_killed_listener_may_say_it_twice() -> None:
    found = facts(listener_killed=frozenset({9}))
    found.events.append(restart(11, 3.0))
    found.ends.append(End(LISTENER, 9, "terminated by SIGKILL"))
    assert wrong(found) == []


@pytest.mark.parametrize("socket", SOCKETS)
def test_a_plan_is_the_seeds_and_has_every_kind(socket: str) -> None:
    its = plan(7, socket, 90)
    assert its == plan(7, socket, 90)
    assert its != plan(8, socket, 90)
    sick = [fault for round_ in its for fault in round_.sick]
    assert len(sick) == 90
    assert {fault.what for fault in sick} == set(SICK)
    harmless = {fault.what for round_ in its for fault in round_.harmless}
    assert len(harmless) >= len(HARMLESS) * 0.7
    around = {round_.surroundings.what for round_ in its if round_.surroundings}
    assert len(around) >= len(SURROUNDINGS) * 0.6
    for round_ in its:
        touched = [fault.worker for fault in (*round_.sick, *round_.harmless) if fault.worker]
        assert len(set(touched)) == len(touched) <= len(WORKERS)
        assert sum(SICK[fault.what].peers for fault in round_.sick) <= 2, "more is panic, and nobody is to go"
    assert any(len(round_.sick) == len(WORKERS) for round_ in its), "all at once"
