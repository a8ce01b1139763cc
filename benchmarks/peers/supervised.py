"""The workers of supervisord's ``[fcgi-program]``: watched by us, by superlance's httpok, or by nobody."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from harness import interpreter
from harness.supervisord import PLUGIN, SERVE, Program, Supervisord

from benchmarks.environments import CHECKOUT, Environment
from benchmarks.peers.base import Peer, Settings, Site, Unwell, last_lines

NO_BRAKES = "--backoff 0 --budget 1000/600"  # or the second worker in a row would wait for the backoff
RENEW_TIMEOUT_S = 150.0


class SupervisedSite(Site):
    """``supervisord``: the harness' own, with all that it can do."""

    def __init__(self, supervisord: Supervisord, count: int, *, listener: bool, renew: Callable[[], None]) -> None:
        assert supervisord.process is not None
        super().__init__(supervisord.url(), supervisord.process.pid, count)
        self.supervisord, self._listener, self._renew = supervisord, listener, renew

    def settled(self) -> bool:
        if not self._listener:
            return self.supervisord.all_running()
        if self.supervisord.rpc.getProcessInfo(self.supervisord.listener)["statename"] == "FATAL":
            raise Unwell(f"the listener is FATAL: {self.said()}")
        pinned = {entry.get("pid") for entry in self.supervisord.events("pinned")}
        return self.supervisord.all_running() and set(self.supervisord.pids().values()) <= pinned

    def renew(self) -> None:
        self._renew()

    def said(self) -> str:
        scratch = self.supervisord.scratch
        logs = [scratch / "supervisord.log", self.supervisord.log_path]
        return " | ".join(last_lines(log.read_text(errors="replace"), 3) for log in logs if log.exists())


class Ours(Peer):
    """supervisor-uvicorn with its rpcinterface. ``module``: ``uvicorn``, or ``serve`` in its place."""

    environment = "ours"
    requirements = (CHECKOUT, "supervisor", "uvicorn[standard]")
    has_limit = True
    renewal = "supervisor-uvicorn restart"

    def __init__(self, name: str, title: str, *, pulse_s: float = 1.0, module: str = "uvicorn") -> None:
        self.name, self.title, self.pulse_s, self._module = name, title, pulse_s, module

    def refuses(self, limit_s: float) -> str:
        return "pulse over half of it" if self.pulse_s > limit_s / 2 else ""  # settings.py: three looks or more

    def running(self, environment: Environment, settings: Settings) -> AbstractContextManager[Site]:
        listen = f"{NO_BRAKES} --pulse {self.pulse_s:g}"
        if settings.limit_s is not None:
            listen += f" --silent-after {settings.limit_s:g}"
        return self._running(environment, settings, listen)

    @contextlib.contextmanager
    def _running(self, environment: Environment, settings: Settings, listen: str) -> Iterator[Site]:
        program = Program(numprocs=settings.workers, module=self._module, uvicorn="--no-access-log")
        with (
            on(environment.python),
            quiet(),
            Supervisord(program, listen=listen, sections=PLUGIN) as supervisord,
        ):
            yield SupervisedSite(supervisord, settings.workers, listener=True, renew=lambda: roll(supervisord))


def roll(supervisord: Supervisord) -> None:
    """`supervisor-uvicorn restart web`; RuntimeError where it does not say that it is done."""
    timeout_s = str(RENEW_TIMEOUT_S)
    words = ["restart", "-c", str(supervisord.conf_path), "--timeout", timeout_s, "web"]
    done = supervisord.cli(*words, timeout_s=RENEW_TIMEOUT_S + 30)
    if done.returncode:
        raise RuntimeError(f"supervisor-uvicorn restart: exit code {done.returncode}: {done.stdout} {done.stderr}")


class Superlance(Peer):
    """supervisord alone; where a limit is set, with httpok: ``-t LIMIT``, looking at each TICK_5, all workers named."""

    environment = "supervisor"
    requirements = ("supervisor", "superlance", "uvicorn[standard]")
    has_limit = True
    renewal = "supervisorctl restart web:*"

    def __init__(self, name: str, title: str) -> None:
        self.name, self.title = name, title

    def running(self, environment: Environment, settings: Settings) -> AbstractContextManager[Site]:
        return self._running(environment, settings)

    @contextlib.contextmanager
    def _running(self, environment: Environment, settings: Settings) -> Iterator[Site]:
        program = Program(numprocs=settings.workers, uvicorn="--no-access-log")
        address = program.url(Path()).removeprefix("tcp://")
        sections = "" if settings.limit_s is None else self._httpok(environment, address, settings)
        with (
            on(environment.python),
            quiet(),
            Supervisord(program, listen=None, sections=sections, listener="httpok") as supervisord,
        ):

            def restart() -> None:
                done = supervisord.ctl("restart", "web:*", timeout_s=RENEW_TIMEOUT_S)
                if done.returncode:
                    raise RuntimeError(f"supervisorctl restart: {done.stdout} {done.stderr}")

            yield SupervisedSite(supervisord, settings.workers, listener=False, renew=restart)

    @staticmethod
    def _httpok(environment: Environment, address: str, settings: Settings) -> str:
        programs = " ".join(f"-p web:web-{number}" for number in range(settings.workers))
        command = f"{environment.command('httpok')} {programs} -t {settings.limit_s:g} http://{address}/pid"
        return f"[eventlistener:httpok]\ncommand={command}\nevents=TICK_5\n"


@contextlib.contextmanager
def on(python: Path) -> Iterator[None]:
    """Inside, the harness starts supervisord and its programs with this interpreter."""
    variable = "SUPERVISOR_UVICORN_TEST_PYTHON"
    before = os.environ.get(variable)
    os.environ[variable] = str(python)
    interpreter.about.cache_clear()
    try:
        yield
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before
        interpreter.about.cache_clear()


@contextlib.contextmanager
def logs_to_stderr() -> Iterator[None]:
    """Where something fails the harness prints the logs; stdout is for the tables."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Where something fails the harness prints whole logs, for pytest's report; here ``said`` tells their ends."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


# For `recovery`.
OURS = Ours("ours", "supervisor-uvicorn, pulse 1 s")
OURS_QUICK = Ours("ours-quick", "supervisor-uvicorn, pulse 0.2 s", pulse_s=0.2)
HTTPOK = Superlance("httpok", "supervisor, httpok")
# For `upgrade`.
OURS_SERVE = Ours("serve", "supervisor-uvicorn, serve", module=SERVE)
OURS_STOCK = Ours("ours", "supervisor-uvicorn, stock uvicorn")
SUPERVISOR = Superlance("supervisor", "supervisor alone")
