"""gunicorn, with uvicorn's worker and with its own one for ASGI (``-k asgi``, since 24.0).

Its workers touch a file, its arbiter looks at each file once a second: ``--timeout`` is the age that it tolerates. HUP
starts a full second set of workers and then ends the first one.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from harness import interpreter
from harness.supervisord import free_port

from benchmarks.environments import Environment
from benchmarks.peers.base import Peer, Settings, Site
from benchmarks.peers.started import hang_up, started


class Gunicorn(Peer):
    """``worker_class`` as ``-k`` takes it."""

    environment = "gunicorn"
    requirements = ("gunicorn", "uvicorn-worker", "uvicorn[standard]")
    has_limit = True
    renewal = "HUP"

    def __init__(self, name: str, title: str, worker_class: str) -> None:
        self.name, self.title, self._worker_class = name, title, worker_class

    def running(self, environment: Environment, settings: Settings) -> AbstractContextManager[Site]:
        address = f"127.0.0.1:{free_port()}"

        def command(scratch: Path) -> list[str]:
            words = [environment.command("gunicorn"), "--bind", address, "--workers", str(settings.workers)]
            words += ["--worker-class", self._worker_class, "--chdir", str(interpreter.APPS), "--log-level", "warning"]
            words += ["--no-control-socket"]
            if settings.limit_s is not None:
                words += ["--timeout", f"{settings.limit_s:g}"]
            return [*words, "faulty:app"]

        return started(environment, command, f"tcp://{address}", settings, hang_up)


UVICORN_WORKER = Gunicorn("gunicorn-uvicorn", "gunicorn, uvicorn-worker", "uvicorn_worker.UvicornWorker")
OWN_WORKER = Gunicorn("gunicorn-asgi", "gunicorn, -k asgi", "asgi")
