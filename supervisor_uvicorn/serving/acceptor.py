"""The accept step of a worker that shares its listening socket: it can stop without losing what it has taken.

uvicorn leaves accepting to the event loop. asyncio's then takes a connection and makes its transport one turn later; a
server that is closed in between drops it (CPython 3.11, selector_events.py ``_accept_connection2`` and base_events.py
``Server._attach``: an AssertionError, seen by nobody). Nor does a loop say which TLS handshakes are under way. So here
a connection is accepted by us and handed to the loop with ``connect_accepted_socket``, which asyncio and uvloop share,
and whatever is not yet a connection of uvicorn's stands in :attr:`Acceptor.opening`.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
from collections.abc import Callable

ACCEPTS_PER_WAKE = 1
"""Connections taken each time the socket is readable, as nginx does (``multi_accept off``): what is left is for whoever
wakes next. Bursts of 40 over 4 workers, measured: asyncio 25, 9, 3, 3 rather than 39, 1; uvloop no difference."""

RETRY_S = 1.0
"""After "too many open files": asyncio's own ``ACCEPT_RETRY_DELAY`` (CPython 3.11, constants.py)."""

# accept(2), "Error handling": these belong to one connection that is already gone, not to the listening socket.
_GONE = frozenset(
    {
        errno.ECONNABORTED, errno.EPROTO, errno.ENOPROTOOPT, errno.ENETDOWN, errno.EHOSTDOWN, errno.ENONET,
        errno.EHOSTUNREACH, errno.EOPNOTSUPP, errno.ENETUNREACH, errno.EPERM,
    }
)  # fmt: skip

logger = logging.getLogger("uvicorn.error")


def inherited(fd: int) -> socket.socket:
    """A duplicate of an inherited stream socket, with its right family, and TCP_NODELAY on it where it is TCP.

    uvicorn opens the descriptor as AF_UNIX (0.30 to 0.54, server.py ``startup``), so that no loop sets TCP_NODELAY, and
    each keep-alive answer waits some 40 ms for a delayed ACK. Python asks the kernel instead (``SO_DOMAIN``). Accepted
    sockets inherit the option from the listening one (Linux, tcp(7)).

    Raises ValueError that says what the descriptor is and what to write instead.
    """
    try:
        copy = os.dup(fd)
    except OSError:
        raise ValueError(f"--fd {fd}: there is no such descriptor. {_ADVICE}") from None
    try:
        sock = socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise ValueError(f"--fd {fd}: the descriptor is not a socket. {_ADVICE}") from None
    if sock.type != socket.SOCK_STREAM or sock.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        kind = f"{_name(sock.family)}, {_name(sock.type)}"
        sock.close()
        raise ValueError(f"--fd {fd}: the socket is no TCP or unix stream socket ({kind}). {_ADVICE}")
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


_ADVICE = (
    "Under supervisord an [fcgi-program:...] section with socket=tcp://HOST:PORT or socket=unix:///PATH gives its "
    "processes the socket as descriptor 0; elsewhere leave --fd out and give --host and --port, or --uds"
)


def _name(value: int) -> str:
    return value.name if isinstance(value, (socket.AddressFamily, socket.SocketKind)) else str(value)


class Acceptor:
    """Takes connections from ``sock`` and makes each one a connection of the protocol, until closed.

    ``make_protocol`` gives a fresh protocol; ``tls`` is None for plain connections. Owns ``sock``.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        make_protocol: Callable[[], asyncio.Protocol],
        tls: ssl.SSLContext | None,
    ) -> None:
        self._loop, self._sock, self._make_protocol, self._tls = loop, sock, make_protocol, tls
        self.opening: set[asyncio.Task[None]] = set()  # accepted, but not yet handed to the protocol: handshakes
        self._open = False
        self._retry: asyncio.TimerHandle | None = None

    def start(self, backlog: int) -> None:
        """Listen and accept. Raises OSError, as listen(2)."""
        self._sock.setblocking(False)
        self._sock.listen(backlog)
        self._open = True
        self._watch()

    def close(self) -> None:
        """Merely stop watching the socket: what waits in its queue is for the workers that share it."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._sock.fileno())
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._sock.close()

    def give_up(self) -> None:
        """Drop the handshakes that are still under way."""
        for task in self.opening:
            task.cancel()

    def _watch(self) -> None:
        self._retry = None
        self._loop.add_reader(self._sock.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_WAKE):
            try:
                connection, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _GONE:
                    continue
                # The socket stays readable: without a pause the loop would do nothing else.
                logger.error("Accepting failed, again in %g s: %s", RETRY_S, error)
                self._loop.remove_reader(self._sock.fileno())
                self._retry = self._loop.call_later(RETRY_S, self._watch)
                return
            connection.setblocking(False)
            task = self._loop.create_task(self._hand_over(connection))
            self.opening.add(task)
            task.add_done_callback(self.opening.discard)

    async def _hand_over(self, connection: socket.socket) -> None:
        try:
            protocol = self._make_protocol()
        except BaseException:
            connection.close()
            raise
        try:
            await self._loop.connect_accepted_socket(lambda: protocol, connection, ssl=self._tls)
        except OSError as error:  # the client left, or its handshake failed: its own affair, as in asyncio
            logger.debug("A connection ended before it began: %s", error)
