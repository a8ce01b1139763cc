"""A desk and a console for the verbs, with a clock that only their own waiting moves."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from typing import Any

from supervisor_uvicorn.supervisord.board import Note
from supervisor_uvicorn.supervisord.request import Request
from supervisor_uvicorn.supervisord.rpc import RpcError
from supervisor_uvicorn.verbs.asking import Listener
from supervisor_uvicorn.verbs.console import Console

Play = Callable[[float, "Request | None"], "dict[str, Any] | Note | Exception | BaseException | None"]


def worker(name: str = "web:web-0", pid: int | None = 11, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "pid": pid,
        "state": "RUNNING",
        "watched": True,
        "verdict": "healthy",
        "reason": "",
        "lag_s": 0.00002,
        "http": None,
        "since_s": 100.0,
        "restarts": 0,
        "held": None,
        **more,
    }


def program(
    name: str = "web", workers: Sequence[dict[str, Any]] | None = None, roll: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    its = [worker(f"{name}:{name}-0"), worker(f"{name}:{name}-1", 12)] if workers is None else list(workers)
    socket = "tcp://127.0.0.1:8000"
    return {"name": name, "socket": socket, "state": "watching", "detail": "", "workers": its, "roll": roll, **more}


def turn(name: str, stage: str = "waiting", old: int | None = 11, new: int | None = None, detail: str = "") -> Any:
    return {"name": name, "old_pid": old, "new_pid": new, "stage": stage, "detail": detail}


def roll(ident: str, *turns: Any, state: str = "rolling", detail: str = "", took_s: float | None = None) -> Any:
    return {
        "asked": [ident],
        "state": state,
        "detail": detail,
        "since_s": 3.0,
        "took_s": took_s,
        "turns": list(turns),
    }


def page(*programs: dict[str, Any], answers: Sequence[dict[str, Any]] = (), **more: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "listener": {"pid": 5, "reports_every_s": 5.0, "dry_run": False},
        "age_s": 0.0,
        "programs": list(programs),
        "answers": list(answers),
        **more,
    }


def yes(ident: str, verb: str = "restart", detail: str = "rolling") -> dict[str, Any]:
    return {"id": ident, "verb": verb, "accepted": True, "detail": detail}


def no(ident: str, verb: str, detail: str) -> dict[str, Any]:
    return {"id": ident, "verb": verb, "accepted": False, "detail": detail}


def note(page: dict[str, Any], age_s: float = 0.5) -> Note:
    return Note(json.dumps(page), age_s, 1.0)


class Desk:
    """``play`` is what the board shows: at so many seconds since the request, and which (None: not asked yet)."""

    def __init__(self, play: Play, history: Note | None = None, listeners: Sequence[Listener] = ()) -> None:
        self.now = 1000.0
        self.sent: list[Request] = []
        self.refuses: Exception | None = None  # what sending raises
        self._play = play
        self._history = history
        self._listeners = listeners
        self._asked_at = 0.0

    def read(self) -> Note | None:
        found = self._play(self.now - self._asked_at, self.sent[-1] if self.sent else None)
        if isinstance(found, BaseException):
            raise found
        return note(found) if isinstance(found, dict) else found

    def kept(self, key: str) -> Note | None:
        assert key == "history"
        return self._history

    def send(self, request: Request) -> None:
        self.sent.append(request)
        self._asked_at = self.now
        if self.refuses is not None:
            raise self.refuses

    def listeners(self) -> Sequence[Listener]:
        if not self._listeners:
            raise RpcError("not now")
        return self._listeners


class Screen:
    """A console whose streams can be read; its waiting is the desk's time."""

    def __init__(self, desk: Desk, live: bool = False, columns: int = 80) -> None:
        self.out, self.err = io.StringIO(), io.StringIO()

        def sleep(seconds: float) -> None:
            desk.now += seconds

        self.console = Console(
            self.out, self.err, live=live, clock=lambda: desk.now, sleep=sleep, width=lambda: columns
        )

    @property
    def lines(self) -> list[str]:
        return self.out.getvalue().splitlines()

    @property
    def notes(self) -> str:
        return self.err.getvalue()
