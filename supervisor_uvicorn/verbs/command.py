"""The verbs on a command line, the same for ``supervisor-uvicorn`` and for ``supervisorctl uvicorn``: what each one
takes, and what becomes of its errors. A verb is imported when it is used: the listener's parser is built with these.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from supervisor_uvicorn.supervisord.calls import Supervisord
    from supervisor_uvicorn.verbs.asking import Desk
    from supervisor_uvicorn.verbs.console import Console

NAMES = "as in supervisorctl: web, web:*, web:web-0, all"
INTERRUPTED = 130  # as a shell gives it for SIGINT

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_ASKING = ("restart", "pause", "resume", "reload")


def seconds(text: str) -> float:
    """``90``, ``90s``, ``5m``, ``1h`` as seconds, above 0 and at most ten years (supervisord/request.py).

    Raises ``argparse.ArgumentTypeError``.
    """
    from supervisor_uvicorn.supervisord.request import MOST_FOR_S

    number, unit = (text[:-1], _UNITS[text[-1]]) if text and text[-1] in _UNITS else (text, 1.0)
    try:
        value = float(number) * unit
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{_cut(text)!r} is no time above 0; write 90, 90s, 5m or 1h")
    if value > MOST_FOR_S:
        raise argparse.ArgumentTypeError(f"{_cut(text)!r} is longer than ten years; write 90, 90s, 5m or 1h")
    return value


def _cut(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."


def add_verbs(verbs: Any, finish: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the verbs to ``verbs`` (of ``add_subparsers``). ``finish`` adds what is common to all of them."""
    status = _add(verbs, "status", "what the listener knows of each worker", finish)
    status.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    status.add_argument("--watch", action="store_true", help="again each second, until Ctrl-C")
    status.add_argument("names", nargs="*", metavar="NAME", help=NAMES)

    restart = _add(verbs, "restart", "replace workers one by one, each when the one before is healthy", finish)
    restart.add_argument(
        "--timeout", type=seconds, metavar="S", help="stop following after so long (90, 90s, 5m, 1h); the roll goes on"
    )
    restart.add_argument("names", nargs="+", metavar="NAME", help=NAMES)

    pause = _add(verbs, "pause", "let the listener watch and report, and restart nobody", finish)
    pause.add_argument("--for", dest="for_s", type=seconds, metavar="S", help="so long: 90, 90s, 5m, 1h; else for good")
    pause.add_argument("names", nargs="*", metavar="NAME", help=f"{NAMES}; none is all")

    resume = _add(verbs, "resume", "let the listener act again, also after it was suspended", finish)
    resume.add_argument("names", nargs="*", metavar="NAME", help=f"{NAMES}; none is all")

    _add(verbs, "reload", "let the listener read its settings file again; what is wrong is refused whole", finish)

    history = _add(verbs, "history", "what was done to which worker, and why", finish)
    history.add_argument("--json", action="store_true", help="one JSON object with everything known")
    history.add_argument("names", nargs="*", metavar="NAME", help=NAMES)

    explain = _add(verbs, "explain", "where a worker is right now: its stack, ticks, connections, memory", finish)
    explain.add_argument("--json", action="store_true", help="one JSON object instead of text")
    explain.add_argument("names", nargs="+", metavar="NAME", help=NAMES)


def _add(
    verbs: Any, name: str, what: str, finish: Callable[[argparse.ArgumentParser], None]
) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = verbs.add_parser(name, help=what, description=what, allow_abbrev=False)
    finish(verb)
    return verb


def run(args: argparse.Namespace, env: Mapping[str, str] = os.environ) -> int:
    """``supervisor-uvicorn VERB``: find supervisord, carry the verb out; the exit code."""
    from supervisor_uvicorn.find_supervisord import NotFound, rpc_from
    from supervisor_uvicorn.supervisord.calls import Supervisord
    from supervisor_uvicorn.supervisord.rpc import RpcError
    from supervisor_uvicorn.verbs.asking import OverRpc
    from supervisor_uvicorn.verbs.console import Console, Unwritable

    try:
        console = Console.of(sys.stdout)  # before a socket is made: it would become descriptor 1 where that is closed
        rpc = rpc_from(args, env)
    except (NotFound, RpcError, Unwritable) as error:
        if sys.stderr is not None:
            print(f"supervisor-uvicorn {args.verb}: {error}", file=sys.stderr)
        return 2
    with rpc:
        return carry_out(args, OverRpc(rpc), console, Supervisord(rpc))


def carry_out(args: argparse.Namespace, desk: Desk, console: Console, supervisord: Supervisord | None = None) -> int:
    """Do what ``args`` ask for and return the exit code; every foreseen error is a line on ``console.err``.

    ``supervisord`` is for ``explain`` alone, which looks at processes by itself.
    """
    from supervisor_uvicorn.names import NoSuchName
    from supervisor_uvicorn.report.log import one_line
    from supervisor_uvicorn.supervisord.rpc import RpcError
    from supervisor_uvicorn.verbs.asking import NoNews, explain
    from supervisor_uvicorn.verbs.console import Unwritable, silence

    begin = f"{console.command} {args.verb}:"
    try:
        try:
            return _carry_out(args, desk, console, supervisord)
        except NoNews as error:
            console.note(f"{begin} {error}")
        except NoSuchName as error:  # with names from the page
            console.note(f"{begin} {one_line(str(error))}")
        except RpcError as error:
            console.note(f"{begin} {explain(error)}")
        except KeyboardInterrupt:
            console.clear()
            return INTERRUPTED
        return 2
    except BrokenPipeError:  # `| head`: nobody reads on
        for stream in (console.out, console.err):
            silence(stream)
        return 1
    except Unwritable as error:
        # Nothing of these verbs is written before their request was accepted.
        goes_on = "; the listener was asked all the same, and goes on" if args.verb in _ASKING else ""
        with contextlib.suppress(Unwritable, BrokenPipeError):
            console.note(f"{begin} {error}{goes_on}")
        for stream in (console.out, console.err):
            silence(stream)
        return 2


def _carry_out(args: argparse.Namespace, desk: Desk, console: Console, supervisord: Supervisord | None) -> int:
    if args.verb == "status":
        from supervisor_uvicorn.verbs.status import status

        return status(args.names, args.json, args.watch, desk, console)
    if args.verb == "history":
        from supervisor_uvicorn.verbs.history import history

        return history(args.names, args.json, desk, console)
    if args.verb == "explain" and supervisord is not None:
        from supervisor_uvicorn.verbs.explain import explain

        return explain(args.names, args.json, supervisord, desk, console)
    from supervisor_uvicorn.verbs.asking import new_ident

    if args.verb == "restart":
        from supervisor_uvicorn.verbs.restart import restart

        return restart(args.names, args.timeout, new_ident(), desk, console)
    if args.verb == "reload":
        from supervisor_uvicorn.verbs.reload import reload

        return reload(new_ident(), desk, console)
    from supervisor_uvicorn.verbs.pause import pause, resume

    if args.verb == "pause":
        return pause(args.names, args.for_s, new_ident(), desk, console)
    return resume(args.names, new_ident(), desk, console)
