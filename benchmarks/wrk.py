"""One run of ``wrk``: requests a second, and how long they took, in a form that a program reads.

wrk prints no percentile above 99 by itself; it runs a script of ours at its end (wrk, SCRIPTING, ``done``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MARK = "figures "
SCRIPT = """
function done(summary, latency, requests)
   local failed = summary.errors
   io.write(string.format(
      'MARK{"requests": %d, "duration_us": %d, "p50_us": %.1f, "p99_us": %.1f, "p999_us": %.1f, "failed": %d}\\n',
      summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), latency:percentile(99.9),
      failed.connect + failed.read + failed.write + failed.status + failed.timeout))
end
""".replace("MARK", MARK)
PATH = "/pid"  # of the test application: a small answer of JSON
EXTRA_S = 30.0  # beyond its duration, until wrk is given up


class NoWrk(Exception):  # noqa: N818 - it reads as what it is
    """wrk is not here."""


@dataclasses.dataclass(frozen=True)
class Load:
    """What one run measured. ``failed``: connects, reads, writes, timeouts, and answers other than 2xx and 3xx."""

    requests: int
    duration_s: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    failed: int

    @property
    def per_second(self) -> float:
        return self.requests / self.duration_s

    def as_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "per_second": round(self.per_second, 1)}


def version() -> str:
    """As wrk tells it. Raises :class:`NoWrk`."""
    if shutil.which("wrk") is None:
        raise NoWrk("wrk is not installed (Debian: apt-get install wrk)")
    told = subprocess.run(["wrk", "--version"], capture_output=True, text=True, timeout=10).stdout
    return told.partition("[")[0].removeprefix("wrk").strip()


def run(url: str, connections: int, duration_s: int, path: str = PATH) -> Load:
    """One run, to its end.

    Raises RuntimeError where wrk fails, or where nobody answered, and what subprocess does.
    """
    with running(url, connections, duration_s, path) as wrk:
        return wrk.result()


class Running:
    """wrk at work. It writes one request after the other, all alike, and nothing else while it runs: so the kernel's
    count of what it has written says at any moment how many requests there were."""

    def __init__(self, process: subprocess.Popen[str], url: str, path: str, duration_s: int) -> None:
        self._process, self._url, self._duration_s = process, url, duration_s
        self._io = Path(f"/proc/{process.pid}/io")
        host = url.removeprefix("tcp://")
        self._request_bytes = len(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")  # wrk 4.1, wrk.lua ``format``

    def requests(self) -> float:
        """Written so far (proc(5), ``wchar`` of ``io``). OSError where it has ended."""
        found = dict(line.split(": ") for line in self._io.read_text().splitlines())
        return int(found["wchar"]) / self._request_bytes

    def result(self) -> Load:
        """Wait for its end. Raises RuntimeError, and TimeoutExpired."""
        out, err = self._process.communicate(timeout=self._duration_s + EXTRA_S)
        if self._process.returncode:
            raise RuntimeError(f"wrk: {(err or out).strip()[-300:]}")
        load = read(out)
        if not load.requests:
            raise RuntimeError(f"wrk: nobody answered at {self._url}")
        return load


@contextlib.contextmanager
def running(url: str, connections: int, duration_s: int, path: str = PATH) -> Iterator[Running]:
    """``connections`` keep-alive connections to ``tcp://host:port``, each with one request at a time, one thread."""
    with tempfile.TemporaryDirectory(prefix="su-wrk-") as scratch:
        script = Path(scratch, "figures.lua")
        script.write_text(SCRIPT)
        command = ["wrk", "-t1", f"-c{connections}", f"-d{duration_s}s", "-s", str(script)]
        command.append(url.replace("tcp://", "http://", 1) + path)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            yield Running(process, url, path, duration_s)
        finally:
            process.kill()
            process.communicate()


def read(output: str) -> Load:
    """What our script wrote. RuntimeError where there is no such line."""
    for line in output.splitlines():
        if line.startswith(MARK):
            found = json.loads(line.removeprefix(MARK))
            return Load(
                found["requests"],
                found["duration_us"] / 1e6,
                found["p50_us"] / 1e3,
                found["p99_us"] / 1e3,
                found["p999_us"] / 1e3,
                found["failed"],
            )
    raise RuntimeError(f"wrk: no figures: {output.strip()[-300:]}")
