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
from collections.abc import Iterator, Mapping, Sequence
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
    command.resume(report, options)
    environments = command.prepared([peer for peer in PEERS if peer.name in options.only], options, report)
    peers = [peer for peer in PEERS if peer.name in options.only and peer.environment in environments]
    try:
        for runs in _rows(peers, environments, report.runs[:], options):
            report.runs += runs
            _save(report, options)
    except KeyboardInterrupt:
        return command.INTERRUPTED
    finally:
        _save(report, options)
        command.finish(report, options)
    return 1 if any("error" in run for run in report.runs) else 0


def _rows(
    peers: Sequence[Peer], environments: Mapping[str, Environment], kept: Sequence[Run], options: argparse.Namespace
) -> Iterator[list[Run]]:
    """Everything that is to be measured, and what came of it, a part at a time."""
    if "hang" in options.parts:
        rows = [(peer, kind) for kind in options.kinds for peer in peers if missing(peer, kind, options, kept)]
        quiet = [row for row in rows if row[1] not in BURNS_CPU]
        if options.lanes > 1 and len(quiet) > 1:
            yield from in_lanes(quiet, kept, options)
            rows = [row for row in rows if row not in quiet]
        for peer, kind in rows:
            for limit_s in missing(peer, kind, options, kept):
                runs = list(hangs(peer, environments[peer.environment], kind, limit_s, options))
                yield runs
                if _never(runs):  # which makes the longer ones needless
                    break
    if "wrong" in options.parts:
        for peer in peers:
            yield from ([run] for run in wrongs(peer, environments[peer.environment], kept, options))


def _save(report: Report, options: argparse.Namespace) -> None:
    """In the order of the peers, whichever was through first."""
    names = [peer.name for peer in PEERS]
    report.runs.sort(key=lambda run: (names.index(run["peer"]), run["limit_s"] or 0) if "peer" in run else (-1, 0))
    report.tables = recovery_tables.tables(report.runs)
    command.save(report, options)


def _options() -> argparse.Namespace:
    parser = command.parser("recovery", __doc__ or "", PEERS)
    parser.add_argument("--parts", nargs="+", choices=["hang", "wrong"], default=["hang", "wrong"])
    parser.add_argument("--runs", type=int, default=10, help="hangs for each row")
    parser.add_argument("--limits", type=float, nargs="+", default=[1, 2, 5, 30], metavar="S", help="in seconds")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["sleep", "gil", "spin"], help="of hangs")
    parser.add_argument("--loads", nargs="+", choices=wrong_kills.LOADS, default=list(wrong_kills.LOADS))
    parser.add_argument("--cap", type=float, default=60.0, metavar="S", help="what a hung worker is waited for")
    parser.add_argument("--load-seconds", type=float, default=30.0, metavar="S", help="of each load of the other side")
    parser.add_argument("--lanes", type=int, default=3, help="rows at a time, of hangs that burn no CPU")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="which worker is hung, and when")
    return parser.parse_args()


# --- a worker is hung -----------------------------------------------------------------------------------------------


def missing(peer: Peer, kind: str, options: argparse.Namespace, kept: Sequence[Run]) -> list[float | None]:
    """The limits at which this is still to be measured: none behind one at which nothing was replaced."""
    wanted = []
    for limit_s in sorted(options.limits) if peer.has_limit else [None]:
        row = ("hang", peer.name, kind, limit_s)
        had = [run for run in kept if (run.get("part"), run.get("peer"), run.get("kind"), run.get("limit_s")) == row]
        if _never(had):
            break
        if len(had) < options.runs and not any("refused" in run for run in had):
            wanted.append(limit_s)
    return wanted


def _never(runs: Sequence[Run]) -> bool:
    return bool(runs) and all(run.get("serving_s", 0) is None for run in runs)  # a failed run has no such time at all


def hangs(
    peer: Peer, environment: Environment, kind: str, limit_s: float | None, options: argparse.Namespace
) -> Iterator[Run]:
    """Every run of one row."""
    row = {"part": "hang", "peer": peer.name, "title": peer.title, "kind": kind, "limit_s": limit_s}
    if limit_s is not None and (why := peer.refuses(limit_s)):
        yield {**row, "refused": why}
        return
    chance = random.Random(f"{options.seed} {peer.name} {kind} {limit_s}")
    cap_s = max(options.cap, CAP_LIMITS * (limit_s or 0))
    for number, run in enumerate(_row(peer, environment, kind, limit_s, options.runs, cap_s, chance), 1):
        say(f"recovery: {peer.name}, {kind}, limit {_limit(limit_s)}, run {number}: {_short(run)}")
        yield {**row, "cap_s": cap_s, **run}


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


def _limit(limit_s: float | None) -> str:
    return "none to set" if limit_s is None else f"{limit_s:g} s"


def _short(run: Run) -> str:
    if "error" in run:
        return f"FAILED: {run['error']}"
    if run["serving_s"] is None:
        return f"not replaced (gone after {run['gone_s']} s)" if run["gone_s"] else "never"
    return f"new pid after {run['new_pid_s']:.2f} s, serving after {run['serving_s']:.2f} s, {run['others']} others"


# --- several at a time ----------------------------------------------------------------------------------------------


def in_lanes(rows: Sequence[tuple[Peer, str]], kept: Sequence[Run], options: argparse.Namespace) -> Iterator[list[Run]]:
    """Each row in a command like this one, so many at a time; the runs of each. All are ended with us."""
    waiting = list(rows)
    under_way: list[tuple[subprocess.Popen[bytes], Path, Peer, str]] = []
    with tempfile.TemporaryDirectory(prefix="su-lanes-") as scratch:
        try:
            while waiting or under_way:
                while waiting and len(under_way) < options.lanes:
                    peer, kind = waiting.pop(0)
                    path = Path(scratch) / f"{peer.name}-{kind}.json"
                    words = _lane(peer, kind, missing(peer, kind, options, kept), path, options)
                    under_way.append((subprocess.Popen(words, cwd=ROOT), path, peer, kind))
                for lane in [lane for lane in under_way if lane[0].poll() is not None]:
                    under_way.remove(lane)
                    yield _runs_of(*lane)
                time.sleep(0.2)
        finally:
            for process, *_ in under_way:
                process.send_signal(signal.SIGTERM)
            for process, *_ in under_way:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(60)


def _lane(
    peer: Peer, kind: str, limits_s: Sequence[float | None], path: Path, options: argparse.Namespace
) -> list[str]:
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
    return [*words, "--limits", *[str(limit_s or 0) for limit_s in limits_s]]  # 0: it has none, and is not asked


def _runs_of(process: subprocess.Popen[bytes], path: Path, peer: Peer, kind: str) -> list[Run]:
    try:
        runs = [run for run in json.loads(path.read_text())["runs"] if run.get("part") == "hang"]
    except (OSError, ValueError, KeyError) as error:
        row = {"part": "hang", "peer": peer.name, "title": peer.title, "kind": kind, "limit_s": None}
        return [{**row, "error": f"exit code {process.returncode}, {error!r}"}]
    return runs


# --- nobody is to be ended ------------------------------------------------------------------------------------------


def wrongs(peer: Peer, environment: Environment, kept: Sequence[Run], options: argparse.Namespace) -> Iterator[Run]:
    """Every load at every limit; nothing of a peer that has no check: it ends nobody."""
    if not peer.has_limit:
        return
    for load in options.loads:
        for limit_s in sorted(options.limits):
            row = {"part": "wrong", "peer": peer.name, "title": peer.title, "load": load, "limit_s": limit_s}
            if any(row.items() <= run.items() for run in kept):
                continue
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
