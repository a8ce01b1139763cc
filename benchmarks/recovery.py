"""How long a hung worker stays, and whether workers that are only busy are left alone: we and the peers, side by side.

Each peer runs the test application on four workers. One worker after another is hung (``hanging``), at each limit that
the peer can be set to; then all are put under loads that no worker must be ended for (``wrong_kills``). Rows of a kind
of hang that burns no CPU run several at a time (``--lanes``), each in a command of its own; everything else alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import ROOT, command, hanging, recovery_tables, wrong_kills
from benchmarks.command import RUN_FAILURES
from benchmarks.environments import Environment
from benchmarks.peers import circus, granian, gunicorn, hypercorn, supervised, uvicorn_workers
from benchmarks.peers.base import Peer, Settings
from benchmarks.report import Report, say

PEERS: list[Peer] = [
    supervised.OURS,
    supervised.OURS_QUICK,
    gunicorn.UVICORN_WORKER,
    gunicorn.OWN_WORKER,
    uvicorn_workers.PEER,
    granian.PEER,
    hypercorn.PEER,
    circus.PEER,
    supervised.HTTPOK,
]
KINDS = ["sleep", "lock", "read", "gil", "spin"]  # of hangs, as the test application has them
BURNS_CPU = {"spin"}
NEVER_RUNS = 3  # enough of what never comes
CAP_LIMITS = 3  # a run is given so many limits, where that is more than the cap: busy_factor 2, and some
MOST_FAILED = 3  # runs of a row, of the benchmark's own or the peer's start, before the row is given up

Run = dict[str, Any]


def main() -> int:
    """0: measured, whatever came out; 1: some run failed (see the file)."""
    command.end_on_term()
    options = _options()
    report = Report("recovery", command.told(options))
    environments = command.prepared([peer for peer in PEERS if peer.name in options.only], options, report)
    peers = [peer for peer in PEERS if peer.name in options.only and peer.environment in environments]
    try:
        if "hang" in options.parts:
            quiet = [kind for kind in options.kinds if kind not in BURNS_CPU]
            if options.lanes > 1 and len(peers) * len(quiet) > 1:
                report.runs += in_lanes([(peer, kind) for kind in quiet for peer in peers], options)
                quiet = []
            for kind in [*quiet, *[kind for kind in options.kinds if kind in BURNS_CPU]]:
                for peer in peers:
                    for run in hangs(peer, environments[peer.environment], kind, options):
                        report.runs.append(run)
        if "wrong" in options.parts:
            for peer in peers:
                for run in wrongs(peer, environments[peer.environment], options):
                    report.runs.append(run)
    except KeyboardInterrupt:
        return command.INTERRUPTED
    finally:
        report.tables = recovery_tables.tables(report.runs)
        command.finish(report, options)
    return 1 if any("error" in run for run in report.runs) else 0


def _options() -> argparse.Namespace:
    parser = command.parser("recovery", __doc__ or "", PEERS)
    parser.add_argument("--parts", nargs="+", choices=["hang", "wrong"], default=["hang", "wrong"])
    parser.add_argument("--runs", type=int, default=10, help="hangs for each row")
    parser.add_argument("--limits", type=float, nargs="+", default=[1, 2, 5, 30], metavar="S", help="in seconds")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["sleep", "spin"], help="of hangs")
    parser.add_argument("--loads", nargs="+", choices=wrong_kills.LOADS, default=list(wrong_kills.LOADS))
    parser.add_argument("--cap", type=float, default=60.0, metavar="S", help="what a hung worker is waited for")
    parser.add_argument("--load-seconds", type=float, default=30.0, metavar="S", help="of each load of the other side")
    parser.add_argument("--lanes", type=int, default=3, help="rows at a time, of hangs that burn no CPU")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="which worker is hung, and when")
    return parser.parse_args()


# --- a worker is hung -----------------------------------------------------------------------------------------------


def hangs(peer: Peer, environment: Environment, kind: str, options: argparse.Namespace) -> Iterator[Run]:
    """Every run of this peer and kind. A limit at which nothing was replaced makes the longer ones needless."""
    for limit_s in _limits(peer, options):
        row = {"part": "hang", "peer": peer.name, "title": peer.title, "kind": kind, "limit_s": limit_s}
        if limit_s is not None and (why := peer.refuses(limit_s)):
            yield {**row, "refused": why}
            continue
        chance = random.Random(f"{options.seed} {peer.name} {kind} {limit_s}")
        cap_s = max(options.cap, CAP_LIMITS * (limit_s or 0))
        runs: list[Run] = []
        for run in _row(peer, environment, kind, limit_s, options.runs, cap_s, chance):
            say(f"recovery: {peer.name}, {kind}, limit {_limit(limit_s)}, run {len(runs) + 1}: {_short(run)}")
            runs.append(run)
            yield {**row, "cap_s": cap_s, **run}
        if runs and all("error" not in run and run["serving_s"] is None for run in runs):
            return


def _row(
    peer: Peer,
    environment: Environment,
    kind: str,
    limit_s: float | None,
    wanted: int,
    cap_s: float,
    chance: random.Random,
) -> Iterator[Run]:
    """One site as long as it is well, in which one worker after the other is hung; a new one if one stays hung."""
    done = failed = 0
    while done < wanted and failed < MOST_FAILED:
        try:
            with peer.running(environment, Settings(limit_s=limit_s)) as site:
                while done < wanted:
                    run = hanging.hang(site, kind, cap_s, chance)
                    done += 1
                    if run["serving_s"] is None:
                        wanted = min(wanted, NEVER_RUNS)
                    yield run
                    if run["serving_s"] is None:
                        break
        except RUN_FAILURES as error:
            failed += 1
            yield {"error": f"{type(error).__name__}: {error}"}


def _limits(peer: Peer, options: argparse.Namespace) -> Sequence[float | None]:
    return sorted(options.limits) if peer.has_limit else [None]


def _limit(limit_s: float | None) -> str:
    return "none to set" if limit_s is None else f"{limit_s:g} s"


def _short(run: Run) -> str:
    if "error" in run:
        return f"FAILED: {run['error']}"
    if run["serving_s"] is None:
        return f"not replaced (gone after {run['gone_s']} s)" if run["gone_s"] else "never"
    return f"new pid after {run['new_pid_s']:.2f} s, serving after {run['serving_s']:.2f} s, {run['others']} others"


# --- several at a time ----------------------------------------------------------------------------------------------


def in_lanes(rows: Sequence[tuple[Peer, str]], options: argparse.Namespace) -> list[Run]:
    """Each row in a command like this one, so many at a time; their runs. All are ended with us."""
    waiting, found = list(rows), []
    under_way: list[tuple[subprocess.Popen[bytes], Path, Peer, str]] = []
    with tempfile.TemporaryDirectory(prefix="su-lanes-") as scratch:
        try:
            while waiting or under_way:
                while waiting and len(under_way) < options.lanes:
                    peer, kind = waiting.pop(0)
                    path = Path(scratch) / f"{peer.name}-{kind}.json"
                    under_way.append((subprocess.Popen(_lane(peer, kind, path, options), cwd=ROOT), path, peer, kind))
                for lane in [lane for lane in under_way if lane[0].poll() is not None]:
                    under_way.remove(lane)
                    found += _runs_of(*lane)
                time.sleep(0.2)
        finally:
            for process, *_ in under_way:
                process.send_signal(signal.SIGTERM)
            for process, *_ in under_way:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(60)
    order = [(peer.name, kind) for peer, kind in rows]
    return sorted(found, key=lambda run: order.index((run["peer"], run["kind"])))


def _lane(peer: Peer, kind: str, path: Path, options: argparse.Namespace) -> list[str]:
    words = [
        sys.executable,
        "-m",
        "benchmarks.recovery",
        "--lane",
        "--parts",
        "hang",
        "--lanes",
        "1",
        "--json",
        str(path),
    ]
    words += ["--only", peer.name, "--kinds", kind, "--runs", str(options.runs), "--seed", str(options.seed)]
    words += ["--cap", str(options.cap), "--cache", str(options.cache)]
    return [*words, "--limits", *map(str, options.limits)]


def _runs_of(process: subprocess.Popen[bytes], path: Path, peer: Peer, kind: str) -> list[Run]:
    try:
        runs = [run for run in json.loads(path.read_text())["runs"] if run.get("part") == "hang"]
    except (OSError, ValueError, KeyError) as error:
        row = {"part": "hang", "peer": peer.name, "title": peer.title, "kind": kind, "limit_s": None}
        return [{**row, "error": f"exit code {process.returncode}, {error!r}"}]
    return runs


# --- nobody is to be ended ------------------------------------------------------------------------------------------


def wrongs(peer: Peer, environment: Environment, options: argparse.Namespace) -> Iterator[Run]:
    """Every load at every limit; nothing of a peer that has no check: it ends nobody."""
    if not peer.has_limit:
        return
    for load in options.loads:
        for limit_s in sorted(options.limits):
            row = {"part": "wrong", "peer": peer.name, "title": peer.title, "load": load, "limit_s": limit_s}
            if why := peer.refuses(limit_s):
                yield {**row, "refused": why}
                continue
            try:
                with peer.running(environment, Settings(limit_s=limit_s)) as site:
                    run = wrong_kills.count(site, load, limit_s, options.load_seconds)
            except RUN_FAILURES as error:
                run = {"error": f"{type(error).__name__}: {error}"}
            told = run.get("error") or f"{run['ended']} ended, {run['requests']} requests, busy {run['busy']}"
            say(f"recovery: {peer.name}, {load}, limit {_limit(limit_s)}: {told}")
            yield {**row, **run}


if __name__ == "__main__":
    sys.exit(main())
