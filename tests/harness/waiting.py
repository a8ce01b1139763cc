"""Waiting for something to be true, never for a time to pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(predicate: Callable[[], T], deadline_s: float, what: str, every_s: float = 0.05) -> T:
    """The first true value of ``predicate``; AssertionError that says ``what`` was awaited after ``deadline_s``."""
    end = time.monotonic() + deadline_s
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {deadline_s:g} s for {what}; last seen: {value!r}")
        time.sleep(every_s)


def stays_true(predicate: Callable[[], object], duration_s: float, what: str, every_s: float = 0.25) -> None:
    """The opposite: AssertionError as soon as ``predicate`` is false within ``duration_s``. For "gets no restart"."""
    end = time.monotonic() + duration_s
    while time.monotonic() < end:
        value = predicate()
        assert value, f"{what} ended {end - time.monotonic():.1f} s too early: {value!r}"
        time.sleep(every_s)
