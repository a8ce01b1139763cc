"""A character a report."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from verbs_desk import worker

from supervisor_uvicorn.model import Verdict
from supervisor_uvicorn.verbs.trend import ASCII, BLOCKS, MOST_REPORTS, STEPS_S, Trends, mark


@pytest.mark.parametrize(
    ("more", "shown"),
    [
        ({"lag_s": 0.0}, "▁"),
        ({"lag_s": 0.001}, "▁"),
        ({"lag_s": 0.0011}, "▂"),
        ({"lag_s": 0.2}, "▆"),
        ({"lag_s": 1.0}, "▇"),
        ({"lag_s": 29.0}, "█"),
        ({"lag_s": None}, " "),
        ({"verdict": "silent", "lag_s": 31.0}, "!"),
        ({"verdict": "failing"}, "x"),
        ({"verdict": "starting", "lag_s": None}, "s"),
        ({"verdict": "stopping"}, "d"),
        ({"verdict": "unknown"}, " "),
        ({"verdict": "of a later version"}, " "),
        ({"watched": False}, " "),
    ],
)
def test_marks(more: dict[str, Any], shown: str) -> None:
    assert mark(worker(**more), blocks=True) == shown


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_more_lag_is_never_a_lower_block(one_s: float, other_s: float) -> None:
    low, high = sorted((one_s, other_s))
    for steps, blocks in ((BLOCKS, True), (ASCII, False)):
        assert steps.index(mark(worker(lag_s=low), blocks)) <= steps.index(mark(worker(lag_s=high), blocks))


def test_every_step_and_every_verdict_looks_different() -> None:
    for steps in (BLOCKS, ASCII):
        letters = {mark(worker(verdict=one.value, lag_s=None), True) for one in Verdict}
        assert len(steps) == len(set(steps)) == len(STEPS_S) + 1
        assert not letters & set(steps)
    assert ASCII.isascii()


def test_the_newest_at_the_right_and_no_more_than_the_last_thirty() -> None:
    trends = Trends(blocks=False)
    assert trends.of("web:web-0") == ""
    for lag_s in (0.0005, 0.02):
        trends.add([worker(lag_s=lag_s)])
    trends.add([worker(pid=99, verdict="starting", lag_s=None), worker("web:web-1")])
    assert (trends.of("web:web-0"), trends.of("web:web-1")) == (".=s", "."), "a restart is a part of it"
    for _ in range(40):
        trends.add([worker(verdict="silent")])
    assert trends.of("web:web-0") == "!" * MOST_REPORTS
    assert trends.of("web:web-1") == "", "who is gone is forgotten"
