"""One listener acts per supervisord; a second one stands by.

The lock is an abstract unix socket (unix(7)) named after supervisord's pid and birth: it needs no directory that both
could write, and the kernel takes it away with its holder, however that ends. Any process of the machine can bind such a
name, so the holder is asked for its credentials: only one of our own user or of root, started by the same supervisord,
is believed.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct

from supervisor_uvicorn.kernel import proc
from supervisor_uvicorn.kernel.errors import KernelError

_UCRED = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED


class Lock:
    """Held from :meth:`acquire` until :meth:`release` or the end of the process."""

    def __init__(self, supervisord_pid: int, supervisord_born: int) -> None:
        self._parent = supervisord_pid
        self._name = f"\0supervisor-uvicorn/{supervisord_pid}/{supervisord_born}"
        self._socket: socket.socket | None = None

    def acquire(self) -> str:
        """ "" when we hold the lock; else who does, for people. Never waits."""
        if self._socket is not None:
            return ""
        ours = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            ours.bind(self._name)
            ours.listen(1)
        except OSError as error:
            ours.close()
            holder = self._holder()
            if holder is None:
                return f"the lock cannot be taken: {error.strerror}"
            pid, believed = holder
            # A stranger must not be able to switch the health check off by taking its name.
            return f"pid {pid}" if believed else ""
        self._socket = ours
        return ""

    def release(self) -> None:
        """Let the next listener act."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _holder(self) -> tuple[int, bool] | None:
        """(pid, whether it may hold the lock); None where nobody answers any more."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking, contextlib.suppress(OSError):
            asking.setblocking(False)
            asking.connect(self._name)
            pid, uid, _ = _UCRED.unpack(asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
            try:
                parent = proc.status(pid).ppid
            except KernelError:
                parent = 0
            return pid, uid in (0, os.geteuid()) and parent in (0, self._parent)
        return None
