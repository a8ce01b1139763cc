"""A rolling restart as the tests begin it, watch it and count what it did."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from harness import interpreter
from harness.load_client import NEW, Client
from harness.supervisord import Supervisord
from harness.waiting import wait_for
from supervisor_uvicorn.supervisord.board import Board
from supervisor_uvicorn.supervisord.rpc import Rpc
from supervisor_uvicorn.verbs.page import Page, read_page

EVERY_S = 0.02  # between two requests of a trickle


def verb(site: Supervisord, *words: str, timeout_s: float = 150.0) -> subprocess.CompletedProcess[str]:
    """``supervisor-uvicorn WORDS`` for this supervisord, to its end."""
    return site.cli(words[0], "-c", str(site.conf_path), *words[1:], timeout_s=timeout_s)


@contextlib.contextmanager
def asking(site: Supervisord, *words: str) -> Iterator[subprocess.Popen[str]]:
    """The same, still running inside; afterwards it is gone, whatever happened."""
    process = subprocess.Popen(
        [interpreter.python(), "-m", "supervisor_uvicorn", words[0], "-c", str(site.conf_path), *words[1:]],
        env=site.environment,
        cwd=site.scratch,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str], deadline_s: float = 120.0) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of an ``asking`` that ends by itself."""
    out, err = process.communicate(timeout=deadline_s)
    return process.returncode, out, err


def page(site: Supervisord) -> Page | None:
    """What the listener last reported; None: nothing yet."""
    with Rpc(site.server_url) as rpc:
        note = Board(rpc).read()
    assert note is not None, "supervisord has no [rpcinterface:uvicorn]"
    return read_page(note) if note.text else None


def roll(site: Supervisord, program: str = "web") -> dict[str, Any] | None:
    """The program's roll as it stands on the board."""
    seen = page(site)
    return next((dict(its) for name, its in seen.rolls() if name == program), None) if seen else None


def stages(its: dict[str, Any]) -> list[str]:
    return [turn["stage"] for turn in its["turns"]]


def wait_middle(site: Supervisord, *, detail: str = "", deadline_s: float = 60.0) -> dict[str, Any]:
    """The roll when its second turn is under way (``detail``: and so far that its own words contain this)."""

    def middle() -> dict[str, Any] | None:
        its = roll(site)
        if its is None or stages(its)[:2] != ["done", "under way"] or detail not in its["turns"][1]["detail"]:
            return None
        return its

    return wait_for(middle, deadline_s, f"the second turn under way {detail}") or {}


def wait_end(site: Supervisord, deadline_s: float = 120.0) -> dict[str, Any]:
    """The roll when it rolls no longer."""

    def over() -> dict[str, Any] | None:
        its = roll(site)
        return its if its is not None and its["state"] != "rolling" else None

    return wait_for(over, deadline_s, "the end of the roll") or {}


def healthy(site: Supervisord) -> bool:
    """Does the page show every worker that is not STOPPED healthy, under the pid that supervisord has?"""
    seen = page(site)
    if seen is None or seen.stale:
        return False
    workers = [worker for program in seen.body["programs"] for worker in program["workers"]]
    up = [worker for worker in workers if worker["state"] != "STOPPED"]
    pids = site.pids()
    return bool(up) and all(one["verdict"] == "healthy" and one["pid"] == pids[one["name"]] for one in up)


def wait_healthy(site: Supervisord, deadline_s: float = 60.0) -> dict[str, int]:
    """Wait for :func:`healthy`; name -> pid."""
    wait_for(lambda: healthy(site), deadline_s, "every worker healthy on the page")
    return site.pids()


def spawned(site: Supervisord, names: Sequence[str]) -> dict[str, int]:
    """How often supervisord has started each name."""
    log = (site.scratch / "supervisord.log").read_text()
    return {name: log.count(f"spawned: '{name.partition(':')[2]}'") for name in names}


@dataclasses.dataclass
class Trickle:
    """Context manager: a request over a fresh connection each 20 ms inside; ``failed`` says what was lost of them."""

    url: str
    path: str = "/pid"
    timeout_s: float = 30.0

    def __enter__(self) -> Trickle:
        self._client = Client(self.url, NEW, self.path, self.timeout_s)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def _run(self) -> None:
        while not self._over.wait(EVERY_S):
            self._client.ask()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(self.timeout_s + 5)

    @property
    def answered(self) -> int:
        return self._client.count.answered

    @property
    def failed(self) -> list[str]:
        return self._client.count.examples if self._client.count.failed else []
