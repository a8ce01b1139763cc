"""The calls of ``[rpcinterface:uvicorn]`` (``plugin/rpcinterface.py``), with types.

The section is optional. Where it is missing supervisord answers UNKNOWN_METHOD: what reads then gives None, what acts
gives False and did nothing, so that a caller can go the longer way. Every other fault is raised.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # rpc.py brings http.client, ssl and email: 8 MB that a healthcheck has no use for (quick.py)
    from supervisor_uvicorn.supervisord.rpc import Rpc

NAMESPACE = "uvicorn"  # the name of the section

# As in plugin/memory.py and plugin/rpcinterface.py, which run in another process and belong to a higher floor.
MAX_TEXT_BYTES = 1024 * 1024  # of the board, and of a cell
MAX_CELLS_BYTES = 4 * 1024 * 1024  # all cells together
MAX_HOLD_S = 3600.0
MOST_S = 1e15  # of an age and a time (verbs/stored.py MOST_NUMBER); what is more, infinite or NaN is none
DIFFERS = 231  # signal_worker: another pid or start. The state has supervisor's own NOT_RUNNING


@dataclass(frozen=True)
class Note:
    """A text in supervisord's memory. Where there is none: ``text`` "", ``age_s`` infinite, ``at`` 0."""

    text: str = ""
    age_s: float = math.inf
    at: float = 0.0  # seconds since 1970, by supervisord's wall clock


@dataclass(frozen=True)
class SharedSocket:
    """The socket of one fcgi-program, as supervisord holds it. ``refcount``: its live processes, and a hold."""

    group: str
    url: str = ""
    backlog: int = 0
    refcount: int = 0
    prepared: bool = False  # it is open
    fd: int = -1  # in supervisord; -1: closed
    nodelay: bool = False
    held_s: float = 0.0  # what is left of a hold


class Board:
    """supervisord's side of us, behind an :class:`Rpc`. Each method raises what ``Rpc.call`` raises."""

    def __init__(self, rpc: Rpc, namespace: str = NAMESPACE) -> None:
        self.rpc = rpc
        self._namespace = namespace

    def report(self, json_text: str) -> bool:
        """Replace the board by one string of at most :data:`MAX_TEXT_BYTES`. False: there is no plugin."""
        _check_size(json_text)
        return self._done("report", json_text, idempotent=True)

    def read(self) -> Note | None:
        """What was last reported. None: there is no plugin; an empty :class:`Note`: nothing was reported."""
        return self._note("board")

    def keep(self, key: str, text: str) -> bool:
        """Keep ``text`` under ``key`` beyond our own life; an empty one empties the cell. False: no plugin.

        A text has at most :data:`MAX_TEXT_BYTES`, all cells together :data:`MAX_CELLS_BYTES`; otherwise a fault.
        """
        _check_size(text)
        return self._done("keep", key, text, idempotent=True)

    def kept(self, key: str) -> Note | None:
        """What is kept under ``key``. None: there is no plugin; an empty :class:`Note`: nothing is kept."""
        return self._note("kept", key)

    def sockets(self) -> tuple[SharedSocket, ...] | None:
        """The sockets of all fcgi-programs, by their group's name. None: there is no plugin."""
        from supervisor_uvicorn.supervisord.rpc import BadAnswer

        answer = self._ask("getSockets")
        if answer is None:
            return None
        if not isinstance(answer, list) or not all(isinstance(one, dict) for one in answer):
            raise BadAnswer(f"the answer to {self._namespace}.getSockets is no list of structs")
        return tuple(_socket(struct) for struct in answer)

    def hold(self, group: str, seconds: float) -> bool:
        """Keep the open socket of ``group`` open for ``seconds``, at most :data:`MAX_HOLD_S`; again to make it longer.

        There is one hold for a group: who mends two of its workers releases it when both are done. A fault FAILED: the
        program is stopped, and there is nothing to hold. False: there is no plugin.
        """
        return self._done("hold", group, float(seconds), idempotent=True)

    def release(self, group: str) -> bool:
        """Let the socket go, if it is held. False: there is no plugin."""
        return self._done("release", group, idempotent=True)

    def signal_worker(self, name: str, pid: int, start: int, signal: str) -> bool:
        """Send ``signal`` to ``group:name`` if it is RUNNING with this pid and this start. Sent once, never again.

        ``start`` is supervisord's own (``ProcessInfo.start``). A fault :data:`DIFFERS` or NOT_RUNNING says that it is
        another worker by now, and that nothing was sent. False: there is no plugin, and nothing was sent.
        """
        return self._done("signalWorker", name, pid, start, signal)

    def leave(self, code: int) -> bool:
        """Shut supervisord down, so that its process ends with exit code ``code`` (1 to 255). Sent once, never again.

        Both calls travel in one ``system.multicall``, which supervisord carries out without anything in between
        (supervisor 4.3.0, xmlrpc.py ``SystemNamespaceRPCInterface.multicall``). False: the code will be 0, because
        there is no plugin or an older one; it is shut down all the same. A fault SHUTDOWN_STATE: somebody else's
        shutdown or reload is under way, and its code stays what it was. Raises what ``Rpc.call`` raises.
        """
        from supervisor_uvicorn.supervisord.rpc import BadAnswer, Fault

        calls = [
            {"methodName": f"{self._namespace}.exitCode", "params": [code]},
            {"methodName": "supervisor.shutdown", "params": []},
        ]
        answers = self.rpc.call("system.multicall", calls)
        if not isinstance(answers, list) or len(answers) != 2:
            raise BadAnswer("the answer to system.multicall is no list of two")
        remembered, shutdown = answers
        if isinstance(shutdown, dict):
            number = shutdown.get("faultCode")
            raise Fault(number if isinstance(number, int) else 0, str(shutdown.get("faultString", "")))
        return not isinstance(remembered, dict)

    # -- the one place where a missing plugin is found out

    def _ask(self, method: str, *params: Any, idempotent: bool = True) -> Any:
        from supervisor_uvicorn.supervisord.rpc import UNKNOWN_METHOD, Fault

        try:
            return self.rpc.call(f"{self._namespace}.{method}", *params, idempotent=idempotent)
        except Fault as fault:
            if fault.code == UNKNOWN_METHOD:
                return None
            raise

    def _done(self, method: str, *params: Any, idempotent: bool = False) -> bool:
        return self._ask(method, *params, idempotent=idempotent) is not None

    def _note(self, method: str, *params: Any) -> Note | None:
        from supervisor_uvicorn.supervisord.rpc import BadAnswer

        answer = self._ask(method, *params)
        if answer is None:
            return None
        if not isinstance(answer, dict):
            raise BadAnswer(f"the answer to {self._namespace}.{method} is no struct")
        return note(str(answer.get("text", "")), answer.get("age_s"), answer.get("at"))


def note(text: str, age_s: object, at: object) -> Note:
    """A plugin's own note: an age that is none, as the -1.0 of an empty cell, makes an empty one."""
    if not isinstance(age_s, int | float) or not 0 <= age_s <= MOST_S:
        return Note()
    return Note(text, float(age_s), float(at) if isinstance(at, int | float) and 0 <= at <= MOST_S else 0.0)


_NO_SOCKET = SharedSocket("")


def _check_size(text: str) -> None:
    """The plugin's own refusal, made here: supervisord is held up by what is too large before it can refuse it."""
    size_bytes = len(text.encode("utf-8", "replace"))
    if size_bytes > MAX_TEXT_BYTES:
        from supervisor_uvicorn.supervisord.rpc import INCORRECT_PARAMETERS, Fault

        raise Fault(INCORRECT_PARAMETERS, f"the text has {size_bytes} bytes, at most {MAX_TEXT_BYTES} are kept")


def _socket(struct: Mapping[str, Any]) -> SharedSocket:
    """A key that an answer lacks is an older plugin's, and no error; nor is a value of another type."""
    known = vars(_NO_SOCKET).items()
    fitting: dict[str, Any] = {key: struct[key] for key, none in known if isinstance(struct.get(key), type(none))}
    return replace(_NO_SOCKET, **fitting)
