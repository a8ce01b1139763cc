"""What benchmarks.latency computes from its slices, and what it reads from wrk."""

from __future__ import annotations

import os
import random
import shutil
import statistics
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks import latency, latency_tables, paired, wrk
from benchmarks.recipe import cpu_s

# --- pairs ----------------------------------------------------------------------------------------------------------


def test_percents_are_of_the_first_of_each_pair() -> None:
    assert paired.percents([100, 200], [99, 220]) == pytest.approx([-1.0, 10.0])
    with pytest.raises(ValueError, match="shorter"):
        paired.percents([100, 200], [99])


def test_the_interval_is_that_of_the_sign_test() -> None:
    """Tables of the sign test: of 20 values the sixth from either end, of 6 the outermost, of 5 none."""
    found = paired.difference(range(1, 21))
    assert found is not None
    assert (found.pairs, found.median, found.low, found.high) == (20, 10.5, 6, 15)
    six = paired.difference([3, 1, 2, 6, 5, 4])
    assert six is not None
    assert (six.low, six.high) == (1, 6)
    five = paired.difference([1, 2, 3, 4, 5])
    assert five is not None
    assert (five.low, five.high) == (None, None)
    assert not five.above(-100)
    assert paired.difference([]) is None


def test_the_interval_holds_the_true_median_as_often_as_it_says() -> None:
    chance = random.Random(6)
    held = 0
    for _ in range(400):
        found = paired.difference([chance.gauss(-0.5, 3) for _ in range(40)])
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        held += found.low <= -0.5 <= found.high
    assert held / 400 > 0.92


def test_above_means_the_whole_interval() -> None:
    assert paired.Difference(60, -0.1, -0.9, 0.5).above(-1)
    assert not paired.Difference(60, -0.1, -1.1, 0.5).above(-1)


def test_who_comes_first_changes_from_pair_to_pair() -> None:
    assert list(paired.orders(3)) == [(False, True), (True, False), (False, True)]


# --- wrk ------------------------------------------------------------------------------------------------------------


def test_what_the_script_writes_is_read() -> None:
    line = '{"requests": 2000, "duration_us": 2000000, "p50_us": 38.0, "p99_us": 3744, "p999_us": 8317, "failed": 3}'
    load = wrk.read(f"Running 1s test\n{wrk.MARK}{line}\n")
    assert (load.per_second, load.p50_ms, load.p999_ms, load.failed) == (1000, 0.038, 8.317, 3)
    with pytest.raises(RuntimeError, match="no figures"):
        wrk.read("unable to connect")


@pytest.mark.skipif(shutil.which("wrk") is None, reason="no wrk here (Debian: apt-get install wrk)")
def test_the_kernels_count_of_requests_is_that_of_wrk() -> None:
    """What wrk has written in bytes is what it has asked: the slices stand on it."""

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        count = 0

        def do_GET(self) -> None:
            type(self).count += 1
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"tcp://127.0.0.1:{server.server_port}"
            with wrk.running(url, 2, 1) as load:
                counts = [0.0]
                until = time.monotonic() + 0.8
                while time.monotonic() < until:
                    counts.append(load.requests())
                asked = Answer.count
                ended = load.result()
        finally:
            server.shutdown()
            thread.join()
    assert ended.failed == 0
    assert counts == sorted(counts)
    assert counts[-1] > 100
    assert counts[-1] == pytest.approx(asked, rel=0.02, abs=50)  # which goes on between the two readings
    assert ended.requests == pytest.approx(Answer.count, abs=4)


def test_nobody_there_is_an_error() -> None:
    if shutil.which("wrk") is None:
        pytest.skip("no wrk here (Debian: apt-get install wrk)")
    with pytest.raises(RuntimeError):
        wrk.run("tcp://127.0.0.1:9", 1, 1)


# --- CPU time -------------------------------------------------------------------------------------------------------


def test_cpu_time_is_that_of_the_process() -> None:
    import time

    before = time.process_time()
    found = cpu_s(os.getpid())
    assert before <= found <= time.process_time()
    with pytest.raises(OSError, match="Invalid argument"):
        cpu_s(2**22 + 1)  # above the kernel's largest pid


# --- tables ---------------------------------------------------------------------------------------------------------

TITLES = {name: one.title for name, one in latency.VARIANTS.items()}


def watched_runs(costs_percent: float, pairs: int = 40) -> list[dict[str, object]]:
    """On a machine that becomes slower by a third while it is measured."""
    chance = random.Random(1)
    runs: list[dict[str, object]] = []
    for pair, order in enumerate(paired.orders(pairs)):
        for at, on in enumerate(order):
            drift = 20_000 * (1 - (2 * pair + at) / (6 * pairs)) * chance.uniform(0.995, 1.005)
            cost = 1 - costs_percent / 100 if on else 1
            runs.append({
                "part": "watched", "variant": "pulse-1", "pair": pair, "watched": on, "per_second": drift * cost,
                "server_cpu_us_a_request": 80 / cost, "listener_cpu_percent": 0.1 if on else 0.0,
            })  # fmt: skip
    return runs


@pytest.mark.parametrize(("costs_percent", "word"), [(0.1, "shown"), (3.0, "not shown")])
def test_a_cost_is_told_from_a_drift_of_the_machine(costs_percent: float, word: str) -> None:
    (table,) = latency_tables.tables(watched_runs(costs_percent), TITLES)
    (row,) = table.rows
    assert row[0] == "pulse 1 s"
    assert row[1] == "40"
    assert row[5] == word
    pairs = latency_tables.pairs_of(watched_runs(costs_percent), "watched", "pulse-1")
    found = latency_tables.paired_difference(pairs, "per_second")
    assert found is not None
    assert found.median == pytest.approx(-costs_percent, abs=0.3)


def test_half_a_pair_and_a_failed_run_do_not_count() -> None:
    runs = watched_runs(0.1, 8)
    runs[3]["error"] = "wrk: it broke"
    runs.append({"part": "watched", "variant": "pulse-1", "run_of_wrk": True, "failed": 2})
    (table,) = latency_tables.tables(runs, TITLES)
    assert table.rows[0][1] == "7"
    assert table.rows[0][-1] == "2, 1 runs"


def keepalive(server: str, number: int, p50_ms: float) -> dict[str, object]:
    return {"part": "keepalive", "server": server, "round": number, "p50_ms": p50_ms, "p99_ms": 1.0,
            "per_second": 1000.0, "failed": 0}  # fmt: skip


def test_times_port_is_of_each_round() -> None:
    runs = [keepalive(latency_tables.PORT, number, 0.04 * (1 + number)) for number in range(3)]
    runs += [keepalive("recipe", number, 0.05 * (1 + number)) for number in range(3)]
    runs += [keepalive("bare", number, 44.0) for number in range(3)]
    assert latency_tables.times_port(runs, "recipe") == pytest.approx(1.25)
    (table,) = latency_tables.tables(runs, TITLES)
    assert {row[0]: row[6] for row in table.rows} == {latency_tables.PORT: "yes", "recipe": "yes", "bare": "no"}


def test_side_by_side_is_against_the_same_round() -> None:
    runs: list[dict[str, object]] = []
    for number in range(8):
        speed = 20_000 - 1000 * number
        for server, share in ((latency_tables.PORT, 1.0), ("recipe", 0.98)):
            runs.append({"part": "beside", "server": server, "round": number, "per_second": speed * share,
                         "p50_ms": 1.0, "p99_ms": 2.0, "p999_ms": 3.0, "failed": 0})  # fmt: skip
    (table,) = latency_tables.tables(runs, TITLES)
    assert table.rows[0][6] == "-"
    assert table.rows[1][6].startswith("-2.00")
    assert statistics.median([20_000 - 1000 * number for number in range(8)]) == 16_500
    assert table.rows[0][2] == "16500"
