"""granian: no liveness check (its ``--workers-...`` options are about dead, old and large workers)."""

from __future__ import annotations

import http.client
import time
from contextlib import AbstractContextManager
from pathlib import Path

from harness import client
from harness.supervisord import free_port

from benchmarks.environments import Environment
from benchmarks.peers.base import ANSWER_S, Peer, Settings, Site
from benchmarks.peers.started import Started, hang_up, started


class Granian(Peer):
    """Since 2.8 each worker has a socket of its own (SO_REUSEPORT), and threads that accept while Python is blocked."""

    name = "granian"
    title = "granian"
    environment = "granian"
    requirements = ("granian[uvloop]",)
    renewal = "HUP"

    def running(self, environment: Environment, settings: Settings) -> AbstractContextManager[Site]:
        port = free_port()

        def command(scratch: Path) -> list[str]:
            words = [environment.command("granian"), "--interface", "asgi", "--host", "127.0.0.1", "--port", str(port)]
            words += ["--workers", str(settings.workers), "--respawn-failed-workers"]
            return [*words, "--workers-kill-timeout", "5", "--no-access-log", "faulty:app"]

        return started(environment, command, f"tcp://127.0.0.1:{port}", settings, hang_up, GranianSite)


class GranianSite(Started):
    """Whom a connection belongs to is decided by the kernel before anybody accepts: it is asked until it is the one."""

    def connect_to(self, pid: int) -> client.Connection:
        end = time.monotonic() + 10
        while time.monotonic() < end:
            connection = client.Connection(self.url, ANSWER_S)
            try:
                status, answer = connection.ask("/pid")
                if status == 200 and answer.get("pid") == pid:
                    return connection
            except (OSError, http.client.HTTPException):  # a hung one has it
                pass
            connection.close()
        raise AssertionError(f"no connection to pid {pid}")


PEER = Granian()
