"""What a person waits for a status of 64 workers, and how long our plugin holds up supervisord's only thread."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import interpreter, loop_clock
from harness.rolls import healthy, page
from harness.supervisord import PLUGIN, Program, Supervisord
from harness.waiting import wait_for
from verbs_desk import page as page_of
from verbs_desk import program, roll, turn, worker, yes

from supervisor_uvicorn.report.history import MOST_BYTES
from supervisor_uvicorn.supervisord.board import Board
from supervisor_uvicorn.supervisord.rpc import Rpc

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]

WORKERS = 64
STATUS_S = 0.3
HELD_UP_S = 0.01
TIMES = 200

CTL = """
[ctlplugin:uvicorn]
supervisor.ctl_factory = supervisor_uvicorn.plugin.ctl:make_controller_plugin
"""


def test_a_status_of_64_workers(figures: Callable[..., None]) -> None:
    many = Program(numprocs=WORKERS, uvicorn="--no-access-log --loop asyncio --http h11 --lifespan off")
    with Supervisord(many, listen="", sections=PLUGIN + CTL) as site:
        wait_for(site.all_running, 180, "all RUNNING")
        wait_for(lambda: healthy(site), 180, "all healthy")
        seen = page(site)
        assert seen is not None
        took_s = {}
        commands = {
            "supervisorctl uvicorn status": ["-m", "supervisor.supervisorctl", "uvicorn", "status"],
            "supervisor-uvicorn status": ["-m", "supervisor_uvicorn", "status"],
            "supervisor-uvicorn status --json": ["-m", "supervisor_uvicorn", "status", "--json"],
            "supervisorctl status": ["-m", "supervisor.supervisorctl", "status"],
            "python": ["-c", "pass"],
        }
        for name, words in commands.items():
            took_s[name], out = timed(site, words, 10)
            if "status" in name:
                assert out.count("web:web-") >= WORKERS, out
        figures(
            page_bytes=len(json.dumps(seen.body)),
            **{name: {"median_s": statistics.median(all_s), "worst_s": max(all_s)} for name, all_s in took_s.items()},
        )
        for name in ("supervisorctl uvicorn status", "supervisor-uvicorn status", "supervisor-uvicorn status --json"):
            assert statistics.median(took_s[name]) < STATUS_S, took_s
            assert min(took_s[name]) < STATUS_S, took_s


def timed(site: Supervisord, words: list[str], times: int) -> tuple[list[float], str]:
    """How long each run of the command took (s), and what the last one printed. Each ends with 0."""
    all_s = []
    out = ""
    for _ in range(times):
        began = time.monotonic()
        done = subprocess.run(
            [interpreter.python(), *words],
            env=site.environment,
            cwd=site.scratch,  # where supervisorctl, and our verbs, find supervisord.conf by themselves
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
        )
        all_s.append(round(time.monotonic() - began, 3))
        assert done.returncode == 0, done
        out = done.stdout
    return all_s, out


# -- supervisord's main loop -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [4, 64, 256])
def test_the_main_loop_is_not_held_up(workers: int, figures: Callable[..., None]) -> None:
    """Each turn of it in which the plugin has something to do, by CPU time (others use this machine as well); wall
    clock in the figures. XML-RPC's parser and writer are in it; a full run of Python's garbage collector (some 10 ms,
    at supervisord's own calls as well) is told apart."""
    texts = texts_of(workers)
    with clocked() as (site, board):
        turns(board.rpc)  # what came before is not of interest
        name, info = next(iter(site.pids().items())), site.infos("g0")[0]
        for _ in range(TIMES):
            assert board.report(texts["page"])
            assert board.keep("history", texts["history"])
            assert board.keep("memory", texts["memory"])
            assert board.read() is not None
            assert board.kept("history") is not None
            assert len(board.sockets() or ()) == GROUPS
            assert board.hold("g0", 30)
            assert board.release("g0")
            assert board.signal_worker(name[0], name[1], info["start"], "CONT")
            board.rpc.call("supervisor.getState", idempotent=True)
            board.rpc.call("supervisor.getAllProcessInfo", idempotent=True)
        by_method = turns(board.rpc)
        figures(
            workers=workers,
            bytes={kind: len(text) for kind, text in texts.items()},
            **{method: summary(took) for method, took in sorted(by_method.items())},
        )
        ours = {method: took for method, took in by_method.items() if method.startswith("uvicorn.")}
        assert len(ours) == 8
        for method, took in ours.items():
            assert len(took) > TIMES * 0.9  # the others had a garbage collection in them
            assert max(cpu_s for _, cpu_s in took) < HELD_UP_S, method
            assert statistics.median(wall_s for wall_s, _ in took) < HELD_UP_S, method
        assert max(cpu_s for _, cpu_s in by_method[""]) < HELD_UP_S, "a turn in which a large request was only read"


def test_the_plugins_callbacks(figures: Callable[..., None]) -> None:
    """supervisord's events at the start and stop of 32 groups run through the plugin, too."""
    with clocked() as (site, board):
        turns(board.rpc)
        for group in range(4):
            board.hold(f"g{group}", 60)
        for verb in ("stop", "start"):
            assert site.ctl(verb, "all", timeout_s=120).returncode == 0
        by_method = turns(board.rpc)
        ours = {method: took for method, took in by_method.items() if method.startswith("event ")}
        figures(**{method: summary(took) for method, took in sorted(ours.items())})
        assert sum(len(took) for method, took in ours.items() if "Process" in method) >= 4 * 2 * GROUPS
        for method, took in ours.items():
            assert max(cpu_s for _, cpu_s in took) < HELD_UP_S, method
        assert not any(socket.held_s for socket in board.sockets() or ()), "a stop lets go what was held"


def test_other_clients_are_not_held_up(figures: Callable[..., None]) -> None:
    """supervisor.getState as a second client sees it, while a listener reports without a pause and somebody asks for
    the status without a pause; and beside it while they ask supervisord's own getAllProcessInfo instead."""
    took_s = {}
    with clocked() as (site, board):
        board.report(texts_of(WORKERS)["page"])
        for kind in ("nobody", "supervisord's own", "the plugin"):
            with contextlib.ExitStack() as stack:
                if kind != "nobody":
                    for role in ("reports", "asks"):
                        stack.enter_context(busy(site, role if kind == "the plugin" else "own"))
                turns(board.rpc)
                took_s[kind] = latencies(site)
                found = turns(board.rpc)
                figures(
                    beside=kind,
                    median_ms=ms(statistics.median(took_s[kind])),
                    p99_ms=ms(statistics.quantiles(took_s[kind], n=100)[98]),
                    worst_ms=ms(max(took_s[kind])),
                    turns={method: summary(took) for method, took in sorted(found.items())},
                )
                if kind == "the plugin":
                    assert len(found["uvicorn.report"]) > 100, "nobody reported meanwhile"
                    assert len(found["uvicorn.board"]) > 100, "nobody asked meanwhile"
                    for method, took in found.items():
                        if method.startswith("uvicorn."):
                            assert max(cpu_s for _, cpu_s in took) < HELD_UP_S, method
    assert statistics.median(took_s["the plugin"]) < HELD_UP_S


GROUPS = 32


@contextlib.contextmanager
def clocked() -> Iterator[tuple[Supervisord, Board]]:
    """A supervisord with 32 fcgi-programs of two processes that only sleep, our plugin, and a clock in its loop."""
    programs = [Program(f"g{number}", numprocs=2, command="sleep 1000") for number in range(GROUPS)]
    path = f"{loop_clock.PATH}:{interpreter.ROOT}"
    sections = PLUGIN + loop_clock.SECTION
    with Supervisord(*programs, listen=None, sections=sections, environment={"PYTHONPATH": path}) as site:
        wait_for(site.all_running, 60, "all RUNNING")
        with Rpc(site.server_url) as rpc:
            yield site, Board(rpc)


def turns(rpc: Rpc) -> dict[str, list[tuple[float, float]]]:
    """By method (or methods; "": none), each turn of the loop since the last call: seconds of wall clock and of CPU;
    and each call of a callback of ours. Our own asking is not among them."""
    text = rpc.call("loop_clock.turns", idempotent=True)
    rpc.call("loop_clock.begin", idempotent=True)
    found = json.loads(text)
    return {
        what: [(wall_s, cpu_s) for wall_s, cpu_s in took] for what, took in found.items() if "loop_clock" not in what
    }


def summary(took: list[tuple[float, float]]) -> dict[str, object]:
    walls, cpus = [wall_s for wall_s, _ in took], [cpu_s for _, cpu_s in took]
    return {
        "turns": len(took),
        "median_ms": ms(statistics.median(walls)),
        "worst_ms": ms(max(walls)),
        "cpu_worst_ms": ms(max(cpus)),
    }


def ms(seconds: float) -> float:
    return round(1e3 * seconds, 3)


def texts_of(workers: int) -> dict[str, str]:
    """What a listener of so many workers leaves in supervisord in the middle of a roll of them all; the history is as
    long as it can be."""
    names = [f"web:web-{number}" for number in range(workers)]
    reason = "the loop has not read a pulse for 31 s (silent_after 30 s)"
    http = {"status": 200, "seconds": 0.004123}
    rows = [worker(name, 100_000 + number, reason=reason, http=http) for number, name in enumerate(names)]
    its = roll("0123456789abcdef", *(turn(name, "waiting", 100_000, 200_000) for name in names))
    answers = [yes("0123456789abcdef", detail=f"rolling {workers} workers of web")] * 50
    entry = {"time": "2026-11-22T10:00:00.000+00:00", "event": "restart", "message": f"{names[0]}: {reason} " * 4}
    entries: list[dict[str, str]] = []
    while len(json.dumps(entries)) < MOST_BYTES - 1000:
        entries += [entry] * 20
    found: dict[str, Any] = {
        "page": page_of(program(workers=rows, roll=its), answers=answers),
        "memory": {"programs": {"web": {"workers": rows, "roll": its}}, "answers": answers},
        "history": {"version": 1, "entries": entries, "restarts": dict.fromkeys(names, 3)},
    }
    return {kind: json.dumps(value) for kind, value in found.items()}


_BUSY = """\
import sys
from supervisor_uvicorn.supervisord.board import Board
from supervisor_uvicorn.supervisord.rpc import Rpc
url, role = sys.argv[1:]
text = sys.stdin.read()
board = Board(Rpc(url))
while True:
    if role == "reports":
        board.report(text)
        board.keep("memory", text)
    elif role == "asks":
        board.read()
        board.sockets()
    else:
        board.rpc.call("supervisor.getAllProcessInfo", idempotent=True)
"""


@contextlib.contextmanager
def busy(site: Supervisord, role: str) -> Iterator[None]:
    """A process that calls supervisord without a pause."""
    text = site.scratch / "text"
    text.write_text(texts_of(WORKERS)["page"])
    with (
        text.open() as stdin,
        subprocess.Popen(
            [sys.executable, "-c", _BUSY, site.server_url, role], stdin=stdin, env=site.environment
        ) as process,
    ):
        try:
            yield
            assert process.poll() is None, "it has ended before it was told to"
        finally:
            process.kill()


def latencies(site: Supervisord, calls: int = 500) -> list[float]:
    """How long each call of supervisor.getState took (s)."""
    with Rpc(site.server_url) as rpc:
        rpc.call("supervisor.getState", idempotent=True)
        all_s = []
        for _ in range(calls):
            began = time.perf_counter()
            rpc.call("supervisor.getState", idempotent=True)
            all_s.append(time.perf_counter() - began)
            time.sleep(0.005)  # so that it meets the others at any point of theirs
    return all_s
