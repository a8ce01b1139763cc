"""``check`` against real supervisords: what it finds, how fast, and how it finds supervisord."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator

import pytest
from harness import interpreter
from harness.supervisord import Program, Supervisord
from harness.waiting import wait_for

WITHIN_S = (
    15.0  # not how fast it is (tests/acceptance/test_check.py), but that it waits for nothing that may never come
)


@pytest.fixture(scope="module")
def site() -> Iterator[Supervisord]:
    with Supervisord(Program(numprocs=3), listen=None) as site:
        site.wait_running()
        wait_for(lambda: site.check().returncode == 0, 30, "check to be content")
        yield site


def verdicts(site: Supervisord, *words: str) -> tuple[int, dict[str, str], float]:
    began = time.monotonic()
    done = site.check("--json", *words)
    took_s = time.monotonic() - began
    page = json.loads(done.stdout)
    found = {worker["name"]: worker["verdict"] for program in page["programs"] for worker in program["workers"]}
    return done.returncode, found, took_s


def test_supervisord_is_found_in_every_way(site: Supervisord) -> None:
    def run(*words: str, url: str = "") -> subprocess.CompletedProcess[str]:
        variables = {**site.environment, **({"SUPERVISOR_SERVER_URL": url} if url else {})}
        command = [interpreter.python(), "-m", "supervisor_uvicorn", "check", "web:web-0", *words]
        return subprocess.run(
            command,
            env=variables,
            cwd=site.scratch,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
        )

    assert run("-s", site.server_url).returncode == 0
    assert run(url=site.server_url).returncode == 0
    assert run("-c", str(site.conf_path), url="unix:///nowhere").returncode == 0, "an option goes before the variable"
    assert run().returncode == 0, "supervisorctl's search path begins in the working directory"
    for words, said in {
        ("-c", "/nowhere.conf"): "could not find config file /nowhere.conf",
        ("-s", "ftp://host"): "'ftp://host' is not a server URL; write http://",
        ("-s", "unix:///nowhere.sock"): "there is no such socket",
        ("-s", "http://127.0.0.1:1"): "nobody listens there",
    }.items():
        done = run(*words)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_names(site: Supervisord) -> None:
    assert list(verdicts(site, "web:web-1")[1]) == ["web:web-1"]
    assert list(verdicts(site, "web")[1]) == list(verdicts(site, "web:*")[1]) == list(verdicts(site, "all")[1])
    nobody = site.check("web:web-9")
    assert (nobody.returncode, nobody.stdout) == (2, "")
    assert "programs here: web" in nobody.stderr


def test_a_stopped_worker_is_no_fault_and_shown(site: Supervisord) -> None:
    site.ctl("stop", "web:web-2")
    code, found, _ = verdicts(site)
    assert (code, found["web:web-0"]) == (0, "healthy")
    assert site.check("web:web-2").returncode == 1, "nothing is proven where nobody should run"
    site.ctl("start", "web:web-2")
    wait_for(lambda: site.check().returncode == 0, 30, "check to be content")


def test_a_worker_that_hangs_in_the_middle_of_the_look_is_found(site: Supervisord) -> None:
    connection = site.connect_to("web:web-0")
    command = [interpreter.python(), "-m", "supervisor_uvicorn", "check", "--json", "-c", str(site.conf_path)]
    began = time.monotonic()
    with subprocess.Popen(command, env=site.environment, cwd=site.scratch, stdout=subprocess.PIPE, text=True) as look:
        wait_for(lambda: time.monotonic() - began > 0.9, 5, "the middle of the look", 0.01)
        connection.send_only("/hang/sleep")
        assert look.wait(30) == 1
        took_s = time.monotonic() - began
        assert look.stdout is not None
        page = json.loads(look.stdout.read())
    assert page["programs"][0]["workers"][0]["verdict"] == "silent"
    assert took_s < WITHIN_S
    # and it hung before: it is not pinned then, and its ticks tell
    code, found, took_s = verdicts(site)
    assert (code, found) == (1, {"web:web-0": "silent", "web:web-1": "healthy", "web:web-2": "healthy"})
    assert took_s < WITHIN_S
    connection.close()
