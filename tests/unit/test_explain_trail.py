"""faulthandler's traceback, found again in a worker's log."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_explain import drive

from supervisor_uvicorn.explain import FAULTHANDLER, KERNEL, PY_SPY, Explanation, Trail
from supervisor_uvicorn.explain.frames import Frame
from supervisor_uvicorn.explain.trail import FAULTHANDLER_OFF, main_thread
from supervisor_uvicorn.model import WorkerId

NOTHING = Explanation(WorkerId("web:web-0", 4711, 1), KERNEL, state="S", why_not=("py-spy is not there",))

TRACEBACK = """\
Fatal Python error: Aborted

Thread 0x00007f1a2b3c4d5e (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 320 in wait
  File "/srv/helper.py", line 9 in help

Current thread 0x00007f1a2b3c0000 (most recent call first):
  File "/srv/app.py", line 62 in wait_for_recovery
  File "/srv/app.py", line 12 in <lambda>
  File "/usr/lib/python3.11/asyncio/runners.py", line 118 in run

Extension modules: uvloop.loop, httptools.parser.url_parser (total: 2)
"""
STACK = ("wait_for_recovery (app.py:62)", "<lambda> (app.py:12)", "asyncio/runners.py")


def read(trail: Trail, explanation: Explanation = NOTHING, within_s: float = 1.0) -> Explanation:
    steps = trail.read(explanation, deadline=time.monotonic() + within_s, now=time.monotonic, directory="/srv")
    found, longest_s = drive(steps)
    assert longest_s < 0.1
    return found


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "web-0.err"
    path.write_text("before\n" + TRACEBACK.replace("app.py", "of-an-earlier-worker.py"))
    return path


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_what_was_appended_is_read(log: Path) -> None:
    trail = Trail(str(log))
    append(log, "INFO: something else, without a line feed" + TRACEBACK)
    found = read(trail)
    assert found.source == FAULTHANDLER
    assert found.stack == (*STACK[:2], "run (asyncio/runners.py:118)")
    assert found.state == "S"
    assert found.why_not == NOTHING.why_not


def test_two_workers_that_write_to_one_log_are_not_told_apart(log: Path) -> None:
    trail = Trail(str(log))
    append(log, TRACEBACK + TRACEBACK)
    found = read(trail)
    assert (found.source, found.stack) == (NOTHING.source, ())
    assert "several workers were aborted" in found.why_not[-1]


@pytest.mark.parametrize("rotate", ["rename", "empty", "stdout"])
def test_wherever_supervisord_put_it(log: Path, rotate: str) -> None:
    trail = Trail("" if rotate == "stdout" else str(log), str(log) if rotate == "stdout" else "")
    if rotate == "rename":  # in the middle of the traceback
        append(log, TRACEBACK[:60])
        log.rename(log.with_suffix(".err.1"))
        log.write_text(TRACEBACK[60:])
    elif rotate == "empty":
        os.truncate(log, 0)
        append(log, TRACEBACK)
    else:  # redirect_stderr
        append(log, TRACEBACK)
    if rotate == "rename":  # the two files meet in the middle of a line, which must not lose what is in the others
        assert read(trail).stack[0] == STACK[0]
    else:
        assert read(trail).stack[:2] == STACK[:2]


def test_one_that_comes_in_pieces_is_waited_for(log: Path) -> None:
    trail = Trail(str(log))
    steps = trail.read(NOTHING, deadline=time.monotonic() + 60, now=time.monotonic, directory="/srv")
    for line in TRACEBACK.splitlines(keepends=True):
        append(log, line)
        next(steps)  # never ends while there comes more
    assert drive(steps)[0].stack[:2] == STACK[:2]


def test_a_stack_of_py_spys_is_better(log: Path) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    trail = Trail(str(log))
    append(log, TRACEBACK)
    explanation = Explanation(NOTHING.worker, PY_SPY, ("a (b.py:1)",))
    assert read(trail, explanation, within_s=60) is explanation
    assert len(os.listdir("/proc/self/fd")) == descriptors
    trail.close()


def test_off_it_said_and_it_spoke(log: Path) -> None:
    trail = Trail(str(log))
    append(log, TRACEBACK)
    said = Explanation(NOTHING.worker, why_not=("py-spy is not there", FAULTHANDLER_OFF))
    assert read(trail, said).why_not == ("py-spy is not there",)


def fifo(tmp_path: Path) -> str:
    os.mkfifo(tmp_path / "fifo")
    return str(tmp_path / "fifo")


@pytest.mark.parametrize(
    ("where", "why"),
    [
        (lambda _: "", "the worker's stderr goes to no log file"),
        (lambda _: "/dev/stderr", "the worker's stderr goes to /dev/stderr, not to a file"),
        (lambda _: "/proc/self/fd/1", "the worker's stderr goes to /proc/self/fd/1"),
        (lambda tmp_path: str(tmp_path / "none"), "No such file"),
        (fifo, "is no file"),
        (str, "is no file"),
    ],
)
def test_a_log_that_cannot_be_read_back_is_said_so(tmp_path: Path, where: Callable[[Path], str], why: str) -> None:
    begin = time.monotonic()
    found = read(Trail(where(tmp_path)), within_s=60)
    assert time.monotonic() - begin < 10, "nothing is waited for"
    assert found.source == KERNEL
    assert found.why_not[0] == NOTHING.why_not[0]
    assert why in found.why_not[1]


def test_a_log_without_one(log: Path) -> None:
    trail = Trail(str(log))
    append(log, "Terminated\n")
    begin = time.monotonic()
    found = read(trail, within_s=0.3)
    assert 0.3 <= time.monotonic() - begin < 1.0
    assert (found.source, found.stack) == (KERNEL, ())
    assert found.why_not[1].startswith("faulthandler wrote no traceback to /")


def test_a_flood_before_it_is_not_read(log: Path) -> None:
    trail = Trail(str(log))
    append(log, "x" * 3_000_000 + "\n" + TRACEBACK)
    assert read(trail).stack[:2] == STACK[:2]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ()),
        ("Fatal Python error: Aborted\n\n", ()),
        (("Fatal Python error: Segmentation fault\n\nThread 0x1 (most recent call first):\n"
         '  File "a.py", line 1 in f\n'), ()),
        (("Fatal Python error: Aborted\n\nCurrent thread 0x1 [uvicorn] (most recent call first):\n"
         '  File "a b", c.py", line ??? in f\n  ...\n\nCurrent thread\'s C stack trace (most recent call first):\n'
         '  Binary file "/usr/bin/python3.14", at _Py_DumpStack+0x31\n'), (Frame("f", 'a b", c.py', 0),)),
        ("Fatal Python error: Aborted\n\nThread 0x1 (most recent call first):\n  <no Python frame>\n", ()),
        (("Fatal Python error: Aborted\n\nCurrent thread 0x2 (most recent call first):\n"
         '  File "helper.py", line 1 in f\n\nThread 0x1 (most recent call first):\n  File "main.py", line 2 in g\n'),
         (Frame("g", "main.py", 2),)),
    ],
)  # fmt: skip
def test_the_main_thread_of_a_traceback(text: str, found: tuple[Frame, ...]) -> None:
    assert main_thread(text) == found
