"""What must survive a listener's restart, as the text of a cell in supervisord's memory. Pure: no clock, no I/O.

Kept are the brakes (spent budgets, backoffs, suspensions, panic, pauses), the rolls, who has served (one that is
stopping must not be taken for one that never came up), and the answers that somebody may still be waiting for. Not kept
is what one look shows anew (verdicts, ticks, pins), what a new listener has to see for itself (that a path was ever
answered right), and what we have taken down, which intentions.py has on a disk.

Monotonic times are stored as they are. CLOCK_MONOTONIC (clock_gettime(2)) counts from the boot and is the same for all
processes of one, and the text cannot outlive the boot, because it lies in a process. Only in another time namespace
(time_namespaces(7)) has it another zero; so a time that lies ahead is read as now, which makes a brake hold longer.

What is read is not trusted: another version of us may have written it, or anybody who may speak to supervisord. A part
that is odd is left out, and nothing is ever raised. Left out is a brake, never an order; a roll alone could end
processes, so one with anything odd in it is left out whole, and one that has slept for long is not woken: who asked for
it has given up by then.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from .brakes import Spending, Waiting
from .ledger import Ledger, Program
from .model import WorkerId
from .panic import Panic
from .rollout import Roll, RollState, Stage, Turn
from .verdict import Past

VERSION = 1
ROLL_FRESH_S = 600.0
"""A roll goes on after the listener was away for less than this; else it is stopped, and says so."""

MOST_TEXT_BYTES = 1024 * 1024  # supervisord/board.py MAX_TEXT_BYTES: the cell takes no more
MOST_S = 1e10  # three hundred years; whatever is more is no time of ours
MOST_ANSWERS = 50
MOST_CANARIES = 1_000_000
MOST_PID = 1 << 22  # proc(5), PID_MAX_LIMIT of a 64-bit kernel
MOST_BORN = 1 << 62  # clock ticks
MOST_NAME = 512  # characters of a name or an ident
MOST_WORDS = 4096  # of a detail


@dataclass(frozen=True)
class Memory:
    """``programs`` have nothing but what is kept. ``away_s``: between the writing and the reading, so long nobody
    looked; as a gap of the ledger (``Ledger.gaps``) it is not held against the workers."""

    programs: Mapping[str, Program] = field(default_factory=dict)
    paused: Mapping[str, float | None] = field(default_factory=dict)  # NAME -> monotonic until; None: until resume
    answers: tuple[Mapping[str, Any], ...] = ()
    away_s: float = 0.0


def to_text(
    ledger: Ledger, paused: Mapping[str, float | None], answers: Sequence[Mapping[str, Any]], now: float
) -> str:
    """The cell's text, in ASCII. ``now`` is monotonic; of ``answers`` the last :data:`MOST_ANSWERS` are kept.

    Where it would be longer than a cell (thousands of workers are rolled), the rolls are left out: brakes matter more.
    """
    text = _text(ledger.programs, paused, answers, now)
    if len(text) > MOST_TEXT_BYTES:
        bare = {group: replace(program, roll=None) for group, program in ledger.programs.items()}
        text = _text(bare, paused, answers, now)
    return text


def _text(
    programs: Mapping[str, Program],
    paused: Mapping[str, float | None],
    answers: Sequence[Mapping[str, Any]],
    now: float,
) -> str:
    return json.dumps(
        {
            "version": VERSION,
            "at": now,
            "programs": {group: entry for group, program in programs.items() if (entry := _entry(program))},
            "paused": dict(paused),
            "answers": [dict(answer) for answer in answers[-MOST_ANSWERS:]],
        }
    )


def from_text(text: str, now: float) -> Memory | None:
    """What :func:`to_text` had written. None: nothing that can be read. Raises nothing, whatever ``text`` is."""
    found = cell_object(text)
    if found is None or found.get("version") != VERSION:
        return None
    at = _seconds(found.get("at"))
    if at is None:
        return None
    reading = _Reading(at, now)
    entries = _dict(found.get("programs")).items()
    programs = {
        group: reading.program(group, entry)
        for group, entry in entries
        if _name(group) and ":" not in group and isinstance(entry, dict)
    }
    answers = [{key: one[key] for key in _ANSWER} for one in _list(found.get("answers")) if _is_answer(one)]
    return Memory(programs, reading.paused(_dict(found.get("paused"))), tuple(answers[-MOST_ANSWERS:]), reading.away_s)


def cell_object(text: str) -> dict[str, Any] | None:
    """The JSON object that a cell's text is, or None. Raises nothing.

    A text that is longer than a cell can be, or nested so deep that Python's parser gives up, is nobody's of us.
    """
    if len(text) > MOST_TEXT_BYTES:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


# -- writing ---------------------------------------------------------------------------------------------------------


def _entry(program: Program) -> dict[str, Any]:
    """Of a program with nothing to remember: nothing."""
    entry: dict[str, Any] = {}
    if program.spending.restarts:
        entry["spending"] = [[at, name] for at, name in program.spending.restarts]
    if program.waiting:
        entry["waiting"] = {name: [one.last_at, one.wait_s] for name, one in program.waiting.items()}
    if program.recycled:
        entry["recycled"] = {name: [one.last_at, one.wait_s] for name, one in program.recycled.items()}
    if program.suspended:
        entry["suspended"] = sorted(program.suspended)
    if program.panic != Panic():
        panic = program.panic
        entry["panic"] = {"since": panic.since, "canary_at": panic.canary_at, "canaries": panic.canaries}
    if program.roll is not None:
        entry["roll"] = _roll_entry(program.roll)
    served = [past.worker for past in program.workers.values() if past.worker is not None and past.served_since]
    if served:
        entry["served"] = [[worker.name, worker.pid, worker.born] for worker in served]
    return entry


def _roll_entry(roll: Roll) -> dict[str, Any]:
    return {
        "asked": list(roll.asked),
        "turns": [
            {
                "name": turn.name,
                "old": None if turn.old is None else [turn.old.pid, turn.old.born],
                "stage": turn.stage.value,
                "gone_at": turn.gone_at,
                "new_pid": turn.new_pid,
                "detail": turn.detail[:MOST_WORDS],
            }
            for turn in roll.turns
        ],
        "since": roll.since,
        "state": roll.state.value,
        "detail": roll.detail[:MOST_WORDS],
        "ended_at": roll.ended_at,
        "waiting_since": roll.waiting_since,
    }


# -- reading ---------------------------------------------------------------------------------------------------------


class _Odd(Exception):  # noqa: N818 - it reads as what it is
    """This part is left out."""


_Part = TypeVar("_Part")


@dataclass(frozen=True)
class _Reading:
    """A text that was written ``at``, read ``now``."""

    at: float
    now: float

    @property
    def away_s(self) -> float:
        return max(0.0, self.now - self.at)

    def program(self, group: str, entry: Mapping[str, Any]) -> Program:
        names = [name for name in _list(entry.get("suspended")) if _name(name) and _belongs(name, group)]
        served = [_or(lambda one: self._served(group, one), one, None) for one in _list(entry.get("served"))]
        return Program(
            workers={past.name: past for past in served if past is not None},
            spending=self._spending(group, _list(entry.get("spending"))),
            waiting=self._backoffs(group, entry.get("waiting")),
            recycled=self._backoffs(group, entry.get("recycled")),
            suspended=frozenset(names),
            panic=_or(self._panic, entry.get("panic"), Panic()),
            roll=_or(lambda found: self._roll(group, found), entry.get("roll"), None),
        )

    def paused(self, found: Mapping[str, Any]) -> dict[str, float | None]:
        """Who is paused was told to be left alone: where until when cannot be read, it is until ``resume``."""
        pauses: dict[str, float | None] = {}
        for name, until in found.items():
            if not _name(name):
                continue
            until_s = _seconds(until)
            if until_s is not None and self.at > self.now:  # another clock: what was left of it is left
                until_s += self.now - self.at
            if until_s is None or until_s > self.now:
                pauses[name] = until_s
        return pauses

    def _spending(self, group: str, found: Sequence[Any]) -> Spending:
        restarts = []
        for entry in found:
            if isinstance(entry, list) and len(entry) == 2 and _is_worker(entry[1], group):
                at = _seconds(entry[0])
                if at is not None:
                    restarts.append((min(at, self.now), entry[1]))
        return Spending(tuple(sorted(restarts, key=lambda restart: restart[0])))

    def _served(self, group: str, found: Any) -> Past:
        """A worker that has served: where it no longer does it is stopping, and is not taken for one that starts."""
        if not isinstance(found, list) or len(found) != 3:
            raise _Odd
        name, pid, born = found
        if not isinstance(name, str) or not _is_worker(name, group):
            raise _Odd
        worker, now = WorkerId(name, _number(pid, 1, MOST_PID), _number(born, 0, MOST_BORN)), self.now
        return Past(name, worker, now, since=now, moved_at=now, switched_at=now, served_since=now)

    def _backoffs(self, group: str, found: Any) -> dict[str, Waiting]:
        return {
            name: one
            for name, entry in _dict(found).items()
            if _is_worker(name, group) and (one := _or(self._waiting, entry, None)) is not None
        }

    def _waiting(self, found: Any) -> Waiting:
        if not isinstance(found, list) or len(found) != 2:
            raise _Odd
        return Waiting(self._past(found[0]), _need(_seconds(found[1])))

    def _panic(self, found: Any) -> Panic:
        entry = _need_dict(found)
        canaries = _number(entry.get("canaries"), 0, MOST_CANARIES)
        return Panic(self._past_or_none(entry.get("since")), self._past_or_none(entry.get("canary_at")), canaries)

    def _roll(self, group: str, found: Any) -> Roll:
        entry = _need_dict(found)
        asked, turns = entry.get("asked"), entry.get("turns")
        if not isinstance(asked, list) or not isinstance(turns, list) or not all(_name(ident) for ident in asked):
            raise _Odd
        state = _one_of(RollState, entry.get("state"))
        roll = Roll(
            tuple(asked),
            tuple(self._turn(group, turn) for turn in turns),
            self._ours(entry.get("since")),
            state,
            _words(entry.get("detail")),
            self._ours_or_none(entry.get("ended_at")),
            self._ours_or_none(entry.get("waiting_since")),
        )
        if roll.rolling is not (roll.ended_at is None) or not turns:
            raise _Odd
        if roll.rolling and not self.at <= self.now < self.at + ROLL_FRESH_S:
            away = f"for {self.away_s:.0f} s" if self.at <= self.now else "for a time that cannot be told"
            detail = f"the listener was away {away}"
            return replace(roll, state=RollState.STOPPED, detail=detail, ended_at=self.now)
        return roll

    def _turn(self, group: str, found: Any) -> Turn:
        entry = _need_dict(found)
        name, old, gone_at = entry.get("name"), entry.get("old"), entry.get("gone_at")
        if not isinstance(name, str) or not _is_worker(name, group):
            raise _Odd
        if old is not None and not (isinstance(old, list) and len(old) == 2):
            raise _Odd
        return Turn(
            name,
            None if old is None else WorkerId(name, _number(old[0], 1, MOST_PID), _number(old[1], 0, MOST_BORN)),
            _one_of(Stage, entry.get("stage")),
            self._ours_or_none(gone_at),
            _number(entry.get("new_pid"), 0, MOST_PID),
            _words(entry.get("detail")),
        )

    def _past(self, found: Any) -> float:
        """A moment that has been; one that lies ahead is now."""
        return min(_need(_seconds(found)), self.now)

    def _past_or_none(self, found: Any) -> float | None:
        return None if found is None else self._past(found)

    def _ours(self, found: Any) -> float:
        """The same, where one after the writing is a lie."""
        if _need(_seconds(found)) > self.at:
            raise _Odd
        return self._past(found)

    def _ours_or_none(self, found: Any) -> float | None:
        return None if found is None else self._ours(found)


def _or(read: Callable[[Any], _Part], found: Any, otherwise: _Part) -> _Part:
    if found is None:
        return otherwise
    try:
        return read(found)
    except _Odd:
        return otherwise


def _need(value: float | None) -> float:
    if value is None:
        raise _Odd
    return value


def _need_dict(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Odd
    return value


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _seconds(value: Any) -> float | None:
    """A moment or a duration: 0 to :data:`MOST_S`. No bool, NaN, infinity."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_S:
        return None
    return float(value)


def _number(value: Any, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise _Odd
    return value


def _words(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MOST_WORDS:
        raise _Odd
    return value


def _one_of(kind: Callable[[Any], _Part], value: Any) -> _Part:
    try:
        return kind(value)
    except (ValueError, TypeError):
        raise _Odd from None


def _name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MOST_NAME


def _is_worker(value: Any, group: str) -> bool:
    return _name(value) and value.startswith(f"{group}:")


def _belongs(name: str, group: str) -> bool:
    return name == group or name.startswith(f"{group}:")


_ANSWER = ("id", "verb", "accepted", "detail")


def _is_answer(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() >= set(_ANSWER)
        and _name(value["id"])
        and _name(value["verb"])
        and isinstance(value["accepted"], bool)
        and isinstance(value["detail"], str)
        and len(value["detail"]) <= MOST_WORDS
    )
