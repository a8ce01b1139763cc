"""Connections in one go, with which one of many workers is pinned: none is wasted, and none is left open."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from harness.waiting import wait_for

from supervisor_uvicorn.kernel import proc
from supervisor_uvicorn.kernel.errors import Exhausted
from supervisor_uvicorn.kernel.sock_diag import SockDiag
from supervisor_uvicorn.model import Address, Options, WorkerId
from supervisor_uvicorn.probe import Pins, Target
from supervisor_uvicorn.probe.acquire import Acquirer, Gain
from supervisor_uvicorn.probe.link import PlainSocket

VOLLEY = 8
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

    def attempt(
        self,
        pid: int,
        most_connects: int,
        *,
        many: bool,
        limits: Sequence[int | None] = (None,),
        until: float | None = None,
    ) -> Gain:
        """``limits``: the ``--limit-concurrency`` of each worker that is missing, all of them this process."""
        targets = [
            Target(WorkerId(f"web:web-{at}", pid, proc.born(pid)), self.address, Options(limit_concurrency=limit))
            for at, limit in enumerate(limits)
        ]
        keep_busy = None if many else lambda _: None
        until = time.monotonic() + 30 if until is None else until
        return self.acquirer.acquire(self.address, targets, most_connects, until, keep_busy)


@contextlib.contextmanager
def place(backlog: int = 128) -> Iterator[Place]:
    diag = SockDiag()
    with socket.create_server(("127.0.0.1", 0), backlog=backlog) as listening:
        here = Place(listening, Acquirer(diag, time.monotonic))
        try:
            yield here
        finally:
            here.acquirer.forget(here.address)
            diag.close()


@pytest.fixture
def stranger() -> Iterator[int]:
    """The pid of a process that holds nothing of what is accepted here."""
    with subprocess.Popen(["sleep", "600"]) as process:
        try:
            yield process.pid
        finally:
            process.kill()


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


def accept_all(listening: socket.socket, taken: list[socket.socket], stack: contextlib.ExitStack) -> None:
    """Until the listening socket is shut down."""
    with contextlib.suppress(OSError):
        while True:
            taken.append(stack.enter_context(listening.accept()[0]))


@pytest.mark.parametrize("many", [True, False])
def test_as_many_as_may_be_are_made_and_all_are_closed_again(stranger: int, many: bool) -> None:
    for _ in range(20):  # one attempt fails where an accept comes more than 20 ms late
        taken: list[socket.socket] = []
        with contextlib.ExitStack() as stack:
            here = stack.enter_context(place())
            acceptor = threading.Thread(target=accept_all, args=(here.listening, taken, stack))
            acceptor.start()
            try:
                gain = here.attempt(stranger, VOLLEY + 4, many=many)
                if here.acquirer.queued:
                    continue
                assert (gain.connects, gain.pins, gain.trouble) == (VOLLEY + 4, [], {})
                wait_for(lambda taken=taken: len(taken) == VOLLEY + 4, 10, "every connection")  # type: ignore[misc]
            finally:
                here.listening.shutdown(socket.SHUT_RDWR)  # ends the accept
                acceptor.join(10)
            for connection in taken:
                connection.settimeout(10)
                assert connection.recv(1) == b""
            return
    pytest.fail("20 attempts, and always one was accepted late")


@pytest.mark.parametrize(
    ("many", "backlog", "limits", "made"),
    [
        (True, 128, [None], VOLLEY),
        (True, 16, [None], 2),  # an eighth of the places
        (True, 24, [None], 3),
        (True, 47, [None], 5),
        (True, 4, [None], 1),
        (True, 128, [39], 1),  # a twentieth of the least limit
        (True, 128, [1000, 40], 2),
        (True, 128, [1000], VOLLEY),
        (False, 128, [None], 1),
    ],
)
def test_where_nobody_accepts_the_oldest_alone_waits(
    stranger: int, many: bool, backlog: int, limits: list[int | None], made: int
) -> None:
    """And no more are made than there is room for, in the queue and at one worker."""
    with place(backlog) as here, contextlib.ExitStack() as stack:
        assert here.attempt(stranger, 100, many=many, limits=limits).connects == made
        (queued,) = here.acquirer.queued.values()
        assert here.attempt(stranger, 100, many=many, limits=limits).connects == 0, "while one waits, no other is made"
        here.listening.settimeout(10)
        oldest, *others = [stack.enter_context(here.listening.accept()[0]) for _ in range(made)]
        assert oldest.getpeername() == queued.connection.getsockname()
        for connection in others:
            connection.settimeout(10)
            assert connection.recv(1) == b""
        oldest.setblocking(False)
        with pytest.raises(BlockingIOError):
            oldest.recv(1)


@pytest.mark.parametrize("before", [0, 1, 2, VOLLEY - 1])
@pytest.mark.parametrize("closed", [False, True])
def test_each_of_a_volley_can_become_the_pin(before: int, closed: bool) -> None:
    """So many of it go to somebody else, who keeps or closes them; what follows goes to the worker that is missing."""
    for _ in range(20):  # one attempt fails where an accept comes more than 20 ms late
        with place() as here, worker(here.listening) as (pid, tell), ThreadPoolExecutor(1) as other:

            def take(listening: socket.socket = here.listening, tell: int = tell) -> list[socket.socket]:
                taken = []
                for _ in range(before):
                    taken.append(listening.accept()[0])
                    if closed:
                        taken[-1].close()
                os.write(tell, b"!")
                return taken

            taken = other.submit(take)
            try:
                gain = here.attempt(pid, VOLLEY, many=True)
            finally:
                with contextlib.suppress(OSError):
                    here.listening.shutdown(socket.SHUT_RDWR)  # ends an accept that waits
            if taken.exception(30) is None:
                for one in taken.result():
                    one.close()
                if gain.pins:
                    (pin,) = gain.pins
                    pin.close()
                    assert (gain.connects, pin.target.worker.pid) == (VOLLEY, pid)
                    return
    pytest.fail("20 volleys, and no pin")


def test_a_volley_ends_in_time(stranger: int) -> None:
    """The time that is over is not spent on those that are left."""
    with place() as here, contextlib.ExitStack() as stack:
        asked: list[object] = []
        here.acquirer = Acquirer(here.acquirer._diag, lambda: 0.0 if len(asked) < 2 else 100.0)
        here.acquirer._wait_and_use = lambda *of: not asked.append(of)  # type: ignore[method-assign, func-returns-value]
        gain = here.attempt(stranger, 100, many=True, until=50.0)
        assert (gain.connects, len(asked)) == (VOLLEY, 2)
        for connection in [stack.enter_context(here.listening.accept()[0]) for _ in range(VOLLEY)][2:]:
            connection.settimeout(10)
            assert connection.recv(1) == b""


def test_where_descriptors_are_short_one_goes_at_a_time(stranger: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A volley that is one descriptor short leaves nothing open, and the attempt goes on."""
    with place() as here:
        connect = Acquirer._connect
        made: list[PlainSocket] = []

        def one_short(self: Acquirer, address: Address, just_before: Callable[[], None]) -> PlainSocket | None:
            if sum(one.fileno() >= 0 for one in made) >= 3:
                raise Exhausted("Too many open files")
            connection = connect(self, address, just_before)
            assert connection is not None
            made.append(connection)
            return connection

        monkeypatch.setattr(Acquirer, "_connect", one_short)
        gain = here.attempt(stranger, 100, many=True)
        (queued,) = here.acquirer.queued.values()
        assert gain.trouble == {}
        assert [one for one in made if one.fileno() >= 0] == [queued.connection]


def test_pins_takes_volleys_above_eight_workers_only(stranger: int) -> None:
    for number, made in ((8, 1), (9, VOLLEY)):
        with place() as here:
            targets = [
                Target(WorkerId(f"web:web-{one}", stranger, proc.born(stranger)), here.address, Options())
                for one in range(number)
            ]
            pins = Pins(here.acquirer._diag)
            try:
                began = time.monotonic()
                sights = pins.look(targets, may_acquire=True, ask=False)
                assert pins.connects == made
                since = sights[targets[0].worker].queued_since
                assert since is not None
                assert began <= since <= time.monotonic()
            finally:
                pins.close()


def test_who_can_never_be_pinned_is_tried_less(stranger: int) -> None:
    """After attempts that gained nothing only TICKs try again, and with no more connections than among four."""
    taken: list[socket.socket] = []
    with place() as here, contextlib.ExitStack() as stack:
        acceptor = threading.Thread(target=accept_all, args=(here.listening, taken, stack))
        acceptor.start()
        targets = [
            Target(WorkerId(f"web:web-{one}", stranger, proc.born(stranger)), here.address, Options())
            for one in range(9)
        ]
        pins = Pins(here.acquirer._diag)

        def made(*, ask: bool) -> int:
            before = pins.connects
            pins.look(targets, may_acquire=True, ask=ask)
            return pins.connects - before

        try:
            wait_for(lambda: made(ask=False) == 0, 60, "only TICKs try it")
            assert pins.connects > 24
            assert 0 < made(ask=True) <= 24
            assert made(ask=False) == 0
        finally:
            pins.close()
            here.listening.shutdown(socket.SHUT_RDWR)
            acceptor.join(10)
