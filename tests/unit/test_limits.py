"""Which limit a worker is over, as a function of one measurement; and what a limit is written as."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor_uvicorn.limits import FRESH_S, Over, age_limit_s, counted, megabytes, over
from supervisor_uvicorn.model import Usage, WorkerId
from supervisor_uvicorn.settings import Settings
from supervisor_uvicorn.settings_limits import MaxAge, MaxFds, age, descriptors, size
from supervisor_uvicorn.usage import Measured, still_known

MB = 1024**2
WORKER = WorkerId("web:web-0", 4711, 99)
USAGE = Usage(at=1000.0, age_s=600.0, rss_bytes=300 * MB, proven_bytes=300 * MB, fds=50, fds_limit=1024)


def test_without_limits_nothing_is_over() -> None:
    assert over(replace(USAGE, rss_bytes=10**15, proven_bytes=10**15, fds=10**6, age_s=1e9), WORKER, Settings()) == {}


@pytest.mark.parametrize(
    ("settings", "usage", "expected"),
    [
        (Settings(max_rss_bytes=300 * MB), USAGE, {}),
        (
            Settings(max_rss_bytes=300 * MB),
            replace(USAGE, proven_bytes=301 * MB),
            {"max_rss": "301 MB resident, more than 300 MB"},
        ),
        (
            Settings(max_rss_bytes=300 * MB),
            replace(USAGE, proven_bytes=420 * MB, helpers=3),
            {"max_rss": "420 MB resident with 3 helpers, more than 300 MB"},
        ),
        # What the helpers share with it was counted twice, and that is not held against it.
        (Settings(max_rss_bytes=300 * MB), replace(USAGE, rss_bytes=900 * MB, helpers=3), {}),
        (Settings(max_rss_bytes=300 * MB), replace(USAGE, rss_bytes=None, proven_bytes=None), {}),
        (Settings(max_fds=MaxFds(number=50)), USAGE, {}),
        (Settings(max_fds=MaxFds(number=49)), USAGE, {"max_fds": "50 open descriptors, more than 49"}),
        (Settings(max_fds=MaxFds(number=49)), replace(USAGE, fds=None), {}),
        (
            Settings(max_fds=MaxFds(share=0.8)),
            replace(USAGE, fds=820),
            {"max_fds": "820 open descriptors, more than 819"},
        ),
        (Settings(max_fds=MaxFds(share=0.8)), replace(USAGE, fds=820, fds_limit=None), {}),
        (Settings(max_age=MaxAge(600.0, 0.0)), USAGE, {}),
        (Settings(max_age=MaxAge(599.0, 0.0)), USAGE, {"max_age": "600 s old, more than 599 s"}),
    ],
)
def test_a_limit_is_passed_by_more_than_it_says(settings: Settings, usage: Usage, expected: dict[str, str]) -> None:
    assert over(usage, WORKER, settings) == expected


def test_every_limit_is_told_and_counted_by_itself() -> None:
    limits = Settings(max_rss_bytes=200 * MB, max_age=MaxAge(100.0, 0.0), max_fds=MaxFds(number=10))
    found = over(USAGE, WORKER, limits)
    assert list(found) == ["max_rss", "max_fds", "max_age"]
    once = counted((), found, 5.0)
    again = counted(once, {"max_rss": "more", "max_age": "older"}, 10.0)
    assert again == (Over("max_rss", "more", 2, 5.0), Over("max_age", "older", 2, 5.0))
    assert counted(again, {"max_age": "older still"}, 15.0) == (Over("max_age", "older still", 3, 5.0),)
    assert counted(again, {}, 15.0) == ()


def test_ages_are_spread_over_the_whole_jitter_and_are_the_same_at_each_look() -> None:
    limit = MaxAge(1000.0, 200.0)
    ages = [age_limit_s(limit, WorkerId(f"web:web-{index}", 100 + index, 7)) for index in range(200)]
    assert ages == [age_limit_s(limit, WorkerId(f"web:web-{index}", 100 + index, 7)) for index in range(200)]
    assert all(1000 <= one < 1200 for one in ages)
    for begin in range(1000, 1200, 50):
        assert sum(1 for one in ages if begin <= one < begin + 50) > 25  # of 50 in the mean


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("400MB", 400 * MB), ("400 mb", 400 * MB), ("1.5GB", 1536 * MB), ("512MiB", 512 * MB), ("1G", 1024 * MB)],
)
def test_a_size_is_read(text: str, size_bytes: int) -> None:
    assert size().parse(text) == size_bytes
    assert size().parse(size().write(size_bytes)) == size_bytes


@pytest.mark.parametrize("text", ["", "400", "400 apples", "-1GB", "12MB", "1e9", "GB"])
def test_a_wrong_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a size|less than 16MB"):
        size().parse(text)


@pytest.mark.parametrize(
    ("text", "limit"),
    [("86400", MaxAge(86400.0, 8640.0)), ("86400:0", MaxAge(86400.0, 0.0)), ("1.5:3", MaxAge(1.5, 3.0))],
)
def test_an_age_is_read(text: str, limit: MaxAge) -> None:
    assert age().parse(text) == limit
    assert age().parse(age().write(limit)) == limit


@pytest.mark.parametrize("text", ["", "0", "24h", "-3", "10:", "10:x", "99999999999"])
def test_a_wrong_age_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"neither|too short|too long"):
        age().parse(text)


@pytest.mark.parametrize(("text", "limit"), [("900", MaxFds(number=900)), ("80%", MaxFds(share=0.8))])
def test_a_number_of_descriptors_is_read(text: str, limit: MaxFds) -> None:
    assert descriptors().parse(text) == limit
    assert descriptors().parse(descriptors().write(limit)) == limit


@pytest.mark.parametrize("text", ["", "0", "0%", "101%", "0.8", "many"])
def test_a_wrong_number_of_descriptors_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="neither a whole number"):
        descriptors().parse(text)


@pytest.mark.parametrize("kind", [size(), age(), descriptors()])
def test_none_is_a_value(kind: object) -> None:
    parse = kind.parse  # type: ignore[attr-defined]
    assert parse("none") is None
    assert kind.write(None) == "none"  # type: ignore[attr-defined]


def test_megabytes() -> None:
    assert [megabytes(1536 * 1024), megabytes(300 * MB), megabytes(123_456_789_000)] == [
        "1.5 MB",
        "300 MB",
        "117738 MB",
    ]


def test_what_was_measured_too_long_ago_is_not_known_any_more() -> None:
    measured = Measured(1000.0, {WORKER: USAGE}, {"web": ((1, 2048),)})
    assert still_known(measured, 1000.0 + FRESH_S) is measured
    gone = still_known(measured, 1000.1 + FRESH_S)
    assert (gone.at, dict(gone.usages), dict(gone.queues)) == (1000.0, {}, {})
