"""``status``: what the listener knows."""

from __future__ import annotations

import json
from collections.abc import Sequence

from supervisor_uvicorn.report.table import table, well
from supervisor_uvicorn.supervisord.rpc import RpcError
from supervisor_uvicorn.verbs.asking import Desk, NoNews, current_page, explain, stale
from supervisor_uvicorn.verbs.console import Console
from supervisor_uvicorn.verbs.stored import BadPage
from supervisor_uvicorn.verbs.usage import with_usage

WATCH_S = 1.0


def status(names: Sequence[str], as_json: bool, watch: bool, desk: Desk, console: Console) -> int:
    """0: all healthy; 1: not; 2: what is shown is no news, with a line on ``err``.

    ``watch``: again each second until Ctrl-C, whatever goes wrong meanwhile; then the code is that of the last look. In
    a terminal that is a picture (live.py), elsewhere one table, or object, after the other.
    Raises :class:`NoNews` where there is nothing to show, :class:`NoSuchName`, :class:`RpcError`.
    """
    if watch and console.paints and not as_json:
        from supervisor_uvicorn.verbs.live import watch_live

        return watch_live(names, desk, console, WATCH_S)
    if not watch:
        text, trouble, code = _look(names, as_json, desk, console)
        console.say(text)
        if trouble:
            console.note(trouble)
        return code
    code = 2
    try:
        while True:
            try:
                text, trouble, code = _look(names, as_json, desk, console)
            except (NoNews, RpcError) as error:
                words = explain(error) if isinstance(error, RpcError) else str(error)
                text, trouble, code = "", f"{console.command} status: {words}", 2
            if text:
                console.say(text)
            if trouble:
                console.note(trouble)
            console.sleep(WATCH_S)
    except KeyboardInterrupt:
        return code


def _look(names: Sequence[str], as_json: bool, desk: Desk, console: Console) -> tuple[str, str, int]:
    """What to show, what to say beside it, and the exit code."""
    page = current_page(desk, console.command)
    try:
        body = with_usage(page.only(names), page.age_s)
    except BadPage as error:
        raise NoNews(str(error)) from None
    text = json.dumps(body) if as_json else table(body)
    if page.stale:
        return text, f"{console.command} status: {stale(desk, page)}", 2
    return text, "", 0 if well(body) else 1
