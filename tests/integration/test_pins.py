"""Pinned connections and the pulse, on real uvicorn workers that share one socket."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.interpreter import about
from harness.waiting import wait_for
from real_uvicorn import Program, driving, json_of, running

from supervisor_uvicorn.kernel import proc
from supervisor_uvicorn.kernel.errors import Exhausted, Refused
from supervisor_uvicorn.kernel.sock_diag import SockDiag
from supervisor_uvicorn.model import Address, Options, WorkerId
from supervisor_uvicorn.probe import Pins, Sight, Target
from supervisor_uvicorn.probe.acquire import Acquirer

ROOT = Path(__file__).parents[2]
LOOPS = ["asyncio", *(["uvloop"] if about()["uvloop"] else [])]
PARSERS = ["h11", *(["httptools"] if about()["httptools"] else [])]
FAMILIES = ["tcp", "unix"]


def certificate(scratch: Path) -> list[str]:
    """A self-signed certificate; uvicorn's arguments for it."""
    key, cert = scratch / "key.pem", scratch / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )  # fmt: skip
    return ["--ssl-keyfile", str(key), "--ssl-certfile", str(cert)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("parser", PARSERS)
def test_a_blocked_worker_and_no_other_is_unread(tmp_path: Path, family: str, loop: str, parser: str) -> None:
    with running(tmp_path, family=family, arguments=["--loop", loop, "--http", parser]) as program:
        with driving(program.targets()) as driver:
            driver.pin_all()
            hung = program.hang_one()
            sights = driver.until(
                lambda s: any(x.unread_since is not None and (x.lag_s or 0) > 1 for x in s.values()), "lag over 1 s"
            )
            unread = {w.pid for w, s in sights.items() if s.lag_s is not None and s.lag_s > 0.5}
            assert unread == {hung.pid}
            assert all(s.pinned and not s.trouble for s in sights.values())
            well = [s.lag_s for w, s in sights.items() if w.pid != hung.pid]
            assert all(lag_s is not None and lag_s < 0.5 for lag_s in well)
        assert "WARNING" not in program.log()  # h11 warns of a head that it refuses


@pytest.mark.parametrize("kind", ["spin", "gil", "stop"])
def test_other_ways_to_stand_still(tmp_path: Path, kind: str) -> None:
    with running(tmp_path, count=2) as program, driving(program.targets()) as driver:
        driver.pin_all()
        if kind == "stop":
            hung_pid = program.processes[0].pid
            os.kill(hung_pid, signal.SIGSTOP)
        else:
            hung_pid = 0
            program.send(f"/hang/{kind}", wait=False)
        sights = driver.until(lambda s: any((x.lag_s or 0) > 1 for x in s.values()), "lag over 1 s")
        (unread,) = [w.pid for w, s in sights.items() if s.unread_since is not None and (s.lag_s or 0) > 0.5]
        assert not hung_pid or unread == hung_pid


def test_the_loop_comes_back(tmp_path: Path) -> None:
    with running(tmp_path, count=2) as program, driving(program.targets()) as driver:
        driver.pin_all()
        program.send("/block?s=1.5", wait=False)
        driver.until(lambda s: any((x.lag_s or 0) > 0.5 for x in s.values()), "lag while it blocks")
        sights = driver.until(lambda s: all(x.unread_since is None for x in s.values()), "everything read again")
        assert all(s.pinned for s in sights.values())
        # The last value seen while it was unread, or when it was found to be read, is the length of the block.
        longest = max(s.lag_s or 0 for seen in driver.seen for s in seen.values())
        assert 1.0 < longest < 5


def test_our_own_lateness_is_not_the_workers_lag(tmp_path: Path) -> None:
    """We stand still between a pulse and the look at it, as on a crowded machine, or with 256 workers to see to."""
    told: list[float] = []
    with running(tmp_path, count=1) as program, driving(program.targets()) as driver:
        driver.pins._read_after = lambda worker, lag_s: told.append(lag_s)
        driver.pin_all()
        for _ in range(5):
            driver.look()
            driver.look(settle_s=0.0)  # a pulse goes out
            pid = program.processes[0].pid
            before = proc.ticks(pid).switches
            wait_for(lambda: proc.ticks(pid).switches >= before + 5, 30, "half a second of its loop")  # noqa: B023
        driver.look()
        assert len(told) >= 8
        assert max(told) < 0.2, told


@pytest.mark.parametrize("family", FAMILIES)
def test_acquisition_of_idle_workers(tmp_path: Path, family: str, figures: Callable[..., None]) -> None:
    with running(tmp_path, family=family) as program:
        counts = []
        for _ in range(10):
            with driving(program.targets()) as driver:
                driver.pin_all()
                counts.append(driver.pins.connects)
        figures(connects=sorted(counts))
        assert "WARNING" not in program.log()


def test_a_pin_is_really_that_workers(tmp_path: Path) -> None:
    """Each worker must answer on its own pin: finish the heads by hand and read the pids."""
    with running(tmp_path) as program, driving(program.targets()) as driver:
        driver.pin_all()
        for worker, pin in driver.pins._pins.items():
            connection = pin._link.socket
            connection.settimeout(10)
            connection.sendall(b"\r\n\r\n")
            head = connection.recv(65536)
            assert head.startswith(b"HTTP/1.1 404") or b"pid" in head or str(worker.pid).encode() in head
            assert proc.socket_inode(worker.pid, pin._fd) == pin._inode


def test_end_of_file_when_a_worker_stops(tmp_path: Path) -> None:
    with running(tmp_path, count=2) as program, driving(program.targets()) as driver:
        driver.pin_all()
        leaving = program.processes[0]
        leaving.terminate()
        target = driver.targets[0]
        sights = driver.until(lambda s: not s[target.worker].pinned, "the pin let go")
        assert sights[target.worker].unread_since is None
        leaving.wait(20)
        sights = driver.look()
        assert (sights[target.worker].pinned, sights[target.worker].trouble) == (False, "")
        assert sights[driver.targets[1].worker].pinned
        # A new worker under the same name is another one, and is pinned in its turn.
        program.processes[0] = program.start()
        program.processes.pop()
        program.wait_until_serving()
        driver.targets = program.targets()
        driver.pin_all()


def test_a_connection_that_only_a_forked_helper_keeps(tmp_path: Path) -> None:
    """The worker ends, its helper holds the descriptor: the end of file never comes, and it is merely not pinned."""
    with running(tmp_path, count=1) as program, driving(program.targets()) as driver:
        driver.pin_all()
        helper = int(str(json_of(program.send("/fork"))["helpers"]).strip("[]"))
        worker = program.processes[0]
        worker.kill()
        wait_for(lambda: proc.status(worker.pid).state == "Z", 10, "the worker's end")
        try:
            sights = driver.until(lambda s: not s[driver.targets[0].worker].pinned, "not pinned", may_acquire=False)
            assert all(s.unread_since is None for s in sights.values())
            assert proc.born(helper)
        finally:
            os.kill(helper, signal.SIGKILL)


def test_hung_before_it_was_pinned_is_queued(tmp_path: Path) -> None:
    with running(tmp_path, count=1) as program, driving(program.targets()) as driver:
        program.send("/block?s=2", wait=False)
        wait_for(lambda: proc.status(program.processes[0].pid).state == "S", 5, "sleep")
        sights = driver.until(lambda s: any(x.queued_since is not None for x in s.values()), "a queued connection")
        since = next(iter(sights.values())).queued_since
        sights = driver.look()
        assert next(iter(sights.values())).queued_since == since, "the same connection, not another one"
        assert driver.pins.connects == 1
        # At last it is accepted, and serves as the pin.
        driver.pin_all()
        assert driver.pins.connects == 1


def test_limit_concurrency_leaves_no_connection(tmp_path: Path) -> None:
    options = Options(limit_concurrency=2)
    arguments = ["--limit-concurrency", "2"]
    how = {"count": 1, "arguments": arguments, "options": options}
    with running(tmp_path, **how) as program, driving(program.targets()) as driver:
        sights = driver.look()
        assert list(sights.values()) == [Sight(trouble="limit-concurrency", pinnable=False)]
        assert driver.pins.connects == 0
        for _ in range(20):
            driver.look(ask=True)
            assert b" 503 " not in program.send("/pid").partition(b"\r\n")[0]


@pytest.mark.parametrize("parser", PARSERS)
def test_a_head_is_renewed_before_it_is_too_large(tmp_path: Path, parser: str) -> None:
    options = Options(max_head_bytes=400)
    arguments = ["--http", parser, "--h11-max-incomplete-event-size", "400"]
    with running(tmp_path, count=2, arguments=arguments, options=options) as program:
        with driving(program.targets()) as driver:
            driver.pin_all()
            first = {w: pin._inode for w, pin in driver.pins._pins.items()}
            for _ in range(500):
                driver.look(settle_s=0.005)
            sights = driver.pin_all()
            assert all(s.pinned for s in sights.values())
            assert all(pin._inode != first[w] for w, pin in driver.pins._pins.items())
        assert "WARNING" not in program.log()


@pytest.mark.parametrize("pulses", [500, pytest.param(20_000, marks=pytest.mark.acceptance)])
def test_pulses_leave_no_line_in_the_log(tmp_path: Path, pulses: int, figures: Callable[..., None]) -> None:
    with running(tmp_path, count=2, arguments=["--http", "h11"]) as program:
        before = program.log()
        with driving(program.targets()) as driver:
            driver.pin_all()
            sent = 0
            began = time.monotonic()
            last: dict[object, int] = {}
            while sent < pulses:
                assert time.monotonic() - began < 600
                driver.look(settle_s=0.005)
                now = {w: pin._head_bytes for w, pin in driver.pins._pins.items()}
                sent += sum(count != last.get(w) for w, count in now.items())
                last = dict(now)
            figures(pulses=sent, seconds=round(time.monotonic() - began, 2))
        assert program.log() == before
        assert b"pid" in program.send("/pid")


# -- TLS -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("loop", LOOPS)
def test_tls(tmp_path: Path, family: str, loop: str) -> None:
    arguments = [*certificate(tmp_path), "--loop", loop]
    with running(tmp_path, count=2, family=family, arguments=arguments, options=Options(tls=True)) as program:
        before = program.log()
        with driving(program.targets()) as driver:
            driver.pin_all()
            driver.until(lambda s: all(p._head_bytes > 30 for p in driver.pins._pins.values()), "heads under way")
            assert len(driver.pins._pins) == 2
            inodes = {w: p._inode for w, p in driver.pins._pins.items()}
            for _ in range(50):
                sights = driver.look()
            assert all(s.pinned and (s.lag_s or 0) < 1 for s in sights.values())
            assert inodes == {w: p._inode for w, p in driver.pins._pins.items()}, "tickets are no reason to let go"
            os.kill(program.processes[0].pid, signal.SIGSTOP)
            sights = driver.until(lambda s: any((x.lag_s or 0) > 1 for x in s.values()), "lag over 1 s")
            assert [w.pid for w, s in sights.items() if (s.lag_s or 0) > 0.5] == [program.processes[0].pid]
        assert program.log() == before


def test_tls_hello_unread_counts(tmp_path: Path) -> None:
    """Blocked between the accept and the handshake: the ClientHello is the pulse."""
    how = {"count": 1, "arguments": certificate(tmp_path), "options": Options(tls=True)}
    with running(tmp_path, **how) as program, driving(program.targets()) as driver:
        process = program.processes[0]
        # accepted, and stopped before it can read: the ClientHello goes out after the inode is known
        real = driver.pins._acquirer._wait_and_use

        def stop_then_use(*how: object) -> bool:
            done = real(*how)  # type: ignore[arg-type]
            os.kill(process.pid, signal.SIGSTOP)
            return done

        driver.pins._acquirer._wait_and_use = stop_then_use  # type: ignore[method-assign]
        sights = driver.until(lambda s: any((x.lag_s or 0) > 0.5 for x in s.values()), "an unread ClientHello")
        assert next(iter(sights.values())).unread_since is not None
        os.kill(process.pid, signal.SIGCONT)
        driver.until(lambda s: all(x.pinned and x.unread_since is None for x in s.values()), "read at last")


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("loop", LOOPS)
def test_client_certificates(tmp_path: Path, known: bool, loop: str) -> None:
    """Known from the command line, or found out by the handshake: the pulse is a ClientHello that never ends."""
    arguments = [*certificate(tmp_path), "--ssl-cert-reqs", "2", "--loop", loop]
    arguments += ["--ssl-ca-certs", str(tmp_path / "cert.pem")]
    options = Options(tls=True, client_certificate=known)
    with running(tmp_path, count=2, arguments=arguments, options=options) as program:
        with driving(program.targets()) as driver:
            pins = driver.pins._pins
            driver.until(
                lambda _: len(pins) == 2 and all(pin._link.most_bytes for pin in pins.values()),
                "a ClientHello",
                ask=True,
            )
            before = program.log()
            connects = driver.pins.connects
            for _ in range(100):
                driver.look(ask=True)
            sights = driver.look()
            assert all(s.pinned and s.http is None for s in sights.values())
            assert driver.pins.connects == connects
            os.kill(program.processes[1].pid, signal.SIGSTOP)
            sights = driver.until(lambda s: any((x.lag_s or 0) > 1 for x in s.values()), "lag over 1 s")
            assert [w.pid for w, s in sights.items() if (s.lag_s or 0) > 0.5] == [program.processes[1].pid]
            os.kill(program.processes[1].pid, signal.SIGCONT)
            driver.until(lambda s: all(x.unread_since is None for x in s.values()), "read again")
            # renewed within 50 s: here by a clock that is that much later
            for pin in driver.pins._pins.values():
                pin.pinned_at -= 51
            inodes = {pin._inode for pin in driver.pins._pins.values()}
            driver.pin_all()
            assert not inodes & {pin._inode for pin in driver.pins._pins.values()}
        assert program.log() == before


# -- our own faults --------------------------------------------------------------------------------------------------


def test_faults_of_ours_are_trouble_and_no_evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(tmp_path, count=2) as program, driving(program.targets()) as driver:
        driver.pin_all()

        def exhausted(*_: object) -> None:
            raise Exhausted("sock_diag: Too many open files")

        def refused(*_: object) -> None:
            raise Refused("/proc/1/fd/7: Permission denied")

        with monkeypatch.context() as patched:
            patched.setattr(driver.diag, "tcp_answer", exhausted)
            os.kill(program.processes[0].pid, signal.SIGSTOP)
            sights = driver.look()
            sights = driver.look()
            stopped = sights[driver.targets[0].worker]
            assert (stopped.pinned, stopped.unread_since) == (False, None)
            assert "Too many open files" in stopped.trouble
            os.kill(program.processes[0].pid, signal.SIGCONT)
        with monkeypatch.context() as patched:
            patched.setattr(proc, "socket_inode", refused)
            os.kill(program.processes[0].pid, signal.SIGSTOP)
            driver.look()
            stopped = driver.look()[driver.targets[0].worker]  # only of what is unread is it asked who holds it
            assert not stopped.pinned
            assert "Permission denied" in stopped.trouble
            assert not stopped.pinnable
            os.kill(program.processes[0].pid, signal.SIGCONT)
        driver.until(lambda s: all(x.pinned and not x.trouble for x in s.values()), "well again")


def test_a_full_descriptor_table(tmp_path: Path) -> None:
    with running(tmp_path, count=2) as program, driving(program.targets()) as driver:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        held = []
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
            with contextlib.suppress(OSError):
                while len(held) < 300:
                    held.append(os.open(os.devnull, os.O_RDONLY))
            sights = driver.look()
            assert all(not s.pinned and "Too many open files" in s.trouble for s in sights.values())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for fd in held:
                os.close(fd)
        driver.pin_all()


@contextlib.contextmanager
def strange(program: Program) -> Iterator[list[Target]]:
    """Its targets, and one more whose process does not accept there."""
    with subprocess.Popen(["sleep", "300"]) as stranger:
        try:
            program.processes.append(stranger)
            targets = program.targets()
            program.processes.remove(stranger)
            yield targets
        finally:
            stranger.kill()


def test_attempts_that_gain_nothing_wait_for_a_tick(tmp_path: Path) -> None:
    """A target whose process does not accept there: nobody can be pinned, and we do not try all the time."""
    with running(tmp_path, count=1) as program, strange(program) as targets, driving(targets) as driver:
        driver.until(lambda s: s[targets[0].worker].pinned, "the real one pinned")
        for _ in range(5):
            driver.look()
        spent = driver.pins.connects
        for _ in range(20):
            sights = driver.look()
        assert driver.pins.connects == spent
        assert sights[targets[1].worker] == Sight()
        driver.look(ask=True)
        assert spent < driver.pins.connects <= spent + 4 * 2 + 8


MANY = [sys.executable, "-S", str(ROOT / "benchmarks" / "standin.py")]


def test_many_are_all_pinned(tmp_path: Path, figures: Callable[..., None]) -> None:
    with running(tmp_path, count=32, command=MANY) as program, driving(program.targets()) as driver:
        driver.until(lambda sights: all(sight.pinned for sight in sights.values()), "all pinned", 120, ask=True)
        figures(connects=driver.pins.connects, looks=len(driver.seen))


def test_among_many_more_attempts_are_made(tmp_path: Path) -> None:
    """The last one of twelve is not given up after three looks, and yet not tried for ever."""
    with (
        running(tmp_path, count=11, command=MANY) as program,
        strange(program) as targets,
        driving(targets) as driver,
    ):
        real = [target.worker for target in targets[:-1]]
        driver.until(lambda sights: all(sights[one].pinned for one in real), "the real ones", 120, ask=True)
        trying = 0
        for _ in range(30):
            spent = driver.pins.connects
            driver.look()
            trying += driver.pins.connects > spent
        # Half as many as there are workers; one may have been among the looks before.
        assert trying in (5, 6)


def test_nobody_listens(tmp_path: Path) -> None:
    with running(tmp_path, count=1) as program, driving(program.targets()) as driver:
        program.processes[0].kill()
        program.processes[0].wait()
        program.listening.close()
        assert list(driver.look().values()) == [Sight()]


def test_nothing_is_left_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with running(tmp_path, count=2) as program:
        worker = program.processes[0].pid
        sockets = sum(link.startswith("socket:") for link in proc.descriptors(worker).values())
        with driving(program.targets()) as driver:
            driver.pin_all()
            driver.pins.let_go(driver.targets[0].worker)
            driver.targets = driver.targets[1:]
            assert len(driver.look()) == 1
        wait_for(
            lambda: sum(link.startswith("socket:") for link in proc.descriptors(worker).values()) == sockets,
            10, "the worker's ends closed",
        )  # fmt: skip
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_pin_of_one_program_is_no_pin_of_another(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with running(tmp_path / "a", count=2) as first, running(tmp_path / "b", count=2, family="unix") as second:
        targets = [*first.targets(), *second.targets()]
        with driving(targets) as driver:
            driver.pin_all()
            assert len({pin._inode for pin in driver.pins._pins.values()}) == 4


def test_cost_of_a_look(tmp_path: Path, figures: Callable[..., None]) -> None:
    with running(tmp_path) as program, driving(program.targets()) as driver:
        driver.pin_all()
        times_s = []
        for _ in range(200):
            wait_for(lambda: driver.pins.recheck() or driver.pins.recheck_at is None, 5, "everything read", 0.001)
            began = time.perf_counter()
            driver.pins.look(driver.targets, may_acquire=True, ask=False)
            times_s.append(time.perf_counter() - began)
        figures(us_per_worker=round(sorted(times_s)[100] / 4 * 1e6))
        assert sorted(times_s)[100] < 0.01


def test_acquirer_keeps_one_connection_only(tmp_path: Path) -> None:
    with running(tmp_path, count=1) as program, driving(program.targets()) as driver:
        os.kill(program.processes[0].pid, signal.SIGSTOP)
        for _ in range(5):
            driver.look(ask=True)
        assert driver.pins.connects == 1
        acquirer: Acquirer = driver.pins._acquirer
        assert len(acquirer.queued) == 1
        driver.targets = []
        driver.look()
        assert not acquirer.queued


def test_unexpected_words_end_a_pin(tmp_path: Path) -> None:
    """A listener that speaks first: let go, and not tried at every look."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.setblocking(False)
        pid = os.getpid()
        address = Address("tcp", "127.0.0.1", listening.getsockname()[1])
        target = Target(WorkerId("web:web", pid, proc.born(pid)), address, Options())
        diag = SockDiag()
        pins = Pins(diag)
        try:
            assert pins.look([target], may_acquire=True, ask=False)[target.worker].queued_since is not None
            accepted, _ = listening.accept()
            with accepted:
                assert pins.look([target], may_acquire=True, ask=False)[target.worker].pinned
                accepted.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                assert not pins.look([target], may_acquire=True, ask=False)[target.worker].pinned
                connects = pins.connects
                for _ in range(5):
                    assert not pins.look([target], may_acquire=True, ask=False)[target.worker].pinned
                assert pins.connects == connects, "it did not last: only a TICK tries it again"
        finally:
            pins.close()
            diag.close()
