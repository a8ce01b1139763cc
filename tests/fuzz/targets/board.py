"""Whatever JSON stands on the board, or in the history's cell: the verbs of a person, to the last character."""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fuzz.choices import JSON_TOKENS, json_text, raw
from fuzz.target import Check, Target, Violation, for_a_terminal, holds
from supervisor_uvicorn.names import NoSuchName
from supervisor_uvicorn.report.history import History
from supervisor_uvicorn.supervisord.board import Note
from supervisor_uvicorn.supervisord.request import Request
from supervisor_uvicorn.verbs import (
    healthcheck,
    last,
    progress,
    status,  # noqa: F401
)
from supervisor_uvicorn.verbs import (
    history as _history,  # noqa: F401 - the verbs import it when it is needed; here before anything is measured
)
from supervisor_uvicorn.verbs.asking import Listener
from supervisor_uvicorn.verbs.command import carry_out
from supervisor_uvicorn.verbs.console import Console
from supervisor_uvicorn.verbs.page import BadPage, Page, read_page
from supervisor_uvicorn.verbs.screen import View, picture
from supervisor_uvicorn.verbs.trend import Trends
from supervisor_uvicorn.verbs.usage import with_usage


class _Desk:
    """A supervisord that has just these two texts."""

    def __init__(self, page: Note, history: Note) -> None:
        self._page, self._history = page, history

    def read(self) -> Note | None:
        return self._page

    def kept(self, key: str) -> Note | None:
        return self._history

    def send(self, request: Request) -> None:
        raise Violation("a verb that only reads has sent a request")

    def listeners(self) -> Sequence[Listener]:
        return ()


def _typed(desk: _Desk, verb: str, as_json: bool, names: Sequence[str]) -> None:
    """As a person types it: an exit code of its own, and nothing but text on either stream."""
    out, err = io.StringIO(), io.StringIO()
    args = argparse.Namespace(verb=verb, json=as_json, watch=False, names=list(names))
    code = carry_out(args, desk, Console(out, err))
    holds(code in (0, 1, 2), f"exit code {code}")
    for_a_terminal(out.getvalue(), f"{verb}'s stdout")
    for_a_terminal(err.getvalue(), f"{verb}'s stderr")
    if as_json and out.getvalue():
        json.loads(out.getvalue(), parse_constant=_no_constant)


def _no_constant(word: str) -> None:
    raise Violation(f"--json has written {word}, which is no JSON")


# -- the page --------------------------------------------------------------------------------------------------------

_WORKER = {
    "name": "web:web-0", "pid": 4711, "state": "RUNNING", "watched": True, "verdict": "healthy", "reason": "",
    "lag_s": 0.00002, "http": {"status": 200, "seconds": 0.004}, "since_s": 312.4, "restarts": 2, "held": None,
    "over": "",
    "rss_bytes": 66060288, "age_s": 400.5, "cpu_s": 3.2, "fds": 17, "connections": 4, "helpers": 0,
}  # fmt: skip
_SICK = {**_WORKER, "name": "web:web-1", "pid": 12, "verdict": "silent", "reason": "no pulse read for 31 s",
         "lag_s": 31.2, "held": "backoff", "over": "max_rss: 600 MiB", "http": None}  # fmt: skip
_ROLL = {
    "asked": ["a1"], "state": "rolling", "detail": "waits: a peer", "since_s": 3.5, "took_s": None,
    "turns": [
        {"name": "web:web-0", "old_pid": 88, "new_pid": 4711, "stage": "done", "detail": ""},
        {"name": "web:web-1", "old_pid": 12, "new_pid": None, "stage": "under way", "detail": "pid 12 draining"},
    ],
}  # fmt: skip
_PAGE = {
    "version": 1,
    "listener": {"pid": 5, "reports_every_s": 5.0, "dry_run": False},
    "age_s": 0.0,
    "programs": [
        {"name": "web", "socket": "tcp://127.0.0.1:8000", "state": "panic", "detail": "2 of 4 workers are failing",
         "workers": [_WORKER, _SICK], "roll": _ROLL, "earlier_roll": {**_ROLL, "state": "stopped", "took_s": 2.0}},
        {"name": "api", "socket": None, "state": "watching", "detail": "", "workers": [
            {**_WORKER, "name": "api:api", "watched": False, "verdict": "unknown", "pid": None, "state": "STOPPED"}],
         "roll": None, "earlier_roll": None},
    ],
    "answers": [{"id": "a1", "verb": "restart", "accepted": True, "detail": "rolling 2 workers of web"}],
}  # fmt: skip
_OLD_PAGE = {"version": 1, "programs": [{"name": "web", "workers": [{"name": "web:web-0"}]}]}
_NAMES: tuple[tuple[str, ...], ...] = ((), ("web",), ("web:*", "api"), ("nobody",), ("all",))
_SIZES = ((80, 24), (20, 5), (200, 60), (1, 1), (0, 0), (7, 3))
_AGES_S = (0.5, 0.0, 1000.0, 1e9)


def check_board(data: bytes) -> None:
    """The first byte: which names, how old, how large the terminal is; then the page."""
    how = data[0] if data else 0
    note = Note(json_text(data[1:], (_PAGE, _OLD_PAGE)), _AGES_S[how % 4], 1_700_000_000.0)
    names = _NAMES[how // 4 % len(_NAMES)]
    desk = _Desk(note, Note("", 0.0))
    _typed(desk, "status", how % 2 == 1, names)
    try:
        page = read_page(note)
        body = with_usage(page.only(names), page.age_s)
    except (BadPage, NoSuchName):
        return
    _painted(body, *_SIZES[how // 20 % len(_SIZES)])
    _followed(page)
    try:
        healthcheck.weigh(page.body, healthcheck.Least(), "the board")
    except healthcheck._Unhealthy as no:
        holds(str(no).startswith("unhealthy: "), f"{no!s:.200}")


def _painted(body: Any, columns: int, lines: int) -> None:
    workers = [worker for program in body["programs"] for worker in program["workers"]]
    trends = Trends(blocks=True)
    trends.add(workers)
    view = View(body, {worker["name"]: trends.of(worker["name"]) for worker in workers}, {})
    shown = picture("06:38:01", "a\nb", view, columns, lines)
    holds(len(shown) <= lines, f"{len(shown)} lines on a terminal of {lines}")
    for line in shown:
        holds("\n" not in line, "a line with a line end")
        for_a_terminal(line, "the picture")
        if line.isascii():
            holds(len(line) <= columns, f"a line of {len(line)} in {columns} columns")


def _followed(page: Page) -> None:
    """What ``restart`` says while it follows a roll."""
    page.answer("a1")
    page.knows("web")
    for program, roll in page.rolls():
        for line in (
            progress.bar(program, roll),
            *progress.changes(program, None, roll),
            *progress.changes(program, roll, roll),
            progress.ending(program, roll),
        ):
            holds("\n" not in line, "a line of progress with a line end")
            for_a_terminal(line, "a line of progress")


# -- the history -----------------------------------------------------------------------------------------------------

_ENTRY = {
    "time": "2026-11-22T06:38:01.123+00:00", "level": "WARN", "event": "restart", "message": "web:web-0 (pid 4711) ...",
    "worker": "web:web-0", "pid": 4711, "reason": "silent", "evidence": {"lag_s": 31.2, "ticks": [1, 2]},
}  # fmt: skip
_HISTORY = {
    "version": 1,
    "entries": [_ENTRY, {**_ENTRY, "event": "held", "program": "api", "worker": None}],
    "restarts": {"web:web-0": 3},
}


def check_history(data: bytes) -> None:
    """The first byte: which names, and JSON or not; then the cell."""
    how = data[0] if data else 0
    text = json_text(data[1:], (_HISTORY,))
    page = Note(json.dumps(_PAGE), 0.5, 1_700_000_000.0)
    _typed(_Desk(page, Note(text, 1.0, 1.0)), "history", how % 2 == 1, _NAMES[how // 2 % len(_NAMES)])
    for one in last.read(text).lasts.values():
        for_a_terminal(last.words(one, 1_700_000_000.0), "LAST")
    kept = History()
    if kept.restore(text):
        written = kept.text()
        json.loads(written, parse_constant=_no_constant)
        holds(written.isascii(), "the cell's text is not ASCII")
        again = History()
        holds(again.restore(written) and again.text() == written, "restored from its own text it is another one")


def _always(check: Check) -> Callable[[], Any]:
    @contextmanager
    def session() -> Iterator[Check]:
        yield check

    return session


BOARD = Target(
    "board",
    "the board's page: ``status``, its live picture, progress of a roll, ``healthcheck`` (``verbs/``, ``report/``)",
    _always(check_board),
    (
        *(bytes([how, 0]) for how in (0, 1, 4, 8, 12, 20, 40, 60, 80, 100)),
        b"\x00\x01",
        b"\x00" + raw(json.dumps(_OLD_PAGE)),
        b"\x00" + raw('{"version": 9}'),
        b"\x00" + raw("[" * 40),
    ),
    JSON_TOKENS,
    weight=2,
    most_bytes=512,
)
HISTORY = Target(
    "history",
    "the history's cell: ``history``, LAST, ``History.restore``",
    _always(check_history),
    (b"\x00\x00", b"\x01\x00", b"\x02\x00", b"\x06\x00", b"\x00" + raw(json.dumps(_HISTORY))),
    JSON_TOKENS,
    weight=1.5,
    most_bytes=512,
)
