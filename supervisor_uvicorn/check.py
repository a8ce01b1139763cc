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
from .model import Answer, Member, Verdict
from .names import NoSuchName, chosen
from .probe.pins import Pins
from .report.page import glance
from .report.table import table, well
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
    """The members that NAMEs mean. Raises :class:`_CannotLook` for a NAME that means nobody."""
    by_name = {member.name: member for member in members}
    try:
        return [by_name[name] for name in chosen(by_name, names)]
    except NoSuchName as error:
        raise _CannotLook(str(error)) from None


def report(members: Sequence[Member], pasts: Mapping[str, Past]) -> dict[str, Any]:
    """The JSON object of the design, section 5."""
    return glance(members, {name: _at_once(past) for name, past in pasts.items()})


def _at_once(past: Past) -> Past:
    """One wrong answer is all that a single look will see."""
    if (
        past.verdict in (Verdict.HEALTHY, Verdict.UNKNOWN)
        and past.http is not None
        and past.http.answer is Answer.WRONG
    ):
        return replace(past, verdict=Verdict.FAILING, reason=past.http.reason)
    return past
