"""What every verb does: read the page, ask the listener once, and wait for its answer, with words for all that lacks.

A request is an event, and supervisord keeps events for a listener that is being started anew. So a request is never
sent where nobody reports, never sent twice, and says when it was asked: a listener refuses one that is older than
``request.MOST_AGE_S``, since whoever asked has given up by then.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from supervisor_uvicorn.model import State
from supervisor_uvicorn.report.log import one_line
from supervisor_uvicorn.supervisord.board import Board, Note
from supervisor_uvicorn.supervisord.calls import Supervisord
from supervisor_uvicorn.supervisord.preflight import LISTENER_SECTION, explain_failure
from supervisor_uvicorn.supervisord.request import KIND, MOST_AGE_S, BadRequest, Request, parse
from supervisor_uvicorn.supervisord.rpc import SHUTDOWN_STATE, Fault, InDoubt, Rpc, RpcError, Unauthorized
from supervisor_uvicorn.verbs.console import Console
from supervisor_uvicorn.verbs.page import BadPage, Page, read_page

POLL_S = 0.25
ANSWER_S = MOST_AGE_S + 1.0
"""A request that was carried out at its last moment has its answer on the board some tenths of a second later."""
PATIENCE_S = 60.0
"""A listener that was killed is back after seconds; with 60 s supervisord itself may have been restarted, too."""

RPCINTERFACE_SECTION = """\
[rpcinterface:uvicorn]
supervisor.rpcinterface_factory = supervisor_uvicorn.plugin.rpcinterface:make_rpcinterface
"""


_NOT_ANY_MORE = (
    f"A request that is {MOST_AGE_S:g} s old is not carried out any more; what a listener had already begun goes on"
)


class NoNews(Exception):  # noqa: N818 - it reads as what it is
    """Exit code 2, and why: no plugin, no listener, a refusal. The message is for a person."""


@dataclass(frozen=True)
class Listener:
    """A process whose command is ours. ``log`` is its stderr log file, or "" where it has none that can be read."""

    name: str
    state: State
    log: str = ""


class Desk(Protocol):
    """supervisord, as far as a verb needs it. Each method raises :class:`RpcError`."""

    def read(self) -> Note | None:
        """The board; None where there is no plugin."""

    def kept(self, key: str) -> Note | None:
        """A cell; None where there is no plugin."""

    def send(self, request: Request) -> None:
        """One event to whoever listens; sent once."""

    def listeners(self) -> Sequence[Listener]:
        """The processes that run ``supervisor-uvicorn listen``."""


class OverRpc:
    """The :class:`Desk` of a real supervisord."""

    def __init__(self, rpc: Rpc) -> None:
        self._board = Board(rpc)
        self._supervisord = Supervisord(rpc)

    def read(self) -> Note | None:
        return self._board.read()

    def kept(self, key: str) -> Note | None:
        return self._board.kept(key)

    def send(self, request: Request) -> None:
        self._supervisord.send_remote_comm(KIND, request.text())

    def listeners(self) -> Sequence[Listener]:
        commands = {name: config.command for name, config in self._supervisord.configs().items()}
        return [
            Listener(process.name, process.state, process.stderr_logfile)
            for process in self._supervisord.processes()
            if any(words in commands.get(process.name, "") for words in _OURS)
        ]


_OURS = ("supervisor-uvicorn listen", "supervisor_uvicorn listen")


def current_page(desk: Desk, command: str = "supervisor-uvicorn") -> Page:
    """What the listener last reported, stale or not. Raises :class:`NoNews` and :class:`RpcError`."""
    return _note_and_page(desk, command)[1]


def _note_and_page(desk: Desk, command: str) -> tuple[Note, Page]:
    note = desk.read()
    if note is None:
        raise NoNews(no_plugin(command))
    if not note.text:
        raise NoNews(_never_reported(desk))
    try:
        return note, read_page(note)
    except BadPage as error:
        raise NoNews(str(error)) from None


def send(desk: Desk, console: Console, request: Request) -> None:
    """Send a request, once, where there is a listener that could answer it; ``sent_at`` is filled in here.

    Raises :class:`NoNews` where nobody reports or the listener could not take it, and :class:`RpcError` where it surely
    was not sent.
    """
    note, page = _note_and_page(desk, console.command)
    if page.stale:
        raise NoNews(f"{stale(desk, page)}\nNothing was asked of it")
    # By supervisord's own clock, which is the listener's, too: that of a remote terminal may be wrong.
    request = replace(request, sent_at=note.at + note.age_s)
    try:
        parse(request.text())
    except BadRequest as error:
        raise NoNews(f"{error}. Nothing was asked of the listener") from None
    with contextlib.suppress(InDoubt):  # the board will tell whether it went out
        desk.send(request)


def new_ident() -> str:
    """Who asks: nobody else has this one."""
    return secrets.token_hex(8)


class Poll:
    """The page again and again. What goes wrong meanwhile is said once, and waited out for ``PATIENCE_S``."""

    def __init__(self, desk: Desk, console: Console) -> None:
        self._desk = desk
        self._console = console
        self._trouble_since: float | None = None

    @property
    def troubled(self) -> bool:
        return self._trouble_since is not None

    def look(self) -> Page | None:
        """The page as it is now, also a stale one; None where there is none. Raises :class:`NoNews` in the end."""
        page, trouble = self._read()
        now = self._console.clock()
        if trouble is None:
            if self._trouble_since is not None:
                self._console.note("the listener reports again")
            self._trouble_since = None
        elif self._trouble_since is None:
            self._trouble_since = now
            self._console.note(f"{trouble()}\nWaiting for up to {PATIENCE_S:g} s")
        elif now - self._trouble_since >= PATIENCE_S:
            raise NoNews(f"{trouble()}\nGave up after {PATIENCE_S:g} s. {_NOT_ANY_MORE}")
        return page

    def unanswered(self) -> str:
        """Somebody reports, and nobody answers: what that means, and where to look."""
        return (
            f"no listener answered within {MOST_AGE_S:g} s, though one reports. {_NOT_ANY_MORE}.\n"
            f"Is the listener still RUNNING? {_where_to_look(self._desk)}. In its section there "
            "must be events=TICK_5,PROCESS_STATE,REMOTE_COMMUNICATION"
        )

    def _read(self) -> tuple[Page | None, Callable[[], str] | None]:
        """The page, and what is wrong: words that are made only where somebody reads them (they may take calls)."""
        try:
            note = self._desk.read()
            if note is None:
                return None, lambda: "supervisord no longer has [rpcinterface:uvicorn]"
            if not note.text:
                return None, lambda: "supervisord has been restarted, and no listener has reported since"
            page = read_page(note)
        except Unauthorized as error:
            raise NoNews(explain(error)) from None
        except (RpcError, BadPage) as error:
            words = explain(error) if isinstance(error, RpcError) else str(error)
            return None, lambda: words
        return page, (lambda: stale(self._desk, page)) if page.stale else None


def answer(poll: Poll, console: Console, ident: str) -> Mapping[str, Any]:
    """Wait for the listener's yes. Raises :class:`NoNews` for its no, and where nobody answers.

    The time counts only while there is a listener that could answer: one that is started anew answers then, from what
    it remembers, or with a refusal.
    """
    since = console.clock()
    while True:
        page = poll.look()
        if page is not None:
            found = page.answer(ident)
            if found is not None and not found.get("accepted"):
                raise NoNews(f"refused: {one_line(found.get('detail') or 'the listener gives no reason')}")
            if found is not None:
                return found
            if any(ident in roll["asked"] for _, roll in page.rolls()):
                return {"id": ident, "accepted": True, "detail": ""}  # its next listener has taken over the roll only
        if poll.troubled:
            since = console.clock()
        elif console.clock() - since >= ANSWER_S:
            raise NoNews(poll.unanswered())
        console.sleep(POLL_S)


# -- words for what lacks ----------------------------------------------------------------------------------------------


def explain(error: RpcError) -> str:
    """An error of a call, for a person at a terminal (its own words are for a listener's log)."""
    if isinstance(error, Unauthorized):
        url = str(error).partition(" ")[0]
        return (
            f"{url}: the user name and password are missing or wrong (HTTP 401). Give those of supervisord's "
            "[unix_http_server] or [inet_http_server] with -u and -p, or write them into [supervisorctl] as username= "
            "and password="
        )
    if isinstance(error, Fault) and error.code == SHUTDOWN_STATE:
        return "supervisord is shutting down or restarting"
    return explain_failure(error)


def no_plugin(command: str) -> str:
    """Without the board there is nothing to read."""
    return (
        "supervisord has no health board: it has not loaded [rpcinterface:uvicorn].\n"
        "Add to supervisord.conf, then restart supervisord (an update does not load it; supervisor_uvicorn must be "
        "installed for supervisord's own Python):\n\n"
        f"{RPCINTERFACE_SECTION}\n"
        f"Without it this works: {command} check"
    )


def stale(desk: Desk, page: Page) -> str:
    """How old the page is, and what to look at."""
    return (
        f"the listener has not reported for {page.age_s:.0f} s (it does so each {page.every_s:g} s): "
        f"{_where_to_look(desk)}"
    )


def _never_reported(desk: Desk) -> str:
    listeners: Sequence[Listener] | None = None
    with contextlib.suppress(RpcError):
        listeners = desk.listeners()
    begin = "no listener has reported since supervisord was started"
    if listeners is None or listeners:
        return f"{begin}: {_where_to_look(desk)}"
    return (
        f"{begin}, and no process of it runs `supervisor-uvicorn listen`.\n"
        "Add to supervisord.conf (`supervisor-uvicorn config` prints it right for this host), then "
        f"`supervisorctl update`:\n\n{LISTENER_SECTION}"
    )


def _where_to_look(desk: Desk) -> str:
    listeners: Sequence[Listener] = ()
    with contextlib.suppress(RpcError):
        listeners = desk.listeners()
    if not listeners:
        return "look at `supervisorctl status`, and at the listener's stderr log"
    return "; ".join(
        f"{one.name} is {one.state.value}, see `supervisorctl status` and "
        + (f"its stderr log {one.log}" if one.log else "supervisord's own output, where its stderr log goes")
        for one in listeners
    )
