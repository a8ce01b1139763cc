"""The HTTP probe over pinned connections: real workers, and a socketpair for what no worker would say."""

from __future__ import annotations

import contextlib
import functools
import random
import resource
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.interpreter import about
from harness.waiting import wait_for
from real_uvicorn import Driver, Program, driven, driving, running
from test_pins import FAMILIES, LOOPS, PARSERS, certificate

from supervisor_uvicorn.model import Address, Answer, HttpOutcome, Options, WorkerId
from supervisor_uvicorn.probe import Request, Target
from supervisor_uvicorn.probe.http import HttpProbe
from supervisor_uvicorn.probe.link import Link, PlainSocket

HEALTH = Request("/health", timeout_s=2.0)


def ask_all(driver: Driver, deadline_s: float = 20.0) -> dict[int, HttpOutcome]:
    """One round of probes: the outcome for each pid that is pinned."""
    outcomes: dict[int, HttpOutcome] = {}
    driver.until(
        lambda s: all(sight.pinned and sight.unread_since is None for sight in s.values()), "all pinned and read"
    )
    sights = driver.look(ask=True)
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        outcomes |= {w.pid: sight.http for w, sight in sights.items() if sight.http is not None}
        if len(outcomes) == len(driver.targets):
            return outcomes
        time.sleep(0.01)
        sights = driver.look()
    raise AssertionError(f"probes did not end: {outcomes}")


def set_health(program: Program, health: str) -> int:
    """Make one worker's health so; which one is in the answer."""
    answer = program.send(f"/set?health={health}")
    return int(answer.rpartition(b'"pid": ')[2].partition(b",")[0])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("parser", PARSERS)
def test_each_worker_answers_for_itself(tmp_path: Path, family: str, loop: str, parser: str) -> None:
    arguments = ["--loop", loop, "--http", parser, "--timeout-keep-alive", "1"]
    with running(tmp_path, count=3, family=family, arguments=arguments) as program:
        sick = set_health(program, "500")
        with driving(program.targets(HEALTH)) as driver:
            outcomes = ask_all(driver)
            for pid, outcome in outcomes.items():
                assert f'"pid": {pid}'.encode() in outcome.body, "the answer is that worker's own"
                expected = (Answer.WRONG, 500, "status 500") if pid == sick else (Answer.RIGHT, 200, "")
                assert (outcome.answer, outcome.status, outcome.reason) == expected
                assert 0 < outcome.seconds < 2
            # The same connections go on, past uvicorn's keep-alive timer, and are asked again.
            inodes = {w: pin._inode for w, pin in driver.pins._pins.items()}
            end = time.monotonic() + 1.5
            while time.monotonic() < end:
                sights = driver.look()
                time.sleep(0.02)
            assert all(sight.pinned for sight in sights.values())
            assert len(ask_all(driver)) == 3
            assert {w: pin._inode for w, pin in driver.pins._pins.items()} == inodes
        assert "WARNING" not in program.log()


@pytest.mark.parametrize(
    ("health", "reason"),
    [
        ("404", "status 404"),
        ("slow:10", "no answer within 2 s"),
        ("drip", "answer not finished within 2 s"),
        ("close", "closed without an answer"),
        ("garbage", "not HTTP: "),
    ],
)
def test_wrong_answers_have_reasons(tmp_path: Path, health: str, reason: str) -> None:
    with running(tmp_path, count=1) as program:
        set_health(program, health)
        with driving(program.targets(HEALTH)) as driver:
            for _ in range(2):  # and the worker is pinned anew in between
                (outcome,) = ask_all(driver).values()
                assert outcome.answer is Answer.WRONG
                assert outcome.reason.startswith(reason)
                assert outcome.seconds < 2.5


def test_an_endless_body_is_cut(tmp_path: Path) -> None:
    with running(tmp_path, count=1) as program:
        set_health(program, "flood")
        with driving(program.targets(HEALTH)) as driver:
            (outcome,) = ask_all(driver).values()
            assert (outcome.answer, len(outcome.body)) == (Answer.RIGHT, 512)


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize(("health", "answer"), [("slow:6", Answer.WRONG), ("tail:6", Answer.RIGHT)])
def test_an_application_that_takes_its_time_is_not_a_silent_loop(
    tmp_path: Path, health: str, answer: Answer, parser: str
) -> None:
    """h11 reads nothing behind a request until the application has ended it, be the answer late or long since whole."""
    with running(tmp_path, count=1, arguments=["--http", parser]) as program:
        set_health(program, health)
        with driving(program.targets(HEALTH)) as driver:
            driver.pin_all()
            began = time.monotonic()
            outcomes: list[HttpOutcome] = []
            ask = True  # its answer may be there before the look that asks is over
            while time.monotonic() - began < 5:
                (sight,) = driver.look(ask=ask).values()
                ask = False
                time.sleep(0.02)
                assert sight.unread_since is None or time.monotonic() - sight.unread_since < 0.5
                if sight.http:
                    outcomes.append(sight.http)
            assert [o.answer for o in outcomes] == [answer]


@pytest.mark.parametrize("hang", ["spin", "sleep"])
def test_hung_in_the_very_handler_each_tick_without_an_answer_is_a_wrong_one(tmp_path: Path, hang: str) -> None:
    with running(tmp_path, count=1) as program:
        set_health(program, f"hang:{hang}")
        with driving(program.targets(HEALTH)) as driver:
            driver.pin_all()
            reasons: list[str] = []

            def three_wrong() -> bool:
                (sight,) = driver.look(ask=True, settle_s=0.2).values()
                if sight.http is not None:
                    assert sight.http.answer is Answer.WRONG
                    reasons.append(sight.http.reason)
                return len(reasons) >= 3

            wait_for(three_wrong, 30, "three wrong answers")
            assert reasons[0] == "no answer within 2 s"
            assert all(reason.startswith("no answer for ") for reason in reasons[1:])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_that_is_never_read_is_a_pulse_and_no_wrong_answer(tmp_path: Path, family: str) -> None:
    import os
    import signal

    with running(tmp_path, count=1, family=family) as program, driving(program.targets(HEALTH)) as driver:
        driver.until(lambda s: all(x.pinned and x.unread_since is None for x in s.values()), "pinned and read")
        pid = program.processes[0].pid
        # Stopped between the check and the head: the look sees everything read, and asks.
        real = driver.pins._send

        def stop_and_send(pin: object, *, ask: bool) -> None:
            os.kill(pid, signal.SIGSTOP)
            real(pin, ask=ask)  # type: ignore[arg-type]

        driver.pins._send = stop_and_send  # type: ignore[method-assign, assignment]
        asked_at = time.monotonic()
        sights = driver.look(ask=True)
        driver.pins._send = real  # type: ignore[method-assign]
        sights = driver.until(lambda s: any(x.http for x in s.values()), "the probe's end")
        (sight,) = sights.values()
        assert sight.http is not None
        assert (sight.http.answer, sight.pinned) == (Answer.UNASKED, True)
        assert sight.unread_since is not None
        assert asked_at <= sight.unread_since < asked_at + 1
        sights = driver.until(lambda s: any((x.lag_s or 0) > 3 for x in s.values()), "lag since the head", ask=True)
        assert all(x.http is None for x in sights.values())
        inode = next(iter(driver.pins._pins.values()))._inode
        os.kill(pid, signal.SIGCONT)
        driver.until(
            lambda s: any(p._inode != inode for p in driver.pins._pins.values())
            and all(x.unread_since is None for x in s.values()),
            "pinned anew after it was read",
        )  # fmt: skip
        (outcome,) = ask_all(driver).values()
        assert outcome.answer is Answer.RIGHT


def test_a_worker_that_hangs_in_the_probe_itself(tmp_path: Path) -> None:
    """The path's own handler blocks: the head was read, so the answer is wrong; the next connection is not accepted."""
    with driven(tmp_path, Request("/hang/sleep", timeout_s=1.0), count=1) as (_, driver):
        (outcome,) = ask_all(driver).values()
        assert (outcome.answer, outcome.reason) == (Answer.WRONG, "no answer within 1 s")
        driver.until(lambda s: any(x.queued_since for x in s.values()), "a queued connection")


def test_at_limit_concurrency_it_is_busy(tmp_path: Path) -> None:
    options = Options(limit_concurrency=20)
    arguments = ["--limit-concurrency", "20"]
    with driven(tmp_path, HEALTH, count=1, arguments=arguments, options=options) as (program, driver):
        assert [o.answer for o in ask_all(driver).values()] == [Answer.RIGHT]
        clients = []
        for _ in range(20):
            client = socket.create_connection((program.address.host, program.address.port))
            client.sendall(b"GET / HTTP/1.1\r\nX: ")
            clients.append(client)
        outcomes = ask_all(driver)
        assert [(o.answer, o.status) for o in outcomes.values()] == [(Answer.BUSY, 503)]
        for client in clients:
            client.close()


def test_a_503_of_the_application_is_not_busy(tmp_path: Path) -> None:
    with running(tmp_path, count=1) as program:
        set_health(program, "503")
        with driving(program.targets(HEALTH)) as driver:
            assert [(o.answer, o.reason) for o in ask_all(driver).values()] == [(Answer.WRONG, "status 503")]


@pytest.mark.parametrize("family", FAMILIES)
def test_over_tls(tmp_path: Path, family: str) -> None:
    arguments = certificate(tmp_path)
    how = {"count": 2, "family": family, "arguments": arguments, "options": Options(tls=True)}
    with driven(tmp_path, HEALTH, **how) as (_, driver):
        for _ in range(3):
            outcomes = ask_all(driver)
            assert [o.answer for o in outcomes.values()] == [Answer.RIGHT] * 2
            assert all(f'"pid": {pid}'.encode() in o.body for pid, o in outcomes.items())
        assert driver.pins.connects <= 40


def test_what_the_user_sets_reaches_the_application(tmp_path: Path) -> None:
    request = Request("/a b?x=ü", host="example.org", headers=(("X-Probe", "1"),), expect=((404, 404),))
    with running(tmp_path, count=1) as program:
        with driving(program.targets(request)) as driver:
            (outcome,) = ask_all(driver).values()
            assert (outcome.answer, outcome.status) == (Answer.RIGHT, 404)
            assert b'"path": "/a b"' in outcome.body
        assert "/a%20b?x=%C3%BC" in program.log()


def test_no_free_thread_is_no_evidence_and_the_pulse_goes_on(tmp_path: Path) -> None:
    with driven(tmp_path, Request("/health", timeout_s=0.3), threads=1, count=1) as (_, driver):
        driver.pin_all()
        release = threading.Event()
        driver.pool.submit(release.wait, 20)
        try:
            (outcome,) = ask_all(driver).values()
            assert outcome.answer is Answer.UNASKED
            pin = next(iter(driver.pins._pins.values()))
            before = pin._head_bytes
            driver.until(lambda s: pin._head_bytes > before, "another pulse")
        finally:
            release.set()
        assert [o.answer for o in ask_all(driver).values()] == [Answer.RIGHT]


def test_a_closed_pool_is_trouble(tmp_path: Path) -> None:
    with running(tmp_path, count=1) as program, driving(program.targets(HEALTH)) as driver:
        driver.until(lambda s: all(x.pinned and x.unread_since is None for x in s.values()), "pinned and read")
        driver.pool.shutdown()
        (sight,) = driver.look(ask=True).values()
        assert sight.pinned
        assert sight.trouble.startswith("no HTTP probe")


def test_let_go_in_the_middle_of_a_probe(tmp_path: Path) -> None:
    with running(tmp_path, count=1) as program:
        set_health(program, "slow:10")
        with driving(program.targets(Request("/health", timeout_s=30.0))) as driver:
            driver.until(lambda s: all(x.pinned and x.unread_since is None for x in s.values()), "pinned and read")
            driver.look(ask=True)
            driver.pins.let_go(driver.targets[0].worker)
            began = time.monotonic()
            driver.pool.shutdown()
            assert time.monotonic() - began < 5, "the thread was woken"


# -- what no worker would say ----------------------------------------------------------------------------------------


def probe_with(answer: Callable[[socket.socket], None], timeout_s: float = 1.0) -> tuple[HttpOutcome, HttpProbe]:
    """A probe on one end of a socketpair, ``answer`` on the other after the head was read."""
    near, far = socket.socketpair()
    connection = PlainSocket(near.family, near.type, fileno=near.detach())
    connection.setblocking(False)
    request = Request("/", timeout_s=timeout_s)
    target = Target(WorkerId("web:web", 1, 1), Address("unix", path="/x"), Options(), request)
    probe = HttpProbe(Link(connection), target, request, time.monotonic)
    thread = threading.Thread(target=probe.run)
    thread.start()
    try:
        with far:
            far.settimeout(10)
            head = b""
            while b"\r\n\r\n" not in head:
                head += far.recv(65536)
            with contextlib.suppress(OSError):  # cut off, as it should be
                answer(far)
            if getattr(answer, "stays", False):
                thread.join(20)
        thread.join(20)
        assert probe.done.is_set()
    finally:
        probe.abandon()
    return probe.outcome, probe


def say(data: bytes) -> Callable[[socket.socket], None]:
    return functools.partial(lambda data, far: far.sendall(data), data)


@pytest.mark.parametrize(
    ("data", "answer", "reason"),
    [
        (b"", Answer.WRONG, "closed without an answer"),
        (b"SSH-2.0-x\r\n", Answer.WRONG, "not HTTP: b'SSH-2.0-x\\r\\n'"),
        (b"HTTP/1.1 200 OK\r\n\r\n", Answer.RIGHT, ""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", Answer.WRONG, "closed in the middle of its answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", Answer.WRONG, "not HTTP: "),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + b"HTTP/1.1 204 No\r\n\r\n", Answer.RIGHT, ""),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000, Answer.WRONG, "not HTTP: a head of more than 64 KiB"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000, Answer.WRONG, "not HTTP: "),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n", Answer.WRONG, "not HTTP: "),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", Answer.RIGHT, ""),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", Answer.RIGHT, ""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\n" + b"z" * 70_000, Answer.RIGHT, ""),
        (b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n", Answer.WRONG, "status 999"),
        (b"HTTP/1.1 abc\r\n\r\n", Answer.WRONG, "not HTTP: "),
    ],
)
def test_answers(data: bytes, answer: Answer, reason: str) -> None:
    outcome, _ = probe_with(say(data))
    assert outcome.answer is answer
    assert outcome.reason.startswith(reason)
    assert bool(reason) == bool(outcome.reason)


def test_one_total_deadline_over_a_dripped_head() -> None:
    def drip(far: socket.socket) -> None:
        for byte in b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100:
            far.sendall(bytes([byte]))
            time.sleep(0.05)

    began = time.monotonic()
    outcome, _ = probe_with(drip, timeout_s=0.5)
    assert outcome.reason == "answer not finished within 0.5 s"
    assert outcome.seconds < 0.7
    assert time.monotonic() - began < 40


def malformed(seed: int) -> bytes:
    """An answer out of likely pieces, cut, doubled and flipped at random."""
    chance = random.Random(seed)
    pieces = [
        b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 500 X\r\n", b"HTTP/1.1 ", b"HTTP/9.9 200\r\n", b"\r\n", b"\r\n\r\n",
        b"\x00\xff\xfe",
        b"Content-Length: ", b"-1\r\n", b"5\r\n", b"1e9\r\n", b"9" * 400 + b"\r\n", b"Transfer-Encoding: chunked\r\n",
        b"ffffffffffffffff\r\n", b"0\r\n\r\n", b"5\r\nabcde\r\n", b"-5\r\n", b"Set-Cookie: " + b"=;," * 50 + b"\r\n",
        b"Connection: close\r\n", b"Content-Encoding: gzip, br, deflate\r\n", b"X" * 70_000, b": " * 30,
        b"Location: http://[\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 101 Switching\r\n\r\n", "Ü: ü\r\n".encode(), b" folded\r\n",
        bytes(range(256)),
    ]  # fmt: skip
    data = b"".join(chance.choice(pieces) for _ in range(chance.randint(0, 12)))
    if chance.random() < 0.7:
        data = b"HTTP/1.1 200 OK\r\n" + data
    for _ in range(chance.randint(0, 3)):
        at = chance.randint(0, len(data))
        data = data[:at] + bytes([chance.randint(0, 255)]) + data[at + 1 :]
    return data[: chance.randint(0, len(data))] if chance.random() < 0.2 else data


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.acceptance)])
def test_malformed_answers(count: int, figures: Callable[..., None]) -> None:
    """A verdict within the deadline, no fault of ours, memory flat."""
    seen: dict[Answer, int] = {}
    peak_kib = 0
    slowest_s = 0.0
    for seed in range(count):
        if seed == count // 3:
            peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        answer = say(malformed(seed))
        if seed % 50 == 0:  # some do not close, so that the deadline is what ends them
            answer.stays = True  # type: ignore[attr-defined]
        outcome, _ = probe_with(answer, timeout_s=0.3)
        assert outcome.answer in (Answer.RIGHT, Answer.WRONG), f"seed {seed}: {outcome}"
        assert len(outcome.body) <= 512
        assert len(outcome.reason) < 300
        slowest_s = max(slowest_s, outcome.seconds)
        seen[outcome.answer] = seen.get(outcome.answer, 0) + 1
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_kib
    figures(count=count, seen={a.value: n for a, n in seen.items()}, grown_kib=grown_kib, slowest_s=round(slowest_s, 3))
    assert slowest_s < 1.0
    assert grown_kib < 4096
    assert len(seen) == 2


def test_requests_is_not_imported_without_a_path() -> None:
    import subprocess
    import sys

    code = "import sys, supervisor_uvicorn.probe; sys.exit('requests' in sys.modules or 'urllib3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


assert about()["uvicorn"]
