"""Load on a socket from several processes, for as long as a test wants, and what became of each request."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

from harness import load_client
from harness.load_client import KEPT, NEW, Count, Failure
from harness.waiting import wait_for

__all__ = ["KEPT", "NEW", "Count", "Failure", "Load", "Result"]


@dataclasses.dataclass
class Result(Count):
    """The counts of all clients together."""

    seconds: float = 0.0

    def of(self, *kinds: Failure) -> int:
        """How many requests failed in these ways."""
        return sum(self.failed.get(kind.value, 0) for kind in kinds)

    @property
    def all_failed(self) -> int:
        return sum(self.failed.values())

    def figures(self) -> dict[str, object]:
        """For the file of figures."""
        return {
            "requests": self.done,
            "failed": self.all_failed,
            **{kind.value: self.of(kind) for kind in Failure if self.of(kind)},
            "connections": self.connections,
            "per_s": round(self.done / self.seconds),
            "longest_s": round(self.longest_s, 3),
        }


class _Process:
    """One client; a thread reads what it prints."""

    def __init__(self, order: dict[str, object]) -> None:
        self.done = 0
        self.count: Count | None = None
        self.process = subprocess.Popen(
            [sys.executable, "-I", Path(load_client.__file__), json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said = json.loads(line)
            if isinstance(said, dict):
                self.count = Count(**said)
                self.done = self.count.done
            else:
                self.done = said

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def result(self, deadline_s: float) -> Count:
        code = self.process.wait(deadline_s)
        self._reader.join(deadline_s)
        assert code == 0, f"a client of the load ended with {code}"
        assert self.count is not None
        return self.count

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


class Load:
    """Context manager: ``clients`` processes ask ``path`` of ``url`` inside, each over one connection at a time.

    ``kind`` is :data:`NEW` or :data:`KEPT`. Whether it answers at all is for the caller to see before: each request
    counts from the first. ``timeout_s`` is what a client waits at each step, ``pause_s`` the longest pause that it
    makes before a request (by chance anything up to it).
    """

    def __init__(
        self,
        url: str,
        kind: str,
        *,
        clients: int = 4,
        path: str = "/pid",
        timeout_s: float = 30.0,
        pause_s: float = 0.0,
    ) -> None:
        self._order: dict[str, object] = {"url": url, "kind": kind, "path": path}
        self._order |= {"timeout_s": timeout_s, "pause_s": pause_s}
        self._timeout_s = timeout_s
        self._clients = clients
        self._processes: list[_Process] = []
        self._began = 0.0

    def __enter__(self) -> Load:
        self._began = time.monotonic()
        try:
            for _ in range(self._clients):
                self._processes.append(_Process(self._order))
            wait_for(
                lambda: all(client.done for client in self._processes), 30 + self._timeout_s, "each client's first"
            )
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        for client in self._processes:
            client.end()

    @property
    def done(self) -> int:
        """Requests so far, answered or failed; a tenth of a second old."""
        return sum(client.done for client in self._processes)

    def wait_done(self, requests: int, deadline_s: float) -> None:
        """Wait until so many requests are done."""
        wait_for(lambda: self.done >= requests, deadline_s, f"{requests} requests of the load")

    def stop(self) -> Result:
        """Let each client end the request that it is at; all counts together."""
        for client in self._processes:
            client.stop()
        counts = [client.result(2 * self._timeout_s) for client in self._processes]
        together = Result(seconds=time.monotonic() - self._began)
        for count in counts:
            together.answered += count.answered
            together.connections += count.connections
            together.longest_s = max(together.longest_s, count.longest_s)
            together.examples += count.examples
            for word, times in count.failed.items():
                together.failed[word] = together.failed.get(word, 0) + times
            for body, times in count.answers.items():
                together.answers[body] = together.answers.get(body, 0) + times
        return together
