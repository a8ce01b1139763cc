"""From an ``[eventlistener]`` to a replaced worker, in short; also run on every supported Python and supervisor."""

from __future__ import annotations

import json

from harness.supervisord import Program, Supervisord, watched
from harness.waiting import stays_true, wait_for


def replaced_only(site: Supervisord, before: dict[str, int], name: str) -> bool:
    """That worker has a new pid and is RUNNING; an assertion that no other was touched."""
    now = site.pids()
    assert {other: pid for other, pid in now.items() if other != name} == {
        other: pid for other, pid in before.items() if other != name
    }
    return now[name] not in {0, before[name]} and site.states()[name] == "RUNNING"


def test_a_hung_worker_is_replaced_and_no_other() -> None:
    with watched(Program(socket="tcp"), "--silent-after 2") as site:
        before = site.pids()
        site.fault("web:web-2", "/hang/sleep")
        wait_for(lambda: replaced_only(site, before, "web:web-2"), 30, "web-2 replaced")
        restart = site.wait_event("restart", 5)
        assert (restart["worker"], restart["pid"], restart["reason"]) == ("web:web-2", before["web:web-2"], "silent")
        replaced = site.wait_event("replaced", 30)
        assert replaced["old_pid"] == before["web:web-2"]
        assert replaced["pid"] == site.pids()["web:web-2"]
        assert replaced["took_s"] > 0
        assert len(site.events("restart")) == 1
        assert site.events("not-json") == []


def test_a_worker_that_answers_500_is_drained_on_a_unix_socket() -> None:
    options = "--path /health --failing-after 2 --silent-after 5"
    with watched(Program(socket="unix", numprocs=3), options) as site:
        before = site.pids()
        wait_for(lambda: all(worker_states(site).get(name) == "healthy" for name in before), 30, "all judged healthy")
        site.tell("web:web-1", "/set?health=500")
        wait_for(lambda: replaced_only(site, before, "web:web-1"), 60, "web-1 replaced")
        restart = site.wait_event("restart", 5)
        assert (restart["worker"], restart["reason"]) == ("web:web-1", "failing")
        assert "500" in restart["message"]


def test_a_wrong_path_restarts_nobody() -> None:
    options = "--path /wrong --failing-after 1 --silent-after 5"
    with watched(Program(numprocs=2), options) as site:
        before = site.pids()
        stays_true(lambda: site.pids() == before, 25, "the workers' own pids")
        assert site.events("restart") == []


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


def worker_states(site: Supervisord) -> dict[str, str]:
    """Name -> the last verdict that the listener logged for that worker."""
    return {entry["worker"]: entry["verdict"] for entry in site.events("verdict")}
