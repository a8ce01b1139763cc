"""A small stand-in for a uvicorn worker, of which 256 fit where as many uvicorns do not.

Installed as a package named ``uvicorn`` on PYTHONPATH, so that ``python -m uvicorn --fd 0 ...`` starts it and the
roster takes it for what its command says. What a listener sees of it is what it sees of uvicorn: it watches descriptor
0 in an epoll, accepts, reads at once, answers a request when its head is whole, wakes ten times a second (uvicorn,
server.py ``main_loop``), and ends at TERM.
"""

from __future__ import annotations

import select
import signal
import socket
import types

WAKE_S = 0.1
END_OF_HEAD = b"\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
READ_BYTES = 65536
MOST_HEAD_BYTES = 65536


class StandIn:
    """One server on a listening socket; single-threaded."""

    def __init__(self, listening: socket.socket) -> None:
        listening.setblocking(False)
        self._listening = listening
        self._poll = select.epoll()
        self._poll.register(listening.fileno(), select.EPOLLIN)
        self._connections: dict[int, socket.socket] = {}
        self._heads: dict[int, bytes] = {}
        self.ended = False

    def run(self) -> None:
        """Until :attr:`ended`."""
        while not self.ended:
            self.turn()

    def turn(self) -> None:
        """Wait for something, at most :data:`WAKE_S`, and see to it."""
        for fd, _ in self._poll.poll(WAKE_S):
            if fd == self._listening.fileno():
                self._accept()
            else:
                self._read(fd)

    def close(self) -> None:
        """All connections, and the epoll; the listening socket is the caller's."""
        for fd in list(self._connections):
            self._drop(fd)
        self._poll.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listening.accept()
        except OSError:  # another one was quicker
            return
        connection.setblocking(False)
        self._connections[connection.fileno()] = connection
        self._heads[connection.fileno()] = b""
        self._poll.register(connection.fileno(), select.EPOLLIN)

    def _read(self, fd: int) -> None:
        connection = self._connections[fd]
        try:
            data = connection.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        head = self._heads[fd] + data
        if not data or len(head) > MOST_HEAD_BYTES:
            self._drop(fd)
            return
        while END_OF_HEAD in head:  # no request here has a body
            head = head.partition(END_OF_HEAD)[2]
            try:
                connection.send(ANSWER)
            except OSError:
                self._drop(fd)
                return
        self._heads[fd] = head

    def _drop(self, fd: int) -> None:
        self._poll.unregister(fd)
        self._connections.pop(fd).close()
        del self._heads[fd]


def main() -> int:
    """Serve on descriptor 0 until TERM or INT."""
    with socket.socket(fileno=0) as listening:
        server = StandIn(listening)

        def end(_number: int, _frame: types.FrameType | None) -> None:
            server.ended = True

        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGINT, end)
        server.run()
        server.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
