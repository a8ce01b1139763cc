"""``explain``: where a worker is right now, looked at by ourselves; it stops and changes nothing.

The board is asked for what only the listener knows, the verdict and the lag; without a listener, or without the plugin,
these are missing and the rest is there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from supervisor_uvicorn.explain import Explanation, now
from supervisor_uvicorn.kernel import proc
from supervisor_uvicorn.kernel.errors import KernelError
from supervisor_uvicorn.kernel.sock_diag import SockDiag
from supervisor_uvicorn.model import Member, WorkerId
from supervisor_uvicorn.names import chosen
from supervisor_uvicorn.roster import Roster
from supervisor_uvicorn.supervisord.calls import Supervisord
from supervisor_uvicorn.supervisord.rpc import RpcError
from supervisor_uvicorn.verbs.asking import Desk, NoNews
from supervisor_uvicorn.verbs.console import Console
from supervisor_uvicorn.verbs.page import BadPage, read_page


def explain(names: Sequence[str], as_json: bool, supervisord: Supervisord, desk: Desk, console: Console) -> int:
    """0: at least one worker was explained, and a line on ``err`` for each that could not be; 2: none was.

    Raises :class:`NoNews` where its processes cannot be seen from here, :class:`NoSuchName`, :class:`RpcError`.
    """
    members = _members(names, supervisord)
    board = _board(desk)
    living: list[tuple[Member, WorkerId]] = []
    for member in members:
        if (worker := member.worker) is not None:
            living.append((member, worker))
        elif member.pid:
            console.note(f"{member.name}: pid {member.pid} is not shown to this user (/proc is mounted with hidepid)")
        else:
            console.note(f"{member.name}: there is no process, it is {member.state.value}")
    found = now([(worker, member.socket) for member, worker in living])
    seen = [
        (member, _of(board, worker), explanation)
        for (member, worker), explanation in zip(living, found, strict=True)
        if explanation.state
    ]
    for explanation in found:
        if not explanation.state:
            console.note(f"{explanation.worker.name}: pid {explanation.worker.pid} has ended meanwhile")
    if not seen:
        return 2
    if as_json:
        console.say(json.dumps({"workers": [_object(*one) for one in seen]}))
    else:
        console.say("\n\n".join(_text(*one) for one in seen))
    return 0


def _members(names: Sequence[str], supervisord: Supervisord) -> list[Member]:
    pid = supervisord.pid()
    try:
        proc.born(pid)
    except KernelError:
        raise NoNews(
            f"supervisord (pid {pid}) is not on this machine, or in another PID namespace: explain looks at processes, "
            "so run it beside supervisord"
        ) from None
    diag = SockDiag()
    try:
        members = Roster(diag).read(supervisord.processes(), supervisord.configs())
    finally:
        diag.close()
    by_name = {member.name: member for member in members}
    return [by_name[name] for name in chosen(by_name, names)]


def _board(desk: Desk) -> dict[tuple[str, int | None], Mapping[str, Any]]:
    """What a listener that reports has said of each worker, by name and pid; nothing where there is none."""
    try:
        note = desk.read()
        page = read_page(note) if note is not None and note.text else None
    except (RpcError, BadPage):
        return {}
    if page is None or page.stale:
        return {}
    workers = (worker for program in page.body["programs"] for worker in program["workers"])
    return {(worker["name"], worker["pid"]): worker for worker in workers}


def _of(board: Mapping[tuple[str, int | None], Mapping[str, Any]], worker: WorkerId) -> Mapping[str, Any]:
    return board.get((worker.name, worker.pid), {})


def _object(member: Member, said: Mapping[str, Any], explanation: Explanation) -> dict[str, Any]:
    return {
        "name": member.name,
        "pid": member.pid,
        "state": member.state.value,
        "not_watched": member.not_watched,
        "verdict": said.get("verdict"),
        "reason": said.get("reason"),
        "explanation": _with_lag(explanation, said).as_object(),
    }


def _text(member: Member, said: Mapping[str, Any], explanation: Explanation) -> str:
    head = f"{member.name} (pid {member.pid}), {member.state.value}"
    if said.get("verdict"):
        head += f", {said['verdict']}" + (f": {said['reason']}" if said.get("reason") else "")
    if member.not_watched:
        head += f", not watched: {member.not_watched}"
    return "\n  ".join([head, *_with_lag(explanation, said).words().splitlines()])


def _with_lag(explanation: Explanation, said: Mapping[str, Any]) -> Explanation:
    lag_s = said.get("lag_s")
    if not isinstance(lag_s, int | float):
        return explanation
    return replace(explanation, facts=replace(explanation.facts, lag_s=float(lag_s)))
