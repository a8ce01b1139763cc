"""The report thread: what the listener knows, put into supervisord's memory. Floor 4, beside listen.py.

Others leave the newest text of each kind here and never wait. A supervisord that does not answer, or has no
``[rpcinterface:uvicorn]``, costs this thread its time and nobody else's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from .report import events
from .supervisord.board import Board
from .supervisord.rpc import Rpc, RpcError

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

    def put(self, kind: str, text: str) -> None:
        """Have ``text`` reported soon, in place of what was put before and has not been sent."""
        with self._changed:
            self._wanted[kind] = text
            self._changed.notify_all()

    def run(self, rpc: Rpc) -> None:
        """The thread."""
        board = Board(rpc)
        told = ""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted)
                wanted, self._wanted = self._wanted, {}
            pause_s = 0.0
            try:
                while wanted and pause_s == 0.0:
                    kind, text = next(iter(wanted.items()))
                    there = board.report(text) if kind == PAGE else board.keep(kind, text)
                    if there:
                        del wanted[kind]
                    else:
                        pause_s = ABSENT_S
                told = ""
            except RpcError as error:
                if type(error).__name__ != told:  # once a series
                    self._tell(events.Error("", f"the board cannot be written: {error}", reason="board"))
                told = type(error).__name__
                pause_s = AGAIN_S
            if pause_s:
                threading.Event().wait(pause_s)
                with self._changed:
                    self._wanted = {**wanted, **self._wanted}


def fetch(rpc: Rpc, tell: Callable[[events.Event], None]) -> tuple[str, str]:
    """(the memory, the history) that an earlier listener of this supervisord has left; "" where there is none."""
    board = Board(rpc)
    try:
        found = board.kept(MEMORY), board.kept(HISTORY)
    except RpcError as error:
        tell(events.Error("", f"what an earlier listener has left cannot be read: {error}", reason="board"))
        return "", ""
    memory, history = (note.text if note is not None else "" for note in found)
    return memory, history
