"""doctor beside a real supervisord with real workers: a clean one, one full of traps; and over every file of conf/."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from harness import interpreter, users
from harness.configurations import ALL, CONF
from harness.supervisord import PLUGIN, SERVE, Program, Supervisord
from harness.waiting import wait_for

LIMIT = "--timeout-graceful-shutdown 5"


def doctor(*words: str, cwd: Path | None = None, **variables: str) -> tuple[int, list[dict[str, Any]], str]:
    """Exit code, findings and stderr of ``doctor --json``, run by another process."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("SUPERVISOR_", "UVICORN_"))}
    command = [sys.executable, "-m", "supervisor_uvicorn", "doctor", "--json", *words]
    done = subprocess.run(
        command,
        env={**environment, **variables},
        cwd=cwd or interpreter.ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    found = json.loads(done.stdout)["findings"] if done.stdout else []
    return done.returncode, found, done.stderr


def names(found: list[dict[str, Any]]) -> set[str]:
    return {one["name"] for one in found}


@pytest.mark.parametrize("name", ALL)
def test_nothing_is_found_in_conf(name: str, tmp_path: Path) -> None:
    code, found, error = doctor(
        "-c", str(CONF / name / "supervisord.conf"), DEMO_DIR=str(tmp_path), DEMO_PORT="8000", PATH=os.environ["PATH"]
    )
    assert found == []
    assert (code, error) == (0, "")


def test_uvicorns_own_recipe(tmp_path: Path) -> None:
    recipe = (CONF / "recipe" / "supervisord.conf").read_text().partition("; --- added")[0]
    file = tmp_path / "supervisord.conf"
    file.write_text(recipe)
    code, found, _ = doctor("-c", str(file))
    true = {"no-rpc-server", "no-rpcinterface", "no-listener", "tcp-44ms", "no-graceful-limit", "faulthandler-off"}
    assert (code, names(found)) == (1, true)


def test_a_clean_supervisord_and_then_its_listener_is_stopped() -> None:
    web = Program(
        numprocs=2,
        uvicorn=LIMIT,
        environment={"PYTHONFAULTHANDLER": "1"},
        extra="autorestart=true\nstopasgroup=true\nkillasgroup=true",
    )
    reports = Program("reports", numprocs=1, module=SERVE, uvicorn=LIMIT, environment={"PYTHONFAULTHANDLER": "1"})
    with Supervisord(web, reports, sections=PLUGIN) as site:
        site.wait_running()
        wait_for(lambda: site.states(site.listener).popitem()[1] == "RUNNING", 30, "the listener")
        wait_for(lambda: "board-stale" not in names(doctor("-s", site.server_url)[1]), 30, "the first report", 0.5)
        for words in (["-s", site.server_url], ["-c", str(site.conf_path)]):
            assert doctor(*words) == (0, [], ""), words
        code, found, _ = doctor(SUPERVISOR_SERVER_URL=site.server_url)
        assert (code, found) == (0, [])
        site.rpc.stopProcess(f"{site.listener}:{site.listener}")
        code, found, _ = doctor("-c", str(site.conf_path))
        assert (code, names(found)) == (1, {"listener-not-running"})
        assert str(site.log_path) in found[0]["write"]


def test_a_supervisord_full_of_traps() -> None:
    """What stands in the file is found there, what only runs is found as it runs, and nothing is said twice."""
    wrapped = Program(
        numprocs=1,
        uvicorn="--limit-concurrency 5",
        command="/bin/sh -c 'cd / && {uvicorn}; true'",
        extra="autorestart=false\nstartsecs=0\nstopsignal=KILL\nsocket_backlog=77",
    )
    hidden = Program("hidden", numprocs=1, socket="unix", uvicorn=LIMIT, extra="autorestart=true")
    with Supervisord(
        wrapped,
        hidden,
        listener_extra="priority=999\nbuffer_size=10\nautorestart=unexpected",
        server_extra="chmod=0777",
    ) as site:
        # The command of one program is a script, so that no file shows what it does.
        script = site.scratch / "run.sh"
        line = next(
            line for line in site.conf_path.read_text().splitlines() if "command=" in line and "sh -c" not in line
        )
        script.write_text(f"#!/bin/sh\n{line.partition('command=')[2]}\n")
        script.chmod(0o755)
        site.conf_path.write_text(site.conf_path.read_text().replace(line, f"command={script}"))
        site.ctl("update", "hidden")
        site.wait_running()
        wait_for(lambda: "served-by-a-child" in names(doctor("-s", site.server_url)[1]), 30, "the tree", 0.5)
        code, found, error = doctor("-s", site.server_url)
        assert (code, error) == (1, "")
        told = [one["name"] for one in found]
        assert sorted(told) == sorted(set(told))
        assert set(told) == {
            "rpc-socket-open",
            "autorestart-false",
            "startsecs-zero",
            "stopsignal",
            "tcp-44ms",
            "one-worker-tcp",
            "socket-backlog-ignored",
            "limit-concurrency-small",
            "faulthandler-off",
            "wrapper",
            "tree-without-killasgroup",
            "listener-buffer",
            "listener-autorestart",
            "no-board",
            "served-by-a-child",
        }
        by_name = {one["name"]: one for one in found}
        assert by_name["served-by-a-child"]["found"].startswith("hidden:hidden-0 (pid ")
        lines = site.conf_path.read_text().splitlines()
        for name in ("autorestart-false", "stopsignal", "rpc-socket-open", "listener-buffer"):
            assert lines[by_name[name]["line"] - 1] == by_name[name]["found"]
        told_by_file = names(doctor("-c", str(site.conf_path))[1])
        assert told_by_file == set(told)  # its supervisord was found by the file


def test_scripts_that_become_uvicorn_and_the_listener() -> None:
    """No file shows what they are; the kernel does."""
    web = Program(
        numprocs=1, socket="unix", uvicorn="--limit-concurrency 5", extra="autorestart=true\nsocket_mode=0777"
    )
    with Supervisord(web, listen=None, sections=PLUGIN) as site:
        site.stop()
        text = site.conf_path.read_text()
        text += Supervisord.listener_section("watch", "", site.log_path)
        for name in ("web", "watch"):
            command = next(line for line in text.partition(f":{name}]")[2].splitlines() if line.startswith("command="))
            script = site.scratch / f"{name}.sh"
            script.write_text(f"#!/bin/sh\nexport PYTHONFAULTHANDLER=1\nexec {command.partition('=')[2]}\n")
            script.chmod(0o755)
            text = text.replace(command, f"command={script}")
        site.conf_path.write_text(text)
        assert names(doctor("-c", str(site.conf_path))[1]) == set()  # nothing of uvicorn is to be seen
        site.start()
        site.wait_running()
        expected = {"no-graceful-limit", "limit-concurrency-small"}
        wait_for(lambda: names(doctor("-c", str(site.conf_path))[1]) == expected, 30, "what the kernel shows", 0.5)


@pytest.mark.skipif(not users.is_root() or users.way_prefix() is None, reason="takes root, and a way for other users")
def test_listeners_with_less_rights_than_they_need() -> None:
    web = Program(
        numprocs=2,
        socket="unix",
        uvicorn=LIMIT,
        environment={"PYTHONFAULTHANDLER": "1"},
        command="sh -c 'ulimit -c unlimited; exec {uvicorn}'",
        extra="user=nobody\nautorestart=true\nkillasgroup=true\nsocket_mode=0777",
    )
    few = "setpriv --bounding-set=-sys_ptrace,-setuid --inh-caps=-sys_ptrace,-setuid {listen}"
    second = Supervisord.listener_section("second", "", Path("/dev/null"), command=few).replace("-10", "-11")
    with Supervisord(
        web,
        sections=PLUGIN + second,
        listener_extra="user=daemon",
        server_extra="chmod=0777",
        command_prefix=users.way_prefix() or [],
    ) as site:
        site.wait_running()
        expected = {
            "rpc-socket-open",
            "two-listeners",
            "listener-other-user",
            "root-without-capabilities",
            "core-limit",
        }
        lost = {"listener-stderr-lost"}  # the second one's, on purpose
        wait_for(lambda: expected <= names(doctor("-s", site.server_url)[1]), 30, "the rights", 0.5)
        found = {one["name"]: one for one in doctor("-s", site.server_url)[1]}
        assert set(found) == expected | lost
        assert "core limit unlimited" in found["core-limit"]["found"]
        assert found["root-without-capabilities"]["found"].startswith("second:second is uid 0 gid 0, web:web-")


def test_without_the_file_supervisord_itself_is_asked() -> None:
    """As it would be on another machine, or behind another PID namespace: what RPC tells, and nothing made up."""
    web = Program(numprocs=1, uvicorn="--limit-concurrency 5", extra="startsecs=0\nstopsignal=QUIT")
    with Supervisord(web, listen=None) as site:
        site.wait_running()
        site.conf_path.unlink()
        code, found, _ = doctor("-s", site.server_url)
        expected = {"no-listener", "startsecs-zero", "stopsignal", "limit-concurrency-small"}
        assert names(found) - {"faulthandler-off"} == expected
        assert code == 1
        assert all(one["file"] is None for one in found)


def test_the_variables_are_those_of_the_supervisord_that_runs() -> None:
    """A file with %(ENV_X)s, and a faulthandler that the container's image sets: both are its own, not ours."""
    web = Program(
        numprocs=2, socket="unix", uvicorn="%(ENV_LIMIT)s", extra="autorestart=true\nkillasgroup=true\nsocket_mode=0777"
    )
    variables = {"LIMIT": LIMIT, "PYTHONFAULTHANDLER": "1"}
    with Supervisord(web, sections=PLUGIN, environment=variables) as site:
        site.wait_running()
        wait_for(lambda: doctor("-c", str(site.conf_path))[0] == 0, 30, "nothing to be found", 0.5)
        alone = site.scratch / "copy.conf"
        shutil.copy(site.conf_path, alone)
        found = {one["name"]: one for one in doctor("-c", str(alone))[1]}
        assert set(found) == {"refused", "no-graceful-limit", "faulthandler-off"}
        assert "ENV_LIMIT" in found["refused"]["found"]


def test_a_limit_of_requests_stays_down_as_it_says() -> None:
    """The trap itself, on this uvicorn and this supervisor: exit code 0, EXITED, and nobody starts it again."""
    web = Program(numprocs=1, uvicorn=f"--limit-max-requests 1 {LIMIT}")
    with Supervisord(web, listen=None) as site:
        site.wait_running()
        found = {one["name"]: one for one in doctor("-s", site.server_url)[1]}
        assert found["max-requests-stays-down"]["severity"] == "error"
        address = web.socket.removeprefix("tcp://").split(":")

        def asked() -> bool:
            with socket.create_connection((address[0], int(address[1])), 5) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                return bool(client.recv(100))

        wait_for(asked, 20, "an answer")
        wait_for(lambda: site.infos("web")[0]["statename"] == "EXITED", 20, "its end")
        assert site.infos("web")[0]["exitstatus"] == 0


def test_an_rpc_server_that_knows_no_method() -> None:
    web = Program(numprocs=1, uvicorn=LIMIT)
    with Supervisord(web, listen=None) as site:
        site.wait_running()
        whole = site.conf_path.read_text()
        interface = whole[whole.index("[rpcinterface:supervisor]") : whole.index("[supervisorctl]")]
        site.stop()
        site.conf_path.write_text(whole.replace(interface, ""))
        with (site.scratch / "again.out").open("wb") as out:
            again = subprocess.Popen(
                [interpreter.python(), "-m", "supervisor.supervisord", "-n", "-c", str(site.conf_path)],
                cwd=site.scratch,
                env=site.environment,
                stdout=out,
                stderr=out,
            )
        try:
            wait_for(lambda: doctor("-s", site.server_url)[0] == 1, 30, "an answer", 0.2)
            (found,) = doctor("-s", site.server_url)[1]
            assert (found["name"], found["file"]) == ("no-rpcinterface", None)
            assert "UNKNOWN_METHOD" in found["found"]
        finally:
            again.terminate()
            again.wait(30)


def test_nothing_of_what_a_file_names_is_run_or_imported(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    planted = tmp_path / "planted_plugin.py"
    planted.write_text(f"open({str(trace)!r}, 'w').close()\ndef make(*_, **__): ...\n")
    script = tmp_path / "uvicorn"
    script.write_text(f"#!/bin/sh\ntouch {trace}\n")
    script.chmod(0o755)
    file = tmp_path / "supervisord.conf"
    file.write_text(
        f"[supervisord]\n[program:web]\ncommand={script} app:app\n"
        "[rpcinterface:planted]\nsupervisor.rpcinterface_factory = planted_plugin:make\n"
        "[ctlplugin:planted]\nsupervisor.ctl_factory = planted_plugin:absent\n"
        "[eventlistener:x]\ncommand=/bin/cat\nevents=TICK_5\nresult_handler=planted_plugin:make\n"
    )
    code, found, _ = doctor("-c", str(file), PYTHONPATH=str(tmp_path))
    missing = [one for one in found if one["name"] == "plugin-not-importable"]
    assert (code, [one["section"] for one in missing]) == (1, ["ctlplugin:planted"])
    assert "refused" not in names(found)
    assert not trace.exists()
