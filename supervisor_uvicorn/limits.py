"""Which limit a worker is over: ``max_rss``, ``max_fds``, ``max_age``. Pure.

Over a limit is no sickness: the worker serves, and is drained and replaced in its turn. So what is not certain, or not
fresh, is not held against it, and memory and descriptors come and go: two measurements in a row have to say so. The
spread of ages comes from the worker's own identity and not from a die, so that a listener that is started anew finds
the same.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .model import Usage, WorkerId
from .settings_limits import MaxAge, MaxFds
from .settings_values import Settings

FRESH_S = 120.0
"""A measurement that is older says nothing any more: whoever measures has stopped, or the machine was asleep."""

TWICE = 2
"""So many measurements in a row: a peak is forgiven, and nobody is judged at the first look at him."""


@dataclass(frozen=True)
class Over:
    """One limit that a worker is over: ``limit`` is the setting, ``words`` say by how much, ``times`` in how many
    measurements one after another, ``since`` (monotonic) the first of them."""

    limit: str
    words: str
    times: int = 1
    since: float = 0.0


def counted(before: Sequence[Over], found: Mapping[str, str], now: float) -> tuple[Over, ...]:
    """``before``, one measurement later, at which these limits were found passed. Each is counted by itself."""
    known = {one.limit: one for one in before}
    return tuple(
        Over(limit, words, known[limit].times + 1, known[limit].since) if limit in known else Over(limit, words, 1, now)
        for limit, words in found.items()
    )


def over(usage: Usage, worker: WorkerId, settings: Settings) -> dict[str, str]:
    """The setting -> what was found, of each limit that ``worker`` is over; what matters most comes first."""
    found: dict[str, str] = {}
    most_bytes = settings.max_rss_bytes
    if most_bytes is not None and usage.proven_bytes is not None and usage.proven_bytes > most_bytes:
        helpers = f" with {usage.helpers} helper{'' if usage.helpers == 1 else 's'}" if usage.helpers else ""
        found["max_rss"] = f"{megabytes(usage.proven_bytes)} resident{helpers}, more than {megabytes(most_bytes)}"
    if settings.max_fds is not None and usage.fds is not None:
        most = _most_fds(settings.max_fds, usage.fds_limit)
        if most is not None and usage.fds > most:
            found["max_fds"] = f"{usage.fds} open descriptors, more than {most:.0f}"
    if settings.max_age is not None and usage.age_s > (limit_s := age_limit_s(settings.max_age, worker)):
        found["max_age"] = f"{usage.age_s:.0f} s old, more than {limit_s:.0f} s"
    return found


def age_limit_s(limit: MaxAge, worker: WorkerId) -> float:
    """This worker's own limit: the same at each look, and another one for each process.

    >>> age_limit_s(MaxAge(100.0, 0.0), WorkerId("web:web-0", 7, 3))
    100.0
    """
    share = zlib.crc32(f"{worker.name} {worker.pid} {worker.born}".encode()) / 2**32
    return limit.least_s + share * limit.jitter_s


def _most_fds(limit: MaxFds, own_limit: int | None) -> float | None:
    if limit.share is None:
        return limit.number
    return None if own_limit is None else limit.share * own_limit


def megabytes(size_bytes: int) -> str:
    """
    >>> megabytes(400 * 1024 ** 2)
    '400 MB'
    """
    size = size_bytes / 1024**2
    return f"{size:.1f} MB" if size < 100 and size != int(size) else f"{size:.0f} MB"
