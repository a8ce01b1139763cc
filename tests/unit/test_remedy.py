"""The steps of a remedy: how a worker is ended, and which one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace

import pytest
from harness.remedy_site import CATCHES_ABRT, IGNORES_TERM, NAME, SWALLOWS_ABRT, Site, called_off
from harness.remedy_site import site_of as site_of
from harness.waiting import wait_for

from supervisor_uvicorn import remedy
from supervisor_uvicorn.kernel import proc
from supervisor_uvicorn.kernel.errors import Refused
from supervisor_uvicorn.ledger import Outcome, Reason, Remedy, Restart, Result
from supervisor_uvicorn.model import State, Verdict, WorkerId
from supervisor_uvicorn.settings import Settings
from supervisor_uvicorn.verdict import Past

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


def test_what_was_seen_of_it_stands_in_the_log(site_of: Callable[[str], Site]) -> None:
    site = site_of("")
    seen = Past(NAME, site.worker, 0.0, verdict=Verdict.STARTING, wrong=7)
    site.run(reason=Reason.START_TIMEOUT, seen=seen)
    assert site.told[0].fields["verdict"] == "starting"
    assert site.told[0].fields["reason"] == "start_timeout"
    assert site.told[0].fields["evidence"]["wrong_answers"] == 7


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


# -- a moment passes while it is explained ---------------------------------------------------------------------------


@pytest.mark.parametrize("why", [("recovered", "its event loop turns again"), ("paused", "until resume")])
def test_an_abort_that_no_longer_stands_is_called_off(site_of: Callable[[str], Site], why: tuple[str, str]) -> None:
    site = site_of("")
    site.stands = lambda order: why
    called_off(site, why[0])
    assert site.process.poll() is None
