"""``supervisor-uvicorn serve`` on real processes: how it serves, how each connection ends, and what it refuses."""

from __future__ import annotations

import base64
import os
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import processes
from harness.waiting import wait_for
from integration.serve_load import rolled
from integration.serve_site import APP, Client, Site, Worker, command, environment, installed, opened

HAS = installed("uvloop", "httptools", "zttp", "websockets")
COMBINATIONS = [
    pytest.param((loop, http), id=f"{loop}-{http}", marks=pytest.mark.skipif(
        not {loop, http} - {"asyncio", "h11"} <= HAS, reason="not installed for the workers"))
    for loop, http in [("asyncio", "h11"), ("uvloop", "httptools"), ("asyncio", "httptools"), ("uvloop", "h11"),
                       ("uvloop", "zttp")]
]  # fmt: skip


@pytest.fixture(params=["tcp", "unix", "tls"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=COMBINATIONS)
def combination(request: pytest.FixtureRequest) -> list[str]:
    loop, http = request.param
    return ["--loop", loop, "--http", http]


@pytest.fixture
def served(tmp_path: Path, family: str, combination: list[str]) -> Iterator[tuple[Site, Worker]]:
    with opened(tmp_path, family, combination) as site:
        yield site, site.start()


def ended_well(site: Site, worker: Worker, deadline_s: float = 10.0) -> None:
    """As uvicorn ends: lifespan, then death by the signal, and nothing in the log that looks like an error."""
    assert worker.code(deadline_s) == -signal.SIGTERM
    log = site.log()
    assert "lifespan ended" in log
    assert "Traceback" not in log
    assert "ERROR" not in log


def test_what_is_accepted_is_answered_however_it_stands(served: tuple[Site, Worker]) -> None:
    """One drain, every kind of connection in it: each is answered by the worker that holds it, and told to close."""
    site, worker = served
    unheard, idle, busy, half = (site.client() for _ in range(4))
    assert "connection: close" not in idle.ask()[1]
    busy.send("/wait/1")
    half.sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
    busy.wait_until_read()
    mine = str(worker.pid).encode()
    worker.stop()
    for client in (unheard, idle):
        status, head, body = client.ask()
        assert (status, body) == (200, mine)
        assert "connection: close" in head
        assert client.wait_for_end()
    half.sock.sendall(b"\r\n")
    for client in (half, busy):
        status, head, body = client.answer()
        assert (status, body) == (200, mine)
        assert "connection: close" in head
        assert client.wait_for_end()
    ended_well(site, worker)


def test_unheard_and_half_heard_connections_end_after_a_second(served: tuple[Site, Worker]) -> None:
    """Otherwise the listener's own pinned connection would hold the drain for ever."""
    site, worker = served
    clients = [site.client(), site.client()]
    clients[1].sock.sendall(b"GET / HTTP/1.1\r\nX-Pulse: aaa")
    idle = site.client()
    idle.ask()
    idle.sock.sendall(b"GET")  # a next request begun: no timer of uvicorn's runs any more
    worker.stop()
    begun = time.monotonic()
    for client in [*clients, idle]:
        assert client.wait_for_end()
        assert 0.8 < time.monotonic() - begun < 3
    ended_well(site, worker, 5)


def test_idle_keep_alive_ends_by_uvicorns_timeout(tmp_path: Path, combination: list[str]) -> None:
    with opened(tmp_path, "tcp", [*combination, "--timeout-keep-alive", "2"]) as site:
        worker = site.start()
        client = site.client()
        client.ask()
        begun = time.monotonic()
        worker.stop()
        assert client.wait_for_end()
        assert 1.5 < time.monotonic() - begun < 4
        ended_well(site, worker)


def test_idle_keep_alive_holds_no_drain_for_longer_than_uvicorns_default(tmp_path: Path) -> None:
    """Behind a balancer that keeps its connections for minutes: the worker ends by itself, with its lifespan."""
    with opened(tmp_path, "tcp", ["--timeout-keep-alive", "3600"]) as site:
        worker = site.start()
        client = site.client()
        client.ask()
        worker.stop()
        assert client.wait_for_end()
        ended_well(site, worker, 60)


def test_a_stream_begun_before_ends_whole_and_its_connection_is_told_on_the_next_answer(
    served: tuple[Site, Worker],
) -> None:
    site, worker = served
    client = site.client()
    client.send("/stream/1")
    head = client._until(b"\r\n\r\n")
    assert b"connection: close" not in head.lower()
    client._left = head + b"\r\n\r\n" + client._left
    worker.stop()
    assert client.answer()[2].count(b"line") > 5
    status, next_head, _ = client.ask()
    assert status == 200
    assert "connection: close" in next_head
    assert client.wait_for_end()
    ended_well(site, worker)


def test_what_nobody_has_accepted_is_left_to_the_workers_that_share_the_socket(served: tuple[Site, Worker]) -> None:
    """While the loop is blocked, 20 clients connect and TERM arrives: each is answered or still waits in the queue."""
    site, worker = served
    blocker = site.client()
    blocker.send("/block/0.7")
    blocker.wait_until_read()
    clients = [Client(site, handshake=False) for _ in range(20)]
    worker.process.send_signal(signal.SIGTERM)
    wait_for(lambda: not processes.serving(worker.pid), 10, "a worker that has stopped accepting", every_s=0.005)
    second = site.start()
    pids = set()
    for client in clients:
        if site.family == "tls":
            client.shake_hands()
        status, _, body = client.ask()
        assert status == 200
        pids.add(body)
        client.close()
    assert pids <= {str(worker.pid).encode(), str(second.pid).encode()}
    assert blocker.answer()[0] == 200
    blocker.close()
    ended_well(site, worker)


def test_a_handshake_under_way_is_finished_or_ends_after_a_second(tmp_path: Path, combination: list[str]) -> None:
    with opened(tmp_path, "tls", combination) as site:
        worker = site.start()
        late, never = site.client(handshake=False), site.client(handshake=False)
        worker.stop()
        late.shake_hands()
        status, head, _ = late.ask()
        assert (status, "connection: close" in head) == (200, True)
        assert never.wait_for_end(3)
        ended_well(site, worker, 5)


def test_the_graceful_timeout_bounds_it_all(tmp_path: Path, combination: list[str]) -> None:
    options = [*combination, "--timeout-graceful-shutdown", "2", "--timeout-keep-alive", "60"]
    with opened(tmp_path, "tcp", options) as site:
        worker = site.start()
        idle, streaming = site.client(), site.client()
        idle.ask()
        streaming.send("/stream/60")
        streaming._until(b"\r\n\r\n")
        worker.stop()
        begun = time.monotonic()
        assert idle.wait_for_end()
        assert time.monotonic() - begun < 2, "idle ones end before the limit"
        assert worker.code(5) == -signal.SIGTERM
        assert 1.5 < time.monotonic() - begun < 4
        assert "timeout graceful shutdown exceeded" in site.log()
        assert "lifespan ended" in site.log()


def test_idle_connections_alone_never_exceed_the_graceful_timeout(tmp_path: Path) -> None:
    with opened(tmp_path, "tcp", ["--timeout-graceful-shutdown", "1", "--timeout-keep-alive", "60"]) as site:
        worker = site.start()
        idle = site.client()
        idle.ask()
        worker.stop()
        assert idle.wait_for_end(5)
        ended_well(site, worker, 5)


def test_a_second_interrupt_ends_the_waiting(tmp_path: Path, combination: list[str]) -> None:
    """(uvicorn 0.54 itself waits on from Python 3.12, in asyncio's ``Server.wait_closed``.)"""
    with opened(tmp_path, "tcp", combination) as site:
        worker = site.start()
        client = site.client()
        client.send("/wait/60")
        client.wait_until_read()
        worker.stop(signal.SIGINT)
        worker.process.send_signal(signal.SIGINT)
        assert worker.code(5) == EXIT_OF_INTERRUPT


EXIT_OF_INTERRUPT = 0  # uvicorn raises the signal again, and catches the KeyboardInterrupt (main.py ``run``)

UPGRADE = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
           f"Sec-WebSocket-Key: {base64.b64encode(b'0123456789abcdef').decode()}")  # fmt: skip


@pytest.mark.skipif("websockets" not in HAS, reason="websockets is not installed for the workers")
def test_websockets_end_at_once_and_new_ones_are_turned_away(served: tuple[Site, Worker]) -> None:
    site, worker = served
    running, late = site.client(), site.client()
    running.send("/", *UPGRADE)
    assert b" 101 " in running._until(b"\r\n\r\n")
    worker.stop()
    status, head, _ = late.ask("/", *UPGRADE)
    assert (status, "connection: close" in head) == (503, True)
    assert running._exactly(4) == b"\x88\x02" + (1012).to_bytes(2, "big")  # RFC 6455: close, "service restart"
    running.close()
    ended_well(site, worker, 5)


def test_a_request_limit_drains_as_a_signal_does(tmp_path: Path, combination: list[str]) -> None:
    with opened(tmp_path, "tcp", [*combination, "--limit-max-requests", "1"]) as site:
        worker = site.start()
        client = site.client()
        client.ask()
        wait_for(lambda: not processes.serving(worker.pid), 10, "a worker that has stopped accepting", every_s=0.005)
        assert "connection: close" in client.ask()[1]
        assert worker.code() == 0


def test_keep_alive_requests_do_not_wait_for_a_delayed_ack(served: tuple[Site, Worker]) -> None:
    """44 ms each with `uvicorn --fd 0` on TCP, because the socket is taken for AF_UNIX."""
    site, _ = served
    client = site.client()
    taken = []
    for _ in range(40):
        begun = time.perf_counter()
        client.ask()
        taken.append(time.perf_counter() - begun)
    assert statistics.median(taken) < 0.02


def test_client_and_server_addresses_are_as_with_uvicorn(tmp_path: Path) -> None:
    with opened(tmp_path, "tcp") as site:
        site.start()
        client = site.client()
        client.ask("/where")
        port = client.raw.getsockname()[1]
        wait_for(lambda: f'127.0.0.1:{port} - "GET /where HTTP/1.1" 200' in site.log(), 5, "the access log line")
        assert f"Uvicorn running on socket {site.listening.getsockname()}" in site.log()


@pytest.mark.parametrize("kind", ["uds", "port"])
def test_a_socket_of_its_own_drains_as_well(tmp_path: Path, kind: str, combination: list[str]) -> None:
    with opened(tmp_path, "unix" if kind == "uds" else "tcp", combination) as site:
        address = site.listening.getsockname()
        site.listening.close()
        own = ["--uds", address] if kind == "uds" else ["--port", str(address[1])]
        if kind == "uds":
            os.unlink(address)
        with site.log_path.open("ab") as log:
            process = subprocess.Popen(
                command("--app-dir", str(tmp_path), *combination, *own, "serve_app:app"),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment(),
            )  # fmt: skip
        try:
            wait_for(lambda: "Uvicorn running on" in site.log(), 30, "a worker that serves")
            site.listening = _Address(address)  # type: ignore[assignment]
            client = site.client()
            client.ask()
            process.send_signal(signal.SIGTERM)
            wait_for(lambda: "Stopped accepting" in site.log(), 10, "a worker that drains")
            status, head, _ = client.ask()
            assert (status, "connection: close" in head) == (200, True)
            assert process.wait(10) == -signal.SIGTERM
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


class _Address:
    """Stands in for the listening socket that another process has opened."""

    def __init__(self, address: object) -> None:
        self._address = address
        self.family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET

    def getsockname(self) -> object:
        return self._address

    def close(self) -> None:
        pass


REFUSED = [
    (["--fd", "0", "--workers", "2"], {}, "numprocs=2"),
    (["--fd", "0"], {"WEB_CONCURRENCY": "3"}, "WEB_CONCURRENCY"),
    (["--fd", "0", "--reload"], {}, "Leave it out"),
    (["--fd", "0"], {}, "not a socket"),
    (["--fd", "77"], {}, "no such descriptor"),
    (["--fd", "zero"], {}, "not a valid integer"),
]


@pytest.mark.parametrize(("arguments", "variables", "said"), REFUSED)
def test_wrong_use_says_what_to_write_instead(
    tmp_path: Path, arguments: list[str], variables: dict[str, str], said: str
) -> None:
    (tmp_path / "serve_app.py").write_text(APP)
    done = subprocess.run(
        command("--app-dir", str(tmp_path), *arguments, "serve_app:app"),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, env=environment(**variables),
    )  # fmt: skip
    assert done.returncode == 2
    assert said in done.stderr
    assert "Usage: supervisor-uvicorn serve" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("loop", ["asyncio", pytest.param("uvloop", marks=pytest.mark.skipif(
    "uvloop" not in HAS, reason="not installed for the workers"))])  # fmt: skip
def test_a_roll_under_load_drops_nothing(tmp_path: Path, loop: str) -> None:
    """Two workers, TERM to each in turn, four times, under fresh connections and keep-alive ones."""
    with opened(tmp_path, "tcp", ["--loop", loop, "--no-access-log"]) as site:
        load = rolled(site, workers=2, rolls=4)
    assert load.failed == []
    assert load.fresh > 1000
    assert load.kept > 1000
    assert load.closed_by_the_last_answer > 0, "keep-alive connections were told to close"
