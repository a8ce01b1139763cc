"""The recipe of uvicorn's documentation, for the measurements that do not go through a peer: N workers, one socket."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

from harness import processes
from harness.supervisord import PLUGIN, Program, Supervisord
from harness.waiting import wait_for

from benchmarks.environments import Environment
from benchmarks.peers.supervised import on

UP_S = 180.0  # until all workers serve: 64 uvicorns on two cores take half a minute to import


@contextlib.contextmanager
def recipe(
    environment: Environment, program: Program, *, plugin: bool, listen: str | None = None, sections: str = ""
) -> Iterator[Supervisord]:
    """Inside, every worker of ``program`` serves, and where there is a listener it has pinned them all.

    ``plugin``: with our rpcinterface. AssertionError where it is not so in time.
    """
    with (
        on(environment.python),
        contextlib.redirect_stdout(sys.stderr),  # where the harness prints logs; stdout is for the tables
        Supervisord(program, listen=listen, sections=(PLUGIN if plugin else "") + sections) as site,
    ):
        wait_for(lambda: all(site.pids(program.name).values()), UP_S, "a process for each worker")
        wait_for(lambda: all(map(processes.serving, site.pids(program.name).values())), UP_S, "all workers serve")
        wait_for(lambda: site.all_running(program.name), UP_S, "all workers RUNNING")
        if listen is not None:
            site.wait_pinned(UP_S)
        yield site


def cpu_s(pid: int) -> float:
    """User and system time of all threads, those that have ended among them, in seconds, to the nanosecond.

    The kernel's clock of a process (clock_getcpuclockid(3); the number is linux/posix-timers.h,
    MAKE_PROCESS_CPUCLOCK): ``/proc/PID/stat`` counts in hundredths. Raises OSError where there is no such process.
    """
    return time.clock_gettime((~pid << 3) | 2)
