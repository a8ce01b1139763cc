"""An application with a process pool by fork: its processes hold the worker's descriptors, the shared socket too."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from harness import processes
from harness.judging import wait_replaced_only
from harness.supervisord import PLUGIN, Program, watched
from harness.waiting import wait_for

pytestmark = pytest.mark.acceptance

SICK = "web:web-0"


@pytest.mark.parametrize("socket", ["tcp", "unix"])
@pytest.mark.parametrize("numprocs", [1, 4])
@pytest.mark.parametrize("helper", ["/pool", "/mp-pool", "/fork"])
def test_a_hung_worker_with_helpers(socket: str, numprocs: int, helper: str, figures: Callable[..., None]) -> None:
    program = Program(socket=socket, numprocs=numprocs, extra="stopasgroup=true\nkillasgroup=true")
    with watched(program, "--silent-after 2") as site:
        helpers = site.tell(SICK, helper)["helpers"]
        assert isinstance(helpers, list)
        assert all(processes.alive(pid) for pid in helpers)
        before = site.pids()
        site.fault(SICK, "/hang/sleep")
        took_s = wait_replaced_only(site, before, SICK)
        wait_for(lambda: not any(processes.alive(pid) for pid in helpers), 20, "no helper left")
        assert site.process is not None
        assert site.process.poll() is None
        assert site.tell(SICK, "/pid")["pid"] == site.pids()[SICK]
        figures(socket=socket, numprocs=numprocs, helper=helper, replaced_s=round(took_s, 1))


@pytest.mark.parametrize("sections", ["", PLUGIN], ids=["bare", "plugin"])
@pytest.mark.parametrize("helper", ["/pool", "/mp-pool", "/fork"])
def test_nothing_is_left_at_the_socket_of_the_last_process(helper: str, sections: str) -> None:
    """Without killasgroup. What stays at the socket keeps supervisord from binding it anew: the operator's next restart
    of the program would fail, and one that supervisord makes by itself would end supervisord."""
    with watched(Program(numprocs=1), "--silent-after 2", sections=sections) as site:
        site.tell(SICK, helper)
        before = site.pids()
        site.fault(SICK, "/hang/sleep")
        wait_replaced_only(site, before, SICK)
        assert site.ctl("restart", "web:*").returncode == 0
        wait_for(lambda: set(site.states().values()) == {"RUNNING"}, 30, "RUNNING again")
        assert site.process is not None
        assert site.process.poll() is None
        assert site.tell(SICK, "/pid")["pid"] == site.pids()[SICK]
