"""``--notify-url`` with real servers that do whatever a server may do: each try ends in time, and shows no secret."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from harness import processes
from harness.supervisord import free_port
from harness.waiting import wait_for

from supervisor_uvicorn import webhook
from supervisor_uvicorn.delivery import Attempt, Result
from supervisor_uvicorn.model import WorkerId
from supervisor_uvicorn.notices import Notices
from supervisor_uvicorn.report import events
from supervisor_uvicorn.settings import ListenSettings
from supervisor_uvicorn.webhook import post

SECRETS = ("hunter22", "T0K3N", "k3y")
USER, PATH = "me:hunter22@", "/services/T0K3N?key=k3y"
RESTART = events.Restarting(WorkerId("web:web-0", 4711, 1), "silent", "no turn", "abort", "silent")
FAILED, AGAIN = Result.FAILED, Result.AGAIN

Behaviour = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append(self)
        behaviours = self.server.behaviours
        (behaviours.pop(0) if len(behaviours) > 1 else behaviours[0])(self)

    def do_GET(self) -> None:
        self.server.got.append(self)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Answers each request with the next behaviour, and all that follow with the last one."""

    def __init__(self, *behaviours: Behaviour, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.behaviours = list(behaviours)
        self.got: list[Handler] = []
        self.over = threading.Event()

    def handle_error(self, *_: object) -> None:
        pass  # the other side has gone, as it should

    @property
    def place(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def url(self) -> str:
        return f"http://{USER}127.0.0.1:{self.server_port}{PATH}"

    def __enter__(self) -> Server:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.shutdown()
        self.server_close()


def status(code: int, **headers: str) -> Behaviour:
    def answer(handler: Handler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def drip(beginning: bytes) -> Behaviour:
    """Send this, and then a byte now and then, for ever."""

    def answer(handler: Handler) -> None:
        handler.wfile.write(beginning)
        while not handler.server.over.wait(0.05):
            handler.wfile.write(b"x")

    return answer


def endless_body(code: int) -> Behaviour:
    def answer(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 %d X\r\nLocation: /T0K3N\r\n\r\n" % code)
        while not handler.server.over.is_set():
            handler.wfile.write(b"x" * 65536)

    return answer


def raw(data: bytes) -> Behaviour:
    return lambda handler: void(handler.wfile.write(data))


def void(_: object) -> None:
    return


def no_secret(*texts: object) -> None:
    for text in texts:
        assert not [secret for secret in SECRETS if secret.lower() in str(text).lower()], text


@pytest.fixture(autouse=True)
def unchanged(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """No proxy of the machine's; no descriptor is left open; and whatever was printed shows no secret."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    descriptors = processes.descriptors(os.getpid())
    yield
    wait_for(lambda: processes.descriptors(os.getpid()) <= descriptors, 15, "all descriptors closed")
    wait_for(
        lambda: not [thread for thread in threading.enumerate() if "deadline" in thread.name], 15, "no timer is left"
    )
    no_secret(*capfd.readouterr())


def timed(url: str, deadline_s: float = 30.0) -> tuple[Attempt, float]:
    begin = time.monotonic()
    attempt = post(url, b'{"event": "held"}\n', deadline_s)
    no_secret(attempt.why)
    return attempt, time.monotonic() - begin


# -- what a server may answer


def test_it_gets_the_json_with_the_credentials_of_the_url() -> None:
    with Server(status(204)) as server:
        attempt, _ = timed(server.url)
        assert attempt == Attempt(Result.SENT)
        (got,) = server.got
        assert (got.path, got.headers["Content-Type"], got.body) == (PATH, "application/json", b'{"event": "held"}\n')
        assert got.headers["Authorization"].startswith("Basic ")


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        (status(200), Attempt(Result.SENT)),
        (status(202), Attempt(Result.SENT)),
        (raw(b"HTTP/1.0 200 OK\r\n\r\nof no length"), Attempt(Result.SENT)),
        (endless_body(200), Attempt(Result.SENT)),
        (status(500), Attempt(AGAIN, "status 500")),
        (status(503, Retry_After="30"), Attempt(AGAIN, "status 503", 30.0)),
        (status(429, Retry_After="Wed, 21 Oct 2026 07:28:00 GMT"), Attempt(AGAIN, "status 429")),
        (status(429, Retry_After="9" * 400), Attempt(AGAIN, "status 429")),
        (status(408), Attempt(AGAIN, "status 408")),
        (status(400), Attempt(FAILED, "status 400")),
        (status(404), Attempt(FAILED, "status 404")),
        (status(410), Attempt(FAILED, "status 410")),
        (status(302, Location="/T0K3N"), Attempt(FAILED, "status 302, and redirects are not followed")),
        (status(307, Location="http://hunter22/"), Attempt(FAILED, "status 307, and redirects are not followed")),
        (endless_body(302), Attempt(FAILED, "status 302, and redirects are not followed")),
        (endless_body(404), Attempt(FAILED, "status 404")),
    ],
)
def test_what_each_status_means(behaviour: Behaviour, expected: Attempt) -> None:
    with Server(behaviour) as server:
        rss = processes.resident_bytes(os.getpid())
        attempt, took_s = timed(server.url)
        assert attempt == expected
        assert took_s < 10
        assert processes.resident_bytes(os.getpid()) - rss < 16 * 1024 * 1024
        assert len(server.got) == 1, "nothing was followed"


@pytest.mark.parametrize(
    "behaviour",
    [
        raw(b""),
        raw(b"\x00\xff garbage T0K3N\r\n\r\n"),
        raw(b"HTTP/1.1 2"),
        raw(b"HTTP/1.1 200 OK\r\nT0K3N: " + b"x" * 100_000 + b"\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\n" + b"".join(b"k3y-%d: x\r\n" % n for n in range(200)) + b"\r\n"),
    ],
)
def test_what_is_no_answer_is_asked_for_again(behaviour: Behaviour) -> None:
    with Server(behaviour) as server:
        attempt, took_s = timed(server.url)
        assert attempt.result is AGAIN
        assert took_s < 10


@pytest.mark.parametrize(
    "behaviour",
    [
        lambda handler: void(handler.server.over.wait(60)),
        drip(b""),
        drip(b"HTTP/1.1 "),
        drip(b"HTTP/1.1 100 Continue\r\n\r\n" * 3),
    ],
    ids=["silence", "drip", "drip of a status", "drip after 100"],
)
def test_a_try_ends_at_its_deadline_whatever_drips(behaviour: Behaviour) -> None:
    with Server(behaviour) as server:
        attempt, took_s = timed(server.url, deadline_s=1.0)
        assert attempt == Attempt(AGAIN, "no answer within 1 s")
        assert 0.9 <= took_s < 8


@pytest.mark.parametrize(("code", "expected"), [(200, Attempt(Result.SENT)), (503, Attempt(AGAIN, "status 503"))])
def test_a_status_that_came_counts_although_its_head_has_no_end(code: int, expected: Attempt) -> None:
    with Server(drip(b"HTTP/1.1 %d X\r\nT0K3N: " % code)) as server:
        attempt, took_s = timed(server.url, deadline_s=1.0)
        assert attempt == expected
        assert took_s < 8


# -- what stands in the way


def test_nobody_listens() -> None:
    attempt, took_s = timed(f"http://{USER}127.0.0.1:{free_port()}{PATH}")
    assert attempt == Attempt(AGAIN, "Connection refused")
    assert took_s < 10


def test_nobody_accepts_or_reads() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as full, contextlib.ExitStack() as others:
        port = full.getsockname()[1]
        attempt, took_s = timed(f"http://{USER}127.0.0.1:{port}{PATH}", deadline_s=1.0)
        assert attempt == Attempt(AGAIN, "no answer within 1 s"), "it is in the queue"
        assert took_s < 8
        for _ in range(4):  # until the queue is full and nobody is answered any more
            other = others.enter_context(contextlib.closing(socket.socket()))
            other.setblocking(False)
            other.connect_ex(("127.0.0.1", port))
        attempt, took_s = timed(f"http://{USER}127.0.0.1:{port}{PATH}", deadline_s=1.0)
        assert attempt.result is AGAIN
        assert attempt.why in ("no connection within 1 s", "no answer within 1 s")
        assert took_s < 8


def test_a_name_that_nobody_knows() -> None:
    attempt, _ = timed(f"http://{USER}nowhere.invalid{PATH}")
    assert attempt.result is AGAIN
    assert attempt.why.startswith("its name is not known: ")


@pytest.mark.parametrize("url", ["http://*hunter22/", "http://hunter22" + "x" * 70 + ".org/T0K3N", "http://[k3y]/x"])
def test_a_url_that_is_none_is_given_up_at_once(url: str) -> None:
    attempt, _ = timed(url)
    assert attempt.result is FAILED


def test_a_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(status(200)) as proxy:
        monkeypatch.setenv("http_proxy", f"http://u:hunter22@127.0.0.1:{proxy.server_port}")
        assert timed("http://hooks.invalid/T0K3N")[0] == Attempt(Result.SENT)
        assert proxy.got[0].path == "http://hooks.invalid/T0K3N"
        proxy.behaviours = [drip(b"HTTP/1.1 ")]
        assert timed("http://hooks.invalid/T0K3N", 1.0)[0] == Attempt(AGAIN, "no answer within 1 s")
    monkeypatch.setenv("http_proxy", f"http://u:hunter22@127.0.0.1:{free_port()}")
    attempt, _ = timed("http://hooks.invalid/T0K3N")
    assert attempt == Attempt(AGAIN, "by the proxy: Connection refused")


# -- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tls")
    file = directory / "both.pem"
    done = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
         "-keyout", str(directory / "key"), "-out", str(directory / "cert")],
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    file.write_bytes((directory / "cert").read_bytes() + (directory / "key").read_bytes())
    return file


@contextlib.contextmanager
def tls(certificate: Path, behaviour: Behaviour) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with Server(behaviour) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        yield f"https://{USER}localhost:{server.server_port}{PATH}"


def test_tls_whose_certificate_is_trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with tls(certificate, status(200)) as url:
        assert timed(url)[0] == Attempt(Result.SENT)
        attempt, _ = timed(url.replace("localhost", "127.0.0.1"))
        assert attempt.result is AGAIN
        assert attempt.why.startswith("its certificate is not trusted: ")
        assert "IP address mismatch" in attempt.why or "for another name" in attempt.why  # urllib3 2, 1.26
    with tls(certificate, drip(b"HTTP/1.1 ")) as url:
        attempt, took_s = timed(url, 1.0)
        assert attempt == Attempt(AGAIN, "no answer within 1 s")
        assert took_s < 8


def test_tls_that_is_not_trusted_or_none(certificate: Path) -> None:
    with tls(certificate, status(200)) as url:
        attempt, _ = timed(url)
        assert attempt == Attempt(AGAIN, "its certificate is not trusted: self-signed certificate")
    with Server(status(200)) as server:
        attempt, _ = timed(server.url.replace("http:", "https:"))
        assert attempt.result is AGAIN
        assert attempt.why.startswith(("no TLS: ", "no answer", "Connection reset"))


def test_a_handshake_that_is_not_answered_ends_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        attempt, took_s = timed(f"https://{USER}127.0.0.1:{mute.getsockname()[1]}{PATH}", 1.0)
        assert attempt == Attempt(AGAIN, "no answer within 1 s")
        assert took_s < 8


# -- our own limits


def test_without_a_thread_for_the_deadline_there_are_still_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with Server(lambda handler: void(handler.server.over.wait(60))) as server, monkeypatch.context() as patch:
        patch.setattr(threading.Timer, "start", start)
        attempt, took_s = timed(server.url, 1.0)
        assert attempt == Attempt(AGAIN, "no answer within 1 s")
        assert took_s < 8


def test_what_nobody_foresaw_shows_no_secret_either(monkeypatch: pytest.MonkeyPatch) -> None:
    def adapter(_: object) -> None:
        raise RuntimeError("https://me:hunter22@x/T0K3N")

    monkeypatch.setattr(webhook, "_Adapter", adapter)
    assert timed("http://127.0.0.1/T0K3N")[0] == Attempt(AGAIN, "no answer (RuntimeError)")


# -- a channel


@pytest.fixture
def told() -> list[events.Event]:
    return []


def start(url: str, told: list[events.Event], counts: Counter[str], command: tuple[str, ...] = ()) -> Notices:
    notices = Notices(
        ListenSettings(notify_url=url, notify=command),
        told.append,
        lambda channel, outcome: counts.update([f"{channel} {outcome}"]),
    )
    notices.start()
    return notices


def test_a_server_that_is_down_and_comes_up_gets_it_and_is_told_twice(told: list[events.Event]) -> None:
    counts, port = Counter[str](), free_port()
    notices = start(f"http://{USER}127.0.0.1:{port}{PATH}", told, counts)
    notices.put(RESTART)
    notices.put(events.Resumed("web", "is acted on again"))
    wait_for(lambda: told, 30, "the first failure")
    with Server(status(500), status(200), port=port) as server:
        wait_for(lambda: counts["url sent"] == 2, 60, "both")
        assert [json.loads(got.body)["event"] for got in server.got] == ["restart", "restart", "resumed"]
        wait_for(lambda: len(told) == 2, 10, "the end of the series")
    first, last = (event.message for event in told)
    no_secret(first, last, *(event.fields for event in told))
    assert first == (
        f"--notify-url http://127.0.0.1:{port} failed: Connection refused; tried again for 10 minutes. "
        "Told again when it works"
    )
    assert last.startswith(f"--notify-url http://127.0.0.1:{port} works again, after ")
    assert counts == {"url sent": 2}


def test_a_command_that_hangs_does_not_hold_up_the_url(told: list[events.Event], tmp_path: Path) -> None:
    counts = Counter[str]()
    with Server(status(200)) as server:
        end = tmp_path / "end"
        hangs = ("sh", "-c", f"while ! test -e {end}; do sleep 0.1; done")
        notices = start(server.url, told, counts, hangs)
        for _ in range(3):
            notices.put(RESTART)
        wait_for(lambda: counts["url sent"] == 3, 9, "three, before the command's deadline")
        assert counts["command sent"] == 0
        end.touch()
        wait_for(lambda: counts["command sent"] == 3, 30, "the commands")
    assert told == []
