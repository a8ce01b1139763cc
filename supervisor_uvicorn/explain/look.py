"""One worker, looked at once: the kernel, py-spy, and what it uses, each step short.

Both ways in are the same steps. The listener's remedy thread takes one at a time between those of its other remedies;
the ``explain`` verb, which has nothing else to do, sleeps in between.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Generator, Sequence

from supervisor_uvicorn.explain import facts, frames, stack
from supervisor_uvicorn.explain.explanation import KERNEL, PY_SPY, Explanation
from supervisor_uvicorn.explain.trail import FAULTHANDLER_OFF
from supervisor_uvicorn.explain.where import waits_for, where
from supervisor_uvicorn.kernel import proc
from supervisor_uvicorn.kernel.errors import KernelError
from supervisor_uvicorn.model import Address, WorkerId

LONGEST_S = 2.0
"""No remedy is held up for longer by its explanation (issue 4); a usual one takes 0.1 s."""

LONGEST_NOW_S = 5.0
LOOK_S = 1.0  # of the verb: uvicorn's loop wakes ten times in it
SHORT_LOOK_S = 0.1  # before the end: running or blocked is all that is asked

_REST_S = 0.1  # what is kept back for the facts
_GIL_LINES = 8
_GIL_BYTES = 1000

Steps = Generator[float, None, Explanation]


def before_the_end(
    worker: WorkerId, *, socket: Address | None, deadline: float, now: Callable[[], float] = time.monotonic
) -> Steps:
    """Where a silent worker is, just before it is ended.

    Yields the seconds to wait, and ends at ``deadline`` (a time of ``now``, monotonic), or after ``LONGEST_S`` if that
    comes first. ``socket`` is its listening socket, for its connections. Raises nothing; closing it ends py-spy.
    """
    return _look(worker, socket, SHORT_LOOK_S, min(deadline, now() + LONGEST_S), now, may_pause=True)


def now(workers: Sequence[tuple[WorkerId, Address | None]], *, look_s: float = LOOK_S) -> list[Explanation]:
    """Where living workers are, all looked at in the same ``look_s`` seconds; blocks for ``LONGEST_NOW_S`` at most.

    None of them is stopped for it, so a stack that moves may be torn: frames of two moments. Raises nothing.
    """
    deadline = time.monotonic() + LONGEST_NOW_S
    under_way = [
        (index, _look(worker, socket, look_s, deadline, time.monotonic, may_pause=False))
        for index, (worker, socket) in enumerate(workers)
    ]
    found: dict[int, Explanation] = {}
    try:
        while len(found) < len(under_way):
            waits = []
            for index, steps in under_way:
                if index not in found:
                    try:
                        waits.append(next(steps))
                    except StopIteration as end:
                        found[index] = end.value
            time.sleep(min(waits, default=0.0))
    finally:
        for _, steps in under_way:
            steps.close()
    return [found[index] for index, _ in under_way]


def directory_of(pid: int) -> str:
    """The working directory of a process, "" where it is not known: names in its stack are shortened by it."""
    try:
        return proc.cwd(pid)
    except KernelError:
        return ""


def holder_lines(holder: Sequence[frames.Frame], directory: str = "") -> tuple[str, ...]:
    """The stack of the thread that holds the interpreter's lock: shorter, it stands beside another one."""
    return frames.lines(holder, directory, limit=_GIL_LINES, limit_bytes=_GIL_BYTES)


def _look(
    worker: WorkerId,
    socket: Address | None,
    look_s: float,
    deadline: float,
    now: Callable[[], float],
    *,
    may_pause: bool,
) -> Steps:
    pid, started = worker.pid, now()
    if not _is(worker):
        return Explanation(worker, why_not=("it had ended",))
    # First of all, the kernel: a py-spy that stops the process changes what it shows.
    found = where(pid)
    before = facts.counters(pid, started)
    catches = _catches_abort(pid)  # asked now: a zombie catches nothing
    directory = directory_of(pid)
    yield 0.0
    spy_deadline = deadline - _REST_S
    dumped = yield from stack.dump(worker, pause=may_pause and found.state == "R", deadline=spy_deadline, now=now)
    yield 0.0
    inodes = facts.connections_here(socket)
    call = waits_for(pid, found, inodes or {})
    yield 0.0
    while (left_s := min(started + look_s, deadline) - now()) > 0:
        yield min(left_s, 0.05)
    used = yield from facts.gather(pid, before, now(), socket, inodes)
    why_not = [dumped.why] if dumped.why else []
    if dumped.why and may_pause and not catches:
        why_not.append(FAULTHANDLER_OFF)
    if found.refused:
        why_not.append(found.refused)
    return Explanation(
        worker,
        source=PY_SPY if dumped.main else KERNEL,
        stack=frames.lines(dumped.main, directory),
        gil=holder_lines(dumped.holder, directory),
        state=found.state,
        wchan=found.wchan,
        syscall=call,
        facts=used,
        why_not=tuple(why_not),
        took_s=now() - started,
    )


def _is(worker: WorkerId) -> bool:
    try:
        return proc.born(worker.pid) == worker.born
    except KernelError:
        return False


def _catches_abort(pid: int) -> bool:
    try:
        return proc.status(pid).catches(signal.SIGABRT)
    except KernelError:
        return True  # not known, so nothing is claimed
