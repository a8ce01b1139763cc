"""The report thread: what the listener knows, put into supervisord's memory. Floor 4, beside listen.py.

Others leave the newest text of each kind here and never wait. A supervisord that does not answer, or has no
``[rpcinterface:uvicorn]``, costs this thread its time and nobody else's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from .report import events
from .supervisord.board import Board
from .supervisord.rpc import BadAnswer, Fault, Rpc, RpcError, Unauthorized

PAGE = "page"  # the board itself; every other kind is the name of a cell
HISTORY = "history"
MEMORY = "memory"

ABSENT_S = 60.0  # until it is asked again whether the plugin is there
AGAIN_S = 2.0  # after supervisord did not take something


class Reporter:
    """``put`` may be called from any thread."""

    def __init__(self, tell: Callable[[events.Event], None]) -> None:
        self._tell = tell
        self._changed = threading.Condition()
        self._wanted: dict[str, str] = {}
        self._troubled = False

    def put(self, kind: str, text: str) -> None:
        """Have ``text`` reported soon, in place of what was put before and has not been sent."""
        with self._changed:
            self._wanted[kind] = text
            self._changed.notify_all()

    def run(self, rpc: Rpc) -> None:
        """The thread."""
        board = Board(rpc)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted)
                wanted, self._wanted = self._wanted, {}
            pause_s = self._send(board, wanted)
            if pause_s:
                threading.Event().wait(pause_s)
                with self._changed:
                    self._wanted = {**wanted, **self._wanted}

    def _send(self, board: Board, wanted: dict[str, str]) -> float:
        """Send and take out of ``wanted``; seconds until what is left in it is to be tried again."""
        trouble, pause_s = "", 0.0
        for kind, text in list(wanted.items()):
            try:
                there = board.report(text) if kind == PAGE else board.keep(kind, text)
            except Fault as fault:  # this very text is refused, and would be again
                trouble = str(fault)
                there = True
            except RpcError as error:
                trouble, pause_s = str(error), AGAIN_S
                break
            if not there:
                pause_s = ABSENT_S
                break
            del wanted[kind]
        if trouble and not self._troubled:  # once a series
            self._tell(events.Error("", f"the board cannot be written: {trouble}", reason="board"))
        self._troubled = bool(trouble)
        return pause_s


def fetch(rpc: Rpc, tell: Callable[[events.Event], None]) -> tuple[str, str]:
    """(the memory, the history) that an earlier listener of this supervisord has left; "" where there is none.

    A supervisord that does not answer is waited for: a listener that had forgotten a pause would act against it.
    """
    board = Board(rpc)
    told = False
    while True:
        try:
            found = board.kept(MEMORY), board.kept(HISTORY)
            break
        except (Fault, BadAnswer, Unauthorized) as error:
            tell(events.Error("", f"what an earlier listener has left cannot be read: {error}", reason="board"))
            return "", ""
        except RpcError as error:
            if not told:
                tell(events.Error("", f"supervisord does not answer: {error}; trying again", reason="supervisord"))
            told = True
            threading.Event().wait(AGAIN_S)
    memory, history = (note.text if note is not None else "" for note in found)
    return memory, history
