"""Is this command uvicorn, and with which of the options that matter here? Pure: text in, values out.

The kernel says what a process was started with; uvicorn reads each option from its command line or from
``UVICORN_<OPTION>`` (uvicorn 0.54, main.py, ``auto_envvar_prefix``), the command line first.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .model import Address, Options

_PROGRAMS = {"uvicorn": (), "supervisor-uvicorn": ("serve",)}
_MODULES = {"uvicorn": (), "supervisor_uvicorn": ("serve",), "supervisor_uvicorn.serve": ()}
_TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})  # click 8, types.py ``BoolParamType``

DEFAULT_MAX_HEAD_BYTES = 16 * 1024  # h11 0.16, _connection.py DEFAULT_MAX_INCOMPLETE_EVENT_SIZE
DEFAULT_PORT = 8000  # uvicorn 0.54, main.py ``--port``

_ONE_EACH = "let supervisord start the workers, with numprocs= and one uvicorn process each"


def arguments(argv: Sequence[str]) -> Sequence[str] | None:
    """What follows uvicorn's name on a command line; None where the command is something else.

    >>> arguments(["/venv/bin/python", "/venv/bin/uvicorn", "--fd", "0", "example:App"])
    ['--fd', '0', 'example:App']
    >>> arguments(["python3.12", "-X", "dev", "-um", "uvicorn", "example:App"])
    ['example:App']
    >>> arguments(["/bin/sh", "-c", "uvicorn --fd 0 example:App"]) is None
    True
    """
    rest = list(argv)
    if not rest:
        return None
    if os.path.basename(rest[0]).startswith(("python", "pypy")):
        return _behind_python(rest[1:])
    return _behind(rest, _PROGRAMS)


def _behind_python(rest: list[str]) -> list[str] | None:
    """Skip Python's own options (python(1)): letters may stand together, and a value may follow its letter at once."""
    while rest and rest[0].startswith("-") and len(rest[0]) > 1:
        option = rest.pop(0)
        if option.startswith("--"):
            if option == "--check-hash-based-pycs" and rest:
                rest.pop(0)
            continue
        for at, letter in enumerate(option[1:], 2):
            if letter == "c":
                return None
            if letter in "mWX":
                value = option[at:] or (rest.pop(0) if rest else "")
                if letter == "m":
                    return _behind([value, *rest], _MODULES)
                break
    return _behind(rest, _PROGRAMS)


def _behind(rest: list[str], names: Mapping[str, tuple[str, ...]]) -> list[str] | None:
    if not rest:
        return None
    verb = names.get(os.path.basename(rest[0]))
    if verb is None or tuple(rest[1 : 1 + len(verb)]) != verb:
        return None
    return rest[1 + len(verb) :]


def options(args: Sequence[str], environ: Mapping[str, str] | None) -> Options:
    """The options that matter here. ``environ`` is None where it could not be read.

    A value that uvicorn itself would refuse is taken as absent: such a worker never serves.

    >>> options(["--fd", "0", "--limit-concurrency=10", "example:App"], {}).limit_concurrency
    10
    """
    return Options(
        fd=_number(args, environ, "fd"),
        uds=_text(args, environ, "uds"),
        # uvicorn 0.54, config.py ``is_ssl``
        tls=bool(_text(args, environ, "ssl-keyfile") or _text(args, environ, "ssl-certfile")),
        client_certificate=_number(args, environ, "ssl-cert-reqs") == ssl.CERT_REQUIRED,
        limit_concurrency=_number(args, environ, "limit-concurrency"),
        max_head_bytes=_number(args, environ, "h11-max-incomplete-event-size") or DEFAULT_MAX_HEAD_BYTES,
        environ_read=environ is not None,
    )


def tree(args: Sequence[str], environ: Mapping[str, str] | None) -> str:
    """Why this uvicorn does not serve by itself but lets its child processes do it; empty where it serves.

    uvicorn 0.54: main.py ``run`` (reload goes before workers), config.py (``WEB_CONCURRENCY`` where no ``--workers``).

    >>> tree(["--workers", "2", "example:App"], {})[:30]
    'it runs with --workers 2, so i'
    """
    if "--reload" in args or (environ is not None and environ.get("UVICORN_RELOAD", "").strip().lower() in _TRUE):
        return (
            "it runs with --reload, so its child process serves, not itself: leave --reload out under supervisord, "
            "which restarts what ends"
        )
    workers, said = _number(args, environ, "workers"), "--workers"
    if workers is None and environ is not None and environ.get("WEB_CONCURRENCY"):
        workers, said = _int(environ["WEB_CONCURRENCY"]), "WEB_CONCURRENCY"
    if workers is not None and workers > 1:
        return f"it runs with {said} {workers}, so its child processes serve, not itself: {_ONE_EACH}"
    return ""


SERVED_BY_A_CHILD = f"a child process of it serves, not itself: {_ONE_EACH}"
BELOW_A_WRAPPER = (
    "uvicorn runs in a child process below it: write `exec` before uvicorn in its command, or start uvicorn "
    "without the wrapper"
)


@dataclass(frozen=True)
class Wanted:
    """Which listening socket a uvicorn without ``--fd`` opens. ``anything``: its environment, which may say so, was
    refused to us. ``port`` 0 is any."""

    uds: str | None = None
    port: int = DEFAULT_PORT
    anything: bool = False

    def fits(self, address: Address) -> bool:
        """True where that may be its own socket, and not one that the application has opened beside it."""
        if self.anything:
            return True
        if self.uds is not None:
            return address.family == "unix" and address.path == self.uds
        return address.family != "unix" and self.port in (0, address.port)


def wanted(args: Sequence[str], environ: Mapping[str, str] | None) -> Wanted:
    """The socket that this uvicorn opens by itself (uvicorn 0.54, server.py ``startup``: ``uds`` goes before ``port``).

    >>> wanted(["--port", "9000"], {}).fits(Address("tcp", "127.0.0.1", 9000))
    True
    """
    uds, port = _text(args, environ, "uds"), _number(args, environ, "port")
    return Wanted(uds, DEFAULT_PORT if port is None else port, environ is None and uds is None and port is None)


def _text(args: Sequence[str], environ: Mapping[str, str] | None, option: str) -> str | None:
    flag = f"--{option}"
    found = None
    for index, arg in enumerate(args):
        if arg == flag and index + 1 < len(args):
            found = args[index + 1]
        elif arg.startswith(flag + "="):
            found = arg[len(flag) + 1 :]
    if found is None and environ is not None:
        found = environ.get("UVICORN_" + option.replace("-", "_").upper()) or None  # click: empty is not set
    return found


def _number(args: Sequence[str], environ: Mapping[str, str] | None, option: str) -> int | None:
    value = _text(args, environ, option)
    return None if value is None else _int(value)


def _int(value: str) -> int | None:
    try:
        return int(value)
    except ValueError:
        return None
