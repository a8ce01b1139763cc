"""What the metrics hear of calls to supervisord: how long each took, and whether it was answered."""

from __future__ import annotations

import contextlib
import socket
import threading
import xmlrpc.client
from collections.abc import Iterator
from xmlrpc.server import SimpleXMLRPCServer

import pytest

from supervisor_uvicorn.report.metrics.figures import Figures
from supervisor_uvicorn.supervisord.rpc import Fault, InDoubt, Rpc, Unreachable


@contextlib.contextmanager
def served() -> Iterator[str]:
    """The URL of a server whose ``fine`` answers, whose ``refused`` is a fault, and whose ``slow`` waits to the end."""
    over = threading.Event()

    def refused() -> None:
        raise xmlrpc.client.Fault(10, "BAD_NAME")

    with SimpleXMLRPCServer(("127.0.0.1", 0), logRequests=False) as server:
        server.register_function(lambda: 1, "fine")
        server.register_function(refused, "refused")
        server.register_function(lambda: over.wait(30), "slow")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            host, port = server.server_address[:2]
            yield f"http://{host!s}:{port}"
        finally:
            over.set()
            server.shutdown()
            thread.join()


def test_a_call_and_a_fault_are_answered() -> None:
    heard: list[tuple[float, bool]] = []
    with served() as url, Rpc(url, observe=lambda took_s, well: heard.append((took_s, well))) as rpc:
        assert rpc.call("fine") == 1
        with pytest.raises(Fault):
            rpc.call("refused")
    assert [well for _, well in heard] == [True, True]
    assert all(0 < took_s < 30 for took_s, _ in heard)


def test_a_deadline_and_a_refused_connection_are_failures() -> None:
    heard: list[tuple[float, bool]] = []

    def observe(took_s: float, well: bool) -> None:
        heard.append((took_s, well))

    with served() as url, Rpc(url, deadline_s=0.2, observe=observe) as rpc, pytest.raises(InDoubt):
        rpc.call("slow")
    assert heard[0][0] >= 0.19
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        env = {"SUPERVISOR_SERVER_URL": f"http://127.0.0.1:{nobody.getsockname()[1]}"}
        with Rpc.from_environment(env, observe=observe) as rpc, pytest.raises(Unreachable):
            rpc.call("fine")
    assert [well for _, well in heard] == [False, False]


def test_the_figures_are_such_an_observer() -> None:
    figures = Figures()
    with served() as url, Rpc(url, observe=figures.rpc) as rpc:
        rpc.call("fine")
        with pytest.raises(InDoubt):
            rpc.call("slow", deadline_s=0.05)
    taken = figures.taken()
    assert (taken.rpc.count, taken.rpc_failures) == (2, 1)
