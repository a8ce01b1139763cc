"""A program of one worker: while it is replaced nobody is refused, and who waits in the backlog is answered by the new.

supervisord closes the shared socket with the last process of the group; `[rpcinterface:uvicorn]` keeps it open while
the listener replaces the worker. Without it the same clients are lost, which shows that these tests can fail.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import processes
from harness.load import KEPT, NEW, Failure, Load
from harness.load_client import Failed, Link, request_for
from harness.supervisord import PLUGIN, SERVE, Program, Supervisord, watched
from harness.waiting import wait_for

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(300)]

NAME = "web:web-0"
ROLLS = 5
WAITING, ACCEPTED = 50, 5  # connections
PATIENCE_S = 30.0  # of a client


@pytest.mark.parametrize(("kind", "socket"), [(NEW, "tcp"), (KEPT, "tcp"), (NEW, "unix"), (KEPT, "unix")])
def test_a_roll_under_load(kind: str, socket: str, figures: Callable[..., None]) -> None:
    rolls_s = []
    with watched(one(SERVE, socket), sections=PLUGIN) as site, Load(site.url(), kind, timeout_s=PATIENCE_S) as load:
        for _ in range(ROLLS):
            before, began = site.pids()[NAME], time.monotonic()
            done = site.cli("restart", "-c", str(site.conf_path), "web", timeout_s=150)
            rolls_s.append(round(time.monotonic() - began, 2))
            assert done.returncode == 0, done
            assert site.pids()[NAME] not in {0, before}
        result = load.stop()
    figures(kind=kind, socket=socket, rolls_s=rolls_s, **result.figures())
    assert result.failed == {}, result.examples
    assert len(result.answers) >= ROLLS
    assert result.longest_s > 0.1, "nobody had to wait for the next worker, so this has shown nothing"


@pytest.mark.parametrize("module", [SERVE, "uvicorn"])
def test_who_waits_during_a_roll_is_answered(module: str, figures: Callable[..., None]) -> None:
    with watched(one(module), sections=PLUGIN) as site, ThreadPoolExecutor(1) as pool:
        old = site.pids()[NAME]
        asked = pool.submit(site.cli, "restart", "-c", str(site.conf_path), "web", timeout_s=150)
        wait_for(lambda: not processes.alive(old), 60, "the end of the old worker", every_s=0.002)
        waiting = connections(site, WAITING)
        assert not any(map(processes.serving, site.pids().values())), "too late: the new one serves already"
        answers, lost = ended(waiting)
        assert asked.result().returncode == 0, asked.result()
        new = site.pids()[NAME]
    figures(module=module, waiting=WAITING, answered=sum(answers.values()), lost=lost)
    assert new != old
    assert answers == {new: WAITING}, lost


@pytest.mark.parametrize(
    ("module", "socket"), [(SERVE, "tcp"), (SERVE, "unix"), ("uvicorn", "tcp"), ("uvicorn", "unix")]
)
def test_who_waits_for_a_hung_worker_is_answered(module: str, socket: str, figures: Callable[..., None]) -> None:
    """What it had accepted when it was killed is lost: no other process has those connections."""
    with watched(one(module, socket), listen="--silent-after 2", sections=PLUGIN) as site:
        old = site.pids()[NAME]
        accepted = hung(site)
        waiting = connections(site, WAITING)
        with Load(site.url(), NEW, timeout_s=PATIENCE_S) as load:
            replaced = site.wait_event("replaced", 60, old_pid=old, reason="silent")
            result = load.stop()
        answers, lost = ended(waiting)
        never, lost_accepted = ended(accepted)
        new = site.pids()[NAME]
    figures(
        module=module,
        socket=socket,
        waiting=WAITING,
        answered=sum(answers.values()),
        lost=lost,
        accepted=ACCEPTED,
        accepted_lost=lost_accepted,
        took_s=replaced["took_s"],
        load=result.figures(),
    )
    assert new == replaced["pid"] != old
    assert answers == {new: WAITING}, lost
    assert result.failed == {}, result.examples
    assert set(result.answers) == {f'{{"pid": {new}}}'}
    assert never == {}
    assert lost_accepted == {Failure.UNANSWERED.value: ACCEPTED}


def test_without_the_plugin_they_are_lost(figures: Callable[..., None]) -> None:
    with watched(one("uvicorn"), listen="--silent-after 2") as site:
        hung(site)
        waiting = connections(site, WAITING)
        site.wait_event("replaced", 60, reason="silent")
        answers, lost = ended(waiting)
    figures(waiting=WAITING, answered=sum(answers.values()), lost=lost)
    assert lost == {Failure.UNANSWERED.value: WAITING}


def one(module: str, socket: str = "tcp") -> Program:
    return Program(numprocs=1, module=module, socket=socket, uvicorn="--no-access-log")


def connections(site: Supervisord, number: int) -> list[Link]:
    """So many connections, a request sent on each; none may be refused."""
    links = [Link(site.url(), PATIENCE_S) for _ in range(number)]
    for link in links:
        link.send(request_for(KEPT, "/pid"))
    return links


def hung(site: Supervisord) -> list[Link]:
    """Let the worker hang in a request; its other connections, which it has accepted and will not read again."""
    pid = site.pids()[NAME]
    links = connections(site, ACCEPTED)
    assert ended(links, close=False) == ({pid: ACCEPTED}, {})
    site.fault(NAME, "/hang/sleep")
    wait_for(lambda: stands_still(pid), 20, "a worker whose loop does not turn")
    for link in links:
        link.send(request_for(KEPT, "/pid"))
    return links


def stands_still(pid: int) -> bool:
    """uvicorn's own loop wakes ten times a second."""
    before = processes.wake_ups(pid)
    time.sleep(0.5)
    return processes.wake_ups(pid) == before


def ended(links: Sequence[Link], *, close: bool = True) -> tuple[dict[int, int], dict[str, int]]:
    """pid -> how many it has answered, and word of a :class:`Failure` -> how many were lost so."""
    answers: dict[int, int] = {}
    lost: dict[str, int] = {}
    for link in links:
        try:
            body, _ = link.answer()
        except Failed as failed:
            lost[failed.kind.value] = lost.get(failed.kind.value, 0) + 1
        else:
            pid = int(body.partition(b'"pid": ')[2].rstrip(b"}"))
            answers[pid] = answers.get(pid, 0) + 1
        if close:
            link.close()
    return answers, lost
