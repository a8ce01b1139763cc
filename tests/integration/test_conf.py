"""Every supervisord.conf in ``conf/`` starts as it stands, and the listener finds and pins every worker.

A copy is started; only ports, the directories outside of it, and the name of the virtual environment are replaced.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from harness import users
from harness.configurations import ALL, CONF, Copied
from harness.waiting import wait_for


def test_the_list_of_configurations_is_whole() -> None:
    assert ALL == ["container", "demo", "recipe", "systemd", "uds-per-process", "unix-socket"]


@pytest.mark.parametrize("name", ALL)
def test_it_starts_and_every_worker_is_pinned(name: str) -> None:
    if name in ("container", "systemd") and not users.is_root():
        pytest.skip("this configuration is for root")
    if name in ("container", "systemd") and users.way_prefix() is None:
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
        command = ["curl", "-s", "-m", "10", f"http://127.0.0.1:{site.port}/"]
        if not shutil.which("curl"):
            pytest.skip("no curl")
        answer = wait_for(lambda: subprocess.run(command, capture_output=True, text=True).stdout, 30, "an answer")
        found = re.fullmatch(r"(web-\d) \(pid (\d+)\): well\n", answer)
        assert found
        assert pids[f"web:{found[1]}"] == int(found[2])
