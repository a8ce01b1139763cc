"""The oracle: from what was done and what happened, what was wrong. Pure, so that it can itself be tested.

All times are seconds since 1970.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator

from faults.load import Lost
from faults.plan import SICK, STOPWAIT_S, Round
from faults.trace import End, Event, at

CLOSED_AFTER_S = 0.5
"""What a worker had is reset when it ends, and a client may hear of it so much later."""


@dataclasses.dataclass
class Done:
    """One fault that was carried out on a worker."""

    what: str
    worker: str
    pid: int = 0
    began: float = 0.0  # when it was made sick
    least_s: float = 0.0
    bound_s: float = 0.0
    may_be: tuple[str, ...] = ()  # other reasons than the usual one
    gone: float | None = None  # when its process was seen to be gone


@dataclasses.dataclass
class Facts:
    """What happened in one round."""

    sick: list[Done] = dataclasses.field(default_factory=list)
    ends: list[End] = dataclasses.field(default_factory=list)  # every process that ended, the listener's too
    events: list[Event] = dataclasses.field(default_factory=list)  # the listener's
    lost: list[Lost] = dataclasses.field(default_factory=list)
    # pid -> (when it was told to end, or ended by itself; when it was gone): the operator's, and --limit-max-requests
    others: dict[int, tuple[float, float]] = dataclasses.field(default_factory=dict)
    listener_killed: frozenset[int] = frozenset()  # by us, or by a limit of ours that it may die of
    left_over: list[str] = dataclasses.field(default_factory=list)
    trouble: list[str] = dataclasses.field(default_factory=list)  # the campaign's own: a fault that could not be had


@dataclasses.dataclass
class Judgement:
    """One line for each fault, and what was wrong in the round beside them."""

    faults: list[dict[str, object]]
    wrong: list[str]  # of the round
    lost_with_the_sick: int = 0
    lost_with_the_ended: int = 0


def judge(round_: Round, facts: Facts, listener: str) -> Judgement:
    """``listener`` is the listener's name in supervisord."""
    restarts: dict[int, list[Event]] = {}
    for event in facts.events:
        if event["event"] == "restart":
            restarts.setdefault(event["pid"], []).append(event)
    ended = {end.pid for end in facts.ends}
    lines = [_judge_fault(done, restarts.get(done.pid, []), ended, facts) for done in facts.sick]
    demanded = {done.pid for done in facts.sick}
    wrong = []
    for pid, events in restarts.items():
        if pid not in demanded:
            wrong.append(f"wrong restart: {events[0]['message']}")
        elif len(events) > 1 and not facts.listener_killed:
            wrong.append(f"restarted {len(events)} times: {events[0]['worker']} (pid {pid})")
    for end in facts.ends:
        if end.name == listener:
            if end.pid not in facts.listener_killed:
                wrong.append(f"the listener (pid {end.pid}) has ended: {end.how}")
        elif end.pid not in demanded and end.pid not in facts.others:
            wrong.append(f"{end.name} (pid {end.pid}) has ended, and nothing demanded it: {end.how}")
    wrong += _gently(round_, facts, restarts)
    sick, others, lost = whose(facts, restarts)
    wrong += [f"lost by a healthy worker: {one.how} {one.detail} (pid {one.pid})" for one in lost]
    wrong += [f"left over: {what}" for what in facts.left_over]
    wrong += [f"the campaign itself: {what}" for what in facts.trouble]
    return Judgement(lines, wrong, sick, others)


def _gently(round_: Round, facts: Facts, restarts: dict[int, list[Event]]) -> Iterator[str]:
    """What is not allowed though the right ones went: a wrong verdict, two away because of one, no time to drain."""
    excused = {f"web:{harm.worker}" for harm in round_.harmless if harm.what == "debugger"}
    demanded, panic = {done.pid for done in facts.sick}, any(harm.what == "all-500" for harm in round_.harmless)
    for event in facts.events:
        called = event["event"] == "verdict" and event.get("pid") not in demanded and event.get("worker") not in excused
        if called and (event["verdict"] == "silent" or (event["verdict"] == "failing" and not panic)):
            yield f"wrong verdict: {event['message']}"
    back = {event["old_pid"]: at(event) for event in facts.events if event["event"] == "replaced"}
    hows = {end.pid: end.how for end in facts.ends}
    gone = {done.pid: done.gone or math.inf for done in facts.sick}
    for pid, events in restarts.items():
        if events[0]["reason"] != "failing":
            continue
        began = at(events[0])
        if "SIGKILL" in hows.get(pid, "") and gone.get(pid, math.inf) - began < STOPWAIT_S - 0.5:
            yield f"killed without the time to drain: pid {pid}"
        away = [one for one, told in restarts.items() if one != pid and at(told[0]) <= began < back.get(one, 0.0)]
        if away:
            yield f"drained (pid {pid}) while another one was not back (pid {away[0]})"


def _judge_fault(done: Done, restarts: list[Event], ended: set[int], facts: Facts) -> dict[str, object]:
    wrong: list[str] = []
    void = done.pid in facts.others  # it has ended by itself before anybody could find it
    reasons = sorted({event["reason"] for event in restarts})
    if not restarts and facts.listener_killed:
        # Killed between its order and the line that says so; the next one knows it, and says why.
        told = [e for e in facts.events if e["event"] == "replaced" and e.get("old_pid") == done.pid]
        reasons = sorted({event["reason"] for event in told})
    wanted = SICK[done.what].reason
    took_s: float | None = None
    if restarts:
        took_s = at(restarts[0]) - done.began
    elif done.gone is not None:
        took_s = done.gone - done.began
    if not void:
        if done.pid not in ended:
            wrong.append("was not ended")
        if not reasons:
            wrong.append("the listener did not say that it restarts it")
        elif len(reasons) > 1 or reasons[0] not in (wanted, *done.may_be):
            wrong.append(f"as {' and '.join(reasons)} instead of {wanted}")
        if took_s is not None and not done.least_s <= took_s <= done.bound_s:
            wrong.append(f"after {took_s:.2f} s instead of {done.least_s:.2f} to {done.bound_s:.2f} s")
        if not any(e["event"] == "replaced" and e.get("old_pid") == done.pid for e in facts.events):
            wrong.append("the listener did not say that it was replaced")
    return {
        "fault": done.what,
        "worker": done.worker,
        "pid": done.pid,
        "reason": " ".join(reasons),
        "took_s": None if took_s is None else round(took_s, 2),
        "least_s": round(done.least_s, 2),
        "bound_s": round(done.bound_s, 2),
        **({"void": "it ended by itself before"} if void else {}),
        "wrong": wrong,
    }


def whose(facts: Facts, restarts: dict[int, list[Event]]) -> tuple[int, int, list[Lost]]:
    """How many requests were lost with the sick, how many with those that ended otherwise, and those that remain.

    A request over a kept connection is its worker's. One over a new connection belongs to a worker that nobody knows;
    it counts as a leaving worker's where it failed between that worker's first signal and its end. A refused one is
    always wrong: the socket is never closed.
    """
    sick = {done.pid: _window(done, restarts.get(done.pid, [])) for done in facts.sick}
    with_sick = with_others = 0
    rest = []
    for one in facts.lost:
        if one.how == "refused":
            rest.append(one)
        elif one.pid in sick or (one.pid is None and _within(one.ended, sick.values())):
            with_sick += 1
        elif one.pid in facts.others or (one.pid is None and _within(one.ended, facts.others.values())):
            with_others += 1
        else:
            rest.append(one)
    return with_sick, with_others, rest


def _window(done: Done, restarts: list[Event]) -> tuple[float, float]:
    first = at(restarts[0]) if restarts else (done.gone or done.began)
    return first - 0.1, done.gone or first


def _within(moment: float, windows: Iterable[tuple[float, float]]) -> bool:
    return any(first <= moment <= last + CLOSED_AFTER_S for first, last in windows)
