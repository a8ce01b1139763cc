"""From an ``[eventlistener]`` to a replaced worker, in short; also run on every supported Python and supervisor."""

from __future__ import annotations

import json

from harness.judging import nobody_restarted, wait_healthy, wait_replaced_only
from harness.supervisord import Program, watched
from harness.waiting import stays_true, wait_for


def test_a_hung_worker_is_replaced_and_no_other() -> None:
    with watched(Program(socket="tcp"), "--silent-after 2") as site:
        before = site.pids()
        site.fault("web:web-2", "/hang/sleep")
        wait_replaced_only(site, before, "web:web-2")
        assert site.events("restart")[0]["reason"] == "silent"
        assert site.events("replaced")[0]["took_s"] > 0


def test_a_worker_that_answers_500_is_drained_on_a_unix_socket() -> None:
    options = "--path /health --failing-after 2 --silent-after 5"
    with watched(Program(socket="unix", numprocs=3), options) as site:
        before = wait_healthy(site)
        site.tell("web:web-1", "/set?health=500")
        wait_replaced_only(site, before, "web:web-1")
        restart = site.events("restart")[0]
        assert restart["reason"] == "failing"
        assert "500" in restart["message"]


def test_a_wrong_path_restarts_nobody() -> None:
    options = "--path /wrong --failing-after 1 --silent-after 5"
    with watched(Program(numprocs=2), options) as site, nobody_restarted(site) as before:
        stays_true(lambda: site.pids() == before, 25, "the workers' own pids")


def test_check_says_who_is_sick_with_its_exit_code() -> None:
    with watched(Program(numprocs=2), listen="--silent-after 600") as site:
        well = site.check("--json")
        assert well.returncode == 0, well.stdout + well.stderr
        workers = json.loads(well.stdout)["programs"][0]["workers"]
        assert {worker["name"]: worker["verdict"] for worker in workers} == dict.fromkeys(site.pids(), "healthy")

        site.fault("web:web-0", "/hang/sleep")
        wait_for(lambda: site.check().returncode == 1, 30, "check to say 1")
        table = site.check().stdout
        assert "web:web-0" in table
        assert "silent" in table

        nobody = site.cli("check", "-s", "unix:///nowhere/supervisor.sock")
        assert nobody.returncode == 2
        assert "/nowhere/supervisor.sock" in nobody.stderr
