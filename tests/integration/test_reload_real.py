"""Settings without a restart, on a real listener: by HUP, by supervisorctl and by the command."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import interpreter
from harness.supervisord import PLUGIN, Program, Supervisord
from harness.waiting import stays_true, wait_for

CTLPLUGIN = "[ctlplugin:uvicorn]\nsupervisor.ctl_factory = supervisor_uvicorn.plugin.ctl:make_controller_plugin\n"
NAME = "web:web-1"
HUP_BIT = 1 << (signal.SIGHUP - 1)  # of the masks in proc(5), status


@contextlib.contextmanager
def reading(settings: str, *programs: Program, sections: str = PLUGIN + CTLPLUGIN) -> Iterator[Supervisord]:
    """A site whose listener reads ``settings`` from a file, not waited for."""
    site = Supervisord(
        *(programs or (Program(numprocs=2),)), sections=sections, listen="--settings {scratch}/settings.conf"
    )
    write(site, settings)
    with site:
        yield site


def write(site: Supervisord, settings: str) -> None:
    (site.scratch / "settings.conf").write_text(f"[supervisor-uvicorn]\n{settings}\n")


def by_hup(site: Supervisord) -> str:
    """What the listener says to HUP."""
    before = len(answers(site))
    assert site.ctl("signal", "HUP", "uvicorn-health").returncode == 0
    wait_for(lambda: len(answers(site)) > before, 20, "a line about the settings")
    return answers(site)[-1]


def by_supervisorctl(site: Supervisord) -> str:
    done = site.ctl("uvicorn", "reload")
    assert done.returncode == (2 if done.stderr else 0), done
    return done.stdout + done.stderr


def by_command(site: Supervisord) -> str:
    done = site.cli("reload", "-c", str(site.conf_path))
    assert done.returncode == (2 if done.stderr else 0), done
    return done.stdout + done.stderr


def answers(site: Supervisord) -> list[str]:
    found = [*site.events("reloaded"), *site.events("error", reason="settings")]
    return [str(entry["message"]) for entry in sorted(found, key=lambda entry: str(entry["time"]))]


@pytest.mark.parametrize("reload", [by_hup, by_supervisorctl])
def test_silent_after_made_shorter_while_a_worker_hangs(reload: Callable[[Supervisord], str]) -> None:
    with reading("silent_after=30") as site:
        before = site.wait_pinned()
        listener = site.listener_pid()
        site.fault(NAME, "/hang/sleep")
        stays_true(lambda: not site.events("restart"), 2, "no restart")
        write(site, "silent_after=1\nbackoff=soon")
        assert 'settings.conf, [supervisor-uvicorn], backoff: "soon" is not FIRST:LONGEST' in reload(site)
        stays_true(lambda: not site.events("restart"), 3, "refused whole: no restart")
        write(site, "silent_after=1")
        asked = time.monotonic()
        assert "silent_after 30 -> 1" in reload(site)
        replaced = site.wait_event("replaced", 20, old_pid=before[NAME], reason="silent")
        took_s = time.monotonic() - asked
        assert took_s < 10
        assert [entry["worker"] for entry in site.events("restart")] == [NAME]
        assert site.pids()[NAME] == replaced["pid"]
        assert site.listener_pid() == listener, "the very same listener"
        assert "nothing has changed" in reload(site)


def test_a_wrong_path_is_said_and_ends_nobody() -> None:
    with reading("path=/health\nfailing_after=1\nstart_timeout=1\nbackoff=0") as site:
        before = site.wait_pinned()
        healthy = lambda: {entry["pid"] for entry in site.events("verdict", verdict="healthy")}  # noqa: E731
        wait_for(lambda: healthy() == set(before.values()), 30, "all right on the first path")
        write(site, "path=/no-such-path\nfailing_after=1\nstart_timeout=1\nbackoff=0")
        assert "path /health -> /no-such-path" in by_command(site)
        held = site.wait_event("held", 30, reason="path")
        assert "/no-such-path" in str(held["message"])
        stays_true(lambda: not site.events("restart"), 7, "nobody restarted, in a TICK and more")
        before_that = len(site.events("verdict", verdict="healthy"))
        write(site, "path=/health\nfailing_after=1\nstart_timeout=1\nbackoff=0")
        assert "path /no-such-path -> /health" in by_command(site)
        wait_for(lambda: len(site.events("verdict", verdict="healthy")) >= before_that + 2, 30, "all healthy again")
        assert site.pids() == before


def test_an_answer_to_the_old_question_is_not_heard() -> None:
    """A handler has the request when the settings change, and answers wrong afterwards: failing_after is 1."""
    with reading("path=/wait?s=4\ntimeout=8\nexpect=404\nfailing_after=1\nstart_timeout=1") as site:
        before = site.wait_pinned()
        stays_true(site.listener_pid, 2.5, "the listener, until the first question is under way")
        write(site, "path=/wait?s=4\ntimeout=8\nexpect=200\nfailing_after=1\nstart_timeout=1")
        assert by_command(site) == "expect 404 -> 200\n"
        wait_for(lambda: len(site.events("verdict", verdict="healthy")) >= 2, 20, "right answers to the new one")
        stays_true(lambda: not site.events("verdict", verdict="failing"), 6, "nobody failing by the old one")
        assert site.pids() == before


def test_a_worker_that_hangs_while_the_path_changes_is_still_seen() -> None:
    """Its connection has the old question in it, and nobody can have another: it is not let go of."""
    with reading("path=/health\nsilent_after=6") as site:
        before = site.wait_pinned()
        site.fault(NAME, "/hang/spin")  # its ticks alone would not tell
        stays_true(lambda: not site.events("restart"), 3, "no restart")
        write(site, "path=/pid\nsilent_after=6\nbusy_factor=1")
        assert "busy_factor 2 -> 1" in by_supervisorctl(site)
        site.wait_event("replaced", 20, old_pid=before[NAME], reason="silent")
        (restart,) = site.events("restart")
        assert "burning CPU" in str(restart["detail"])
        site.wait_event("verdict", 20, verdict="healthy", pid=site.pids()[NAME])


def test_group_is_taken_as_well() -> None:
    with reading("group=web", Program(numprocs=1), Program("api", numprocs=1)) as site:
        site.wait_pinned(but=["api:api-0"])
        write(site, "")
        assert by_command(site) == "group web -> none\n"
        site.wait_pinned()
        write(site, "group=api")
        assert by_command(site) == "group none -> api\n"
        only = ["check", "-c", str(site.conf_path)]
        assert "web:web-0" in site.cli(*only).stdout, "check looks at everybody"
        names = lambda: site.cli("status", "-c", str(site.conf_path)).stdout  # noqa: E731
        wait_for(lambda: "web:web-0" not in names() and "api:api-0" in names(), 20, "web to be left alone")


def test_without_a_file() -> None:
    with Supervisord(Program(numprocs=1), sections=PLUGIN) as site:
        site.wait_pinned()
        listener = site.listener_pid()
        for reload in (by_hup, by_command):
            assert "no --settings FILE was given, so there is nothing to read again" in reload(site)
        assert site.listener_pid() == listener


def test_one_that_stands_by_takes_them_too() -> None:
    second = Supervisord.listener_section("second", "--settings {scratch}/settings.conf", Path("{scratch}/second.log"))
    sections = PLUGIN + second.replace("priority=-10", "priority=-9")
    with reading("silent_after=30", Program(numprocs=1), sections=sections) as site:
        logs = {site.listener: site.log_path, "second": site.scratch / "second.log"}
        read: Callable[[str], str] = lambda name: logs[name].read_text() if logs[name].exists() else ""  # noqa: E731
        waiting = wait_for(lambda: next((name for name in logs if "stands by" in read(name)), ""), 30, "a second one")
        (acting,) = set(logs) - {waiting}
        site.wait_running()
        wait_for(lambda: '"pinned"' in read(acting), 30, "the first one to pin")
        write(site, "silent_after=2")
        assert by_command(site) == "silent_after 30 -> 2\n"
        wait_for(lambda: "silent_after 30 -> 2" in read(waiting), 20, "the one that stands by to take them")
        site.rpc.stopProcess(acting)
        wait_for(lambda: '"pinned"' in read(waiting), 30, "it to act")
        site.fault("web:web-0", "/hang/sleep")
        wait_for(lambda: "its event loop has not turned" in read(waiting), 20, "the new silent_after to count")


def caught(pid: int) -> bool:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return bool(int(next(line for line in lines if line.startswith("SigCgt")).split()[1], 16) & HUP_BIT)
    return False


def test_hup_before_it_is_ready_and_until_it_ends() -> None:
    """supervisord is stopped, so that the listener cannot become READY while it is sent HUP again and again."""
    with Supervisord(Program(numprocs=1), listen=None) as site:
        settings = site.scratch / "settings.conf"
        settings.write_text("[supervisor-uvicorn]\n")
        environment = {**site.environment, "SUPERVISOR_ENABLED": "1", "SUPERVISOR_SERVER_URL": site.server_url}
        assert site.process is not None
        site.process.send_signal(signal.SIGSTOP)
        listener = subprocess.Popen(
            [interpreter.python(), "-m", "supervisor_uvicorn", "listen", "--settings", str(settings)],
            env=environment, cwd=site.scratch, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert listener.stdout is not None
        wait_for(lambda: caught(listener.pid), 30, "HUP to be caught", every_s=0.001)
        for _ in range(100):
            listener.send_signal(signal.SIGHUP)
            time.sleep(0.01)
        assert listener.poll() is None
        site.process.send_signal(signal.SIGCONT)
        assert listener.stdout.readline() == b"READY\n"
        assert listener.stdin is not None
        listener.stdin.close()
        while listener.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(listener.pid, signal.SIGHUP)
            time.sleep(0.001)
        assert listener.returncode == 0
        assert listener.stderr is not None
        assert b"Traceback" not in listener.stderr.read()


def test_many_hups_at_once_and_a_file_that_comes_and_goes() -> None:
    with reading("silent_after=30") as site:
        before, listener = site.wait_pinned(), site.listener_pid()
        path = site.scratch / "settings.conf"
        for turn in range(40):
            if turn % 2:
                path.unlink()
            else:
                write(site, "silent_after=20" if turn % 4 else "silent_after=half")
            for _ in range(3):
                os.kill(listener, signal.SIGHUP)
            time.sleep(0.01)
        write(site, "silent_after=10")
        by_command(site)  # a HUP that is still in the queue may have been the first to read it
        assert any("-> 10" in line for line in answers(site))
        assert by_command(site) == "nothing has changed\n"
        assert site.listener_pid() == listener
        assert site.pids() == before
        assert site.events("restart") == []
        said = {entry["message"] for entry in site.events("error")}
        assert all("settings.conf" in str(message) for message in said), said


def test_a_fifo_in_place_of_the_file_is_refused_and_holds_nobody_up() -> None:
    """Whoever opened it would wait for somebody to write."""
    with reading("silent_after=2") as site:
        before, listener = site.wait_pinned(), site.listener_pid()
        path = site.scratch / "settings.conf"
        text = path.read_text()
        path.unlink()
        os.mkfifo(path)
        os.kill(listener, signal.SIGHUP)
        assert "it is no regular file" in site.wait_event("error", 20, reason="settings")["message"]
        site.fault(NAME, "/hang/sleep")
        site.wait_event("replaced", 30, old_pid=before[NAME], reason="silent")
        path.unlink()
        path.write_text(text.replace("silent_after=2", "silent_after=3"))
        done = site.cli("reload", "-c", str(site.conf_path))
        assert (done.returncode, done.stdout) == (0, "silent_after 2 -> 3\n")
        assert site.listener_pid() == listener
