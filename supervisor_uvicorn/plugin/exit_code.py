"""An exit code for supervisord that its orchestrator sees.

supervisord ends with 0 whatever became of its processes (supervisor 4.3.0 and 4.2.5, supervisord.py ``main`` returns
None), so a container in which nothing serves any more ends like one that has done its work, and ``restart: on-failure``
leaves it down. The code is asked for right before a shutdown, and counts for that shutdown alone:

* It is remembered only while nobody else's shutdown or reload is under way, and forgotten unless supervisord begins to
  stop within :data:`FRESH_S`: an operator's own shutdown, an hour later, ends with 0 as ever.
* It is used at the very end, by an ``atexit`` function: every process is stopped by then, the pid file and the sockets
  are removed (options.py ``cleanup``), the log is closed. A SIGHUP can no longer turn the shutdown into a reload
  (supervisord.py ``handle_signal``).
* Nothing here can keep supervisord from ending: what fails leaves the code at 0.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from supervisor import events
from supervisor.states import SupervisorStates
from supervisor.xmlrpc import Faults, RPCError

FRESH_S = 5.0  # supervisord's loop turns once a second at least, and then it stops


class ExitCode:
    """The code of one supervisord. ``clock`` is :func:`time.monotonic`, ``at_exit`` :func:`atexit.register`."""

    def __init__(
        self,
        supervisord: Any,
        log: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        at_exit: Callable[[Callable[[], None]], object] = atexit.register,
    ) -> None:
        self._supervisord = supervisord
        self._log = log
        self._clock = clock
        self._at_exit = at_exit
        self._asked: tuple[int, float] | None = None  # the code, and when (monotonic)

    def subscribe(self) -> None:
        """Hear that supervisord stops. It forgets all subscribers at each `reload` (supervisord.py ``run``)."""
        events.subscribe(events.SupervisorStoppingEvent, self.on_stopping)

    def ask(self, code: int) -> None:
        """Remember ``code`` for a shutdown that is to begin now; 0 forgets it.

        Raises RPCError: INCORRECT_PARAMETERS for what is no exit code, SHUTDOWN_STATE where it comes too late.
        """
        if isinstance(code, bool) or not isinstance(code, int) or not 0 <= code <= 255:
            raise RPCError(Faults.INCORRECT_PARAMETERS, f"code is {code!r}; write a whole number from 1 to 255")
        if self._supervisord.options.mood < SupervisorStates.RUNNING:
            raise RPCError(Faults.SHUTDOWN_STATE)
        self._asked = (code, self._clock()) if code else None

    def on_stopping(self, _: Any) -> None:
        """supervisord begins to stop, or to reload. Raises nothing: an exception here would end it at once."""
        asked, self._asked = self._asked, None
        with contextlib.suppress(Exception):
            if asked is None or self._supervisord.options.mood != SupervisorStates.SHUTDOWN:
                return
            code, at = asked
            if self._clock() - at > FRESH_S:
                self._log(f"exit code {code} was asked for too long before this shutdown: it will be 0")
                return
            self._log(f"supervisord will end with exit code {code}")
            pid = os.getpid()
            self._at_exit(lambda: _leave(code, pid))


def _leave(code: int, pid: int) -> None:
    if os.getpid() != pid:  # a fork of supervisord's process that ended by itself
        return
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)
