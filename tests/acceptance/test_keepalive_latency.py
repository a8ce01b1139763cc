"""A keep-alive request through `--fd 0` on TCP costs what one through `--port` costs, with `[rpcinterface:uvicorn]`.

Without it uvicorn's two writes (head, body) meet Nagle and the client's delayed ACK, 44 ms each time: uvicorn 0.30 to
0.54 opens the descriptor as AF_UNIX, so that no event loop sets TCP_NODELAY.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pytest
from harness import interpreter, processes
from harness.load_client import KEPT, Failed, Link, request_for
from harness.supervisord import PLUGIN, SERVE, Program, Supervisord, free_port
from harness.waiting import wait_for

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]

REQUESTS, ROUNDS = 200, 5
WITHIN = 1.5  # times `--port`


def test_as_quick_as_a_port(figures: Callable[..., None]) -> None:
    port = free_port()
    without, with_it = (Program(numprocs=1, uvicorn="--no-access-log") for _ in range(2))
    serve = Program("serve", numprocs=1, module=SERVE, uvicorn="--no-access-log")  # needs no plugin
    with (
        Supervisord(without, serve, listen=None) as bare,
        Supervisord(with_it, listen=None, sections=PLUGIN + own_port(port)) as site,
    ):
        urls = {
            "port": f"tcp://127.0.0.1:{port}",
            "with": site.url(),
            "serve": bare.url("serve"),
            "without": bare.url(),
        }
        for one in (bare, site):
            wait_for(lambda one=one: all(map(fcgi_serving, one.pids().items())), 60, "a worker that serves")
        wait_for(lambda: answers(urls["port"]), 60, "uvicorn --port")
        medians: dict[str, list[float]] = {way: [] for way in urls}
        for _ in range(ROUNDS):
            for way, url in urls.items():  # one after the other, so that what slows this machine down slows all
                medians[way].append(statistics.median(seconds_each(url)))
    times_port = {
        way: statistics.median(mine / theirs for mine, theirs in zip(medians[way], medians["port"], strict=True))
        for way in urls
    }
    figures(
        requests=REQUESTS,
        rounds=ROUNDS,
        median_ms={way: round(1000 * statistics.median(values), 4) for way, values in medians.items()},
        times_port={way: round(value, 2) for way, value in times_port.items()},
    )
    assert times_port["with"] <= WITHIN
    assert times_port["serve"] <= WITHIN
    assert times_port["without"] > 10


def fcgi_serving(process: tuple[str, int]) -> bool:
    name, pid = process
    return name == "port:port" or processes.serving(pid)


def own_port(port: int) -> str:
    """The same application, as a [program] that opens its port itself."""
    command = f"{interpreter.python()} -m uvicorn --port {port} --app-dir {interpreter.APPS} --no-access-log faulty:app"
    return f"\n[program:port]\ncommand={command}\nstdout_logfile=NONE\nstderr_logfile=NONE\n"


def answers(url: str) -> bool:
    try:
        seconds_each(url, 1)
    except Failed:
        return False
    return True


def seconds_each(url: str, requests: int = REQUESTS) -> list[float]:
    """So many requests over one connection, one after the other."""
    request, took_s = request_for(KEPT, "/pid"), []
    link = Link(url, 10)
    try:
        for _ in range(requests):
            began = time.perf_counter()
            _, last = link.ask(request)
            took_s.append(time.perf_counter() - began)
            assert not last
    finally:
        link.close()
    return took_s
