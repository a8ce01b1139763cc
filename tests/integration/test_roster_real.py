"""The roster, read from real supervisords with real uvicorns in every way that the recipe and its users start them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import client, users
from harness.interpreter import APPS, ROOT, python
from harness.supervisord import Program, Supervisord, free_port
from harness.waiting import wait_for

from supervisor_uvicorn.kernel.sock_diag import SockDiag
from supervisor_uvicorn.model import Member, State
from supervisor_uvicorn.roster import Roster
from supervisor_uvicorn.supervisord.calls import Supervisord as Calls
from supervisor_uvicorn.supervisord.rpc import Rpc

UVICORN = f"{python()} -m uvicorn --app-dir {APPS} faulty:app"

WRAPPER = f"""
import subprocess, sys, time
time.sleep(0.5)
sys.exit(subprocess.call([{python()!r}, "-m", "uvicorn", "--app-dir", {str(APPS)!r}, *sys.argv[1:], "faulty:app"]))
"""

EXEC_LATER = f"sleep 2; exec {UVICORN} --fd 0"


def program(name: str, command: str, environment: str = "", kind: str = "program", more: str = "") -> str:
    return (
        f"[{kind}:{name}]\ncommand={command}\n"
        + (f"environment={environment}\n" if environment else "")
        + f"stdout_logfile={{scratch}}/{name}.out\nstderr_logfile={{scratch}}/{name}.err\n"
        + f"stopasgroup=true\nkillasgroup=true\n{more}\n"
    )


@pytest.fixture(scope="module")
def ports() -> list[int]:
    return [free_port() for _ in range(8)]


@pytest.fixture(scope="module")
def site(ports: list[int]) -> Iterator[Supervisord]:
    sections = "\n".join(
        [
            program("uds", f"{UVICORN} --uds app.sock"),  # relative: in supervisord's directory
            program("port", f"{Path(python()).parent}/uvicorn --app-dir {APPS} faulty:app --port {ports[0]}"),
            program("byenv", UVICORN, f'UVICORN_PORT="{ports[1]}",UVICORN_LIMIT_CONCURRENCY="9"'),
            program("workers", f"{UVICORN} --port {ports[2]} --workers 2"),
            program("concurrency", f"{UVICORN} --port {ports[3]}", 'WEB_CONCURRENCY="2"'),
            program("reload", f"{UVICORN} --port {ports[4]} --reload"),
            program("shell", f"sh -c 'cd / && {UVICORN} --port {ports[5]}; true'"),
            program("popen", f"{python()} {{scratch}}/wrapper.py --port {ports[6]}"),
            program("cat", "cat", kind="fcgi-program", more=f"socket=tcp://127.0.0.1:{ports[7]}"),
            program("later", f"sh -c '{EXEC_LATER}'", kind="fcgi-program", more="socket=unix://{scratch}/later.sock"),
            program("stopped", f"{UVICORN} --fd 0", more="autostart=false"),
            program("fatal", f"{UVICORN} --port {ports[0]} --no-such-option", more="startretries=0"),
        ]
    )
    web, sock = Program("web", numprocs=2), Program("sock", numprocs=2, socket="unix")
    site = Supervisord(web, sock, listen=None, sections=sections)
    (site.scratch / "wrapper.py").write_text(WRAPPER)
    with site:
        yield site


Read = Callable[[], dict[str, Member]]


@pytest.fixture(scope="module")
def read(site: Supervisord) -> Iterator[Read]:
    roster = Roster(SockDiag())
    with Rpc(site.server_url) as rpc:
        calls = Calls(rpc)
        configs = calls.configs()

        def members() -> dict[str, Member]:
            return {member.name: member for member in roster.read(calls.processes(), configs)}

        def settled() -> bool:
            found = members()
            return not roster.unsettled and {"popen:popen", "shell:shell", "later:later"} <= found.keys()

        wait_for(settled, 60, "a settled roster", 0.2)
        yield members


@pytest.mark.parametrize("name", ["web:web-0", "web:web-1"])
def test_fcgi_over_tcp(site: Supervisord, read: Read, name: str) -> None:
    member = read()[name]
    assert str(member.socket) == site.url("web")
    assert member.options.fd == 0
    assert member.worker is not None
    assert member.not_watched == ""
    assert member.pid == site.pids()[name]


def test_fcgi_over_a_unix_socket(site: Supervisord, read: Read) -> None:
    assert str(read()["sock:sock-1"].socket) == site.url("sock")


def test_uds_with_a_path_of_its_own_directory(site: Supervisord, read: Read) -> None:
    member = read()["uds:uds"]
    assert str(member.socket) == f"unix://{site.scratch}/app.sock"
    status, answer = client.ask(str(member.socket), "/pid")
    assert (status, answer["pid"]) == (200, member.pid)


def test_port_on_the_command_line_and_in_the_environment(read: Read, ports: list[int]) -> None:
    assert str(read()["port:port"].socket) == f"tcp://127.0.0.1:{ports[0]}"
    by_env = read()["byenv:byenv"]
    assert str(by_env.socket) == f"tcp://127.0.0.1:{ports[1]}"
    assert by_env.options.limit_concurrency == 9


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("workers", "--workers 2"),
        ("concurrency", "WEB_CONCURRENCY 2"),
        ("reload", "--reload"),
        ("shell", "exec"),
        ("popen", "exec"),
    ],
)
def test_trees_are_named_and_not_watched(read: Read, name: str, said: str) -> None:
    assert said in read()[f"{name}:{name}"].not_watched


def test_a_foreign_fcgi_program_is_none_of_ours(read: Read) -> None:
    assert "cat:cat" not in read()


def test_one_that_execs_later_is_watched_from_then_on(site: Supervisord, read: Read) -> None:
    wait_for(lambda: str(read()["later:later"].socket) == f"unix://{site.scratch}/later.sock", 30, "exec")
    assert read()["later:later"].not_watched == ""


def test_stopped_and_fatal_ones_are_members_by_their_command(read: Read) -> None:
    assert read()["stopped:stopped"].state is State.STOPPED
    wait_for(lambda: read()["fatal:fatal"].state is State.FATAL, 30, "FATAL")
    assert read()["fatal:fatal"].worker is None


def test_a_new_pid_is_a_new_worker(site: Supervisord, read: Read) -> None:
    before = read()["sock:sock-0"].worker
    site.ctl("restart", "sock:sock-0")
    after = wait_for(lambda: read()["sock:sock-0"], 30, "sock-0")
    assert before is not None
    assert after.worker is not None
    assert after.worker.pid != before.pid
    assert after.worker.born >= before.born


AS_NOBODY = """
import json, sys
sys.path.insert(0, {root!r})
from supervisor_uvicorn.kernel.sock_diag import SockDiag
from supervisor_uvicorn.roster import Roster
from supervisor_uvicorn.model import State
from supervisor_uvicorn.supervisord.calls import ProcessInfo
infos = [ProcessInfo("web:web-0", State.RUNNING, {pid}), ProcessInfo("cat:cat", State.RUNNING, {cat})]
(member,) = Roster(SockDiag()).read(infos, {{}})
print(json.dumps([member.name, member.pid, member.born, str(member.socket), member.options.fd,
                  member.options.environ_read, member.not_watched]))
"""


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="takes root and setpriv")
def test_another_users_processes_are_members_without_a_socket(site: Supervisord, read: Read) -> None:
    way = users.way_prefix()
    if way is None:
        pytest.skip("nobody cannot run this interpreter")
    code = AS_NOBODY.format(root=str(ROOT), pid=site.pids()["web:web-0"], cat=site.pids()["cat:cat"])
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    done = subprocess.run(
        [*way, *nobody, sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd="/"
    )
    if "Permission denied" in done.stderr and "PermissionError" not in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    member = read()["web:web-0"]
    assert json.loads(done.stdout) == ["web:web-0", member.pid, member.born, "None", 0, False, ""]


def test_what_a_read_of_64_processes_costs(site: Supervisord, read: Read, figures: Callable[..., None]) -> None:
    """The same workers under 64 names: the kernel does not care."""
    roster = Roster(SockDiag())
    with Rpc(site.server_url) as rpc:
        calls = Calls(rpc)
        mine = [info for info in calls.processes() if info.name.startswith(("web:", "sock:"))]
        infos = [info for _ in range(16) for info in mine]
        assert len(infos) == 64
        wait_for(lambda: roster.read(infos, {}) and not roster.unsettled, 30, "a settled roster")
        best_s, first_s = 1.0, 0.0
        for _ in range(5):
            began = time.perf_counter()
            Roster(SockDiag()).read(infos, {})
            first_s = time.perf_counter() - began
            began = time.perf_counter()
            roster.read(infos, {})
            best_s = min(best_s, time.perf_counter() - began)
    figures(first_ms=round(first_s * 1000, 2), settled_ms=round(best_s * 1000, 2))
    assert best_s < 0.05
