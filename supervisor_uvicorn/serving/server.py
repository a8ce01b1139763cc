"""uvicorn's server with a shutdown that drops nothing it has accepted.

uvicorn closes, as soon as it is told to stop, each connection on which no request is under way (0.30 to 0.54, server.py
``shutdown``): also one whose request lies unread in the kernel, and a keep-alive connection on which the client is just
sending the next. Here, instead, once the listening socket is no longer watched:

==========================================  ==========================================================================
a connection                                how it ends
==========================================  ==========================================================================
with a request under way                    is answered, with ``Connection: close`` where the head is not yet sent
idle, keep-alive                            its next request is answered with ``Connection: close``; without one it
                                            ends by uvicorn's keep-alive timeout, as it would have anyway, but after
                                            5 s at the latest (``IDLE_S``)
without a byte, or with half a head         closed after a second (``UNHEARD_S``)
in its TLS handshake                        the same
that asks for a WebSocket now               503, ``Connection: close``: the next try reaches another worker
WebSocket, HTTP/2                           as uvicorn ends them, at once: 1012, GOAWAY
TLS, closed by us, all of it sent           a second for the client's close_notify, then it is cut
==========================================  ==========================================================================

Then follows uvicorn's own shutdown: background tasks, ``--timeout-graceful-shutdown`` (it bounds both together),
lifespan. A second INT ends the waiting, as in uvicorn.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import fcntl
import logging
import os
import struct
import termios
from typing import TYPE_CHECKING, Any

import click
from uvicorn.server import Server

from . import inside
from .acceptor import Acceptor, inherited

if TYPE_CHECKING:
    import socket

    from uvicorn.config import Config

UNHEARD_S = 1.0
"""How long a connection without a whole request head is kept once we stop accepting."""

IDLE_S = 5.0
"""uvicorn's own default of ``--timeout-keep-alive`` (0.30 to 0.54, config.py). With a longer one, as behind a balancer
that keeps its connections for a minute, an idle connection would hold the drain until supervisord kills the worker."""

IDLE_RESERVE_S = 0.5
"""Idle connections end so long before ``--timeout-graceful-shutdown``, so that only real work can meet it."""

POLL_S = 0.05
CLOSE = (b"connection", b"close")

logger = logging.getLogger("uvicorn.error")


class Phase(enum.Enum):
    """Where one connection is, for the drain."""

    ANSWERING = enum.auto()
    IDLE = enum.auto()  # answered, and uvicorn's keep-alive timer runs
    UNHEARD = enum.auto()  # no byte yet, or not the whole head of a request
    CLOSING = enum.auto()  # closed by us or by uvicorn, what is left to send is being sent
    OTHER = enum.auto()  # WebSocket, HTTP/2, or a protocol that is not uvicorn's own: it knows how to end


def phase(connection: Any) -> Phase:
    """Read from the attributes that all HTTP/1 protocols of uvicorn share (0.30 to 0.54; :mod:`.inside`)."""
    if connection.transport is None or connection.transport.is_closing():
        return Phase.CLOSING
    if not hasattr(connection, "cycle") or not hasattr(connection, "timeout_keep_alive_task"):
        return Phase.OTHER
    if connection.cycle is None:
        return Phase.UNHEARD
    if not connection.cycle.response_complete:
        return Phase.ANSWERING
    # Any byte of a next request stops the timer (h11_impl.py, httptools_impl.py ``data_received``).
    return Phase.UNHEARD if connection.timeout_keep_alive_task is None else Phase.IDLE


class DrainingServer(Server):
    """Takes the place of ``uvicorn.Server`` in ``uvicorn.main.run``.

    Raises click.UsageError where the options ask for a tree of processes or ``--fd`` is not a listening socket.
    """

    def __init__(self, config: Config) -> None:
        refuse_trees(config)
        super().__init__(config)
        self._acceptor: Acceptor | None = None
        self._listening: socket.socket | None = None
        if config.fd is not None:
            try:
                self._listening = inherited(config.fd)
            except ValueError as error:
                raise click.UsageError(str(error)) from None

    def _make_protocol(self) -> asyncio.Protocol:
        # As in uvicorn's own startup, 0.30 to 0.54.
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            _loop=asyncio.get_running_loop(),
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's, but the inherited socket is accepted from by us.

        Raises click.ClickException (exit code 1) where uvicorn's inside has changed, before anything is served.
        """
        try:
            inside.check(self, self._make_protocol)
        except inside.ChangedError as error:
            raise click.ClickException(str(error)) from None
        if self._listening is None:
            await super().startup(sockets=sockets)
            return
        await super().startup(sockets=[])  # lifespan, and no server
        if not self.started or self.should_exit:
            return  # lifespan failed (uvicorn before 0.36), or told to stop in the meantime
        acceptor = Acceptor(asyncio.get_running_loop(), self._listening, self._make_protocol, self.config.ssl)
        try:
            acceptor.start(self.config.backlog)
        except OSError as error:
            await self.lifespan.shutdown()
            raise click.ClickException(f"--fd {self.config.fd}: cannot listen on this socket: {error}") from None
        self._acceptor = acceptor
        logger.info("Uvicorn running on socket %s (Press CTRL+C to quit)", self._listening.getsockname())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End every connection as the table above says, then as uvicorn does."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        limit = self.config.timeout_graceful_shutdown
        await self._stop_accepting()
        if limit is None or limit > 0:
            drain = _Drain(self, self._acceptor, begun, limit)
            await drain.run()
        if limit is not None:
            # What is left of it; never nothing at all, which uvicorn would take for "exceeded" even when all is done.
            left_s = max(0.0 if limit <= 0 else POLL_S, limit - (loop.time() - begun))
            self.config.timeout_graceful_shutdown = left_s  # type: ignore[assignment]
        await super().shutdown(sockets=sockets)

    async def _stop_accepting(self) -> None:
        if self._acceptor is not None:
            self._acceptor.close()
            return
        # --port or --uds: uvicorn's own sockets. asyncio drops a connection whose server is closed between accept and
        # the next turn; a loop that accepts by itself (uvloop) has no reader here, and does not need it.
        loop = asyncio.get_running_loop()
        for server in self.servers:
            for sock in server.sockets:
                with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
                    loop.remove_reader(sock.fileno())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for server in self.servers:
            server.close()


class _Drain:
    """One drain: from the moment when nothing more is accepted until no connection is left, or the time is over."""

    def __init__(self, server: DrainingServer, acceptor: Acceptor | None, begun: float, limit_s: float | None) -> None:
        self._server, self._acceptor, self._begun = server, acceptor, begun
        self._state = server.server_state
        self._end = None if limit_s is None else begun + limit_s
        self._idle_end = begun + (IDLE_S if limit_s is None else min(IDLE_S, max(0.0, limit_s - IDLE_RESERVE_S)))
        self._told: set[Any] = set()
        self._unheard_since: dict[Any, float] = {}
        self._all_sent_since: dict[Any, float] = {}

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        # Each answer that begins from now on takes these, also on connections that are not made yet.
        self._state.default_headers = [*self._state.default_headers, CLOSE]
        if self._server.config.ws_protocol_class is not None:
            self._server.config.ws_protocol_class = TurnedAway
        said = False
        while not self._server.force_exit:
            self._step(loop.time())
            if not self._state.connections and not (self._acceptor and self._acceptor.opening):
                return
            if self._end is not None and loop.time() >= self._end:
                return
            if not said:
                said = True
                logger.info("Stopped accepting, answering what has been accepted. (CTRL+C to force quit)")
            await asyncio.sleep(POLL_S)

    def _step(self, now: float) -> None:
        if self._acceptor and now - self._begun >= UNHEARD_S:
            self._acceptor.give_up()
        for connection in list(self._state.connections):
            where = phase(connection)
            if where is not Phase.UNHEARD:
                self._unheard_since.pop(connection, None)
            if where is Phase.CLOSING:
                self._end_unanswered_close(connection, now)
                continue
            if where is Phase.OTHER:
                self._end_by_itself(connection)
                continue
            if connection not in self._told:
                self._tell(connection)
            if where is Phase.UNHEARD:
                self._end_unheard(connection, now)
            elif where is Phase.IDLE and now >= self._idle_end:
                connection.shutdown()
        self._told &= self._state.connections

    def _tell(self, connection: Any) -> None:
        """Let the answer that is due be the last one of its connection."""
        self._told.add(connection)
        if getattr(connection, "ws_protocol_class", None) is not None:
            connection.ws_protocol_class = TurnedAway
        # httptools queues pipelined requests, the newest at the left: all of them are answered before the close.
        pipeline = getattr(connection, "pipeline", None)
        cycle = pipeline[0][0] if pipeline else connection.cycle
        if cycle is not None and not cycle.response_started:
            cycle.default_headers = self._state.default_headers

    def _end_unheard(self, connection: Any, now: float) -> None:
        since = self._unheard_since.setdefault(connection, now)
        # Bytes that wait in the kernel may be the request: the loop reads them before our next step. A client that
        # drips for ever does not get more than twice the time.
        if now - since >= UNHEARD_S and (
            not _queued_bytes(connection, termios.FIONREAD) or now - since >= 2 * UNHEARD_S
        ):
            connection.shutdown()

    def _end_unanswered_close(self, connection: Any, now: float) -> None:
        """A TLS connection waits up to 30 s for the client's close_notify (CPython 3.11, constants.py
        ``SSL_SHUTDOWN_TIMEOUT``), which a pool that does not look at an idle connection never sends. Once the client's
        kernel has all that we sent, there is nothing left to wait for."""
        if not connection.transport or not connection.transport.get_extra_info("sslcontext"):
            return
        if _queued_bytes(connection, termios.TIOCOUTQ):
            self._all_sent_since.pop(connection, None)
        elif now - self._all_sent_since.setdefault(connection, now) >= UNHEARD_S:
            connection.transport.abort()

    def _end_by_itself(self, connection: Any) -> None:
        if connection not in self._told:
            self._told.add(connection)
            connection.shutdown()
            # uvicorn's shutdown follows and would ask again, which a WebSocket does not expect (0.30, wsproto_impl.py).
            connection.shutdown = _nothing


def _nothing() -> None:
    pass


def _queued_bytes(connection: Any, question: int) -> int:
    """What lies in the kernel for this connection: FIONREAD, or TIOCOUTQ (SIOCOUTQ; both in tcp(7) and unix(7))."""
    sock = connection.transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return 0
    try:
        answer = fcntl.ioctl(sock.fileno(), question, b"\0\0\0\0")
    except OSError:
        return 0
    return int(struct.unpack("i", answer)[0])


class TurnedAway(asyncio.Protocol):
    """Stands in for uvicorn's WebSocket protocol while it drains: opened now, a WebSocket would be closed at once."""

    def __init__(self, config: Any, server_state: Any, app_state: Any, _loop: Any = None) -> None:
        self._connections = server_state.connections
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connections.add(self)
        self.transport = transport
        self.transport.write(
            b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 19\r\n"
            b"connection: close\r\n\r\nService Unavailable"
        )
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)

    def shutdown(self) -> None:
        self.transport.close()


def refuse_trees(config: Config) -> None:
    """supervisord starts the workers. Raises click.UsageError (exit code 2) where uvicorn would start its own."""
    if config.reload:
        raise click.UsageError("--reload: supervisord restarts what ends, and `serve` does not fork. Leave it out")
    if config.workers > 1:
        said = f"--workers {config.workers}"
        if os.environ.get("WEB_CONCURRENCY", "").strip() == str(config.workers):
            said += " (the environment has WEB_CONCURRENCY)"
        raise click.UsageError(
            f"{said}: one `serve` is one worker. Let supervisord start them, with numprocs={config.workers} in the "
            "[fcgi-program:...] section, and --workers 1 here if WEB_CONCURRENCY cannot be unset"
        )
