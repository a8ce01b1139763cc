"""circus with ``uvicorn --fd 0``: its socket is the workers' standard input, as in supervisord's fcgi-program.

Its WatchDog plugin wants the application to send heartbeats, which none does by itself; so there is no check.
"""

from __future__ import annotations

import subprocess
from contextlib import AbstractContextManager
from pathlib import Path

from harness.supervisord import free_port

from benchmarks.environments import Environment
from benchmarks.peers.base import Peer, Settings, Site
from benchmarks.peers.started import Started, started

CONFIGURATION = """
[circus]
endpoint = ipc://{scratch}/endpoint
pubsub_endpoint = ipc://{scratch}/pubsub

[socket:web]
host = 127.0.0.1
port = {port}

[watcher:web]
cmd = {uvicorn} --fd 0 --no-access-log faulty:app
numprocesses = {workers}
stdin_socket = web
copy_env = True
"""
RELOAD_TIMEOUT_S = 120


class Circus(Peer):
    """``reload --sequential``: one after the other, the old one first."""

    name = "circus"
    title = "circus, uvicorn --fd 0"
    environment = "circus"
    requirements = ("circus", "uvicorn[standard]")
    renewal = "reload --sequential"

    def running(self, environment: Environment, settings: Settings) -> AbstractContextManager[Site]:
        port = free_port()

        def command(scratch: Path) -> list[str]:
            uvicorn = environment.command("uvicorn")
            text = CONFIGURATION.format(scratch=scratch, port=port, uvicorn=uvicorn, workers=settings.workers)
            (scratch / "circus.ini").write_text(text)
            return [environment.command("circusd"), str(scratch / "circus.ini")]

        def reload(site: Started) -> None:
            words = [environment.command("circusctl"), "--timeout", str(RELOAD_TIMEOUT_S)]
            words += ["--endpoint", f"ipc://{site.scratch}/endpoint", "reload", "web", "--sequential", "--waiting"]
            done = subprocess.run(
                words, capture_output=True, text=True, env=site.variables, timeout=RELOAD_TIMEOUT_S + 10
            )
            if done.returncode or "ok" not in done.stdout:
                raise RuntimeError(f"circusctl reload: {done.stdout} {done.stderr}")

        return started(environment, command, f"tcp://127.0.0.1:{port}", settings, reload)


PEER = Circus()
