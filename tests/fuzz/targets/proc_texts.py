"""``/proc``'s texts: kernel/proc.py with the files' contents put in place of what is read."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest import mock

from fuzz.target import Check, Target, holds
from supervisor_uvicorn.kernel import proc
from supervisor_uvicorn.kernel.errors import KernelError

_CUT = b"\n|CUT|\n"
"""Between the first file that a function reads and the second."""


def _born() -> None:
    proc.born(7)


def _ticks() -> None:
    found = proc.ticks(7)
    holds(isinstance(found.switches, int) and isinstance(found.cpu_s, float), f"{found}")


def _status() -> None:
    found = proc.status(7)
    found.catches(6)
    holds(len(found.state) <= 1, f"{found}")


def _usage() -> None:
    found = proc.usage(7)
    holds(isinstance(found.rss_bytes, int), f"{found}")


def _watched() -> None:
    found = proc.epoll_watched_inodes(7, {5: "anon_inode:[eventpoll]", 6: "socket:[1]"})
    holds(all(isinstance(inode, int) for inode in found), f"{found}")


def _syscall() -> None:
    found = proc.syscall(7)
    holds(found is None or len(found[1]) == 6, f"{found}")


def _table() -> None:
    table = proc.process_table()
    proc.descendants(1, table)
    proc.process_group_members(1, table)


def _environ() -> None:
    proc.environ(7)


def _of(read: Callable[[int], Any]) -> Callable[[], None]:
    def ask() -> None:
        read(7)

    return ask


_ASK = (
    _born, _ticks, _status, _usage, _of(proc.descriptor_limit), _of(proc.cmdline), _environ, _of(proc.wchan), _syscall,
    _watched, _table,
)  # fmt: skip


def _pids(_: str) -> list[str]:
    return ["1", "2", "self", "3"]


def _nobody(*_: int) -> AbstractContextManager[None]:
    return contextlib.nullcontext()


@contextmanager
def _session() -> Iterator[Check]:
    files: list[bytes] = []

    def read(path: str) -> bytes:
        return files[-1] if path.endswith(("status", "statm")) else files[0]

    def check(data: bytes) -> None:
        files[:] = data[1:].split(_CUT, 1)
        try:
            _ASK[data[0] % len(_ASK) if data else 0]()
        except KernelError as error:
            holds(len(str(error)) < 300, f"words of {len(str(error))} characters")

    with contextlib.ExitStack() as patches:
        patches.enter_context(mock.patch.object(proc, "_read", read))
        patches.enter_context(mock.patch.object(proc, "_listdir", _pids))
        patches.enter_context(mock.patch.object(proc, "as_owner", _nobody))
        yield check


_STAT = b"7 (uvi ) (corn) S 1 7 7 0 -1 4194560 900 0 0 0 12 3 0 0 20 0 2 0 4711 1000000 900 18446744073709551615\n"
_STATUS = (
    b"Name:\tuvicorn\nState:\tS (sleeping)\nPPid:\t1\nTracerPid:\t0\nUid:\t1000\t1000\t1000\t1000\n"
    b"Gid:\t1000\t1000\t1000\t1000\nSigCgt:\t0000000000004002\nCapEff:\t0000000000000000\n"
    b"voluntary_ctxt_switches:\t150\nnonvoluntary_ctxt_switches:\t545\n"
)
_LIMIT = b"Max open files            1024                 1048576              files\n"
_EPOLL = b"pos:\t0\nflags:\t02000002\ntfd:        7 events:       19 data:                7  pos:0 ino:1f sdev:8\n"
PROC = Target(
    "proc",
    "texts of ``/proc`` (``kernel/proc.py``)",
    _session,
    (
        b"\x00" + _STAT,
        b"\x01" + _STAT + _CUT + _STATUS,
        b"\x02" + _STATUS,
        b"\x03" + _STAT + _CUT + b"1000 900 10 1 0 90 0\n",
        b"\x04Limit                     Soft Limit           Hard Limit           Units\n" + _LIMIT,
        b"\x05python\0-m\0uvicorn\0",
        b"\x06PATH=/bin\0UVICORN_FD=0\0odd\0",
        b"\x07ep_poll",
        b"\x08232 0x5 0x7f 0x40 0x64 0x0 0x8 0x7ffd 0x7f\n",
        b"\x08running\n",
        b"\x09" + _EPOLL,
        b"\x0a" + _STAT,
    ),
    (
        _CUT, b"State:\t", b"Uid:\t", b"voluntary_ctxt_switches:\t", b"-1", b"0x", b"ino:", b" sdev:8\n", b") ",
        b"Max open files", b"9" * 5000, b"tfd:", b"SigCgt:\t",
    ),
    weight=3,
)  # fmt: skip
