"""The other side of a quick recovery: workers that are busy, or blocked for half of what is tolerated, are left alone.

Counted are the pids that went; each of them was well.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from typing import Any

from harness import client, processes

from benchmarks.command import RUN_FAILURES
from benchmarks.peers.base import Site, Unwell

LOADS = ("saturation", "blocks")
EVERY_S = 0.1
CONNECTIONS = 400  # of wrk: 100 for each of four workers, so that each loop always has something to do
WAIT_S = 30.0


def count(site: Site, load: str, limit_s: float, seconds: float) -> dict[str, Any]:
    """Put ``load`` on a site where all is well, for ``seconds`` (blocks: at least four of them).

    ``ended``: how many pids went. ``requests``: how many were answered. ``busy``: the lowest and the highest share of
    one core that a worker has used. Raises :class:`Unwell` and what the site does.
    """
    before = site.settle()
    time.sleep(1)  # some peers see a worker only after its first beat
    used = {pid: processes.cpu_s(pid) for pid in before}
    if load == "blocks":
        seconds = max(seconds, 2 * limit_s)
    lasts = _Blocks(site, limit_s, seconds) if load == "blocks" else _Saturation(site, seconds)
    began = time.monotonic()
    seen = set(before)
    try:
        lasts.start()
        while lasts.under_way() and site.alive():
            seen |= site.workers()
            time.sleep(EVERY_S)
    finally:
        lasts.end()
    took_s = time.monotonic() - began
    if load == "saturation" and not lasts.requests:
        raise Unwell("wrk got no answer at all")
    shares = [(processes.cpu_s(pid) - used[pid]) / took_s for pid in before if processes.alive(pid)]
    return {
        "seconds": round(took_s, 1),
        "requests": lasts.requests,
        "failed": lasts.failed,
        "busy": [round(share, 2) for share in (min(shares), max(shares))] if shares else [],
        "ended": sum(not processes.alive(pid) for pid in seen),
    }


class _Saturation:
    """wrk twice: connections that are kept fill the loops that have them, new ones go to whoever is idle."""

    def __init__(self, site: Site, seconds: float) -> None:
        wrk = shutil.which("wrk")
        if wrk is None:
            raise RuntimeError("no wrk on the path (Debian: apt-get install wrk)")
        url = site.url.replace("tcp://", "http://") + "/pid"
        words = [wrk, "-t1", f"-c{CONNECTIONS // 2}", f"-d{round(seconds)}s", "--timeout", "30s"]
        self._commands = [[*words, url], [*words, "-H", "Connection: close", url]]
        self._processes: list[subprocess.Popen[str]] = []
        self.requests = self.failed = 0

    def start(self) -> None:
        for command in self._commands:
            self._processes.append(
                subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
            )

    def under_way(self) -> bool:
        return any(process.poll() is None for process in self._processes)

    def end(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
        for process in self._processes:
            said, _ = process.communicate(timeout=WAIT_S)
            answered, failed = requests_of_wrk(said)
            self.requests += answered
            self.failed += failed


def requests_of_wrk(said: str) -> tuple[int, int]:
    """Requests that were answered, and connections or answers that were not as they should be, as wrk told."""
    answered = re.search(r"(\d+) requests in ", said)
    errors = re.search(r"connect (\d+), read (\d+), write (\d+), timeout (\d+)", said)
    wrong = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    failed = sum(map(int, errors.groups())) if errors else 0
    return int(answered[1]) if answered else 0, failed + (int(wrong[1]) if wrong else 0)


class _Blocks:
    """One connection to each worker, over which it is told again and again to block for half of the limit."""

    def __init__(self, site: Site, limit_s: float, seconds: float) -> None:
        self._path = f"/block?s={limit_s / 2:g}"
        self._seconds = seconds
        self.requests = self.failed = 0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._connections: list[client.Connection] = []
        try:
            for pid in site.workers():
                self._connections.append(site.connect_to(pid))
        except RUN_FAILURES:
            self._close()
            raise
        for connection in self._connections:
            assert connection.sock is not None
            connection.sock.settimeout(limit_s + WAIT_S)
        self._threads = [threading.Thread(target=self._run, args=(one,), daemon=True) for one in self._connections]

    def start(self) -> None:
        self._end = time.monotonic() + self._seconds
        for thread in self._threads:
            thread.start()

    def _run(self, connection: client.Connection) -> None:
        while not self._over.is_set() and time.monotonic() < self._end:
            try:
                connection.ask(self._path)
            except RUN_FAILURES:
                with self._lock:
                    self.failed += 1
                return  # its worker is gone
            with self._lock:
                self.requests += 1

    def under_way(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(WAIT_S)
        self._close()

    def _close(self) -> None:
        for connection in self._connections:
            connection.close()
