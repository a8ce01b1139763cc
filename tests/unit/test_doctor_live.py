"""doctor on what runs: processes, capabilities, the board, versions; and its readers on files that are planted."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from doctor_site import CLEAN_LISTENER, CLEAN_PROGRAM, configured, findings, names

from supervisor_uvicorn.doctor import conf, interpreters
from supervisor_uvicorn.doctor.catalogue import examine
from supervisor_uvicorn.doctor.command import understood
from supervisor_uvicorn.doctor.machine import hides
from supervisor_uvicorn.doctor.running import Daemon, soft_limits
from supervisor_uvicorn.doctor.site import Interpreter, Machine, Process, Running, Site
from supervisor_uvicorn.model import State

SETUID_AND_SETGID = 1 << 7 | 1 << 6
SYS_PTRACE = 1 << 19

WORKER = Process(
    "web:web-0",
    State.RUNNING,
    pid=100,
    uvicorn=True,
    uid=1000,
    gid=1000,
    catches_abort=True,
    core_limit=0,
    descriptors=(20, 1024),
)
LISTENER = Process("uvicorn-health:uvicorn-health", State.RUNNING, pid=101, listener=True, uid=1000, gid=1000)


def running(worker: Process = WORKER, listener: Process | None = LISTENER, **values: Any) -> Running:
    both = (worker, listener) if listener else (worker,)
    return Running("unix:///s", 1, here=True, foreground=True, board_age_s=1.0, processes=both, **values)


def seen(runs: Running, program: str = CLEAN_PROGRAM, **how: Any) -> list[str]:
    return names(configured(program, running=runs, **how))


def change(process: Process, **values: Any) -> Process:
    return dataclasses.replace(process, **values)


def test_a_healthy_site_has_none() -> None:
    assert seen(running()) == []


def test_the_listener_is_down() -> None:
    (found,) = findings(configured(CLEAN_PROGRAM, running=running(listener=change(LISTENER, state=State.FATAL))))
    assert (found.trap.name, found.found) == ("listener-not-running", "uvicorn-health:uvicorn-health is FATAL")
    assert "supervisorctl start uvicorn-health:uvicorn-health" in found.write
    assert seen(running(listener=change(LISTENER, state=State.STARTING))) == []


def test_the_board() -> None:
    assert seen(dataclasses.replace(running(), board_age_s=None)) == ["plugin-not-loaded"]
    assert seen(dataclasses.replace(running(), board_stale=True)) == ["board-stale"]
    assert seen(dataclasses.replace(running(), board_age_s=math.inf)) == ["board-stale"]
    unix = CLEAN_PROGRAM.replace("tcp://127.0.0.1:8000", "unix:///tmp/w.sock\nsocket_mode=0777")
    assert seen(dataclasses.replace(running(), board_age_s=None), unix, plugin=False) == ["no-board"]
    assert seen(running(), unix, plugin=False) == []


def test_a_supervisord_without_its_interface_and_without_a_file() -> None:
    site = Site(None, Running("unix:///s", no_interface="UNKNOWN_METHOD (fault 1)"))
    assert [one.trap.name for one in examine(site)] == ["no-rpcinterface"]


def test_a_supervisord_without_a_listener_and_without_a_file() -> None:
    assert [one.trap.name for one in examine(Site(None, running(listener=None)))] == ["no-listener"]
    assert examine(Site(None, running())) == []


def test_without_a_listener_the_file_says_it_once() -> None:
    assert seen(running(listener=None), listener="") == ["no-listener"]
    assert seen(running(listener=None)) == []  # in the file, and not started yet: supervisorctl update


def test_a_tree_as_it_runs() -> None:
    tree = change(WORKER, not_watched="uvicorn runs in a child process below it")
    assert seen(running(tree)) == ["served-by-a-child"]
    wrapped = CLEAN_PROGRAM.replace("/venv/bin/uvicorn", "uv run uvicorn")
    assert seen(running(tree), wrapped) == ["wrapper"]  # said once
    assert seen(running(), wrapped) == []  # the kernel knows more than the command


def test_helpers_and_descriptors() -> None:
    assert seen(running(change(WORKER, children=2, killasgroup=False))) == ["helpers-without-killasgroup"]
    assert seen(running(change(WORKER, children=2, killasgroup=True))) == []
    assert seen(running(change(WORKER, descriptors=(900, 1024)))) == ["descriptors-nearly-used"]
    limited = CLEAN_PROGRAM.replace("--fd 0", "--fd 0 --limit-concurrency 1000")
    assert seen(running(), limited) == ["minfds-low"]
    assert seen(running(change(WORKER, descriptors=(20, 65536))), limited) == []


def test_the_kernel_knows_whether_a_worker_catches_abort() -> None:
    without = CLEAN_PROGRAM.replace("PYTHONFAULTHANDLER", "NOTHING")
    assert seen(running(), without) == []  # the container's image sets it, or the application does
    assert seen(running(change(WORKER, catches_abort=False))) == ["faulthandler-off"]
    assert seen(running(change(WORKER, catches_abort=None)), without) == ["faulthandler-off"]


def test_a_journal_cannot_be_opened_by_its_name() -> None:
    to_stdout = CLEAN_PROGRAM + "stdout_logfile=/dev/stdout\nstdout_logfile_maxbytes=0\n"
    assert seen(running(sockets=("/dev/stdout",)), to_stdout) == ["log-to-socket"]
    assert seen(running(sockets=("/dev/stderr",)), to_stdout) == []
    assert seen(running(sockets=("/dev/stdout",))) == []


def test_tcp_nodelay_as_it_is_set() -> None:
    assert seen(running(nodelay={"web": True}), plugin=False) == []
    assert seen(running(nodelay={"web": False}), plugin=False) == ["tcp-44ms"]


@pytest.mark.parametrize(
    ("uid", "capabilities", "expected"),
    [
        (1000, 0, []),
        (1001, 0, ["listener-other-user"]),
        (1001, SYS_PTRACE, []),
        (0, SETUID_AND_SETGID, []),
        (0, SYS_PTRACE, []),
        (0, 1 << 7, ["root-without-capabilities"]),
    ],
)
def test_who_may_look_into_whom(uid: int, capabilities: int, expected: list[str]) -> None:
    listener = change(LISTENER, uid=uid, gid=uid, capabilities=capabilities)
    assert seen(running(listener=listener)) == expected


def test_hidepid_and_another_user() -> None:
    other = running(listener=change(LISTENER, uid=1001))
    assert seen(other, machine=Machine(hidepid=True)) == ["hidepid"]
    assert seen(running(), machine=Machine(hidepid=True)) == []


def test_a_core_that_the_listener_cannot_forbid() -> None:
    unlimited = change(WORKER, core_limit=-1)
    other = change(LISTENER, uid=1001, gid=1001, capabilities=SYS_PTRACE)
    assert seen(running(unlimited, other)) == ["core-limit"]
    assert seen(running(change(WORKER, core_limit=1), other)) == []
    assert seen(running(unlimited, LISTENER)) == []  # it sets the limit itself
    assert seen(running(unlimited, change(other, capabilities=SYS_PTRACE | 1 << 24))) == []


# --- versions


@pytest.mark.parametrize(
    ("who", "interpreter", "expected"),
    [
        ("fcgi-program:web", Interpreter("/p", (3, 9), {"uvicorn": "0.29.0"}), ["uvicorn-old"]),
        ("fcgi-program:web", Interpreter("/p", (3, 9), {"uvicorn": "0.30.0"}), []),
        ("supervisord", Interpreter("/p", (3, 11), {"supervisor": "4.2.4"}), ["supervisor-old"]),
        ("supervisord", Interpreter("/p", (3, 11), {"supervisor": "4.2.5", "setuptools": "81.0"}), []),
        (
            "supervisord",
            Interpreter("/p", (3, 11), {"supervisor": "4.2.5", "setuptools": "82.0"}, has_pkg_resources=False),
            ["supervisor-without-pkg-resources"],
        ),
        (
            "supervisord",
            Interpreter("/p", (3, 12), {"supervisor": "4.2.5"}, has_pkg_resources=False),
            ["supervisor-without-pkg-resources"],
        ),
        ("supervisord", Interpreter("/p", (3, 12), {"supervisor": "4.3.0"}, has_pkg_resources=False), []),
        ("supervisord", Interpreter("/p", (3, 9), {"supervisor": "4.3.0"}), ["python-old"]),
        ("eventlistener:uvicorn-health", Interpreter("/p", (3, 9)), ["python-old"]),
        ("eventlistener:uvicorn-health", Interpreter("/p", (3, 10)), []),
    ],
)
def test_versions(who: str, interpreter: Interpreter, expected: list[str]) -> None:
    assert names(configured(CLEAN_PROGRAM, machine=Machine(interpreters={who: interpreter}))) == expected


def planted(tmp_path: Path, version: str = "3.9", **packages: str) -> str:
    """The files of a virtual environment; nothing in it can run."""
    sites = tmp_path / "lib" / f"python{version}" / "site-packages"
    sites.mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text("no interpreter")
    (tmp_path / "pyvenv.cfg").write_text(f"home = /nowhere\nversion = {version}.7\n")
    for name, number in packages.items():
        info = sites / f"{name}-{number}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n")
    return str(tmp_path / "bin" / "python")


def test_an_interpreter_is_read_and_never_run(tmp_path: Path) -> None:
    python = planted(tmp_path, uvicorn="0.29.0", supervisor="4.2.5")
    found = interpreters.inspect(python)
    assert found == Interpreter(python, (3, 9), {"supervisor": "4.2.5", "uvicorn": "0.29.0"}, has_pkg_resources=False)


def test_the_interpreter_of_a_script(tmp_path: Path) -> None:
    python = planted(tmp_path)
    script = tmp_path / "bin" / "uvicorn"
    script.write_text(f"#!{python}\n")
    script.chmod(0o755)
    assert interpreters.python_of(["bin/uvicorn"], {}, str(tmp_path)) == python
    assert interpreters.python_of(["uvicorn"], {"PATH": str(tmp_path / "bin")}, "/") == python
    assert interpreters.python_of([python, "-m", "uvicorn"], {}, "/") == python
    script.write_text("#!/bin/sh\n")
    assert interpreters.python_of(["bin/uvicorn"], {}, str(tmp_path)) == ""


def test_what_cannot_be_imported(tmp_path: Path) -> None:
    python = planted(tmp_path, "3.11")
    sites = tmp_path / "lib" / "python3.11" / "site-packages"
    spec = "some_plugin.inside:make"
    assert "no module some_plugin.inside" in interpreters.why_not_importable(spec, python)
    (sites / "some_plugin").mkdir()
    (sites / "some_plugin" / "inside.py").write_text("raise SystemExit('imported')\n")
    assert interpreters.why_not_importable(spec, python) == "some_plugin.inside has no make."
    (sites / "some_plugin" / "inside.py").write_text("raise SystemExit('imported')\ndef make(): ...\n")
    assert interpreters.why_not_importable(spec, python) == ""
    assert interpreters.why_not_importable("elsewhere:make", python, [str(tmp_path)]) != ""
    (tmp_path / "elsewhere.py").write_text("make = 1")
    assert interpreters.why_not_importable("elsewhere:make", python, [str(tmp_path)]) == ""


# --- reading


def test_includes_expansions_and_lines(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "supervisord.conf").write_text(
        '[supervisord]\nenvironment=A="1"\n[include]\nfiles=conf.d/*.conf\n[program:x]\ncommand=old\n'
    )
    (tmp_path / "conf.d" / "web.conf").write_text(
        "; a comment\n\n[program:x]\ncommand=%(here)s/%(ENV_A)s/%(ENV_B)s/%(program_name)s  ; c\n directory=no\n"
    )
    read = conf.read(str(tmp_path / "supervisord.conf"), {"B": "2"}, True)
    value = read.sections[-1].values["command"]
    assert value.text.splitlines()[0] == f"{tmp_path}/conf.d/1/2/x"
    assert (value.file, value.line) == (str(tmp_path / "conf.d" / "web.conf"), 4)


def test_limits() -> None:
    text = "Limit  Soft  Hard  Units\nMax core file size  unlimited  0  bytes\nMax open files      1024  4096  files\n"
    assert soft_limits(text) == {"Max core file size": -1, "Max open files": 1024}


def test_mounts() -> None:
    assert hides("sysfs /sys sysfs rw 0 0\nproc /proc proc rw,hidepid=invisible 0 0\n")
    assert not hides("proc /proc proc rw,hidepid=0 0 0\nproc /other/proc proc rw,hidepid=2 0 0\n")


@pytest.mark.parametrize(
    ("argv", "file", "foreground"),
    [
        (("python", "/venv/bin/supervisord", "-n", "-c", "a.conf"), "/srv/a.conf", True),
        (("python", "-m", "supervisor.supervisord", "-c/etc/b.conf"), "/etc/b.conf", False),
        (("python", "supervisord", "--configuration=c.conf", "--nodaemon"), "/srv/c.conf", True),
        (("python", "supervisord", "--configuration", "c.conf", "-tn"), "/srv/c.conf", True),
    ],
)
def test_the_file_of_a_supervisord_that_runs(argv: tuple[str, ...], file: str, foreground: bool) -> None:
    who = Daemon(1, argv, {}, "/srv")
    assert (who.file, who.foreground) == (file, foreground)


def test_options_are_read_as_uvicorn_reads_them() -> None:
    command = understood("env UVICORN_WORKERS=3 uvicorn --backlog=5 --backlog 6 app:app")
    assert command is not None
    assert command.option("backlog", {"UVICORN_BACKLOG": "7"}) == "6"
    assert command.option("workers", {"UVICORN_WORKERS": "9"}) == "3"
    assert command.option("limit-concurrency", {"UVICORN_LIMIT_CONCURRENCY": "8"}) == "8"


def test_a_listener_behind_a_wrapper_is_a_listener() -> None:
    wrapped = CLEAN_LISTENER.replace("/venv/bin/supervisor-uvicorn listen", "sh -c 'exec supervisor-uvicorn listen'")
    assert names(configured(CLEAN_PROGRAM, listener=wrapped)) == []
