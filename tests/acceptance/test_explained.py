"""Issue 4: for each kind of hang the explanation names the right file and line of the application.

On real workers of a real supervisord, by the steps that the remedy takes: look, ABRT through supervisord, read the log.
"""

from __future__ import annotations

import ast
import os
import signal
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
from harness import interpreter, processes
from harness.supervisord import Program, Supervisord, watched
from harness.waiting import wait_for

from supervisor_uvicorn.explain import Explanation, Trail, before_the_end, directory_of, stack
from supervisor_uvicorn.explain.look import LONGEST_S
from supervisor_uvicorn.explain.trail import FAULTHANDLER_OFF
from supervisor_uvicorn.kernel import proc
from supervisor_uvicorn.model import Address, WorkerId

pytestmark = pytest.mark.acceptance

T = TypeVar("T")
FAULTY = interpreter.APPS / "faulty.py"


@dataclass(frozen=True)
class Hang:
    """``code``: the lines of ``function`` in ``faulty.py`` where it hangs; of two that are the same, the last one.

    ``state`` and ``calls``: what the kernel may show.
    """

    name: str
    code: tuple[str, ...]
    function: str
    state: str
    calls: tuple[str, ...]
    stopped: bool = False

    def frames(self) -> set[str]:
        """How an explanation may name the place, but for what comes before the file's name."""
        text = FAULTY.read_text()
        lines = dict(enumerate(text.splitlines(), 1))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == self.function:
                lines = {number: lines[number] for number in range(node.lineno, (node.end_lineno or 0) + 1)}
                break
        where = {line.strip(): number for number, line in lines.items()}
        return {f"faulty.py:{where[code]})" for code in self.code}


_SLEEPS = ("clock_nanosleep", "nanosleep", "restart_syscall", "pselect6", "select")  # Python 3.10: select
HANGS = {
    "web:web-0": Hang("sleep", ('"sleep": lambda: time.sleep(FOR_EVER_S),',), "<lambda>", "S", _SLEEPS),
    "web:web-1": Hang("lock", ("lock.acquire()",), "_deadlock", "S", ("futex",)),
    "web:web-2": Hang("read", ("ours.recv(1)",), "_read_for_ever", "S", ("recvfrom, descriptor ",)),
    "web:web-3": Hang(
        "gil",
        ("ctypes.PyDLL(None).sleep(int(FOR_EVER_S))  # PyDLL calls without releasing the GIL",),
        "_hold_gil",
        "S",
        _SLEEPS,
    ),
    "web:web-4": Hang("spin", ("while True:", "pass"), "_spin", "R", ("",)),
    "web:web-5": Hang("start-up", ("time.sleep(FOR_EVER_S)",), "_lifespan", "S", _SLEEPS),
    "web:web-6": Hang("SIGSTOP", ("time.sleep(seconds)",), "_http", "T", (*_SLEEPS, ""), stopped=True),
}


@pytest.fixture(scope="module", params=["", "1"], ids=["plain", "faulthandler"])
def site(request: pytest.FixtureRequest) -> Iterator[Supervisord]:
    """Seven workers, each of them in its hang."""
    environment = {"PYTHONFAULTHANDLER": request.param} if request.param else {}
    program = Program(numprocs=len(HANGS), environment=environment, extra="autorestart=false")
    with Supervisord(program, listen=None) as site:
        site.fault_file("start.web-5", "block")
        site.rpc.stopProcess("web:web-5")
        site.rpc.startProcess("web:web-5")
        site.wait_running()
        pids = site.pids()
        wait_for(
            lambda: all(processes.serving(pid) for name, pid in pids.items() if name != "web:web-5"), 60, "serving"
        )
        for name, hang in HANGS.items():
            if hang.name == "SIGSTOP":
                site.fault(name, "/block?s=3600")
            elif hang.name != "start-up":
                site.fault(name, f"/hang/{hang.name}")
        wait_for(
            lambda: all(_in_its_hang(pids[name], hang) for name, hang in HANGS.items()), 60, "all hang", every_s=0.5
        )
        for name, hang in HANGS.items():
            if hang.stopped:
                os.kill(pids[name], signal.SIGSTOP)
        yield site


def _in_its_hang(pid: int, hang: Hang) -> bool:
    before, cpu_s = proc.ticks(pid).switches, proc.ticks(pid).cpu_s
    time.sleep(0.25)  # the time over which ticks are compared
    after = proc.ticks(pid)
    return after.switches == before if hang.state != "R" else after.cpu_s > cpu_s + 0.1


def drive(steps: Generator[float, None, T], longest: list[float]) -> T:
    while True:
        begin = time.monotonic()
        try:
            wait_s = next(steps)
        except StopIteration as end:
            longest.append(time.monotonic() - begin)
            return end.value
        longest.append(time.monotonic() - begin)
        time.sleep(wait_s)


def look(site: Supervisord, name: str, longest: list[float]) -> Explanation:
    pid = site.pids()[name]
    host, _, port = site.url().removeprefix("tcp://").rpartition(":")
    worker = WorkerId(name, pid, proc.born(pid))
    steps = before_the_end(worker, socket=Address("tcp", host, int(port)), deadline=time.monotonic() + 60)
    return drive(steps, longest)


@pytest.mark.parametrize("name", HANGS, ids=[hang.name for hang in HANGS.values()])
def test_1_with_py_spy(site: Supervisord, name: str, figures: Callable[..., None]) -> None:
    if stack.program() is None:
        pytest.skip("py-spy is not installed here")
    hang, longest = HANGS[name], list[float]()
    state_before = processes.state(site.pids()[name])
    explanation = look(site, name, longest)
    figures(
        hang=hang.name, top=explanation.stack[:1], took_s=round(explanation.took_s, 3), step_s=round(max(longest), 4)
    )
    assert explanation.source == "py-spy"
    assert explanation.why_not == ()
    top = explanation.stack[0]
    assert top.startswith(f"{hang.function} (")
    assert any(top.endswith(frame) for frame in hang.frames())
    assert explanation.state == hang.state
    assert explanation.facts.connections == (0 if hang.name == "start-up" else 1)
    assert explanation.facts.rss_bytes
    # On a busy machine a spin gets what is left; one that is blocked uses nothing at all.
    assert bool(explanation.facts.cpu_share) is (hang.state == "R")
    assert explanation.took_s < LONGEST_S
    assert max(longest) < 0.1, "20 ms on a quiet machine; the remedy thread has others to carry out"
    assert processes.state(site.pids()[name]) == state_before, "still alive, and no more stopped than before"


@pytest.mark.parametrize("name", HANGS, ids=[hang.name for hang in HANGS.values()])
def test_2_without_py_spy(
    site: Supervisord, name: str, figures: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the kernel shows; then ABRT, as the remedy sends it, and what faulthandler wrote, if it is on."""
    monkeypatch.setattr(stack, "program", lambda: None)
    hang, longest, pid = HANGS[name], list[float](), site.pids()[name]
    info = site.rpc.getProcessInfo(name)
    explanation = look(site, name, longest)
    assert (explanation.source, explanation.stack) == ("kernel", ())
    assert explanation.why_not[0] == stack.NOT_INSTALLED
    assert explanation.state == hang.state
    assert explanation.syscall == "" or explanation.syscall.startswith(hang.calls)
    assert bool(explanation.wchan) == (hang.state != "R")
    with_faulthandler = proc.status(pid).catches(signal.SIGABRT)
    assert (FAULTHANDLER_OFF in explanation.why_not) == (not with_faulthandler)
    kernel = explanation.words().splitlines()[1]
    if not with_faulthandler:
        figures(hang=hang.name, kernel=kernel, took_s=round(explanation.took_s, 3))
        return
    directory = directory_of(pid)
    trail = Trail(info["stderr_logfile"], info["stdout_logfile"])
    proc.set_core_limit(pid, 1)
    site.rpc.signalProcess(name, "ABRT")
    if hang.stopped:
        site.rpc.signalProcess(name, "CONT")
    wait_for(lambda: not processes.alive(pid), 30, "its end", every_s=0.01)
    begin = time.monotonic()
    found = drive(trail.read(explanation, deadline=begin + 60, now=time.monotonic, directory=directory), longest)
    took_s = explanation.took_s + time.monotonic() - begin
    figures(hang=hang.name, top=found.stack[:1], took_s=round(took_s, 3), step_s=round(max(longest), 4))
    assert found.source == "faulthandler"
    assert found.stack[0].startswith(f"{hang.function} (")
    assert any(found.stack[0].endswith(frame) for frame in hang.frames())
    assert found.state == hang.state, "what the kernel showed before is kept"
    assert took_s < LONGEST_S
    assert list(Path(site.scratch).rglob("core*")) == []


LARGE = f"""
import sys

sys.path.insert(0, {str(interpreter.APPS)!r})
from faulty import app

HELD = b"x" * (4 * 1024**3)
"""


@pytest.mark.skipif(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < 6 * 1024**3, reason="takes 6 GB")
def test_a_large_worker_leaves_no_core(figures: Callable[..., None], tmp_path: Path) -> None:
    """4 GB, no core limit of its own, faulthandler on: the listener ends it, explains it, and writes nothing down."""
    (tmp_path / "large.py").write_text(LARGE)
    program = Program(
        numprocs=1,
        app="large:app",
        uvicorn=f"--app-dir {tmp_path}",
        environment={"PYTHONFAULTHANDLER": "1"},
        extra="startsecs=0",
    )
    unlimited = ["prlimit", "--core=unlimited:unlimited"]
    with watched(program, listen="--silent-after 2", command_prefix=unlimited) as site:
        (pid,) = site.pids().values()
        assert processes.resident_bytes(pid) > 4 * 1024**3
        assert proc.core_limit(pid)[0] == -1
        site.fault("web:web-0", "/hang/sleep")
        replaced = site.wait_event("replaced", 120, worker="web:web-0", old_pid=pid)
        figures(resident_gb=4, replaced_s=replaced["took_s"])
        assert [path for path in site.scratch.rglob("core*") if path.is_file()] == []
        assert "faulty.py" in (site.scratch / "web-0.err").read_text(), "faulthandler has told the line"
