"""``history``: what was done to which worker, when and why; the oldest first."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from supervisor_uvicorn.names import means
from supervisor_uvicorn.report.log import one_line
from supervisor_uvicorn.verbs.asking import Desk, NoNews, current_page, no_plugin
from supervisor_uvicorn.verbs.console import Console

CELL = "history"
VERSION = 1


def history(names: Sequence[str], as_json: bool, desk: Desk, console: Console) -> int:
    """0, also where nothing has been done yet. Raises :class:`NoNews` without plugin or listener, and RpcError."""
    note = desk.kept(CELL)
    if note is None:
        raise NoNews(no_plugin(console.command))
    if not note.text:
        current_page(desk, console.command)  # raises where there is no listener at all
    entries = [entry for entry in _entries(note.text) if not names or any(_concerns(entry, name) for name in names)]
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
        found = json.loads(text)
    except ValueError as error:
        raise NoNews(f"the history in supervisord's memory is no JSON ({error})") from None
    if not isinstance(found, dict) or not isinstance(found.get("entries"), list):
        raise NoNews("the history in supervisord's memory is not one of supervisor-uvicorn")
    if found.get("version", VERSION) > VERSION:
        raise NoNews(
            f"the history is of version {found['version']}, and this supervisor-uvicorn reads {VERSION}: "
            "it is older than the listener. Install the same version here"
        )
    return [entry for entry in found["entries"] if isinstance(entry, dict)]


def _concerns(entry: Mapping[str, Any], name: str) -> bool:
    worker, program = entry.get("worker"), entry.get("program")
    if isinstance(worker, str) and means(name, worker):
        return True
    return isinstance(program, str) and means(name, f"{program}:")
