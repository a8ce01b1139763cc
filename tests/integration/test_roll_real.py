"""The short form of what the acceptance tests of rolls show: the real verbs, listener, plugin and workers together."""

from __future__ import annotations

from pathlib import Path

from harness.rolls import Trickle, roll, spawned, stages, verb, wait_healthy
from harness.supervisord import PLUGIN, SERVE, Program, Supervisord, watched

NAMES = ["web:web-0", "web:web-1"]


def test_two_workers_are_rolled() -> None:
    program = Program(numprocs=2, module=SERVE, uvicorn="--no-access-log")
    with watched(program, sections=PLUGIN) as site:
        before = wait_healthy(site)
        refused = verb(site, "restart", "web:web-7")
        assert (refused.returncode, refused.stdout) == (2, ""), refused
        assert "web:web-7: no such uvicorn worker or program (programs here: web)" in refused.stderr
        with Trickle(site.url()) as trickle:
            done = verb(site, "restart", "web")
        assert (done.returncode, done.stderr) == (0, ""), done
        assert done.stdout.startswith("rolling 2 workers of web\n")
        assert "web: done, 2 workers in " in done.stdout
        assert trickle.failed == []
        assert trickle.answered > 0
        after = wait_healthy(site)
        assert not set(before.values()) & set(after.values())
        assert spawned(site, NAMES) == dict.fromkeys(NAMES, 2)
        its = roll(site)
        assert its is not None
        assert (its["state"], stages(its)) == ("done", ["done", "done"])
        status = verb(site, "status")
        assert status.returncode == 0
        assert "2 of 2 healthy" in status.stdout
        history = verb(site, "history", "web")
        assert history.returncode == 0
        for name, pid in before.items():
            assert f"{name} (pid {pid})" in history.stdout


def test_a_killed_single_worker_leaves_its_socket_open() -> None:
    program = Program(numprocs=1, module=SERVE, uvicorn="--no-access-log")
    with watched(program, "--silent-after 1", sections=PLUGIN) as site:
        before = wait_healthy(site)
        inode = socket_inode(site)
        site.fault("web:web-0", "/hang/sleep")
        with Trickle(site.url()) as trickle:
            replaced = site.wait_event("replaced", 60, worker="web:web-0", reason="silent")
        after = wait_healthy(site)
        assert replaced["pid"] == after["web:web-0"] != before["web:web-0"]
        assert socket_inode(site) == inode
        assert trickle.failed == [], "somebody was refused, or lost while waiting"
        assert trickle.answered > 0


def socket_inode(site: Supervisord) -> str:
    """Of the listening socket that the worker has as its descriptor 0."""
    link = Path(f"/proc/{site.pids()['web:web-0']}/fd/0").readlink()
    assert str(link).startswith("socket:")
    return str(link)
