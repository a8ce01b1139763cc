"""Clients of a worker: over TCP or a unix socket, and of one chosen worker of those that share a socket."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import threading
from collections.abc import Iterable, Iterator

from harness import processes


class Connection(http.client.HTTPConnection):
    """One keep-alive connection to ``tcp://host:port`` or ``unix:///path``; it belongs to one worker for good."""

    def __init__(self, url: str, timeout_s: float = 10.0) -> None:
        scheme, _, rest = url.partition("://")
        self._path = rest if scheme == "unix" else ""
        host, _, port = ("localhost", "", "80") if scheme == "unix" else rest.rpartition(":")
        super().__init__(host, int(port), timeout=timeout_s)

    def connect(self) -> None:
        if not self._path:
            super().connect()
            return
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)

    def ask(self, path: str) -> tuple[int, dict[str, object]]:
        """GET, whole answer: status and what the JSON of the body says (empty where it is no JSON)."""
        self.request("GET", path)
        response = self.getresponse()
        body = response.read()
        try:
            return response.status, json.loads(body)
        except ValueError:
            return response.status, {}

    def send_only(self, path: str) -> None:
        """GET without waiting for the answer: for a fault that never answers."""
        if self.sock is None:
            self.connect()
        assert self.sock is not None
        self.sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())


def ask(url: str, path: str, timeout_s: float = 10.0) -> tuple[int, dict[str, object]]:
    """One request over a fresh connection: whichever worker accepts it answers."""
    connection = Connection(url, timeout_s)
    try:
        return connection.ask(path)
    finally:
        connection.close()


@contextlib.contextmanager
def only(pid: int, peers: Iterable[int]) -> Iterator[None]:
    """For a moment only ``pid`` can accept: its peers are stopped (those that were stopped before stay so).

    Which worker accepts is chance, and skewed: an idle one may get 1 of 36 connections. This takes a few milliseconds,
    of which nobody takes notice.
    """
    stopped = []
    try:
        for peer in peers:
            if peer != pid and processes.state(peer) not in {"", "Z", "T", "t"}:
                os.kill(peer, signal.SIGSTOP)
                stopped.append(peer)
        yield
    finally:
        for peer in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(peer, signal.SIGCONT)


def connect_to(url: str, pid: int, peers: Iterable[int], timeout_s: float = 10.0) -> Connection:
    """A connection that belongs to this worker. The worker must be well: it is asked for its pid."""
    everyone = list(peers)
    for _ in range(20):
        connection = Connection(url, timeout_s)
        with only(pid, everyone):
            status, answer = connection.ask("/pid")
        if status == 200 and answer.get("pid") == pid:
            return connection
        connection.close()  # a connection that a peer had accepted just before it was stopped
    raise AssertionError(f"no connection to pid {pid} of {everyone}")


class Traffic:
    """Sequential requests over fresh connections in a thread, until closed; counts what became of them."""

    def __init__(self, url: str, path: str = "/pid", timeout_s: float = 60.0) -> None:
        self.answered: dict[int, int] = {}  # status -> how often
        self.failed: list[str] = []
        self._url, self._path, self._timeout_s = url, path, timeout_s
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._end.is_set():
            try:
                status, _ = ask(self._url, self._path, self._timeout_s)
                self.answered[status] = self.answered.get(status, 0) + 1
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(repr(error))
                self._end.wait(0.05)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(self._timeout_s + 5)
