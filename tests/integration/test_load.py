"""The load client tells each failure apart: the oracle of the acceptance tests of rolling restarts."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest
from harness.load import KEPT, NEW, Failure, Load
from harness.load_client import Client

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n"


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def silent(connection: socket.socket) -> None:
    connection.settimeout(10)
    connection.recv(1)  # until the client gives up


def says(answer: bytes) -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(answer)


ENDS = {
    "closed": (lambda _: None, Failure.UNANSWERED),
    "reset": (reset, Failure.UNANSWERED),
    "half a head": (says(HEAD[:9]), Failure.CUT),
    "half a body": (says(HEAD + b"\r\no"), Failure.CUT),
    "500": (says(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n"), Failure.WRONG),
    "500 of no length": (says(b"HTTP/1.1 500 No\r\n\r\n"), Failure.WRONG),
    "200 of no length": (says(b"HTTP/1.1 200 OK\r\n\r\nok"), Failure.WRONG),
    "silent": (silent, Failure.TIMEOUT),
}


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def url(server: socket.socket) -> str:
    return f"tcp://127.0.0.1:{server.getsockname()[1]}"


def serve(server: socket.socket, *answers: Callable[[socket.socket], None]) -> threading.Thread:
    """One connection: a request is read before each of these answers; then it is closed."""

    def run() -> None:
        connection, _ = server.accept()
        with connection:
            for answer in answers:
                assert connection.recv(65536).endswith(b"\r\n\r\n")
                answer(connection)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("kind", [NEW, KEPT])
@pytest.mark.parametrize("end", ENDS)
def test_each_failure_by_its_name(listening: socket.socket, kind: str, end: str) -> None:
    answer, failure = ENDS[end]
    thread = serve(listening, answer)
    client = Client(url(listening), kind, "/", timeout_s=0.3)
    client.ask()
    thread.join(10)
    assert (client.count.answered, client.count.failed) == (0, {failure.value: 1}), client.count.examples


def test_a_kept_connection_that_is_closed_before_its_next_answer_is_a_failure(listening: socket.socket) -> None:
    right = says(HEAD + b"\r\nok")
    thread = serve(listening, right, right, lambda _: None)
    client = Client(url(listening), KEPT, "/", timeout_s=5)
    for _ in range(3):
        client.ask()
    thread.join(10)
    assert (client.count.answered, client.count.failed) == (2, {Failure.UNANSWERED.value: 1})
    assert client.count.connections == 1


def test_connection_close_is_heeded(listening: socket.socket) -> None:
    last = says(HEAD + b"Connection: Close\r\n\r\nok")
    client = Client(url(listening), KEPT, "/", timeout_s=5)
    for _ in range(2):
        thread = serve(listening, last)
        client.ask()
        thread.join(10)
    assert (client.count.answered, client.count.failed, client.count.connections) == (2, {}, 2)


def test_a_closed_port_is_refused(listening: socket.socket) -> None:
    where = url(listening)
    listening.close()
    client = Client(where, NEW, "/", timeout_s=5)
    client.ask()
    assert client.count.failed == {Failure.REFUSED.value: 1}


def test_several_processes_are_counted_together(listening: socket.socket) -> None:
    def one_after_the_other() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:  # the test is over
                return
            with connection:
                connection.recv(65536)
                connection.sendall(HEAD + b"\r\nok")

    threading.Thread(target=one_after_the_other, daemon=True).start()
    with Load(url(listening), NEW, clients=2) as load:
        load.wait_done(500, 60)
        result = load.stop()
    listening.shutdown(socket.SHUT_RDWR)
    assert result.failed == {}, result.examples
    assert result.answered == result.connections == result.answers["ok"] >= 500
