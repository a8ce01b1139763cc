"""Remedies with a supervisord in trouble, a socket that others hold, and a start that somebody else has made."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from harness.remedy_site import (
    CATCHES_ABRT,
    IGNORES_TERM,
    NAME,
    SWALLOWS_ABRT,
    FakeSupervisord,
    Site,
    called_off,
    exhaust,
    in_doubt,
    unreachable,
)
from harness.remedy_site import site_of as site_of
from harness.waiting import wait_for

from supervisor_uvicorn import helpers, remedy
from supervisor_uvicorn.kernel import proc
from supervisor_uvicorn.kernel.errors import Exhausted, Refused
from supervisor_uvicorn.ledger import Reason, Remedy, Restart, Result, Start
from supervisor_uvicorn.model import Address, Member, Options, State
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
    RpcError,
    Unauthorized,
)

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
    supervisord = FakeSupervisord(site)
    supervisord.signal = lambda _, what: sent.append(what)
    order = Restart(site.worker, Remedy.ABORT, Reason.SILENT, "")
    tools = remedy.Tools(supervisord, site.intentions, site.told.append, site.clock)  # type: ignore[arg-type]
    steps = remedy.carry_out(order, site.member, site.settings, tools)
    outcome = exhaust(site, steps)
    assert outcome.result is Result.STUCK
    assert sent == ["KILL"]
    assert site.kinds() == ["restart", "error"]
    assert "in state S" in site.told[1].message


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
    """A multiprocessing.Pool replaces what is killed; ending the worker meanwhile would bring supervisord down.

    Stopped it can start no more; where they come all the same, it is let go on again.
    """
    site = as_last_of_tcp(site_of(CATCHES_ABRT))
    anew = iter(range(100_000, 200_000))
    current: dict[int, int] = {}

    def holders(*_: object) -> set[int]:
        current.clear()
        current[next(anew)] = 1
        return set(current)

    monkeypatch.setattr(helpers, "_holders", holders)
    monkeypatch.setattr(helpers, "helpers_of", lambda _: dict(current))
    outcome = site.run()
    assert (outcome.result, outcome.brake) == (Result.CALLED_OFF, "socket")
    assert site.signals == ["STOP", "CONT"]
    assert site.told == []
    assert site.clock.now - 1000 < 5


def test_a_stopped_worker_starts_no_more_helpers_and_is_killed(
    site_of: Callable[[str], Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = as_last_of_tcp(site_of(CATCHES_ABRT))
    anew = iter(range(100_000, 200_000))
    monkeypatch.setattr(helpers, "_holders", lambda *_: set() if "STOP" in site.calls else {next(anew)})
    monkeypatch.setattr(helpers, "helpers_of", lambda _: dict.fromkeys(range(100_000, 100_010), 1))
    assert site.run().result is Result.ENDED
    assert site.signals == ["STOP", "KILL"], "its own handlers must not run any more"


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
    remedy.start(Start(NAME, "EXITED since we ended it"), site.member, site.tools, {})
    assert ("start" in site.calls) is started
    assert site.kinds() == (["started"] if started else [])


@pytest.mark.parametrize("code", [ALREADY_STARTED, BAD_NAME, SHUTDOWN_STATE])
def test_somebody_who_was_quicker_is_no_error(site_of: Callable[[str], Site], code: int) -> None:
    site = site_of("")
    site.state = State.EXITED
    site.faults["start"] = [Fault(code, "?")]
    remedy.start(Start(NAME, ""), site.member, site.tools, {})
    assert site.told == []


@pytest.mark.parametrize("error", [Fault(SPAWN_ERROR, "SPAWN_ERROR"), unreachable(), in_doubt()])
def test_a_start_that_fails_is_said(site_of: Callable[[str], Site], error: Any) -> None:
    site = site_of("")
    site.state = State.EXITED
    site.faults["start"] = [error]
    remedy.start(Start(NAME, ""), site.member, site.tools, {})
    assert site.kinds() == ["error"]
    assert site.calls.count("start") == 1


def test_a_start_that_a_socket_holds_is_said_once_per_change(site_of: Callable[[str], Site]) -> None:
    site = as_last_of_tcp(site_of(""))
    site.state = State.EXITED
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        address = Address("tcp", "127.0.0.1", stranger.getsockname()[1])
        down = replace(site.member, pid=0, born=None, socket=address)
        told: dict[str, str] = {}
        for _ in range(3):
            remedy.start(Start(NAME, "EXITED since we ended pid 1"), down, site.tools, told)
        assert site.kinds() == ["held"]
        remedy.start(Start(NAME, "EXITED since we ended pid 2"), down, site.tools, told)
        assert site.kinds() == ["held", "held"], "another process of the name is another story"
        assert "start" not in site.calls
    remedy.start(Start(NAME, "EXITED since we ended pid 2"), down, site.tools, told)
    assert site.kinds() == ["held", "held", "started"]
    assert told == {}
