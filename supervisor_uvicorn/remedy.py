"""How one worker is ended, and how its name comes back.

Always through supervisord, by a signal: it brings the worker back by its own autorestart, so that nothing stays down
should we die in between. A remedy is a generator that never blocks: it does one step and yields the seconds after
which it wants to go on. What it returns is told to the policy as an :class:`Outcome`.

    abort (silent)   ABRT where the worker catches it (its faulthandler then prints the blocked line), and CONT for a
                     stopped one; abort_wait later KILL. KILL at once elsewhere
    drain (failing)  TERM; drain_timeout later KILL

Just before each signal supervisord is asked, on the same connection, whether that pid still is that name and RUNNING,
and the kernel whether it still is that process.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Generator
from dataclasses import dataclass

from .intentions import Intentions
from .kernel import proc
from .kernel.errors import Gone, KernelError
from .ledger import Outcome, Remedy, Restart, Result, Start
from .model import Member, State, WorkerId
from .report import events
from .settings import Settings
from .supervisord.calls import Supervisord
from .supervisord.rpc import Fault, InDoubt, RpcError

GONE_AFTER_KILL_S = 5.0
"""A process that outlives KILL so long hangs in the kernel (state D); nothing that we send will end it."""

HELPERS_GONE_S = 2.0
STEP_S = 0.02  # between two looks at whether a process is gone; /proc/PID/stat costs some 20 us

Steps = Generator[float, None, Outcome]


@dataclass(frozen=True)
class Tools:
    """What a remedy works with. ``now`` is monotonic."""

    supervisord: Supervisord
    intentions: Intentions
    tell: Callable[[events.Event], None]
    now: Callable[[], float]


class _CalledOff(Exception):  # noqa: N818 - a way out, not an error
    """Not now, and why."""

    def __init__(self, brake: str, detail: str) -> None:
        super().__init__(detail)
        self.brake = brake
        self.detail = detail


class _Over(Exception):  # noqa: N818 - a way out, not an error
    """It is gone, or supervisord has it in hand otherwise: nothing more to do."""


def carry_out(order: Restart, member: Member, settings: Settings, tools: Tools, *, finish: bool = False) -> Steps:
    """The steps of one remedy. ``finish``: an earlier listener has sent its first signal already."""
    worker = order.worker
    helpers: dict[int, int] = {}
    signalled = finish
    try:
        if not finish:
            _still_the_one(worker, tools)
            yield from _free_the_socket(order, member, tools)
        helpers = _helpers(worker.pid)
        if not finish:
            _not_traced(worker)
            tools.intentions.mark_signalled(worker)
            verdict = "silent" if order.remedy is Remedy.ABORT else "failing"
            tools.tell(events.Restarting(worker, order.reason.value, order.detail, order.remedy.value, verdict))
        first = _abort if order.remedy is Remedy.ABORT else _drain
        signalled = True
        yield from first(worker, member, settings, tools, finish)
        yield from _kill(worker, tools)
    except _CalledOff as off:
        if not signalled:
            return Outcome(worker, Result.CALLED_OFF, off.brake, off.detail)
        return Outcome(worker, Result.ENDED)  # after our first signal somebody else has taken it in hand
    except _Over:
        if not signalled:
            return Outcome(worker, Result.CALLED_OFF, "gone", "it has ended by itself")
    except InDoubt as error:
        tools.tell(events.Error(worker.name, f"a signal to pid {worker.pid} is in doubt: {error}", worker=worker))
        return Outcome(worker, Result.IN_DOUBT, "in_doubt", str(error))
    except RpcError as error:
        if not signalled:
            return Outcome(worker, Result.CALLED_OFF, "supervisord", str(error))
        tools.tell(events.Error(worker.name, f"its remedy was cut short: {error}", worker=worker))
        return Outcome(worker, Result.IN_DOUBT, "in_doubt", str(error))
    if _is_there(worker):
        return _stuck(worker, tools)
    yield from _end_helpers(helpers, member, worker, tools)
    return Outcome(worker, Result.ENDED)


def start(order: Start, tools: Tools) -> None:
    """Start a name that we took down, unless somebody else has taken it in hand meanwhile."""
    try:
        info = tools.supervisord.process(order.name)
        if info.state not in (State.EXITED, State.FATAL):
            return
        tools.tell(events.Started(order.name, f"is started: {order.detail}", reason="ours"))
        tools.supervisord.start(order.name)
    except RpcError as error:
        tools.tell(events.Error(order.name, f"could not be started: {error}"))


# -- the two ladders -------------------------------------------------------------------------------------------------


def _abort(
    worker: WorkerId, member: Member, settings: Settings, tools: Tools, finish: bool
) -> Generator[float, None, None]:
    if not finish:
        status = _status(worker)
        if not status.catches(signal.SIGABRT) or not _without_core(worker):
            return
        tools.supervisord.signal(worker.name, "ABRT")
        if status.state == "T":  # a stopped process acts on ABRT only once it goes on
            tools.supervisord.signal(worker.name, "CONT")
    yield from _gone_within(worker, settings.abort_wait_s, tools)


def _drain(
    worker: WorkerId, member: Member, settings: Settings, tools: Tools, finish: bool
) -> Generator[float, None, None]:
    if not finish:
        tools.supervisord.signal(worker.name, "TERM")
    limit_s = member.stopwaitsecs if settings.drain_timeout_s is None else settings.drain_timeout_s
    yield from _gone_within(worker, limit_s, tools)


def _kill(worker: WorkerId, tools: Tools) -> Generator[float, None, None]:
    if not _is_there(worker):
        return
    _still_the_one(worker, tools)
    tools.supervisord.signal(worker.name, "KILL")
    yield from _gone_within(worker, GONE_AFTER_KILL_S, tools)


def _gone_within(worker: WorkerId, limit_s: float, tools: Tools) -> Generator[float, None, None]:
    until = tools.now() + limit_s
    while _is_there(worker) and tools.now() < until:
        yield STEP_S


# -- is it the right one? --------------------------------------------------------------------------------------------


def _is_there(worker: WorkerId) -> bool:
    """Does that very process live? A zombie does not; one that is hidden from us is taken for alive."""
    try:
        return proc.born(worker.pid) == worker.born and proc.status(worker.pid).state not in "ZX"
    except Gone:
        return False
    except KernelError:
        return True


def _still_the_one(worker: WorkerId, tools: Tools) -> None:
    """Asked last of all before a signal, on the connection that carries the signal."""
    if not _is_there(worker):
        raise _Over
    try:
        info = tools.supervisord.process(worker.name)
    except InDoubt as error:  # only a question was asked, so nothing is in doubt
        raise _CalledOff("supervisord", str(error)) from error
    except Fault as fault:
        raise _CalledOff("supervisord", str(fault)) from fault
    if info.pid != worker.pid:
        raise _Over
    if info.state is not State.RUNNING:
        raise _CalledOff("state", f"supervisord has it {info.state.value} meanwhile")


def _status(worker: WorkerId) -> proc.ProcessStatus:
    try:
        return proc.status(worker.pid)
    except Gone as gone:
        raise _Over from gone
    except KernelError as error:
        raise _CalledOff("unknown", str(error)) from error


def _not_traced(worker: WorkerId) -> None:
    if tracer := _status(worker).tracer_pid:
        raise _CalledOff("traced", f"a debugger (pid {tracer}) is attached to it")


def _without_core(worker: WorkerId) -> bool:
    """No core for an ABRT: a worker of 4 GB took 18 s and 4.1 GB of disk for one (experiments, 11)."""
    try:
        proc.set_core_limit(worker.pid, 1)
        return True
    except KernelError:
        pass
    try:
        return proc.core_limit(worker.pid)[0] == 0
    except KernelError:
        return False


def _stuck(worker: WorkerId, tools: Tools) -> Outcome:
    with contextlib.suppress(KernelError):
        state = proc.status(worker.pid).state
        tools.tell(
            events.Error(
                worker.name,
                f"is still there {GONE_AFTER_KILL_S:g} s after KILL, in state {state}: not repeated",
                reason="stuck",
                worker=worker,
            )
        )
    return Outcome(worker, Result.STUCK)


# -- the socket, and the helpers -------------------------------------------------------------------------------------


def _free_the_socket(order: Restart, member: Member, tools: Tools) -> Generator[float, None, None]:
    """The last process of a TCP fcgi-program goes only when nobody else holds its listening socket.

    supervisord closes the socket with it and binds it anew for the next one; with a forked helper still on it that
    fails with EADDRINUSE, and supervisord itself exits (4.3.0 and 4.2.5; experiments, 11).
    """
    worker, inode = order.worker, member.socket_inode
    if member.options.fd is None or member.socket is None or member.socket.family == "unix" or inode is None:
        return
    others = [
        info
        for info in tools.supervisord.processes()
        if info.pid and info.name != worker.name and info.name.partition(":")[0] == worker.group
    ]
    if others:
        return
    holders = _holders(inode, worker.pid)
    kin = _helpers(worker.pid)
    strangers = sorted(holders - kin.keys())
    if strangers:
        raise _CalledOff("socket", _socket_held(strangers[0]))
    for pid in holders:
        _send_kill(pid, kin[pid])
    until = tools.now() + HELPERS_GONE_S
    while (left := _holders(inode, worker.pid, among=holders)) and tools.now() < until:
        yield STEP_S
    if left:
        raise _CalledOff("socket", _socket_held(min(left)))
    if holders:
        tools.tell(
            events.Helpers(
                worker.name,
                f"is the last process at {member.socket}: {len(holders)} helper process(es) that held its listening "
                "socket were ended first, or supervisord could not have bound it anew",
                worker=worker,
                more={"helpers": sorted(holders)},
            )
        )


def _holders(inode: int, apart_from: int, among: set[int] | None = None) -> set[int]:
    """Processes that hold the listening socket, without the worker, supervisord (its parent) and ourselves."""
    try:
        parent = proc.status(apart_from).ppid
    except KernelError:
        parent = 0
    candidates = set(proc.process_table()) if among is None else among
    found = set()
    for pid in candidates - {apart_from, parent, os.getpid()}:
        try:
            if proc.find_socket(pid, inode) is not None:
                found.add(pid)
        except KernelError:  # another user's: it cannot have inherited the socket without our worker's rights
            continue
    return found


def _socket_held(pid: int) -> str:
    try:
        name = " ".join(proc.cmdline(pid))[:80]
    except KernelError:
        name = "?"
    return (
        f"it is the last process of its program, and pid {pid} ({name}) holds the listening socket as well: "
        "supervisord could not bind it anew, and would exit"
    )


def _helpers(pid: int) -> dict[int, int]:
    """pid -> birth of the other processes in its process group: supervisord makes each child a group leader."""
    found = {}
    with contextlib.suppress(KernelError):
        for helper in proc.process_group_members(pid):
            with contextlib.suppress(KernelError):
                found[helper] = proc.born(helper)
    return found


def _send_kill(pid: int, born: int) -> None:
    with contextlib.suppress(KernelError, ProcessLookupError, PermissionError):
        if proc.born(pid) == born:
            os.kill(pid, signal.SIGKILL)


def _end_helpers(
    helpers: dict[int, int], member: Member, worker: WorkerId, tools: Tools
) -> Generator[float, None, None]:
    """signalProcess reaches one pid only, whatever killasgroup says: so what it promises is done here."""
    left = {pid: born for pid, born in helpers.items() if _is_there(WorkerId(worker.name, pid, born))}
    if not left:
        return
    if not member.killasgroup:
        what = f"left {len(left)} helper process(es) behind; killasgroup=true ends them with it"
        tools.tell(events.Helpers(worker.name, what, worker=worker, more={"helpers": sorted(left)}))
        return
    for pid, born in left.items():
        _send_kill(pid, born)
    until = tools.now() + HELPERS_GONE_S
    while (alive := [pid for pid, born in left.items() if _is_there(WorkerId("", pid, born))]) and tools.now() < until:
        yield STEP_S
    ended = f"{len(left) - len(alive)} helper process(es) were ended with it (killasgroup=true)"
    still = f"; still there: {alive}" if alive else ""
    tools.tell(events.Helpers(worker.name, f": {ended}{still}", worker=worker, more={"helpers": sorted(left)}))
