"""What the commands have in common: options, environments made before anything is measured, a clean end."""

from __future__ import annotations

import argparse
import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.environments import CACHE, CannotInstall, Environment, prepare
from benchmarks.peers.base import Peer, Unwell
from benchmarks.report import Report, commit, say
from supervisor_uvicorn.kernel.errors import KernelError

# What may go wrong in one run without being the benchmark's own fault: it is recorded, and the next run begins.
RUN_FAILURES = (
    Unwell,
    AssertionError,  # of the harness: something did not come in time
    KernelError,
    OSError,
    RuntimeError,
    http.client.HTTPException,
    subprocess.SubprocessError,
)

INTERRUPTED = 128 + signal.SIGINT  # the exit code, as of a shell


def parser(name: str, description: str, peers: Iterable[Peer]) -> argparse.ArgumentParser:
    """With the options that each of them has."""
    names = [peer.name for peer in peers]
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="where tables and every single run are written to")
    made.add_argument(
        "--only", nargs="+", choices=names, default=names, metavar="PEER", help="among " + ", ".join(names)
    )
    made.add_argument("--cache", type=Path, default=CACHE, help="directory of the peers' environments")
    made.add_argument("--fresh", action="store_true", help="make them anew, with the newest versions")
    made.add_argument("--resume", action="store_true", help="keep the rows that are in the --json file, do the others")
    made.add_argument("--lane", action="store_true", help=argparse.SUPPRESS)  # started by another one, which tells all
    return made


def end_on_term() -> None:
    """SIGTERM ends the command as Ctrl-C does, through every clean-up, which no second signal breaks off.

    Without that a lane would be hit twice: by the terminal's Ctrl-C, and by the command that started it and ends.
    """

    def end(number: int, _: FrameType | None) -> None:
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, signal.SIG_IGN)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)

    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, end)


def prepared(peers: Iterable[Peer], options: argparse.Namespace, report: Report) -> dict[str, Environment]:
    """Environment by name; one that cannot be made is told, recorded, and left out."""
    made: dict[str, Environment] = {}
    refused: set[str] = set()
    for peer in peers:
        if peer.environment in made or peer.environment in refused:
            continue
        try:
            environment = prepare(peer.environment, peer.requirements, options.cache, fresh=options.fresh)
        except (CannotInstall, OSError, subprocess.SubprocessError) as error:
            say(f"{peer.environment}: cannot be installed: {error}")
            report.runs.append({"environment": peer.environment, "error": f"cannot be installed: {error}"})
            refused.add(peer.environment)
            continue
        made[peer.environment] = environment
        report.versions[peer.environment] = environment.versions
        if not options.lane:
            say(f"{peer.environment}: " + versions(peer, environment.versions))
    return made


def versions(peer: Peer, installed: dict[str, str]) -> str:
    """Of what was asked for, in one line."""
    asked = [one.partition("[")[0].lower() for one in peer.requirements]
    return ", ".join(f"{one} {installed.get(one, '?')}" for one in asked)


def resume(report: Report, options: argparse.Namespace) -> None:
    """With ``--resume`` the runs of before that did not fail; a benchmark skips the rows that they make."""
    if not options.resume or options.json is None or not options.json.exists():
        return
    before = json.loads(options.json.read_text())
    if before["commit"] != commit():
        say(f"kept runs are of commit {before['commit']}, this is {commit()}")
    report.runs = [{"commit": before["commit"], **run} for run in before["runs"] if "error" not in run]
    report.versions = before["versions"]
    report.began = before["began"]


def told(options: argparse.Namespace) -> dict[str, Any]:
    """The options that change what is measured; paths of this machine are nobody's business."""
    return {
        key: value for key, value in vars(options).items() if key not in {"json", "cache", "fresh", "lane", "resume"}
    }


def save(report: Report, options: argparse.Namespace) -> None:
    """What there is so far, in case that no more comes; nothing without ``--json``."""
    if options.json is not None:
        report.write(options.json)


def finish(report: Report, options: argparse.Namespace) -> None:
    """Tables to stdout, all of it to the file."""
    save(report, options)
    if options.lane:
        return
    report.print()
    if options.json is not None:
        say(f"written: {options.json}")
