"""HUP from the first moment on: floor 4, beside listen.py, and light, because it comes before every other import.

By default HUP ends a process (signal(7)), and ``supervisorctl signal HUP all`` reaches a listener that still imports.
"""

from __future__ import annotations

import queue
import signal

HUP = ""
"""Among what is asked of reloads.py: somebody has sent HUP, and waits for no answer. All else is a request's ident."""

_asked: queue.SimpleQueue[str] = queue.SimpleQueue()


def taken() -> queue.SimpleQueue[str]:
    """Take HUP from now on, in the main thread; where it lands. May be called again: a process has one such queue.

    The handler does nothing but ``SimpleQueue.put``, which may interrupt itself (Python's queue: "reentrant"). A child
    process gets HUP back as it is by default (execve(2): handled signals are reset); one that was blocked when we were
    started would stay so in us and in every child, so it is unblocked.
    """
    signal.signal(signal.SIGHUP, lambda number, frame: _asked.put(HUP))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    return _asked


def over() -> None:
    """The process is about to end: nobody hears HUP any more. Python's own end would make it deadly again (CPython
    3.10 to 3.13, signalmodule.c ``_PySignal_Fini``), but leaves what is ignored as it is."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
