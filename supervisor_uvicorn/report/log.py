"""Events as lines: text for people, or one JSON object a line for machines (``--log-format json``).

The log goes to stderr, a pipe that supervisord empties. A supervisord that is stopped empties nothing, and a listener
that waits for it would look away from its workers; so the pipe is made non-blocking and what does not fit is counted.
"""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import stat
import threading
from collections.abc import Callable

from .events import Error, Event, as_object


def text_line(event: Event, now: datetime.datetime) -> str:
    """As supervisord writes its own log: ``2026-11-22 06:38:01,123 WARN restart: ...``."""
    stamp = now.strftime("%Y-%m-%d %H:%M:%S,") + f"{now.microsecond // 1000:03d}"
    return f"{stamp} {event.level} {event.kind}: {one_line(event.message)}\n"


def json_line(event: Event, now: datetime.datetime) -> str:
    """One object: ``time`` (RFC 3339), ``level``, ``event``, ``message``, then the event's own fields."""
    return json.dumps(as_object(event, now), default=str) + "\n"


def one_line(message: str) -> str:
    """A worker's own words stand in some messages; they may not begin a line of ours."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in message)


class Log:
    """Writes events to a descriptor. Safe to use from several threads; never blocks on a pipe; never raises."""

    def __init__(self, fd: int, log_format: str, wall_clock: Callable[[], datetime.datetime]) -> None:
        self._fd = fd
        self._line = json_line if log_format == "json" else text_line
        self._wall_clock = wall_clock
        self._lock = threading.Lock()
        self._lost = 0
        self._rest = b""  # of a line that went out in part: it is finished first, so that no line is torn
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_NONBLOCK)

    def __call__(self, event: Event) -> None:
        with self._lock:
            now = self._wall_clock()
            lines = self._line(event, now)
            if self._lost:
                lines = self._line(Error("", f"{self._lost} log lines lost: nobody emptied the pipe"), now) + lines
            data = self._rest + lines.encode(errors="backslashreplace")
            try:
                written = os.write(self._fd, data)
            except OSError:  # a full or closed pipe is not a worker's fault, and there is nowhere to say it
                written = 0
            if written <= len(self._rest):
                self._rest = self._rest[written:]
                self._lost += 1
            else:
                self._rest = data[written:]
                self._lost = 0
