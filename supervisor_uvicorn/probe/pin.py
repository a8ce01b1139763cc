"""One pinned connection: what has been sent on it, since when that is unread, and whether it is still that worker's.

Four phases. PULSE: a byte more whenever everything was read. ASKING: an HTTP probe runs on it in another thread; no
pulse is sent (h11 stops reading behind a request, so that it would look silent), and only the head speaks for the
loop. UNREAD: the probe's deadline has passed and its head is still unread; it is a pulse like any other, but when it
is read at last the connection is of no more use. SETTLING: an answer has come whole, and the next head was begun at
once; but an application may go on behind its answer (clean-up, a task in the background), and h11 reads nothing
meanwhile, but for one more read. So this head says something until it was read once, and then nothing until it was read
twice, which is seen to within milliseconds (pins.py ``recheck``); where that takes long, the connection is given up and
pinned anew.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from supervisor_uvicorn.kernel import proc
from supervisor_uvicorn.kernel.sock_diag import SockDiag, tcp_question, unix_unread_bytes
from supervisor_uvicorn.model import HttpOutcome
from supervisor_uvicorn.probe.http import HttpProbe
from supervisor_uvicorn.probe.link import HelloLink, Link, TlsLink
from supervisor_uvicorn.probe.target import Request, Target

_FIRST_RECHECK_S = 0.001
_RECHECK_GROWTH = 1.15  # so lag is measured to within 15 % of itself
_HANDSHAKE_S = 10.0
_SETTLE_S = 1.0
_READS_TO_SETTLE = 2  # h11 reads once behind an unfinished request, and only then pauses (uvicorn, h11_impl.py)
_RENEW_HELLO_S = 50.0  # asyncio and uvloop close an unfinished handshake after 60 s (ssl_handshake_timeout)


class Phase(enum.Enum):
    PULSE = "pulse"
    ASKING = "asking"
    UNREAD = "unread"
    SETTLING = "settling"


class Pin:
    """A connection that ``target.worker`` has accepted as its descriptor ``fd``, with the far end's ``inode``."""

    def __init__(
        self, target: Target, link: Link, inode: int, fd: int, diag: SockDiag, clock: Callable[[], float]
    ) -> None:
        self.target = target
        self.phase = Phase.PULSE
        self.pinned_at = clock()
        self.unread_since: float | None = None
        self.lag_s: float | None = None
        self.read_after_s: float | None = None  # a pulse was read; whoever takes it puts None
        self.recheck_at = 0.0
        self._due_at = 0.0  # when this check was to be made
        self.is_due = False  # a TICK wanted an HTTP probe
        self.lost = ""  # why it is of no use any more
        self.lost_by_worker = False  # and not by a decision of ours
        self.answered = False  # an answer came on it, so that its end is no sign of trouble
        self.unanswered_since: float | None = None  # lost with a request that was read, and not answered in time
        self._recheck_s = _FIRST_RECHECK_S
        self._link = link
        self._inode = inode
        self._fd = fd
        self._diag = diag
        self._question: bytes | None = None  # how the kernel is asked for the far end; it never changes
        self._clock = clock
        self._head_bytes = 0  # of the unfinished head; 0: it has not begun
        self._probe: HttpProbe | None = None
        self._head_was_read = False
        self._reads_to_settle = 0

    # -- looking -------------------------------------------------------------------------------------------------

    def check(self, *, confirm: bool) -> None:
        """See what the worker has read. ``confirm``: where something is unread, also ask whether that pid still holds
        the connection (one readlink). Where all was read, an end of file says as much.

        Afterwards ``lost`` says whether the pin must be given up. Raises :class:`KernelError` where we cannot see.
        """
        if self.lost:
            return
        self._due_at = self.recheck_at
        # First of all, so that a check that fails is not made again and again.
        self._recheck_s *= _RECHECK_GROWTH
        self.recheck_at = self._clock() + self._recheck_s
        if self.phase is Phase.ASKING:
            self._check_head_of_probe()
        else:
            self._check_pulse()
        confirm = confirm and self.unread_since is not None  # a probe may have been answered and closed already
        if confirm and not self.lost and proc.socket_inode(self.target.worker.pid, self._fd) != self._inode:
            self._lose_to_worker("no longer held by that process")

    def _check_pulse(self) -> None:
        ended = self._link.ended()
        if ended and self.phase is Phase.UNREAD:
            self.lost = f"its request was read after its deadline ({ended})"
            return
        self._lose_to_worker(ended)
        if not self.lost:
            self._handshake()
        if self.lost or self.unread_since is None:
            return
        if not self._see(self.unread_since):
            self._lose_to_worker("the worker's end is gone")
        elif self.phase is Phase.UNREAD and self.unread_since is None:
            self.lost = "its request was read after its deadline"
        elif self.phase is Phase.SETTLING and self.unread_since is None:
            self._reads_to_settle -= 1
            if not self._reads_to_settle:
                self.phase = Phase.PULSE
        elif self._is_paused and self._clock() - self.unread_since > _SETTLE_S:
            self.lost = "the application goes on behind its answer"

    def _check_head_of_probe(self) -> None:
        probe = self._probe
        if probe is None or probe.head_sent_at is None or self._head_was_read:
            return
        if not self._see(probe.head_sent_at):
            self.unread_since = None  # closed after its answer, which the probe's thread is about to read
        self._head_was_read = self.unread_since is None

    def _see(self, sent_at: float) -> bool:
        """Has what was sent at ``sent_at`` been read? False: the far end is gone, so that nothing can be said."""
        if self.target.address.family == "unix":
            unread_bytes = unix_unread_bytes(self._link.socket)
        else:
            if self._question is None:
                self._question = tcp_question(self._link.socket)
            far_end = self._diag.tcp_answer(self._question) if self._question else None
            if far_end is None or not far_end.established or far_end.inode != self._inode:
                return False
            unread_bytes = far_end.unread_bytes
        if self.phase is not Phase.SETTLING:
            now = self._clock()
            self.lag_s = now - sent_at
            if not unread_bytes:  # when we come late, the worker may have read it in time
                self.lag_s = self.read_after_s = max(min(now, self._due_at) - sent_at, 0.0)
        self.unread_since = sent_at if unread_bytes else None
        return True

    def _handshake(self) -> None:
        try:
            if self._link.step():
                self._was_sent(self._clock())
        except OSError as error:
            self._lose_to_worker(f"TLS handshake: {getattr(error, 'reason', None) or error}")
            return
        waits = not self._link.open_for_bytes and self.unread_since is None
        if waits and self._clock() - self.pinned_at > _HANDSHAKE_S:
            self._lose_to_worker("TLS handshake not finished")

    def _lose_to_worker(self, reason: str) -> None:
        if reason:
            self.lost, self.lost_by_worker = reason, True

    @property
    def late_since(self) -> float | None:
        """Since when something is unread that speaks for the loop."""
        return None if self._is_paused else self.unread_since

    @property
    def _is_paused(self) -> bool:
        """May the worker have stopped reading here, behind a request that its application has not finished? Not
        before it has read once since its answer."""
        return self.phase is Phase.SETTLING and self._reads_to_settle < _READS_TO_SETTLE

    @property
    def wants_recheck(self) -> bool:
        """Something is unread, a handshake waits for the worker, or a probe has not ended."""
        if self.lost:
            return False
        if self.phase is Phase.ASKING:
            return True
        return self.unread_since is not None or not self._link.open_for_bytes

    # -- sending -------------------------------------------------------------------------------------------------

    @property
    def open_for_bytes(self) -> bool:
        """No handshake is under way."""
        return self._link.open_for_bytes

    @property
    def shaken(self) -> bool:
        """A TLS handshake was finished on our side."""
        return isinstance(self._link, TlsLink) and self._link.open_for_bytes

    @property
    def full(self) -> bool:
        """No byte more may go out in this head: pin anew."""
        if self.phase is not Phase.PULSE:
            return False
        most_bytes = self._link.most_bytes
        if most_bytes is None:
            return self._head_bytes + 1 >= self.target.most_head_bytes
        return self._head_bytes >= most_bytes or self._clock() - self.pinned_at > _RENEW_HELLO_S

    def pulse(self) -> None:
        """Send the next byte of the head, if everything was read and it is not full."""
        if self.phase not in (Phase.PULSE, Phase.SETTLING):
            return
        if self.lost or self.unread_since is not None or self.full:
            return
        if not self._link.open_for_bytes:
            return
        data = b"a" if self._head_bytes or self._link.most_bytes is not None else self.target.head_start
        sent_at = self._clock()
        try:
            self._link.send(data)
        except OSError as error:
            self._lose_to_worker(f"connection lost: {error.strerror or error}")
            return
        self._head_bytes += len(data)
        self._was_sent(sent_at)

    def _was_sent(self, at: float) -> None:
        self.unread_since = at
        self._recheck_soon(at)

    def _recheck_soon(self, now: float) -> None:
        self._recheck_s = _FIRST_RECHECK_S
        self.recheck_at = now + _FIRST_RECHECK_S

    # -- asking --------------------------------------------------------------------------------------------------

    @property
    def may_ask(self) -> bool:
        return (
            not self.lost and self.phase is Phase.PULSE and self.unread_since is None and self._head_bytes > 0
            and not isinstance(self._link, HelloLink)
        )  # fmt: skip

    def ask(self, request: Request, submit: Callable[[Callable[[], None]], None]) -> None:
        """Finish the head, in a thread. ``submit`` may raise :class:`RuntimeError`: then nothing has happened."""
        probe = HttpProbe(self._link, self.target, request, self._clock)
        submit(probe.run)
        self._probe, self.phase, self._head_was_read, self.is_due = probe, Phase.ASKING, False, False
        self._recheck_soon(self._clock())

    def asked(self) -> HttpOutcome | None:
        """The outcome of a probe that has ended since it was last asked for; None: there is none."""
        probe = self._probe
        if probe is None:
            return None
        if not probe.done.is_set():
            request = self.target.request
            overdue = request is not None and self._clock() - probe.asked_at > request.timeout_s
            if not (overdue and probe.revoke()):
                return None
            self.phase, self._probe = Phase.PULSE, None  # no thread took it: the pulse goes on
            return probe.outcome
        self._probe = None
        self.answered = probe.outcome.status is not None
        if probe.keep:
            self.phase, self._reads_to_settle = Phase.SETTLING, _READS_TO_SETTLE
            self._head_bytes = len(self.target.head_start)
            self._was_sent(probe.next_head_at)
        elif probe.unread and probe.head_sent_at is not None:
            self.phase = Phase.UNREAD
            self.unread_since = probe.head_sent_at
        else:
            self.lost = "its request is over"
            if probe.late and not probe.abandoned:
                self.unanswered_since = probe.asked_at
        return probe.outcome

    @property
    def link(self) -> Link:
        """The connection, for whoever goes on with it when the pin is lost."""
        return self._link

    def close(self) -> None:
        if self._probe is not None:
            self._probe.abandon()
        else:
            self._link.close()
