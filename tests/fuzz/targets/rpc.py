"""supervisord's answers: rpc.py, calls.py and board.py, and the small reader of ``healthcheck``, on real socket pairs.

The whole answer lies in the socket's buffer before the call is made, and its end behind it: nothing is waited for.
"""

from __future__ import annotations

import contextlib
import math
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any
from unittest import mock
from xml.sax.saxutils import escape

from fuzz.choices import Choices, edited
from fuzz.target import Check, Target, for_a_terminal, holds
from supervisor_uvicorn.model import State
from supervisor_uvicorn.supervisord import quick
from supervisor_uvicorn.supervisord import rpc as client
from supervisor_uvicorn.supervisord.board import Board, Note, SharedSocket
from supervisor_uvicorn.supervisord.calls import ProcessConfig, ProcessInfo, Supervisord
from supervisor_uvicorn.supervisord.rpc import Rpc, RpcError, _TimedSocket
from supervisor_uvicorn.verbs.asking import explain


class _PlayedRpc(Rpc):
    """The real client on a connection in which the answer lies already."""

    def __init__(self, answer: bytes) -> None:
        super().__init__("unix:///played")
        self._answer = answer
        self._far: list[socket.socket] = []

    def _dial_unix(self, until: float) -> _TimedSocket:
        near, far = _pair(self._answer)
        self._far.append(far)
        self._answer = b""
        return _TimedSocket(near.family, near.type, 0, near.detach())

    def hang_up(self) -> None:
        self.close()
        for far in self._far:
            far.close()


def _pair(answer: bytes) -> tuple[socket.socket, socket.socket]:
    near, far = socket.socketpair()
    far.sendall(answer)
    far.shutdown(socket.SHUT_WR)
    return near, far


# -- what each call gives --------------------------------------------------------------------------------------------

_TYPES = {
    "str": str, "int": int, "float": float, "bool": bool, "State": State,
    "bool | str | None": bool | str | None, "int | None": int | None,
}  # fmt: skip


def _typed(one: object) -> None:
    for field in fields(one):  # type: ignore[arg-type]
        value = getattr(one, field.name)
        holds(isinstance(value, _TYPES[str(field.type)]), f"{type(one).__name__}.{field.name} is {value!r:.100}")


def _processes(rpc: Rpc) -> None:
    for one in Supervisord(rpc).processes():
        _typed(one)


def _process(rpc: Rpc) -> None:
    _typed(Supervisord(rpc).process("web:web-0"))


def _configs(rpc: Rpc) -> None:
    for one in Supervisord(rpc).configs().values():
        _typed(one)


def _state(rpc: Rpc) -> None:
    holds(isinstance(Supervisord(rpc).state(), str), "a state that is no text")


def _pid(rpc: Rpc) -> None:
    holds(isinstance(Supervisord(rpc).pid(), int), "a pid that is no number")


def _board(rpc: Rpc) -> None:
    _sound(Board(rpc).read())


def _sockets(rpc: Rpc) -> None:
    for one in Board(rpc).sockets() or ():
        _typed(one)


def _leave(rpc: Rpc) -> None:
    holds(isinstance(Board(rpc).leave(3), bool), "neither yes nor no")


def _sound(note: Note | None) -> None:
    if note is not None:
        _typed(note)
        holds(note.age_s >= 0 and (math.isfinite(note.age_s) or not note.text), f"a text of the age {note.age_s}")
        holds(math.isfinite(note.at), f"a text of {note.at}")


_CALLS: tuple[Callable[[Rpc], None], ...] = (_processes, _process, _configs, _state, _pid, _board, _sockets, _leave)

_INFO = {
    "name": "web-0", "group": "web", "statename": "RUNNING", "state": 20, "pid": 4711, "start": 1700000000, "stop": 0,
    "now": 1700000100, "exitstatus": 0, "spawnerr": "", "logfile": "", "stdout_logfile": "", "stderr_logfile": "/x",
    "description": "pid 4711, uptime 0:01:40",
}  # fmt: skip
_CONFIG = {
    "name": "web-0", "group": "web", "command": "uvicorn --fd 0 a:b", "stopwaitsecs": 10, "startsecs": 1, "uid": "none",
    "killasgroup": False, "stopsignal": 15, "startretries": 3, "autorestart": "auto", "stderr_logfile": "none",
}  # fmt: skip
_SOCKET = {"group": "web", "url": "tcp://127.0.0.1:80", "backlog": 128, "refcount": 2, "prepared": True, "fd": 4,
           "nodelay": True, "held_s": 0.0}  # fmt: skip
_ANSWERS: tuple[Any, ...] = (
    [_INFO, {**_INFO, "name": "web-1"}],
    _INFO,
    [_CONFIG],
    {"statecode": 1, "statename": "RUNNING"},
    17,
    {"text": "{}", "age_s": 0.5, "at": 1700000000.25},
    [_SOCKET],
    [0, {"faultCode": 6, "faultString": "SHUTDOWN_STATE"}],
)


# -- XML-RPC as supervisord writes it, of values that its own library would refuse ----------------------------------


def xml(value: Any) -> str:
    if value is None:
        return "<value><nil/></value>"
    if isinstance(value, bool):
        return f"<value><boolean>{value:d}</boolean></value>"
    if isinstance(value, int):
        return f"<value><int>{value}</int></value>"
    if isinstance(value, float):
        return f"<value><double>{value!r}</double></value>"
    if isinstance(value, str):
        return f"<value><string>{escape(value)}</string></value>"
    if isinstance(value, Mapping):
        members = "".join(f"<member><name>{escape(str(key))}</name>{xml(one)}</member>" for key, one in value.items())
        return f"<value><struct>{members}</struct></value>"
    return f"<value><array><data>{''.join(map(xml, value))}</data></array></value>"


def _response(value: Any, fault: bool = False) -> bytes:
    inner = f"<fault>{xml(value)}</fault>" if fault else f"<params><param>{xml(value)}</param></params>"
    return f"<?xml version='1.0'?><methodResponse>{inner}</methodResponse>".encode("utf-8", "surrogatepass")


def _http(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n" % len(body) + body


_FAULT = {"faultCode": 10, "faultString": "BAD_NAME: web"}


def _call(which: int, answer: bytes) -> None:
    rpc = _PlayedRpc(answer)
    try:
        _CALLS[which % len(_CALLS)](rpc)
    except RpcError as error:
        holds(isinstance(error.in_doubt, bool), "in doubt?")
        for_a_terminal(explain(error), "the words for an error")
    finally:
        rpc.hang_up()


def check_http(data: bytes) -> None:
    """The first byte: which call, and in which pieces; then the answer from its first byte on."""
    first = data[0] if data else 0
    with mock.patch.object(client, "_READ_BYTES", (16384, 7)[first // 16 % 2]):
        _call(first, data[1:])


def check_values(data: bytes) -> None:
    """The first byte: which call; then its right answer, edited; or a fault."""
    choices = Choices(data)
    which = choices.one_of(16)
    value = edited(_FAULT if which >= 8 else _ANSWERS[which], choices)
    _call(which, _http(_response(value, fault=which >= 8)))


# -- the small reader of healthcheck ---------------------------------------------------------------------------------

_NOTE = {"text": '{"version": 1}', "age_s": 0.5, "at": 1700000000.25}


@contextmanager
def _of_healthcheck() -> Iterator[Check]:
    connection: list[socket.socket] = []

    def check(data: bytes) -> None:
        if data[:1] == b"\xff":
            answer = data[1:]
        else:
            choices = Choices(data)
            fault = choices.one_of(4) == 3
            answer = _http(_response(edited(_FAULT if fault else _NOTE, choices), fault))
        near, far = _pair(answer)
        connection[:] = [near]
        with near, far, contextlib.suppress(quick.Unclear, OSError):
            _sound(quick.read_board("unix:///played"))

    def connect(*_: object) -> socket.socket:
        return connection[0]

    with mock.patch.object(quick, "_connect", connect):
        yield check


def _always(check: Check) -> Callable[[], Any]:
    @contextmanager
    def session() -> Iterator[Check]:
        yield check

    return session


_TOKENS = (
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 401 Unauthorized\r\n", b"\r\n\r\n", b"Content-Length: ",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n", b"-1\r\n", b"ffffffffffffffff\r\n", b"<value>", b"</value>", b"<int>", b"<i8>",
    b"<double>inf</double>",
    b"<double>nan</double>", b"<nil/>", b"<fault>", b"<struct><member><name>", b"<dateTime.iso8601>", b"<base64>",
    b"<!DOCTYPE x [<!ENTITY a 'aaaa'>]>", b"&a;", b"&#27;", b"&#128;", b"<bigdecimal>", b"</methodResponse>",
    b"9" * 400,
)  # fmt: skip
RPC_HTTP = Target(
    "rpc-http",
    "supervisord's answers from their first byte on (``supervisord/rpc.py``)",
    _always(check_http),
    (
        *(bytes([which]) + _http(_response(value)) for which, value in enumerate(_ANSWERS)),
        b"\x00" + _http(_response(_FAULT, fault=True)),
        b"\x10" + _http(_response(_ANSWERS[0])),
        b"\x03HTTP/1.0 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
        b"\x04HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n<methodResponse>\r\n0\r\n\r\n",
        b"\x04HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n<",
        b"\x04HTTP/1.0 500 Internal\r\n\r\n",
    ),
    _TOKENS,
    weight=1.5,
)
RPC_VALUES = Target(
    "rpc-values",
    "the values of its answers (``supervisord/calls.py``, ``board.py``)",
    _always(check_values),
    tuple(bytes([which]) for which in range(9)),
    weight=1.5,
    most_bytes=256,
)
QUICK = Target(
    "rpc-quick",
    "the board's answer as ``healthcheck`` reads it (``supervisord/quick.py``)",
    _of_healthcheck,
    (b"\x00", b"\x03", b"\xff" + _http(_response(_NOTE)), b"\xffHTTP/1.0 200 OK\r\n\r\n" + _response(_FAULT, True)),
    _TOKENS,
    weight=2,
)
_CLASSES = (ProcessInfo, ProcessConfig, SharedSocket, Note)  # whose fields' types must be in _TYPES
assert all(str(field.type) in _TYPES for one in _CLASSES for field in fields(one))
