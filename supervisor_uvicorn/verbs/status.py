"""``status``: what the listener knows."""

from __future__ import annotations

import json
from collections.abc import Sequence

from supervisor_uvicorn.report.table import table, well
from supervisor_uvicorn.verbs.asking import Desk, current_page, stale
from supervisor_uvicorn.verbs.console import Console


def status(names: Sequence[str], as_json: bool, desk: Desk, console: Console) -> int:
    """0: all healthy; 1: not; 2: what is shown is no news, with a line on ``err``.

    Raises :class:`NoNews` where there is nothing to show, :class:`NoSuchName`, :class:`RpcError`.
    """
    page = current_page(desk, console.command)
    body = page.only(names)
    console.say(json.dumps(body) if as_json else table(body))
    if page.stale:
        console.note(f"{console.command} status: {stale(desk, page)}")
        return 2
    return 0 if well(body) else 1
