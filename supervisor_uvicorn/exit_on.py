"""When supervisord itself is to end, because a program of it can no longer serve. Pure: no clock, no I/O.

In a container that is the way to be noticed: supervisord lives on beside a program that is FATAL, and the container
looks well. ``exit_on`` says when that is enough; what becomes of the container is then its orchestrator's affair.

=============  ======================================================================================================
``none``       never (the default: on a host, supervisord has other programs)
``fatal``      every worker of a program is FATAL, but for those that somebody stopped; and there is at least one
``suspended``  the same; or the budget of restarts of a program is spent (``suspended``) and none of its workers serves
=============  ======================================================================================================

What holds it back:

* One look is no proof. It must be so in two rosters, read from supervisord at least :data:`STEADY_S` apart, and in
  every one between. A roster that could not be read proves nothing.
* A start of ours under way is waited for: the time counts from our last one on. That a start is *due* is not: it may be
  300 s away (``backoff``), nobody serves meanwhile, and an orchestrator starts everything anew at once.
* ``suspended`` is about what we see. A worker that answers wrong does serve (a dependency may be down, and then nothing
  is mended by leaving), and so may one that we cannot see, or that is starting.
* What the operator does is no failure: where the last workers that were not FATAL were stopped, nothing is done until
  another one fails.
* Never while the program, or any worker of it, is paused, while supervisord shuts down or reloads, or in a dry run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .ledger import Program
from .model import Member, State, Verdict
from .verdict import Past

NONE, FATAL, SUSPENDED = "none", "fatal", "suspended"
CHOICES = (NONE, FATAL, SUSPENDED)

EXIT_CODE = 69  # sysexits(3head) EX_UNAVAILABLE; supervisord's own are 0, 1 and 2

STEADY_S = 4.0
"""Less than a TICK_5, so that a TICK that comes a moment early does not cost another one: gone within 15 s."""

_DOWN = (State.EXITED, State.BACKOFF, State.FATAL)


@dataclass(frozen=True)
class Beyond:
    """Programs that cannot serve any more: name -> the first roster that showed it (monotonic), and why."""

    since: Mapping[str, tuple[float, str]] = field(default_factory=dict)
    roster_at: float = 0.0
    states: Mapping[str, State] = field(default_factory=dict)  # of all names, in the last roster
    by_hand: frozenset[str] = frozenset()  # programs in which nobody is left because somebody has stopped the others


def leave(
    before: Beyond,
    members: Sequence[Member],
    roster_at: float,
    programs: Mapping[str, Program],
    exit_on: Callable[[str], str],
    *,
    paused: frozenset[str] = frozenset(),
    shutting_down: bool = False,
    dry_run: bool = False,
) -> tuple[Beyond, str]:
    """What to remember for the next look, and why supervisord is to end now; "": it is not.

    ``members``, read from supervisord at ``roster_at`` (monotonic), and ``programs`` (of the ledger) are as the policy
    has them; ``exit_on`` gives a group's setting, one of :data:`CHOICES`. ``paused``: names and groups.

    >>> down = [Member("web:web-0", State.FATAL)]
    >>> beyond, why = leave(Beyond(), down, 100.0, {}, lambda group: "fatal")
    >>> why
    ''
    >>> leave(beyond, down, 105.0, {}, lambda group: "fatal")[1]
    'web: its only worker that is not stopped is FATAL'
    """
    if shutting_down or dry_run or not members:
        return Beyond(), ""
    groups: dict[str, list[Member]] = {}
    for member in members:
        groups.setdefault(member.group, []).append(member)
    since: dict[str, tuple[float, str]] = {}
    by_hand: set[str] = set()
    for group, its in groups.items():
        setting = exit_on(group)
        if setting == NONE or not paused.isdisjoint({group, *(member.name for member in its)}):
            continue
        program = programs.get(group) or Program()
        why = _cannot_serve(its, program, setting)
        if why and group not in before.since and _by_hand(group, its, before):
            by_hand.add(group)
        elif why:
            first_at = before.since[group][0] if group in before.since else roster_at
            since[group] = (max(first_at, _last_start_at(program)), why)
    reasons = [f"{group}: {why}" for group, (first_at, why) in since.items() if roster_at - first_at >= STEADY_S]
    states = {member.name: member.state for member in members}
    return Beyond(since, roster_at, states, frozenset(by_hand)), "; ".join(reasons)


def _by_hand(group: str, members: Sequence[Member], before: Beyond) -> bool:
    """Is nobody left because the last ones were stopped, rather than because the last one has failed?

    supervisord does not stop what is FATAL, so ``stop web:*`` beside one such worker looks like "all are FATAL" too.
    It stays so until another worker fails. What was stopped before our first roster, nobody knows why, counts as well.
    """
    was = before.states
    if any(member.state is State.FATAL and was.get(member.name, State.FATAL) is not State.FATAL for member in members):
        return any(member.state is State.STOPPED and was.get(member.name) is not State.STOPPED for member in members)
    if group in before.by_hand:
        return True
    return any(member.state is State.STOPPED and was.get(member.name) is not State.STOPPED for member in members)


def _cannot_serve(members: Iterable[Member], program: Program, setting: str) -> str:
    wanted = [member for member in members if member.state is not State.STOPPED]
    if not wanted:
        return ""
    if all(member.state is State.FATAL for member in wanted):
        if len(wanted) == 1:
            return "its only worker that is not stopped is FATAL"
        return f"all {len(wanted)} workers that are not stopped are FATAL"
    if setting != SUSPENDED or not _suspended(wanted, program):
        return ""
    if any(_may_serve(member, program.workers.get(member.name)) for member in wanted):
        return ""
    return f"its budget of restarts is spent, and none of {len(wanted)} workers serves"


def _suspended(wanted: Sequence[Member], program: Program) -> bool:
    if wanted[0].group in program.suspended:
        return True
    return all(member.state is State.FATAL or member.name in program.suspended for member in wanted)


def _may_serve(member: Member, past: Past | None) -> bool:
    """Only what is seen not to serve counts: down in supervisord, a loop that does not turn, a start without an end."""
    if member.state in _DOWN:
        return False
    if member.state is not State.RUNNING or member.not_watched or past is None or past.worker != member.worker:
        return True
    return past.verdict is not Verdict.SILENT and not past.overdue


def _last_start_at(program: Program) -> float:
    return max((mine.started_at for mine in program.ours.values() if mine.started_at is not None), default=0.0)
