"""Netlink answers: sock_diag.py and connections.py over a played netlink socket.

The kernel writes no such thing; but a sandbox's own network stack (gVisor) answers in its place.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from fuzz.target import Check, Target, holds
from supervisor_uvicorn.kernel.connections import Connections
from supervisor_uvicorn.kernel.errors import KernelError
from supervisor_uvicorn.kernel.sock_diag import FarEnd, SockDiag

_CUT = b"|CUT|"
"""Between two datagrams."""


class _Netlink:
    """Its time-out (SO_RCVTIMEO) is what comes behind the last datagram."""

    def __init__(self, datagrams: list[bytes]) -> None:
        self._datagrams = iter(datagrams)

    def send(self, data: bytes) -> int:
        return len(data)

    def recv(self, most: int) -> bytes:
        for datagram in self._datagrams:
            return datagram[:most]
        raise BlockingIOError(11, "Resource temporarily unavailable")

    def close(self) -> None:
        pass


def _played(diag: SockDiag, data: bytes) -> None:
    diag._netlink = cast(socket.socket, _Netlink(data.split(_CUT)))


_TCP_QUESTION = bytes(range(56))


@contextmanager
def _exact() -> Iterator[Check]:
    near, far = socket.socketpair()

    def check(data: bytes) -> None:
        diag = SockDiag()
        for tcp in (True, False):
            _played(diag, data)
            diag._sequence = 0
            try:
                found: FarEnd | None = diag.tcp_answer(_TCP_QUESTION) if tcp else diag.unix_far_end(near)
            except KernelError as error:
                holds(str(error).isprintable() and len(str(error)) < 200, f"odd words: {error!r:.300}")
                continue
            if found is not None:
                holds(0 <= found.inode < 1 << 32 and 0 <= found.unread_bytes < 1 << 32, f"{found}")

    with near, far:
        yield check


@contextmanager
def _dumps() -> Iterator[Check]:
    yield check_dumps


def check_dumps(data: bytes) -> None:
    diag = SockDiag()
    _played(diag, data)
    try:
        for inode, listening in diag.listening().items():
            holds(0 <= inode < 1 << 32 and listening.queue_length >= 0 and listening.queue_limit >= 0, f"{listening}")
            holds(listening.address.family in ("tcp", "tcp6", "unix") and str(listening.address), f"{listening}")
            holds(0 <= listening.address.port < 1 << 16, f"{listening}")
    except KernelError as error:
        holds(str(error).isprintable() and len(str(error)) < 200, f"odd words: {error!r:.300}")
    connections = Connections()
    _played(connections, data)
    try:
        for connection in connections.by_inode(tcp=True, unix=True).values():
            holds(0 <= connection.port < 1 << 16, f"{connection}")
    except KernelError:
        pass


# -- seeds: what the kernel writes -----------------------------------------------------------------------------------


def _message(kind: int, sequence: int, payload: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(payload), kind, 2, sequence, 0) + payload


def _inet(family: int, state: int = 10, inode: int = 4711) -> bytes:
    sockid = struct.pack("!HH", 8000, 40000) + bytes(16) + b"\x7f\0\0\1" + bytes(12) + bytes(12)
    return struct.pack("=BBBB", family, state, 0, 0) + sockid + struct.pack("=IIIII", 0, 3, 128, 0, inode)


def _attribute(kind: int, value: bytes) -> bytes:
    return (struct.pack("=HH", 4 + len(value), kind) + value).ljust((len(value) + 7) & ~3, b"\0")


def _unix(*attributes: bytes) -> bytes:
    return struct.pack("=BBBxI8s", 1, 1, 10, 99, b"\xff" * 8) + b"".join(attributes)


def _done(sequence: int) -> bytes:
    return _message(3, sequence, b"\0\0\0\0")


def _error(sequence: int, code: int) -> bytes:
    return _message(2, sequence, struct.pack("=i", -code) + bytes(16))


_ANSWER = bytearray(_inet(2, 1))
_ANSWER[4:8] = _TCP_QUESTION[8:12]
_PATH, _ABSTRACT = _attribute(0, b"/run/app.sock\0"), _attribute(0, b"\0abstract")
_QUEUE, _PEER, _SHUT = (
    _attribute(4, struct.pack("=II", 1, 128)),
    _attribute(2, struct.pack("=I", 5)),
    _attribute(6, b"\0"),
)

_TOKENS = (
    _CUT, _done(1), _done(2), _done(3), _error(1, 1), _error(1, 2), _error(2, 13), struct.pack("=I", 20), b"\x14\0\0\0",
    _PATH, _QUEUE, _PEER, _SHUT, b"\0\0\0\x80", b"\xff\xff\xff\xff",
)  # fmt: skip
NETLINK_EXACT = Target(
    "netlink-exact",
    "netlink answers to one exact question (``kernel/sock_diag.py``)",
    _exact,
    (
        _message(20, 1, bytes(_ANSWER)),
        _message(20, 1, _unix(_PEER, _SHUT)),
        _error(1, 2),
        _error(1, 13),
        _message(20, 9, b"") + _message(20, 1, _unix(_PEER)),
    ),
    _TOKENS,
    weight=2,
    most_bytes=1024,
)
NETLINK_DUMPS = Target(
    "netlink-dumps",
    "netlink dumps of listening and connected sockets (``kernel/sock_diag.py``, ``connections.py``)",
    _dumps,
    (
        _CUT.join(
            (
                _message(20, 1, _inet(2)) + _message(20, 1, _inet(2, inode=5)) + _done(1),
                _message(20, 2, _inet(10)) + _CUT + _done(2),
                _message(20, 3, _unix(_PATH, _QUEUE)) + _message(20, 3, _unix(_ABSTRACT, _QUEUE)) + _done(3),
            )
        ),
        _CUT.join((_done(1), _done(2), _message(20, 3, _unix(_PATH)) + _done(3))),
        _CUT.join((_error(1, 2), _error(2, 2), _error(3, 2))),
    ),
    _TOKENS,
    weight=2,
)
