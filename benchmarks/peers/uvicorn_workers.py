"""``uvicorn --workers``: the parent asks each child over a pipe, which a thread of the child answers."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from harness.supervisord import free_port

from benchmarks.environments import Environment
from benchmarks.peers.base import Peer, Settings, Site
from benchmarks.peers.started import hang_up, started


class UvicornWorkers(Peer):
    """HUP (since 0.51) replaces one after the other, the new one first."""

    name = "uvicorn-workers"
    title = "uvicorn --workers"
    environment = "uvicorn"
    requirements = ("uvicorn[standard]",)
    has_limit = True
    renewal = "HUP"

    def running(self, environment: Environment, settings: Settings) -> AbstractContextManager[Site]:
        port = free_port()

        def command(scratch: Path) -> list[str]:
            words = [environment.command("uvicorn"), "--port", str(port), "--workers", str(settings.workers)]
            words += ["--no-access-log"]
            if settings.limit_s is not None:
                words += ["--timeout-worker-healthcheck", f"{settings.limit_s:g}"]  # whole seconds
            return [*words, "faulty:app"]

        return started(environment, command, f"tcp://127.0.0.1:{port}", settings, hang_up)


PEER = UvicornWorkers()
