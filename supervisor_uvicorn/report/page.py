"""The page: what the listener knows, as one JSON object on the health board; and what ``check`` found, in its form.

Ages (``*_s``) are seconds as of the moment of the report; whoever reads it later adds the board's own age. What is not
known is None.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from supervisor_uvicorn.ledger import Ledger, Program
from supervisor_uvicorn.model import Address, Member, State, Verdict
from supervisor_uvicorn.rollout import Roll, Stage, Turn
from supervisor_uvicorn.verdict import Past

VERSION = 1
MOST_ANSWERS = 50
"""The last answers to requests (supervisord/request.py): whoever asked looks for his own a second later."""

_GROWING = re.compile(r"\d+(?:\.\d+)? s\b")


def page(
    members: Sequence[Member],
    ledger: Ledger,
    *,
    now: float,
    paused: Mapping[str, float | None],
    restarts: Mapping[str, int],
    answers: Sequence[Mapping[str, Any]],
    listener: Mapping[str, Any],
) -> dict[str, Any]:
    """What the listener knows. ``now`` is monotonic.

    ``paused``: NAME as it was typed -> monotonic until when, None until ``resume``; what is over does not count.
    ``restarts``: by worker's name, so many so far. Of ``answers`` the last :data:`MOST_ANSWERS` are shown. ``listener``
    is shown as it is (``pid``, ``reports_every_s``, ``dry_run``).

    A program's ``state`` is what holds all of it: ``paused`` before ``suspended`` before ``panic``, else ``watching``.
    What holds a single worker is in its ``held``.
    """
    pauses = {name: until for name, until in paused.items() if until is None or until > now}
    programs = []
    for group, its in _by_group(members).items():
        program = ledger.programs.get(group) or _UNKNOWN
        state, detail = _state(group, its, program, pauses, now)
        rows = []
        for member in its:
            name = member.name
            past = program.workers.get(name)
            held = _held(member, past, program, pauses)
            rows.append(_worker(member, past, now, restarts.get(name, 0), held))
        programs.append(
            {
                "name": group,
                "socket": _sockets(its),
                "state": state,
                "detail": detail,
                "workers": rows,
                "roll": None if program.roll is None else _roll(program.roll, program.workers, now),
                # Whoever asked for it looks each 250 ms, and another one may have begun in between.
                "earlier_roll": None if program.earlier is None else _roll(program.earlier, program.workers, now),
            }
        )
    return {
        "version": VERSION,
        "listener": dict(listener),
        "age_s": 0.0,
        "programs": programs,
        "answers": [dict(answer) for answer in answers[-MOST_ANSWERS:]],
    }


def glance(members: Sequence[Member], workers: Mapping[str, Past]) -> dict[str, Any]:
    """The same from one look without a listener (``check``): what only time would tell is None."""
    programs = [
        {
            "name": group,
            "socket": _sockets(its),
            "state": None,
            "detail": None,
            "workers": [_worker(member, workers.get(member.name), None, None, None) for member in its],
            "roll": None,
        }
        for group, its in _by_group(members).items()
    ]
    return {"version": VERSION, "listener": None, "age_s": 0.0, "programs": programs, "answers": []}


def changes(page: Mapping[str, Any]) -> Hashable:
    """The page without all that moves by itself: ages, lag, the seconds of an answer, what a worker takes of the
    machine, and seconds inside words. Of a limit that a worker is over only its name counts.

    Two pages with equal ``changes`` need not be reported one after the other.
    """
    programs = []
    for program in page["programs"]:
        workers = [
            (
                worker["name"],
                worker["pid"],
                worker["state"],
                worker["watched"],
                worker["verdict"],
                _still(worker["reason"]),
                None if worker["http"] is None else worker["http"]["status"],
                worker["restarts"],
                worker["held"],
                worker["over"].partition(":")[0],
            )
            for worker in program["workers"]
        ]
        state = (program["name"], program["socket"], program["state"], _still(program["detail"]))
        rolls = (_roll_changes(program["roll"]), _roll_changes(program["earlier_roll"]))
        programs.append((state, tuple(workers), rolls))
    answers = tuple((answer.get("id"), answer.get("accepted"), answer.get("detail")) for answer in page["answers"])
    return (tuple(programs), answers, tuple(sorted((page["listener"] or {}).items())))


def _roll_changes(roll: Mapping[str, Any] | None) -> Hashable:
    if roll is None:
        return None
    turns = [
        (turn["name"], turn["old_pid"], turn["new_pid"], turn["stage"], _still(turn["detail"]))
        for turn in roll["turns"]
    ]
    return (tuple(roll["asked"]), roll["state"], _still(roll["detail"]), roll["took_s"], tuple(turns))


def _still(words: str | None) -> str | None:
    return _GROWING.sub("_ s", words) if words else words


_UNKNOWN = Program()


def _by_group(members: Sequence[Member]) -> dict[str, list[Member]]:
    groups: dict[str, list[Member]] = {}
    for member in members:
        groups.setdefault(member.group, []).append(member)
    return groups


def _sockets(members: Sequence[Member]) -> str | None:
    found: list[Address] = []  # nearly always one, and comparing is quicker than writing each out
    for member in members:
        if member.socket is not None and member.socket not in found:
            found.append(member.socket)
    return ", ".join(sorted(map(str, found))) or None


# -- one worker ------------------------------------------------------------------------------------------------------


def _worker(
    member: Member, past: Past | None, now: float | None, restarts: int | None, held: str | None
) -> dict[str, Any]:
    http = past.http if past else None
    lag_s = past.lag_s if past else None
    return {
        "name": member.name,
        "pid": member.pid or None,
        "state": member.state.value,
        "watched": not member.not_watched,
        "verdict": past.verdict.value if past else Verdict.UNKNOWN.value,
        "reason": past.reason if past else member.not_watched,
        "lag_s": None if lag_s is None else round(lag_s, 6),
        "http": {"status": http.status, "seconds": round(http.seconds, 6)} if http else None,
        "since_s": round(max(0.0, now - past.since), 1) if past and now is not None else None,
        "restarts": restarts,
        "held": held,
        "over": None if now is None else _over(past),
        **_takes(member, past, now),
    }


_TAKES = ("rss_bytes", "age_s", "cpu_s", "fds", "connections", "helpers")


def _takes(member: Member, past: Past | None, now: float | None) -> dict[str, Any]:
    """What this process takes of the machine, as it was last measured; its age is that of the report."""
    usage = past.usage if past else None
    if usage is None or past is None or past.worker is None or past.worker.pid != member.pid:
        return dict.fromkeys(_TAKES)  # nothing of a process that is gone
    age_s = usage.age_s + (0.0 if now is None else max(0.0, now - usage.at))
    return {
        "rss_bytes": usage.rss_bytes,
        "age_s": round(age_s, 1),
        "cpu_s": None if usage.cpu_s is None else round(usage.cpu_s, 2),
        "fds": usage.fds,
        "connections": usage.connections,
        "helpers": usage.helpers,
    }


def _over(past: Past | None) -> str:
    """The limit that it is over; where that is not certain yet, the one that it was over at the last measurement."""
    if past is None or not past.over:
        return ""
    one = past.over_limit or past.over[0]
    return f"{one.limit}: {one.words}"


def _held(member: Member, past: Past | None, program: Program, pauses: Mapping[str, float | None]) -> str | None:
    """The brake that holds this one worker: what the policy has told of it, or would tell first if it fell ill."""
    name = member.name
    if member.not_watched:
        return None
    if name in pauses:
        return "paused"
    brake = program.said.get(name)
    if brake is None and past is not None and past.verdict is Verdict.FAILING:
        brake = program.said.get(member.group)  # panic and path are told once, of the program
    if brake is None and name in program.suspended:
        return "suspended"
    return brake


# -- one program -----------------------------------------------------------------------------------------------------


def _state(
    group: str, members: Sequence[Member], program: Program, pauses: Mapping[str, float | None], now: float
) -> tuple[str, str]:
    if pauses and all(_pause(member, pauses) for member in members):
        untils = [max(map(_forever, _pause(member, pauses))) for member in members]
        left_s = min(untils) - now
        return "paused", "paused until resume" if left_s == _FOREVER else f"paused for {left_s:.0f} s more"
    if group in program.suspended:
        return "suspended", _suspended(program, now)
    if program.panic.since is not None:
        return "panic", _panic(program, now)
    if program.said.get(group) == "path":
        return "watching", "failing workers are held: nobody has answered right on the path since we watch it"
    return "watching", ""


_FOREVER = float("inf")


def _forever(until: float | None) -> float:
    return _FOREVER if until is None else until


def _pause(member: Member, pauses: Mapping[str, float | None]) -> list[float | None]:
    """Until when, by each NAME that means this worker (names.py ``means``; this way it is quick with many NAMEs)."""
    group = member.group
    return [pauses[name] for name in ("all", group, f"{group}:", f"{group}:*", member.name) if name in pauses]


def _suspended(program: Program, now: float) -> str:
    restarts = program.spending.restarts
    if not restarts:
        return "the budget of restarts is spent; watched, not acted on"
    counts: dict[str, int] = {}
    for _, name in restarts:
        counts[name] = counts.get(name, 0) + 1
    who = ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda one: -one[1])[:3])
    more = ", ..." if len(counts) > 3 else ""
    number, over_s = len(restarts), max(0.0, now - restarts[0][0])
    return f"the budget is spent: {number} restarts in {over_s:.0f} s ({who}{more}); watched, not acted on"


def _panic(program: Program, now: float) -> str:
    """Both questions of panic.blame() in one line: how many fail, and how many answer right."""
    roster = [past for past in program.workers.values() if past.state is not State.STOPPED]
    failing = sum(1 for past in roster if past.verdict is Verdict.FAILING)
    right = sum(1 for past in roster if past.serves and past.answers_right)
    what = f"{failing} of {len(roster)} workers are failing and {right} answer right: the cause may be behind them all"
    canary_at, canaries = program.panic.canary_at, program.panic.canaries
    if canary_at is None:
        return f"{what}; nobody was replaced yet"
    return f"{what}; {canaries} replaced as a trial, the last {max(0.0, now - canary_at):.0f} s ago"


# -- its roll --------------------------------------------------------------------------------------------------------


def _roll(roll: Roll, workers: Mapping[str, Past], now: float) -> dict[str, Any]:
    """``since_s`` is the age of its beginning, also when it has ended: it ended ``since_s - took_s`` ago."""
    return {
        "asked": list(roll.asked),
        "state": roll.state.value,
        "detail": roll.detail,
        "since_s": round(max(0.0, now - roll.since), 1),
        "took_s": None if roll.ended_at is None else round(max(0.0, roll.ended_at - roll.since), 1),
        "turns": [
            {
                "name": turn.name,
                "old_pid": turn.old.pid if turn.old else None,
                "new_pid": turn.new_pid or None,
                "stage": turn.stage.value,
                "detail": turn.detail or (_under_way(turn, workers.get(turn.name)) if roll.rolling else ""),
            }
            for turn in roll.turns
        ],
    }


def _under_way(turn: Turn, past: Past | None) -> str:
    if turn.stage is not Stage.UNDER_WAY or past is None:
        return ""
    if turn.gone_at is None and turn.old is not None:
        return f"pid {turn.old.pid} draining"
    if past.worker is not None and past.worker != turn.old and past.state in (State.STARTING, State.RUNNING):
        return f"pid {past.worker.pid} {past.verdict.value}"
    return f"{past.state.value} in supervisord"
