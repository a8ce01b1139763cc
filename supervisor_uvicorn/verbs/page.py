"""The listener's page as a person reads it: its ages made true for now, and whether it is news at all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from supervisor_uvicorn.names import chosen
from supervisor_uvicorn.supervisord.board import Note

VERSION = 1
EVERY_S = 5.0  # where the page does not say: the listener's own habit
STALE_PERIODS = 3.0

# What a page of another version of ours may lack. ``name`` is the only thing that it cannot.
_WORKER: dict[str, Any] = {
    "pid": None,
    "state": "UNKNOWN",
    "watched": True,
    "verdict": "unknown",
    "reason": "",
    "lag_s": None,
    "http": None,
    "since_s": None,
    "restarts": None,
    "held": None,
}
_ROLL: dict[str, Any] = {"asked": [], "state": "rolling", "detail": "", "since_s": 0.0, "took_s": None, "turns": []}
_TURN: dict[str, Any] = {"old_pid": None, "new_pid": None, "stage": "waiting", "detail": ""}


class BadPage(Exception):  # noqa: N818 - it reads as what it is
    """The board holds something else than a page that we can read; the message says what."""


@dataclass(frozen=True)
class Page:
    """``body`` has the shape of the design's section 5, its ages as of now. Times are in seconds."""

    body: Mapping[str, Any]
    age_s: float
    every_s: float

    @property
    def stale(self) -> bool:
        """So old that the listener must have stopped reporting."""
        return self.age_s > STALE_PERIODS * self.every_s

    def answer(self, ident: str) -> Mapping[str, Any] | None:
        """The listener's answer to this request, if it is there."""
        answers = self.body.get("answers")
        for answer in answers if isinstance(answers, list) else ():
            if isinstance(answer, dict) and answer.get("id") == ident:
                return answer
        return None

    def rolls(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """The roll of each program that has one."""
        for program in self.body["programs"]:
            if program["roll"] is not None:
                yield program["name"], program["roll"]

    def only(self, names: Sequence[str]) -> dict[str, Any]:
        """The page with the workers that NAMEs mean, and without what is between listener and verb.

        Raises :class:`NoSuchName` for a NAME that means nobody.
        """
        body = {key: value for key, value in self.body.items() if key != "answers"}
        if not names or "all" in names:
            return body
        groups = {program["name"] for program in body["programs"]}
        known = [worker["name"] for program in body["programs"] for worker in program["workers"]]
        # A program whose processes are all gone is still one, and so is no mistyped name.
        empty = {name for name in names if name.removesuffix(":*") in groups - {one.partition(":")[0] for one in known}}
        wanted = set(chosen(known, rest)) if (rest := [name for name in names if name not in empty]) else set()
        programs = []
        for program in body["programs"]:
            workers = [worker for worker in program["workers"] if worker["name"] in wanted]
            if workers or program["name"] in {name.removesuffix(":*") for name in empty}:
                programs.append({**program, "workers": workers})
        return {**body, "programs": programs}


def read_page(note: Note) -> Page:
    """The page in a note of the board that is not empty. Raises :class:`BadPage`."""
    try:
        found = json.loads(note.text)
    except ValueError as error:
        raise BadPage(f"what is on the board is no JSON ({error})") from None
    if not isinstance(found, dict) or not isinstance(found.get("version"), int):
        raise BadPage("what is on the board is no page of a supervisor-uvicorn listener")
    if found["version"] > VERSION:
        raise BadPage(
            f"the listener's page is of version {found['version']}, and this supervisor-uvicorn reads {VERSION}: "
            "it is older than the listener. Install the same version here"
        )
    try:
        listener = found.get("listener") or {}
        every_s = float(listener.get("reports_every_s") or EVERY_S)
        programs = [_program(program, note.age_s) for program in found.get("programs", [])]
        age_s = float(found.get("age_s") or 0.0) + note.age_s
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadPage(f"the listener's page cannot be read ({type(error).__name__}: {error})") from None
    return Page({**found, "listener": listener, "age_s": round(age_s, 3), "programs": programs}, age_s, every_s)


def _program(program: Mapping[str, Any], age_s: float) -> dict[str, Any]:
    workers = []
    for given in program.get("workers", []):
        worker = {"name": given["name"], **_WORKER, **given}
        if worker["since_s"] is not None:
            worker["since_s"] = round(float(worker["since_s"]) + age_s, 3)
        workers.append(worker)
    roll = program.get("roll")
    if roll is not None:
        roll = {**_ROLL, **roll, "turns": [{"name": turn["name"], **_TURN, **turn} for turn in roll.get("turns", [])]}
        roll["since_s"] = round(float(roll["since_s"]) + age_s, 3)  # of its beginning, also where it has ended
    known = {"name": program["name"], "socket": None, "state": "watching", "detail": "", **program}
    return {**known, "workers": workers, "roll": roll}
