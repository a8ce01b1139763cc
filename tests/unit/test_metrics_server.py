"""The endpoint and the text file: what a scraper gets, and what a bad one cannot do."""

from __future__ import annotations

import builtins
import contextlib
import http.client
import os
import resource
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.waiting import wait_for
from played_metrics import member, view

from supervisor_uvicorn import metrics_server
from supervisor_uvicorn.metrics_server import SCRAPES_AT_ONCE, Endpoint, MetricsError, TextFile, check, start
from supervisor_uvicorn.report import events
from supervisor_uvicorn.report.metrics.figures import Figures
from supervisor_uvicorn.settings import ListenSettings
from supervisor_uvicorn.settings_outward import Place

DEADLINE_S = 30.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def shown() -> Figures:
    figures = Figures()
    figures.show(view([member("web:web-0", 100)]))
    return figures


class Served:
    """An endpoint that runs, and what it told."""

    def __init__(self, **settings: Any) -> None:
        self.told: list[events.Event] = []
        self.port = free_port()
        settings = {"metrics": Place("127.0.0.1", self.port), **settings}
        found = start(ListenSettings(**settings), shown(), self.told.append)
        assert found is not None
        self.metrics = found
        wait_for(lambda: found.endpoint, DEADLINE_S, "the address bound")

    def ask(
        self, method: str = "GET", path: str = "/metrics", deadline_s: float = DEADLINE_S
    ) -> tuple[int, bytes, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=deadline_s)
        with contextlib.closing(connection):
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), DEADLINE_S)

    def at_once(self) -> int:
        """How many are listened to now."""
        return sum(1 for thread in threading.enumerate() if "process_request_thread" in thread.name)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr(metrics_server, "SCRAPE_S", 0.5)
    found = Served()
    yield found
    found.metrics.close()
    wait_for(lambda: found.at_once() == 0, DEADLINE_S, "all scrapes ended")


# -- what a scraper gets -----------------------------------------------------------------------------------------------


def test_a_scrape(served: Served) -> None:
    status, body, headers = served.ask()
    assert status == 200
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert b'supervisor_uvicorn_worker_up{program="web",worker="web:web-0"} 1.0\n' in body
    assert int(headers["Content-Length"]) == len(body)


def test_a_scrape_of_some_names_gets_all(served: Served) -> None:
    assert served.ask(path="/metrics?name[]=x")[0] == 200


def test_head_has_no_body(served: Served) -> None:
    status, body, headers = served.ask("HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 1000


@pytest.mark.parametrize("path", ["/", "/metrics/", "/metricsx", "/../etc/passwd"])
def test_nothing_else_is_there(served: Served, path: str) -> None:
    status, body, _ = served.ask(path=path)
    assert (status, body) == (404, b"Not found. The metrics are at /metrics\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_refused(served: Served, method: str) -> None:
    assert served.ask(method)[0] == 501


def test_it_listens_on_ipv6_as_well() -> None:
    try:
        endpoint = Endpoint(Place("::1", free_port()), lambda: b"", lambda _: None)
    except MetricsError as error:
        pytest.skip(f"no IPv6 here: {error}")
    try:
        assert endpoint.socket.family is socket.AF_INET6
    finally:
        endpoint.server_close()


# -- what a bad one cannot do ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "begin", [b"", b"GET /met", b"GET /metrics HTTP/1.1\r\nHost: x\r\n", b"\r\n", b"\x16\x03\x01\x02\x00\x01\x00"]
)
def test_half_a_request_is_cut_off(served: Served, begin: bytes) -> None:
    with served.connect() as peer:
        peer.sendall(begin)
        while peer.recv(4096):  # at its end, before the deadline of this socket
            pass
    assert served.ask()[0] == 200


def test_a_drip_is_cut_off_like_silence(served: Served) -> None:
    with served.connect() as peer:
        began = time.monotonic()
        with contextlib.suppress(OSError):  # EPIPE or ECONNRESET, whichever comes first
            while time.monotonic() - began < DEADLINE_S:
                peer.sendall(b"G")
                time.sleep(0.05)
    assert time.monotonic() - began < DEADLINE_S


def test_an_endless_head_is_refused(served: Served) -> None:
    with served.connect() as peer, contextlib.suppress(OSError):
        peer.sendall(b"GET /metrics HTTP/1.1\r\n" + b"A: b\r\n" * 1000)
        assert b"431" in peer.recv(100)
    assert served.ask()[0] == 200


def test_those_that_never_read_are_bounded_and_let_go(served: Served) -> None:
    big = b"x" * 50_000_000  # more than any buffer of the kernel takes
    assert served.metrics.endpoint is not None
    served.metrics.endpoint._render = lambda: big
    with contextlib.ExitStack() as stack:
        for _ in range(SCRAPES_AT_ONCE * 3):
            stack.enter_context(served.connect()).sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        wait_for(lambda: served.at_once() == SCRAPES_AT_ONCE, DEADLINE_S, "as many as may be", every_s=0.005)
        end = time.monotonic() + DEADLINE_S
        while served.at_once():
            assert served.at_once() <= SCRAPES_AT_ONCE
            assert time.monotonic() < end
            time.sleep(0.005)
    served.metrics.endpoint._render = lambda: b"small"
    wait_for(lambda: served.ask()[1] == b"small", DEADLINE_S, "an answer after them")


def test_one_that_leaves_in_the_middle_is_no_news(served: Served, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(20):
        with served.connect() as peer:
            peer.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
    assert served.ask()[0] == 200
    wait_for(lambda: served.at_once() == 0, DEADLINE_S, "all ended")
    assert capfd.readouterr() == ("", "")
    assert served.told == []


def test_without_a_descriptor_left_it_waits_and_goes_on(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "ACCEPT_AGAIN_S", 0.05)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    peer = socket.socket()
    with contextlib.closing(peer):
        peer.settimeout(DEADLINE_S)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")), hard))
        try:
            taken = []
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.dup(0))
            peer.connect(("127.0.0.1", served.port))
            peer.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            cpu_s = time.process_time()
            time.sleep(0.3)  # it is the time that is measured: what it burns meanwhile
            assert time.process_time() - cpu_s < 0.15
            for fd in taken:
                os.close(fd)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert peer.recv(12) == b"HTTP/1.0 200"


def test_what_cannot_be_given_is_told_once_a_series(served: Served) -> None:
    endpoint = served.metrics.endpoint
    assert endpoint is not None
    well = endpoint._render

    def fails() -> bytes:
        raise ValueError("no")

    for _ in range(2):
        endpoint._render = fails
        assert [served.ask()[0] for _ in range(3)] == [500, 500, 500]
        endpoint._render = well
        assert served.ask()[0] == 200
    assert [event.message for event in served.told] == ["the metrics cannot be given: ValueError('no')"] * 2


# -- how it starts -----------------------------------------------------------------------------------------------------


def test_off_is_nothing_at_all() -> None:
    before = threading.active_count()
    check(ListenSettings())
    assert start(ListenSettings(), Figures(), lambda _: None) is None
    assert threading.active_count() == before


def test_an_address_that_is_taken_is_told_once_and_had_when_it_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "BIND_AGAIN_S", 0.05)
    told: list[events.Event] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        settings = ListenSettings(metrics=Place("127.0.0.1", port))
        check(settings)  # no reason not to watch workers
        metrics = start(settings, Figures(), told.append)
        assert metrics is not None
        wait_for(lambda: told, DEADLINE_S, "the trouble told")
    wait_for(lambda: metrics.endpoint, DEADLINE_S, "the address bound")
    wait_for(lambda: len(told) == 2, DEADLINE_S, "its end told")
    metrics.close()
    assert f"metrics (--metrics) 127.0.0.1:{port}: another process listens there already" in told[0].message
    assert "--metrics 127.0.0.1:" in told[0].message
    assert told[1].message == f"the metrics are served at 127.0.0.1:{port} by now"


@pytest.mark.parametrize("host", ["192.0.2.1", "no..host"])
def test_an_address_of_somebody_else(host: str) -> None:
    told: list[events.Event] = []
    metrics = start(ListenSettings(metrics=Place(host, 9117)), Figures(), told.append)
    assert metrics is not None
    wait_for(lambda: told, DEADLINE_S, "the trouble told")
    metrics.close()
    assert "no such address" in told[0].message
    assert "127.0.0.1:9117" in told[0].message


def test_a_port_that_was_just_used_is_free_again() -> None:
    """A listener that supervisord has started anew finds connections of its predecessor in TIME_WAIT."""
    first = Served()
    assert first.ask()[0] == 200
    first.metrics.close()
    settings = ListenSettings(metrics=Place("127.0.0.1", first.port))
    told: list[events.Event] = []
    again = start(settings, Figures(), told.append)
    assert again is not None
    wait_for(lambda: again.endpoint, DEADLINE_S, "the address bound")
    again.close()
    assert told == []


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **more: Any) -> Any:
        if name.startswith("prometheus_client"):
            raise ImportError(f"No module named {name!r}")
        return real(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    for settings in ({"metrics": Place("127.0.0.1", 1)}, {"metrics_textfile": "/tmp/x"}):
        with pytest.raises(MetricsError, match=r"pip install 'supervisor-uvicorn\[metrics\]'"):
            check(ListenSettings(**settings))  # type: ignore[arg-type]


# -- the text file -----------------------------------------------------------------------------------------------------


def test_the_file_is_written_at_each_tick_and_readable_for_others(tmp_path: Path) -> None:
    path = tmp_path / "uvicorn.prom"
    told: list[events.Event] = []
    metrics = start(ListenSettings(metrics_textfile=str(path)), shown(), told.append)
    assert metrics is not None
    assert metrics.endpoint is None
    for _ in range(3):
        path.unlink(missing_ok=True)
        metrics.tick()
        wait_for(path.exists, DEADLINE_S, "a new file")
        assert path.read_text().endswith("\n")
        assert 'supervisor_uvicorn_worker_up{program="web",worker="web:web-0"} 1.0' in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) & 0o400
    wait_for(lambda: os.listdir(tmp_path) == ["uvicorn.prom"], DEADLINE_S, "nothing beside it")
    assert told == []


def test_one_that_stands_by_writes_no_file(tmp_path: Path) -> None:
    path = tmp_path / "uvicorn.prom"
    figures = Figures()
    metrics = start(ListenSettings(metrics_textfile=str(path)), figures, lambda _: None)
    assert metrics is not None
    assert metrics.file is not None
    metrics.file.write()
    assert os.listdir(tmp_path) == []
    figures.show(view([member("web:web-0", 100)]))
    metrics.file.write()
    assert path.exists()


def test_a_file_that_cannot_be_written_is_told_once_a_series_and_goes_on(tmp_path: Path) -> None:
    directory = tmp_path / "away"
    path = directory / "uvicorn.prom"
    told: list[events.Event] = []
    metrics = start(ListenSettings(metrics_textfile=str(path)), shown(), told.append)
    assert metrics is not None
    assert metrics.file is not None
    for _ in range(3):
        metrics.file.write()
    directory.mkdir()
    metrics.file.write()
    assert path.exists()
    path.unlink()
    directory.rmdir()
    metrics.file.write()
    words = f"{path} cannot be written: No such file or directory; tried again at each TICK"
    assert [(event.kind, event.message) for event in told] == [("error", words)] * 2


def test_a_full_disk_leaves_what_was_there_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "uvicorn.prom"
    told: list[events.Event] = []
    metrics = start(ListenSettings(metrics_textfile=str(path)), shown(), told.append)
    assert metrics is not None
    assert metrics.file is not None
    metrics.file.write()
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # EFBIG: as a full disk, a write that comes short
    try:
        metrics.file.write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["uvicorn.prom"]
    assert len(told) == 1


def test_a_disk_that_hangs_holds_up_nobody() -> None:
    writing, go_on = threading.Event(), threading.Event()
    written = []

    def hangs() -> None:
        writing.set()
        go_on.wait(DEADLINE_S)
        written.append(1)

    file = TextFile("/x", hangs, lambda _: None)
    threading.Thread(target=file.run, daemon=True).start()
    metrics = metrics_server.Metrics()
    metrics.file = file
    metrics.tick()
    assert writing.wait(DEADLINE_S)
    for _ in range(100):
        metrics.tick()
    assert written == []
    go_on.set()
    wait_for(lambda: len(written) == 2, DEADLINE_S, "the one that hung, and one for all others")


def test_a_device_and_a_symlink_are_not_replaced(tmp_path: Path) -> None:
    """Whoever names /dev/null means nothing by it, and a root listener would take it from the host."""
    fifo, link = tmp_path / "fifo", tmp_path / "link"
    os.mkfifo(fifo)
    link.symlink_to(tmp_path / "target")
    for path in (fifo, link):
        with pytest.raises(MetricsError, match="no regular file"):
            check(ListenSettings(metrics_textfile=str(path)))
        told: list[events.Event] = []
        TextFile(str(path), lambda: pytest.fail("it was written"), told.append).write()
        assert "it is there already, and is no regular file" in told[0].message
    assert stat.S_ISFIFO(os.lstat(fifo).st_mode)
    check(ListenSettings(metrics_textfile=str(tmp_path / "new.prom")))
