"""What benchmarks.cost reads and computes, and the stand-in that it starts 256 times."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import cost, cost_measures, cost_tables
from benchmarks.standin import ANSWER, MOST_HEAD_BYTES, StandIn
from supervisor_uvicorn.uvicorn_command import arguments

# --- readings -------------------------------------------------------------------------------------------------------


def test_memory_of_a_process() -> None:
    found = cost_measures.memory(os.getpid())
    assert 0 < found.private_bytes <= found.pss_bytes <= found.rss_bytes
    with pytest.raises(FileNotFoundError):
        cost_measures.memory(2**22 + 1)


def test_memory_is_in_bytes() -> None:
    text = "5581-7ffc ---p 00000000 00:00 0    [rollup]\nRss:  100 kB\nPss:  60 kB\nPrivate_Clean:  3 kB\n"
    found = cost_measures.read_rollup(text + "Private_Dirty:  40 kB\nSwap: 0 kB\n")
    assert found == cost_measures.Memory(102_400, 61_440, 44_032)


METRICS = """# HELP supervisor_uvicorn_look_seconds How long one look at all workers took.
# TYPE supervisor_uvicorn_look_seconds histogram
supervisor_uvicorn_look_seconds_bucket{{le="0.001"}} {low}
supervisor_uvicorn_look_seconds_bucket{{le="0.1"}} {mid}
supervisor_uvicorn_look_seconds_bucket{{le="+Inf"}} {count}
supervisor_uvicorn_look_seconds_count {count}
supervisor_uvicorn_look_seconds_sum {sum}
supervisor_uvicorn_last_look_timestamp_seconds 1.7e+09
"""


def test_looks_since() -> None:
    before = cost_measures.read_metrics(METRICS.format(low="10.0", mid="11.0", count="12.0", sum="3.0"))
    after = cost_measures.read_metrics(METRICS.format(low="19.0", mid="21.0", count="22.0", sum="3.5"))
    found = after.since(before)
    assert (found.count, found.mean_s, found.all_within_s) == (10, pytest.approx(0.05), 0.1)
    assert before.all_within_s == float("inf")
    assert before.since(before).mean_s is None


def test_the_summary_of_strace() -> None:
    text = """% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 61.47    0.000603           1       514           recvfrom
 21.10    0.000207           2       161        12 futex
------ ----------- ----------- --------- --------- ----------------
100.00    0.000981           1       675        12 total
"""
    assert cost_measures.read_strace(text) == {"recvfrom": 514, "futex": 161}
    assert cost_measures.read_strace("") == {}


@pytest.mark.skipif(not cost_measures.can_trace(), reason="no strace here")
def test_system_calls_are_counted_and_the_process_goes_on(tmp_path: Path) -> None:
    line = "import time\nwhile True: time.sleep(0.05)"
    with subprocess.Popen([sys.executable, "-c", line]) as process:
        try:
            try:
                found = cost_measures.system_calls(process.pid, 1.0, tmp_path)
            except RuntimeError as refused:  # a container without ptrace
                pytest.skip(str(refused))
            assert found["clock_nanosleep"] >= 10
            assert "TracerPid:\t0" in Path(f"/proc/{process.pid}/status").read_text()
            assert process.poll() is None
            with pytest.raises(FileNotFoundError):
                cost_measures.system_calls(2**22 - 1, 0.1, tmp_path)
        finally:
            process.kill()


def test_whom_the_log_tells_to_be_pinned(tmp_path: Path) -> None:
    log = tmp_path / "listener.log"
    assert cost_measures.pinned(log) == set()
    log.write_text('{"event": "pinned", "pid": 7}\n{"event": "verdict", "pid": 8}\nnot json\n7\n{"event": "pin')
    assert cost_measures.pinned(log) == {7}


# --- what grows -----------------------------------------------------------------------------------------------------


def run(workers: int, listener: str = "looks", **figures: float) -> dict[str, object]:
    return {"kind": "stand-in", "workers": workers, "listener": listener, **figures}


def test_per_worker_is_of_the_two_ends() -> None:
    assert cost_tables.per_worker({4: 10.0, 16: 99.0, 64: 130.0}) == 2.0
    assert cost_tables.per_worker({4: 10.0}) is None


def test_steps() -> None:
    assert cost_tables.steps({16: 22.0, 4: 10.0, 64: 70.0}) == [(4, 16, 1.0), (16, 64, 1.0)]


def test_a_curve_is_not_a_line() -> None:
    assert cost_tables.off_the_line({4: 7, 16: 19, 64: 67, 256: 259}) == pytest.approx(0)
    curved = cost_tables.off_the_line({size: size * size for size in (4, 16, 64, 256)})
    assert curved is not None
    assert curved > cost_tables.STRAIGHT
    assert cost_tables.off_the_line({4: 1, 16: 2}) is None


def test_the_limits() -> None:
    sizes = (4, 64, 256)
    runs = [run(size, look_mean_s=0.1, looks_all_within_s=0.25) for size in sizes]
    for name, looks in (("ours", 10), ("quick", 50)):  # in ten seconds, in which 3 ms a worker come with the TICKs
        runs += [run(size, name, rss_bytes=28e6 + 21_000 * size, window_s=10.0, pinned=size,
                     listener_cpu_s=0.003 * size + looks * (0.001 + 90e-6 * size)) for size in sizes]  # fmt: skip
    limits = cost_tables.tables(runs, {})[0]
    found = {row[0]: (row[3], row[5]) for row in limits.rows}
    assert found["CPU, us a worker and look"] == ("90.0", "yes")
    assert found["memory, bytes a worker"] == ("21000.0", "no")
    assert found["a look, ms, mean"] == ("100.0", "yes")
    assert found["a look, ms, all within"] == ("250.0", "no")
    assert found["CPU of a look, off the line"][1] == "yes"


def test_failed_runs_leave_no_gap_in_the_tables() -> None:
    runs = [run(4, look_mean_s=0.001), run(16) | {"error": "AssertionError: no"}, {"environment": "x", "error": "no"}]
    assert cost_tables.tables(runs[1:], {}) == []
    assert [len(table.rows) for table in cost_tables.tables(runs, {})] == [0, 0, 0, 1, 0]


def test_sections_of_the_listeners() -> None:
    python = Path("/venv/bin/python")
    ours = cost.LISTENERS["looks"].section("looks", python, 8000, 9000)
    assert "--pulse 0.2 --metrics 127.0.0.1:9000" in ours
    assert "events=TICK_5," in ours
    assert "stderr_logfile={scratch}/looks.log" in ours
    checks = cost.LISTENERS["checks"].section("checks", python, 8000, 9000)
    assert "command=/venv/bin/supervisor_http_check -n web -g web -u /pid -p 8000" in checks
    assert "autostart=false" in ours
    assert "autostart=false" in checks


# --- the stand-in ---------------------------------------------------------------------------------------------------


def test_it_answers_no_sooner_than_a_whole_head() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as client:
        server = StandIn(listening)
        client.connect(listening.getsockname())
        client.settimeout(5)
        client.sendall(b"GET / HTTP/1.1\r\nX-Pulse: a")
        turns(server)
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(1)
        client.settimeout(5)
        client.sendall(b"\r\n\r\nGET / HT")
        turns(server)
        assert client.recv(1000) == ANSWER
        server.close()
        assert client.recv(1) == b""


def test_it_lets_go_of_what_has_ended_or_has_no_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = StandIn(listening)
        with socket.create_connection(listening.getsockname(), timeout=5) as endless:
            endless.sendall(b"x" * (MOST_HEAD_BYTES + 1))
            turns(server, 6)
            with contextlib.suppress(ConnectionResetError):
                assert endless.recv(1000) == b""
        turns(server)
        assert server._connections == {}
        server.close()


def turns(server: StandIn, count: int = 4) -> None:
    for _ in range(count):
        server.turn()


def test_it_is_taken_for_uvicorn_and_ends_at_term(tmp_path: Path) -> None:
    package = tmp_path / "uvicorn"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(Path(cost.standin.__file__).read_text())
    command = [sys.executable, "-S", "-m", "uvicorn", "--fd", "0", "stand:in"]
    assert arguments(command) == ["--fd", "0", "stand:in"]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        process = subprocess.Popen(command, stdin=listening, env={"PYTHONPATH": str(tmp_path)})
        try:
            with socket.create_connection(listening.getsockname(), timeout=20) as client:
                client.sendall(b"GET / HTTP/1.1\r\n\r\n")
                assert client.recv(1000) == ANSWER
            process.terminate()
            began = time.monotonic()
            assert process.wait(10) == 0
            assert time.monotonic() - began < 5
        finally:
            process.kill()
            process.wait()


def test_figures_of_fewer_workers_than_they_say_are_no_figures() -> None:
    def reached(pinned: int) -> str:
        run = {"kind": "uvicorn", "workers": 256, "listener": "own pulse", "pinned": pinned, "look_median_s": 0.01}
        table = cost_tables.tables([run], {})[0]
        return table.rows[0][table.columns.index("reached")]

    assert reached(256) == "yes"
    assert reached(5) == "no: 5 of 256 pinned"
