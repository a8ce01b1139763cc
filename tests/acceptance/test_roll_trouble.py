"""What goes wrong in the middle of a rolling restart of four workers: the state afterwards is right, and explained.

The application takes a moment to start, so that a roll has a middle. It is a module of its own that a test rewrites as
a deployment does.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import functools
import os
import pty
import re
import signal
import subprocess
import termios
import time
from collections.abc import Callable, Iterator

import pytest
from harness import interpreter
from harness.client import Connection
from harness.rolls import (
    Trickle,
    asking,
    ended,
    page,
    roll,
    spawned,
    stages,
    verb,
    wait_end,
    wait_healthy,
    wait_middle,
)
from harness.supervisord import PLUGIN, SERVE, Program, Supervisord
from harness.waiting import wait_for

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(300)]

NAMES = [f"web:web-{number}" for number in range(4)]
SLOW = "await asyncio.sleep(1.5)"  # the start of every worker, so that a roll of four takes some ten seconds

_RELEASE = """\
import asyncio
import os
import signal

import faulty

{first}

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        {start}
    if scope.get("path") == "/version":
        await faulty._answer(send, 200, {{"version": {version!r}}})
    else:
        await faulty.app(scope, receive, send)
"""


@contextlib.contextmanager
def site_of(listen: str = "", *, module: str = SERVE, start: str = SLOW, tick_s: int = 5) -> Iterator[Supervisord]:
    """Four workers of version "old", all healthy; the listener has ``listen``'s options."""
    program = Program(
        app="release:app",
        module=module,
        uvicorn="--no-access-log --timeout-keep-alive 120",  # the tests' own connections outlive a slow roll
        environment={"PYTHONDONTWRITEBYTECODE": "1"},
    )
    site = Supervisord(program, listen=listen, sections=PLUGIN, tick_s=tick_s)
    release(site, "old", start=start)
    with site:
        wait_for(site.all_running, 60, "all RUNNING")
        wait_healthy(site)
        yield site


def release(site: Supervisord, version: str, *, first: str = "", start: str = SLOW) -> None:
    """Install another version of the application: ``first`` runs at its import, ``start`` at its start-up."""
    new = site.scratch / "release.new"
    new.write_text(_RELEASE.format(version=version, first=first, start=start))
    new.rename(site.scratch / "release.py")


def versions(site: Supervisord) -> dict[str, object]:
    return {name: site.tell(name, "/version")["version"] for name in NAMES}


def streaming(site: Supervisord, name: str) -> Connection:
    """A request of this worker that never ends, so that its drain takes all of drain_timeout."""
    connection = site.connect_to(name)
    connection.send_only("/stream")
    return connection


def changed(before: dict[str, int], after: dict[str, int]) -> set[str]:
    return {name for name in before if after[name] != before[name]}


# -- new code that is bad ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mended", ["by itself", "restart"])
@pytest.mark.parametrize(
    ("listen", "bad", "why"),
    [
        pytest.param("", {"first": "raise RuntimeError('bad code')"}, "FATAL", id="crash"),
        pytest.param("--start-timeout 6", {"start": "await asyncio.sleep(3600)"}, "start_timeout", id="hang"),
    ],
)
def test_bad_code(listen: str, bad: dict[str, str], why: str, mended: str, figures: Callable[..., None]) -> None:
    with site_of(listen, start="pass") as site:
        before = site.pids()
        release(site, "bad", **bad)
        with Trickle(site.url()) as trickle:
            done = verb(site, "restart", "web")
            stopped = wait_end(site)
            status = verb(site, "status")
            touched = {turn["name"] for turn in stopped["turns"] if turn["stage"] != "waiting"}
            others = {name: pid for name, pid in before.items() if name not in touched}
            assert {name: site.pids()[name] for name in others} == others
            release(site, "new", start="pass")
            mended_at, by_itself_s = time.monotonic(), None
            if mended == "by itself":
                wait_healthy(site, 150)
                by_itself_s = round(time.monotonic() - mended_at, 1)
                assert versions(site) == {name: "new" if name in touched else "old" for name in NAMES}
                assert changed(before, site.pids()) == touched
            again = verb(site, "restart", "web")
            after = wait_healthy(site)
            found = versions(site)
        figures(
            said=done.stdout.splitlines()[-1],
            status=status.stdout.splitlines()[-1],
            took_s=stopped["took_s"],
            back_by_itself_s=by_itself_s,
            answered=trickle.answered,
            restarts=len(site.events("restart")),
        )
    assert len(touched) == 1, stopped
    assert (done.returncode, stopped["state"]) == (1, "stopped"), done
    for said in (done.stdout, status.stdout, stopped["detail"]):
        assert why in said
        assert "3 workers were not touched" in said
    assert status.returncode == 1
    assert "roll stopped" in status.stdout
    assert trickle.failed == []
    assert trickle.answered > 100
    assert again.returncode == 0, again
    assert set(found.values()) == {"new"}
    assert changed(before, after) == set(NAMES)


# -- who asked, and who carries it out ---------------------------------------------------------------------------------


def test_the_terminal_is_closed(figures: Callable[..., None]) -> None:
    with site_of() as site:
        before = site.pids()
        master, slave = pty.openpty()
        process = subprocess.Popen(
            [interpreter.python(), "-m", "supervisor_uvicorn", "restart", "-c", str(site.conf_path), "web"],
            env=site.environment,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - this thread alone forks
        )
        try:
            os.close(slave)
            wait_middle(site)
            assert process.poll() is None
            os.close(master)
            assert process.wait(10) in {-signal.SIGHUP, 1}
        finally:
            process.kill()
            process.wait()
        assert (roll(site) or {})["state"] == "rolling", "too late: it was at its end already"
        its = wait_end(site)
        figures(hung_up=process.returncode, took_s=its["took_s"])
        assert (its["state"], stages(its)) == ("done", ["done"] * 4)
        assert changed(before, wait_healthy(site)) == set(NAMES)
        assert spawned(site, NAMES) == dict.fromkeys(NAMES, 2)


@pytest.mark.parametrize("when", ["ordered", "draining", "starting"])
def test_the_listener_is_killed(when: str, figures: Callable[..., None]) -> None:
    with site_of() as site, Trickle(site.url()) as trickle:
        before = site.pids()
        stream = streaming(site, NAMES[1]) if when == "draining" else None
        with asking(site, "restart", "web") as waiting:
            if when == "ordered":
                wait_for(lambda: site.events("restart", worker=NAMES[1]), 60, "the second one's order", every_s=0.001)
            else:
                wait_middle(site, detail=when)
            kill_listener(site)
            code, out, err = ended(waiting)
        if stream is not None:
            stream.close()
        its = wait_end(site, 10)
        figures(when=when, took_s=its["took_s"], said=out.splitlines()[-1], err=err, answered=trickle.answered)
        gone_on_once(site, before)
        assert (code, its["state"], stages(its)) == (0, "done", ["done"] * 4), (out, err)
        assert "web: done, 4 workers in " in out
    assert trickle.failed == []


def test_each_listener_is_killed(figures: Callable[..., None]) -> None:
    """At each turn of the roll, the one that acts."""
    with site_of() as site:
        before = site.pids()
        with asking(site, "restart", "web") as waiting:
            for name in NAMES:
                wait_for(functools.partial(site.events, "restart", worker=name), 90, f"the order of {name}", 0.001)
                kill_listener(site)
            code, out, err = ended(waiting)
        its = wait_end(site, 10)
        figures(took_s=its["took_s"], said=out.splitlines(), err=err)
        assert (code, its["state"]) == (0, "done"), (out, err)
        gone_on_once(site, before)


def gone_on_once(site: Supervisord, before: dict[str, int]) -> None:
    """Everybody is new and healthy, was started once more, and the listener had no trouble."""
    assert changed(before, wait_healthy(site)) == set(NAMES)
    assert spawned(site, NAMES) == dict.fromkeys(NAMES, 2)
    assert site.events("error") == []


def test_a_pause_survives_the_listener() -> None:
    with site_of("--silent-after 2", start="pass") as site:
        paused = verb(site, "pause", "web", "--for", "3600")
        assert paused.returncode == 0, paused
        kill_listener(site)
        wait_reported(site)
        status = verb(site, "status")
        left = re.search(r"paused for (\d+) s more", status.stdout)
        assert left, status
        assert 3000 < int(left[1]) <= 3600
        before = site.pids()
        site.fault(NAMES[1], "/hang/sleep")
        held = site.wait_event("held", 30, worker=NAMES[1])
        assert held["reason"] == "paused"
        assert site.pids() == before
        assert verb(site, "restart", "web").returncode == 2
        assert verb(site, "resume", "web").returncode == 0
        site.wait_event("replaced", 60, worker=NAMES[1], reason="silent")
        assert changed(before, site.pids()) == {NAMES[1]}


def test_a_backoff_survives_the_listener(figures: Callable[..., None]) -> None:
    with site_of("--silent-after 2 --backoff 12:60", start="pass") as site:
        first = hang_and_replace(site)
        kill_listener(site)
        wait_reported(site)
        second = hang_and_replace(site)
        held = site.events("held", worker=NAMES[1])
        figures(between_s=round(second - first, 1), held=[event["message"] for event in held])
        assert [event["reason"] for event in held] == ["backoff"]
        assert second - first >= 11.5


def test_a_budget_survives_the_listener() -> None:
    with site_of("--silent-after 2 --backoff 0 --budget 2/600", start="pass") as site:
        hang_and_replace(site)
        kill_listener(site)
        wait_reported(site)
        before = site.pids()
        site.fault(NAMES[1], "/hang/sleep")
        suspended = site.wait_event("suspended", 60)
        assert "half of the budget of 2" in suspended["message"]
        assert verb(site, "status").returncode == 1
        assert site.pids() == before
        assert verb(site, "resume", "web").returncode == 0
        wait_for(lambda: changed(before, site.pids()) == {NAMES[1]} and site.all_running(), 60, "its restart")


# -- supervisorctl in the middle ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["waiting", "draining", "starting"])
def test_one_is_stopped(when: str, figures: Callable[..., None]) -> None:
    with site_of() as site:
        before = site.pids()
        stopped = NAMES[3] if when == "waiting" else NAMES[1]
        stream = streaming(site, stopped) if when == "draining" else None
        with asking(site, "restart", "web") as waiting:
            wait_middle(site, detail={"waiting": "", "draining": "draining", "starting": "starting"}[when])
            assert site.ctl("stop", stopped).returncode == 0
            code, out, err = ended(waiting)
        if stream is not None:
            stream.close()
        its = wait_end(site, 10)
        left = {turn["name"]: turn["detail"] for turn in its["turns"] if turn["stage"] == "left"}
        status = verb(site, "status")
        figures(when=when, said=out.splitlines(), status=status.stdout.splitlines()[-1])
        assert (code, its["state"]) == (0, "done"), (out, err)
        assert left == {stopped: "stopped by the operator"}
        assert f"{stopped}: left out: stopped by the operator" in out
        assert "1 left out" in status.stdout
        assert status.returncode == 0
        wait_for(lambda: site.states()[stopped] == "STOPPED", 1, "STOPPED")
        assert changed(before, site.pids()) == set(NAMES)
        assert all(pid for name, pid in site.pids().items() if name != stopped)
        assert spawned(site, [stopped])[stopped] == (2 if when == "starting" else 1)
        assert len(site.events("restart")) == (3 if when == "waiting" else 4)


def test_update_with_nothing_changed() -> None:
    with site_of() as site, asking(site, "restart", "web") as waiting:
        before = site.pids()
        wait_middle(site)
        assert site.ctl("update").returncode == 0
        code, out, err = ended(waiting)
        assert code == 0, (out, err)
        assert changed(before, wait_healthy(site)) == set(NAMES)
        assert spawned(site, NAMES) == dict.fromkeys(NAMES, 2)


@pytest.mark.parametrize("numprocs", [4, 2])
def test_update_of_the_program(numprocs: int, figures: Callable[..., None]) -> None:
    """It stops, removes and adds the group: everybody is new then, and nobody has to be restarted again."""
    with site_of() as site, asking(site, "restart", "web") as waiting:
        before = site.pids()
        wait_middle(site)
        text = site.conf_path.read_text().replace("numprocs=4", f"numprocs={numprocs}")
        site.conf_path.write_text(text.replace("--no-access-log", "--no-access-log --no-server-header"))
        updated = site.ctl("update", timeout_s=120)
        restarts = len(site.events("restart"))
        code, out, err = ended(waiting)
        its = wait_end(site, 10)
        after = wait_healthy(site)
        figures(updated=updated.stdout.splitlines(), code=code, said=out.splitlines(), err=err, roll=its)
        assert updated.returncode == 0, updated
        assert set(after) == set(NAMES[:numprocs])
        assert not set(after.values()) & set(before.values())
        assert (code, its["state"]) == (0, "done"), (out, err)
        assert set(stages(its)) <= {"done", "left"}
        assert len(site.events("restart")) == restarts <= 3
        assert verb(site, "status").returncode == 0
        assert site.tell(NAMES[0], "/pid")["pid"] == after[NAMES[0]]


def test_reload(figures: Callable[..., None]) -> None:
    """supervisord goes down and up again in one process, and everybody with it: the roll is over, and nobody goes
    twice."""
    with site_of() as site, asking(site, "restart", "web") as waiting:
        before = site.pids()
        wait_middle(site)
        restarts = len(site.events("restart"))
        assert site.ctl("reload").returncode == 0
        code, out, err = ended(waiting)
        after = wait_healthy(site, 90)
        its = roll(site)
        figures(code=code, said=out.splitlines(), err=err.splitlines(), roll=its)
        assert changed(before, after) == set(NAMES)
        assert its is not None
        assert (code, its["state"], stages(its)) == (0, "done", ["done"] * 4), (out, err)
        assert len(site.events("restart")) - restarts <= 1
        assert max(spawned(site, NAMES).values()) <= 3
        assert verb(site, "status").returncode == 0


# -- workers in the middle ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start_s", [6.0, 1.0])
def test_another_one_hangs(start_s: float, figures: Callable[..., None]) -> None:
    """While the replacement takes 6 s to start, the hung one is silent (2 s) and waits for no turn. While it takes 1 s,
    the hung one's own turn can come before that is known; then it is told to drain first, and killed."""
    with site_of("--silent-after 2 --drain-timeout 4") as site:
        release(site, "new", start=f"await asyncio.sleep({start_s})")
        before = site.pids()
        hanging = site.connect_to(NAMES[3])
        with asking(site, "restart", "web") as waiting:
            wait_middle(site)
            hanging.send_only("/hang/sleep")
            code, out, err = ended(waiting)
        hanging.close()
        its = wait_end(site, 10)
        restarts = {event["worker"]: event["reason"] for event in site.events("restart")}
        figures(start_s=start_s, took_s=its["took_s"], reason=restarts[NAMES[3]], said=out.splitlines())
        assert (code, its["state"], stages(its)) == (0, "done", ["done"] * 4), (out, err)
        if start_s > 2:
            assert restarts == {**dict.fromkeys(NAMES, "rolling"), NAMES[3]: "silent"}
        assert changed(before, wait_healthy(site)) == set(NAMES)
        assert spawned(site, NAMES) == dict.fromkeys(NAMES, 2)
        assert site.events("error") == []


def test_a_second_request_joins(figures: Callable[..., None]) -> None:
    with site_of() as site, asking(site, "restart", "web") as first:
        wait_middle(site)
        when_asked = site.pids()
        with asking(site, "restart", "web") as second:
            code, out, err = ended(second)
        assert code == 0, (out, err)
        assert out.startswith("joined the roll of web that is under way")
        assert ended(first)[0] == 0
        its = wait_end(site, 10)
        times = spawned(site, NAMES)
        figures(took_s=its["took_s"], said=out.splitlines(), spawned=times)
        assert its["state"] == "done"
        assert len(its["asked"]) == 2
        assert changed(when_asked, wait_healthy(site)) == set(NAMES)
        assert times[NAMES[0]] == 3
        assert [times[name] for name in NAMES[2:]] == [2, 2]


@pytest.mark.parametrize("module", [SERVE, "uvicorn"])
def test_one_ignores_term(module: str, figures: Callable[..., None]) -> None:
    deaf = "os.environ['SUPERVISOR_PROCESS_NAME'] != 'web-1' or signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    with site_of("--drain-timeout 2", module=module, start=deaf) as site:
        before = site.pids()
        release(site, "new", start="pass")
        done = verb(site, "restart", "web")
        its = wait_end(site, 10)
        took_s = {event["worker"]: event["took_s"] for event in site.events("replaced")}
        figures(took_s=took_s)
        assert (done.returncode, its["state"]) == (0, "done"), done
        assert changed(before, wait_healthy(site)) == set(NAMES)
        assert set(versions(site).values()) == {"new"}
        assert spawned(site, NAMES) == dict.fromkeys(NAMES, 2)
        assert 2.0 <= took_s[NAMES[1]] < 30
        assert "terminated by SIGKILL" in (site.scratch / "supervisord.log").read_text()


def test_a_slow_start_is_not_waited_for_longer_than_it_takes(figures: Callable[..., None]) -> None:
    """Connects to a worker that does not serve yet go to its peers. If each was a try to pin it, the tries would be
    used up, and the next made at a TICK: here a minute later."""
    with site_of(tick_s=60, start="pass") as site:
        release(site, "new", start="await asyncio.sleep(5)")
        done = verb(site, "restart", "web")
        took_s = [event["took_s"] for event in site.events("replaced")]
        figures(start_s=5.0, took_s=took_s)
        assert done.returncode == 0, done
        assert len(took_s) == 4
        assert max(took_s) < 5 + 4


def test_only_one_is_asked_for() -> None:
    with site_of(start="pass") as site:
        before = site.pids()
        done = verb(site, "restart", NAMES[2])
        assert done.returncode == 0, done
        assert changed(before, wait_healthy(site)) == {NAMES[2]}
        assert [event["worker"] for event in site.events("restart")] == [NAMES[2]]
        assert "rolling 1 worker of web" in done.stdout


# -- the listener's life -----------------------------------------------------------------------------------------------


def kill_listener(site: Supervisord) -> None:
    pid = site.listener_pid()
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: site.listener_pid() not in {0, pid}, 30, "the next listener")


def wait_reported(site: Supervisord) -> None:
    """The present listener has reported, so it has taken over."""

    def reported() -> bool:
        seen = page(site)
        return seen is not None and seen.body["listener"]["pid"] == site.listener_pid()

    wait_for(reported, 60, "the report of the present listener")
    wait_healthy(site)


def hang_and_replace(site: Supervisord) -> float:
    """Let one worker hang and be replaced; when the listener restarted it, in seconds since 1970."""
    before = site.pids()
    site.fault(NAMES[1], "/hang/sleep")
    wait_for(lambda: changed(before, site.pids()) == {NAMES[1]} and site.all_running(), 90, "the hung one replaced")
    wait_healthy(site)
    restarts = site.events("restart", worker=NAMES[1], pid=before[NAMES[1]])
    assert len(restarts) == 1
    return datetime.datetime.fromisoformat(restarts[0]["time"]).timestamp()
