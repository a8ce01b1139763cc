"""One client of a load: one connection at a time, each request counted, each failure told apart. Nothing is retried.

A process of its own, started by ``harness.load`` as a script, so it imports nothing of ours. It goes on until its
standard input ends (whoever reads its figures has had enough, or is dead).
"""

from __future__ import annotations

import dataclasses
import enum
import json
import os
import random
import socket
import sys
import threading
import time
from typing import Any, NoReturn

NEW, KEPT = "new connection", "keep-alive"  # the kinds: one connection for each request, or for as many as it lasts

MOST_EXAMPLES = 20
TOLD_EVERY_S = 0.1


class Failure(str, enum.Enum):
    """What became of a request that was not answered as it should be."""

    REFUSED = "refused"
    UNANSWERED = "unanswered"  # closed or reset after the connection was there and before any byte of the answer
    CUT = "cut"  # closed or reset in the middle of the answer
    WRONG = "wrong"  # another status than 200, or an answer of no told length
    TIMEOUT = "timeout"
    OURS = "ours"  # the client could not ask: no port, no descriptor left


class Failed(Exception):  # noqa: N818 - it reads as what it is
    """One request has failed."""

    def __init__(self, kind: Failure, detail: str) -> None:
        super().__init__(f"{kind.value}: {detail}")
        self.kind, self.detail = kind, detail


class Link:
    """One connection to ``tcp://host:port`` or ``unix:///path``, as a usual client has it: TCP_NODELAY, blocking.

    Raises :class:`Failed`; ``timeout_s`` is for each step.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        scheme, _, rest = url.partition("://")
        if scheme == "unix":
            self.sock, address = socket.socket(socket.AF_UNIX), rest
        else:
            self.sock = socket.socket()
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            host, _, port = rest.rpartition(":")
            address = (host, int(port))  # type: ignore[assignment]
        self.sock.settimeout(timeout_s)
        try:
            self.sock.connect(address)
        except (ConnectionRefusedError, FileNotFoundError) as error:  # the second: there is no such unix socket
            self._fail(Failure.REFUSED, error)
        except TimeoutError as error:
            self._fail(Failure.TIMEOUT, error)
        except ConnectionError as error:
            self._fail(Failure.UNANSWERED, error)
        except OSError as error:
            self._fail(Failure.OURS, error)

    def _fail(self, kind: Failure, error: object) -> NoReturn:
        self.sock.close()
        raise Failed(kind, repr(error)) from None

    def ask(self, request: bytes) -> tuple[bytes, bool]:
        """Send, and :meth:`answer`."""
        self.send(request)
        return self.answer()

    def send(self, request: bytes) -> None:
        """Send a request and do not wait."""
        try:
            self.sock.sendall(request)
        except TimeoutError as error:
            self._fail(Failure.TIMEOUT, error)
        except OSError as error:
            self._fail(Failure.UNANSWERED, error)

    def answer(self) -> tuple[bytes, bool]:
        """The body of an answer of status 200, and whether the answer is the last on this connection."""
        got = b""
        try:
            while (end := got.find(b"\r\n\r\n")) < 0:
                got += self._more(got)
            head = got[:end].lower()
            length = head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0].strip()
            if not head.startswith(b"http/1.1 200 ") or not length.isdigit():
                self._fail(Failure.WRONG, got[: end + 100])
            while len(got) < end + 4 + int(length):
                got += self._more(got)
        except TimeoutError as error:
            self._fail(Failure.TIMEOUT, error)
        except (OSError, EOFError) as error:
            self._fail(Failure.CUT if got else Failure.UNANSWERED, error)
        return got[end + 4 :], b"\r\nconnection: close" in head

    def _more(self, got: bytes) -> bytes:
        if more := self.sock.recv(65536):
            return more
        raise EOFError(f"closed after {len(got)} bytes")

    def close(self) -> None:
        self.sock.close()


def request_for(kind: str, path: str) -> bytes:
    last = "Connection: close\r\n" if kind == NEW else ""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n{last}\r\n".encode()


@dataclasses.dataclass
class Count:
    """What became of all requests; a request on a connection that failed to open is one too."""

    answered: int = 0
    failed: dict[str, int] = dataclasses.field(default_factory=dict)  # the word of a Failure -> how often
    answers: dict[str, int] = dataclasses.field(default_factory=dict)  # body -> how often
    connections: int = 0  # opened
    longest_s: float = 0.0  # from the first step of a request (connect, or send) to the end of its answer
    examples: list[str] = dataclasses.field(default_factory=list)

    @property
    def done(self) -> int:
        return self.answered + sum(self.failed.values())


class Client:
    """Asks again and again; ``count`` says what became of it."""

    def __init__(self, url: str, kind: str, path: str, timeout_s: float, pause_s: float = 0.0) -> None:
        self._url, self._kind, self._timeout_s, self._pause_s = url, kind, timeout_s, pause_s
        self._request = request_for(kind, path)
        self._link: Link | None = None
        self._began = time.monotonic()
        self.count = Count()

    def ask(self) -> None:
        """One request, after a pause of anything between nothing and ``pause_s``."""
        if self._pause_s:
            time.sleep(random.uniform(0, self._pause_s))
        count, link, began = self.count, self._link, time.monotonic()
        try:
            if link is None:
                link = Link(self._url, self._timeout_s)
                count.connections += 1
            body, last = link.ask(self._request)
        except Failed as failed:
            self._link = None
            count.failed[failed.kind.value] = count.failed.get(failed.kind.value, 0) + 1
            if len(count.examples) < MOST_EXAMPLES:
                count.examples.append(f"after {began - self._began:.2f} s {failed}")
            if failed.kind in (Failure.REFUSED, Failure.OURS):
                time.sleep(0.005)  # as a client does that finds nobody; or millions of them would count
        else:
            count.answered += 1
            text = body.decode(errors="replace")
            count.answers[text] = count.answers.get(text, 0) + 1
            if last or self._kind == NEW:
                link.close()
                self._link = None
            else:
                self._link = link
        count.longest_s = max(count.longest_s, time.monotonic() - began)


def main(order: dict[str, Any]) -> None:
    """Print how many requests are done, ten times a second; at the end the :class:`Count` as a JSON object."""
    over = threading.Event()

    def wait_for_the_end() -> None:
        while os.read(0, 4096):  # not sys.stdin: a thread in it is a fatal error at the end of the interpreter
            pass
        over.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    client = Client(**order)
    tell_at = 0.0
    while not over.is_set():
        client.ask()
        if (now := time.monotonic()) >= tell_at:
            tell_at = now + TOLD_EVERY_S
            print(client.count.done, flush=True)
    print(json.dumps(dataclasses.asdict(client.count)), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
