"""10,000 malformed events on the listener's input: no crash, no stray byte on its output, flat memory."""

from __future__ import annotations

import random
import re
import subprocess
import threading
from collections.abc import Callable

import pytest
from harness import interpreter, processes
from harness.supervisord import Program, Supervisord
from harness.waiting import wait_for

from supervisor_uvicorn.supervisord.protocol import EventReader

pytestmark = pytest.mark.acceptance

EVENTS = 10_000
WARM_UP = 1_000
GOOD = 5
END = b"\n" * 200
GROWTH_BYTES = 2 * 1024 * 1024


def malformed(chance: random.Random) -> bytes:
    """One thing that supervisord never sends, or hardly ever."""
    noise = bytes(chance.randrange(256) for _ in range(chance.randrange(1, 60)))
    payload = chance.choice([b"when:1", noise.replace(b"\n", b"?"), "type:h\u00e9\nd\u00e4t\u00e4".encode(), b""])
    characters = len(payload.decode("utf-8", "surrogateescape"))
    name = chance.choice([b"TICK_5", b"PROCESS_STATE_EXITED", b"REMOTE_COMMUNICATION", b"NO_SUCH_EVENT", b"\xff"])
    fields = [
        b"ver:3.0",
        b"server:my host:1",
        b"serial:%d" % chance.randrange(50),
        b"pool:uvicorn-health",
        b"poolserial:%d" % chance.randrange(50),
        b"eventname:" + name,
        b"len:%d" % characters,
    ]
    kind = chance.randrange(8)
    if kind == 0:  # no length: not an event
        return b" ".join(fields[:-1]) + b"\n"
    if kind == 1:
        return noise.replace(b"len:", b"xxx") + b"\n"
    if kind == 2:
        return b"len:-5 eventname:TICK_5\n"
    if kind == 3:
        return b"len:abc eventname:TICK_5\n"
    if kind == 4:
        return b"\n" * chance.randrange(1, 5)
    if kind == 5:  # any order, some fields gone or doubled
        chosen = [*chance.sample(fields[:-1], chance.randrange(1, 6)), fields[-1]]
        chance.shuffle(chosen)
        return b" ".join(chosen) + b"\n" + payload
    if kind == 6:
        return b" ".join(fields + fields) + b"\n" + payload
    return b" ".join(fields) + b"\n" + payload


def answered(said: list[bytes]) -> int:
    return b"".join(said).count(b"RESULT 2\nOK")


def test_ten_thousand(figures: Callable[..., None]) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    with Supervisord(Program(numprocs=1), listen=None) as site:
        site.wait_running()
        environment = {**site.environment, "SUPERVISOR_ENABLED": "1", "SUPERVISOR_SERVER_URL": site.server_url}
        environment |= {"SUPERVISOR_PROCESS_NAME": "uvicorn-health", "SUPERVISOR_GROUP_NAME": "uvicorn-health"}
        command = [interpreter.python(), "-m", "supervisor_uvicorn", "listen", "--log-format", "json"]
        with (site.scratch / "by-hand.log").open("wb") as log:
            listener = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
            )
        assert listener.stdin is not None
        assert listener.stdout is not None
        said: list[bytes] = []
        reader = threading.Thread(target=lambda: said.extend(iter(lambda: listener.stdout.read1(65536), b"")))
        reader.start()
        try:
            wait_for(lambda: b"".join(said) == b"READY\n", 30, "READY")
            resident = 0
            due = well_formed = 0
            reader_of_ours = EventReader()
            for number in range(EVENTS):
                sent = malformed(chance)
                due += len(reader_of_ours.feed(sent))
                well_formed += b"len:" in sent and not sent.startswith((b"len:-5", b"len:abc"))
                listener.stdin.write(sent)
                listener.stdin.flush()
                if number == WARM_UP:
                    resident = processes.resident_bytes(listener.pid)
            # Line breaks end whatever header or payload was left open; then each good event is answered, once.
            listener.stdin.write(END)
            listener.stdin.flush()
            due += len(reader_of_ours.feed(END))
            wait_for(lambda: answered(said) >= due, 60, "the answers to what were events after all")
            assert answered(said) == due
            for number in range(GOOD):
                serial = 900_000 + number
                good = b"ver:3.0 server:s serial:%d pool:p poolserial:1 eventname:TICK_5 len:6\nwhen:1" % serial
                listener.stdin.write(good)
                listener.stdin.flush()
                wait_for(lambda sent=number + 1: answered(said) >= due + sent, 30, "the answer to a good event")
            grown = processes.resident_bytes(listener.pid) - resident
            listener.stdin.close()
            assert listener.wait(30) == 0, "exit code at the end of input"
        finally:
            listener.kill()
            listener.wait()
            reader.join(10)
            listener.stdout.close()
        output = b"".join(said)
        assert re.fullmatch(rb"READY\n(RESULT 2\nOKREADY\n)*", output), output[:200]
        assert answered(said) == due + GOOD
        assert abs(due - well_formed) < EVENTS / 100, "noise may make or break an event now and then"
        figures(events=EVENTS, seed=seed, answered=output.count(b"RESULT"), grown_bytes=grown)
        assert grown <= GROWTH_BYTES
