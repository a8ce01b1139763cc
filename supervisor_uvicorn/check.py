"""The ``check`` verb: one live look of about a second, by itself, that changes nothing.

It sees with the listener's own eyes (roster, pins, pulse, ticks, HTTP probe) and needs no listener. What it cannot know
from one second, it does not say: a program's state, since when, and how many restarts are null in its JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .find_supervisord import NotFound, rpc_from
from .kernel import proc
from .kernel.errors import KernelError
from .kernel.sock_diag import SockDiag
from .model import Answer, Member, State, Verdict
from .probe.pins import Pins
from .report.log import one_line
from .roster import Roster
from .settings import ListenSettings, SettingsError, load
from .supervisord.calls import Supervisord
from .supervisord.preflight import explain_failure
from .supervisord.rpc import RpcError
from .verdict import Past
from .watch import Snapshot, Watch, workers

LOOK_S = 1.2  # long enough for a second of ticks, short enough for three seconds with everything else
SILENT_S = 0.9  # what did not turn in all of the look but its first moments
LONGEST_LOOK_S = 2.3  # for one that hung in the middle of the look: 3 s with everything else are kept
STEP_S = 0.1


class _CannotLook(Exception):  # noqa: N818 - it reads as what it is
    """Exit code 2, and why."""


def run(args: argparse.Namespace, env: Mapping[str, str] = os.environ) -> int:
    """0: all healthy; 1: not, or not proven; 2: could not look, with a line on stderr that says why."""
    try:
        settings = load(args)
        with rpc_from(args, env) as rpc:
            members, pasts = _look(Supervisord(rpc), settings, args.names)
    except (SettingsError, NotFound, _CannotLook) as error:
        return _cannot(str(error))
    except RpcError as error:
        return _cannot(explain_failure(error))
    page = report(members, pasts)
    if args.json:
        print(json.dumps(page))
    else:
        print(table(page), end="")
    return 0 if well(page) else 1


def _cannot(why: str) -> int:
    print(f"supervisor-uvicorn check: {why}", file=sys.stderr)
    return 2


def _look(
    supervisord: Supervisord, settings: ListenSettings, names: Sequence[str]
) -> tuple[list[Member], Mapping[str, Past]]:
    pid = supervisord.pid()
    try:
        proc.born(pid)
    except KernelError:
        raise _CannotLook(
            f"supervisord (pid {pid}) is not on this machine, or in another PID namespace: check looks at "
            "processes, so run it beside supervisord"
        ) from None
    roster = Roster(SockDiag())
    started = time.monotonic()
    configs = supervisord.configs()
    members = _chosen(roster.read(supervisord.processes(), configs), names)
    sharp = replace(settings.general, silent_after_s=SILENT_S, busy_factor=1.0, dry_run=True)
    pins = Pins(SockDiag(), time.monotonic, _in_a_thread)
    watch = Watch(replace(settings, general=sharp, by_group={}), pins)
    asked = False
    until = started + LOOK_S
    try:
        while (now := time.monotonic()) < until or (now - started < LONGEST_LOOK_S and _late(watch)):
            if roster.unsettled:
                members = _chosen(roster.read(supervisord.processes(), configs), names)
            ask = sharp.path is not None and not asked and now - started > LOOK_S / 3
            if ask:
                asked, until = True, now + max(LOOK_S, sharp.timeout_s + 2 * STEP_S)
            watch.look(now, Snapshot(tuple(members), now), full=ask, due_s=STEP_S)
            if asked and not ask and _all_answered(watch) and now - started > LOOK_S:
                break
            time.sleep(STEP_S)
    finally:
        pins.close()
    return members, workers(watch.ledger)


def _in_a_thread(job: Callable[[], None]) -> None:
    threading.Thread(target=job, daemon=True).start()


def _all_answered(watch: Watch) -> bool:
    return all(past.http is not None for past in workers(watch.ledger).values() if past.pinned)


def _late(watch: Watch) -> bool:
    """Has somebody's loop not turned, and not for long enough yet to say that it hangs?"""
    return any(past.late and past.verdict is not Verdict.SILENT for past in workers(watch.ledger).values())


def _chosen(members: Sequence[Member], names: Sequence[str]) -> list[Member]:
    """The members that NAMEs mean, as supervisorctl reads them; raises for a NAME that means nobody."""
    if not names or "all" in names:
        return list(members)
    chosen = []
    for name in names:
        group, _, process = name.partition(":")
        matching = [
            member for member in members if member.name == name or (member.group == group and process in ("", "*"))
        ]
        if not matching:
            known = ", ".join(sorted({member.group for member in members})) or "none"
            raise _CannotLook(f"{name}: no such uvicorn worker or program (programs here: {known})")
        chosen += [member for member in matching if member not in chosen]
    return chosen


# -- what is shown ---------------------------------------------------------------------------------------------------


def report(members: Sequence[Member], pasts: Mapping[str, Past]) -> dict[str, Any]:
    """The JSON object of the design, section 5."""
    programs: dict[str, dict[str, Any]] = {}
    sockets: dict[str, set[str]] = {}
    for member in members:
        program = programs.setdefault(
            member.group, {"name": member.group, "socket": None, "state": None, "workers": []}
        )
        if member.socket is not None:
            sockets.setdefault(member.group, set()).add(str(member.socket))
            program["socket"] = ", ".join(sorted(sockets[member.group]))
        program["workers"].append(_worker(member, pasts.get(member.name)))
    return {"age_s": 0.0, "programs": list(programs.values())}


def _worker(member: Member, past: Past | None) -> dict[str, Any]:
    verdict, reason = (past.verdict, past.reason) if past else (Verdict.UNKNOWN, member.not_watched)
    http = past.http if past else None
    if verdict in (Verdict.HEALTHY, Verdict.UNKNOWN) and http is not None and http.answer is Answer.WRONG:
        verdict, reason = Verdict.FAILING, http.reason
    return {
        "name": member.name,
        "pid": member.pid or None,
        "state": member.state.value,
        "watched": not member.not_watched,
        "verdict": verdict.value,
        "reason": reason,
        "lag_s": past.lag_s if past else None,
        "http": {"status": http.status, "seconds": round(http.seconds, 6)} if http else None,
        "since_s": None,
        "restarts": None,
    }


def well(page: Mapping[str, Any]) -> bool:
    """Is every worker that should exist healthy? Where there is none, nothing is proven."""
    counted = [
        worker
        for program in page["programs"]
        for worker in program["workers"]
        if worker["state"] != State.STOPPED.value
    ]
    return bool(counted) and all(worker["verdict"] == Verdict.HEALTHY.value for worker in counted)


def table(page: Mapping[str, Any]) -> str:
    """The same for people: a line a worker."""
    rows = [("NAME", "PID", "STATE", "VERDICT", "LAG", "HTTP", "REASON")]
    for program in page["programs"]:
        for worker in program["workers"]:
            http = worker["http"]
            rows.append(
                (
                    worker["name"],
                    str(worker["pid"] or "-"),
                    worker["state"],
                    worker["verdict"] if worker["watched"] else "not watched",
                    "-" if worker["lag_s"] is None else _duration(worker["lag_s"]),
                    "-" if http is None else str(http["status"] or "none"),
                    one_line(worker["reason"]),
                )
            )
    if len(rows) == 1:
        return "no uvicorn worker found\n"
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
    ]
    return "".join(line.rstrip() + "\n" for line in lines)


def _duration(seconds: float) -> str:
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} us"
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
