"""``healthcheck`` against real supervisords: what it costs from the board, and what it says where there is none."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
from harness import interpreter, processes
from harness.judging import wait_healthy
from harness.supervisord import PLUGIN, Program, Supervisord
from harness.waiting import wait_for

from supervisor_uvicorn.supervisord.board import Board
from supervisor_uvicorn.supervisord.quick import read_board
from supervisor_uvicorn.supervisord.rpc import Rpc

WALL_S = 0.150
RESIDENT_BYTES = 20_000_000
DEADLINE_S = 60.0

# The kernel carries a parent's peak over fork and exec into ru_maxrss (getrusage(2)); VmHWM (proc(5)) is its own.
_PEAK = """
import sys
from supervisor_uvicorn.cli import main
code = main(sys.argv[1:])
with open("/proc/self/status") as status:
    print(next(line.split()[1] for line in status if line.startswith("VmHWM:")), file=sys.stderr)
sys.exit(code)
"""


def healthcheck(site: Supervisord, *words: str, find: bool = True) -> subprocess.CompletedProcess[str]:
    done = site.cli("healthcheck", *(["-s", site.server_url] if find else []), *words)
    assert done.returncode in (0, 1)
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    assert len(done.stdout.encode()) < 4096
    return done


@pytest.fixture(scope="module")
def shared() -> Iterator[Supervisord]:
    with Supervisord(Program(), listen="", sections=PLUGIN) as site:
        site.wait_pinned()
        wait_healthy(site)
        wait_for(lambda: healthcheck(site, "--min-healthy", "100%").returncode == 0, DEADLINE_S, "a board")
        yield site


@pytest.mark.acceptance  # speed decides no test of every run
@pytest.mark.parametrize("way", ["-s", "-c"])
def test_from_the_board_it_takes_150_ms_and_20_mb(shared: Supervisord, figures: Callable[..., None], way: str) -> None:
    find = [way, shared.server_url if way == "-s" else str(shared.conf_path)]
    walls_s = []
    for _ in range(20):
        began = time.perf_counter()
        done = healthcheck(shared, *find, find=False)
        walls_s.append(time.perf_counter() - began)
        assert done.returncode == 0
        assert "the listener's board" in done.stdout
    words = [interpreter.python(), "-c", _PEAK, "healthcheck", *find]
    peak = subprocess.run(words, env=shared.environment, capture_output=True, text=True, timeout=60)
    assert peak.returncode == 0
    peak_bytes = int(peak.stderr) * 1024
    figures(median_ms=round(statistics.median(walls_s) * 1000), most_ms=round(max(walls_s) * 1000), bytes=peak_bytes)
    assert statistics.median(walls_s) <= WALL_S
    assert peak_bytes <= RESIDENT_BYTES


def test_however_supervisord_is_found(shared: Supervisord) -> None:
    assert healthcheck(shared, "-c", str(shared.conf_path), find=False).returncode == 0
    assert healthcheck(shared, find=False).returncode == 0  # its working directory holds the supervisord.conf


def test_the_quick_way_reads_what_the_long_way_reads(shared: Supervisord) -> None:
    with Rpc(shared.server_url) as rpc:
        for _ in range(10):  # a report may come between the two
            long, quick = Board(rpc).read(), read_board(shared.server_url)
            assert long is not None
            assert quick is not None
            if long.at == quick.at:
                break
        assert quick.text == long.text
        assert abs(quick.age_s - long.age_s) < DEADLINE_S


def test_without_a_listener_it_looks_by_itself(figures: Callable[..., None]) -> None:
    with Supervisord(Program(), listen=None) as site:
        pids = site.wait_running()
        wait_for(lambda: all(processes.serving(pid) for pid in pids.values()), DEADLINE_S, "every worker to serve")
        began = time.monotonic()
        well = healthcheck(site, "--min-healthy", "100%")
        took_s = time.monotonic() - began
        assert well.returncode == 0
        assert "a look of its own: there is no [rpcinterface:uvicorn]" in well.stdout
        os.kill(pids["web:web-2"], signal.SIGSTOP)
        half, whole = healthcheck(site, "--min-healthy", "50%"), healthcheck(site, "--min-healthy", "100%")
        assert (half.returncode, whole.returncode) == (0, 1)
        assert "web:web-2 silent" in whole.stdout
        figures(took_s=round(took_s, 2))
        assert took_s < 3.0
        with stopped(site):
            began = time.monotonic()
            hung = healthcheck(site)
            assert hung.returncode == 1
            assert "did not answer within" in hung.stdout
            assert time.monotonic() - began < 3.0


@contextlib.contextmanager
def stopped(site: Supervisord) -> Iterator[None]:
    """supervisord itself hangs."""
    assert site.process is not None
    site.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        site.process.send_signal(signal.SIGCONT)


def test_a_stale_board_is_not_believed() -> None:
    """The listener hangs and its last word was that all are well; then one hangs, too."""
    with Supervisord(Program(numprocs=2), listen="", sections=PLUGIN) as site:
        site.wait_pinned()
        wait_healthy(site)
        wait_for(lambda: "2 of 2" in healthcheck(site).stdout, DEADLINE_S, "a board with two healthy workers")
        os.kill(site.listener_pid(), signal.SIGSTOP)
        os.kill(site.pids()["web:web-1"], signal.SIGSTOP)
        own = wait_for(
            lambda: found if "a look of its own" in (found := healthcheck(site, "--min-healthy=2")).stdout else None,
            DEADLINE_S,
            "the board to be stale",
        )
        assert own.returncode == 1
        assert "the listener's board is" in own.stdout
        assert "web:web-1 silent" in own.stdout


def test_user_and_password() -> None:
    guarded = "username=user\npassword={SHA}" + "9d4e1e23bd5b727046a9e3b4b7db57bd8d6ee684"  # "pass"
    listener = 'environment=SUPERVISOR_USERNAME="user",SUPERVISOR_PASSWORD="pass"'
    with_password = Supervisord(
        Program(numprocs=1), listen="", sections=PLUGIN, server_extra=guarded, listener_extra=listener
    )
    with_password._answers = lambda: with_password.process is not None  # type: ignore[method-assign]
    with with_password as site:
        wait_for(
            lambda: healthcheck(site, "-u", "user", "-p", "pass").returncode == 0, DEADLINE_S, "a board and a worker"
        )
        for words in ([], ["-u", "user", "-p", "wrong"]):
            refused = healthcheck(site, *words)
            assert refused.returncode == 1
            assert "user name and password are missing or wrong" in refused.stdout
        no_utf8 = ["-u", "user", "-p", "p\udce4ss"]  # sent as the byte that was typed
        assert "HTTP 40" in healthcheck(site, *no_utf8).stdout
        doctor = site.cli("doctor", "-s", site.server_url, *no_utf8)
        assert doctor.returncode == 2
        assert doctor.stderr.startswith("supervisor-uvicorn doctor: ")
        assert doctor.stderr.count("\n") == 1


def test_nobody_is_to_run() -> None:
    with Supervisord(Program(numprocs=1, extra="autostart=false"), listen=None) as site:
        done = healthcheck(site)
        assert done.returncode == 1
        assert "no uvicorn worker is to run here" in done.stdout
