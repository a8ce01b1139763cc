"""Settings: a command line's flags, and a file's text, through ``settings.load``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NoReturn
from unittest import mock

from fuzz.target import Check, Target, Violation, holds
from supervisor_uvicorn import settings_file
from supervisor_uvicorn.settings import ENTRIES, ListenSettings, Settings, SettingsError, add_flags, load


class _Refused(Exception):  # noqa: N818
    """argparse's own refusal: usage, exit 2."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _Refused(message)


@contextmanager
def _flags() -> Iterator[Check]:
    parser = _Parser(allow_abbrev=False, add_help=False)
    add_flags(parser)

    def check(data: bytes) -> None:
        try:
            args = parser.parse_args([os.fsdecode(word) for word in data.split(b"\0")])
        except _Refused:
            return
        args.settings = None  # files are the other target's
        _loaded(args)

    yield check


@contextmanager
def _file() -> Iterator[Check]:
    fd = os.memfd_create("settings", os.MFD_CLOEXEC)
    args = argparse.Namespace(settings=f"/proc/self/fd/{fd}")

    def check(data: bytes) -> None:
        os.ftruncate(fd, 0)
        os.pwrite(fd, data, 0)
        _loaded(args)

    try:
        # An [include] may name any file of this machine, and /*/*/*/* all of them.
        with mock.patch.object(settings_file, "glob", SimpleNamespace(glob=_no_files)):
            yield check
    finally:
        os.close(fd)


def _no_files(pattern: str) -> list[str]:
    return []


def _loaded(args: argparse.Namespace) -> None:
    try:
        found = load(args)
    except SettingsError as error:
        holds(len(str(error)) < 20_000, f"words of {len(str(error))} characters")
        return
    holds(isinstance(found, ListenSettings), "no settings")
    _written_and_read_again(vars(found), "listener")
    for one in (found.general, *found.by_group.values()):
        holds(isinstance(one, Settings), "no settings")
        _written_and_read_again(vars(one), "program")


_NONE = {entry.field: getattr(Settings(), entry.field) for entry in ENTRIES if entry.scope == "program"}
_NONE |= {entry.field: getattr(ListenSettings(), entry.field) for entry in ENTRIES if entry.scope == "listener"}


def _written_and_read_again(values: Mapping[str, Any], scope: str) -> None:
    """``write`` gives what a user would have written, rounded for the eye: what it gives is taken, and stays."""
    for entry in ENTRIES:
        if entry.scope != scope or values[entry.field] == _NONE[entry.field]:
            continue
        text = entry.kind.write(values[entry.field])
        if text == "none":
            continue
        try:
            lines = [entry.kind.parse(line) for line in (text.split("\n") if entry.kind.repeatable else [text])]
            again = entry.kind.write(
                tuple(item for one in lines for item in one) if entry.kind.repeatable else lines[0]
            )
        except ValueError as error:
            raise Violation(f"{entry.key}: {values[entry.field]!r} is written as {text!r}, which {error}") from None
        holds(again == text, f"{entry.key}: {text!r} read and written is {again!r}")


def _line(*words: str) -> bytes:
    return "\0".join(words).encode()


_KEYS = tuple(sorted({entry.key for entry in ENTRIES}))
_VALUES = (
    b"30", b"0.5", b"50%", b"0", b"10:300", b"max(3, workers)/600", b"5/60", b"200-399,404", b"/health?x=1", b"X-A: b",
    b"true", b"never", b"off", b"512M", b"1e3", b"-1", b"9" * 400, b"\xff", "٣".encode(), b"web,api", b"99.99999%",
)  # fmt: skip
SETTINGS_FLAGS = Target(
    "settings-flags",
    "settings on a command line (``settings.load``)",
    _flags,
    (
        _line("--silent-after", "30", "--pulse", "0.2", "--path", "/health", "--expect", "200-399,404"),
        _line("--backoff", "0", "--budget", "1000/600", "--panic-threshold", "50%", "--dry-run"),
        _line("--header", "X-A: b", "--header", "X-B:", "--host", "example.org:80"),
        *(_line(entry.flag, *([] if entry.kind.metavar is None else [entry.example])) for entry in ENTRIES),
    ),
    (b"\0", *(entry.flag.encode() + b"\0" for entry in ENTRIES), *_VALUES),
    weight=1,
)
SETTINGS_FILE = Target(
    "settings-file",
    "settings in a file (``settings_file.py``, ``settings.load``)",
    _file,
    (
        b"[supervisor-uvicorn]\nsilent_after = 5 ; soon\npath=/health\n[supervisor-uvicorn:api]\nbackoff=0\n",
        b"[supervisor-uvicorn]\nheader=X-A: b\n  X-B: c\nexpect=200,\n\n[supervisor-uvicorn]\nexpect=204\n",
        b"[include]\nfiles = %(here)s/conf.d/*.conf %(ENV_HOME)s\n[supervisord]\nlogfile=/x\n[DEFAULT]\na=b\n",
        b"[Supervisor_Uvicorn:web]\n",
        *(f"[supervisor-uvicorn]\n{entry.key}={entry.example}\n".encode() for entry in ENTRIES),
    ),
    (
        b"[supervisor-uvicorn]\n", b"[supervisor-uvicorn:", b"[include]\nfiles=", b"[DEFAULT]\n", b"%(here)s", b"%%",
        b"]\n", b" ;", b"=",
        *(key.encode() + b"=" for key in _KEYS), *_VALUES,
    ),
    weight=1.5,
)  # fmt: skip
