"""``requests`` over a connection that is there already. Imported only where a ``path`` is set: it weighs some 15 MB.

The pulse has already sent the request line and the beginning of a padding header. So the connection that urllib3 is
handed drops the request line that http.client writes, ends the padding header, and sends only the rest. There is no
session: no redirect, no proxy, no netrc, no cookie kept. The body is taken as it comes, never unpacked.
"""

from __future__ import annotations

import http.client
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict

from supervisor_uvicorn.probe.link import Deadline, Link
from supervisor_uvicorn.probe.target import Request

# urllib3 logs each head that it cannot understand, whole and with a traceback; the outcome says it in one line.
logging.getLogger("urllib3.connection").setLevel(logging.CRITICAL)

_MOST_BODY_BYTES = 64 * 1024
_MOST_WIRE_BYTES = 6 * _MOST_BODY_BYTES + 16 * 1024  # chunks of one byte take six; and the trailer
_HOSTILE = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
    ValueError,  # a length or an encoding that is none
)


@dataclass(frozen=True)
class Received:
    """What came: ``status`` None: no head that can be understood; ``complete``: the body ended by itself."""

    status: int | None
    connection_header: str
    body: bytes
    complete: bool
    keep_alive: bool
    error: Exception | None


def ask(link: Link, request: Request, host: str, deadline: Deadline, sent: Callable[[], None]) -> Received:
    """Finish the head on ``link`` and read the answer. ``sent`` is called once the whole head went out."""
    connection = _PinnedConnection(link, sent)
    prepared = requests.PreparedRequest()
    prepared.method = "GET"
    prepared.url = "http://localhost/"  # only for requests itself: the real request line went out with the pulse
    prepared.headers = CaseInsensitiveDict(
        {"Host": host, "User-Agent": "supervisor-uvicorn", "Accept": "*/*", "Accept-Encoding": "identity"}
    )
    prepared.headers.update(request.headers)
    prepared._cookies = requests.cookies.RequestsCookieJar()  # type: ignore[attr-defined]
    status, header, body = None, "", b""
    try:
        response = _PinnedAdapter(connection).send(prepared, stream=True, timeout=request.timeout_s, proxies={})
        status, header = response.status_code, response.headers.get("connection", "").lower()
        deadline.budget_bytes = deadline.received_bytes + _MOST_WIRE_BYTES
        while len(body) < _MOST_BODY_BYTES:
            piece = response.raw.read(16 * 1024, decode_content=False)
            if not piece:
                return Received(status, header, body, True, not connection.dropped and status >= 200, None)
            body += piece
    except _HOSTILE as error:
        return Received(status, header, body, False, False, error)
    return Received(status, header, body, False, False, None)


class _PinnedConnection(urllib3.connection.HTTPConnection):
    """http.client's connection on a socket that it neither opened nor closes."""

    def __init__(self, link: Link, sent: Callable[[], None]) -> None:
        super().__init__("localhost")
        self._link = link
        self._sent = sent
        self._head_is_out = False
        self.dropped = False  # http.client is done with it: Connection: close, HTTP/1.0, or an error
        self.sock = link.socket

    @property
    def is_connected(self) -> bool:
        return True  # urllib3 takes one that is readable for dropped; TLS session tickets make it readable

    def connect(self) -> None:
        raise ConnectionError("a pinned connection is never opened anew")

    def send(self, data: Any) -> None:
        if self._head_is_out:
            raise ConnectionError("a probe has no body")
        self._head_is_out = True
        _, _, rest = bytes(data).partition(b"\r\n")
        self._link.socket.send_all(b"\r\n" + rest)
        self._sent()

    def close(self) -> None:
        self.dropped = True
        self.sock = None


class _PinnedPool(urllib3.HTTPConnectionPool):
    def __init__(self, connection: _PinnedConnection) -> None:
        super().__init__("localhost", maxsize=1)
        self._connection = connection

    def _new_conn(self) -> _PinnedConnection:
        return self._connection


class _PinnedAdapter(HTTPAdapter):
    def __init__(self, connection: _PinnedConnection) -> None:
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)
        self._pool = _PinnedPool(connection)

    def get_connection_with_tls_context(self, *_: Any, **__: Any) -> _PinnedPool:  # requests 2.32 and newer
        return self._pool

    def get_connection(self, *_: Any, **__: Any) -> _PinnedPool:  # before
        return self._pool
