"""The listener's stdin and stdout, kept for the protocol alone.

One stray byte on stdout (a ``print``, a warning, a child process that inherits it) makes supervisord give this
listener up for ever, without a word (supervisor 4.3.0, dispatchers.py ``handle_listener_state_change``). So
descriptor 1 becomes a private one, and whoever still writes to "stdout" writes to stderr.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys

from supervisor_uvicorn.supervisord.protocol import OK, READY, Event, EventReader

READ_BYTES = 65536


class Channel:
    """Events in, acknowledgements out. One thread's affair. Of a supervisord that has gone both ends are the end of
    input.
    """

    def __init__(self, stdin: int = 0, stdout: int = 1, stderr: int = 2) -> None:
        self._stdin = os.dup(stdin)  # not inheritable, nor is the next
        self._stdout = os.dup(stdout)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, stdin)  # a child that reads its stdin would take events away
        os.close(nothing)
        os.dup2(stderr, stdout)
        sys.stdout = sys.stderr
        self.reader = EventReader()

    def ready(self) -> None:
        """Tell supervisord that we take events."""
        self._write(READY)

    def wait(self, timeout_s: float) -> list[Event] | None:
        """The events that have come, each answered OK already; [] at the end of ``timeout_s``, None at the end of
        input.

        OK before anything is done about an event: a listener that makes supervisord wait loses later ones, and one
        that answers FAIL gets the same event again at once, for ever.
        """
        readable, _, _ = select.select([self._stdin], [], [], timeout_s)
        if not readable:
            return []
        data = os.read(self._stdin, READ_BYTES)
        if not data:
            return None
        events = self.reader.feed(data)
        for _ in events:
            self._write(OK + READY)
        return events

    def _write(self, data: bytes) -> None:
        with contextlib.suppress(BrokenPipeError):  # supervisord has gone: the end of input is next
            while data:
                data = data[os.write(self._stdout, data) :]
