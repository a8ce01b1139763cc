"""Workers run by ``supervisor-uvicorn serve`` that share a socket, and plain clients that see every byte."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness import processes
from harness.interpreter import ROOT, python
from harness.waiting import wait_for

from supervisor_uvicorn.kernel.sock_diag import SockDiag

APP = """
import asyncio, os, time

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("lifespan ended", flush=True)
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
    else:
        kind, _, seconds = scope["path"][1:].partition("/")
        if kind == "wait":
            await asyncio.sleep(float(seconds))
        elif kind == "block":
            time.sleep(float(seconds))
        head = [(b"content-type", b"text/plain")]
        if kind == "stream":
            await send({"type": "http.response.start", "status": 200, "headers": head})
            end = time.monotonic() + float(seconds)
            while time.monotonic() < end:
                await send({"type": "http.response.body", "body": b"line\\n", "more_body": True})
                await asyncio.sleep(0.05)
            await send({"type": "http.response.body", "body": b""})
            return
        body = str(os.getpid()).encode()
        head.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body})
"""

_PARTS = "import importlib.util, json; print(json.dumps([n for n in {} if importlib.util.find_spec(n)]))"


def installed(*names: str) -> set[str]:
    """Which of these modules the interpreter of the workers has."""
    code = _PARTS.format(list(names))
    done = subprocess.run([python(), "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return set(json.loads(done.stdout))


def environment(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("UVICORN_", "WEB_CONCURRENCY"))}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def command(*arguments: str, verb: Sequence[str] = ("supervisor_uvicorn.serve",)) -> list[str]:
    return [python(), "-m", *verb, *arguments]


class Worker:
    """One ``serve`` process."""

    def __init__(self, site: Site, arguments: Sequence[str], verb: Sequence[str]) -> None:
        self._site = site
        with site.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command("--app-dir", str(site.scratch), *arguments, "serve_app:app", verb=verb),
                stdin=site.listening, stdout=log, stderr=log, env=environment(), start_new_session=True,
            )  # fmt: skip
        self.pid = self.process.pid

    def wait_until_serving(self) -> None:
        wait_for(lambda: self.process.poll() is not None or processes.serving(self.pid), 60, "a worker that serves")
        assert self.process.poll() is None, self._site.log()

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Signal it, and wait until it accepts no more."""
        self.process.send_signal(number)
        wait_for(lambda: not processes.serving(self.pid), 10, "a worker that has stopped accepting", every_s=0.005)

    def code(self, deadline_s: float = 10.0) -> int:
        return self.process.wait(deadline_s)


class Site:
    """A listening socket, and the workers that were started on it."""

    def __init__(self, scratch: Path, family: str = "tcp", arguments: Sequence[str] = ()) -> None:
        self.scratch, self.family, self.arguments = scratch, family, [*arguments]
        self.log_path = scratch / "workers.log"
        (scratch / "serve_app.py").write_text(APP)
        if family == "unix":
            self.listening = socket.socket(socket.AF_UNIX)
            self.listening.bind(str(scratch / "socket"))
        else:
            self.listening = socket.socket()
            self.listening.bind(("127.0.0.1", 0))
        self.listening.listen(2048)
        self.workers: list[Worker] = []
        if family == "tls":
            key, cert = scratch / "key.pem", scratch / "cert.pem"
            subprocess.run(
                ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                 "-days", "2", "-subj", "/CN=localhost", "-keyout", str(key), "-out", str(cert)],
                check=True, capture_output=True, timeout=60,
            )  # fmt: skip
            self.arguments += ["--ssl-keyfile", str(key), "--ssl-certfile", str(cert)]

    def spawn(self, verb: Sequence[str] = ("supervisor_uvicorn.serve",)) -> Worker:
        worker = Worker(self, ["--fd", "0", *self.arguments], verb)
        self.workers.append(worker)
        return worker

    def start(self, verb: Sequence[str] = ("supervisor_uvicorn.serve",)) -> Worker:
        worker = self.spawn(verb)
        worker.wait_until_serving()
        return worker

    def log(self) -> str:
        return self.log_path.read_text()

    def client(self, *, handshake: bool = True) -> Client:
        """A connection that a worker has accepted."""
        client = Client(self, handshake=handshake)
        client.wait_until_read()
        return client

    def close(self) -> None:
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.process.kill()
            worker.process.wait()
        self.listening.close()


class Client:
    """One connection."""

    def __init__(self, site: Site, *, handshake: bool = True) -> None:
        self.raw = socket.socket(site.listening.family)
        self.raw.settimeout(20)
        self.raw.connect(site.listening.getsockname())
        if self.raw.family == socket.AF_INET:
            self.raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock: socket.socket = self.raw
        self._left = b""
        if site.family == "tls" and handshake:
            self.shake_hands()

    def shake_hands(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.sock = self.raw = context.wrap_socket(self.raw)

    def wait_until_read(self) -> None:
        """Wait until a worker has accepted this connection, and read what was sent on it."""

        def read() -> bool:
            far = diag.far_end(self.raw)
            return far is not None and far.inode != 0 and far.unread_bytes == 0

        diag = SockDiag()
        try:
            wait_for(read, 10, "a worker that has read what was sent", every_s=0.002)
        finally:
            diag.close()

    def send(self, path: str = "/", *headers: str) -> None:
        lines = [f"GET {path} HTTP/1.1", "Host: x", *headers, "", ""]
        self.sock.sendall("\r\n".join(lines).encode())

    def answer(self) -> tuple[int, str, bytes]:
        """Status, head in lower case, body of the next answer. EOFError where the connection ends before."""
        head = self._until(b"\r\n\r\n").decode().lower()
        if length := re.search(r"content-length: *(\d+)", head):
            return int(head.split()[1]), head, self._exactly(int(length[1]))
        body = b""
        while size := int(self._until(b"\r\n"), 16):
            body += self._exactly(size + 2)[:-2]
        self._until(b"\r\n")
        return int(head.split()[1]), head, body

    def ask(self, path: str = "/", *headers: str) -> tuple[int, str, bytes]:
        self.send(path, *headers)
        return self.answer()

    def wait_for_end(self, deadline_s: float = 20.0) -> bool:
        """True where the connection ends with nothing more to read, by an orderly end."""
        self.sock.settimeout(deadline_s)
        return not self._left and self.sock.recv(1) == b""

    def _more(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise EOFError("the connection ended")
        self._left += data

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._left:
            self._more()
        found, _, self._left = self._left.partition(mark)
        return found

    def _exactly(self, count: int) -> bytes:
        while len(self._left) < count:
            self._more()
        found, self._left = self._left[:count], self._left[count:]
        return found

    def close(self) -> None:
        self.sock.close()


@contextmanager
def opened(scratch: Path, family: str = "tcp", arguments: Sequence[str] = ()) -> Iterator[Site]:
    site = Site(scratch, family, arguments)
    try:
        yield site
    finally:
        site.close()
