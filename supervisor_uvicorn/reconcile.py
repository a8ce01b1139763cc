"""What became of our remedies, and of the names that we took down. Pure; a part of policy.py with a table of its own.

Whether supervisord brings a worker back by itself (``autorestart``) cannot be asked of it before supervisor 4.4, so
it is seen from what happens:

    RUNNING, a new pid, proven healthy ... replaced; no longer ours
    RUNNING, STARTING, BACKOFF, STOPPING . supervisord has it in hand: wait
    RUNNING, the old pid, 10 s after ..... the remedy is over and did not end it; no longer ours
    EXITED for 3 s ....................... nobody brings it back (autorestart=false, an expected exit code): start it
    FATAL ................................ start it again, with the backoff
    STOPPED, or gone from supervisord .... the operator's: no longer ours
    EXITED or FATAL, all others STOPPED .. the same, where they were not stopped before: such a name cannot be stopped
    RUNNING, but a tree by now ........... not watched: no longer ours

While a signal is in doubt nothing is started either: it is sent by name, and would hit the new process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from . import brakes, rollout
from .ledger import CalledOff, GaveBack, Ledger, Note, Ours, Outcome, Program, Replaced, Result, Start
from .model import Member, State
from .settings import Settings
from .verdict import Ages, Past

RESPAWN_S = 3.0
"""supervisord respawns on its next turn, at most 1 s later (4.3.0 supervisord.py ``runforever``), 4.3.0 after 1 s
more."""

DOUBT_S = 10.0
"""A signal whose caller timed out has been carried out 5 s later (experiments, 11); a roster this much later tells."""

START_CAP_S = 30.0
"""While nobody of the program serves, a start is tried at least this often: it harms nobody, and the dependency that
was down may be back."""


def hear(program: Program, outcomes: Iterable[Outcome], ages: Ages) -> Program:
    """The program after what its remedies reported. What is not about a worker of ours is not heard."""
    for outcome in outcomes:
        name = outcome.worker.name
        mine = program.ours.get(name)
        if mine is None or mine.worker != outcome.worker:
            continue
        if outcome.result is Result.CALLED_OFF:
            program = _undo(program, mine, outcome, ages.now)
            continue
        doubt_at = ages.now if outcome.result is Result.IN_DOUBT else None
        over = replace(mine, under_way=False, ended_at=ages.now, doubt_at=doubt_at)
        program = replace(program, ours={**program.ours, name: over})
        if outcome.result is Result.STUCK:
            program = replace(program, stuck=program.stuck | {outcome.worker})
    return program


def _undo(program: Program, mine: Ours, outcome: Outcome, now: float) -> Program:
    """Nothing was done to it: as if the order had not been given, but not again at once."""
    name = mine.worker.name
    limit = mine.reason.of_a_limit
    waiting = {
        other: entry for other, entry in (program.recycled if limit else program.waiting).items() if other != name
    }
    if mine.waiting_before is not None:
        waiting[name] = mine.waiting_before
    ours = {other: entry for other, entry in program.ours.items() if other != name}
    if mine.ours_before is not None:
        ours[name] = mine.ours_before
    before = program.called_off.get(name)
    again = before is not None and (before.worker, before.brake) == (outcome.worker, outcome.brake)
    repeats = before.repeats + 1 if before is not None and again else 0
    canary_was_it = mine.panic_before is not None and program.panic.canary_at == mine.since
    return replace(
        program,
        ours=ours,
        waiting=program.waiting if limit else waiting,
        recycled=waiting if limit else program.recycled,
        spending=program.spending.refund(name, mine.since),
        panic=mine.panic_before if canary_was_it and mine.panic_before else program.panic,
        called_off={
            **program.called_off,
            name: CalledOff(outcome.worker, now, outcome.brake, outcome.detail, repeats),
        },
    )


def reconcile(
    program: Program,
    members: list[Member],
    ages: Ages,
    settings: Settings,
    roster_at: float,
    may_start: Callable[[str], bool],
) -> tuple[Program, list[Start], list[Note]]:
    """(the program with what is still ours, the starts that are due, what there is to tell).

    ``members`` are all of the group, ``roster_at`` is when they were read, ``may_start`` says of a name whether
    anything may be done to it at all.
    """
    by_name = {member.name: member for member in members}
    ours: dict[str, Ours] = {}
    starts: list[Start] = []
    notes: list[Note] = []
    healed = program.healed
    for name, before in program.ours.items():
        mine = before
        member, past = by_name.get(name), program.workers.get(name)
        if member is None:
            if roster_at <= mine.since:  # an older roster says nothing about it
                ours[name] = mine
            else:
                notes.append(GaveBack(name, "it is no longer a process of supervisord"))
            continue
        if member.state is State.STOPPED and not mine.under_way:
            notes.append(GaveBack(name, "the operator has stopped it"))
            continue
        others = [other for other in members if other.name != name]
        others_run = any(other.state is not State.STOPPED for other in others)
        if member.state in (State.EXITED, State.FATAL) and others and mine.others_ran and not others_run:
            notes.append(
                GaveBack(
                    name,
                    f"the operator has stopped all others, and a name that is {member.state.value} cannot be stopped",
                )
            )
            continue
        if others_run and not mine.others_ran:
            mine = replace(mine, others_ran=True)
        if past is None:  # a tree: it has no verdict
            if member.state is State.RUNNING:
                notes.append(GaveBack(name, f"it is not watched: {member.not_watched}"))
            else:
                ours[name] = mine
            continue
        if _proven(past, mine, settings):
            assert past.worker is not None  # turns is only said of a worker that was looked at
            notes.append(Replaced(past.worker, mine.worker, mine.reason, ages.now - mine.since))
            healed = healed or mine.reason.of_the_loop
            continue
        if _lives_on(program, past, mine, roster_at):
            notes.append(GaveBack(name, f"pid {mine.worker.pid} lives on; what was sent to it did not end it"))
            continue
        if past.worker != mine.worker and past.turns and past.serves:
            mine = replace(mine, came_up=True)
        mine = _down(mine, member, ages.now)
        if may_start(name) and _start_due(program, mine, member, ages, settings, roster_at):
            ended = f"we ended pid {mine.worker.pid} ({mine.reason.value})"
            starts.append(Start(name, f"{member.state.value} since {ended}, and supervisord leaves it so"))
            mine = replace(mine, starts=mine.starts + 1, started_at=ages.now, down_since=None)
        ours[name] = mine
    return replace(program, ours=ours, healed=healed), starts, notes


def _proven(past: Past, mine: Ours, settings: Settings) -> bool:
    """Is the new pid well? By its loop where its loop was the trouble, by a right answer where the answers were."""
    if mine.reason.of_the_loop:
        return rollout.up(past, mine.worker)
    return rollout.well(past, mine.worker, settings)


def _lives_on(program: Program, past: Past, mine: Ours, roster_at: float) -> bool:
    """The remedy is over, and the same pid is still there on a roster that would show otherwise."""
    if mine.under_way or past.worker != mine.worker or past.state is not State.RUNNING:
        return False
    if past.worker in program.stuck and not past.turns:
        return False
    over_at = mine.since if mine.ended_at is None else mine.ended_at
    return roster_at >= over_at + DOUBT_S


def in_doubt(mine: Ours, roster_at: float) -> bool:
    """May a signal that timed out still be carried out, for all that the roster shows?"""
    return mine.doubt_at is not None and roster_at < mine.doubt_at + DOUBT_S


def _down(mine: Ours, member: Member, now: float) -> Ours:
    down = member.state in (State.EXITED, State.FATAL)
    if down and mine.down_since is None:
        return replace(mine, down_since=now)
    if not down and mine.down_since is not None:
        return replace(mine, down_since=None)
    return mine


def _start_due(program: Program, mine: Ours, member: Member, ages: Ages, settings: Settings, roster_at: float) -> bool:
    if mine.under_way or mine.down_since is None or in_doubt(mine, roster_at):
        return False
    if ages.of(mine.down_since) < RESPAWN_S:
        return False
    if mine.starts == 0 and member.state is State.EXITED:
        return True
    wait_s = brakes.doubled_s(settings.backoff.first_s, mine.starts, settings.backoff.longest_s)
    if not any(past.serves for past in program.workers.values()):
        wait_s = min(wait_s, START_CAP_S)
    return ages.of(mine.down_since if mine.started_at is None else mine.started_at) >= wait_s


def adopt(ledger: Ledger, found: Mapping[str, Ours], counted: frozenset[str] = frozenset()) -> Ledger:
    """The ledger with what an earlier listener took down: it is ours now, and its restart counts.

    ``counted`` are the groups whose spent budget the earlier listener has handed over: there it counts already.
    """
    programs = {**ledger.programs}
    for name, mine in found.items():
        group = mine.worker.group
        program = programs.get(group, Program())
        counts = group not in counted and mine.reason.of_health
        programs[group] = replace(
            program,
            ours={**program.ours, name: mine},
            spending=program.spending.spend(name, mine.since) if counts else program.spending,
        )
    return replace(ledger, programs=programs)
