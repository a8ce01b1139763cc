"""A peer that is one command with children of its own; for those that do not run under supervisord."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from harness import interpreter, processes

from benchmarks.environments import Environment
from benchmarks.peers.base import Settings, Site, last_lines

Renew = Callable[["Started"], None]


class Started(Site):
    """One command in a directory of its own, which also has its log."""

    def __init__(
        self,
        url: str,
        process: subprocess.Popen[bytes],
        count: int,
        scratch: Path,
        variables: Mapping[str, str],
        renew: Renew,
    ) -> None:
        super().__init__(url, process.pid, count)
        self.process, self.scratch, self.variables, self._renew = process, scratch, dict(variables), renew

    def alive(self) -> bool:
        return self.process.poll() is None

    def renew(self) -> None:
        self._renew(self)

    def said(self) -> str:
        code = self.process.poll()
        ended = "" if code is None else f"exit code {code}; "
        return ended + last_lines((self.scratch / "log").read_text(errors="replace"))


def hang_up(site: Started) -> None:
    """SIGHUP to the peer's own process."""
    os.kill(site.main_pid, signal.SIGHUP)


def cannot_renew(site: Started) -> None:
    """For a peer whose ``renewal`` is empty."""
    raise NotImplementedError(f"{site.url}: this peer cannot renew its workers")


@contextlib.contextmanager
def started(
    environment: Environment,
    command: Callable[[Path], Sequence[str]],
    url: str,
    settings: Settings,
    renew: Renew = cannot_renew,
    kind: type[Started] = Started,
) -> Iterator[Started]:
    """Run ``command`` (made for a directory that is there for as long) with the test application on its path.

    Everything that it begins carries a mark in its environment, by which it is ended afterwards.
    """
    scratch = Path(tempfile.mkdtemp(prefix="su-bench-"))
    mark = uuid.uuid4().hex
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("UVICORN_", "GRANIAN_"))}
    variables |= {processes.MARKER: mark, "PYTHONPATH": str(interpreter.APPS), "TMPDIR": str(scratch)}
    variables |= {"PATH": os.pathsep.join([str(environment.python.parent), os.environ.get("PATH", os.defpath)])}
    variables |= {"FAULTY_DIR": str(scratch), "PYTHONUNBUFFERED": "1"}
    process: subprocess.Popen[bytes] | None = None
    try:
        with (scratch / "log").open("wb") as log:
            process = subprocess.Popen(
                list(command(scratch)),
                cwd=scratch,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        yield kind(url, process, settings.workers, scratch, variables, renew)
    finally:
        processes.kill_marked(mark)
        if process is not None:
            process.wait(10)
        shutil.rmtree(scratch, ignore_errors=True)
