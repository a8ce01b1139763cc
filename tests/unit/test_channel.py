"""stdin and stdout of the listener: a child process with real pipes, as supervisord gives it."""

from __future__ import annotations

import os
import subprocess
import sys

from harness.interpreter import ROOT

LISTENER = """
import os, subprocess, sys, warnings
sys.path.insert(0, {root!r})
from supervisor_uvicorn.supervisord.channel import Channel
channel = Channel()
channel.ready()
{noise}
while True:
    events = channel.wait(10)
    if events is None:
        break
    for event in events:
        print("event", event.name, event.serial, flush=True)
print("malformed", channel.reader.malformed, flush=True)
"""

NOISE = """
print("printed", flush=True)
os.write(1, b"written to 1\\n")
sys.__stdout__.write("the original stdout\\n"); sys.__stdout__.flush()
warnings.warn("a warning")
subprocess.run(["sh", "-c", "echo from a child; head -c 5 || true"], check=True)
sys.stdout.write("left in the buffer")
"""

TICK = b"ver:3.0 server:supervisor serial:%d pool:web poolserial:1 eventname:TICK_5 len:15\nwhen:1201063880"


def run(stdin: bytes, noise: str = "") -> tuple[subprocess.CompletedProcess[bytes], list[str]]:
    code = LISTENER.format(root=str(ROOT), noise=noise)
    done = subprocess.run([sys.executable, "-c", code], input=stdin, capture_output=True, timeout=60)
    return done, done.stderr.decode().splitlines()


def test_nothing_but_the_protocol_stands_on_stdout() -> None:
    done, said = run(TICK % 1 + TICK % 2, NOISE)
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"READY\n" + b"RESULT 2\nOKREADY\n" * 2
    for line in ("printed", "written to 1", "the original stdout", "from a child"):
        assert line in said
    assert any("a warning" in line for line in said)
    assert any(line.endswith("event TICK_5 2") for line in said), "a child took the events that were ours"


def test_the_end_of_input_is_the_end_also_in_the_middle() -> None:
    for stdin in (b"", TICK % 1, (TICK % 1)[:-4], b"ver:3.0 ser", TICK % 1 + b"\xff\xfe"):
        done, _ = run(stdin)
        assert done.returncode == 0, done.stderr
        assert done.stdout == b"READY\n" + b"RESULT 2\nOKREADY\n" * (stdin.count(b"when:1201063880"))


def test_garbage_is_not_answered() -> None:
    done, said = run(b"no header at all\n\n" + b"len:many\n" + TICK % 3)
    assert done.stdout == b"READY\nRESULT 2\nOKREADY\n"
    assert "event TICK_5 3" in said
    assert "malformed 3" in said


def test_foreign_and_doubled_events_are_each_answered_once() -> None:
    foreign = b"len:3 eventname:SOMETHING_ELSE serial:4\na:b"
    done, _ = run(foreign + TICK % 5 + TICK % 5)
    assert done.stdout == b"READY\n" + b"RESULT 2\nOKREADY\n" * 3


def test_a_supervisord_that_has_gone_is_the_end_of_input() -> None:
    code = LISTENER.format(root=str(ROOT), noise="")
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert os.read(child.stdout.fileno(), 100) == b"READY\n"
        child.stdout.close()
        child.stdin.write(TICK % 1)  # the answer meets a broken pipe
        child.stdin.close()
        assert child.wait(30) == 0
        assert child.stderr is not None
        assert b"Traceback" not in child.stderr.read()
