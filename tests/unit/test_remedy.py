"""The steps of a remedy: real processes of our own to end, and a supervisord and a clock that do as they are told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from harness.waiting import wait_for

from supervisor_uvicorn import helpers, remedy
from supervisor_uvicorn.intentions import Intention, Intentions
from supervisor_uvicorn.kernel import proc
from supervisor_uvicorn.kernel.errors import Exhausted, Refused
from supervisor_uvicorn.ledger import Outcome, Reason, Remedy, Restart, Result, Start
from supervisor_uvicorn.model import Address, Member, Options, State, WorkerId
from supervisor_uvicorn.report import events
from supervisor_uvicorn.settings import Settings
from supervisor_uvicorn.supervisord.calls import ProcessInfo
from supervisor_uvicorn.supervisord.rpc import (
    ALREADY_STARTED,
    BAD_NAME,
    FAILED,
    NOT_RUNNING,
    SHUTDOWN_STATE,
    SPAWN_ERROR,
    BadAnswer,
    Fault,
    InDoubt,
    RpcError,
    Unauthorized,
    Unreachable,
)

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
        return remedy.Tools(_Supervisord(self), self.intentions, self.told.append, self.clock)  # type: ignore[arg-type]

    def run(self, kind: Remedy = Remedy.ABORT, *, finish: bool = False, reason: Reason | None = None) -> Outcome:
        """To its end; between steps the clock goes on by what it asked for, and the process gets real time."""
        reason = reason or (Reason.SILENT if kind is Remedy.ABORT else Reason.FAILING)
        order = Restart(self.worker, kind, reason, "for 2 s")
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


class _Supervisord:
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


# -- the ladders -----------------------------------------------------------------------------------------------------


def test_abort_asks_and_signals_back_to_back(site_of: Callable[[str], Site]) -> None:
    site = site_of(CATCHES_ABRT)
    assert site.run() == Outcome(site.worker, Result.ENDED)
    assert site.signals == ["ABRT"]
    assert site.calls[-2:] == ["ask", "ABRT"]
    assert site.process.wait(10) == -signal.SIGABRT
    assert site.kinds() == ["restart"]
    assert site.intentions.load()[NAME].signalled


def test_without_a_handler_for_abrt_it_is_kill_at_once(site_of: Callable[[str], Site]) -> None:
    site = site_of("")
    began = site.clock.now
    assert site.run().result is Result.ENDED
    assert site.signals == ["KILL"]
    assert site.clock.now - began < 1, "nothing was waited for"


def test_kill_after_abort_wait_where_abrt_is_swallowed(site_of: Callable[[str], Site]) -> None:
    site = site_of(SWALLOWS_ABRT)
    began = site.clock.now
    assert site.run().result is Result.ENDED
    assert site.signals == ["ABRT", "KILL"]
    assert site.clock.now - began >= site.settings.abort_wait_s
    assert site.kinds() == ["restart"], "one restart, said once"


def test_a_stopped_worker_gets_cont(site_of: Callable[[str], Site]) -> None:
    site = site_of(CATCHES_ABRT)
    os.kill(site.process.pid, signal.SIGSTOP)
    wait_for(lambda: proc.status(site.process.pid).state == "T", 10, "the worker to stop")
    assert site.run().result is Result.ENDED
    assert site.signals == ["ABRT", "CONT"]
    assert site.process.wait(10) == -signal.SIGABRT


def test_term_ignored_is_kill_after_drain_timeout(site_of: Callable[[str], Site]) -> None:
    site = site_of(IGNORES_TERM)
    site.settings = Settings(drain_timeout_s=3)
    began = site.clock.now
    assert site.run(Remedy.DRAIN).result is Result.ENDED
    assert site.signals == ["TERM", "KILL"]
    assert 3 <= site.clock.now - began < 4


def test_the_drain_timeout_is_stopwaitsecs_where_none_is_set(site_of: Callable[[str], Site]) -> None:
    site = site_of(IGNORES_TERM)
    began = site.clock.now
    site.run(Remedy.DRAIN)
    assert site.clock.now - began >= 10


def test_what_we_slept_through_is_no_time_that_the_worker_had(site_of: Callable[[str], Site]) -> None:
    site = site_of(IGNORES_TERM)
    order = Restart(site.worker, Remedy.DRAIN, Reason.FAILING, "")
    steps = remedy.carry_out(order, site.member, site.settings, site.tools)
    next(steps)
    site.clock.now += 3600
    next(steps)
    assert site.signals == ["TERM"]


def test_what_an_earlier_listener_began_is_finished_and_not_begun_anew(site_of: Callable[[str], Site]) -> None:
    site = site_of(CATCHES_ABRT + "\n" + IGNORES_TERM)
    assert site.run(Remedy.DRAIN, finish=True).result is Result.ENDED
    assert site.signals == ["KILL"]


def test_the_verdict_in_the_log_is_the_reasons(site_of: Callable[[str], Site]) -> None:
    site = site_of("")
    site.run(reason=Reason.START_TIMEOUT)
    assert site.told[0].fields["verdict"] == "starting"
    assert site.told[0].fields["reason"] == "start_timeout"


# -- no core ---------------------------------------------------------------------------------------------------------


def test_no_core_is_left(site_of: Callable[[str], Site]) -> None:
    site = site_of("import resource; resource.setrlimit(resource.RLIMIT_CORE, (4096, 4096))\n" + SWALLOWS_ABRT)
    limits: list[tuple[int, int]] = []
    site.faults["ABRT"] = [lambda: limits.append(proc.core_limit(site.process.pid))]
    site.run()
    assert limits == [(1, 4096)]


def test_a_core_limit_that_is_refused_empties_the_core(
    site_of: Callable[[str], Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = site_of(CATCHES_ABRT)
    emptied: list[int] = []

    def refuse(*_: object) -> None:
        raise Refused("prlimit")

    monkeypatch.setattr(proc, "set_core_limit", refuse)
    monkeypatch.setattr(proc, "empty_core", emptied.append)
    site.run()
    assert emptied == [site.process.pid]
    assert site.signals == ["ABRT"]


def test_where_a_core_cannot_be_prevented_it_is_kill_at_once(
    site_of: Callable[[str], Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = site_of(CATCHES_ABRT)

    def refuse(*_: object) -> None:
        raise Refused("not ours")

    monkeypatch.setattr(proc, "set_core_limit", refuse)
    monkeypatch.setattr(proc, "empty_core", refuse)
    site.run()
    assert site.signals == ["KILL"]


def test_a_hard_limit_of_nothing_is_no_safety_where_cores_go_to_a_program(
    site_of: Callable[[str], Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    """core(5): a limit of 0 does not hold for a pipe, 1 does; and 1 cannot be had above a hard limit of 0."""
    site = site_of("import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n" + CATCHES_ABRT)
    emptied: list[int] = []
    monkeypatch.setattr(proc, "empty_core", emptied.append)
    site.run()
    assert emptied == [site.process.pid]


# -- the right one ---------------------------------------------------------------------------------------------------


def called_off(site: Site, brake: str, kind: Remedy = Remedy.ABORT) -> None:
    outcome = site.run(kind)
    assert (outcome.result, outcome.brake) == (Result.CALLED_OFF, brake), outcome
    assert site.signals == []
    assert site.kinds() == [], "what was not begun is not said to be"


@pytest.mark.parametrize("state", [State.STOPPING, State.STARTING, State.BACKOFF, State.STOPPED, State.UNKNOWN])
def test_only_running_ones_are_ended(site_of: Callable[[str], Site], state: State) -> None:
    site = site_of(CATCHES_ABRT)
    site.state = state
    called_off(site, "state")


def test_another_pid_is_another_worker(site_of: Callable[[str], Site]) -> None:
    site = site_of(CATCHES_ABRT)
    site.pid = site.process.pid + 1
    called_off(site, "gone")


def test_another_birth_is_another_worker(site_of: Callable[[str], Site]) -> None:
    site = site_of(CATCHES_ABRT)
    site.worker = WorkerId(NAME, site.process.pid, site.worker.born - 1)
    called_off(site, "gone")


@pytest.mark.parametrize(("state", "brake"), [(State.STOPPING, "state"), (State.STARTING, "state")])
def test_what_changes_after_the_first_question_counts(site_of: Callable[[str], Site], state: State, brake: str) -> None:
    site = site_of(CATCHES_ABRT)
    site.faults["ask"] = [lambda: None, lambda: setattr(site, "state", state)]
    called_off(site, brake)


def test_a_pid_that_changes_between_the_first_question_and_the_signal(site_of: Callable[[str], Site]) -> None:
    site = site_of(CATCHES_ABRT)
    site.faults["ask"] = [lambda: None, lambda: setattr(site, "pid", 1)]
    called_off(site, "gone")


def test_a_traced_worker_is_left_alone(site_of: Callable[[str], Site], monkeypatch: pytest.MonkeyPatch) -> None:
    site = site_of(CATCHES_ABRT)
    real = proc.status

    def traced(pid: int) -> proc.ProcessStatus:
        return replace(real(pid), tracer_pid=4242)

    monkeypatch.setattr(proc, "status", traced)
    called_off(site, "traced")


def test_somebody_elses_stop_in_the_middle_is_respected(site_of: Callable[[str], Site]) -> None:
    site = site_of(IGNORES_TERM)
    site.faults["TERM"] = [lambda: setattr(site, "state", State.STOPPING)]
    assert site.run(Remedy.DRAIN).result is Result.IN_DOUBT, "it lives, and supervisord ends it"
    assert site.signals == ["TERM"]
    assert site.kinds() == ["restart"]


# -- supervisord in trouble ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [unreachable(), in_doubt(), BadAnswer("no XML"), Unauthorized("401"), Fault(1, "?")])
@pytest.mark.parametrize("nth", [0, 1])
def test_a_question_that_fails_leaves_the_worker_alone(
    site_of: Callable[[str], Site], error: RpcError, nth: int
) -> None:
    site = site_of(CATCHES_ABRT)
    site.faults["ask"] = [*[lambda: None] * nth, error]
    called_off(site, "supervisord")


def test_supervisord_shutting_down_is_left_to_it(site_of: Callable[[str], Site]) -> None:
    site = site_of(CATCHES_ABRT)
    site.faults["ask"] = [Fault(SHUTDOWN_STATE, "SHUTDOWN_STATE")]
    called_off(site, "stopping")


def test_a_name_that_is_gone(site_of: Callable[[str], Site]) -> None:
    site = site_of(CATCHES_ABRT)
    site.faults["ask"] = [Fault(BAD_NAME, "BAD_NAME")]
    called_off(site, "gone")


@pytest.mark.parametrize(("kind", "name"), [(Remedy.ABORT, "ABRT"), (Remedy.DRAIN, "TERM")])
@pytest.mark.parametrize("error", [in_doubt(), BadAnswer("HTTP 500")])
def test_a_signal_in_doubt_is_never_followed_by_another(
    site_of: Callable[[str], Site], kind: Remedy, name: str, error: RpcError
) -> None:
    site = site_of(CATCHES_ABRT)
    site.faults[name] = [error]
    outcome = site.run(kind)
    assert (outcome.result, outcome.brake) == (Result.IN_DOUBT, "in_doubt")
    assert site.signals == [name]
    assert site.process.poll() is None
    assert site.kinds() == ["restart", "error"]
    assert site.intentions.load()[NAME].signalled, "the next listener must take it for begun"


def test_kill_and_cont_in_doubt_end_the_remedy_too(site_of: Callable[[str], Site]) -> None:
    site = site_of(SWALLOWS_ABRT)
    site.faults["KILL"] = [in_doubt()]
    assert site.run().result is Result.IN_DOUBT
    assert site.signals == ["ABRT", "KILL"]

    stopped = site_of(CATCHES_ABRT)
    os.kill(stopped.process.pid, signal.SIGSTOP)
    wait_for(lambda: proc.status(stopped.process.pid).state == "T", 10, "the worker to stop")
    stopped.faults["CONT"] = [in_doubt()]
    assert stopped.run().result is Result.IN_DOUBT
    assert stopped.signals == ["ABRT", "CONT"]


@pytest.mark.parametrize(
    ("error", "brake"),
    [
        (unreachable(), "supervisord"),
        (Unauthorized("401"), "supervisord"),
        (Fault(FAILED, "FAILED: EPERM"), "refused"),
        (Fault(NOT_RUNNING, "NOT_RUNNING"), "gone"),
        (Fault(BAD_NAME, "BAD_NAME"), "gone"),
    ],
)
def test_a_first_signal_that_was_not_sent_counts_for_nothing(
    site_of: Callable[[str], Site], error: RpcError, brake: str
) -> None:
    site = site_of(CATCHES_ABRT)
    site.faults["ABRT"] = [error]
    outcome = site.run()
    assert (outcome.result, outcome.brake) == (Result.CALLED_OFF, brake)
    assert site.signals == ["ABRT"]


def test_the_kill_of_a_begun_remedy_waits_for_a_supervisord_that_does_not_answer(
    site_of: Callable[[str], Site],
) -> None:
    site = site_of(SWALLOWS_ABRT)
    site.faults["ABRT"] = [lambda: site.faults.update(ask=[unreachable(), in_doubt(), unreachable()])]
    assert site.run().result is Result.ENDED
    assert site.signals == ["ABRT", "KILL"]


def test_but_not_for_ever(site_of: Callable[[str], Site]) -> None:
    site = site_of(SWALLOWS_ABRT)
    site.faults["ABRT"] = [lambda: site.faults.update(ask=[unreachable() for _ in range(1000)])]
    began = site.clock.now
    assert site.run().result is Result.IN_DOUBT
    assert 60 <= site.clock.now - began < 70
    assert site.kinds() == ["restart", "error"]


def test_still_there_after_kill_is_said_and_not_repeated(site_of: Callable[[str], Site]) -> None:
    site = site_of("")
    sent: list[str] = []
    supervisord = _Supervisord(site)
    supervisord.signal = lambda _, what: sent.append(what)
    order = Restart(site.worker, Remedy.ABORT, Reason.SILENT, "")
    tools = remedy.Tools(supervisord, site.intentions, site.told.append, site.clock)  # type: ignore[arg-type]
    steps = remedy.carry_out(order, site.member, site.settings, tools)
    outcome = exhaust(site, steps)
    assert outcome.result is Result.STUCK
    assert sent == ["KILL"]
    assert site.kinds() == ["restart", "error"]
    assert "in state S" in site.told[1].message


def exhaust(site: Site, steps: remedy.Steps) -> Outcome:
    while True:
        try:
            site.clock.now += next(steps)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome


# -- the socket ------------------------------------------------------------------------------------------------------


def as_last_of_tcp(site: Site, inode: int | None = 77) -> Site:
    site.others = [ProcessInfo("web:web-1", State.STOPPED), ProcessInfo("api:api", State.RUNNING, 1)]
    address = Address("tcp", "127.0.0.1", 8000) if inode is not None else None
    site.member = Member(
        NAME,
        State.RUNNING,
        site.process.pid,
        site.worker.born,
        socket=address,
        socket_inode=inode,
        options=Options(fd=0),
    )
    return site


def test_a_stranger_who_holds_the_socket_of_the_last_process_holds_us(
    site_of: Callable[[str], Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = as_last_of_tcp(site_of(CATCHES_ABRT))
    monkeypatch.setattr(helpers, "_holders", lambda *_: {1})
    called_off(site, "socket")


@pytest.mark.parametrize("state", [State.STOPPING, State.STOPPED, State.EXITED])
def test_a_peer_that_is_going_keeps_no_socket(
    site_of: Callable[[str], Site], monkeypatch: pytest.MonkeyPatch, state: State
) -> None:
    site = as_last_of_tcp(site_of(CATCHES_ABRT))
    site.others = [ProcessInfo("web:web-1", state, 1 if state is State.STOPPING else 0)]
    monkeypatch.setattr(helpers, "_holders", lambda *_: {1})
    called_off(site, "socket")


def test_with_a_peer_or_on_a_unix_socket_nobody_is_looked_for(
    site_of: Callable[[str], Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helpers, "_holders", lambda *_: {1})
    site = as_last_of_tcp(site_of(CATCHES_ABRT))
    site.others = [ProcessInfo("web:web-1", State.RUNNING, 1)]
    assert site.run().result is Result.ENDED
    unix = as_last_of_tcp(site_of(CATCHES_ABRT))
    unix.member = Member(NAME, State.RUNNING, socket=Address("unix", path="/a"), socket_inode=7, options=Options(fd=0))
    assert unix.run().result is Result.ENDED


def test_helpers_that_are_started_anew_are_seen(
    site_of: Callable[[str], Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A multiprocessing.Pool replaces what is killed; ending the worker meanwhile would bring supervisord down."""
    site = as_last_of_tcp(site_of(CATCHES_ABRT))
    anew = iter(range(100_000, 200_000))
    current: dict[int, int] = {}

    def holders(*_: object) -> set[int]:
        current.clear()
        current[next(anew)] = 1
        return set(current)

    monkeypatch.setattr(helpers, "_holders", holders)
    monkeypatch.setattr(helpers, "helpers_of", lambda _: dict(current))
    called_off(site, "socket")
    assert site.clock.now - 1000 < 5


def test_a_socket_that_cannot_be_seen_is_not_risked(
    site_of: Callable[[str], Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise Refused("another user's")

    site = as_last_of_tcp(site_of(CATCHES_ABRT), inode=None)
    monkeypatch.setattr(proc, "socket_inode", refuse)
    called_off(site, "socket")


def test_want_of_descriptors_while_holders_are_looked_for_is_no_yes(
    site_of: Callable[[str], Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: object) -> None:
        raise Exhausted("EMFILE")

    site = as_last_of_tcp(site_of(CATCHES_ABRT))
    monkeypatch.setattr(proc, "find_socket", exhausted)
    called_off(site, "unknown")


def test_the_socket_is_looked_after_before_kill_as_well(
    site_of: Callable[[str], Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = as_last_of_tcp(site_of(IGNORES_TERM))
    found: list[set[int]] = [set()]
    monkeypatch.setattr(helpers, "_holders", lambda *_: found[0])
    site.faults["TERM"] = [lambda: found.__setitem__(0, {1})]
    outcome = site.run(Remedy.DRAIN)
    assert (outcome.result, outcome.brake) == (Result.IN_DOUBT, "socket")
    assert site.signals == ["TERM"]
    assert site.kinds() == ["restart", "error"]


# -- start -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "started"),
    [
        (State.EXITED, True),
        (State.FATAL, True),
        (State.STOPPED, False),
        (State.STOPPING, False),
        (State.RUNNING, False),
        (State.STARTING, False),
        (State.BACKOFF, False),
        (State.UNKNOWN, False),
    ],
)
def test_only_what_is_down_by_itself_is_started(site_of: Callable[[str], Site], state: State, started: bool) -> None:
    site = site_of("")
    site.state = state
    remedy.start(Start(NAME, "EXITED since we ended it"), site.tools)
    assert ("start" in site.calls) is started
    assert site.kinds() == (["started"] if started else [])


@pytest.mark.parametrize("code", [ALREADY_STARTED, BAD_NAME, SHUTDOWN_STATE])
def test_somebody_who_was_quicker_is_no_error(site_of: Callable[[str], Site], code: int) -> None:
    site = site_of("")
    site.state = State.EXITED
    site.faults["start"] = [Fault(code, "?")]
    remedy.start(Start(NAME, ""), site.tools)
    assert site.told == []


@pytest.mark.parametrize("error", [Fault(SPAWN_ERROR, "SPAWN_ERROR"), unreachable(), in_doubt()])
def test_a_start_that_fails_is_said(site_of: Callable[[str], Site], error: Any) -> None:
    site = site_of("")
    site.state = State.EXITED
    site.faults["start"] = [error]
    remedy.start(Start(NAME, ""), site.tools)
    assert site.kinds() == ["error"]
    assert site.calls.count("start") == 1
