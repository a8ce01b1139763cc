"""The HTTP probe: the head on a pinned connection is finished, and the answer can come from that worker alone.

One :class:`HttpProbe` runs in one thread of the caller's pool. Until ``done`` is set nobody else reads from the socket.
What makes an answer right, wrong, busy or not asked at all is decided here; how it is fetched, in ``answer``.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from supervisor_uvicorn.kernel.errors import KernelError
from supervisor_uvicorn.kernel.sock_diag import SockDiag
from supervisor_uvicorn.model import Answer, HttpOutcome
from supervisor_uvicorn.probe.link import Deadline, Link
from supervisor_uvicorn.probe.target import Request, Target

if TYPE_CHECKING:
    from supervisor_uvicorn.probe.answer import Received

_MOST_HEAD_BYTES = 64 * 1024
_KEPT_BYTES = 512


class HttpProbe:
    """One request on one pinned connection. The caller submits :meth:`run` to a thread and looks at ``done``."""

    def __init__(self, link: Link, target: Target, request: Request, clock: Callable[[], float]) -> None:
        self._link = link
        self._target = target
        self._request = request
        self._clock = clock
        self._lock = threading.Lock()
        self._cancelled = False
        self._begun = False
        self.asked_at = clock()
        self.head_sent_at: float | None = None
        # The thread sets these before `done`, and does not touch them afterwards:
        self.outcome = HttpOutcome(Answer.UNASKED, "no thread of ours was free")
        self.keep = False  # the connection is good for the next head, whose beginning went out at `next_head_at`
        self.next_head_at = 0.0
        self.late = False  # it was read, and its answer had not even begun at the deadline
        self.unread = False  # the worker has not read the head: it stays a pulse, sent at `head_sent_at`
        self.done = threading.Event()

    @property
    def abandoned(self) -> bool:
        """Its connection is closed already, or will be."""
        return self._cancelled

    def revoke(self) -> bool:
        """Take it back; True: it had not begun and never will, so the connection is as it was."""
        with self._lock:
            if self._begun:
                return False
            self._cancelled = True
            return True

    def abandon(self) -> None:
        """End it, whatever it is doing, and close the connection: here, or in its thread as soon as that wakes."""
        with self._lock:
            self._cancelled = True
            if self._begun and not self.done.is_set():
                self._link.cut()
            else:
                self._link.close()

    def run(self) -> None:
        """Ask, wait, judge; never raises."""
        with self._lock:
            if self._cancelled:
                return
            self._begun = True
        try:
            self._ask()
        except Exception as error:  # noqa: BLE001 - a fault of ours, which must neither end the thread nor count
            self.outcome = HttpOutcome(Answer.UNASKED, f"the probe failed: {error!r:.200}")
            self.keep = self.unread = False
        with self._lock:
            self._link.socket.deadline = None
            with contextlib.suppress(OSError):
                self._link.socket.settimeout(0)
            if self._cancelled:
                self._link.close()
            self.done.set()

    def _ask(self) -> None:
        from supervisor_uvicorn.probe.answer import ask  # requests: only where a path is set

        address = self._target.address
        host = self._request.host or ("localhost" if address.family == "unix" else str(address).partition("://")[2])
        began = self._clock()
        deadline = self._link.socket.deadline = Deadline(self._clock, self._request.timeout_s, _MOST_HEAD_BYTES)
        received = ask(self._link, self._request, host, deadline, self._sent)
        seconds = self._clock() - began
        if self.head_sent_at is None:
            self.outcome = HttpOutcome(Answer.UNASKED, f"the request could not be sent: {received.error!r:.200}")
        elif deadline.timed_out and not deadline.received_bytes and self._still_unread():
            self.unread = True
            self.outcome = HttpOutcome(Answer.UNASKED, "the request was not read", None, seconds)
        else:
            answer, reason = self._judge(received, deadline)
            self.late = deadline.timed_out and not deadline.received_bytes
            self.outcome = HttpOutcome(answer, reason, received.status, seconds, received.body[:_KEPT_BYTES])
            if received.complete and received.keep_alive:
                self._begin_next_head()

    def _judge(self, received: Received, deadline: Deadline) -> tuple[Answer, str]:
        status = received.status
        if status is None or (received.error is not None and not deadline.too_much):
            return Answer.WRONG, self._what_went_wrong(received, deadline)
        if self._request.expects(status):
            return Answer.RIGHT, ""
        options = self._target.options
        # uvicorn 0.30-0.54, protocols/http/flow_control.py, service_unavailable: this body, and Connection: close.
        if (
            (status, received.body, received.connection_header) == (503, b"Service Unavailable", "close")
            and (options.limit_concurrency is not None or not options.environ_read)
        ):  # fmt: skip
            return Answer.BUSY, "at its --limit-concurrency"
        return Answer.WRONG, f"status {status}"

    def _what_went_wrong(self, received: Received, deadline: Deadline) -> str:
        timeout = f"{self._request.timeout_s:g} s"
        if deadline.timed_out:
            what = "answer not finished within" if deadline.received_bytes else "no answer within"
            return f"{what} {timeout}"
        if deadline.received_bytes and not deadline.beginning.startswith(b"HTTP/1."):
            return f"not HTTP: {deadline.beginning[:40]!r}"
        if deadline.too_much:
            return f"not HTTP: a head of more than {_MOST_HEAD_BYTES // 1024} KiB"
        if deadline.reset:
            return "connection reset"
        if deadline.ended:
            return "closed in the middle of its answer" if deadline.received_bytes else "closed without an answer"
        return f"not HTTP: {received.error!r:.100}"

    def _still_unread(self) -> bool:
        diag = SockDiag()  # the look's own belongs to another thread
        try:
            far_end = diag.far_end(self._link.socket)
        except KernelError:
            return True  # not known: then it shall not count against the worker
        finally:
            diag.close()
        return far_end is not None and far_end.unread_bytes > 0

    def _sent(self) -> None:
        self.head_sent_at = self._clock()

    def _begin_next_head(self) -> None:
        """At once: the first bytes end uvicorn's keep-alive timer, which may be as short as 1 s."""
        try:
            self.next_head_at = self._clock()
            self._link.socket.send_all(self._target.head_start)
        except OSError:
            return  # closed meanwhile, which is no fault: it is pinned anew
        self.keep = True
