"""The lag histogram against the truth: blocks of 50, 200 and 800 ms at moments that the application itself tells.

A pulse goes out each 50 ms; it meets a block somewhere between its beginning and one pulse later, and is read when the
block ends. So each block has to be seen as long as it was, less one pulse at the most, and the luckiest pulse of many
has to have seen nearly all of it.
"""

from __future__ import annotations

import random
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from harness.supervisord import Program, Supervisord, free_port, watched
from harness.waiting import wait_for

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]

PULSE_S = 0.05
CLOSE = 0.2  # a share
SMALL_S = 0.025  # the pulses of an idle loop are read sooner
OURS_S = 0.01  # scheduling of two processes on one machine, at the end of a block
WORKER = "web:web-0"
LAG = "supervisor_uvicorn_worker_lag_seconds"


@dataclass(frozen=True)
class Seen:
    """The histogram of one worker: observations up to each bound, and their sum."""

    up_to: dict[float, float]
    total_s: float

    @property
    def count(self) -> float:
        return self.up_to[float("inf")]


def scraped(port: int) -> Seen:
    from prometheus_client.parser import text_string_to_metric_families

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    up_to: dict[float, float] = {}
    total_s = 0.0
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if family.name == LAG and sample.labels["worker"] == WORKER:
                if sample.name.endswith("_bucket"):
                    up_to[float(sample.labels["le"])] = sample.value
                elif sample.name.endswith("_sum"):
                    total_s = sample.value
    return Seen(up_to, total_s)


def quiet(port: int, after: Seen) -> Seen:
    """The histogram when two more pulses were read: what was under way is in it."""
    return wait_for(lambda: now if (now := scraped(port)).count >= after.count + 2 else None, 20, "two more pulses")


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize(("block_s", "times"), [(0.05, 60), (0.2, 40), (0.8, 25)])
def test_a_block_is_seen_as_long_as_it_was(loop: str, block_s: float, times: int, figures: Callable[..., None]) -> None:
    port = free_port()
    program = Program(numprocs=2, uvicorn=f"--loop {loop}")
    with watched(program, listen=f"--metrics {port} --pulse {PULSE_S} --silent-after 30") as site:
        seen = blocks(site, port, block_s, times)
    shares = [lag_s / truth_s for lag_s, truth_s in seen]
    figures(
        block_s=block_s,
        loop=loop,
        blocks=len(seen),
        least=round(min(shares), 3),
        mean=round(sum(shares) / len(shares), 3),
        most=round(max(shares), 3),
    )
    for lag_s, truth_s in seen:
        assert lag_s <= truth_s * (1 + CLOSE) + OURS_S, seen
        assert lag_s >= truth_s * (1 - CLOSE) - PULSE_S, seen
    assert max(shares) >= 1 - CLOSE, "no pulse has seen nearly all of its block"


def blocks(site: Supervisord, port: int, block_s: float, times: int) -> list[tuple[float, float]]:
    """(lag as seen, the truth) of each block."""
    die = random.Random(7)
    site.wait_pinned()
    connection = site.connect_to(WORKER, 30.0)
    found = []
    try:
        for _ in range(times):
            time.sleep(die.uniform(0, 2 * PULSE_S))  # so that blocks begin anywhere between two pulses
            before = scraped(port)
            _, told = connection.ask(f"/block-at?s={block_s}")
            after = quiet(port, before)
            small = after.up_to[SMALL_S] - before.up_to[SMALL_S]
            large = after.count - before.count - small
            assert large <= 1, f"{large} pulses in one block"
            # What is not small is the block; what is small is so by less than SMALL_S each, and 1 ms as a rule.
            lag_s = after.total_s - before.total_s - small * 0.001 if large else 0.0
            found.append((max(lag_s, 0.0), float(str(told["ended"])) - float(str(told["began"]))))
    finally:
        connection.close()
    return found
