"""The parts of ``serve`` that no real process shows on demand: a full descriptor table, a uvicorn that has changed."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.interpreter import ROOT

from supervisor_uvicorn.serving import acceptor
from supervisor_uvicorn.serving.acceptor import Acceptor, inherited

APP = "async def app(scope, receive, send):\n    raise SystemExit('served')\n"

CHANGES = {
    "it is too old": "uvicorn.__version__ = '0.29.0'",
    "does not make a `Server`": "main.run = lambda app, **options: None",
    "no command `main`": "del main.main",
    "Server.shutdown does not take": "server.Server.shutdown = lambda self: None",
    "ServerState has no default_headers": """
def init(self):
    self.total_requests, self.connections, self.tasks = 0, set(), set()
server.ServerState.__init__ = init
""",
    "H11Protocol has no cycle": """
import uvicorn.protocols.http.h11_impl as h11
old = h11.H11Protocol.__init__
def init(self, *args, **named):
    old(self, *args, **named)
    del self.cycle
h11.H11Protocol.__init__ = init
""",
    "RequestResponseCycle has no response_started": """
import uvicorn.protocols.http.h11_impl as h11
class RequestResponseCycle:
    def __init__(self):
        self.response_complete = self.default_headers = None
h11.RequestResponseCycle = RequestResponseCycle
""",
    "HTTP protocol is made in another way": """
import uvicorn.protocols.http.h11_impl as h11
def init(self, settings):
    pass
h11.H11Protocol.__init__ = init
""",
}


@pytest.mark.parametrize("said", CHANGES)
def test_a_uvicorn_whose_inside_has_changed_is_not_served_with(tmp_path: Path, said: str) -> None:
    (tmp_path / "changed_app.py").write_text(APP)
    code = f"""
import sys, uvicorn, uvicorn.main, uvicorn.server
main, server = sys.modules["uvicorn.main"], sys.modules["uvicorn.server"]
{CHANGES[said]}
from supervisor_uvicorn.serve import main as serve
sys.exit(serve(["--fd", "0", "--http", "h11", "--lifespan", "off", "changed_app:app"]))
"""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        done = subprocess.run(
            [sys.executable, "-c", code], stdin=listening, capture_output=True, text=True, timeout=60, cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert said in done.stderr
    assert "uvicorn 0.30 to" in done.stderr
    assert "Traceback" not in done.stderr
    assert "running on" not in done.stderr


def test_without_uvicorn_it_says_what_to_install() -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from supervisor_uvicorn.serve import main; main(['a:b'])"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, timeout=60)
    assert "pip install uvicorn" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_verb_imports_nothing_of_ours_but_its_own() -> None:
    code = """
import sys
from supervisor_uvicorn.serve import main
main(["--version"])
ours = sorted(n for n in sys.modules if n.startswith(("supervisor", "requests", "psutil")))
print(*ours, sep="\\n", file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stderr.split() == [
        "supervisor_uvicorn", "supervisor_uvicorn.serve", "supervisor_uvicorn.serving",
        "supervisor_uvicorn.serving.acceptor", "supervisor_uvicorn.serving.inside",
        "supervisor_uvicorn.serving.server",
    ]  # fmt: skip


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
def test_an_inherited_socket_has_its_right_family_and_answers_at_once(family: socket.AddressFamily) -> None:
    with socket.socket(family) as listening:
        copy = inherited(listening.fileno())
        with copy:
            assert copy.family == family
            assert copy.fileno() != listening.fileno()
            if family != socket.AF_UNIX:
                assert copy.proto == socket.IPPROTO_TCP  # asyncio sets TCP_NODELAY only on these
                assert listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_what_is_no_stream_socket_is_named() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams, pytest.raises(ValueError, match="SOCK_DGRAM"):
        inherited(datagrams.fileno())
    reading, writing = os.pipe()
    with pytest.raises(ValueError, match=r"not a socket.*fcgi-program"):
        inherited(reading)
    os.close(reading)
    os.close(writing)


class Full(socket.socket):
    """A listening socket whose next accepts fail: an injected kernel fault."""

    failures: Iterator[int]
    accepts = 0

    def accept(self) -> tuple[socket.socket, object]:  # type: ignore[override]
        Full.accepts += 1
        if number := next(self.failures, 0):
            raise OSError(number, os.strerror(number))
        return super().accept()


@pytest.mark.parametrize(
    ("failures", "pauses"), [([errno.EMFILE, errno.ENFILE], 2), ([errno.ECONNABORTED, errno.EHOSTUNREACH], 0)]
)
def test_accepting_goes_on_after_an_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, failures: list[int], pauses: int
) -> None:
    """Out of descriptors: a pause, or the loop would spin. A connection that is gone: the next one, at once."""
    monkeypatch.setattr(acceptor, "RETRY_S", 0.05)
    monkeypatch.setattr(Full, "failures", iter(failures), raising=False)
    monkeypatch.setattr(Full, "accepts", 0)
    seen = asyncio.run(_serve_one(Full()))
    assert seen == b"hello"
    assert len([record for record in caplog.records if "Accepting failed" in record.message]) == pauses
    assert Full.accepts <= 4


def test_nothing_is_accepted_after_close_also_not_when_a_pause_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "RETRY_S", 0.01)
    monkeypatch.setattr(Full, "failures", iter([errno.EMFILE]), raising=False)
    monkeypatch.setattr(Full, "accepts", 0)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        sock = Full()
        sock.bind(("127.0.0.1", 0))
        subject = Acceptor(loop, sock, Hello, None)
        subject.start(10)
        client = socket.socket()
        client.connect(sock.getsockname())
        while Full.accepts == 0:
            await asyncio.sleep(0)
        subject.close()
        subject.close()
        await asyncio.sleep(0.05)  # five pauses long
        client.close()

    asyncio.run(run())
    assert Full.accepts == 1


class Hello(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"hello")
        transport.close()


async def _serve_one(sock: socket.socket) -> bytes:
    sock.bind(("127.0.0.1", 0))
    subject = Acceptor(asyncio.get_running_loop(), sock, Hello, None)
    subject.start(10)
    reader, writer = await asyncio.open_connection(*sock.getsockname())
    try:
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()
        subject.close()
