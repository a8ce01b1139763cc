"""One real worker to end, and around it a supervisord and a clock that do as they are told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from supervisor_uvicorn import remedy
from supervisor_uvicorn.intentions import Intention, Intentions
from supervisor_uvicorn.kernel import proc
from supervisor_uvicorn.ledger import Outcome, Reason, Remedy, Restart, Result
from supervisor_uvicorn.model import Member, State, WorkerId
from supervisor_uvicorn.report import events
from supervisor_uvicorn.settings import Settings
from supervisor_uvicorn.supervisord.calls import ProcessInfo
from supervisor_uvicorn.supervisord.rpc import (
    InDoubt,
    RpcError,
    Unreachable,
)
from supervisor_uvicorn.verdict import Past

NAME = "web:web-0"
ALONE = "import signal, sys\n{setup}\nprint(flush=True)\nsignal.pause()\nwhile True: signal.pause()"
CATCHES_ABRT = "import faulthandler; faulthandler.enable()"
SWALLOWS_ABRT = "signal.signal(signal.SIGABRT, lambda *_: None)"
IGNORES_TERM = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Site:
    """One worker, real; around it a supervisord that sends real signals, unless a fault is due for a call."""

    def __init__(self, process: subprocess.Popen[bytes], directory: Path) -> None:
        self.process = process
        self.worker = WorkerId(NAME, process.pid, proc.born(process.pid))
        self.clock = Clock()
        self.calls: list[str] = []
        self.told: list[events.Event] = []
        self.stands: Callable[[Restart], tuple[str, str] | None] = lambda order: None
        self.state = State.RUNNING
        self.pid: int | None = None  # another one than the worker's, for supervisord
        self.others: list[ProcessInfo] = [ProcessInfo("web:web-1", State.RUNNING, 1)]
        self.faults: dict[str, list[RpcError | Callable[[], None]]] = {}
        self.intentions = Intentions(directory / "ours" / "1-1-1.json")
        self.member = Member(NAME, State.RUNNING, process.pid, self.worker.born, stopwaitsecs=10)
        self.settings = Settings()

    # -- supervisord

    def _call(self, what: str) -> None:
        self.calls.append(what)
        due = self.faults.get(what, [])
        if due:
            fault = due.pop(0)
            if isinstance(fault, RpcError):
                raise fault
            fault()

    def process_info(self, name: str) -> ProcessInfo:
        self._call("ask")
        return ProcessInfo(name, self.state, self.process.pid if self.pid is None else self.pid)

    def processes(self) -> list[ProcessInfo]:
        self._call("all")
        return [ProcessInfo(NAME, State.RUNNING, self.process.pid), *self.others]

    def signal(self, name: str, what: str) -> None:
        assert self.calls[-1] == "ask" or what == "CONT", "the question and the signal go back to back"
        self._call(what)
        os.kill(self.process.pid, getattr(signal, f"SIG{what}"))

    def start(self, name: str) -> None:
        self._call("start")

    # -- a remedy

    @property
    def tools(self) -> remedy.Tools:
        supervisord: Any = FakeSupervisord(self)
        return remedy.Tools(supervisord, self.intentions, self.told.append, self.clock, self.stands)

    def run(
        self,
        kind: Remedy = Remedy.ABORT,
        *,
        finish: bool = False,
        reason: Reason | None = None,
        seen: Past | None = None,
    ) -> Outcome:
        """To its end; between steps the clock goes on by what it asked for, and the process gets real time."""
        reason = reason or (Reason.SILENT if kind is Remedy.ABORT else Reason.FAILING)
        order = Restart(self.worker, kind, reason, "for 2 s", seen)
        if not finish:
            self.intentions.put(Intention(NAME, self.worker.pid, self.worker.born, reason.value, kind.value))
        steps = remedy.carry_out(order, self.member, self.settings, self.tools, finish=finish)
        while True:
            try:
                wait_s = next(steps)
            except StopIteration as end:
                outcome: Outcome = end.value
                return outcome
            self.clock.now += wait_s
            self.process.poll()  # reaped, as supervisord would
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(0.004)

    @property
    def signals(self) -> list[str]:
        return [call for call in self.calls if call not in ("ask", "all", "start")]

    def kinds(self) -> list[str]:
        return [event.kind for event in self.told]


class FakeSupervisord:
    def __init__(self, site: Site) -> None:
        self.process, self.processes = site.process_info, site.processes
        self.signal: Callable[[str, str], None] = site.signal
        self.start = site.start


@pytest.fixture
def site_of(tmp_path: Path) -> Iterator[Callable[[str], Site]]:
    started: list[subprocess.Popen[bytes]] = []

    def begin(setup: str = "") -> Site:
        process = subprocess.Popen(
            [sys.executable, "-c", ALONE.format(setup=setup)],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        return Site(process, tmp_path)

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def unreachable() -> RpcError:
    return Unreachable("nobody listens there")


def in_doubt() -> RpcError:
    return InDoubt("did not answer in time")


def called_off(site: Site, brake: str, kind: Remedy = Remedy.ABORT) -> None:
    outcome = site.run(kind)
    assert (outcome.result, outcome.brake) == (Result.CALLED_OFF, brake), outcome
    assert site.signals == []
    assert site.kinds() == [], "what was not begun is not said to be"


def exhaust(site: Site, steps: remedy.Steps) -> Outcome:
    while True:
        try:
            site.clock.now += next(steps)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome
