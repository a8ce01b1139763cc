"""A minute of the soak in every run, the hour among the acceptance tests; by hand: ``python3 tests/soak``."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

import pytest

from soak.flat import trend
from soak.soak import soak

SEED = int(os.environ.get("SOAK_SEED", "10"))  # of the short part, so that each run of the tests is the same


def run(minutes: float, seed: int, figures: Callable[..., None]) -> dict[str, Any]:
    print(f"seed {seed}")  # before anything can go wrong
    found = soak(minutes, seed)
    figures(seed=seed, **found)
    assert found["wrong"] == []
    return found


def test_a_minute(figures: Callable[..., None]) -> None:
    found = run(1, SEED, figures)
    assert found["found"] >= 2
    assert found["restarts"]["rolling"] >= 3


@pytest.mark.acceptance
@pytest.mark.timeout(4500)
def test_an_hour(figures: Callable[..., None]) -> None:
    found = run(60, random.SystemRandom().randrange(10**6), figures)
    assert found["found"] >= 60
    assert {"silent", "rolling", "max_rss"} <= set(found["restarts"])


def test_what_grows_is_not_flat() -> None:
    steady = [(float(second), 50.0 + second % 2) for second in range(100)]
    growing = [(float(second), 50.0 + 0.1 * second) for second in range(100)]
    early = [(float(second), min(second, 10.0)) for second in range(100)]
    assert trend(steady, 10, 2).flat
    assert not trend(growing, 10, 2).flat
    assert trend(early, 10, 2).flat, "what only warms up is flat"
    with pytest.raises(ValueError, match="at least 3"):
        trend(steady, 98, 2)
