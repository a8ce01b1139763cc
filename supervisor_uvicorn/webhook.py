"""One POST of a notice, in ten seconds whatever the other side does. Floor 3; imported only where a URL is set, because
``requests`` weighs some 15 MB.

The timeouts of requests are for each operation, and a server that sends a byte now and then never runs into them: at
the deadline the connection is shut down under it. The answer's status is all that counts, and nothing is read behind
the head.

Redirects are not followed: a POST that follows a 302 becomes a GET (requests 2.32, sessions.py ``rebuild_method``) and
would tell nobody. Proxies, ``.netrc`` and ``REQUESTS_CA_BUNDLE`` of the listener's environment count (``trust_env``),
because the way out of a data centre often is a proxy; a probe, which goes to this very machine, has none of that.

No text of an exception goes out of here: those of requests repeat the whole URL, and there is a token in it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from .delivery import Attempt, Result

logging.getLogger("urllib3").setLevel(logging.CRITICAL)  # its warnings repeat the URL

CONNECT_S = 5.0
DEADLINE_S = 10.0
_PASSING = (408, 429)  # Request Timeout (RFC 9110, 15.5.9), Too Many Requests (RFC 6585, 4); and every 5xx
_LONGEST_CHAIN = 30
_HEADERS = {"Content-Type": "application/json", "User-Agent": "supervisor-uvicorn", "Accept-Encoding": "identity"}


def place(url: str) -> str:
    """What may be shown of ``url``: ``scheme://host`` or ``scheme://host:port``."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://[{host}]{port}" if ":" in host else f"{parts.scheme}://{host}{port}"


def post(url: str, data: bytes, deadline_s: float = DEADLINE_S) -> Attempt:
    """POST ``data``, a JSON object, to ``url``. Raises nothing.

    It takes ``deadline_s`` at most, but for two things that nobody can cut short: looking up the host's name, and
    connecting, which has ``CONNECT_S`` for each of its addresses.
    """
    with _Guard(deadline_s) as guard:
        try:
            return _status(url, data, deadline_s, guard)
        except Exception as error:  # noqa: BLE001 - its traceback in our log would show the URL
            if guard.over:
                return Attempt(Result.AGAIN, f"no answer within {deadline_s:g} s")
            wrong = isinstance(error, ValueError)  # requests' InvalidURL, InvalidSchema and the like
            return Attempt(Result.FAILED if wrong else Result.AGAIN, _words(error, deadline_s))


def _status(url: str, data: bytes, deadline_s: float, guard: _Guard) -> Attempt:
    with requests.Session() as session, contextlib.closing(_Adapter(guard)) as adapter:
        request = session.prepare_request(requests.Request("POST", url, data=data, headers=_HEADERS))
        around: dict[str, Any] = dict(session.merge_environment_settings(request.url, {}, True, None, None))
        # Not Session.send: it reads a redirect's body whole, also where redirects are not followed.
        response = adapter.send(request, timeout=(min(CONNECT_S, deadline_s), deadline_s), **around)
        with contextlib.closing(response):
            code = response.status_code
            if 200 <= code < 300:
                return Attempt(Result.SENT)
            why = f"status {code}"
            if 300 <= code < 400:
                return Attempt(Result.FAILED, why + ", and redirects are not followed")
            if code in _PASSING or 500 <= code < 600:
                wait = response.headers.get("Retry-After", "")
                return Attempt(Result.AGAIN, why, float(wait) if wait.isdecimal() and len(wait) < 7 else 0.0)
            return Attempt(Result.FAILED, why)


class _Guard:
    """Shuts the connections of one try down at its deadline."""

    def __init__(self, deadline_s: float) -> None:
        self.over = False
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(deadline_s, self._end)
        self._timer.daemon = True
        self._timer.name = "notify-url deadline"

    def __enter__(self) -> _Guard:
        with contextlib.suppress(RuntimeError):  # no thread can be started: the timeouts of requests are left
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        with self._lock:
            for sock in self._sockets:
                sock.close()
            self._sockets.clear()

    def watch(self, sock: socket.socket) -> None:
        """A duplicate is kept: TLS takes the descriptor of the first one away, and the connection is the same."""
        with self._lock:
            self._sockets.append(sock.dup())
            over = self.over
        if over:
            self._end()

    def _end(self) -> None:
        with self._lock:
            self.over = True
            for sock in self._sockets:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)


class _Adapter(HTTPAdapter):
    """Has every connection watched, also one to a proxy."""

    def __init__(self, guard: _Guard) -> None:
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)
        self._guard = guard

    def get_connection_with_tls_context(self, *args: Any, **options: Any) -> Any:  # requests 2.32 and newer
        return self._watched(super().get_connection_with_tls_context(*args, **options))

    def get_connection(self, *args: Any, **options: Any) -> Any:  # before
        return self._watched(super().get_connection(*args, **options))

    def _watched(self, pool: Any) -> Any:
        guard = self._guard

        class Watched(pool.ConnectionCls):  # type: ignore[misc]
            def _new_conn(self) -> socket.socket:
                sock: socket.socket = super()._new_conn()
                guard.watch(sock)
                return sock

        pool.ConnectionCls = Watched
        return pool


def _words(error: BaseException, deadline_s: float) -> str:
    """Why, in words that are ours, the kernel's or the TLS library's."""
    chain = list(_chain(error))
    by_proxy = any(isinstance(one, urllib3.exceptions.ProxyError) for one in chain)
    return ("by the proxy: " if by_proxy else "") + _cause(chain, deadline_s)


def _cause(chain: list[BaseException], deadline_s: float) -> str:
    for one in chain:
        if isinstance(one, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {one.verify_message}"
        if isinstance(one, ssl.SSLError):
            return f"no TLS: {one.reason or 'the handshake failed'}"
        if isinstance(one, socket.gaierror):
            return f"its name is not known: {one.strerror}"
        if isinstance(one, OSError) and isinstance(one.errno, int) and one.errno in errno.errorcode:
            return os.strerror(one.errno)
    for one in chain:
        if isinstance(one, requests.ConnectTimeout | urllib3.exceptions.ConnectTimeoutError):
            return f"no connection within {min(CONNECT_S, deadline_s):g} s"
        if isinstance(one, requests.Timeout | TimeoutError):
            return f"no answer within {deadline_s:g} s"
        if isinstance(one, requests.exceptions.SSLError):  # with urllib3 1.26, which compares the names itself
            return "its certificate is not trusted: it is for another name"
    return f"no answer ({type(chain[0]).__name__})"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and those that it was made of, wherever requests and urllib3 put them; each once."""
    seen: list[BaseException] = []
    waiting = [error]
    while waiting and len(seen) < _LONGEST_CHAIN:
        one = waiting.pop(0)
        if any(one is other for other in seen):
            continue
        seen.append(one)
        yield one
        inner = (*one.args, getattr(one, "reason", None), one.__cause__, one.__context__)
        waiting.extend(each for each in inner if isinstance(each, BaseException))
