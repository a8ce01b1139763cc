"""Every supervisord.conf in ``conf/`` starts as it stands, and the listener finds and pins every worker.

A copy is started; only ports, the directories outside of it, and the name of the virtual environment are replaced.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from harness import interpreter, users
from harness.supervisord import Supervisord, free_port
from harness.waiting import wait_for

CONF = interpreter.ROOT / "conf"
ALL = sorted(path.parent.name for path in CONF.glob("*/supervisord.conf"))


class Copied(Supervisord):
    """A configuration of ``conf/`` in a directory of its own; it writes text logs, as it would for a user."""

    def __init__(self, name: str) -> None:
        text = (CONF / name / "supervisord.conf").read_text()
        text = text.replace("localhost:8000", f"localhost:{free_port()}")
        text = text.replace("0.0.0.0:8000", f"127.0.0.1:{free_port()}")
        text = text.replace("/run/", "{scratch}/").replace("/srv/app", "{scratch}")
        environment = {"DEMO_PORT": str(free_port())}
        super().__init__(conf=text, environment=environment, command_prefix=users.way_prefix() or [])
        self._extra_environment["DEMO_DIR"] = str(self.scratch)
        shutil.copy(CONF / "recipe" / "example.py", self.scratch)
        shutil.copy(CONF / "demo" / "app.py", self.scratch)
        virtual = self.scratch / "venv" / "bin"
        virtual.mkdir(parents=True)
        for command in ("uvicorn", "supervisor-uvicorn"):
            found = shutil.which(command, path=self.environment["PATH"])
            assert found, f"no {command} on PATH"
            (virtual / command).symlink_to(found)

    def pinned(self) -> set[int]:
        """The pids that the listener's text log calls pinned, wherever the configuration sends it."""
        text = ""
        for path in [self.scratch / "supervisord.out", self.scratch / "uvicorn-health.log"]:
            text += path.read_text() if path.exists() else ""
        return {int(pid) for line in re.findall(r" pinned: (.*)", text) for pid in re.findall(r"\d+", line)}


def test_the_list_of_configurations_is_whole() -> None:
    assert ALL == ["container", "demo", "recipe", "uds-per-process", "unix-socket"]


@pytest.mark.parametrize("name", ALL)
def test_it_starts_and_every_worker_is_pinned(name: str) -> None:
    if name == "container" and not users.is_root():
        pytest.skip("the container's configuration is for root")
    if name == "container" and users.way_prefix() is None:
        pytest.skip("no other user can run this interpreter")
    with Copied(name) as site:
        pids = site.wait_running()
        assert len(pids) == 4
        wait_for(lambda: set(pids.values()) <= site.pinned(), 40, "all four pinned")
        checked = site.check()
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert site.pids() == pids
        assert "READY" not in (site.scratch / "supervisord.out").read_text()


@pytest.mark.parametrize("path", sorted(CONF.glob("*/supervisord.conf")), ids=lambda path: path.parent.name)
def test_it_keeps_the_listener_off_the_protocol(path: Path) -> None:
    section = path.read_text().partition("[eventlistener:")[2].partition("\n[")[0]
    assert "stdout_logfile=NONE" in section
    assert "autorestart=true" in section
    if "/dev/stderr" in section:
        assert "stderr_logfile_maxbytes=0" in section


def test_the_recipe_is_unchanged_above_the_line() -> None:
    recipe = (CONF / "recipe" / "supervisord.conf").read_text()
    above = [line for line in recipe.partition("; --- added")[0].splitlines() if line and not line.startswith(";")]
    assert above == [
        "[supervisord]",
        "[fcgi-program:uvicorn]",
        "socket=tcp://localhost:8000",
        "command=venv/bin/uvicorn --fd 0 example:App",
        "numprocs=4",
        "process_name=uvicorn-%(process_num)d",
        "stdout_logfile=/dev/stdout",
        "stdout_logfile_maxbytes=0",
    ]


def test_a_request_is_answered_through_the_demo_and_names_its_worker() -> None:
    with Copied("demo") as site:
        pids = site.wait_running()
        port = site.environment["DEMO_PORT"]
        command = ["curl", "-s", "-m", "10", f"http://127.0.0.1:{port}/"]
        if not shutil.which("curl"):
            pytest.skip("no curl")
        answer = wait_for(lambda: subprocess.run(command, capture_output=True, text=True).stdout, 30, "an answer")
        found = re.fullmatch(r"(web-\d) \(pid (\d+)\): well\n", answer)
        assert found
        assert pids[f"web:{found[1]}"] == int(found[2])
