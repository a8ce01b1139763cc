"""One round: its faults carried out at their moments, everything seen through until all is well, then judged."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Generator

from harness import processes

from faults.arena import Arena
from faults.injection import do_harmless, make_sick
from faults.oracle import CLOSED_AFTER_S, Done, Facts, Judgement, judge
from faults.plan import Fault, Round
from faults.surroundings import trouble

EVERY_S = 0.01  # between two looks of ours
SETTLED_EVERY_S = 0.2
PATIENCE_S = 60.0  # beyond the last bound; then the campaign helps itself and goes on
LEFT_OVER_S = 15.0  # so long may something take to be given back: a probe under way, a connection of a late call

Steps = Generator[None, None, None]


def play(arena: Arena, round_: Round) -> Judgement:
    """Play one round. Whatever it has begun is undone when it ends, also by an exception."""
    arena.lines_lost = False
    arena.stop.wait(round_.pause_s)  # the moment within supervisord's TICK is part of the plan
    arena.read()
    facts = Facts()
    events, ends = len(arena.said.events), len(arena.truth.ends)
    strange = len(arena.said.strange)
    due = sorted(_steps(arena, round_, facts), key=lambda step: step[0])
    running: list[Steps] = []
    began, began_at = time.monotonic(), time.time()
    give_up = max(fault.at_s + round_.bound_s(fault) for fault in round_.sick) + PATIENCE_S
    looked = 0.0
    try:
        while True:
            arena.go_on()
            past_s = time.monotonic() - began
            while due and due[0][0] <= past_s:
                running.append(due.pop(0)[1])
            arena.read()
            _see_ends(arena, facts, ends)
            running = [steps for steps in running if _goes_on(steps, facts)]
            if not due and not running and past_s - looked >= SETTLED_EVERY_S:
                looked = past_s
                if _over(arena, facts, events):
                    break
            if past_s > give_up:
                _help(arena, facts)
                break
            time.sleep(EVERY_S)
    finally:
        for steps in running:
            steps.close()
    _hand_back(arena)
    facts.left_over = _left_over(arena)
    arena.read()
    _see_ends(arena, facts, ends)
    if arena.lines_lost:
        arena.add_history(began_at)
    facts.events, facts.ends = arena.said.events[events:], arena.truth.ends[ends:]
    facts.lost = arena.load.take_lost()
    if not (round_.surroundings and round_.surroundings.what == "memory-limit"):
        facts.left_over += [f"in the listener's log: {line}" for line in arena.said.strange[strange:]]
    return judge(round_, facts, arena.site.listener)


def wait_quiet(arena: Arena, seconds: float) -> list[str]:
    """After the last round: nothing more may happen. What did, in words."""
    arena.read()
    workers, listener, end = arena.workers(), arena.listener(), time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(SETTLED_EVERY_S)
        arena.read()
        arena.go_on()
    gone = [
        (name, pid)
        for name, pid in workers.items()
        if arena.workers().get(name) != pid and not arena.ends_by_itself(name, pid)
    ]
    if arena.listener() != listener:
        gone.append((arena.site.listener, listener))
    return [f"{name} (pid {pid}) has gone while nothing was wrong" for name, pid in gone]


def _steps(arena: Arena, round_: Round, facts: Facts) -> list[tuple[float, Steps]]:
    found: list[tuple[float, Steps]] = []
    for fault in round_.sick:
        done = Done(
            fault.what,
            fault.worker,
            least_s=round_.least_s(fault),
            bound_s=round_.bound_s(fault),
            may_be=round_.reasons(fault)[1:],
        )
        facts.sick.append(done)
        found.append((fault.at_s, make_sick(arena, fault, done, facts)))
    found += [(fault.at_s, do_harmless(arena, fault, facts)) for fault in round_.harmless]
    around: Fault | None = round_.surroundings
    if around is not None:
        found.append((around.at_s, trouble(arena, around, facts)))
    return found


def _goes_on(steps: Steps, facts: Facts) -> bool:
    try:
        next(steps)
    except StopIteration:
        return False
    except Exception as error:  # noqa: BLE001 - whatever it was, it is the campaign's own, and told as such
        facts.trouble.append(f"{type(error).__name__}: {error}")
        return False
    return True


def _see_ends(arena: Arena, facts: Facts, since: int) -> None:
    now = time.time()
    for done in facts.sick:
        if done.pid and done.gone is None and not processes.alive(done.pid):
            done.gone = now
    killed = {done.pid for done in facts.sick}
    for end in arena.truth.ends[since:]:
        asked = end.name != arena.site.listener and end.pid not in facts.others
        if asked and (end.pid not in killed or "SIG" not in end.how) and arena.ends_by_itself(end.name, end.pid):
            facts.others[end.pid] = (now - 10.0, now)


def _over(arena: Arena, facts: Facts, events: int) -> bool:
    """Every sick one is gone, its successor is called healthy, and so is everybody."""
    if not all(done.gone for done in facts.sick if done.pid):
        return False
    if not arena.settled():
        return False
    if arena.lines_lost:
        return True
    told = {event.get("old_pid") for event in arena.said.events[events:] if event["event"] == "replaced"}
    return all(done.pid in told or done.pid in facts.others for done in facts.sick if done.pid)


def _help(arena: Arena, facts: Facts) -> None:
    """What was not ended in all that time is ended by us, so that the next round begins well; it counts as wrong."""
    for done in facts.sick:
        if done.pid and done.gone is None:
            facts.trouble.append(f"{done.worker} (pid {done.pid}) is killed by the campaign: nobody else did")
            with contextlib.suppress(ProcessLookupError):
                os.kill(done.pid, signal.SIGKILL)
            time.sleep(CLOSED_AFTER_S)  # its clients hear of it in this round
    if all(done.gone for done in facts.sick):
        words = {name: arena.said.verdicts.get(pid) for name, pid in arena.workers().items()}
        facts.trouble.append(f"not everybody was called healthy again, or replaced, in time: {words}")


def _hand_back(arena: Arena) -> None:
    for link in arena.held:
        link.close()
    arena.held.clear()


def _left_over(arena: Arena) -> list[str]:
    end = time.monotonic() + LEFT_OVER_S
    while (found := arena.left_over()) and time.monotonic() < end:
        time.sleep(SETTLED_EVERY_S)
        arena.read()
    return found
