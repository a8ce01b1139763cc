"""What it costs to watch four workers for five minutes, beside superlance's httpok under the same supervisord."""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from harness import client, interpreter, processes
from harness.supervisord import Program, Supervisord, free_port
from harness.waiting import stays_true, wait_for

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1200)]

MINUTES = 5
CPU_SHARE = 0.003
MIB = 1024 * 1024
SETTLE_S = 15.0
CONNECTIONS = 5_000


@pytest.mark.parametrize(
    ("options", "above_httpok_bytes", "connections"),
    [
        pytest.param("", 6 * MIB, 0, id="pulse"),
        pytest.param("--path /health", 14 * MIB, 0, id="path"),
        pytest.param("", 6 * MIB, CONNECTIONS, id="pulse-5000-connections"),
        pytest.param("--path /health", 14 * MIB, CONNECTIONS, id="path-5000-connections"),
    ],
)
def test_five_minutes(options: str, above_httpok_bytes: int, connections: int, figures: Callable[..., None]) -> None:
    if importlib.util.find_spec("superlance") is None:
        pytest.skip("superlance is not installed (the extra `bench`)")
    program = Program(socket=f"tcp://127.0.0.1:{free_port()}", uvicorn="--no-access-log")
    with contextlib.ExitStack() as stack:
        site = stack.enter_context(Supervisord(program, listen=options, sections=httpok_section(program.socket)))
        wait_for(lambda: set(workers(site).values()) <= {event["pid"] for event in site.events("pinned")}, 60, "pinned")
        hold(site, stack, connections)
        stays_true(site.all_running, SETTLE_S, "all RUNNING", every_s=5)
        listener, httpok = site.listener_pid(), int(site.rpc.getProcessInfo("httpok")["pid"])
        shape = processes.descriptors(listener), processes.threads(listener)
        began, cpu, other_cpu = time.monotonic(), processes.cpu_s(listener), processes.cpu_s(httpok)
        before = site.pids()
        stays_true(lambda: site.pids() == before, MINUTES * 60, "everybody's pid", every_s=10)
        assert site.events("restart") == []
        seconds = time.monotonic() - began
        share = (processes.cpu_s(listener) - cpu) / seconds
        ours, theirs = processes.resident_bytes(listener), processes.resident_bytes(httpok)
        after = processes.descriptors(listener), processes.threads(listener)
        figures(
            options=options,
            connections_per_worker=connections,
            cpu_percent=round(100 * share, 3),
            httpok_cpu_percent=round(100 * (processes.cpu_s(httpok) - other_cpu) / seconds, 3),
            resident_mib=round(ours / MIB, 1),
            httpok_resident_mib=round(theirs / MIB, 1),
            above_httpok_mib=round((ours - theirs) / MIB, 1),
            descriptors=[shape[0], after[0]],
            threads=[shape[1], after[1]],
        )
        assert ours - theirs <= above_httpok_bytes
        assert after[0] <= shape[0] + 1  # a probe may be under way
        assert after[1] <= shape[1] + 1
        assert share <= CPU_SHARE


def workers(site: Supervisord) -> dict[str, int]:
    return site.pids("web")


def httpok_section(url: str) -> str:
    address = url.replace("tcp://", "http://")
    return "\n".join(
        [
            "[eventlistener:httpok]",
            f"command={interpreter.python()} -m superlance.httpok -p nobody:nobody {address}/pid",
            "events=TICK_5",
            "stdout_logfile=NONE",
            "stderr_logfile=NONE",
        ]
    )


# Connects so many times for each line on its input; a process of its own for each worker, for its descriptors.
HOLDER = """
import socket, sys
held = []
for line in sys.stdin:
    for _ in range(int(line)):
        connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10)
        connection.sendall(b"GET / HTTP/1.1\\r\\n")
        held.append(connection)
    print("connected", flush=True)
"""
STEP = 500  # well below the backlog: while its peers are stopped one worker accepts them all


def hold(site: Supervisord, stack: contextlib.ExitStack, per_worker: int) -> None:
    """So many connections on each worker, with an unfinished head, on which uvicorn sets no timer."""
    host, _, port = site.url().removeprefix("tcp://").rpartition(":")
    pids = workers(site)
    for pid in pids.values() if per_worker else ():
        command = [sys.executable, "-c", HOLDER, host, port]
        holder = stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        stack.callback(holder.kill)
        assert holder.stdin is not None
        assert holder.stdout is not None
        wanted = processes.descriptors(pid)
        for _ in range(0, per_worker, STEP):
            with client.only(pid, pids.values()):
                print(STEP, file=holder.stdin, flush=True)
                assert holder.stdout.readline() == "connected\n"
                wanted += STEP
                wait_for(lambda pid=pid, wanted=wanted: processes.descriptors(pid) >= wanted, 30, "all accepted")
