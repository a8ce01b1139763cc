"""The lock: real processes and real abstract sockets."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from harness.interpreter import ROOT
from harness.waiting import wait_for

from supervisor_uvicorn.supervisord.lock import DOUBTS, Lock

HOLD = """
import sys
sys.path.insert(0, {root!r})
from supervisor_uvicorn.supervisord.lock import Lock
lock = Lock({pid}, {born})
print(repr(lock.acquire()), flush=True)
sys.stdin.read()
"""

SQUAT = """
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.bind({name!r})
{more}
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture
def born() -> int:
    """A lock that no other test has: this process' pid with a birth that is not its own."""
    return int.from_bytes(os.urandom(6), "big")


def name(born: int) -> str:
    return f"\0supervisor-uvicorn/{os.getpid()}/{born}"


@contextmanager
def child(code: str, *prefix: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    python = sys.executable if not prefix else shutil.which("python3", path="/usr/bin:/bin") or sys.executable
    process = subprocess.Popen(
        [*prefix, python, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/"
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def test_a_second_one_stands_by_and_takes_over_when_the_first_is_killed(born: int) -> None:
    with child(HOLD.format(root=str(ROOT), pid=os.getpid(), born=born)) as (first, said):
        assert said == "''"
        second = Lock(os.getpid(), born)
        for _ in range(200):  # each keeps one connection: asking for hours must not fill the holder's queue
            assert second.acquire() == f"pid {first.pid}"
        os.kill(first.pid, signal.SIGKILL)
        wait_for(lambda: second.acquire() == "", 10, "the second to take over")
        assert second.trouble == ""
        third = Lock(os.getpid(), born)
        assert third.acquire() == f"pid {os.getpid()}"
        second.release()
        assert third.acquire() == ""
        third.release()


def test_another_supervisords_lock_is_another(born: int) -> None:
    one, other = Lock(os.getpid(), born), Lock(os.getpid(), born + 1)
    assert (one.acquire(), other.acquire()) == ("", "")
    one.release()
    other.release()


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="takes root and setpriv")
def test_a_stranger_is_not_believed(born: int) -> None:
    code = SQUAT.format(name=name(born), more="s.listen(8)")
    with child(code, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups") as (stranger, _):
        lock = Lock(os.getpid(), born)
        assert lock.acquire() == ""
        assert f"pid {stranger.pid} of uid 65534" in lock.trouble


@pytest.mark.parametrize("more", ["", "s.listen(0)\nkept = []\n" + "for _ in range(4):\n c = socket.socket(socket.AF_UNIX); c.setblocking(False); c.connect_ex(s.getsockname()); kept.append(c)"])  # fmt: skip  # noqa: E501
def test_who_never_says_who_he_is_is_not_believed_for_long(born: int, more: str) -> None:
    """Bound but not listening, and listening with a full queue: neither gives credentials."""
    with child(SQUAT.format(name=name(born), more=more)) as (_, said):
        assert said == ""
        lock = Lock(os.getpid(), born)
        for _ in range(DOUBTS - 1):
            assert lock.acquire() != "", "a listener between its bind() and its listen() looks the same"
        assert lock.acquire() == ""
        assert lock.trouble


def test_a_lock_that_cannot_be_taken_for_another_reason_does_not_stop_us(
    born: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(socket.socket, "bind", refuse, raising=False)
    lock = Lock(os.getpid(), born)
    assert lock.acquire() == ""
    assert "not permitted" in lock.trouble
