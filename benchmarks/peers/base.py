"""What a peer is to a benchmark: how it is installed and started, who its workers are, how it is told to renew them.

Workers are found by what they do, the same way for all: a process below the peer's own one whose event loop watches
the listening socket (proc(5), ``fdinfo``), so it accepts. That a worker answers is then asked of it.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import http.client
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager

from harness import client, processes
from harness.waiting import wait_for

from benchmarks.environments import Environment
from supervisor_uvicorn.kernel import proc, resources
from supervisor_uvicorn.kernel.errors import KernelError
from supervisor_uvicorn.kernel.sock_diag import SockDiag

WORKERS = 4
START_DEADLINE_S = 60.0
ANSWER_S = 2.0  # within which a worker that is well answers ``/pid``


class Unwell(Exception):  # noqa: N818 - it reads as what it is
    """The peer is not as it should be before a measurement; the message says how."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """``limit_s``: how long a worker may be hung; None: the peer's check is off, or as the peer has it by itself."""

    workers: int = WORKERS
    limit_s: float | None = None


class Site(abc.ABC):
    """A running peer. ``url``: ``tcp://host:port``; ``main_pid``: the process that everything else is below."""

    def __init__(self, url: str, main_pid: int, count: int) -> None:
        self.url, self.main_pid, self.count = url, main_pid, count
        self._port = int(url.rpartition(":")[2])
        self._diag = SockDiag()

    # --- who there is -------------------------------------------------------------------------------------------

    def alive(self) -> bool:
        """Whether the peer's own process is there."""
        return processes.alive(self.main_pid)

    def below(self) -> set[int]:
        """All live processes below the peer's own one; none where it is gone."""
        try:
            return {pid for pid in resources.descendants(self.main_pid) if processes.alive(pid)}
        except KernelError:
            return set()

    def workers(self) -> set[int]:
        """Those of them that watch the listening socket now. A hung one still does."""
        listening = {inode for inode, socket in self._diag.listening().items() if socket.address.port == self._port}
        return {pid for pid in self.below() if _watches(pid, listening)}

    def answers(self, pid: int) -> bool:
        """Does this worker answer a request? Asked over a connection that it alone can accept."""
        try:
            self.connect_to(pid).close()
        except (OSError, AssertionError, http.client.HTTPException):
            return False
        return True

    def connect_to(self, pid: int) -> client.Connection:
        """A keep-alive connection that belongs to this worker, which has just answered on it.

        For a moment the others are stopped, those that a benchmark has hung among them: nobody takes notice. Raises
        AssertionError, OSError or HTTPException where it does not answer.
        """
        return client.connect_to(self.url, pid, self.workers(), timeout_s=ANSWER_S)

    # --- what is done with it -----------------------------------------------------------------------------------

    def settle(self, deadline_s: float = START_DEADLINE_S) -> set[int]:
        """Wait until as many workers as there should be serve, and each has answered; their pids.

        Raises :class:`Unwell`: the peer has ended, or it is not so after ``deadline_s``.
        """
        end = time.monotonic() + deadline_s
        while True:
            found = self.workers()
            if len(found) == self.count and all(self.answers(pid) for pid in found) and self.settled():
                return found
            if not self.alive():
                raise Unwell(f"it has ended: {self.said()}")
            if time.monotonic() > end:
                raise Unwell(f"{len(found)} of {self.count} workers serve after {deadline_s:g} s: {self.said()}")
            time.sleep(0.05)

    def settled(self) -> bool:
        """Whether the peer itself is ready to see what happens to its workers, where it tells."""
        return True

    @abc.abstractmethod
    def renew(self) -> None:
        """Tell the peer to replace all workers by new ones; may return before that is done."""

    @abc.abstractmethod
    def said(self) -> str:
        """The end of what the peer has logged, for the report of a failed run."""


def _watches(pid: int, listening: set[int]) -> bool:
    try:
        return bool(proc.epoll_watched_inodes(pid) & listening)
    except KernelError:
        return False


class Peer(abc.ABC):
    """One way to run the application on several workers.

    ``name`` is what ``--only`` takes; ``environment`` and ``requirements``: what is installed, and under which name;
    ``has_limit``: whether the time after which a hung worker is replaced can be set at all; ``renewal``: how it is told
    to renew its workers, empty where it cannot.
    """

    name: str
    title: str
    environment: str
    requirements: Sequence[str]
    has_limit = False
    renewal = ""

    def refuses(self, limit_s: float) -> str:
        """Why the peer does not take this limit; empty where it does."""
        return ""

    @abc.abstractmethod
    def running(self, environment: Environment, settings: Settings) -> AbstractContextManager[Site]:
        """Inside it runs; afterwards nothing of it is there, whatever happened. Not settled yet."""


def last_lines(text: str, count: int = 5) -> str:
    """The last lines that say something, on one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-count:])


def wait_answer(url: str, deadline_s: float = START_DEADLINE_S) -> None:
    """Wait for the first answer of anybody. AssertionError where there is none."""

    def answered() -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return client.ask(url, "/pid", ANSWER_S)[0] == 200
        return False

    wait_for(answered, deadline_s, f"an answer at {url}")
