"""What workers take, measured on real processes: memory with helpers, descriptors, connections, age."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.client import Connection
from integration.real_uvicorn import Program, running

from supervisor_uvicorn.kernel import proc, resources
from supervisor_uvicorn.kernel.errors import Gone
from supervisor_uvicorn.model import Member, State, Usage, WorkerId
from supervisor_uvicorn.settings import Settings
from supervisor_uvicorn.usage import Meter

MB = 1024**2


@pytest.fixture
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="su-") as name:  # short: a unix socket's path has 107 characters
        yield Path(name)


@pytest.fixture(params=["tcp", "unix"])
def program(request: pytest.FixtureRequest, scratch: Path) -> Iterator[Program]:
    with running(scratch, count=2, family=request.param) as program:
        yield program


@pytest.fixture
def one(program: Program) -> Iterator[Connection]:
    """A connection to one of the workers, whichever took it."""
    connection = Connection(str(program.address), 30.0)
    yield connection
    connection.close()


def members(program: Program) -> list[Member]:
    return [
        Member(
            f"web:web-{index}",
            State.RUNNING,
            process.pid,
            proc.born(process.pid),
            socket=program.address,
            socket_inode=program.inode,
        )
        for index, process in enumerate(program.processes)
    ]


def measured(meter: Meter, program: Program, settings: Settings | None = None) -> list[Usage]:
    found = meter.measure(members(program), lambda group: settings or Settings())
    return [found.usages[member.worker] for member in members(program) if member.worker]


def pid_of(connection: Connection) -> int:
    return int(str(connection.ask("/pid")[1]["pid"]))


def test_memory_age_and_descriptors_are_those_of_the_kernel(program: Program, one: Connection) -> None:
    meter = Meter(time.monotonic, connections=False)
    before = measured(meter, program)
    for process, usage in zip(program.processes, before, strict=True):
        assert usage.rss_bytes == usage.proven_bytes
        assert usage.rss_bytes is not None
        assert abs(usage.rss_bytes - proc.usage(process.pid).rss_bytes) < 8 * MB
        assert usage.fds == len(os.listdir(f"/proc/{process.pid}/fd"))
        assert usage.fds_limit == proc.descriptor_limit(process.pid)
        assert 0 < usage.age_s < 120
        assert usage.connections is None  # nobody has asked for it
        assert usage.helpers == 0
    one.ask("/leak?mb=100")
    one.ask("/open?n=70")
    index = [process.pid for process in program.processes].index(pid_of(one))
    then, now = before[index], measured(meter, program)[index]
    assert now.rss_bytes - then.rss_bytes > 95 * MB  # type: ignore[operator]
    assert now.fds - then.fds >= 70  # type: ignore[operator]
    assert now.age_s > then.age_s
    assert now.cpu_s >= then.cpu_s  # type: ignore[operator]


def test_what_a_forked_helper_shares_counts_once(program: Program, one: Connection) -> None:
    one.ask("/leak?mb=200")
    one.ask("/fork")
    one.ask("/fork")
    index = [process.pid for process in program.processes].index(pid_of(one))
    meter = Meter(time.monotonic, connections=False)
    usage = measured(meter, program, Settings(max_rss_bytes=300 * MB))[index]
    assert usage.helpers == 2
    assert usage.rss_bytes is not None
    assert usage.proven_bytes is not None
    assert usage.rss_bytes > 600 * MB  # as ps adds it up
    assert 200 * MB < usage.proven_bytes < 300 * MB  # what would be free without them


def test_connections_are_those_that_the_worker_has_accepted(program: Program) -> None:
    meter = Meter(time.monotonic, connections=True)
    assert sum(usage.connections or 0 for usage in measured(meter, program)) == 0
    held = []
    try:
        for _ in range(20):
            client = socket.socket(program.listening.family)
            client.settimeout(10)
            client.connect(program.listening.getsockname())
            client.sendall(b"GET /pid HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(1000)
            held.append(client)
        counts = [usage.connections for usage in measured(meter, program)]
        assert sum(count or 0 for count in counts) == 20, counts
    finally:
        for client in held:
            client.close()


def test_the_accept_queue_is_seen(scratch: Path) -> None:
    with running(scratch, count=1) as program:
        program.hang_one()
        meter = Meter(time.monotonic, connections=True)
        waiting = [socket.create_connection(program.listening.getsockname()) for _ in range(7)]
        try:
            found = meter.measure(members(program), lambda group: Settings())
            assert found.queues["web"] == ((7, 2048),)
        finally:
            for client in waiting:
                client.close()


def test_a_process_that_is_another_by_now_has_no_usage() -> None:
    meter = Meter(time.monotonic, connections=False)
    pid = os.getpid()
    true, false = WorkerId("web:web-0", pid, proc.born(pid)), WorkerId("web:web-1", pid, 1)
    gone = WorkerId("web:web-2", 2**22 - 1, 1)
    found = meter.measure(
        [Member(one.name, State.RUNNING, one.pid, one.born) for one in (true, false, gone)], lambda group: Settings()
    )
    assert set(found.usages) == {true}


def test_descendants_of_threads_and_of_children_are_found(program: Program, one: Connection) -> None:
    pid = pid_of(one)
    one.ask("/pool")
    one.ask("/fork")
    assert sorted(resources.descendants(pid)) == sorted(proc.descendants(pid))
    assert len(resources.descendants(pid)) == 3


def test_a_process_that_is_not_there_is_gone() -> None:
    for read in (resources.descendants, resources.descriptor_count, resources.proportional_bytes):
        with pytest.raises(Gone):
            read(2**22 - 1)
