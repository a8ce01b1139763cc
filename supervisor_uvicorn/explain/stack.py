"""The Python stack of a process from outside, by py-spy (0.4; ``py-spy dump --json --pid PID``).

py-spy is a program of its own: it is started, looked at now and then, and killed by its pid at a deadline, so that
whoever asks is never held up. It reads the other process' memory; variables are never asked for (no ``--locals``).

Does it stop the other one meanwhile? A sleeping main thread has a stack that does not move, so it is read without
(``--nonblocking``), and no system call of a process that may still recover is interrupted. One that runs is stopped for
some milliseconds if it is to be ended anyway (``pause``): without, frames of two moments may be mixed (a torn stack).
One that is stopped (T) or sleeps uninterruptibly (D) could not be: py-spy 0.4.3 fails on the first ("Failed to suspend
process") and would wait for the second.

As root, py-spy is first run as the worker's own user: reading memory takes the same user or CAP_SYS_PTRACE, which root
in a container lacks (ptrace(2)); and a program that reads what a hostile worker has prepared needs no more than that.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from supervisor_uvicorn.child import ends_with_us
from supervisor_uvicorn.explain.frames import Frame, within
from supervisor_uvicorn.kernel import proc
from supervisor_uvicorn.kernel.errors import KernelError
from supervisor_uvicorn.model import WorkerId

NOT_INSTALLED = "py-spy is not installed: pip install supervisor-uvicorn[explain]"
# With Yama's ptrace_scope above 0 the same user is not enough (the kernel's Documentation/admin-guide/LSM/Yama.rst).
NOT_PERMITTED = "py-spy is not permitted: it needs CAP_SYS_PTRACE, or the worker's own user and ptrace_scope 0"

_POLL_S = 0.01  # a dump took 8 to 17 ms
_TRIES = 3  # of a stack that moved while it was read
_MAX_ANSWER_BYTES = 2 * 1024 * 1024  # 15 ms to parse; 100 threads of 60 frames have 1.4 MB
_KILLED_WITHIN_S = 0.2

_DENIED = ("permission denied", "operation not permitted")


@dataclass(frozen=True)
class Dump:
    """``main``: the main thread's frames, the innermost first. ``holder``: those of another thread, where that one
    holds the interpreter's lock. ``why``: why there is nothing, else ""; ``again``: it may go better the next time."""

    main: tuple[Frame, ...] = ()
    holder: tuple[Frame, ...] = ()
    why: str = ""
    again: bool = False


def program() -> str | None:
    """Where py-spy is: beside this interpreter, where its extra is installed, else on PATH."""
    beside = os.path.join(os.path.dirname(sys.executable), "py-spy") if sys.executable else ""
    return beside if beside and os.access(beside, os.X_OK) else shutil.which("py-spy")


def dump(
    worker: WorkerId, *, pause: bool, deadline: float, now: Callable[[], float], path: str | None = None
) -> Generator[float, None, Dump]:
    """The stack of ``worker``; yields the seconds to wait and never blocks longer than it takes to start a program.

    ``pause``: it may be stopped while it is read. ``deadline`` is a time of ``now``, monotonic. ``path``: which py-spy,
    else :func:`program`. Raises nothing; closing the generator ends py-spy.
    """
    path = path or program()
    if path is None:
        return Dump(why=NOT_INSTALLED)
    why = ""
    try:
        owners = _owners(worker.pid)
    except KernelError as error:
        return Dump(why=f"py-spy was not started: {error}")
    for owner in owners:
        for attempt in range(_TRIES):
            if now() >= deadline:
                return Dump(why=why or "py-spy was not started: no time was left")
            answer = yield from _once(path, worker, owner, pause and not attempt, deadline, now)
            if not answer.why:
                return answer
            why = answer.why
            if not answer.again:
                break
        if (
            why != NOT_PERMITTED
        ):  # only what its own user may not do is tried as root: a hostile worker can end the first
            break
    return Dump(why=why)


def _owners(pid: int) -> list[tuple[int, int] | None]:
    """As whom py-spy is tried, one after the other: (uid, gid), or None for ourselves."""
    status = proc.status(pid)
    if os.geteuid() == 0 and status.uid != 0:
        return [(status.uid, status.gid), None]
    return [None]


def _once(
    path: str,
    worker: WorkerId,
    owner: tuple[int, int] | None,
    pause: bool,
    deadline: float,
    now: Callable[[], float],
) -> Generator[float, None, Dump]:
    command = [path, "dump", "--json", *([] if pause else ["--nonblocking"]), "--pid", str(worker.pid)]
    with contextlib.ExitStack() as files:
        try:  # files in memory: nobody needs to empty them while py-spy writes
            out, err = files.enter_context(_memory_file()), files.enter_context(_memory_file())
        except OSError as error:  # no descriptor left
            return Dump(why=within(f"py-spy was not started: {error.strerror}", 160))
        try:
            process = _start(command, owner, out, err)
        except OSError as error:
            if isinstance(error, PermissionError):  # its directory is closed to that user, or we may not become it
                return Dump(why=NOT_PERMITTED)
            return Dump(why=within(f"py-spy cannot be started: {path}: {error.strerror}", 160))
        try:
            while process.poll() is None:
                if now() >= deadline:
                    return Dump(why="py-spy gave no answer in time")
                if max(os.fstat(out).st_size, os.fstat(err).st_size) > _MAX_ANSWER_BYTES:
                    return Dump(why=f"py-spy's answer is larger than {_MAX_ANSWER_BYTES} bytes")
                yield _POLL_S
        finally:
            _end(process)
        if process.returncode != 0:
            why = _words(os.pread(err, 64 * 1024, 0).decode("utf-8", "replace"), process.returncode)
            return Dump(why=why, again=why != NOT_PERMITTED)
        answer = os.pread(out, _MAX_ANSWER_BYTES + 1, 0)
    if not _same(worker):
        return Dump(why="it ended while py-spy looked")
    return parse(answer, worker.pid)


def _start(command: list[str], owner: tuple[int, int] | None, out: int, err: int) -> subprocess.Popen[bytes]:
    os.stat(command[0])  # what is missing is said here, and not by the interpreter in between
    user: dict[str, Any] = {} if owner is None else {"user": owner[0], "group": owner[1], "extra_groups": []}
    return subprocess.Popen(
        ends_with_us(command),  # else the next listener would hold a worker that it traces
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=err,
        cwd="/",
        env={"PATH": os.defpath, "RUST_BACKTRACE": "0"},
        start_new_session=True,  # it is ended with all that it has started
        **user,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill it if it still runs. What it had stopped goes on: a tracer's end detaches (ptrace(2))."""
    if process.poll() is None:
        with contextlib.suppress(OSError):
            os.killpg(
                process.pid, signal.SIGKILL
            )  # of its own session, and not reaped yet: the number is still its own
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_KILLED_WITHIN_S)


@contextlib.contextmanager
def _memory_file() -> Generator[int, None, None]:
    fd = os.memfd_create("py-spy", os.MFD_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _words(text: str, code: int) -> str:
    """py-spy's own words for its failure, without its backtrace, on one line."""
    if any(words in text.lower() for words in _DENIED):
        return NOT_PERMITTED
    told = []
    for line in text.splitlines():
        if line.startswith("Stack backtrace"):
            break
        if (said := line.strip().removeprefix("Error: ")) and said != "Caused by:":
            told.append(said)
    return within(f"py-spy failed ({'; '.join(told) or f'exit code {code}'})", 160)


def _same(worker: WorkerId) -> bool:
    try:
        return proc.born(worker.pid) == worker.born
    except KernelError:
        return False


def parse(answer: bytes, pid: int) -> Dump:
    """py-spy's JSON: a list of threads with their frames."""
    try:
        threads = [_Thread.of(found) for found in json.loads(answer)]
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        return Dump(why=within(f"py-spy's answer cannot be read: {type(error).__name__}: {error}", 160))
    main = next((thread for thread in threads if thread.id == pid), None)
    main = main or next((thread for thread in threads if thread.name == "MainThread"), None)
    if main is None or not main.frames:
        return Dump(why="py-spy saw no Python frame in the main thread")
    holder = next((thread.frames for thread in threads if thread.has_gil and thread is not main), ())
    return Dump(main.frames, () if main.has_gil else holder)


@dataclass(frozen=True)
class _Thread:
    id: int | None
    name: str
    has_gil: bool
    frames: tuple[Frame, ...]

    @classmethod
    def of(cls, found: Any) -> _Thread:
        frames = tuple(
            Frame(str(frame["name"]), str(frame["filename"]), int(frame.get("line") or 0)) for frame in found["frames"]
        )
        return cls(found.get("os_thread_id"), str(found.get("thread_name") or ""), bool(found.get("owns_gil")), frames)
