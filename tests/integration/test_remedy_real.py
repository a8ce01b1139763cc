"""Remedies on real workers of real supervisords, with no listener around them: what one does, step by step."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import processes
from harness.supervisord import Program, Supervisord
from harness.waiting import stays_true, wait_for

from supervisor_uvicorn import remedy
from supervisor_uvicorn.intentions import Intention, Intentions
from supervisor_uvicorn.kernel.sock_diag import SockDiag
from supervisor_uvicorn.ledger import Outcome, Reason, Remedy, Restart, Result, Start
from supervisor_uvicorn.model import Member, State
from supervisor_uvicorn.report import events
from supervisor_uvicorn.roster import Roster
from supervisor_uvicorn.settings import Settings
from supervisor_uvicorn.supervisord.calls import Supervisord as Calls
from supervisor_uvicorn.supervisord.rpc import Rpc

TRACEBACK = {"PYTHONFAULTHANDLER": "1"}


class Surgery:
    """The roster of one site, and remedies for its members."""

    def __init__(self, site: Supervisord, directory: Path) -> None:
        self.site = site
        self.told: list[events.Event] = []
        self.intentions = Intentions(directory / "ours" / "1-1-1.json")
        self._rpc = Rpc(site.server_url)
        self.calls = Calls(self._rpc)
        self.tools = remedy.Tools(self.calls, self.intentions, self.told.append, time.monotonic)
        self._roster = Roster(SockDiag())

    def members(self) -> dict[str, Member]:
        read = self._roster.read(self.calls.processes(), self.calls.configs())
        return {member.name: member for member in read}

    def member(self, name: str) -> Member:
        return self.members().get(name, Member(name, State.UNKNOWN))

    def serving(self) -> dict[str, Member]:
        def settled() -> dict[str, Member] | None:
            found = self.members()
            return found if self.site.all_running() and not self._roster.unsettled else None

        return wait_for(settled, 60, "all serving") or {}

    def end(self, name: str, kind: Remedy, settings: Settings | None = None, finish: bool = False) -> Outcome:
        member = self.members()[name]
        assert member.worker is not None
        reason = Reason.SILENT if kind is Remedy.ABORT else Reason.FAILING
        order = Restart(member.worker, kind, reason, "by a test")
        self.intentions.put(Intention(name, member.worker.pid, member.worker.born, reason.value, kind.value))
        steps = remedy.carry_out(order, member, settings or Settings(), self.tools, finish=finish)
        while True:
            try:
                time.sleep(next(steps))
            except StopIteration as end:
                outcome: Outcome = end.value
                return outcome

    def replaced(self, name: str, old_pid: int) -> None:
        wait_for(lambda: self.site.pids()[name] not in (0, old_pid) and self.site.all_running(), 30, f"{name} replaced")

    def close(self) -> None:
        self._rpc.close()


@contextlib.contextmanager
def surgery(program: Program, directory: Path) -> Iterator[Surgery]:
    with Supervisord(program, listen=None) as site:
        site.wait_running()
        at_work = Surgery(site, directory)
        try:
            at_work.serving()
            yield at_work
        finally:
            at_work.close()


def cores(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("core*") if path.is_file()]


def test_abort_leaves_the_blocked_line_in_the_log_and_no_core(tmp_path: Path) -> None:
    program = Program(numprocs=2, environment=TRACEBACK)
    with surgery(program, tmp_path) as s:
        pid = s.site.pids()["web:web-1"]
        s.site.fault("web:web-1", "/hang/sleep")
        assert s.end("web:web-1", Remedy.ABORT).result is Result.ENDED
        s.replaced("web:web-1", pid)
        log = wait_for((s.site.scratch / "web-1.err").read_text, 10, "the worker's log")
        assert "Fatal Python error: Aborted" in log
        assert "faulty.py" in log
        assert cores(s.site.scratch) == []
        # Told before by py-spy, where that is installed, or afterwards by the log.
        assert [event.kind for event in s.told] in (["restart"], ["restart", "explained"])
        assert "faulty.py" in s.told[-1].message


def test_a_stopped_worker_is_aborted_too(tmp_path: Path) -> None:
    program = Program(numprocs=2, environment=TRACEBACK)
    with surgery(program, tmp_path) as s:
        pid = s.site.pids()["web:web-0"]
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: processes.state(pid) == "T", 10, "the worker to stop")
        assert s.end("web:web-0", Remedy.ABORT).result is Result.ENDED
        s.replaced("web:web-0", pid)
        wait_for(lambda: "Aborted" in (s.site.scratch / "web-0.err").read_text(), 10, "the traceback")


def test_term_that_a_hung_worker_never_reads_is_kill_in_the_end(tmp_path: Path) -> None:
    with surgery(Program(numprocs=2), tmp_path) as s:
        pid = s.site.pids()["web:web-0"]
        s.site.fault("web:web-0", "/hang/sleep")
        began = time.monotonic()
        assert s.end("web:web-0", Remedy.DRAIN, Settings(drain_timeout_s=1.5)).result is Result.ENDED
        assert 1.5 <= time.monotonic() - began < 6
        s.replaced("web:web-0", pid)


def test_drain_lets_a_worker_answer_what_it_has_accepted(tmp_path: Path) -> None:
    with surgery(Program(numprocs=2), tmp_path) as s:
        pid = s.site.pids()["web:web-0"]
        connection = s.site.connect_to("web:web-0")
        connection.send_only("/wait?s=1")
        assert s.end("web:web-0", Remedy.DRAIN).result is Result.ENDED
        assert connection.sock is not None
        assert b"200 OK" in connection.sock.recv(1000)
        connection.close()
        s.replaced("web:web-0", pid)


@pytest.mark.parametrize("killasgroup", [True, False])
def test_helpers_are_ended_with_killasgroup_and_named_without(tmp_path: Path, killasgroup: bool) -> None:
    program = Program(numprocs=2, extra=f"stopasgroup={killasgroup}\nkillasgroup={killasgroup}".lower())
    with surgery(program, tmp_path) as s:
        pid = s.site.pids()["web:web-0"]
        helpers = s.site.tell("web:web-0", "/fork")["helpers"]  # a pool's end by themselves with their parent's pipe
        assert isinstance(helpers, list)
        s.site.fault("web:web-0", "/hang/sleep")
        assert s.end("web:web-0", Remedy.ABORT).result is Result.ENDED
        s.replaced("web:web-0", pid)
        (told,) = [event for event in s.told if event.kind == "helpers"]
        assert told.fields["helpers"] == sorted(helpers)
        if killasgroup:
            assert not any(processes.alive(helper) for helper in helpers)
            assert "were ended with it" in told.message
        else:
            assert all(processes.alive(helper) for helper in helpers)
            assert "killasgroup=true" in told.message


@pytest.mark.parametrize("how", ["/pool", "/fork"])
def test_the_last_process_of_a_tcp_program_goes_after_those_that_hold_its_socket(tmp_path: Path, how: str) -> None:
    """Without the rule supervisord binds anew, gets EADDRINUSE and exits 1 (experiments, 11)."""
    with surgery(Program(numprocs=1), tmp_path) as s:
        pid = s.site.pids()["web:web-0"]
        helpers = s.site.tell("web:web-0", how)["helpers"]
        assert isinstance(helpers, list)
        s.site.fault("web:web-0", "/hang/sleep")
        assert s.end("web:web-0", Remedy.ABORT).result is Result.ENDED
        s.replaced("web:web-0", pid)
        assert not any(processes.alive(helper) for helper in helpers)
        assert s.site.process is not None
        assert s.site.process.poll() is None
        told = [event for event in s.told if event.kind == "helpers"]
        assert "could not have bound it anew" in told[0].message


def test_a_helper_that_went_away_with_the_socket_holds_us(tmp_path: Path) -> None:
    app = "daemonising:app"
    program = Program(numprocs=1, app=f"--app-dir {tmp_path} {app}")
    (tmp_path / "daemonising.py").write_text(
        "import os, time\n"
        "from faulty import app as inner\n"
        "async def app(scope, receive, send):\n"
        "    if scope['type'] == 'http' and scope['path'] == '/daemon':\n"
        "        if os.fork() == 0:\n"
        "            os.setsid()\n"
        "            while True: time.sleep(3600)\n"
        "    await inner(scope, receive, send)\n"
    )
    program.environment = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[1] / 'apps'}:{Path(__file__).parents[2]}"}
    with surgery(program, tmp_path) as s:
        pid = s.site.pids()["web:web-0"]
        connection = s.site.connect_to("web:web-0")
        connection.ask("/daemon")
        connection.close()
        outcome = s.end("web:web-0", Remedy.ABORT)
        assert (outcome.result, outcome.brake) == (Result.CALLED_OFF, "socket")
        assert "holds the listening socket" in outcome.detail
        assert s.site.pids()["web:web-0"] == pid
        assert s.told == []


def test_a_remedy_that_a_listener_left_is_finished(tmp_path: Path) -> None:
    with surgery(Program(numprocs=2), tmp_path) as s:
        pid = s.site.pids()["web:web-0"]
        s.site.fault("web:web-0", "/hang/sleep")
        s.calls.signal("web:web-0", "TERM")  # what the other one had sent
        assert s.end("web:web-0", Remedy.DRAIN, Settings(drain_timeout_s=1), finish=True).result is Result.ENDED
        s.replaced("web:web-0", pid)
        assert [event.kind for event in s.told] == [], "it was said by the other one"


def test_start_brings_back_what_supervisord_does_not_and_never_what_was_stopped(tmp_path: Path) -> None:
    with surgery(Program(numprocs=2, extra="autorestart=false"), tmp_path) as s:
        s.site.fault("web:web-0", "/hang/sleep")
        assert s.end("web:web-0", Remedy.ABORT).result is Result.ENDED
        wait_for(lambda: s.site.states()["web:web-0"] == "EXITED", 10, "EXITED")
        remedy.start(Start("web:web-0", "EXITED since we ended it"), s.member("web:web-0"), s.tools, {})
        wait_for(s.site.all_running, 30, "web-0 RUNNING again")
        remedy.start(Start("web:web-0", ""), s.member("web:web-0"), s.tools, {})
        s.site.ctl("stop", "web:web-1")
        remedy.start(Start("web:web-1", ""), s.member("web:web-1"), s.tools, {})
        remedy.start(Start("web:nobody", ""), s.member("web:nobody"), s.tools, {})
        stays_true(lambda: s.site.states()["web:web-1"] == "STOPPED", 1.5, "web-1 stopped by its operator")
        assert [event.kind for event in s.told] == ["restart", "started"]


def test_somebody_elses_restart_is_not_repeated(tmp_path: Path) -> None:
    with surgery(Program(numprocs=2), tmp_path) as s:
        member = s.members()["web:web-0"]
        s.site.ctl("restart", "web:web-0")
        after = s.site.pids()["web:web-0"]
        assert member.worker is not None
        order = Restart(member.worker, Remedy.ABORT, Reason.SILENT, "")
        steps = remedy.carry_out(order, member, Settings(), s.tools)
        with pytest.raises(StopIteration) as end:
            next(steps)
        assert (end.value.value.result, end.value.value.brake) == (Result.CALLED_OFF, "gone")
        assert s.site.pids()["web:web-0"] == after
