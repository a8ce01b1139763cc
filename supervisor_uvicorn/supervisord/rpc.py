"""XML-RPC to supervisord, with one total deadline for each call.

supervisor's own transport (supervisor 4.3.0, xmlrpc.py ``SupervisorTransport``) has no time-out on either kind of
socket, and after any error but an HTTP status it can never be used again (``CannotSendRequest``). A listener that
waits for ever is of no use, so this client is our own:

* The deadline is for the whole call. It is set anew, to what is left, before each operation on the socket; a peer that
  drips one byte a second is cut off like one that says nothing.
* The connection is kept between calls. After any error it is closed, and the next call begins afresh.
* A signal must not be sent twice. A call is sent a second time only if it was declared ``idempotent``, on a kept
  connection, and not one byte of an answer had come. Before a kept connection is used it is looked at: what
  supervisord closed meanwhile is replaced before anything is sent.
* Every error says whether the call may have been carried out (:attr:`RpcError.in_doubt`).
"""

from __future__ import annotations

import base64
import http.client
import select
import socket
import time
import xmlrpc.client
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from supervisor_uvicorn.supervisord.server_url import shown

MAX_ANSWER_BYTES = 16 * 1024 * 1024
DEADLINE_S = 5.0
MOST_WORDS = 2000  # characters of an error
_READ_BYTES = 16 * 1024

# supervisor 4.3.0 and 4.2.5, xmlrpc.py ``Faults``: those that we act on
UNKNOWN_METHOD = 1
INCORRECT_PARAMETERS = 2
SHUTDOWN_STATE = 6
BAD_NAME = 10
BAD_SIGNAL = 11
NO_FILE = 20
NOT_EXECUTABLE = 21
FAILED = 30
ABNORMAL_TERMINATION = 40
SPAWN_ERROR = 50
ALREADY_STARTED = 60
NOT_RUNNING = 70
STILL_RUNNING = 91

_OF_A_FAULT = frozenset({"faultCode", "faultString"})


class RpcError(Exception):
    """A call that did not give a result. ``in_doubt``: supervisord may have carried it out nevertheless.

    Its words may quote whoever answered, and end in a log or a terminal: what cannot be printed stands as an escape,
    and what goes beyond :data:`MOST_WORDS` is cut.
    """

    in_doubt = False

    def __init__(self, words: str) -> None:
        words = words if len(words) <= MOST_WORDS else words[: MOST_WORDS - 3] + "..."
        super().__init__("".join(char if char.isprintable() else repr(char)[1:-1] for char in words))


class Unreachable(RpcError):  # noqa: N818
    """No connection was made, so supervisord never saw the call."""


class InDoubt(RpcError):  # noqa: N818
    """The request may have been sent, and no answer came: a deadline, a reset, a connection cut."""

    in_doubt = True


class Unauthorized(RpcError):  # noqa: N818
    """HTTP 401. supervisord refused the call and did nothing."""


class BadAnswer(RpcError):  # noqa: N818
    """An answer that is not one: another HTTP status, no XML-RPC, too long."""

    in_doubt = True


class Fault(RpcError):  # noqa: N818 - a word of the protocol, not a defect
    """supervisord's own refusal: ``code`` is one of this module's constants, ``text`` its words for it."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} (fault {code})")
        self.code = code
        self.text = text


class _TimedSocket(socket.socket):
    """A socket whose every operation ends at ``until`` (monotonic), and that counts the bytes it received."""

    until = 0.0
    received_bytes = 0

    def grant(self) -> None:
        """Set the time that is left; raises TimeoutError where there is none."""
        left_s = self.until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        self.settimeout(left_s)

    def sendall(self, *args: Any) -> None:
        self.grant()  # the time-out of a sendall is a total one (Python 3.5)
        super().sendall(*args)

    def recv_into(self, *args: Any) -> int:
        self.grant()
        count = super().recv_into(*args)
        self.received_bytes += count
        return count


class _Connection(http.client.HTTPConnection):
    """http.client over a socket that is connected already."""

    def __init__(self, sock: _TimedSocket) -> None:
        super().__init__("localhost")  # as the Host header; a path would be no host name
        self.sock = sock
        self.auto_open = 0  # never reconnect behind our back
        self.timed = sock


class Rpc:
    """A client of one supervisord. Not thread-safe: give each thread its own.

    ``server_url`` is ``http://host:port`` or ``unix:///path``, as supervisord puts it into ``SUPERVISOR_SERVER_URL``.
    Basic authentication is used where ``username`` or ``password`` is given; user info within the URL is not, nor is it
    ever shown. ``deadline_s`` is for one call. ``observe`` is told of each call how long it took (s), and whether
    supervisord answered it: a :class:`Fault` is an answer.
    Raises :class:`RpcError` for a URL of another kind.
    """

    def __init__(
        self,
        server_url: str,
        username: str = "",
        password: str = "",
        deadline_s: float = DEADLINE_S,
        observe: Callable[[float, bool], None] | None = None,
    ) -> None:
        self.server_url = server_url = shown(server_url)
        self.deadline_s = deadline_s
        self._observe = observe
        self._unix_path = ""
        self._host, self._port = "", 0
        if server_url.startswith("unix://"):
            self._unix_path = server_url[len("unix://") :]
        elif server_url.startswith("http://"):
            try:
                parts = urlsplit(server_url)
                self._host, self._port = parts.hostname or "", parts.port or 80
            except ValueError as error:
                raise RpcError(f"{server_url!r} is not a server URL: {error}") from None
        if not self._unix_path and not self._host:
            raise RpcError(
                f"{server_url!r} is not a server URL; write http://127.0.0.1:9001 or unix:///run/supervisor.sock"
            )
        self._http_headers = {"Content-Type": "text/xml", "Accept": "text/xml", "User-Agent": "supervisor-uvicorn"}
        if (
            username or password
        ):  # a byte that is no UTF-8 comes as a lone surrogate (PEP 383), and is sent as that byte
            token = base64.b64encode(f"{username}:{password}".encode("utf-8", "surrogateescape")).decode("ascii")
            self._http_headers["Authorization"] = f"Basic {token}"
        self._with_credentials = bool(username or password)
        self._connection: _Connection | None = None

    @classmethod
    def from_environment(
        cls,
        env: Mapping[str, str],
        deadline_s: float = DEADLINE_S,
        observe: Callable[[float, bool], None] | None = None,
    ) -> Rpc:
        """From what supervisord gives its children, as supervisor's own childutils reads it (``getRPCTransport``).

        Raises :class:`RpcError` where ``SUPERVISOR_SERVER_URL`` is missing.
        """
        url = env.get("SUPERVISOR_SERVER_URL", "")
        if not url:
            raise RpcError("SUPERVISOR_SERVER_URL is not set: supervisord has no RPC server, or did not start us")
        return cls(url, env.get("SUPERVISOR_USERNAME", ""), env.get("SUPERVISOR_PASSWORD", ""), deadline_s, observe)

    def __enter__(self) -> Rpc:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, if there is one. The next call opens a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def call(
        self,
        method: str,
        *params: Any,
        idempotent: bool = False,
        deadline_s: float | None = None,
        only: frozenset[str] | None = None,
    ) -> Any:
        """Call ``method`` ("supervisor.getState") and return its result.

        ``idempotent`` allows a second sending over a fresh connection where the kept one turns out to be dead.
        ``deadline_s`` overrides the client's own, in seconds. Of each struct in the answer only the members ``only``
        are kept; None: all. Raises :class:`RpcError` and its kinds; ``TypeError`` or
        ``OverflowError`` for parameters that XML-RPC cannot carry (None, an int beyond 31 bits).
        """
        if self._observe is None:
            return self._call(method, params, idempotent, deadline_s, only)
        began, answered = time.monotonic(), False
        try:
            result = self._call(method, params, idempotent, deadline_s, only)
            answered = True
        except Fault:
            answered = True
            raise
        finally:
            self._observe(time.monotonic() - began, answered)
        return result

    def _call(
        self,
        method: str,
        params: tuple[Any, ...],
        idempotent: bool,
        deadline_s: float | None,
        only: frozenset[str] | None,
    ) -> Any:
        # A lone surrogate (a byte that was no UTF-8) cannot be sent; "?" stands in its place.
        body = xmlrpc.client.dumps(params, method).encode("utf-8", "replace")
        until = time.monotonic() + (self.deadline_s if deadline_s is None else deadline_s)
        while True:
            connection, kept = self._connect(until)
            before_bytes = connection.timed.received_bytes
            try:
                answer = _Answer(method, only)
                self._exchange(connection, body, method, answer)
                return answer.result()
            except Fault:
                raise  # a whole answer, and the connection is as good as before
            except RpcError:
                self.close()
                raise
            except (OSError, http.client.HTTPException) as error:
                nothing_came = connection.timed.received_bytes == before_bytes
                self.close()
                if kept and idempotent and nothing_came and not isinstance(error, TimeoutError):
                    continue
                raise self._lost(method, error, nothing_came) from error
            except BaseException:
                self.close()  # an interrupt in the middle: what comes next on it would be this call's answer
                raise

    # -- the steps of a call

    def _connect(self, until: float) -> tuple[_Connection, bool]:
        """The kept connection or a new one, and which; raises :class:`Unreachable`."""
        kept = self._connection
        if kept is not None:
            if not _readable(kept.timed):
                kept.timed.until = until
                return kept, True
            self.close()  # at its end, or with bytes in it that nobody asked for
        try:
            sock = self._dial_unix(until) if self._unix_path else self._dial_tcp(until)
        except (OSError, UnicodeError) as error:  # the latter: a host that no name can be
            raise Unreachable(self._why_unreachable(error)) from error
        sock.until = until
        self._connection = _Connection(sock)
        return self._connection, False

    def _dial_unix(self, until: float) -> _TimedSocket:
        while True:
            sock = _TimedSocket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.until = until
            try:
                sock.grant()
                sock.connect(self._unix_path)
            except BlockingIOError:  # its backlog is full: supervisord is busy. unix(7): EAGAIN, at once
                sock.close()
                time.sleep(min(0.01, max(0.0, until - time.monotonic())))
            except BaseException:
                sock.close()
                raise
            else:
                return sock

    def _dial_tcp(self, until: float) -> _TimedSocket:
        problem = OSError(f"no address for {self._host!r}")
        for family, kind, protocol, _, address in socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM):
            sock = _TimedSocket(family, kind, protocol)
            sock.until = until
            try:
                sock.grant()
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                sock.close()
                problem = error
            except BaseException:
                sock.close()
                raise
            else:
                return sock
        raise problem

    def _exchange(self, connection: _Connection, body: bytes, method: str, answer: _Answer) -> None:
        """Send ``body`` and give ``answer`` the body of what comes, whole."""
        connection.request("POST", "/RPC2", body, self._http_headers)
        response = connection.getresponse()
        if response.status == 401:
            raise Unauthorized(self._why_unauthorized())
        if response.status != 200:
            raise BadAnswer(f"{self.server_url} answered {method} with HTTP {response.status} {response.reason}")
        while part := response.read(_READ_BYTES):
            answer.feed(part)
            if answer.size_bytes > MAX_ANSWER_BYTES:
                raise BadAnswer(f"{self.server_url} answered {method} with more than {MAX_ANSWER_BYTES} bytes")
        if response.length:  # read(n) does not say that the peer left early
            raise ConnectionResetError(f"closed with {response.length} bytes still to come")
        if response.length is None and not response.chunked and not answer.size_bytes:
            raise ConnectionResetError("closed in the middle of the head")  # http.client takes such a head for whole
        if response.will_close:
            self.close()

    # -- words for people

    def _why_unreachable(self, error: Exception) -> str:
        where = self.server_url
        if isinstance(error, TimeoutError):
            return f"{where} did not accept a connection in time: supervisord is stopped or very busy"
        if isinstance(error, FileNotFoundError):
            return f"{where}: there is no such socket; supervisord is not running, or its file= is another"
        if isinstance(error, PermissionError):
            return (
                f"{where}: this user may not use supervisord's socket; "
                "in [unix_http_server] write chmod=0770 and chown=USER:GROUP with a group that it is in"
            )
        if isinstance(error, ConnectionRefusedError):
            return f"{where}: nobody listens there; supervisord is not running"
        return f"{where}: {error}"

    def _lost(self, method: str, error: Exception, nothing_came: bool) -> RpcError:
        if isinstance(error, TimeoutError):
            return InDoubt(f"{self.server_url} did not answer {method} in time; it may still carry it out")
        if isinstance(error, OSError):  # includes RemoteDisconnected: closed without an answer
            return InDoubt(f"{self.server_url} closed the connection during {method}: {error}")
        if isinstance(error, http.client.IncompleteRead) or nothing_came:
            return InDoubt(f"{self.server_url} cut its answer to {method} short")
        return BadAnswer(f"{self.server_url} did not answer {method} with HTTP: {type(error).__name__} {error}")

    def _why_unauthorized(self) -> str:
        if self._with_credentials:
            begin = f"{self.server_url} refused the user name or password (HTTP 401)."
        else:
            begin = f"{self.server_url} wants a user name and password (HTTP 401)."
        return (
            f"{begin} supervisord never hands its own credentials to its children: write those of its "
            "[unix_http_server] or [inet_http_server] section into the listener's: in [eventlistener:...] "
            'environment=SUPERVISOR_USERNAME="...",SUPERVISOR_PASSWORD="..."'
        )


def _readable(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


class _Reader(xmlrpc.client.Unmarshaller):
    """Lets go of the members of a struct that nobody asked for as soon as the struct is whole.

    supervisord tells some forty of each process (``getAllConfigInfo``): what is live at once is what the memory of this
    process grows by for good with each worker.
    """

    def __init__(self, only: frozenset[str] | None) -> None:
        super().__init__()
        self._only = only

    def end_struct(self, data: str) -> None:
        super().end_struct(data)
        struct = self._stack[-1]
        if self._only is not None and isinstance(struct, dict):
            self._stack[-1] = {name: struct[name] for name in struct if name in self._only or name in _OF_A_FAULT}

    # How xmlrpc.client finds the method for an end tag. A table of the class, not of each reader, which would hold
    # itself alive through it, and the answer with it, until the garbage collector comes by.
    dispatch = {**xmlrpc.client.Unmarshaller.dispatch, "struct": end_struct}  # type: ignore[dict-item]  # noqa: RUF012


class _Answer:
    """The answer to one call, read piece by piece: the whole text beside its values would be live for nothing."""

    def __init__(self, method: str, only: frozenset[str] | None = None) -> None:
        self._method = method
        self._reader = _Reader(only)
        self._parser = xmlrpc.client.ExpatParser(self._reader)
        self.size_bytes = 0

    def feed(self, data: bytes) -> None:
        """The next piece; raises :class:`BadAnswer`."""
        self.size_bytes += len(data)
        try:
            self._parser.feed(data)
        except Exception as error:  # expat and the unmarshaller raise a dozen kinds for garbage
            raise self._garbage(error) from error

    def result(self) -> Any:
        """Its value, when all has come; raises :class:`Fault`, or :class:`BadAnswer`."""
        try:
            self._parser.close()
            values, called = self._reader.close(), self._reader.getmethodname()
        except xmlrpc.client.Fault as fault:
            try:
                code = int(fault.faultCode)
            except (TypeError, ValueError, OverflowError):
                raise BadAnswer(
                    f"the answer to {self._method} is a fault without a number: {fault.faultCode!r}"
                ) from None
            raise Fault(code, str(fault.faultString)) from None
        except Exception as error:
            raise self._garbage(error) from error
        if called is not None or len(values) != 1:
            raise BadAnswer(f"the answer to {self._method} is XML-RPC, but not an answer")
        return values[0]

    def _garbage(self, error: Exception) -> BadAnswer:
        return BadAnswer(f"the answer to {self._method} is not XML-RPC: {type(error).__name__} {error}")
