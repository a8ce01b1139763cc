"""Our replace and that of the standard library are the same."""

from __future__ import annotations

import dataclasses

import pytest

from supervisor_uvicorn.frozen import replace
from supervisor_uvicorn.model import Verdict
from supervisor_uvicorn.verdict import Past

BEFORE = Past("web:web-0", None, 1.0, lag_s=0.5)


def test_it_makes_the_value_that_the_standard_library_makes() -> None:
    for changes in ({}, {"lag_s": None}, {"verdict": Verdict.SILENT, "reason": "no reading for 30 s", "since": 2.0}):
        after = replace(BEFORE, **changes)
        assert after == dataclasses.replace(BEFORE, **changes)
        assert type(after) is Past
        assert vars(after).keys() == vars(BEFORE).keys()


def test_the_value_before_stays_as_it_was() -> None:
    after = replace(BEFORE, lag_s=9.0)
    assert (BEFORE.lag_s, after.lag_s) == (0.5, 9.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        after.lag_s = 1.0  # type: ignore[misc]


def test_what_is_no_field_is_refused() -> None:
    with pytest.raises(TypeError, match="Past has no field lags"):
        replace(BEFORE, lags=1.0)  # type: ignore[call-arg]


def test_it_is_used_on_what_it_can_copy() -> None:
    """Nothing is computed when a Past is made, and nothing is kept in it but its fields."""
    fields = dataclasses.fields(Past)
    assert all(one.init for one in fields)
    assert not hasattr(Past, "__post_init__")
    for name, member in vars(Past).items():
        if isinstance(member, property) or hasattr(member, "attrname"):  # functools.cached_property has that
            getattr(BEFORE, name)
    assert vars(BEFORE).keys() == {one.name for one in fields}
