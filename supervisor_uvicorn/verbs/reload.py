"""``reload``: the listener reads its settings again, and says what has changed."""

from __future__ import annotations

from supervisor_uvicorn.report.log import one_line
from supervisor_uvicorn.supervisord.request import RELOAD, Request
from supervisor_uvicorn.verbs.asking import Desk, Poll, answer, send
from supervisor_uvicorn.verbs.console import Console


def reload(ident: str, desk: Desk, console: Console) -> int:
    """0. Raises :class:`NoNews` where the settings are wrong (the old ones stay) or nobody answers, and
    :class:`RpcError`."""
    send(desk, console, Request(ident, RELOAD))
    yes = answer(Poll(desk, console), console, ident)
    console.say(one_line(str(yes.get("detail") or "read again")))
    return 0
