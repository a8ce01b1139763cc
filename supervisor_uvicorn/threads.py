"""Threads of the listener that are needed for a moment, and how any of them may fail: floor 4, beside listen.py."""

from __future__ import annotations

import os
import queue
import threading
import traceback
from collections.abc import Callable


class Crew:
    """A bounded pool of daemon threads for probes: started when first needed, never waited for at the end."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._started = 0

    def submit(self, job: Callable[[], None]) -> None:
        """Have ``job`` run soon. Raises :class:`RuntimeError` where there is no thread and none can be started."""
        with self._lock:
            if self._idle > 0:
                self._idle -= 1
            elif self._started < self._most:
                try:
                    threading.Thread(target=guarded, args=(self._work,), daemon=True, name="probe").start()
                    self._started += 1
                except RuntimeError:  # "can't start new thread": those that there are take the job in their turn
                    if not self._started:
                        raise
        self._jobs.put(job)

    def _work(self) -> None:
        while True:
            self._jobs.get()()
            with self._lock:
                self._idle += 1


def guarded(work: Callable[[], None]) -> None:
    """Run a thread; what it did not foresee ends the process, with the traceback in the log."""
    try:
        work()
    except BaseException:  # noqa: BLE001 - nothing is swallowed: the process ends
        try:
            os.write(2, traceback.format_exc().encode(errors="backslashreplace"))
        finally:  # stderr does not block, and a full one refuses
            os._exit(1)
