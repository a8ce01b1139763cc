"""Is this command uvicorn, and with which of the options that matter here? Pure: text in, values out.

The kernel says what a process was started with; uvicorn reads each option from its command line or from
``UVICORN_<OPTION>`` (uvicorn 0.54, main.py, ``auto_envvar_prefix``), the command line first.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping, Sequence

from .model import Options

_PYTHON_OPTIONS_WITH_VALUE = frozenset({"-W", "-X", "--check-hash-based-pycs"})  # python(1)
_PROGRAMS = {"uvicorn": (), "supervisor-uvicorn": ("serve",)}
_MODULES = {"uvicorn": (), "supervisor_uvicorn": ("serve",)}

DEFAULT_MAX_HEAD_BYTES = 16 * 1024  # h11 0.16, _connection.py DEFAULT_MAX_INCOMPLETE_EVENT_SIZE


def arguments(argv: Sequence[str]) -> Sequence[str] | None:
    """What follows uvicorn's name on a command line; None where the command is something else.

    >>> arguments(["/venv/bin/python", "/venv/bin/uvicorn", "--fd", "0", "example:App"])
    ['--fd', '0', 'example:App']
    >>> arguments(["python3.12", "-X", "dev", "-m", "uvicorn", "example:App"])
    ['example:App']
    >>> arguments(["/bin/sh", "-c", "uvicorn --fd 0 example:App"]) is None
    True
    """
    rest = list(argv)
    if not rest:
        return None
    if os.path.basename(rest[0]).startswith(("python", "pypy")):
        rest = rest[1:]
        while rest and rest[0].startswith("-"):
            option = rest.pop(0)
            if option == "-m" and rest:
                return _behind(rest, _MODULES)
            if option in ("-c", "-m"):
                return None
            if option in _PYTHON_OPTIONS_WITH_VALUE and rest:
                rest.pop(0)
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

    def text(option: str) -> str | None:
        flag = f"--{option}"
        found = None
        for index, arg in enumerate(args):
            if arg == flag and index + 1 < len(args):
                found = args[index + 1]
            elif arg.startswith(flag + "="):
                found = arg[len(flag) + 1 :]
        if found is None and environ is not None:
            found = environ.get("UVICORN_" + option.replace("-", "_").upper())
        return found

    def number(option: str) -> int | None:
        value = text(option)
        try:
            return None if value is None else int(value)
        except ValueError:
            return None

    return Options(
        fd=number("fd"),
        uds=text("uds"),
        tls=bool(text("ssl-keyfile") or text("ssl-certfile")),  # uvicorn config.py ``is_ssl``
        client_certificate=number("ssl-cert-reqs") == ssl.CERT_REQUIRED,
        limit_concurrency=number("limit-concurrency"),
        max_head_bytes=number("h11-max-incomplete-event-size") or DEFAULT_MAX_HEAD_BYTES,
        environ_read=environ is not None,
    )
