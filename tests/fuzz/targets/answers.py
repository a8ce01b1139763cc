"""HTTP answers of a worker: the probe itself (probe/http.py, answer.py, link.py) on a real socket pair.

No thread and no waiting: what the worker says lies in the socket's buffer before the probe begins, and what would be a
wait is played at the one place where a socket is read.
"""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

from fuzz import target as fuzz
from fuzz.target import holds
from supervisor_uvicorn.kernel.sock_diag import FarEnd
from supervisor_uvicorn.model import Address, Answer, Options, WorkerId
from supervisor_uvicorn.probe import Request, Target, answer  # noqa: F401 - before anything is measured or instrumented
from supervisor_uvicorn.probe import http as http_probe
from supervisor_uvicorn.probe.http import HttpProbe
from supervisor_uvicorn.probe.link import Link, PlainSocket, _UnderDeadline

_ENDS = ("end of file", "reset", "silence, and the head was read", "silence, and the head was not read")


class _Played(socket.socket):
    """What comes when nothing lies in the buffer any more is ``end``; at most ``step`` bytes come at once."""

    end = ""
    step = 0

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        count = super().recv_into(memoryview(buffer)[: self.step], 0, flags | socket.MSG_DONTWAIT)
        if count == 0 and self.end == "reset":
            raise ConnectionResetError(104, "Connection reset by peer")
        if count == 0 and self.end.startswith("silence"):
            raise TimeoutError("timed out")
        return count


if TYPE_CHECKING:
    _PlayedLink = PlainSocket
else:

    class _PlayedLink(_UnderDeadline, _Played):
        """The product's own deadline, over the played end."""


class _Diag:
    """In place of sock_diag(7): has the worker read the head?"""

    unread = False

    def far_end(self, _: object) -> FarEnd:
        return FarEnd(1, int(_Diag.unread), True)

    def close(self) -> None:
        pass


_OPTIONS = (Options(), Options(limit_concurrency=30))
_WORKER = WorkerId("web:web", 1, 1)
_REQUEST = Request("/", timeout_s=3.0)


def check(data: bytes) -> None:
    """The first byte: how it ends, and which worker; the second: in which pieces it comes."""
    how, step, said = data[0] if data else 0, data[1] if len(data) > 1 else 255, data[2:]
    end = _ENDS[how % len(_ENDS)]
    near, far = socket.socketpair()
    with far:
        connection = _PlayedLink(near.family, near.type, 0, near.detach())
        connection.end, connection.step = end, 1 + 16 * step  # type: ignore[attr-defined]
        _Diag.unread = end.endswith("not read")
        target = Target(_WORKER, Address("unix", path="/x"), _OPTIONS[how // 4 % 2], _REQUEST)
        ticks = itertools.count()
        probe = HttpProbe(Link(connection), target, _REQUEST, lambda: next(ticks) * 1e-5)
        try:
            far.sendall(said)
            far.shutdown(socket.SHUT_WR)
            probe.run()
        finally:
            probe.abandon()
    holds(probe.done.is_set(), "it never ended")
    outcome = probe.outcome
    if probe.unread:
        holds(not said and outcome.answer is Answer.UNASKED, f"{outcome}, though something came")
        return
    holds(outcome.answer is not Answer.UNASKED, f"a fault of ours: {outcome}")
    holds(bool(outcome.reason) is (outcome.answer is not Answer.RIGHT), f"a reason is due, or none: {outcome}")
    holds(len(outcome.reason) < 300 and len(outcome.body) <= 512, f"too much of it: {outcome}")
    fuzz.for_a_terminal(outcome.reason, "the reason")
    if outcome.answer is Answer.RIGHT:
        holds(outcome.status is not None and 200 <= outcome.status <= 399, f"right? {outcome}")
    holds(not probe.late or not said, "late, though something came")


@contextmanager
def _session() -> Iterator[fuzz.Check]:
    with mock.patch.object(http_probe, "SockDiag", _Diag):
        yield check


_OK = b"HTTP/1.1 200 OK\r\n"
HTTP = fuzz.Target(
    "http",
    "HTTP answers: the probe on a socket pair (``probe/http.py``, ``answer.py``, ``link.py``)",
    _session,
    (
        b"\x00\xff" + _OK + b"Content-Length: 2\r\n\r\nok",
        b"\x00\x00" + _OK + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nabcde\r\n0\r\nX: y\r\n\r\n",
        b"\x00\x01" + b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 204 No\r\n\r\n",
        b"\x04\xff" + b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\nService Unavailable",
        b"\x00\xff" + b"HTTP/1.1 302 Found\r\nLocation: http://[\r\nSet-Cookie: a=b; Max-Age=x\r\n\r\n",
        b"\x01\x00" + _OK + b"Content-Encoding: gzip, br\r\nContent-Length: 9\r\n\r\nabc",
        b"\x02\xff",
        b"\x03\xff",
        b"\x00\xffSSH-2.0-OpenSSH\r\n",
        b"\x02\x02" + _OK + b"X: y\r\n",
        b"\x00\xffHTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n\x00\x01",
    ),
    (
        b"HTTP/1.1 ", b"HTTP/1.0 500 X\r\n", b"\r\n", b"\r\n\r\n", b"Content-Length: ", b"-1\r\n", b"1e9\r\n",
        b"9" * 400,
        b"Transfer-Encoding: chunked\r\n", b"ffffffffffffffff\r\n", b"0\r\n\r\n", b"-5\r\n", b"Connection: close\r\n",
        b"Content-Encoding: deflate\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b" folded\r\n", b"\xff\xfe", b"\x1b[2J",
        b"X: y\r\n" * 101,
    ),
    weight=1.5,
)  # fmt: skip
