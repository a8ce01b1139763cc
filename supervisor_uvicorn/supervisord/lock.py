"""One listener acts per supervisord; a second one stands by.

The lock is an abstract unix socket (unix(7)) named after supervisord's pid and birth: it needs no directory that both
could write, and the kernel takes it away with its holder, however that ends. Any process of the machine can bind such a
name, so the holder is asked for its credentials, and only one of our own user or of root is believed. Whoever cannot be
shown to be such a one must not switch the health check off: we then act without the lock. That two listeners act is the
lesser harm, since each asks supervisord for the pid just before a signal.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

_UCRED = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED
_BACKLOG = 64  # standbys keep one connection each

DOUBTS = 2
"""So many times in a row must a holder fail to show who it is: between its bind() and its listen() nobody can."""


class Lock:
    """Held from :meth:`acquire` until :meth:`release` or the end of the process.

    ``trouble`` says why we act without it; empty where we hold it, or stand by.
    """

    def __init__(self, supervisord_pid: int, supervisord_born: int) -> None:
        self._name = f"\0supervisor-uvicorn/{supervisord_pid}/{supervisord_born}"
        self._socket: socket.socket | None = None
        self._to_holder: socket.socket | None = None  # from a believed one; ends when it does
        self._doubts = 0
        self.trouble = ""

    def acquire(self) -> str:
        """ "" when we may act; else who holds the lock, for people. Never waits."""
        if self._socket is not None or self.trouble:
            return ""
        ours = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            ours.bind(self._name)
            ours.listen(_BACKLOG)
        except OSError as error:
            ours.close()
            if error.errno != errno.EADDRINUSE:
                self.trouble = f"the lock cannot be taken ({error.strerror}), so another listener would not stand by"
                return ""
            return self._holder()
        self._socket = ours
        self._forget_holder()
        return ""

    def release(self) -> None:
        """Let the next listener act."""
        self._forget_holder()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _holder(self) -> str:
        """Who holds it, where that is to be believed; "" and ``trouble`` where it is not."""
        if self._to_holder is None or _ended(self._to_holder):
            self._forget_holder()
            self._to_holder = self._ask()
        if self._to_holder is None:
            self._doubts += 1
            if self._doubts < DOUBTS:
                return "one that does not say who it is"
            self.trouble = "the lock's name is taken by a process that does not say who it is: acting without it"
            return ""
        self._doubts = 0
        pid, uid, _ = _UCRED.unpack(self._to_holder.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        if uid in (0, os.geteuid()):
            return f"pid {pid}"
        self._forget_holder()
        self.trouble = f"the lock's name is taken by pid {pid} of uid {uid}, which is no listener: acting without it"
        return ""

    def _ask(self) -> socket.socket | None:
        asking = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        asking.setblocking(False)
        try:
            asking.connect(self._name)
        except OSError:  # refused: it does not listen; EAGAIN: its queue is full
            asking.close()
            return None
        return asking

    def _forget_holder(self) -> None:
        if self._to_holder is not None:
            self._to_holder.close()
            self._to_holder = None


def _ended(connection: socket.socket) -> bool:
    """The holder never writes: whatever can be read is the end."""
    try:
        connection.recv(1)
    except BlockingIOError:
        return False
    except OSError:  # reset: it has ended with our connection unaccepted
        return True
    return True
