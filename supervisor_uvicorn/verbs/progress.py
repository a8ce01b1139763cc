"""A roll in words: one line that is rewritten, or a line for each change, and how it ended. Pure.

A roll here is the ``roll`` of a program on the page (see ``page.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from supervisor_uvicorn.report.log import one_line

Roll = Mapping[str, Any]

BAR_COLUMNS = 10
_OVER = ("done", "left")


def counts(roll: Roll) -> tuple[int, int]:
    """How many turns are over, and how many there are."""
    return sum(1 for turn in roll["turns"] if turn["stage"] in _OVER), len(roll["turns"])


def bar(program: str, roll: Roll) -> str:
    """``web [=====>    ] 2/4 web:web-2 under way, 3 s``."""
    over, every = counts(roll)
    filled = BAR_COLUMNS * over // every if every else 0
    drawn = ("=" * filled + (">" if filled < BAR_COLUMNS else "")).ljust(BAR_COLUMNS)
    under_way = [turn["name"] for turn in roll["turns"] if turn["stage"] == "under way"]
    doing = f"{', '.join(under_way)} under way" if under_way else str(roll["detail"] or "waits")
    return one_line(f"{program} [{drawn}] {over}/{every} {doing}, {roll['since_s']:.0f} s")


def changes(program: str, before: Roll | None, now: Roll) -> list[str]:
    """What has happened since ``before``, a line each."""
    known: dict[tuple[str, Any], str] = {}
    if before is not None:
        known = {(turn["name"], turn["old_pid"]): turn["stage"] for turn in before["turns"]}
    lines = [
        f"{turn['name']}: {_turn(turn)}"
        for turn in now["turns"]
        if known.get((turn["name"], turn["old_pid"]), "waiting") != turn["stage"]
    ]
    waits = now["detail"] if now["state"] == "rolling" else ""
    if waits and (before is None or before["detail"] != waits):
        lines.append(f"{program}: {waits}")
    return [one_line(line) for line in lines]


def _turn(turn: Mapping[str, Any]) -> str:
    old, new = turn["old_pid"], turn["new_pid"]
    if turn["stage"] == "done":
        return f"pid {old} -> {new}" if old else f"started as pid {new}"
    if turn["stage"] == "left":
        return f"left out: {turn['detail']}" if turn["detail"] else "left out"
    if turn["stage"] == "under way":
        return f"pid {old} is being replaced" if old else "is being started"
    return str(turn["stage"])


def ending(program: str, roll: Roll) -> str:
    """``web: done, 4 workers in 12.3 s``, or ``web: stopped: WHY``."""
    if roll["state"] != "done":
        return one_line(f"{program}: {roll['state']}: {roll['detail'] or 'the listener gives no reason'}")
    done = len({turn["name"] for turn in roll["turns"] if turn["stage"] == "done"})
    left = len({turn["name"] for turn in roll["turns"] if turn["stage"] == "left"})
    took_s = roll["since_s"] if roll["took_s"] is None else roll["took_s"]
    rest = f", {left} left out" if left else ""
    return one_line(f"{program}: done, {done} worker{'' if done == 1 else 's'} in {took_s:.1f} s{rest}")
