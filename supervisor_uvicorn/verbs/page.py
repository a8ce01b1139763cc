"""The listener's page as a person reads it: its ages made true for now, and whether it is news at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from supervisor_uvicorn.names import chosen, means
from supervisor_uvicorn.supervisord.board import Note
from supervisor_uvicorn.verbs.stored import (
    ANYTHING,
    NAME,
    NUMBER_OR_NULL,
    TEXT,
    TEXT_OR_NULL,
    WHOLE_OR_NULL,
    BadPage,
    Field,
    Shape,
    above_0,
    checked,
    load,
    number,
    objects,
    or_null,
    text,
    texts,
    yes_or_no,
)

__all__ = ["BadPage", "Page", "read_page"]

EVERY_S = 5.0  # where the page does not say: the listener's own habit
STALE_PERIODS = 3.0

# What is used of a page, and what stands for it where a page of another version of ours lacks it.
_NUMBER = Field(number, "a number", 0.0)
_PAGE: Shape = {
    "listener": Field(or_null(lambda value: isinstance(value, dict)), "an object"),
    "age_s": _NUMBER,
    "programs": objects(),
    "answers": objects(),
}
_LISTENER: Shape = {
    "reports_every_s": Field(above_0, "a number above 0", EVERY_S),
    "dry_run": Field(yes_or_no, "true or false", False),
}
_PROGRAM: Shape = {
    "name": NAME,
    "socket": TEXT_OR_NULL,
    "state": Field(or_null(text), "a text or null", "watching"),
    "detail": Field(or_null(text), "a text or null", ""),
    "workers": objects(),
    "roll": ANYTHING,
    "earlier_roll": ANYTHING,
}
_WORKER: Shape = {
    "name": NAME,
    "pid": WHOLE_OR_NULL,
    "state": Field(text, "a text", "UNKNOWN"),
    "watched": Field(yes_or_no, "true or false", True),
    "verdict": Field(text, "a text", "unknown"),
    "reason": TEXT,
    "lag_s": NUMBER_OR_NULL,
    "http": ANYTHING,
    "since_s": NUMBER_OR_NULL,
    "restarts": WHOLE_OR_NULL,
    "held": TEXT_OR_NULL,
}
_HTTP: Shape = {"status": WHOLE_OR_NULL, "seconds": NUMBER_OR_NULL}
_ROLL: Shape = {
    "asked": Field(texts, "a list of texts", []),
    "state": Field(text, "a text", "rolling"),
    "detail": TEXT,
    "since_s": _NUMBER,
    "took_s": NUMBER_OR_NULL,
    "turns": objects(),
}
_TURN: Shape = {
    "name": NAME,
    "old_pid": WHOLE_OR_NULL,
    "new_pid": WHOLE_OR_NULL,
    "stage": Field(text, "a text", "waiting"),
    "detail": TEXT,
}
_ANSWER: Shape = {
    "id": TEXT,
    "accepted": Field(yes_or_no, "true or false", False),
    "detail": TEXT,
}


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
        found: Mapping[str, Any] | None = next((one for one in self.body["answers"] if one["id"] == ident), None)
        return found

    def rolls(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """The rolls of each program that has one: the one before the last, and the last."""
        for program in self.body["programs"]:
            for roll in (program["earlier_roll"], program["roll"]):
                if roll is not None:
                    yield program["name"], roll

    def knows(self, name: str) -> bool:
        """Does this NAME mean a worker or a program here?"""
        return any(
            means(name, f"{program['name']}:") or any(means(name, worker["name"]) for worker in program["workers"])
            for program in self.body["programs"]
        )

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
    found = load(note.text, "what is on the board", "page of a supervisor-uvicorn listener")
    try:
        page = checked(found, _PAGE, "it")
        listener = checked(page["listener"] or {}, _LISTENER, "listener")
        programs = [_program(given, f"programs[{index}]", note.age_s) for index, given in enumerate(page["programs"])]
        answers = [checked(given, _ANSWER, f"answers[{index}]") for index, given in enumerate(page["answers"])]
    except BadPage as error:
        raise BadPage(
            f"the page on the board cannot be read: {error}. A listener replaces it within some seconds of its start"
        ) from None
    age_s = page["age_s"] + note.age_s
    shown = {**page, "listener": listener, "age_s": round(age_s, 3), "programs": programs, "answers": answers}
    return Page(shown, age_s, listener["reports_every_s"])


def _program(given: object, where: str, age_s: float) -> dict[str, Any]:
    program = checked(given, _PROGRAM, where)
    workers = [_worker(one, f"{where}.workers[{index}]", age_s) for index, one in enumerate(program["workers"])]
    rolls = {key: _roll(program[key], f"{where}.{key}", age_s) for key in ("roll", "earlier_roll")}
    return {**program, "workers": workers, **rolls}


def _worker(given: object, where: str, age_s: float) -> dict[str, Any]:
    worker = checked(given, _WORKER, where)
    if worker["http"] is not None:
        worker["http"] = checked(worker["http"], _HTTP, f"{where}.http")
    if worker["since_s"] is not None:
        worker["since_s"] = round(worker["since_s"] + age_s, 3)
    return worker


def _roll(given: object, where: str, age_s: float) -> dict[str, Any] | None:
    if given is None:
        return None
    roll = checked(given, _ROLL, where)
    roll["turns"] = [checked(turn, _TURN, f"{where}.turns[{index}]") for index, turn in enumerate(roll["turns"])]
    roll["since_s"] = round(roll["since_s"] + age_s, 3)  # of its beginning, also where it has ended
    return roll
