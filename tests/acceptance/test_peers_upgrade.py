"""What others lose when they restart four workers under load, counted by the same clients as in `test_rolling.py`.

No bound is claimed on another project's losses. But the load must see some of them at all: a client that never counts a
failure proves nothing about ours.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import client, interpreter, processes
from harness.load import KEPT, NEW, Load
from harness.supervisord import PLUGIN, SERVE, Program, free_port, watched
from harness.waiting import wait_for

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(900)]

WORKERS, REQUESTS, TIMES, CLIENTS = 4, 100_000, 3, 12  # as in test_rolling.py
BETWEEN = 5_000  # requests between two reloads, which are over as soon as the new workers are forked


@pytest.mark.parametrize("module", ["uvicorn", SERVE])
@pytest.mark.parametrize("kind", [NEW, KEPT])
def test_supervisorctl_restart(kind: str, module: str, figures: Callable[..., None]) -> None:
    restarts_s: list[float] = []
    program = Program(numprocs=WORKERS, module=module, uvicorn="--no-access-log")
    with watched(program, sections=PLUGIN) as site, Load(site.url(), kind, clients=CLIENTS) as load:
        while len(restarts_s) < TIMES or load.done < REQUESTS:
            began = time.monotonic()
            done = site.ctl("restart", "web:*")
            restarts_s.append(round(time.monotonic() - began, 2))
            assert done.returncode == 0, done
        result = load.stop()
    figures(kind=kind, module=module, restarts_s=restarts_s, workers=WORKERS * len(restarts_s), **result.figures())
    assert result.all_failed > 0


@pytest.mark.parametrize("kind", [NEW, KEPT])
def test_gunicorn_hup(gunicorn: Path, kind: str, figures: Callable[..., None]) -> None:
    reloads_s: list[float] = []
    with running(gunicorn) as (master, url), Load(url, kind, clients=CLIENTS) as load:
        while len(reloads_s) < TIMES or load.done < REQUESTS:
            before, began = children(master), time.monotonic()
            os.kill(master, signal.SIGHUP)
            wait_for(lambda before=before: all_new(master, before), 60, "four new workers of gunicorn")
            reloads_s.append(round(time.monotonic() - began, 2))
            load.wait_done(load.done + BETWEEN, 60)
        result = load.stop()
    figures(kind=kind, reloads_s=reloads_s, workers=WORKERS * len(reloads_s), **result.figures())
    assert result.answered > 0
    assert len(result.answers) > WORKERS


@pytest.fixture(scope="module")
def gunicorn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """gunicorn with uvicorn-worker, the newest of both, in an environment of its own."""
    home = tmp_path_factory.mktemp("gunicorn")
    subprocess.run([sys.executable, "-m", "venv", home], check=True, timeout=120)
    command = [home / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    wanted = ["gunicorn", "uvicorn-worker", "uvicorn[standard]"]
    done = subprocess.run([*command, *wanted], capture_output=True, text=True, timeout=600)
    if done.returncode:
        pytest.skip(f"gunicorn cannot be installed here: {done.stderr.strip().splitlines()[-1:]}")
    return home / "bin" / "gunicorn"


@contextlib.contextmanager
def running(gunicorn: Path) -> Iterator[tuple[int, str]]:
    """gunicorn with four workers that serve; the pid of its master, and where it listens."""
    address, mark = f"127.0.0.1:{free_port()}", uuid.uuid4().hex
    command = [str(gunicorn), "--workers", str(WORKERS), "--worker-class", "uvicorn_worker.UvicornWorker"]
    command += ["--bind", address, "--chdir", str(interpreter.APPS), "--log-level", "warning", "faulty:app"]
    process = subprocess.Popen(
        command, env={**os.environ, processes.MARKER: mark}, stdin=subprocess.DEVNULL, start_new_session=True
    )
    try:
        wait_for(lambda: all_new(process.pid, set()), 60, "four workers of gunicorn")
        wait_for(lambda: answers(f"tcp://{address}"), 60, "an answer of gunicorn")
        yield process.pid, f"tcp://{address}"
    finally:
        processes.kill_marked(mark)
        process.wait(10)


def children(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def all_new(master: int, before: set[int]) -> bool:
    now = children(master)
    return len(now) == WORKERS and not now & before


def answers(url: str) -> bool:
    try:
        return client.ask(url, "/pid")[0] == 200
    except OSError:
        return False
