"""Others are told what the listener does: a command that is run, a URL that is posted to. Floor 4, beside listen.py.

Each channel has one thread, so that nothing that hangs there holds up a look, or the other channel. They are daemons:
at the end of input the listener leaves at once, and a command under way is killed with it.

A command that failed is not run again: it may have done half of its work, and who is paged twice looks twice. What it
wants to repeat it can repeat itself; a POST is repeated, because nobody else could.
"""

from __future__ import annotations

import datetime
import functools
import os
import re
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence

from .child import feed
from .delivery import Attempt, Channel, Result
from .report import events
from .report.notice import NOTIFIED, notice
from .settings import ListenSettings, SettingsError
from .threads import guarded

COMMAND_S = 10.0
_MOST_SAID = 200
_MASK = "***"
_WORTH_HIDING = 4  # characters: a shorter piece of an argument is no secret, and "1" is in every message


def check(settings: ListenSettings) -> None:
    """Raises :class:`SettingsError` where ``notify`` names a program that cannot be run here."""
    if settings.notify:
        try:
            _find(settings.notify[0])
        except OSError as error:
            raise SettingsError(
                f"notify (--notify): {settings.notify[0]}: {error.strerror}; write the absolute path of a program that "
                "the listener's user may execute, e.g. /usr/local/bin/page-somebody web"
            ) from None


class Notices:
    """``put`` may be called from any thread: it never blocks and never raises.

    ``tell`` is for our own trouble (an ``error`` of reason ``notify``), which is never a notice itself. ``counted`` is
    called with ``command`` or ``url``, and ``sent``, ``failed`` or ``dropped``, once for each notice.
    """

    def __init__(
        self,
        settings: ListenSettings,
        tell: Callable[[events.Event], None],
        counted: Callable[[str, str], None] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._host = socket.gethostname()
        self._channels: list[Channel] = []
        counted = counted or (lambda channel, outcome: None)
        if settings.notify:
            shown = f"--notify {os.path.basename(settings.notify[0])}"
            run = functools.partial(run_command, settings.notify)
            self._channels.append(Channel("command", shown, run, tell, counted, clock))
        if settings.notify_url:
            from . import webhook

            shown = f"--notify-url {webhook.place(settings.notify_url)}"
            post = functools.partial(webhook.post, settings.notify_url)
            self._channels.append(Channel("url", shown, post, tell, counted, clock))

    def start(self) -> None:
        """Start the threads, one for each channel that is set. Raises :class:`RuntimeError` where none can be."""
        for channel in self._channels:
            threading.Thread(target=guarded, args=(channel.run,), daemon=True, name=f"notify {channel.name}").start()

    def put(self, event: events.Event) -> None:
        """Have others told of ``event``, if it is one for them."""
        if event.kind in NOTIFIED and self._channels:
            render = functools.partial(notice, event, datetime.datetime.now().astimezone(), self._host)
            for channel in self._channels:
                channel.put(render)


def run_command(command: Sequence[str], data: bytes, deadline_s: float = COMMAND_S) -> Attempt:
    """Run ``command`` with ``data`` on its stdin. Raises nothing; ``why`` has no word of its arguments.

    Its thread has to outlive the command (child.py ``ends_with_us``).
    """
    try:
        ended = feed([_find(command[0]), *command[1:]], data, deadline_s)
    except OSError as error:
        return Attempt(Result.FAILED, f"it cannot be started: {error.strerror}")
    except ValueError:  # a NUL, or what is no text in any encoding
        return Attempt(Result.FAILED, "it cannot be started: its arguments cannot be passed on")
    if ended.code == 0:
        return Attempt(Result.SENT)
    if ended.code is None:
        why = f"it had not ended after {deadline_s:g} s, and was killed"
    elif ended.code < 0:
        why = f"it was ended by signal {_signal(-ended.code)}"
    else:
        why = f"exit code {ended.code}"
    said = masked(ended.said, command[1:])
    return Attempt(Result.FAILED, f"{why}: {_cut(said)}" if said else why)


def masked(said: str, arguments: Sequence[str]) -> str:
    """``said`` without what stands in ``arguments``, whole or in pieces: there may be a token in one of them."""
    pieces = {one for one in arguments if len(one) >= _WORTH_HIDING}
    for one in arguments:
        value = re.sub(r"^--[a-z][a-z-]*(=|$)", "", one)  # the name of a long option is none
        pieces |= {found for found in re.findall(r"[A-Za-z0-9]+", value) if len(found) >= _WORTH_HIDING}
        if re.match(r"-[A-Za-z]", one):  # -pTOKEN
            pieces |= {one[2:]} if len(one) >= _WORTH_HIDING + 2 else set()
    for piece in sorted(pieces, key=len, reverse=True):
        said = re.sub(re.escape(piece), _MASK, said, flags=re.IGNORECASE)
    return said


def _cut(said: str) -> str:
    return said if len(said) <= _MOST_SAID else said[: _MOST_SAID - 3] + "..."


def _signal(number: int) -> str:
    try:
        return f"{number} ({signal.Signals(number).name})"
    except ValueError:
        return str(number)


def _find(program: str) -> str:
    """The absolute path of ``program``, looked up on PATH. Raises :class:`OSError` that says what is wrong with it."""
    if found := shutil.which(program):
        return os.path.abspath(found)
    if os.path.dirname(program):
        os.stat(program)  # that it is missing, or that its directory is closed
        raise PermissionError(0, "this is no file that the listener's user may execute")
    raise FileNotFoundError(0, "there is no such program on PATH")
