"""Between the listener and supervisord's RPC server: answers late, wrong or cut, as long as it is told to."""

from __future__ import annotations

import random
import select
import socket
import socketserver
import threading
from pathlib import Path
from types import TracebackType

WELL = "well"
MODES = ("late", "dead", "cut", "garbled", "wrong", "refused", "status-500")

LATE_S = (0.5, 4.0)  # the listener's own deadline of a call is 5 s (supervisord/rpc.py DEADLINE_S)

_INT = (
    "<?xml version='1.0'?><methodResponse><params><param><value><int>7</int></value></param></params></methodResponse>"
)


class RpcProxy(socketserver.ThreadingUnixStreamServer):
    """Context manager: listens at ``path`` and passes everything on to ``upstream``, spoilt as ``mode`` says.

    ``mode``: :data:`WELL`; ``late`` (an answer comes after 0.5 to 4 s); ``dead`` (none comes); ``cut`` (half of one);
    ``garbled`` (random bytes behind a right head); ``wrong`` (an XML-RPC answer of another type); ``refused`` (closed
    before anything is read); ``status-500``. In all but the last two and WELL supervisord has carried out the call.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, path: Path, upstream: Path, chance: random.Random) -> None:
        self.mode = WELL
        self.upstream = str(upstream)
        self.chance = chance
        self.over = threading.Event()
        super().__init__(str(path), _Connection)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> RpcProxy:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.over.set()
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing to say: one of the two has gone."""


class _Connection(socketserver.BaseRequestHandler):
    server: RpcProxy

    def handle(self) -> None:
        proxy = self.server
        if proxy.mode == "refused":
            return
        with socket.socket(socket.AF_UNIX) as upstream:
            upstream.connect(proxy.upstream)
            while not proxy.over.is_set():
                ready, _, _ = select.select([self.request, upstream], [], [], 0.2)
                if self.request in ready and not self._question(upstream):
                    return
                if upstream in ready and not self._answer(upstream.recv(1 << 20)):
                    return

    def _question(self, upstream: socket.socket) -> bool:
        data = self.request.recv(1 << 16)
        if data and self.server.mode == "status-500":
            self.request.sendall(
                b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
            return False
        if data and self.server.mode == "refused":
            return False
        upstream.sendall(data)
        return bool(data)

    def _answer(self, data: bytes) -> bool:
        """Pass an answer (or a part) on; False: the connection is over."""
        proxy = self.server
        mode = proxy.mode
        if mode == "late":
            proxy.over.wait(proxy.chance.uniform(*LATE_S))
        elif mode == "dead":
            while proxy.mode == "dead" and not proxy.over.wait(0.1):
                pass
            return False
        elif mode == "cut":
            self.request.sendall(data[: len(data) // 2])
            return False
        elif mode in ("garbled", "wrong"):
            body = proxy.chance.randbytes(200) if mode == "garbled" else _INT.encode()
            head = f"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: {len(body)}\r\n\r\n"
            self.request.sendall(head.encode() + body)
            return False
        self.request.sendall(data)
        return bool(data)
