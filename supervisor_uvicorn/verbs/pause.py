"""``pause`` and ``resume``: the listener watches and reports on, and acts no more, until it may again."""

from __future__ import annotations

from collections.abc import Sequence

from supervisor_uvicorn.report.log import one_line
from supervisor_uvicorn.supervisord.request import Request
from supervisor_uvicorn.verbs.asking import Desk, Poll, answer, send
from supervisor_uvicorn.verbs.console import Console


def pause(names: Sequence[str], for_s: float | None, ident: str, desk: Desk, console: Console) -> int:
    """0. Raises :class:`NoNews` where it is refused or nobody answers, and :class:`RpcError`."""
    return _ask(Request(ident, "pause", tuple(names), for_s), desk, console)


def resume(names: Sequence[str], ident: str, desk: Desk, console: Console) -> int:
    """0. It also ends ``suspended``. Raises as :func:`pause`."""
    return _ask(Request(ident, "resume", tuple(names)), desk, console)


def _ask(request: Request, desk: Desk, console: Console) -> int:
    send(desk, console, request)
    yes = answer(Poll(desk, console), console, request.ident)
    console.say(one_line(str(yes.get("detail") or f"{request.verb}d")))
    return 0
