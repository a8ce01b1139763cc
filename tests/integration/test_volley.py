"""Connections in one go, with which one of many workers is pinned: none is wasted, and none is left open."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from harness.waiting import wait_for

from supervisor_uvicorn.kernel import proc
from supervisor_uvicorn.kernel.sock_diag import SockDiag
from supervisor_uvicorn.model import Address, Options, WorkerId
from supervisor_uvicorn.probe import Target
from supervisor_uvicorn.probe.acquire import Acquirer, Gain

VOLLEY = 8
STRANGER = os.getppid()  # a process that does not hold what is accepted here
WORKER = """
import os, socket, sys
listening = socket.socket(fileno=0)
print("ready", flush=True)
os.read(int(sys.argv[1]), 1)
kept = []
while True:
    kept.append(listening.accept())
"""


@dataclass
class Place:
    """A listening socket of ours, at which we try to pin somebody."""

    listening: socket.socket
    acquirer: Acquirer

    @property
    def address(self) -> Address:
        return Address("tcp", "127.0.0.1", self.listening.getsockname()[1])

    def attempt(self, pid: int, most_connects: int, *, many: bool, limit_concurrency: int | None = None) -> Gain:
        options = Options(limit_concurrency=limit_concurrency)
        target = Target(WorkerId("web:web", pid, proc.born(pid)), self.address, options)
        keep_busy = None if many else lambda _: None
        return self.acquirer.acquire(self.address, [target], most_connects, time.monotonic() + 30, keep_busy)


@contextlib.contextmanager
def place() -> Iterator[Place]:
    diag = SockDiag()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        here = Place(listening, Acquirer(diag, time.monotonic))
        try:
            yield here
        finally:
            here.acquirer.forget(here.address)
            diag.close()


@contextlib.contextmanager
def worker(listening: socket.socket) -> Iterator[tuple[int, int]]:
    """Its pid, and a pipe: from the first byte there on it accepts, and keeps, whatever comes."""
    told, tell = os.pipe()
    try:
        command = [sys.executable, "-c", WORKER, str(told)]
        with subprocess.Popen(
            command, stdin=listening.fileno(), stdout=subprocess.PIPE, pass_fds=[told], text=True
        ) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                yield process.pid, tell
            finally:
                process.kill()
    finally:
        os.close(told)
        os.close(tell)


@pytest.mark.parametrize("many", [True, False])
def test_as_many_as_may_be_are_made_and_all_are_closed_again(many: bool) -> None:
    taken: list[socket.socket] = []
    with contextlib.ExitStack() as stack:
        here = stack.enter_context(place())

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(stack.enter_context(here.listening.accept()[0]))

        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            gain = here.attempt(STRANGER, VOLLEY + 4, many=many)
            assert (gain.connects, gain.pins, here.acquirer.queued) == (VOLLEY + 4, [], {})
            wait_for(lambda: len(taken) == VOLLEY + 4, 10, "every connection")
        finally:
            here.listening.shutdown(socket.SHUT_RDWR)  # ends the accept
            acceptor.join(10)
        for connection in taken:
            connection.settimeout(10)
            assert connection.recv(1) == b""


@pytest.mark.parametrize(
    ("many", "limit", "made"), [(True, None, VOLLEY), (True, 59, 2), (True, 1000, VOLLEY), (False, None, 1)]
)
def test_where_nobody_accepts_the_oldest_alone_waits(many: bool, limit: int | None, made: int) -> None:
    """And where one worker could take them all, they are no more than one of twenty that it may hold."""
    with place() as here, contextlib.ExitStack() as stack:
        assert here.attempt(STRANGER, 100, many=many, limit_concurrency=limit).connects == made
        (queued,) = here.acquirer.queued.values()
        assert here.attempt(STRANGER, 100, many=many, limit_concurrency=limit).connects == 0, (
            "while one waits, no other is made"
        )
        here.listening.settimeout(10)
        oldest, *others = [stack.enter_context(here.listening.accept()[0]) for _ in range(made)]
        assert oldest.getpeername() == queued.connection.getsockname()
        for connection in others:
            connection.settimeout(10)
            assert connection.recv(1) == b""
        oldest.setblocking(False)
        with pytest.raises(BlockingIOError):
            oldest.recv(1)


def test_each_of_a_volley_can_become_the_pin() -> None:
    """The first goes to somebody else each time, and what follows to the worker that is missing."""
    for _ in range(20):  # one attempt fails where an accept comes more than 20 ms late
        with place() as here, worker(here.listening) as (pid, tell), ThreadPoolExecutor(1) as other:

            def take_one(listening: socket.socket = here.listening, tell: int = tell) -> socket.socket:
                first, _ = listening.accept()
                os.write(tell, b"!")
                return first

            taken = other.submit(take_one)
            gain = here.attempt(pid, VOLLEY, many=True)
            with taken.result(30):
                if gain.pins:
                    (pin,) = gain.pins
                    pin.close()
                    assert (gain.connects, pin.target.worker.pid) == (VOLLEY, pid)
                    return
    pytest.fail("20 volleys, and no pin")
