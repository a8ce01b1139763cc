"""The picture of ``status --watch``: what the listener knows, as lines that fit a terminal. Pure.

What is not healthy is never hidden for what is: its words stand whole below its row, columns that tell less go first
where there is no room for all, and so do healthy workers.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from supervisor_uvicorn.model import State
from supervisor_uvicorn.report.log import one_line
from supervisor_uvicorn.report.table import (
    counts,
    duration,
    healthy,
    http_status,
    memory,
    program_line,
    roll_line,
    since,
    verdict,
    why,
)

LEAST_TREND = 8
MOST_TREND = 30  # trend.py MOST_REPORTS
INDENT = "    "
_GAP = "  "


@dataclass(frozen=True)
class View:
    """``body`` is a page's (verbs/page.py, with usage.py). By a worker's name: ``trends`` (trend.py), ``lasts`` (the
    words of last.py)."""

    body: Mapping[str, Any]
    trends: Mapping[str, str] = field(default_factory=dict)
    lasts: Mapping[str, str] = field(default_factory=dict)


def picture(head: str, trouble: str, view: View | None, columns: int, lines: int) -> list[str]:
    """At most ``lines`` lines, each at most ``columns`` wide, of printable characters alone.

    ``head`` is one line, ``trouble`` what is wrong in any number of lines, ``view`` None where there is none to show.
    """
    shown = [_cut(one_line(head), columns)]
    for line in trouble.splitlines():
        shown += wrapped(one_line(line), columns, lines)
    if view is not None:
        shown += _body(view, columns, lines - len(shown))
    return shown[: max(lines, 0)]


# -- which workers, where there is no room for all -------------------------------------------------------------------

_SICK, _TO_BE_KNOWN, _WELL = range(3)


@dataclass
class _Block:
    """A program: its lines, and those of each worker with its grade (0 is shown first)."""

    head: list[str]
    workers: list[tuple[int, list[str]]]
    roll: list[str]


class _Room:
    """Lines that are left; what is shown of each block."""

    def __init__(self, blocks: Sequence[_Block], lines: int) -> None:
        self._blocks, self._left = blocks, lines
        self.heads: dict[int, list[str]] = {}
        self.rolls: dict[int, list[str]] = {}
        self.workers: dict[tuple[int, int], list[str]] = {}

    def take_head(self, block: int) -> None:
        if block not in self.heads:
            self._take(self.heads, block, self._blocks[block].head)

    def take_roll(self, block: int) -> None:
        if block in self.heads and self._blocks[block].roll:
            self._take(self.rolls, block, self._blocks[block].roll)

    def take_worker(self, block: int, index: int) -> None:
        """Its row at the least, below its program's name: words that are too long for all the room are cut."""
        need = 1 if block in self.heads else 2
        if self._left < need:
            return
        if block not in self.heads:
            self._take(self.heads, block, self._blocks[block].head[: self._left - 1])
        lines = self._blocks[block].workers[index][1][: self._left]
        self.workers[block, index] = lines
        self._left -= len(lines)

    def _take(self, into: dict[int, list[str]], block: int, lines: list[str]) -> None:
        if len(lines) <= self._left:
            into[block] = lines
            self._left -= len(lines)


def _body(view: View, columns: int, lines: int) -> list[str]:
    programs = view.body["programs"]
    if not any(program["workers"] for program in programs):
        return ["no uvicorn worker found"[: max(columns, 0)]]
    titles, blocks = _blocks(view, columns, lines)
    every = sum(len(block.head) + len(block.roll) for block in blocks)
    every += sum(len(its) for block in blocks for _, its in block.workers)
    if 1 + every <= lines:
        apart = 1 + every + len(blocks) - 1 <= lines
        return [titles, *_lined_up(blocks, None, apart)]
    room = _Room(blocks, lines - 2)  # the titles, and how many more there are
    graded = sorted(
        (grade, index, number) for index, one in enumerate(blocks) for number, (grade, _) in enumerate(one.workers)
    )
    for grade, index, number in graded:
        if grade < _WELL:
            room.take_worker(index, number)
    for index in range(len(blocks)):
        room.take_head(index)
    for index in range(len(blocks)):
        room.take_roll(index)
    for grade, index, number in graded:
        if grade == _WELL:
            room.take_worker(index, number)
    return [titles, *_lined_up(blocks, room, False), _cut(_more(graded, room, len(blocks)), columns)]


def _lined_up(blocks: Sequence[_Block], room: _Room | None, apart: bool) -> list[str]:
    """In the page's order; where there is not room for all, a program's sick workers come before its others."""
    lines: list[str] = []
    for index, block in enumerate(blocks):
        if room is not None and index not in room.heads:
            continue
        if apart and lines:
            lines.append("")
        lines += block.head if room is None else room.heads[index]
        order = list(enumerate(block.workers))
        if room is not None:
            order.sort(key=lambda one: one[1][0])
        for number, (_, its) in order:
            lines += its if room is None else room.workers.get((index, number), [])
        lines += block.roll if room is None else room.rolls.get(index, [])
    return lines


def _more(graded: Sequence[tuple[int, int, int]], room: _Room, programs: int) -> str:
    hidden = [grade for grade, index, number in graded if (index, number) not in room.workers]
    parts = [f"... {len(hidden)} more"]
    if _SICK in hidden:
        parts.append(f"{hidden.count(_SICK)} of them not healthy")
    absent = programs - len(room.heads)
    if absent:
        parts.append(f"{absent} program{'' if absent == 1 else 's'} not shown")
    return ", ".join(parts)


# -- rows ------------------------------------------------------------------------------------------------------------


class _Column(NamedTuple):
    """``rank``: the lowest is left out first where the terminal is narrow. ``least``: a width that holds what changes
    from second to second, so that the columns stand still."""

    title: str
    cell: Callable[[Mapping[str, Any], View], str]
    rank: int
    least: int = 0


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def _age(seconds: float | None) -> str:
    return "-" if seconds is None else since(seconds)


_KEPT = 99
_MOSTLY_EMPTY = 3  # up to this rank: left out where nobody has one (no path is set, nobody counts connections)
_COLUMNS = (
    _Column("NAME", lambda worker, _: str(worker["name"]), _KEPT),
    _Column("PID", lambda worker, _: str(worker["pid"] or "-"), 6),
    _Column("STATE", lambda worker, _: str(worker["state"]), 4, 7),
    _Column("VERDICT", lambda worker, _: verdict(worker), _KEPT, 8),
    _Column("LAG", lambda worker, _: "-" if worker["lag_s"] is None else duration(worker["lag_s"]), _KEPT, 6),
    _Column("HTTP", lambda worker, _: http_status(worker), 3),
    _Column("SINCE", lambda worker, _: _age(worker["since_s"]), 5, 5),
    _Column("MEM", lambda worker, _: memory(worker["rss_bytes"]), 9, 5),
    _Column("AGE", lambda worker, _: _age(worker["age_s"]), 7, 5),
    _Column("CONN", lambda worker, _: _number(worker["connections"]), 2),
    _Column("FDS", lambda worker, _: _number(worker["fds"]), 1),
    _Column("RESTARTS", lambda worker, _: _number(worker["restarts"]), 10),
    _Column("LAST", lambda worker, view: view.lasts.get(worker["name"], "-"), 8, 14),
)


def _blocks(view: View, columns: int, lines: int) -> tuple[str, list[_Block]]:
    programs = view.body["programs"]
    dry_run = bool((view.body.get("listener") or {}).get("dry_run"))
    workers = [worker for program in programs for worker in program["workers"]]
    # Cut, because each cell is padded to the widest of its column, and somebody may have written a megabyte.
    cells = {
        column.title: [_cut(one_line(column.cell(worker, view)), columns) for worker in workers] for column in _COLUMNS
    }
    widths = {
        column.title: max(column.least, len(column.title), *map(_width, cells[column.title])) for column in _COLUMNS
    }
    kept = [column.title for column in _COLUMNS if column.rank > _MOSTLY_EMPTY or set(cells[column.title]) - {"-"}]
    for column in sorted(_COLUMNS, key=lambda column: column.rank):
        if column.rank == _KEPT or _taken(kept, widths) + LEAST_TREND <= columns:
            break
        if column.title in kept:
            kept.remove(column.title)
    trend = min(MOST_TREND, max(LEAST_TREND, columns - _taken(kept, widths)))

    def line(row: Mapping[str, str], last: str) -> str:
        return _cut(_GAP.join([*(_padded(row[title], widths[title]) for title in kept), last]).rstrip(), columns)

    blocks, at = [], 0
    for program in programs:
        rows = []
        for number, worker in enumerate(program["workers"], at):
            last = view.trends.get(worker["name"], "")[-trend:].rjust(trend)
            row = line({title: cells[title][number] for title in kept}, last)
            rows.append((_grade(worker), [row, *_words(worker, "STATE" in kept, columns, lines)]))
        at += len(program["workers"])
        roll = roll_line(program["roll"])
        head = wrapped(program_line(program, dry_run), columns, lines)
        blocks.append(_Block(head, rows, wrapped(roll, columns, lines) if roll else []))
    return line({title: title for title in kept}, "TREND".rjust(trend)), blocks


def _taken(titles: Sequence[str], widths: Mapping[str, int]) -> int:
    return sum(widths[title] + len(_GAP) for title in titles)


def _grade(worker: Mapping[str, Any]) -> int:
    if counts(worker) and not healthy(worker):
        return _SICK
    return _TO_BE_KNOWN if worker["over"] or worker["held"] else _WELL


def _words(worker: Mapping[str, Any], with_state: bool, columns: int, lines: int) -> list[str]:
    words, state = why(worker), one_line(worker["state"])
    if not with_state and worker["state"] != State.RUNNING.value and not words.startswith(state):
        words = f"{state}; {words}" if words else state
    return [INDENT + line for line in wrapped(words, columns - len(INDENT), lines)] if words else []


# -- widths, in columns of a terminal --------------------------------------------------------------------------------


def _width(text: str) -> int:
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(char: str) -> int:
    """As terminals have it (wcwidth(3)): two for East Asian wide characters (UAX #11), none for combining marks."""
    if unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _fitting(text: str, columns: int) -> int:
    """How many characters from the beginning of ``text`` fit."""
    if text.isascii():
        return min(len(text), max(columns, 0))
    taken = 0
    for number, char in enumerate(text):
        taken += _columns(char)
        if taken > columns:
            return number
    return len(text)


def _cut(text: str, columns: int) -> str:
    return text[: _fitting(text, columns)]


def _padded(text: str, columns: int) -> str:
    return text + " " * (columns - _width(text))


def wrapped(text: str, columns: int, most: int) -> list[str]:
    """``text`` in at most ``most`` lines of at most ``columns``, broken at spaces where there are some."""
    lines: list[str] = []
    rest = text[: max(columns, 1) * max(most, 1) * 2]  # nobody sees more, and somebody may have written a megabyte
    while rest and len(lines) < most:
        end = max(_fitting(rest, columns), 1)
        space = rest.rfind(" ", 1, end + 1) if end < len(rest) else -1
        end = space if space > 0 else end
        lines.append(_cut(rest[:end].rstrip(), columns))
        rest = rest[end:].lstrip()
    return lines
