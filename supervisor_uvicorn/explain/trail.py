"""The traceback that Python's faulthandler writes when a worker gets ABRT, read back from the worker's own log.

The worker writes it to its stderr, a pipe to supervisord; supervisord writes it on to a log file, which it may rotate.
So the log is opened *before* the signal and read from its end at that moment: a file that is rotated away meanwhile
stays open, and what has come into the new one counts as well. A log that is no file cannot be read back, which is said.

Format: CPython 3.10 to 3.14, Python/traceback.c ``_Py_DumpTracebackThreads``: the threads from the newest to the
oldest, so that the main thread is the last one; each one's innermost frame first.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

from supervisor_uvicorn.explain import frames
from supervisor_uvicorn.explain.explanation import FAULTHANDLER, PY_SPY, Explanation
from supervisor_uvicorn.explain.frames import Frame, within

FAULTHANDLER_OFF = 'faulthandler is off: add PYTHONFAULTHANDLER="1" to environment= in the program\'s section'

_POLL_S = 0.05
_SETTLED_S = 0.1  # nothing more has come for so long: it is whole
_MAX_BYTES = 256 * 1024  # of what was appended, its last; 100 threads of 100 frames have 1 MB, of 25 frames 250 KB

_BEGIN = re.compile(r"Fatal Python error: Aborted$", re.MULTILINE)
_THREAD = re.compile(r"^(?:Current thread|Thread) 0x[0-9a-f]+.*\(most recent call first\):$")
_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d{1,9}|\?\?\?) in (?P<function>.*)$')


@dataclass
class _Log:
    path: str
    fd: int
    begin: int  # bytes that were there before

    def appended(self) -> bytes:
        """What has come since, and what has come into the file that has this name now. Raises OSError."""
        found = _tail(self.fd, self.begin)
        with contextlib.suppress(OSError):
            now = os.stat(self.path)
            was = os.fstat(self.fd)
            if (now.st_dev, now.st_ino) != (was.st_dev, was.st_ino):
                fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
                try:
                    found += _tail(fd, 0)
                finally:
                    os.close(fd)
            elif was.st_size < self.begin:  # emptied (supervisorctl clear): all of it is new
                found = _tail(self.fd, 0)
        return found


class Trail:
    """The logs of one worker from one moment on. Make it just before ABRT is sent; ``close`` it in any case.

    ``stderr_logfile`` and ``stdout_logfile`` are those of ``ProcessInfo``: with ``redirect_stderr`` the traceback goes
    to the second. Making one raises nothing.
    """

    def __init__(self, stderr_logfile: str, stdout_logfile: str = "") -> None:
        self._logs: list[_Log] = []
        self.why = ""
        for path in dict.fromkeys((stderr_logfile, stdout_logfile)):
            if path:
                self._open(path)
        if not self._logs and not self.why:
            self.why = "faulthandler's traceback is lost: the worker's stderr goes to no log file (stderr_logfile=NONE)"

    def close(self) -> None:
        """Let the files go. May be called twice."""
        for log in self._logs:
            os.close(log.fd)
        self._logs = []

    def read(
        self,
        explanation: Explanation,
        *,
        deadline: float,
        now: Callable[[], float],
        directory: str = "",
    ) -> Generator[float, None, Explanation]:
        """``explanation`` with the stack that the worker has left, if it had none from py-spy; closes the logs.

        To be called when the worker has ended. Yields the seconds to wait, until ``deadline`` (a time of ``now``) at
        the latest; usually for 0.1 s. ``directory``: the worker's working directory while it lived. Raises nothing.
        """
        try:
            if explanation.source == PY_SPY:
                return explanation
            found = yield from self._wait(deadline, now)
        finally:
            self.close()
        if found:
            why_not = tuple(why for why in explanation.why_not if why != FAULTHANDLER_OFF)
            stack = frames.lines(found, directory)
            return replace(explanation, source=FAULTHANDLER, stack=stack, why_not=why_not)
        return replace(explanation, why_not=(*explanation.why_not, self.why))

    def _open(self, path: str) -> None:
        lost = "faulthandler's traceback cannot be read back"
        if path.startswith(("/dev/", "/proc/")):  # ours is another than supervisord's
            self.why = f"{lost}: the worker's stderr goes to {path}, not to a file"
            return
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            self.why = within(f"{lost}: {path}: {error.strerror}", 160)
            return
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode):
            self._logs.append(_Log(path, fd, status.st_size))
        else:
            os.close(fd)
            self.why = within(f"{lost}: {path} is no file", 160)

    def _wait(self, deadline: float, now: Callable[[], float]) -> Generator[float, None, tuple[Frame, ...]]:
        """The main thread's frames, once nothing more has come for a while; () and ``why`` where there are none."""
        before, since = b"", now()
        while self._logs:
            try:
                found = b"\n".join(log.appended() for log in self._logs)
            except OSError as error:
                self.why = within(f"{self._logs[0].path}: {error.strerror}", 160)
                return ()
            at = now()
            if found != before:
                before, since = found, at
            whole = at - since >= _SETTLED_S or at >= deadline
            text = found.decode("utf-8", "replace") if whole else ""
            if len(_BEGIN.findall(text)) > 1:
                self.why = "several workers were aborted that write to one log: which traceback is whose cannot be told"
                return ()
            main = main_thread(text)
            if main:
                return main
            if at >= deadline:
                paths = " or ".join(log.path for log in self._logs)
                self.why = within(f"faulthandler wrote no traceback to {paths}", 160)
                return ()
            yield _POLL_S
        return ()


def main_thread(text: str) -> tuple[Frame, ...]:
    """The main thread's frames in the last traceback of ``text``, the innermost first; () where there is none."""
    begins = list(_BEGIN.finditer(text))
    if not begins:
        return ()
    found: list[Frame] = []
    for line in text[begins[-1].end() :].splitlines():
        if _THREAD.match(line):
            found = []
        elif match := _FRAME.match(line):
            number = int(match["line"]) if match["line"].isdigit() else 0
            found.append(Frame(match["function"], match["file"], number))
        elif line.startswith(("Extension modules:", "Current thread's C stack trace")):
            break
    return tuple(found)


def _tail(fd: int, begin: int) -> bytes:
    end = os.fstat(fd).st_size
    begin = max(begin, end - _MAX_BYTES)
    return os.pread(fd, max(0, end - begin), begin)
