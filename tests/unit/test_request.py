"""What anybody may send to the listener: read whole, or refused in a few words, and never anything else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from supervisor_uvicorn.supervisord import request
from supervisor_uvicorn.supervisord.request import BadRequest, Request, parse

GOOD: dict[str, Any] = {"id": "a1", "verb": "pause", "names": ["web"], "for_s": 60, "sent_at": 1_700_000_000.5}
HUGE = int("9" * 401)

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(HUGE),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
REQUESTS = st.builds(
    Request,
    st.text("abcdef0123456789", min_size=1, max_size=request.MOST_IDENT_CHARACTERS),
    st.sampled_from(request.VERBS),
    st.lists(st.text(max_size=request.MOST_NAME_CHARACTERS), max_size=5).map(tuple),
    st.none() | st.floats(min_value=0, max_value=request.MOST_FOR_S, exclude_min=True),
    st.floats(min_value=0, max_value=4e9),
)


def refusal(data: str) -> BadRequest:
    with pytest.raises(BadRequest) as refused:
        parse(data)
    return refused.value


def only_a_request_or_a_refusal(data: str) -> None:
    found = outcome(data)
    if isinstance(found, BadRequest):
        assert len(str(found)) <= 300
        assert len(found.ident) <= request.MOST_IDENT_CHARACTERS
        return
    assert parse(found.text()) == found
    assert found.for_s is None or 0 < found.for_s <= request.MOST_FOR_S
    assert 0 <= found.sent_at < 1e12
    assert all(len(name) <= request.MOST_NAME_CHARACTERS for name in found.names)


def outcome(data: str) -> Request | BadRequest:
    try:
        return parse(data)
    except BadRequest as error:
        return error


@settings(deadline=None)
@given(REQUESTS)
def test_what_is_sent_is_what_is_read(asked: Request) -> None:
    assert parse(asked.text()) == asked


@settings(deadline=None)
@given(st.text())
@example("[" * 5000)
@example('{"id": "a", "verb": ' + "[" * 5000)
@example('{"a":' * 5000)
@example("9" * 5000)
@example("NaN")
@example("\ud800")
def test_any_text(data: str) -> None:
    only_a_request_or_a_refusal(data)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(GOOD)), ANY))
def test_any_values(changed: dict[str, Any]) -> None:
    only_a_request_or_a_refusal(json.dumps({**GOOD, **changed}))


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from([*GOOD, "more"]), ANY))
def test_any_object(found: dict[str, Any]) -> None:
    only_a_request_or_a_refusal(json.dumps(found))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("verb", "explode", "verb is 'explode', and the listener knows restart, pause, resume, reload"),
        ("verb", "x" * 100_000, "verb is 'xxx"),
        ("verb", ["restart"], "verb is ['restart']"),
        ("verb", HUGE, "verb is 999"),
        ("names", "web", "names is no list"),
        ("names", ["w"] * 1001, "at most 1000 NAMEs"),
        ("names", ["web", 7], "a NAME is 7,"),
        ("names", ["w" * 513], "of at most 512 characters"),
        ("for_s", HUGE, "at most 315360000 (ten years)"),
        ("for_s", 315_360_001, "for_s is 315360001"),
        ("for_s", 0, "for_s is 0,"),
        ("for_s", -1.5, "for_s is -1.5,"),
        ("for_s", True, "for_s is True,"),
        ("for_s", "60", "for_s is '60',"),
        ("for_s", float("nan"), "for_s is nan,"),
        ("for_s", float("inf"), "for_s is inf,"),
        ("sent_at", None, "sent_at is None, and no time"),
        ("sent_at", "now", "sent_at is 'now'"),
        ("sent_at", float("inf"), "sent_at is inf"),
        ("sent_at", HUGE, "sent_at is 999"),
        ("sent_at", -1, "sent_at is -1"),
    ],
)
def test_a_wrong_value_is_said_in_a_few_words_under_its_ident(key: str, value: Any, said: str) -> None:
    error = refusal(json.dumps({**GOOD, key: value}))
    assert said in str(error)
    assert len(str(error)) <= 200
    assert error.ident == "a1"


@pytest.mark.parametrize("ident", [None, "", 7, "a\nb", "x" * 65, "\ud800", ["a1"]])
def test_an_ident_that_nobody_could_look_for(ident: Any) -> None:
    error = refusal(json.dumps({**GOOD, "id": ident}))
    assert (str(error), error.ident) == ("no id of 1 to 64 characters", "")


def test_when_it_was_asked_must_be_said() -> None:
    assert "sent_at is None" in str(refusal(json.dumps({key: GOOD[key] for key in GOOD if key != "sent_at"})))


def test_the_bounds_themselves_are_taken() -> None:
    found = parse(json.dumps({**GOOD, "id": "x" * 64, "names": ["w" * 512] * 1000, "for_s": 315_360_000}))
    assert (len(found.names), found.for_s) == (1000, 315_360_000.0)
