"""A page (page.py) for people: ``check``'s and ``status``'s table, and whether all is well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from supervisor_uvicorn.model import State, Verdict

from .log import one_line

DONE_SHOWN_S = 600.0
"""A roll that was done longer ago than this is no news any more. One that was stopped stays, until the next one."""

_CHECK = ("NAME", "PID", "STATE", "VERDICT", "LAG", "HTTP", "REASON")
_STATUS = ("NAME", "PID", "STATE", "VERDICT", "LAG", "HTTP", "SINCE", "MEM", "RESTARTS", "REASON")


def well(page: Mapping[str, Any]) -> bool:
    """Is every worker that should exist healthy? Where there is none, nothing is proven."""
    counted = [worker for program in page["programs"] for worker in program["workers"] if counts(worker)]
    return bool(counted) and all(healthy(worker) for worker in counted)


def table(page: Mapping[str, Any]) -> str:
    """A line a worker, whatever a worker's own words contain. A listener's page also has a head line a program, and a
    line on its roll; ``check``'s, which has no listener, is a table alone."""
    programs = page["programs"]
    if not any(program["workers"] for program in programs):
        return "no uvicorn worker found\n"
    listener = page.get("listener")
    if listener is None:
        return _lines([_CHECK, *(_check_row(worker) for program in programs for worker in program["workers"])])
    rows = [[_STATUS, *(_status_row(worker) for worker in program["workers"])] for program in programs]
    widths = _widths([row for block in rows for row in block])
    dry_run = bool(listener.get("dry_run"))
    blocks = [
        program_line(program, dry_run) + "\n" + _lines(block, widths) + _ended(roll_line(program["roll"]))
        for program, block in zip(programs, rows, strict=True)
    ]
    return "\n".join(blocks)


def counts(worker: Mapping[str, Any]) -> bool:
    """Should it exist? Whom the operator has stopped should not."""
    return bool(worker["state"] != State.STOPPED.value)


def healthy(worker: Mapping[str, Any]) -> bool:
    """By its verdict alone."""
    return bool(worker["verdict"] == Verdict.HEALTHY.value)


# -- a program -------------------------------------------------------------------------------------------------------


def program_line(program: Mapping[str, Any], dry_run: bool) -> str:
    """Its name, socket, state, how many are healthy, and what holds it; without a line's end."""
    state = (program["state"] or "unknown") + (" (dry run)" if dry_run else "")
    cells = [
        program["name"],
        program["socket"] or "no socket seen",
        state,
        healthy_of(program["workers"]),
        program["detail"] or "",
    ]
    return "  ".join(one_line(cell) for cell in cells if cell)


def healthy_of(workers: Sequence[Mapping[str, Any]]) -> str:
    """``3 of 4 healthy, 1 stopped``."""
    counted = [worker for worker in workers if counts(worker)]
    stopped = len(workers) - len(counted)
    return f"{sum(map(healthy, counted))} of {len(counted)} healthy" + (f", {stopped} stopped" if stopped else "")


def roll_line(roll: Mapping[str, Any] | None) -> str:
    """How far a roll is or how it has ended, without a line's end; "" where there is none, or it is no news."""
    if roll is None:
        return ""
    turns = roll["turns"]
    done = sum(1 for turn in turns if turn["stage"] == "done")
    left = [turn for turn in turns if turn["stage"] == "left"]
    not_taken = f", {len(left)} left out" if left else ""
    if roll["state"] == "rolling":
        away = [
            f"{turn['name']} under way" + (f" ({turn['detail']})" if turn["detail"] else "")
            for turn in turns
            if turn["stage"] == "under way"
        ]
        parts = [f"roll: {done} of {len(turns)} done{not_taken}", *away, *([roll["detail"]] if roll["detail"] else [])]
        return one_line(", ".join(parts))
    took_s = roll["took_s"] or 0.0
    ago_s = max(0.0, roll["since_s"] - took_s)
    ago = f"{ago_s:.0f} s" if ago_s < 60 else since(ago_s)
    if roll["state"] == "stopped":
        return one_line(f"roll stopped {ago} ago: {roll['detail']}")
    if ago_s >= DONE_SHOWN_S:
        return ""
    return one_line(f"roll done {ago} ago: {_workers(done)} in {took_s:.1f} s{not_taken}")


def _ended(line: str) -> str:
    return line + "\n" if line else ""


def _workers(number: int) -> str:
    return f"{number} worker{'' if number == 1 else 's'}"


# -- a worker --------------------------------------------------------------------------------------------------------


def _check_row(worker: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        one_line(worker["name"]),
        str(worker["pid"] or "-"),
        one_line(worker["state"]),
        verdict(worker),
        "-" if worker["lag_s"] is None else duration(worker["lag_s"]),
        http_status(worker),
        one_line(worker["reason"]),
    )


def _status_row(worker: Mapping[str, Any]) -> tuple[str, ...]:
    *cells, _ = _check_row(worker)
    since_s, restarts = worker["since_s"], worker["restarts"]
    return (
        *cells,
        "-" if since_s is None else since(since_s),
        memory(worker.get("rss_bytes")),
        "-" if restarts is None else str(restarts),
        why(worker),
    )


def verdict(worker: Mapping[str, Any]) -> str:
    """In one word, but for ``not watched``."""
    return one_line(worker["verdict"]) if worker["watched"] else "not watched"


def http_status(worker: Mapping[str, Any]) -> str:
    """Of the last probe; ``-``: there was none, ``none``: it had no answer."""
    http = worker["http"]
    return "-" if http is None else str(http["status"] or "none")


def why(worker: Mapping[str, Any]) -> str:
    """The verdict's reason, else the limit that it is over; and the brake that holds it."""
    held = worker["held"]
    reason = one_line(worker["reason"] or worker.get("over") or "")
    return "; ".join(part for part in (reason, f"held: {one_line(held)}" if held else "") if part)


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]


def _lines(rows: Sequence[Sequence[str]], widths: Sequence[int] | None = None) -> str:
    """The last column has any width."""
    widths = widths or _widths(rows)
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
    ]
    return "".join(line.rstrip() + "\n" for line in lines)


def since(seconds: float) -> str:
    """An age as kubectl writes it, in at most two figures.

    >>> [since(age_s) for age_s in (45.9, 225, 8040, 7200, 480000)]
    ['45s', '3m', '2h14m', '2h', '5d']
    """
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m"
    if whole < 86400:
        hours, minutes = whole // 3600, whole % 3600 // 60
        return f"{hours}h{minutes}m" if minutes else f"{hours}h"
    return f"{whole // 86400}d"


def memory(size_bytes: int | None) -> str:
    """In at most four figures and a letter; powers of 1024, as the limits are written (settings_limits.py ``size``).

    >>> [memory(size) for size in (None, 900 * 1024, 63 * 1024**2, 3 * 1024**3 // 2)]
    ['-', '900K', '63M', '1.5G']
    """
    if size_bytes is None:
        return "-"
    size, letter = size_bytes / 1024, "K"
    for larger in "MGT":
        if round(size) < 1024:
            break
        size, letter = size / 1024, larger
    return f"{size:.1f}{letter}" if letter in "GT" and size < 99.95 else f"{size:.0f}{letter}"


def duration(seconds: float) -> str:
    """A lag: ``20 us``, ``4 ms``, ``31.2 s``."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} us"
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
