"""What really happened, from two sides: supervisord's own log, and what the listener said it does.

supervisord's log is read by its order alone: its time stamps follow the clock that the campaign bends.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
from pathlib import Path
from typing import Any

Event = dict[str, Any]

_SPAWNED = re.compile(r" spawned: '([^']+)' with pid (\d+)")
_ENDED = re.compile(r" (?:exited|stopped): (\S+) \((.*)\)")
RECYCLED = "Maximum request "  # uvicorn's own words at the end of --limit-max-requests; then "count" or "limit"


class Tail:
    """The whole lines that were appended to a file since the last call."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def lines(self) -> list[str]:
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return whole.decode(errors="replace").splitlines()


@dataclasses.dataclass(frozen=True)
class End:
    """One process has ended. ``how`` is supervisord's: ``terminated by SIGKILL; not expected``."""

    name: str  # without the group
    pid: int
    how: str


class Truth:
    """Which pids there are and were, told by supervisord's log."""

    def __init__(self, log: Path) -> None:
        self._tail = Tail(log)
        self.pids: dict[str, int] = {}  # process name (without group) -> its pid; none while there is no process
        self.ends: list[End] = []

    def read(self) -> None:
        for line in self._tail.lines():
            if found := _SPAWNED.search(line):
                self.pids[found[1]] = int(found[2])
            elif (found := _ENDED.search(line)) and found[1] in self.pids:
                self.ends.append(End(found[1], self.pids.pop(found[1]), found[2]))


class Said:
    """The listener's JSON log, event by event, and what else stood in it."""

    def __init__(self, log: Path) -> None:
        self._tail = Tail(log)
        self.events: list[Event] = []
        self.verdicts: dict[int, str] = {}  # pid -> the last verdict
        self.strange: list[str] = []  # lines that are no events: a traceback

    def read(self) -> list[Event]:
        """What is new."""
        new = []
        for line in self._tail.lines():
            try:
                event = json.loads(line)
            except ValueError:
                event = None
            if isinstance(event, dict):
                new.append(event)
                self.add(event)
            else:
                self.strange.append(line)
        return new

    def add(self, event: Event) -> None:
        self.events.append(event)
        if event.get("event") == "verdict" and "pid" in event:
            self.verdicts[event["pid"]] = event["verdict"]


def at(event: Event) -> float:
    """When it was said, in seconds since 1970."""
    return datetime.datetime.fromisoformat(event["time"]).timestamp()


def recycled(log: Path, pid: int) -> bool:
    """Did this worker end because of ``--limit-max-requests``? By its own log, which holds several pids' lines."""
    text = log.read_text(errors="replace").partition(f"Started server process [{pid}]")[2]
    return RECYCLED in text.partition("Started server process [")[0]
