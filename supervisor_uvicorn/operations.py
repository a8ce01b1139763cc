"""What a person asks of the listener: request + what is known -> what is remembered from now on, and an answer.

Pure, like policy.py, and for the same reason: ``pause`` and ``restart`` are typed when something is wrong already. A
request is carried out whole or refused whole, and a refusal says what to type instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from . import brakes, rollout
from .ledger import Ledger, Note, Paused, Program, Resumed, RollBegan
from .model import Member, State
from .names import NoSuchName, chosen, means
from .settings import Settings
from .supervisord.request import MOST_AGE_S, Request
from .verdict import Past

MOST_WORDS = 4096  # of an answer: they all stand on one board
Pauses = Mapping[str, float | None]
"""NAME (``all``, ``web``, ``web:web-0``) -> monotonic, until when; None: until ``resume``."""


@dataclass(frozen=True)
class Reply:
    """What the asker finds on the board under its ``ident``."""

    ident: str
    verb: str
    accepted: bool
    detail: str

    def answer(self) -> dict[str, Any]:
        """As it stands on the board."""
        return {"id": self.ident, "verb": self.verb, "accepted": self.accepted, "detail": self.detail}

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Reply:
        """What :meth:`answer` gave."""
        return cls(str(answer["id"]), str(answer["verb"]), bool(answer["accepted"]), str(answer["detail"]))


@dataclass(frozen=True)
class Carried:
    """A request, carried out or refused."""

    ledger: Ledger
    pauses: Pauses
    reply: Reply
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class _Refused(Exception):  # noqa: N818 - it reads as what it is
    why: str


@dataclass
class _Case:
    """One request while it is worked on."""

    request: Request
    ledger: Ledger
    pauses: dict[str, float | None]
    members: Sequence[Member]
    now: float
    settings: Callable[[str], Settings]
    shutting_down: bool
    notes: list[Note] = field(default_factory=list)

    def chosen(self) -> list[Member]:
        by_name = {member.name: member for member in self.members}
        try:
            return [by_name[name] for name in chosen(by_name, self.request.names)]
        except NoSuchName as error:
            raise _Refused(str(error)) from None


def carry_out(
    request: Request,
    ledger: Ledger,
    pauses: Pauses,
    members: Sequence[Member],
    now: float,
    settings: Callable[[str], Settings],
    *,
    age_s: float = 0.0,
    shutting_down: bool = False,
) -> Carried:
    """``now`` is monotonic; ``members`` are the roster; ``settings`` gives a group's; the request is ``age_s`` old.

    Of all verbs but ``reload``, which needs a file (reloads.py).
    """
    if why := too_old(age_s):
        return Carried(ledger, pauses, Reply(request.ident, request.verb, False, why))
    case = _Case(request, ledger, dict(pauses), members, now, settings, shutting_down)
    verb = {"restart": _restart, "pause": _pause, "resume": _resume}[request.verb]
    try:
        detail = verb(case)
    except _Refused as refused:
        return Carried(ledger, pauses, Reply(request.ident, request.verb, False, refused.why[:MOST_WORDS]))
    reply = Reply(request.ident, request.verb, True, detail[:MOST_WORDS])
    return Carried(case.ledger, case.pauses, reply, tuple(case.notes))


def too_old(age_s: float) -> str:
    """Why a request of this age is not carried out; "" where it is."""
    if -MOST_AGE_S <= age_s <= MOST_AGE_S:
        return ""
    # It lay in supervisord while no listener read it; or a clock was set.
    return f"asked {age_s:.0f} s ago, and whoever asked has given up by now: ask again"


def paused_now(pauses: Pauses, members: Sequence[Member], now: float) -> frozenset[str]:
    """The groups and names that are paused, as :class:`ledger.Look` wants them."""
    active = [name for name, until in pauses.items() if until is None or now < until]
    groups = {member.group for member in members} if "all" in active else set()
    return frozenset(groups.union(active) - {"all"})


def run_out(pauses: Pauses, now: float) -> tuple[Pauses, tuple[Note, ...]]:
    """The pauses without those whose time is over, and what there is to tell of it."""
    over = [name for name, until in pauses.items() if until is not None and now >= until]
    if not over:
        return pauses, ()
    left = {name: until for name, until in pauses.items() if name not in over}
    return left, tuple(Resumed(name, "its pause has run out", "paused") for name in over)


# -- restart ---------------------------------------------------------------------------------------------------------


def _restart(case: _Case) -> str:
    names = case.request.names
    if not names:
        raise _Refused("restart wants at least one NAME: web, web:web-0, all")
    if case.shutting_down:
        raise _Refused("supervisord is shutting down or restarting")
    members = case.chosen()
    trees = [member for member in members if member.not_watched]
    if trees:
        instead = f"supervisorctl restart {trees[0].name}"
        raise _Refused(f"{trees[0].name} is not watched ({trees[0].not_watched}), so it cannot be rolled: {instead}")
    stopped = [member.name for member in members if member.state is State.STOPPED]
    named = [name for name in stopped if name in names]
    if named:
        raise _Refused(f"{named[0]} is STOPPED: supervisorctl start {named[0]}")
    paused = paused_now(case.pauses, case.members, case.now)
    by_group: dict[str, list[Past]] = {}
    for member in members:
        if member.name in stopped:
            continue
        if case.settings(member.group).dry_run:
            raise _Refused(f"dry_run is set for {member.group}: nothing is done to anybody")
        if {member.name, member.group} & paused:
            by = "all" if "all" in case.pauses else member.group if member.group in case.pauses else member.name
            raise _Refused(f"{member.name} is paused: supervisor-uvicorn resume {by}")
        past = case.ledger.programs.get(member.group, Program()).workers.get(member.name)
        if past is None:
            raise _Refused(f"{member.name} has not been looked at yet: ask again in a moment")
        # The process that has to go is the one of the roster, which may be newer than the last look.
        past = replace(past, state=member.state, worker=member.worker)
        if past.worker is None and past.state not in rollout.NO_PROCESS:
            why = f"{past.name} is {past.state.value}, and its process cannot be seen"
            raise _Refused(f"{why}: ask again in a moment, or supervisorctl restart {past.name}")
        by_group.setdefault(member.group, []).append(past)
    if not stopped and not by_group:
        raise _Refused("nothing to restart: supervisord has no uvicorn worker")
    if not by_group:
        raise _Refused(f"nothing to restart, all are STOPPED: supervisorctl start {' '.join(stopped)}")
    return "; ".join(_roll(case, group, pasts) for group, pasts in by_group.items())


def _roll(case: _Case, group: str, pasts: list[Past]) -> str:
    program = case.ledger.programs[group]
    before = program.roll
    if before is not None and before.rolling:
        roll = rollout.join(before, case.request.ident, pasts)
        more = len(roll.turns) - len(before.turns)
        said = f"joined the roll of {group} that is under way: {more} more to restart, {len(roll.turns)} in all"
    else:
        roll = rollout.begin(case.request.ident, pasts, case.now)
        said = f"rolling {len(pasts)} worker{'' if len(pasts) == 1 else 's'} of {group}"
        case.notes.append(RollBegan(group, roll))
    earlier = program.earlier if before is not None and before.rolling else before
    _put(case, group, replace(program, roll=roll, earlier=earlier))
    return said


def _put(case: _Case, group: str, program: Program) -> None:
    case.ledger = replace(case.ledger, programs={**case.ledger.programs, group: program})


# -- pause and resume ------------------------------------------------------------------------------------------------


def _subjects(case: _Case) -> list[str]:
    """What NAMEs are remembered as: ``web:*`` and ``web`` are one."""
    if not case.request.names or "all" in case.request.names:
        return ["all"]
    case.chosen()
    known = {member.name for member in case.members}
    found = [name if name in known else name.partition(":")[0] for name in case.request.names]
    return list(dict.fromkeys(found))


def _pause(case: _Case) -> str:
    for_s = case.request.for_s
    until = None if for_s is None else case.now + for_s
    how_long = "until resume" if for_s is None else f"for {for_s:g} s"
    subjects = _subjects(case)
    for subject in subjects:
        case.pauses[subject] = until
        case.notes.append(Paused(subject, f"{how_long}: watched and reported, not acted on"))
    return f"paused {how_long}: {', '.join(subjects)}"


def _resume(case: _Case) -> str:
    subjects = _subjects(case)
    lifted: list[str] = []
    for subject in subjects:
        if subject == "all":
            gone = list(case.pauses)
        else:
            wider = [name for name in case.pauses if name != subject and means(name, subject)]
            if wider:
                raise _Refused(f"{subject} is paused as part of {wider[0]}: supervisor-uvicorn resume {wider[0]}")
            gone = [name for name in case.pauses if means(subject, name)]
            group = subject.partition(":")[0]
            suspended = case.ledger.programs.get(group, Program()).suspended
            if not gone and subject != group and group in suspended and subject not in suspended:
                raise _Refused(f"{subject} is suspended as part of {group}: supervisor-uvicorn resume {group}")
        for name in gone:
            del case.pauses[name]
            case.notes.append(Resumed(name, "resume was asked for", "paused"))
        lifted += [f"{name} is no longer paused" for name in gone]
        lifted += [f"{name} is no longer suspended" for name in _give_budget_back(case, subject)]
    return "; ".join(lifted) or f"nothing to resume: {', '.join(subjects)} is neither paused nor suspended"


def _give_budget_back(case: _Case, subject: str) -> list[str]:
    """``resume`` ends a suspension at once: the restarts that spent the budget no longer count."""
    ended: list[str] = []
    for group, program in case.ledger.programs.items():
        subjects = {name for name in program.suspended if means(subject, name) or subject == name}
        if not subjects:
            continue
        kept = tuple(entry for entry in program.spending.restarts if group not in subjects and entry[1] not in subjects)
        spending = brakes.Spending(kept)
        _put(case, group, replace(program, spending=spending, suspended=program.suspended - subjects))
        case.notes += [Resumed(name, "resume was asked for", "budget") for name in sorted(subjects)]
        ended += sorted(subjects)
    return ended
