"""``conf/container/supervisord.conf`` at home: supervisord as PID 1 of a PID and mount namespace of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import client, interpreter, processes, users
from harness.configurations import Copied
from harness.waiting import wait_for

from supervisor_uvicorn.exit_on import EXIT_CODE
from supervisor_uvicorn.supervisord.board import Board
from supervisor_uvicorn.supervisord.rpc import Rpc

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(300)]

Figures = Callable[..., None]

_NAMESPACE = ["unshare", "--pid", "--mount-proc", "--fork", "--kill-child=KILL"]
# What compose.yaml and deployment.yaml in conf/ leave to root.
_CAPABILITIES = ["setpriv", "--bounding-set=-all,+kill,+setgid,+setuid", "--inh-caps=-all", "--no-new-privs"]
# Everything but the test's own directory, which stands for the volumes.
_READ_ONLY = ["sh", "-ec", 'mount --bind "$1" "$1"; mount -o remount,bind,ro /; shift; exec "$@"', "sh"]
DOCKER_GRACE_S = 10.0
DEADLINE_S = 60.0


class Container(Copied):
    """The configuration's supervisord as PID 1. Pids in its RPC are those of its namespace; ``host_pid`` translates."""

    def __init__(self, listen: str = "", *, hardened: bool = False) -> None:
        super().__init__("container", listen, app="faulty:app", prefix=_NAMESPACE)
        if hardened:
            self._command_prefix += [*_READ_ONLY, str(self.scratch), *_CAPABILITIES]

    @property
    def url_of_web(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def host_pid(self, pid: int) -> int:
        """As the test sees it, of a process that is ``pid`` inside (proc(5), ``NSpid``)."""
        (found,) = [outer for outer in processes.marked(self.mark) if _inside(outer) == pid]
        return found

    def everybody(self) -> list[int]:
        """All pids in its namespace as the test sees them, zombies too; they have no environment to be known by."""
        namespace = _namespace(self.host_pid(1))
        pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        return [pid for pid in pids if _namespace(pid) == namespace]

    def zombies(self) -> list[int]:
        return [pid for pid in self.everybody() if processes.state(pid) == "Z"]

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        """As ``docker exec`` does."""
        enter = ["nsenter", "--target", str(self.host_pid(1)), "--pid", "--mount", "--", *command]
        return subprocess.run(enter, env=self.environment, cwd="/", capture_output=True, text=True, timeout=60)

    def healthcheck(self, *words: str) -> subprocess.CompletedProcess[str]:
        module = [interpreter.python(), "-m", "supervisor_uvicorn", "healthcheck"]
        done = self.inside(*module, "-s", self.server_url, *words)
        assert done.returncode in (0, 1)
        assert done.stdout.count("\n") == 1
        assert len(done.stdout.encode()) < 4096
        assert done.stderr == ""
        return done

    def liveness(self) -> int:
        """The liveness probe of conf/kubernetes."""
        ctl = [interpreter.python(), "-m", "supervisor.supervisorctl", "-c", str(self.conf_path)]
        return self.inside(*ctl, "status", self.listener).returncode

    def all_healthy(self) -> bool:
        return self.healthcheck("--min-healthy", "100%").returncode == 0

    def stop(self, deadline_s: float = 40.0) -> int:
        """TERM to PID 1, as ``docker stop`` does, and not to the ``unshare`` around it."""
        assert self.process is not None
        with contextlib.suppress(ValueError):  # it has ended
            os.kill(self.host_pid(1), signal.SIGTERM)
        return self.process.wait(deadline_s)


def _inside(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    nested = text.partition("\nNSpid:")[2].partition("\n")[0].split()
    return int(nested[-1]) if len(nested) > 1 else 0


def _namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


@pytest.fixture(autouse=True, scope="module")
def _possible() -> None:
    if not users.is_root():
        pytest.skip("the container's configuration is for root")
    if users.way_prefix() is None:
        pytest.skip("no other user can run this interpreter")
    tried = subprocess.run([*_NAMESPACE, "true"], capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.skip(f"no PID namespace here: {tried.stderr.strip()}")


def hang_one(site: Container) -> str:
    """Hang whichever worker accepts; its name. The client stays: its end would be an end of file for the handler."""
    connection = client.Connection(site.url_of_web)
    site._kept.append(connection)
    status, answer = connection.ask("/pid")
    assert status == 200
    connection.send_only("/hang/sleep")
    (name,) = [name for name, pid in site.pids("web").items() if pid == answer["pid"]]
    return name


def test_one_of_four_hung_is_enough_for_half_and_not_for_all(figures: Figures) -> None:
    with Container("--silent-after 2 --dry-run") as site:
        wait_for(site.all_healthy, DEADLINE_S, "all healthy")
        hung = hang_one(site)
        began = time.monotonic()
        wait_for(lambda: not site.all_healthy(), DEADLINE_S, "100% to fail")
        seen_s = time.monotonic() - began
        half, whole = site.healthcheck("--min-healthy", "50%"), site.healthcheck("--min-healthy", "100%")
        assert (half.returncode, whole.returncode) == (0, 1)
        assert "3 of 4 workers healthy, 2 needed" in half.stdout
        assert "3 of 4 workers healthy, 4 needed" in whole.stdout
        assert f"{hung} silent" in whole.stdout
        assert "the listener's board" in whole.stdout
        assert site.liveness() == 0
        site.rpc.stopProcess(site.listener)
        assert site.liveness() == 3
        wait_for(lambda: "a look of its own" in site.healthcheck().stdout, DEADLINE_S, "the board to be stale")
        half_alone = site.healthcheck("--min-healthy", "50%")
        began = time.monotonic()
        whole_alone = site.healthcheck("--min-healthy", "100%")
        took_s = time.monotonic() - began
        assert (half_alone.returncode, whole_alone.returncode) == (0, 1)
        assert f"{hung} silent" in whole_alone.stdout
        figures(seen_after_s=round(seen_s, 1), line=whole.stdout.strip(), alone_s=round(took_s, 2))
        assert took_s < 3.0


def test_term_to_pid_1_ends_everything_within_dockers_grace(figures: Figures) -> None:
    """Also with a worker that is hung, one that is stopped, and a helper that no longer has a parent."""
    with Container() as site:
        wait_for(site.all_healthy, DEADLINE_S, "all healthy")
        connection = client.Connection(site.url_of_web)
        _, answer = connection.ask("/fork")
        connection.close()
        assert isinstance(answer["pid"], int)
        os.kill(site.host_pid(answer["pid"]), signal.SIGKILL)
        wait_for(lambda: site.pids("web") and site.all_running("web"), DEADLINE_S, "the killed worker to be back")
        hang_one(site)
        first = site.pids("web")["web:web-0"]
        os.kill(site.host_pid(first), signal.SIGSTOP)
        before = site.everybody()
        assert site.process is not None
        began = time.monotonic()
        code = site.stop()
        took_s = time.monotonic() - began
        figures(took_s=round(took_s, 1), code=code, processes=len(before))
        assert code == 0
        assert took_s < DOCKER_GRACE_S
        assert [pid for pid in before if processes.state(pid)] == []
        assert processes.marked(site.mark) == []
        out = (site.scratch / "supervisord.out").read_text()
        assert "RESULT" not in out
        assert "READY" not in out


def test_pid_1_reaps_the_helpers_that_a_worker_leaves_behind(figures: Figures) -> None:
    with Container() as site:
        wait_for(site.all_healthy, DEADLINE_S, "all healthy")
        # One worker alone: were all to end, supervisord could not bind the socket anew that the helpers still hold.
        connection = client.Connection(site.url_of_web)
        helpers = []
        for _ in range(3):
            _, answer = connection.ask("/fork")
            assert isinstance(answer["helpers"], list)
            helpers += [site.host_pid(pid) for pid in answer["helpers"]]
        assert isinstance(answer["pid"], int)
        os.kill(site.host_pid(answer["pid"]), signal.SIGKILL)
        connection.close()
        init = site.host_pid(1)
        wait_for(lambda: {_parent(pid) for pid in helpers} == {init}, DEADLINE_S, "PID 1 to have the helpers")
        for pid in helpers:
            os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        wait_for(lambda: not any(processes.state(pid) for pid in helpers), DEADLINE_S, "the helpers to be reaped")
        figures(reaped_s=round(time.monotonic() - began, 2))
        wait_for(lambda: site.zombies() == [], DEADLINE_S, "no zombie")


def test_with_three_capabilities_and_a_read_only_root_everything_works() -> None:
    """Pinned, a hung worker replaced with the line where it hung, and an end: all that a listener does."""
    with Container("--silent-after 2", hardened=True) as site:
        assert "Read-only file system" in site.inside("touch", "/etc/written").stderr
        pids = site.wait_running()
        wait_for(lambda: set(pids.values()) <= site.pinned(), DEADLINE_S, "all four pinned")
        wait_for(site.all_healthy, DEADLINE_S, "all healthy")
        capabilities = Path(f"/proc/{site.host_pid(1)}/status").read_text().partition("\nCapEff:")[2].split()[0]
        assert int(capabilities, 16) == 1 << 5 | 1 << 6 | 1 << 7  # capability.h: KILL, SETGID, SETUID
        name = hang_one(site)
        wait_for(lambda: site.pids("web")[name] not in {0, pids[name]}, DEADLINE_S, "it to be replaced")
        wait_for(site.all_healthy, DEADLINE_S, "all healthy again")
        assert {n: pid for n, pid in site.pids("web").items() if n != name} == {
            n: pid for n, pid in pids.items() if n != name and n.startswith("web:")
        }
        assert "faulty.py" in (site.scratch / "supervisord.out").read_text()
        assert site.stop() == 0


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_the_code_of_pid_1_is_the_containers(figures: Figures) -> None:
    with Container() as site, Rpc(site.server_url) as rpc:
        wait_for(site.all_healthy, DEADLINE_S, "all healthy")
        began = time.monotonic()
        assert Board(rpc).leave(EXIT_CODE)
        assert site.process is not None
        code = site.process.wait(30)
        figures(code=code, gone_after_s=round(time.monotonic() - began, 1))
        assert code == EXIT_CODE
        assert processes.marked(site.mark) == []


def test_when_all_are_fatal_supervisord_leaves_with_a_code_that_is_seen(figures: Figures) -> None:
    with Container("--exit-on fatal") as site:
        wait_for(site.all_healthy, DEADLINE_S, "all healthy")
        for number in range(4):
            site.fault_file(f"start.web-{number}", "fail")
        for pid in site.pids("web").values():
            os.kill(site.host_pid(pid), signal.SIGKILL)
        wait_for(lambda: set(site.states("web").values()) == {"FATAL"}, DEADLINE_S, "all FATAL")
        began = time.monotonic()
        assert site.process is not None
        code = site.process.wait(30)
        took_s = time.monotonic() - began
        figures(gone_after_s=round(took_s, 1), code=code)
        assert code == EXIT_CODE
        assert took_s < 15
        assert processes.marked(site.mark) == []


def test_one_worker_that_is_left_keeps_it_there() -> None:
    """The test above can fail: with one of four RUNNING nobody leaves."""
    with Container("--exit-on fatal") as site:
        wait_for(site.all_healthy, DEADLINE_S, "all healthy")
        for number in range(3):
            site.fault_file(f"start.web-{number}", "fail")
        pids = site.pids("web")
        for name in ("web:web-0", "web:web-1", "web:web-2"):
            os.kill(site.host_pid(pids[name]), signal.SIGKILL)
        wait_for(lambda: sorted(site.states("web").values())[:3] == ["FATAL"] * 3, DEADLINE_S, "three of four FATAL")
        assert site.process is not None
        with pytest.raises(subprocess.TimeoutExpired):
            site.process.wait(15)
        assert site.pids("web")["web:web-3"] == pids["web:web-3"]
        assert site.healthcheck().returncode == 0
        assert site.healthcheck("--min-healthy", "50%").returncode == 1
