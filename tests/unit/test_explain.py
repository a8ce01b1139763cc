"""What an explanation says, and how large it may become; py-spy's answers and what a process of that name may do."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from harness import processes
from harness.waiting import wait_for
from hypothesis import example, given
from hypothesis import strategies as st

from supervisor_uvicorn.explain import (
    KERNEL,
    PY_SPY,
    Explanation,
    Facts,
    before_the_end,
    frames,
    headline,
    look,
    now,
    stack,
    syscalls,
)
from supervisor_uvicorn.explain.frames import Frame
from supervisor_uvicorn.kernel import proc
from supervisor_uvicorn.kernel.connections import Connection
from supervisor_uvicorn.model import Address, WorkerId

T = TypeVar("T")

ME = WorkerId("web:web-0", 4711, 1)


def drive(steps: Generator[float, None, T]) -> tuple[T, float]:
    """What it returns, and its longest step in seconds."""
    longest_s = 0.0
    while True:
        begin = time.monotonic()
        try:
            wait_s = next(steps)
        except StopIteration as end:
            return end.value, max(longest_s, time.monotonic() - begin)
        longest_s = max(longest_s, time.monotonic() - begin)
        time.sleep(wait_s)


# -- frames


@pytest.mark.parametrize(
    ("file", "directory", "told"),
    [
        ("/srv/app/shop/views.py", "/srv/app", "shop/views.py"),
        ("/srv/app/shop/views.py", "/srv/app/", "shop/views.py"),
        ("/srv/application/views.py", "/srv/app", "/srv/application/views.py"),
        ("/srv/app/views.py", "", "/srv/app/views.py"),
        ("/srv/app/views.py", "/", "/srv/app/views.py"),
        ("/srv/app/.venv/lib/python3.11/site-packages/uvicorn/main.py", "/srv/app", "uvicorn/main.py"),
        ("/usr/lib/python3/dist-packages/uvicorn/main.py", "/srv", "uvicorn/main.py"),
        ("/usr/lib/python3.13t/asyncio/runners.py", "/srv", "asyncio/runners.py"),
        ("<frozen runpy>", "/srv", "<frozen runpy>"),
    ],
)
def test_a_file_as_a_person_knows_it(file: str, directory: str, told: str) -> None:
    assert frames.short(file, directory) == told


def test_lines_of_a_stack() -> None:
    assert frames.lines([Frame("wait", "/srv/app.py", 62), Frame("run", "lib.py", 0)], "/srv") == (
        "wait (app.py:62)",
        "run (lib.py:?)",
    )
    assert frames.lines([]) == ()


def test_a_stack_is_cut_at_its_outer_end() -> None:
    told = frames.lines([Frame(f"f{number}", "a.py", number + 1) for number in range(1000)])
    assert len(told) == frames.MAX_FRAMES
    assert told[0] == "f0 (a.py:1)"
    assert told[-1] == "... and 961 outer frames"
    exactly = frames.lines([Frame("f", "a.py", 1)] * frames.MAX_FRAMES)
    assert exactly == ("f (a.py:1)",) * frames.MAX_FRAMES


def test_a_long_path_keeps_its_end() -> None:
    (told,) = frames.lines([Frame("f" * 500, "/very/long" * 100 + "/app.py", 7)])
    assert told.endswith("/app.py:7)")
    assert len(told) <= frames.MAX_FRAME_CHARACTERS


_ANY = st.text(max_size=400)
_FRAMES = st.lists(st.builds(Frame, _ANY, _ANY, st.integers(0, 10**6)), max_size=120)


_WORST = [Frame("\U00010400" * 400, "\U00010400" * 400, 10**6)] * 120  # twelve bytes of JSON for each character


@given(_FRAMES, _FRAMES, _ANY)
@example(_WORST, _WORST, "\U00010400" * 400)
def test_an_explanation_stays_small_whatever_the_worker_calls_its_functions(
    main: list[Frame], holder: list[Frame], link: str
) -> None:
    explanation = Explanation(
        ME,
        PY_SPY,
        frames.lines(main),
        look.holder_lines(holder),
        "S",
        "w" * 64,
        f"recvfrom, descriptor 1048576: {frames.within(link, 120)}",
        Facts(*[123456.789] * 10),  # type: ignore[arg-type]
        (frames.within(link, 160),) * 3,
        1.999,
    )
    assert len(json.dumps(list(explanation.stack))) <= frames.MAX_BYTES
    assert len(json.dumps(list(explanation.gil))) <= 1000
    assert len(json.dumps(explanation.as_object())) <= 6 * 1024
    text = explanation.words()
    assert all(character.isprintable() or character == "\n" for character in text)


# -- words


def test_words_of_a_stack() -> None:
    explanation = Explanation(
        ME,
        PY_SPY,
        ("wait_for_recovery (conf/demo/app.py:62)", "run (asyncio/runners.py:118)"),
        (),
        "S",
        "unix_stream_read_generic",
        "recvfrom, descriptor 15: 10.0.0.5:5432",
        Facts(12.34, 0.02, 1, 1.0, 52 * 1024 * 1024, 15, 1024, 3, 2, 31.0),
        ("not permitted to see its system call",),
    )
    assert explanation.words() == (
        "main thread, innermost frame first (from py-spy):\n"
        "  wait_for_recovery (conf/demo/app.py:62)\n"
        "  run (asyncio/runners.py:118)\n"
        "kernel: sleeping in recvfrom, descriptor 15: 10.0.0.5:5432 (unix_stream_read_generic)\n"
        "ticks: in 1.0 s its main thread woke once and used 2% of a CPU\n"
        "connections: 2\n"
        "memory 52 MiB, CPU so far 12.3 s, threads 3, descriptors 15 of 1024\n"
        "lag: 31 s\n"
        "no better: not permitted to see its system call"
    )
    assert headline(explanation) == "in wait_for_recovery (conf/demo/app.py:62)"


def test_words_without_a_stack() -> None:
    explanation = Explanation(ME, state="T", wchan="do_signal_stop", why_not=(stack.NOT_INSTALLED,))
    assert explanation.words() == (
        "no Python stack\n"
        "kernel: stopped by a signal (SIGSTOP) (do_signal_stop)\n"
        "no better: py-spy is not installed: pip install supervisor-uvicorn[explain]"
    )
    assert headline(explanation) == "stopped by a signal (SIGSTOP) (do_signal_stop)"
    assert headline(Explanation(ME)) == "there is no such process any more"


def test_words_where_another_thread_holds_the_lock() -> None:
    text = Explanation(ME, PY_SPY, ("wait (a.py:1)",), ("crunch (b.py:2)",), "S").words()
    assert "another thread holds the interpreter's lock" in text
    assert text.index("wait (a.py:1)") < text.index("crunch (b.py:2)")


@pytest.mark.parametrize(
    ("number", "machine", "name"),
    [
        (45, "x86_64", "recvfrom"),
        (207, "aarch64", "recvfrom"),
        (999, "x86_64", "system call 999"),
        (45, "riscv64", "system call 45"),
    ],
)
def test_system_calls_have_names(number: int, machine: str, name: str) -> None:
    assert syscalls.name_of(number, machine) == name


@pytest.mark.parametrize(
    ("address", "connection", "accepted"),
    [
        (Address("tcp", "127.0.0.1", 8000), Connection("127.0.0.1:4000", 8000), True),
        (Address("tcp", "127.0.0.1", 8000), Connection("127.0.0.1:8000", 4000), False),
        (Address("unix", path="/run/app.sock"), Connection(path="/run/app.sock"), True),
        (Address("unix", path="/run/app.sock"), Connection(path="app.sock"), True),
        (Address("unix", path="/run/app.sock"), Connection(path=""), False),
        (Address("unix", path="/run/app.sock"), Connection(path="p.sock"), False),
    ],
)
def test_whose_connection_it_is(address: Address, connection: Connection, accepted: bool) -> None:
    assert connection.accepted_at(address) is accepted


# -- py-spy's answer


def thread(ident: int | None, name: str, *functions: str, gil: bool = False) -> dict[str, Any]:
    told = [{"name": function, "filename": f"/srv/{function}.py", "line": 7, "locals": None} for function in functions]
    return {"os_thread_id": ident, "thread_name": name, "owns_gil": gil, "frames": told}


@pytest.mark.parametrize(
    ("threads", "main", "holder"),
    [
        ([thread(9, "worker", "b", gil=True), thread(5, "MainThread", "a")], "a", "b"),
        ([thread(9, "worker", "b"), thread(5, "renamed", "a", gil=True)], "a", None),
        ([thread(None, "worker", "b"), thread(None, "MainThread", "a")], "a", None),
    ],
)
def test_which_thread_is_told(threads: list[dict[str, Any]], main: str, holder: str | None) -> None:
    found = stack.parse(json.dumps(threads).encode(), 5)
    assert found.main == (Frame(main, f"/srv/{main}.py", 7),)
    assert found.holder == ((Frame(holder, f"/srv/{holder}.py", 7),) if holder else ())
    assert found.why == ""


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"{}",
        b"[1]",
        b'"text"',
        b"[{}]",
        b"null",
        b"[]",
        b'[{"frames": [{}]}]',
        b"[" * 100_000,
        b'[{"frames": [{"name": "", "filename": "", "line": Infinity}]}]',
    ],
)
def test_an_answer_that_is_none_is_a_reason(answer: bytes) -> None:
    found = stack.parse(answer, 5)
    assert found.main == ()
    assert found.why.startswith("py-spy")


# -- a program of that name


@pytest.fixture
def sleeper() -> Iterator[WorkerId]:
    process = subprocess.Popen([sys.executable, "-c", "import time; print(flush=True); time.sleep(3600)"],
                               stdout=subprocess.PIPE)  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    try:
        wait_for(lambda: processes.state(process.pid) == "S", 10, "asleep", every_s=0.01)
        yield WorkerId("web:web-0", process.pid, proc.born(process.pid))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def fake(tmp_path: Path) -> Callable[[str], str]:
    """A py-spy that is a shell script; it writes its pid beside itself."""

    def write(script: str) -> str:
        path = tmp_path / "py-spy"
        path.write_text(f'#!/bin/sh\necho $$ >"{tmp_path}/pid"\necho "$@" >>"{tmp_path}/arguments"\n{script}\n')
        path.chmod(0o755)
        return str(path)

    return write


def dumped(path: str, worker: WorkerId, within_s: float = 20.0, pause: bool = False) -> stack.Dump:
    steps = stack.dump(worker, pause=pause, deadline=time.monotonic() + within_s, now=time.monotonic, path=path)
    return drive(steps)[0]


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo 'Permission Denied: Try running again with elevated permissions' >&2; exit 1", stack.NOT_PERMITTED),
        ("echo 'Error: x' >&2; echo '    0: Operation not permitted (os error 1)' >&2; exit 1", stack.NOT_PERMITTED),
        ("printf 'Error: Failed\\n\\nCaused by:\\n    0: torn\\n\\nStack backtrace:\\n   0: <E as>\\n' >&2; exit 1",
         "py-spy failed (Failed; 0: torn)"),
        ("exit 3", "py-spy failed (exit code 3)"),
        ("kill -9 $$", "py-spy failed (exit code -9)"),
        ("echo garbage", "py-spy's answer cannot be read"),
        ("head -c 3000000 /dev/zero; exec sleep 3600", "py-spy's answer is larger than 2097152 bytes"),
    ],
)  # fmt: skip
def test_each_failure_of_it_is_a_reason(
    fake: Callable[[str], str], sleeper: WorkerId, tmp_path: Path, script: str, why: str
) -> None:
    found = dumped(fake(script), sleeper)
    assert found.main == ()
    assert found.why.startswith(why)
    assert not processes.alive(int((tmp_path / "pid").read_text()))
    tries = len((tmp_path / "arguments").read_text().splitlines())
    assert tries == (3 if why.startswith("py-spy failed") else 1), "only what may go better is tried again"


def test_one_that_hangs_is_killed_at_the_deadline(
    fake: Callable[[str], str], sleeper: WorkerId, tmp_path: Path
) -> None:
    begin = time.monotonic()
    found = dumped(fake("exec sleep 3600"), sleeper, within_s=0.5)
    assert 0.4 < time.monotonic() - begin < 2.0
    assert found.why == "py-spy gave no answer in time"
    pid = int((tmp_path / "pid").read_text())
    assert processes.state(pid) == "", "killed, and reaped"


def test_closing_the_steps_ends_it(fake: Callable[[str], str], sleeper: WorkerId, tmp_path: Path) -> None:
    steps = stack.dump(sleeper, pause=False, deadline=time.monotonic() + 60, now=time.monotonic,
                       path=fake("exec sleep 3600"))  # fmt: skip
    descriptors = processes.descriptors(os.getpid())
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(next(steps))
    steps.close()
    assert processes.state(int((tmp_path / "pid").read_text())) == ""
    assert processes.descriptors(os.getpid()) == descriptors


def test_it_ends_with_the_listener(fake: Callable[[str], str], sleeper: WorkerId, tmp_path: Path) -> None:
    """Nobody else would end it, and what it traces is held by the next listener."""
    begun = f"""
import time
from supervisor_uvicorn.explain import stack
from supervisor_uvicorn.model import WorkerId
worker = WorkerId("web:web-0", {sleeper.pid}, {sleeper.born})
for wait_s in stack.dump(worker, pause=False, deadline=1e12, now=time.monotonic, path={fake("exec sleep 3600")!r}):
    time.sleep(wait_s)
"""
    with subprocess.Popen([sys.executable, "-c", begun]) as listener:
        pid_file = tmp_path / "pid"
        wait_for(lambda: pid_file.exists() and pid_file.read_text(), 30, "its py-spy")
        listener.kill()
    pid = int(pid_file.read_text())
    wait_for(lambda: processes.state(pid) in ("", "Z"), 30, "its end")


def test_a_flood_of_errors_is_cut_off(fake: Callable[[str], str], sleeper: WorkerId) -> None:
    assert "is larger than" in dumped(fake("exec cat /dev/zero >&2"), sleeper).why


def test_one_that_ends_while_it_is_read(fake: Callable[[str], str], sleeper: WorkerId) -> None:
    answer = json.dumps([thread(sleeper.pid, "MainThread", "a")])
    gone = replace(sleeper, born=sleeper.born - 1)  # somebody else has its pid by now
    assert dumped(fake(f"echo '{answer}'"), gone) == stack.Dump(why="it ended while py-spy looked")


def test_a_torn_stack_is_read_again_and_without_a_pause(
    fake: Callable[[str], str], sleeper: WorkerId, tmp_path: Path
) -> None:
    answer = json.dumps([thread(sleeper.pid, "MainThread", "a")])
    path = fake(f"test -e {tmp_path}/again || {{ touch {tmp_path}/again; exit 1; }}\necho '{answer}'")
    assert dumped(path, sleeper, pause=True).main == (Frame("a", "/srv/a.py", 7),)
    assert (tmp_path / "arguments").read_text().splitlines() == [
        f"dump --json --pid {sleeper.pid}",
        f"dump --json --nonblocking --pid {sleeper.pid}",
    ]


def test_it_is_never_asked_for_variables(fake: Callable[[str], str], sleeper: WorkerId, tmp_path: Path) -> None:
    for pause in (True, False):
        dumped(fake("exit 1"), sleeper, pause=pause)
    told = (tmp_path / "arguments").read_text()
    assert "dump" in told
    assert "-l" not in told.split()
    assert "local" not in told


def test_without_it(monkeypatch: pytest.MonkeyPatch, sleeper: WorkerId, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert stack.program() is None
    (found,) = now([(sleeper, None)], look_s=0.05)
    assert found.source == KERNEL
    assert found.why_not == (stack.NOT_INSTALLED,)
    assert found.state == "S"
    (tmp_path / "py-spy").write_text("")
    assert stack.program() is None, "not to be run"
    (tmp_path / "py-spy").chmod(0o755)
    assert stack.program() == str(tmp_path / "py-spy")


def test_a_program_that_cannot_be_started(sleeper: WorkerId, tmp_path: Path) -> None:
    assert "py-spy cannot be started" in dumped(str(tmp_path / "none"), sleeper).why


def test_without_descriptors(sleeper: WorkerId, fake: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = fake("exit 1")
    monkeypatch.setattr(stack, "program", lambda: path)
    steps = before_the_end(sleeper, socket=Address("tcp", "127.0.0.1", 1), deadline=time.monotonic() + 2)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limit[1]))
        explanation, _ = drive(steps)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert explanation.source == KERNEL, "it is no worse than not to know"


# -- the whole look


def test_one_that_has_ended_is_explained_as_that() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    explanation, _ = drive(before_the_end(replace(ME, pid=process.pid), socket=None, deadline=time.monotonic() + 2))
    assert (explanation.source, explanation.state, explanation.stack) == (KERNEL, "", ())
    assert now([(replace(ME, pid=process.pid), None)])[0].words().startswith("no Python stack\nkernel: there is no")


def test_another_process_with_that_pid_is_not_explained(sleeper: WorkerId) -> None:
    (explanation,) = now([(replace(sleeper, born=sleeper.born - 1), None)])
    assert explanation.state == ""


def test_the_whole_look_ends_at_its_deadline(
    fake: Callable[[str], str], sleeper: WorkerId, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fake("exec sleep 3600")
    monkeypatch.setattr(stack, "program", lambda: path)
    for deadline_s, most_s in ((0.4, 1.0), (3600.0, look.LONGEST_S + 0.5)):
        begin = time.monotonic()
        explanation, _ = drive(before_the_end(sleeper, socket=None, deadline=begin + deadline_s))
        assert time.monotonic() - begin < most_s
        assert explanation.source == KERNEL
        assert "py-spy gave no answer in time" in explanation.why_not
        assert explanation.facts.rss_bytes, "the facts are there all the same"


def test_an_explanation_is_json(sleeper: WorkerId) -> None:
    (explanation,) = now([(sleeper, None)], look_s=0.05)
    assert json.loads(json.dumps(explanation.as_object()))["facts"]["threads"] == 1
