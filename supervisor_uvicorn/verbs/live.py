"""``status --watch`` in a terminal: look, paint, wait; until Ctrl-C. One look costs supervisord one call, that for the
board; the history is asked for only when somebody was restarted (last.py)."""

from __future__ import annotations

import contextlib
import datetime
import signal
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

from supervisor_uvicorn.report.table import healthy_of, since, well
from supervisor_uvicorn.supervisord.board import Note
from supervisor_uvicorn.supervisord.rpc import RpcError
from supervisor_uvicorn.verbs.asking import Desk, NoNews, current_page, explain, stale
from supervisor_uvicorn.verbs.console import Console, Unwritable
from supervisor_uvicorn.verbs.last import Lasts, words
from supervisor_uvicorn.verbs.page import BadPage, Page, read_page
from supervisor_uvicorn.verbs.screen import View, picture
from supervisor_uvicorn.verbs.trend import Trends
from supervisor_uvicorn.verbs.usage import with_usage

STEP_S = 0.1
"""Between two looks at the terminal: a resize, or Ctrl-Z, is followed so soon."""
WORDS_S = 5.0
"""So long the words for a listener that does not report are kept: making them takes two calls of supervisord."""


def watch_live(names: Sequence[str], desk: Desk, console: Console, every_s: float) -> int:
    """The exit code of the last look. The terminal is as it was before, and the last picture stands in it.

    Raises :class:`NoSuchName`, and what writing raises.
    """
    watching = _Watching(names, desk, console)
    painted: list[str] = []
    code = 2
    try:
        with _stops() as stops:
            while True:
                code = watching.look()
                until, size = console.clock() + every_s, None
                while True:
                    if stops.asked:
                        console.unpaint()
                        stops.stop()
                        size = None
                    if console.size() != size:
                        size = console.size()
                        painted = watching.picture(*size)
                        console.paint(painted)
                    left_s = until - console.clock()
                    if left_s <= 0:
                        break
                    console.sleep(min(STEP_S, left_s))
    except KeyboardInterrupt:
        console.unpaint()
        if painted:
            console.say("\n".join(painted))
        return code
    finally:
        with contextlib.suppress(BrokenPipeError, Unwritable):
            console.unpaint()


class _Watching:
    """What was seen so far."""

    def __init__(self, names: Sequence[str], desk: Desk, console: Console) -> None:
        self._names, self._desk, self._console = names, desk, console
        self._trends = Trends(console.blocks)
        self._lasts = Lasts(desk, console.clock)
        self._reported_at = -1.0  # by supervisord's clock: what tells one report from the next
        self._stale: tuple[float, str] | None = None  # when its words were made (by our clock), and they
        self._page: Page | None = None
        self._view: View | None = None
        self._trouble = ""

    def look(self) -> int:
        """The exit code. Raises :class:`NoSuchName`."""
        self._page, self._view, self._trouble = None, None, ""
        try:
            note, page = self._note_and_page()
            body = with_usage(page.only(self._names), page.age_s)
        except (NoNews, RpcError, BadPage) as error:
            self._trouble = explain(error) if isinstance(error, RpcError) else str(error)
            return 2
        workers = [worker for program in body["programs"] for worker in program["workers"]]
        if note.at != self._reported_at:
            self._reported_at = note.at
            self._trends.add(workers)
        lasts = self._lasts.of({worker["name"]: worker["restarts"] or 0 for worker in workers})
        now = note.at + note.age_s  # not this machine's, which may be another one
        shown = self._console.encodable
        self._page = page
        self._view = View(
            _shown(body, self._console),
            {shown(worker["name"]): self._trends.of(worker["name"]) for worker in workers},
            {shown(worker["name"]): shown(words(lasts.get(worker["name"]), now)) for worker in workers},
        )
        if page.stale:
            self._trouble = self._stale_words(page)
            return 2
        self._stale = None
        return 0 if well(body) else 1

    def picture(self, columns: int, lines: int) -> list[str]:
        """It leaves the last column free: see ``Console.paint``."""
        trouble = self._console.encodable(self._trouble)
        return picture(self._head(), trouble, self._view, columns - 1, lines)

    def _head(self) -> str:
        clock = f"{datetime.datetime.now().astimezone():%H:%M:%S}"
        if self._page is None or self._view is None:
            return f"{clock}  {self._console.command} status: no news"
        listener = self._view.body["listener"]
        workers = [worker for program in self._view.body["programs"] for worker in program["workers"]]
        age_s, pid = self._page.age_s, listener.get("pid")
        age = f"{age_s:.1f} s" if age_s < 60 else since(age_s)
        who = f" by pid {pid}" if isinstance(pid, int) else ""
        parts = [clock, healthy_of(workers), f"reported {age} ago{who}", "dry run" if listener["dry_run"] else ""]
        return "  ".join(part for part in parts if part)

    def _note_and_page(self) -> tuple[Note, Page]:
        """Raises :class:`NoNews`, :class:`BadPage` and :class:`RpcError`."""
        note = self._desk.read()
        if note is None or not note.text:
            current_page(self._desk, self._console.command)  # raises, with words
            raise NoNews("the listener has just begun to report")
        return note, read_page(note)

    def _stale_words(self, page: Page) -> str:
        now = self._console.clock()
        if self._stale is None or now - self._stale[0] >= WORDS_S:
            self._stale = now, stale(self._desk, page)
        return self._stale[1]


def _shown(value: Any, console: Console) -> Any:
    """The page as this terminal can show it. What would control a terminal is taken out where it is drawn."""
    if isinstance(value, str):
        return console.encodable(value)
    if isinstance(value, list):
        return [_shown(one, console) for one in value]
    return {key: _shown(one, console) for key, one in value.items()} if isinstance(value, dict) else value


# -- signals ---------------------------------------------------------------------------------------------------------


class _Stops:
    """Ctrl-Z, which is obeyed when the terminal has been left."""

    def __init__(self) -> None:
        self.asked = False

    def note(self, _: int, __: FrameType | None) -> None:
        self.asked = True

    def stop(self) -> None:
        """Returns when the process goes on (SIGCONT)."""
        self.asked = False
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self.note)


@contextlib.contextmanager
def _stops() -> Iterator[_Stops]:
    """Ctrl-Z is noted; a TERM ends the verb as Ctrl-C does, so that no terminal is left without its cursor."""
    stops = _Stops()
    wanted = {signal.SIGTSTP: stops.note, signal.SIGTERM: _terminated}
    before: dict[signal.Signals, Any] = {}
    try:
        for one, handler in wanted.items():
            with contextlib.suppress(ValueError):  # not in the main thread: nobody types there
                before[one] = signal.signal(one, handler)
        yield stops
    finally:
        for one, handler in before.items():
            signal.signal(one, signal.SIG_DFL if handler is None else handler)


def _terminated(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)
