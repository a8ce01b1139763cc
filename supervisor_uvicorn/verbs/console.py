"""Where a verb writes, and how it waits: streams and a clock as values, so a test needs neither a terminal nor time."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TextIO

from supervisor_uvicorn.report.log import one_line


class Unwritable(Exception):  # noqa: N818 - it reads as what it is
    """A stream takes nothing any more (a full disk); the message says which, and why."""


ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
"""xterm's control sequences, which its likes share ("XTerm Control Sequences", DECSET): the alternate screen, so that
what a person had before comes back; no cursor; and a line that is too long is not wrapped."""
HOME, ERASE_LINE, ERASE_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"  # ECMA-48 CUP, EL, ED


def _columns() -> int:
    return shutil.get_terminal_size().columns


def _size_of(stream: TextIO) -> tuple[int, int]:
    """The terminal's own answer, and not that of COLUMNS and LINES, which stay as they are when it is resized."""
    try:
        columns, lines = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError, AttributeError):
        columns, lines = 0, 0
    fallback = shutil.get_terminal_size()
    return columns or fallback.columns, lines or fallback.lines  # a serial line does not know its own (ioctl_tty(2))


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except (AttributeError, ValueError):  # a stand-in for a stream, or one that is closed
        return False


@dataclass
class Console:
    """``out`` is for what was asked for, ``err`` for what a person should know beside it.

    ``command`` is what a person types before a verb. ``live``: a line of ``out`` can be rewritten in place. ``clock``
    is monotonic, in seconds; ``width`` gives the columns of the terminal, ``size`` its columns and lines as of now.
    ``term`` is the terminal's kind (``TERM``). Writing raises BrokenPipeError where nobody
    reads on, and :class:`Unwritable`.
    """

    out: TextIO
    err: TextIO
    command: str = "supervisor-uvicorn"
    live: bool = False
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    width: Callable[[], int] = _columns
    size: Callable[[], tuple[int, int]] = shutil.get_terminal_size
    term: str = ""
    _shown: int = 0  # characters of the line that will be rewritten
    _painted: bool = False

    @classmethod
    def of(cls, out: TextIO | None, err: TextIO | None = None, command: str = "supervisor-uvicorn") -> Console:
        """``out`` is None where descriptor 1 is closed (``>&-``), as ``sys.stdout`` is. Raises :class:`Unwritable`."""
        if out is None:
            raise Unwritable("there is no standard output to write to (descriptor 1 is closed)")
        err = sys.stderr if err is None else err
        return cls(
            out,
            io.StringIO() if err is None else err,
            command,
            _is_terminal(out),
            size=lambda: _size_of(out),
            term=os.environ.get("TERM", ""),
        )

    @property
    def paints(self) -> bool:
        """Can a whole picture be redrawn in place?"""
        return self.live and self.term != "dumb"

    @property
    def blocks(self) -> bool:
        """Can it show block elements (U+2581 to U+2588)? The Linux console's fonts have not all of them."""
        try:
            "\u2581\u2588".encode(self._encoding)
        except (UnicodeEncodeError, LookupError):
            return False
        return self.term != "linux"

    @property
    def _encoding(self) -> str:
        return getattr(self.out, "encoding", None) or "ascii"

    def encodable(self, text: str) -> str:
        """``text`` as this stream will show it: what its encoding lacks as an escape, so that widths are true."""
        return text.encode(self._encoding, "backslashreplace").decode(self._encoding)

    def say(self, text: str) -> None:
        """A line, or several, of what was asked for."""
        self.clear()
        self._out(text if text.endswith("\n") else text + "\n")

    def note(self, text: str) -> None:
        """A line beside it, on ``err``."""
        self.clear()
        _write(self.err, "standard error", text if text.endswith("\n") else text + "\n")

    def show(self, text: str) -> None:
        """The line that is rewritten in place: only where ``live``. It is cut to the terminal's width."""
        if not self.live:
            return
        text = one_line(text)[: max(self.width() - 1, 10)]  # a full line would wrap, and could not be rewritten
        self._out("\r" + text.ljust(self._shown))
        self._shown = len(text)

    def paint(self, lines: Sequence[str]) -> None:
        """All that the terminal shows, in place of what was painted before: in one piece and without a blank moment in
        between, so that nothing flickers. ``lines`` fit in it, and each is at least one column narrower: at the last
        one, erasing takes the last character away."""
        begin = "" if self._painted else ENTER
        self._painted = True
        self._out(begin + HOME + "\n".join(line + ERASE_LINE for line in lines) + ERASE_BELOW)

    def unpaint(self) -> None:
        """The terminal as it was before; nothing where nothing was painted."""
        if self._painted:
            self._painted = False
            self._out(LEAVE)

    def clear(self) -> None:
        """Take the rewritten line away."""
        if self._shown:
            self._out("\r" + " " * self._shown + "\r")
            self._shown = 0

    def _out(self, text: str) -> None:
        try:
            _write(self.out, "standard output", text)
        except (BrokenPipeError, Unwritable):
            self._shown = 0  # what is said of it on ``err`` must not begin with another try here
            raise


def _write(stream: TextIO, which: str, text: str) -> None:
    try:
        try:
            stream.write(text)
        except UnicodeEncodeError:  # a name that this locale cannot show
            encoding = getattr(stream, "encoding", None) or "ascii"
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Unwritable(f"cannot write to {which}: {error.strerror or error}") from None
    except ValueError as error:  # "I/O operation on closed file"
        raise Unwritable(f"cannot write to {which}: {error}") from None


def silence(stream: TextIO) -> None:
    """What is still to be flushed at the interpreter's end would be a traceback (Python's docs on SIGPIPE)."""
    try:
        stream.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
    except ValueError:  # closed
        pass
