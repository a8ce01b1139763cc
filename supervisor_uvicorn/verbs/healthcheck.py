"""``healthcheck``: are enough workers healthy? One line, and 0 or 1: for a container's HEALTHCHECK or an exec probe.

It is started every few seconds in every container, so what it imports is counted: the board is read without
``http.client`` (supervisord/quick.py), and what is needed only without a fresh board is imported there. Docker takes 2
for "reserved" (Dockerfile reference, HEALTHCHECK), and a probe's shell a dozen other codes for its own: so wrong use, a
signal and an error of ours are 1, each with its line. Docker keeps the first 4,096 bytes of what is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from supervisor_uvicorn.supervisord.board import Note
from supervisor_uvicorn.supervisord.server_url import shown
from supervisor_uvicorn.verbs.page import BadPage, read_page

LIMIT_S = 2.8  # for everything but the interpreter's own start and end: 3 s
BOARD_S = 2.0
MAX_LINE_BYTES = 4000

_ENDING = (  # signal(7): those that end a process by default, and that somebody may send to one that asks
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
)


class _Over(BaseException):
    """A signal: nothing on the way may take it for an error of its own."""


class _Unhealthy(Exception):  # noqa: N818 - it reads as what it is
    """The answer is no, or not to be had; the message is the line."""


@dataclass(frozen=True)
class Least:
    """How many workers have to be healthy: ``number`` of them, or ``percent`` of those that are not STOPPED."""

    number: int = 1
    percent: float | None = None

    def of(self, workers: int) -> int:
        """At least 1: where nobody is to run nothing is proven. A share is rounded up.

        >>> [Least(percent=50).of(workers) for workers in (0, 1, 4, 5)]
        [1, 1, 2, 3]
        """
        if self.percent is None:
            return self.number
        return max(1, math.ceil(round(workers * self.percent / 100, 9)))


def least(text: str) -> Least:
    """``2`` or ``50%``. Raises ``argparse.ArgumentTypeError`` for anything else, and for none at all."""
    number, share = text.strip(), text.strip().endswith("%")
    try:
        if share:
            percent = float(number[:-1])
            if 0 < percent <= 100:
                return Least(percent=percent)
        elif int(number) >= 1:
            return Least(int(number))
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is neither a number from 1 nor a share up to 100%; write 1 or 50%")


class _Parser(argparse.ArgumentParser):
    """Its line goes into a container's log, so words that it does not know are not repeated: one may be a password."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, extra = self.parse_known_args(args, namespace)
        if extra:
            self.error(unknown(extra))
        return found

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"ignored explicit argument .*", "it takes no value", message, flags=re.DOTALL)
        raise _Unhealthy(f"unhealthy: wrong use of healthcheck: {message}; see supervisor-uvicorn healthcheck --help")


def unknown(words: Sequence[str]) -> str:
    """What argparse calls unrecognized arguments, without their values.

    >>> unknown(["--pasword=PW", "PW", "-xPW"])
    'unknown options: --pasword, -x; and words that belong to no option: 1'
    """
    flags = [word.partition("=")[0] if word.startswith("--") else word[:2] for word in words if word.startswith("-")]
    stray = len(words) - len(flags)
    told = [f"unknown options: {', '.join(flags)}"] if flags else []
    return "; and ".join([*told, *([f"words that belong to no option: {stray}"] if stray else [])])


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The verb's own; how supervisord is found is added by cli.py."""
    verb.add_argument(
        "--min-healthy",
        type=least,
        default=Least(),
        metavar="N or P%",
        help="so many workers, or such a share of those not STOPPED, rounded up (default: 1)".replace("%", "%%"),
    )


def main(argv: Sequence[str], add_supervisord: Callable[[argparse.ArgumentParser], None]) -> int:
    """0: enough workers are healthy; 1: not, or nobody can say. One line on stdout, and nothing on stderr."""
    with _bounded():
        try:
            parser = _Parser(
                prog="supervisor-uvicorn healthcheck",
                description="Are enough workers healthy? Exit code 0 or 1 and one line, from the listener's board where"
                " it is fresh, else from a look of its own, as check takes it.",
                allow_abbrev=False,
            )
            add_arguments(parser)
            add_supervisord(parser)
            line = answer(parser.parse_args(argv), os.environ)
            code = 0
        except _Unhealthy as no:
            line, code = str(no), 1
        except _Over as over:
            line, code = f"unhealthy: {over}", 1
        except Exception as error:  # noqa: BLE001 - an error of ours is no third answer
            line, code = f"unhealthy: healthcheck itself failed: {type(error).__name__}: {error}", 1
    _print(line)
    return code


@contextlib.contextmanager
def _bounded() -> Any:
    """End by an exception at a signal, and after :data:`LIMIT_S` at the latest, whatever is waited for."""
    before = {number: signal.signal(number, _end) for number in _ENDING}
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, _: object) -> None:
    if number == signal.SIGALRM:
        raise _Over(f"no answer within {LIMIT_S:g} s: supervisord or this machine is too busy")
    raise _Over(f"ended by {signal.Signals(number).name} before there was an answer")


def answer(args: argparse.Namespace, env: Mapping[str, str]) -> str:
    """The line where enough workers are healthy. Raises :class:`_Unhealthy` with the line for everything else."""
    note = _board(args, env)
    if note is None:
        why = "there is no [rpcinterface:uvicorn]"
    elif not note.text:
        why = "no listener has reported yet"
    else:
        try:
            page = read_page(note)
        except BadPage as error:
            why = str(error)
        else:
            if not page.stale:
                return weigh(page.body, args.min_healthy, f"the listener's board, {page.age_s:.0f} s old")
            why = f"the listener's board is {page.age_s:.0f} s old"
    return weigh(_look(args), args.min_healthy, f"a look of its own: {why}")


def weigh(page: Mapping[str, Any], wanted: Least, source: str) -> str:
    """The line for a page (report/page.py). Raises :class:`_Unhealthy` with it where too few workers are healthy."""
    workers = [worker for program in page["programs"] for worker in program["workers"] if worker["state"] != "STOPPED"]
    if not workers:
        raise _Unhealthy(f"unhealthy: no uvicorn worker is to run here ({source})")
    sick = [worker for worker in workers if worker["verdict"] != "healthy"]
    healthy, needed = len(workers) - len(sick), wanted.of(len(workers))
    words = f"{healthy} of {len(workers)} workers healthy, {needed} needed ({source})"
    if sick:
        words += ": " + "; ".join(map(_words, sick))
    if healthy < needed:
        raise _Unhealthy(f"unhealthy: {words}")
    return f"healthy: {words}"


def _words(worker: Mapping[str, Any]) -> str:
    state = "" if worker["state"] == "RUNNING" else f"{worker['state']}, "
    verdict = worker["verdict"] if worker["watched"] else "not watched"
    reason = f" ({worker['reason']})" if worker["reason"] else ""
    return f"{worker['name']} {state}{verdict}{reason}"


# -- where it comes from -----------------------------------------------------------------------------------------------


def _board(args: argparse.Namespace, env: Mapping[str, str]) -> Note | None:
    """As ``Board.read``. Raises :class:`_Unhealthy` where supervisord cannot be asked: then nobody can look either."""
    known = _known_server(args, env)
    if known is not None:
        from supervisor_uvicorn.supervisord.quick import Unclear, read_board

        try:
            return read_board(*known, deadline_s=BOARD_S)
        except TimeoutError:
            raise _Unhealthy(
                f"unhealthy: supervisord at {shown(known[0])} did not answer within {BOARD_S:g} s"
            ) from None
        except (OSError, UnicodeError, Unclear):
            pass  # asked again, for the words
    from supervisor_uvicorn.find_supervisord import NotFound, rpc_from
    from supervisor_uvicorn.supervisord.board import Board
    from supervisor_uvicorn.supervisord.rpc import RpcError
    from supervisor_uvicorn.verbs.asking import explain

    try:
        with rpc_from(args, env) as rpc:
            return Board(rpc).read()
    except NotFound as error:
        raise _Unhealthy(f"unhealthy: {error}") from None
    except RpcError as error:
        raise _Unhealthy(f"unhealthy: {explain(error)}") from None


def _known_server(args: argparse.Namespace, env: Mapping[str, str]) -> tuple[str, str, str] | None:
    """URL, user and password as ``rpc_from`` (find_supervisord.py) has them. None: it takes supervisor's own parser."""
    given = args.username or "", args.password or ""
    if args.serverurl and not args.configuration:
        return (args.serverurl, *given)
    url = env.get("SUPERVISOR_SERVER_URL", "")
    if url and not args.configuration:
        return (
            (url, *given)
            if any(given)
            else (url, env.get("SUPERVISOR_USERNAME", ""), env.get("SUPERVISOR_PASSWORD", ""))
        )
    from supervisor_uvicorn.supervisord.quick_conf import search_path, server_in

    path = args.configuration or next(filter(os.path.exists, search_path(sys.argv[0])), None)
    found = server_in(path, env) if path else None
    if found is None:
        return None
    return args.serverurl or found[0], given[0] or found[1], given[1] or found[2]


def _look(args: argparse.Namespace) -> Mapping[str, Any]:
    """The page of ``check --json``, which looks for itself. Raises :class:`_Unhealthy` where it could not look."""
    from supervisor_uvicorn import cli

    words = ["check", "--json"]
    for flag in ("configuration", "serverurl", "username", "password"):
        value = getattr(args, flag)
        words += [f"--{flag}={value}"] if value else []
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(words)
    if code not in (0, 1):
        raise _Unhealthy(f"unhealthy: cannot look: {err.getvalue().strip().partition('check: ')[2]}")
    page: Mapping[str, Any] = json.loads(out.getvalue())
    return page


def _print(text: str) -> None:
    """One line. Not through ``sys.stdout``: what a closed pipe leaves in its buffer makes the exit code 120."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    raw = line.encode("utf-8", "replace")
    if len(raw) > MAX_LINE_BYTES:
        raw = raw[:MAX_LINE_BYTES].decode("utf-8", "ignore").encode() + b" ..."
    if sys.__stdout__ is not None:  # None: descriptor 1 is closed, and may be somebody else's by now
        with contextlib.suppress(OSError):
            os.write(1, raw + b"\n")
