"""Python imports this at its start where its directory is on PYTHONPATH: faults that cannot be had from outside.

``FAULTS_CONTROL`` names a directory, and its files say what is wrong at this moment:

``proc``    the listener may read no ``fd``, ``fdinfo`` and ``environ`` of other processes (``fd``: as another user), or
            nothing of them at all (``all``: as with hidepid)
``clock``   so many seconds are added to ``time.time()`` of supervisord and of the listener

The workers import it as well and are left alone.
"""

import os
import re
import sys
import time

_CONTROL = os.environ.get("FAULTS_CONTROL", "")
_CLOSED = {
    "fd": re.compile(r"/proc/(\d+)(?:/task/\d+)?/(?:fd|fdinfo|environ|map_files)(?:/|$)"),
    "all": re.compile(r"/proc/(\d+)(?:/|$)"),
}


def _wanted(name: str) -> str:
    path = f"{_CONTROL}/{name}"
    try:
        os.stat(path)  # not audited, so that the hook below does not call itself
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""


def _refuse(path: object) -> None:
    text = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else ""
    if text.startswith("/proc/"):
        closed = _CLOSED.get(_wanted("proc"))
        found = closed.match(text) if closed else None
        if found and int(found[1]) != os.getpid():
            raise PermissionError(13, "Permission denied (injected)", text)


def _audit(event: str, args: tuple[object, ...]) -> None:
    if event in ("open", "os.listdir", "os.scandir") and args:
        _refuse(args[0])


def _close_proc() -> None:
    readlink = os.readlink

    def refused(path: str, *, dir_fd: int | None = None) -> str:
        _refuse(path)
        return readlink(path, dir_fd=dir_fd)

    os.readlink = refused  # type: ignore[assignment]  # no audit event tells of it
    sys.addaudithook(_audit)


def _bend_the_clock() -> None:
    true = time.time
    time.time = lambda: true() + float(_wanted("clock") or 0)


if _CONTROL:
    if "supervisor_uvicorn" in sys.orig_argv and "listen" in sys.orig_argv:
        _close_proc()
        _bend_the_clock()
    elif "supervisor.supervisord" in sys.orig_argv:
        _bend_the_clock()
