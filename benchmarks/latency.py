"""Requests a second and latency: what being watched costs, and the recipe beside ``uvicorn --port`` and gunicorn.

Four parts. ``watched``: one running site under one run of wrk, whose listener is stopped (SIGSTOP) for one slice of
each pair and goes on (SIGCONT) for the other; nothing else differs, neither processes nor connections. ``latency``: the
same with a run of wrk for each slice, which tells percentiles. ``beside``: all servers with four workers, one after the
other in each round, in another order each time. ``keepalive``: as beside, with one worker and one connection.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.supervisord import SERVE, Program, Supervisord
from harness.waiting import wait_for

from benchmarks import command, latency_tables, wrk
from benchmarks.environments import CACHE, Environment
from benchmarks.paired import orders
from benchmarks.peers import gunicorn, supervised, uvicorn_workers
from benchmarks.peers.base import Peer, Settings, wait_answer
from benchmarks.recipe import cpu_s, recipe
from benchmarks.report import Report, say

Run = dict[str, Any]

PARTS = ("watched", "latency", "beside", "keepalive")
PAIRS_A_RUN = 30  # of wrk; the next one has other connections, spread otherwise over the workers
PEERS: Sequence[Peer] = (supervised.OURS, uvicorn_workers.PEER, gunicorn.UVICORN_WORKER)


@dataclasses.dataclass(frozen=True)
class Variant:
    """How the recipe is watched. ``listen``: the options of the listener; None: there is none, ever."""

    title: str
    listen: str | None
    plugin: bool = True


VARIANTS: Mapping[str, Variant] = {
    "nobody": Variant("nobody, in both slices", None),  # what this method sees where there is nothing to be seen
    "pulse-1": Variant("pulse 1 s", ""),
    "pulse-0.2": Variant("pulse 0.2 s", "--pulse 0.2"),
    "path": Variant("pulse 1 s, --path", "--path /pid"),
    "path-0.2": Variant("pulse 0.2 s, --path", "--pulse 0.2 --path /pid"),
    "bare": Variant("pulse 1 s, without the rpcinterface", "", plugin=False),
}


def main() -> int:
    """0: measured, whatever came out; 1: some run failed (see the file); 2: there is no wrk."""
    command.end_on_term()
    options = _options()
    try:
        wrk_version = wrk.version()
    except wrk.NoWrk as missing:
        say(str(missing))
        return 2
    report = Report("latency", command.told(options))
    report.versions["wrk"] = {"wrk": wrk_version}
    try:
        environments = command.prepared(PEERS, options, report)
        ours = environments.get(supervised.OURS.environment)
        if {"watched", "latency"} & set(options.parts) and ours is not None:
            for name in options.only:
                for run in watched(name, ours, options):
                    report.runs.append(run)
        for part in ("beside", "keepalive"):
            if part in options.parts:
                for run in side_by_side(part, environments, options):
                    report.runs.append(run)  # one by one: on Ctrl-C those that were made are kept
    except KeyboardInterrupt:
        return command.INTERRUPTED
    finally:
        report.tables = latency_tables.tables(report.runs, {name: one.title for name, one in VARIANTS.items()})
        command.finish(report, options)
    return 1 if any("error" in run for run in report.runs) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.latency",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where tables and every single run are written to")
    parser.add_argument("--cache", type=Path, default=CACHE, help="directory of the peers' environments")
    parser.add_argument("--fresh", action="store_true", help="make them anew, with the newest versions")
    parser.add_argument(
        "--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="WAY",
        help="of being watched, among " + ", ".join(VARIANTS),
    )  # fmt: skip
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--pairs", type=int, default=120, help="of slices, of the part watched")
    parser.add_argument("--slice", type=float, default=1.0, metavar="S", help="in seconds, of the part watched")
    parser.add_argument("--rounds", type=int, default=12, help="through all servers, and pairs of the part latency")
    parser.add_argument("--seconds", type=int, default=3, metavar="S", help="of one run of wrk, in the other parts")
    parser.add_argument("--connections", type=int, default=32, help="kept alive, each with one request at a time")
    parser.add_argument("--workers", type=int, default=4, help="of each server, but for the part keepalive")
    parser.set_defaults(lane=False)
    return parser.parse_args()


# --- watched, and not ---------------------------------------------------------------------------------------------


def watched(name: str, environment: Environment, options: argparse.Namespace) -> Iterator[Run]:
    """Pairs of slices on one site. One that fails is a run with ``error``; so is a site that does not come up."""
    variant = VARIANTS[name]
    base: Run = {"variant": name}
    program = Program(numprocs=options.workers, uvicorn="--no-access-log")
    began = time.monotonic()
    try:
        with recipe(environment, program, plugin=variant.plugin, listen=variant.listen) as site:
            listener = _Listener(site if variant.listen is not None else None)
            wrk.run(site.url(), options.connections, 2)  # the first requests of a process are dearer
            if "watched" in options.parts:
                yield from throughput(base | {"part": "watched"}, site, listener, options)
            if "latency" in options.parts:
                yield from latency(base | {"part": "latency"}, site, listener, options)
            listener.let_run(True)
            if listener.pid is not None and (site.listener_pid() != listener.pid or site.events("restart")):
                raise AssertionError(f"the listener ended or acted: {site.events('restart')[:3]}")
    except command.RUN_FAILURES as error:
        yield {**base, "part": "watched", "error": f"{type(error).__name__}: {error}"}
        say(f"watched {name}: {error}")
    say(f"watched {name}: {time.monotonic() - began:.0f} s")


class _Listener:
    """The one of a site, stopped and continued by its pid; without a site it is nobody."""

    def __init__(self, site: Supervisord | None) -> None:
        self.pid = site.listener_pid() if site is not None else None

    def let_run(self, on: bool) -> None:
        """What it has missed it does at once when it goes on: that is a part of the slice, on the dear side."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGCONT if on else signal.SIGSTOP)

    def cpu_s(self) -> float:
        """Taken so far, in seconds."""
        return cpu_s(self.pid) if self.pid is not None else 0.0


def throughput(base: Run, site: Supervisord, listener: _Listener, options: argparse.Namespace) -> Iterator[Run]:
    """Slices of one run of wrk."""
    left = list(enumerate(orders(options.pairs)))
    while left:
        these, left = left[:PAIRS_A_RUN], left[PAIRS_A_RUN:]
        duration_s = math.ceil(len(these) * 2 * options.slice) + 5
        with wrk.running(site.url(), options.connections, duration_s) as load:
            wait_for(functools.partial(_flows, load), 10, "requests")
            for pair, order in these:
                for on in order:
                    listener.let_run(on)
                    yield base | {"pair": pair, "watched": on} | _slice(site, listener, load, options.slice)
            ended = load.result()
        yield base | {"run_of_wrk": True, "failed": ended.failed, "per_second_in_all": round(ended.per_second, 1)}
        done = options.pairs - len(left)
        say(f"{base['part']} {base['variant']}, {done} of {options.pairs} pairs: {ended.per_second:.0f} a second")


def _flows(load: wrk.Running) -> bool:
    return load.requests() > 1000


def _slice(site: Supervisord, listener: _Listener, load: wrk.Running, slice_s: float) -> Run:
    assert site.process is not None
    servers = [site.process.pid, *site.pids("web").values()]
    if listener.pid is not None:
        servers.append(listener.pid)

    def reading() -> tuple[float, float, float, float]:
        return time.monotonic(), load.requests(), sum(map(cpu_s, servers)), listener.cpu_s()

    before = reading()
    time.sleep(slice_s)
    after = reading()
    seconds, requests, all_s, own_s = (late - early for early, late in zip(before, after, strict=True))
    if not requests:
        raise AssertionError("no request in a whole slice")
    return {
        "per_second": round(requests / seconds, 1),
        "server_cpu_us_a_request": round(1e6 * all_s / requests, 3),
        "listener_cpu_percent": round(100 * own_s / seconds / len(os.sched_getaffinity(0)), 4),
    }


def latency(base: Run, site: Supervisord, listener: _Listener, options: argparse.Namespace) -> Iterator[Run]:
    """A run of wrk for each slice."""
    for pair, order in enumerate(orders(options.rounds)):
        for on in order:
            run = base | {"pair": pair, "watched": on}
            listener.let_run(on)
            try:
                run |= wrk.run(site.url(), options.connections, options.seconds).as_json()
            except command.RUN_FAILURES as error:
                run["error"] = f"{type(error).__name__}: {error}"
            yield run
            what = f"{base['part']} {base['variant']}, pair {pair + 1} of {options.rounds}"
            _progress(f"{what}, {'with' if on else 'without'}", run)


# --- side by side -------------------------------------------------------------------------------------------------


def side_by_side(part: str, environments: Mapping[str, Environment], options: argparse.Namespace) -> Iterator[Run]:
    """Rounds through all servers, which are up all the time: an idle one wakes ten times a second for each worker."""
    workers, connections = (options.workers, options.connections) if part == "beside" else (1, 1)
    with contextlib.ExitStack() as stack:
        urls: dict[str, str] = {}
        for name, start in _servers(environments, workers).items():
            try:
                urls[name] = start(stack)
                wait_answer(urls[name])
                wrk.run(urls[name], connections, 1)
                say(f"{part}: {name} is up")
            except command.RUN_FAILURES as error:
                urls.pop(name, None)
                yield {"part": part, "server": name, "error": f"does not start: {error}"}
                say(f"{part}: {name} does not start: {error}")
        names = list(urls)
        for number in range(options.rounds):
            turned = names[number % len(names) :] + names[: number % len(names)] if names else []
            for name in turned if number % 2 == 0 else reversed(turned):
                run: Run = {"part": part, "server": name, "round": number}
                try:
                    run |= wrk.run(urls[name], connections, options.seconds).as_json()
                except command.RUN_FAILURES as error:
                    run["error"] = f"{type(error).__name__}: {error}"
                yield run
                _progress(f"{part}, round {number + 1} of {options.rounds}, {name}", run)


Start = Callable[[contextlib.ExitStack], str]


def _servers(environments: Mapping[str, Environment], workers: int) -> dict[str, Start]:
    """Name -> what starts it and gives its URL; those whose environment is there."""
    found: dict[str, Start] = {}

    def ours(listen: str | None, plugin: bool, module: str = "uvicorn") -> Start:
        program = Program(numprocs=workers, module=module, uvicorn="--no-access-log")
        environment = environments[supervised.OURS.environment]

        def start(stack: contextlib.ExitStack) -> str:
            return stack.enter_context(recipe(environment, program, plugin=plugin, listen=listen)).url()

        return start

    def peer(which: Peer) -> Start:
        def start(stack: contextlib.ExitStack) -> str:
            settings = Settings(workers=workers)
            return stack.enter_context(which.running(environments[which.environment], settings)).url

        return start

    if uvicorn_workers.PEER.environment in environments:
        found[latency_tables.PORT] = peer(uvicorn_workers.PEER)
    if supervised.OURS.environment in environments:
        found["recipe (--fd 0)"] = ours(None, plugin=False)
        found["recipe, rpcinterface"] = ours(None, plugin=True)
        found["recipe, watched"] = ours("", plugin=False)
        found["recipe, rpcinterface, watched"] = ours("", plugin=True)
        found["serve, watched"] = ours("", plugin=False, module=SERVE)
    if gunicorn.UVICORN_WORKER.environment in environments:
        found["gunicorn, uvicorn-worker"] = peer(gunicorn.UVICORN_WORKER)
    return found


def _progress(what: str, run: Run) -> None:
    told = run.get("error") or "{per_second:.0f} a second, p50 {p50_ms:.3f} ms, failed {failed}".format(**run)
    say(f"{what}: {told}")


if __name__ == "__main__":
    sys.exit(main())
