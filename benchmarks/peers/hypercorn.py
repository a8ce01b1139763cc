"""hypercorn: no liveness check; a worker that dies ends the whole server."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from harness.supervisord import free_port

from benchmarks.environments import Environment
from benchmarks.peers.base import Peer, Settings, Site
from benchmarks.peers.started import started


class Hypercorn(Peer):
    """Only for what becomes of a hung worker."""

    name = "hypercorn"
    title = "hypercorn"
    environment = "hypercorn"
    requirements = ("hypercorn[uvloop]",)

    def running(self, environment: Environment, settings: Settings) -> AbstractContextManager[Site]:
        address = f"127.0.0.1:{free_port()}"

        def command(scratch: Path) -> list[str]:
            words = [environment.command("hypercorn"), "--bind", address, "--workers", str(settings.workers)]
            return [*words, "--worker-class", "uvloop", "faulty:app"]

        return started(environment, command, f"tcp://{address}", settings)


PEER = Hypercorn()
