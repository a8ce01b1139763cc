"""The processes that a worker has started: kept off the listening socket, and ended with it where that was asked for.

Two rules of the design, section 6: *The socket* and *Helpers*. Everything that waits is a generator, as in remedy.py.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Generator
from dataclasses import dataclass

from .intentions import Intentions
from .kernel import proc
from .kernel.errors import Gone, KernelError, Refused
from .kernel.sock_diag import SockDiag
from .ledger import Restart
from .model import Address, Member, State, WorkerId
from .report import events
from .supervisord.board import Board
from .supervisord.calls import Supervisord
from .supervisord.rpc import RpcError

HELPERS_GONE_S = 2.0
CALM_S = 1.0
"""Where the worker goes on, so long must nobody have been started for those that were ended: a ``multiprocessing.Pool``
does that each 0.1 s (CPython 3.10 to 3.13, multiprocessing/pool.py ``_wait_for_updates``)."""

HOLD_S = 30.0
"""So long is a shared socket kept open beyond the end of its last process; asked for anew each 5 s while supervisord
brings it back (listen.py)."""

SCAN_S = 0.1  # between two scans of all processes for a socket
STEP_S = 0.02  # between two looks at whether a process is gone; /proc/PID/stat costs some 20 us


@dataclass(frozen=True)
class Tools:
    """What a remedy works with. ``now`` is monotonic."""

    supervisord: Supervisord
    intentions: Intentions
    tell: Callable[[events.Event], None]
    now: Callable[[], float]
    stands: Callable[[Restart], tuple[str, str] | None] = lambda order: None  # why an order no longer does: which, why
    board: Board | None = None  # [rpcinterface:uvicorn], which may still be missing in supervisord; on the same Rpc


class CalledOff(Exception):  # noqa: N818 - a way out, not an error
    """Not now, and why."""

    def __init__(self, brake: str, detail: str) -> None:
        super().__init__(detail)
        self.brake = brake
        self.detail = detail


class Over(Exception):  # noqa: N818 - a way out, not an error
    """It is gone, or supervisord has it in hand otherwise: nothing more to do."""


def is_there(worker: WorkerId) -> bool:
    """Does that very process live? A zombie does not; one that is hidden from us is taken for alive."""
    try:
        return proc.born(worker.pid) == worker.born and proc.status(worker.pid).state not in "ZX"
    except Gone:
        return False
    except KernelError:
        return True


def free_the_socket(
    order: Restart, member: Member, tools: Tools, freeze: Callable[[], None] | None = None
) -> Generator[float, None, bool]:
    """The last process of a TCP fcgi-program goes only when nobody else holds its listening socket.

    supervisord closes the socket with it and binds it anew for the next one; with a forked helper still on it that
    fails with EADDRINUSE, and supervisord itself exits (4.3.0 and 4.2.5; experiments, 11).

    A process pool starts new helpers for those that were ended (``multiprocessing.Pool``, from a thread that a blocked
    main thread does not hold up). ``freeze`` stops a worker that is to be killed anyway, first of all, so that it
    cannot. True: it was called, so no handler of the worker's may run any more.
    """
    frozen = False
    worker, fd = order.worker, member.options.fd
    if fd is None or (member.socket is not None and member.socket.family == "unix") or not _is_last(worker, tools):
        return False
    inode = _listening_inode(worker, member, fd)
    ended: set[int] = set()
    last_kill = tools.now()
    until = last_kill + HELPERS_GONE_S
    while inode is not None:
        holders = _holders(inode, worker)
        if not holders and (not ended or frozen or tools.now() - last_kill >= CALM_S):
            break
        kin = helpers_of(worker.pid) if holders else {}
        beyond = sorted(holders - kin.keys()) or (sorted(holders) if tools.now() >= until else [])
        if beyond:
            raise CalledOff("socket", _socket_held(beyond[0]))
        if holders and freeze is not None and not frozen:
            freeze()
            frozen = True
            continue  # what it started until it was stopped has to go as well
        for pid in holders:
            _send_kill(pid, kin[pid])
            last_kill = tools.now()
        ended |= holders
        yield SCAN_S
    if ended:
        tools.tell(
            events.Helpers(
                worker.name,
                f"is the last process at {member.socket}: {len(ended)} helper process(es) that held its listening "
                "socket were ended first, or supervisord could not have bound it anew",
                worker=worker,
                more={"helpers": sorted(ended)},
            )
        )
    return frozen


def socket_of_the_last(worker: WorkerId, member: Member, tools: Tools) -> int | None:
    """The inode of the TCP socket that ``worker`` is the last process of supervisord at; None where it is not."""
    fd = member.options.fd
    if fd is None or (member.socket is not None and member.socket.family == "unix"):
        return None
    try:
        return _listening_inode(worker, member, fd) if _is_last(worker, tools) else None
    except CalledOff:  # it cannot be seen: supervisord keeps the socket open all the same
        return None


def end_those_at(inode: int, helpers: dict[int, int], worker: WorkerId, tools: Tools) -> Generator[float, None, None]:
    """The socket was kept open while its last process was ended; what that one has left at it has to go as well.

    Otherwise supervisord could not bind it anew once it is let go: the next one who restarts the program gets a
    failure, and where supervisord restarts it by itself, it exits.
    """
    at_it = {}
    for pid, born in helpers.items():
        with contextlib.suppress(KernelError):
            if is_there(WorkerId("", pid, born)) and proc.find_socket(pid, inode) is not None:
                at_it[pid] = born
    if not at_it:
        return
    for pid, born in at_it.items():
        _send_kill(pid, born)
    until = tools.now() + HELPERS_GONE_S
    while any(is_there(WorkerId("", pid, born)) for pid, born in at_it.items()) and tools.now() < until:
        yield STEP_S
    what = f"was the last process of its program: {len(at_it)} helper process(es) that it left at its socket were ended"
    tools.tell(events.Helpers(worker.name, what, worker=worker, more={"helpers": sorted(at_it)}))


def socket_in_the_way(member: Member, tools: Tools) -> Address | None:
    """The TCP address that supervisord would have to bind for this first process of its group, and cannot."""
    address = member.socket
    if member.options.fd is None or address is None or address.family == "unix":
        return None
    if not _is_last(WorkerId(member.name, 0, 0), tools):
        return None
    if tools.board is not None:
        with contextlib.suppress(RpcError):  # true: supervisord itself has it open, for us, so nothing has to be bound
            if tools.board.hold(member.group, HOLD_S):
                return None
    diag = SockDiag()
    try:
        return address if any(found.address == address for found in diag.listening().values()) else None
    except KernelError:  # where nothing can be seen supervisord's own word has to do
        return None
    finally:
        diag.close()


def _is_last(worker: WorkerId, tools: Tools) -> bool:
    """Will its group be without a process when it has gone? One that is stopping does not keep the socket open."""
    try:
        infos = tools.supervisord.processes()
    except RpcError as error:
        raise CalledOff("supervisord", str(error)) from error
    return not any(
        info.pid
        and info.name != worker.name
        and info.name.partition(":")[0] == worker.group
        and info.state in (State.RUNNING, State.STARTING)
        for info in infos
    )


def _listening_inode(worker: WorkerId, member: Member, fd: int) -> int | None:
    if member.socket_inode is not None:
        return member.socket_inode
    try:
        return proc.socket_inode(worker.pid, fd)
    except KernelError as error:
        why = f"it is the last process of its program, and who else holds its listening socket cannot be seen: {error}"
        raise CalledOff("socket", why) from error


def _holders(inode: int, worker: WorkerId) -> set[int]:
    """Processes that hold the listening socket, without the worker, supervisord (its parent) and ourselves."""
    try:
        parent = proc.status(worker.pid).ppid
        table = proc.process_table()
    except Gone as gone:
        raise Over from gone
    except KernelError as error:
        raise CalledOff("unknown", str(error)) from error
    kin = {*proc.process_group_members(worker.pid, table), *proc.descendants(worker.pid, table)}
    found = set()
    for pid in table.keys() - {worker.pid, parent, os.getpid()}:
        try:
            if proc.find_socket(pid, inode) is not None:
                found.add(pid)
        except Gone:
            continue
        except Refused:  # a stranger's cannot have inherited the socket; what the worker has started can
            if pid in kin:
                found.add(pid)
        except KernelError as error:
            raise CalledOff("unknown", str(error)) from error
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


def helpers_of(pid: int) -> dict[int, int]:
    """pid -> birth of the other processes in its process group: supervisord makes each child a group leader."""
    found = {}
    with contextlib.suppress(KernelError):
        for helper in proc.process_group_members(pid):
            with contextlib.suppress(KernelError):
                found[helper] = proc.born(helper)
    return found


def helpers_left_by(worker: WorkerId) -> dict[int, int]:
    """Those that it started while it was ending. A process group that still has a member keeps its number."""
    with contextlib.suppress(KernelError):
        if proc.born(worker.pid) != worker.born:
            return {}
    return helpers_of(worker.pid)


def _send_kill(pid: int, born: int) -> None:
    with contextlib.suppress(KernelError, ProcessLookupError, PermissionError):
        if proc.born(pid) == born:
            os.kill(pid, signal.SIGKILL)


def end_helpers(
    helpers: dict[int, int], member: Member, worker: WorkerId, tools: Tools
) -> Generator[float, None, None]:
    """signalProcess reaches one pid only, whatever killasgroup says: so what it promises is done here."""
    left = {pid: born for pid, born in helpers.items() if is_there(WorkerId(worker.name, pid, born))}
    if not left:
        return
    if not member.killasgroup:
        what = f"has left {len(left)} helper process(es) behind; killasgroup=true ends them with it"
        tools.tell(events.Helpers(worker.name, what, worker=worker, more={"helpers": sorted(left)}))
        return
    for pid, born in left.items():
        _send_kill(pid, born)
    until = tools.now() + HELPERS_GONE_S
    while (alive := [pid for pid, born in left.items() if is_there(WorkerId("", pid, born))]) and tools.now() < until:
        yield STEP_S
    ended = f"{len(left) - len(alive)} helper process(es) were ended with it (killasgroup=true)"
    still = f"; still there: {alive}" if alive else ""
    tools.tell(events.Helpers(worker.name, f"has gone: {ended}{still}", worker=worker, more={"helpers": sorted(left)}))
