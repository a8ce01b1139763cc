"""The socket of a pinned connection: plain, under TLS, or with a ClientHello that never ends.

All three take bytes and say whether the other end is still there; nothing here blocks, except inside an HTTP probe,
whose thread has set a deadline.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from supervisor_uvicorn.model import Address


class TooMuch(OSError):  # noqa: N818 - it reads as what it is
    """The worker sent more bytes than an answer may have."""


class Deadline:
    """One total deadline and one total size over all reads and writes on a socket, whoever makes them.

    A time-out for each operation, which is all that the libraries above know, never ends with a worker that drips one
    byte a second. What happened is kept as facts, because those libraries bury it under their own exceptions.
    """

    def __init__(self, clock: Callable[[], float], timeout_s: float, budget_bytes: int) -> None:
        self._clock = clock
        self.at = clock() + timeout_s
        self.budget_bytes = budget_bytes
        self.received_bytes = 0
        self.beginning = b""  # of what came, at most 64 bytes
        self.timed_out = False
        self.ended = False
        self.reset = False
        self.too_much = False

    def remaining_s(self) -> float:
        remaining_s = self.at - self._clock()
        if remaining_s <= 0:
            self.timed_out = True
            raise TimeoutError("deadline")
        return remaining_s

    def took(self, data: memoryview) -> None:
        """Count what a read has brought."""
        if not data:
            self.ended = True
        if len(self.beginning) < 64:
            self.beginning += bytes(data[: 64 - len(self.beginning)])
        self.received_bytes += len(data)
        if self.received_bytes > self.budget_bytes:
            self.too_much = True
            raise TooMuch("answer too large")


if TYPE_CHECKING:
    _Socket = socket.socket
else:
    _Socket = object


class _UnderDeadline(_Socket):
    """Mixed into a socket class: ``recv_into`` is what ``makefile`` and so http.client read with."""

    deadline: Deadline | None = None

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        deadline = self.deadline
        if deadline is None:
            return super().recv_into(buffer, nbytes, flags)
        try:
            self.settimeout(deadline.remaining_s())
            count = super().recv_into(buffer, nbytes, flags)
        except TimeoutError:
            deadline.timed_out = True
            raise
        except OSError:
            deadline.reset = True
            raise
        deadline.took(memoryview(buffer)[:count])
        return count

    def send_all(self, data: bytes) -> None:
        """Write everything before the deadline; raises :class:`OSError`."""
        assert self.deadline is not None
        try:
            self.settimeout(self.deadline.remaining_s())
            self.sendall(data)
        except TimeoutError:
            self.deadline.timed_out = True
            raise
        except OSError:
            self.deadline.reset = True
            raise


class PlainSocket(_UnderDeadline, socket.socket):
    """A connection of ours; close-on-exec, non-blocking outside of an HTTP probe."""


class TlsSocket(_UnderDeadline, ssl.SSLSocket):  # type: ignore[misc]  # both bases call it a socket
    """The same under TLS."""


class Link:
    """A plain connection."""

    most_bytes: int | None = None  # only so many may ever be sent

    def __init__(self, connection: PlainSocket | TlsSocket) -> None:
        self.socket = connection

    @property
    def open_for_bytes(self) -> bool:
        """Whether bytes of ours may go out now: no handshake is under way."""
        return True

    def step(self) -> bool:
        """Go on with a handshake as far as is possible now; True: bytes went out. Raises :class:`OSError`."""
        return False

    def send(self, data: bytes) -> None:
        """Send all of ``data``, a few bytes; raises :class:`OSError` where that is not possible at once."""
        if self.socket.send(data) != len(data):
            raise BlockingIOError("the connection takes no more bytes")

    def ended(self) -> str:
        """Why this connection is of no use any more, or "". A worker has nothing to say before a whole head."""
        try:
            data = self.socket.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return ""
        except OSError as error:
            return f"connection lost: {error.strerror or error}"
        return "unexpected data" if data else "end of file"

    def cut(self) -> None:
        """Wake whoever reads in another thread, who then closes."""
        with contextlib.suppress(OSError):
            # Not SSLSocket's own: that takes the TLS object from under the other thread.
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.close()


class TlsLink(Link):
    """A connection under TLS. The worker's certificate is not verified: the kernel has said who holds the far end."""

    def __init__(self, connection: PlainSocket) -> None:
        wrapped = _context().wrap_socket(connection, do_handshake_on_connect=False)
        assert isinstance(wrapped, TlsSocket)
        super().__init__(wrapped)
        self.socket: TlsSocket = wrapped
        self._hello_sent = False
        self._shaken = False

    @property
    def open_for_bytes(self) -> bool:
        return self._shaken

    def step(self) -> bool:
        if self._shaken:
            return False
        hello_was_sent, self._hello_sent = self._hello_sent, True
        try:
            self.socket.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return not hello_was_sent
        self._shaken = True
        return True

    def ended(self) -> str:
        return super().ended() if self._shaken else ""


class HelloLink(Link):
    """For a worker that wants a client certificate: the bytes of a ClientHello, and never the last of them."""

    def __init__(self, connection: PlainSocket) -> None:
        super().__init__(connection)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = _context().wrap_bio(incoming, outgoing)
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        self._hello = outgoing.read()[:-1]
        self.most_bytes = len(self._hello)

    def send(self, data: bytes) -> None:
        """Send as many bytes of the ClientHello as ``data`` has."""
        piece, self._hello = self._hello[: len(data)], self._hello[len(data) :]
        super().send(piece)


@functools.lru_cache(maxsize=1)
def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.sslsocket_class = TlsSocket
    return context


def open_socket(address: Address) -> PlainSocket:
    """A non-blocking socket for ``address``; raises :class:`OSError`, for example EMFILE."""
    family = {"tcp": socket.AF_INET, "tcp6": socket.AF_INET6, "unix": socket.AF_UNIX}[address.family]
    opened = PlainSocket(family, socket.SOCK_STREAM)
    opened.setblocking(False)
    if family != socket.AF_UNIX:
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or a second pulse waits for the first one's ACK
    return opened


def endpoint(address: Address) -> Any:
    """What :meth:`socket.socket.connect` takes."""
    return address.path if address.family == "unix" else (address.host, address.port)
