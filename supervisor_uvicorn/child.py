"""A program of somebody else's, started, fed and ended with all that it has started. Floor 1.

It ends when we do, at its deadline, and whatever it left in its process group ends with it, as systemd does with
``KillMode=control-group`` (systemd.kill(5)). What it writes is read and forgotten but for the last words of its stderr.

The kernel tells only a child that its parent has ended, and most commands are scripts that wait for a child of theirs.
So between them and us stands a guard, a Python of 9 MB that leads their process group and takes it along.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# Becomes the program, and is killed when we end: nobody else would end it. PR_SET_PDEATHSIG is 1 (prctl(2),
# linux/prctl.h); 20 ms. A preexec_fn would run Python between fork and exec beside our other threads: it may deadlock.
_ENDS_WITH_US = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""

# PR_SET_PDEATHSIG again, with TERM. Python ignores PIPE and XFSZ, and what is ignored stays so beyond exec(2): they are
# put back. PR_SET_DUMPABLE is 4: the signal that ended the command ends the guard, and leaves no second core file.
_GUARD = """
import ctypes, os, signal, sys
prctl = ctypes.CDLL(None).prctl
signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))
prctl(1, signal.SIGTERM)
if os.getppid() == int(sys.argv[1]):
    try:
        pid = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ, setsigdef=[signal.SIGPIPE, signal.SIGXFSZ])
    except OSError as error:
        sys.exit(f"cannot be started: {error.strerror}")
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code < 0:
        prctl(4, 0)
        if code != -signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)
"""

_POLL_S = 0.05
_CHUNK_BYTES = 64 * 1024
_FLOOD_PAUSE_S = 0.05
"""After a full chunk: a program that writes without end has 1.3 MB/s of us, and is held up by its own pipe."""

_TAIL_BYTES = 4 * 1024
_KILLED_WITHIN_S = 1.0


def ends_with_us(command: Sequence[str]) -> list[str]:
    """The command that becomes ``command`` (an absolute path and its arguments) and is killed when the calling *thread*
    ends: the parent of prctl(2) is a thread, so it has to outlive the program."""
    return [sys.executable, "-I", "-S", "-c", _ENDS_WITH_US, str(os.getpid()), *command]


@dataclass(frozen=True)
class Ended:
    """How a program ended. ``code`` is as in :mod:`subprocess`: negative for a signal; None: it was killed at its
    deadline. ``said``: the last line of its stderr that is not empty, of at most 4 KiB."""

    code: int | None
    said: str


def feed(command: Sequence[str], data: bytes, deadline_s: float, clock: Callable[[], float] = time.monotonic) -> Ended:
    """Run ``command`` (an absolute path and its arguments) in a session of its own with ``data`` on its stdin.

    Returns when it has ended, at the latest ``deadline_s`` (and a second) from now, and whatever is in its process
    group then is killed; so it is when the calling *thread* ends. Its stdout is lost. One that does not read is no
    trouble. Raises :class:`OSError` or :class:`ValueError` where it cannot be started.
    """
    deadline = clock() + deadline_s
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _GUARD, str(os.getpid()), *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stderr is not None
    with process.stdin, process.stderr:
        tail = bytearray()
        try:
            in_time = _attend(process, process.stdin.fileno(), process.stderr.fileno(), data, tail, deadline, clock)
        finally:
            _end(process)
        while _read(process.stderr.fileno(), tail) and clock() < deadline:  # what lies in the pipe; nobody adds to it
            pass
    return Ended(process.returncode if in_time else None, _last_line(tail))


def _attend(
    process: subprocess.Popen[bytes],
    stdin: int,
    stderr: int,
    data: bytes,
    tail: bytearray,
    deadline: float,
    clock: Callable[[], float],
) -> bool:
    """Until it has ended (and is not reaped yet, so that its number is still its own), or the deadline: False."""
    os.set_blocking(stdin, False)
    os.set_blocking(stderr, False)
    poll = select.poll()
    poll.register(stdin, select.POLLOUT)
    poll.register(stderr, select.POLLIN)
    rest = memoryview(data)
    while not _has_ended(process.pid):
        left_s = deadline - clock()
        if left_s <= 0:
            return False
        for fd, _ in poll.poll(min(left_s, _POLL_S) * 1000):
            if fd == stderr:
                got = _read(stderr, tail)
                if got == 0:
                    poll.unregister(stderr)
                elif got == _CHUNK_BYTES:
                    time.sleep(_FLOOD_PAUSE_S)
                continue
            try:
                rest = rest[os.write(stdin, rest) :]
            except BlockingIOError:
                continue
            except OSError:  # it has closed its stdin: what it does without reading is its own affair
                rest = rest[len(rest) :]
            if not rest and process.stdin is not None:
                poll.unregister(stdin)
                process.stdin.close()  # the end of input
    return True


def _has_ended(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # SIGCHLD is ignored here: it was reaped by the kernel
        return True


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill it and its group, and reap it. What is not ours to kill (set-user-ID) is left alone."""
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_KILLED_WITHIN_S)


def _read(fd: int, tail: bytearray) -> int:
    """So many bytes were read, the last of which are in ``tail``; 0: there are no more, now or ever."""
    try:
        data = os.read(fd, _CHUNK_BYTES)
    except OSError:
        return 0
    tail += data
    del tail[:-_TAIL_BYTES]
    return len(data)


def _last_line(tail: bytearray) -> str:
    lines = [line.strip() for line in bytes(tail).decode("utf-8", "replace").splitlines() if line.strip()]
    if not lines:
        return ""
    if len(lines) == 1 and len(tail) == _TAIL_BYTES:  # its beginning is lost: half a word cannot be told from a secret
        return lines[0].partition(" ")[2]
    return lines[-1]
