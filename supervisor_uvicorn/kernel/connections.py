"""Who is connected with whom: every connection of this network namespace, in one netlink dump (sock_diag(7)).

For an explanation alone: its price grows with the host's connections (some 10 ms for 10,000), where the listener's own
questions in :mod:`supervisor_uvicorn.kernel.sock_diag` are about one connection each.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from supervisor_uvicorn.kernel.sock_diag import (
    _INET_REQ,
    _INET_TAIL,
    _NO_COOKIE,
    _PORTS,
    _TCP_CLOSE_WAIT,
    _TCP_ESTABLISHED,
    _UDIAG_SHOW_NAME,
    _UNIX_DIAG_NAME,
    _UNIX_MSG,
    _UNIX_REQ,
    SockDiag,
    _attributes,
)
from supervisor_uvicorn.model import Address

_TCP_SYN_SENT = 2  # include/net/tcp_states.h; a connect() that waits for its answer
_STATES = 1 << _TCP_ESTABLISHED | 1 << _TCP_CLOSE_WAIT | 1 << _TCP_SYN_SENT


@dataclass(frozen=True)
class Connection:
    """One end of a connection: its own port and its far end ("10.0.0.5:5432"), or its own path for a unix socket."""

    far_end: str = ""
    port: int = 0
    path: str = ""

    def accepted_at(self, address: Address) -> bool:
        """Has it been accepted at this listening socket? An accepted socket has the listening one's port or path."""
        if address.family != "unix":
            return self.port == address.port
        # --uds app.sock: the kernel knows the path as it was bound
        return bool(self.path) and (address.path == self.path or address.path.endswith("/" + self.path))


class Connections(SockDiag):
    """The same netlink socket, with other questions. Not thread-safe."""

    def by_inode(self, *, tcp: bool, unix: bool) -> dict[int, Connection]:
        """Every connection of the kinds asked for. Raises :class:`KernelError` and its kinds."""
        found: dict[int, Connection] = {}
        if tcp:
            for family in (socket.AF_INET, socket.AF_INET6):
                found.update(self._tcp(family))
        if unix:
            found.update(self._unix())
        return found

    def _tcp(self, family: int) -> dict[int, Connection]:
        request = _INET_REQ.pack(family, socket.IPPROTO_TCP, 0, _STATES) + bytes(40) + _NO_COOKIE
        found = {}
        size = 4 if family == socket.AF_INET else 16
        for message in self._dump(request):
            if len(message) >= 72:
                port, far_port = _PORTS.unpack_from(message, 4)
                host = socket.inet_ntop(family, message[24 : 24 + size])
                far_end = f"[{host}]:{far_port}" if family == socket.AF_INET6 else f"{host}:{far_port}"
                found[_INET_TAIL.unpack_from(message, 52)[4]] = Connection(far_end, port)
        return found

    def _unix(self) -> dict[int, Connection]:
        request = _UNIX_REQ.pack(socket.AF_UNIX, 0, 1 << _TCP_ESTABLISHED, 0, _UDIAG_SHOW_NAME, _NO_COOKIE)
        found = {}
        for message in self._dump(request):
            if len(message) >= _UNIX_MSG.size:
                name = dict(_attributes(message, _UNIX_MSG.size)).get(_UNIX_DIAG_NAME, b"")
                path = os.fsdecode(name if name[:1] == b"\0" else name.split(b"\0", 1)[0])
                found[_UNIX_MSG.unpack_from(message)[3]] = Connection(path=path)
        return found
