"""How one worker is ended, and how its name comes back.

Always through supervisord, by a signal: it brings the worker back by its own autorestart, so that nothing stays down
should we die in between. A remedy is a generator that never blocks: it does one step and yields the seconds after
which it wants to go on. What it returns is told to the policy as an :class:`Outcome`.

    abort (silent)   ABRT where the worker catches it (its faulthandler then prints the blocked line), and CONT for a
                     stopped one; abort_wait later KILL. KILL at once elsewhere
    drain (failing)  TERM; drain_timeout later KILL

Before a silent worker is aborted it is looked at once more, from outside, to say where it is stuck (explain/).

Just before each signal supervisord is asked, on the same connection, whether that pid still is that name and RUNNING,
and the kernel whether it still is that process. Where our rpcinterface is there, supervisord compares once more as it
sends; and it keeps the shared socket open from before the first signal until the name is no longer ours (listen.py
lets it go), so that nobody is refused while the last worker is replaced.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Generator
from dataclasses import dataclass

from .explain import Explanation, Trail, before_the_end, directory_of
from .explain.look import LONGEST_S
from .helpers import (
    HOLD_S,
    STEP_S,
    CalledOff,
    Over,
    Tools,
    end_helpers,
    end_those_at,
    free_the_socket,
    helpers_left_by,
    helpers_of,
    is_there,
    socket_in_the_way,
    socket_of_the_last,
)
from .kernel import proc
from .kernel.errors import Gone, KernelError
from .ledger import Outcome, Remedy, Restart, Result, Start
from .model import Member, State, Verdict, WorkerId
from .report import events
from .report.evidence import evidence
from .settings import Settings
from .supervisord.board import DIFFERS, MAX_HOLD_S
from .supervisord.calls import ProcessInfo
from .supervisord.rpc import ALREADY_STARTED, BAD_NAME, NOT_RUNNING, SHUTDOWN_STATE, Fault, RpcError

GONE_AFTER_KILL_S = 5.0
"""A process that outlives KILL so long hangs in the kernel (state D); nothing that we send will end it."""

ASK_AGAIN_S = 1.0
ASK_AGAIN_FOR_S = 60.0
"""So long is a supervisord that does not answer asked again before a worker that we have told to end is left as it
is."""

READ_BACK_S = 1.0
"""So long is the traceback of an aborted worker waited for; supervisord writes it into the log within 0.1 s."""

LONGEST_STEP_S = 1.0  # a longer one was our own pause, and no time that the worker had

Steps = Generator[float, None, Outcome]


class _Doubt(Exception):  # noqa: N818 - a way out, not an error
    """A signal has been sent and not acknowledged: nothing more for that name before a look shows pid and state."""


def carry_out(order: Restart, member: Member, settings: Settings, tools: Tools, *, finish: bool = False) -> Steps:
    """The steps of one remedy. ``finish``: an earlier listener has sent its first signal already."""
    sent = _Sent(finish)
    try:
        return (yield from _carry_out(order, member, settings, tools, sent, finish))
    finally:
        if sent.trail is not None:
            sent.trail.close()


def _carry_out(order: Restart, member: Member, settings: Settings, tools: Tools, sent: _Sent, finish: bool) -> Steps:
    worker = order.worker
    helpers: dict[int, int] = {}
    inode: int | None = None
    try:
        if not finish:
            _still_the_one(worker, tools)
            _not_traced(worker)
        sent.socket_held = _hold_the_socket(order, member, settings, tools)
        if not finish:
            if order.remedy is Remedy.ABORT:
                sent.explanation = yield from _explain(worker, member, tools)
                if held := tools.stands(order):  # a moment has passed, in which it was looked at again
                    raise CalledOff(*held)
            freeze = (lambda: _freeze(worker, sent, tools)) if order.remedy is Remedy.ABORT else None
            if not sent.socket_held:
                yield from free_the_socket(order, member, tools, freeze)
            tools.intentions.mark_signalled(worker)
        inode = socket_of_the_last(worker, member, tools) if sent.socket_held else None
        helpers = helpers_of(worker.pid)
        ladder = _abort if order.remedy is Remedy.ABORT else _drain
        yield from ladder(order, member, settings, tools, sent)
        yield from _kill(order, member, tools, sent)
    except Over:
        if not sent.any:
            return Outcome(worker, Result.CALLED_OFF, "gone", "it has ended by itself")
    except CalledOff as off:
        if sent.frozen and sent.thaw:
            _thaw(worker, sent, tools)
        if not sent.any:
            return Outcome(worker, Result.CALLED_OFF, off.brake, off.detail)
        if is_there(worker):
            return _cut_short(worker, off, tools)
    except _Doubt as doubt:
        tools.tell(events.Error(worker.name, f"is left for now: {doubt}", reason="in doubt", worker=worker))
        return Outcome(worker, Result.IN_DOUBT, "in_doubt", str(doubt))
    if is_there(worker):
        return _stuck(worker, tools)
    if sent.trail is not None and sent.explanation is not None:
        yield from _read_back(worker, sent.explanation, sent, tools)
    helpers.update(helpers_left_by(worker))
    if inode is not None:
        yield from end_those_at(inode, helpers, worker, tools)
    yield from end_helpers(helpers, member, worker, tools)
    return Outcome(worker, Result.ENDED)


def start(order: Start, member: Member, tools: Tools, told: dict[str, str]) -> None:
    """Start a name that we took down, unless somebody else has taken it in hand meanwhile.

    ``told`` is the caller's memory of which name's start was said to be held, and for which order: once per change.
    """
    try:
        info = tools.supervisord.process(order.name)
        if info.state not in (State.EXITED, State.FATAL):
            return
        if address := socket_in_the_way(member, tools):
            what = f"is held, socket: {address} is held by another process, so supervisord could not bind it anew"
            if told.get(order.name) != order.detail:
                told[order.name] = order.detail
                tools.tell(events.Held(order.name, what, "socket"))
            return
        told.pop(order.name, None)
        tools.supervisord.start(order.name)
    except Fault as fault:
        if fault.code in (ALREADY_STARTED, BAD_NAME, SHUTDOWN_STATE):  # somebody was quicker, or has taken it away
            return
        tools.tell(events.Error(order.name, f"could not be started: {fault}"))
    except (RpcError, CalledOff) as error:
        tools.tell(events.Error(order.name, f"could not be started: {error}"))
    else:
        tools.tell(events.Started(order.name, f"is started: {order.detail}", reason="ours"))


# -- the two ladders -------------------------------------------------------------------------------------------------


@dataclass
class _Sent:
    """Whether a signal of this remedy has gone out: from then on it can no longer be called off as if nothing were."""

    any: bool = False
    thaw: bool = False  # it was not stopped before
    frozen: bool = False  # it was stopped, so that it starts no more helpers; no handler of its may run any more
    socket_held: bool = False  # by supervisord, for us
    info: ProcessInfo | None = None  # as last asked
    explanation: Explanation | None = None  # where it was stuck, as far as it is known
    trail: Trail | None = None  # its log, from ABRT on
    directory: str = ""  # its working directory while it lived

    @property
    def start(self) -> int:
        """supervisord's own start time of it."""
        return self.info.start if self.info else 0


def _hold_the_socket(order: Restart, member: Member, settings: Settings, tools: Tools) -> bool:
    """Have supervisord keep the shared socket open, whoever ends meanwhile; False where it cannot."""
    if tools.board is None or member.options.fd is None:
        return False
    limit_s = _limit_s(order, member, settings) + GONE_AFTER_KILL_S
    try:
        return tools.board.hold(order.worker.group, min(limit_s + HOLD_S, MAX_HOLD_S))
    except RpcError:  # keep_socket=false, or no fcgi-program; a supervisord that does not answer is met again below
        return False


def _limit_s(order: Restart, member: Member, settings: Settings) -> float:
    """How long it has between its first signal and KILL."""
    if order.remedy is Remedy.ABORT:
        return settings.abort_wait_s
    return member.stopwaitsecs if settings.drain_timeout_s is None else settings.drain_timeout_s


def _freeze(worker: WorkerId, sent: _Sent, tools: Tools) -> None:
    sent.info = _still_the_one(worker, tools)
    sent.thaw = _status(worker).state != "T"  # who stopped it before may let it go on
    _signal_again(worker, "STOP", tools, sent)
    sent.frozen = True


def _thaw(worker: WorkerId, sent: _Sent, tools: Tools) -> None:
    """Nothing was to be done to it after all: it goes on, as sick as it was."""
    with contextlib.suppress(CalledOff, Over, _Doubt):
        _signal_again(worker, "CONT", tools, sent)


def _abort(
    order: Restart, member: Member, settings: Settings, tools: Tools, sent: _Sent
) -> Generator[float, None, None]:
    worker = order.worker
    if not sent.any:
        status = _status(worker)
        if sent.frozen or not status.catches(signal.SIGABRT) or not _without_core(worker):
            return
        info = sent.info or _still_the_one(worker, tools)
        sent.trail, sent.directory = Trail(info.stderr_logfile, info.stdout_logfile), directory_of(worker.pid)
        _signal(order, "ABRT", tools, sent)
        if status.state == "T":  # a stopped process acts on ABRT only once it goes on
            _signal_again(worker, "CONT", tools, sent)
    yield from _gone_within(worker, _limit_s(order, member, settings), tools)


def _drain(
    order: Restart, member: Member, settings: Settings, tools: Tools, sent: _Sent
) -> Generator[float, None, None]:
    if not sent.any:
        _signal(order, "TERM", tools, sent)
    yield from _gone_within(order.worker, _limit_s(order, member, settings), tools)


def _kill(order: Restart, member: Member, tools: Tools, sent: _Sent) -> Generator[float, None, None]:
    worker = order.worker
    until = tools.now() + ASK_AGAIN_FOR_S
    while is_there(worker):
        try:
            # Since its first signal it may have begun to fork, or have become the last one.
            if sent.any and not sent.socket_held:
                yield from free_the_socket(order, member, tools, lambda: _freeze(worker, sent, tools))
            _signal(order, "KILL", tools, sent)
        except CalledOff as off:
            # It was told to end, so its end is awaited through a supervisord that does not answer for a while.
            if not sent.any or off.brake != "supervisord" or tools.now() >= until:
                raise
            yield ASK_AGAIN_S
            continue
        yield from _gone_within(worker, GONE_AFTER_KILL_S, tools)
        return


def _signal(order: Restart, name: str, tools: Tools, sent: _Sent) -> None:
    """Ask whether it still is the one, and send, back to back on one connection."""
    worker = order.worker
    sent.info = _still_the_one(worker, tools)
    if not sent.any:
        verdict = order.seen.verdict.value if order.seen else Verdict.UNKNOWN.value
        seen = evidence(order.seen, tools.now()) if order.seen else {}
        why, kind = order.reason.value, order.remedy.value
        tools.tell(events.Restarting(worker, why, order.detail, kind, verdict, seen, sent.explanation))
    _signal_again(worker, name, tools, sent)
    sent.any = True


def _signal_again(worker: WorkerId, name: str, tools: Tools, sent: _Sent) -> None:
    try:
        compared = tools.board is not None and tools.board.signal_worker(worker.name, worker.pid, sent.start, name)
        if not compared:
            tools.supervisord.signal(worker.name, name)
    except Fault as fault:
        if fault.code in (NOT_RUNNING, BAD_NAME, DIFFERS):  # it has ended between the question and the signal
            raise Over from fault
        raise CalledOff("refused", f"supervisord refused the signal {name}: {fault}") from fault
    except RpcError as error:
        if error.in_doubt:
            raise _Doubt(f"the signal {name} may still be carried out: {error}") from error
        raise CalledOff("supervisord", str(error)) from error


def _gone_within(worker: WorkerId, limit_s: float, tools: Tools) -> Generator[float, None, None]:
    """Until it is gone, or ``limit_s`` of time that we saw pass: what we slept through, it may have slept as well."""
    left_s, before = limit_s, tools.now()
    while is_there(worker) and left_s > 0:
        yield STEP_S
        now = tools.now()
        left_s -= min(now - before, LONGEST_STEP_S)
        before = now


# -- where it was stuck ----------------------------------------------------------------------------------------------


def _explain(worker: WorkerId, member: Member, tools: Tools) -> Generator[float, None, Explanation | None]:
    """Where it is stuck, before it is ended: 0.1 s, at most 2 s (explain/look.py)."""
    try:
        socket, deadline = member.socket, tools.now() + LONGEST_S
        return (yield from before_the_end(worker, socket=socket, deadline=deadline, now=tools.now))
    except Exception as error:  # noqa: BLE001 - it is said; and whatever it is, it must not keep a sick worker alive
        what = f"could not be explained: {type(error).__name__}: {error}"
        tools.tell(events.Error(worker.name, what, reason="explain", worker=worker))
        return None


def _read_back(worker: WorkerId, known: Explanation, sent: _Sent, tools: Tools) -> Generator[float, None, None]:
    """What it has printed when it was aborted, where nobody else has told."""
    assert sent.trail is not None
    deadline = tools.now() + min(READ_BACK_S, max(LONGEST_S - known.took_s, 0.2))
    found = yield from sent.trail.read(known, deadline=deadline, now=tools.now, directory=sent.directory)
    if found.source != known.source:
        tools.tell(events.Explained(worker, found))


# -- is it the right one? --------------------------------------------------------------------------------------------


def _still_the_one(worker: WorkerId, tools: Tools) -> ProcessInfo:
    """Asked last of all before a signal, on the connection that carries the signal: as supervisord has it."""
    if not is_there(worker):
        raise Over
    try:
        info = tools.supervisord.process(worker.name)
    except Fault as fault:
        if fault.code == BAD_NAME:  # removed from supervisord, which does that to stopped ones only
            raise Over from fault
        raise CalledOff("stopping" if fault.code == SHUTDOWN_STATE else "supervisord", str(fault)) from fault
    except RpcError as error:  # only a question was asked, so nothing is in doubt
        raise CalledOff("supervisord", str(error)) from error
    if info.pid != worker.pid:
        raise Over
    if info.state is not State.RUNNING:
        raise CalledOff("state", f"supervisord has it {info.state.value} meanwhile")
    return info


def _status(worker: WorkerId) -> proc.ProcessStatus:
    try:
        return proc.status(worker.pid)
    except Gone as gone:
        raise Over from gone
    except KernelError as error:
        raise CalledOff("unknown", str(error)) from error


def _not_traced(worker: WorkerId) -> None:
    if tracer := _status(worker).tracer_pid:
        raise CalledOff("traced", f"a debugger (pid {tracer}) is attached to it")


def _without_core(worker: WorkerId) -> bool:
    """No core for an ABRT: a worker of 4 GB took 18 s and 4.1 GB of disk for one (experiments, 11).

    A limit of 1 byte holds also where cores are piped to a program; a limit of 0 does not (core(5)).
    """
    try:
        proc.set_core_limit(worker.pid, 1)
        if proc.core_limit(worker.pid)[0] == 1:
            return True
    except KernelError:
        pass
    try:
        proc.empty_core(worker.pid)
        return True
    except KernelError:
        return False


def _cut_short(worker: WorkerId, off: CalledOff, tools: Tools) -> Outcome:
    """It was told to end, still lives, and we may not go on: a later look shows what became of it."""
    if off.brake not in ("state", "stopping"):  # there somebody else ends it
        what = f"was told to end and still lives; not killed: {off.detail}"
        tools.tell(events.Error(worker.name, what, reason=off.brake, worker=worker))
    return Outcome(worker, Result.IN_DOUBT, off.brake, off.detail)


def _stuck(worker: WorkerId, tools: Tools) -> Outcome:
    try:
        state = proc.status(worker.pid).state
    except KernelError:
        state = "unknown"
    what = f"is still there {GONE_AFTER_KILL_S:g} s after KILL, in state {state}: not repeated"
    tools.tell(events.Error(worker.name, what, reason="stuck", worker=worker))
    return Outcome(worker, Result.STUCK)


__all__ = ["Steps", "Tools", "carry_out", "start"]
