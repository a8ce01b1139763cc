"""A listener that a test plays: it hears the requests as a real one does, and the test reports what it likes."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import subprocess
from collections.abc import Iterator
from typing import Any

from harness import interpreter
from harness.supervisord import Supervisord
from harness.waiting import wait_for

from supervisor_uvicorn.supervisord.board import Board
from supervisor_uvicorn.supervisord.rpc import Rpc

_HEAR = """\
import json, sys
from supervisor import childutils
while True:
    headers, payload = childutils.listener.wait(sys.stdin, sys.stdout)
    kind, _, data = payload.partition("\\n")
    with open(sys.argv[1], "a") as file:
        file.write(json.dumps({"kind": kind.partition(":")[2], "data": data}) + "\\n")
    childutils.listener.ok(sys.stdout)
"""

PLUGIN = """\
[rpcinterface:uvicorn]
supervisor.rpcinterface_factory = supervisor_uvicorn.plugin.rpcinterface:make_rpcinterface
"""
CTL = """\
[ctlplugin:uvicorn]
supervisor.ctl_factory = supervisor_uvicorn.plugin.ctl:make_controller_plugin
"""
WORKERS = """\
[program:web]
command=sleep 1000
numprocs=2
process_name=web-%(process_num)d
startsecs=0
"""


class Played:
    """The listener of ``site``, by hand."""

    def __init__(self, site: Supervisord) -> None:
        self.site = site
        self.board = Board(Rpc(site.server_url))
        self.heard_path = site.scratch / "heard"
        self._taken = 0

    def requests(self) -> list[dict[str, Any]]:
        if not self.heard_path.exists():
            return []
        events = [
            json.loads(line) for line in self.heard_path.read_text().splitlines(keepends=True) if line[-1] == "\n"
        ]
        assert {event["kind"] for event in events} <= {"supervisor-uvicorn"}
        return [json.loads(event["data"]) for event in events]

    def next_request(self, deadline_s: float = 30.0) -> dict[str, Any]:
        """The oldest request that was not returned yet."""
        wait_for(lambda: len(self.requests()) > self._taken, deadline_s, "a request")
        self._taken += 1
        return self.requests()[self._taken - 1]

    def report(self, page: dict[str, Any]) -> None:
        assert self.board.report(json.dumps(page))


@contextlib.contextmanager
def played(sections: str = PLUGIN + CTL, listener: bool = True, **options: Any) -> Iterator[Played]:
    """A supervisord with two sleeping workers, our plugins, and a listener that only writes down what it hears."""
    entry = ""
    if listener:
        entry = (
            f"[eventlistener:hears]\ncommand={interpreter.python()} {{scratch}}/hear.py {{scratch}}/heard\n"
            "events=REMOTE_COMMUNICATION\nstderr_logfile={scratch}/hears.err\n"
        )
    site = Supervisord(listen=None, listener="hears", sections=f"{sections}\n{WORKERS}\n{entry}", **options)
    (site.scratch / "hear.py").write_text(_HEAR)
    with site:
        site.wait_running()
        its = Played(site)
        try:
            yield its
        finally:
            its.board.rpc.close()


def redirected(stage: Played, command: list[str], how: str) -> subprocess.CompletedProcess[str]:
    """``command`` as a shell runs it with ``how`` (``>&-``, ``>/dev/full``); what it said on stderr."""
    return subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {how}', "sh", *command],
        env=stage.site.environment,
        cwd=stage.site.scratch,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


class Terminal:
    """The test's end of a pseudo-terminal: what the other end shows, read with a deadline."""

    def __init__(self) -> None:
        self._master, self.slave = pty.openpty()
        self.shown = ""  # what was shown and not yet looked for

    def see(self, text: str, deadline_s: float = 30.0) -> str:
        """Wait until ``text`` is shown; what stood before it."""
        wait_for(lambda: self._has(text), deadline_s, f"the terminal to show {text!r}", 0.01)
        before, _, self.shown = self.shown.partition(text)
        return before

    def _has(self, text: str) -> bool:
        if text not in self.shown and select.select([self._master], [], [], 0.05)[0]:
            with contextlib.suppress(OSError):  # EIO: the other end is closed (pty(7))
                self.shown += os.read(self._master, 4096).decode()
        return text in self.shown

    def type_in(self, text: str) -> None:
        os.write(self._master, text.encode())

    def close(self) -> None:
        os.close(self._master)
