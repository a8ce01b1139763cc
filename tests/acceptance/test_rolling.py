"""Rolling restarts of four workers under at least 100,000 requests of each kind.

With `serve` none fails, five times over. With stock uvicorn no connection is refused; what it loses is its own: it
closes what it has accepted and not yet read. What `supervisorctl restart` and gunicorn lose stands in
`test_peers_upgrade.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from harness.load import KEPT, NEW, Failure, Load, Result
from harness.supervisord import PLUGIN, SERVE, Program, Supervisord, watched

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(900)]

WORKERS, REQUESTS, ROLLS, REPEATS = 4, 100_000, 3, 5  # at least so many of each
CLIENTS = 12  # so that each worker has some keep-alive connections to end
ROLL_S = 120.0
LOST_PER_WORKER = 4  # by stock uvicorn, new connection for each request: one as a rule


@pytest.mark.parametrize("repeat", range(REPEATS))
@pytest.mark.parametrize("kind", [NEW, KEPT])
def test_serve_drops_nothing(kind: str, repeat: int, figures: Callable[..., None]) -> None:
    result, rolls_s = rolled_under_load(SERVE, kind)
    figures(repeat=repeat, kind=kind, rolls_s=rolls_s, **result.figures())
    assert result.failed == {}, result.examples
    assert result.answered >= REQUESTS


@pytest.mark.parametrize("kind", [NEW, KEPT])
def test_serve_drops_nothing_on_a_unix_socket(kind: str, figures: Callable[..., None]) -> None:
    result, rolls_s = rolled_under_load(SERVE, kind, socket="unix")
    figures(kind=kind, rolls_s=rolls_s, **result.figures())
    assert result.failed == {}, result.examples


def test_serve_drops_nothing_of_clients_that_pause(figures: Callable[..., None]) -> None:
    """Keep-alive connections that are idle when their worker is told to end: the next request may be on its way."""
    result, rolls_s = rolled_under_load(SERVE, KEPT, requests=0, clients=40, pause_s=0.5)
    figures(rolls_s=rolls_s, **result.figures())
    assert result.failed == {}, result.examples


@pytest.mark.parametrize("repeat", range(REPEATS))
@pytest.mark.parametrize("kind", [NEW, KEPT])
def test_uvicorn_refuses_nobody(kind: str, repeat: int, figures: Callable[..., None]) -> None:
    result, rolls_s = rolled_under_load("uvicorn", kind)
    figures(repeat=repeat, kind=kind, rolls_s=rolls_s, workers=WORKERS * len(rolls_s), **result.figures())
    assert result.of(Failure.REFUSED, Failure.OURS, Failure.WRONG, Failure.TIMEOUT) == 0, result.examples
    assert result.done >= REQUESTS
    if kind == NEW:
        assert result.all_failed <= LOST_PER_WORKER * WORKERS * len(rolls_s), result.examples


def rolled_under_load(
    module: str,
    kind: str,
    *,
    requests: int = REQUESTS,
    clients: int = CLIENTS,
    pause_s: float = 0.0,
    socket: str = "tcp",
) -> tuple[Result, list[float]]:
    """Roll again and again until the load is done; what became of it, and how long each roll took."""
    rolls_s: list[float] = []
    program = Program(numprocs=WORKERS, module=module, socket=socket, uvicorn="--no-access-log")
    with (
        watched(program, sections=PLUGIN) as site,
        Load(site.url(), kind, clients=clients, pause_s=pause_s) as load,
    ):
        while len(rolls_s) < ROLLS or load.done < requests:
            rolls_s.append(rolled(site))
        result = load.stop()
        last = {f'{{"pid": {pid}}}' for pid in site.pids().values()}
        assert site.events("not-json") == []
        assert {event["reason"] for event in site.events("restart")} == {"rolling"}
        assert len(site.events("restart")) == WORKERS * len(rolls_s)
    assert len(result.answers) > WORKERS, f"nobody but the first workers was ever asked: {result.answers}"
    assert last & set(result.answers), f"nobody of the last workers was ever asked: {result.answers}"
    return result, rolls_s


def rolled(site: Supervisord) -> float:
    """One `supervisor-uvicorn restart web`; all workers are new, and how long it took."""
    before, began = site.pids(), time.monotonic()
    done = site.cli("restart", "-c", str(site.conf_path), "--timeout", str(ROLL_S), "web", timeout_s=ROLL_S + 30)
    took_s = time.monotonic() - began
    assert done.returncode == 0, done
    after = site.pids()
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values()), f"{before} -> {after}"
    assert site.all_running()
    return round(took_s, 2)
