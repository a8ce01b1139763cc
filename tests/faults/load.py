"""A modest load that remembers of each lost request when, and if it can be known whose it was. Speaks TLS too."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import ssl
import threading
import time
from types import TracebackType

from harness.load_client import KEPT, NEW, Failed, Failure, Link, request_for

PAUSE_S = 0.1  # at most, before each request
TIMEOUT_S = 60.0  # longer than any worker stays sick: a time-out is a loss that nobody can explain


class TlsLink(Link):
    """The same over TLS; any certificate is taken. Raises :class:`Failed`."""

    def __init__(self, url: str, timeout_s: float) -> None:
        super().__init__(url, timeout_s)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            self.sock = context.wrap_socket(self.sock)
        except TimeoutError as error:
            self._fail(Failure.TIMEOUT, error)
        except OSError as error:
            self._fail(Failure.UNANSWERED, error)


def connect(url: str, tls: bool, timeout_s: float) -> Link:
    """One connection; raises :class:`Failed`."""
    return TlsLink(url, timeout_s) if tls else Link(url, timeout_s)


@dataclasses.dataclass(frozen=True)
class Lost:
    """One request that was not answered; times in seconds since 1970. ``pid`` None: nobody knows who had it."""

    began: float
    ended: float
    pid: int | None
    how: str  # the word of a Failure
    detail: str


class Load:
    """Context manager: some clients ask ``/pid`` inside, half of them over kept connections."""

    def __init__(self, url: str, *, tls: bool = False, clients: int = 3, timeout_s: float = TIMEOUT_S) -> None:
        self._url, self._tls, self._timeout_s = url, tls, timeout_s
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._lost: list[Lost] = []
        self._links: dict[int, Link] = {}
        self.answered = 0
        self._threads = [
            threading.Thread(target=self._run, args=(number, (KEPT, NEW)[number % 2]), daemon=True)
            for number in range(clients)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self, patience_s: float = 5.0) -> None:
        """Each client ends its request, if that comes to an end soon; what is cut off here is not counted."""
        self._over.set()
        end = time.monotonic() + patience_s
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        for link in list(self._links.values()):
            with contextlib.suppress(OSError):
                link.sock.shutdown(2)
        for thread in self._threads:
            thread.join(5)

    def take_lost(self) -> list[Lost]:
        """What was lost since the last call."""
        with self._lock:
            lost, self._lost = self._lost, []
        return lost

    def _run(self, number: int, kind: str) -> None:
        request = request_for(kind, "/pid")
        link: Link | None = None
        pid: int | None = None
        while not self._over.wait(random.uniform(0, PAUSE_S)):
            began = time.time()
            try:
                if link is None:
                    pid = None  # a handshake that fails is nobody's whom we know
                    link = connect(self._url, self._tls, self._timeout_s)
                    self._links[number] = link
                body, last = link.ask(request)
                pid = int(json.loads(body)["pid"])
            except Failed as failed:
                link = None
                if not self._over.is_set():
                    with self._lock:
                        self._lost.append(Lost(began, time.time(), pid, failed.kind.value, failed.detail))
                if failed.kind is Failure.REFUSED:
                    self._over.wait(0.05)
            else:
                with self._lock:
                    self.answered += 1
                if last or kind == NEW:
                    link.close()
                    link = None
        if link is not None:
            link.close()
