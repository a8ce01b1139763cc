"""What goes into a look at the pins, and what comes out of it."""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass

from supervisor_uvicorn.model import Address, HttpOutcome, Options, WorkerId

LIMIT_CONCURRENCY = "limit-concurrency"
"""``Sight.trouble`` of a worker whose ``--limit-concurrency`` leaves no room for a connection of ours."""

HEAD_LIMIT = "head-limit"
"""``Sight.trouble`` of a worker whose ``--h11-max-incomplete-event-size`` leaves no room for a growing head."""

_OURS_OF_ALL = 20  # one of so many connections that a worker may hold may be ours
_MOST_HEAD_BYTES = 4096  # h11 answers 400 and logs at 16 KiB (h11 0.16, DEFAULT_MAX_INCOMPLETE_EVENT_SIZE)


@dataclass(frozen=True)
class Request:
    """The HTTP probe. ``expect`` are closed ranges of status codes that are a right answer."""

    path: str
    host: str | None = None  # the Host header; None: the address, or localhost for a unix socket
    headers: tuple[tuple[str, str], ...] = ()
    expect: tuple[tuple[int, int], ...] = ((200, 399),)
    timeout_s: float = 3.0  # from the request to the last byte of the answer

    def expects(self, status: int) -> bool:
        return any(low <= status <= high for low, high in self.expect)


@dataclass(frozen=True)
class Target:
    """A worker that a connection is to be pinned to. ``request`` None: the pulse only."""

    worker: WorkerId
    address: Address
    options: Options
    request: Request | None = None
    eager: bool = False  # its first question does not wait for a TICK

    @property
    def most_head_bytes(self) -> int:
        """An unfinished head must stay below this."""
        return min(_MOST_HEAD_BYTES, self.options.max_head_bytes // 2)

    @property
    def most_in_one_go(self) -> int:
        """So many new connections of ours at once do not matter beside its limit, above which its clients get 503; 0:
        not even a pin. (The pin, and those whose end it has not seen yet, come on top.)"""
        limit = self.options.limit_concurrency
        return limit // _OURS_OF_ALL if limit is not None else sys.maxsize

    @property
    def unpinnable(self) -> str:
        """Why no connection may be held to this worker; "" where one may."""
        if self.most_in_one_go == 0:
            return LIMIT_CONCURRENCY
        if len(self.head_start) + 64 > self.most_head_bytes:
            return HEAD_LIMIT
        return ""

    @property
    def head_start(self) -> bytes:
        """What goes out at once: the request line, and the beginning of a header that each pulse makes a byte longer.

        Not only the first byte, because uvicorn closes a connection that stays silent where it speaks HTTP/2.
        """
        path = self.request.path if self.request else "/"
        return b"GET " + _target(path) + b" HTTP/1.1\r\nX-Pulse: "


@dataclass(frozen=True)
class Sight:
    """What the pins show of one worker: a part of :class:`supervisor_uvicorn.model.Evidence`, with its meanings.

    ``trouble`` is a fault or limit of our own, for people; it never counts against the worker. ``pinnable`` is False
    where it lasts, so that ticks alone speak for this worker.
    """

    pinned: bool = False
    unread_since: float | None = None
    lag_s: float | None = None
    queued_since: float | None = None
    http: HttpOutcome | None = None
    trouble: str = ""
    pinnable: bool = True


_ALLOWED = frozenset(b"!$&'()*+,-./:;=?@_~%ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")


@functools.lru_cache(maxsize=256)  # asked for several times for each worker at each look
def _target(path: str) -> bytes:
    """The request target, with what may not stand in it percent-encoded (RFC 9112, 3.2.1; RFC 3986, 3.3 and 3.4)."""
    raw = path.encode("utf-8", "surrogateescape")
    return b"".join(bytes([byte]) if byte in _ALLOWED else b"%%%02X" % byte for byte in raw)
