"""A rolling restart: every process that was there when it was asked for is replaced, a few at a time. Pure.

What is asked for is a fact about processes: *those that are there now shall be gone, and well ones in their place*. So
a roll is a list of turns, each with the one process (name, pid, birth) that has to go. A process that has gone by
itself meanwhile, or because somebody else ended it, has had its turn; a listener that is started anew goes on where the
last one was ended, and can never end a new process by mistake; and a second request adds what is not yet in the list.

    waiting      its process is still there, and nothing has been done to it
    under way    it was told to end, or its name was told to start; or it has gone by itself
    done         a new process of its name is proven healthy
    left         the operator has stopped it: nobody waits for it

The next turn comes only when fewer than ``max_unavailable`` are under way. A turn whose new process is not proven
healthy within ``start_timeout`` after the old one has gone, or that ends in FATAL, stops the roll: the new code is
bad, and the workers that still serve the old one are left as they are. So does a new process that ends by itself within
:data:`YOUNG_S`, though it was proven. A name that is no longer seen as a worker is
waited for in the same way: ``sh -c 'migrate && exec uvicorn ...'`` is none before its exec. So does a wait for
something else (a peer that does not serve, ``pause``, a debugger, a remedy that is called off again and again) stop it
after :data:`LONGEST_WAIT_S` in which no process has gone: nothing here waits for ever.

Who may be taken, and when, is asked in policy.py, by the brakes that hold every other restart.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from .model import State, WorkerId
from .settings import Settings
from .verdict import Ages, Past

LONGEST_WAIT_S = 300.0
"""Longer than a silent peer takes to be found and replaced (silent_after 30 s, abort_wait, start_timeout 90 s)."""

NO_PROCESS = (State.EXITED, State.BACKOFF, State.FATAL)

FATAL_FRESH_S = 10.0
"""A name that was FATAL when it was told to start may be shown so by a roster that was read about then; the call itself
may take 5 s (supervisord/rpc.py) behind another one."""


YOUNG_S = 60.0
"""A new process that ends by itself sooner than this after it was proven healthy is bad code as well: it serves, and
dies of its first requests, or of a task of its own."""

NOT_SEEN = "not seen as a uvicorn worker any more"


class Stage(str, enum.Enum):
    """Of one turn."""

    WAITING = "waiting"
    UNDER_WAY = "under way"
    DONE = "done"
    LEFT = "left"


class RollState(str, enum.Enum):
    """Of the whole."""

    ROLLING = "rolling"
    DONE = "done"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Turn:
    """One process that has to go. ``old`` is None where the name was down when the roll was asked for."""

    name: str
    old: WorkerId | None
    stage: Stage = Stage.WAITING
    gone_at: float | None = None  # monotonic: its process was first seen gone, or its name was told to start
    new_pid: int = 0
    detail: str = ""
    # Its new process was proven healthy, and we have not ended that one since. A new listener does not know it, or it
    # would take what `reload` has ended for what ended by itself.
    done_at: float | None = None


@dataclass(frozen=True)
class Roll:
    """One program's roll; the last one is kept after its end, to be looked up."""

    asked: tuple[str, ...]  # who asked: the requests' idents
    turns: tuple[Turn, ...]
    since: float  # monotonic
    state: RollState = RollState.ROLLING
    detail: str = ""  # why it was stopped, or what it waits for
    ended_at: float | None = None
    waiting_since: float | None = None  # a turn was held or ordered then, and no process has gone since

    @property
    def rolling(self) -> bool:
        return self.state is RollState.ROLLING

    @property
    def under_way(self) -> int:
        return sum(1 for turn in self.turns if turn.stage is Stage.UNDER_WAY)

    @property
    def waiting(self) -> tuple[Turn, ...]:
        """Who may be next: not a name whose earlier turn has not ended."""
        busy = {turn.name for turn in self.turns if turn.stage is Stage.UNDER_WAY}
        return tuple(turn for turn in self.turns if turn.stage is Stage.WAITING and turn.name not in busy)


def begin(ident: str, workers: Iterable[Past], now: float) -> Roll:
    """A roll of these workers: first the names that are down, then who does not serve, then in the given order."""
    ordered = sorted(workers, key=lambda past: (_there(past) is not None, past.serves))
    return Roll((ident,), tuple(Turn(past.name, _there(past)) for past in ordered), now)


def join(roll: Roll, ident: str, workers: Iterable[Past]) -> Roll:
    """A second request while it rolls: whoever is there now and is not yet in the list gets a turn at its end."""
    to_go = {(turn.name, turn.old) for turn in roll.turns if turn.stage in (Stage.WAITING, Stage.UNDER_WAY)}
    more = [Turn(past.name, _there(past)) for past in workers if (past.name, _there(past)) not in to_go]
    return replace(roll, asked=(*roll.asked, ident), turns=(*roll.turns, *more))


def _there(past: Past) -> WorkerId | None:
    return None if past.state in NO_PROCESS else past.worker


def up(past: Past, old: WorkerId | None) -> bool:
    """Is this a new process that serves, and whose loop turns?"""
    if past.worker is None or past.worker == old or past.state is not State.RUNNING:
        return False
    return past.turns and past.serves


def well(past: Past, old: WorkerId | None, settings: Settings) -> bool:
    """Is it proven healthy: up, and it has answered right where it is asked?

    Whose loop turns without a pin is watched by its ticks alone (``--limit-concurrency``), and is never asked.
    """
    return up(past, old) and (settings.path is None or past.right_ever or not past.pinned)


def advance(
    roll: Roll,
    workers: Mapping[str, Past],
    taken: frozenset[WorkerId],
    stuck: frozenset[WorkerId],
    ages: Ages,
    settings: Settings,
    roster_at: float,
) -> Roll:
    """The roll after this look; stopped where a turn went wrong, done where none is left.

    ``workers`` are the program's, ``taken`` those that we have told, or ordered, to end, ``stuck`` those that outlived
    KILL.
    """
    if not roll.rolling:
        return roll
    turns = tuple(_turn(turn, workers.get(turn.name), taken, ages, settings) for turn in roll.turns)
    if _gone(turns) > _gone(roll.turns):
        roll = replace(roll, waiting_since=None, detail="")
    roll = replace(roll, turns=turns)
    for turn in turns:
        if _died_young(turn, workers.get(turn.name), turns, ages):
            after = f"{ages.of(turn.done_at or ages.now):.0f} s after it was proven healthy"
            return _stop(roll, f"the new {turn.name} (pid {turn.new_pid}) has ended by itself {after}", ages.now)
        if turn.old in stuck and turn.stage is Stage.UNDER_WAY and turn.gone_at is None:
            return _stop(roll, f"the old {turn.name} outlived KILL", ages.now)
        if why := _wrong(turn, workers.get(turn.name), ages, settings, roster_at):
            return _stop(roll, why, ages.now)
    if all(turn.stage in (Stage.DONE, Stage.LEFT) for turn in turns):
        return replace(roll, state=RollState.DONE, detail="", ended_at=ages.now)
    held = roll.under_way or roll.detail  # detail: by a brake, so that it is wait()'s affair
    if not held and roll.waiting_since is not None and ages.of(roll.waiting_since) >= LONGEST_WAIT_S:
        return _stop(roll, f"waited {LONGEST_WAIT_S:g} s: what was told to end lives on", ages.now)
    return roll


def _gone(turns: Iterable[Turn]) -> int:
    """How far it is: so many processes that need not be ended any more."""
    return sum(1 for turn in turns if turn.gone_at is not None or turn.stage in (Stage.DONE, Stage.LEFT))


def _turn(turn: Turn, past: Past | None, taken: frozenset[WorkerId], ages: Ages, settings: Settings) -> Turn:
    if turn.done_at is not None and any(worker.name == turn.name and worker.pid == turn.new_pid for worker in taken):
        return replace(turn, done_at=None)  # we end it ourselves, as silent or failing
    if turn.stage in (Stage.DONE, Stage.LEFT):
        return turn
    if past is None:
        return _under_way(turn, ages.now, NOT_SEEN)
    if past.state is State.STOPPED and (turn.old is None or turn.old not in taken):
        return replace(turn, stage=Stage.LEFT, detail="stopped by the operator")
    is_there = turn.old is not None and turn.gone_at is None and past.worker == turn.old
    if is_there and past.state not in NO_PROCESS:
        stage = Stage.UNDER_WAY if turn.old in taken else Stage.WAITING
        return turn if stage is turn.stage else replace(turn, stage=stage)
    if turn.old is None and turn.stage is Stage.WAITING and past.state in (State.EXITED, State.FATAL):
        return turn  # it waits to be started
    if well(past, turn.old, settings):
        assert past.worker is not None  # well() has said so
        gone_at = ages.now if turn.gone_at is None else turn.gone_at
        return replace(turn, stage=Stage.DONE, gone_at=gone_at, done_at=ages.now, new_pid=past.worker.pid, detail="")
    return _under_way(turn, ages.now, "")


def _under_way(turn: Turn, now: float, detail: str) -> Turn:
    """Its process has gone: now, if that was not known."""
    if turn.gone_at is not None and turn.stage is Stage.UNDER_WAY and turn.detail == detail:
        return turn
    gone_at = now if turn.gone_at is None else turn.gone_at
    return replace(turn, stage=Stage.UNDER_WAY, gone_at=gone_at, detail=detail)


def _died_young(turn: Turn, past: Past | None, turns: Iterable[Turn], ages: Ages) -> bool:
    """Has its new process gone soon, and neither we nor the operator nor a later turn have ended it?"""
    if turn.done_at is None or ages.of(turn.done_at) >= YOUNG_S:
        return False
    if past is None or past.state in (State.STOPPING, State.STOPPED):
        return False
    pid = past.worker.pid if past.worker is not None and past.state not in NO_PROCESS else 0
    later = any(other.name == turn.name and other.old and other.old.pid == turn.new_pid for other in turns)
    return pid != turn.new_pid and not later


def _wrong(turn: Turn, past: Past | None, ages: Ages, settings: Settings, roster_at: float) -> str:
    """Why this turn stops the roll; empty while it does not."""
    if turn.stage is not Stage.UNDER_WAY or turn.gone_at is None:
        return ""
    # Also by the roster: while supervisord does not answer, nothing new is known.
    late = min(ages.of(turn.gone_at), roster_at - turn.gone_at) >= settings.start_timeout_s
    if past is None:
        limit_s = settings.start_timeout_s
        return f"{turn.name} is {NOT_SEEN} for {limit_s:g} s (start_timeout)" if late else ""
    fresh = turn.old is None and roster_at < turn.gone_at + FATAL_FRESH_S
    if past.state is State.FATAL and not fresh:
        return f"{turn.name} does not start: supervisord has given it up (FATAL)"
    if not late:
        return ""
    seen = past.reason or past.verdict.value
    limit_s = settings.start_timeout_s
    return f"the new {turn.name} is not proven healthy after {limit_s:g} s (start_timeout): {seen}"


def order(roll: Roll, turn: Turn, now: float) -> Roll:
    """This one of ``roll.waiting`` has been ordered: a restart, or, where its name was down, a start.

    How long the roll has waited is not forgotten before a process has gone: the remedy may be called off, or in doubt.
    """
    started = turn.old is None
    since = now if roll.waiting_since is None else roll.waiting_since
    turns = list(roll.turns)
    turns[turns.index(turn)] = replace(turn, stage=Stage.UNDER_WAY, gone_at=now if started else None)
    return replace(roll, turns=tuple(turns), waiting_since=None if started else since, detail="")


def wait(roll: Roll, why: str, ages: Ages) -> Roll:
    """Nobody is under way and a brake holds whoever would be next; stopped after :data:`LONGEST_WAIT_S`."""
    since = ages.now if roll.waiting_since is None else roll.waiting_since
    if ages.of(since) >= LONGEST_WAIT_S:
        return _stop(roll, f"waited {LONGEST_WAIT_S:g} s: {why}", ages.now)
    return replace(roll, waiting_since=since, detail=f"waits: {why}")


def _stop(roll: Roll, why: str, now: float) -> Roll:
    left = len({turn.name for turn in roll.turns if turn.stage is Stage.WAITING})
    untouched = f"; {left} worker{' was' if left == 1 else 's were'} not touched" if left else ""
    return replace(roll, state=RollState.STOPPED, detail=f"{why}{untouched}", ended_at=now)
