"""``history``: what was done to which worker, when and why; the oldest first."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from supervisor_uvicorn.names import NoSuchName, means
from supervisor_uvicorn.report.log import one_line
from supervisor_uvicorn.verbs.asking import Desk, NoNews, current_page, no_plugin
from supervisor_uvicorn.verbs.console import Console
from supervisor_uvicorn.verbs.page import read_page
from supervisor_uvicorn.verbs.stored import TEXT, TEXT_OR_NULL, BadPage, Shape, checked, load, objects

CELL = "history"

# What is used of it; an entry has more, as the event has.
_HISTORY: Shape = {"entries": objects()}
_ENTRY: Shape = {"time": TEXT, "event": TEXT, "message": TEXT, "worker": TEXT_OR_NULL, "program": TEXT_OR_NULL}


def history(names: Sequence[str], as_json: bool, desk: Desk, console: Console) -> int:
    """0, also where nothing has been done yet.

    Raises :class:`NoNews` without plugin or listener, :class:`NoSuchName` for a NAME of which neither the history nor
    the page knows, and :class:`RpcError`.
    """
    note = desk.kept(CELL)
    if note is None:
        raise NoNews(no_plugin(console.command))
    if not note.text:
        current_page(desk, console.command)  # raises where there is no listener at all
    every = _entries(note.text)
    unknown = [name for name in names if name != "all" and not any(_concerns(entry, name) for entry in every)]
    if unknown:
        _check_names(unknown, every, desk)
    entries = [entry for entry in every if not names or any(_concerns(entry, name) for name in names)]
    if as_json:
        console.say(json.dumps({"entries": entries}))
        return 0
    if not entries:
        console.note(f"nothing has been done yet{' to ' + ', '.join(names) if names else ''}")
    for entry in entries:
        console.say(one_line(f"{entry.get('time', '')}  {entry.get('event', ''):<13}  {entry.get('message', '')}"))
    return 0


def _entries(text: str) -> list[dict[str, Any]]:
    if not text:
        return []
    try:
        found = checked(
            load(text, "what is kept as the history", "history of a supervisor-uvicorn listener"), _HISTORY, "it"
        )
        for index, entry in enumerate(found["entries"]):
            checked(entry, _ENTRY, f"the history in supervisord's memory cannot be read: entries[{index}]")
    except BadPage as error:
        raise NoNews(str(error)) from None
    return list(found["entries"])


def _check_names(names: Sequence[str], entries: Sequence[Mapping[str, Any]], desk: Desk) -> None:
    """Of these the history has no entry: where the listener does not know them either, they are mistyped."""
    note = desk.read()
    try:
        page = read_page(note) if note is not None and note.text else None
    except BadPage as error:
        raise NoNews(str(error)) from None
    for name in names:
        if page is None or not page.knows(name):
            known = {str(program["name"]) for program in (page.body["programs"] if page else ())}
            known |= {group for entry in entries if (group := _group(entry))}
            here = ", ".join(sorted(known)) or "none"
            raise NoSuchName(f"{name}: no such uvicorn worker or program (programs here: {here})")


def _group(entry: Mapping[str, Any]) -> str:
    return str(entry.get("program") or (entry.get("worker") or "").partition(":")[0])


def _concerns(entry: Mapping[str, Any], name: str) -> bool:
    worker, program = entry.get("worker"), entry.get("program")
    if isinstance(worker, str) and means(name, worker):
        return True
    return isinstance(program, str) and means(name, f"{program}:")
